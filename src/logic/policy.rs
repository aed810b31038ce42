// SPDX-License-Identifier: Apache-2.0
//! What follows from a machine's state (design 3.1): gate, sensors, fans, unit, boot progress,
//! diagnoses. All of it is computed from what the machine knows, nothing is kept beside it.

use core::time::Duration;

use super::{
    acpi::Kind,
    evidence::{Chassis, Host, Os},
    machine::{Machine, Target},
    time::Time,
};

/// How long after chassis Off a report of a working state may still be one that was on its way.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// What keeps a gate closed, by its name on D-Bus.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum GateReason {
    /// The host is not in a working state.
    State,
    /// Chassis power is off.
    ChassisOff,
    /// Rule 6 has not decided yet, or a power service that was seen is gone.
    EvidenceMissing,
    /// The host left Running, and nobody has said why.
    ResetSuspected,
    /// The host does not run, though chassis is not Off and nothing is suspected.
    HostNotRunning,
    /// Trusted POST status says that firmware is at work.
    PostNotComplete,
    /// All is well, but has not been for long enough.
    Settling,
}

impl GateReason {
    /// The name on D-Bus.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "State",
            Self::ChassisOff => "ChassisOff",
            Self::EvidenceMissing => "EvidenceMissing",
            Self::ResetSuspected => "ResetSuspected",
            Self::HostNotRunning => "HostNotRunning",
            Self::PostNotComplete => "PostNotComplete",
            Self::Settling => "Settling",
        }
    }
}

/// Whether a group of sensors is read and shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SensorMode {
    /// Not read; shown as unavailable.
    Unavailable,
    /// Read; shown when it was read.
    Read,
}

/// What the DIMM zones' fans do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fans {
    /// Fan control has them.
    Free,
    /// They are held.
    Held {
        /// At which of the two configured speeds.
        level: FanLevel,
        /// Never below the Target that was found when they were taken.
        at_least_found: bool,
    },
}

/// The configured speeds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FanLevel {
    /// `s2_pwm`: a boot.
    S2,
    /// `stall_pwm`: anything longer or worse.
    Stall,
}

/// A row of 3.1's table, as far as units go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnitRow {
    /// This target stands for the state.
    Active(Target),
    /// No target does.
    NoneActive,
}

/// A stage of `xyz.openbmc_project.State.Boot.Progress` that is ours to write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum BootStage {
    /// Off.
    Unspecified,
    /// POST.
    PrimaryProcInit,
    /// The firmware has handed over.
    OSStart,
}

/// What is wrong with the host, by its name on D-Bus (design 3.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Diagnosis {
    /// The deadline passed in POST.
    StuckInPost,
    /// The deadline passed elsewhere.
    NotWorking,
    /// Firmware was reset more often than `max_resets` within one boot.
    BootLoop,
    /// A working state was reported though chassis power had long been off.
    StaleReport,
    /// POST complete came too soon after power-on to be true.
    PostCompleteBogus,
    /// Another service serves the same object.
    RivalOwner,
}

impl Diagnosis {
    /// The name on D-Bus.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StuckInPost => "StuckInPost",
            Self::NotWorking => "NotWorking",
            Self::BootLoop => "BootLoop",
            Self::StaleReport => "StaleReport",
            Self::PostCompleteBogus => "PostCompleteBogus",
            Self::RivalOwner => "RivalOwner",
        }
    }

    /// What it is and what to look at, for the journal.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::StuckInPost => {
                "firmware has been in POST for longer than the deadline; look at POST codes and the serial console"
            }
            Self::NotWorking => {
                "the host has had power for longer than the deadline and does not work, or does not say so; see GateReasons"
            }
            Self::BootLoop => "firmware is reset again and again in POST; look at POST codes and memory",
            Self::StaleReport => {
                "a working state was reported while chassis power is off; who sets it? (IPMI over LAN, a script)"
            }
            Self::PostCompleteBogus => {
                "POST was complete as soon as power came on, so it is not trusted any more; is the line wired to power good?"
            }
            Self::RivalOwner => {
                "another service serves the same object, and ipmid may choose it; see `mapper get-service` and remove one"
            }
        }
    }
}

/// Whether anyone may transfer on a bus that carries the DIMMs of the hosts `carried`: none of them
/// minds, and there is a host at all that can have a reason to.
#[must_use]
pub fn bus_is_open(machines: &[Machine], carried: &[usize]) -> bool {
    carried.iter().all(|host| machines.get(*host).is_some_and(Machine::allows_bus))
        && machines.iter().any(|machine| !machine.is_off())
}

