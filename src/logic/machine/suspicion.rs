// SPDX-License-Identifier: Apache-2.0
//! The suspicion that the host was reset: rules 4 and 5.
//!
//! Owns: whether there is one, and what has been heard since. The consequence when its time has passed is the machine's.

use crate::logic::acpi::StateKind;

/// The host left Running under power, and nobody has said why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reset {
    /// S2 or an off-like state was reported since.
    reported: bool,
    /// POST has been complete all the time: it may have been a glitch.
    post_complete: bool,
}

/// A reset is suspected, or none is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Suspicion(Option<Reset>);

impl Suspicion {
    /// Rule 4.
    pub(super) fn begin(&mut self, post_complete: bool) {
        self.0 = Some(Reset { reported: false, post_complete });
    }

    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    pub(crate) fn holds(self) -> bool {
        self.0.is_some()
    }

    /// POST status has changed.
    pub(super) fn post_is(&mut self, complete: bool) {
        if let Some(reset) = &mut self.0 {
            reset.post_complete &= complete;
        }
    }

    /// POST has been complete since it began.
    pub(super) fn post_was_complete(self) -> bool {
        self.0.is_some_and(|reset| reset.post_complete)
    }

    /// The host has reported a state.
    pub(super) fn host_reports(&mut self, state: StateKind, running: bool) {
        match (&mut self.0, state) {
            (Some(_), StateKind::Working) if running => self.clear(),
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

    /// Returns the facts that a rule can tell apart, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn key(self) -> Option<(bool, bool)> {
        self.0.map(|reset| (reset.reported, reset.post_complete))
    }
}
