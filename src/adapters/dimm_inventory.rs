// SPDX-License-Identifier: Apache-2.0
//! Counts the DIMMs that the firmware's own tables list (rules 3.7, `MissingDimm`).
//!
//! Owns: what smbios-mdr says. It has one object for each slot, at `/xyz/openbmc_project/inventory/system/chassis/motherboard/dimm<n>` or
//! below the board that it found, with `Inventory.Item.Dimm`, and `Present` of `Inventory.Item` if there is one in it (smbios-mdr
//! `src/dimm.cpp`, `src/mdrv2.cpp` at e3c676f). Only its word counts: other inventories list slots that are populated by design. Must
//! never: take what is not known for fewer, or a part for all: it counts when it has come to rest.
//!
//! smbios-mdr knows one host. With one host in the configuration all DIMMs are its; with several only those whose path has a part
//! `host<N>`, as inventories of several hosts have.

use std::num::NonZeroU32;

use zbus::Message;

use crate::{
    adapters::dbus::{
        discovered_objects::{Carrier, DiscoveredObjects, Known, Place, Properties, plain},
        peer::{Moment, Outcome, Peer},
        signal::Signal,
    },
    logic::{event::Event, time::Time},
};

const SMBIOS: &str = "xyz.openbmc_project.Smbios.MDR_V2";

static KINDS: [Carrier; 1] = [Carrier {
    carries: "xyz.openbmc_project.Inventory.Item.Dimm",
    read: "xyz.openbmc_project.Inventory.Item",
}];

/// The DIMMs of all hosts.
#[derive(Debug)]
pub(crate) struct DimmInventory {
    /// For each host its number in paths, and the count that its machine was told.
    hosts: Vec<(u32, Option<u16>)>,
    /// Whether there is one in each slot; `None` if it does not say.
    slots: DiscoveredObjects<Option<bool>>,
}

impl DimmInventory {
    /// For the hosts of these ids.
    pub(crate) fn new(ids: impl Iterator<Item = u32>) -> Self {
        Self { hosts: ids.map(|id| (id, None)).collect(), slots: DiscoveredObjects::new(&KINDS) }
    }

    /// Counts.
    fn take(&mut self, outcome: &mut Outcome) {
        let only = self.hosts.len() == 1;
        for (host, (id, said)) in self.hosts.iter_mut().enumerate() {
            let of_host = format!("host{id}");
            let ours = |place: &Place| {
                place.service == SMBIOS && (only || place.path.split('/').any(|part| part == of_host))
            };
            let count = count(self.slots.all().filter(|(place, _)| ours(place)).map(|(_, known)| known));
            if std::mem::replace(said, count) != count {
                outcome.events.push((host, Event::DimmsPresent(count)));
            }
        }
    }
}

impl Peer for DimmInventory {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        self.slots.start()
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        Some(self.slots.returned(serial, reply, present)?.map(Outcome::of))
    }

    fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome> {
        self.slots.signalled(signal).map(Outcome::of)
    }

    fn tick(&mut self, now: Moment) -> zbus::Result<Outcome> {
        let gathered = self.slots.tick(now, present)?;
        let mut outcome = Outcome::of(gathered.calls);
        if gathered.rests {
            self.take(&mut outcome);
        }
        Ok(outcome)
    }

    fn wake_at(&self) -> Option<Time> {
        self.slots.wake_at()
    }
}

/// How many there are; `None` if that is not known of every slot, or there are no slots.
fn count<'a>(slots: impl Iterator<Item = &'a Known<Option<bool>>>) -> Option<u16> {
    let mut count = None;
    for slot in slots {
        match slot {
            Known::Read(Some(present)) => count = Some(count.unwrap_or(0) + u16::from(*present)),
            Known::Read(None) | Known::Unread | Known::Failed => return None,
        }
    }
    count
}

