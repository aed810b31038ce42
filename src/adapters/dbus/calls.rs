// SPDX-License-Identifier: Apache-2.0
//! The calls that several peers make: to the bus driver, to the mapper, for a property; and the match rules of what they follow.

use std::num::NonZeroU32;

use zbus::Message;

use crate::adapters::dbus::names::{
    BUS, BUS_PATH, INTROSPECTED, MAPPER, MAPPER_PATH, MAPPER_PRIVATE, OBJECT_MANAGER, PROPERTIES,
};

/// A call to the bus driver.
pub(crate) fn call_bus<B>(member: &str, body: &B) -> zbus::Result<Message>
where
    B: zbus::export::serde::Serialize + zbus::DynamicType,
{
    Message::method_call(BUS_PATH, member).destination(BUS).interface(BUS).build(body)
}

/// Subscribes to signals by this rule.
pub(crate) fn subscribe(rule: &str) -> zbus::Result<Message> {
    call_bus("AddMatch", &rule)
}

/// The rule that tells who owns a name.
pub(crate) fn owner_changes(name: &str) -> String {
    format!("type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{name}'")
}

/// The rule that tells when the mapper knows a new service.
pub(crate) fn introspected() -> String {
    format!("type='signal',interface='{MAPPER_PRIVATE}',member='{INTROSPECTED}'")
}

/// The rule that tells when an object at this path is announced (`InterfacesAdded`) or removed; below it too if it ends with a slash.
pub(crate) fn objects(member: &str, path: &str) -> String {
    format!("type='signal',interface='{OBJECT_MANAGER}',member='{member}',arg0path='{path}'")
}

/// The rule that tells of the changes of this interface at this path.
pub(crate) fn changes(path: &str, interface: &str) -> String {
    format!(
        "type='signal',interface='{PROPERTIES}',member='PropertiesChanged',path='{path}',arg0='{interface}'"
    )
}

/// Asks the mapper who serves this interface at this path.
pub(crate) fn who_serves(path: &str, interface: &str) -> zbus::Result<Message> {
    Message::method_call(MAPPER_PATH, "GetObject")
        .destination(MAPPER)
        .interface(MAPPER)
        .build(&(path, [interface].as_slice()))
}

/// Reads a property of a service.
pub(crate) fn get(service: &str, path: &str, interface: &str, property: &str) -> zbus::Result<Message> {
    let call = Message::method_call(path, "Get").destination(service).interface(PROPERTIES);
    call.build(&(interface, property))
}

/// The serial by which its reply is known.
pub(crate) fn serial_of(call: &Message) -> NonZeroU32 {
    call.primary_header().serial_num()
}
