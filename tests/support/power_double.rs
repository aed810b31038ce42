// SPDX-License-Identifier: Apache-2.0
//! The power control of the tests: doubles/src/power.rs.
#![allow(unused_imports, unreachable_pub, reason = "this file is included by several test programs")]

pub use acpi_doubles::power::{NAMES, PowerDouble};
