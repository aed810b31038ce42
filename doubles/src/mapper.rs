// SPDX-License-Identifier: Apache-2.0
//! A double of phosphor-objmgr's mapper: who serves which interface on which object.
//!
//! It introspects each well-known name from "/" down when the name gets an owner, and forgets it when
//! the owner is gone (openbmc 1.6). Unique names and `org.freedesktop` names are left out. Objects
//! that come or go later are followed by `InterfacesAdded` and `InterfacesRemoved`, in the order in which these and the
//! questions arrive.
//!
//! That is [`start`]. A test that says itself what the mapper knows, and when, has a [`Peer`](crate::peer::Peer) answer from it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::{sync::mpsc, task::JoinSet};
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant, message::Type, names::MemberName};

use crate::{
    lock,
    objects::{INVALID_ARGS, Methods, NOT_FOUND, OBJECT_MANAGER, Objects, connect, next},
};

/// The mapper's bus name.
pub const NAME: &str = "xyz.openbmc_project.ObjectMapper";
/// Its object.
pub const PATH: &str = "/xyz/openbmc_project/object_mapper";
/// Its interface.
pub const INTERFACE: &str = "xyz.openbmc_project.ObjectMapper";
const DBUS: &str = "org.freedesktop.DBus";

/// Interfaces by service, as `GetObject` gives them.
pub type Services = BTreeMap<String, Vec<String>>;
/// Services by path, as `GetSubTree` gives them. Both in byte order, as sdbusplus's maps are.
pub type SubTree = BTreeMap<String, Services>;

#[derive(Clone, Default)]
struct Mapper {
    objects: Arc<Mutex<SubTree>>,
    /// The unique name of each well-known one.
    owners: Arc<Mutex<BTreeMap<String, String>>>,
}

/// Starts the mapper on the bus at `address`.
pub async fn start(address: &str, tasks: &mut JoinSet<()>) -> zbus::Result<()> {
    let connection = connect(address).await?;
    // One stream for all, so that nothing overtakes anything.
    let mut messages = MessageStream::from(&connection);
    for rule in [
        format!("type='signal',sender='{DBUS}',interface='{DBUS}',member='NameOwnerChanged'"),
        format!("type='signal',interface='{OBJECT_MANAGER}'"),
    ] {
        connection.call_method(Some(DBUS), "/org/freedesktop/DBus", Some(DBUS), "AddMatch", &rule).await?;
    }
    let mapper = Mapper::default();
    let objects = Objects::new(connection.clone(), None);
    objects.add_interface(PATH, INTERFACE);
    let (to_do, mut names) = mpsc::unbounded_channel::<String>();
    let listener = mapper.clone();
    tasks.spawn(async move {
        while let Some(message) = next(&mut messages).await {
            if message.message_type() == Type::MethodCall {
                if objects.answer(&message, &listener).await.is_err() {
                    // The connection has ended.
                    return;
                }
            } else if let Some(name) = listener.signal(&message) {
                // The introspecting task lives as long as this one.
                drop(to_do.send(name));
            }
        }
    });
    connection.request_name(NAME).await?;
    tasks.spawn(async move {
        let bus = connection.call_method(Some(DBUS), "/org/freedesktop/DBus", Some(DBUS), "ListNames", &());
        let present = bus.await.and_then(|reply| reply.body().deserialize::<Vec<String>>());
        for name in present.unwrap_or_default().into_iter().filter(|name| is_followed(name)) {
            let bus = connection.call_method(
                Some(DBUS),
                "/org/freedesktop/DBus",
                Some(DBUS),
                "GetNameOwner",
                &name,
            );
            let owner = bus.await.and_then(|reply| reply.body().deserialize::<String>());
            if let Some(name) = mapper.owned(&name, &owner.unwrap_or_default()) {
                mapper.look_at(&connection, &name).await;
            }
        }
        while let Some(name) = names.recv().await {
            mapper.look_at(&connection, &name).await;
        }
    });
    Ok(())
}

fn is_followed(name: &str) -> bool {
    !name.starts_with(':') && !name.starts_with("org.freedesktop")
}

