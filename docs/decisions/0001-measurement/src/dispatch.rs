// SPDX-License-Identifier: Apache-2.0
//! From a method call to its answer. Pure: reads the published objects, sends nothing, awaits
//! nothing. Error names are those sd-bus gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use zbus::message::{Flags, Header};
use zbus::{Message, ObjectPath, Variant};

use crate::contract::Change;
use crate::objects::{Access, Object, Tree, below};

pub const PEER: &str = "org.freedesktop.DBus.Peer";
pub const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
pub const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
pub const OBJECT_MANAGER: &str = "org.freedesktop.DBus.ObjectManager";

/// What becomes of a method call.
#[must_use]
pub enum Answer {
    /// To be sent now.
    Reply(Message),
    /// A Set that is well formed; whether the caller may is still to be seen.
    Set(Change),
}

/// Why a call is refused: an error's name and its text.
#[derive(Debug)]
pub struct Refusal {
    pub name: &'static str,
    pub text: String,
}

macro_rules! refuse {
    ($name:literal, $($text:tt)*) => {
        Refusal { name: concat!("org.freedesktop.DBus.Error.", $name), text: format!($($text)*) }
    };
}
pub(crate) use refuse;

/// Whether the caller wants no reply. Then none may be sent, an error neither.
pub fn wants_no_reply(call: &Message) -> bool {
    call.primary_header().flags().contains(Flags::NO_REPLY_EXPECTED)
}

/// The message that tells a caller that its call was refused.
pub fn refusal(call: &Header<'_>, refusal: &Refusal) -> zbus::Result<Message> {
    Message::error(call, refusal.name).build(&refusal.text.as_str())
}

/// The answer to `call`, which must be a method call.
///
/// An `Err` is a fault of ours (a reply that could not be built).
pub fn dispatch(tree: &Tree, call: &Message) -> zbus::Result<Answer> {
    let header = call.header();
    match route(tree, call, &header) {
        Ok(answer) => answer,
        Err(why) => refusal(&header, &why).map(Answer::Reply),
    }
}

type Routed = Result<zbus::Result<Answer>, Refusal>;

fn route(tree: &Tree, call: &Message, header: &Header<'_>) -> Routed {
    // zbus refuses a method call without path or member before we see it.
    let (path, member) = match (header.path(), header.member()) {
        (Some(path), Some(member)) => (path.as_str(), member.as_str()),
        (None, _) | (_, None) => return Err(refuse!("InvalidArgs", "no path or member")),
    };
    // The interface may be left out; then the member alone decides.
    let interface = header.interface().map(|i| i.as_str());
    let is = |name: &str| interface.is_none_or(|i| i == name);

    match member {
        // Peer is at every path, whether an object is there or not.
        "Ping" if is(PEER) => Ok(reply(header, &())),
        "GetMachineId" if is(PEER) => match std::fs::read_to_string("/etc/machine-id") {
            Ok(id) => Ok(reply(header, &id.trim())),
            Err(e) => Err(refuse!("Failed", "machine id: {e}")),
        },
        "Get" if is(PROPERTIES) => get(object(tree, path)?, call, header),
        "Set" if is(PROPERTIES) => set(object(tree, path)?, call).map(|change| Ok(Answer::Set(change))),
        "GetAll" if is(PROPERTIES) => get_all(object(tree, path)?, call, header),
        "Introspect" if is(INTROSPECTABLE) => match introspect(tree, path) {
            Some(xml) => Ok(reply(header, &xml.as_str())),
            None => Err(refuse!("UnknownObject", "Unknown object '{path}'.")),
        },
        "GetManagedObjects" if is(OBJECT_MANAGER) && tree.managers.contains(&path) => Ok(managed(tree, path, header)),
        _ if exists(tree, path) => {
            Err(refuse!("UnknownMethod", "Unknown method {member} or interface {}.", interface.unwrap_or("")))
        }
        _ => Err(refuse!("UnknownObject", "Unknown object '{path}'.")),
    }
}

fn reply<B>(call: &Header<'_>, body: &B) -> zbus::Result<Answer>
where
    B: zbus::export::serde::Serialize + zbus::DynamicType,
{
    Message::method_return(call).build(body).map(Answer::Reply)
}

fn object<'t>(tree: &'t Tree, path: &str) -> Result<&'t dyn Object, Refusal> {
    tree.object(path).ok_or_else(|| refuse!("UnknownObject", "Unknown object '{path}'."))
}

fn exists(tree: &Tree, path: &str) -> bool {
    tree.paths().any(|p| p == path || below(path, p).is_some())
}

fn bad_arguments(e: zbus::Error) -> Refusal {
    refuse!("InvalidArgs", "{e}")
}

/// Indices of the interface and the property.
fn find(object: &dyn Object, interface: &str, property: &str) -> Result<(usize, usize), Refusal> {
    let found = object.interfaces().iter().position(|i| i.name == interface).and_then(|i| {
        let properties = object.interfaces()[i].properties;
        properties.iter().position(|p| p.name == property).map(|p| (i, p))
    });
    found.ok_or_else(|| refuse!("UnknownProperty", "Unknown interface {interface} or property {property}."))
}

