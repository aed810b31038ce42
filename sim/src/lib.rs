// SPDX-License-Identifier: Apache-2.0
//! The simulated server board, and the demo that runs the real daemon on it.
//!
//! Its rules come from OpenBMC's other daemons and from the I2C bus, not from the daemon's code.
//!
//! - [`board`]: everything put together; a board performs boots. Read it first.
//! - [`setup`], [`daemon`]: what a board is made of and how it boots; the real daemon on it.
//! - [`host`]: the host: its firmware reads the SPDs, and reports what its kind reports.
//! - [`dimm`], [`buses`]: DIMMs as the BMC reads them, through the daemon's own interface to a bus.
//! - [`platform`], [`cooling`]: the hardware in truth: rails, CPU, and how warm everything gets.
//! - [`fan_control`], [`pid_inputs`]: phosphor-pid-control, and what it concludes of the sensors.
//! - [`bmc_sensors`], [`hwmon_temp`]: dbus-sensors: what a board has of it anyway, and what it does in the daemon's place.
//! - [`simbus`], [`transfer`], [`spd_mux`], [`poller`]: DIMM buses with contention or a mux; the BMC's polling with real permits.
//! - [`power_control`], [`progress`], [`ipmid`], [`systemd`]: doubles of what is on a BMC's D-Bus, beside those of [`acpi_doubles`].
//! - [`observer`]: what the daemon shows on D-Bus, as anybody else on the bus sees it.
//! - [`truth`], [`tally`]: what the board did and what happened on its buses; the counts from it.
//! - [`plan`], [`temperatures`], [`fan_show`], [`timeline`]: which boots the demo performs, and how it tells of them.

pub mod bmc_sensors;
pub mod board;
pub mod buses;
pub mod clock;
pub mod cooling;
pub mod daemon;
pub mod dimm;
pub mod fair;
pub mod fan_control;
pub mod fan_show;
pub mod host;
pub mod hwmon_temp;
pub mod ipmid;
pub mod observer;
pub mod pid_inputs;
pub mod plan;
pub mod platform;
pub mod poller;
pub mod power_control;
pub mod progress;
pub mod setup;
pub mod simbus;
pub mod spd_mux;
pub mod systemd;
pub mod tally;
pub mod temperatures;
pub mod timeline;
pub mod transfer;
pub mod truth;

pub(crate) use acpi_doubles::lock;
pub use acpi_doubles::{mapper, objects, private_bus};

/// What goes wrong on the board is told to the developer and ends the run.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// A result of the board.
pub type Result<T> = std::result::Result<T, Error>;
