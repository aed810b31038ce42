// SPDX-License-Identifier: Apache-2.0
//! Watches `State.Chassis`, `State.Host` and `State.OperatingSystem.Status` of each host, and hears of a reset that is asked for.
//!
//! Owns: who owns the power names, and which connection's word counts. Must never: judge a value.
//!
//! Values come from signals and from Gets, both through the one stream of messages, so that what
//! arrives first is first. Only the owner of a power name counts, and of several names the first whose owner is believed
//! (note B1). Whenever an owner changes, all values of that host are read anew, chassis first, and answers to older
//! questions are dropped. While a host's gate is open they are read again now and then (note B2).

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use zbus::{Message, Variant};

use crate::{
    adapters::dbus::{
        calls::{call_bus, changes, get, subscribe},
        names::{BUS, Brief},
        peer::{Moment, NOT_BELIEVED, Outcome, Peer, Pending, Says, earlier},
        signal::{News, Signal},
    },
    logic::{
        event::Event,
        evidence::{Chassis, Found, HostState, Os},
        limit::Bucket,
        patience::Backoff,
        time::Time,
    },
    shell::permits::HostIndex,
};

/// While the gate is open, what nobody signals is found so soon, on the daemon's clock.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// Lines about what others do wrong.
const LINES_AT_ONCE: u32 = 5;
/// And then one each.
const LINES_EACH: Duration = Duration::from_secs(60);

/// Where x86-power-control had OS status before 2024-03 (its commit 3373791), whatever the host's number: each host's process is on a
/// connection of its own. The name was `State.OperatingSystem<N>` as today.
const OS_BEFORE: &str = "/xyz/openbmc_project/state/os";
/// What is asked of a host; both power controls have it beside its state, and signal it before they answer the Set (openbmc 2.4).
const REQUESTED: &str = "RequestedHostTransition";
/// The one request that resets the host and does not ask its OS. All others act upon power, or ask first (rule 4).
const FORCED: &str = "xyz.openbmc_project.State.Host.Transition.ForceWarmReboot";

/// The kind of a value. A host has three, which are read in the order of `ALL`: chassis first (rule 9),
/// the host last, since rule 6 decides as soon as it has both, and must know OS status by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Property {
    Chassis,
    Host,
    Os,
}

impl Property {
    const ALL: [Self; 3] = [Self::Chassis, Self::Os, Self::Host];

    const fn interface(self) -> &'static str {
        match self {
            Self::Chassis => "xyz.openbmc_project.State.Chassis",
            Self::Host => "xyz.openbmc_project.State.Host",
            Self::Os => "xyz.openbmc_project.State.OperatingSystem.Status",
        }
    }

    const fn property(self) -> &'static str {
        match self {
            Self::Chassis => "CurrentPowerState",
            Self::Host => "CurrentHostState",
            Self::Os => "OperatingSystemState",
        }
    }

    /// The objects that may have it, the one of today first.
    fn paths(self, id: u32) -> Vec<String> {
        match self {
            Self::Chassis => vec![format!("/xyz/openbmc_project/state/chassis{id}")],
            Self::Host => vec![format!("/xyz/openbmc_project/state/host{id}")],
            Self::Os => vec![format!("/xyz/openbmc_project/state/host{id}"), OS_BEFORE.to_owned()],
        }
    }

    /// The names whose owner serves it, the best one first (openbmc 2.1): with the instance's
    /// suffix, for host 0 without it too. OS status is on the host's connection: in phosphor-state-manager, which has no
    /// other name for it, and in x86-power-control. A name of its own only counts where that connection has none.
    fn names(self, id: u32) -> Vec<String> {
        let bases: &[&str] = match self {
            Self::Chassis => &["xyz.openbmc_project.State.Chassis"],
            Self::Host => &["xyz.openbmc_project.State.Host"],
            Self::Os => &["xyz.openbmc_project.State.Host", "xyz.openbmc_project.State.OperatingSystem"],
        };
        let unsuffixed = (id == 0).then_some("");
        let suffix = id.to_string();
        let with = |base: &&str| {
            let base = (*base).to_owned();
            [Some(suffix.as_str()), unsuffixed].into_iter().flatten().map(move |s| base.clone() + s).collect()
        };
        bases.iter().flat_map(|base| -> Vec<String> { with(base) }).collect()
    }

    fn event(self, value: Option<&str>) -> Event {
        match self {
            Self::Chassis => Event::Chassis(value.and_then(Chassis::from_dbus)),
            Self::Host => Event::Host(value.and_then(HostState::from_dbus)),
            Self::Os => Event::Os(value.and_then(Os::from_dbus)),
        }
    }

    /// Returns the event of a value that was found by asking again; a string that is no value is gone.
    fn found(self, value: Option<&str>) -> Event {
        let found = match self {
            Self::Chassis => value.and_then(Chassis::from_dbus).map(Found::Chassis),
            Self::Host => value.and_then(HostState::from_dbus).map(Found::Host),
            Self::Os => value.and_then(Os::from_dbus).map(Found::Os),
        };
        found.map_or_else(|| self.event(None), Event::Found)
    }
}

