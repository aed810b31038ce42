// SPDX-License-Identifier: Apache-2.0
//! The objects as the bus sees them: their interfaces, their published values, and what a Set of a
//! property means. This is the snapshot; it changes only when a change is published.

use std::collections::BTreeMap;

use zbus::Variant;

use crate::contract::{self, Acpi, Change, Property};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    #[allow(dead_code, reason = "no read-only property in the prototype; the dispatch knows them")]
    Read,
    ReadWrite,
}

pub struct PropertyInfo {
    pub name: &'static str,
    pub signature: &'static str,
    pub access: Access,
}

pub struct InterfaceInfo {
    pub name: &'static str,
    pub properties: &'static [PropertyInfo],
}

pub type Values<'a> = BTreeMap<&'static str, Variant<'a>>;

/// One object. `interface` and `property` are indices into `interfaces()`.
pub trait Object {
    fn interfaces(&self) -> &'static [InterfaceInfo];
    fn get(&self, interface: usize, property: usize) -> Variant<'_>;
    /// What the value would change, or why it is refused.
    fn check(&self, interface: usize, property: usize, value: &Variant<'_>) -> Result<Change, String>;

    fn values(&self, interface: usize) -> Values<'_> {
        let info = &self.interfaces()[interface];
        info.properties.iter().enumerate().map(|(i, p)| (p.name, self.get(interface, i))).collect()
    }
}

pub struct AcpiObject {
    pub sys: Acpi,
    pub dev: Acpi,
}

static ACPI_INTERFACES: [InterfaceInfo; 1] = [InterfaceInfo {
    name: contract::INTERFACE,
    properties: &[
        PropertyInfo { name: Property::Sys.name(), signature: "s", access: Access::ReadWrite },
        PropertyInfo { name: Property::Dev.name(), signature: "s", access: Access::ReadWrite },
    ],
}];

impl Object for AcpiObject {
    fn interfaces(&self) -> &'static [InterfaceInfo] {
        &ACPI_INTERFACES
    }

    fn get(&self, _interface: usize, property: usize) -> Variant<'_> {
        Variant::from(if property == 0 { self.sys } else { self.dev }.as_str())
    }

    fn check(&self, _interface: usize, property: usize, value: &Variant<'_>) -> Result<Change, String> {
        let property = if property == 0 { Property::Sys } else { Property::Dev };
        let Variant::Str(text) = value else {
            return Err(format!("{} takes a string", property.name()));
        };
        let value = Acpi::parse(text).ok_or_else(|| format!("{} does not know this value", property.name()))?;
        Ok(Change { property, value })
    }
}

/// All objects, and the paths at which an ObjectManager sits.
pub struct Tree {
    pub acpi: AcpiObject,
    pub managers: &'static [&'static str],
}

impl Tree {
    pub fn new() -> Self {
        Self { acpi: AcpiObject { sys: Acpi::UNKNOWN, dev: Acpi::UNKNOWN }, managers: &[contract::MANAGER] }
    }

    /// In path order. The product has a sorted `Vec` here.
    pub fn objects(&self) -> impl Iterator<Item = (&'static str, &dyn Object)> {
        std::iter::once((contract::PATH, &self.acpi as &dyn Object))
    }

    pub fn object(&self, path: &str) -> Option<&dyn Object> {
        self.objects().find(|(p, _)| *p == path).map(|(_, o)| o)
    }

    /// Every path that has a node: objects, managers, and all above them.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.objects().map(|(p, _)| p).chain(self.managers.iter().copied())
    }

    pub fn publish(&mut self, change: Change) {
        match change.property {
            Property::Sys => self.acpi.sys = change.value,
            Property::Dev => self.acpi.dev = change.value,
        }
    }
}

/// The part of `path` below `parent`, if `path` is below it.
pub fn below<'a>(parent: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(parent)?;
    if parent == "/" { Some(rest) } else { rest.strip_prefix('/') }.filter(|r| !r.is_empty())
}
