// SPDX-License-Identifier: Apache-2.0
//! Rule 6 at work: when it decides, what follows from its decision, and when it decides anew.
//!
//! Owns: nothing; the decision itself is `start::decide`.

use super::{
    Machine, Phase, Source, Timer,
    firmware::Heard,
    start::{DECIDE_WITHOUT_CHASSIS, Evidence, Found, Start, Stored, decide},
};
use crate::logic::{
    acpi::StateKind,
    evidence::{Chassis, HostState, Os, PostCode, Stage},
};

impl Machine {
    /// Rule 6, once there is enough to decide by.
    pub(super) fn decide(&mut self) {
        let Start::Undecided { stored, heard, .. } = core::mem::replace(&mut self.start, Start::Decided)
        else {
            return;
        };
        let off = self.power.is_off();
        let stopped = !self.power.host_may_run();
        if stopped && !off {
            self.power.count_host_from(self.now);
            if !self.suspicion.holds() {
                self.suspect();
            }
            if stored.is_some_and(|stored| stored.same_bmc_boot && stored.reset_requested) {
                self.suspicion.request(self.now);
            }
        }
        let post = self.power.post().filter(|post| *post == Os::Complete || self.power.complete_was_seen());
        let runs = heard.filter(|_| !off).and_then(|word| self.shows_at_work(word));
        let decision = decide(Evidence { off, stopped, post, stored, at_work: runs });
        if off {
            self.current.find_device(StateKind::OffLike);
        }
        // A Set that came first stands, and so does what rules 3 and 4 made of it.
        if !self.current.stands() {
            self.gate.set_locked(decision.locked);
            match decision.found {
                Found::Nothing => {}
                Found::AtWork => self.firmware.at_work(self.now, Source::Restored),
                Found::Reset => self.firmware.begin(self.now, Source::Restored, Some(self.now)),
                Found::Done => self.firmware.done(self.now, Source::Restored),
            }
            self.become_state(decision.state, decision.cause);
            if decision.state.kind() == StateKind::Post {
                // Firmware that is at work will be heard.
                self.watch.owe_sign(self.now);
            }
        }
        self.compare(stored.filter(|stored| stored.same_bmc_boot));
        match heard {
            Some(Heard::Progress(stage)) => self.on_progress(stage),
            Some(Heard::AtWorkCode) => self.on_post_code(PostCode::AtWork),
            None => {}
        }
        self.follow_off();
        self.follow_rows();
    }

    /// Whether a word by boot progress or a code says that the firmware is at work, or that the OS runs.
    pub(super) fn shows_at_work(&self, word: Heard) -> Option<bool> {
        let evidence = &self.settings.evidence;
        match word {
            Heard::Progress(Stage::OsRunning) => Some(false),
            Heard::Progress(stage) => (stage < Stage::from(evidence.done_from)).then_some(true),
            Heard::AtWorkCode => evidence.boot_progress.then_some(true),
        }
    }

    /// Rule 6: a value that was read, and is another than the one that was stored in this boot of the BMC, is as good as one
    /// that was signalled.
    pub(super) fn compare(&mut self, stored: Option<Stored>) {
        let Some(stored) = stored.filter(|_| !self.power.is_off()) else { return };
        match (stored.post, self.power.os()) {
            (Some(Os::Complete), Some(Os::Inactive)) if self.firmware.word().phase == Phase::Done => {
                self.suspicion.post_fell(self.now);
            }
            (Some(Os::Inactive), Some(Os::Complete)) => self.post_rose(),
            (Some(Os::Inactive | Os::Complete) | None, Some(Os::Inactive | Os::Complete) | None) => {}
        }
        // A host that was off for good has come back, or firmware has not said yet that it runs.
        let unreported = self.current.state().is_off_like() && !self.rests();
        if unreported && !self.power.is_unknown() && self.power.host() == Some(HostState::Running) {
            self.suspicion.host_came(self.now);
        }
    }

    /// Rule 6: chassis comes On soon after it was found Off, and the host was never seen not to run: that is no power-on, but
    /// a power service that has just started. True if the daemon decides anew, as in another boot of the BMC.
    pub(super) fn power_control_starts(&mut self) -> bool {
        let Start::FoundOff { stored, .. } = self.start else { return false };
        let came = self.power.is_off() && self.power.chassis() == Some(Chassis::On);
        let starts =
            came && self.runs(Timer::FoundOff) && !self.power.stood_still() && !self.current.stands();
        if came || !self.runs(Timer::FoundOff) {
            self.start = Start::Decided;
        }
        if starts {
            self.power.found_on(self.now);
            self.boot.found_on();
            self.current.forget_device();
            self.start =
                Start::Undecided { stored, at_the_latest: self.now + DECIDE_WITHOUT_CHASSIS, heard: None };
        }
        starts
    }
}
