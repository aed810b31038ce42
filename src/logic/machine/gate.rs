// SPDX-License-Identifier: Apache-2.0
//! The gate of one host: since when its conditions hold, when it opens, and since when it is closed (rules 3.1).
//!
//! Owns: the times, the lock of rule 6, and the count of closings. The conditions are the machine's.

use core::time::Duration;

use crate::{
    config,
    logic::{
        event::Epoch,
        machine::firmware::Phase,
        time::{Time, track},
    },
};

/// A condition that keeps the gate closed, by its name on D-Bus.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum GateReason {
    /// The host is neither in a working state nor in S2.
    State,
    /// Chassis power is off.
    ChassisOff,
    /// Rule 6 has not decided yet, or a power service that was seen is gone or is one that is not believed.
    EvidenceMissing,
    /// The host left Running, and nobody has said why.
    ResetSuspected,
    /// The host does not run, though chassis is not Off and nothing is suspected.
    HostNotRunning,
    /// The firmware is at work, and may read the SPDs.
    FirmwareAtWork,
    /// Nobody has said whether the firmware is done.
    FirmwareNotHeard,
    /// The host was switched on or reset so recently that it cannot be done yet.
    MinPost,
    /// All is well, but has not been for long enough.
    Settling,
}

impl GateReason {
    /// The name on D-Bus.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "State",
            Self::ChassisOff => "ChassisOff",
            Self::EvidenceMissing => "EvidenceMissing",
            Self::ResetSuspected => "ResetSuspected",
            Self::HostNotRunning => "HostNotRunning",
            Self::FirmwareAtWork => "FirmwareAtWork",
            Self::FirmwareNotHeard => "FirmwareNotHeard",
            Self::MinPost => "MinPost",
            Self::Settling => "Settling",
        }
    }
}

/// The conditions of rules 3.1, `settle` left aside.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent conditions, each with its name on D-Bus")]
pub(super) struct Conditions {
    /// The state is a working one, or S2.
    pub(super) state: bool,
    /// Chassis is Off, or what counts as it.
    pub(super) off: bool,
    /// Rule 6 has decided, and every power service that was seen is there.
    pub(super) known: bool,
    /// A reset is suspected.
    pub(super) suspected: bool,
    /// The host runs, as far as is known.
    pub(super) running: bool,
    /// What the firmware does.
    pub(super) phase: Phase,
    /// `min_post` has not passed since power-on or the last reset.
    pub(super) young: bool,
}

impl Conditions {
    /// Returns the reasons that keep the gate closed, time left aside. What another reason explains is not among them: the
    /// firmware of a host that does not run, for one.
    pub(super) fn failing(self) -> impl Iterator<Item = GateReason> {
        use GateReason as R;
        let clear = !self.off && self.known && !self.suspected && self.running;
        [
            (!self.state, R::State),
            (self.off, R::ChassisOff),
            (!self.known, R::EvidenceMissing),
            (self.suspected, R::ResetSuspected),
            (!self.running && !self.suspected && !self.off, R::HostNotRunning),
            (self.phase == Phase::AtWork && clear, R::FirmwareAtWork),
            (self.phase == Phase::NotHeard && clear, R::FirmwareNotHeard),
            (self.young && self.phase == Phase::Done && clear, R::MinPost),
        ]
        .into_iter()
        .filter_map(|(fails, reason)| fails.then_some(reason))
    }

    /// All hold.
    pub(super) fn hold(self) -> bool {
        self.state && self.are_steady()
    }

    /// All hold but the state's: rule 7 counts.
    pub(super) fn are_steady(self) -> bool {
        self.phase == Phase::Done && self.are_quiet()
    }

    /// All hold but the state's, and the firmware is not at work: the lock of rule 6 counts.
    pub(super) fn are_quiet(self) -> bool {
        let young = self.young && self.phase == Phase::Done;
        let clear = !self.off && self.known && !self.suspected && self.running;
        clear && self.phase != Phase::AtWork && !young
    }
}

/// The gate's times.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    settle: Duration,
    restore_settle: Duration,
    /// The state is one that rule 6 could not confirm.
    locked: bool,
    /// Since when nothing contradicts a state that is locked.
    quiet_since: Option<Time>,
    /// When it opens, if nothing changes: all conditions hold but `settle`. Past once it is open.
    opens_at: Option<Time>,
    /// Since when it is closed under power.
    closed_since: Option<Time>,
    /// Since when the deadline runs.
    runs_since: Option<Time>,
    epoch: Epoch,
}

impl Gate {
    /// Closed from the first moment on.
    pub(super) fn new(timing: &config::Timing) -> Self {
        Self {
            settle: timing.settle,
            restore_settle: timing.restore_settle,
            locked: false,
            quiet_since: None,
            runs_since: None,
            opens_at: None,
            closed_since: None,
            epoch: Epoch::default(),
        }
    }

    /// `holds`: its conditions do; `quiet`: nothing contradicts a locked state.
    pub(super) fn follow(&mut self, now: Time, holds: bool, quiet: bool) {
        track(&mut self.quiet_since, quiet && self.locked, now);
        track(&mut self.opens_at, holds && !self.locked, now + self.settle);
    }

    /// `closed`: closed under power; `runs`: and that counts for the deadline.
    pub(super) fn follow_closed(&mut self, now: Time, closed: bool, runs: bool) {
        track(&mut self.closed_since, closed, now);
        track(&mut self.runs_since, closed && runs, now);
    }

    /// The conditions must hold anew for as long as they must.
    pub(super) fn lapse(&mut self) {
        self.quiet_since = None;
        self.opens_at = None;
    }

    /// Counts a closing: the gate was open, and is not any more.
    pub(super) fn count_closing(&mut self) {
        self.epoch = Epoch(self.epoch.0.wrapping_add(1));
    }

    pub(super) fn set_locked(&mut self, locked: bool) {
        self.locked = locked;
    }

    /// The lock has ended by time: `restore_settle` was in place of `settle`.
    pub(super) fn end_lock(&mut self, now: Time) {
        self.locked = false;
        self.opens_at = Some(now);
    }

    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    /// When the lock ends by time.
    pub(super) fn unlocks_at(&self) -> Option<Time> {
        self.locked.then_some(self.quiet_since? + self.restore_settle)
    }

    /// When it opens, or did.
    pub(crate) fn opens_at(&self) -> Option<Time> {
        self.opens_at
    }

    pub(crate) fn closed_since(&self) -> Option<Time> {
        self.closed_since
    }

    /// Since when the deadline runs.
    pub(crate) fn runs_since(&self) -> Option<Time> {
        self.runs_since
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }
}
