// SPDX-License-Identifier: Apache-2.0
//! What a board is made of, and the ways in which it can boot.

use std::{fmt, time::Duration};

use acpi_stated::config::{
    self, Bus, Device, Evidence, Group, Host, Limits, Sensor, Settings, Source, Timing,
};

use crate::{
    bmc_sensors::{CPU_POWER, INLET_PATH},
    dimm::{Dimm, Kind},
    fan_control::{ZONES, pwms},
    host::Firmware,
    hwmon_temp::PowerState,
    objects::Manners,
    platform::{CPU_ADDRESS, CPU_BUS},
    poller::Gate,
    power_control::Flavour,
    simbus::{DIMMS, SimBus},
    spd_mux::LINE,
    timeline::Detail,
};

/// The Linux numbers of the board's buses.
pub const BUSES: [u32; 2] = [3, 4];
/// The kinds of DIMMs on them.
pub const KINDS: [Kind; 2] = [Kind::Ddr4, Kind::Ddr5];
/// The name of the CPU's own temperature.
pub const CPU_SENSOR: &str = "CPU_TEMP";
/// How often it is read at most, in real time. It is read until the daemon hears that the power has gone, and fails with the fifth
/// read in a row that fails: on a machine that is late, that must not come first.
const CPU_POLL: Duration = Duration::from_millis(150);
/// The shortest time from power-on or a reset to the OS: the host's early init alone takes longer.
pub const MIN_POST: Duration = Duration::from_secs(3);
/// How many DIMMs the board has.
pub const DIMMS_INSTALLED: usize = BUSES.len() * DIMMS as usize;

/// What a board is made of.
#[allow(clippy::struct_excessive_bools, reason = "independent facts about a board")]
#[derive(Clone, Debug)]
pub struct Setup {
    /// The host's firmware.
    pub firmware: Firmware,
    /// The power service.
    pub power: Flavour,
    /// What the daemon is told of this board.
    pub evidence: Evidence,
    /// The daemon's times.
    pub timing: Timing,
    /// What the BMC runs.
    pub bmc: Bmc,
    /// Whether the poller heeds the gate.
    pub gate: Gate,
    /// How systemd behaves.
    pub systemd: Manners,
    /// How many times faster than life.
    pub speed: u32,
    /// How often the daemon reads a sensor, on the board's clock.
    pub poll: Duration,
    /// The DIMMs are behind a mux that gives them to the host or to the BMC.
    pub spd_mux: bool,
    /// UEFI sends its own progress codes as well.
    pub sends_progress: bool,
    /// The daemon is told to write boot progress.
    pub writes_progress: bool,
    /// Whether temperatures follow load and fans; otherwise they are what somebody sets.
    pub heats: bool,
    /// Something is broken on purpose, so that a failsafe is right.
    pub broken: bool,
    /// Fan control is there before what reads the temperatures.
    pub fans_first: bool,
    /// How much is told.
    pub detail: Detail,
    /// Whether fans, CPU power and boot progress are told of as well.
    pub tells_all: bool,
}

/// What reads the temperatures and answers the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bmc {
    /// The daemon.
    AcpiStated,
    /// Nobody who knows of ACPI states; dbus-sensors reads the same temperatures.
    Without(PowerState),
}

impl Setup {
    /// A board with this firmware and power service, and with what the daemon must be told of them.
    #[must_use]
    pub fn new(firmware: Firmware, power: Flavour, speed: u32) -> Self {
        let evidence = match firmware {
            Firmware::F | Firmware::FLate | Firmware::FRetry | Firmware::M | Firmware::A | Firmware::P => {
                Evidence::default()
            }
            Firmware::N => {
                Evidence { post_complete_trusted: true, s0_from_post_complete: true, ..Evidence::default() }
            }
        };
        Self {
            firmware,
            power,
            evidence,
            timing: Timing { min_post: MIN_POST, ..Timing::default() },
            bmc: Bmc::AcpiStated,
            gate: Gate::Heeded,
            systemd: Manners::Good,
            speed,
            // A period of less than 30 ms of real time would measure this machine's scheduler.
            poll: Duration::from_secs(1).max(Duration::from_millis(30) * speed),
            spd_mux: false,
            sends_progress: false,
            writes_progress: false,
            heats: false,
            broken: false,
            fans_first: false,
            detail: Detail::Silent,
            tells_all: false,
        }
    }

    /// The same board at another speed. Its sensors are not read more often in real time.
    #[must_use]
    pub fn at_speed(self, speed: u32) -> Self {
        let poll = (self.poll / self.speed.max(1) * speed).max(Duration::from_secs(1).min(self.poll));
        Self { speed, poll, ..self }
    }

