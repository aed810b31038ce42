// SPDX-License-Identifier: Apache-2.0
//! The consequences of a machine's state (rules 3.1, 3.5, 3.7): sensors, fans, diagnoses. All of them are computed from
//! what the machine knows, nothing is kept beside it.

use core::time::Duration;

use super::{
    acpi::StateKind,
    diagnosis::{Diagnosis, Evidence},
    evidence::{Chassis, HostState},
    machine::{FirmwarePhase, Machine, Timer},
    time::Time,
};

/// How long after chassis Off a report of a working state may still be one that was on its way.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// Whether a group of sensors is read and shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SensorMode {
    /// Not read; shown as unavailable.
    Unavailable,
    /// Read; shown when it was read.
    Read,
}

/// The state of the DIMM zones' fans.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FanDemand {
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

/// Whether anyone may transfer on a bus that carries the DIMMs of the hosts `carried`: each of them allows it, and not
/// every host is off.
#[must_use]
pub fn bus_is_open(machines: &[Machine], carried: &[usize]) -> bool {
    carried.iter().all(|host| machines.get(*host).is_some_and(Machine::allows_bus))
        && machines.iter().any(|machine| !machine.is_off())
}

/// Whether what this host's power services have reported keeps a bus open: its gate is open, or it is off beside a host that
/// is not. Then they are asked again, lest a value has changed without a signal (note B2).
#[must_use]
pub fn relies_on_power(machines: &[Machine], host: usize) -> bool {
    let opens = |machine: &Machine| machine.is_open() || machine.allows_bus();
    machines.get(host).is_some_and(opens) && machines.iter().any(|machine| !machine.is_off())
}

/// The groups `dimm` and `s0`: with the gate, and where there is an SPD mux, with its way back.
#[must_use]
pub fn dimm_sensors(machine: &Machine) -> SensorMode {
    if machine.has_bus() { SensorMode::Read } else { SensorMode::Unavailable }
}

/// The group `thermal`.
#[must_use]
pub fn thermal_sensors(machine: &Machine) -> SensorMode {
    let warm = machine.boot().firmware_was_seen() || !machine.runs(Timer::Thermal);
    if machine.is_powered() && warm { SensorMode::Read } else { SensorMode::Unavailable }
}

/// The DIMM zones.
#[must_use]
pub fn fans(machine: &Machine) -> FanDemand {
    let Some(hold) = machine.hold() else { return FanDemand::Free };
    // A hold that only waits for `settle`, or for the first answer of a DIMM, keeps the boot's speed for a while.
    let ends_soon = machine.runs(Timer::BootHold);
    let booting = machine.boot().is_under_way()
        || !machine.current().is_reported()
        || machine.phase() == FirmwarePhase::AtWork
        || machine.firmware().is_early();
    let stalled = hold.alarmed || (!ends_soon && (machine.due(Timer::ClosedTooLong) || !booting));
    let level = if stalled { FanLevel::Stall } else { FanLevel::S2 };
    FanDemand::Held { level, at_least_found: hold.from_working }
}

/// Returns the diagnoses that hold, in the order of [`Diagnosis`].
#[must_use]
pub fn diagnoses(machine: &Machine) -> Vec<Diagnosis> {
    Diagnosis::ALL.into_iter().filter(|diagnosis| holds(machine, *diagnosis)).collect()
}

fn holds(machine: &Machine, diagnosis: Diagnosis) -> bool {
    let in_post = machine.current().kind() == StateKind::Post;
    let watch = machine.watch();
    match diagnosis {
        Diagnosis::FirmwareSilent => machine.due(Timer::Silent),
        Diagnosis::NoCpuPower => machine.due(Timer::NoCpuPower),
        Diagnosis::StuckInPost => machine.due(Timer::ClosedTooLong) && in_post,
        Diagnosis::NotWorking => {
            // A host whose gate is about to open has overcome it.
            machine.due(Timer::ClosedTooLong) && !in_post && machine.gate().opens_at().is_none()
        }
        Diagnosis::BootLoop => {
            machine.boot().is_under_way() && machine.boot().resets() > machine.settings().timing.max_resets
        }
        Diagnosis::OsNotReported => machine.due(Timer::OsNotReported),
        Diagnosis::EarlyReport => machine.firmware().is_early(),
        Diagnosis::StaleReport => report_is_stale(machine),
        Diagnosis::MissingDimm => machine.due(Timer::Dimms) && watch.dimms_are_missing(),
        Diagnosis::BusStuck => watch.bus_stuck,
        Diagnosis::PostCompleteBogus => machine.power().post_is_bogus(),
        Diagnosis::RivalOwner => watch.rival,
        Diagnosis::UnguardedBus => watch.unguarded_bus,
        Diagnosis::FailsafeConfig => watch.failsafe_config,
        Diagnosis::EvidenceMute => machine.due(Timer::Mute),
        Diagnosis::BusSilent => watch.bus_silent,
    }
}

