// SPDX-License-Identifier: Apache-2.0
//! Sensors by the power of their host: the groups `thermal` and `dimm`, the grace, and `required` (rules 3.1), read from
//! files that read like hwmon's.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::support::{
    power::PowerDouble,
    private_bus::PrivateBus,
    rig::{self, NAME, PATH, PROPERTIES, Rig, connect},
};
use acpi_stated::{
    config::{Bus, Device, Group, Sensor, Settings, Source},
    logic::chip::Access,
    shell::clock::Clock,
    shell::ports::{Buses, I2cBus},
};
use futures_core::Stream;
use zbus::{Message, MessageStream, Variant};

/// A period of 3 s is 30 ms of real time.
const SPEED: u32 = 100;
const PERIOD: Duration = Duration::from_secs(3);
const SENSORS: &str = "/xyz/openbmc_project/sensors/temperature";
const VALUE: &str = "xyz.openbmc_project.Sensor.Value";
const AVAILABILITY: &str = "xyz.openbmc_project.State.Decorator.Availability";
const STATUS: &str = "xyz.openbmc_project.State.Decorator.OperationalStatus";

/// What is shown: value, available, functional.
type Shown = (Option<f64>, bool, bool);
const GONE: Shown = (None, false, false);
const FAILED: Shown = (None, true, false);

const fn reads(degrees: f64) -> Shown {
    (Some(degrees), true, true)
}

struct World {
    rig: Rig,
    power: PowerDouble,
    files: PathBuf,
}

impl World {
    /// A host that is off, and a sensor of each kind.
    async fn off() -> Self {
        let bus = PrivateBus::start().unwrap();
        let power = PowerDouble::start(bus.address(), "Off", "Off", "").await.unwrap();
        let files = Path::new(bus.address().strip_prefix("unix:path=").unwrap().split(',').next().unwrap());
        let files = files.parent().unwrap().to_owned();
        for name in ["CPU", "DIMM"] {
            std::fs::write(files.join(name), "41500\n").unwrap();
        }
        let sensors = |settings: &mut Settings| {
            for (name, group, required) in [
                ("CPU", Group::Thermal, false),
                ("DIMM", Group::Dimm, false),
                ("EMPTY", Group::Dimm, false),
                ("REQUIRED", Group::Dimm, true),
            ] {
                let source = Source::File(files.join(name));
                let sensor = Sensor::new(name.to_owned(), 0, group, source);
                settings.sensors.push(Sensor { required, poll: PERIOD, ..sensor });
            }
        };
        let rig = Rig::on(bus, SPEED, sensors).await;
        Self { rig, power, files }
    }

    async fn shown(&self, name: &str) -> Shown {
        let path = format!("{SENSORS}/{name}");
        let get = async |interface: &'static str, property: &'static str| -> Variant<'static> {
            let arguments = (interface, property);
            let call =
                self.rig.client.call_method(Some(NAME), path.as_str(), Some(PROPERTIES), "Get", &arguments);
            let reply = call.await.unwrap();
            let body = reply.body();
            body.deserialize::<Variant<'_>>().unwrap().try_to_owned().unwrap().into()
        };
        let value = f64::try_from(get(VALUE, "Value").await).unwrap();
        let available = bool::try_from(get(AVAILABILITY, "Available").await).unwrap();
        let functional = bool::try_from(get(STATUS, "Functional").await).unwrap();
        (value.is_finite().then_some(value), available, functional)
    }

    async fn until(&self, name: &str, wanted: Shown) {
        self.rig.until(&format!("{name} is {wanted:?}"), async || self.shown(name).await == wanted).await;
    }

    async fn power(&self, chassis: &str, host: &str) {
        self.power.host(host).await.unwrap();
        self.power.chassis(chassis).await.unwrap();
    }
}

