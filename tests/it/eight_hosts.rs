// SPDX-License-Identifier: Apache-2.0
//! Eight hosts in one process, in random cycles: 1,000 transitions, and what one host does is seen at no other. Each has its power
//! control, its fan zone, its boot progress and its units.

use crate::support::{
    peer::{Key, Peer, key},
    private_bus::PrivateBus,
    rig::{NAME, PROPERTIES, Rig},
};
use acpi_stated::{
    config::{Host, Settings},
    logic::acpi::{AcpiState, StateKind},
};
use zbus::{Connection, Variant};

const HOSTS: usize = 8;
const IDS: [u32; HOSTS] = [0, 1, 2, 3, 4, 5, 6, 7];
const TRANSITIONS: usize = 1000;
const CONTROL: &str = "xyz.openbmc_project.State.FanCtrl";
const SENSORS: &str = "xyz.openbmc_project.FanSensor";
const SYSTEMD: &str = "org.freedesktop.systemd1";

fn zone(host: usize) -> String {
    format!("/xyz/openbmc_project/settings/fanctrl/zone{host}")
}

fn pwm(host: usize) -> String {
    format!("/xyz/openbmc_project/control/fanpwm/Pwm_{host}")
}

fn manual(host: usize) -> Key {
    key(&zone(host), "xyz.openbmc_project.Control.Mode", "Manual")
}

fn target(host: usize) -> Key {
    key(&pwm(host), "xyz.openbmc_project.Control.FanPwm", "Target")
}

fn chassis(host: usize) -> Key {
    let path = format!("/xyz/openbmc_project/state/chassis{host}");
    key(&path, "xyz.openbmc_project.State.Chassis", "CurrentPowerState")
}

fn chassis_is(on: bool) -> Variant<'static> {
    let value = if on { "On" } else { "Off" };
    Variant::from(format!("xyz.openbmc_project.State.Chassis.PowerState.{value}"))
}

fn state_path(host: usize) -> String {
    format!("/xyz/openbmc_project/state/host{host}")
}

fn progress(host: usize) -> Key {
    key(&state_path(host), "xyz.openbmc_project.State.Boot.Progress", "BootProgress")
}

fn path(host: usize) -> String {
    format!("/xyz/openbmc_project/control/host{host}/acpi_power_state")
}

/// Small, and the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // Numerical Recipes' LCG; its high bits are good enough to choose what happens next.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % sides
    }
}

/// What a host should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Expected {
    state: AcpiState,
    on: bool,
}

impl Expected {
    fn unit(self, host: usize) -> Option<String> {
        let state = match self.state.kind() {
            _ if !self.on => "s5",
            StateKind::Working => "s0",
            StateKind::Post => "s2",
            StateKind::OffLike => "s5",
            StateKind::Sleep | StateKind::Unknown => return None,
        };
        Some(format!("host-{state}-state@{host}.target"))
    }
}

async fn read(client: &Connection, host: usize) -> String {
    let arguments = (NAME, "SysACPIStatus");
    let reply =
        client.call_method(Some(NAME), path(host).as_str(), Some(PROPERTIES), "Get", &arguments).await;
    let reply = reply.expect("a Get");
    let body = reply.body();
    let value: Variant<'_> = body.deserialize().expect("a variant");
    let text: &str = value.downcast_ref().expect("a string");
    text.rsplit('.').next().unwrap_or_default().to_owned()
}

