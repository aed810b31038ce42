// SPDX-License-Identifier: Apache-2.0
//! Services with properties, and the object mapper that knows them, each on a connection of its own; any of them can be
//! told to answer errors, or not at all.
#![allow(unreachable_pub, dead_code, reason = "this file is included by several test programs")]

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_core::Stream;
use zbus::{
    Connection, Message, MessageStream, ObjectPath, OwnedVariant, Variant, connection::Builder,
    fdo::RequestNameFlags, message::Type,
};

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
pub const MAPPER: &str = "xyz.openbmc_project.ObjectMapper";

/// How a service answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Manners {
    #[default]
    Good,
    /// Every call is an error.
    Errors,
    /// No call is ever answered.
    Silent,
}

/// One property: path, interface, name.
pub type Key = (String, String, String);

#[derive(Default)]
struct State {
    values: BTreeMap<Key, OwnedVariant>,
    manners: Manners,
    /// Sets succeed and change nothing.
    stubborn: bool,
    /// What was Set: the last part of the path, the property, the value as text.
    sets: Vec<String>,
    /// Calls of other methods: the member, and its strings.
    calls: Vec<(String, Vec<String>)>,
    /// What the mapper knows: path to service.
    objects: BTreeMap<String, String>,
}

/// A service. It goes away when it is dropped.
pub struct Peer {
    connection: Connection,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

pub fn key(path: &str, interface: &str, property: &str) -> Key {
    (path.to_owned(), interface.to_owned(), property.to_owned())
}

fn owned(value: &Variant<'_>) -> OwnedVariant {
    value.try_to_owned().expect("a value without file descriptors")
}

impl Peer {
    /// Values first, names last.
    pub async fn start(
        address: &str,
        names: &[&str],
        values: impl IntoIterator<Item = (Key, Variant<'static>)>,
    ) -> Self {
        let connection = Builder::address(address).build().await.expect("the private bus");
        let values = values.into_iter().map(|(key, value)| (key, owned(&value))).collect();
        let state = Arc::new(Mutex::new(State { values, ..State::default() }));
        let stream = MessageStream::from(&connection);
        let task = tokio::spawn(serve(stream, connection.clone(), Arc::clone(&state)));
        let peer = Self { connection, state, task };
        for name in names {
            let flags = RequestNameFlags::DO_NOT_QUEUE;
            peer.connection.request_name_with_flags(*name, flags).await.expect("the name is free");
        }
        peer
    }

    /// An object mapper that knows these objects, path to service.
    pub async fn mapper(address: &str, objects: &[(&str, &str)]) -> Self {
        let peer = Self::start(address, &[], []).await;
        peer.knows(objects);
        peer.connection.request_name(MAPPER).await.expect("the name is free");
        peer
    }

    pub fn knows(&self, objects: &[(&str, &str)]) {
        let objects = objects.iter().map(|(path, service)| ((*path).to_owned(), (*service).to_owned()));
        self.lock().objects.extend(objects);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn mind(&self, manners: Manners) {
        self.lock().manners = manners;
    }

    pub fn be_stubborn(&self) {
        self.lock().stubborn = true;
    }

    /// Everything that was Set since the last call, in order: "zone0 Manual=true".
    pub fn take_sets(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().sets)
    }

    pub fn sets(&self) -> Vec<String> {
        self.lock().sets.clone()
    }

    /// Calls of other methods.
    pub fn calls(&self) -> Vec<(String, Vec<String>)> {
        self.lock().calls.clone()
    }

    pub fn value(&self, key: &Key) -> String {
        self.lock().values.get(key).map_or_else(String::new, |value| text(value))
    }

    /// It changes by itself, with a signal.
    pub async fn change(&self, key: Key, value: Variant<'static>) {
        let signal = changed(&key, &value);
        self.lock().values.insert(key, owned(&value));
        self.connection.send(&signal).await.expect("the bus");
    }

    /// It changes, and nobody is told.
    pub fn change_silently(&self, key: Key, value: &Variant<'static>) {
        self.lock().values.insert(key, owned(value));
    }

    /// `InterfacesAdded` for this path.
    pub async fn announce(&self, path: &str) {
        let interfaces: BTreeMap<&str, BTreeMap<&str, Variant<'_>>> = BTreeMap::new();
        let body = (ObjectPath::try_from(path).expect("a path"), interfaces);
        let signal =
            Message::signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded").build(&body);
        self.connection.send(&signal.expect("a signal")).await.expect("the bus");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn changed((path, interface, property): &Key, value: &Variant<'_>) -> Message {
    let values: BTreeMap<&str, &Variant<'_>> = [(property.as_str(), value)].into();
    Message::signal(path.as_str(), PROPERTIES, "PropertiesChanged")
        .build(&(interface, values, Vec::<&str>::new()))
        .expect("a signal")
}

fn text(value: &Variant<'_>) -> String {
    if let Variant::Variant(inner) = value {
        return text(inner);
    }
    let text =
        value.downcast_ref::<&str>().map(|text| text.rsplit('.').next().unwrap_or_default().to_owned());
    let bool = || value.downcast_ref::<bool>().map(|value| value.to_string());
    let unsigned = || value.downcast_ref::<u64>().map(|value| value.to_string());
    let known = text.or_else(|_| bool()).or_else(|_| unsigned());
    known.unwrap_or_else(|_| format!("{value:?}"))
}

async fn next(stream: &mut MessageStream) -> Option<Message> {
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await?.ok()
}

async fn serve(mut stream: MessageStream, connection: Connection, state: Arc<Mutex<State>>) {
    while let Some(call) = next(&mut stream).await {
        if call.message_type() != Type::MethodCall {
            continue;
        }
        let messages = answer(&call, &mut state.lock().unwrap_or_else(PoisonError::into_inner));
        if connection.send_all(&messages).await.is_err() {
            return;
        }
    }
}

fn error(call: &Message) -> Message {
    Message::error(&call.header(), "xyz.openbmc_project.Common.Error.ResourceNotFound")
        .build(&("no",))
        .expect("an error")
}

fn reply<B>(call: &Message, body: &B) -> Message
where
    B: zbus::export::serde::Serialize + zbus::DynamicType,
{
    Message::method_return(&call.header()).build(body).expect("a reply")
}

fn answer(call: &Message, state: &mut State) -> Vec<Message> {
    let header = call.header();
    let path = header.path().map_or("", |path| path.as_str()).to_owned();
    let member = header.member().map_or("", |member| member.as_str()).to_owned();
    let body = call.body();
    match state.manners {
        Manners::Good => {}
        Manners::Errors => return vec![error(call)],
        Manners::Silent => return Vec::new(),
    }
    match member.as_str() {
        "GetObject" => {
            let (of, _): (&str, Vec<&str>) = body.deserialize().expect("GetObject's arguments");
            match state.objects.get(of) {
                Some(service) => {
                    let services: BTreeMap<&str, Vec<&str>> = [(service.as_str(), Vec::new())].into();
                    vec![reply(call, &services)]
                }
                None => vec![error(call)],
            }
        }
        "Get" => {
            let (interface, property): (String, String) = body.deserialize().expect("Get's arguments");
            match state.values.get(&(path, interface, property)) {
                Some(value) => vec![reply(call, &**value)],
                None => vec![error(call)],
            }
        }
        "Set" => {
            let (interface, property, value): (String, String, Variant<'_>) =
                body.deserialize().expect("Set's arguments");
            let value = if let Variant::Variant(inner) = value { *inner } else { value };
            let last = path.rsplit('/').next().unwrap_or_default();
            state.sets.push(format!("{last} {property}={}", text(&value)));
            let key = (path, interface, property);
            let Some(before) = state.values.get(&key) else { return vec![error(call)] };
            let mut messages = Vec::new();
            if !state.stubborn {
                if text(before) != text(&value) {
                    messages.push(changed(&key, &value));
                }
                state.values.insert(key, owned(&value));
            }
            messages.push(reply(call, &()));
            messages
        }
        _ => {
            let strings =
                body.deserialize::<(String, String)>().map(|(one, two)| vec![one, two]).unwrap_or_default();
            state.calls.push((member, strings));
            let job = ObjectPath::try_from("/org/freedesktop/systemd1/job/1").expect("a path");
            vec![reply(call, &job)]
        }
    }
}
