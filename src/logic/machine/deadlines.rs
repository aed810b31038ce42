// SPDX-License-Identifier: Apache-2.0
//! The timer table: when each deadline of a machine is.
//!
//! A deadline is computed from what the parts own, never stored: none can be left running that should have stopped. It acts
//! where [`Machine::due`] asks for it by its name, and the daemon is woken for each that is in [`Timer::ALL`];
//! `tests/timers.rs` shows that time is compared in no other way.

use core::time::Duration;

use super::{Machine, Start, timers::Timer};
use crate::logic::{
    acpi::StateKind,
    cause::Cause,
    diagnosis::{DIMMS_FROM, DIMMS_FROM_OPEN, MUTE_AFTER},
    evidence::HostState,
    time::Time,
};

/// Rule 7: how long POST must be complete for an inferred state to become `S0_G0_D0`.
const POST_COMPLETE: Duration = Duration::from_secs(10);
/// Rule 7: the same against a reported S2: only a lost Set explains it.
const POST_COMPLETE_REPORTED: Duration = Duration::from_secs(300);

impl Machine {
    /// The timer table: when each deadline is, if it is running or was.
    pub(in crate::logic) fn deadline(&self, timer: Timer) -> Option<Time> {
        let timing = &self.settings.timing;
        let current = &self.current;
        match timer {
            Timer::Decide => match self.start {
                Start::Undecided { at_the_latest, .. } => Some(at_the_latest),
                Start::Decided => None,
            },
            Timer::HostOff => self.power.host_off_at(),
            Timer::Suspicion => self.suspicion_ends_at(),
            Timer::PostComplete => Some(self.power.complete_since()? + self.post_complete_for()?),
            Timer::Unlock => self.gate.unlocks_at(),
            Timer::Open => self.gate.opens_at(),
            Timer::AckCap => self.barrier.cap(),
            Timer::Handover => self.handover.late_at(),
            Timer::Hold => {
                let in_post = current.kind() == StateKind::Post;
                Some(self.gate.closed_since()? + if in_post { Duration::ZERO } else { timing.hold_after })
            }
            Timer::BootHold => {
                self.zones.hold()?;
                current.state().is_working().then_some(current.since() + timing.hold_after)
            }
            Timer::ClosedTooLong => Some(self.gate.closed_since()? + timing.deadline),
            Timer::Thermal => Some(self.boot.powered_at()? + timing.thermal_grace),
            Timer::Silent => Some(self.watch.quiet_since()? + timing.silent_after),
            Timer::NoCpuPower => self.watch.no_cpu_power_at(),
            Timer::Dimms => Some((current.since() + DIMMS_FROM).max(self.gate.opens_at()? + DIMMS_FROM_OPEN)),
            Timer::Mute => self.power.untold().map(|(since, _)| since).min().map(|since| since + MUTE_AFTER),
        }
    }

    /// The deadline has come.
    pub(in crate::logic) fn due(&self, timer: Timer) -> bool {
        self.deadline(timer).is_some_and(|at| at <= self.now)
    }

    /// The deadline is still to come.
    pub(in crate::logic) fn runs(&self, timer: Timer) -> bool {
        self.deadline(timer).is_some_and(|at| at > self.now)
    }

    /// When [`Machine::step`] must be called next, if nothing happens before. An early or stale call
    /// changes nothing.
    #[must_use]
    pub fn wake_at(&self) -> Option<Time> {
        let deadlines = Timer::ALL.iter().filter_map(|timer| self.deadline(*timer));
        deadlines.filter(|at| *at > self.now).min()
    }

    /// When rule 4's `host_off` or rule 5's `reset_confirm` ends.
    fn suspicion_ends_at(&self) -> Option<Time> {
        if !self.suspicion.holds() {
            return None;
        }
        match self.power.host()? {
            HostState::Off => Some(self.power.host_since() + self.settings.timing.host_off),
            // From an off-like state nothing changes.
            // A state that was Set stands for as long: rule 1.
            HostState::Running if self.is_decided() && !self.current.state().is_off_like() => {
                let since = self.power.host_since().max(self.current.since());
                Some(since + self.settings.timing.reset_confirm)
            }
            HostState::Running | HostState::Halted | HostState::TransitioningToOff => None,
        }
    }

    /// How long POST must be complete for rule 7 to make the state `S0_G0_D0`.
    fn post_complete_for(&self) -> Option<Duration> {
        match (self.current.kind(), self.current.cause()) {
            (StateKind::Working, _) => None,
            (StateKind::Post, Cause::HostReport) => Some(POST_COMPLETE_REPORTED),
            (StateKind::Post, _) => Some(POST_COMPLETE),
            (StateKind::OffLike | StateKind::Sleep | StateKind::Unknown, _) => {
                self.settings.evidence.s0_from_post_complete.then_some(POST_COMPLETE)
            }
        }
    }
}