/// Off: nothing. Power: the CPU's after the grace, or at once when firmware shows that it lives; in POST it stays, and the
/// DIMMs' do not come before the gate opens.
#[tokio::test]
async fn a_thermal_sensor_follows_the_power_and_a_dimm_the_gate() {
    let world = World::off().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for name in ["CPU", "DIMM", "EMPTY", "REQUIRED"] {
        assert_eq!(world.shown(name).await, GONE, "{name} while the host is off");
    }
    let began = Instant::now();
    world.power("On", "Running").await;
    // 60 s of grace are 600 ms.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let shown = world.shown("CPU").await;
    assert!(shown == GONE || began.elapsed() > Duration::from_millis(550), "within the grace: {shown:?}");
    world.until("CPU", reads(41.5)).await;

    world.power("Off", "Off").await;
    world.until("CPU", GONE).await;
    world.power("On", "Running").await;
    world.rig.set("S2_D2").await;
    world.until("CPU", reads(41.5)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.shown("DIMM").await, GONE, "the gate is closed");

    std::fs::write(world.files.join("CPU"), "63250\n").unwrap();
    world.until("CPU", reads(63.25)).await;
    world.rig.open().await;
    world.until("DIMM", reads(41.5)).await;
    world.rig.set("S2_D2").await;
    world.until("DIMM", GONE).await;
    assert_eq!(world.shown("CPU").await, reads(63.25), "a host in POST is cooled");
}

/// What ever answered, or must be there, is shown as failed; an empty slot is not.
#[tokio::test]
async fn five_failed_reads_are_shown_of_what_answered_or_is_required() {
    let world = World::off().await;
    world.power("On", "Running").await;
    world.rig.open().await;
    world.until("DIMM", reads(41.5)).await;
    world.until("REQUIRED", FAILED).await;
    assert_eq!(world.shown("EMPTY").await, GONE);
    std::fs::write(world.files.join("DIMM"), "what is this?\n").unwrap();
    world.until("DIMM", FAILED).await;
    std::fs::write(world.files.join("DIMM"), "39000\n").unwrap();
    std::fs::write(world.files.join("REQUIRED"), "20000\n").unwrap();
    world.until("DIMM", reads(39.0)).await;
    world.until("REQUIRED", reads(20.0)).await;
    assert_eq!(world.shown("EMPTY").await, GONE);
    // One that is there now and was not before is found, too.
    std::fs::write(world.files.join("EMPTY"), "-5000\n").unwrap();
    world.until("EMPTY", reads(-5.0)).await;
}

