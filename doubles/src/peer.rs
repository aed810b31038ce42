// SPDX-License-Identifier: Apache-2.0
//! A service that is what a test tells it to be: it has the properties that it is given, under any names, and can be told to
//! answer errors, or not at all. Each is on a connection of its own.
//!
//! It answers calls of all other methods too: `GetObject` and `GetSubTree` as a mapper that knows what it was told, everything
//! else with a job, as systemd does.
#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test whose double cannot do as it is told ends there"
)]
#![allow(clippy::must_use_candidate, reason = "a record is taken to empty it, too")]

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex},
};

use tokio::task::JoinSet;
use zbus::{Connection, Message, Variant, names::InterfaceName};

pub use crate::objects::Manners;
use crate::{
    lock,
    mapper::{self, Answer, Services, SubTree},
    objects::{Methods, Objects, PROPERTIES, connect},
    systemd::{job_path, job_removed},
};

/// One property: path, interface, name.
pub type Key = (String, String, String);

/// The key of a property.
#[must_use]
pub fn key(path: &str, interface: &str, property: &str) -> Key {
    (path.to_owned(), interface.to_owned(), property.to_owned())
}

#[derive(Debug, Default)]
struct State {
    manners: Manners,
    /// What was Set: the last part of the path, the property, the value as text.
    sets: Vec<String>,
    /// Calls of other methods: the member, and its strings.
    calls: Vec<(String, Vec<String>)>,
    /// The service at a path, as the mapper says when it is asked for that path.
    known: BTreeMap<String, String>,
    /// What the mapper lists.
    listed: SubTree,
    served: usize,
}

/// What it was told, and what it has heard.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<State>>);

/// A service. It goes away when it is dropped.
#[derive(Debug)]
pub struct Peer {
    objects: Objects,
    told: Told,
    _tasks: JoinSet<()>,
}

impl Peer {
    /// Starts one on the bus at `address`: values first, names last.
    pub async fn start(
        address: &str,
        names: &[&str],
        values: impl IntoIterator<Item = (Key, Variant<'static>)>,
    ) -> Self {
        let objects = Objects::new(connect(address).await.expect("the private bus"), None);
        let (told, mut tasks) = (Told::default(), JoinSet::new());
        objects.serve(told.clone(), &mut tasks);
        let peer = Self { objects, told, _tasks: tasks };
        for (key, value) in values {
            peer.change_silently(key, &value);
        }
        for name in names {
            peer.own(name).await;
        }
        peer
    }

    /// An object mapper that knows these objects, path to service.
    pub async fn mapper(address: &str, objects: &[(&str, &str)]) -> Self {
        let peer = Self::start(address, &[], []).await;
        peer.knows(objects);
        peer.own(mapper::NAME).await;
        peer
    }

    /// Takes another name.
    pub async fn own(&self, name: &str) {
        self.objects.own(name).await.expect("the name is free");
    }

    /// Gives names back.
    pub async fn disown(&self, names: &[&str]) {
        for name in names {
            self.objects.connection().release_name(*name).await.expect("the bus");
        }
    }

    /// How many calls it has had.
    pub fn served(&self) -> usize {
        lock(&self.told.0).served
    }

    /// The name of its connection.
    pub fn unique_name(&self) -> String {
        self.objects.connection().unique_name().expect("it is on a bus").to_string()
    }

    /// As the mapper: it finds these objects when it is asked for their path and any interface, path to service.
    pub fn knows(&self, objects: &[(&str, &str)]) {
        let objects = objects.iter().map(|(path, service)| ((*path).to_owned(), (*service).to_owned()));
        lock(&self.told.0).known.extend(objects);
    }

    /// As the mapper: it lists these objects, path and service and interface, and no others.
    pub fn lists<'a>(&self, objects: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) {
        let mut listed = SubTree::new();
        for (path, service, interface) in objects {
            let services = listed.entry(path.to_owned()).or_default();
            services.entry(service.to_owned()).or_default().push(interface.to_owned());
        }
        lock(&self.told.0).listed = listed;
    }

    /// How it answers from now on.
    pub fn mind(&self, manners: Manners) {
        lock(&self.told.0).manners = manners;
    }

    /// Everything that was Set since the last time, in order: "zone0 Manual=true". What was refused is in it, unless all calls are.
    pub fn sets(&self) -> Vec<String> {
        lock(&self.told.0).sets.clone()
    }

