// SPDX-License-Identifier: Apache-2.0
//! Asks the object mapper who else could get a host's reports.
//!
//! ipmid takes the lowest path of all that have the interface, and there the lowest service name, so a rival either hides us or
//! is hidden silently (openbmc 1.5). So the question is ipmid's own (phosphor-host-ipmid:libipmid/utils.cpp, `getDbusObject`). It is
//! put at the start, when the mapper appears, when the mapper has looked at a new service, and when an object of ours is announced
//! or removed by anybody; one question at a time, however many reasons there are. A rival that leaves the bus is gone without
//! a question.

use std::{collections::BTreeSet, num::NonZeroU32};

use zbus::{Message, message::Type};

use crate::{
    adapters::{
        acpi_object::{BUS_NAME, INTERFACE},
        dbus::{
            calls::{call_bus, introspected, objects, owner_changes, subscribe},
            names::{MAPPER, MAPPER_PATH},
            peer::{Moment, Outcome, Peer, Pending, Speaker},
            signal::{News, Signal},
            sub_tree::SubTree,
        },
    },
    logic::{event::Event, time::Time},
};

/// Of more rivals of one host than this the others are not noted.
const MOST_RIVALS: usize = 8;

/// The object of one host.
#[derive(Debug)]
struct OwnObject {
    path: String,
    /// The services that serve it too, or that ipmid takes in its place.
    rivals: BTreeSet<String>,
}

/// Why the mapper is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// Something happened.
    News,
    /// A new rival's leaving is followed from now on; it may have left before.
    Followed,
}

/// The rivals that are known.
#[derive(Debug)]
pub(crate) struct Mapper {
    hosts: Vec<OwnObject>,
    awaited: Pending<Why>,
    /// There was a reason to ask since the last question.
    again: bool,
    /// The unique name that speaks for the mapper.
    speaker: Speaker,
}

impl Mapper {
    /// For the objects at these paths, host by host.
    pub(crate) fn new(paths: impl Iterator<Item = String>) -> Self {
        let hosts = paths.map(|path| OwnObject { path, rivals: BTreeSet::new() }).collect();
        Self { hosts, awaited: Pending::default(), again: false, speaker: Speaker::default() }
    }

    /// Asks, or remembers to.
    fn ask(&mut self, why: Why) -> zbus::Result<Vec<Message>> {
        self.again = self.awaited.any(|_| true);
        if self.again {
            return Ok(Vec::new());
        }
        let call = Message::method_call(MAPPER_PATH, "GetSubTree").destination(MAPPER).interface(MAPPER);
        let call = call.build(&("/", 0_i32, [INTERFACE].as_slice()))?;
        Ok(self.awaited.send(call, why).into_iter().collect())
    }

    /// The rivals of each host by this answer.
    fn found(&self, SubTree(served): &SubTree<'_>) -> Vec<BTreeSet<String>> {
        // ipmid takes the lowest path, for whatever host.
        let lowest = self.hosts.iter().map(|host| host.path.as_str()).min();
        let of = |host: &OwnObject| {
            let lowest = lowest == Some(host.path.as_str());
            let rivals = |path: &str| path == host.path || (lowest && path < host.path.as_str());
            let mut found = BTreeSet::new();
            for listed in served.iter().filter(|listed| listed.service != BUS_NAME && rivals(listed.path)) {
                if found.len() < MOST_RIVALS {
                    found.insert(listed.service.to_owned());
                }
            }
            found
        };
        self.hosts.iter().map(of).collect()
    }