/// The source of one value of one host.
#[derive(Debug)]
struct Followed {
    host: HostIndex,
    kind: Property,
    paths: Vec<String>,
    names: Vec<String>,
    /// The unique name whose word counts.
    owner: Option<String>,
    /// The path at which it is asked, by position.
    place: usize,
    /// Owners of its names, and the places where they have no such object.
    without: BTreeSet<(String, usize)>,
    /// The source has reported a value.
    told: bool,
    /// The retries of a value that could not be read.
    retry: Backoff,
}

impl Followed {
    /// The owners of its names, the best one first.
    fn candidates<'a>(&'a self, owners: &'a BTreeMap<String, String>) -> impl Iterator<Item = &'a String> {
        self.names.iter().filter_map(|name| owners.get(name))
    }

    /// Where it is asked.
    fn path(&self) -> &str {
        self.paths.get(self.place).map_or("/", String::as_str)
    }

    /// The owner whose word counts, and the place where it has the object: of those that are believed the first that has not said
    /// that it has none. `shared` have one object for several hosts at a path that names none: its word would be all of theirs.
    fn choose(
        &self,
        owners: &BTreeMap<String, String>,
        strangers: &BTreeSet<String>,
        shared: &BTreeSet<String>,
    ) -> Option<(String, usize)> {
        let believed = || self.candidates(owners).filter(|owner| !strangers.contains(*owner));
        let places = |owner: &String| -> Vec<_> {
            let places = if shared.contains(owner) { 1 } else { self.paths.len() };
            (0..places).map(|place| (owner.clone(), place)).collect()
        };
        let first = believed().next().map(|owner| (owner.clone(), 0));
        believed().flat_map(places).find(|at| !self.without.contains(at)).or(first)
    }
}

/// When a host's values are read again.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// A bus may be open by them.
    relied_on: bool,
    at: Option<Time>,
    /// Services that are not believed hold its names, and this was reported.
    strangers: bool,
}

/// The subject of one of our calls, by which its reply is understood.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Awaited {
    Owner(String),
    Value(usize),
    /// The same, though nothing was signalled.
    Again(usize),
}

/// The watcher of all hosts.
#[derive(Debug)]
pub(crate) struct PowerState {
    sources: Vec<Followed>,
    /// Owners of the power names.
    owners: BTreeMap<String, String>,
    /// Owners of power names that are not believed.
    strangers: BTreeSet<String>,
    /// Of each host.
    watches: Vec<Watch>,
    awaited: Pending<Awaited>,
    /// How many lines there may be about what others do wrong; what time it was last.
    lines: Bucket,
    now: Time,
    /// Names whose first owner has not been told yet; until then nothing is read.
    unresolved: usize,
}

impl PowerState {
    /// For the hosts of these ids.
    pub(crate) fn new(ids: impl Iterator<Item = u32>) -> Self {
        let sources = ids.enumerate().flat_map(|(host, id)| {
            Property::ALL.map(|kind| Followed {
                host,
                kind,
                paths: kind.paths(id),
                names: kind.names(id),
                owner: None,
                place: 0,
                without: BTreeSet::new(),
                told: false,
                retry: Backoff::NONE,
            })
        });
        let sources: Vec<_> = sources.collect();
        Self {
            watches: vec![Watch::default(); sources.len() / Property::ALL.len()],
            sources,
            owners: BTreeMap::new(),
            strangers: BTreeSet::new(),
            awaited: Pending::default(),
            lines: Bucket::new(LINES_AT_ONCE, LINES_EACH),
            now: Time::ZERO,
            unresolved: 0,
        }
    }