    /// The same; from now on nothing was Set.
    pub fn take_sets(&self) -> Vec<String> {
        mem::take(&mut lock(&self.told.0).sets)
    }

    /// Calls of other methods since the last time: the member, and its strings.
    pub fn calls(&self) -> Vec<(String, Vec<String>)> {
        lock(&self.told.0).calls.clone()
    }

    /// The same; from now on there were none.
    pub fn take_calls(&self) -> Vec<(String, Vec<String>)> {
        mem::take(&mut lock(&self.told.0).calls)
    }

    /// The value of a property as text, of an enumeration its last word; empty if there is none.
    pub fn value(&self, (path, interface, property): &Key) -> String {
        self.objects.value(path, interface, property).map_or_else(String::new, |value| text(&value))
    }

    /// A property changes by itself, with a signal.
    pub async fn change(&self, (path, interface, property): Key, value: Variant<'static>) {
        self.objects.say(&path, &interface, &property, value, true).await.expect("the bus");
    }

    /// It changes, and nobody is told.
    pub fn change_silently(&self, (path, interface, property): Key, value: &Variant<'static>) {
        let value = value.try_clone().expect("a value without file descriptors");
        self.objects.add(&path, &interface, &property, value, true).expect("the same");
    }

    /// It is no more, and says so.
    pub async fn invalidate(&self, (path, interface, property): &Key) {
        self.objects.invalidate(path, interface, property).await.expect("the bus");
    }

    /// As systemd: the one job that calls are answered with has ended.
    pub async fn job_removed(&self) {
        job_removed(self.objects.connection(), 1, "other.service").await.expect("the bus");
    }

    /// As the mapper: it has looked at this service.
    pub async fn introspected(&self, service: &str) {
        mapper::introspected(self.objects.connection(), service).await.expect("the bus");
    }

    /// `InterfacesAdded` for this path, with no interface.
    pub async fn announce(&self, path: &str) {
        self.announce_with(path, &[]).await;
    }

    /// `InterfacesAdded` of these interfaces.
    pub async fn announce_with(&self, path: &str, interfaces: &[&str]) {
        self.objects.claim("/", path, interfaces).await.expect("the bus");
    }

    /// An object is gone: `InterfacesRemoved`.
    pub async fn remove(&self, path: &str) {
        self.objects.remove("/", path).await.expect("the bus");
    }
}

impl Told {
    fn as_mapper(&self, call: &Message) -> Option<Answer> {
        let body = call.body();
        let mut state = lock(&self.0);
        match member(call).as_str() {
            "GetObject" => {
                if let Ok((path, wanted)) = body.deserialize::<(&str, Vec<String>)>()
                    && let Some(service) = state.known.get(path)
                {
                    return Some(Answer::Services(Services::from([(service.clone(), wanted)])));
                }
            }
            "GetSubTree" => {
                if let Ok((_, _, wanted)) = body.deserialize::<(&str, i32, Vec<String>)>() {
                    state.calls.push((member(call), wanted));
                }
            }
            _ => return None,
        }
        mapper::answer(&state.listed, call)
    }
}

impl Methods for Told {
    fn manners(&self, call: &Message) -> Manners {
        let mut state = lock(&self.0);
        state.served += 1;
        if [Manners::Good, Manners::Stubborn].contains(&state.manners) {
            state.sets.extend(set(call));
        }
        state.manners
    }

    async fn call(&self, connection: &Connection, call: &Message) -> zbus::Result<bool> {
        if let Some(answer) = self.as_mapper(call) {
            return mapper::send(connection, call, Some(answer)).await;
        }
        let strings = call.body().deserialize::<(String, String)>();
        let strings = strings.map(|(one, two)| vec![one, two]).unwrap_or_default();
        lock(&self.0).calls.push((member(call), strings));
        connection.reply(&call.header(), &job_path(1)?).await?;
        Ok(true)
    }
}

fn member(call: &Message) -> String {
    call.header().member().map_or_else(String::new, ToString::to_string)
}

/// A Set, as the record has it; `None` if it is none.
fn set(call: &Message) -> Option<String> {
    let (header, body) = (call.header(), call.body());
    if header.interface().map(InterfaceName::as_str) != Some(PROPERTIES) || member(call) != "Set" {
        return None;
    }
    let (_, property, value) = body.deserialize::<(&str, &str, Variant<'_>)>().ok()?;
    let object = header.path()?.rsplit('/').next()?;
    Some(format!("{object} {property}={}", text(&value)))
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
