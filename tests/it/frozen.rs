// SPDX-License-Identifier: Apache-2.0
//! A bus that stands still: it is stopped, as by a debugger or by a kernel that has no memory for it. Nothing of what happens to the
//! host can arrive then, so nothing may be read (note B3).

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixDatagram,
    pin::Pin,
    time::{Duration, Instant},
};

use crate::support::{
    power::PowerDouble,
    private_bus::PrivateBus,
    program::Program,
    rig::{DIMM, PATH, PATIENCE, PROPERTIES, Rig, SPD, TRACKER, connect, set},
};
use futures_core::Stream;
use rustix::process::{Pid, Signal, kill_process};
use zbus::{Connection, Message, MessageStream, Variant};

/// A lease, from the question whose answer it was given for.
const LEASE: Duration = Duration::from_secs(3);

/// The processes of a bus, which stand still until this is dropped.
struct Frozen(Vec<Pid>);

impl Frozen {
    /// dbus-daemon is one process; dbus-broker is the child of its launcher.
    fn new(bus: &PrivateBus) -> Self {
        let parent = |pid: i32| -> Option<i32> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
        };
        let launcher = i32::try_from(bus.pid()).unwrap();
        let all = fs::read_dir("/proc").unwrap();
        let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let children = all.filter(|pid| parent(*pid) == Some(launcher));
        let pids = children.chain([launcher]).map(|pid| Pid::from_raw(pid).unwrap());
        let frozen = Self(pids.collect());
        frozen.send(Signal::STOP);
        frozen
    }

    fn send(&self, signal: Signal) {
        for pid in &self.0 {
            kill_process(*pid, signal).unwrap();
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.send(Signal::CONT);
    }
}

/// What the Tracker signals: gate and diagnoses.
async fn tracker(address: &str) -> (Connection, MessageStream) {
    let client = connect(address).await;
    let rule = format!("type='signal',path='{PATH}',interface='{PROPERTIES}',arg0='{TRACKER}'");
    let stream = MessageStream::from(&client);
    let bus = "org.freedesktop.DBus";
    client.call_method(Some(bus), "/", Some(bus), "AddMatch", &rule.as_str()).await.unwrap();
    (client, stream)
}

/// The body of `PropertiesChanged`.
type Changed<'a> = (&'a str, BTreeMap<&'a str, Variant<'a>>, Vec<&'a str>);

/// The values of this property that are signalled until one is `last`.
async fn said(stream: &mut MessageStream, property: &str, last: &[&str]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let began = Instant::now();
    while all.last().is_none_or(|said: &Vec<String>| said != last) {
        let next = std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx));
        let message: Message =
            tokio::time::timeout(PATIENCE, next).await.expect("a signal").unwrap().unwrap();
        assert!(began.elapsed() < PATIENCE * 3, "{all:?}, and never {last:?}");
        let body = message.body();
        let Ok((TRACKER, changed, _)) = body.deserialize::<Changed<'_>>() else { continue };
        if let Some(value) = changed.get(property) {
            all.push(Vec::try_from(value.try_to_owned().unwrap()).unwrap());
        }
    }
    all
}

async fn opened() -> (Rig, PowerDouble) {
    let rig = Rig::with(1, |settings| {
        for host in &mut settings.hosts {
            host.timing.settle = Duration::from_millis(20);
        }
    })
    .await;
    let power = PowerDouble::start(rig.bus.address(), "On", "Running", "").await.unwrap();
    rig.open().await;
    (rig, power)
}

