// SPDX-License-Identifier: Apache-2.0
//! The D-Bus contract: what clients written against sd-bus services rely on, bad input, and peers that are absent,
//! slow or silent.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::Path,
    pin::Pin,
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{
    peer::{Manners, Peer},
    power::{NAMES, PowerDouble},
    private_bus::PrivateBus,
    program::{DAEMON, Program},
    rig::{NAME, PATH, PATIENCE, PROPERTIES, Rig, TRACKER, connect, set, set_within},
};
use acpi_stated::config::{Device, Group, Sensor, Source};
use futures_core::Stream;
use tokio::time::timeout;
use zbus::{
    Connection, Message, MessageStream, Variant,
    fdo::{RequestNameFlags, RequestNameReply},
    message::{Flags, Type},
};

const MANAGER: &str = "org.freedesktop.DBus.ObjectManager";
/// Where the managers are.
const HOSTS: &str = "/xyz/openbmc_project/control";
const SENSORS: &str = "/xyz/openbmc_project/sensors";
const ADDED: &str = "InterfacesAdded";
/// What sd-bus lists of every object besides its own interfaces.
const EVERYWHERE: [&str; 3] =
    ["org.freedesktop.DBus.Introspectable", "org.freedesktop.DBus.Peer", "org.freedesktop.DBus.Properties"];

/// The name of the error that a call is answered with.
fn error_of(result: zbus::Result<Message>) -> String {
    let error = result.expect_err("an error");
    let name = if let zbus::Error::MethodError(name, ..) = &error {
        name.to_string()
    } else if let zbus::Error::FDO(error) = &error {
        zbus::DBusError::name(&**error).to_string()
    } else {
        panic!("{error}")
    };
    name.rsplit('.').next().unwrap().to_owned()
}

fn state(name: &str) -> Variant<'static> {
    Variant::from(format!("{NAME}.ACPI.{name}"))
}

/// Everything the bus sends to a connection that has subscribed to our signals.
struct Listener(MessageStream);

impl Listener {
    async fn new(rig: &Rig) -> (Connection, Self) {
        let connection = connect(rig.bus.address()).await;
        let rule = format!("type='signal',path='{PATH}'");
        let stream = MessageStream::from(&connection);
        let bus = "org.freedesktop.DBus";
        connection
            .call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "AddMatch", &rule.as_str())
            .await
            .unwrap();
        let mut listener = Self(stream);
        assert_eq!(short(&listener.next().await), "reply", "to AddMatch");
        (connection, listener)
    }

    /// The next message that is a signal of our object or the reply to a call of ours.
    async fn next(&mut self) -> Message {
        loop {
            let next = std::future::poll_fn(|cx| Pin::new(&mut self.0).poll_next(cx));
            let message = timeout(PATIENCE, next).await.expect("a message").unwrap().unwrap();
            let header = message.header();
            let ours = header.path().is_some_and(|path| path.as_str() == PATH);
            if ours || header.reply_serial().is_some() {
                return message;
            }
        }
    }
}

