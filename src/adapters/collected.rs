// SPDX-License-Identifier: Apache-2.0
//! Objects of other services that are not known by name: all that carry an interface, and what they say.
//!
//! Owns: which there are (as the object mapper says), and what was last read of each. They are listed when the mapper or one of
//! their services appears, and when one of them is announced or removed; read when they are new, and when they change. However
//! much is signalled, at most one question of a kind is under way. Must never: wait, judge what was read, or ask again by itself
//! what was answered with an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use zbus::{Message, ObjectPath, Variant, message::Type};

use crate::adapters::{
    dispatch::PROPERTIES,
    peer::{
        BUS, INTROSPECTED, MAPPER, MAPPER_PATH, Pending, introspected, objects, owner_changes, subscribe,
    },
};

/// All that is looked for is below this path.
const ROOT: &str = "/xyz/openbmc_project/inventory";
/// More objects of one kind than this are not read: no board has as many.
const MOST: usize = 512;

/// The properties of one interface of one object.
pub(crate) type Properties<'a> = BTreeMap<&'a str, Variant<'a>>;

/// What is in it, if it is a variant of a variant.
pub(crate) fn plain<'v, 'a>(value: &'v Variant<'a>) -> &'v Variant<'a> {
    if let Variant::Variant(inner) = value { inner } else { value }
}

/// What the mapper answers: path, service, interfaces.
type SubTree = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The interface that such an object carries.
    pub(crate) carries: &'static str,
    /// The interface whose properties are read there.
    pub(crate) read: &'static str,
}

/// One object, as one service has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) service: String,
    pub(crate) path: String,
    /// Which of the kinds, by its position.
    pub(crate) kind: usize,
}

/// What is known of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known<T> {
    /// It has not answered yet.
    Unread,
    /// It answered with an error.
    Failed,
    Read(T),
}

#[derive(Debug)]
struct Object<T> {
    known: Known<T>,
    /// It is being asked.
    asked: bool,
    /// It changed since it was asked, or has never been.
    stale: bool,
}

/// What a reply is about.
#[derive(Debug)]
enum Awaited {
    List,
    Object(Place),
}

/// What came of a message.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// To be sent.
    pub(crate) calls: Vec<Message>,
    /// What is known is not what it was.
    pub(crate) changed: bool,
}

/// The objects of these kinds.
#[derive(Debug)]
pub(crate) struct Collected<T> {
    kinds: &'static [Kind],
    objects: BTreeMap<Place, Object<T>>,
    /// The unique name of each service that has any, once it has answered.
    services: BTreeMap<String, Option<String>>,
    awaited: Pending<Awaited>,
    /// The mapper is being asked, and something has changed since.
    listing: Option<bool>,
    too_many: bool,
}

impl<T: PartialEq> Collected<T> {
    pub(crate) fn new(kinds: &'static [Kind]) -> Self {
        let (objects, services, awaited) = (BTreeMap::new(), BTreeMap::new(), Pending::default());
        Self { kinds, objects, services, awaited, listing: None, too_many: false }
    }

