// SPDX-License-Identifier: Apache-2.0
//! The evidence about chassis, host and OS: the values of other daemons, as the rules read them.
//!
//! Owns: which strings mean what, and which values count as On, Running, complete.
//! Sources: phosphor-dbus-interfaces State/{Chassis,Host,OperatingSystem/Status}; openbmc 2.1.

use super::time::Time;

/// `xyz.openbmc_project.State.Chassis` `CurrentPowerState`, as rule 3 reads it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Chassis {
    /// `Off` and `TransitioningToOn`.
    Off,
    /// `On` and `TransitioningToOff`.
    On,
}

/// `xyz.openbmc_project.State.Host` `CurrentHostState`, as rules 4 and 5 read it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HostState {
    /// `Running`.
    Running,
    /// `TransitioningToOff`: not running any more, but nothing to suspect.
    TransitioningToOff,
    /// `Off`, `Standby`: off for good when it lasts `host_off`.
    Off,
    /// `Quiesced`, `DiagnosticMode`, `TransitioningToRunning`: neither running nor off, however long it lasts.
    Halted,
}

/// `xyz.openbmc_project.State.OperatingSystem.Status` `OperatingSystemState`, as rule 7 reads it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Os {
    /// `Inactive`: POST is not complete.
    Inactive,
    /// Any other value: POST is complete.
    Complete,
}

/// The last part of a D-Bus enum string, if it belongs to the enum `prefix`.
fn member<'a>(value: &'a str, prefix: &str) -> Option<&'a str> {
    value.strip_prefix(prefix)
}

impl Chassis {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "Off",
            Self::On => "On",
        }
    }

    /// Returns the meaning of a `CurrentPowerState` string; `None` for one the interface does not know.
    #[must_use]
    pub fn from_dbus(value: &str) -> Option<Self> {
        match member(value, "xyz.openbmc_project.State.Chassis.PowerState.")? {
            "Off" | "TransitioningToOn" => Some(Self::Off),
            "On" | "TransitioningToOff" => Some(Self::On),
            _ => None,
        }
    }
}

impl HostState {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::TransitioningToOff => "TransitioningToOff",
            Self::Off => "Off",
            Self::Halted => "neither running nor off",
        }
    }

    /// Returns the meaning of a `CurrentHostState` string; `None` for one the interface does not know.
    #[must_use]
    pub fn from_dbus(value: &str) -> Option<Self> {
        match member(value, "xyz.openbmc_project.State.Host.HostState.")? {
            "Running" => Some(Self::Running),
            "TransitioningToOff" => Some(Self::TransitioningToOff),
            "Off" | "Standby" => Some(Self::Off),
            "Quiesced" | "DiagnosticMode" | "TransitioningToRunning" => Some(Self::Halted),
            _ => None,
        }
    }
}

impl Os {
    /// Returns the meaning of an `OperatingSystemState` string. Every value but `Inactive` is complete, also
    /// those to come; a string of another enum is none.
    #[must_use]
    pub fn from_dbus(value: &str) -> Option<Self> {
        match member(value, "xyz.openbmc_project.State.OperatingSystem.Status.OSStatus.")? {
            "" => None,
            "Inactive" => Some(Self::Inactive),
            _ => Some(Self::Complete),
        }
    }
}

/// The values of a host that no power service reports: none ever has, or none does any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Untold {
    /// Chassis power.
    pub chassis: bool,
    /// The host's state.
    pub host: bool,
}

/// A value that was asked for again though nothing was signalled (note B2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Found {
    /// Chassis power.
    Chassis(Chassis),
    /// The host's state.
    Host(HostState),
    /// OS status.
    Os(Os),
}

/// The value of one service: the last one seen, and whether its service still stands by it (rule 9).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seen<T> {
    last: Option<T>,
    missing: bool,
    /// The time at which the value was found to be another than its service had reported, if the service has reported
    /// nothing since.
    untold_since: Option<Time>,
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self { last: None, missing: false, untold_since: None }
    }
}

impl<T: Copy + PartialEq> Seen<T> {
    /// The last value seen, however long ago.
    #[must_use]
    pub fn last(&self) -> Option<T> {
        self.last
    }

    /// A value was seen, and its service has gone or talks nonsense since.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.missing
    }

    /// Since when its service has left it untold that it is another.
    pub(super) fn untold_since(&self) -> Option<Time> {
        self.untold_since
    }

    /// Takes a new value in, or its loss; returns the value before.
    pub(super) fn update(&mut self, value: Option<T>) -> Option<T> {
        let before = self.last;
        self.missing = value.is_none() && before.is_some();
        self.last = value.or(before);
        self.untold_since = None;
        before
    }

    /// Returns since when the value, which was read again, is unreported, if it is. To be set again once the value has
    /// been handled.
    pub(super) fn found(&self, now: Time, value: T) -> Option<Time> {
        let another = self.last.is_some_and(|last| last != value);
        self.untold_since.or(another.then_some(now))
    }

    /// Sets the time that [`Seen::found`] returned.
    pub(super) fn untold(&mut self, since: Option<Time>) {
        self.untold_since = since;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_mean_what_the_rules_say() {
        let chassis =
            |s: &str| Chassis::from_dbus(&format!("xyz.openbmc_project.State.Chassis.PowerState.{s}"));
        assert_eq!(
            ["Off", "TransitioningToOn", "On", "TransitioningToOff", "Unknown"].map(chassis),
            [Some(Chassis::Off), Some(Chassis::Off), Some(Chassis::On), Some(Chassis::On), None]
        );
        let host = |s: &str| HostState::from_dbus(&format!("xyz.openbmc_project.State.Host.HostState.{s}"));
        for (s, want) in [
            ("Running", Some(HostState::Running)),
            ("TransitioningToOff", Some(HostState::TransitioningToOff)),
            ("Off", Some(HostState::Off)),
            ("Standby", Some(HostState::Off)),
            ("TransitioningToRunning", Some(HostState::Halted)),
            ("Quiesced", Some(HostState::Halted)),
            ("DiagnosticMode", Some(HostState::Halted)),
            ("Dancing", None),
            ("", None),
        ] {
            assert_eq!(host(s), want, "{s}");
        }
        let os = |s: &str| {
            Os::from_dbus(&format!("xyz.openbmc_project.State.OperatingSystem.Status.OSStatus.{s}"))
        };
        assert_eq!(
            ["Inactive", "Standby", "BootComplete", ""].map(os),
            [Some(Os::Inactive), Some(Os::Complete), Some(Os::Complete), None]
        );
        assert_eq!(Os::from_dbus("Standby"), None);
        assert_eq!(Chassis::from_dbus("Off"), None);
    }

    #[test]
    fn only_a_value_that_was_seen_can_go_missing() {
        let mut seen = Seen::default();
        assert_eq!(seen.update(None), None);
        assert!(!seen.is_missing());
        assert_eq!(seen.update(Some(Chassis::On)), None);
        assert_eq!(seen.update(None), Some(Chassis::On));
        assert!(seen.is_missing());
        assert_eq!(seen.last(), Some(Chassis::On));
        assert_eq!(seen.update(Some(Chassis::Off)), Some(Chassis::On));
        assert!(!seen.is_missing());
    }
}