/// A message in short: "SysACPIStatus", "Transitioned", "reply".
fn short(message: &Message) -> String {
    let header = message.header();
    match header.member().map(zbus::names::MemberName::as_str) {
        None => "reply".to_owned(),
        Some("PropertiesChanged") => {
            let body = message.body();
            let (_, changed, _): (&str, BTreeMap<&str, Variant<'_>>, Vec<&str>) = body.deserialize().unwrap();
            changed.into_keys().collect::<Vec<_>>().join(" ")
        }
        Some(other) => other.to_owned(),
    }
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one question after another")]
async fn every_interface_answers_as_sd_bus_does() {
    let rig = Rig::start().await;
    let all: BTreeMap<String, Variant<'_>> = {
        let reply = rig.properties("GetAll", &"").await.unwrap();
        let body = reply.body();
        let all: BTreeMap<String, Variant<'_>> = body.deserialize().unwrap();
        all.into_iter().map(|(name, value)| (name, value.try_to_owned().unwrap().into())).collect()
    };
    assert_eq!(
        all.keys().map(String::as_str).collect::<Vec<_>>(),
        [
            "BootCount",
            "Cause",
            "DevACPIStatus",
            "Diagnoses",
            "GateOpen",
            "GateReasons",
            "LastBootTime",
            "LastFirmwareTime",
            "PreviousState",
            "Since",
            "SysACPIStatus"
        ]
    );
    for (interface, count) in [(NAME, 2), (TRACKER, 9), ("org.freedesktop.DBus.Peer", 0)] {
        let reply = rig.properties("GetAll", &interface).await.unwrap();
        let body = reply.body();
        let values: BTreeMap<&str, Variant<'_>> = body.deserialize().unwrap();
        assert_eq!(values.len(), count, "{interface}");
    }
    // Without an interface the member alone decides.
    let call = rig.client.call_method(Some(NAME), PATH, None::<&str>, "Get", &(NAME, "SysACPIStatus")).await;
    call.unwrap();
    // Peer is everywhere.
    let peer = Some("org.freedesktop.DBus.Peer");
    rig.client.call_method(Some(NAME), "/nowhere", peer, "Ping", &()).await.unwrap();
    let call = async |path: &str, interface: &str, member: &str| {
        rig.client.call_method(Some(NAME), path, Some(interface), member, &()).await
    };
    // A node with a manager and nothing else is an object without interfaces of its own.
    let get_all =
        async |of: &str| rig.client.call_method(Some(NAME), HOSTS, Some(PROPERTIES), "GetAll", &of).await;
    let nothing = get_all("").await.unwrap();
    assert!(nothing.body().deserialize::<BTreeMap<&str, Variant<'_>>>().unwrap().is_empty());
    let of_manager =
        rig.client.call_method(Some(NAME), HOSTS, Some(PROPERTIES), "Get", &(NAME, "SysACPIStatus")).await;
    let with_argument = async |path: &str, interface: &str, member: &str| {
        rig.client.call_method(Some(NAME), path, Some(interface), member, &"more").await
    };

    let refused = [
        (error_of(rig.properties("GetAll", &"no.such.Interface").await), "UnknownInterface"),
        (error_of(rig.properties("Get", &(NAME, "Nothing")).await), "UnknownProperty"),
        (error_of(rig.properties("Get", &("no.such.Interface", "Nothing")).await), "UnknownProperty"),
        (error_of(rig.properties("Get", &7_u32).await), "InvalidArgs"),
        (error_of(rig.properties("Set", &(TRACKER, "Cause", Variant::from("x"))).await), "PropertyReadOnly"),
        (error_of(rig.properties("Set", &(NAME, "Nothing", Variant::from("x"))).await), "UnknownProperty"),
        (error_of(rig.properties("Nothing", &()).await), "UnknownMethod"),
        (
            error_of(rig.client.call_method(Some(NAME), "/nowhere", Some(PROPERTIES), "GetAll", &"").await),
            "UnknownObject",
        ),
        (
            error_of(rig.client.call_method(Some(NAME), PATH, Some(TRACKER), "GetHistory", &"many").await),
            "InvalidArgs",
        ),
        // sd-bus has no properties of managers, and none of their methods where there is none.
        (error_of(rig.properties("GetAll", &MANAGER).await), "UnknownInterface"),
        (error_of(get_all(MANAGER).await), "UnknownInterface"),
        (error_of(get_all("no.such.Interface").await), "UnknownInterface"),
        (error_of(of_manager), "UnknownProperty"),
        (error_of(call(HOSTS, TRACKER, "Nothing").await), "UnknownMethod"),
        (error_of(call(PATH, MANAGER, "GetManagedObjects").await), "UnknownMethod"),
        (error_of(call("/nowhere", MANAGER, "GetManagedObjects").await), "UnknownObject"),
        (error_of(call("/nowhere", "org.freedesktop.DBus.Peer", "Nothing").await), "UnknownMethod"),
        (error_of(call("/xyz", TRACKER, "GetHistory").await), "UnknownObject"),
        (error_of(with_argument(HOSTS, MANAGER, "GetManagedObjects").await), "InvalidArgs"),
        (
            error_of(with_argument(PATH, "org.freedesktop.DBus.Introspectable", "Introspect").await),
            "InvalidArgs",
        ),
    ];
    for (got, expected) in refused {
        assert_eq!(got, expected);
    }
}

#[tokio::test]
async fn introspection_is_what_is_documented() {
    let rig = Rig::start().await;
    let introspect = async |path: &str| {
        let interface = Some("org.freedesktop.DBus.Introspectable");
        let reply = rig.client.call_method(Some(NAME), path, interface, "Introspect", &()).await.unwrap();
        reply.body().deserialize::<String>().unwrap()
    };
    // The mapper walks down from the root (openbmc 1.6).
    let mut path = String::new();
    for child in ["xyz", "openbmc_project", "control", "host0", "acpi_power_state"] {
        let at = if path.is_empty() { "/" } else { &path };
        assert!(introspect(at).await.contains(&format!("<node name=\"{child}\"/>")), "{at}");
        path = format!("{path}/{child}");
    }
    is_documented("docs/dbus/acpi_power_state.xml", &introspect(PATH).await);
}

fn is_documented(file: &str, got: &str) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
        std::fs::write(&golden, got).unwrap();
    }
    let documented = std::fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(got, documented, "if this is meant: UPDATE_DOCS=1 cargo test --test it dbus::");
}

