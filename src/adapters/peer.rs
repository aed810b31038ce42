// SPDX-License-Identifier: Apache-2.0
//! What every adapter to another daemon is to the task on the bus, and the calls that several of them make.

use std::num::NonZeroU32;

use zbus::Message;

use crate::{
    adapters::dispatch::{OBJECT_MANAGER, PROPERTIES},
    logic::machine::Event,
    shell::permits::HostIndex,
};

/// The bus driver's name.
pub(crate) const BUS: &str = "org.freedesktop.DBus";
/// The bus driver's object.
pub(crate) const BUS_PATH: &str = "/org/freedesktop/DBus";
/// The object mapper.
pub(crate) const MAPPER: &str = "xyz.openbmc_project.ObjectMapper";
/// Its object.
pub(crate) const MAPPER_PATH: &str = "/xyz/openbmc_project/object_mapper";
/// Where the mapper says that it has looked at a new service (phosphor-objmgr:src/main.cpp,
/// `sendIntrospectionCompleteSignal`).
pub(crate) const MAPPER_PRIVATE: &str = "xyz.openbmc_project.ObjectMapper.Private";
/// Its signal there, with the service's name.
pub(crate) const INTROSPECTED: &str = "IntrospectionComplete";
/// What came of a message.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// To be sent, in order.
    pub(crate) calls: Vec<Message>,
    /// For the event loop, in order.
    pub(crate) events: Vec<(HostIndex, Event)>,
}

impl Outcome {
    /// Nothing but calls.
    pub(crate) fn of(calls: Vec<Message>) -> Self {
        Self { calls, events: Vec::new() }
    }
}

/// Our side of the talk with one other daemon.
///
/// It may be absent, appear, restart, answer errors or never; none of that is an error here. One is returned only where a message
/// cannot be built.
pub(crate) trait Peer: Send {
    /// The calls to begin with: subscribed first, asked afterwards.
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        Ok(Vec::new())
    }

    /// A reply; `None` if it is not one to a call of ours.
    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>>;

    /// A signal, of whatever kind and from whomever.
    fn signalled(&mut self, _signal: &Message) -> zbus::Result<Outcome> {
        Ok(Outcome::default())
    }
}

/// Our calls that have no reply yet, with what each is about. There are few at a time.
#[derive(Debug)]
pub(crate) struct Pending<T>(Vec<(NonZeroU32, T)>);

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Pending<T> {
    /// This call is sent, or will be.
    pub(crate) fn add(&mut self, call: &Message, about: T) {
        self.0.push((serial_of(call), about));
    }

    /// What the reply to this call is about; `None` if nobody waits for it (any more).
    pub(crate) fn take(&mut self, serial: NonZeroU32) -> Option<T> {
        let at = self.0.iter().position(|(sent, _)| *sent == serial)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Replies about these are not waited for any more.
    pub(crate) fn forget(&mut self, which: impl Fn(&T) -> bool) {
        self.0.retain(|(_, about)| !which(about));
    }

    /// Whether a reply about one of these is waited for.
    pub(crate) fn any(&self, which: impl Fn(&T) -> bool) -> bool {
        self.0.iter().any(|(_, about)| which(about))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

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
