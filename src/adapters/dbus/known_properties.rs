// SPDX-License-Identifier: Apache-2.0
//! Properties of other services that are followed: who has them, and what they are.
//!
//! Owns: for each property its service (as the object mapper says), that service's unique name, and the last value. Only
//! the owner's word counts. A peer may be absent, appear, restart, answer errors or never: until it says something
//! the value is `None`. A question that was answered with an error, or not at all, is asked again after a pause; one about
//! an object that is not there, when it is announced. However much is signalled, one question of a kind is under way for each.
//! Must never: wait, or judge a value.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use zbus::{Message, Variant};

use crate::{
    adapters::dbus::{
        calls::{self, call_bus, changes, introspected, objects, owner_changes, subscribe, who_serves},
        names::{MAPPER, PROPERTIES},
        peer::{Moment, Pending, Says, Speaker, earlier},
        signal::{News, Signal},
    },
    logic::{patience::Backoff, time::Time},
};

/// A value of one of the types that are followed.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Plain {
    Bool(bool),
    Unsigned(u64),
    Double(f64),
    Text(String),
    /// A structure that begins with bytes or a number (the number's bytes, least first, without the zeroes at its end): no more than
    /// [`Plain::MOST`] of them.
    Code(Vec<u8>),
    /// Anything else.
    Other,
}

impl Plain {
    /// Longer codes are cut: one more than the longest that means something (`PostCode::from_bytes`).
    const MOST: usize = 10;

    pub(crate) fn of(value: &Variant<'_>) -> Self {
        if let Variant::Variant(inner) = value {
            return Self::of(inner);
        }
        if let Variant::Structure(structure) = value {
            return structure.fields().first().and_then(Self::code).map_or(Self::Other, Self::Code);
        }
        let bool = value.downcast_ref().map(Self::Bool);
        let unsigned = || value.downcast_ref().map(Self::Unsigned);
        let double = || value.downcast_ref().map(Self::Double);
        let text = || value.downcast_ref::<&str>().map(|text| Self::Text(text.to_owned()));
        let known = bool.or_else(|_| unsigned()).or_else(|_| double()).or_else(|_| text());
        known.unwrap_or(Self::Other)
    }

    /// The first field of a POST code: `ay`, and `t` before phosphor-dbus-interfaces 839d6c0ac (2024-11).
    fn code(first: &Variant<'_>) -> Option<Vec<u8>> {
        if let Ok(number) = first.downcast_ref::<u64>() {
            let bytes = number.to_le_bytes();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
            return Some(bytes.into_iter().take(used).collect());
        }
        let Variant::Array(array) = first else { return None };
        let bytes = array.inner().iter().take(Self::MOST).map(|byte| byte.downcast_ref::<u8>().ok());
        bytes.collect()
    }
}

/// A property of another service that the daemon follows.
#[derive(Debug)]
struct Item {
    path: String,
    interface: &'static str,
    property: &'static str,
    /// The service that the mapper names.
    service: Option<String>,
    /// The service has left the bus: another one may have the object by now, and need not announce it.
    left: bool,
    /// Its signals are subscribed to, and heard.
    heard: bool,
    /// Its unique name, once it has answered or the bus has said.
    owner: Option<String>,
    value: Option<Plain>,
    service_is: Question,
    value_is: Question,
}

/// A question that is asked again when there is reason to.
#[derive(Debug, Default)]
struct Question {
    /// There was a reason while it was under way.
    again: bool,
    retry: Backoff,
}

impl Question {
    /// Notes an answer. Returns true if the question has to be asked again at once.
    fn answered(&mut self, says: Says) -> bool {
        if says == Says::Failed {
            self.retry.failed();
        } else {
            self.retry.reset();
        }
        std::mem::take(&mut self.again)
    }
}

/// The subject of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaited {
    Service(usize),
    Value(usize),
}

