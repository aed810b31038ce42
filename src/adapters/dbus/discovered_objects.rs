// SPDX-License-Identifier: Apache-2.0
//! Objects of other services that are not known by name: all that carry an interface, and what they say.
//!
//! Owns: which there are (as the object mapper says), and what was last read of each. They are listed when the mapper or one of
//! their services appears, and when one of them is announced or removed; read when they are new, and when they change. However
//! much is signalled, at most one question of a kind is under way. A question that was answered with an error, or not at all,
//! is asked again after a pause. Must never: wait, or judge what was read.
//!
//! A service announces its objects one by one, and a mapper takes its time: what is known changes in steps, and each step looks like a
//! whole. It counts when it has come to rest ([`Gathered::rests`]).

use std::{collections::BTreeMap, num::NonZeroU32};

use zbus::{Message, Variant};

use crate::{
    adapters::dbus::{
        calls::{introspected, objects, owner_changes, subscribe},
        names::{MAPPER, MAPPER_PATH, PROPERTIES},
        peer::{Moment, Pending, Says, Speaker, earlier},
        signal::{News, Signal},
        sub_tree::SubTree,
    },
    logic::{
        patience::{Backoff, Rest},
        time::Time,
    },
};

/// All that is looked for is below this path.
const ROOT: &str = "/xyz/openbmc_project/inventory";
/// More objects of one kind than this are not read: no board has as many.
const MOST: usize = 512;
/// Nor are those of more services than this, ever.
const MOST_SERVICES: usize = 64;

/// The properties of one interface of one object.
pub(crate) type Properties<'a> = BTreeMap<&'a str, Variant<'a>>;

/// Returns the variant inside, if `value` is a variant of a variant.
pub(crate) fn plain<'v, 'a>(value: &'v Variant<'a>) -> &'v Variant<'a> {
    if let Variant::Variant(inner) = value { inner } else { value }
}

/// A kind of object that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carrier {
    /// The interface that such an object carries.
    pub(crate) carries: &'static str,
    /// The interface whose properties are read there.
    pub(crate) read: &'static str,
}

/// An object, as one service has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) service: String,
    pub(crate) path: String,
    /// Which of the kinds, by its position.
    pub(crate) kind: usize,
}

/// The knowledge of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known<T> {
    /// The service has not answered yet.
    Unread,
    /// The service answered with an error.
    Failed,
    Read(T),
}

#[derive(Debug)]
struct Object<T> {
    known: Known<T>,
    /// A question about the object is under way.
    asked: bool,
    /// The object changed since it was asked about, or it has never been asked about.
    stale: bool,
    retry: Backoff,
}

impl<T> Object<T> {
    const fn new() -> Self {
        Self { known: Known::Unread, asked: false, stale: true, retry: Backoff::NONE }
    }
}

/// The subject of a reply.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Awaited {
    List,
    Object(Place),
}

/// The result of a message.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// To be sent.
    pub(crate) calls: Vec<Message>,
    /// The knowledge has changed, no question is under way, and this has been so for [`crate::logic::patience::AT_REST`].
    pub(crate) rests: bool,
}

/// The objects of these kinds.
#[derive(Debug)]
pub(crate) struct DiscoveredObjects<T> {
    kinds: &'static [Carrier],
    objects: BTreeMap<Place, Object<T>>,
    /// The unique name of each service that has any, once it has answered.
    services: BTreeMap<String, Option<String>>,
    awaited: Pending<Awaited>,
    mapper: Speaker,
    /// The mapper is being asked, and something has changed since.
    listing: Option<bool>,
    list_again: Backoff,
    rest: Rest,
    too_many: bool,
}

impl<T: PartialEq> DiscoveredObjects<T> {
    pub(crate) fn new(kinds: &'static [Carrier]) -> Self {
        Self {
            kinds,
            objects: BTreeMap::new(),
            services: BTreeMap::new(),
            awaited: Pending::default(),
            mapper: Speaker::default(),
            listing: None,
            list_again: Backoff::default(),
            rest: Rest::default(),
            too_many: false,
        }
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
        for Carrier { read, .. } in self.kinds {
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
        let call = self.awaited.send(call, Awaited::List);
        if call.is_some() {
            self.listing = Some(false);
        } else {
            self.list_again.failed();
        }
        Ok(call)
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
            let call = self.awaited.send(call, Awaited::Object(place.clone()));
            object.asked = call.is_some();
            object.stale = false;
            if call.is_none() {
                object.retry.failed();
            }
            calls.extend(call);
        }
        Ok(calls)
    }

