// SPDX-License-Identifier: Apache-2.0
//! What the tests have in common.
#![allow(unreachable_pub, reason = "what is here is for all of them")]

pub mod frames;
pub mod hand;
pub mod keys;
pub mod nobody;
pub mod plain;
pub mod program;
pub mod rig;
pub mod trace;

pub use acpi_doubles::{peer, power, private_bus};
