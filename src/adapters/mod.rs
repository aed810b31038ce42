// SPDX-License-Identifier: Apache-2.0
//! One file for each outside thing. Adapters translate; they decide nothing.

pub mod acpi_object;
pub mod blacklist;
pub mod bus;
mod callers;
mod dispatch;
pub mod hwmon;
pub mod i2c;
mod mapper;
pub(crate) mod objects;
mod owner;
mod power_state;
pub(crate) mod sensor_objects;
mod systemd;
