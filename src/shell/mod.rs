// SPDX-License-Identifier: Apache-2.0
//! Moves data between the logic and the outside; decides nothing.

pub(crate) mod alarm;
pub mod clock;
pub(crate) mod event_loop;
pub mod held;
pub(crate) mod lease;
pub(crate) mod messages;
pub mod permits;
pub(crate) mod poller;
pub mod ports;
pub(crate) mod report;
pub mod store;
pub mod supervisor;
mod sync;
pub(crate) mod wires;
