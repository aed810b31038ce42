// SPDX-License-Identifier: Apache-2.0
//! Effects: all that a machine orders.
//!
//! Owns: their order within a step, which is the order in which they must be done.

use super::{
    acpi::{AcpiState, StateKind},
    event::{Epoch, SetId},
    history::Transition,
};

/// Something to do. The order of a step's effects is the order in which they must be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Signal the properties that changed, and let Get return them from now on.
    Publish {
        /// `SysACPIStatus`, if it changed.
        state: Option<AcpiState>,
        /// `DevACPIStatus`, if it changed.
        device: Option<AcpiState>,
    },
    /// Answer a Set: success.
    Answer(SetId),
    /// Stop the units to quiesce, now; [`Event::Quiesced`](super::event::Event::Quiesced) is awaited.
    Quiesce(Epoch),
    /// Start them again.
    Unquiesce,
    /// Give the SPD mux to the host, now; [`Event::MuxAtHost`](super::event::Event::MuxAtHost) is awaited.
    MuxToHost(Epoch),
    /// Take it back; nothing is read before [`Event::MuxAtBmc`](super::event::Event::MuxAtBmc).
    MuxToBmc(Epoch),
    /// The drain did not end within `ack_cap`; the Set is answered all the same.
    DrainTimedOut,
    /// Announce the sensors' availability and assert the fans again, changed or not.
    Assert,
    /// A transition, for those who follow them.
    Transitioned(Transition),
    /// Order systemd.
    Unit(UnitOrder),
    /// Write the boot progress.
    BootProgress(BootStage),
}

/// An order to systemd (rules 3.6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnitOrder {
    /// Start this state's target.
    Start(Target),
    /// Stop it and start it again.
    Restart(Target),
    /// Stop whichever target is active.
    StopAll,
}

/// A target that a host's state stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// The host works.
    S0,
    /// The host is in POST.
    S2,
    /// The host is off.
    S5,
}

/// The row of 3.1's table, as far as units go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnitRow {
    /// This target stands for the state.
    Active(Target),
    /// No target does.
    NoneActive,
}

impl UnitRow {
    /// The row of a host that is off, or in a state of that kind; `None` leaves the units as they are.
    #[must_use]
    pub const fn of(off: bool, kind: StateKind) -> Option<Self> {
        let target = match kind {
            _ if off => Target::S5,
            StateKind::Working => Target::S0,
            StateKind::Post => Target::S2,
            StateKind::OffLike => Target::S5,
            StateKind::Sleep => return None,
            StateKind::Unknown => return Some(Self::NoneActive),
        };
        Some(Self::Active(target))
    }
}

/// A stage of `xyz.openbmc_project.State.Boot.Progress` that is ours to write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum BootStage {
    /// Off.
    Unspecified,
    /// POST.
    PrimaryProcInit,
    /// The firmware has handed over.
    OSStart,
}

impl BootStage {
    /// The stage of a host that is off, or in a state of that kind; `None` leaves the boot progress as it is.
    #[must_use]
    pub const fn of(off: bool, kind: StateKind) -> Option<Self> {
        match kind {
            _ if off => Some(Self::Unspecified),
            StateKind::Working => Some(Self::OSStart),
            StateKind::Post => Some(Self::PrimaryProcInit),
            StateKind::OffLike => Some(Self::Unspecified),
            StateKind::Sleep | StateKind::Unknown => None,
        }
    }
}

/// A step's effects.
#[must_use = "effects must be performed, in order"]
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effects(Vec<Effect>);

impl IntoIterator for Effects {
    type Item = Effect;
    type IntoIter = std::vec::IntoIter<Effect>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Effects {
    pub(super) fn push(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    pub(super) fn publish(&mut self, state: Option<AcpiState>, device: Option<AcpiState>) {
        if state.is_some() || device.is_some() {
            self.push(Effect::Publish { state, device });
        }
    }

    pub(super) fn append(&mut self, effects: &mut Vec<Effect>) {
        self.0.append(effects);
    }

    /// The effects, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Effect] {
        &self.0
    }
}
