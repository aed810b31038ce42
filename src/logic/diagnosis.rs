// SPDX-License-Identifier: Apache-2.0
//! The diagnoses of a host (rules 3.7): their names, what to do about each, the evidence for each.
//!
//! Owns: the words and the small numbers. When a diagnosis holds is [`policy`](super::policy)'s. Must never: remember
//! anything.

use core::time::Duration;
use std::fmt::Write as _;

/// How long the CPU must draw next to nothing: a reading or two may be late.
pub const NO_CPU_POWER_FOR: Duration = Duration::from_secs(10);
/// From when after chassis On the CPU must draw power: its regulators come up last.
pub const NO_CPU_POWER_FROM: Duration = Duration::from_secs(30);
/// Below this a CPU is not running: one in its deepest idle state draws several times as much.
pub const NO_CPU_POWER_WATTS: f64 = 1.0;
/// How long after S0 every DIMM must have answered.
pub const DIMMS_FROM: Duration = Duration::from_secs(120);
/// And how long after the gate opened, if that came late (note 30).
pub const DIMMS_FROM_OPEN: Duration = Duration::from_secs(60);
/// `OsNotReported`: how long firmware that is done may be without an OS: somebody in setup, a boot option that waits.
pub const OS_REPORTED_WITHIN: Duration = Duration::from_secs(600);
/// `EvidenceMute`: a power value is another than was told for so long: some services signal a moment after they answer.
pub const MUTE_AFTER: Duration = Duration::from_secs(2);

/// A problem of the host, by its name on D-Bus.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Diagnosis {
    /// Power is on, and nothing was heard from the firmware.
    FirmwareSilent,
    /// Power is on, and the CPU draws none.
    NoCpuPower,
    /// The deadline passed in POST.
    StuckInPost,
    /// The deadline passed elsewhere.
    NotWorking,
    /// Firmware was reset more often than `max_resets` within one boot.
    BootLoop,
    /// The firmware has long been done, and no OS was reported.
    OsNotReported,
    /// A working state was reported sooner after power-on or a reset than the host can boot.
    EarlyReport,
    /// A working state was reported though chassis power had long been off.
    StaleReport,
    /// Fewer DIMMs than there should be.
    MissingDimm,
    /// A transfer hangs on a guarded bus.
    BusStuck,
    /// POST complete came too soon after power-on to be true.
    PostCompleteBogus,
    /// Another service serves the same object.
    RivalOwner,
    /// Another daemon may scan a guarded bus.
    UnguardedBus,
    /// Fan control takes our unavailable sensors for failed ones.
    FailsafeConfig,
    /// A power service changes a value and does not signal it.
    EvidenceMute,
    /// The bus does not answer.
    BusSilent,
}

