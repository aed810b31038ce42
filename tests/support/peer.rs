// SPDX-License-Identifier: Apache-2.0
//! The services of the tests: doubles/src/peer.rs.
#![allow(unused_imports, unreachable_pub, reason = "this file is included by several test programs")]

pub use acpi_doubles::{
    mapper::NAME as MAPPER,
    peer::{Key, Manners, Peer, key},
};
