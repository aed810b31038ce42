// SPDX-License-Identifier: Apache-2.0
//! Objects with properties on a D-Bus connection, as sdbusplus services show them: the common part of
//! the doubles.
//!
//! Messages are served by hand and not by zbus's object server: the demo then runs the zbus build
//! that is shipped with the daemon, and the order of signals is exactly the order of the calls here.

use std::{
    collections::{BTreeMap, HashMap},
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures_core::Stream;
use tokio::{sync::mpsc, task::JoinSet};
use zbus::{
    Connection, Message, MessageStream, OwnedVariant, Variant,
    connection::Builder,
    message::{Header, Type},
    names::InterfaceName,
};

use crate::{Result, lock};

const PEER: &str = "org.freedesktop.DBus.Peer";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
/// The standard interface for properties.
pub const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// The error of sd-bus for arguments of a wrong type.
pub const INVALID_ARGS: &str = "org.freedesktop.DBus.Error.InvalidArgs";

/// A connection of its own to the bus at `address`.
pub async fn connect(address: &str) -> Result<Connection> {
    Ok(Builder::address(address).build().await?)
}

/// The next message, or `None` when the connection has ended.
pub async fn next(stream: &mut MessageStream) -> Option<Message> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await?.ok()
}

/// Answers the calls that are not to one of the standard interfaces.
pub trait Methods: Send + Sync + 'static {
    /// Answers `call`, or returns false if there is no such method.
    fn call(
        &self,
        connection: &Connection,
        call: &Message,
    ) -> impl Future<Output = zbus::Result<bool>> + Send;
}

/// A service without methods of its own.
#[derive(Clone, Copy, Debug)]
pub struct NoMethods;

impl Methods for NoMethods {
    async fn call(&self, _: &Connection, _: &Message) -> zbus::Result<bool> {
        Ok(false)
    }
}

/// A client wrote a property.
#[derive(Clone, Debug)]
pub struct Written {
    /// Which one.
    pub property: String,
    /// The new value, as text.
    pub value: String,
}

/// The objects of one connection.
#[derive(Clone, Debug)]
pub struct Objects {
    connection: Connection,
    tree: Arc<Mutex<Tree>>,
    writes: Option<mpsc::UnboundedSender<Written>>,
}

type Tree = BTreeMap<String, BTreeMap<String, BTreeMap<String, Property>>>;

#[derive(Debug)]
struct Property {
    value: OwnedVariant,
    writable: bool,
}

impl Objects {
    /// No objects yet on this connection. Clients' writes are told to `writes`.
    #[must_use]
    pub fn new(connection: Connection, writes: Option<mpsc::UnboundedSender<Written>>) -> Self {
        Self { connection, tree: Arc::default(), writes }
    }

    /// The connection they are on.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Adds an interface without properties.
    pub fn add_interface(&self, path: &str, interface: &str) {
        lock(&self.tree).entry(path.into()).or_default().entry(interface.into()).or_default();
    }

    /// Adds a property, and its object and interface where they are new.
    pub fn add(
        &self,
        path: &str,
        interface: &str,
        name: &str,
        value: impl Into<Variant<'static>>,
        writable: bool,
    ) -> Result<()> {
        let property = Property { value: value.into().try_into_owned()?, writable };
        let mut tree = lock(&self.tree);
        tree.entry(path.into())
            .or_default()
            .entry(interface.into())
            .or_default()
            .insert(name.into(), property);
        Ok(())
    }

    /// Changes a property that exists, and signals it if the value is another, as sdbusplus does.
    pub async fn set(
        &self,
        path: &str,
        interface: &str,
        name: &str,
        value: impl Into<Variant<'static>>,
    ) -> zbus::Result<()> {
        let value = value.into().try_into_owned()?;
        if self.store(path, interface, name, &value) {
            self.changed(path, interface, name, &value).await?;
        }
        Ok(())
    }

    /// The value of a string property.
    #[must_use]
    pub fn string(&self, path: &str, interface: &str, name: &str) -> Option<String> {
        let tree = lock(&self.tree);
        let property = tree.get(path)?.get(interface)?.get(name)?;
        property.value.downcast_ref::<&str>().ok().map(ToOwned::to_owned)
    }

    /// Answers calls until the task is aborted.
    pub fn serve(&self, methods: impl Methods, tasks: &mut JoinSet<()>) {
        let objects = self.clone();
        // Before anybody can call.
        let mut stream = MessageStream::from(&self.connection);
        tasks.spawn(async move {
            while let Some(message) = next(&mut stream).await {
                if message.message_type() == Type::MethodCall
                    && objects.answer(&message, &methods).await.is_err()
                {
                    // The connection has ended.
                    return;
                }
            }
        });
    }

    /// True if the property exists and had another value.
    fn store(&self, path: &str, interface: &str, name: &str, value: &OwnedVariant) -> bool {
        let mut tree = lock(&self.tree);
        let Some(property) =
            tree.get_mut(path).and_then(|o| o.get_mut(interface)).and_then(|i| i.get_mut(name))
        else {
            return false;
        };
        let changed = property.value != *value;
        property.value = value.clone();
        changed
    }

    async fn changed(
        &self,
        path: &str,
        interface: &str,
        name: &str,
        value: &OwnedVariant,
    ) -> zbus::Result<()> {
        let body = (interface, HashMap::from([(name, value)]), &[] as &[&str]);
        self.connection.emit_signal(None::<&str>, path, PROPERTIES, "PropertiesChanged", &body).await
    }

