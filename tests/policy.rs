// SPDX-License-Identifier: Apache-2.0
//! The D-Bus policy file, as it is shipped: who may own the name, Set and read, on a bus that allows nothing else, and
//! beside OpenBMC's `dbus-perms`, which allows everything.
//!
//! What nobody may is tried by this program as nobody: a test runs a copy of it under that uid, which finds
//! `ACPI_AS_NOBODY` in its environment and is the caller. The tests need root.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so and fails"
)]

#[path = "support/private_bus.rs"]
mod private_bus;
#[path = "support/rig.rs"]
mod rig;

use std::{env, fs, os::unix::fs::PermissionsExt, pin::Pin, process::Stdio};

use futures_core::Stream;
use private_bus::PrivateBus;
use rig::{NAME, PATH, PATIENCE, PROPERTIES, Rig, TRACKER, connect};
use tokio::{process::Command, time::timeout};
use zbus::{Connection, Message, MessageStream, Variant, fdo::RequestNameFlags, message::Type};

const BUS: &str = "org.freedesktop.DBus";
const SHIPPED: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/dbus/xyz.openbmc_project.Control.Power.ACPIPowerState.conf");

/// What the system bus of a distribution begins with (dbus's system.conf): no names, no calls.
const SYSTEM: &str = r#"
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>"#;

/// phosphor-dbus-perms's org.openbmc.conf.
const DBUS_PERMS: &str = r#"
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
  </policy>"#;

/// A bus with the shipped policy after `before`, whose directory nobody can enter.
fn bus(before: &str) -> PrivateBus {
    PrivateBus::with_policy(&format!("{before}\n  <include>{SHIPPED}</include>")).expect("a private bus")
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum May {
    All,
    Root,
}

/// Every call that the daemon knows, and some that it does not: interface, member, who may.
const CALLS: [(Option<&str>, &str, May); 14] = [
    (Some(PROPERTIES), "Get", May::All),
    (Some(PROPERTIES), "GetAll", May::All),
    (Some("org.freedesktop.DBus.Introspectable"), "Introspect", May::All),
    (Some("org.freedesktop.DBus.Peer"), "Ping", May::All),
    (Some("org.freedesktop.DBus.Peer"), "GetMachineId", May::All),
    (Some("org.freedesktop.DBus.ObjectManager"), "GetManagedObjects", May::All),
    (Some(TRACKER), "GetHistory", May::All),
    (Some(PROPERTIES), "Set", May::Root),
    // Nothing is known to be harmless that is not known.
    (Some(TRACKER), "Nothing", May::Root),
    (Some(NAME), "Nothing", May::Root),
    (Some("no.such.Interface"), "Get", May::Root),
    // Without an interface the daemon goes by the member.
    (None, "Get", May::Root),
    (None, "Set", May::Root),
    (None, "GetHistory", May::Root),
];

/// Owns the name, and answers every call: what is refused, the bus refused.
async fn obliging(address: &str) -> Connection {
    let connection = connect(address).await;
    connection.request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE).await.expect("root may own it");
    let mut stream = MessageStream::from(&connection);
    let answer = connection.clone();
    tokio::spawn(async move {
        while let Some(Ok(call)) = next(&mut stream).await {
            if call.message_type() == Type::MethodCall {
                let reply = Message::method_return(&call.header()).build(&()).expect("a reply");
                answer.send(&reply).await.expect("sent");
                // And everyone hears of it.
                let signal = Message::signal(PATH, PROPERTIES, "PropertiesChanged").build(&NAME);
                answer.send(&signal.expect("a signal")).await.expect("sent");
            }
        }
    });
    connection
}

async fn next(stream: &mut MessageStream) -> Option<zbus::Result<Message>> {
    std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

/// "done", or the name of the error.
fn outcome(result: zbus::Result<Message>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(zbus::Error::MethodError(name, ..)) => name.to_string(),
        Err(zbus::Error::FDO(error)) => zbus::DBusError::name(&*error).to_string(),
        Err(error) => panic!("{error}"),
    }
}

/// Makes all the calls, and says of each how it went if that is not how it should.
async fn wrong(client: &Connection, who: May) -> Vec<String> {
    let mut wrong = Vec::new();
    for (interface, member, may) in CALLS {
        let call = client.call_method(Some(NAME), PATH, interface, member, &());
        let got = outcome(timeout(PATIENCE, call).await.expect("an answer"));
        let allowed = who == May::Root || may == May::All;
        let expected = if allowed { "done" } else { "org.freedesktop.DBus.Error.AccessDenied" };
        if got != expected {
            wrong.push(format!("{interface:?} {member}: {got}"));
        }
    }
    wrong
}

