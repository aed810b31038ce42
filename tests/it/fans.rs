// SPDX-License-Identifier: Apache-2.0
//! The DIMM fans on a real bus, with a fan control that follows openbmc 4.1 and 4.2: Manual has no dead-man, is lost at a reload and at
//! a restart. It may be absent, come later, answer errors or never; a host is answered in time all the same.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{
    keys::{GUARD, PWM, ZONE, alarm, manual, target},
    peer::{Manners, Peer, key},
    power::PowerDouble,
    private_bus::PrivateBus,
    rig::{self, PATIENCE, Rig, connect, set},
};
use acpi_stated::config::Settings;
use zbus::Variant;

const CONTROL: &str = "xyz.openbmc_project.State.FanCtrl";
const SENSORS: &str = "xyz.openbmc_project.FanSensor";

fn configure(settings: &mut Settings) {
    for host in &mut settings.hosts {
        host.fans.zones = vec![ZONE.to_owned()];
        host.fans.pwm = vec![PWM.to_owned()];
        host.fans.guard_sensors = vec![GUARD.to_owned()];
    }
}

async fn control(address: &str) -> Peer {
    Peer::start(address, &[CONTROL], [(manual(), Variant::Bool(false))]).await
}

/// A bus with a mapper, the fans' owner, fan control, a power control that says Running, and the daemon.
struct World {
    rig: Rig,
    control: Option<Peer>,
    sensors: Peer,
    mapper: Peer,
    _power: PowerDouble,
}

impl World {
    async fn start(with_control: bool) -> Self {
        let bus = PrivateBus::start().expect("a private bus");
        let address = bus.address().to_owned();
        let objects = [(ZONE, CONTROL), (PWM, SENSORS), (GUARD, SENSORS)];
        let known = if with_control { &objects[..] } else { &objects[1..] };
        let mapper = Peer::mapper(&address, known).await;
        let values = [(target(), Variant::U64(90)), (alarm(), Variant::Bool(false))];
        let sensors = Peer::start(&address, &[SENSORS], values).await;
        let control = if with_control { Some(control(&address).await) } else { None };
        let power = PowerDouble::start(&address, "On", "Running", "").await.expect("a power control");
        let rig = Rig::on(bus, 1000, configure).await;
        Self { rig, control, sensors, mapper, _power: power }
    }

    fn control(&self) -> &Peer {
        self.control.as_ref().expect("there is one")
    }

    fn is_manual(&self) -> bool {
        self.control.as_ref().is_some_and(|control| control.value(&manual()) == "true")
    }

    /// Waits until the fans are held at this speed.
    async fn held_at(&self, speed: &str) {
        self.rig
            .until(&format!("held at {speed}"), async || {
                self.is_manual() && self.sensors.value(&target()) == speed
            })
            .await;
    }

    async fn free(&self) {
        self.rig.until("free", async || !self.is_manual()).await;
    }
}

#[tokio::test]
async fn held_in_post_and_given_back_when_the_gate_is_open() {
    let world = World::start(true).await;
    world.rig.open().await;
    world.free().await;
    world.rig.set("S2_D2").await;
    world.held_at("160").await;
    assert_eq!(world.sensors.take_sets().first().map(String::as_str), Some("Pwm_1 Target=160"));
    world.rig.open().await;
    world.free().await;
}

#[tokio::test]
async fn manual_comes_back_after_a_drop_a_reload_and_a_restart() {
    let mut world = World::start(true).await;
    world.rig.set("S2_D2").await;
    world.held_at("160").await;

    world.control().change(manual(), Variant::Bool(false)).await;
    world.held_at("160").await;

    // A reload builds the zones anew; nobody says that Manual changed.
    world.control().change_silently(manual(), &Variant::Bool(false));
    world.control().announce(ZONE).await;
    world.held_at("160").await;

    drop(world.control.take());
    world.control = Some(control(world.rig.bus.address()).await);
    world.held_at("160").await;

    // A report of S2 again asserts all of it again.
    world.sensors.change_silently(target(), &Variant::U64(30));
    world.rig.set("S2_D2").await;
    world.held_at("160").await;
}

#[tokio::test]
async fn at_the_deadline_and_at_a_guards_alarm_the_fans_go_up() {
    let world = World::start(true).await;
    world.rig.set("S2_D2").await;
    // 30 min on this clock.
    world.held_at("255").await;

    let world = World::start(true).await;
    world.rig.set("S2_D2").await;
    world.held_at("160").await;
    world.sensors.change(alarm(), Variant::Bool(true)).await;
    world.held_at("255").await;
    assert!(!world.rig.diagnoses().await.contains(&"StuckInPost".to_owned()), "it was the alarm");
}