fn present(_: &Place, properties: &Properties<'_>) -> Option<bool> {
    plain(properties.get("Present")?).downcast_ref().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use zbus::Variant;

    use super::*;
    use crate::adapters::dbus::{
        doubles::{calls, changed, failed, owner, reply, serial},
        names::{INTROSPECTED, MAPPER_PRIVATE},
        peer::moment,
    };
    use crate::shell::permits::HostIndex;

    const DIMM: &str = "xyz.openbmc_project.Inventory.Item.Dimm";
    const ITEM: &str = "xyz.openbmc_project.Inventory.Item";
    const ROOT: &str = "/xyz/openbmc_project/inventory/system";

    /// Answers the list with these slots, and each of them.
    fn running(hosts: &[u32], slots: &[(&str, &str, bool)]) -> (DimmInventory, Vec<(HostIndex, Event)>) {
        let mut inventory = DimmInventory::new(hosts.iter().copied());
        let begin = inventory.start().unwrap();
        let events = list(&mut inventory, calls(&begin, "GetSubTree")[0], slots);
        (inventory, events)
    }

    fn list(
        inventory: &mut DimmInventory,
        question: &Message,
        slots: &[(&str, &str, bool)],
    ) -> Vec<(HostIndex, Event)> {
        answer(inventory, question, slots);
        rest(inventory)
    }

    fn answer(inventory: &mut DimmInventory, question: &Message, slots: &[(&str, &str, bool)]) {
        let mut tree: BTreeMap<String, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
        for (service, path, _) in slots {
            tree.entry(format!("{ROOT}/{path}")).or_default().insert(service, vec![ITEM, DIMM]);
        }
        let outcome = inventory.returned(serial(question), &reply(question, ":1.1", &tree)).unwrap().unwrap();
        for get in calls(&outcome.calls, "GetAll") {
            let header = get.header();
            let path = header.path().unwrap().as_str();
            let of = |(service, slot, _): &&(&str, &str, bool)| {
                path.ends_with(slot) && header.destination().is_some_and(|to| to.as_str() == *service)
            };
            let (.., present) = slots.iter().find(of).unwrap();
            let values: BTreeMap<&str, Variant<'_>> = [("Present", Variant::from(*present))].into();
            inventory.returned(serial(get), &reply(get, ":1.5", &values)).unwrap().unwrap();
        }
    }

    /// Ten seconds in which nothing happens; with what then counts.
    fn rest(inventory: &mut DimmInventory) -> Vec<(HostIndex, Event)> {
        assert_eq!(inventory.tick(moment(100)).unwrap().events, []);
        inventory.tick(moment(110)).unwrap().events
    }

    #[test]
    fn of_one_host_all_slots_count_and_of_other_inventories_none() {
        let slots = [
            (SMBIOS, "chassis/motherboard/dimm0", true),
            (SMBIOS, "chassis/motherboard/dimm1", false),
            (SMBIOS, "board/Board/dimm2", true),
            ("xyz.openbmc_project.Inventory.Manager", "chassis/motherboard/dimm0", true),
        ];
        assert_eq!(running(&[0], &slots).1, [(0, Event::DimmsPresent(Some(2)))]);
        assert_eq!(running(&[4], &slots).1, [(0, Event::DimmsPresent(Some(2)))]);
        assert_eq!(running(&[0], &[]).1, []);
    }

    #[test]
    fn of_several_hosts_only_those_whose_path_says_so() {
        let slots = [
            (SMBIOS, "host1/dimm0", true),
            (SMBIOS, "host1/dimm1", true),
            (SMBIOS, "host12/dimm0", true),
            (SMBIOS, "chassis/motherboard/dimm0", true),
        ];
        assert_eq!(running(&[0, 1], &slots).1, [(1, Event::DimmsPresent(Some(2)))]);
    }

    #[test]
    fn what_is_not_known_of_every_slot_is_not_known() {
        let slots = [(SMBIOS, "dimm0", true), (SMBIOS, "dimm1", true)];
        let (mut inventory, events) = running(&[0], &slots);
        assert_eq!(events, [(0, Event::DimmsPresent(Some(2)))]);
        // A change is read, by its owner's word only.
        let signal =
            |sender| changed(sender, &format!("{ROOT}/dimm1"), ITEM, "Present", Variant::from(false));
        assert!(inventory.hear(&signal(":1.9")).unwrap().calls.is_empty());
        let outcome = inventory.hear(&signal(":1.5")).unwrap();
        let get = calls(&outcome.calls, "GetAll")[0];
        // While it is under way there is not another; afterwards there is.
        assert!(inventory.hear(&signal(":1.5")).unwrap().calls.is_empty());
        let outcome = inventory.returned(serial(get), &failed(get)).unwrap().unwrap();
        let again = calls(&outcome.calls, "GetAll")[0];
        let values: BTreeMap<&str, Variant<'_>> = [("Present", Variant::from(7_u32))].into();
        let outcome = inventory.returned(serial(again), &reply(again, ":1.5", &values)).unwrap().unwrap();
        assert_eq!(outcome.calls.len(), 0);
        assert_eq!(rest(&mut inventory), [(0, Event::DimmsPresent(None))]);
    }

    #[test]
    fn a_service_that_restarts_is_listed_and_read_anew() {
        let slots = [(SMBIOS, "dimm0", true)];
        let (mut inventory, _) = running(&[0], &slots);
        inventory.hear(&owner(SMBIOS, "")).unwrap();
        assert_eq!(rest(&mut inventory), [(0, Event::DimmsPresent(None))]);
        let outcome = inventory.hear(&owner(SMBIOS, ":1.5")).unwrap();
        let question = calls(&outcome.calls, "GetSubTree")[0];
        assert_eq!(list(&mut inventory, question, &slots), [(0, Event::DimmsPresent(Some(1)))]);
    }

    /// When its name has an owner the mapper does not know yet what it has; it says when it does.
    #[test]
    fn a_service_that_announces_nothing_is_found_when_the_mapper_knows_it() {
        let slots = [(SMBIOS, "dimm0", true)];
        let (mut inventory, _) = running(&[0], &[]);
        let mapped = |service| {
            let signal = Message::signal("/", MAPPER_PRIVATE, INTROSPECTED);
            signal.sender(":1.1").build(&service).unwrap()
        };
        let outcome = inventory.hear(&mapped(SMBIOS)).unwrap();
        let question = calls(&outcome.calls, "GetSubTree")[0];
        // However often it says so meanwhile: one question, and then one more.
        for _ in 0..3 {
            assert!(inventory.hear(&mapped(SMBIOS)).unwrap().calls.is_empty());
        }
        let tree: BTreeMap<String, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
        let outcome = inventory.returned(serial(question), &reply(question, ":1.1", &tree)).unwrap().unwrap();
        let once_more = calls(&outcome.calls, "GetSubTree")[0];
        assert_eq!(list(&mut inventory, once_more, &slots), [(0, Event::DimmsPresent(Some(1)))]);
        // A stranger says so.
        let signal =
            Message::signal("/", MAPPER_PRIVATE, INTROSPECTED).sender(":1.66").build(&SMBIOS).unwrap();
        assert!(inventory.hear(&signal).unwrap().calls.is_empty());
        assert!(inventory.hear(&mapped("another.service")).unwrap().calls.is_empty());
    }

    /// As smbios-mdr comes: one object after the other, behind a mapper that takes its time.
    #[test]
    fn objects_that_come_one_by_one_are_counted_when_they_are_all_there() {
        let slots: Vec<_> = ["dimm0", "dimm1", "dimm2"].map(|slot| (SMBIOS, slot, true)).into();
        let mut inventory = DimmInventory::new([0].into_iter());
        let begin = inventory.start().unwrap();
        let mut question = calls(&begin, "GetSubTree")[0].clone();
        for known in 1..=slots.len() {
            answer(&mut inventory, &question, &slots[..known]);
            // Nine seconds of rest are none; then the next one is announced, and the mapper is asked.
            let now = 10 * u64::try_from(known).unwrap();
            assert_eq!(inventory.tick(moment(now)).unwrap().events, []);
            assert_eq!(inventory.tick(moment(now + 9)).unwrap().events, []);
            let path = zbus::ObjectPath::try_from(format!("{ROOT}/dimm{known}")).unwrap();
            let interfaces: BTreeMap<&str, BTreeMap<&str, Variant<'_>>> = [(DIMM, BTreeMap::new())].into();
            let added = Message::signal("/", crate::adapters::dbus::names::OBJECT_MANAGER, "InterfacesAdded");
            let added = added.sender(":1.5").build(&(path, interfaces)).unwrap();
            let asked = inventory.hear(&added).unwrap().calls;
            question = calls(&asked, "GetSubTree")[0].clone();
            // However long the mapper takes (it has 25 s): a part is not told.
            assert_eq!(inventory.tick(moment(now + 9)).unwrap().events, []);
            assert_eq!(inventory.tick(moment(now + 10)).unwrap().events, []);
        }
        answer(&mut inventory, &question, &slots);
        assert_eq!(inventory.tick(moment(50)).unwrap().events, [(0, Event::DimmsPresent(Some(3)))]);
    }
}