    /// A bus may be open by what this host's services report, or none may any more.
    pub(crate) fn rely(&mut self, host: HostIndex, relies: bool) {
        if let Some(watch) = self.watches.get_mut(host)
            && watch.relied_on != relies
        {
            (watch.relied_on, watch.at) = (relies, None);
        }
    }

    fn ask_for_owner(awaited: &mut Pending<Awaited>, name: &str) -> zbus::Result<Option<Message>> {
        Ok(awaited.send(call_bus("GetNameOwner", &name)?, Awaited::Owner(name.to_owned())))
    }

    fn set_owner(&mut self, name: &str, owner: &str) {
        let mut ours = false;
        for source in self.sources.iter_mut().filter(|source| source.names.iter().any(|known| known == name))
        {
            source.without.clear();
            ours = true;
        }
        if !ours {
            return;
        }
        if owner.is_empty() {
            self.owners.remove(name);
        } else {
            self.owners.insert(name.to_owned(), owner.to_owned());
        }
        let owners = &self.owners;
        self.strangers.retain(|stranger| owners.values().any(|owner| owner == stranger));
    }

    /// The connections that own the names of more than one host.
    fn shared(&self) -> BTreeSet<String> {
        let mut of: BTreeMap<&String, HostIndex> = BTreeMap::new();
        let mut shared = BTreeSet::new();
        for source in &self.sources {
            for owner in source.candidates(&self.owners) {
                if *of.entry(owner).or_insert(source.host) != source.host {
                    shared.insert(owner.clone());
                }
            }
        }
        shared
    }