/// Rules 3.1: coming from a working state never below the Target that was found.
#[tokio::test]
async fn never_below_what_was_found() {
    let world = World::start(true).await;
    world.rig.open().await;
    world.free().await;
    world.sensors.change(target(), Variant::U64(200)).await;
    world.rig.set("S2_D2").await;
    world.held_at("200").await;
}

#[tokio::test]
async fn fan_control_that_comes_later_is_taken_then() {
    let mut world = World::start(false).await;
    world.rig.set("S2_D2").await;
    world.mapper.knows(&[(ZONE, CONTROL)]);
    let control = control(world.rig.bus.address()).await;
    control.announce(ZONE).await;
    world.control = Some(control);
    world.held_at("160").await;
}

/// The Set is answered within `ack_cap` and the gate is closed, whatever fan control does.
#[tokio::test]
async fn fan_control_that_misbehaves_holds_up_no_host() {
    for manners in [Manners::Errors, Manners::Silent] {
        let world = World::start(true).await;
        world.rig.open().await;
        world.control().mind(manners);
        world.sensors.mind(manners);
        world.mapper.mind(manners);
        for _ in 0..5 {
            let watch = world.rig.watch();
            world.rig.set("S2_D2").await;
            let taken = watch.taken();
            assert!(taken < Duration::from_millis(250), "{manners:?}: {taken:?}");
            assert!(!world.rig.is_open());
            world.rig.open().await;
        }
        world.control().mind(Manners::Good);
        world.sensors.mind(Manners::Good);
        world.rig.set("S2_D2").await;
        world.held_at("160").await;
    }
}

#[tokio::test]
async fn a_zone_that_does_not_keep_manual_is_not_driven() {
    let world = World::start(true).await;
    // Before anything else: on a slow machine the zone is held while the gate is still to open.
    world.control().mind(Manners::Stubborn);
    world.rig.open().await;
    world.control().take_sets();
    world.rig.set("S2_D2").await;
    world.rig.until("it was tried", async || !world.control().sets().is_empty()).await;
    world.rig.open().await;
    assert_eq!(world.sensors.take_sets(), Vec::<String>::new());
}

#[tokio::test]
async fn an_orderly_end_gives_the_fans_back() {
    let mut world = World::start(true).await;
    world.rig.set("S2_D2").await;
    world.held_at("160").await;
    world.rig.ask_to_stop();
    world.free().await;
}

// ---- The real program, killed -----------------------------------------------------------------------

struct Program {
    child: Child,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

struct Places {
    directory: PathBuf,
}

impl Places {
    fn new(bus: &PrivateBus) -> Self {
        let directory = bus.dir().join("daemon");
        fs::create_dir_all(directory.join("run")).expect("a directory");
        let fans = format!(
            r#"{{ "hosts": [{{ "id": 0, "fans": {{ "zones": ["{ZONE}"], "pwm": ["{PWM}"], "guard_sensors": ["{GUARD}"] }} }}] }}"#
        );
        fs::write(directory.join("config.json"), fans).expect("a configuration");
        Self { directory }
    }

    fn command(&self, bus: &PrivateBus) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_acpi-stated"));
        command
            .args(["--bus", bus.address(), "--config"])
            .arg(self.directory.join("config.json"))
            .env("RUNTIME_DIRECTORY", self.directory.join("run"))
            .env("STATE_DIRECTORY", self.directory.join("state"))
            .env_remove("JOURNAL_STREAM")
            .stderr(Stdio::null());
        command
    }

