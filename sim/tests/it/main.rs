// SPDX-License-Identifier: Apache-2.0
//! The daemon on the simulated board, one module for each subject. They are one program, and one test has the machine at a time
//! ([`common::run`]).
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so and fails")]

mod boot_progress;
mod boots;
mod common;
mod fans;
mod field_failure;
mod host_package;
mod ipmi;
mod power_control;
mod protections;
mod sensors;
mod spd_mux;