/// Whether one can own the name once its owner is gone.
async fn own(client: &Connection) -> String {
    let request = (NAME, RequestNameFlags::DO_NOT_QUEUE);
    outcome(client.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "RequestName", &request).await)
}

/// Runs `caller` with a connection of nobody's. `name` is that of the calling test; it runs twice, and `serve`s the outer
/// time.
async fn as_nobody<S>(
    name: &str,
    before: &str,
    serve: impl AsyncFnOnce(&str) -> S,
    caller: impl AsyncFnOnce(Connection),
) {
    if env::var("ACPI_AS_NOBODY").is_ok_and(|wanted| wanted == name) {
        let address = env::var("ACPI_BUS_ADDRESS").expect("the address of the bus");
        return caller(connect(&address).await).await;
    }
    let bus = bus(before);
    let _served = serve(bus.address()).await;
    // The directory keeps others out; for once they may come in, and find this program there.
    fs::set_permissions(bus.dir(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let copy = bus.dir().join("policy");
    fs::copy(env::current_exe().expect("the test binary"), &copy).expect("a copy");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "timeout", "--kill-after=5", "60"])
        .arg(copy)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .current_dir("/")
        .env("ACPI_AS_NOBODY", name)
        .env("ACPI_BUS_ADDRESS", bus.address())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("setpriv (util-linux)");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    // "1 passed": a name that matches no test passes too, with none.
    if !output.status.success() || !said.contains("1 passed") {
        let marked = said.trim_end().replace('\n', "\n  | ");
        panic!("{name}, as nobody: {}\n  | {marked}", output.status);
    }
}

async fn may_only_look(client: Connection) {
    assert_eq!(rustix::process::geteuid().as_raw(), 65534);
    let rule = format!("type='signal',path='{PATH}'");
    let mut heard = MessageStream::from(&client);
    let matched =
        client.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "AddMatch", &rule.as_str()).await;
    assert_eq!(outcome(matched), "done");
    assert_eq!(wrong(&client, May::All).await, Vec::<String>::new());
    assert_eq!(own(&client).await, "org.freedesktop.DBus.Error.AccessDenied");
    let signal = async {
        while next(&mut heard).await.expect("the bus").expect("a message").message_type() != Type::Signal {}
    };
    timeout(PATIENCE, signal).await.expect("a signal is heard");
}

#[tokio::test]
async fn nobody_may_only_look() {
    as_nobody("nobody_may_only_look", SYSTEM, obliging, may_only_look).await;
}

#[tokio::test]
async fn nobody_may_only_look_beside_dbus_perms() {
    let before = format!("{SYSTEM}{DBUS_PERMS}");
    as_nobody("nobody_may_only_look_beside_dbus_perms", &before, obliging, may_only_look).await;
}

/// Nor when the name is free: a daemon that is being restarted does not lose it.
#[tokio::test]
async fn nobody_may_not_own_a_free_name() {
    for before in [SYSTEM, &format!("{SYSTEM}{DBUS_PERMS}")] {
        as_nobody(
            "nobody_may_not_own_a_free_name",
            before,
            async |_| (),
            async |client| assert_eq!(own(&client).await, "org.freedesktop.DBus.Error.AccessDenied"),
        )
        .await;
    }
}

/// Without the file the bus would refuse root too.
#[tokio::test]
async fn root_may_all() {
    for before in [SYSTEM, &format!("{SYSTEM}{DBUS_PERMS}")] {
        let bus = bus(before);
        let _owner = obliging(bus.address()).await;
        let client = connect(bus.address()).await;
        assert_eq!(wrong(&client, May::Root).await, Vec::<String>::new());
    }
    let strict = PrivateBus::with_policy(SYSTEM).expect("a private bus");
    let client = connect(strict.address()).await;
    assert_eq!(
        own(&client).await,
        "org.freedesktop.DBus.Error.AccessDenied",
        "the bus of this test is strict"
    );
}

/// The daemon itself, on such a bus.
#[tokio::test]
async fn the_daemon_serves_root_on_a_strict_bus() {
    let rig = Rig::on(bus(SYSTEM), 1000, |_| {}).await;
    rig.set("S2_D2").await;
    assert_eq!(rig.state().await.as_deref(), Some("S2_D2"));
    let reply = rig.properties("Get", &(NAME, "SysACPIStatus")).await.expect("Get");
    assert!(reply.body().deserialize::<Variant<'_>>().is_ok());
}
