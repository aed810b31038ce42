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
        bus::{BUS, call_bus},
    },
    logic::machine::Event,
    shell::permits::HostIndex,
};

/// The object mapper.
pub(crate) const MAPPER: &str = "xyz.openbmc_project.ObjectMapper";
/// Its object.
pub(crate) const MAPPER_PATH: &str = "/xyz/openbmc_project/object_mapper";

/// What is known of rivals.
#[derive(Debug)]
pub(crate) struct Mapper {
    /// Each host's object path, and who else serves it.
    hosts: Vec<(String, BTreeSet<String>)>,
    awaited: BTreeMap<NonZeroU32, HostIndex>,
}

impl Mapper {
    /// For the objects at these paths, host by host.
    pub(crate) fn new(paths: impl Iterator<Item = String>) -> Self {
        Self { hosts: paths.map(|path| (path, BTreeSet::new())).collect(), awaited: BTreeMap::new() }
    }

    /// The calls to begin with.
    pub(crate) fn start(&mut self) -> zbus::Result<Vec<Message>> {
        let appears = format!(
            "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{MAPPER}'"
        );
        let mut calls = vec![call_bus("AddMatch", &appears.as_str())?];
        for (path, _) in &self.hosts {
            let announced = format!(
                "type='signal',interface='org.freedesktop.DBus.ObjectManager',member='InterfacesAdded',\
                 arg0path='{path}'"
            );
            calls.push(call_bus("AddMatch", &announced.as_str())?);
        }
        calls.extend(self.ask(|_| true)?);
        Ok(calls)
    }

    fn ask(&mut self, about: impl Fn(&str) -> bool) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        for (host, (path, _)) in self.hosts.iter().enumerate().filter(|(_, (path, _))| about(path)) {
            let call = Message::method_call(MAPPER_PATH, "GetObject")
                .destination(MAPPER)
                .interface(MAPPER)
                .build(&(path, [INTERFACE].as_slice()))?;
            // Only the newest question counts.
            self.awaited.retain(|_, asked| *asked != host);
            self.awaited.insert(call.primary_header().serial_num(), host);
            calls.push(call);
        }
        Ok(calls)
    }

    /// What a reply says, if it is one to a call of ours and says anything new.
    pub(crate) fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<(HostIndex, Event)> {
        let host = self.awaited.remove(&serial)?;
        let (path, rivals) = self.hosts.get_mut(host)?;
        let body = reply.body();
        // An error means that the mapper knows nobody there, or that there is no mapper.
        let services: BTreeMap<String, Vec<String>> = match reply.message_type() {
            Type::MethodReturn => body.deserialize().unwrap_or_default(),
            Type::MethodCall | Type::Signal | Type::Error => BTreeMap::new(),
        };
        let others: BTreeSet<_> = services.into_keys().filter(|name| name != BUS_NAME).collect();
        if others == *rivals {
            return None;
        }
        for name in others.difference(rivals) {
            tracing::warn!(
                "{name} serves {path} too; ipmid uses the one whose name sorts first. Remove the other \
                 (phosphor-settings-manager: a .remove.yml fragment)"
            );
        }
        *rivals = others;
        Some((host, Event::Rival(!rivals.is_empty())))
    }

    /// The calls that a signal asks for.
    pub(crate) fn signalled(&mut self, signal: &Message) -> zbus::Result<Vec<Message>> {
        let header = signal.header();
        let body = signal.body();
        match header.member().map_or("", zbus::names::MemberName::as_str) {
            "NameOwnerChanged" => match body.deserialize::<(&str, &str, &str)>() {
                Ok((MAPPER, _, new)) if !new.is_empty() => self.ask(|_| true),
                Ok(_) | Err(_) => Ok(Vec::new()),
            },
            "InterfacesAdded" => {
                let announced = body.deserialize_ignore_signature::<ObjectPath<'_>>();
                self.ask(|path| announced.as_ref().is_ok_and(|announced| announced.as_str() == path))
            }
            _ => Ok(Vec::new()),
        }
    }
}