impl Mapper {
    /// Takes in a signal; a name that has a new owner is to be introspected. What it announces meanwhile counts already, and
    /// what a name had is forgotten at once with its owner (phosphor-objmgr:src/main.cpp, `nameChangeHandler`).
    fn signal(&self, signal: &Message) -> Option<String> {
        let header = signal.header();
        let body = signal.body();
        match header.member()?.as_str() {
            "NameOwnerChanged" => {
                let (name, _, new) = body.deserialize::<(&str, &str, &str)>().ok()?;
                self.owned(is_followed(name).then_some(name)?, new)
            }
            "InterfacesAdded" => {
                type Added<'a> = (ObjectPath<'a>, BTreeMap<&'a str, BTreeMap<&'a str, Variant<'a>>>);
                let (path, interfaces) = body.deserialize::<Added<'_>>().ok()?;
                let names: Vec<String> = interfaces.into_keys().map(ToOwned::to_owned).collect();
                self.each_name(header.sender()?.as_str(), |name, objects| {
                    let known = objects.entry(path.as_str().to_owned()).or_default();
                    let known = known.entry(name.to_owned()).or_default();
                    for interface in &names {
                        if !known.contains(interface) {
                            known.push(interface.clone());
                        }
                    }
                });
                None
            }
            "InterfacesRemoved" => {
                let (path, gone) = body.deserialize::<(ObjectPath<'_>, Vec<&str>)>().ok()?;
                self.each_name(header.sender()?.as_str(), |name, objects| {
                    let Some(services) = objects.get_mut(path.as_str()) else { return };
                    if let Some(known) = services.get_mut(name) {
                        known.retain(|interface| !gone.contains(&interface.as_str()));
                        if known.is_empty() {
                            services.remove(name);
                        }
                    }
                    if services.is_empty() {
                        objects.remove(path.as_str());
                    }
                });
                None
            }
            _ => None,
        }
    }

    /// For each well-known name of this connection.
    fn each_name(&self, unique: &str, mut act: impl FnMut(&str, &mut SubTree)) {
        let owners = lock(&self.owners);
        let mut objects = lock(&self.objects);
        for (name, _) in owners.iter().filter(|(_, owner)| *owner == unique) {
            act(name, &mut objects);
        }
    }

    /// This name is owned by that connection now, or by none; the name, if it is to be introspected.
    fn owned(&self, name: &str, owner: &str) -> Option<String> {
        lock(&self.objects).retain(|_, services| {
            services.remove(name);
            !services.is_empty()
        });
        let mut owners = lock(&self.owners);
        if owner.is_empty() {
            owners.remove(name);
            return None;
        }
        owners.insert(name.to_owned(), owner.to_owned());
        Some(name.to_owned())
    }

    async fn look_at(&self, connection: &Connection, name: &str) {
        self.introspect(connection, name).await;
        // Only a connection that has ended cannot say it.
        drop(introspected(connection, name).await);
    }

    async fn introspect(&self, connection: &Connection, name: &str) {
        let mut todo = vec!["/".to_owned()];
        while let Some(path) = todo.pop() {
            let reply = connection
                .call_method(
                    Some(name),
                    path.as_str(),
                    Some("org.freedesktop.DBus.Introspectable"),
                    "Introspect",
                    &(),
                )
                .await;
            // A service that goes away meanwhile is told by the next NameOwnerChanged.
            let Ok(reply) = reply else { return };
            let body = reply.body();
            let Ok(xml) = body.deserialize::<&str>() else { return };
            let interfaces: Vec<String> = elements(xml, "<interface name=\"")
                .filter(|interface| !interface.starts_with("org.freedesktop.DBus."))
                .map(ToOwned::to_owned)
                .collect();
            todo.extend(
                elements(xml, "<node name=\"").map(|child| format!("{}/{child}", path.trim_end_matches('/'))),
            );
            if !interfaces.is_empty() {
                lock(&self.objects).entry(path).or_default().insert(name.to_owned(), interfaces);
            }
        }
    }
}

impl Methods for Mapper {
    async fn call(&self, connection: &Connection, call: &Message) -> zbus::Result<bool> {
        let answer = answer(&lock(&self.objects), call);
        send(connection, call, answer).await
    }
}

/// Says, as the mapper, that it has looked at this name.
pub(crate) async fn introspected(connection: &Connection, name: &str) -> zbus::Result<()> {
    let private = format!("{INTERFACE}.Private");
    connection.emit_signal(None::<&str>, PATH, private, "IntrospectionComplete", &name).await
}

/// What the mapper answers.
#[derive(Debug)]
pub(crate) enum Answer {
    Objects(SubTree),
    Services(Services),
    Error(&'static str),
}

/// What a mapper that knows `objects` answers to this call; `None` if it has no such method.
pub(crate) fn answer(objects: &SubTree, call: &Message) -> Option<Answer> {
    let body = call.body();
    match call.header().member().map(MemberName::as_str)? {
        "GetSubTree" => {
            let Ok((root, depth, wanted)) = body.deserialize::<(&str, i32, Vec<&str>)>() else {
                return Some(Answer::Error(INVALID_ARGS));
            };
            let depth = usize::try_from(depth).unwrap_or(0);
            // As src/handler.cpp: below a root that is not known there is not nothing, but an error.
            let known = root == "/" || objects.keys().any(|path| path == root || below(root, path).is_some());
            let found = known.then(|| sub_tree(objects, root, depth, &wanted));
            Some(found.map_or(Answer::Error(NOT_FOUND), Answer::Objects))
        }
        "GetObject" => {
            let Ok((path, wanted)) = body.deserialize::<(&str, Vec<&str>)>() else {
                return Some(Answer::Error(INVALID_ARGS));
            };
            let found = objects.get(path).map(|services| filter(services, &wanted));
            let found = found.filter(|services| !services.is_empty());
            Some(found.map_or(Answer::Error(NOT_FOUND), Answer::Services))
        }
        _ => None,
    }
}

/// Sends it; false if there is nothing to send.
pub(crate) async fn send(
    connection: &Connection,
    call: &Message,
    answer: Option<Answer>,
) -> zbus::Result<bool> {
    let header = call.header();
    match answer {
        None => return Ok(false),
        Some(Answer::Objects(objects)) => connection.reply(&header, &objects).await?,
        Some(Answer::Services(services)) => connection.reply(&header, &services).await?,
        Some(Answer::Error(name)) => connection.reply_error(&header, name, &"").await?,
    }
    Ok(true)
}

/// The rest of `path` below `root`: "/c" of "/a/b/c" below "/a/b". The root itself is not below itself.
fn below<'p>(root: &str, path: &'p str) -> Option<&'p str> {
    path.strip_prefix(root.trim_end_matches('/')).filter(|rest| rest.len() > 1 && rest.starts_with('/'))
}

