// SPDX-License-Identifier: Apache-2.0
//! Watches `State.Chassis`, `State.Host` and `State.OperatingSystem.Status` of each host.
//!
//! Owns: who owns the power names, and which connection's word counts. Must never: judge a value.
//!
//! Values come from signals and from Gets, both through the one stream of messages, so that what
//! arrives first is first. Only the owner of a power name is believed. Whenever an owner changes, all
//! values of that host are read anew, chassis first, and answers to older questions are dropped.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use zbus::{Message, Variant};

use crate::{
    adapters::peer::{BUS, BUS_PATH, Outcome, Peer, Pending, call_bus, changes, get, subscribe},
    logic::{
        evidence::{Chassis, Host, Os},
        machine::Event,
    },
    shell::permits::HostIndex,
};

/// What a host's three values are, in the order in which they are read: chassis first (rule 9), the host
/// last, since rule 6 decides as soon as it has both, and must know OS status by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Chassis,
    Host,
    Os,
}

impl Kind {
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

    fn path(self, id: u32) -> String {
        match self {
            Self::Chassis => format!("/xyz/openbmc_project/state/chassis{id}"),
            Self::Host | Self::Os => format!("/xyz/openbmc_project/state/host{id}"),
        }
    }

    /// The names whose owner serves it, the best one first (contract 2.1): with the instance's
    /// suffix, for host 0 without it too. OS status is on the host's connection where it has no
    /// name of its own (phosphor-state-manager).
    fn names(self, id: u32) -> Vec<String> {
        let bases: &[&str] = match self {
            Self::Chassis => &["xyz.openbmc_project.State.Chassis"],
            Self::Host => &["xyz.openbmc_project.State.Host"],
            Self::Os => &["xyz.openbmc_project.State.OperatingSystem", "xyz.openbmc_project.State.Host"],
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
        let event = match self {
            Self::Chassis => Event::Chassis(value.and_then(Chassis::from_dbus)),
            Self::Host => Event::Host(value.and_then(Host::from_dbus)),
            Self::Os => Event::Os(value.and_then(Os::from_dbus)),
        };
        if let (Some(value), Event::Chassis(None) | Event::Host(None) | Event::Os(None)) = (value, event) {
            tracing::warn!("{}: {value:?} is no value of it; treated as unknown", self.interface());
        }
        event
    }
}

/// One value of one host.
#[derive(Debug)]
struct Source {
    host: HostIndex,
    kind: Kind,
    path: String,
    names: Vec<String>,
    /// The unique name whose word counts.
    owner: Option<String>,
}

/// What the reply to one of our calls is about.
#[derive(Debug)]
enum Awaited {
    Owner(String),
    Value(usize),
}

/// The watcher of all hosts.
#[derive(Debug)]
pub(crate) struct PowerState {
    sources: Vec<Source>,
    /// Owners of the power names.
    owners: BTreeMap<String, String>,
    awaited: Pending<Awaited>,
    /// Names whose first owner has not been told yet; until then nothing is read.
    unresolved: usize,
    retry: Duration,
    /// A value could not be read: call [`PowerState::retry`] after this long.
    retry_after: Option<Duration>,
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

impl PowerState {
    /// For the hosts of these ids.
    pub(crate) fn new(ids: impl Iterator<Item = u32>) -> Self {
        let sources = ids.enumerate().flat_map(|(host, id)| {
            Kind::ALL.map(|kind| Source {
                host,
                kind,
                path: kind.path(id),
                names: kind.names(id),
                owner: None,
            })
        });
        Self {
            sources: sources.collect(),
            owners: BTreeMap::new(),
            awaited: Pending::default(),
            unresolved: 0,
            retry: FIRST_RETRY,
            retry_after: None,
        }
    }

    /// How long from now until [`PowerState::retry`] is to be called; said once.
    pub(crate) fn retry_after(&mut self) -> Option<Duration> {
        self.retry_after.take()
    }

    /// Reads everything again that has an owner.
    pub(crate) fn retry(&mut self) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        let hosts = self.sources.last().map_or(0, |source| source.host + 1);
        for host in 0..hosts {
            self.read(host, &mut outcome)?;
        }
        Ok(outcome)
    }

    fn set_owner(&mut self, name: &str, owner: &str) {
        if !self.sources.iter().any(|source| source.names.iter().any(|known| known == name)) {
            return;
        }
        if owner.is_empty() {
            self.owners.remove(name);
        } else {
            self.owners.insert(name.to_owned(), owner.to_owned());
        }
    }

    /// Finds the sources whose owner has changed: what they said is gone, and their hosts are read anew.
    fn follow_owners(&mut self) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        if self.unresolved > 0 {
            return Ok(outcome);
        }
        let mut stale = Vec::new();
        for source in &mut self.sources {
            let owner = source.names.iter().find_map(|name| self.owners.get(name));
            if owner == source.owner.as_ref() {
                continue;
            }
            if source.owner.is_some() {
                outcome.events.push((source.host, source.kind.event(None)));
            }
            source.owner = owner.cloned();
            stale.push(source.host);
        }
        stale.dedup();
        for host in stale {
            self.read(host, &mut outcome)?;
        }
        Ok(outcome)
    }

