// SPDX-License-Identifier: Apache-2.0
//! A signal that others send, decoded once for all who follow something.
//!
//! Owns: the forms of the signals that peers understand. Must never: decide whose word counts; who acts on a signal looks at its
//! sender. A body of another form than its signal has says nothing, and neither does a signal that is not listed here.

use std::collections::BTreeMap;

use zbus::{
    Message, ObjectPath, Variant,
    message::{Body, Header},
};

use crate::adapters::dbus::names::{BUS, INTROSPECTED, MAPPER_PRIVATE, OBJECT_MANAGER, PROPERTIES};

/// A signal: who sent it, from where, and what it says.
#[derive(Debug)]
pub(crate) struct Signal<'a> {
    /// The unique name of its sender, as the bus says; the bus itself has its well-known one. Empty if there is none.
    pub(crate) sender: &'a str,
    /// The object that it is sent from.
    pub(crate) path: &'a str,
    /// The content.
    pub(crate) news: News<'a>,
}

/// The content of a signal.
#[derive(Debug)]
pub(crate) enum News<'a> {
    /// `NameOwnerChanged` of the bus itself: the name belongs to this connection now; empty if to none.
    Owner { name: &'a str, owner: &'a str },
    /// `PropertiesChanged`.
    Changed { interface: &'a str, values: BTreeMap<&'a str, Variant<'a>>, invalidated: Vec<&'a str> },
    /// `InterfacesAdded`.
    Added { path: ObjectPath<'a>, interfaces: Vec<&'a str> },
    /// `InterfacesRemoved`.
    Removed { path: ObjectPath<'a>, interfaces: Vec<&'a str> },
    /// The mapper's `IntrospectionComplete`: it knows by now what this service has.
    Introspected { service: &'a str },
    /// systemd's `JobRemoved`.
    JobRemoved { job: ObjectPath<'a>, unit: &'a str, result: &'a str },
    /// Nothing that is understood.
    Nothing,
}

impl Signal<'_> {
    /// Reads a signal, and gives it to `to`.
    pub(crate) fn read<T>(message: &Message, to: impl FnOnce(&Signal<'_>) -> T) -> T {
        let (header, body) = (message.header(), message.body());
        let sender = header.sender().map_or("", |sender| sender.as_str());
        let path = header.path().map_or("", |path| path.as_str());
        to(&Signal { sender, path, news: news(sender, &header, &body).unwrap_or(News::Nothing) })
    }
}

fn news<'a>(sender: &str, header: &'a Header<'_>, body: &'a Body) -> Option<News<'a>> {
    Some(match (header.interface()?.as_str(), header.member()?.as_str()) {
        (BUS, "NameOwnerChanged") if sender == BUS => {
            let (name, _, owner): (&str, &str, &str) = body.deserialize().ok()?;
            News::Owner { name, owner }
        }
        (PROPERTIES, "PropertiesChanged") => {
            let (interface, values, invalidated) = body.deserialize().ok()?;
            News::Changed { interface, values, invalidated }
        }
        (OBJECT_MANAGER, "InterfacesAdded") => {
            type Added<'a> = (ObjectPath<'a>, BTreeMap<&'a str, BTreeMap<&'a str, Variant<'a>>>);
            let (path, interfaces): Added<'_> = body.deserialize().ok()?;
            News::Added { path, interfaces: interfaces.into_keys().collect() }
        }
        (OBJECT_MANAGER, "InterfacesRemoved") => {
            let (path, interfaces) = body.deserialize().ok()?;
            News::Removed { path, interfaces }
        }
        (MAPPER_PRIVATE, INTROSPECTED) => News::Introspected { service: body.deserialize().ok()? },
        ("org.freedesktop.systemd1.Manager", "JobRemoved") => {
            let (_, job, unit, result): (u32, ObjectPath<'_>, &str, &str) = body.deserialize().ok()?;
            News::JobRemoved { job, unit, result }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(message: &Message) -> String {
        Signal::read(message, |signal| format!("{} {:?}", signal.sender, signal.news))
    }

    #[test]
    fn only_the_bus_says_whose_a_name_is() {
        let from = |sender: &'static str| {
            let signal = Message::signal("/org/freedesktop/DBus", BUS, "NameOwnerChanged").sender(sender);
            shown(&signal.build(&("a.b", "", ":1.5")).unwrap())
        };
        assert_eq!(from(BUS), format!("{BUS} Owner {{ name: \"a.b\", owner: \":1.5\" }}"));
        assert_eq!(from(":1.66"), ":1.66 Nothing");
    }

    #[test]
    fn a_body_of_another_form_says_nothing() {
        let signal = |interface: &'static str, member: &'static str| {
            Message::signal("/a", interface, member).build(&(7_u32, "x")).unwrap()
        };
        for (interface, member) in [
            (PROPERTIES, "PropertiesChanged"),
            (OBJECT_MANAGER, "InterfacesAdded"),
            (OBJECT_MANAGER, "InterfacesRemoved"),
            (MAPPER_PRIVATE, INTROSPECTED),
            ("org.freedesktop.systemd1.Manager", "JobRemoved"),
            ("a.b", "PropertiesChanged"),
        ] {
            assert_eq!(shown(&signal(interface, member)), " Nothing", "{member}");
        }
    }
}