/// A sensor's object: what bmcweb, ipmid and fan control look for, and the manager above it.
#[tokio::test]
async fn a_sensor_is_what_is_documented() {
    let rig = Rig::with(1, |settings| {
        let source = Source::Device { device: Device::Jc42, bus: 3, address: 0x18 };
        let chassis = Some("/xyz/openbmc_project/inventory/system/board/Baseboard".to_owned());
        let sensor = Sensor::new("DIMM_TEMP_A1".to_owned(), 0, Group::Dimm, source);
        settings.sensors.push(Sensor { chassis, ..sensor });
    })
    .await;
    let path = "/xyz/openbmc_project/sensors/temperature/DIMM_TEMP_A1";
    let interface = Some("org.freedesktop.DBus.Introspectable");
    let reply = rig.client.call_method(Some(NAME), path, interface, "Introspect", &()).await.unwrap();
    is_documented("docs/dbus/sensor.xml", &reply.body().deserialize::<String>().unwrap());

    let list = rig.client.call_method(Some(NAME), SENSORS, Some(MANAGER), "GetManagedObjects", &()).await;
    let body = list.unwrap().body();
    let objects: Objects<'_> = body.deserialize().unwrap();
    let (at, interfaces) = objects.first_key_value().unwrap();
    assert_eq!((objects.len(), at.as_str(), interfaces.len()), (1, path, EVERYWHERE.len() + 6));

    let reply = rig.client.call_method(Some(NAME), path, Some(PROPERTIES), "GetAll", &"").await.unwrap();
    let body = reply.body();
    let all: BTreeMap<&str, Variant<'_>> = body.deserialize().unwrap();
    assert_eq!(all.len(), 4 + 4 + 4 + 1 + 1 + 1);
    let association =
        vec![("chassis", "all_sensors", "/xyz/openbmc_project/inventory/system/board/Baseboard")];
    assert_eq!(all["Associations"], Variant::from(association));
    // Nobody may make a temperature up.
    for (interface, property, value) in [
        ("xyz.openbmc_project.Sensor.Value", "Value", Variant::from(20.0)),
        ("xyz.openbmc_project.State.Decorator.Availability", "Available", Variant::from(true)),
        ("xyz.openbmc_project.Sensor.Threshold.Critical", "CriticalHigh", Variant::from(200.0)),
    ] {
        let arguments = (interface, property, value);
        let set = rig.client.call_method(Some(NAME), path, Some(PROPERTIES), "Set", &arguments).await;
        assert_eq!(error_of(set), "PropertyReadOnly");
    }
}

/// What `GetManagedObjects` answers.
type Objects<'a> = BTreeMap<zbus::ObjectPath<'a>, BTreeMap<&'a str, BTreeMap<&'a str, Variant<'a>>>>;

#[tokio::test]
async fn the_object_manager_shows_the_object() {
    let rig = Rig::start().await;
    let list = rig.client.call_method(Some(NAME), HOSTS, Some(MANAGER), "GetManagedObjects", &()).await;
    let body = list.unwrap().body();
    let objects: Objects<'_> = body.deserialize().unwrap();
    assert_eq!(objects.len(), 1);
    let (path, interfaces) = objects.first_key_value().unwrap();
    assert_eq!(path.as_str(), PATH);
    let [introspectable, peer, properties] = EVERYWHERE;
    let names: Vec<_> = interfaces.keys().copied().collect();
    assert_eq!(names, [introspectable, peer, properties, NAME, TRACKER]);
}

// ---- Unasked -----------------------------------------------------------------------------------------------

/// What `InterfacesAdded` says.
type Added<'a> = (zbus::ObjectPath<'a>, BTreeMap<&'a str, BTreeMap<&'a str, Variant<'a>>>);

/// A connection that is on the bus before the daemon, with these rules and that for the daemon's name.
async fn earlier(bus: &PrivateBus, rules: &[&str]) -> (Connection, MessageStream) {
    let connection = connect(bus.address()).await;
    let stream = MessageStream::from(&connection);
    let driver = "org.freedesktop.DBus";
    let of_name = format!("type='signal',sender='{driver}',member='NameOwnerChanged',arg0='{NAME}'");
    for rule in rules.iter().copied().chain([of_name.as_str()]) {
        let add =
            connection.call_method(Some(driver), "/org/freedesktop/DBus", Some(driver), "AddMatch", &rule);
        add.await.unwrap();
    }
    (connection, stream)
}

/// All that the daemon says to everybody.
fn all_of_ours() -> String {
    format!("type='signal',sender='{NAME}'")
}

