// SPDX-License-Identifier: Apache-2.0
//! The boots of one host: what was seen of its firmware since power-on, and how long it took.
//!
//! Owns: the edges of off, resets, and the history. The state itself is the machine's.

use crate::logic::{
    acpi::StateKind,
    history::{History, Transition},
    time::Time,
};

/// The present boot, and those before.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts about one boot")]
pub(crate) struct Boot {
    /// Off, as everything that follows from the state sees it (note 6); kept to find its edges.
    was_off: bool,
    /// When power-on was seen; `None` if it was on when the daemon came.
    powered_at: Option<Time>,
    /// A reported S2 or a working state since power-on.
    firmware_seen: bool,
    /// A working state since power-on.
    worked: bool,
    /// Someone else has written a stage of this boot's progress.
    progress_by_others: bool,
    /// Resets within this boot: those inferred, and S2 reported again.
    resets: u32,
    history: History,
}

impl Boot {
    /// The edges of off: whether there was one.
    pub(super) fn follow_off(&mut self, now: Time, off: bool) -> bool {
        if core::mem::replace(&mut self.was_off, off) == off {
            return false;
        }
        self.firmware_seen = false;
        self.worked = false;
        self.powered_at = (!off).then_some(now);
        if off {
            self.history.boot_abandoned();
        } else {
            self.begin(now);
        }
        true
    }

    fn begin(&mut self, now: Time) {
        if !self.history.in_boot() {
            self.history.boot_begins(now);
            self.progress_by_others = false;
            self.resets = 0;
        }
    }

    /// A state was entered, or the same one for a new cause.
    pub(super) fn entered(&mut self, now: Time, kind: StateKind) {
        match kind {
            StateKind::Post if !self.was_off => {
                self.begin(now);
                self.history.firmware_seen(now);
            }
            StateKind::Working if self.history.in_boot() => self.history.booted(now),
            StateKind::OffLike => self.history.boot_abandoned(),
            StateKind::Post | StateKind::Working | StateKind::Sleep | StateKind::Unknown => {}
        }
    }

    /// The state as it is now; `reported` by the host.
    pub(super) fn note_seen(&mut self, kind: StateKind, reported: bool) {
        if !self.was_off {
            let working = kind == StateKind::Working;
            self.worked |= working;
            self.firmware_seen |= working || (kind == StateKind::Post && reported);
        }
    }

    pub(super) fn count_reset(&mut self) {
        self.resets = self.resets.saturating_add(1);
    }

    pub(super) fn note_progress_by_others(&mut self) {
        self.progress_by_others = true;
    }

    pub(super) fn progress_is_by_others(&self) -> bool {
        self.progress_by_others
    }

    pub(crate) fn powered_at(&self) -> Option<Time> {
        self.powered_at
    }

    pub(crate) fn firmware_was_seen(&self) -> bool {
        self.firmware_seen
    }

    pub(super) fn has_worked(&self) -> bool {
        self.worked
    }

    pub(crate) fn resets(&self) -> u32 {
        self.resets
    }

    /// A boot is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.history.in_boot()
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn record(&mut self, transition: Transition) {
        self.history.record(transition);
    }

    /// The host has reported the same state again.
    pub(super) fn repeat(&mut self) {
        self.history.repeat();
    }

    /// No rule reads what the history lists, and every copy of the search would carry it along.
    #[cfg(test)]
    pub(super) fn forget_history(&mut self, now: Time) {
        let in_boot = self.history.in_boot();
        self.history = History::default();
        if in_boot {
            self.history.boot_begins(now);
        }
    }

    /// The edges' memory, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn was_off(&self) -> bool {
        self.was_off
    }
}
