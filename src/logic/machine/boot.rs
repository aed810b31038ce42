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
    /// A word of the firmware, or a working state, since power-on.
    firmware_seen: bool,
    /// A working state since power-on.
    worked: bool,
    /// When someone else last wrote a stage of this boot's progress.
    progress_by_others: Option<Time>,
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

    /// Power was there all the time: no edge, and no boot.
    pub(super) fn found_on(&mut self) {
        self.was_off = false;
    }

    fn begin(&mut self, now: Time) {
        if !self.history.in_boot() {
            self.history.boot_begins(now);
            // The stage that shows that the boot has begun is one of it.
            self.progress_by_others = self.progress_by_others.filter(|at| *at == now);
            self.resets = 0;
        }
    }

    /// A state was entered, or the same one for a new cause; `reported` by the host.
    pub(super) fn entered(&mut self, now: Time, kind: StateKind, reported: bool) {
        if kind == StateKind::Post && !self.was_off {
            self.begin(now);
        }
        self.note_seen(now, kind, reported);
        match kind {
            StateKind::Working if self.history.in_boot() => self.history.booted(now),
            StateKind::OffLike => self.history.boot_abandoned(),
            StateKind::Post | StateKind::Working | StateKind::Sleep | StateKind::Unknown => {}
        }
    }

    /// The state as it is now; `reported` by the host.
    pub(super) fn note_seen(&mut self, now: Time, kind: StateKind, reported: bool) {
        let working = kind == StateKind::Working && !self.was_off;
        self.worked |= working;
        if working || (kind == StateKind::Post && reported) {
            self.note_word(now);
        }
    }

    /// The firmware has said something.
    pub(super) fn note_word(&mut self, now: Time) {
        if !self.was_off {
            self.firmware_seen = true;
            self.history.firmware_seen(now);
        }
    }

    pub(super) fn count_reset(&mut self) {
        self.resets = self.resets.saturating_add(1);
    }

    pub(super) fn note_progress_by_others(&mut self, now: Time) {
        self.progress_by_others = Some(now);
    }

    pub(super) fn progress_is_by_others(&self) -> bool {
        self.progress_by_others.is_some()
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
