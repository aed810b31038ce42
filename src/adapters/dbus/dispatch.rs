// SPDX-License-Identifier: Apache-2.0
//! From a method call to its answer: the standard interfaces, over the published objects.
//!
//! Pure: sends nothing, waits for nothing. Error names are those that sd-bus services give, since
//! that is what OpenBMC's clients were written against; so is `GetAll("")`, which answers with the
//! properties of all interfaces (bmcweb reads a sensor that way).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use zbus::{
    Message, ObjectPath, Variant,
    message::{Flags, Header},
    names::InterfaceName,
};

use crate::adapters::dbus::{
    names::{Brief, LONGEST_NAME, OBJECT_MANAGER, PROPERTIES},
    object::{Access, Arg, Interface, Method, Object, Property, Request, Signal, Values},
    tree::{Tree, below},
};

const PEER: &str = "org.freedesktop.DBus.Peer";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
const INTERFACES_ADDED: &str = "InterfacesAdded";
/// The interfaces that are at every object. A manager's is not one of them: sd-bus has no properties of it anywhere.
const EVERYWHERE: [&str; 3] = [PEER, INTROSPECTABLE, PROPERTIES];

/// The outcome of a method call.
#[must_use]
#[derive(Debug)]
pub(crate) enum Answer {
    /// The call can be answered at once.
    Reply(Message),
    /// The event loop has to be asked.
    Ask(Ask),
}

/// The request of a call to the event loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ask {
    /// Which host.
    pub(crate) host: usize,
    /// The request.
    pub(crate) request: Request,
}

/// Why a call is refused: an error's name and its text.
#[derive(Debug)]
pub(crate) struct Refusal(&'static str, String);

macro_rules! refusal {
    ($name:literal, $($text:tt)*) => {
        Refusal(concat!("org.freedesktop.DBus.Error.", $name), format!($($text)*))
    };
}

impl Refusal {
    /// The caller's uid may not do this.
    pub(crate) fn access_denied() -> Self {
        refusal!("AccessDenied", "Only root may set the ACPI power state.")
    }

    /// Too many calls of unknown callers wait.
    pub(crate) fn limits_exceeded() -> Self {
        refusal!("LimitsExceeded", "Too many calls wait.")
    }

    /// The error message.
    pub(crate) fn to(&self, call: &Message) -> zbus::Result<Message> {
        Message::error(&call.header(), self.0).build(&self.1.as_str())
    }
}

/// The caller wants no reply, so none may be sent, an error neither.
pub(crate) fn wants_no_reply(call: &Message) -> bool {
    call.primary_header().flags().contains(Flags::NO_REPLY_EXPECTED)
}

/// The answer to a method call. An `Err` is a fault of ours: a reply that could not be built.
pub(crate) fn dispatch(tree: &Tree, call: &Message) -> zbus::Result<Answer> {
    match route(tree, call, &call.header()) {
        Ok(answer) => answer,
        Err(refusal) => refusal.to(call).map(Answer::Reply),
    }
}

type Routed = Result<zbus::Result<Answer>, Refusal>;

fn route(tree: &Tree, call: &Message, header: &Header<'_>) -> Routed {
    let (Some(path), Some(member)) = (header.path(), header.member()) else {
        return Err(refusal!("InvalidArgs", "A call needs a path and a member."));
    };
    let (path, member) = (path.as_str(), member.as_str());
    // The interface may be left out; then the member alone decides.
    let interface = header.interface().map(InterfaceName::as_str);
    let is = |name: &str| interface.is_none_or(|given| given == name);

    match member {
        "Get" if is(PROPERTIES) => get(node(tree, path)?, call, header),
        "Set" if is(PROPERTIES) => set(node(tree, path)?, call),
        "GetAll" if is(PROPERTIES) => get_all(node(tree, path)?, call, header),
        // Peer is at every path, whether an object is there or not.
        "Ping" if is(PEER) => Ok(reply(header, &())),
        "GetMachineId" if is(PEER) => match &tree.machine_id {
            Some(id) => Ok(reply(header, &id.as_str())),
            None => Err(refusal!("Failed", "There is no machine id.")),
        },
        "Introspect" if is(INTROSPECTABLE) => {
            takes_nothing(call)?;
            Ok(reply(header, &introspect(tree, path)?.as_str()))
        }
        "GetManagedObjects" if is(OBJECT_MANAGER) && is_manager(tree, path) => {
            takes_nothing(call)?;
            Ok(managed(tree, path, header))
        }
        _ => {
            let unknown = || {
                let interface = interface.unwrap_or_default();
                refusal!("UnknownMethod", "Unknown method {member} or interface {interface}.")
            };
            if interface == Some(PEER) {
                return Err(unknown());
            }
            let object = node(tree, path)?.ok_or_else(unknown)?;
            let methods = object.interfaces().iter().filter(|i| is(i.name)).flat_map(|i| i.methods);
            let method = methods.into_iter().find(|method| method.name == member).ok_or_else(unknown)?;
            let request = object.call(method, call).map_err(invalid_args)?;
            Ok(Ok(Answer::Ask(Ask { host: object.host(), request })))
        }
    }
}

fn reply<B>(call: &Header<'_>, body: &B) -> zbus::Result<Answer>
where
    B: zbus::export::serde::Serialize + zbus::DynamicType,
{
    Message::method_return(call).build(body).map(Answer::Reply)
}

fn invalid_args(why: impl std::fmt::Display) -> Refusal {
    refusal!("InvalidArgs", "{why}")
}

/// A name that a body brought, if it can be one. Before anything is looked for: what a caller sends costs us no more than that.
fn name(text: &str) -> Result<&str, Refusal> {
    if text.len() > LONGEST_NAME {
        return Err(invalid_args(format_args!(
            "A name has at most {LONGEST_NAME} bytes, not {}.",
            text.len()
        )));
    }
    Ok(text)
}

fn takes_nothing(call: &Message) -> Result<(), Refusal> {
    call.body().deserialize().map_err(invalid_args)
}

/// The object at a path, or only a manager, which is an object without interfaces of its own.
type Node<'t> = Option<&'t dyn Object>;

fn node<'t>(tree: &'t Tree, path: &str) -> Result<Node<'t>, Refusal> {
    let object = tree.object(path);
    if object.is_none() && !is_manager(tree, path) {
        return Err(refusal!("UnknownObject", "Unknown object '{}'.", Brief(path)));
    }
    Ok(object)
}

