// SPDX-License-Identifier: Apache-2.0
//! Events: all that is reported to a machine.
//!
//! Owns: what each of them carries. The effects of an event are in [`machine`](super::machine).

use super::{
    acpi::AcpiState,
    diagnosis::CpuPower,
    evidence::{Chassis, Found, HostState, Os, PostCode, Stage},
};

/// Names one Set that waits for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SetId(pub u32);

/// Counts the closings of one host's gate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Epoch(pub u32);

/// Something that happened. A value of `None` means that its service went away, or says something the
/// interface does not know (note 1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Chassis power, read or signalled.
    Chassis(Option<Chassis>),
    /// The host's state, read or signalled.
    Host(Option<HostState>),
    /// OS status, read or signalled.
    Os(Option<Os>),
    /// A value of these three was read again, though nothing was signalled (note B2).
    Found(Found),
    /// `RequestedHostTransition` was signalled as `ForceWarmReboot`: a reset that does not ask the OS.
    ForcedReset,
    /// Somebody else signalled this stage as boot progress.
    Progress(Stage),
    /// A POST code was signalled.
    PostCode(PostCode),
    /// A name that tells of one of them has an owner, and none that is believed (note B1); or not any more.
    Strangers(bool),
    /// Somebody Set `SysACPIStatus`.
    Set {
        /// The call that waits for the answer.
        id: SetId,
        /// The new state.
        state: AcpiState,
    },
    /// Somebody Set `DevACPIStatus`.
    SetDevice {
        /// The call that waits for the answer.
        id: SetId,
        /// The new state.
        state: AcpiState,
    },
    /// No transfer is under way any more on a bus that carries this host's DIMMs.
    Drained {
        /// The closing it belongs to; an older one is dropped.
        epoch: Epoch,
    },
    /// A DIMM answered since the gate opened, or each failed five times.
    DimmsKnown {
        /// The last closing before that opening; an older one is dropped.
        epoch: Epoch,
    },
    /// The DIMM sensors that have answered since the gate opened.
    Dimms {
        /// The last closing before that opening; an older one is dropped.
        epoch: Epoch,
        /// How many.
        answering: u16,
        /// A `required` sensor is not among them.
        required_silent: bool,
    },
    /// How many DIMMs the firmware's own tables list, where something publishes them.
    DimmsPresent(Option<u16>),
    /// The units to quiesce have stopped, or cannot be stopped.
    Quiesced {
        /// The closing it belongs to; an older one is dropped.
        epoch: Epoch,
    },
    /// The SPD mux is at the host.
    MuxAtHost {
        /// The closing it belongs to; an older one is dropped.
        epoch: Epoch,
    },
    /// The SPD mux is at the BMC.
    MuxAtBmc {
        /// The last closing before; an older one is dropped.
        epoch: Epoch,
    },
    /// A guard sensor of the DIMM zones has a critical alarm.
    GuardAlarm,
    /// The value of the CPU's power sensor.
    CpuPower(CpuPower),
    /// A transfer on a bus that matters to this host does not end, or has.
    BusStuck(bool),
    /// Another daemon may scan a bus that carries this host's DIMMs, or none may any more.
    UnguardedBus(bool),
    /// Fan control takes this host's unavailable sensors for failed ones, or does not any more.
    FailsafeConfig(bool),
    /// Somebody else serves the same object, or nobody does any more.
    Rival(bool),
    /// The bus has not answered for so long that evidence may be held up in it, or does again (note B3).
    BusSilent(bool),
    /// The event loop stalled for longer than an open gate's lease.
    Lapsed,
    /// Time passed.
    Tick,
}