impl Diagnosis {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 16] = [
        Self::FirmwareSilent,
        Self::NoCpuPower,
        Self::StuckInPost,
        Self::NotWorking,
        Self::BootLoop,
        Self::OsNotReported,
        Self::EarlyReport,
        Self::StaleReport,
        Self::MissingDimm,
        Self::BusStuck,
        Self::PostCompleteBogus,
        Self::RivalOwner,
        Self::UnguardedBus,
        Self::FailsafeConfig,
        Self::EvidenceMute,
        Self::BusSilent,
    ];

    /// The name on D-Bus.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FirmwareSilent => "FirmwareSilent",
            Self::NoCpuPower => "NoCpuPower",
            Self::StuckInPost => "StuckInPost",
            Self::NotWorking => "NotWorking",
            Self::BootLoop => "BootLoop",
            Self::OsNotReported => "OsNotReported",
            Self::EarlyReport => "EarlyReport",
            Self::StaleReport => "StaleReport",
            Self::MissingDimm => "MissingDimm",
            Self::BusStuck => "BusStuck",
            Self::PostCompleteBogus => "PostCompleteBogus",
            Self::RivalOwner => "RivalOwner",
            Self::UnguardedBus => "UnguardedBus",
            Self::FailsafeConfig => "FailsafeConfig",
            Self::EvidenceMute => "EvidenceMute",
            Self::BusSilent => "BusSilent",
        }
    }

    /// `MESSAGE_ID` of the journal's lines that say it is raised or over; `journalctl -x` finds the catalog entry by it.
    #[must_use]
    pub const fn message_id(self) -> &'static str {
        match self {
            Self::FirmwareSilent => "048f6a4906654523a6fb8ce873b7e0c9",
            Self::NoCpuPower => "1d4e79607d2b45fe9874bfae9482e646",
            Self::StuckInPost => "ef4883d6bebb40faa2f8a46b500997df",
            Self::NotWorking => "d3c675019e624f93a71437c68ba438bd",
            Self::BootLoop => "a6c62a7f5d904f37b4850b42a09d62c9",
            Self::OsNotReported => "8b18aa32669845fcb44e56faeb3f1806",
            Self::EarlyReport => "3a3559e7ec414e44a7819224728af2f8",
            Self::StaleReport => "14c42bc95ab448d49c804a38a9033479",
            Self::MissingDimm => "9b55c46f9bf6492eab63b17c175d91ae",
            Self::BusStuck => "4bc4b8068d28409e8182c999b03ddfc7",
            Self::PostCompleteBogus => "bc216ab16d1447e8ab73fdbd5c4c9ad8",
            Self::RivalOwner => "eac84fdb05e4461fbb399262995c1bd0",
            Self::UnguardedBus => "142932df2abb4add910fc681f5f4ef96",
            Self::FailsafeConfig => "687a21fdbf44484aa74b22be0dff9fb2",
            Self::EvidenceMute => "9ec929da3d4a4dbb86671e3815c18cff",
            Self::BusSilent => "f711ab71c437408fb793b7672ca0faf0",
        }
    }

    /// Returns the meaning of the diagnosis and what to look at, for the journal.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::FirmwareSilent => {
                "chassis power is on and the firmware has said nothing: no report, no POST code, no boot progress; \
                 look at CPU power and the serial console"
            }
            Self::NoCpuPower => {
                "chassis power is on and the CPU draws none, whatever the state says; look at the CPU's regulators, \
                 its seating, and power-good signals"
            }
            Self::StuckInPost => {
                "firmware has been in POST for longer than the deadline; look at POST codes and the serial console"
            }
            Self::NotWorking => {
                "the host has had power for longer than the deadline and does not work, or does not say so; see GateReasons"
            }
            Self::BootLoop => "firmware is reset again and again in POST; look at POST codes and memory",
            Self::OsNotReported => {
                "firmware has been done for ten minutes and nobody has reported an OS: somebody is in setup, there is no boot \
                 device, or this firmware does not report; see docs/firmware.md for what to set"
            }
            Self::EarlyReport => {
                "a working state was reported sooner after power-on or a reset than min_post; it is shown, and the gate stays \
                 closed: who sets it? (a script, an agent of the OS before) or lower min_post"
            }
            Self::StaleReport => {
                "a working state was reported while chassis power is off; who sets it? (IPMI over LAN, a script)"
            }
            Self::MissingDimm => {
                "fewer DIMMs than at the last good boot, or than are required; look at the firmware's memory messages, \
                 and reseat or replace the one whose sensor is unavailable"
            }
            Self::BusStuck => {
                "a transfer on a guarded bus does not end; look for a device that holds SDA or SCL low"
            }
            Self::PostCompleteBogus => {
                "POST was complete as soon as power came on, so it is not trusted any more; is the line wired to power good?"
            }
            Self::RivalOwner => {
                "another service serves the same object, and ipmid may choose it; see `mapper get-service` and remove one"
            }
            Self::UnguardedBus => {
                "entity-manager's fru-device may scan a guarded bus while firmware reads the SPDs; add the bus to its \
                 blacklist.json"
            }
            Self::FailsafeConfig => {
                "fan control takes our unavailable sensors for failed ones, so that every boot is failsafe; set \
                 InputUnavailableAsFailed to false in its configuration"
            }
            Self::EvidenceMute => {
                "power control changed a value without signalling it, so that evidence may come 10 s late; look at its \
                 PropertiesChanged, and at a D-Bus policy that denies it sending to us"
            }
            Self::BusSilent => {
                "the bus does not answer, so that no evidence can arrive: nothing is read, sensors are unavailable; look at \
                 dbus-daemon or dbus-broker, and at the load of the BMC"
            }
        }
    }
}