    fn held(&self) -> PathBuf {
        self.directory.join("run/fans-held")
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A bus, and a program on it that holds the fans.
async fn holding() -> (PrivateBus, Places, Program, Peer, Vec<Peer>) {
    let bus = PrivateBus::start().expect("a private bus");
    let objects = [(ZONE, CONTROL), (PWM, SENSORS), (GUARD, SENSORS)];
    let mapper = Peer::mapper(bus.address(), &objects).await;
    let values = [(target(), Variant::U64(90)), (alarm(), Variant::Bool(false))];
    let sensors = Peer::start(bus.address(), &[SENSORS], values).await;
    let fan_control = control(bus.address()).await;
    let places = Places::new(&bus);
    let child = places.command(&bus).spawn().expect("the program");
    let program = Program { child };
    let client = connect(bus.address()).await;
    let begin = Instant::now();
    // Two values: before the object is there nobody answers.
    while client
        .call_method(Some(rig::NAME), rig::PATH, Some(rig::PROPERTIES), "Get", &(rig::NAME, "SysACPIStatus"))
        .await
        .is_err()
    {
        assert!(begin.elapsed() < PATIENCE, "the program serves");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let power = [
        (
            key(
                "/xyz/openbmc_project/state/chassis0",
                "xyz.openbmc_project.State.Chassis",
                "CurrentPowerState",
            ),
            Variant::from("xyz.openbmc_project.State.Chassis.PowerState.On"),
        ),
        (
            key("/xyz/openbmc_project/state/host0", "xyz.openbmc_project.State.Host", "CurrentHostState"),
            Variant::from("xyz.openbmc_project.State.Host.HostState.Running"),
        ),
    ];
    let names = ["xyz.openbmc_project.State.Chassis0", "xyz.openbmc_project.State.Host0"];
    let power = Peer::start(bus.address(), &names, power).await;
    set(&client, "S2_D2").await;
    until("held", || fan_control.value(&manual()) == "true" && sensors.value(&target()) == "160").await;
    assert!(places.held().exists(), "it is written down");
    (bus, places, program, fan_control, vec![mapper, sensors, power])
}

#[tokio::test]
async fn what_a_killed_daemon_held_exec_stop_post_gives_back() {
    let (bus, places, program, control, _others) = holding().await;
    drop(program);
    assert_eq!(control.value(&manual()), "true", "Manual has no dead-man");
    let mut release = places.command(&bus);
    release.arg("--release");
    // The doubles answer meanwhile.
    let released = tokio::task::spawn_blocking(move || release.status()).await;
    let released = released.expect("it ends").expect("the program");
    assert!(released.success());
    assert_eq!(control.value(&manual()), "false");
    assert!(!places.held().exists());
    // Nothing to do is nothing done, and no bus is needed for it.
    let mut again = places.command(&bus);
    drop(bus);
    assert!(again.arg("--release").status().expect("the program").success());
}

#[tokio::test]
async fn what_a_killed_daemon_held_the_next_one_gives_back() {
    let (bus, places, program, control, _others) = holding().await;
    drop(program);
    // In the next life the host works, and nothing holds the fans: the state on storage says so.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
    for directory in ["run", "state"] {
        let file = places.directory.join(directory).join("host0");
        let body = format!("acpi-stated-1 S0_G0_D0 clear {} ", boot.trim());
        fs::write(file, format!("{body}{:08x}\n", crc32(body.as_bytes()))).expect("a state");
    }
    let _program = Program { child: places.command(&bus).spawn().expect("the program") };
    until("free", || control.value(&manual()) == "false").await;
    until("forgotten", || !places.held().exists()).await;
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// Each of five zones has a service that never answers; the one behind them is given back all the same, and the end is not five times as far.
#[tokio::test]
async fn zones_that_nobody_answers_for_are_given_up_all_at_once() {
    const SILENT: &str = "xyz.openbmc_project.State.FanCtrl.Silent";
    let bus = PrivateBus::start().expect("a private bus");
    let zones: Vec<String> =
        (1..6).map(|zone| format!("/xyz/openbmc_project/settings/fanctrl/a{zone}")).collect();
    let mut objects: Vec<_> = zones.iter().map(|zone| (zone.as_str(), SILENT)).collect();
    objects.push((ZONE, CONTROL));
    let _mapper = Peer::mapper(bus.address(), &objects).await;
    let silent = Peer::start(bus.address(), &[SILENT], []).await;
    silent.mind(Manners::Silent);
    let control = Peer::start(bus.address(), &[CONTROL], [(manual(), Variant::Bool(true))]).await;
    let places = Places::new(&bus);
    let list = |zones: &[String]| zones.join("\n") + "\n";
    fs::write(places.held(), list(&[zones.clone(), vec![ZONE.to_owned()]].concat())).expect("a list");

    let mut release = places.command(&bus);
    release.arg("--release");
    let began = Instant::now();
    let released = tokio::task::spawn_blocking(move || release.status()).await;
    let took = began.elapsed();
    assert!(released.expect("it ends").expect("the program").success());
    assert_eq!(control.value(&manual()), "false");
    assert_eq!(fs::read_to_string(places.held()).expect("a list"), list(&zones));
    // One wait of 5 s.
    assert!(took < PATIENCE, "{took:?}");
}
