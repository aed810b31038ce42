// SPDX-License-Identifier: Apache-2.0
//! The gate of one host: since when its conditions hold, when it opens, and since when it is closed (rules 3.1).
//!
//! Owns: the times, the lock of rule 6, and the count of closings. The conditions are the machine's.

use core::time::Duration;

use crate::{
    config,
    logic::{
        event::Epoch,
        time::{Time, track},
    },
};

/// A condition that keeps the gate closed, by its name on D-Bus.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum GateReason {
    /// The host is not in a working state.
    State,
    /// Chassis power is off.
    ChassisOff,
    /// Rule 6 has not decided yet, or a power service that was seen is gone or is one that is not believed.
    EvidenceMissing,
    /// The host left Running, and nobody has said why.
    ResetSuspected,
    /// The host does not run, though chassis is not Off and nothing is suspected.
    HostNotRunning,
    /// Trusted POST status says that firmware is at work.
    PostNotComplete,
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
            Self::PostNotComplete => "PostNotComplete",
            Self::Settling => "Settling",
        }
    }
}

/// The conditions of rules 3.1, time left aside.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent conditions, each with its name on D-Bus")]
pub(super) struct Conditions {
    /// The state is a working one.
    pub(super) working: bool,
    /// Chassis is Off, or what counts as it.
    pub(super) off: bool,
    /// Rule 6 has decided, and every power service that was seen is there.
    pub(super) known: bool,
    /// A reset is suspected.
    pub(super) suspected: bool,
    /// The host runs, as far as is known.
    pub(super) running: bool,
    /// Trusted POST status says that firmware is at work.
    pub(super) in_post: bool,
}

impl Conditions {
    /// Returns a reason for each condition that does not hold.
    pub(super) fn failing(self) -> impl Iterator<Item = GateReason> {
        use GateReason as R;
        [
            (!self.working, R::State),
            (self.off, R::ChassisOff),
            (!self.known, R::EvidenceMissing),
            (self.suspected, R::ResetSuspected),
            (!self.running && !self.suspected && !self.off, R::HostNotRunning),
            (self.in_post, R::PostNotComplete),
        ]
        .into_iter()
        .filter_map(|(fails, reason)| fails.then_some(reason))
    }

    /// All hold but the state's.
    pub(super) fn are_steady(self) -> bool {
        self.failing().all(|reason| reason == GateReason::State)
    }
}

/// The gate's times.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    settle: Duration,
    restore_settle: Duration,
    /// The state is one that rule 6 could not confirm.
    locked: bool,
    /// Since when the conditions hold, all but the state's and `settle`.
    steady_since: Option<Time>,
    /// When it opens, if nothing changes: all conditions hold but `settle`. Past once it is open.
    opens_at: Option<Time>,
    /// Since when it is closed under power.
    closed_since: Option<Time>,
    epoch: Epoch,
}

impl Gate {
    /// Closed from the first moment on.
    pub(super) fn new(timing: &config::Timing) -> Self {
        Self {
            settle: timing.settle,
            restore_settle: timing.restore_settle,
            locked: false,
            steady_since: None,
            opens_at: None,
            closed_since: None,
            epoch: Epoch::default(),
        }
    }

    /// `steady`: its conditions hold, all but the state's; `working`: that one too.
    pub(super) fn follow(&mut self, now: Time, steady: bool, working: bool) {
        track(&mut self.steady_since, steady, now);
        track(&mut self.opens_at, steady && working && !self.locked, now + self.settle);
    }

    /// `closed`: closed under power.
    pub(super) fn follow_closed(&mut self, now: Time, closed: bool) {
        track(&mut self.closed_since, closed, now);
    }

    /// The conditions must hold anew for as long as they must.
    pub(super) fn lapse(&mut self) {
        self.steady_since = None;
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
        self.locked.then_some(self.steady_since? + self.restore_settle)
    }

    /// When it opens, or did.
    pub(crate) fn opens_at(&self) -> Option<Time> {
        self.opens_at
    }

    pub(crate) fn closed_since(&self) -> Option<Time> {
        self.closed_since
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the conditions hold, all but the state's, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn steady_since(&self) -> Option<Time> {
        self.steady_since
    }
}
