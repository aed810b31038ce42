// SPDX-License-Identifier: Apache-2.0
//! All that is decided, decided purely: no async, no clock, no I/O, no logging.
//!
//! - [`absence`]: what is said of a power service that is not there.
//! - [`acpi`]: the 14 states and their codings.
//! - [`evidence`]: what is known of chassis, host and OS.
//! - [`diagnosis`]: what can be wrong, and what to do about it.
//! - [`machine`]: one host: [`event`]s in, [`effect`]s out, and the [`cause`] of its state.
//! - [`policy`]: what follows from a machine's state; [`view`]: what is shown of it.
//! - [`limit`]: how much may be written to flash.
//! - [`history`]: the log of transitions.
//! - [`chip`] and [`reading`]: which registers of a sensor to read, and what they mean.
//! - [`patience`]: when to try again, and when what changes has come to rest.
//! - [`schedule`]: when each sensor of a bus is read.
//! - [`sensor`] and [`sensors`]: what is published of one, and of all on their buses.
//! - [`wires`]: which buses are one piece of wire.

#![deny(clippy::disallowed_macros, clippy::disallowed_methods, clippy::disallowed_types)]

pub mod absence;
pub mod acpi;
pub mod cause;
pub mod chip;
pub mod diagnosis;
pub mod effect;
pub mod event;
pub mod evidence;
pub mod history;
pub mod limit;
pub mod machine;
pub mod patience;
pub mod policy;
pub mod reading;
pub mod schedule;
pub mod sensor;
pub mod sensors;
pub mod time;
pub mod view;
pub mod wires;