    /// Finds the sources whose owner has changed: what they said is gone, and their hosts are read anew.
    fn follow_owners(&mut self) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        if self.unresolved > 0 {
            return Ok(outcome);
        }
        let shared = self.shared();
        let mut stale = Vec::new();
        for source in &mut self.sources {
            let chosen = source.choose(&self.owners, &self.strangers, &shared);
            let (owner, place) = chosen.map_or((None, 0), |(owner, place)| (Some(owner), place));
            if (&owner, place) == (&source.owner, source.place) {
                continue;
            }
            if source.owner.is_some() {
                outcome.events.push((source.host, source.kind.event(None)));
            }
            (source.owner, source.place) = (owner, place);
            source.told = false;
            source.retry.reset();
            stale.push(source.host);
        }
        stale.dedup();
        for host in stale {
            self.read(host, &mut outcome)?;
        }
        self.tell_of_strangers(&mut outcome);
        Ok(outcome)
    }

    /// Tells of each host whether a name that tells of its power has an owner, and none that is believed.
    fn tell_of_strangers(&mut self, outcome: &mut Outcome) {
        for (host, watch) in self.watches.iter_mut().enumerate() {
            let strange = |source: &&Followed| {
                source.owner.is_none() && source.candidates(&self.owners).next().is_some()
            };
            let source = self.sources.iter().filter(|source| source.host == host).find(strange);
            if watch.strangers == source.is_some() {
                continue;
            }
            watch.strangers = source.is_some();
            outcome.events.push((host, Event::Strangers(watch.strangers)));
            // A service that takes a name and leaves it again and again makes no line each time.
            if let Some(source) = source
                && self.lines.take(self.now).is_some()
            {
                let named = source.names.iter().find_map(|name| Some((name, self.owners.get(name)?)));
                let (name, owner) = named.map_or(("", ""), |(name, owner)| (name, owner));
                tracing::warn!(
                    "{name} is owned by {owner}, who is not believed: there is no evidence of {}, and the gate stays closed",
                    source.path()
                );
            }
        }
    }

    /// Takes in what a source says, or that it says nothing.
    fn take(
        &mut self,
        index: usize,
        value: Option<&Variant<'_>>,
        event: fn(Property, Option<&str>) -> Event,
        outcome: &mut Outcome,
    ) {
        let Some(source) = self.sources.get_mut(index) else { return };
        let value = value.and_then(text);
        let event = event(source.kind, value);
        let none = matches!(event, Event::Chassis(None) | Event::Host(None) | Event::Os(None));
        source.told |= !none;
        outcome.events.push((source.host, event));
        let Some(value) = value.filter(|_| none) else { return };
        if let Some(more) = self.lines.take(self.now) {
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            tracing::warn!(
                "{}: \"{}\" is no value of it; treated as unknown{more}",
                source.kind.interface(),
                Brief(value).to_string().escape_debug()
            );
        }
    }

    /// The source for which this signal of this interface speaks. One that has told nothing may speak from another place than the one
    /// where it was asked: it made the object there meanwhile.
    fn signals(&mut self, signal: &Signal<'_>, interface: &str) -> Option<usize> {
        let may = |source: &Followed| {
            source.kind.interface() == interface && source.owner.as_deref() == Some(signal.sender)
        };
        let at = |source: &Followed| source.paths.iter().position(|path| path == signal.path);
        let index = self.sources.iter().position(|source| may(source) && at(source).is_some())?;
        let source = self.sources.get(index)?;
        let place = at(source)?;
        if place != source.place && (source.told || self.shared().contains(signal.sender)) {
            return None;
        }
        let source = self.sources.get_mut(index)?;
        if place != source.place {
            source.place = place;
            source.without.remove(&(signal.sender.to_owned(), place));
        }
        Some(index)
    }

    fn read(&mut self, host: HostIndex, outcome: &mut Outcome) -> zbus::Result<()> {
        let of_host = |sources: &[Followed], index: usize| sources.get(index).is_some_and(|s| s.host == host);
        let sources = &self.sources;
        self.awaited.forget(
            |what| matches!(what, Awaited::Value(index) | Awaited::Again(index) if of_host(sources, *index)),
        );
        for (index, source) in self.sources.iter_mut().enumerate().filter(|(_, source)| source.host == host) {
            let Some(owner) = &source.owner else { continue };
            let call = get(owner, source.path(), source.kind.interface(), source.kind.property())?;
            let call = self.awaited.send(call, Awaited::Value(index));
            if call.is_none() {
                source.retry.failed();
            }
            outcome.calls.extend(call);
        }
        Ok(())
    }

    /// Asks again for what this host's owners have told, unless they still owe an answer.
    fn read_again(&mut self, host: HostIndex, outcome: &mut Outcome) -> zbus::Result<()> {
        for (index, source) in self.sources.iter().enumerate().filter(|(_, source)| source.host == host) {
            let owes =
                |what: &Awaited| matches!(what, Awaited::Value(of) | Awaited::Again(of) if *of == index);
            let Some(owner) = source.owner.as_ref().filter(|_| source.told && !self.awaited.any(owes)) else {
                continue;
            };
            let call = get(owner, source.path(), source.kind.interface(), source.kind.property())?;
            outcome.calls.extend(self.awaited.send(call, Awaited::Again(index)));
        }
        Ok(())
    }

    /// An answer, or that there is none.
    fn answered(&mut self, what: Awaited, reply: Option<&Message>) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        // A reply counts from the service that was asked, or from the bus in its place.
        let asked = match &what {
            Awaited::Owner(_) => None,
            Awaited::Value(index) | Awaited::Again(index) => {
                self.sources.get(*index).and_then(|source| source.owner.as_deref())
            }
        };
        let by = |reply: &&Message| {
            let header = reply.header();
            header.sender().is_some_and(|sender| *sender == BUS || Some(sender.as_str()) == asked)
        };
        let reply = reply.filter(by);
        let says = Says::of(reply);
        let body = reply.filter(|_| says == Says::Good).map(Message::body);
        match what {
            Awaited::Owner(name) => {
                if reply.is_none()
                    && let Some(again) = Self::ask_for_owner(&mut self.awaited, &name)?
                {
                    // A bus that stood still: it has not said that there is none.
                    outcome.calls.push(again);
                    return Ok(outcome);
                }
                self.unresolved -= 1;
                let owner = body.as_ref().and_then(|body| body.deserialize::<&str>().ok());
                self.set_owner(&name, owner.unwrap_or_default());
                self.follow_owners()
            }
            Awaited::Value(index) | Awaited::Again(index) => {
                let Some(source) = self.sources.get_mut(index) else { return Ok(outcome) };
                if reply.is_some_and(is_not_believed) {
                    self.strangers.extend(source.owner.clone());
                    return self.follow_owners();
                }
                let value = body.as_ref().and_then(|body| body.deserialize::<Variant<'_>>().ok());
                let says = says.understood(value.is_some());
                if says == Says::Good {
                    source.retry.reset();
                } else if source.kind != Property::Os || says == Says::Failed {
                    // A service that has its name before its objects. A board without POST
                    // complete never has OS status, so that one is asked again only if it failed.
                    source.retry.failed();
                } else {
                    source.without.extend(source.owner.clone().map(|owner| (owner, source.place)));
                }
                let event = if what == Awaited::Value(index) { Property::event } else { Property::found };
                self.take(index, value.as_ref(), event, &mut outcome);
                let Outcome { calls, events } = self.follow_owners()?;
                outcome.calls.extend(calls);
                outcome.events.extend(events);
                Ok(outcome)
            }
        }
    }
}

