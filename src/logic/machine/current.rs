// SPDX-License-Identifier: Apache-2.0
//! The ACPI state of one host as it is decided now, and the device's beside it (rules 3.2).
//!
//! Owns: state, cause, since when, and the host's own reports. During a barrier it is ahead of what Get returns.

use crate::logic::{
    acpi::{AcpiState, StateKind},
    cause::Cause,
    machine::start::Stored,
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
    /// The host has Set its device since the daemon started.
    device_is_set: bool,
    /// When the host last Set its state, since the daemon started.
    last_set: Option<Time>,
    /// The host has Set this state, and power has not changed since.
    reported: bool,
    /// A Set, or what a rule has made of evidence: rule 6 does not overtake it.
    stands: bool,
}

impl Current {
    /// `known`: the record of this boot of the BMC.
    pub(super) fn new(now: Time, known: Option<Stored>) -> Self {
        Self {
            state: known.map_or(AcpiState::Unknown, |known| known.state),
            cause: if known.is_some() { Cause::Restored } else { Cause::Startup },
            previous: AcpiState::Unknown,
            since: now,
            device: known.map_or(AcpiState::Unknown, |known| known.device),
            device_is_set: false,
            last_set: None,
            reported: known.is_some_and(|known| known.reported),
            stands: false,
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
        self.stands
    }

    /// The host Sets its state, under power or not; when it did before.
    pub(super) fn note_set(&mut self, now: Time, powered: bool) -> Option<Time> {
        (self.stands, self.reported) = (true, powered);
        self.last_set.replace(now)
    }

    /// The host has Set this state since power came or went.
    pub(super) fn is_reported_under_power(&self) -> bool {
        self.reported
    }

    /// Power has changed: a report from before says nothing of it.
    pub(super) fn forget_report(&mut self) {
        self.reported = false;
    }

    /// Power was there all the time: what was inferred of the device is not so.
    pub(super) fn forget_device(&mut self) {
        if !self.device_is_set {
            self.device = AcpiState::Unknown;
        }
    }

    /// Makes the host's report the cause: the host Set the state that was inferred.
    pub(super) fn confirm(&mut self) {
        self.cause = Cause::HostReport;
    }

    /// The host Sets its device.
    pub(super) fn set_device(&mut self, device: AcpiState) {
        self.device = device;
        self.device_is_set = true;
    }

    /// Power has gone: the device's too.
    pub(super) fn device_is_off(&mut self) {
        self.device = AcpiState::S3D3;
    }

    /// A state, or the same one for a new cause.
    pub(super) fn enter(&mut self, now: Time, state: AcpiState, cause: Cause, is_transition: bool) {
        let found = matches!(cause, Cause::Startup | Cause::Restored);
        self.cause = cause;
        self.stands |= !found;
        // The same state, found again, is the one of the record.
        self.reported &= cause == Cause::HostReport || (found && !is_transition);
        if is_transition {
            self.previous = self.state;
            self.since = now;
            self.state = state;
        }
        match cause {
            Cause::Startup | Cause::Restored if is_transition => self.find_device(state.kind()),
            // The host's word on its device stands; and the same state again is the record's, and so is its device.
            Cause::HostReport | Cause::Startup | Cause::Restored => {}
            Cause::ChassisOff
            | Cause::Resumed
            | Cause::HostOff
            | Cause::HostReset
            | Cause::FirmwareSeen
            | Cause::BootProgress
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
        if !self.device_is_set {
            self.infer_device(of);
        }
    }

    /// When the host last Set its state, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn last_set(&self) -> Option<Time> {
        self.last_set
    }
}
