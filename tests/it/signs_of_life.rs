// SPDX-License-Identifier: Apache-2.0
//! Boot progress, POST codes and CPU power on a real bus, with owners of both kinds: one that stamps its progress
//! (phosphor-state-manager) and one that does not; and the field failure "chassis on, 0 W into the CPU".

use std::time::{Duration, Instant};

use crate::support::{
    keys::{CODES, CPU, HOST, RAW, code, progress, stage, watts},
    peer::{Key, Manners, Peer, key},
    private_bus::PrivateBus,
    rig::{self, Rig},
};
use acpi_stated::config::{Events, Settings};
use zbus::Variant;

const CHASSIS: &str = "/xyz/openbmc_project/state/chassis0";
const OWNER: &str = "xyz.openbmc_project.State.Host";
const SENSORS: &str = "xyz.openbmc_project.IntelCPUSensor";
const LOGGING: &str = "xyz.openbmc_project.Logging";
const SEL: &str = "xyz.openbmc_project.Logging.IPMI";

fn chassis() -> Key {
    key(CHASSIS, "xyz.openbmc_project.State.Chassis", "CurrentPowerState")
}

fn chassis_is(value: &str) -> Variant<'static> {
    Variant::from(format!("xyz.openbmc_project.State.Chassis.PowerState.{value}"))
}

fn stamp() -> Key {
    key(HOST, "xyz.openbmc_project.State.Boot.Progress", "BootProgressLastUpdate")
}

/// A power control, a host's owner with boot progress, POST codes, a CPU power sensor, two loggers, and the daemon.
struct World {
    rig: Rig,
    /// Chassis, host and boot progress: one owner, as phosphor-state-manager.
    host: Peer,
    codes: Peer,
    sensors: Peer,
    loggers: Peer,
    _mapper: Peer,
}

impl World {
    /// Chassis is Off, and the CPU draws nothing.
    async fn start(speed: u32) -> Self {
        Self::with(speed, true).await
    }

    /// The same; whether boot progress is written.
    async fn with(speed: u32, writes: bool) -> Self {
        let bus = PrivateBus::start().expect("a private bus");
        let address = bus.address().to_owned();
        let objects = [(HOST, OWNER), (RAW, CODES), (CPU, SENSORS)];
        let mapper = Peer::mapper(&address, &objects).await;
        let state = key(HOST, "xyz.openbmc_project.State.Host", "CurrentHostState");
        let values = [
            (chassis(), chassis_is("Off")),
            (state, Variant::from("xyz.openbmc_project.State.Host.HostState.Running")),
            (progress(), stage("Unspecified")),
            (stamp(), Variant::U64(7)),
        ];
        let names = [OWNER, "xyz.openbmc_project.State.Host0", "xyz.openbmc_project.State.Chassis0"];
        let host = Peer::start(&address, &names, values).await;
        let codes = Peer::start(&address, &[CODES], [(code(), Variant::U64(0))]).await;
        let sensors = Peer::start(&address, &[SENSORS], [(watts(), Variant::from(0.0))]).await;
        let resolved =
            key("/org/freedesktop/systemd1/job/1", "xyz.openbmc_project.Logging.Entry", "Resolved");
        let loggers = Peer::start(&address, &[LOGGING, SEL], [(resolved, Variant::Bool(false))]).await;
        let rig = Rig::on(bus, speed, |settings: &mut Settings| {
            for host in &mut settings.hosts {
                host.cpu_power_sensor = Some(CPU.to_owned());
                host.write_boot_progress = writes;
                // Of real time.
                host.timing.settle = Duration::from_millis(10) * speed;
            }
            settings.events = Events { redfish: false, sel: true, logging: true };
        })
        .await;
        rig.until_state("S5_G2").await;
        let world = Self { rig, host, codes, sensors, loggers, _mapper: mapper };
        world.host.take_sets();
        world
    }

    async fn power(&self, value: &str) {
        self.host.change(chassis(), chassis_is(value)).await;
    }