fn is_manager(tree: &Tree, path: &str) -> bool {
    tree.managers().any(|manager| manager == path)
}

/// The property of this name, and who has it.
fn find<'t>(
    node: Node<'t>,
    interface: &str,
    property: &str,
) -> Result<(&'t dyn Object, &'static Property), Refusal> {
    let of = |object: &'t dyn Object| {
        let interfaces = object.interfaces().iter().filter(|i| i.name == interface);
        let found = interfaces.flat_map(|i| i.properties).find(|known| known.name == property)?;
        Some((object, found))
    };
    node.and_then(of)
        .ok_or_else(|| refusal!("UnknownProperty", "Unknown interface {interface} or property {property}."))
}

fn get(node: Node<'_>, call: &Message, header: &Header<'_>) -> Routed {
    let body = call.body();
    let (interface, property): (&str, &str) = body.deserialize().map_err(invalid_args)?;
    let (object, property) = find(node, name(interface)?, name(property)?)?;
    let value = object.get(property);
    let value =
        value.ok_or_else(|| refusal!("UnknownProperty", "Property {} has no value.", property.name))?;
    Ok(reply(header, &value))
}

fn set(node: Node<'_>, call: &Message) -> Routed {
    let body = call.body();
    let (interface, property, value): (&str, &str, Variant<'_>) = body.deserialize().map_err(invalid_args)?;
    let (object, property) = find(node, name(interface)?, name(property)?)?;
    if property.access == Access::Read {
        return Err(refusal!("PropertyReadOnly", "Property '{}' is not writable.", property.name));
    }
    let request = object.set(property, &value).map_err(invalid_args)?;
    Ok(Ok(Answer::Ask(Ask { host: object.host(), request })))
}

fn get_all(node: Node<'_>, call: &Message, header: &Header<'_>) -> Routed {
    let body = call.body();
    let wanted = name(body.deserialize().map_err(invalid_args)?)?;
    let mut known = wanted.is_empty() || EVERYWHERE.contains(&wanted);
    let mut values = BTreeMap::new();
    if let Some(object) = node {
        for interface in object.interfaces().iter().filter(|i| wanted.is_empty() || i.name == wanted) {
            known = true;
            values.extend(object.values(interface));
        }
    }
    if !known {
        return Err(refusal!("UnknownInterface", "Unknown interface '{wanted}'."));
    }
    Ok(reply(header, &values))
}

/// The interfaces of an object and their values, as sd-bus lists them: with those that are everywhere.
fn listed(object: &dyn Object) -> BTreeMap<&'static str, Values<'_>> {
    let own = object.interfaces().iter().map(|interface| (interface.name, object.values(interface)));
    EVERYWHERE.into_iter().map(|name| (name, Values::new())).chain(own).collect()
}

/// The objects below a manager.
fn managed(tree: &Tree, manager: &str, header: &Header<'_>) -> zbus::Result<Answer> {
    let mut objects = BTreeMap::new();
    for object in tree.objects().filter(|object| below(manager, object.path()).is_some()) {
        objects.insert(ObjectPath::try_from(object.path())?, listed(object));
    }
    reply(header, &objects)
}

/// `InterfacesAdded` of every object, each from its manager's path, as `sd_bus_emit_object_added` sends it.
pub(crate) fn announcements(tree: &Tree) -> zbus::Result<Vec<Message>> {
    let mut out = Vec::new();
    for manager in tree.managers() {
        for object in tree.objects().filter(|object| below(manager, object.path()).is_some()) {
            let body = (ObjectPath::try_from(object.path())?, listed(object));
            out.push(Message::signal(manager, OBJECT_MANAGER, INTERFACES_ADDED).build(&body)?);
        }
    }
    Ok(out)
}

const DOCTYPE: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
"#;

/// The interfaces at every node, and below them the one of managers.
static STANDARD: [Interface; 4] = [
    Interface {
        name: PEER,
        properties: &[],
        methods: &[
            Method { name: "Ping", input: &[], output: &[] },
            Method { name: "GetMachineId", input: &[], output: &[("machine_uuid", "s")] },
        ],
        signals: &[],
    },
    Interface {
        name: INTROSPECTABLE,
        properties: &[],
        methods: &[Method { name: "Introspect", input: &[], output: &[("xml_data", "s")] }],
        signals: &[],
    },
    Interface {
        name: PROPERTIES,
        properties: &[],
        methods: &[
            Method {
                name: "Get",
                input: &[("interface_name", "s"), ("property_name", "s")],
                output: &[("value", "v")],
            },
            Method { name: "GetAll", input: &[("interface_name", "s")], output: &[("props", "a{sv}")] },
            Method {
                name: "Set",
                input: &[("interface_name", "s"), ("property_name", "s"), ("value", "v")],
                output: &[],
            },
        ],
        signals: &[Signal {
            name: "PropertiesChanged",
            args: &[
                ("interface_name", "s"),
                ("changed_properties", "a{sv}"),
                ("invalidated_properties", "as"),
            ],
        }],
    },
    Interface {
        name: OBJECT_MANAGER,
        properties: &[],
        methods: &[Method {
            name: "GetManagedObjects",
            input: &[],
            output: &[("object_paths_interfaces_and_properties", "a{oa{sa{sv}}}")],
        }],
        signals: &[
            Signal {
                name: INTERFACES_ADDED,
                args: &[("object_path", "o"), ("interfaces_and_properties", "a{sa{sv}}")],
            },
            Signal { name: "InterfacesRemoved", args: &[("object_path", "o"), ("interfaces", "as")] },
        ],
    },
];

/// The XML of a node. The mapper walks down from `/`, so that every level must name its children
/// (openbmc 1.6).
fn introspect(tree: &Tree, path: &str) -> Result<String, Refusal> {
    let children: BTreeSet<&str> = tree
        .paths()
        .filter_map(|known| below(path, known))
        .filter_map(|rest| rest.split('/').next())
        .collect();
    let object = tree.object(path);
    let manager = is_manager(tree, path);
    // The root is always there: where nothing is known yet, it is empty.
    if object.is_none() && !manager && children.is_empty() && path != "/" {
        return Err(refusal!("UnknownObject", "Unknown object '{}'.", Brief(path)));
    }
    let mut xml = format!("{DOCTYPE}<node>\n");
    for interface in STANDARD.iter().filter(|interface| manager || interface.name != OBJECT_MANAGER) {
        describe(&mut xml, interface);
    }
    for interface in object.map(Object::interfaces).unwrap_or_default() {
        describe(&mut xml, interface);
    }
    for child in children {
        element(&mut xml, format_args!(" <node name=\"{child}\"/>\n"));
    }
    xml.push_str("</node>\n");
    Ok(xml)
}

fn describe(xml: &mut String, interface: &Interface) {
    element(xml, format_args!(" <interface name=\"{}\">\n", interface.name));
    for method in interface.methods {
        element(xml, format_args!("  <method name=\"{}\">\n", method.name));
        args(xml, method.input, " direction=\"in\"");
        args(xml, method.output, " direction=\"out\"");
        xml.push_str("  </method>\n");
    }
    for signal in interface.signals {
        element(xml, format_args!("  <signal name=\"{}\">\n", signal.name));
        args(xml, signal.args, "");
        xml.push_str("  </signal>\n");
    }
    for property in interface.properties {
        let access = match property.access {
            Access::Read => "read",
            Access::ReadWrite => "readwrite",
        };
        let (name, signature) = (property.name, property.signature);
        element(
            xml,
            format_args!("  <property name=\"{name}\" type=\"{signature}\" access=\"{access}\"/>\n"),
        );
    }
    xml.push_str(" </interface>\n");
}

fn args(xml: &mut String, args: &[Arg], direction: &str) {
    for (name, signature) in args {
        element(xml, format_args!("   <arg name=\"{name}\" type=\"{signature}\"{direction}/>\n"));
    }
}

fn element(xml: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    xml.write_fmt(text).unwrap_or_default();
}