/// The objects below `root`, at most `depth` levels below if that is not 0, with those of `wanted` interfaces that they have; with any
/// if none is wanted.
fn sub_tree(objects: &SubTree, root: &str, depth: usize, wanted: &[&str]) -> SubTree {
    let levels = |path: &str| below(root, path).map(|rest| rest.matches('/').count());
    let within = objects.iter().filter(|(path, _)| levels(path).is_some_and(|n| depth == 0 || n <= depth));
    let found = within.map(|(path, services)| (path.clone(), filter(services, wanted)));
    found.filter(|(_, services)| !services.is_empty()).collect()
}

fn filter(services: &Services, wanted: &[&str]) -> Services {
    services
        .iter()
        .filter(|(_, has)| wanted.is_empty() || has.iter().any(|i| wanted.contains(&i.as_str())))
        .map(|(service, has)| (service.clone(), has.clone()))
        .collect()
}

/// The names in introspection data that follow `start`. Introspection is machine written: every
/// service here and sd-bus put the name first.
fn elements<'a>(xml: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    xml.match_indices(start)
        .filter_map(move |(at, _)| xml.get(at + start.len()..)?.split('"').next())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_introspection_data() {
        let xml = "<node name=\"\"><interface name=\"a.b\"><property name=\"x\"/></interface>\n<node name=\"c\"/></node>";
        assert_eq!(elements(xml, "<interface name=\"").collect::<Vec<_>>(), ["a.b"]);
        assert_eq!(elements(xml, "<node name=\"").collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_sub_tree_is_limited_by_root_depth_and_interface() {
        let objects = [("/a", "i.A"), ("/a/b", "i.B"), ("/a/b/c", "i.B"), ("/ab", "i.B")];
        let objects = SubTree::from(objects.map(|(path, interface)| {
            (path.to_owned(), Services::from([("s".to_owned(), vec![interface.to_owned()])]))
        }));
        let paths = |root, depth, wanted: &[&str]| {
            sub_tree(&objects, root, depth, wanted).into_keys().collect::<Vec<_>>()
        };
        assert_eq!(paths("/", 0, &[]), ["/a", "/a/b", "/a/b/c", "/ab"]);
        assert_eq!(paths("/", 1, &[]), ["/a", "/ab"]);
        assert_eq!(paths("/a", 0, &["i.B"]), ["/a/b", "/a/b/c"]);
        assert_eq!(paths("/a/b", 0, &["i.B"]), ["/a/b/c"]);
    }
}
