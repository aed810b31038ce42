// SPDX-License-Identifier: Apache-2.0
//! From a method call to its answer: the standard interfaces, over the published objects.
//!
//! Pure: sends nothing, waits for nothing. Error names are those that sd-bus services give, since
//! that is what OpenBMC's clients were written against; so is `GetAll("")`, which answers with the
//! properties of all interfaces (bmcweb reads a sensor that way, stack.md).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use zbus::{
    Message, ObjectPath, Variant,
    message::{Flags, Header},
    names::InterfaceName,
};

use crate::adapters::objects::{
    Access, Arg, Interface, Method, Object, Property, Request, Signal, Tree, below,
};

pub(crate) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const PEER: &str = "org.freedesktop.DBus.Peer";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
pub(crate) const OBJECT_MANAGER: &str = "org.freedesktop.DBus.ObjectManager";

/// What becomes of a method call.
#[must_use]
#[derive(Debug)]
pub(crate) enum Answer {
    /// It can be answered at once.
    Reply(Message),
    /// The event loop has to be asked.
    Ask(Ask),
}

/// What a call asks of the event loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ask {
    /// Which host.
    pub(crate) host: usize,
    /// What.
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
        "Get" if is(PROPERTIES) => get(object(tree, path)?, call, header),
        "Set" if is(PROPERTIES) => set(object(tree, path)?, call),
        "GetAll" if is(PROPERTIES) => get_all(object(tree, path)?, call, header),
        // Peer is at every path, whether an object is there or not.
        "Ping" if is(PEER) => Ok(reply(header, &())),
        "GetMachineId" if is(PEER) => match std::fs::read_to_string("/etc/machine-id") {
            Ok(id) => Ok(reply(header, &id.trim())),
            Err(e) => Err(refusal!("Failed", "The machine id cannot be read: {e}.")),
        },
        "Introspect" if is(INTROSPECTABLE) => Ok(reply(header, &introspect(tree, path)?.as_str())),
        "GetManagedObjects" if is(OBJECT_MANAGER) && tree.managers().any(|manager| manager == path) => {
            Ok(managed(tree, path, header))
        }
        _ => {
            let object = object(tree, path)?;
            let methods = object.interfaces().iter().filter(|i| is(i.name)).flat_map(|i| i.methods);
            let Some(method) = methods.into_iter().find(|method| method.name == member) else {
                let interface = interface.unwrap_or_default();
                return Err(refusal!("UnknownMethod", "Unknown method {member} or interface {interface}."));
            };
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

fn object<'t>(tree: &'t Tree, path: &str) -> Result<&'t dyn Object, Refusal> {
    tree.object(path).ok_or_else(|| refusal!("UnknownObject", "Unknown object '{path}'."))
}

fn property(object: &dyn Object, interface: &str, name: &str) -> Result<&'static Property, Refusal> {
    let interfaces = object.interfaces().iter().filter(|i| i.name == interface);
    interfaces
        .flat_map(|i| i.properties)
        .find(|property| property.name == name)
        .ok_or_else(|| refusal!("UnknownProperty", "Unknown interface {interface} or property {name}."))
}

fn get(object: &dyn Object, call: &Message, header: &Header<'_>) -> Routed {
    let body = call.body();
    let (interface, name): (&str, &str) = body.deserialize().map_err(invalid_args)?;
    Ok(reply(header, &object.get(property(object, interface, name)?)))
}

fn set(object: &dyn Object, call: &Message) -> Routed {
    let body = call.body();
    let (interface, name, value): (&str, &str, Variant<'_>) = body.deserialize().map_err(invalid_args)?;
    let property = property(object, interface, name)?;
    if property.access == Access::Read {
        return Err(refusal!("PropertyReadOnly", "Property '{name}' is not writable."));
    }
    let request = object.set(property, &value).map_err(invalid_args)?;
    Ok(Ok(Answer::Ask(Ask { host: object.host(), request })))
}

fn get_all(object: &dyn Object, call: &Message, header: &Header<'_>) -> Routed {
    let body = call.body();
    let wanted: &str = body.deserialize().map_err(invalid_args)?;
    let standard = [PEER, INTROSPECTABLE, PROPERTIES, OBJECT_MANAGER].contains(&wanted);
    let mut known = wanted.is_empty() || standard;
    let mut values = BTreeMap::new();
    for interface in object.interfaces() {
        if wanted.is_empty() || interface.name == wanted {
            known = true;
            values.extend(object.values(interface));
        }
    }
    if !known {
        return Err(refusal!("UnknownInterface", "Unknown interface '{wanted}'."));
    }
    Ok(reply(header, &values))
}

/// The objects below a manager; the standard interfaces are left out.
fn managed(tree: &Tree, manager: &str, header: &Header<'_>) -> zbus::Result<Answer> {
    let mut objects = BTreeMap::new();
    for object in tree.objects().filter(|object| below(manager, object.path()).is_some()) {
        let interfaces: BTreeMap<_, _> =
            object.interfaces().iter().map(|interface| (interface.name, object.values(interface))).collect();
        objects.insert(ObjectPath::try_from(object.path())?, interfaces);
    }
    reply(header, &objects)
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
                name: "InterfacesAdded",
                args: &[("object_path", "o"), ("interfaces_and_properties", "a{sa{sv}}")],
            },
            Signal { name: "InterfacesRemoved", args: &[("object_path", "o"), ("interfaces", "as")] },
        ],
    },
];

/// The XML of a node. The mapper walks down from `/`, so that every level must name its children
/// (contract 1.6).
fn introspect(tree: &Tree, path: &str) -> Result<String, Refusal> {
    let children: BTreeSet<&str> = tree
        .paths()
        .filter_map(|known| below(path, known))
        .filter_map(|rest| rest.split('/').next())
        .collect();
    let object = tree.object(path);
    let manager = tree.managers().any(|manager| manager == path);
    // The root is always there: where nothing is known yet, it is empty.
    if object.is_none() && !manager && children.is_empty() && path != "/" {
        return Err(refusal!("UnknownObject", "Unknown object '{path}'."));
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