    /// Takes in who the rivals are, host by host: follows those that are new, and says what changed.
    fn become_known(&mut self, found: Vec<BTreeSet<String>>) -> zbus::Result<Outcome> {
        let all = |hosts: &[OwnObject]| -> BTreeSet<String> {
            hosts.iter().flat_map(|host| host.rivals.iter().cloned()).collect()
        };
        let before = all(&self.hosts);
        let mut outcome = Outcome::default();
        for (index, (host, rivals)) in self.hosts.iter_mut().zip(found).enumerate() {
            for name in rivals.difference(&host.rivals) {
                let path = &host.path;
                tracing::warn!(
                    "{name} serves what ipmid looks for at {path}, or before it; ipmid uses the lowest path, and there the \
                     service whose name sorts first. Remove the other (phosphor-settings-manager: a .remove.yml fragment)"
                );
            }
            if rivals.is_empty() != host.rivals.is_empty() {
                outcome.events.push((index, Event::Rival(!rivals.is_empty())));
            }
            host.rivals = rivals;
        }
        let now = all(&self.hosts);
        for name in now.difference(&before) {
            outcome.calls.push(subscribe(&owner_changes(name))?);
        }
        for name in before.difference(&now) {
            outcome.calls.push(call_bus("RemoveMatch", &owner_changes(name).as_str())?);
        }
        Ok(outcome)
    }

    fn answered(&mut self, why: Why, reply: &Message) -> zbus::Result<Outcome> {
        let body = reply.body();
        // An error means that there is no mapper.
        let served: SubTree<'_> = match reply.message_type() {
            Type::MethodReturn => body.deserialize().unwrap_or_default(),
            Type::MethodCall | Type::Signal | Type::Error => SubTree::default(),
        };
        let mut found = self.found(&served);
        for (host, found) in self.hosts.iter().zip(&mut found) {
            let ours = served.0.iter().any(|listed| listed.path == host.path && listed.service == BUS_NAME);
            if !ours {
                // A mapper that does not know us has not looked at everybody: who was there may still be.
                let room = MOST_RIVALS.saturating_sub(found.len());
                found.extend(host.rivals.iter().take(room).cloned());
            }
        }
        let mut outcome = self.become_known(found)?;
        // Once more, and no oftener, whatever the mapper answers.
        if self.again {
            outcome.calls.extend(self.ask(Why::News)?);
        } else if why == Why::News && !outcome.calls.is_empty() {
            outcome.calls.extend(self.ask(Why::Followed)?);
        }
        Ok(outcome)
    }

    /// This name has an owner no more.
    fn left(&mut self, name: &str) -> zbus::Result<Outcome> {
        let without = |host: &OwnObject| host.rivals.iter().filter(|rival| *rival != name).cloned().collect();
        let found = self.hosts.iter().map(without).collect();
        self.become_known(found)
    }

    fn is_ours(&self, path: &str) -> bool {
        self.hosts.iter().any(|host| host.path == path)
    }
}

