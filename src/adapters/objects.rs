// SPDX-License-Identifier: Apache-2.0
//! What the objects on the bus look like to those who read them: interfaces, properties, and the
//! values that have been published. A snapshot: no lock and no logic.

use std::collections::BTreeMap;

use zbus::{Message, Variant};

use crate::{
    adapters::{acpi_object::AcpiObject, sensor_objects::SensorObject},
    logic::acpi::AcpiState,
    shell::permits::HostIndex,
};

/// Whether a property can be Set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// One property of an interface. All of them signal their changes.
#[derive(Debug)]
pub(crate) struct Property {
    pub(crate) name: &'static str,
    pub(crate) signature: &'static str,
    pub(crate) access: Access,
}

/// A method or signal argument: its name and signature.
pub(crate) type Arg = (&'static str, &'static str);

/// One method of an interface.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) input: &'static [Arg],
    pub(crate) output: &'static [Arg],
}

/// One signal of an interface.
#[derive(Debug)]
pub(crate) struct Signal {
    pub(crate) name: &'static str,
    pub(crate) args: &'static [Arg],
}

/// One interface, as introspection shows it.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) name: &'static str,
    pub(crate) properties: &'static [Property],
    pub(crate) methods: &'static [Method],
    pub(crate) signals: &'static [Signal],
}

/// What a call asks of the event loop; everything else is answered from the snapshot.
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

/// One object on the bus.
pub(crate) trait Object {
    /// Its object path.
    fn path(&self) -> &str;

    /// The host it belongs to.
    fn host(&self) -> HostIndex;

    /// Its interfaces but the standard ones.
    fn interfaces(&self) -> &'static [Interface];

    /// The published value of a property that [`Object::interfaces`] lists.
    fn get(&self, property: &'static Property) -> Variant<'_>;

    /// What a Set of a writable property asks for, or why it is no value of it.
    fn set(&self, property: &'static Property, value: &Variant<'_>) -> Result<Request, String>;

    /// What a call of a method that [`Object::interfaces`] lists asks for, or what is wrong with it.
    fn call(&self, method: &'static Method, call: &Message) -> Result<Request, String>;

    /// All published values of an interface.
    fn values(&self, interface: &'static Interface) -> Values<'_> {
        interface.properties.iter().map(|property| (property.name, self.get(property))).collect()
    }
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Tree {
    /// One for each host, in the order of the configuration.
    pub(crate) acpi: Vec<AcpiObject>,
    /// One for each sensor, in the order of the configuration.
    pub(crate) sensors: Vec<SensorObject>,
}

/// Where the `ObjectManager` of hosts sits: at or above every object, or the mapper misses changes (contract 1.6).
pub(crate) const HOSTS: &str = "/xyz/openbmc_project/control";
/// And that of sensors (contract 5).
pub(crate) const SENSORS: &str = "/xyz/openbmc_project/sensors";

impl Tree {
    /// Every object.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &dyn Object> {
        let sensors = self.sensors.iter().map(|object| object as &dyn Object);
        self.acpi.iter().map(|object| object as &dyn Object).chain(sensors)
    }

    /// Where an `ObjectManager` sits.
    pub(crate) fn managers(&self) -> impl Iterator<Item = &str> {
        std::iter::once(HOSTS).chain((!self.sensors.is_empty()).then_some(SENSORS))
    }

    /// The object at this path.
    pub(crate) fn object(&self, path: &str) -> Option<&dyn Object> {
        self.objects().find(|object| object.path() == path)
    }

    /// Every path where something is: objects and managers.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.objects().map(Object::path).chain(self.managers())
    }
}

/// The part of `path` below `parent`, if it is below it.
pub(crate) fn below<'a>(parent: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(parent)?;
    if parent == "/" { Some(rest) } else { rest.strip_prefix('/') }.filter(|rest| !rest.is_empty())
}
