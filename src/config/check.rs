// SPDX-License-Identifier: Apache-2.0
//! From what the file says to what the daemon works with: the rules between keys, and the warnings.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use super::{
    Bus, Events, Evidence, Fans, Host, Limits, Sensor, Settings, Source, SpdMux, Targets, Timing,
    keys::{self, Config, Device, Group, PostComplete},
    problem::Problems,
    value::{Celsius, List, ObjectPath, UnitName, Value, Whole},
};

/// IPMI's names are this long.
const IPMI_NAME: usize = 16;

/// The settings, and the warnings in `warnings`; all that is wrong goes to `problems`, and then the settings are
/// not to be used. Fills in what depends on other keys, so that `config` is the effective configuration.
pub(super) fn check(config: &mut Config, problems: &mut Problems, warnings: &mut Problems) -> Settings {
    fill_in(config);
    let hosts = Hosts::new(&config.hosts, problems);
    for (index, host) in config.hosts.iter() {
        check_host(host, &format!("hosts[{index}]"), problems, warnings);
    }
    check_muxes(&config.hosts, problems);
    check_buses(config, &hosts, problems, warnings);
    check_sensors(config, &hosts, problems, warnings);
    for (index, host) in config.hosts.iter() {
        if config.buses.whole && !config.buses.values().any(|bus| lists(bus, host.id.0)) {
            warnings.add(
                &format!("hosts[{index}]"),
                format!("no bus in \"buses\" carries DIMMs of host {}: nothing is kept off them", host.id.0),
                "list the buses of its DIMMs",
            );
        }
    }
    settings(config)
}

/// Defaults that depend on other keys.
fn fill_in(config: &mut Config) {
    let ids: Vec<_> = config.hosts.values().map(|host| host.id).collect();
    for (_, bus) in &mut config.buses.items {
        if bus.hosts.is_none() {
            bus.hosts = Some(ids.iter().copied().collect());
        }
    }
    if let ([only], true) = (ids.as_slice(), config.hosts.whole) {
        for (_, sensor) in &mut config.sensors.items {
            sensor.host = sensor.host.or(Some(*only));
        }
    }
}

fn lists(bus: &keys::Bus, host: u32) -> bool {
    bus.hosts.iter().flat_map(List::values).any(|id| id.0 == host)
}

/// The ids that may be referred to.
struct Hosts {
    ids: BTreeSet<u32>,
    whole: bool,
}

impl Hosts {
    fn new(hosts: &List<keys::Host>, problems: &mut Problems) -> Self {
        let mut ids = BTreeSet::new();
        for (index, host) in hosts.iter() {
            if !ids.insert(host.id.0) {
                let at = format!("hosts[{index}].id");
                problems.found(&at, &host.id.write(), "another host has this id", "give each its own");
            }
        }
        if hosts.whole && ids.is_empty() {
            problems.add("hosts", "there is no host", "give at least { \"id\": 0 }, or leave the key out");
        }
        Self { ids, whole: hosts.whole }
    }

    /// Whether there is such a host. Where one could not be read, it may have been that one.
    fn know(&self, id: u32) -> bool {
        self.ids.contains(&id) || !self.whole
    }

    fn told(&self) -> String {
        let ids: Vec<String> = self.ids.iter().map(u32::to_string).collect();
        format!("the ids in \"hosts\" are {}", ids.join(", "))
    }
}

