// SPDX-License-Identifier: Apache-2.0
//! The suspicion that the host was reset: rules 4, 4a and 5.
//!
//! Owns: whether there is one, since when, and what has been heard since. The consequence when its time has passed is the
//! machine's.

use crate::logic::{acpi::StateKind, time::Time};

/// The event that a suspicion began with, and what would make a glitch of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Began {
    /// The host left Running (rule 4). Was POST complete all the time? Then it may have been a glitch.
    HostLeft { post_complete: bool },
    /// POST status fell from complete (rule 4a). A glitch if it is complete again soon, and the host ran throughout.
    PostFell,
    /// Somebody asked for it, or the host came back from Off: no glitch explains that.
    Other,
}

/// A reset may have happened, and nobody has said so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reset {
    since: Time,
    began: Began,
    /// `ForceWarmReboot` was requested.
    requested: bool,
    /// S2 or an off-like state was reported since, or firmware was heard at work.
    reported: bool,
}

/// A reset is suspected, or none is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Suspicion(Option<Reset>);

impl Suspicion {
    fn begin(&mut self, now: Time, began: Began, requested: bool) {
        let requested = requested || self.is_requested();
        self.0 = Some(Reset { since: now, began, requested, reported: false });
    }

    /// Rule 4: the host left Running. A request outlasts it.
    pub(super) fn host_left(&mut self, now: Time, post_complete: bool) {
        self.begin(now, Began::HostLeft { post_complete }, false);
    }

    /// Rule 4: a host that was off for good runs again.
    pub(super) fn host_came(&mut self, now: Time) {
        self.begin(now, Began::Other, false);
    }

    /// Rule 4: `ForceWarmReboot` was requested. It adds to a suspicion that holds.
    pub(super) fn request(&mut self, now: Time) {
        match &mut self.0 {
            Some(reset) => (reset.since, reset.requested) = (now, true),
            None => self.begin(now, Began::Other, true),
        }
    }

    /// Rule 4a: POST status fell from complete.
    pub(super) fn post_fell(&mut self, now: Time) {
        if !self.holds() {
            self.begin(now, Began::PostFell, false);
        }
    }

    /// None is suspected any more.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    pub(crate) fn holds(self) -> bool {
        self.0.is_some()
    }

    pub(super) fn since(self) -> Option<Time> {
        Some(self.0?.since)
    }

    pub(super) fn is_requested(self) -> bool {
        self.0.is_some_and(|reset| reset.requested)
    }

    /// POST status has changed.
    pub(super) fn post_is(&mut self, complete: bool) {
        if let Some(Reset { began: Began::HostLeft { post_complete }, .. }) = &mut self.0 {
            *post_complete &= complete;
        }
    }

    /// The host does not run any more, and nothing is suspected for it: its POST status is no glitch's.
    pub(super) fn host_stops(&mut self) {
        if let Some(reset) = &mut self.0
            && reset.began == Began::PostFell
        {
            reset.began = Began::Other;
        }
    }

    /// POST status is complete again: true if that made a glitch of it (rule 4a).
    pub(super) fn is_over_with_post(self) -> bool {
        self.0.is_some_and(|reset| reset.began == Began::PostFell && !reset.requested)
    }

    /// The host left Running, and POST has been complete since: a glitch (rule 5).
    pub(super) fn is_glitch(self) -> bool {
        self.0.is_some_and(|reset| reset.began == Began::HostLeft { post_complete: true } && !reset.requested)
    }

    /// The host has reported a state; `early`: a working one, too soon after the suspicion began to be true.
    pub(super) fn host_reports(&mut self, state: StateKind, early: bool, running: bool) {
        match (&mut self.0, state) {
            (Some(_), StateKind::Working) if running && !early => self.clear(),
            (Some(reset), StateKind::Post | StateKind::OffLike) => reset.reported = true,
            (
                _,
                StateKind::Working
                | StateKind::Post
                | StateKind::OffLike
                | StateKind::Sleep
                | StateKind::Unknown,
            ) => {}
        }
        if running {
            self.host_runs();
        }
    }

    /// The host runs (again): a state that it has reported explains why it did not.
    pub(super) fn host_runs(&mut self) {
        if self.0.is_some_and(|reset| reset.reported) {
            self.clear();
        }
    }

    /// Returns the facts but times that a rule can tell apart, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn key(self) -> impl core::hash::Hash + use<> {
        self.0.map(|reset| (reset.began, reset.requested, reset.reported))
    }
}