fn get(object: &dyn Object, call: &Message, header: &Header<'_>) -> Routed {
    let body = call.body();
    let (interface, property): (&str, &str) = body.deserialize().map_err(bad_arguments)?;
    let (interface, property) = find(object, interface, property)?;
    Ok(reply(header, &object.get(interface, property)))
}

fn set(object: &dyn Object, call: &Message) -> Result<Change, Refusal> {
    let body = call.body();
    let (interface, property, value): (&str, &str, Variant<'_>) = body.deserialize().map_err(bad_arguments)?;
    let (i, p) = find(object, interface, property)?;
    if object.interfaces()[i].properties[p].access == Access::Read {
        return Err(refuse!("PropertyReadOnly", "Property '{property}' is not writable."));
    }
    object.check(i, p, &value).map_err(|text| refuse!("InvalidArgs", "{text}"))
}

/// The empty name stands for all interfaces: bmcweb reads a sensor so.
fn get_all(object: &dyn Object, call: &Message, header: &Header<'_>) -> Routed {
    let body = call.body();
    let wanted: &str = body.deserialize().map_err(bad_arguments)?;
    let mut values = BTreeMap::new();
    let mut known = is_standard(wanted);
    for (i, info) in object.interfaces().iter().enumerate() {
        if wanted.is_empty() || info.name == wanted {
            known = true;
            values.extend(object.values(i));
        }
    }
    if !known && !wanted.is_empty() {
        return Err(refuse!("UnknownInterface", "Unknown interface '{wanted}'."));
    }
    Ok(reply(header, &values))
}

fn is_standard(interface: &str) -> bool {
    [PEER, INTROSPECTABLE, PROPERTIES, OBJECT_MANAGER].contains(&interface)
}

fn managed(tree: &Tree, manager: &str, header: &Header<'_>) -> zbus::Result<Answer> {
    let mut objects = BTreeMap::new();
    for (path, object) in tree.objects().filter(|(path, _)| below(manager, path).is_some()) {
        let interfaces: BTreeMap<&str, _> =
            object.interfaces().iter().enumerate().map(|(i, info)| (info.name, object.values(i))).collect();
        objects.insert(ObjectPath::try_from(path)?, interfaces);
    }
    reply(header, &objects)
}

const DOCTYPE: &str = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n\
 \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n";
const STANDARD_XML: &str = r#" <interface name="org.freedesktop.DBus.Peer">
  <method name="Ping"/>
  <method name="GetMachineId"><arg type="s" name="machine_uuid" direction="out"/></method>
 </interface>
 <interface name="org.freedesktop.DBus.Introspectable">
  <method name="Introspect"><arg name="data" type="s" direction="out"/></method>
 </interface>
 <interface name="org.freedesktop.DBus.Properties">
  <method name="Get">
   <arg name="interface_name" direction="in" type="s"/>
   <arg name="property_name" direction="in" type="s"/>
   <arg name="value" direction="out" type="v"/>
  </method>
  <method name="GetAll">
   <arg name="interface_name" direction="in" type="s"/>
   <arg name="props" direction="out" type="a{sv}"/>
  </method>
  <method name="Set">
   <arg name="interface_name" direction="in" type="s"/>
   <arg name="property_name" direction="in" type="s"/>
   <arg name="value" direction="in" type="v"/>
  </method>
  <signal name="PropertiesChanged">
   <arg type="s" name="interface_name"/>
   <arg type="a{sv}" name="changed_properties"/>
   <arg type="as" name="invalidated_properties"/>
  </signal>
 </interface>
"#;
const MANAGER_XML: &str = r#" <interface name="org.freedesktop.DBus.ObjectManager">
  <method name="GetManagedObjects">
   <arg type="a{oa{sa{sv}}}" name="object_paths_interfaces_and_properties" direction="out"/>
  </method>
  <signal name="InterfacesAdded">
   <arg type="o" name="object_path"/>
   <arg type="a{sa{sv}}" name="interfaces_and_properties"/>
  </signal>
  <signal name="InterfacesRemoved">
   <arg type="o" name="object_path"/>
   <arg type="as" name="interfaces"/>
  </signal>
 </interface>
"#;

/// The XML of `path`, or `None` where no node is. The mapper walks the whole tree from "/", so every
/// level answers with its children.
fn introspect(tree: &Tree, path: &str) -> Option<String> {
    if !exists(tree, path) {
        return None;
    }
    let mut xml = format!("{DOCTYPE}<node>\n{STANDARD_XML}");
    if tree.managers.contains(&path) {
        xml.push_str(MANAGER_XML);
    }
    for info in tree.object(path).map(|o| o.interfaces()).unwrap_or_default() {
        _ = writeln!(xml, " <interface name=\"{}\">", info.name);
        for p in info.properties {
            let access = match p.access {
                Access::Read => "read",
                Access::ReadWrite => "readwrite",
            };
            _ = writeln!(xml, "  <property name=\"{}\" type=\"{}\" access=\"{access}\"/>", p.name, p.signature);
        }
        xml.push_str(" </interface>\n");
    }
    let children: BTreeSet<&str> =
        tree.paths().filter_map(|p| below(path, p)).filter_map(|rest| rest.split('/').next()).collect();
    for child in children {
        _ = writeln!(xml, " <node name=\"{child}\"/>");
    }
    xml.push_str("</node>\n");
    Some(xml)
}
