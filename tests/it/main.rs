// SPDX-License-Identifier: Apache-2.0
//! The tests of the daemon as a whole, one module for each subject. They are one program: the daemon's library is linked once, and
//! tests wait most of the time, so that many run side by side (`./dev test`).
//!
//! So no test may change what the whole process has: environment, current directory, limits, umask. What it counts or measures is
//! its own: a daemon in a process of its own, or a thread of this one.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so and fails"
)]

mod barrier;
mod config;
mod dbus;
mod docs;
mod eight_hosts;
mod exits;
mod fan_events;
mod fans;
mod files;
mod frozen;
mod host_package;
mod hostile;
mod imports;
mod inventory;
mod killed;
mod memory;
mod policy;
mod promises;
mod scenarios;
mod scenarios_on_a_bus;
mod segments;
mod signs_of_life;
mod state_table;
mod store;
mod store_faults;
mod support;
mod systemd;
mod thermal;
mod told;
mod trust;
mod unread;
