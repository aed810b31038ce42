// SPDX-License-Identifier: Apache-2.0
//! One file for each outside thing. Adapters translate; they decide nothing.

pub mod acpi_object;
pub mod bus;
mod callers;
mod dispatch;
mod mapper;
pub(crate) mod objects;
mod owner;
mod power_state;
mod systemd;