impl Peer for Mapper {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        let mut calls = vec![subscribe(&owner_changes(MAPPER))?, subscribe(&introspected())?];
        for OwnObject { path, .. } in &self.hosts {
            calls.push(subscribe(&objects("InterfacesAdded", path))?);
            calls.push(subscribe(&objects("InterfacesRemoved", path))?);
        }
        calls.extend(self.ask(Why::News)?);
        Ok(calls)
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let why = self.awaited.take(serial)?;
        self.speaker.replied(reply);
        Some(self.answered(why, reply))
    }

    /// A question that has no answer in time is over; what came meanwhile is asked then.
    fn tick(&mut self, now: Moment) -> zbus::Result<Outcome> {
        let over = !self.awaited.unanswered(now).is_empty();
        if over && self.again { self.ask(Why::News).map(Outcome::of) } else { Ok(Outcome::default()) }
    }

    fn wake_at(&self) -> Option<Time> {
        self.awaited.wake_at()
    }

    fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome> {
        let ask = match &signal.news {
            News::Owner { name: MAPPER, owner } => {
                self.speaker.changed(owner);
                // The mapper that was asked is gone.
                self.awaited.forget(|_| true);
                !owner.is_empty()
            }
            News::Owner { name, owner: "" } => return self.left(name),
            News::Introspected { .. } => self.speaker.is(signal.sender),
            News::Added { path, .. } | News::Removed { path, .. } => self.is_ours(path.as_str()),
            News::Owner { .. } | News::Changed { .. } | News::JobRemoved { .. } | News::Nothing => false,
        };
        if ask { self.ask(Why::News).map(Outcome::of) } else { Ok(Outcome::default()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use zbus::ObjectPath;

    use super::*;
    use crate::adapters::dbus::{
        doubles::{calls, failed, owner, reply, serial},
        names::INTROSPECTED,
        sub_tree::Listed,
    };

    const PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
    const SECOND: &str = "/xyz/openbmc_project/control/host1/acpi_power_state";
    const FIRST: &str = "xyz.openbmc_project.Control.A";
    const SETTINGS: &str = "xyz.openbmc_project.Settings";

    fn started() -> (Mapper, Message) {
        let mut mapper = Mapper::new([PATH, SECOND].map(ToOwned::to_owned).into_iter());
        let question = questions(&mapper.start().unwrap()).remove(0);
        (mapper, question)
    }

    fn questions(sent: &[Message]) -> Vec<Message> {
        calls(sent, "GetSubTree").into_iter().cloned().collect()
    }

    /// Returns what is reported of rivals when the mapper lists these, and what is sent then.
    fn told(
        mapper: &mut Mapper,
        question: &Message,
        of: &[(&str, &str)],
    ) -> (Vec<(usize, bool)>, Vec<Message>) {
        let mut served: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
        for (path, service) in of {
            served.entry(path).or_default().insert(service, vec![INTERFACE]);
        }
        let answer = reply(question, ":1.1", &served);
        said(mapper.returned(serial(question), &answer).unwrap().unwrap())
    }

    fn said(outcome: Outcome) -> (Vec<(usize, bool)>, Vec<Message>) {
        let rival = |(host, event)| {
            let Event::Rival(there) = event else { panic!("{event:?}") };
            (host, there)
        };
        (outcome.events.into_iter().map(rival).collect(), outcome.calls)
    }

    /// Of the mapper that answers as `:1.1` in these tests, or of the one that came after it.
    fn introspection(of: &str) -> Message {
        introspection_by(":1.1", of)
    }

    /// Anybody's word that there is an object: a reason to ask.
    fn announced(path: &str) -> Message {
        let nothing = BTreeMap::<&str, BTreeMap<&str, zbus::Variant<'_>>>::new();
        Message::signal("/xyz", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded")
            .sender(":1.66")
            .build(&(ObjectPath::try_from(path).unwrap(), nothing))
            .unwrap()
    }

    fn introspection_by(sender: &str, of: &str) -> Message {
        Message::signal(MAPPER_PATH, "xyz.openbmc_project.ObjectMapper.Private", INTROSPECTED)
            .sender(sender)
            .build(&of)
            .unwrap()
    }

    const US: [(&str, &str); 2] = [(PATH, BUS_NAME), (SECOND, BUS_NAME)];

    #[test]
    fn a_rival_that_says_nothing_is_found_when_the_mapper_has_looked_at_it_and_is_over_when_it_leaves() {
        let (mut mapper, question) = started();
        assert_eq!(told(&mut mapper, &question, &US).0, []);
        let asked = questions(&mapper.hear(&introspection(FIRST)).unwrap().calls);
        let (events, sent) = told(&mut mapper, &asked[0], &[US[0], (PATH, FIRST), US[1]]);
        assert_eq!(events, [(0, true)]);
        assert_eq!(calls(&sent, "AddMatch").len(), 1, "its leaving is followed");
        // The rival may have left before: the mapper is asked once more, and not again.
        let asked = questions(&sent);
        let (events, sent) = told(&mut mapper, &asked[0], &[US[0], (PATH, FIRST), US[1]]);
        assert_eq!((events.len(), sent.len()), (0, 0));
        let (events, sent) = said(mapper.hear(&owner(FIRST, "")).unwrap());
        assert_eq!(events, [(0, false)]);
        assert_eq!(calls(&sent, "RemoveMatch").len(), 1);
    }

    #[test]
    fn one_that_ipmid_would_take_for_its_path_is_a_rival_of_the_first_host() {
        let (mut mapper, question) = started();
        let before = "/xyz/openbmc_project/control/acpi";
        let behind = "/xyz/openbmc_project/control/host2/acpi_power_state";
        let (events, sent) =
            told(&mut mapper, &question, &[US[0], US[1], (before, SETTINGS), (behind, SETTINGS)]);
        assert_eq!(events, [(0, true)]);
        let asked = questions(&sent);
        assert_eq!(told(&mut mapper, &asked[0], &US).0, [(0, false)], "it has given the object up");
    }

    #[test]
    fn a_mapper_that_does_not_know_us_yet_clears_nothing() {
        let (mut mapper, question) = started();
        assert_eq!(told(&mut mapper, &question, &[US[0], US[1], (SECOND, SETTINGS)]).0, [(1, true)]);
        mapper.hear(&owner(MAPPER, "")).unwrap();
        let asked = questions(&mapper.hear(&owner(MAPPER, ":1.9")).unwrap().calls);
        let answer = failed(&asked[0]);
        let nothing = said(mapper.returned(serial(&asked[0]), &answer).unwrap().unwrap());
        assert_eq!(nothing.0, []);
        let asked = questions(&mapper.hear(&introspection_by(":1.9", "a.b")).unwrap().calls);
        assert_eq!(told(&mut mapper, &asked[0], &[US[0]]).0, [], "not of the second");
        let asked = questions(&mapper.hear(&introspection_by(":1.9", BUS_NAME)).unwrap().calls);
        assert_eq!(told(&mut mapper, &asked[0], &US).0, [(1, false)]);
    }

    #[test]
    fn a_mapper_that_answers_something_else_each_time_is_not_asked_without_end() {
        let (mut mapper, question) = started();
        let (_, sent) = told(&mut mapper, &question, &[US[0], (PATH, FIRST)]);
        let asked = questions(&sent);
        let (_, sent) = told(&mut mapper, &asked[0], &[US[0], (PATH, SETTINGS)]);
        assert_eq!(questions(&sent).len(), 0);
    }

    #[test]
    fn one_question_at_a_time_and_one_more_for_all_that_came_meanwhile() {
        let (mut mapper, question) = started();
        for _ in 0..1000 {
            assert_eq!(mapper.hear(&announced(PATH)).unwrap().calls.len(), 0);
            assert_eq!(mapper.hear(&introspection_by(":1.66", "a.b")).unwrap().calls.len(), 0, "a stranger");
        }
        let (_, sent) = told(&mut mapper, &question, &US);
        let asked = questions(&sent);
        assert_eq!(asked.len(), 1);
        assert_eq!(told(&mut mapper, &asked[0], &US).1.len(), 0, "nothing came meanwhile");
        // A mapper that went away with the question is asked anew.
        let asked = questions(&mapper.hear(&introspection("a.b")).unwrap().calls);
        assert_eq!(asked.len(), 1);
        mapper.hear(&owner(MAPPER, "")).unwrap();
        assert_eq!(questions(&mapper.hear(&owner(MAPPER, ":1.9")).unwrap().calls).len(), 1);
        let many: Vec<_> = (0..1000).map(|n| format!("a.b{n}")).collect();
        // The mapper lists all interfaces that a service has there.
        let listed = |service| [INTERFACE, "a.b"].map(|interface| Listed { path: PATH, service, interface });
        let found = mapper.found(&SubTree(many.iter().flat_map(|service| listed(service)).collect()));
        assert_eq!(found[0].len(), MOST_RIVALS);
    }
}