    /// Whether no question is under way.
    fn is_quiet(&self) -> bool {
        !self.awaited.any(|_| true)
    }

    /// Gives up waiting for answers that do not come, asks again what failed, and tells when all has come to rest.
    pub(crate) fn tick(
        &mut self,
        now: Moment,
        judge: impl Fn(&Place, &Properties<'_>) -> T,
    ) -> zbus::Result<Gathered> {
        let mut calls = Vec::new();
        for asked in self.awaited.unanswered(now) {
            calls.extend(self.answered(asked, None, &judge)?);
        }
        let mut due = false;
        for object in self.objects.values_mut() {
            let again = object.retry.tick(now.now);
            object.stale |= again;
            due |= again;
        }
        if due {
            calls.extend(self.read()?);
        }
        if self.list_again.tick(now.now) {
            calls.extend(self.list()?);
        }
        let rests = self.rest.tick(now.now, self.is_quiet());
        Ok(Gathered { calls, rests })
    }

    /// When to call [`DiscoveredObjects::tick`] next.
    pub(crate) fn wake_at(&self) -> Option<Time> {
        let objects = self.objects.values().filter_map(|object| object.retry.wake_at()).min();
        let asked = earlier(self.awaited.wake_at(), earlier(self.list_again.wake_at(), objects));
        earlier(asked, self.rest.wake_at(self.is_quiet()))
    }

    /// A reply; `None` if it is not one to a call of ours. `judge` says what the properties of an object mean.
    pub(crate) fn returned(
        &mut self,
        serial: NonZeroU32,
        reply: &Message,
        judge: impl Fn(&Place, &Properties<'_>) -> T,
    ) -> Option<zbus::Result<Vec<Message>>> {
        let asked = self.awaited.take(serial)?;
        Some(self.answered(asked, Some(reply), &judge))
    }

    /// An answer, or that there is none.
    fn answered(
        &mut self,
        asked: Awaited,
        reply: Option<&Message>,
        judge: &impl Fn(&Place, &Properties<'_>) -> T,
    ) -> zbus::Result<Vec<Message>> {
        match asked {
            Awaited::List => self.listed(reply),
            Awaited::Object(place) => self.object_read(&place, reply, judge),
        }
    }

    fn listed(&mut self, reply: Option<&Message>) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        let again = self.listing.take() == Some(true);
        if let Some(reply) = reply {
            self.mapper.replied(reply);
        }
        let body = reply.map(Message::body);
        let tree = match (Says::of(reply), &body) {
            (Says::Good, Some(body)) => body.deserialize::<SubTree<'_>>().ok(),
            (Says::NotThere, _) => Some(SubTree::default()),
            (Says::Good | Says::Nobody | Says::Failed, _) => None,
        };
        if let Some(tree) = tree {
            self.list_again.reset();
            self.take(&tree, &mut calls)?;
        } else if Says::of(reply) != Says::Nobody {
            // The known objects stay. (A mapper that comes later is asked then.)
            self.list_again.failed();
        }
        calls.extend(self.read()?);
        if again {
            calls.extend(self.list()?);
        }
        Ok(calls)
    }

    /// These are all that there are.
    fn take(&mut self, tree: &SubTree<'_>, calls: &mut Vec<Message>) -> zbus::Result<()> {
        let mut places = Vec::new();
        for listed in &tree.0 {
            let kind = self.kinds.iter().position(|kind| kind.carries == listed.interface);
            places.extend(kind.map(|kind| (listed.service, listed.path, kind)));
        }
        places.sort_unstable();
        places.dedup();
        let found = places.len();
        let mut taken = BTreeMap::new();
        for (service, path, kind) in places.into_iter().take(MOST) {
            let place = Place { service: service.to_owned(), path: path.to_owned(), kind };
            if !self.services.contains_key(&place.service) {
                if self.services.len() >= MOST_SERVICES {
                    continue;
                }
                calls.push(subscribe(&owner_changes(&place.service))?);
                self.services.insert(place.service.clone(), None);
            }
            let mut object = self.objects.remove(&place).unwrap_or_else(|| {
                self.rest.changed();
                Object::new()
            });
            object.stale |= !matches!(object.known, Known::Read(_));
            taken.insert(place, object);
        }
        if taken.len() < found && !std::mem::replace(&mut self.too_many, true) {
            let kind = self.kinds.first().map_or("", |kind| kind.carries);
            tracing::warn!("{found} objects have {kind}; only {} are looked at", taken.len());
        }
        // The objects that are left are not there any more.
        if !std::mem::replace(&mut self.objects, taken).is_empty() {
            self.rest.changed();
        }
        Ok(())
    }

    fn object_read(
        &mut self,
        place: &Place,
        reply: Option<&Message>,
        judge: &impl Fn(&Place, &Properties<'_>) -> T,
    ) -> zbus::Result<Vec<Message>> {
        if let Some(object) = self.objects.get_mut(place) {
            let says = Says::of(reply);
            let good = reply.filter(|_| says == Says::Good);
            let body = good.map(Message::body);
            let properties = body.as_ref().and_then(|body| body.deserialize::<Properties<'_>>().ok());
            let says = says.understood(properties.is_some());
            let known = match properties {
                Some(properties) => Known::Read(judge(place, &properties)),
                // The object is asked about when somebody has the name again.
                None if says == Says::Nobody => Known::Unread,
                None => Known::Failed,
            };
            if says == Says::Failed {
                object.retry.failed();
            } else {
                object.retry.reset();
            }
            if object.known != known {
                self.rest.changed();
            }
            (object.known, object.asked) = (known, false);
            if let Some(reply) = good
                && let Some(owner) = self.services.get_mut(&place.service)
            {
                *owner = reply.header().sender().map(|sender| sender.as_str().to_owned());
            }
        }
        self.read()
    }

    /// A signal, of whatever kind and from whomever.
    pub(crate) fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        match &signal.news {
            News::Owner { name, owner } => self.owner_changed(name, owner, &mut calls)?,
            // A service has come, and the mapper knows by now what it has. Others than those that have objects do not matter
            // once there are any.
            News::Introspected { service } if self.mapper.is(signal.sender) => {
                if self.objects.is_empty() || self.services.contains_key(*service) {
                    calls.extend(self.list()?);
                }
            }
            News::Added { path, interfaces } | News::Removed { path, interfaces } => {
                self.came_or_went(signal.sender, path.as_str(), interfaces, &mut calls)?;
            }
            News::Changed { interface, .. } => {
                let at_path = self.objects.iter_mut().filter(|(place, _)| place.path == signal.path);
                for (place, object) in at_path {
                    let owner = self.services.get(&place.service).and_then(Option::as_deref);
                    let of_kind = self.kinds.get(place.kind).is_some_and(|kind| kind.read == *interface);
                    object.stale |= of_kind && owner == Some(signal.sender);
                }
                calls = self.read()?;
            }
            News::Introspected { .. } | News::JobRemoved { .. } | News::Nothing => {}
        }
        Ok(calls)
    }

    /// Something below the root is announced or removed. The mapper is asked, whoever says so; and, where its owner says it, the object.
    fn came_or_went(
        &mut self,
        sender: &str,
        path: &str,
        interfaces: &[&str],
        calls: &mut Vec<Message>,
    ) -> zbus::Result<()> {
        if !path.starts_with(ROOT) || !self.kinds.iter().any(|kind| interfaces.contains(&kind.carries)) {
            return Ok(());
        }
        for (place, object) in self.objects.iter_mut().filter(|(place, _)| place.path == path) {
            let owner = self.services.get(&place.service).and_then(Option::as_deref);
            object.stale |= owner == Some(sender);
        }
        calls.extend(self.list()?);
        Ok(())
    }

    fn owner_changed(&mut self, name: &str, new: &str, calls: &mut Vec<Message>) -> zbus::Result<()> {
        if name == MAPPER {
            // A mapper that went away answers nothing any more.
            self.awaited.forget(|asked| matches!(asked, Awaited::List));
            self.listing = None;
            self.mapper.changed(new);
            if !new.is_empty() {
                calls.extend(self.list()?);
            }
        }
        let Some(owner) = self.services.get_mut(name) else { return Ok(()) };
        *owner = None;
        self.awaited.forget(|asked| matches!(asked, Awaited::Object(place) if place.service == name));
        for (_, object) in self.objects.iter_mut().filter(|(place, _)| place.service == name) {
            if object.known != Known::Unread {
                self.rest.changed();
            }
            *object = Object::new();
        }
        if !new.is_empty() {
            calls.extend(self.list()?);
        }
        Ok(())
    }
}
