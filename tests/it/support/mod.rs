// SPDX-License-Identifier: Apache-2.0
//! What the tests have in common.
#![allow(unreachable_pub, reason = "what is here is for all of them")]

pub mod frames;
pub mod hand;
pub mod keys;
pub mod nobody;
pub mod peer;
pub mod plain;
pub mod power_double;
pub mod private_bus;
pub mod program;
pub mod rig;
pub mod trace;
