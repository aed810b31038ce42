// SPDX-License-Identifier: Apache-2.0
//! The words about the firmware: reports, boot progress, POST codes, POST status (rules 3.2, the firmware's phase; rules 4a, 10,
//! 11).
//!
//! Owns: nothing; what a word does to the parts.

use super::{Machine, Phase, Source, Start, Timer, firmware::Heard, power::PostChange};
use crate::logic::{
    acpi::{AcpiState, StateKind},
    cause::Cause,
    evidence::{Os, PostCode, Stage},
};

impl Machine {
    /// A report as a word about the firmware, and about a reset that is suspected.
    pub(super) fn hear_report(&mut self, kind: StateKind) {
        if let Start::Undecided { heard, .. } = &mut self.start {
            *heard = None;
        }
        let early = kind == StateKind::Working && self.runs(Timer::MinPost);
        let suspected = self.suspicion.holds();
        self.suspicion.host_reports(kind, early, self.power.host_may_run());
        self.firmware.set_early(early && self.firmware.word().phase != Phase::Done);
        if self.power.is_off() {
            return;
        }
        match kind {
            // S2 of firmware that was done, or of a host that was reset, is a new POST.
            StateKind::Post if suspected || self.firmware.word().phase == Phase::Done => {
                self.firmware.begin(self.now, Source::Report, Some(self.now));
            }
            StateKind::Post => self.firmware.at_work(self.now, Source::Report),
            StateKind::Working if !early => self.firmware_is_done(Source::Report),
            // Power goes, or firmware runs again: at a reboot that is the last word of many an OS.
            StateKind::OffLike if !self.power.is_unknown() => self.firmware.leave(self.now),
            StateKind::Working | StateKind::OffLike | StateKind::Sleep | StateKind::Unknown => {}
        }
    }

    /// The firmware is done, by a source that is not POST status.
    pub(super) fn firmware_is_done(&mut self, source: Source) {
        self.firmware.done(self.now, source);
        self.power.judge_post();
        self.unlock_working();
    }

    /// A word of the firmware has confirmed a working state that rule 6 could not.
    pub(super) fn unlock_working(&mut self) {
        if self.current.state().is_working() {
            self.gate.set_locked(false);
        }
    }

    /// Rules 10 and 11: a stage that somebody else signalled.
    pub(super) fn on_progress(&mut self, stage: Stage) {
        if !self.settings.evidence.boot_progress || stage == Stage::Oem || self.power.is_off() {
            return;
        }
        if !self.is_decided() {
            self.puts_off(Heard::Progress(stage));
            return;
        }
        self.boot.note_word(self.now);
        if stage < Stage::from(self.settings.evidence.done_from) {
            self.firmware_works(Source::Progress, Some(stage));
            return;
        }
        self.firmware.enter(stage);
        self.firmware_is_done(Source::Progress);
        if stage == Stage::OsRunning {
            self.os_runs();
        }
    }

    /// Rule 10: a POST code.
    pub(super) fn on_post_code(&mut self, code: PostCode) {
        if self.power.is_off() {
            return;
        }
        if !self.is_decided() {
            // What a single byte means depends on the state.
            if code == PostCode::AtWork {
                self.puts_off(Heard::AtWorkCode);
            }
            return;
        }
        let named = |codes: &[u8]| matches!(code, PostCode::Byte(byte) if codes.contains(&byte));
        let began = named(&self.settings.post_codes.began);
        let done = named(&self.settings.post_codes.done);
        let at_work = code == PostCode::AtWork && self.settings.evidence.boot_progress;
        // A running system writes to port 80h too: there a code is nothing, unless another one follows.
        let running = self.current.state().is_working() || self.firmware.word().phase == Phase::Done;
        let another = self.firmware.follow(self.now, code, self.settings.timing.reset_confirm);
        if at_work || another || (began && !running) {
            self.boot.note_word(self.now);
            self.firmware_works(Source::PostCode, None);
        } else if began {
            self.firmware.wait_for_another(self.now, code);
        }
        if done {
            self.firmware.wait_for_silence(self.now, code);
        }
    }

    /// Before the decision of rule 6 the newest word of this kind is kept, to act behind it.
    pub(super) fn puts_off(&mut self, word: Heard) {
        if let Start::Undecided { heard, .. } = &mut self.start {
            *heard = Some(word);
        }
    }

    /// Rule 10: the firmware was heard at work, under power.
    pub(super) fn firmware_works(&mut self, source: Source, stage: Option<Stage>) {
        let now = self.now;
        let (reset, shows) = match self.current.kind() {
            StateKind::Working => (true, true),
            // An early stage behind a later one is a reset in POST, and so is a code where firmware was done.
            StateKind::Post => {
                let was_done = self.firmware.word().phase == Phase::Done;
                let anew = stage.map_or(was_done, |stage| self.firmware.is_behind(stage));
                (anew, anew)
            }
            StateKind::OffLike => (false, !self.rests()),
            StateKind::Sleep => (false, false),
            StateKind::Unknown => (false, true),
        };
        if reset {
            self.firmware.begin(now, source, Some(now));
        } else {
            self.firmware.at_work(now, source);
        }
        if let Some(stage) = stage {
            self.firmware.enter(stage);
        }
        if shows {
            self.become_state(AcpiState::S2D2, Cause::FirmwareSeen);
        }
        self.suspicion.host_reports(StateKind::Post, false, self.power.host_may_run());
    }

    /// Rule 11: boot progress says that the OS runs.
    pub(super) fn os_runs(&mut self) {
        let soon = self.runs(Timer::MinPost);
        self.suspicion.host_reports(StateKind::Working, soon, self.power.host_may_run());
        if !self.current.state().is_working() {
            self.become_state(AcpiState::S0G0D0, Cause::BootProgress);
        }
    }

    /// POST status. Its fall counts whether it is trusted or not (rule 4a).
    pub(super) fn on_os(&mut self, value: Option<Os>) {
        let change = self.power.set_os(self.now, value);
        self.suspicion.post_is(self.power.post_is_complete());
        if !self.power.is_off() {
            match change {
                PostChange::Fell if self.firmware.word().phase == Phase::Done => {
                    self.suspicion.post_fell(self.now);
                }
                PostChange::Rose => self.post_rose(),
                PostChange::Fell | PostChange::None => {}
            }
        }
        if change != PostChange::None && self.power.post().is_some() {
            self.boot.note_word(self.now);
            self.watch.note_sign();
        }
    }

    /// POST status has become complete, under power.
    pub(super) fn post_rose(&mut self) {
        let confirm = self.settings.timing.reset_confirm;
        let soon = self.suspicion.since().is_some_and(|since| self.now.since(since) <= confirm);
        if soon && self.suspicion.is_over_with_post() && self.power.host_may_run() {
            self.suspicion.clear();
        }
        if self.power.post() == Some(Os::Complete) {
            self.firmware.done(self.now, Source::PostStatus);
            self.unlock_working();
        }
    }
}