/// The rules of fan control (phosphor-pid-control:dbus/dbusconfiguration.cpp, `createMatches`) and of ipmid's dynamic sensors
/// (phosphor-host-ipmid:dbus-sdr/sensorcommands.cpp, `sensorAdded`, `sensorRemoved`), letter by letter.
const WAITERS: [&str; 2] = [
    "type='signal',member='InterfacesAdded',arg0path='/xyz/openbmc_project/sensors/'",
    "type='signal',member='InterfacesRemoved',arg0path='/xyz/openbmc_project/sensors/'",
];

/// The signals up to the first that `last` is said of.
async fn heard(stream: &mut MessageStream, last: impl Fn(&Message) -> bool) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx));
        let message = timeout(PATIENCE, next).await.expect("a signal").unwrap().unwrap();
        // The bus tells everybody his own name, asked or not.
        if message.message_type() == Type::Signal && member(&message) != "NameAcquired" {
            let done = last(&message);
            all.push(message);
            if done {
                return all;
            }
        }
    }
}

fn member(message: &Message) -> String {
    message.header().member().map_or("", zbus::names::MemberName::as_str).to_owned()
}

/// Fan control and ipmid build their lists of sensors once and then wait for this (openbmc 10): the name owned, and then every
/// object, each by the signal that `sd_bus_emit_object_added` sends, all in one go. No object is ever taken back.
#[tokio::test]
async fn who_was_there_first_is_told_of_every_object_in_one_go() {
    let bus = PrivateBus::start().unwrap();
    let (_connection, mut stream) = earlier(&bus, &[&all_of_ours()]).await;
    let (_waiter, mut waiting) = earlier(&bus, &WAITERS).await;
    let rig = Rig::on(bus, 1000, |settings| {
        settings.hosts.push(acpi_stated::config::Host::new(1));
        for (name, address) in [("DIMM_TEMP_A1", 0x18), ("DIMM_TEMP_A2", 0x19), ("DIMM_TEMP_A3", 0x1a)] {
            let source = Source::Device { device: Device::Jc42, bus: 3, address };
            settings.sensors.push(Sensor::new(name.to_owned(), 0, Group::Dimm, source));
        }
    })
    .await;
    rig.open().await;
    let opened = |signal: &Message| {
        short(signal).contains("SysACPIStatus") && signal.header().path().is_some_and(|path| path == PATH)
    };
    let all = heard(&mut stream, opened).await;
    let members: Vec<_> = all.iter().map(member).collect();
    // Its name, and nothing of another kind before the last object.
    assert_eq!(members[..6], ["NameOwnerChanged", ADDED, ADDED, ADDED, ADDED, ADDED], "{members:?}");
    assert_eq!(members.iter().filter(|name| *name == ADDED).count(), 5, "{members:?}");
    let mut paths = Vec::new();
    for signal in &all[1..6] {
        let header = signal.header();
        let body = signal.body();
        let (path, interfaces): Added<'_> = body.deserialize().unwrap();
        let manager = header.path().unwrap().as_str();
        assert!(path.as_str().starts_with(manager), "{path} from {manager}");
        assert!([HOSTS, SENSORS].contains(&manager), "{manager}");
        assert!(EVERYWHERE.iter().all(|name| interfaces.contains_key(name)), "{interfaces:?}");
        // All that it has, as it was then.
        let reply = rig.client.call_method(Some(NAME), path.as_str(), Some(PROPERTIES), "GetAll", &"").await;
        let body = reply.unwrap().body();
        let has: BTreeMap<&str, Variant<'_>> = body.deserialize().unwrap();
        let told: BTreeMap<_, _> = interfaces.values().flatten().collect();
        assert!(told.keys().copied().eq(has.keys()), "{path}: {told:?}");
        if manager == HOSTS {
            assert_eq!(told[&"SysACPIStatus"], &state("Unknown"));
        } else {
            assert_eq!(told[&"Available"], &Variant::from(false));
            assert!(matches!(told[&"Value"], Variant::F64(value) if value.is_nan()));
        }
        paths.push(path.as_str().rsplit_once('/').unwrap().1.to_owned());
    }
    assert_eq!(
        paths,
        ["acpi_power_state", "acpi_power_state", "DIMM_TEMP_A1", "DIMM_TEMP_A2", "DIMM_TEMP_A3"]
    );
    rig.end().await;
    let gone = |signal: &Message| member(signal) == "NameOwnerChanged";
    let members: Vec<_> = heard(&mut stream, gone).await.iter().map(member).collect();
    assert!(!members.contains(&"InterfacesRemoved".to_owned()), "{members:?}");
    // Who waits for sensors hears of the sensors alone, from our coming to our leaving.
    let came = heard(&mut waiting, gone).await.len();
    let members: Vec<_> = heard(&mut waiting, gone).await.iter().map(member).collect();
    assert_eq!(
        (came, members),
        (1, [ADDED, ADDED, ADDED, "NameOwnerChanged"].map(ToOwned::to_owned).to_vec())
    );
}

