// SPDX-License-Identifier: Apache-2.0
//! What the daemon is for, promise by promise, kept on a real bus. `tests/mutants/` takes each promise away and must find
//! its test red.
//!
//! The daemon here is the library's, with a clock that runs a thousand times faster: 120 s without power services take
//! 0.12 s, and the 10 s for which the gate settles 10 ms. What a host waits for is real time.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so and fails"
)]

#[path = "support/private_bus.rs"]
mod private_bus;

use std::{
    pin::Pin,
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use acpi_stated::{
    config::{Bus, Settings},
    daemon::Daemon,
    shell::{
        clock::Clock,
        permits::{BusPermits, Need},
        supervisor::Supervisor,
    },
};
use futures_core::Stream;
use private_bus::PrivateBus;
use tokio::{runtime, sync::oneshot, time::timeout};
use zbus::{Connection, Message, MessageStream, Variant, connection::Builder, message::Type};

const NAME: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
const PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
const TRACKER: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState.Tracker";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

const DIMM: Need = Need::Gate(0);
const SPD: u32 = 0x18;
/// Longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The daemon, on a bus of its own, with one guarded I2C bus.
struct Bench {
    client: Connection,
    dimms: BusPermits,
    stop: Option<oneshot::Sender<()>>,
    daemon: Option<JoinHandle<()>>,
    bus: PrivateBus,
}

impl Bench {
    async fn start() -> Self {
        let bus = PrivateBus::start().expect("a private bus");
        let mut settings = Settings::default();
        settings.buses.push(Bus { bus: 3, hosts: vec![0] });
        for host in &mut settings.hosts {
            // As long as a test may wait, so that nothing here is answered by the cap.
            host.timing.ack_cap = PATIENCE * 2;
        }
        let (stop, stopped) = oneshot::channel();
        let (to_us, permits) = mpsc::channel();
        let address = bus.address().to_owned();
        let daemon = std::thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let connection = connect(&address).await;
                let daemon = Daemon::new(settings, Clock::scaled(1000), connection, Supervisor::silent());
                to_us.send(daemon.permits()).expect("the test waits for them");
                daemon.run(async { drop(stopped.await) }).await.expect("it runs until it is told to stop");
            });
        });
        let permits = permits.recv().expect("the daemon is built");
        let client = connect(bus.address()).await;
        let dimms = permits.bus(3).expect("bus 3");
        let bench = Self { client, dimms, stop: Some(stop), daemon: Some(daemon), bus };
        bench.until("the object is there", async || bench.get("SysACPIStatus").await.is_some()).await;
        bench
    }

    async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let begin = Instant::now();
        while !condition().await {
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn is_open(&self) -> bool {
        self.dimms.try_acquire(DIMM, SPD).is_ok()
    }

    /// The host reports S0, and the gate opens.
    async fn open(&self) {
        self.set("S0_G0_D0").await;
        self.until("the gate is open", async || self.is_open()).await;
    }

    async fn set(&self, state: &str) {
        set(&self.client, state).await;
    }

    /// The last word of an enum property; `None` if nobody answers.
    async fn get(&self, property: &str) -> Option<String> {
        self.property(NAME, property)
            .await
            .map(|value| value.rsplit('.').next().unwrap_or_default().to_owned())
    }

    async fn property(&self, interface: &str, property: &str) -> Option<String> {
        let arguments = (interface, property);
        let reply =
            self.client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Get", &arguments).await.ok()?;
        let body = reply.body();
        String::try_from(body.deserialize::<Variant<'_>>().ok()?).ok()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.stop.take());
        // If it failed it has said so; a panic here would hide why the test did.
        drop(self.daemon.take().map(JoinHandle::join));
    }
}

async fn connect(address: &str) -> Connection {
    Builder::address(address).build().await.expect("the private bus")
}

async fn set(client: &Connection, state: &str) {
    let value = Variant::from(format!("{NAME}.ACPI.{state}"));
    let arguments = (NAME, "SysACPIStatus", value);
    let reply = client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Set", &arguments);
    timeout(PATIENCE, reply).await.expect("a Set is answered").expect("a Set succeeds");
}

/// A power control: owns the names, answers reads, signals changes.
struct Power {
    connection: Connection,
}

const CHASSIS: (&str, &str) = ("/xyz/openbmc_project/state/chassis0", "xyz.openbmc_project.State.Chassis");
const HOST: (&str, &str) = ("/xyz/openbmc_project/state/host0", "xyz.openbmc_project.State.Host");

impl Power {
    /// A power control that says On and Running to those who ask.
    async fn start(bench: &Bench) -> Self {
        let connection = connect(bench.bus.address()).await;
        let mut stream = MessageStream::from(&connection);
        let answering = connection.clone();
        tokio::spawn(async move {
            while let Some(message) = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
                let Ok(message) = message else { return };
                let header = message.header();
                if message.message_type() == Type::MethodCall {
                    let value = match header.path().map(zbus::ObjectPath::as_str) {
                        Some(path) if path == CHASSIS.0 => Self::chassis("On"),
                        _ => "xyz.openbmc_project.State.Host.HostState.Running".to_owned(),
                    };
                    answering.reply(&header, &Variant::from(value)).await.expect("reply");
                }
            }
        });
        for name in [CHASSIS.1, HOST.1] {
            connection.request_name(name).await.expect(name);
        }
        Self { connection }
    }

    fn chassis(state: &str) -> String {
        format!("xyz.openbmc_project.State.Chassis.PowerState.{state}")
    }

    /// Chassis power becomes each of these in turn, as fast as signals can be sent.
    async fn becomes(&self, states: &[&str]) {
        for state in states {
            let changed = [("CurrentPowerState", Variant::from(Self::chassis(state)))];
            let body = (CHASSIS.1, std::collections::HashMap::from(changed), Vec::<&str>::new());
            let signal =
                Message::signal(CHASSIS.0, PROPERTIES, "PropertiesChanged").build(&body).expect("signal");
            self.connection.send(&signal).await.expect("send");
        }
    }
}

