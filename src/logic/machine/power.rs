// SPDX-License-Identifier: Apache-2.0
//! Power of one host: what the power services report of chassis, host and OS, and what rules 3, 7, 8 and 9 make of it.
//!
//! Owns: the last values of chassis, host and OS, who stands by them, and power as the rules see it. Must never: know the
//! ACPI state.

use core::time::Duration;

use crate::{
    config,
    logic::{
        evidence::{Chassis, Found, HostState, Os, Seen, Untold},
        time::{Time, track},
    },
};

/// Rule 7: POST complete this soon after power-on is a line wired to power good.
pub(super) const POST_COMPLETE_BOGUS: Duration = Duration::from_secs(2);

/// Power as the rules see it has changed; `None` is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Edge {
    pub(super) from: Option<Chassis>,
    pub(super) to: Option<Chassis>,
}

/// The way in which POST status has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PostChange {
    /// From complete to not complete.
    Fell,
    /// From not complete to complete.
    Rose,
    /// In no such way: a first value, or none.
    None,
}

/// The host's state has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HostChange {
    pub(super) from: Option<HostState>,
    pub(super) to: HostState,
}

/// Power of one host.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, as they were seen")]
pub(crate) struct Power {
    worth: config::Evidence,
    host_off: Duration,
    chassis: Seen<Chassis>,
    host: Seen<HostState>,
    os: Seen<Os>,
    /// A service that is not believed holds a name that reports one of these values (note B1).
    strangers: bool,
    /// POST status does not follow POST: it became complete too soon after power-on, or never fell through a whole POST.
    post_bogus: bool,
    /// POST status is complete since before power-on.
    post_stale: bool,
    /// POST status was complete under power, in this life or an earlier one: its service writes it.
    complete_seen: bool,
    /// The host was seen not to run, since the daemon came.
    stood_still: bool,
    /// When the host came to its present value, or rule 6 decided.
    host_since: Time,
    /// Chassis power as rules 3 and 8 see it: with `host_off_is_off` it follows the host (note 7).
    seen: Option<Chassis>,
    /// Since when.
    since: Time,
    /// When an Off to On of the power was seen, as rule 7 asks for it.
    on_edge_at: Option<Time>,
    /// Since when POST has been complete, as rule 7 counts it.
    complete_since: Option<Time>,
}

impl Power {
    pub(super) fn new(now: Time, host: &config::Host, complete_seen: bool) -> Self {
        Self {
            worth: host.evidence,
            host_off: host.timing.host_off,
            chassis: Seen::default(),
            host: Seen::default(),
            os: Seen::default(),
            strangers: false,
            post_bogus: false,
            post_stale: false,
            complete_seen,
            stood_still: false,
            host_since: now,
            seen: None,
            since: now,
            on_edge_at: None,
            complete_since: None,
        }
    }

    // ---- What is reported ------------------------------------------------------------------------

    /// Returns the value before.
    pub(super) fn set_chassis(&mut self, value: Option<Chassis>) -> Option<Chassis> {
        self.chassis.update(value)
    }

    pub(super) fn set_host(&mut self, now: Time, value: Option<HostState>) -> Option<HostChange> {
        let from = self.host.update(value);
        let to = self.host.last()?;
        if from == Some(to) {
            return None;
        }
        self.host_since = now;
        self.stood_still |= to != HostState::Running;
        Some(HostChange { from, to })
    }

    /// Returns whether POST status fell from complete, rose to it, or did neither.
    pub(super) fn set_os(&mut self, now: Time, value: Option<Os>) -> PostChange {
        let before = self.os.update(value);
        self.post_stale &= value != Some(Os::Inactive);
        self.note_complete();
        match (before, value) {
            (Some(Os::Complete), Some(Os::Inactive)) => PostChange::Fell,
            (Some(Os::Inactive), Some(Os::Complete)) => {
                if let Some(at) = self.on_edge_at {
                    // Rule 7: POST complete this soon after power-on is not POST complete.
                    self.post_bogus =
                        self.worth.post_complete_trusted && now.since(at) <= POST_COMPLETE_BOGUS;
                }
                PostChange::Rose
            }
            (Some(Os::Inactive | Os::Complete) | None, Some(Os::Inactive | Os::Complete) | None) => {
                PostChange::None
            }
        }
    }