    async fn answer(&self, call: &Message, methods: &impl Methods) -> zbus::Result<()> {
        let header = call.header();
        let path = header.path().map_or("", |p| p.as_str());
        let member = header.member().map_or("", |m| m.as_str());
        match (header.interface().map(InterfaceName::as_str), member) {
            (Some(PEER), "Ping") => self.connection.reply(&header, &()).await,
            (Some(INTROSPECTABLE), "Introspect") => {
                self.connection.reply(&header, &self.introspect(path)).await
            }
            (Some(PROPERTIES), "Get") => self.get(&header, call, path).await,
            (Some(PROPERTIES), "GetAll") => self.get_all(&header, call, path).await,
            (Some(PROPERTIES), "Set") => self.client_sets(&header, call, path).await,
            _ if methods.call(&self.connection, call).await? => Ok(()),
            _ => self.error(&header, "org.freedesktop.DBus.Error.UnknownMethod").await,
        }
    }

    async fn error(&self, call: &Header<'_>, name: &str) -> zbus::Result<()> {
        self.connection.reply_error(call, name, &"").await
    }

    async fn get(&self, header: &Header<'_>, call: &Message, path: &str) -> zbus::Result<()> {
        let body = call.body();
        let Ok((interface, name)) = body.deserialize::<(&str, &str)>() else {
            return self.error(header, INVALID_ARGS).await;
        };
        let value = lock(&self.tree)
            .get(path)
            .and_then(|o| o.get(interface))
            .and_then(|i| i.get(name))
            .map(|property| property.value.clone());
        match value {
            Some(value) => self.connection.reply(header, &value).await,
            None => self.error(header, "org.freedesktop.DBus.Error.UnknownProperty").await,
        }
    }

    async fn get_all(&self, header: &Header<'_>, call: &Message, path: &str) -> zbus::Result<()> {
        let body = call.body();
        let Ok(interface) = body.deserialize::<&str>() else {
            return self.error(header, INVALID_ARGS).await;
        };
        // sd-bus: the properties of all interfaces for an empty name.
        let all: HashMap<String, OwnedVariant> = lock(&self.tree)
            .get(path)
            .into_iter()
            .flatten()
            .filter(|(name, _)| interface.is_empty() || *name == interface)
            .flat_map(|(_, properties)| properties)
            .map(|(name, property)| (name.clone(), property.value.clone()))
            .collect();
        self.connection.reply(header, &all).await
    }

    async fn client_sets(&self, header: &Header<'_>, call: &Message, path: &str) -> zbus::Result<()> {
        let body = call.body();
        let Ok((interface, name, value)) = body.deserialize::<(&str, &str, OwnedVariant)>() else {
            return self.error(header, INVALID_ARGS).await;
        };
        let refusal = {
            let tree = lock(&self.tree);
            match tree.get(path).and_then(|o| o.get(interface)).and_then(|i| i.get(name)) {
                None => Some("org.freedesktop.DBus.Error.UnknownProperty"),
                Some(Property { writable: false, .. }) => Some("org.freedesktop.DBus.Error.PropertyReadOnly"),
                Some(property) if property.value.value_signature() != value.value_signature() => {
                    Some(INVALID_ARGS)
                }
                Some(_) => None,
            }
        };
        if let Some(refusal) = refusal {
            return self.error(header, refusal).await;
        }
        if self.store(path, interface, name, &value) {
            self.changed(path, interface, name, &value).await?;
        }
        if let Some(writes) = &self.writes {
            let value = value.downcast_ref::<&str>().map_or_else(|_| value.to_string(), ToOwned::to_owned);
            // Nobody listens while the board follows its own plan.
            drop(writes.send(Written { property: name.to_owned(), value }));
        }
        self.connection.reply(header, &()).await
    }

    fn introspect(&self, path: &str) -> String {
        let tree = lock(&self.tree);
        let mut xml = vec!["<node>".to_owned()];
        for (interface, properties) in tree.get(path).into_iter().flatten() {
            xml.push(format!("  <interface name=\"{interface}\">"));
            xml.extend(properties.iter().map(|(name, Property { value, writable })| {
                let access = if *writable { "readwrite" } else { "read" };
                let signature = value.value_signature();
                format!("    <property name=\"{name}\" type=\"{signature}\" access=\"{access}\"/>")
            }));
            xml.push("  </interface>".to_owned());
        }
        let children = children(tree.keys().map(String::as_str), path);
        xml.extend(children.iter().map(|child| format!("  <node name=\"{child}\"/>")));
        xml.push("</node>".to_owned());
        xml.join("\n")
    }
}

/// The names of the nodes directly below `path`, each once, in the order of `paths`.
fn children<'a>(paths: impl Iterator<Item = &'a str>, path: &str) -> Vec<&'a str> {
    let mut children: Vec<&str> = paths
        .filter_map(|p| p.strip_prefix(path.trim_end_matches('/'))?.strip_prefix('/'))
        .filter_map(|rest| rest.split('/').next())
        .filter(|child| !child.is_empty())
        .collect();
    children.dedup();
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_the_nodes_directly_below() {
        let paths = ["/a/b", "/a/b/c", "/a/d", "/ab/e"];
        let below = |path| children(paths.into_iter(), path);
        assert_eq!(below("/"), ["a", "ab"]);
        assert_eq!(below("/a"), ["b", "d"]);
        assert_eq!(below("/a/b"), ["c"]);
        assert!(below("/a/b/c").is_empty());
    }
}