/// A client that keeps what a process before this one said of a sensor hears that it is not so any more: its alarms, too.
#[tokio::test]
async fn what_an_earlier_process_said_of_a_sensor_is_taken_back() {
    let bus = PrivateBus::start().unwrap();
    let (_connection, mut stream) = earlier(&bus, &[&all_of_ours()]).await;
    let rig = Rig::on(bus, 1000, |settings| {
        let source = Source::Device { device: Device::Jc42, bus: 3, address: 0x18 };
        settings.sensors.push(Sensor::new("DIMM_TEMP_A1".to_owned(), 0, Group::Dimm, source));
    })
    .await;
    let last = |signal: &Message| short(signal) == "CriticalAlarmLow";
    let all = heard(&mut stream, last).await;
    let said: Vec<_> =
        all.iter().skip_while(|signal| member(signal) != "PropertiesChanged").map(short).collect();
    let alarms = ["WarningAlarmHigh", "WarningAlarmLow", "CriticalAlarmHigh", "CriticalAlarmLow"];
    // The order is that of going away (openbmc 4.1), and one property a signal: ipmid looks at one alarm of each.
    assert_eq!(said, [&["Available", "Value", "Functional"][..], &alarms[..]].concat());
    drop(rig);
}

#[tokio::test]
async fn a_bad_set_is_refused_and_changes_nothing() {
    let rig = Rig::start().await;
    rig.set("S2_D2").await;
    for value in [
        state("S2_D3"),
        state("s0_g0_d0"),
        state(""),
        Variant::from("S0_G0_D0"),
        Variant::from(""),
        Variant::from(5_u32),
        Variant::from(true),
        Variant::from(vec!["a"]),
    ] {
        for property in ["SysACPIStatus", "DevACPIStatus"] {
            let refused = error_of(rig.properties("Set", &(NAME, property, &value)).await);
            assert_eq!(refused, "InvalidArgs", "{value:?}");
        }
    }
    assert_eq!(error_of(rig.properties("Set", &(NAME, "SysACPIStatus")).await), "InvalidArgs");
    assert_eq!(rig.state().await.as_deref(), Some("S2_D2"));
    assert_eq!(rig.word(NAME, "DevACPIStatus").await.as_deref(), Some("Unknown"));
}

#[tokio::test]
async fn all_14_values_can_be_set_and_are_got_back() {
    let rig = Rig::start().await;
    for acpi in acpi_stated::logic::acpi::AcpiState::ALL {
        for property in ["SysACPIStatus", "DevACPIStatus"] {
            rig.properties("Set", &(NAME, property, Variant::from(acpi.dbus()))).await.unwrap();
            assert_eq!(rig.word(NAME, property).await.as_deref(), Some(acpi.name()));
        }
    }
}

/// Signals only on change; PropertiesChanged before the answer, all else after it (rules 3.3).
#[tokio::test]
async fn the_change_is_signalled_before_the_answer_and_all_else_after_it() {
    let rig = Rig::start().await;
    rig.open().await;
    rig.until("S0 has settled", async || rig.reasons().await.is_empty()).await;
    let (connection, mut listener) = Listener::new(&rig).await;
    let mut heard = Vec::new();
    for name in ["S2_D2", "S2_D2", "S5_G2", "S5_G2"] {
        let call = Message::method_call(PATH, "Set").destination(NAME).interface(PROPERTIES);
        connection.send(&call.build(&(NAME, "SysACPIStatus", state(name))).unwrap()).await.unwrap();
        loop {
            heard.push(short(&listener.next().await));
            if heard.last().unwrap() == "reply" {
                break;
            }
        }
    }
    assert_eq!(
        heard
            .iter()
            .map(String::as_str)
            .filter(|s| ["SysACPIStatus", "reply", "Transitioned"].contains(s))
            .collect::<Vec<_>>(),
        [
            "SysACPIStatus",
            "reply", // S2
            "Transitioned",
            "reply", // S2 again: no second signal
            "SysACPIStatus",
            "reply", // S5
            "Transitioned",
            "reply", // S5 again
        ],
        "{heard:?}"
    );
    assert!(!heard.contains(&"DevACPIStatus".to_owned()));
}

