// SPDX-License-Identifier: Apache-2.0
//! The objects on the bus as their readers see them: interfaces, properties, and the values that have
//! been published. A snapshot: no lock and no logic.

use std::collections::BTreeMap;

use zbus::{Message, Variant};

use crate::{adapters::dbus::names::PROPERTIES, logic::acpi::AcpiState, shell::permits::HostIndex};

/// Whether a property can be Set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// A property of an interface. All of them signal their changes.
#[derive(Debug)]
pub(crate) struct Property {
    pub(crate) name: &'static str,
    pub(crate) signature: &'static str,
    pub(crate) access: Access,
}

/// A method or signal argument: its name and signature.
pub(crate) type Arg = (&'static str, &'static str);

/// A method of an interface.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) input: &'static [Arg],
    pub(crate) output: &'static [Arg],
}

/// A signal of an interface.
#[derive(Debug)]
pub(crate) struct Signal {
    pub(crate) name: &'static str,
    pub(crate) args: &'static [Arg],
}

/// An interface, as introspection shows it.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) name: &'static str,
    pub(crate) properties: &'static [Property],
    pub(crate) methods: &'static [Method],
    pub(crate) signals: &'static [Signal],
}

/// The request that a call makes to the event loop; everything else is answered from the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// Set `SysACPIStatus`.
    Set(AcpiState),
    /// Set `DevACPIStatus`.
    SetDevice(AcpiState),
    /// The newest transitions, at most so many.
    History(u32),
}

/// The values of one interface by property name.
pub(crate) type Values<'a> = BTreeMap<&'static str, Variant<'a>>;

/// An object on the bus.
pub(crate) trait Object {
    /// Its object path.
    fn path(&self) -> &str;

    /// The host it belongs to.
    fn host(&self) -> HostIndex;

    /// Its interfaces but the standard ones.
    fn interfaces(&self) -> &'static [Interface];

    /// The published value of a property; `None` if the object has none of that name. It has one of each that
    /// [`Object::interfaces`] lists, which a test holds.
    fn get(&self, property: &'static Property) -> Option<Variant<'_>>;

    /// Returns the request that a Set of a writable property makes, or why `value` is no value of it.
    fn set(&self, property: &'static Property, value: &Variant<'_>) -> Result<Request, String>;

    /// Returns the request that a call of a method that [`Object::interfaces`] lists makes, or what is wrong with the call.
    fn call(&self, method: &'static Method, call: &Message) -> Result<Request, String>;

    /// All published values of an interface.
    fn values(&self, interface: &'static Interface) -> Values<'_> {
        let of = |property: &'static Property| Some((property.name, self.get(property)?));
        interface.properties.iter().filter_map(of).collect()
    }
}

/// The PropertiesChanged of these properties.
pub(crate) fn properties_changed(
    path: &str,
    interface: &str,
    changed: Vec<(&'static str, Variant<'_>)>,
) -> zbus::Result<Message> {
    let changed: BTreeMap<_, _> = changed.into_iter().collect();
    let invalidated: [&str; 0] = [];
    Message::signal(path, PROPERTIES, "PropertiesChanged").build(&(
        interface,
        changed,
        invalidated.as_slice(),
    ))
}
