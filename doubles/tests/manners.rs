// SPDX-License-Identifier: Apache-2.0
//! The doubles on a private bus: the order and the errors of sdbusplus, and no kinder than that; and the misbehaviour that tests ask for.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so and fails"
)]

use std::{collections::BTreeMap, time::Duration};

use acpi_doubles::{
    mapper::{self, Services, SubTree},
    objects::{NoMethods, Objects, PROPERTIES, connect, next},
    peer::{Key, Manners, Peer, key},
    private_bus::PrivateBus,
};
use tokio::{task::JoinSet, time::timeout};
use zbus::{Connection, DBusError, Message, MessageStream, Variant, export::serde::Serialize, message::Type};

const NAME: &str = "xyz.openbmc_project.Thing";
const PATH: &str = "/xyz/openbmc_project/thing";
const THING: &str = "xyz.openbmc_project.Thing.Interface";
/// Longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing happens before it is taken for nothing.
const A_WHILE: Duration = Duration::from_millis(100);

fn level() -> Key {
    key(PATH, THING, "Level")
}

/// A bus, a service on it with one property that is 1, and a client.
async fn service() -> (PrivateBus, Peer, Connection) {
    let bus = PrivateBus::start().expect("a private bus");
    let peer = Peer::start(bus.address(), &[NAME], [(level(), Variant::U64(1))]).await;
    let client = connect(bus.address()).await.expect("a client");
    (bus, peer, client)
}

async fn ask<B>(client: &Connection, path: &str, member: &str, body: &B) -> Result<Message, String>
where
    B: Serialize + zbus::DynamicType,
{
    let call = client.call_method(Some(NAME), path, Some(PROPERTIES), member, body);
    match timeout(PATIENCE, call).await.expect("an answer") {
        Ok(reply) => Ok(reply),
        Err(zbus::Error::MethodError(name, ..)) => Err(name.to_string()),
        Err(zbus::Error::FDO(error)) => Err(error.name().to_string()),
        Err(error) => panic!("{error}"),
    }
}

async fn refused<B>(client: &Connection, path: &str, member: &str, body: &B) -> String
where
    B: Serialize + zbus::DynamicType,
{
    let name = ask(client, path, member, body).await.expect_err("it is refused");
    name.rsplit('.').next().unwrap_or_default().to_owned()
}

/// What reaches `client` until the reply of its call: the signals' members, and the reply.
async fn heard(client: &Connection, member: &str, value: Variant<'_>) -> Vec<String> {
    let rule = format!("type='signal',path='{PATH}'");
    let driver = "org.freedesktop.DBus";
    client.call_method(Some(driver), "/", Some(driver), "AddMatch", &rule).await.expect("a match");
    let mut stream = MessageStream::from(client);
    let set = Message::method_call(PATH, member).destination(NAME).interface(PROPERTIES);
    client.send(&set.build(&(THING, "Level", value)).expect("a call")).await.expect("the bus");
    let mut heard = Vec::new();
    loop {
        let message = timeout(PATIENCE, next(&mut stream)).await.expect("in time").expect("a message");
        if message.message_type() != Type::Signal {
            heard.push(format!("{:?}", message.message_type()));
            return heard;
        }
        heard.push(message.header().member().map_or_else(String::new, ToString::to_string));
    }
}

#[tokio::test]
async fn a_change_is_signalled_before_the_set_is_answered_and_no_change_is_not() {
    let (_bus, peer, client) = service().await;
    assert_eq!(heard(&client, "Set", Variant::U64(2)).await, ["PropertiesChanged", "MethodReturn"]);
    assert_eq!(heard(&client, "Set", Variant::U64(2)).await, ["MethodReturn"]);
    assert_eq!(peer.value(&level()), "2");
    assert_eq!(peer.take_sets(), ["thing Level=2", "thing Level=2"]);
}