#[tokio::test]
async fn a_call_that_wants_no_answer_gets_none_and_is_carried_out() {
    let rig = Rig::start().await;
    let (connection, mut listener) = Listener::new(&rig).await;
    let set = |name| {
        let call = Message::method_call(PATH, "Set").destination(NAME).interface(PROPERTIES);
        call.with_flags(Flags::NO_REPLY_EXPECTED).build(&(NAME, "SysACPIStatus", state(name))).unwrap()
    };
    for name in ["S2_D2", "nonsense", "S0_G0_D0"] {
        connection.send(&set(name)).await.unwrap();
    }
    let ping = Message::method_call(PATH, "Ping").destination(NAME).interface("org.freedesktop.DBus.Peer");
    connection.send(&ping.build(&()).unwrap()).await.unwrap();
    let mut replies = 0;
    while replies == 0 {
        replies += usize::from(listener.next().await.message_type() == Type::MethodReturn);
    }
    rig.until_state("S0_G0_D0").await;
}

/// Runs busctl as nobody.
fn as_nobody(bus: &PrivateBus, arguments: &[&str]) -> std::process::Output {
    let socket = bus.address().strip_prefix("unix:path=").unwrap();
    let socket = Path::new(socket.split(',').next().unwrap());
    // The directory keeps others out; for once they may come in.
    let directory = socket.parent().unwrap();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "busctl"])
        .arg(format!("--address={}", bus.address()))
        .args(arguments)
        .output()
        .expect("setpriv (util-linux)")
}

#[tokio::test]
async fn only_root_and_the_daemons_own_user_may_set() {
    let rig = Rig::start().await;
    rig.set("S2_D2").await;
    let s0 = format!("{NAME}.ACPI.S0_G0_D0");
    for property in ["SysACPIStatus", "DevACPIStatus"] {
        let refused = as_nobody(&rig.bus, &["set-property", NAME, PATH, NAME, property, "s", &s0]);
        assert!(!refused.status.success());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("Access denied"), "{said}");
    }
    assert_eq!(rig.state().await.as_deref(), Some("S2_D2"));
    let read = as_nobody(&rig.bus, &["get-property", NAME, PATH, NAME, "SysACPIStatus"]);
    assert!(String::from_utf8_lossy(&read.stdout).contains("ACPI.S2_D2"), "everyone may read");
}

#[tokio::test]
async fn the_name_cannot_be_taken_away() {
    let rig = Rig::start().await;
    let thief = connect(rig.bus.address()).await;
    let flags = RequestNameFlags::REPLACE_EXISTING | RequestNameFlags::DO_NOT_QUEUE;
    let bus = "org.freedesktop.DBus";
    let reply = thief
        .call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "RequestName", &(NAME, flags))
        .await
        .unwrap();
    assert_eq!(reply.body().deserialize::<RequestNameReply>().unwrap(), RequestNameReply::Exists);
}

// ---- Power evidence ------------------------------------------------------------------------------------

#[tokio::test]
async fn values_count_from_the_owner_of_a_power_name_only() {
    let rig = Rig::start().await;
    let power = PowerDouble::start(rig.bus.address(), "On", "Running", "").await.unwrap();
    rig.open().await;
    let impostor = PowerDouble::nameless(rig.bus.address(), "Off", "Off", "").await.unwrap();
    impostor.chassis("Off").await.unwrap();
    impostor.host("Off").await.unwrap();
    // Its signals are through when a later one of the owner is.
    power.host("TransitioningToOff").await.unwrap();
    rig.until("the host's word is heard", async || !rig.is_open()).await;
    assert_eq!(rig.state().await.as_deref(), Some("S0_G0_D0"));
    assert_eq!(rig.reasons().await, ["HostNotRunning"]);
}

#[tokio::test]
async fn suffixed_and_unsuffixed_names_both_serve() {
    for names in [&NAMES[..], &NAMES[1..2], &NAMES[0..1]] {
        // Chassis and host on the one name that is there, as a proxy daemon might have it.
        let rig = Rig::start().await;
        let power = PowerDouble::nameless(rig.bus.address(), "On", "Running", "").await.unwrap();
        power.own(names).await.unwrap();
        power.own(&["xyz.openbmc_project.State.Chassis"]).await.unwrap();
        rig.open().await;
        power.chassis("Off").await.unwrap();
        rig.until_state("S5_G2").await;
    }
}

/// Rule 9.
#[tokio::test]
async fn a_power_service_that_goes_away_closes_the_gate_until_it_is_back() {
    let rig = Rig::start().await;
    let power = PowerDouble::start(rig.bus.address(), "On", "Running", "").await.unwrap();
    rig.open().await;
    power.leave().await;
    rig.until("the gate is closed", async || !rig.is_open()).await;
    rig.until("it says why", async || rig.reasons().await == ["EvidenceMissing"]).await;
    assert_eq!(rig.state().await.as_deref(), Some("S0_G0_D0"), "its last values stand");
    let power = PowerDouble::start(rig.bus.address(), "On", "Running", "").await.unwrap();
    rig.until("the gate is open again", async || rig.is_open()).await;
    power.leave().await;
    let _power = PowerDouble::start(rig.bus.address(), "Off", "Off", "").await.unwrap();
    rig.until_state("S5_G2").await;
    assert_eq!(rig.cause().await.as_deref(), Some("ChassisOff"));
}

