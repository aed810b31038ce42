// SPDX-License-Identifier: Apache-2.0
//! The ACPI state of one host as it is decided now, and the device's beside it (rules 3.2).
//!
//! Owns: state, cause, since when, and the host's own reports. During a barrier it is ahead of what Get returns.

use crate::logic::{
    acpi::{AcpiState, StateKind},
    cause::Cause,
    time::Time,
};

/// The state as it is decided now.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    state: AcpiState,
    cause: Cause,
    previous: AcpiState,
    /// When the last transition was.
    since: Time,
    device: AcpiState,
    /// When the host last Set its state, since the daemon started.
    last_set: Option<Time>,
}

impl Current {
    pub(super) fn new(now: Time) -> Self {
        Self {
            state: AcpiState::Unknown,
            cause: Cause::Startup,
            previous: AcpiState::Unknown,
            since: now,
            device: AcpiState::Unknown,
            last_set: None,
        }
    }

    pub(crate) fn state(&self) -> AcpiState {
        self.state
    }

    /// The state before.
    pub(super) fn previous(&self) -> AcpiState {
        self.previous
    }

    /// When the last transition was.
    pub(super) fn since(&self) -> Time {
        self.since
    }

    pub(super) fn device(&self) -> AcpiState {
        self.device
    }

    pub(crate) fn kind(&self) -> StateKind {
        self.state.kind()
    }

    pub(crate) fn cause(&self) -> Cause {
        self.cause
    }

    /// The host has Set its state since the daemon started.
    pub(crate) fn is_reported(&self) -> bool {
        self.last_set.is_some()
    }

    /// The host has Set its state since then.
    pub(crate) fn was_set_since(&self, at: Time) -> bool {
        self.last_set.is_some_and(|set| set >= at)
    }

    /// A Set, or what a rule has made of evidence: rule 6 does not overtake it.
    pub(super) fn stands(&self) -> bool {
        self.is_reported() || self.state != AcpiState::Unknown
    }

    /// The host Sets its state; when it did before.
    pub(super) fn note_set(&mut self, now: Time) -> Option<Time> {
        self.last_set.replace(now)
    }

    /// Makes the host's report the cause: the host Set the state that was inferred.
    pub(super) fn confirm(&mut self) {
        self.cause = Cause::HostReport;
    }

    pub(super) fn set_device(&mut self, device: AcpiState) {
        self.device = device;
    }

    /// A state, or the same one for a new cause.
    pub(super) fn enter(&mut self, now: Time, state: AcpiState, cause: Cause, is_transition: bool) {
        self.cause = cause;
        if is_transition {
            self.previous = self.state;
            self.since = now;
            self.state = state;
        }
        match cause {
            Cause::HostReport => {}
            Cause::Startup | Cause::Restored => self.find_device(state.kind()),
            Cause::ChassisOff
            | Cause::Resumed
            | Cause::HostOff
            | Cause::HostReset
            | Cause::PostComplete
            | Cause::PowerOn => self.infer_device(state.kind()),
        }
    }

    /// An inferred state's device: what the host said of it before is no longer true (note A1).
    fn infer_device(&mut self, of: StateKind) {
        self.device = match of {
            StateKind::Working => AcpiState::S0G0D0,
            StateKind::Post => AcpiState::S2D2,
            StateKind::OffLike => AcpiState::S3D3,
            StateKind::Sleep | StateKind::Unknown => self.device,
        };
    }

    /// The same of a state that the daemon found when it came, unless the host has said something since.
    pub(super) fn find_device(&mut self, of: StateKind) {
        if self.device == AcpiState::Unknown {
            self.infer_device(of);
        }
    }

    /// When the host last Set its state, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn last_set(&self) -> Option<Time> {
        self.last_set
    }
}
