// SPDX-License-Identifier: Apache-2.0
//! The map of the house.
//!
//! - [`daemon`]: the composition root; read it first.
//! - [`config`]: what the daemon is told; `wiring`: the buses and sensors that follow from it.
//! - [`logic`]: pure: no async, clock, I/O or logging. All that is decided is decided there.
//! - [`shell`]: moves data, decides nothing.
//! - [`adapters`]: one file per outside thing.

pub mod adapters;
pub mod config;
pub mod daemon;
mod files;
pub mod logic;
pub mod shell;
mod wiring;