/// Between two boots: what is not there any more is shown as an empty slot, not as a sensor that failed, but for what
/// must be there.
#[tokio::test]
async fn a_dimm_that_was_taken_out_leaves_an_empty_slot() {
    let world = World::off().await;
    world.power("On", "Running").await;
    std::fs::write(world.files.join("REQUIRED"), "20000\n").unwrap();
    world.rig.open().await;
    world.until("DIMM", reads(41.5)).await;
    world.until("REQUIRED", reads(20.0)).await;
    world.power("Off", "Off").await;
    world.until("DIMM", GONE).await;
    for name in ["DIMM", "REQUIRED"] {
        std::fs::remove_file(world.files.join(name)).unwrap();
    }
    world.power("On", "Running").await;
    world.rig.open().await;
    // Both fail their reads at the same pace.
    world.until("REQUIRED", FAILED).await;
    for _ in 0..100 {
        assert_eq!(world.shown("DIMM").await, GONE);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The host is answered first; then what is off must not look broken to fan control; then everything else.
#[tokio::test]
async fn sensors_go_after_the_answer_and_before_everything_else() {
    let world = World::off().await;
    world.power("On", "Running").await;
    world.rig.open().await;
    world.until("DIMM", reads(41.5)).await;
    let client = connect(world.rig.bus.address()).await;
    let mut stream = MessageStream::from(&client);
    let bus = "org.freedesktop.DBus";
    let rule = format!("type='signal',sender='{NAME}'");
    client
        .call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "AddMatch", &rule.as_str())
        .await
        .unwrap();
    let set = Message::method_call(PATH, "Set").destination(NAME).interface(PROPERTIES);
    let state = Variant::from(format!("{NAME}.ACPI.S2_D2"));
    let set = set.build(&(NAME, "SysACPIStatus", state)).unwrap();
    client.send(&set).await.unwrap();
    let mut order = Vec::new();
    while order.last().map(String::as_str) != Some("Transitioned") {
        let next = std::future::poll_fn(|context| Pin::new(&mut stream).poll_next(context));
        let message = tokio::time::timeout(rig::PATIENCE, next).await.expect("a message").unwrap().unwrap();
        let header = message.header();
        if header.reply_serial() == Some(set.primary_header().serial_num()) {
            order.push("answer".to_owned());
        } else if let (Some(path), Some(member)) = (header.path(), header.member()) {
            let sensor =
                path.as_str().strip_prefix(SENSORS).map(|name| name.trim_start_matches('/').to_owned());
            let body = message.body();
            let changed = body.deserialize::<(&str, BTreeMap<&str, Variant<'_>>, Vec<&str>)>();
            let what = changed.map_or(member.to_string(), |(_, changed, _)| changed.into_keys().collect());
            order.push(sensor.map_or(what.clone(), |name| format!("{name} {what}")));
        }
    }
    let going = ["DIMM Available", "DIMM Value", "DIMM Functional"];
    let wanted = [&["SysACPIStatus", "answer"][..], &going, &["Transitioned"]].concat();
    let first = order.iter().position(|what| what == "SysACPIStatus").expect("the change");
    // REQUIRED had failed, and goes too; the CPU's stays.
    let seen: Vec<_> = order[first..].iter().filter(|what| !what.starts_with("REQUIRED")).collect();
    assert_eq!(seen, wanted, "{order:?}");
}

/// A TMP75 on bus 5, where no DIMM is; a transfer takes 20 ms.
struct Tmp75(Arc<AtomicU32>);

impl Buses for Tmp75 {
    fn open(&self, _: u32, _: Duration) -> io::Result<Box<dyn I2cBus>> {
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }

    fn driver_of(&self, _: u32, _: u8) -> Option<String> {
        None
    }
}

impl I2cBus for Tmp75 {
    fn transfer(&mut self, _: u8, access: Access) -> io::Result<u16> {
        std::thread::sleep(Duration::from_millis(20));
        match access {
            Access::Word(0) => {
                self.0.fetch_add(1, Relaxed);
                Ok(0x4019)
            }
            Access::Word(_) | Access::Byte(_) | Access::Page0 => Ok(0x60),
        }
    }
}

/// A gate that closes is nothing to a sensor that it does not guard: that stays what it is. A turn that is moved by a
/// closing leaves its last reading without a successor for two periods and a transfer; a machine would have to keep the
/// daemon from running for half a second to do the same.
#[tokio::test]
async fn no_closing_is_seen_at_a_sensor_that_it_does_not_guard() {
    let bus = PrivateBus::start().unwrap();
    let _power = PowerDouble::start(bus.address(), "On", "Running", "").await.unwrap();
    let readings = Arc::new(AtomicU32::new(0));
    let buses = Arc::new(Tmp75(Arc::clone(&readings)));
    let rig = Rig::reading(Clock::scaled(10), bus, buses, |settings: &mut Settings| {
        settings.hosts.iter_mut().for_each(|host| host.timing.settle = Duration::from_secs(1));
        settings.buses.push(Bus::new(5, vec![]));
        let source = Source::Device { device: Device::Tmp75, bus: 5, address: 0x48 };
        let sensor = Sensor::new("CPU".to_owned(), 0, Group::Thermal, source);
        settings.sensors.push(Sensor { poll: Duration::from_secs(6), ..sensor });
    })
    .await;
    rig.open().await;
    rig.until("it is read", async || readings.load(Relaxed) > 1).await;

    let client = connect(rig.bus.address()).await;
    let mut stream = MessageStream::from(&client);
    let bus = "org.freedesktop.DBus";
    let rule = format!("type='signal',sender='{NAME}',path='{SENSORS}/CPU'");
    client
        .call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "AddMatch", &rule.as_str())
        .await
        .unwrap();
    for _ in 0..12 {
        let before = readings.load(Relaxed);
        rig.until("its next turn", async || readings.load(Relaxed) > before).await;
        rig.set("S2_D2").await;
        rig.until("the gate is closed", async || !rig.is_open()).await;
        rig.open().await;
    }
    let ask = Message::method_call(PATH, "Ping").destination(NAME).interface("org.freedesktop.DBus.Peer");
    let ask = ask.build(&()).unwrap();
    client.send(&ask).await.unwrap();
    let mut signals = Vec::new();
    loop {
        let next = std::future::poll_fn(|context| Pin::new(&mut stream).poll_next(context));
        let message = tokio::time::timeout(rig::PATIENCE, next).await.expect("a message").unwrap().unwrap();
        let header = message.header();
        if header.reply_serial() == Some(ask.primary_header().serial_num()) {
            break;
        }
        if header.path().is_some_and(|path| path.as_str().ends_with("/CPU")) {
            signals
                .push(format!("{:?}", message.body().deserialize::<(&str, BTreeMap<&str, Variant<'_>>)>()));
        }
    }
    assert!(signals.is_empty(), "{signals:?}");
}
