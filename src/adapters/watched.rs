// SPDX-License-Identifier: Apache-2.0
//! Properties of other services that are followed: who has them, and what they are.
//!
//! Owns: for each property its service (as the object mapper says), that service's unique name, and the last value. Only
//! the owner's word counts. A peer may be absent, appear, restart, answer errors or never: until it says something
//! the value is `None`. Must never: wait, judge a value, or ask again by itself what was answered with an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use zbus::{Message, ObjectPath, Variant, message::Type};

use crate::adapters::{
    dispatch::PROPERTIES,
    peer::{
        self, BUS, INTROSPECTED, MAPPER, Pending, changes, introspected, objects, owner_changes, subscribe,
        who_serves,
    },
};

/// A value of one of the types that are followed.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Plain {
    Bool(bool),
    Unsigned(u64),
    Double(f64),
    Text(String),
    /// Anything else.
    Other,
}

impl Plain {
    pub(crate) fn of(value: &Variant<'_>) -> Self {
        if let Variant::Variant(inner) = value {
            return Self::of(inner);
        }
        let bool = value.downcast_ref().map(Self::Bool);
        let unsigned = || value.downcast_ref().map(Self::Unsigned);
        let double = || value.downcast_ref().map(Self::Double);
        let text = || value.downcast_ref::<&str>().map(|text| Self::Text(text.to_owned()));
        let known = bool.or_else(|_| unsigned()).or_else(|_| double()).or_else(|_| text());
        known.unwrap_or(Self::Other)
    }
}

/// One property that is followed.
#[derive(Debug)]
struct Item {
    path: String,
    interface: &'static str,
    property: &'static str,
    /// The service that the mapper names.
    service: Option<String>,
    /// Its unique name, once it has answered or the bus has said.
    owner: Option<String>,
    value: Option<Plain>,
}

/// What a reply of theirs is about.
#[derive(Debug)]
enum Awaited {
    Service(usize),
    Value(usize),
}

/// What came of a message.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// To be sent.
    pub(crate) calls: Vec<Message>,
    /// Items that were signalled or read, with what they are now; in the order of arrival.
    pub(crate) news: Vec<(usize, Option<Plain>)>,
    /// Items whose service has just been found, has restarted, or has announced the object again.
    pub(crate) appeared: Vec<usize>,
    /// Items that nobody has.
    pub(crate) absent: Vec<usize>,
}

/// The properties of one adapter, by their position.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    items: Vec<Item>,
    awaited: Pending<Awaited>,
    /// Services whose coming and going is subscribed to.
    followed: BTreeSet<String>,
}

impl Watched {
    /// Follows one more; its position.
    pub(crate) fn add(&mut self, path: &str, interface: &'static str, property: &'static str) -> usize {
        let path = path.to_owned();
        self.items.push(Item { path, interface, property, service: None, owner: None, value: None });
        self.items.len() - 1
    }

    /// Where it is.
    pub(crate) fn path(&self, item: usize) -> &str {
        self.items.get(item).map_or("/", |item| &item.path)
    }

    /// What it was last.
    pub(crate) fn value(&self, item: usize) -> Option<&Plain> {
        self.items.get(item)?.value.as_ref()
    }

    /// The calls to begin with: subscribed first, asked afterwards.
    pub(crate) fn start(&mut self) -> zbus::Result<Vec<Message>> {
        if self.items.is_empty() {
            return Ok(Vec::new());
        }
        let mut calls = vec![subscribe(&owner_changes(MAPPER))?, subscribe(&introspected())?];
        for Item { path, interface, .. } in &self.items {
            calls.push(subscribe(&changes(path, interface))?);
            calls.push(subscribe(&objects("InterfacesAdded", path))?);
            calls.push(subscribe(&objects("InterfacesRemoved", path))?);
        }
        for item in 0..self.items.len() {
            calls.extend(self.look_up(item)?);
        }
        Ok(calls)
    }

    /// Asks the mapper who has it.
    fn look_up(&mut self, index: usize) -> zbus::Result<Option<Message>> {
        let Some(item) = self.items.get(index) else { return Ok(None) };
        let call = who_serves(&item.path, item.interface)?;
        // Only the newest question counts.
        self.awaited.forget(|asked| matches!(asked, Awaited::Service(other) if *other == index));
        self.awaited.add(&call, Awaited::Service(index));
        Ok(Some(call))
    }

    /// Reads it again.
    pub(crate) fn read(&mut self, index: usize) -> zbus::Result<Option<Message>> {
        let Some(call) = self.get(index)? else { return Ok(None) };
        self.awaited.forget(|asked| matches!(asked, Awaited::Value(other) if *other == index));
        self.awaited.add(&call, Awaited::Value(index));
        Ok(Some(call))
    }