impl Machine {
    /// Chassis Off, or what counts as it where no power service exists (note 6).
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.power == Some(Chassis::Off)
            || (self.power.is_none() && self.is_decided() && self.state.is_off_like())
    }

    /// The gate's conditions but the state and time.
    pub(super) fn is_steady(&self) -> bool {
        self.blockers().all(|reason| reason == GateReason::State)
    }

    /// Every condition of the gate that does not hold, time left aside.
    fn blockers(&self) -> impl Iterator<Item = GateReason> {
        use GateReason as R;
        let suspected = self.suspicion.is_some();
        let off = self.power == Some(Chassis::Off);
        let stopped = self.host.last().is_some_and(|host| host != Host::Running);
        [
            (!self.state.is_working(), R::State),
            (off, R::ChassisOff),
            (!self.is_decided() || self.evidence_is_missing(), R::EvidenceMissing),
            (suspected, R::ResetSuspected),
            (stopped && !suspected && !off, R::HostNotRunning),
            (self.post() == Some(Os::Inactive), R::PostNotComplete),
        ]
        .into_iter()
        .filter_map(|(fails, reason)| fails.then_some(reason))
    }

    /// The gate: open if and only if every condition of 3.1 holds and has held for long enough.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.opens_at.is_some_and(|at| at <= self.now)
    }

    /// What keeps the gate closed; empty when it is open.
    #[must_use]
    pub fn gate_reasons(&self) -> Vec<GateReason> {
        let reasons: Vec<_> = self.blockers().collect();
        if reasons.is_empty() && !self.is_open() { vec![GateReason::Settling] } else { reasons }
    }

    /// Whether this host lets others transfer on a bus that carries its DIMMs. An Off is worth that only
    /// while its service stands by it.
    #[must_use]
    pub fn allows_bus(&self) -> bool {
        self.is_open() || (self.is_off() && !self.evidence_is_missing())
    }

    /// The groups `dimm` and `s0`.
    #[must_use]
    pub fn dimm_sensors(&self) -> SensorMode {
        if self.is_open() { SensorMode::Read } else { SensorMode::Unavailable }
    }

    /// The group `thermal`.
    #[must_use]
    pub fn thermal_sensors(&self) -> SensorMode {
        let warm = self.firmware_seen || self.thermal_at().is_none_or(|at| at <= self.now);
        if self.is_decided() && !self.is_off() && warm { SensorMode::Read } else { SensorMode::Unavailable }
    }

    /// When the grace of the thermal sensors ends.
    pub(super) fn thermal_at(&self) -> Option<Time> {
        Some(self.powered_at? + self.settings.timing.thermal_grace)
    }

    /// The DIMM zones.
    #[must_use]
    pub fn fans(&self) -> Fans {
        let Some(hold) = self.hold else { return Fans::Free };
        let booting = self.history.in_boot()
            || !self.has_reported
            || self.boot_hold_ends_at().is_some_and(|at| at > self.now);
        let level =
            if hold.alarmed || self.deadline_passed() || !booting { FanLevel::Stall } else { FanLevel::S2 };
        Fans::Held { level, at_least_found: hold.from_working }
    }

    /// A hold that outlasts its boot (`settle`, the first answer of a DIMM) keeps the boot's speed for so long.
    pub(super) fn boot_hold_ends_at(&self) -> Option<Time> {
        self.state.is_working().then_some(self.since + self.settings.timing.hold_after)
    }

    /// When the gate has been closed under power for too long.
    pub(super) fn deadline_at(&self) -> Option<Time> {
        Some(self.closed_since? + self.settings.timing.deadline)
    }

    fn deadline_passed(&self) -> bool {
        self.deadline_at().is_some_and(|at| at <= self.now)
    }

    /// The row of the table that decides the unit; `None` leaves it as it is.
    pub(super) fn unit_row(&self) -> Option<UnitRow> {
        let target = match self.state.kind() {
            _ if self.is_off() => Target::S5,
            Kind::Working => Target::S0,
            Kind::Post => Target::S2,
            Kind::OffLike => Target::S5,
            Kind::Sleep => return None,
            Kind::Unknown => return Some(UnitRow::NoneActive),
        };
        Some(UnitRow::Active(target))
    }

    /// The row of the table that decides the boot progress; `None` leaves it as it is.
    pub(super) fn boot_stage(&self) -> Option<BootStage> {
        match self.state.kind() {
            _ if self.is_off() => Some(BootStage::Unspecified),
            Kind::Working => Some(BootStage::OSStart),
            Kind::Post => Some(BootStage::PrimaryProcInit),
            Kind::OffLike => Some(BootStage::Unspecified),
            Kind::Sleep | Kind::Unknown => None,
        }
    }

    /// A working state, Set when chassis had been Off for so long that no host can have said it.
    fn report_is_stale(&self) -> bool {
        let off = self.power == Some(Chassis::Off);
        off && self.state.is_working()
            && self.last_set.is_some_and(|set| set >= self.power_since + STALE_AFTER)
    }

    /// What is wrong, in the order of [`Diagnosis`].
    #[must_use]
    pub fn diagnoses(&self) -> Vec<Diagnosis> {
        let stuck = self.deadline_passed();
        let in_post = self.state.kind() == Kind::Post;
        [
            (stuck && in_post, Diagnosis::StuckInPost),
            // A host whose gate is about to open has overcome it.
            (stuck && !in_post && self.opens_at.is_none(), Diagnosis::NotWorking),
            (self.history.in_boot() && self.resets > self.settings.timing.max_resets, Diagnosis::BootLoop),
            (self.report_is_stale(), Diagnosis::StaleReport),
            (self.post_bogus, Diagnosis::PostCompleteBogus),
            (self.rival, Diagnosis::RivalOwner),
        ]
        .into_iter()
        .filter_map(|(holds, diagnosis)| holds.then_some(diagnosis))
        .collect()
    }
}