/// The result of a message.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// To be sent.
    pub(crate) calls: Vec<Message>,
    /// Items that were signalled or read, with what they are now; in the order of arrival.
    pub(crate) news: Vec<(usize, Option<Plain>)>,
    /// Items whose service has just been found, has restarted, or has announced the object again.
    pub(crate) appeared: Vec<usize>,
}

/// The properties of one adapter, by their position.
#[derive(Debug, Default)]
pub(crate) struct KnownProperties {
    items: Vec<Item>,
    awaited: Pending<Awaited>,
    mapper: Speaker,
    /// Services whose coming and going is subscribed to.
    followed: BTreeSet<String>,
}

impl KnownProperties {
    /// Follows one more; its position.
    pub(crate) fn add(&mut self, path: &str, interface: &'static str, property: &'static str) -> usize {
        let path = path.to_owned();
        self.items.push(Item {
            path,
            interface,
            property,
            service: None,
            left: false,
            heard: true,
            owner: None,
            value: None,
            service_is: Question::default(),
            value_is: Question::default(),
        });
        self.items.len() - 1
    }

    /// Follows one more whose signals nobody wants yet; its position.
    pub(crate) fn add_unheard(
        &mut self,
        path: &str,
        interface: &'static str,
        property: &'static str,
    ) -> usize {
        let index = self.add(path, interface, property);
        if let Some(item) = self.items.get_mut(index) {
            item.heard = false;
        }
        index
    }

    /// The call that begins to listen to its signals, or ends it; those that are still on their way then are not heard. Nothing is
    /// read at either. Two items of one interface at one path share one rule: only one that is alone there may be ended.
    pub(crate) fn hear_of(&mut self, item: usize, heard: bool) -> zbus::Result<Option<Message>> {
        let Some(item) = self.items.get_mut(item).filter(|item| item.heard != heard) else { return Ok(None) };
        item.heard = heard;
        let rule = changes(&item.path, item.interface);
        call_bus(if heard { "AddMatch" } else { "RemoveMatch" }, &rule.as_str()).map(Some)
    }

    /// Where it is.
    pub(crate) fn path(&self, item: usize) -> &str {
        self.items.get(item).map_or("/", |item| &item.path)
    }

    /// Returns the last value.
    pub(crate) fn value(&self, item: usize) -> Option<&Plain> {
        self.items.get(item)?.value.as_ref()
    }

    /// The calls to begin with: subscribed first, asked afterwards.
    pub(crate) fn start(&mut self) -> zbus::Result<Vec<Message>> {
        if self.items.is_empty() {
            return Ok(Vec::new());
        }
        let mut calls = vec![subscribe(&owner_changes(MAPPER))?, subscribe(&introspected())?];
        for Item { path, interface, heard, .. } in &self.items {
            if *heard {
                calls.push(subscribe(&changes(path, interface))?);
            }
            calls.push(subscribe(&objects("InterfacesAdded", path))?);
            calls.push(subscribe(&objects("InterfacesRemoved", path))?);
        }
        for item in 0..self.items.len() {
            calls.extend(self.look_up(item)?);
        }
        Ok(calls)
    }

    /// Asks the mapper who has it, now or when it has answered.
    fn look_up(&mut self, index: usize) -> zbus::Result<Option<Message>> {
        let about = Awaited::Service(index);
        let under_way = self.awaited.any(|asked| *asked == about);
        let Some(item) = self.items.get_mut(index) else { return Ok(None) };
        if under_way {
            item.service_is.again = true;
            return Ok(None);
        }
        let call = self.awaited.send(who_serves(&item.path, item.interface)?, about);
        if call.is_none() {
            item.service_is.retry.failed();
        }
        Ok(call)
    }

    /// Reads it again, now or when what was asked before is answered.
    fn read(&mut self, index: usize) -> zbus::Result<Option<Message>> {
        let about = Awaited::Value(index);
        let under_way = self.awaited.any(|asked| *asked == about);
        let Some(call) = self.get(index)? else { return Ok(None) };
        let Some(item) = self.items.get_mut(index) else { return Ok(None) };
        if under_way {
            item.value_is.again = true;
            return Ok(None);
        }
        let call = self.awaited.send(call, about);
        if call.is_none() {
            item.value_is.retry.failed();
        }
        Ok(call)
    }

