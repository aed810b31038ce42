// SPDX-License-Identifier: Apache-2.0
//! The evidence about chassis, host, OS and firmware: the values of other daemons, as the rules read them.
//!
//! Owns: which strings and bytes mean what, and which values count as On, Running, complete, at work.
//! Sources: phosphor-dbus-interfaces State/{Chassis,Host,OperatingSystem/Status,Boot/Progress,Boot/Raw}; openbmc 2.1 and 6;
//! Arm SBMR 2.0 (DEN0069), "Boot progress codes", for the nine bytes of a code.

use super::time::Time;
use crate::config::DoneFrom;

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

/// `xyz.openbmc_project.State.Boot.Progress` `BootProgress`: a stage that somebody else than the daemon wrote.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Stage {
    /// `OEM`, and every value that the daemon does not know: it says no more than that the firmware lives.
    Oem,
    /// `PrimaryProcInit`, `BusInit`, `MemoryInit`, `SecondaryProcInit`, `MotherboardInit`: the SPDs may be read.
    Early,
    /// `PCIInit`.
    PciInit,
    /// `SystemInitComplete`, which EDK2 signals before `PCIInit`.
    SystemInitComplete,
    /// `SystemSetup`: somebody is in setup.
    SystemSetup,
    /// `OSStart`: a boot option is started, which may be the shell or PXE.
    OsStart,
    /// `OSRunning`.
    OsRunning,
}

/// A code at `xyz.openbmc_project.State.Boot.Raw` `Value`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PostCode {
    /// One byte, as firmware writes it to port 80h.
    Byte(u8),
    /// An SBMR code which says that firmware works: `ResetSystem`, or one of SEC or PEI.
    AtWork,
    /// Any other.
    Other,
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
    /// those to come; a string of another enum is none. x86-power-control said the last word alone before 2022-02 (its commit
    /// 8623918): those two that it had.
    #[must_use]
    pub fn from_dbus(value: &str) -> Option<Self> {
        let word = match member(value, "xyz.openbmc_project.State.OperatingSystem.Status.OSStatus.") {
            None => Some(value).filter(|word| ["Inactive", "Standby"].contains(word))?,
            Some(word) => word,
        };
        match word {
            "" => None,
            "Inactive" => Some(Self::Inactive),
            _ => Some(Self::Complete),
        }
    }
}

/// The prefix of every value of `BootProgress`.
pub const STAGES: &str = "xyz.openbmc_project.State.Boot.Progress.ProgressStages.";

impl From<DoneFrom> for Stage {
    fn from(key: DoneFrom) -> Self {
        match key {
            DoneFrom::SystemInitComplete => Self::SystemInitComplete,
            DoneFrom::SystemSetup => Self::SystemSetup,
            DoneFrom::OsStart => Self::OsStart,
            DoneFrom::OsRunning => Self::OsRunning,
        }
    }
}

impl Stage {
    /// Returns the meaning of a `BootProgress` string; `None` for `Unspecified`, which says nothing.
    #[must_use]
    pub fn from_dbus(value: &str) -> Option<Self> {
        Some(match value.strip_prefix(STAGES) {
            Some("Unspecified") => return None,
            Some("PrimaryProcInit" | "BusInit" | "MemoryInit" | "SecondaryProcInit" | "MotherboardInit") => {
                Self::Early
            }
            Some("PCIInit") => Self::PciInit,
            Some("SystemInitComplete") => Self::SystemInitComplete,
            Some("SystemSetup") => Self::SystemSetup,
            Some("OSStart") => Self::OsStart,
            Some("OSRunning") => Self::OsRunning,
            _ => Self::Oem,
        })
    }
}

impl PostCode {
    /// Returns the meaning of a code's bytes. Nine are an SBMR code: type, severity (3 bytes), operation (2, little-endian),
    /// subclass, class, instance.
    #[must_use]
    pub const fn from_bytes(bytes: &[u8]) -> Self {
        match *bytes {
            [code] => Self::Byte(code),
            // Class 03h is EFI_SOFTWARE. Subclass 11h operation 100Ah: runtime services, ResetSystem. 01h to 03h: SEC, PEI.
            [_, _, _, _, 0x0a, 0x10, 0x11, 0x03, _] | [_, _, _, _, _, _, 0x01..=0x03, 0x03, _] => {
                Self::AtWork
            }
            _ => Self::Other,
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
        assert_eq!(
            ["Inactive", "Standby", "BootComplete", "standby", "", "OSStatus.Standby"].map(Os::from_dbus),
            [Some(Os::Inactive), Some(Os::Complete), None, None, None, None]
        );
        assert_eq!(Chassis::from_dbus("Off"), None);
    }

    #[test]
    fn stages_and_codes_mean_what_the_rules_say() {
        let stage = |s: &str| Stage::from_dbus(&format!("{STAGES}{s}"));
        for early in ["PrimaryProcInit", "BusInit", "MemoryInit", "SecondaryProcInit", "MotherboardInit"] {
            assert_eq!(stage(early), Some(Stage::Early), "{early}");
        }
        assert_eq!(
            ["PCIInit", "SystemInitComplete", "SystemSetup", "OSStart", "OSRunning"].map(stage),
            [Stage::PciInit, Stage::SystemInitComplete, Stage::SystemSetup, Stage::OsStart, Stage::OsRunning]
                .map(Some)
        );
        assert_eq!(
            [stage("Unspecified"), stage("OEM"), stage("Later")],
            [None, Some(Stage::Oem), Some(Stage::Oem)]
        );
        assert_eq!(Stage::from_dbus("OSRunning"), Some(Stage::Oem));

        assert_eq!(PostCode::from_bytes(&[0xaa]), PostCode::Byte(0xaa));
        // NVIDIA's before a reset that the OS asks for; then one of PEI's.
        assert_eq!(PostCode::from_bytes(&[1, 0, 0, 0, 0x0a, 0x10, 0x11, 0x03, 0]), PostCode::AtWork);
        assert_eq!(PostCode::from_bytes(&[1, 0, 0, 0, 0x01, 0x10, 0x03, 0x03, 0]), PostCode::AtWork);
        // Another class, another operation, DXE, and no SBMR code at all.
        for other in [
            &[1, 0, 0, 0, 0x0a, 0x10, 0x11, 0x02, 0][..],
            &[1, 0, 0, 0, 0x0b, 0x10, 0x11, 0x03, 0],
            &[1, 0, 0, 0, 0x01, 0x10, 0x04, 0x03, 0],
            &[0, 0, 0, 0xaa],
            &[],
        ] {
            assert_eq!(PostCode::from_bytes(other), PostCode::Other, "{other:02x?}");
        }
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