/// A working state, Set when chassis had been Off for so long that no host can have said it.
fn report_is_stale(machine: &Machine) -> bool {
    let late = machine.power().since() + STALE_AFTER;
    machine.power().is_off()
        && machine.current().state().is_working()
        && machine.current().was_set_since(late)
}

/// Returns the evidence for a diagnosis, or for its end: the state as the daemon has it, the last values of the
/// power services, and the numbers that this diagnosis goes by.
#[must_use]
pub fn evidence(machine: &Machine, diagnosis: Diagnosis) -> Evidence {
    let seconds = |since: Time| machine.now().since(since).as_secs().to_string();
    let count = |count: Option<u16>| count.map_or("unknown".to_owned(), |count| count.to_string());
    let (power, watch) = (machine.power(), machine.watch());
    let evidence = Evidence::default()
        .with("ACPI_STATE", machine.current().state().name())
        .with("ACPI_CAUSE", machine.current().cause().name())
        .with("CHASSIS", power.chassis().map_or("unknown", Chassis::name))
        .with("HOST_STATE", power.host().map_or("unknown", HostState::name));
    match diagnosis {
        Diagnosis::FirmwareSilent | Diagnosis::NoCpuPower => match machine.boot().powered_at() {
            Some(at) => evidence.with("SECONDS_SINCE_POWER_ON", seconds(at)),
            None => evidence,
        },
        Diagnosis::StuckInPost | Diagnosis::NotWorking => {
            let evidence = match machine.gate().closed_since() {
                Some(at) => evidence.with("SECONDS_CLOSED", seconds(at)),
                None => evidence,
            };
            let reasons: Vec<_> = machine.gate_reasons().iter().map(|reason| reason.name()).collect();
            evidence.with("GATE_REASONS", reasons.join("+"))
        }
        Diagnosis::BootLoop => evidence.with("RESETS", machine.boot().resets().to_string()),
        Diagnosis::StaleReport => evidence.with("SECONDS_OFF", seconds(power.since())),
        Diagnosis::MissingDimm => {
            let good = watch.good_dimms().unwrap_or_default();
            let required = if watch.required_is_silent() { "missing" } else { "there" };
            evidence
                .with("DIMMS_ANSWERING", count(watch.answering.map(|answering| answering.count)))
                .with("DIMMS_ANSWERING_GOOD", good.answering.to_string())
                .with("DIMMS_PRESENT", count(watch.present))
                .with("DIMMS_PRESENT_GOOD", count(good.present))
                .with("REQUIRED", required)
        }
        Diagnosis::EvidenceMute => {
            let names: Vec<_> = power.untold().map(|(_, name)| name).collect();
            evidence.with("UNTOLD", names.join("+"))
        }
        Diagnosis::OsNotReported | Diagnosis::EarlyReport => {
            let firmware = machine.firmware();
            evidence
                .with("FIRMWARE", machine.phase().name())
                .with("FIRMWARE_SOURCE", firmware.word().source.name())
                .with("FIRMWARE_SECONDS", seconds(firmware.since()))
        }
        Diagnosis::BusStuck
        | Diagnosis::PostCompleteBogus
        | Diagnosis::RivalOwner
        | Diagnosis::UnguardedBus
        | Diagnosis::FailsafeConfig
        | Diagnosis::BusSilent => evidence,
    }
}

/// Whether this host's POST codes are listened to. A host may write to port 80h at run time too, as often as it likes, and until the firmware
/// is done a code is worth that: it is a sign of life. Two kinds say something in a working state as well, and are never missed: codes that the
/// file names, and those of SBMR, of which the one before a reset that the OS asks for (`ResetSystem`) may be all that is heard of it.
#[must_use]
pub fn wants_post_codes(machine: &Machine) -> bool {
    let settings = machine.settings();
    let named = !settings.post_codes.began.is_empty() || !settings.post_codes.done.is_empty();
    named || settings.evidence.boot_progress || (!machine.is_off() && machine.phase() != FirmwarePhase::Done)
}
