// SPDX-License-Identifier: Apache-2.0
//! The first decision of the daemon's life: rule 6.
//!
//! Owns: the record of the last life, and what follows from it. The decision itself is a function of what was found.

use core::time::Duration;

use crate::logic::{
    acpi::{AcpiState, StateKind},
    cause::Cause,
    diagnosis::DimmCount,
    evidence::Os,
    machine::firmware::{FirmwareRecord, Heard},
    time::Time,
};

/// Without a chassis service rule 6 waits this long.
pub(super) const DECIDE_WITHOUT_CHASSIS: Duration = Duration::from_secs(120);

/// Rule 6: how long after its start a power service may find out that chassis is On.
pub(super) const POWER_CONTROL_STARTS: Duration = Duration::from_secs(30);

/// How far rule 6 has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    Undecided {
        stored: Option<Stored>,
        at_the_latest: Time,
        /// The newest word about the firmware by boot progress or a code: it acts behind the decision.
        heard: Option<Heard>,
    },
    /// The chassis was Off when the daemon came. If that was only a power service that had just started, it decides anew.
    FoundOff {
        stored: Option<Stored>,
        until: Time,
    },
    Decided,
}

/// The record of a host from the daemon's last life (rule 6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, as they are stored")]
pub struct Stored {
    /// Its state then.
    pub state: AcpiState,
    /// Its device then.
    pub device: AcpiState,
    /// The host had reported that state under the power that it had then.
    pub reported: bool,
    /// Chassis was Off, or what counts as it.
    pub off: bool,
    /// A reset was suspected.
    pub reset_suspected: bool,
    /// And `ForceWarmReboot` had been requested.
    pub reset_requested: bool,
    /// The firmware, as far as it had been heard.
    pub firmware: FirmwareRecord,
    /// POST status, as it was reported last.
    pub post: Option<Os>,
    /// POST status was complete under power, in some boot of the host.
    pub complete_seen: bool,
    /// The firmware gave a sign of life before the working state, in some boot of the host.
    pub signs_seen: bool,
    /// The BMC has not booted since, and the state was known to be so in this boot.
    pub same_bmc_boot: bool,
    /// The DIMMs at the last good boot, if there was one; it says nothing about the state.
    pub good_dimms: Option<DimmCount>,
}

impl Stored {
    /// A state, and nothing else.
    #[must_use]
    pub fn new(state: AcpiState) -> Self {
        Self {
            state,
            device: AcpiState::Unknown,
            reported: false,
            off: false,
            reset_suspected: false,
            reset_requested: false,
            firmware: FirmwareRecord::default(),
            post: None,
            complete_seen: false,
            signs_seen: false,
            same_bmc_boot: false,
            good_dimms: None,
        }
    }
}

/// The evidence that rule 6 decides by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// Chassis Off, or what counts as it.
    pub(super) off: bool,
    /// The host is known not to run.
    pub(super) stopped: bool,
    /// POST status, where it is trusted.
    pub(super) post: Option<Os>,
    /// The state of the daemon's last life.
    pub(super) stored: Option<Stored>,
    /// The newest word of boot progress or a code: that firmware is at work, or that the OS runs.
    pub(super) at_work: Option<bool>,
}

/// What rule 6 finds the firmware to be at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// No more than is known already.
    Nothing,
    /// It runs.
    AtWork,
    /// It runs since a reset, which counts as one of this moment.
    Reset,
    /// It has handed over.
    Done,
}

/// The decision of rule 6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decision {
    pub(super) state: AcpiState,
    pub(super) cause: Cause,
    pub(super) found: Found,
    /// The state is not confirmed: the gate stays closed for `restore_settle`.
    pub(super) locked: bool,
}

/// Rule 6: by what was found, unless boot progress or a code has said more since the daemon came (rules 10 and 11).
pub(super) fn decide(evidence: Evidence) -> Decision {
    let found = by_record_and_power(evidence);
    let reported = evidence.stored.is_some_and(|s| s.same_bmc_boot && s.reported);
    let rests = found.state.is_sleep() || (found.state.is_off_like() && reported);
    match evidence.at_work {
        Some(true) if !rests && found.state.kind() != StateKind::Post => Decision {
            state: AcpiState::S2D2,
            cause: Cause::FirmwareSeen,
            found: Found::Reset,
            locked: false,
        },
        Some(false) if !found.state.is_working() => Decision {
            state: AcpiState::S0G0D0,
            cause: Cause::BootProgress,
            found: Found::Done,
            locked: false,
        },
        Some(_) | None => found,
    }
}

/// First to last.
fn by_record_and_power(evidence: Evidence) -> Decision {
    let Evidence { off, stopped, post, stored, at_work: _ } = evidence;
    let of = |(state, cause), found| Decision { state, cause, found, locked: false };
    let restored = |s: Stored| (s.state, Cause::Restored);
    let unknown = (AcpiState::Unknown, Cause::Startup);
    let in_post = |s: Stored| {
        let used = s.state.kind() == StateKind::Post;
        (AcpiState::S2D2, if used { Cause::Restored } else { Cause::Startup })
    };

    if off {
        let resting = stored.filter(|s| s.state.is_off_like() || s.state.is_sleep());
        return of(resting.map_or((AcpiState::S5G2, Cause::Startup), restored), Found::Nothing);
    }
    if stopped {
        return of(stored.map_or(unknown, restored), Found::Nothing);
    }
    // Power that came while the daemon was away is as good as another boot of the BMC: nobody saw what followed.
    if let Some(s) = stored.filter(|s| s.same_bmc_boot && !s.off) {
        if s.reset_suspected {
            return of(in_post(s), Found::Reset);
        }
        let found = match s.firmware.word {
            None if s.state.is_working() => Found::Done,
            None | Some(_) => Found::Nothing,
        };
        return of(restored(s), found);
    }
    if let Some(post) = post {
        return match post {
            Os::Complete => of((AcpiState::S0G0D0, Cause::Startup), Found::Done),
            Os::Inactive => of((AcpiState::S2D2, Cause::Startup), Found::AtWork),
        };
    }
    if let Some(s) = stored.filter(|s| s.reset_suspected || s.state.kind() == StateKind::Post) {
        return of(in_post(s), Found::AtWork);
    }
    let working = stored.filter(|s| s.state.is_working());
    Decision { locked: true, ..of(working.map_or(unknown, restored), Found::Nothing) }
}
