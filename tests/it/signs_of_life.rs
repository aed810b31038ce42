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
use acpi_stated::config::{Events, Host, Settings};
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

/// A POST code as phosphor-host-postd has it.
fn bytes(code: &[u8]) -> Variant<'static> {
    Variant::from((code.to_vec(), Vec::<u8>::new()))
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
    /// So many codes as fast as the bus takes them: how often the event loop woke, how long it ran, and how long all took.
    async fn flood(&self, codes: u32) -> (u64, Duration, Duration) {
        let (woken, ran, begin) = (self.rig.wakeups(), self.rig.ran(), Instant::now());
        for _ in 0..codes {
            self.codes.change(code(), bytes(&[0x80])).await;
        }
        (self.rig.wakeups() - woken, self.rig.ran().saturating_sub(ran), begin.elapsed())
    }

    /// Chassis is Off, and the CPU draws nothing.
    async fn start(speed: u32) -> Self {
        Self::with(speed, true).await
    }

    /// The same; whether boot progress is written.
    async fn with(speed: u32, writes: bool) -> Self {
        Self::having(speed, [], |host| host.write_boot_progress = writes).await
    }

    /// The host's owner has these values too; the host is set so.
    async fn having(
        speed: u32,
        more: impl IntoIterator<Item = (Key, Variant<'static>)>,
        change: impl Fn(&mut Host),
    ) -> Self {
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
        let values = values.into_iter().chain(more);
        let names = [OWNER, "xyz.openbmc_project.State.Host0", "xyz.openbmc_project.State.Chassis0"];
        let host = Peer::start(&address, &names, values).await;
        let codes = Peer::start(&address, &[CODES], [(code(), bytes(&[0]))]).await;
        let sensors = Peer::start(&address, &[SENSORS], [(watts(), Variant::from(0.0))]).await;
        let resolved =
            key("/org/freedesktop/systemd1/job/1", "xyz.openbmc_project.Logging.Entry", "Resolved");
        let loggers = Peer::start(&address, &[LOGGING, SEL], [(resolved, Variant::Bool(false))]).await;
        let rig = Rig::on(bus, speed, |settings: &mut Settings| {
            for host in &mut settings.hosts {
                host.cpu_power_sensor = Some(CPU.to_owned());
                // Of real time. These hosts are as fast as a bus.
                host.timing.settle = Duration::from_millis(10) * speed;
                host.timing.min_post = Duration::from_micros(1);
                change(host);
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

    /// A boot that shows how this firmware begins: it says that it is there before it says that it is done. Off again at the end.
    async fn boots_once(&self) {
        self.power("On").await;
        self.rig.set("S2_D2").await;
        self.rig.set("S0_G0_D0").await;
        self.off().await;
    }

    async fn off(&self) {
        self.power("Off").await;
        let off = async || self.rig.reasons().await.contains(&"ChassisOff".to_owned());
        self.rig.until("the gate knows", off).await;
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
        world.off().await;
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
        world.boots_once().await;
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
    world.boots_once().await;
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
    world.boots_once().await;
    world.power("On").await;
    world.rig.diagnosed("FirmwareSilent", true).await;
    world.codes.change(code(), bytes(&[0x55])).await;
    world.rig.diagnosed("FirmwareSilent", false).await;
}

/// On the clock of these tests 50 s: whatever follows has followed.
const LONG: Duration = Duration::from_millis(50);

async fn stays(world: &World, state: &str) {
    tokio::time::sleep(LONG).await;
    assert_eq!(world.rig.state().await.as_deref(), Some(state));
    assert!(world.rig.is_open());
}

async fn firmware_is_seen(world: &World, cause: &str) {
    world.rig.until_state("S2_D2").await;
    assert_eq!(world.rig.cause().await.as_deref(), Some(cause));
    assert!(!world.rig.is_open());
}

/// phosphor-state-manager restores what was asked for last, and lets others read it; x86-power-control signals each value at its start. Neither is
/// a request.
#[tokio::test]
async fn a_forced_reset_is_heard_when_it_is_asked_for() {
    let requested = || key(HOST, "xyz.openbmc_project.State.Host", "RequestedHostTransition");
    let transition = |word| Variant::from(format!("xyz.openbmc_project.State.Host.Transition.{word}"));
    let forced = || transition("ForceWarmReboot");
    let world = World::having(1000, [(requested(), forced())], |_| {}).await;
    world.power("On").await;
    world.rig.open().await;
    world.host.announce_with(HOST, &["xyz.openbmc_project.State.Host"]).await;
    for other in ["Off", "On", "Reboot", "GracefulWarmReboot", "Nonsense"] {
        world.host.change(requested(), transition(other)).await;
    }
    let stranger = Peer::start(world.rig.bus.address(), &[], []).await;
    stranger.change(requested(), forced()).await;
    stays(&world, "S0_G0_D0").await;
    world.host.change(requested(), forced()).await;
    firmware_is_seen(&world, "HostReset").await;
    // And again, in the POST that follows it.
    world.rig.open().await;
    world.host.change(requested(), forced()).await;
    firmware_is_seen(&world, "HostReset").await;
}

/// A stage is a word when it is signalled, the one that stood there too. What is read is none, whatever the reason.
#[tokio::test]
async fn a_stage_is_a_word_when_it_is_signalled() {
    let world = World::having(1000, [], |_| {}).await;
    world.host.change_silently(progress(), &stage("MemoryInit"));
    world.power("On").await;
    world.rig.open().await;
    // It is looked up and read again.
    let served = world.host.served();
    world.host.announce(HOST).await;
    world.rig.until("it was read again", async || world.host.served() > served).await;
    stays(&world, "S0_G0_D0").await;
    world.host.change(progress(), stage("MemoryInit")).await;
    firmware_is_seen(&world, "FirmwareSeen").await;
    world.host.change(progress(), stage("OSRunning")).await;
    world.rig.until_state("S0_G0_D0").await;
    assert_eq!(world.rig.cause().await.as_deref(), Some("BootProgress"));
}

/// Our `OSStart` is signalled before our Set of it is answered. The next one like it is by somebody else, who starts a boot option.
#[tokio::test]
async fn what_we_write_is_no_word_and_the_same_by_others_is() {
    let world = World::with(1000, true).await;
    world.power("On").await;
    world.rig.open().await;
    world.progress_is("OSStart").await;
    stays(&world, "S0_G0_D0").await;
    world.host.change(progress(), stage("OSStart")).await;
    firmware_is_seen(&world, "FirmwareSeen").await;
}

/// NVIDIA's firmware sends one before a reset that the OS asks for, and is silent for a minute.
#[tokio::test]
async fn a_code_of_sbmr_is_heard_while_the_os_runs() {
    let world = World::having(1000, [], |_| {}).await;
    world.power("On").await;
    world.rig.open().await;
    world.codes.change(code(), bytes(&[0x01, 0, 0, 0, 0x0b, 0x10, 0x11, 0x03, 0])).await;
    world.codes.change(code(), bytes(&[0xaa])).await;
    stays(&world, "S0_G0_D0").await;
    world.codes.change(code(), bytes(&[0x01, 0, 0, 0, 0x0a, 0x10, 0x11, 0x03, 0])).await;
    firmware_is_seen(&world, "FirmwareSeen").await;
}

/// In the form of today, and in that of phosphor-dbus-interfaces before 2024-11.
#[tokio::test]
async fn named_codes_are_heard_in_both_forms() {
    for before in [false, true] {
        let world = World::having(1000, [], |host| {
            host.evidence.boot_progress = false;
            host.post_codes.began = vec![0x01];
            host.timing.reset_confirm = Duration::from_secs(5000);
        })
        .await;
        world.power("On").await;
        world.rig.open().await;
        let value = |byte: u8| {
            if before { Variant::from((u64::from(byte), Vec::<u8>::new())) } else { bytes(&[byte]) }
        };
        // One alone may be what a running system writes.
        world.codes.change(code(), value(0x01)).await;
        stays(&world, "S0_G0_D0").await;
        world.codes.change(code(), value(0x19)).await;
        firmware_is_seen(&world, "FirmwareSeen").await;
    }
}

/// A host whose codes say nothing any more is not listened to: one that writes to port 80h all day wakes nobody. From power-on it is.
#[tokio::test]
async fn nobody_listens_to_the_codes_of_a_host_that_is_done() {
    let world = World::having(1, [], |host| host.evidence.boot_progress = false).await;
    world.power("On").await;
    world.rig.open().await;
    let (woken, ran, took) = world.flood(5_000).await;
    assert!(woken < 200 && ran < took / 5, "5,000 codes in {took:?}: woken {woken} times, ran {ran:?}");
    assert!(world.rig.is_open());
}

/// 30,000 codes as fast as the bus takes them, on a clock as fast as life, from a host whose codes always count.
#[tokio::test]
async fn a_flood_of_codes_costs_what_200_do() {
    let world = World::having(1, [], |_| {}).await;
    let reset = || bytes(&[0x01, 0, 0, 0, 0x0a, 0x10, 0x11, 0x03, 0]);
    world.power("On").await;
    world.rig.open().await;
    let (woken, ran, took) = world.flood(30_000).await;
    let said = format!("30,000 codes in {took:?}: woken {woken} times, ran {ran:?}");
    // 201 of them, and what was on its way.
    assert!(woken < 600 && ran < took / 5, "{said}");
    assert!(world.rig.is_open(), "none of them says anything");
    // Nor is any heard now; after 10 s one is that says something.
    let ended = Instant::now();
    while world.rig.state().await.as_deref() == Some("S0_G0_D0") {
        assert!(ended.elapsed() < Duration::from_secs(20), "never again");
        world.codes.change(code(), reset()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(ended.elapsed() > Duration::from_secs(5), "{:?}", ended.elapsed());
    firmware_is_seen(&world, "FirmwareSeen").await;
}

/// Before 2024-03 x86-power-control had it at a path of its own, and before 2022-02 it said one word.
#[tokio::test]
async fn os_status_is_heard_where_it_was_before() {
    let os = || {
        key(
            "/xyz/openbmc_project/state/os",
            "xyz.openbmc_project.State.OperatingSystem.Status",
            "OperatingSystemState",
        )
    };
    let world = World::having(1000, [(os(), Variant::from("Inactive"))], |host| {
        host.evidence.post_complete_trusted = true;
    })
    .await;
    world.power("On").await;
    world.rig.set("S0_G0_D0").await;
    world.rig.until("POST goes on", async || world.rig.reasons().await == ["FirmwareAtWork"]).await;
    tokio::time::sleep(LONG).await;
    assert!(!world.rig.is_open());
    world.host.change(os(), Variant::from("Standby")).await;
    world.rig.until("the gate is open", async || world.rig.is_open()).await;
    world.host.change(os(), Variant::from("Inactive")).await;
    world.rig.until("it has fallen", async || !world.rig.is_open()).await;
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
