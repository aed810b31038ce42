// SPDX-License-Identifier: Apache-2.0
//! What has been heard of the firmware: the record's own words for the phase (rules 3.2, the firmware).
//!
//! Facts and when they were; the answers are computed from them where they are asked for.

use super::super::{firmware::Phase, *};
use crate::logic::evidence::{PostCode, Stage};

/// A code that waits for the next one: a *began* code in a running system, or a *done* code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Pending {
    pub(super) began: bool,
    pub(super) code: PostCode,
    pub(super) at: Time,
}

/// The record of the firmware.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) phase: Phase,
    /// Since when the phase is that.
    pub(super) since: Time,
    /// POST status says it.
    pub(super) by_post: bool,
    /// The firmware was done when the host left Running, and nothing was heard since.
    pub(super) held: Option<bool>,
    pub(super) ran_from: Option<Time>,
    pub(super) early: bool,
    pub(super) stage: Option<Stage>,
    pub(super) pending: Option<Pending>,
    pub(super) complete_seen: bool,
    /// Complete since before power-on.
    pub(super) stale: bool,
}

impl Heard {
    pub(super) fn new(now: Time, stored: Option<Stored>) -> Self {
        let same = stored.filter(|s| s.same_bmc_boot && !s.off);
        let word = same.and_then(|s| s.firmware.word);
        Self {
            phase: word.map_or(Phase::NotHeard, |word| word.phase),
            since: now,
            by_post: word.is_some_and(|word| word.source == Source::PostStatus),
            held: None,
            ran_from: same.and_then(|s| s.firmware.ran_from).map(|at| at.min(now)),
            early: same.is_some_and(|s| s.firmware.early)
                && word.is_none_or(|word| word.phase != Phase::Done),
            stage: None,
            pending: None,
            complete_seen: stored.is_some_and(|s| s.complete_seen),
            stale: false,
        }
    }

    pub(super) fn says(&mut self, now: Time, phase: Phase, by_post: bool) {
        if phase != self.phase {
            self.since = now;
        }
        (self.phase, self.by_post, self.held, self.pending) = (phase, by_post, None, None);
        if phase == Phase::Done {
            self.early = false;
        }
    }

    /// Firmware begins anew.
    pub(super) fn begins(&mut self, now: Time, from: Option<Time>) {
        self.says(now, Phase::AtWork, false);
        (self.ran_from, self.early, self.stage) = (from, false, None);
    }

    pub(super) fn power_goes(&mut self, now: Time) {
        self.says(now, Phase::NotHeard, false);
        (self.ran_from, self.early, self.stage) = (None, false, None);
    }

    pub(super) fn host_leaves(&mut self, now: Time) {
        if self.phase == Phase::Done {
            let by_post = self.by_post;
            self.says(now, Phase::NotHeard, false);
            self.held = Some(by_post);
        }
    }

    pub(super) fn was_a_glitch(&mut self, now: Time) {
        if let Some(by_post) = self.held {
            self.says(now, Phase::Done, by_post);
        }
    }

    /// True if an early stage comes behind a later one.
    pub(super) fn stage_is(&mut self, stage: Stage) -> bool {
        let later = self.stage.is_some_and(|before| before > Stage::Early);
        self.stage = Some(stage);
        later && stage == Stage::Early
    }

    /// A code follows the one that waits. True if that makes it firmware that has begun.
    pub(super) fn code_is(&mut self, now: Time, code: PostCode, confirm: Duration) -> bool {
        let Some(pending) = self.pending.filter(|pending| pending.code != code) else { return false };
        self.pending = None;
        pending.began && now <= pending.at + confirm
    }
}