    /// Notes that POST status is complete, if it is so under power.
    fn note_complete(&mut self) {
        self.complete_seen |= self.os.last() == Some(Os::Complete) && self.seen == Some(Chassis::On);
    }

    /// The firmware is done by another's word: POST status must have followed this POST (rule 7).
    pub(super) fn judge_post(&mut self) {
        self.post_bogus |= self.worth.post_complete_trusted && self.post_stale;
    }

    pub(super) fn set_strangers(&mut self, there: bool) {
        self.strangers = there;
    }

    /// A value that was read again (note B2): since when its service has left it unreported, if it has. To be given to
    /// [`Power::set_untold`] once the value has been handled as any other.
    pub(super) fn untold_since(&self, now: Time, found: Found) -> Option<Time> {
        match found {
            Found::Chassis(value) => self.chassis.found(now, value),
            Found::Host(value) => self.host.found(now, value),
            Found::Os(value) => self.os.found(now, value),
        }
    }

    pub(super) fn set_untold(&mut self, found: Found, since: Option<Time>) {
        match found {
            Found::Chassis(_) => self.chassis.untold(since),
            Found::Host(_) => self.host.untold(since),
            Found::Os(_) => self.os.untold(since),
        }
    }

    // ---- What the rules make of it ---------------------------------------------------------------

    /// Rule 6: the first chassis value is Off, which is no edge.
    pub(super) fn found_off(&mut self) {
        self.seen = Some(Chassis::Off);
    }

    /// Rule 6: chassis was On all the time, and its service has just found out: no edge.
    pub(super) fn found_on(&mut self, now: Time) {
        (self.seen, self.since, self.on_edge_at) = (Some(Chassis::On), now, None);
        self.note_complete();
    }

    /// Rule 6 counts a host that does not run from its decision on.
    pub(super) fn count_host_from(&mut self, now: Time) {
        self.host_since = now;
    }

    /// Power as rules 3 and 8 see it now, if that is another than before. `off_for_long`: the host has been Off for
    /// `host_off`.
    pub(super) fn follow(&mut self, now: Time, off_for_long: bool) -> Option<Edge> {
        let to = match (self.chassis.last(), self.host.last()) {
            (Some(Chassis::Off), _) => Some(Chassis::Off),
            (chassis, Some(host)) if self.worth.host_off_is_off => match host {
                // A host that is neither off nor running has power, for all we know.
                HostState::Running | HostState::Halted => Some(Chassis::On),
                HostState::Off if off_for_long => Some(Chassis::Off),
                HostState::Off | HostState::TransitioningToOff => self.seen.or(chassis),
            },
            (chassis, _) => chassis,
        };
        let from = core::mem::replace(&mut self.seen, to);
        if from == to {
            return None;
        }
        self.since = now;
        self.on_edge_at = (from == Some(Chassis::Off) && to == Some(Chassis::On)).then_some(now);
        self.post_stale = self.on_edge_at.is_some() && self.os.last() == Some(Os::Complete);
        self.note_complete();
        Some(Edge { from, to })
    }

    /// Rule 7 counts for as long as the gate's conditions hold, all but the state's.
    pub(super) fn count_complete(&mut self, now: Time, steady: bool) {
        let complete = steady && self.post() == Some(Os::Complete);
        track(&mut self.complete_since, complete, now);
    }

    /// Rule 7 begins to count anew.
    pub(super) fn forget_complete(&mut self) {
        self.complete_since = None;
    }

    // ---- Asking ----------------------------------------------------------------------------------

    pub(crate) fn chassis(&self) -> Option<Chassis> {
        self.chassis.last()
    }

    pub(crate) fn host(&self) -> Option<HostState> {
        self.host.last()
    }

    pub(super) fn host_since(&self) -> Time {
        self.host_since
    }

    /// The host has been seen not to run since the daemon came.
    pub(super) fn stood_still(&self) -> bool {
        self.stood_still
    }