    fn read(&mut self, host: HostIndex, outcome: &mut Outcome) -> zbus::Result<()> {
        let of_host = |sources: &[Source], index: usize| sources.get(index).is_some_and(|s| s.host == host);
        let sources = &self.sources;
        self.awaited.forget(|what| matches!(what, Awaited::Value(index) if of_host(sources, *index)));
        for (index, source) in self.sources.iter().enumerate().filter(|(_, source)| source.host == host) {
            let Some(owner) = &source.owner else { continue };
            let call = get(owner, &source.path, source.kind.interface(), source.kind.property())?;
            self.awaited.add(&call, Awaited::Value(index));
            outcome.calls.push(call);
        }
        Ok(())
    }
}

impl Peer for PowerState {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        let owners = format!(
            "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',\
             arg0namespace='xyz.openbmc_project.State'"
        );
        let mut calls = vec![subscribe(&owners)?];
        for source in &self.sources {
            calls.push(subscribe(&changes(&source.path, source.kind.interface()))?);
        }
        let mut names: Vec<&String> = self.sources.iter().flat_map(|source| &source.names).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let call = call_bus("GetNameOwner", &name.as_str())?;
            self.awaited.add(&call, Awaited::Owner(name.clone()));
            self.unresolved += 1;
            calls.push(call);
        }
        Ok(calls)
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let what = self.awaited.take(serial)?;
        let good = reply.message_type() == zbus::message::Type::MethodReturn;
        let body = reply.body();
        Some(match what {
            Awaited::Owner(name) => {
                self.unresolved -= 1;
                let owner = if good { body.deserialize::<&str>().ok() } else { None };
                self.set_owner(&name, owner.unwrap_or_default());
                self.follow_owners()
            }
            Awaited::Value(index) => {
                let mut outcome = Outcome::default();
                if let Some(source) = self.sources.get(index) {
                    let value = if good { body.deserialize::<Variant<'_>>().ok() } else { None };
                    let text = value.as_ref().and_then(text);
                    outcome.events.push((source.host, source.kind.event(text)));
                    if good {
                        self.retry = FIRST_RETRY;
                    } else if source.kind != Kind::Os {
                        // A service that has its name before its objects. A board without POST
                        // complete never has OS status, so that one is not asked again.
                        self.retry_after.get_or_insert(self.retry);
                        self.retry = LAST_RETRY.min(self.retry.saturating_mul(2));
                    }
                }
                Ok(outcome)
            }
        })
    }

    fn signalled(&mut self, signal: &Message) -> zbus::Result<Outcome> {
        let header = signal.header();
        let (Some(sender), Some(path), Some(member)) = (header.sender(), header.path(), header.member())
        else {
            return Ok(Outcome::default());
        };
        let body = signal.body();
        match member.as_str() {
            "NameOwnerChanged" if path.as_str() == BUS_PATH && sender.as_str() == BUS => {
                let Ok((name, _, new)) = body.deserialize::<(&str, &str, &str)>() else {
                    return Ok(Outcome::default());
                };
                self.set_owner(name, new);
                self.follow_owners()
            }
            "PropertiesChanged" => {
                let Ok((interface, changed, invalidated)) =
                    body.deserialize::<(&str, BTreeMap<&str, Variant<'_>>, Vec<&str>)>()
                else {
                    return Ok(Outcome::default());
                };
                let source = self.sources.iter().find(|source| {
                    source.kind.interface() == interface
                        && source.path == path.as_str()
                        && source.owner.as_deref() == Some(sender.as_str())
                });
                let Some(source) = source else { return Ok(Outcome::default()) };
                let mut outcome = Outcome::default();
                if let Some(value) = changed.get(source.kind.property()) {
                    outcome.events.push((source.host, source.kind.event(text(value))));
                } else if invalidated.contains(&source.kind.property()) {
                    let host = source.host;
                    self.read(host, &mut outcome)?;
                }
                Ok(outcome)
            }
            _ => Ok(Outcome::default()),
        }
    }
}

fn text<'a>(value: &'a Variant<'_>) -> Option<&'a str> {
    // A reply to Get is a variant; so is a value that is one level deeper.
    if let Variant::Variant(inner) = value { inner.downcast_ref().ok() } else { value.downcast_ref().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        assert_eq!(
            Kind::Chassis.names(0),
            ["xyz.openbmc_project.State.Chassis0", "xyz.openbmc_project.State.Chassis"]
        );
        assert_eq!(Kind::Host.names(3), ["xyz.openbmc_project.State.Host3"]);
        assert_eq!(
            Kind::Os.names(0),
            [
                "xyz.openbmc_project.State.OperatingSystem0",
                "xyz.openbmc_project.State.OperatingSystem",
                "xyz.openbmc_project.State.Host0",
                "xyz.openbmc_project.State.Host"
            ]
        );
    }
}
