// SPDX-License-Identifier: Apache-2.0
//! The settings: what the daemon works with, and how they follow from the keys of a configuration.
//!
//! A duration is in the daemon's clock, except `ack_cap` and a bus's `timeout`, which are real time.

use std::{path::PathBuf, time::Duration};

use super::{
    keys::{self, BootProgress, Config, Device, DoneFrom, Group, PostComplete, SpdPage},
    value::{Byte, List, ObjectPath, UnitName, Whole},
};

/// Everything the daemon is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The hosts, in the order of the configuration.
    pub hosts: Vec<Host>,
    /// The guarded buses.
    pub buses: Vec<Bus>,
    /// The sensors to publish.
    pub sensors: Vec<Sensor>,
    /// Where events go.
    pub events: Events,
}

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The number in its D-Bus paths and unit names.
    pub id: u32,
    /// The weight of its power evidence.
    pub evidence: Evidence,
    /// The POST codes that mean something.
    pub post_codes: PostCodes,
    /// The uids, besides root and our own, whose words are believed.
    pub trusted_uids: Vec<u32>,
    /// Its times.
    pub timing: Timing,
    /// Whether `dimm` sensors are configured; the fans wait for one of them to answer.
    pub has_dimms: bool,
    /// The units of its states.
    pub targets: Targets,
    /// The fans of its DIMMs.
    pub fans: Fans,
    /// D-Bus path of the sensor of its CPU power.
    pub cpu_power_sensor: Option<String>,
    /// The mux that gives the SPD bus to it.
    pub spd_mux: Option<SpdMux>,
    /// Units to stop before a Set that closes the gate is answered.
    pub quiesce: Vec<String>,
    /// Its states are written as boot progress.
    pub write_boot_progress: bool,
}

/// The weight of the board's power evidence (rules 3.2, rules 7 and 8).
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent answers about a board, as its configuration gives them"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// `OperatingSystemState` follows POST complete, and nothing else.
    pub post_complete_trusted: bool,
    /// A trusted POST complete makes any state `S0_G0_D0`: firmware that never reports.
    pub s0_from_post_complete: bool,
    /// Power-on makes an off-like state `S2_D2`.
    pub s2_from_power_on: bool,
    /// Boot progress and SBMR codes at the host's objects are the host's.
    pub boot_progress: bool,
    /// The first stage of boot progress at which the firmware is done.
    pub done_from: DoneFrom,
    /// A host that is Off for `host_off` counts as chassis Off.
    pub host_off_is_off: bool,
}

/// The POST codes of one byte that mean something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostCodes {
    /// The firmware has begun.
    pub began: Vec<u8>,
    /// The firmware is done.
    pub done: Vec<u8>,
}

/// The times of rules 6, and the one limit beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// The longest a host waits for the answer to its Set, in real time.
    pub ack_cap: Duration,
    /// How long all conditions must hold before the gate opens.
    pub settle: Duration,
    /// How long the host must run again before a suspected reset is one.
    pub reset_confirm: Duration,
    /// How long the host must be Off before it counts as off.
    pub host_off: Duration,
    /// The shortest time from power-on or a reset to the OS.
    pub min_post: Duration,
    /// The longest the gate may stay closed under power.
    pub deadline: Duration,
    /// The longest a powered host may show no sign of life.
    pub silent_after: Duration,
    /// In place of `settle` where a working state was only restored, or was reported too early.
    pub restore_settle: Duration,
    /// How long thermal sensors may need after power-on.
    pub thermal_grace: Duration,
    /// How long the gate may be closed outside POST before the DIMM fans are held.
    pub hold_after: Duration,
    /// How many resets within one boot are still no boot loop.
    pub max_resets: u32,
}

/// The units that the states of one host start; often one, never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// In a working state.
    pub s0: Vec<String>,
    /// In S2.
    pub s2: Vec<String>,
    /// In an off-like state.
    pub s5: Vec<String>,
}

/// The fans of one host's DIMMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fans {
    /// D-Bus paths of fan control's zones.
    pub zones: Vec<String>,
    /// D-Bus paths of the fans' `Control.FanPwm`.
    pub pwm: Vec<String>,
    /// The speed during a boot, of 255.
    pub s2_pwm: u32,
    /// The speed for a boot that went wrong, of 255.
    pub stall_pwm: u32,
    /// D-Bus paths of the sensors that are watched while the fans are held.
    pub guard_sensors: Vec<String>,
}

