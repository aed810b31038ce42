// SPDX-License-Identifier: Apache-2.0
//! The tree of our objects, and where its managers sit.

use crate::adapters::{acpi_object::AcpiObject, dbus::object::Object, sensor_objects::SensorObject};

/// All objects.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The object of each host, in the order of the configuration.
    pub(crate) acpi: Vec<AcpiObject>,
    /// The object of each sensor, in the order of the configuration.
    pub(crate) sensors: Vec<SensorObject>,
    /// The answer of `GetMachineId`. Read once: the file may be on storage that takes its time.
    pub(crate) machine_id: Option<String>,
}

/// Where the `ObjectManager` of hosts sits: at or above every object, or the mapper misses changes (openbmc 1.6).
pub(crate) const HOSTS: &str = "/xyz/openbmc_project/control";
/// And that of sensors (openbmc 5).
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

#[cfg(test)]
mod tests {
    use zbus::{Message, Variant};

    use super::*;
    use crate::{
        adapters::dbus::object::{Access, Method, Property},
        config::{Device, Group, Sensor, Source},
        logic::{acpi::AcpiState, cause::Cause, view::View},
    };

    fn tree() -> Tree {
        let view = View {
            cause: Cause::Startup,
            since: 1,
            previous: AcpiState::Unknown,
            gate_reasons: Vec::new(),
            diagnoses: Vec::new(),
            boots: 0,
            firmware_time: 2,
            boot_time: 3,
        };
        let source = Source::Device { device: Device::Jc42, bus: 3, address: 0x18 };
        let sensor = Sensor::new("DIMM_TEMP_A1".to_owned(), 0, Group::Dimm, source);
        Tree {
            acpi: vec![AcpiObject::new(0, 0, (AcpiState::Unknown, AcpiState::Unknown), view)],
            sensors: vec![SensorObject::new(0, &sensor)],
            machine_id: None,
        }
    }

    /// A name that is listed and not understood would be no property, or another one's value.
    #[test]
    fn every_property_that_is_listed_has_a_value_of_its_type_and_no_other_name_has_one() {
        static NONE: Property = Property { name: "Nothing", signature: "s", access: Access::ReadWrite };
        static NO_METHOD: Method = Method { name: "Nothing", input: &[], output: &[] };
        let tree = tree();
        for object in tree.objects() {
            for interface in object.interfaces() {
                for property in interface.properties {
                    let value = object.get(property).unwrap();
                    assert_eq!(value.value_signature().to_string(), property.signature, "{}", property.name);
                }
                assert_eq!(object.values(interface).len(), interface.properties.len(), "{}", interface.name);
            }
            assert_eq!(object.get(&NONE), None);
            assert!(object.set(&NONE, &Variant::from(AcpiState::S2D2.dbus())).is_err());
            let call = Message::method_call("/", "Nothing").build(&7_u32).unwrap();
            assert!(object.call(&NO_METHOD, &call).is_err());
        }
    }
}