    /// A call that reads it, whose reply is the caller's.
    pub(crate) fn get(&self, index: usize) -> zbus::Result<Option<Message>> {
        let Some(item) = self.items.get(index) else { return Ok(None) };
        let Some(service) = &item.service else { return Ok(None) };
        peer::get(service, &item.path, item.interface, item.property).map(Some)
    }

    /// A call that Sets it; `None` if nobody has it.
    pub(crate) fn set(&self, index: usize, value: Variant<'_>) -> zbus::Result<Option<Message>> {
        let Some(item) = self.items.get(index) else { return Ok(None) };
        let Some(service) = &item.service else { return Ok(None) };
        Message::method_call(item.path.as_str(), "Set")
            .destination(service.as_str())
            .interface(PROPERTIES)
            .build(&(item.interface, item.property, value))
            .map(Some)
    }

    /// A reply; `None` if it is not one to a call of ours.
    pub(crate) fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Told>> {
        let asked = self.awaited.take(serial)?;
        let good = reply.message_type() == Type::MethodReturn;
        Some(match asked {
            Awaited::Service(index) => self.found(index, reply, good),
            Awaited::Value(index) => Ok(self.answered(index, reply, good)),
        })
    }

    fn found(&mut self, index: usize, reply: &Message, good: bool) -> zbus::Result<Told> {
        let mut told = Told::default();
        let body = reply.body();
        let services: BTreeMap<String, Vec<String>> =
            if good { body.deserialize().unwrap_or_default() } else { BTreeMap::new() };
        let Some(item) = self.items.get_mut(index) else { return Ok(told) };
        let Some(service) = services.into_keys().next() else {
            if item.service.is_none() {
                told.absent.push(index);
            }
            return Ok(told);
        };
        if item.service.as_ref() != Some(&service) {
            item.service = Some(service.clone());
            item.owner = None;
        }
        if self.followed.insert(service.clone()) {
            told.calls.push(subscribe(&owner_changes(&service))?);
        }
        told.appeared.push(index);
        told.calls.extend(self.read(index)?);
        Ok(told)
    }

