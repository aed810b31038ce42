// SPDX-License-Identifier: Apache-2.0
//! The facts that are watched for the diagnoses of one host (rules 3.7).
//!
//! Owns: signs of life, the CPU's power, the counts of DIMMs, and what other parts of the daemon have found. When a diagnosis
//! holds is computed from it in [`policy`](crate::logic::policy).

use crate::logic::{
    diagnosis::{CpuPower, DimmCount, NO_CPU_POWER_FOR, NO_CPU_POWER_FROM},
    machine::start::Stored,
    time::{Time, track},
};

/// DIMM sensors that have answered since the gate opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Answering {
    pub(crate) count: u16,
    /// A `required` sensor has not answered.
    pub(crate) required_silent: bool,
}

/// The facts that are watched.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, as they are reported")]
pub(crate) struct Watch {
    has_dimms: bool,
    pub(crate) rival: bool,
    pub(crate) bus_stuck: bool,
    pub(crate) unguarded_bus: bool,
    pub(crate) failsafe_config: bool,
    pub(crate) bus_silent: bool,
    /// Since when the firmware owes a sign of life.
    quiet_since: Option<Time>,
    /// A sign has come since power-on or reset.
    signed: bool,
    /// This host's firmware gives a sign before the working state: one boot has shown it.
    signs_seen: bool,
    /// Since when the CPU draws next to nothing.
    cpu_low_since: Option<Time>,
    /// Since when it should draw something.
    cpu_due_since: Option<Time>,
    pub(crate) answering: Option<Answering>,
    /// How many DIMMs the firmware's own tables list.
    pub(crate) present: Option<u16>,
    good_dimms: Option<DimmCount>,
}

impl Watch {
    pub(super) fn new(has_dimms: bool, stored: Option<Stored>) -> Self {
        Self {
            has_dimms,
            rival: false,
            bus_stuck: false,
            unguarded_bus: false,
            failsafe_config: false,
            bus_silent: false,
            quiet_since: None,
            signed: false,
            signs_seen: stored.is_some_and(|stored| stored.signs_seen),
            cpu_low_since: None,
            cpu_due_since: None,
            answering: None,
            present: None,
            good_dimms: stored.and_then(|stored| stored.good_dimms),
        }
    }

    // ---- Signs of life ---------------------------------------------------------------------------

    /// Firmware is at work, and owes a sign of life from now on.
    pub(super) fn owe_sign_anew(&mut self, now: Time) {
        self.quiet_since = Some(now);
        self.signed = false;
    }

    /// The same, unless it owes one already.
    pub(super) fn owe_sign(&mut self, now: Time) {
        self.quiet_since = self.quiet_since.or(Some(now));
    }

    /// A sign of life.
    pub(super) fn note_sign(&mut self) {
        self.quiet_since = None;
        self.signed = true;
    }

    /// There is no power: nothing is owed any more.
    pub(super) fn owe_nothing(&mut self) {
        self.quiet_since = None;
    }

    /// The host works, which needs no further sign; `found` so at the daemon's start. A sign that came before shows that its
    /// firmware gives one.
    pub(super) fn works(&mut self, found: bool) {
        self.quiet_since = None;
        self.signs_seen |= self.signed && !found;
    }

    /// Since when a firmware that is known to give signs owes one.
    pub(super) fn quiet_since(&self) -> Option<Time> {
        self.quiet_since.filter(|_| self.signs_seen)
    }

    pub(super) fn signs_were_seen(&self) -> bool {
        self.signs_seen
    }

    // ---- The CPU's power -------------------------------------------------------------------------

    pub(super) fn set_cpu_power(&mut self, now: Time, power: CpuPower) {
        track(&mut self.cpu_low_since, power == CpuPower::Low, now);
    }

    /// `due`: a CPU under power that should run.
    pub(super) fn expect_cpu_power(&mut self, now: Time, due: bool) {
        track(&mut self.cpu_due_since, due, now);
    }

    /// When the CPU has drawn no power for too long.
    pub(super) fn no_cpu_power_at(&self) -> Option<Time> {
        let due = self.cpu_due_since? + NO_CPU_POWER_FROM;
        Some(due.max(self.cpu_low_since? + NO_CPU_POWER_FOR))
    }

    // ---- DIMMs -----------------------------------------------------------------------------------

    /// The DIMMs that there are, as far as anybody counts them.
    fn dimm_count(&self) -> Option<DimmCount> {
        let answering = if self.has_dimms { self.answering?.count } else { 0 };
        Some(DimmCount { answering, present: self.present })
    }

    /// Fewer than at the last good boot, or a required one does not answer.
    pub(crate) fn dimms_are_missing(&self) -> bool {
        let fewer = self.dimm_count().zip(self.good_dimms).is_some_and(|(now, good)| now.is_fewer_than(good));
        fewer || self.required_is_silent()
    }

    pub(crate) fn required_is_silent(&self) -> bool {
        self.answering.is_some_and(|answering| answering.required_silent)
    }

    /// From now on these are the DIMMs that there should be, unless one is missing.
    pub(super) fn learn_dimms(&mut self) {
        if !self.dimms_are_missing() {
            self.good_dimms =
                self.dimm_count().map_or(self.good_dimms, |count| count.learned(self.good_dimms));
        }
    }

    /// The DIMMs at the last good boot.
    pub(crate) fn good_dimms(&self) -> Option<DimmCount> {
        self.good_dimms
    }

    /// Returns the facts that no deadline shows, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn key(&self) -> impl core::hash::Hash + use<> {
        let cpu = (self.cpu_low_since.is_some(), self.cpu_due_since.is_some());
        (cpu, self.answering, self.present, self.good_dimms, self.signed, self.signs_seen)
    }
}