#[tokio::test]
async fn a_value_that_no_interface_knows_is_no_value() {
    let rig = Rig::start().await;
    let power = PowerDouble::start(rig.bus.address(), "On", "Running", "").await.unwrap();
    rig.open().await;
    power.chassis("Levitating").await.unwrap();
    rig.until("the gate is closed", async || rig.reasons().await == ["EvidenceMissing"]).await;
    power.chassis("On").await.unwrap();
    rig.until("the gate is open again", async || rig.is_open()).await;
}

/// A mapper that knows these services for our object.
async fn mapper(address: &str, services: &'static [&'static str]) -> Peer {
    let mapper = Peer::start(address, &[], []).await;
    mapper.lists(services.iter().map(|service| (PATH, *service, NAME)));
    mapper.own(acpi_doubles::mapper::NAME).await;
    mapper
}

/// Rules 3.7, openbmc 1.5.
#[tokio::test]
async fn a_rival_is_told_when_the_mapper_knows_one() {
    const DIAGNOSIS: &str = "RivalOwner";
    const SETTINGS: &str = "xyz.openbmc_project.Settings";
    let bus = PrivateBus::start().unwrap();
    let first = mapper(bus.address(), &[NAME]).await;
    let rig = Rig::on(bus, 1000, |_| {}).await;
    assert_eq!(rig.diagnoses().await, Vec::<String>::new());
    // It announces nothing: all there is is that the mapper has looked at it.
    let rival = Peer::start(rig.bus.address(), &[SETTINGS], []).await;
    first.lists([NAME, SETTINGS].map(|service| (PATH, service, NAME)));
    first.introspected(SETTINGS).await;
    rig.diagnosed(DIAGNOSIS, true).await;
    // It leaves, and the mapper says no more about it.
    first.mind(Manners::Silent);
    drop(rival);
    rig.diagnosed(DIAGNOSIS, false).await;
    // A mapper that knows another; then one that knows nobody yet, and then us alone.
    drop(first);
    let second = mapper(rig.bus.address(), &[NAME, "xyz.openbmc_project.State.Mine"]).await;
    rig.diagnosed(DIAGNOSIS, true).await;
    drop(second);
    let third = mapper(rig.bus.address(), &[]).await;
    rig.until("it was asked", async || third.served() > 0).await;
    assert_eq!(rig.diagnoses().await, [DIAGNOSIS]);
    third.lists([(PATH, NAME, NAME)]);
    third.introspected(NAME).await;
    rig.diagnosed(DIAGNOSIS, false).await;
}

// ---- Peers that do not behave -----------------------------------------------------------------------------

/// Owns a name, and reads what is sent to it or not, but never answers.
async fn silent(address: &str, name: &str) -> Connection {
    let connection = connect(address).await;
    connection.request_name_with_flags(name, RequestNameFlags::DO_NOT_QUEUE).await.unwrap();
    connection
}

#[tokio::test]
async fn a_set_does_not_wait_for_systemd_or_power_control() {
    let bus = PrivateBus::start().unwrap();
    let address = bus.address().to_owned();
    // systemd is there and answers nothing; so is power control.
    let _systemd = silent(&address, "org.freedesktop.systemd1").await;
    let power = PowerDouble::start(&address, "On", "Running", "").await.unwrap();
    power.hang();
    let rig = Rig::on(bus, 1000, |_| {}).await;
    for name in ["S2_D2", "S0_G0_D0", "S5_G2"].into_iter().cycle().take(300) {
        let watch = rig.watch();
        rig.set(name).await;
        // The cap, and as much again.
        let taken = watch.taken();
        assert!(taken < Duration::from_millis(500), "{taken:?}");
        assert_eq!(rig.state().await.as_deref(), Some(name));
    }
}

// ---- The program ---------------------------------------------------------------------------------------------