    async fn progress_is(&self, value: &str) {
        let is = async || self.host.value(&progress()) == value;
        self.rig.until(&format!("boot progress is {value}"), is).await;
    }
}

#[tokio::test]
async fn a_boot_is_written_and_an_owner_that_does_not_stamp_is_helped() {
    let world = World::start(1000).await;
    world.power("On").await;
    world.rig.set("S2_D2").await;
    world.progress_is("PrimaryProcInit").await;
    // The double does not stamp.
    let stamped =
        async || world.host.value(&stamp()).parse::<u64>().is_ok_and(|us| us > 1_600_000_000_000_000);
    world.rig.until("the stamp is set", stamped).await;
    world.rig.set("S0_G0_D0").await;
    world.progress_is("OSStart").await;
    world.power("Off").await;
    world.progress_is("Unspecified").await;
}

#[tokio::test]
async fn nothing_is_written_over_what_firmware_wrote_until_the_next_boot() {
    let world = World::start(1000).await;
    world.power("On").await;
    world.rig.set("S2_D2").await;
    world.progress_is("PrimaryProcInit").await;
    world.host.change(progress(), stage("PCIInit")).await;
    world.rig.set("S0_G0_D0").await;
    world.rig.until("the gate is open", async || world.rig.is_open()).await;
    assert_eq!(world.host.value(&progress()), "PCIInit");
    world.rig.set("S5_G2").await;
    world.progress_is("Unspecified").await;
    world.rig.set("S2_D2").await;
    world.progress_is("PrimaryProcInit").await;
}

/// phosphor-state-manager keeps the stage, and after a reboot of the BMC `host_reset_recovery` takes any but `Unspecified` for a boot that
/// went wrong and quiesces the host: on a host whose firmware writes none, ours would be the only one. Nobody asked for it, so there
/// is none at any time.
#[tokio::test]
async fn without_the_key_nothing_is_written() {
    let world = World::with(1000, false).await;
    for _ in 0..2 {
        world.power("On").await;
        world.rig.set("S2_D2").await;
        world.rig.set("S0_G0_D0").await;
        world.rig.until("the gate is open", async || world.rig.is_open()).await;
        world.rig.set("S5_G2").await;
        world.power("Off").await;
        world
            .rig
            .until("the gate knows", async || world.rig.reasons().await.contains(&"ChassisOff".to_owned()))
            .await;
    }
    assert_eq!(world.host.sets(), Vec::<String>::new());
    // What others write is a sign of life all the same.
    world.sensors.change(watts(), Variant::from(65.0)).await;
    world.power("On").await;
    world.rig.diagnosed("FirmwareSilent", true).await;
    world.host.change(progress(), stage("MemoryInit")).await;
    world.rig.diagnosed("FirmwareSilent", false).await;
    assert_eq!(world.host.sets(), Vec::<String>::new());
}

/// With the key, nothing of ours outlives the daemon, which may end with the BMC; but what firmware wrote does.
#[tokio::test]
async fn a_stage_of_ours_does_not_outlive_the_daemon() {
    for (others, left) in [(None, "Unspecified"), (Some("OSRunning"), "OSRunning")] {
        let mut world = World::start(1000).await;
        world.power("On").await;
        world.rig.set("S0_G0_D0").await;
        world.progress_is("OSStart").await;
        if let Some(others) = others {
            // Heard of it: it is the first sign of life in this boot.
            world.power("Off").await;
            world.progress_is("Unspecified").await;
            world.power("On").await;
            world.rig.diagnosed("FirmwareSilent", true).await;
            world.host.change(progress(), stage(others)).await;
            world.rig.diagnosed("FirmwareSilent", false).await;
        }
        world.rig.ask_to_stop();
        world.rig.until("it has ended", async || world.rig.has_ended()).await;
        world.progress_is(left).await;
    }
}