/// A mux that gives a bus to the host or to the BMC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpdMux {
    /// The GPIO line.
    pub line: String,
    /// The level that gives it to the host.
    pub host_level: bool,
}

/// A guarded bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// Linux I2C bus number.
    pub bus: u32,
    /// Ids of the hosts whose DIMMs it carries. None: its sensors are all `thermal`, and only their own power counts.
    pub hosts: Vec<u32>,
    /// The kernel's timeout of one transfer.
    pub timeout: Duration,
    /// The treatment of hubs of DDR5 DIMMs that show another page than 0.
    pub spd_page: SpdPage,
}

/// A temperature sensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensor {
    /// The last element of its D-Bus path.
    pub name: String,
    /// Id of the host it belongs to.
    pub host: u32,
    /// When it may be read.
    pub group: Group,
    /// Where it is read.
    pub source: Source,
    /// Which of the device's sensors; `None`: the first. Of a TMP421 the first is 0, of the others 1.
    pub channel: Option<u8>,
    /// How often.
    pub poll: Duration,
    /// The sensor must be there.
    pub required: bool,
    /// The warning thresholds.
    pub warning: Limits,
    /// The critical thresholds.
    pub critical: Limits,
    /// A value is signalled when it is more than this many degrees away from the last one that was.
    pub step: f64,
    /// An alarm ends when the value is this many degrees back inside the threshold.
    pub hysteresis: f64,
    /// D-Bus path of the inventory item it belongs to.
    pub chassis: Option<String>,
}

/// Where a sensor is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From a device on a guarded bus; with [`Device::Hwmon`] through the file of the driver bound to it.
    Device {
        /// The kind of the device.
        device: Device,
        /// Linux I2C bus number.
        bus: u32,
        /// Its address there.
        address: u8,
    },
    /// From a file that reads like hwmon's.
    File(PathBuf),
}

/// A pair of thresholds, in degrees Celsius.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// An alarm below this.
    pub low: Option<f64>,
    /// An alarm above this.
    pub high: Option<f64>,
}

/// Where events go besides the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Redfish's event log.
    pub redfish: bool,
    /// IPMI's system event log.
    pub sel: bool,
    /// `phosphor-logging`.
    pub logging: bool,
}

impl Default for Evidence {
    /// Of the only host.
    fn default() -> Self {
        Self::new(&keys::Evidence::default(), true)
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::new(&keys::Timing::default(), &keys::Fans::default())
    }
}

impl Host {
    /// The only host, with every default.
    #[must_use]
    pub fn new(id: u32) -> Self {
        Self::of(&keys::Host::new(id), true)
    }
}

impl Bus {
    /// A bus that carries DIMMs of these hosts.
    #[must_use]
    pub fn new(bus: u32, hosts: Vec<u32>) -> Self {
        Self { bus, hosts, timeout: millis(keys::TIMEOUT_MS), spd_page: keys::SPD_PAGE }
    }
}

impl Sensor {
    /// A sensor with every default, of host `host`.
    #[must_use]
    pub fn new(name: String, host: u32, group: Group, source: Source) -> Self {
        Self {
            name,
            host,
            group,
            source,
            channel: None,
            poll: keys::POLL.0,
            required: false,
            warning: Limits::default(),
            critical: Limits::default(),
            step: keys::STEP.0,
            hysteresis: keys::HYSTERESIS.0,
            chassis: None,
        }
    }
}

impl Default for Settings {
    /// Host 0 with every default, and no guarded bus.
    fn default() -> Self {
        Self { hosts: vec![Host::new(0)], buses: Vec::new(), sensors: Vec::new(), events: Events::default() }
    }
}

/// Returns the settings that follow from a checked configuration.
pub(super) fn settings(config: &Config) -> Settings {
    let sensors: Vec<Sensor> = config.sensors.values().filter_map(sensor).collect();
    let only = config.hosts.values().count() == 1;
    let hosts = config.hosts.values().map(|host| {
        let has_dimms = sensors.iter().any(|s| s.host == host.id.0 && s.group == Group::Dimm);
        Host { has_dimms, ..Host::of(host, only) }
    });
    let buses = config.buses.values().map(|bus| Bus {
        bus: bus.bus.0,
        hosts: bus.hosts.iter().flat_map(List::values).map(|id| id.0).collect(),
        timeout: millis(bus.timeout_ms),
        spd_page: bus.spd_page,
    });
    Settings {
        hosts: hosts.collect(),
        buses: buses.collect(),
        sensors,
        events: Events {
            redfish: config.events.redfish,
            sel: config.events.sel,
            logging: config.events.logging,
        },
    }
}

