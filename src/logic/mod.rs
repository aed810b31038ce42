// SPDX-License-Identifier: Apache-2.0
//! All that is decided, decided purely: no async, no clock, no I/O, no logging.

pub mod acpi;
pub mod time;