/// A second owner of anything at `state/host0` breaks scripts.
#[tokio::test]
async fn nothing_of_ours_is_at_the_hosts_path() {
    let world = World::start(1000).await;
    world.rig.set("S2_D2").await;
    let properties = world.rig.client.call_method(
        Some(rig::NAME),
        HOST,
        Some(rig::PROPERTIES),
        "GetAll",
        &"xyz.openbmc_project.State.Boot.Progress",
    );
    assert!(properties.await.is_err());
}

/// Every peer answers errors, or never: the Set is answered within `ack_cap`. On a clock as fast as life: power control is one of
/// them, and the first time that it is asked again, after 10 s, its error would be the end of the evidence (note B2).
#[tokio::test]
async fn peers_that_misbehave_hold_up_no_host() {
    for manners in [Manners::Errors, Manners::Silent] {
        let world = World::start(1).await;
        world.power("On").await;
        world.rig.open().await;
        for peer in [&world.host, &world.codes, &world.sensors, &world.loggers] {
            peer.mind(manners);
        }
        for _ in 0..5 {
            let watch = world.rig.watch();
            world.rig.set("S2_D2").await;
            let taken = watch.taken();
            assert!(taken < Duration::from_millis(250), "{manners:?}: {taken:?}");
            assert!(!world.rig.is_open());
            world.rig.open().await;
        }
    }
}

/// The field failure: chassis on, 0 W into the CPU. On a clock 100 times faster than life.
#[tokio::test]
async fn chassis_on_and_no_power_into_the_cpu_is_said_and_over_after_recovery() {
    let world = World::start(100).await;
    let begin = Instant::now();
    world.power("On").await;
    world.rig.diagnosed("NoCpuPower", true).await;
    // 30 s from chassis On.
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    world.rig.diagnosed("FirmwareSilent", true).await;
    assert!(begin.elapsed() >= Duration::from_millis(1200), "{:?}", begin.elapsed());

    // Somebody says that it works: the report stands, and so does the diagnosis.
    world.rig.set("S0_G0_D0").await;
    world.rig.diagnosed("FirmwareSilent", false).await;
    world.rig.diagnosed("NoCpuPower", true).await;
    assert_eq!(world.rig.state().await.as_deref(), Some("S0_G0_D0"));

    world.power("Off").await;
    world.rig.diagnosed("NoCpuPower", false).await;
    world.power("On").await;
    world.sensors.change(watts(), Variant::from(65.0)).await;
    world.rig.set("S2_D2").await;
    world.rig.set("S0_G0_D0").await;
    world.rig.until("the gate is open", async || world.rig.is_open()).await;
    assert_eq!(world.rig.diagnoses().await, Vec::<String>::new());

    // One entry of a kind in each boot, and each is resolved.
    let calls = world.loggers.calls();
    let created = calls.iter().filter(|(member, _)| member == "Create").count();
    assert_eq!(created, 2, "{calls:?}");
    world.rig.until("both are resolved", async || world.loggers.sets().len() == 2).await;
    assert!(calls.iter().any(|(member, _)| member == "IpmiSelAdd"), "{calls:?}");
}

#[tokio::test]
async fn a_post_code_is_a_sign_of_life() {
    let world = World::start(1000).await;
    world.sensors.change(watts(), Variant::from(65.0)).await;
    world.power("On").await;
    world.rig.diagnosed("FirmwareSilent", true).await;
    world.codes.change(code(), Variant::U64(0x55)).await;
    world.rig.diagnosed("FirmwareSilent", false).await;
}

/// A sensor whose service goes, or that says NaN, is not one that says 0 W.
#[tokio::test]
async fn no_reading_is_not_0_watts() {
    let world = World::start(1000).await;
    world.power("On").await;
    world.rig.diagnosed("NoCpuPower", true).await;
    world.sensors.change(watts(), Variant::from(f64::NAN)).await;
    world.rig.diagnosed("NoCpuPower", false).await;
    world.sensors.change(watts(), Variant::from(0.3)).await;
    world.rig.diagnosed("NoCpuPower", true).await;
    drop(world.sensors);
    let holds = async || !world.rig.diagnoses().await.contains(&"NoCpuPower".to_owned());
    world.rig.until("NoCpuPower is over", holds).await;
}