/// What thousands of Sets may take together on a busy machine. That they are answered counts, and how fast is `./dev bench`'s.
const FLOOD: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_flood_of_sets_is_answered_in_bounded_memory() {
    let bus = PrivateBus::start().unwrap();
    let (program, first) = Program::start(&bus, &[]).await;
    let names = ["S2_D2", "S0_G0_D0", "S5_G2"];
    for name in names.into_iter().cycle().take(100) {
        set(&first, name).await;
    }
    let before = program.private_dirty();
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let address = bus.address().to_owned();
            tokio::spawn(async move {
                let client = connect(&address).await;
                // One by which the daemon knows its caller, and then all at once: not one waits for another.
                set_within(FLOOD, &client, "S2_D2").await;
                let sets = names.into_iter().cycle().take(624).map(|name| {
                    let client = client.clone();
                    tokio::spawn(async move { set_within(FLOOD, &client, name).await })
                });
                for set in sets.collect::<Vec<_>>() {
                    set.await.expect("answered");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("all answered");
    }
    let grown = program.private_dirty().saturating_sub(before);
    // What waits behind the 32 Sets that are let in. Each S0 of them is an early report: a diagnosis, with its lines and signals.
    assert!(grown <= 512, "{grown} KiB more private dirty memory");
}

/// Sets that come before the bus has said whose they are cannot be held back, so only so many are kept.
#[tokio::test]
async fn a_flood_of_an_unknown_caller_is_answered_too() {
    let rig = Rig::start().await;
    let client = connect(rig.bus.address()).await;
    let sets: Vec<_> = (0..2_000)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let arguments = (NAME, "SysACPIStatus", state("S2_D2"));
                let set = client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Set", &arguments);
                timeout(FLOOD, set).await.expect("answered")
            })
        })
        .collect();
    let mut done = 0;
    for set in sets {
        match set.await.unwrap() {
            Ok(_) => done += 1,
            refused => assert_eq!(error_of(refused), "LimitsExceeded"),
        }
    }
    assert!(done >= 512, "{done}");
    assert_eq!(rig.state().await.as_deref(), Some("S2_D2"));
}

#[tokio::test]
async fn the_program_ends_with_69_when_the_bus_is_lost_or_absent() {
    let bus = PrivateBus::start().unwrap();
    let (mut program, client) = Program::start(&bus, &[]).await;
    drop(client);
    drop(bus);
    let began = Instant::now();
    let status = loop {
        if let Some(status) = program.0.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < PATIENCE, "it lives on without a bus");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(status.code(), Some(69));
    let absent = Command::new(DAEMON).args(["--bus", "unix:path=/nonexistent/bus"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("there is no D-Bus at"));
}

/// Idle in S5: its threads wake up, and go to sleep again, twice at most for each period of the watchdog, over four.
/// The lease, its proof, and what is read again: no more than that.
#[tokio::test]
async fn an_open_gate_wakes_for_its_lease_and_the_proof_only() {
    const SECONDS: u64 = 20;
    let bus = PrivateBus::start().unwrap();
    let _power = PowerDouble::start(bus.address(), "On", "Running", "").await.unwrap();
    let (program, client) = Program::start(&bus, &[]).await;
    set(&client, "S0_G0_D0").await;
    let began = Instant::now();
    let open = async || {
        let body = (TRACKER, "GateReasons");
        let reply = client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Get", &body).await.unwrap();
        Vec::<String>::try_from(reply.body().deserialize::<Variant<'_>>().unwrap().try_to_owned().unwrap())
            .unwrap()
    };
    while !open().await.is_empty() {
        assert!(began.elapsed() < PATIENCE * 3, "the gate does not open");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // What is asked of systemd and others that are not there.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = program.sleeps();
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let sleeps = program.sleeps() - before;
    println!("an open gate: {sleeps} sleeps in {SECONDS} s");
    assert!(sleeps <= 3 * SECONDS, "it slept {sleeps} times in {SECONDS} s");
}

#[tokio::test]
async fn an_idle_daemon_wakes_for_its_watchdog_only() {
    const PERIOD: Duration = Duration::from_secs(2);
    let bus = PrivateBus::start().unwrap();
    let address = bus.address().to_owned();
    let _power = PowerDouble::start(&address, "Off", "Off", "").await.unwrap();
    let socket = bus.address().strip_prefix("unix:path=").unwrap().split(',').next().unwrap();
    let socket = Path::new(socket).with_file_name("notify");
    let notified = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let period = PERIOD.as_micros().to_string();
    let environment = [("WATCHDOG_USEC", period.as_str()), ("NOTIFY_SOCKET", socket.to_str().unwrap())];
    let (program, client) = Program::start(&bus, &environment).await;
    set(&client, "S5_G2").await;
    drop(client);
    notified.set_nonblocking(true).unwrap();
    let mut text = [0; 256];
    // Read meanwhile: what nobody takes is said again each second.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        while notified.recv(&mut text).is_ok() {}
    }

    let before = program.sleeps();
    tokio::time::sleep(PERIOD * 4).await;
    let sleeps = program.sleeps() - before;
    let fed = std::iter::from_fn(|| notified.recv(&mut text).ok().map(|n| text[..n].to_vec()));
    let fed = fed.filter(|text| text.starts_with(b"WATCHDOG=1")).count();
    assert!(fed >= 4, "the watchdog was fed {fed} times in four periods");
    assert!(sleeps <= 8, "it slept {sleeps} times in four periods");
}