fn millis<const MIN: u32, const MAX: u32>(value: Whole<MIN, MAX>) -> Duration {
    Duration::from_millis(value.0.into())
}

fn sensor(sensor: &keys::Sensor) -> Option<Sensor> {
    let source = match &sensor.path {
        Some(path) => Source::File(PathBuf::from(&path.0)),
        None => Source::Device { device: sensor.device, bus: sensor.bus?.0, address: sensor.address?.0 },
    };
    let limits = |limits: &keys::Limits| Limits {
        low: limits.low.map(|celsius| celsius.0),
        high: limits.high.map(|celsius| celsius.0),
    };
    Some(Sensor {
        name: sensor.name.0.clone(),
        host: sensor.host?.0,
        group: sensor.group,
        source,
        channel: sensor.channel.and_then(|channel| u8::try_from(channel.0).ok()),
        poll: sensor.poll.0,
        required: sensor.required,
        warning: limits(&sensor.warning),
        critical: limits(&sensor.critical),
        step: sensor.step.0,
        hysteresis: sensor.hysteresis.0,
        chassis: sensor.chassis.as_ref().map(|path| path.0.clone()),
    })
}

impl Evidence {
    /// `only`: of the only host.
    fn new(evidence: &keys::Evidence, only: bool) -> Self {
        Self {
            post_complete_trusted: evidence.post_complete == PostComplete::Trusted,
            s0_from_post_complete: evidence.s0_from_post_complete,
            s2_from_power_on: evidence.s2_from_power_on,
            boot_progress: evidence.boot_progress.map_or(only, |word| word == BootProgress::Believed),
            done_from: evidence.progress_done_from,
            host_off_is_off: evidence.host_off_is_off,
        }
    }
}

impl Host {
    /// `has_dimms` is the sensors' to say.
    fn of(host: &keys::Host, only: bool) -> Self {
        let paths = |list: &List<ObjectPath>| list.values().map(|path| path.0.clone()).collect();
        let bytes = |list: &List<Byte>| list.values().map(|byte| byte.0).collect();
        Self {
            id: host.id.0,
            evidence: Evidence::new(&host.evidence, only),
            post_codes: PostCodes {
                began: bytes(&host.evidence.post_codes.began),
                done: bytes(&host.evidence.post_codes.done),
            },
            trusted_uids: host.evidence.trusted_uids.values().map(|uid| uid.0).collect(),
            timing: Timing::new(&host.timing, &host.fans),
            has_dimms: false,
            targets: Targets::new(host.id.0, &host.targets),
            fans: Fans {
                zones: paths(&host.fans.zones),
                pwm: paths(&host.fans.pwm),
                s2_pwm: host.fans.s2_pwm.0,
                stall_pwm: host.fans.stall_pwm.0,
                guard_sensors: paths(&host.fans.guard_sensors),
            },
            cpu_power_sensor: host.cpu_power_sensor.as_ref().map(|path| path.0.clone()),
            spd_mux: host
                .spd_mux
                .as_ref()
                .map(|mux| SpdMux { line: mux.line.0.clone(), host_level: mux.host_level.0 == 1 }),
            quiesce: host.quiesce.values().map(|unit| unit.0.clone()).collect(),
            write_boot_progress: host.write_boot_progress,
        }
    }
}

impl Timing {
    fn new(timing: &keys::Timing, fans: &keys::Fans) -> Self {
        Self {
            ack_cap: millis(timing.ack_cap_ms),
            settle: timing.settle.0,
            reset_confirm: timing.reset_confirm.0,
            host_off: timing.host_off.0,
            min_post: timing.min_post.0,
            deadline: timing.deadline.0,
            silent_after: timing.silent_after.0,
            restore_settle: timing.restore_settle.0,
            thermal_grace: timing.thermal_grace.0,
            hold_after: fans.hold_after.0,
            max_resets: timing.max_resets.0,
        }
    }
}

impl Targets {
    /// Rules 3.6, where a name is not given.
    fn new(host: u32, targets: &keys::Targets) -> Self {
        let units = |name: &Option<UnitName>, state: &str| {
            if let Some(unit) = name {
                return vec![unit.0.clone()];
            }
            let plain = (host == 0).then(|| format!("host-{state}-state.target"));
            plain.into_iter().chain([format!("host-{state}-state@{host}.target")]).collect()
        };
        Self { s0: units(&targets.s0, "s0"), s2: units(&targets.s2, "s2"), s5: units(&targets.s5, "s5") }
    }
}
