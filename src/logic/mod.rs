// SPDX-License-Identifier: Apache-2.0
//! All that is decided, decided purely: no async, no clock, no I/O, no logging.
//!
//! - [`acpi`]: the 14 states and their codings.
//! - [`evidence`]: what is known of chassis, host and OS.
//! - [`diagnosis`]: what can be wrong, and what to do about it.
//! - [`machine`]: one host: events in, effects out.
//! - [`policy`]: what follows from a machine's state.
//! - [`limit`]: how much may be written to flash.
//! - [`history`]: the log of transitions.
//! - [`chip`] and [`reading`]: which registers of a sensor to read, and what they mean.
//! - [`pattern`]: the expressions with which fan control finds its sensors.
//! - [`schedule`]: when each sensor of a bus is read.
//! - [`sensor`] and [`sensors`]: what is published of one, and of all on their buses.

#![deny(clippy::disallowed_macros, clippy::disallowed_methods, clippy::disallowed_types)]

pub mod acpi;
pub mod chip;
pub mod diagnosis;
pub mod evidence;
pub mod history;
pub mod limit;
pub mod machine;
pub mod pattern;
pub mod policy;
pub mod reading;
pub mod schedule;
pub mod sensor;
pub mod sensors;
pub mod time;