/// A second or two are a BMC under load, or a bus that is being reloaded.
#[tokio::test]
async fn a_short_pause_of_the_bus_is_nothing() {
    let (rig, _power) = opened().await;
    let closings = rig.dimms.closings(DIMM);
    let frozen = Frozen::new(&rig.bus);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        let refused = !rig.is_open();
        // The question may be a second old by then, and a busy machine late with the next one.
        assert!(!refused || began.elapsed() > Duration::from_secs(1), "after {:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(frozen);
    rig.until("it goes on", async || rig.is_open()).await;
    assert_eq!(rig.dimms.closings(DIMM), closings);
}

#[tokio::test]
async fn nothing_is_read_while_the_bus_stands_still_and_nothing_was_closed() {
    let (rig, power) = opened().await;
    let (_client, mut heard) = tracker(rig.bus.address()).await;
    let closings = rig.dimms.closings(DIMM);
    let frozen = Frozen::new(&rig.bus);
    let began = Instant::now();
    // Into the socket: the bus does not read it.
    power.host("TransitioningToOff").await.unwrap();
    std::thread::sleep(LEASE + Duration::from_millis(100));
    let mut given = 0;
    while began.elapsed() < Duration::from_secs(12) {
        given += u32::from(rig.dimms.try_acquire(DIMM, SPD).is_ok());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(given, 0, "permits, though nothing that happens to the host can arrive");
    assert_eq!(rig.dimms.closings(DIMM), closings, "it was no closing");
    drop(frozen);
    // All that was told meanwhile comes first, and then the proof.
    let diagnoses = said(&mut heard, "Diagnoses", &[]).await;
    assert_eq!(diagnoses, [vec!["BusSilent".to_owned()], vec![]]);
    rig.until("the host's word is heard", async || rig.reasons().await == ["HostNotRunning"]).await;
    assert!(!rig.is_open());
    power.host("Running").await.unwrap();
    rig.until("the gate is open", async || rig.is_open()).await;
}

/// Without anything that happened meanwhile all goes on at once, without `settle`.
#[tokio::test]
async fn it_goes_on_when_the_bus_does() {
    let (rig, _power) = opened().await;
    let (_client, mut heard) = tracker(rig.bus.address()).await;
    let closings = rig.dimms.closings(DIMM);
    let frozen = Frozen::new(&rig.bus);
    tokio::time::sleep(LEASE * 2).await;
    assert!(!rig.is_open());
    drop(frozen);
    rig.until("it goes on", async || rig.is_open()).await;
    assert_eq!(rig.dimms.closings(DIMM), closings);
    assert_eq!(rig.reasons().await, Vec::<String>::new());
    // Six seconds are no silence, and the gate has never been closed: nothing was signalled of either.
    rig.set("S2_D2").await;
    let closed = said(&mut heard, "GateReasons", &["FirmwareAtWork"]).await;
    assert_eq!(closed, [["FirmwareAtWork"]]);
}

/// A restart does not mend a bus that stands still, and a daemon that is not fed is killed.
#[tokio::test]
async fn the_watchdog_is_fed_all_the_same() {
    const PERIOD: Duration = Duration::from_secs(2);
    let bus = PrivateBus::start().unwrap();
    let _power = PowerDouble::start(bus.address(), "On", "Running", "").await.unwrap();
    let notify = UnixDatagram::bind(bus.dir().join("notify")).unwrap();
    let config = bus.dir().join("config.json");
    let sensor = r#"{ "name": "VR", "group": "s0", "device": "hwmon", "path": "/proc/sys/kernel/pid_max", "poll": 0.5 }"#;
    fs::write(
        &config,
        format!(r#"{{ "hosts": [{{ "id": 0, "timing": {{ "settle": 1 }} }}], "sensors": [{sensor}] }}"#),
    )
    .unwrap();
    let (period, socket) = (PERIOD.as_micros().to_string(), bus.dir().join("notify"));
    let environment = [("WATCHDOG_USEC", period.as_str()), ("NOTIFY_SOCKET", socket.to_str().unwrap())];
    let (mut program, client) =
        Program::with(&bus, &["--config", config.to_str().unwrap()], &environment).await;
    set(&client, "S0_G0_D0").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    notify.set_nonblocking(true).unwrap();
    let mut text = [0; 512];
    let mut fed = move || {
        let all = std::iter::from_fn(|| notify.recv(&mut text).ok().map(|n| text[..n].to_vec()));
        all.filter(|text| text.starts_with(b"WATCHDOG=1")).count()
    };
    fed();
    let frozen = Frozen::new(&bus);
    let mut late = 0;
    for _ in 0..8 {
        std::thread::sleep(PERIOD);
        late += u32::from(fed() == 0);
    }
    drop(frozen);
    assert_eq!(late, 0, "periods without a word to the watchdog");
    assert!(program.0.try_wait().unwrap().is_none(), "it goes on");
    set(&client, "S2_D2").await;
}
