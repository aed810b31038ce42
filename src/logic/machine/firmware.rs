// SPDX-License-Identifier: Apache-2.0
//! What the host's firmware does, as far as it has been heard: the phase that the gate goes by (rules 3.2, the firmware).
//!
//! Owns: the newest word about the firmware and who gave it, since when it runs, its stage, and POST codes that wait for what
//! follows them. Must never: know the ACPI state, or whether there is power; the words are the machine's to give.

use core::time::Duration;

use crate::logic::{
    evidence::{PostCode, Stage},
    time::Time,
};

/// What the firmware does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Phase {
    /// Nobody has said.
    NotHeard,
    /// It runs, and may read the SPDs at any moment.
    AtWork,
    /// It has handed the DIMM buses over.
    Done,
}

/// Who gave the newest word about the firmware.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// Chassis power.
    Power,
    /// A report of the ACPI state.
    Report,
    /// A reset (rule 5).
    Reset,
    /// POST status.
    PostStatus,
    /// Boot progress.
    Progress,
    /// A POST code.
    PostCode,
    /// The record of the daemon's last life, or time (rule 6).
    Restored,
}

macro_rules! names {
    ($of:ident: $($variant:ident,)*) => {
        impl $of {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in the record, the journal and on D-Bus.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }

            /// Returns the one of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|of| of.name() == name)
            }
        }
    };
}

names! { Phase: NotHeard, AtWork, Done, }
names! { Source: Power, Report, Reset, PostStatus, Progress, PostCode, Restored, }

/// A word about the firmware.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Word {
    /// What it does.
    pub phase: Phase,
    /// Who says so.
    pub source: Source,
}

/// What is stored of it for the daemon's next life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FirmwareRecord {
    /// The newest word; `None` in the record of a daemon that did not know of phases.
    pub word: Option<Word>,
    /// Power-on or the last reset, if they were seen.
    pub ran_from: Option<Time>,
    /// The last report came too early.
    pub early: bool,
}

/// A word by boot progress or an SBMR code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Heard {
    /// A stage.
    Progress(Stage),
    /// A code that says that firmware works.
    AtWorkCode,
}

/// A POST code that means something if the right one follows, or none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Waiting {
    /// A *began* code of a running system: it counts when another code follows within `reset_confirm`.
    Began(PostCode),
    /// A *done* code: it counts when no other follows within `settle`.
    Done(PostCode),
}

/// The firmware of one host.
#[derive(Clone, Debug)]
pub(crate) struct Firmware {
    word: Word,
    since: Time,
    /// The word before a suspicion, which a glitch gives back unless a newer one has come.
    held: Option<Word>,
    /// Power-on or the last reset that was seen, and was no resume: `min_post` counts from it.
    ran_from: Option<Time>,
    /// The last report was of a working state within `min_post`: no word about the firmware.
    early: bool,
    /// The newest stage since power-on or reset.
    stage: Option<Stage>,
    waiting: Option<(Waiting, Time)>,
}

impl Firmware {
    pub(super) fn new(now: Time, record: Option<FirmwareRecord>) -> Self {
        let unheard = Word { phase: Phase::NotHeard, source: Source::Restored };
        let word = record.and_then(|record| record.word).unwrap_or(unheard);
        Self {
            word,
            since: now,
            held: None,
            // Nothing in the record can lie ahead.
            ran_from: record.and_then(|record| record.ran_from).map(|at| at.min(now)),
            early: word.phase != Phase::Done && record.is_some_and(|record| record.early),
            stage: None,
            waiting: None,
        }
    }

    // ---- Words ---------------------------------------------------------------------------------------

    fn take(&mut self, now: Time, phase: Phase, source: Source) {
        self.held = None;
        self.waiting = None;
        if self.word.phase != phase {
            self.since = now;
        }
        self.word = Word { phase, source };
        // Whoever says so overtakes an early report.
        self.early &= phase != Phase::Done;
    }

    /// It runs.
    pub(super) fn at_work(&mut self, now: Time, source: Source) {
        self.take(now, Phase::AtWork, source);
    }

    /// It has handed over.
    pub(super) fn done(&mut self, now: Time, source: Source) {
        self.take(now, Phase::Done, source);
    }

    /// Nothing that was said of it before counts any more; `from`: since when it runs, or may run.
    fn anew(&mut self, now: Time, phase: Phase, source: Source, from: Option<Time>) {
        self.take(now, phase, source);
        (self.ran_from, self.early, self.stage) = (from, false, None);
    }