fn check_host(host: &keys::Host, at: &str, problems: &mut Problems, warnings: &mut Problems) {
    let evidence = &host.evidence;
    let trusted = evidence.post_complete == PostComplete::Trusted;
    let unclear = problems.told(&format!("{at}.evidence.post_complete"));
    if evidence.s0_from_post_complete && !trusted && !unclear {
        problems.add(
            &format!("{at}.evidence.s0_from_post_complete"),
            "without a trusted POST complete it can never act",
            "set post_complete to \"trusted\" if the board's line is that, or this to false",
        );
    }
    if evidence.s2_from_power_on && !trusted && !unclear {
        warnings.add(
            &format!("{at}.evidence.s2_from_power_on"),
            "firmware that does not report S2, and no trusted POST complete: a warm reset that changes no D-Bus \
             property cannot be seen, and an administrator who Sets S0 during POST opens the gate",
            "wire POST complete and trust it, or use firmware that reports S2",
        );
    }

    let cap = host.timing.ack_cap_ms;
    if cap.0 > keys::ACK_CAP_MS && host.quiesce.whole && host.quiesce.items.is_empty() {
        problems.found(
            &format!("{at}.timing.ack_cap_ms"),
            &cap.write(),
            "a host must not wait this long unless units are quiesced meanwhile",
            format!("give at most {}, or list the units in quiesce", keys::ACK_CAP_MS),
        );
    }

    let targets = &host.targets;
    let named = [("s0", &targets.s0), ("s2", &targets.s2), ("s5", &targets.s5)];
    for (index, (key, unit)) in named.iter().enumerate() {
        let Some(unit) = unit else { continue };
        let same = |(_, earlier): &&(&str, &Option<UnitName>)| earlier.as_ref() == Some(unit);
        if let Some((earlier, _)) = named.iter().take(index).find(same) {
            problems.found(
                &format!("{at}.targets.{key}"),
                &unit.write(),
                format!("it is the target of {earlier} too, and could not be told apart from it"),
                "give each state a unit of its own",
            );
        }
    }

    let fans = &host.fans;
    let given = |list: &List<ObjectPath>| !list.whole || !list.items.is_empty();
    if given(&fans.zones) && !given(&fans.guard_sensors) {
        problems.add(
            &format!("{at}.fans.guard_sensors"),
            "holding the zones blinds fan control to everything else in them",
            "list the sensors whose critical alarm must then speed the fans up",
        );
    }
    if given(&fans.zones) != given(&fans.pwm) {
        let (missing, there) = if given(&fans.zones) { ("pwm", "zones") } else { ("zones", "pwm") };
        problems.add(
            &format!("{at}.fans.{missing}"),
            format!("{there} without {missing}: the fans cannot be held"),
            format!("list the {missing} as well, or no {there}"),
        );
    }
    if fans.stall_pwm < fans.s2_pwm {
        problems.found(
            &format!("{at}.fans.stall_pwm"),
            &fans.stall_pwm.write(),
            format!("it is below s2_pwm, {}", fans.s2_pwm.0),
            "give at least as much: it is for a boot that went wrong",
        );
    }
    check_twice(&fans.zones, &format!("{at}.fans.zones"), problems);
    check_twice(&fans.pwm, &format!("{at}.fans.pwm"), problems);
    check_twice(&fans.guard_sensors, &format!("{at}.fans.guard_sensors"), problems);
    check_twice(&host.quiesce, &format!("{at}.quiesce"), problems);
}

fn check_twice<T: Value + PartialEq>(list: &List<T>, at: &str, problems: &mut Problems) {
    for (place, (index, item)) in list.iter().enumerate() {
        if list.values().take(place).any(|earlier| earlier == item) {
            problems.found(&format!("{at}[{index}]"), &item.write(), "it is there twice", "keep one of them");
        }
    }
}

fn check_muxes(hosts: &List<keys::Host>, problems: &mut Problems) {
    let mut lines = BTreeSet::new();
    for (index, host) in hosts.iter() {
        let Some(mux) = &host.spd_mux else { continue };
        if !lines.insert(&mux.line) {
            let at = format!("hosts[{index}].spd_mux.line");
            problems.found(
                &at,
                &mux.line.write(),
                "another host's mux has this line",
                "give each host its own",
            );
        }
    }
}

fn check_buses(config: &Config, hosts: &Hosts, problems: &mut Problems, warnings: &mut Problems) {
    let mut numbers = BTreeSet::new();
    for (index, bus) in config.buses.iter() {
        let at = format!("buses[{index}]");
        if !numbers.insert(bus.bus) {
            problems.found(
                &format!("{at}.bus"),
                &bus.bus.write(),
                "this bus is there twice",
                "keep one, and list all its hosts there",
            );
        }
        if bus.timeout_ms.0 % 10 != 0 {
            problems.found(
                &format!("{at}.timeout_ms"),
                &bus.timeout_ms.write(),
                "the kernel counts in steps of ten",
                format!("give {} or {}", bus.timeout_ms.0 / 10 * 10, bus.timeout_ms.0.div_ceil(10) * 10),
            );
        }
        let caps = config.hosts.values().filter(|host| lists(bus, host.id.0));
        let shortest = caps.map(|host| host.timing.ack_cap_ms.0).min();
        if let Some(cap) = shortest.filter(|cap| bus.timeout_ms.0 >= *cap) {
            warnings.found(
                &format!("{at}.timeout_ms"),
                &bus.timeout_ms.write(),
                format!("a transfer may last longer than a host is kept waiting for it (ack_cap_ms, {cap})"),
                "give less",
            );
        }
        let Some(listed) = &bus.hosts else { continue };
        let used = !config.sensors.whole || config.sensors.values().any(|sensor| sensor.bus == Some(bus.bus));
        if listed.whole && listed.items.is_empty() && !used {
            warnings.add(
                &format!("{at}.hosts"),
                "no host is listed and no sensor is on it: this entry does nothing",
                format!("list those whose DIMMs it carries, or leave the bus out; {}", hosts.told()),
            );
        }
        for (place, id) in listed.iter().filter(|(_, id)| !hosts.know(id.0)) {
            problems.found(
                &format!("{at}.hosts[{place}]"),
                &id.write(),
                "there is no such host",
                hosts.told(),
            );
        }
        check_twice(listed, &format!("{at}.hosts"), problems);
    }
}

