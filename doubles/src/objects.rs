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
    time::{SystemTime, UNIX_EPOCH},
};

use futures_core::Stream;
use tokio::{sync::mpsc, task::JoinSet};
use zbus::{
    Connection, Message, MessageStream, ObjectPath, OwnedVariant, Variant,
    connection::Builder,
    message::{Header, Type},
    names::InterfaceName,
};

use crate::{Result, lock};

const PEER: &str = "org.freedesktop.DBus.Peer";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
/// The standard interface for properties.
pub const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// The standard interface for objects that come and go.
pub const OBJECT_MANAGER: &str = "org.freedesktop.DBus.ObjectManager";
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
    /// Of which object.
    pub path: String,
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
    /// The property beside it that is set to the wall clock time, in microseconds, before each write of this one.
    stamp: Option<String>,
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
        let property = Property { value: value.into().try_into_owned()?, writable, stamp: None };
        let mut tree = lock(&self.tree);
        tree.entry(path.into())
            .or_default()
            .entry(interface.into())
            .or_default()
            .insert(name.into(), property);
        Ok(())
    }

    /// From now on the service stamps this property: `stamp` beside it gets the wall clock time of each write.
    pub fn stamps(&self, path: &str, interface: &str, name: &str, stamp: &str) {
        let mut tree = lock(&self.tree);
        if let Some(property) =
            tree.get_mut(path).and_then(|o| o.get_mut(interface)).and_then(|i| i.get_mut(name))
        {
            property.stamp = Some(stamp.to_owned());
        }
    }

    /// Removes an object, and says so as the object manager at `manager`.
    pub async fn remove(&self, manager: &str, path: &str) -> zbus::Result<()> {
        let Some(object) = lock(&self.tree).remove(path) else { return Ok(()) };
        let interfaces: Vec<String> = object.into_keys().collect();
        let body = (ObjectPath::try_from(path)?, interfaces);
        self.connection.emit_signal(None::<&str>, manager, OBJECT_MANAGER, "InterfacesRemoved", &body).await
    }

    /// Says that this object is there, as the object manager at `manager`.
    pub async fn announce(&self, manager: &str, path: &str) -> zbus::Result<()> {
        let interfaces: BTreeMap<String, BTreeMap<String, OwnedVariant>> = lock(&self.tree)
            .get(path)
            .into_iter()
            .flatten()
            .map(|(interface, properties)| {
                let values = properties.iter().map(|(name, of)| (name.clone(), of.value.clone()));
                (interface.clone(), values.collect())
            })
            .collect();
        let body = (ObjectPath::try_from(path)?, interfaces);
        self.connection.emit_signal(None::<&str>, manager, OBJECT_MANAGER, "InterfacesAdded", &body).await
    }

    /// Changes a property that exists, and tells nobody: where a getter of the service computes it.
    pub fn set_silently(
        &self,
        path: &str,
        interface: &str,
        name: &str,
        value: impl Into<Variant<'static>>,
    ) -> Result<()> {
        self.store(path, interface, name, &value.into().try_into_owned()?);
        Ok(())
    }

    /// The value of a property.
    #[must_use]
    pub fn value(&self, path: &str, interface: &str, name: &str) -> Option<OwnedVariant> {
        Some(lock(&self.tree).get(path)?.get(interface)?.get(name)?.value.clone())
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
        let value = self.value(path, interface, name)?;
        value.downcast_ref::<&str>().ok().map(ToOwned::to_owned)
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

    /// Answers one call.
    pub(crate) async fn answer(&self, call: &Message, methods: &impl Methods) -> zbus::Result<()> {
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
        let mut stamp = None;
        let refusal = {
            let tree = lock(&self.tree);
            match tree.get(path).and_then(|o| o.get(interface)).and_then(|i| i.get(name)) {
                None => Some("org.freedesktop.DBus.Error.UnknownProperty"),
                Some(Property { writable: false, .. }) => Some("org.freedesktop.DBus.Error.PropertyReadOnly"),
                Some(property) if property.value.value_signature() != value.value_signature() => {
                    Some(INVALID_ARGS)
                }
                Some(property) => {
                    stamp.clone_from(&property.stamp);
                    None
                }
            }
        };
        if let Some(refusal) = refusal {
            return self.error(header, refusal).await;
        }
        if let Some(stamp) = stamp {
            self.set(path, interface, &stamp, now_us()).await?;
        }
        if self.store(path, interface, name, &value) {
            self.changed(path, interface, name, &value).await?;
        }
        if let Some(writes) = &self.writes {
            let path = path.to_owned();
            let value = value.downcast_ref::<&str>().map_or_else(|_| value.to_string(), ToOwned::to_owned);
            // Nobody listens while the board follows its own plan.
            drop(writes.send(Written { path, property: name.to_owned(), value }));
        }
        self.connection.reply(header, &()).await
    }

    fn introspect(&self, path: &str) -> String {
        let tree = lock(&self.tree);
        let mut xml = vec!["<node>".to_owned()];
        for (interface, properties) in tree.get(path).into_iter().flatten() {
            xml.push(format!("  <interface name=\"{interface}\">"));
            xml.extend(properties.iter().map(|(name, Property { value, writable, .. })| {
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

/// Wall clock time, in microseconds since 1970.
#[must_use]
pub fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
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
