// SPDX-License-Identifier: Apache-2.0
//! The D-Bus policy file, as it is shipped: who may own the name, Set and read, on a bus that allows nothing else, and
//! beside OpenBMC's `dbus-perms`, which allows everything.
//!
//! What nobody may is tried by this program as nobody. The tests need root.

use std::{fs::File, pin::Pin, sync::Arc};

use crate::support::{
    nobody::{NOBODY, as_nobody},
    private_bus::PrivateBus,
    rig::{NAME, PATH, PATIENCE, PROPERTIES, Rig, TRACKER, connect},
};
use futures_core::Stream;
use tokio::time::timeout;
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

/// Whether one can own a name once its owner is gone.
async fn own(client: &Connection, name: &str) -> String {
    let request = (name, RequestNameFlags::DO_NOT_QUEUE);
    outcome(client.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "RequestName", &request).await)
}

async fn may_only_look(address: String) {
    let client = connect(&address).await;
    assert_eq!(rustix::process::geteuid().as_raw(), NOBODY);
    let rule = format!("type='signal',path='{PATH}'");
    let mut heard = MessageStream::from(&client);
    let matched =
        client.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "AddMatch", &rule.as_str()).await;
    assert_eq!(outcome(matched), "done");
    assert_eq!(wrong(&client, May::All).await, Vec::<String>::new());
    assert_eq!(own(&client, NAME).await, "org.freedesktop.DBus.Error.AccessDenied");
    let signal = async {
        while next(&mut heard).await.expect("the bus").expect("a message").message_type() != Type::Signal {}
    };
    timeout(PATIENCE, signal).await.expect("a signal is heard");
}

#[tokio::test]
async fn nobody_may_only_look() {
    let owner = async |bus: Arc<PrivateBus>| obliging(bus.address()).await;
    as_nobody("policy::nobody_may_only_look", || bus(SYSTEM), owner, may_only_look).await;
}

#[tokio::test]
async fn nobody_may_only_look_beside_dbus_perms() {
    let before = format!("{SYSTEM}{DBUS_PERMS}");
    let owner = async |bus: Arc<PrivateBus>| obliging(bus.address()).await;
    as_nobody("policy::nobody_may_only_look_beside_dbus_perms", || bus(&before), owner, may_only_look).await;
}

/// Nor when the name is free: a daemon that is being restarted does not lose it.
#[tokio::test]
async fn nobody_may_not_own_a_free_name() {
    for before in [SYSTEM, &format!("{SYSTEM}{DBUS_PERMS}")] {
        as_nobody(
            "policy::nobody_may_not_own_a_free_name",
            || bus(before),
            async |_| (),
            async |address| {
                let client = connect(&address).await;
                assert_eq!(own(&client, NAME).await, "org.freedesktop.DBus.Error.AccessDenied");
            },
        )
        .await;
    }
}

/// A power control that is not root tells what it does by signals, and a bus holds signals for all back too where the policy denies
/// sending to one that would get them.
#[tokio::test]
async fn the_daemon_hears_signals_of_everyone() {
    for before in [SYSTEM, &format!("{SYSTEM}{DBUS_PERMS}")] {
        as_nobody(
            "policy::the_daemon_hears_signals_of_everyone",
            || bus(before),
            async |bus| {
                let owner = obliging(bus.address()).await;
                let matched =
                    owner.call_method(Some(BUS), "/", Some(BUS), "AddMatch", &"path='/nobody'").await;
                assert_eq!(outcome(matched), "done");
                let mut heard = MessageStream::from(&owner);
                let tell = owner.clone();
                tokio::spawn(async move {
                    while let Some(Ok(message)) = next(&mut heard).await {
                        if message.header().path().is_some_and(|path| path.as_str() == "/nobody") {
                            let signal = Message::signal("/heard", NAME, "Heard").build(&());
                            tell.send(&signal.expect("a signal")).await.expect("sent");
                        }
                    }
                });
                owner
            },
            async |address| {
                let client = connect(&address).await;
                let matched =
                    client.call_method(Some(BUS), "/", Some(BUS), "AddMatch", &"path='/heard'").await;
                assert_eq!(outcome(matched), "done");
                let mut heard = MessageStream::from(&client);
                client.emit_signal(None::<&str>, "/nobody", NAME, "Off", &()).await.expect("sent");
                let answer = async {
                    let at = |message: Message| message.header().path().map(|path| path.as_str() == "/heard");
                    while at(next(&mut heard).await.expect("the bus").expect("a message")) != Some(true) {}
                };
                timeout(PATIENCE, answer).await.expect("the signal is heard");
            },
        )
        .await;
    }
}

/// With the shipped file nobody's descriptors are turned away by the bus, even from one that would take them.
#[tokio::test]
async fn nobody_may_give_no_file_descriptors() {
    let owner = async |bus: Arc<PrivateBus>| obliging(bus.address()).await;
    as_nobody(
        "policy::nobody_may_give_no_file_descriptors",
        || bus(SYSTEM),
        owner,
        async |address| {
            let client = connect(&address).await;
            let file = File::open("/dev/null").expect("/dev/null");
            let peer = Some("org.freedesktop.DBus.Peer");
            let descriptor = zbus::Fd::from(&file);
            let got = client.call_method(Some(NAME), PATH, peer, "Ping", &descriptor).await;
            assert_eq!(outcome(got), "org.freedesktop.DBus.Error.AccessDenied");
            assert_eq!(outcome(client.call_method(Some(NAME), PATH, peer, "Ping", &()).await), "done");
        },
    )
    .await;
}

/// `examples/only-root-is-believed.conf`, beside dbus-perms.
#[tokio::test]
async fn with_the_example_nobody_owns_what_tells_of_a_host() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/only-root-is-believed.conf");
    let bus = || {
        PrivateBus::with_policy(&format!("{SYSTEM}{DBUS_PERMS}\n  <include>{example}</include>"))
            .expect("a private bus")
    };
    let names = ["xyz.openbmc_project.State.OperatingSystem0", "xyz.openbmc_project.State.Boot.PostCode0"];
    as_nobody(
        "policy::with_the_example_nobody_owns_what_tells_of_a_host",
        bus,
        async |bus| {
            let client = connect(bus.address()).await;
            for name in names {
                assert_eq!(own(&client, name).await, "done", "root may");
                client.release_name(name).await.expect("it is free again");
            }
        },
        async |address| {
            let client = connect(&address).await;
            for name in names {
                assert_eq!(own(&client, name).await, "org.freedesktop.DBus.Error.AccessDenied");
            }
            assert_eq!(own(&client, "com.example.Mine").await, "done");
        },
    )
    .await;
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
        own(&client, NAME).await,
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
