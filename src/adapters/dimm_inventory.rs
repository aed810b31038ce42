// SPDX-License-Identifier: Apache-2.0
//! Counts the DIMMs that the firmware's own tables list (design 3.7, `MissingDimm`).
//!
//! Owns: what smbios-mdr says. It has one object for each slot, at `/xyz/openbmc_project/inventory/system/chassis/motherboard/dimm<n>` or
//! below the board that it found, with `Inventory.Item.Dimm`, and `Present` of `Inventory.Item` if there is one in it (smbios-mdr
//! `src/dimm.cpp`, `src/mdrv2.cpp` at e3c676f). Only its word counts: other inventories list slots that are populated by design. Must
//! never: take what is not known for fewer.
//!
//! smbios-mdr knows one host. With one host in the configuration all DIMMs are its; with several only those whose path has a part
//! `host<N>`, as inventories of several hosts have.

use std::num::NonZeroU32;

use zbus::{Message, Variant};

use crate::{
    adapters::collected::{Collected, Gathered, Kind, Known, Place, Properties},
    logic::machine::Event,
    shell::permits::HostIndex,
};

const SMBIOS: &str = "xyz.openbmc_project.Smbios.MDR_V2";

static KINDS: [Kind; 1] =
    [Kind { carries: "xyz.openbmc_project.Inventory.Item.Dimm", read: "xyz.openbmc_project.Inventory.Item" }];

/// The DIMMs of all hosts.
#[derive(Debug)]
pub(crate) struct DimmInventory {
    /// For each host its number in paths, and the count that its machine was told.
    hosts: Vec<(u32, Option<u16>)>,
    /// Whether there is one in each slot; `None` if it does not say.
    slots: Collected<Option<bool>>,
}

/// What came of a message.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) calls: Vec<Message>,
    pub(crate) events: Vec<(HostIndex, Event)>,
}

impl DimmInventory {
    /// For the hosts of these ids.
    pub(crate) fn new(ids: impl Iterator<Item = u32>) -> Self {
        Self { hosts: ids.map(|id| (id, None)).collect(), slots: Collected::new(&KINDS) }
    }

    /// The calls to begin with.
    pub(crate) fn start(&mut self) -> zbus::Result<Vec<Message>> {
        self.slots.start()
    }

    /// A reply; `None` if it is not one to a call of ours.
    pub(crate) fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let gathered = self.slots.returned(serial, reply, present)?;
        Some(gathered.map(|gathered| self.take(gathered)))
    }

    /// A signal, of whatever kind and from whomever.
    pub(crate) fn signalled(&mut self, signal: &Message) -> zbus::Result<Outcome> {
        let gathered = self.slots.signalled(signal)?;
        Ok(self.take(gathered))
    }

    fn take(&mut self, gathered: Gathered) -> Outcome {
        let mut outcome = Outcome { calls: gathered.calls, events: Vec::new() };
        if !gathered.changed {
            return outcome;
        }
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
        outcome
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
    match properties.get("Present")? {
        Variant::Variant(inner) => inner.downcast_ref().ok(),
        value => value.downcast_ref().ok(),
    }
}
