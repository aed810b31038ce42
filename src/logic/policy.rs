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

pub use super::diagnosis::Diagnosis;
use super::diagnosis::Evidence;

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
        self.has_bus() || (self.is_off() && !self.evidence_is_missing())
    }

    /// The groups `dimm` and `s0`: with the gate, and where there is an SPD mux, with its way back.
    #[must_use]
    pub fn dimm_sensors(&self) -> SensorMode {
        if self.has_bus() { SensorMode::Read } else { SensorMode::Unavailable }
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
        Diagnosis::ALL.into_iter().filter(|diagnosis| self.has(*diagnosis)).collect()
    }

    fn has(&self, diagnosis: Diagnosis) -> bool {
        let due = |at: Option<Time>| at.is_some_and(|at| at <= self.now);
        let in_post = self.state.kind() == Kind::Post;
        match diagnosis {
            Diagnosis::FirmwareSilent => due(self.silent_at()),
            Diagnosis::NoCpuPower => due(self.no_cpu_power_at()),
            Diagnosis::StuckInPost => self.deadline_passed() && in_post,
            // A host whose gate is about to open has overcome it.
            Diagnosis::NotWorking => self.deadline_passed() && !in_post && self.opens_at.is_none(),
            Diagnosis::BootLoop => self.history.in_boot() && self.resets > self.settings.timing.max_resets,
            Diagnosis::StaleReport => self.report_is_stale(),
            Diagnosis::MissingDimm => due(self.dimms_at()) && self.dimms_are_missing(),
            Diagnosis::BusStuck => self.bus_stuck,
            Diagnosis::PostCompleteBogus => self.post_bogus,
            Diagnosis::RivalOwner => self.rival,
            Diagnosis::UnguardedBus => self.unguarded_bus,
            Diagnosis::FailsafeConfig => self.failsafe_config,
        }
    }

    /// What shows a diagnosis, or shows that it is over: the state as the daemon has it, the power services' last words,
    /// and the numbers that this diagnosis goes by.
    #[must_use]
    pub fn evidence(&self, diagnosis: Diagnosis) -> Evidence {
        let seconds = |since: Time| self.now.since(since).as_secs().to_string();
        let evidence = Evidence::default()
            .with("ACPI_STATE", self.state.name())
            .with("ACPI_CAUSE", self.cause.name())
            .with("CHASSIS", self.chassis.last().map_or("unknown", Chassis::name))
            .with("HOST_STATE", self.host.last().map_or("unknown", Host::name));
        let count = |count: Option<u16>| count.map_or("unknown".to_owned(), |count| count.to_string());
        match diagnosis {
            Diagnosis::FirmwareSilent | Diagnosis::NoCpuPower => match self.powered_at {
                Some(at) => evidence.with("SECONDS_SINCE_POWER_ON", seconds(at)),
                None => evidence,
            },
            Diagnosis::StuckInPost | Diagnosis::NotWorking => {
                let evidence = match self.closed_since {
                    Some(at) => evidence.with("SECONDS_CLOSED", seconds(at)),
                    None => evidence,
                };
                let reasons: Vec<_> = self.gate_reasons().iter().map(|reason| reason.name()).collect();
                evidence.with("GATE_REASONS", reasons.join("+"))
            }
            Diagnosis::BootLoop => evidence.with("RESETS", self.resets.to_string()),
            Diagnosis::StaleReport => evidence.with("SECONDS_OFF", seconds(self.power_since)),
            Diagnosis::MissingDimm => {
                let good = self.good_dimms.unwrap_or_default();
                evidence
                    .with("DIMMS_ANSWERING", count(self.answering.map(|(answering, _)| answering)))
                    .with("DIMMS_ANSWERING_GOOD", good.answering.to_string())
                    .with("DIMMS_PRESENT", count(self.present))
                    .with("DIMMS_PRESENT_GOOD", count(good.present))
                    .with(
                        "REQUIRED",
                        if self.answering.is_some_and(|(_, silent)| silent) { "missing" } else { "there" },
                    )
            }
            Diagnosis::BusStuck
            | Diagnosis::PostCompleteBogus
            | Diagnosis::RivalOwner
            | Diagnosis::UnguardedBus
            | Diagnosis::FailsafeConfig => evidence,
        }
    }
}