#[tokio::test]
async fn what_is_not_there_is_refused_as_sd_bus_does() {
    let (bus, peer, client) = service().await;
    let one = Variant::U64(1);
    for (path, interface, property, error) in [
        ("/elsewhere", THING, "Level", "UnknownObject"),
        (PATH, "no.such.Interface", "Level", "UnknownProperty"),
        (PATH, THING, "Nothing", "UnknownProperty"),
    ] {
        assert_eq!(refused(&client, path, "Get", &(interface, property)).await, error);
        assert_eq!(refused(&client, path, "Set", &(interface, property, &one)).await, error);
    }
    assert_eq!(refused(&client, "/elsewhere", "GetAll", &THING).await, "UnknownObject");
    assert_eq!(refused(&client, PATH, "GetAll", &"no.such.Interface").await, "UnknownInterface");
    assert_eq!(refused(&client, PATH, "Set", &(THING, "Level", Variant::from("2"))).await, "InvalidArgs");
    // The record has what was tried, too.
    assert_eq!(peer.take_sets().len(), 4);

    let mut tasks = JoinSet::new();
    let objects = Objects::new(connect(bus.address()).await.expect("a connection"), None);
    objects.add(PATH, THING, "Level", 1_u64, false).expect("a property");
    objects.serve(NoMethods, &mut tasks);
    peer.disown(&[NAME]).await;
    objects.own(NAME).await.expect("the name is free");
    let set = (THING, "Level", Variant::U64(2));
    assert_eq!(refused(&client, PATH, "Set", &set).await, "PropertyReadOnly");
}

#[tokio::test]
async fn a_peer_misbehaves_as_it_is_told() {
    let (_bus, peer, client) = service().await;
    let set = (THING, "Level", Variant::U64(2));
    peer.mind(Manners::Stubborn);
    assert_eq!(heard(&client, "Set", Variant::U64(2)).await, ["MethodReturn"]);
    assert_eq!((peer.value(&level()).as_str(), peer.take_sets().len()), ("1", 1));

    peer.mind(Manners::Errors);
    assert_eq!(refused(&client, PATH, "Set", &set).await, "ResourceNotFound");
    assert_eq!(refused(&client, PATH, "Get", &(THING, "Level")).await, "ResourceNotFound");
    peer.mind(Manners::Silent);
    let served = peer.served();
    let pending = client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Get", &(THING, "Level"));
    assert!(timeout(A_WHILE, pending).await.is_err(), "it answered");
    assert_eq!(peer.served(), served + 1);
    assert!(peer.sets().is_empty(), "nothing was taken in");

    peer.mind(Manners::Good);
    assert!(ask(&client, PATH, "Set", &set).await.is_ok());
    peer.invalidate(&level()).await;
    assert_eq!(refused(&client, PATH, "Get", &(THING, "Level")).await, "UnknownObject");
}

/// What a test says of the mapper it says word by word: an object is known by its path, or listed, or both.
#[tokio::test]
async fn a_told_mapper_knows_what_it_is_told() {
    let bus = PrivateBus::start().expect("a private bus");
    let peer = Peer::mapper(bus.address(), &[("/a", "s.A")]).await;
    peer.lists([("/b", "s.B", "i.B"), ("/b/c", "s.B", "i.C"), ("/bc", "s.B", "i.B")]);
    let client = connect(bus.address()).await.expect("a client");
    let object = async |path: &str, interface: &str| -> Option<Services> {
        let (name, body) = (Some(mapper::NAME), (path, vec![interface]));
        let reply =
            client.call_method(name, mapper::PATH, Some(mapper::INTERFACE), "GetObject", &body).await.ok()?;
        reply.body().deserialize().ok()
    };
    let of = |service: &str, interface: &str| {
        Some(BTreeMap::from([(service.to_owned(), vec![interface.to_owned()])]))
    };
    assert_eq!(object("/a", "any.Interface").await, of("s.A", "any.Interface"));
    assert_eq!(object("/b", "i.B").await, of("s.B", "i.B"));
    assert_eq!(object("/b", "i.C").await, None);

    let below = async |root: &'static str| {
        let body = (root, 0_i32, vec!["i.B", "any.Interface"]);
        let name = Some(mapper::NAME);
        let reply =
            client.call_method(name, mapper::PATH, Some(mapper::INTERFACE), "GetSubTree", &body).await;
        let found: SubTree = reply.ok()?.body().deserialize().expect("objects");
        Some(found.into_keys().collect::<Vec<_>>())
    };
    assert_eq!(below("/").await, Some(vec!["/b".to_owned(), "/bc".to_owned()]));
    assert_eq!(below("/b").await, Some(Vec::new()), "the root is not below itself");
    assert_eq!(below("/nowhere").await, None);
    let calls = vec![("GetSubTree".to_owned(), vec!["i.B".to_owned(), "any.Interface".to_owned()]); 3];
    assert_eq!(peer.calls(), calls);
}