    fn answered(&mut self, index: usize, reply: &Message, good: bool) -> Told {
        let mut told = Told::default();
        let Some(item) = self.items.get_mut(index) else { return told };
        let body = reply.body();
        let value = if good { body.deserialize::<Variant<'_>>().ok() } else { None };
        if good {
            item.owner = reply.header().sender().map(|sender| sender.as_str().to_owned());
        }
        item.value = value.as_ref().map(Plain::of);
        told.news.push((index, item.value.clone()));
        told
    }

    /// A signal, of whatever kind and from whomever.
    pub(crate) fn signalled(&mut self, signal: &Message) -> zbus::Result<Told> {
        let mut told = Told::default();
        if self.items.is_empty() {
            return Ok(told);
        }
        let header = signal.header();
        let (Some(sender), Some(path), Some(member)) = (header.sender(), header.path(), header.member())
        else {
            return Ok(told);
        };
        let body = signal.body();
        match member.as_str() {
            "NameOwnerChanged" if sender.as_str() == BUS => {
                if let Ok((name, _, new)) = body.deserialize::<(&str, &str, &str)>() {
                    self.owner_changed(name, new, &mut told)?;
                }
            }
            // A service has come, and the mapper knows by now what it has. (When its name gets an owner, it does not.)
            INTROSPECTED => {
                for index in 0..self.items.len() {
                    if self.items.get(index).is_some_and(|item| item.service.is_none()) {
                        told.calls.extend(self.look_up(index)?);
                    }
                }
            }
            "InterfacesAdded" => {
                if let Ok(announced) = body.deserialize_ignore_signature::<ObjectPath<'_>>() {
                    for index in self.at(announced.as_str()) {
                        told.calls.extend(self.look_up(index)?);
                    }
                }
            }
            "InterfacesRemoved" => {
                let Ok((removed, interfaces)) = body.deserialize::<(ObjectPath<'_>, Vec<&str>)>() else {
                    return Ok(told);
                };
                for index in self.at(removed.as_str()) {
                    let Some(item) = self.items.get_mut(index) else { continue };
                    if interfaces.contains(&item.interface) && item.owner.as_deref() == Some(sender.as_str())
                    {
                        item.value = None;
                        told.news.push((index, None));
                    }
                }
            }
            "PropertiesChanged" => {
                let Ok((interface, changed, invalidated)) =
                    body.deserialize::<(&str, BTreeMap<&str, Variant<'_>>, Vec<&str>)>()
                else {
                    return Ok(told);
                };
                for index in self.at(path.as_str()) {
                    let Some(item) = self.items.get_mut(index) else { continue };
                    if item.interface != interface || item.owner.as_deref() != Some(sender.as_str()) {
                        continue;
                    }
                    if let Some(value) = changed.get(item.property) {
                        item.value = Some(Plain::of(value));
                        told.news.push((index, item.value.clone()));
                    } else if invalidated.contains(&item.property) {
                        told.calls.extend(self.read(index)?);
                    }
                }
            }
            _ => {}
        }
        Ok(told)
    }

    /// The items at this path.
    fn at(&self, path: &str) -> Vec<usize> {
        let all = self.items.iter().enumerate().filter(|(_, item)| item.path == path);
        all.map(|(index, _)| index).collect()
    }

    fn owner_changed(&mut self, name: &str, new: &str, told: &mut Told) -> zbus::Result<()> {
        for index in 0..self.items.len() {
            let Some(item) = self.items.get_mut(index) else { continue };
            if name == MAPPER && !new.is_empty() && item.service.is_none() {
                told.calls.extend(self.look_up(index)?);
            } else if item.service.as_deref() == Some(name) {
                item.owner = (!new.is_empty()).then(|| new.to_owned());
                item.value = None;
                told.news.push((index, None));
                if !new.is_empty() {
                    told.appeared.push(index);
                    told.calls.extend(self.read(index)?);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod doubles {
    //! Messages as a bus and its services send them.

    use super::*;
    pub(crate) use crate::adapters::peer::serial_of as serial;

    /// A reply of `sender` to this call.
    pub(crate) fn reply<B>(call: &Message, sender: &str, body: &B) -> Message
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType,
    {
        Message::method_return(&call.header()).sender(sender).build(body).unwrap()
    }

    /// The mapper's answer: this service has it.
    pub(crate) fn owned_by(call: &Message, service: &str) -> Message {
        let services: BTreeMap<&str, Vec<&str>> = [(service, Vec::new())].into();
        reply(call, ":1.1", &services)
    }

    /// An error in place of a reply.
    pub(crate) fn failed(call: &Message) -> Message {
        Message::error(&call.header(), "xyz.openbmc_project.Common.Error.ResourceNotFound")
            .build(&("no",))
            .unwrap()
    }

    /// PropertiesChanged of one property.
    pub(crate) fn changed(
        sender: &str,
        path: &str,
        interface: &str,
        property: &str,
        value: Variant<'_>,
    ) -> Message {
        let values: BTreeMap<&str, Variant<'_>> = [(property, value)].into();
        Message::signal(path, PROPERTIES, "PropertiesChanged")
            .sender(sender)
            .build(&(interface, values, Vec::<&str>::new()))
            .unwrap()
    }

    /// NameOwnerChanged.
    pub(crate) fn owner(name: &str, new: &str) -> Message {
        Message::signal("/org/freedesktop/DBus", BUS, "NameOwnerChanged")
            .sender(BUS)
            .build(&(name, "", new))
            .unwrap()
    }

    /// The calls to this member.
    pub(crate) fn calls<'a>(calls: &'a [Message], member: &str) -> Vec<&'a Message> {
        let is = |call: &&Message| call.header().member().is_some_and(|m| m.as_str() == member);
        calls.iter().filter(is).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{doubles::*, *};
    use crate::adapters::peer::{MAPPER_PATH, MAPPER_PRIVATE};

    const PATH: &str = "/xyz/openbmc_project/sensors/power/CPU0";
    const VALUE: &str = "xyz.openbmc_project.Sensor.Value";

    fn watched() -> Watched {
        let mut watched = Watched::default();
        watched.add(PATH, VALUE, "Value");
        watched
    }

    /// Brings it to the first value, 5.0, of `:1.7`, which is `the.service`.
    fn running() -> Watched {
        let mut watched = watched();
        let begin = watched.start().unwrap();
        let [question] = calls(&begin, "GetObject")[..] else { panic!("{begin:?}") };
        let told = watched.returned(serial(question), &owned_by(question, "the.service")).unwrap().unwrap();
        assert_eq!(told.appeared, [0]);
        let [get] = calls(&told.calls, "Get")[..] else { panic!("{told:?}") };
        let value = reply(get, ":1.7", &Variant::from(5.0));
        let told = watched.returned(serial(get), &value).unwrap().unwrap();
        assert_eq!(told.news, [(0, Some(Plain::Double(5.0)))]);
        watched
    }

    #[test]
    fn found_read_and_followed() {
        let mut watched = running();
        assert_eq!(watched.value(0), Some(&Plain::Double(5.0)));
        let signal = changed(":1.7", PATH, VALUE, "Value", Variant::from(6.5));
        assert_eq!(watched.signalled(&signal).unwrap().news, [(0, Some(Plain::Double(6.5)))]);
        // Another one's word does not count, nor another interface's.
        let other = changed(":1.8", PATH, VALUE, "Value", Variant::from(0.0));
        assert_eq!(watched.signalled(&other).unwrap().news, []);
        let other = changed(":1.7", PATH, "another.Interface", "Value", Variant::from(0.0));
        assert_eq!(watched.signalled(&other).unwrap().news, []);
        assert_eq!(watched.value(0), Some(&Plain::Double(6.5)));
    }

    /// One that announces nothing itself: the mapper says when it knows it.
    #[test]
    fn a_service_that_comes_late_is_found_when_the_mapper_knows_it() {
        let mapped = Message::signal(MAPPER_PATH, MAPPER_PRIVATE, INTROSPECTED);
        let mapped = mapped.sender(":1.1").build(&"the.service").unwrap();
        let mut watched = watched();
        let begin = watched.start().unwrap();
        let [question] = calls(&begin, "GetObject")[..] else { panic!("{begin:?}") };
        let told = watched.returned(serial(question), &failed(question)).unwrap().unwrap();
        assert_eq!(told.absent, [0]);
        let told = watched.signalled(&mapped).unwrap();
        let [question] = calls(&told.calls, "GetObject")[..] else { panic!("{told:?}") };
        let told = watched.returned(serial(question), &owned_by(question, "the.service")).unwrap().unwrap();
        assert_eq!(told.appeared, [0]);
        // Once it is found, other services do not matter.
        assert!(watched.signalled(&mapped).unwrap().calls.is_empty());
    }

    #[test]
    fn a_service_that_restarts_is_read_anew() {
        let mut watched = running();
        let told = watched.signalled(&owner("the.service", "")).unwrap();
        assert_eq!((told.news.as_slice(), watched.value(0)), ([(0, None)].as_slice(), None));
        let told = watched.signalled(&owner("the.service", ":1.9")).unwrap();
        assert_eq!((told.appeared.as_slice(), calls(&told.calls, "Get").len()), ([0].as_slice(), 1));
        let old = changed(":1.7", PATH, VALUE, "Value", Variant::from(1.0));
        assert_eq!(watched.signalled(&old).unwrap().news, []);
    }

    #[test]
    fn a_mapper_that_comes_later_is_asked_again_and_errors_are_no_value() {
        let mut watched = watched();
        let begin = watched.start().unwrap();
        let question = calls(&begin, "GetObject")[0];
        let told = watched.returned(serial(question), &failed(question)).unwrap().unwrap();
        assert_eq!((told.absent.as_slice(), told.appeared.as_slice()), ([0].as_slice(), [].as_slice()));
        let told = watched.signalled(&owner(MAPPER, ":1.1")).unwrap();
        let question = calls(&told.calls, "GetObject")[0];
        let told = watched.returned(serial(question), &owned_by(question, "the.service")).unwrap().unwrap();
        let get = calls(&told.calls, "Get")[0];
        let told = watched.returned(serial(get), &failed(get)).unwrap().unwrap();
        assert_eq!(told.news, [(0, None)]);
        assert!(watched.returned(serial(get), &failed(get)).is_none());
    }

    #[test]
    fn an_object_that_is_announced_is_looked_up_again() {
        let mut watched = running();
        let path = ObjectPath::try_from(PATH).unwrap();
        let interfaces: BTreeMap<&str, BTreeMap<&str, Variant<'_>>> = BTreeMap::new();
        let signal = Message::signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded")
            .sender(":1.7")
            .build(&(path, interfaces))
            .unwrap();
        let told = watched.signalled(&signal).unwrap();
        assert_eq!(calls(&told.calls, "GetObject").len(), 1);
    }

    #[test]
    fn an_object_that_is_removed_takes_its_value_with_it() {
        let mut watched = running();
        let removed = |sender: &'static str, interface: &'static str| {
            let path = ObjectPath::try_from(PATH).unwrap();
            Message::signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesRemoved")
                .sender(sender)
                .build(&(path, vec![interface]))
                .unwrap()
        };
        // Another one's word does not count, nor another interface's.
        for signal in [removed(":1.8", VALUE), removed(":1.7", "another.Interface")] {
            assert_eq!(watched.signalled(&signal).unwrap().news, []);
        }
        assert_eq!(watched.signalled(&removed(":1.7", VALUE)).unwrap().news, [(0, None)]);
        assert_eq!(watched.value(0), None);
    }
}
