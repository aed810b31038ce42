// SPDX-License-Identifier: Apache-2.0
//! Asks the object mapper whether somebody else serves one of our objects.
//!
//! ipmid takes the lowest service name, so a rival either hides us or is hidden silently (contract
//! 1.5). Asked at the start, when the mapper appears, and when an object of that path is announced.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use zbus::{Message, ObjectPath, message::Type};

use crate::{
    adapters::{
        acpi_object::{BUS_NAME, INTERFACE},
        peer::{MAPPER, Outcome, Peer, Pending, objects, owner_changes, subscribe, who_serves},
    },
    logic::machine::Event,
    shell::permits::HostIndex,
};

/// What is known of rivals.
#[derive(Debug)]
pub(crate) struct Mapper {
    /// Each host's object path, and who else serves it.
    hosts: Vec<(String, BTreeSet<String>)>,
    awaited: Pending<HostIndex>,
}

impl Mapper {
    /// For the objects at these paths, host by host.
    pub(crate) fn new(paths: impl Iterator<Item = String>) -> Self {
        Self { hosts: paths.map(|path| (path, BTreeSet::new())).collect(), awaited: Pending::default() }
    }

    fn ask(&mut self, about: impl Fn(&str) -> bool) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        for (host, (path, _)) in self.hosts.iter().enumerate().filter(|(_, (path, _))| about(path)) {
            let call = who_serves(path, INTERFACE)?;
            // Only the newest question counts.
            self.awaited.forget(|asked| *asked == host);
            self.awaited.add(&call, host);
            calls.push(call);
        }
        Ok(calls)
    }
}

impl Peer for Mapper {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        let mut calls = vec![subscribe(&owner_changes(MAPPER))?];
        for (path, _) in &self.hosts {
            calls.push(subscribe(&objects("InterfacesAdded", path))?);
        }
        calls.extend(self.ask(|_| true)?);
        Ok(calls)
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let host = self.awaited.take(serial)?;
        let (path, rivals) = self.hosts.get_mut(host)?;
        let body = reply.body();
        // An error means that the mapper knows nobody there, or that there is no mapper.
        let services: BTreeMap<String, Vec<String>> = match reply.message_type() {
            Type::MethodReturn => body.deserialize().unwrap_or_default(),
            Type::MethodCall | Type::Signal | Type::Error => BTreeMap::new(),
        };
        let others: BTreeSet<_> = services.into_keys().filter(|name| name != BUS_NAME).collect();
        if others == *rivals {
            return Some(Ok(Outcome::default()));
        }
        for name in others.difference(rivals) {
            tracing::warn!(
                "{name} serves {path} too; ipmid uses the one whose name sorts first. Remove the other \
                 (phosphor-settings-manager: a .remove.yml fragment)"
            );
        }
        *rivals = others;
        let events = vec![(host, Event::Rival(!rivals.is_empty()))];
        Some(Ok(Outcome { events, ..Outcome::default() }))
    }

    fn signalled(&mut self, signal: &Message) -> zbus::Result<Outcome> {
        let header = signal.header();
        let body = signal.body();
        let calls = match header.member().map_or("", zbus::names::MemberName::as_str) {
            "NameOwnerChanged" => match body.deserialize::<(&str, &str, &str)>() {
                Ok((MAPPER, _, new)) if !new.is_empty() => self.ask(|_| true)?,
                Ok(_) | Err(_) => Vec::new(),
            },
            "InterfacesAdded" => {
                let announced = body.deserialize_ignore_signature::<ObjectPath<'_>>();
                self.ask(|path| announced.as_ref().is_ok_and(|announced| announced.as_str() == path))?
            }
            _ => Vec::new(),
        };
        Ok(Outcome::of(calls))
    }
}