    /// True if the host runs, or nobody has reported whether.
    pub(super) fn host_may_run(&self) -> bool {
        self.host.last().is_none_or(|host| host == HostState::Running)
    }

    /// Chassis Off, or with `host_off_is_off` what counts as it (note 7).
    pub(crate) fn is_off(&self) -> bool {
        self.seen == Some(Chassis::Off)
    }

    /// No service reports whether there is power.
    pub(super) fn is_unknown(&self) -> bool {
        self.seen.is_none()
    }

    /// Since when power is as it is.
    pub(crate) fn since(&self) -> Time {
        self.since
    }

    /// Power was seen to come on, and has not gone since.
    pub(super) fn came_on(&self) -> bool {
        self.on_edge_at.is_some()
    }

    /// POST status, where it is trusted and there is any (rule 7).
    pub(super) fn post(&self) -> Option<Os> {
        let trusted = self.worth.post_complete_trusted && !self.post_bogus;
        // Without a chassis service nothing it says can be checked.
        if trusted && self.chassis.last().is_some() { self.os.last() } else { None }
    }

    /// POST status has been seen complete under power.
    pub(super) fn complete_was_seen(&self) -> bool {
        self.complete_seen
    }

    /// The last POST status, whatever it is worth.
    pub(super) fn os(&self) -> Option<Os> {
        self.os.last()
    }

    /// POST is complete, and its service is there. Nobody reports it whose service has gone: it may have become
    /// incomplete meanwhile (note B4).
    pub(super) fn post_is_complete(&self) -> bool {
        self.post() == Some(Os::Complete) && !self.os.is_missing()
    }

    pub(crate) fn post_is_bogus(&self) -> bool {
        self.post_bogus
    }

    /// A power service that was seen is missing (rule 9), or is one that is not believed (note B1).
    pub(super) fn is_missing(&self) -> bool {
        let post_is_missing = self.post().is_some() && self.os.is_missing();
        self.strangers || self.chassis.is_missing() || self.host.is_missing() || post_is_missing
    }

    /// Values that no service reports: never has, or not any more.
    pub(super) fn unreported(&self) -> Untold {
        fn of<T: Copy + PartialEq>(seen: &Seen<T>) -> bool {
            seen.last().is_none() || seen.is_missing()
        }
        Untold { chassis: of(&self.chassis), host: of(&self.host) }
    }

    /// The values that differ from what their services have reported, and since when.
    pub(crate) fn untold(&self) -> impl Iterator<Item = (Time, &'static str)> {
        [
            (self.chassis.untold_since(), "Chassis"),
            (self.host.untold_since(), "Host"),
            (self.os.untold_since(), "OperatingSystem"),
        ]
        .into_iter()
        .filter_map(|(since, name)| Some((since?, name)))
    }

    /// Since when POST has been complete, as rule 7 counts it.
    pub(super) fn complete_since(&self) -> Option<Time> {
        self.complete_since
    }

    /// With `host_off_is_off`: when a host that is Off counts as chassis Off (note 7).
    pub(super) fn host_off_at(&self) -> Option<Time> {
        let counts = self.worth.host_off_is_off && self.host.last() == Some(HostState::Off);
        counts.then_some(self.host_since + self.host_off)
    }

    /// When an Off to On of the power was seen, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn on_edge_at(&self) -> Option<Time> {
        self.on_edge_at
    }

    /// Whose service is missing, for the same.
    #[cfg(test)]
    pub(super) fn missing(&self) -> [bool; 3] {
        [self.chassis.is_missing(), self.host.is_missing(), self.os.is_missing()]
    }

    /// Returns the facts but times that a rule can tell apart, for the same search: OS status only where it is trusted;
    /// and before the decision a first chassis Off is an edge only after power came on.
    #[cfg(test)]
    pub(super) fn key(&self, trusted: bool, decided: bool) -> impl core::hash::Hash + use<> {
        (
            (self.chassis.last(), self.host.last(), self.seen),
            (self.os.last(), trusted.then_some((self.post_bogus, self.post_stale, self.complete_seen))),
            (self.strangers, !decided && self.came_on()),
        )
    }
}
