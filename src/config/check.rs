// SPDX-License-Identifier: Apache-2.0
//! From what the file says to what the daemon works with: the rules between keys, and the warnings.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    json::Json,
    keys::{self, BootProgress, Config, Device, Group, PostComplete, SpdPage},
    problem::Problems,
    settings::{Settings, settings},
    value::{Celsius, List, ObjectPath, UnitName, Value},
};

/// More buses than a BMC has with all its muxes; each may be a thread.
const MOST_BUSES: usize = 256;
/// More files than anybody looks at. They share a few threads, but each step of the event loop looks at all.
const MOST_FILES: usize = 256;
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
    check_believed(&config.hosts, warnings);
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
    check_evidence(&host.evidence, at, problems, warnings);
    let cap = host.timing.ack_cap_ms;
    if cap.0 > keys::ACK_CAP_MS && host.quiesce.whole && host.quiesce.items.is_empty() {
        problems.found(
            &format!("{at}.timing.ack_cap_ms"),
            &cap.write(),
            "a host must not wait this long unless units are quiesced meanwhile",
            format!("give at most {}, or list the units in quiesce", keys::ACK_CAP_MS),
        );
    }
    check_min_post(&host.timing, at, problems);
    check_targets(&host.targets, at, problems);
    check_fans(&host.fans, at, problems);
    check_twice(&host.quiesce, &format!("{at}.quiesce"), problems);
}

fn check_evidence(evidence: &keys::Evidence, at: &str, problems: &mut Problems, warnings: &mut Problems) {
    let trusted = evidence.post_complete == PostComplete::Trusted;
    let unclear = problems.told(&format!("{at}.evidence.post_complete"));
    if evidence.s0_from_post_complete && !trusted && !unclear {
        problems.add(
            &format!("{at}.evidence.s0_from_post_complete"),
            "without a trusted POST complete it can never act",
            "set post_complete to \"trusted\" if the board's line is that, or this to false",
        );
    }
    let ignored = evidence.boot_progress == Some(BootProgress::Ignored);
    if ignored && evidence.post_codes.done.items.is_empty() && !trusted && !unclear {
        warnings.add(
            &format!("{at}.evidence.boot_progress"),
            "neither boot progress, nor POST complete, nor a POST code is believed: unless firmware reports S2, a warm \
             reset that changes no D-Bus property cannot be seen, and an administrator who Sets S0 during POST opens \
             the gate",
            "trust POST complete where it is wired, name the POST code with which POST ends, or use firmware that reports S2",
        );
    }
    check_twice(&evidence.post_codes.began, &format!("{at}.evidence.post_codes.began"), problems);
    check_twice(&evidence.post_codes.done, &format!("{at}.evidence.post_codes.done"), problems);
    for (index, code) in evidence.post_codes.done.iter() {
        if evidence.post_codes.began.values().any(|other| other == code) {
            problems.found(
                &format!("{at}.evidence.post_codes.done[{index}]"),
                &code.write(),
                "the same code is among those that say that the firmware has begun",
                "take it out of one of the lists",
            );
        }
    }
}

/// No working state that is reported within `min_post` opens anything, so one that is as long as a boot may take is no time of a boot.
fn check_min_post(timing: &keys::Timing, at: &str, problems: &mut Problems) {
    let unclear = ["min_post", "deadline"].iter().any(|key| problems.told(&format!("{at}.timing.{key}")));
    if timing.min_post.0 >= timing.deadline.0 && !unclear {
        problems.found(
            &format!("{at}.timing.min_post"),
            &timing.min_post.write(),
            format!(
                "it is not below deadline, {} s: every report would be too early",
                timing.deadline.0.as_secs_f64()
            ),
            "give what is below the host's fastest boot",
        );
    }
}

