// SPDX-License-Identifier: Apache-2.0
//! The questions that others ask a machine: whether its gate is open and why not, its state, and, for the policy, its parts.
//!
//! Must never: change anything.

use super::{
    Boot, Conditions, Current, Gate, GateReason, Hold, Machine, Power, Start, Stored, Timer, Watch,
    firmware::{Firmware, Phase},
};
use crate::{
    config,
    logic::{
        acpi::{AcpiState, StateKind},
        cause::Cause,
        event::Epoch,
        evidence::{HostState, Os, Untold},
        history::History,
        time::Time,
    },
};

impl Machine {
    // ---- The gate ------------------------------------------------------------------------------------

    /// The gate: open if and only if every condition of 3.1 holds and has held for long enough.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.due(Timer::Open)
    }

    pub(super) fn conditions(&self) -> Conditions {
        Conditions {
            state: self.current.state().is_working() || self.current.kind() == StateKind::Post,
            off: self.power.is_off(),
            known: self.is_decided() && !self.power.is_missing(),
            suspected: self.suspicion.holds(),
            running: self.power.host_may_run(),
            phase: self.phase(),
            young: self.runs(Timer::MinPost),
        }
    }

    /// The firmware's phase: trusted POST status that is Inactive outweighs every word. One that was never complete may have no
    /// writer, and counts for a while only; the lock of rule 6 is longer.
    pub(in crate::logic) fn phase(&self) -> Phase {
        let counts =
            || self.power.complete_was_seen() || (!self.gate.is_locked() && self.runs(Timer::PostLevel));
        if self.power.post() == Some(Os::Inactive) && counts() {
            return Phase::AtWork;
        }
        self.firmware.word().phase
    }

    /// An off-like state that the host has reported under this power.
    pub(super) fn rests(&self) -> bool {
        self.current.state().is_off_like() && self.current.is_reported_under_power()
    }

    /// Returns the reasons that keep the gate closed; none when it is open.
    #[must_use]
    pub fn gate_reasons(&self) -> Vec<GateReason> {
        let reasons: Vec<_> = self.conditions().failing().collect();
        if reasons.is_empty() && !self.is_open() { vec![GateReason::Settling] } else { reasons }
    }

    /// The gate is open and the bus is ours: a transfer may begin.
    #[must_use]
    pub fn has_bus(&self) -> bool {
        self.is_open() && self.handover.is_ours()
    }

    /// Whether this host lets others transfer on a bus that carries its DIMMs. An Off is worth that only
    /// while its service stands by it.
    #[must_use]
    pub fn allows_bus(&self) -> bool {
        self.has_bus() || (self.is_off() && !self.power.is_missing())
    }

    /// Sets wait for the drain: [`Event::Drained`](crate::logic::event::Event::Drained) is wanted.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.barrier.holds()
    }

    /// [`Event::Drained`](crate::logic::event::Event::Drained) is wanted: for a Set, or for the mux.
    #[must_use]
    pub fn wants_drained(&self) -> bool {
        self.is_draining() || self.handover.is_draining()
    }

    /// How often the gate was closed: what [`Event::Drained`](crate::logic::event::Event::Drained) and `Event::DimmsKnown` must carry.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.gate.epoch()
    }

    // ---- Asking ----------------------------------------------------------------------------------

    /// Chassis Off, or what counts as it where no power service exists (note 6).
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.power.is_off()
            || (self.power.is_unknown() && self.is_decided() && self.current.state().is_off_like())
    }

    /// Rule 6 has decided, and the host is not off.
    pub(in crate::logic) fn is_powered(&self) -> bool {
        self.is_decided() && !self.is_off()
    }

    /// A CPU under power draws some, unless the host sleeps, is off, or has said that it will be (note 29).
    pub(super) fn cpu_should_run(&self) -> bool {
        let host_off = self.power.host() == Some(HostState::Off);
        let state = self.current.state();
        let said_off = state.is_off_like() && self.current.was_set_since(self.power.since());
        !host_off && !said_off && !state.is_sleep()
    }

    /// Rule 6 has decided.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        !matches!(self.start, Start::Undecided { .. })
    }

    /// Returns the values that no power service reports.
    #[must_use]
    pub fn untold(&self) -> Untold {
        self.power.unreported()
    }

    /// The host's number in its D-Bus paths and unit names.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.settings.id
    }

    /// There are fan zones to be held for it.
    #[must_use]
    pub fn has_zones(&self) -> bool {
        !self.settings.fans.zones.is_empty()
    }

    /// The ACPI state as it is decided now; during a barrier it is ahead of what Get returns.
    #[must_use]
    pub fn state(&self) -> AcpiState {
        self.current.state()
    }

    /// The device state.
    #[must_use]
    pub fn device(&self) -> AcpiState {
        self.current.device()
    }

    /// Returns the cause of the state.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.current.cause()
    }

    /// The state before.
    #[must_use]
    pub fn previous(&self) -> AcpiState {
        self.current.previous()
    }

    /// When the last transition was.
    #[must_use]
    pub fn since(&self) -> Time {
        self.current.since()
    }

    /// The transitions and boots.
    #[must_use]
    pub fn history(&self) -> &History {
        self.boot.history()
    }

    /// Returns the record for the next life of the daemon. `None`, before rule 6 has decided: the stored record stays,
    /// unless a Set, rule 3 or rule 4 has overtaken it. A state that the lock of rule 6 still holds is not of this boot of
    /// the BMC: another restart must not take it for confirmed.
    #[must_use]
    pub fn to_store(&self) -> Option<Stored> {
        let reset_suspected = self.suspicion.holds();
        let stored = Stored {
            state: self.current.state(),
            device: self.current.device(),
            reported: self.current.is_reported_under_power(),
            off: self.is_off(),
            reset_suspected,
            reset_requested: self.suspicion.is_requested(),
            firmware: self.firmware.record(),
            post: self.power.os(),
            complete_seen: self.power.complete_was_seen(),
            signs_seen: self.watch.signs_were_seen(),
            same_bmc_boot: !self.gate.is_locked(),
            good_dimms: self.watch.good_dimms(),
        };
        (self.is_decided() || self.current.stands() || reset_suspected).then_some(stored)
    }

    // ---- The parts, for the policy to ask ------------------------------------------------------------

    pub(in crate::logic) fn settings(&self) -> &config::Host {
        &self.settings
    }

    pub(in crate::logic) fn now(&self) -> Time {
        self.now
    }

    pub(in crate::logic) fn power(&self) -> &Power {
        &self.power
    }

    pub(in crate::logic) fn firmware(&self) -> &Firmware {
        &self.firmware
    }

    pub(in crate::logic) fn current(&self) -> &Current {
        &self.current
    }

    pub(in crate::logic) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(in crate::logic) fn boot(&self) -> &Boot {
        &self.boot
    }

    pub(in crate::logic) fn hold(&self) -> Option<Hold> {
        self.zones.hold()
    }

    pub(in crate::logic) fn watch(&self) -> &Watch {
        &self.watch
    }
}
