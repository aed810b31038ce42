// SPDX-License-Identifier: Apache-2.0
//! The fans of one host's DIMMs: since when they are held, and how (rules 3.5).
//!
//! Owns: the hold, and whether the DIMMs' temperatures are known again. At which speed they are held is
//! [`policy`](crate::logic::policy)'s.

/// A hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hold {
    /// The host was in a working state since power-on: never below the Target that was found.
    pub(crate) from_working: bool,
    /// A guard sensor's alarm came while it lasted.
    pub(crate) alarmed: bool,
}

/// The DIMM zones.
#[derive(Clone, Debug)]
pub(super) struct Zones {
    has_dimms: bool,
    /// The DIMM sensors have settled since the gate opened.
    dimms_known: bool,
    hold: Option<Hold>,
}

impl Zones {
    pub(super) fn new(has_dimms: bool) -> Self {
        Self { has_dimms, dimms_known: false, hold: None }
    }

    pub(super) fn hold(&self) -> Option<Hold> {
        self.hold
    }

    pub(super) fn set_dimms_known(&mut self, known: bool) {
        self.dimms_known = known;
    }

    pub(super) fn alarm(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.alarmed = true;
        }
    }

    /// The gate of a host with power has been closed for so long that a hold begins, unless there is one.
    pub(super) fn take(&mut self, from_working: bool) {
        self.hold = self.hold.or(Some(Hold { from_working, alarmed: false }));
    }

    /// The gate is open: a hold ends once the DIMMs' temperatures are known.
    pub(super) fn opened(&mut self) {
        if self.dimms_known || !self.has_dimms {
            self.hold = None;
        }
    }

    /// There is no power, or rule 6 has not decided.
    pub(super) fn release(&mut self) {
        self.hold = None;
    }

    /// All of it, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn key(&self) -> (bool, Option<(bool, bool)>) {
        (self.dimms_known, self.hold.map(|hold| (hold.from_working, hold.alarmed)))
    }
}