/// The value of the CPU's power sensor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum CpuPower {
    /// Next to nothing: the CPU does not run.
    Low,
    /// The CPU draws power.
    Good,
    /// No sensor, no value, or one that is none.
    #[default]
    Unknown,
}

impl CpuPower {
    /// Returns the meaning of a reading in watts. A value that is not finite is no reading, and not 0 W.
    #[must_use]
    pub fn of(watts: f64) -> Self {
        if !watts.is_finite() {
            Self::Unknown
        } else if watts < NO_CPU_POWER_WATTS {
            Self::Low
        } else {
            Self::Good
        }
    }
}

/// The DIMMs that were there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DimmCount {
    /// DIMM sensors that have answered since the gate opened.
    pub answering: u16,
    /// DIMMs that the firmware's own tables list, where something publishes them.
    pub present: Option<u16>,
}

impl DimmCount {
    /// There are fewer than at `good`. A count that is not known is not fewer.
    #[must_use]
    pub fn is_fewer_than(self, good: Self) -> bool {
        let listed = self.present.zip(good.present).is_some_and(|(now, then)| now < then);
        self.answering < good.answering || listed
    }

    /// Returns the count to be remembered after a boot with this count, which is not fewer.
    #[must_use]
    pub fn learned(self, good: Option<Self>) -> Option<Self> {
        let present = self.present.or(good.and_then(|good| good.present));
        let learned = Self { present, ..self };
        (learned != Self { answering: 0, present: None }).then_some(learned)
    }
}

/// The evidence for a diagnosis: names and values for journal fields and Additional Data.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Evidence(Vec<(&'static str, String)>);

impl Evidence {
    /// Adds one, in `UPPER_CASE` as the journal wants it.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// Name and value.
    #[must_use]
    pub fn as_slice(&self) -> &[(&'static str, String)] {
        &self.0
    }

    /// `NAME=value, ...`, for a line of text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            write!(text, "{comma}{name}={value}").unwrap_or_default();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_diagnosis_has_its_own_name_and_id() {
        let mut names: Vec<_> = Diagnosis::ALL.iter().map(|d| d.name()).collect();
        let mut ids: Vec<_> = Diagnosis::ALL.iter().map(|d| d.message_id()).collect();
        for id in &ids {
            assert!(id.len() == 32 && id.bytes().all(|b| b"0123456789abcdef".contains(&b)), "{id}");
        }
        assert!(Diagnosis::ALL.is_sorted());
        names.sort_unstable();
        names.dedup();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((names.len(), ids.len()), (Diagnosis::ALL.len(), Diagnosis::ALL.len()));
    }

    #[test]
    fn what_is_no_reading_is_not_0_watts() {
        for (watts, meant) in [
            (0.0, CpuPower::Low),
            (-0.5, CpuPower::Low),
            (0.999, CpuPower::Low),
            (1.0, CpuPower::Good),
            (180.0, CpuPower::Good),
            (f64::NAN, CpuPower::Unknown),
            (f64::INFINITY, CpuPower::Unknown),
            (f64::NEG_INFINITY, CpuPower::Unknown),
        ] {
            assert_eq!(CpuPower::of(watts), meant, "{watts}");
        }
    }

    #[test]
    fn fewer_in_either_count_is_fewer() {
        let count = |answering, present| DimmCount { answering, present };
        let good = count(8, Some(16));
        assert!(count(7, Some(16)).is_fewer_than(good));
        assert!(count(8, Some(15)).is_fewer_than(good));
        assert!(!count(8, Some(16)).is_fewer_than(good));
        assert!(!count(9, None).is_fewer_than(good));
        assert_eq!(count(9, None).learned(Some(good)), Some(count(9, Some(16))));
        assert_eq!(count(0, None).learned(None), None);
    }

    #[test]
    fn evidence_reads_as_one_line() {
        let evidence = Evidence::default().with("ACPI_STATE", "S2_D2").with("SECONDS", "1800");
        assert_eq!(evidence.text(), "ACPI_STATE=S2_D2, SECONDS=1800");
    }
}