/// The drain: design 3.3 (2).
#[tokio::test]
async fn a_set_is_answered_when_the_transfer_under_way_has_ended() {
    let bench = Bench::start().await;
    bench.open().await;
    let transfer = bench.dimms.try_acquire(DIMM, SPD).expect("the gate is open");

    let client = bench.client.clone();
    let mut pending = tokio::spawn(async move { set(&client, "S2_D2").await });
    bench.until("the gate closes", async || !bench.is_open()).await;
    // The daemon's answers are in order: what it would have said to the Set would have come before this one.
    let history = bench.client.call_method(Some(NAME), PATH, Some(TRACKER), "GetHistory", &1_u32);
    timeout(PATIENCE, history).await.expect("others are answered meanwhile").expect("GetHistory");
    assert!(
        timeout(Duration::from_millis(50), &mut pending).await.is_err(),
        "answered while the bus is busy"
    );
    assert_eq!(bench.get("SysACPIStatus").await.as_deref(), Some("S0_G0_D0"), "not before the signal");

    drop(transfer);
    timeout(PATIENCE, pending).await.expect("answered now").expect("the Set");
    assert_eq!(bench.get("SysACPIStatus").await.as_deref(), Some("S2_D2"));
    assert!(!bench.is_open());
}

/// The barrier: design 3.3 (1).
#[tokio::test]
async fn a_set_is_answered_when_the_gate_is_closed() {
    let bench = Bench::start().await;
    for state in ["S2_D2", "S5_G2", "S3_D3", "Unknown"] {
        bench.open().await;
        bench.set(state).await;
        assert!(!bench.is_open(), "{state} is answered and the gate is open");
    }
}

/// The inference: design 3.2, rule 3.
#[tokio::test]
async fn power_that_goes_off_without_a_word_is_s5() {
    let bench = Bench::start().await;
    let power = Power::start(&bench).await;
    bench.open().await;
    power.becomes(&["Off"]).await;
    bench.until("it is S5", async || bench.get("SysACPIStatus").await.as_deref() == Some("S5_G2")).await;
    assert_eq!(bench.property(TRACKER, "Cause").await.as_deref(), Some("ChassisOff"));
    assert_eq!(bench.get("DevACPIStatus").await.as_deref(), Some("S3_D3"));
    assert!(!bench.is_open());
}

/// The latch: a chassis Off that was seen is not undone by the On behind it.
#[tokio::test]
async fn power_that_went_off_and_on_again_was_off() {
    let bench = Bench::start().await;
    let power = Power::start(&bench).await;
    bench.open().await;
    power.becomes(&["Off", "On"]).await;
    bench.until("the gate is closed", async || !bench.is_open()).await;
    bench.until("it was off", async || bench.get("SysACPIStatus").await.as_deref() == Some("S5_G2")).await;
    // Nor later: the gate would have opened again by now, a hundred times over.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!bench.is_open());
    assert_eq!(bench.get("SysACPIStatus").await.as_deref(), Some("S5_G2"));
}