    /// All that there are, and what is known of each.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Place, &Known<T>)> {
        self.objects.iter().map(|(place, object)| (place, &object.known))
    }

    /// The calls to begin with: subscribed first, asked afterwards.
    pub(crate) fn start(&mut self) -> zbus::Result<Vec<Message>> {
        let mut calls = vec![subscribe(&owner_changes(MAPPER))?, subscribe(&introspected())?];
        for member in ["InterfacesAdded", "InterfacesRemoved"] {
            calls.push(subscribe(&objects(member, &format!("{ROOT}/")))?);
        }
        for Kind { read, .. } in self.kinds {
            let rule = format!(
                "type='signal',interface='{PROPERTIES}',member='PropertiesChanged',path_namespace='{ROOT}',arg0='{read}'"
            );
            calls.push(subscribe(&rule)?);
        }
        calls.extend(self.list()?);
        Ok(calls)
    }

    /// Asks the mapper what there is, now or when it has answered.
    fn list(&mut self) -> zbus::Result<Option<Message>> {
        if let Some(again) = &mut self.listing {
            *again = true;
            return Ok(None);
        }
        let interfaces: Vec<_> = self.kinds.iter().map(|kind| kind.carries).collect();
        let call = Message::method_call(MAPPER_PATH, "GetSubTree")
            .destination(MAPPER)
            .interface(MAPPER)
            .build(&(ROOT, 0_i32, interfaces))?;
        self.listing = Some(false);
        self.awaited.add(&call, Awaited::List);
        Ok(Some(call))
    }

    /// Reads those that have to be read, and are not being read.
    fn read(&mut self) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        for (place, object) in self.objects.iter_mut().filter(|(_, object)| object.stale && !object.asked) {
            let Some(kind) = self.kinds.get(place.kind) else { continue };
            let call = Message::method_call(place.path.as_str(), "GetAll")
                .destination(place.service.as_str())
                .interface(PROPERTIES)
                .build(&kind.read)?;
            (object.asked, object.stale) = (true, false);
            self.awaited.add(&call, Awaited::Object(place.clone()));
            calls.push(call);
        }
        Ok(calls)
    }

    /// A reply; `None` if it is not one to a call of ours. `judge` says what the properties of an object mean.
    pub(crate) fn returned(
        &mut self,
        serial: NonZeroU32,
        reply: &Message,
        judge: impl FnOnce(&Place, &Properties<'_>) -> T,
    ) -> Option<zbus::Result<Gathered>> {
        let asked = self.awaited.take(serial)?;
        let good = reply.message_type() == Type::MethodReturn;
        Some(match asked {
            Awaited::List => self.listed(reply, good),
            Awaited::Object(place) => self.answered(&place, reply, good, judge),
        })
    }

    fn listed(&mut self, reply: &Message, good: bool) -> zbus::Result<Gathered> {
        let again = self.listing.take() == Some(true);
        let body = reply.body();
        // An error means that there is nothing there, or no mapper; one that comes later is asked again.
        let tree: SubTree = if good { body.deserialize().unwrap_or_default() } else { SubTree::new() };
        let mut places = BTreeSet::new();
        for (path, services) in tree {
            for (service, interfaces) in services {
                for (kind, Kind { carries, .. }) in self.kinds.iter().enumerate() {
                    if interfaces.iter().any(|interface| interface == carries) {
                        places.insert(Place { service: service.clone(), path: path.clone(), kind });
                    }
                }
            }
        }
        if places.len() > MOST && !std::mem::replace(&mut self.too_many, true) {
            let kind = self.kinds.first().map_or("", |kind| kind.carries);
            tracing::warn!("{} objects have {kind}; only {MOST} are looked at", places.len());
        }
        let mut gathered = Gathered::default();
        self.objects.retain(|place, _| {
            let stays = places.contains(place);
            gathered.changed |= !stays;
            stays
        });
        for place in places.into_iter().take(MOST) {
            if !self.services.contains_key(&place.service) {
                gathered.calls.push(subscribe(&owner_changes(&place.service))?);
                self.services.insert(place.service.clone(), None);
            }
            let new = Object { known: Known::Unread, asked: false, stale: true };
            let object = self.objects.entry(place).or_insert_with(|| {
                gathered.changed = true;
                new
            });
            object.stale |= !matches!(object.known, Known::Read(_));
        }
        gathered.calls.extend(self.read()?);
        if again {
            gathered.calls.extend(self.list()?);
        }
        Ok(gathered)
    }

    fn answered(
        &mut self,
        place: &Place,
        reply: &Message,
        good: bool,
        judge: impl FnOnce(&Place, &Properties<'_>) -> T,
    ) -> zbus::Result<Gathered> {
        let mut gathered = Gathered::default();
        if let Some(object) = self.objects.get_mut(place) {
            let body = reply.body();
            let properties: Option<Properties<'_>> = if good { body.deserialize().ok() } else { None };
            let known = properties.map_or(Known::Failed, |properties| Known::Read(judge(place, &properties)));
            gathered.changed = object.known != known;
            (object.known, object.asked) = (known, false);
            if good && let Some(owner) = self.services.get_mut(&place.service) {
                *owner = reply.header().sender().map(|sender| sender.as_str().to_owned());
            }
        }
        gathered.calls = self.read()?;
        Ok(gathered)
    }

    /// A signal, of whatever kind and from whomever.
    pub(crate) fn signalled(&mut self, signal: &Message) -> zbus::Result<Gathered> {
        let mut gathered = Gathered::default();
        let header = signal.header();
        let (Some(sender), Some(path), Some(member)) = (header.sender(), header.path(), header.member())
        else {
            return Ok(gathered);
        };
        let body = signal.body();
        match member.as_str() {
            "NameOwnerChanged" if sender.as_str() == BUS => {
                if let Ok((name, _, new)) = body.deserialize::<(&str, &str, &str)>() {
                    self.owner_changed(name, new, &mut gathered)?;
                }
            }
            // A service has come, and the mapper knows by now what it has. Others than those that have objects do not matter
            // once there are any.
            INTROSPECTED => {
                let name = body.deserialize::<&str>();
                if self.objects.is_empty() || name.is_ok_and(|name| self.services.contains_key(name)) {
                    gathered.calls.extend(self.list()?);
                }
            }
            "InterfacesAdded" => {
                type Added<'a> = (ObjectPath<'a>, BTreeMap<&'a str, BTreeMap<&'a str, Variant<'a>>>);
                if let Ok((path, interfaces)) = body.deserialize::<Added<'_>>() {
                    self.came_or_went(path.as_str(), &interfaces.into_keys().collect(), &mut gathered)?;
                }
            }
            "InterfacesRemoved" => {
                if let Ok((path, interfaces)) = body.deserialize::<(ObjectPath<'_>, Vec<&str>)>() {
                    self.came_or_went(path.as_str(), &interfaces.into_iter().collect(), &mut gathered)?;
                }
            }
            "PropertiesChanged" => {
                let Ok(interface) = body.deserialize_ignore_signature::<&str>() else { return Ok(gathered) };
                for (place, object) in
                    self.objects.iter_mut().filter(|(place, _)| place.path == path.as_str())
                {
                    let owner = self.services.get(&place.service).and_then(Option::as_deref);
                    let of_kind = self.kinds.get(place.kind).is_some_and(|kind| kind.read == interface);
                    object.stale |= of_kind && owner == Some(sender.as_str());
                }
                gathered.calls = self.read()?;
            }
            _ => {}
        }
        Ok(gathered)
    }

    /// Something below the root is announced or removed. Whoever says so: the mapper knows, and the object itself.
    fn came_or_went(
        &mut self,
        path: &str,
        interfaces: &BTreeSet<&str>,
        gathered: &mut Gathered,
    ) -> zbus::Result<()> {
        if !path.starts_with(ROOT) || !self.kinds.iter().any(|kind| interfaces.contains(kind.carries)) {
            return Ok(());
        }
        for object in
            self.objects.iter_mut().filter(|(place, _)| place.path == path).map(|(_, object)| object)
        {
            object.stale = true;
        }
        gathered.calls.extend(self.list()?);
        Ok(())
    }

    fn owner_changed(&mut self, name: &str, new: &str, gathered: &mut Gathered) -> zbus::Result<()> {
        if name == MAPPER {
            // One that went away answers nothing any more.
            self.awaited.forget(|asked| matches!(asked, Awaited::List));
            self.listing = None;
            if !new.is_empty() {
                gathered.calls.extend(self.list()?);
            }
        }
        let Some(owner) = self.services.get_mut(name) else { return Ok(()) };
        *owner = None;
        self.awaited.forget(|asked| matches!(asked, Awaited::Object(place) if place.service == name));
        for (_, object) in self.objects.iter_mut().filter(|(place, _)| place.service == name) {
            gathered.changed |= object.known != Known::Unread;
            *object = Object { known: Known::Unread, asked: false, stale: true };
        }
        if !new.is_empty() {
            gathered.calls.extend(self.list()?);
        }
        Ok(())
    }
}
