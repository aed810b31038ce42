// SPDX-License-Identifier: Apache-2.0
//! The timer table: when each deadline of a machine is.
//!
//! A deadline is computed from what the parts own, never stored: none can be left running that should have stopped. It acts
//! where [`Machine::due`] asks for it by its name, and the daemon is woken for each that is in [`Timer::ALL`];
//! `tests/timers.rs` shows that time is compared in no other way.

use core::time::Duration;

use super::{Machine, Start, firmware::Phase, timers::Timer};
use crate::logic::{
    acpi::StateKind,
    diagnosis::{DIMMS_FROM, DIMMS_FROM_OPEN, MUTE_AFTER, OS_REPORTED_WITHIN},
    evidence::{HostState, Os},
    time::Time,
};

/// Rule 7: how long POST must be complete for the state to become `S0_G0_D0`.
const POST_COMPLETE: Duration = Duration::from_secs(10);

impl Machine {
    /// The timer table: when each deadline is, if it is running or was.
    pub(in crate::logic) fn deadline(&self, timer: Timer) -> Option<Time> {
        let timing = &self.settings.timing;
        let current = &self.current;
        match timer {
            Timer::Decide => match self.start {
                Start::Undecided { at_the_latest, .. } => Some(at_the_latest),
                Start::FoundOff { .. } | Start::Decided => None,
            },
            Timer::FoundOff => match self.start {
                Start::FoundOff { until, .. } => Some(until),
                Start::Undecided { .. } | Start::Decided => None,
            },
            Timer::HostOff => self.power.host_off_at(),
            Timer::Suspicion => self.suspicion_ends_at(),
            Timer::PostComplete => {
                let acts = self.settings.evidence.s0_from_post_complete && !current.state().is_working();
                Some(self.power.complete_since().filter(|_| acts)? + POST_COMPLETE)
            }
            Timer::Unlock => self.gate.unlocks_at(),
            Timer::Open => self.gate.opens_at(),
            Timer::MinPost => Some(self.began_anew()? + timing.min_post),
            Timer::PostLevel => {
                let unproven = self.power.post() == Some(Os::Inactive) && !self.power.complete_was_seen();
                let from = self.firmware.ran_from().max(Some(self.power.since()));
                unproven.then_some(from? + timing.restore_settle)
            }
            Timer::Early => {
                let shown = self.firmware.is_early() && current.state().is_working();
                Some(self.began_anew().filter(|_| shown)? + timing.restore_settle)
            }
            Timer::DoneCode => Some(self.firmware.done_code_since()? + timing.settle),
            Timer::AckCap => self.barrier.cap(),
            Timer::Handover => self.handover.late_at(),
            Timer::Hold => {
                let in_post = current.kind() == StateKind::Post;
                Some(self.gate.closed_since()? + if in_post { Duration::ZERO } else { timing.hold_after })
            }
            Timer::BootHold => {
                self.zones.hold()?;
                Some(self.gate.opens_at()? + timing.hold_after)
            }
            Timer::ClosedTooLong => Some(self.gate.runs_since()? + timing.deadline),
            Timer::Thermal => Some(self.boot.powered_at()? + timing.thermal_grace),
            Timer::OsNotReported => {
                let waits = matches!(current.kind(), StateKind::Post | StateKind::Unknown);
                (waits && self.phase() == Phase::Done && self.is_powered())
                    .then_some(self.firmware.since() + OS_REPORTED_WITHIN)
            }
            Timer::Silent => Some(self.watch.quiet_since()? + timing.silent_after),
            Timer::NoCpuPower => self.watch.no_cpu_power_at(),
            Timer::Dimms => {
                let open = self.gate.opens_at()? + DIMMS_FROM_OPEN;
                let works = current.state().is_working().then_some(current.since() + DIMMS_FROM);
                Some(works.map_or(open, |works| works.max(open)))
            }
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
        let suspected = self.suspicion.since()?;
        match self.power.host() {
            Some(HostState::Off) => Some(self.power.host_since() + self.settings.timing.host_off),
            // From an off-like state that the host has reported nothing changes, nor without power.
            // A state that was Set stands for as long: rule 1.
            Some(HostState::Running) | None if self.is_decided() && !self.rests() && !self.is_off() => {
                let since = self.power.host_since().max(self.current.since()).max(suspected);
                Some(since + self.settings.timing.reset_confirm)
            }
            Some(HostState::Running | HostState::Halted | HostState::TransitioningToOff) | None => None,
        }
    }

    /// When firmware began anew: power-on, or the last reset, suspected ones among them.
    fn began_anew(&self) -> Option<Time> {
        self.firmware.ran_from().max(self.reset_began())
    }

    /// Since when firmware runs anew, if a reset is suspected: since the suspicion, or since the host runs again.
    pub(super) fn reset_began(&self) -> Option<Time> {
        let suspected = self.suspicion.since()?;
        let runs = self.power.host() == Some(HostState::Running);
        Some(if runs { suspected.max(self.power.host_since()) } else { suspected })
    }
}
