// SPDX-License-Identifier: Apache-2.0
//! The first decision of the daemon's life: rule 6.

use core::time::Duration;

use crate::logic::{
    acpi::{AcpiState, StateKind},
    cause::Cause,
    diagnosis::DimmCount,
    evidence::Os,
};

/// Without a chassis service rule 6 waits this long.
pub(super) const DECIDE_WITHOUT_CHASSIS: Duration = Duration::from_secs(120);

/// The record of a host from the daemon's last life (rule 6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stored {
    /// Its state then.
    pub state: AcpiState,
    /// A reset was suspected.
    pub reset_suspected: bool,
    /// The BMC has not booted since, and the state was known to be so in this boot.
    pub same_bmc_boot: bool,
    /// The DIMMs at the last good boot, if there was one; it says nothing about the state.
    pub good_dimms: Option<DimmCount>,
}

impl Stored {
    /// A state, and nothing else.
    #[must_use]
    pub const fn new(state: AcpiState) -> Self {
        Self { state, reset_suspected: false, same_bmc_boot: false, good_dimms: None }
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
}

/// The decision of rule 6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decision {
    pub(super) state: AcpiState,
    pub(super) cause: Cause,
    /// The state is not confirmed: the gate stays closed for `restore_settle`.
    pub(super) locked: bool,
}

/// Rule 6, first to last.
pub(super) fn decide(found: Evidence) -> Decision {
    let Evidence { off, stopped, post, stored } = found;
    let restored = |s: Stored| (s.state, Cause::Restored);
    let unknown = (AcpiState::Unknown, Cause::Startup);
    let working = stored.filter(|s| s.state.is_working());
    let resting = stored.filter(|s| s.state.is_off_like() || s.state.is_sleep());
    let in_post = stored.filter(|s| s.reset_suspected || s.state.kind() == StateKind::Post);
    let confirmed = working.filter(|s| s.same_bmc_boot);
    let mut locked = false;

    let (state, cause) = if off {
        resting.map_or((AcpiState::S5G2, Cause::Startup), restored)
    } else if stopped {
        stored.map_or(unknown, restored)
    } else if let Some(post) = post {
        match post {
            Os::Complete => (AcpiState::S0G0D0, Cause::Startup),
            Os::Inactive => (AcpiState::S2D2, Cause::Startup),
        }
    } else if let Some(s) = in_post {
        let used = s.state.kind() == StateKind::Post;
        (AcpiState::S2D2, if used { Cause::Restored } else { Cause::Startup })
    } else if let Some(s) = confirmed {
        restored(s)
    } else {
        locked = true;
        working.map_or(unknown, restored)
    };
    Decision { state, cause, locked }
}
