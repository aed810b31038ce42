// SPDX-License-Identifier: Apache-2.0
//! One transfer on a simulated bus: whose it is, how long it takes, how it ends.

use std::time::{Duration, Instant};

/// How long one transfer takes, in real time: a word read at 100 kHz.
pub const TRANSFER: Duration = Duration::from_micros(450);
/// Who transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Master {
    /// The BMC's poller.
    Bmc,
    /// The host's firmware.
    Uefi,
}

/// How a transfer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The master had the bus for itself.
    Done,
    /// The other master had the bus already.
    Denied,
    /// The mux had the DIMMs at the other master's side, or moved meanwhile.
    Unconnected,
}

/// One line of the log.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// The device's address.
    pub device: u32,
    /// Who transferred.
    pub master: Master,
    /// When it began.
    pub start: Instant,
    /// When it was over; for a denied one, the same.
    pub end: Instant,
    /// How it ended.
    pub outcome: Outcome,
}
