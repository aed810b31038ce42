// SPDX-License-Identifier: Apache-2.0
//! Names of the D-Bus specification, of the bus driver and the mapper that more than one part uses; and names that others send.

/// Properties of an object.
pub(crate) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// Objects below a path.
pub(crate) const OBJECT_MANAGER: &str = "org.freedesktop.DBus.ObjectManager";

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

/// Bytes of the longest name (D-Bus specification, "Valid Names"): a longer one is none.
pub(crate) const LONGEST_NAME: usize = 255;

/// Text that somebody sent, for an answer or the log: of what is longer than any name only the beginning.
#[derive(Clone, Copy)]
pub(crate) struct Brief<'a>(pub(crate) &'a str);

impl std::fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ends = self.0.char_indices().map(|(at, character)| at + character.len_utf8());
        let shown =
            self.0.get(..ends.take_while(|end| *end <= LONGEST_NAME).last().unwrap_or(0)).unwrap_or_default();
        f.write_str(shown)?;
        if shown.len() < self.0.len() { write!(f, "... ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}