fn check_sensors(config: &Config, hosts: &Hosts, problems: &mut Problems, warnings: &mut Problems) {
    let mut names = BTreeSet::new();
    let mut places = BTreeMap::new();
    let mut paths = BTreeSet::new();
    for (index, sensor) in config.sensors.iter() {
        let at = format!("sensors[{index}]");
        let name = &sensor.name;
        if !names.insert(name) {
            problems.found(
                &format!("{at}.name"),
                &name.write(),
                "another sensor has this name",
                "give each its own, also those of different hosts",
            );
        }
        if name.0.len() > IPMI_NAME {
            warnings.found(
                &format!("{at}.name"),
                &name.write(),
                format!("IPMI shows {IPMI_NAME} characters of it"),
                "give a shorter one",
            );
        }
        match sensor.host {
            None if config.hosts.whole && !hosts.ids.is_empty() => {
                problems.missing(
                    &format!("{at}.host"),
                    "missing, and there is more than one host",
                    hosts.told(),
                );
            }
            Some(id) if !hosts.know(id.0) => {
                problems.found(&format!("{at}.host"), &id.write(), "there is no such host", hosts.told());
            }
            Some(_) | None => {}
        }
        check_source(config, hosts, sensor, &at, problems);
        check_channel(sensor, &at, problems);
        if let (Some(bus), Some(address)) = (sensor.bus, sensor.address) {
            let here: &mut Vec<_> = places.entry((bus, address.0)).or_default();
            let at = format!("{at}.address");
            if here.iter().any(|(device, _)| *device != sensor.device) {
                let wrong = format!("another sensor on bus {} has another device at this address", bus.0);
                problems.found(&at, &address.write(), wrong, "correct the address or the device of one");
            } else if here.contains(&(sensor.device, channel(sensor))) {
                let one_only = channels(sensor.device).is_none();
                let remedy =
                    if one_only { "give each its own" } else { "give each its own, or another channel" };
                let wrong = format!("another sensor on bus {} has this address", bus.0);
                problems.found(&at, &address.write(), wrong, remedy);
            }
            here.push((sensor.device, channel(sensor)));
        }
        if let Some(path) = &sensor.path
            && !paths.insert(path)
        {
            problems.found(
                &format!("{at}.path"),
                &path.write(),
                "another sensor reads this file",
                "give each its own",
            );
        }
        check_limits(sensor, &at, problems);
    }
}

/// Where it is read: a bus and an address, or a file.
fn check_source(config: &Config, hosts: &Hosts, sensor: &keys::Sensor, at: &str, problems: &mut Problems) {
    if let Some(path) = &sensor.path {
        if sensor.device != Device::Hwmon {
            let wrong = format!("a {} is not read from a file", sensor.device.word());
            problems.found(
                &format!("{at}.path"),
                &path.write(),
                wrong,
                "give bus and address, or device \"hwmon\"",
            );
        } else if sensor.bus.is_some() || sensor.address.is_some() {
            problems.found(
                &format!("{at}.path"),
                &path.write(),
                "a file and an address cannot both be right",
                "give path, or bus and address",
            );
        }
        return;
    }
    if problems.told(&format!("{at}.path")) {
        return;
    }
    let or_path = if sensor.device == Device::Hwmon { ", or a path in place of bus and address" } else { "" };
    match sensor.bus {
        None => problems.missing(
            &format!("{at}.bus"),
            "missing",
            format!("give the number of a bus in \"buses\"{or_path}"),
        ),
        Some(number) => match config.buses.values().find(|bus| bus.bus == number) {
            None if config.buses.whole => problems.found(
                &format!("{at}.bus"),
                &number.write(),
                "this bus is not guarded",
                "list it in \"buses\"",
            ),
            Some(bus) if sensor.group != Group::Thermal => {
                let whole = bus.hosts.as_ref().is_some_and(|hosts| hosts.whole);
                if let Some(id) = sensor.host.filter(|id| whole && hosts.know(id.0) && !lists(bus, id.0)) {
                    problems.found(
                        &format!("{at}.bus"),
                        &number.write(),
                        format!("this bus does not list host {}, to which the sensor belongs", id.0),
                        "add the host to the bus, or correct the sensor's host",
                    );
                }
            }
            Some(_) | None => {}
        },
    }
    // JEDEC TSE2004av and SPD5118: the rest of the address is fixed.
    let range = match sensor.device {
        Device::Jc42 => Some((0x18, 0x1f)),
        Device::Spd5118 => Some((0x50, 0x57)),
        Device::Sbtsi | Device::Tmp75 | Device::Lm75 | Device::Tmp421 | Device::Pmbus | Device::Hwmon => None,
    };
    match (sensor.address, range) {
        (None, _) => problems.missing(
            &format!("{at}.address"),
            "missing",
            format!("give its address on the bus, as \"0x18\"{or_path}"),
        ),
        (Some(address), Some((first, last))) if !(first..=last).contains(&address.0) => problems.found(
            &format!("{at}.address"),
            &address.write(),
            format!("no {} is there", sensor.device.word()),
            format!("give \"{first:#x}\" to \"{last:#x}\""),
        ),
        (Some(_), _) => {}
    }
}

