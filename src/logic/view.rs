// SPDX-License-Identifier: Apache-2.0
//! The Tracker's view of a host, as it is published.

use super::{acpi::AcpiState, cause::Cause, diagnosis::Diagnosis, machine::GateReason};

/// The Tracker's view of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// The cause of the state.
    pub cause: Cause,
    /// When, in microseconds since 1970.
    pub since: u64,
    /// The state before.
    pub previous: AcpiState,
    /// The reasons that keep the gate closed; none if it is open.
    pub gate_reasons: Vec<GateReason>,
    /// The diagnoses that hold.
    pub diagnoses: Vec<Diagnosis>,
    /// Boots since the daemon started.
    pub boots: u32,
    /// Microseconds from the last boot's beginning to its first S2; 0 if not known.
    pub firmware_time: u64,
    /// Microseconds from the last boot's beginning to the working state; 0 if not known.
    pub boot_time: u64,
}