    /// A call that reads it, whose reply is the caller's.
    pub(crate) fn get(&self, index: usize) -> zbus::Result<Option<Message>> {
        let Some(item) = self.items.get(index) else { return Ok(None) };
        let Some(service) = &item.service else { return Ok(None) };
        calls::get(service, &item.path, item.interface, item.property).map(Some)
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
        Some(self.answered(asked, Some(reply)))
    }

    /// Gives up waiting for answers that do not come, and asks again what failed.
    pub(crate) fn tick(&mut self, now: Moment) -> zbus::Result<Told> {
        let mut told = Told::default();
        for asked in self.awaited.unanswered(now) {
            let Told { calls, news, appeared } = self.answered(asked, None)?;
            told.calls.extend(calls);
            told.news.extend(news);
            told.appeared.extend(appeared);
        }
        for index in 0..self.items.len() {
            let Some(item) = self.items.get_mut(index) else { continue };
            let (service, value) = (item.service_is.retry.tick(now.now), item.value_is.retry.tick(now.now));
            if service {
                told.calls.extend(self.look_up(index)?);
            }
            if value {
                told.calls.extend(self.read(index)?);
            }
        }
        Ok(told)
    }

    /// When to call [`KnownProperties::tick`] next.
    pub(crate) fn wake_at(&self) -> Option<Time> {
        let of = |item: &Item| earlier(item.service_is.retry.wake_at(), item.value_is.retry.wake_at());
        earlier(self.awaited.wake_at(), self.items.iter().filter_map(of).min())
    }

    /// An answer, or that there is none.
    fn answered(&mut self, asked: Awaited, reply: Option<&Message>) -> zbus::Result<Told> {
        match asked {
            Awaited::Service(index) => self.found(index, reply),
            Awaited::Value(index) => self.value_read(index, reply),
        }
    }

    fn found(&mut self, index: usize, reply: Option<&Message>) -> zbus::Result<Told> {
        let mut told = Told::default();
        let says = Says::of(reply);
        if let Some(reply) = reply {
            self.mapper.replied(reply);
        }
        let good = reply.filter(|_| says == Says::Good).map(Message::body);
        let services = good.and_then(|body| body.deserialize::<BTreeMap<String, Vec<String>>>().ok());
        let says = says.understood(services.is_some());
        let Some(item) = self.items.get_mut(index) else { return Ok(told) };
        if item.service_is.answered(says) {
            told.calls.extend(self.look_up(index)?);
        }
        let Some(service) = services.unwrap_or_default().into_keys().next() else { return Ok(told) };
        let Some(item) = self.items.get_mut(index) else { return Ok(told) };
        if item.service.as_ref() != Some(&service) {
            item.service = Some(service.clone());
            item.owner = None;
            self.awaited.forget(|asked| *asked == Awaited::Value(index));
        }
        item.left = false;
        if self.followed.insert(service.clone()) {
            told.calls.push(subscribe(&owner_changes(&service))?);
        }
        let used = |name: &String| self.items.iter().any(|item| item.service.as_ref() == Some(name));
        let (used, left) = std::mem::take(&mut self.followed).into_iter().partition::<BTreeSet<_>, _>(used);
        self.followed = used;
        for name in left {
            told.calls.push(call_bus("RemoveMatch", &owner_changes(&name).as_str())?);
        }
        told.appeared.push(index);
        told.calls.extend(self.read(index)?);
        Ok(told)
    }