    /// The daemon's settings on this board.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let mut host = Host::new(0);
        host.evidence = self.evidence;
        host.timing = self.timing;
        host.has_dimms = true;
        host.fans.zones = vec![ZONES[0].to_owned()];
        host.fans.pwm = pwms(0).iter().map(|pwm| (*pwm).to_owned()).collect();
        host.fans.guard_sensors = vec![INLET_PATH.to_owned()];
        host.cpu_power_sensor = Some(CPU_POWER.to_owned());
        host.write_boot_progress = self.writes_progress;
        host.spd_mux = self.spd_mux.then(|| config::SpdMux { line: LINE.to_owned(), host_level: true });
        let mut buses: Vec<Bus> = BUSES.map(|bus| Bus::new(bus, vec![0])).into();
        buses.push(Bus::new(CPU_BUS, Vec::new()));
        let sensors = BUSES.into_iter().zip(KINDS).zip('A'..).flat_map(|((bus, kind), letter)| {
            SimBus::new(bus, kind)
                .dimms()
                .iter()
                .zip(0..)
                .map(|(dimm, slot)| Sensor { poll: self.poll, ..sensor(bus, letter, slot, dimm) })
                .collect::<Vec<_>>()
        });
        let cpu = Source::Device { device: Device::Sbtsi, bus: CPU_BUS, address: CPU_ADDRESS };
        let poll = self.poll.max(CPU_POLL * self.speed);
        let cpu = Sensor { poll, ..Sensor::new(CPU_SENSOR.to_owned(), 0, Group::Thermal, cpu) };
        let sensors = sensors.chain([cpu]).collect();
        Settings { hosts: vec![host], buses, sensors, ..Settings::default() }
    }
}

/// How a boot comes about, from a working host if nothing else is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The power button, from off.
    PowerOn,
    /// The operating system shuts down, the power falls 0.2 s later; then the power button.
    OsShutdown,
    /// The same, but the power takes 0.8 s to fall: it looks like a warm reset first.
    SlowOsShutdown,
    /// An operator's power cycle: the host cannot report it.
    PowerCycle,
    /// The host's own power cycle, off for 0.3 s only, without a report.
    ShortCycle,
    /// DC power is lost and comes back.
    DcLoss,
    /// The power button is held, then pressed; also out of a host that hangs.
    ForcedOff,
    /// The host resets with its power on; where phosphor-state-manager has the power, it performs that.
    WarmReset,
    /// The operating system reboots: it has the host reset, and asks nobody else.
    OsReboot,
    /// The host's hardware resets it, as a watchdog does: nobody is told.
    HardReset,
    /// A client of the BMC requests a forced warm reboot.
    ForcedReset,
    /// A power cycle, and a reset in the middle of POST that nothing shows.
    ResetInPost,
    /// A power cycle, and UEFI hangs in POST.
    Hang,
    /// A power cycle after which the CPU gets no power: the chassis is on, and nothing runs. The next loss of power resets its
    /// regulator.
    NoCpuPower,
    /// A power cycle, and while UEFI trains memory, an administrator sets S0 over the network.
    AdminSetsS0,
}

impl Way {
    /// Whether it begins a POST without a loss of power.
    #[must_use]
    pub const fn is_reset(self) -> bool {
        matches!(self, Self::WarmReset | Self::OsReboot | Self::HardReset | Self::ForcedReset)
    }

    /// Whether anything but the host's memory itself can tell, on this kind of board, that this boot begins before UEFI reads the SPDs,
    /// and nobody opens the gate with a false report (rules 3.2, Known limits). A request must not be the same as the one before.
    #[must_use]
    pub const fn protectable(self, firmware: Firmware, power: Flavour, post_complete_trusted: bool) -> bool {
        match self {
            // A trusted POST status keeps the gate closed whatever anybody reports.
            Self::AdminSetsS0 => post_complete_trusted,
            Self::WarmReset => firmware.reports_first() || power.shows_warm_reset(),
            Self::OsReboot => {
                firmware.reports_first() || firmware.announces_reboot() || power.shows_host_reset()
            }
            Self::HardReset => firmware.reports_first() || power.shows_host_reset(),
            Self::PowerOn
            | Self::OsShutdown
            | Self::SlowOsShutdown
            | Self::PowerCycle
            | Self::ShortCycle
            | Self::DcLoss
            | Self::ForcedOff
            | Self::ForcedReset
            | Self::ResetInPost
            | Self::Hang
            | Self::NoCpuPower => true,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOn => "power on",
            Self::OsShutdown => "OS shutdown, power on",
            Self::SlowOsShutdown => "OS shutdown with slow rails, power on",
            Self::PowerCycle => "power cycle, not reported",
            Self::ShortCycle => "short power cycle by the host, not reported",
            Self::DcLoss => "DC power lost and back",
            Self::ForcedOff => "forced off, power on",
            Self::WarmReset => "warm reset",
            Self::OsReboot => "OS reboot",
            Self::HardReset => "reset by the host's hardware",
            Self::ForcedReset => "forced warm reboot, requested",
            Self::ResetInPost => "power cycle, silent reset in POST",
            Self::Hang => "power cycle, hang in POST",
            Self::NoCpuPower => "power cycle, no power into the CPU",
            Self::AdminSetsS0 => "power cycle, administrator sets S0 in POST",
        })
    }
}

/// The sensor of a DIMM, as its configuration has it.
fn sensor(bus: u32, letter: char, slot: u32, dimm: &Dimm) -> Sensor {
    let device = match dimm.kind() {
        Kind::Ddr4 => Device::Jc42,
        Kind::Ddr5 => Device::Spd5118,
    };
    let address = u8::try_from(dimm.address()).unwrap_or_default();
    Sensor {
        warning: Limits { low: None, high: Some(85.0) },
        critical: Limits { low: None, high: Some(95.0) },
        chassis: Some("/xyz/openbmc_project/inventory/system/board/Baseboard".to_owned()),
        ..Sensor::new(
            format!("DIMM_TEMP_{letter}{slot}"),
            0,
            Group::Dimm,
            Source::Device { device, bus, address },
        )
    }
}