    /// It runs anew since `from`, after power-on or a reset.
    pub(super) fn begin(&mut self, now: Time, source: Source, from: Option<Time>) {
        self.anew(now, Phase::AtWork, source, from);
    }

    /// There is no power.
    pub(super) fn end(&mut self, now: Time) {
        self.anew(now, Phase::NotHeard, Source::Power, None);
    }

    /// The host says that it goes off, or is reset: firmware that was done may run again from now on.
    pub(super) fn leave(&mut self, now: Time) {
        if self.word.phase == Phase::Done {
            self.anew(now, Phase::NotHeard, Source::Report, Some(now));
        }
    }

    /// The host has left Running: it is not done any more, unless that was a glitch.
    pub(super) fn suspend(&mut self, now: Time) {
        if self.word.phase == Phase::Done {
            let held = self.word;
            self.take(now, Phase::NotHeard, Source::Power);
            self.held = Some(held);
        }
    }

    /// It was a glitch.
    pub(super) fn resume(&mut self, now: Time) {
        if let Some(word) = self.held {
            self.take(now, word.phase, word.source);
        }
    }

    /// The host's last report: of a working state within `min_post`, or not.
    pub(super) fn set_early(&mut self, early: bool) {
        self.early = early;
    }

    /// Notes the stage.
    pub(super) fn enter(&mut self, stage: Stage) {
        self.stage = Some(stage);
    }

    /// The stage shows that firmware began anew: an early one, and it was at a later one.
    pub(super) fn is_behind(&self, stage: Stage) -> bool {
        stage == Stage::Early && self.stage.is_some_and(|before| before > Stage::Early)
    }

    // ---- POST codes ----------------------------------------------------------------------------------

    /// A *began* code counts if another follows.
    pub(super) fn wait_for_another(&mut self, now: Time, code: PostCode) {
        self.waiting = Some((Waiting::Began(code), now));
    }

    /// A *done* code counts if no other follows.
    pub(super) fn wait_for_silence(&mut self, now: Time, code: PostCode) {
        let same = matches!(self.waiting, Some((Waiting::Done(before), _)) if before == code);
        if !same {
            self.waiting = Some((Waiting::Done(code), now));
        }
    }

    /// A code has come: true if it is the other one behind a *began* code. `within`: `reset_confirm`. A *done* code that it
    /// follows has said nothing.
    pub(super) fn follow(&mut self, now: Time, code: PostCode, within: Duration) -> bool {
        match self.waiting {
            Some((Waiting::Began(before), at)) if before != code => {
                self.waiting = None;
                now.since(at) <= within
            }
            Some((Waiting::Done(before), _)) if before != code => {
                self.waiting = None;
                false
            }
            Some((Waiting::Began(_) | Waiting::Done(_), _)) | None => false,
        }
    }

    /// Since when a *done* code has been the last one.
    pub(super) fn done_code_since(&self) -> Option<Time> {
        match self.waiting? {
            (Waiting::Done(_), at) => Some(at),
            (Waiting::Began(_), _) => None,
        }
    }

    // ---- Asking --------------------------------------------------------------------------------------

    /// The newest word, whatever else stands against it.
    pub(crate) fn word(&self) -> Word {
        self.word
    }

    /// Since when the phase is this one.
    pub(crate) fn since(&self) -> Time {
        self.since
    }

    /// It has been done since then by POST status.
    pub(super) fn is_done_by_post_since(&self, at: Option<Time>) -> bool {
        self.word == Word { phase: Phase::Done, source: Source::PostStatus }
            && at.is_some_and(|at| self.since >= at)
    }

    /// Power-on or the last reset that was seen, and was no resume.
    pub(super) fn ran_from(&self) -> Option<Time> {
        self.ran_from
    }

    pub(crate) fn is_early(&self) -> bool {
        self.early
    }

    pub(super) fn record(&self) -> FirmwareRecord {
        FirmwareRecord { word: Some(self.word), ran_from: self.ran_from, early: self.early }
    }

    /// Returns the facts but times that a rule can tell apart, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn key(&self) -> impl core::hash::Hash + use<> {
        (
            self.word.phase,
            self.held.map(|word| word.phase),
            self.early,
            self.stage,
            self.waiting.map(|(what, _)| what),
        )
    }
}