/// The channels that such a device may have; the first is what `null` means.
const fn channels(device: Device) -> Option<(u32, u32)> {
    match device {
        Device::Tmp421 => Some((0, 3)),
        Device::Pmbus => Some((1, 3)),
        Device::Hwmon => Some((1, 32)),
        Device::Jc42 | Device::Spd5118 | Device::Sbtsi | Device::Tmp75 | Device::Lm75 => None,
    }
}

/// The channel that is read.
fn channel(sensor: &keys::Sensor) -> u32 {
    let first = channels(sensor.device).map_or(0, |(first, _)| first);
    sensor.channel.map_or(first, |channel| channel.0)
}

fn check_channel(sensor: &keys::Sensor, at: &str, problems: &mut Problems) {
    let Some(given) = sensor.channel else { return };
    let at = format!("{at}.channel");
    match channels(sensor.device) {
        None => problems.found(
            &at,
            &given.write(),
            format!("a {} has one sensor only", sensor.device.word()),
            "leave it out",
        ),
        Some(_) if sensor.path.is_some() => problems.found(
            &at,
            &given.write(),
            "a file is one sensor only",
            "leave it out, or give bus and address in place of path",
        ),
        Some((first, last)) if !(first..=last).contains(&given.0) => problems.found(
            &at,
            &given.write(),
            format!("no {} has such a channel", sensor.device.word()),
            format!("give {first} to {last}"),
        ),
        Some(_) => {}
    }
}

/// The order is critical low, warning low, warning high, critical high.
fn check_limits(sensor: &keys::Sensor, at: &str, problems: &mut Problems) {
    let (warning, critical) = (&sensor.warning, &sensor.critical);
    let order = [
        ("critical.low", critical.low),
        ("warning.low", warning.low),
        ("warning.high", warning.high),
        ("critical.high", critical.high),
    ];
    let mut given = order.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let Some(mut below) = given.next() else { return };
    for (key, value) in given {
        let (below_key, below_value): (&str, Celsius) = below;
        if value <= below_value {
            problems.found(
                &format!("{at}.{key}"),
                &value.write(),
                format!("it is not above {below_key}, {}", below_value.0),
                "the order is critical.low, warning.low, warning.high, critical.high",
            );
        }
        below = (key, value);
    }
}

fn settings(config: &Config) -> Settings {
    let sensors: Vec<Sensor> = config.sensors.values().filter_map(sensor).collect();
    let hosts = config.hosts.values().map(|host| {
        let has_dimms = sensors.iter().any(|s| s.host == host.id.0 && s.group == Group::Dimm);
        Host { has_dimms, ..Host::from(host) }
    });
    let buses = config.buses.values().map(|bus| Bus {
        bus: bus.bus.0,
        hosts: bus.hosts.iter().flat_map(List::values).map(|id| id.0).collect(),
        timeout: millis(bus.timeout_ms),
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

pub(super) fn millis<const MIN: u32, const MAX: u32>(value: Whole<MIN, MAX>) -> Duration {
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

impl From<&keys::Host> for Host {
    /// `has_dimms` is the sensors' to say.
    fn from(host: &keys::Host) -> Self {
        let paths = |list: &List<ObjectPath>| list.values().map(|path| path.0.clone()).collect();
        Self {
            id: host.id.0,
            evidence: Evidence {
                post_complete_trusted: host.evidence.post_complete == PostComplete::Trusted,
                s0_from_post_complete: host.evidence.s0_from_post_complete,
                s2_from_power_on: host.evidence.s2_from_power_on,
                host_off_is_off: host.evidence.host_off_is_off,
            },
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
        }
    }
}

impl Timing {
    pub(super) fn new(timing: &keys::Timing, fans: &keys::Fans) -> Self {
        Self {
            ack_cap: millis(timing.ack_cap_ms),
            settle: timing.settle.0,
            reset_confirm: timing.reset_confirm.0,
            host_off: timing.host_off.0,
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
    /// Design 3.6, where a name is not given.
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
