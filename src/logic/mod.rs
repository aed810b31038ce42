// SPDX-License-Identifier: Apache-2.0
//! All that is decided, decided purely: no async, no clock, no I/O, no logging.
//!
//! - [`acpi`]: the 14 states and their codings.
//! - [`evidence`]: what is known of chassis, host and OS.
//! - [`diagnosis`]: what can be wrong, and what to do about it.
//! - [`machine`]: one host: events in, effects out.
//! - [`policy`]: what follows from a machine's state.
//! - [`history`]: the log of transitions.

#![deny(clippy::disallowed_macros, clippy::disallowed_methods, clippy::disallowed_types)]

pub mod acpi;
pub mod diagnosis;
pub mod evidence;
pub mod history;
pub mod machine;
pub mod policy;
pub mod time;