impl Peer for PowerState {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        let owners = format!(
            "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',\
             arg0namespace='xyz.openbmc_project.State'"
        );
        let mut calls = vec![subscribe(&owners)?];
        // One path may be several hosts'.
        let rules = self
            .sources
            .iter()
            .flat_map(|source| source.paths.iter().map(|path| changes(path, source.kind.interface())));
        for rule in rules.collect::<BTreeSet<_>>() {
            calls.push(subscribe(&rule)?);
        }
        let mut names: Vec<&String> = self.sources.iter().flat_map(|source| &source.names).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            calls.extend(Self::ask_for_owner(&mut self.awaited, name)?);
            self.unresolved += 1;
        }
        Ok(calls)
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let what = self.awaited.take(serial)?;
        Some(self.answered(what, Some(reply)))
    }

    fn tick(&mut self, now: Moment) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        self.now = now.now;
        for what in self.awaited.unanswered(now) {
            let Outcome { calls, events } = self.answered(what, None)?;
            outcome.calls.extend(calls);
            outcome.events.extend(events);
        }
        // All values of a host, chassis first: what is read together belongs together.
        let mut due: Vec<_> = self
            .sources
            .iter_mut()
            .filter_map(|source| source.retry.tick(now.now).then_some(source.host))
            .collect();
        due.dedup();
        for host in due {
            self.read(host, &mut outcome)?;
        }
        for host in 0..self.watches.len() {
            let Some(watch) = self.watches.get_mut(host).filter(|watch| watch.relied_on) else { continue };
            if *watch.at.get_or_insert(now.now + READ_AGAIN) <= now.now {
                watch.at = Some(now.now + READ_AGAIN);
                self.read_again(host, &mut outcome)?;
            }
        }
        Ok(outcome)
    }

    fn wake_at(&self) -> Option<Time> {
        let retries = self.sources.iter().filter_map(|source| source.retry.wake_at()).min();
        let again = self.watches.iter().filter_map(|watch| watch.at).min();
        earlier(self.awaited.wake_at(), earlier(retries, again))
    }

    fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        if let News::Owner { name, owner } = signal.news {
            self.set_owner(name, owner);
            return self.follow_owners();
        }
        let News::Changed { interface, values, invalidated } = &signal.news else { return Ok(outcome) };
        let Some(index) = self.signals(signal, interface) else { return Ok(outcome) };
        let Some(source) = self.sources.get(index) else { return Ok(outcome) };
        // What is asked for comes first, wherever it stands in the message: its service acts upon it and then says what has come of
        // it, so that the values beside it are the later ones. Only here is it a word: a value that is read may be a restored one
        // (phosphor-state-manager `host_state_manager.hpp`, `load`), and all others are without meaning.
        let requested = values.get(REQUESTED).filter(|_| source.kind == Property::Host).and_then(text);
        if requested == Some(FORCED) {
            outcome.events.push((source.host, Event::ForcedReset));
        }
        if let Some(value) = values.get(source.kind.property()) {
            self.take(index, Some(value), Property::event, &mut outcome);
        } else if invalidated.contains(&source.kind.property()) {
            self.read(source.host, &mut outcome)?;
        }
        Ok(outcome)
    }
}

/// True if the reply stands in the place of an answer that is not believed.
fn is_not_believed(reply: &Message) -> bool {
    reply.header().error_name().is_some_and(|name| *name == NOT_BELIEVED)
}

fn text<'a>(value: &'a Variant<'_>) -> Option<&'a str> {
    // A reply to Get is a variant; so is a value that is one level deeper.
    if let Variant::Variant(inner) = value { inner.downcast_ref().ok() } else { value.downcast_ref().ok() }
}

#[cfg(test)]
mod tests;