    fn value_read(&mut self, index: usize, reply: Option<&Message>) -> zbus::Result<Told> {
        let mut told = Told::default();
        let says = Says::of(reply);
        let Some(item) = self.items.get_mut(index) else { return Ok(told) };
        let good = reply.filter(|_| says == Says::Good);
        if let Some(reply) = good {
            item.owner = reply.header().sender().map(|sender| sender.as_str().to_owned());
        }
        let body = good.map(Message::body);
        let value = body.as_ref().and_then(|body| body.deserialize::<Variant<'_>>().ok());
        item.value = value.as_ref().map(Plain::of);
        told.news.push((index, item.value.clone()));
        if item.value_is.answered(says.understood(value.is_some())) {
            told.calls.extend(self.read(index)?);
        }
        Ok(told)
    }

    /// A signal, of whatever kind and from whomever.
    pub(crate) fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Told> {
        let mut told = Told::default();
        match &signal.news {
            News::Owner { name, owner } => self.owner_changed(name, owner, &mut told)?,
            // A service has come, and the mapper knows by now what it has. (When its name gets an owner, it does not.)
            News::Introspected { .. } if self.mapper.is(signal.sender) => {
                for index in 0..self.items.len() {
                    if self.items.get(index).is_some_and(|item| item.service.is_none() || item.left) {
                        told.calls.extend(self.look_up(index)?);
                    }
                }
            }
            News::Added { path, .. } => {
                for index in self.at(path.as_str()) {
                    told.calls.extend(self.look_up(index)?);
                }
            }
            News::Removed { path, interfaces } => {
                self.removed(signal.sender, path.as_str(), interfaces, &mut told);
            }
            News::Changed { interface, values, invalidated } => {
                for index in self.at(signal.path) {
                    let Some(item) = self.items.get_mut(index) else { continue };
                    let of_owner = item.owner.as_deref() == Some(signal.sender);
                    if !item.heard || item.interface != *interface || !of_owner {
                        continue;
                    }
                    if let Some(value) = values.get(item.property) {
                        item.value = Some(Plain::of(value));
                        told.news.push((index, item.value.clone()));
                    } else if invalidated.contains(&item.property) {
                        told.calls.extend(self.read(index)?);
                    }
                }
            }
            News::Introspected { .. } | News::JobRemoved { .. } | News::Nothing => {}
        }
        Ok(told)
    }

    /// The same, of a message.
    #[cfg(test)]
    pub(crate) fn hear(&mut self, signal: &Message) -> zbus::Result<Told> {
        Signal::read(signal, |signal| self.signalled(signal))
    }

    fn removed(&mut self, sender: &str, path: &str, interfaces: &[&str], told: &mut Told) {
        for index in self.at(path) {
            let Some(item) = self.items.get_mut(index) else { continue };
            if interfaces.contains(&item.interface) && item.owner.as_deref() == Some(sender) {
                item.value = None;
                told.news.push((index, None));
            }
        }
    }

    /// The items at this path.
    fn at(&self, path: &str) -> Vec<usize> {
        let all = self.items.iter().enumerate().filter(|(_, item)| item.path == path);
        all.map(|(index, _)| index).collect()
    }

    fn owner_changed(&mut self, name: &str, new: &str, told: &mut Told) -> zbus::Result<()> {
        if name == MAPPER {
            self.mapper.changed(new);
        }
        for index in 0..self.items.len() {
            let Some(item) = self.items.get_mut(index) else { continue };
            if name == MAPPER {
                // A mapper that went away answers nothing any more.
                let about = Awaited::Service(index);
                let ask = item.service.is_none()
                    || item.service_is.again
                    || self.awaited.any(|asked| *asked == about);
                self.awaited.forget(|asked| *asked == about);
                item.service_is = Question { again: ask && new.is_empty(), retry: Backoff::default() };
                if ask && !new.is_empty() {
                    told.calls.extend(self.look_up(index)?);
                }
            } else if item.service.as_deref() == Some(name) {
                item.owner = (!new.is_empty()).then(|| new.to_owned());
                item.left = new.is_empty();
                item.value = None;
                item.value_is = Question::default();
                self.awaited.forget(|asked| *asked == Awaited::Value(index));
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
mod tests;
