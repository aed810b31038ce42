// SPDX-License-Identifier: Apache-2.0
//! The adapters: one file for each outside thing. Adapters translate; they decide nothing.

pub mod acpi_object;
pub mod blacklist;
pub(crate) mod boot_progress;
pub(crate) mod cpu_power;
pub mod dbus;
pub(crate) mod dimm_inventory;
#[cfg(test)]
#[allow(clippy::too_many_lines, reason = "a double of every service answers in one place")]
mod endurance;
pub(crate) mod event_log;
pub(crate) mod fan_config;
pub mod fans;
pub mod hwmon;
pub mod i2c;
pub(crate) mod mapper;
pub(crate) mod peers;
pub(crate) mod post_codes;
pub(crate) mod power_state;
pub(crate) mod sensor_objects;
pub mod spd_mux;
pub(crate) mod systemd;
