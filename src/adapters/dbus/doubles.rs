// SPDX-License-Identifier: Apache-2.0
//! Messages as the bus and its services send them, for the tests of those that read them.

use std::collections::BTreeMap;

use zbus::{Message, Variant};

pub(crate) use crate::adapters::dbus::calls::serial_of as serial;
use crate::adapters::dbus::names::{BUS, PROPERTIES};

/// A reply of `sender` to this call.
pub(crate) fn reply<B>(call: &Message, sender: &str, body: &B) -> Message
where
    B: zbus::export::serde::Serialize + zbus::DynamicType,
{
    Message::method_return(&call.header()).sender(sender).build(body).unwrap()
}

/// The mapper's answer: this service has it.
pub(crate) fn owned_by(call: &Message, service: &str) -> Message {
    let services: BTreeMap<&str, Vec<&str>> = [(service, Vec::new())].into();
    reply(call, ":1.1", &services)
}

/// An error in place of a reply.
pub(crate) fn failed(call: &Message) -> Message {
    refused(call, "xyz.openbmc_project.Common.Error.ResourceNotFound")
}

/// This error in place of a reply.
pub(crate) fn refused(call: &Message, error: &'static str) -> Message {
    Message::error(&call.header(), error).sender(":1.1").build(&("no",)).unwrap()
}

/// PropertiesChanged of one property.
pub(crate) fn changed(
    sender: &str,
    path: &str,
    interface: &str,
    property: &str,
    value: Variant<'_>,
) -> Message {
    let values: BTreeMap<&str, Variant<'_>> = [(property, value)].into();
    Message::signal(path, PROPERTIES, "PropertiesChanged")
        .sender(sender)
        .build(&(interface, values, Vec::<&str>::new()))
        .unwrap()
}

/// NameOwnerChanged.
pub(crate) fn owner(name: &str, new: &str) -> Message {
    Message::signal("/org/freedesktop/DBus", BUS, "NameOwnerChanged")
        .sender(BUS)
        .build(&(name, "", new))
        .unwrap()
}

/// The calls to this member.
pub(crate) fn calls<'a>(calls: &'a [Message], member: &str) -> Vec<&'a Message> {
    let is = |call: &&Message| call.header().member().is_some_and(|m| m.as_str() == member);
    calls.iter().filter(is).collect()
}
