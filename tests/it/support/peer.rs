// SPDX-License-Identifier: Apache-2.0
//! Services with properties, and the object mapper that knows them, each on a connection of its own; any of them can be
//! told to answer errors, or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// What it lists: path, service, interface.
    listed: BTreeSet<Key>,
    /// How many calls it has had.
    served: usize,
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

    /// Takes another name.
    pub async fn own(&self, name: &str) {
        let flags = RequestNameFlags::DO_NOT_QUEUE;
        self.connection.request_name_with_flags(name, flags).await.expect("the name is free");
    }

    /// Gives names back.
    pub async fn disown(&self, names: &[&str]) {
        for name in names {
            self.connection.release_name(*name).await.expect("the bus");
        }
    }

    /// How many calls it has had.
    pub fn served(&self) -> usize {
        self.lock().served
    }

    /// The name of its connection.
    pub fn unique_name(&self) -> String {
        self.connection.unique_name().expect("it is on a bus").to_string()
    }

    pub fn knows(&self, objects: &[(&str, &str)]) {
        let objects = objects.iter().map(|(path, service)| ((*path).to_owned(), (*service).to_owned()));
        self.lock().objects.extend(objects);
    }

    /// As the mapper: lists these objects, path and service and interface, and no others.
    pub fn lists<'a>(&self, objects: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) {
        self.lock().listed =
            objects.into_iter().map(|(path, service, interface)| key(path, service, interface)).collect();
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

    /// Calls of other methods since the last time.
    pub fn take_calls(&self) -> Vec<(String, Vec<String>)> {
        std::mem::take(&mut self.lock().calls)
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

    /// It is no more, and says so.
    pub async fn invalidate(&self, key: &Key) {
        self.lock().values.remove(key);
        let none: BTreeMap<&str, Variant<'_>> = BTreeMap::new();
        let signal = Message::signal(key.0.as_str(), PROPERTIES, "PropertiesChanged")
            .build(&(&key.1, none, vec![key.2.as_str()]))
            .expect("a signal");
        self.connection.send(&signal).await.expect("the bus");
    }

    /// It changes, and nobody is told.
    pub fn change_silently(&self, key: Key, value: &Variant<'static>) {
        self.lock().values.insert(key, owned(value));
    }

    /// As systemd: the one job that calls are answered with has ended.
    pub async fn job_removed(&self) {
        let job = ObjectPath::try_from("/org/freedesktop/systemd1/job/1").expect("a path");
        let signal =
            Message::signal("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "JobRemoved");
        let signal = signal.build(&(1_u32, job, "other.service", "done")).expect("a signal");
        self.connection.send(&signal).await.expect("the bus");
    }

    /// As the mapper: it has looked at this service.
    pub async fn introspected(&self, service: &str) {
        let path = "/xyz/openbmc_project/object_mapper";
        let signal = Message::signal(path, format!("{MAPPER}.Private"), "IntrospectionComplete");
        self.connection.send(&signal.build(&service).expect("a signal")).await.expect("the bus");
    }

    /// `InterfacesAdded` for this path.
    pub async fn announce(&self, path: &str) {
        self.announce_with(path, &[]).await;
    }

    /// `InterfacesAdded` of these interfaces.
    pub async fn announce_with(&self, path: &str, interfaces: &[&str]) {
        let interfaces: BTreeMap<&str, BTreeMap<&str, Variant<'_>>> =
            interfaces.iter().map(|interface| (*interface, BTreeMap::new())).collect();
        let body = (ObjectPath::try_from(path).expect("a path"), interfaces);
        let signal =
            Message::signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded").build(&body);
        self.connection.send(&signal.expect("a signal")).await.expect("the bus");
    }
}

impl Peer {
    /// `InterfacesRemoved`: the object is gone.
    pub async fn remove(&self, path: &str, interface: &str) {
        self.lock().values.retain(|key, _| key.0 != path);
        let body = (ObjectPath::try_from(path).expect("a path"), vec![interface]);
        let signal =
            Message::signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesRemoved").build(&body);
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

#[allow(clippy::too_many_lines, reason = "one method after another")]
fn answer(call: &Message, state: &mut State) -> Vec<Message> {
    let header = call.header();
    let path = header.path().map_or("", |path| path.as_str()).to_owned();
    let member = header.member().map_or("", |member| member.as_str()).to_owned();
    let body = call.body();
    state.served += 1;
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
        "GetSubTree" => {
            let (root, _, interfaces): (&str, i32, Vec<&str>) =
                body.deserialize().expect("GetSubTree's arguments");
            let mut tree: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
            for (path, service, interface) in &state.listed {
                if path.starts_with(root) && interfaces.contains(&interface.as_str()) {
                    tree.entry(path).or_default().entry(service).or_default().push(interface);
                }
            }
            state.calls.push((member, interfaces.iter().map(|&interface| interface.to_owned()).collect()));
            vec![reply(call, &tree)]
        }
        "GetAll" => {
            let interface: &str = body.deserialize().expect("GetAll's argument");
            let of = |key: &Key| key.0 == path && key.1 == interface;
            let values: BTreeMap<&str, &Variant<'_>> = state
                .values
                .iter()
                .filter(|(key, _)| of(key))
                .map(|(key, value)| (key.2.as_str(), &**value))
                .collect();
            if values.is_empty() { vec![error(call)] } else { vec![reply(call, &values)] }
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