async fn write(client: &Connection, host: usize, state: AcpiState) {
    let arguments = (NAME, "SysACPIStatus", Variant::from(state.dbus()));
    client
        .call_method(Some(NAME), path(host).as_str(), Some(PROPERTIES), "Set", &arguments)
        .await
        .expect("a Set");
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one thing after another")]
async fn a_thousand_transitions_without_cross_talk() {
    let bus = PrivateBus::start().expect("a private bus");
    let address = bus.address().to_owned();
    let mut values = Vec::new();
    let mut names =
        vec!["xyz.openbmc_project.State.Host".to_owned(), "xyz.openbmc_project.State.Chassis".to_owned()];
    for host in 0..HOSTS {
        values.push((chassis(host), chassis_is(false)));
        let running = Variant::from("xyz.openbmc_project.State.Host.HostState.Running");
        values.push((key(&state_path(host), "xyz.openbmc_project.State.Host", "CurrentHostState"), running));
        let none = Variant::from("xyz.openbmc_project.State.Boot.Progress.ProgressStages.Unspecified");
        values.push((progress(host), none));
        names.push(format!("xyz.openbmc_project.State.Host{host}"));
        names.push(format!("xyz.openbmc_project.State.Chassis{host}"));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let power = Peer::start(&address, &names, values).await;
    let manuals = (0..HOSTS).map(|host| (manual(host), Variant::Bool(false)));
    let control = Peer::start(&address, &[CONTROL], manuals).await;
    let targets = (0..HOSTS).map(|host| (target(host), Variant::U64(90)));
    let sensors = Peer::start(&address, &[SENSORS], targets).await;
    let systemd = Peer::start(&address, &[SYSTEMD], []).await;
    let mapper = Peer::mapper(&address, &[]).await;
    for host in 0..HOSTS {
        mapper.knows(&[
            (&zone(host), CONTROL),
            (&pwm(host), SENSORS),
            (&state_path(host), "xyz.openbmc_project.State.Host"),
        ]);
    }
    let rig = Rig::on(bus, 1, |settings: &mut Settings| {
        settings.buses.clear();
        settings.hosts = IDS.map(Host::new).into();
        settings.buses.push(acpi_stated::config::Bus::new(3, vec![0]));
        for (host, of) in settings.hosts.iter_mut().enumerate() {
            of.write_boot_progress = true;
            of.fans.zones = vec![zone(host)];
            of.fans.pwm = vec![pwm(host)];
            // Each host's own speed.
            of.fans.s2_pwm = 100 + IDS[host];
        }
    })
    .await;
    let client = &rig.client;
    for host in 0..HOSTS {
        rig.until("it is off", async || read(client, host).await == "S5_G2").await;
    }

    // Hosts that were never seen to stand still would be taken for those of a power service that has just started.
    for host in 0..HOSTS {
        for value in ["Off", "Running"] {
            let value = Variant::from(format!("xyz.openbmc_project.State.Host.HostState.{value}"));
            let property = key(&state_path(host), "xyz.openbmc_project.State.Host", "CurrentHostState");
            power.change(property, value).await;
        }
    }

    let mut expected = [Expected { state: AcpiState::S5G2, on: false }; HOSTS];
    let mut dice = Dice(20_261_122);
    let mut transitions = 0;
    let mut turns = 0;
    while transitions < TRANSITIONS {
        turns += 1;
        assert!(turns < 5 * TRANSITIONS, "the dice are loaded");
        let host = dice.roll(HOSTS);
        let of = &mut expected[host];
        let before = of.state;
        match dice.roll(5) {
            0 => {
                of.on = !of.on;
                match (of.on, of.state.kind()) {
                    (false, StateKind::Working | StateKind::Post | StateKind::Unknown) => {
                        of.state = AcpiState::S5G2;
                    }
                    (true, StateKind::Working | StateKind::Sleep | StateKind::OffLike) => {
                        of.state = AcpiState::S2D2;
                    }
                    (false, StateKind::OffLike | StateKind::Sleep)
                    | (true, StateKind::Post | StateKind::Unknown) => {}
                }
                power.change(chassis(host), chassis_is(of.on)).await;
            }
            1 | 2 => {
                of.state = AcpiState::S2D2;
                write(client, host, of.state).await;
            }
            3 => {
                of.state = AcpiState::S0G0D0;
                write(client, host, of.state).await;
            }
            _ => {
                of.state = AcpiState::ALL[dice.roll(AcpiState::ALL.len())];
                write(client, host, of.state).await;
            }
        }
        transitions += usize::from(before != of.state);
        let wanted = of.state.name();
        rig.until(&format!("host{host} is {wanted}"), async || read(client, host).await == wanted).await;
        for (other, of) in expected.iter().enumerate() {
            assert_eq!(read(client, other).await, of.state.name(), "host{other}, as host{host} changed");
        }
    }

    // What follows, for each host by itself: its units, its fans, its progress.
    for (host, of) in expected.iter().enumerate() {
        if let Some(unit) = of.unit(host) {
            let suffix = format!("@{host}.target");
            let last = async || {
                let calls = systemd.calls();
                let mut own = calls.iter().filter_map(|(_, strings)| strings.first());
                own.rfind(|name| name.ends_with(&suffix)) == Some(&unit)
            };
            rig.until(&format!("the last unit of host{host} is {unit}"), last).await;
        }
        let in_post = of.on && of.state == AcpiState::S2D2;
        if in_post || !of.on {
            let is = async || control.value(&manual(host)) == in_post.to_string();
            rig.until(&format!("host{host} is held: {in_post}"), is).await;
        }
    }
    // Each zone's fans were only ever driven at their own host's speeds (stall_pwm is everybody's).
    for set in sensors.sets() {
        let (name, value) = set.split_once(" Target=").expect("a Target");
        let host: u64 = name.trim_start_matches("Pwm_").parse().expect("a number");
        let speed: u64 = value.parse().expect("a speed");
        assert!(speed == 100 + host || speed == 255, "{set}");
    }
    // And every host's power-off in this run wrote its own progress back.
    for (host, of) in expected.iter().enumerate() {
        if !of.on {
            let is = async || power.value(&progress(host)) == "Unspecified";
            rig.until(&format!("the progress of host{host} is back"), is).await;
        }
    }
}
