// SPDX-License-Identifier: Apache-2.0
//! One file for each outside thing. Adapters translate; they decide nothing.

pub mod acpi_object;
pub mod blacklist;
mod boot_progress;
pub mod bus;
mod callers;
mod collected;
mod cpu_power;
mod dimm_inventory;
mod dispatch;
#[cfg(test)]
#[allow(clippy::too_many_lines, reason = "a double of every service answers in one place")]
mod endurance;
mod event_log;
mod fan_config;
pub mod fans;
pub mod hwmon;
pub mod i2c;
mod mapper;
mod names;
pub(crate) mod objects;
mod owner;
pub(crate) mod peer;
mod power_state;
pub(crate) mod sensor_objects;
pub mod socket;
pub mod spd_mux;
mod sub_tree;
mod systemd;
pub(crate) mod tree;
mod watched;