/// phosphor-host-ipmid knows which host a code came from, and does not use it (`sbmrhandler.cpp`, `getDbusObject`).
fn check_believed(hosts: &List<keys::Host>, warnings: &mut Problems) {
    let believed =
        |host: &&(usize, &keys::Host)| host.1.evidence.boot_progress == Some(BootProgress::Believed);
    let all: Vec<_> = hosts.iter().collect();
    for (index, host) in all.iter().filter(believed).skip(1) {
        warnings.add(
            &format!("hosts[{index}].evidence.boot_progress"),
            format!(
                "it is believed of another host too: phosphor-host-ipmid's sbmrhandler writes the boot progress and the codes of \
                 every host to the first object, so that host {}'s would be taken for another's",
                host.id.0
            ),
            "believe it only where a board's own service keeps the hosts apart",
        );
    }
}

fn check_targets(targets: &keys::Targets, at: &str, problems: &mut Problems) {
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
}

fn check_fans(fans: &keys::Fans, at: &str, problems: &mut Problems) {
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
    for (place, (index, bus)) in config.buses.iter().enumerate() {
        let at = format!("buses[{index}]");
        // Told once.
        if place == MOST_BUSES {
            let wrong = format!("it is one of more than {MOST_BUSES} buses");
            problems.found(&format!("{at}.bus"), &bus.bus.write(), wrong, "list those of the DIMMs");
        }
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
        check_spd_page(config, bus, &at, warnings);
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

fn check_spd_page(config: &Config, bus: &keys::Bus, at: &str, warnings: &mut Problems) {
    // A hub that is read in POST too may not be written to then, and so is never written to.
    let hub = |sensor: &keys::Sensor| {
        sensor.bus == Some(bus.bus) && sensor.device == Device::Spd5118 && sensor.group != Group::Thermal
    };
    if bus.spd_page == SpdPage::Reset && config.sensors.whole && !config.sensors.values().any(hub) {
        warnings.found(
            &format!("{at}.spd_page"),
            &bus.spd_page.write(),
            "no spd5118 in the group dimm or s0 is on this bus: no page is selected here",
            "leave it out",
        );
    }
}

fn check_sensors(config: &Config, hosts: &Hosts, problems: &mut Problems, warnings: &mut Problems) {
    let mut names = BTreeSet::new();
    let mut places = BTreeMap::new();
    let mut paths = BTreeSet::new();
    let mut files = 0;
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
            check_neighbours(here, sensor, (bus.0, &address.write()), &format!("{at}.address"), problems);
            here.push((sensor.device, channel(sensor)));
        }
        if let Some(path) = &sensor.path {
            let at = format!("{at}.path");
            files += 1;
            // Told once.
            if files == MOST_FILES + 1 {
                let wrong = format!("it is one of more than {MOST_FILES} files");
                problems.found(&at, &path.write(), wrong, "leave out those that nobody looks at");
            }
            if !paths.insert(path) {
                problems.found(&at, &path.write(), "another sensor reads this file", "give each its own");
            }
        }
        check_limits(sensor, &at, problems);
    }
}

/// The sensors that share its address on its bus, as device and channel.
fn check_neighbours(
    here: &[(Device, u32)],
    sensor: &keys::Sensor,
    (bus, address): (u32, &Json),
    at: &str,
    problems: &mut Problems,
) {
    if here.iter().any(|(device, _)| *device != sensor.device) {
        let wrong = format!("another sensor on bus {bus} has another device at this address");
        problems.found(at, address, wrong, "correct the address or the device of one");
    } else if here.contains(&(sensor.device, channel(sensor))) {
        let one_only = channels(sensor.device).is_none();
        let remedy = if one_only { "give each its own" } else { "give each its own, or another channel" };
        problems.found(at, address, format!("another sensor on bus {bus} has this address"), remedy);
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
    check_bus(config, hosts, sensor, or_path, at, problems);
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

fn check_bus(
    config: &Config,
    hosts: &Hosts,
    sensor: &keys::Sensor,
    or_path: &str,
    at: &str,
    problems: &mut Problems,
) {
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
