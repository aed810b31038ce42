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
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use zbus::{
    Connection, Message, MessageStream, ObjectPath, OwnedVariant, Variant,
    connection::Builder,
    fdo::RequestNameFlags,
    message::{Header, Type},
    names::InterfaceName,
};

use crate::lock;

const PEER: &str = "org.freedesktop.DBus.Peer";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
/// The standard interface for properties.
pub const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// The standard interface for objects that come and go.
pub const OBJECT_MANAGER: &str = "org.freedesktop.DBus.ObjectManager";
/// The error of sd-bus for arguments of a wrong type.
pub const INVALID_ARGS: &str = "org.freedesktop.DBus.Error.InvalidArgs";
/// OpenBMC's error for what is not there.
pub const NOT_FOUND: &str = "xyz.openbmc_project.Common.Error.ResourceNotFound";

const UNKNOWN_OBJECT: &str = "org.freedesktop.DBus.Error.UnknownObject";
const UNKNOWN_INTERFACE: &str = "org.freedesktop.DBus.Error.UnknownInterface";
const UNKNOWN_PROPERTY: &str = "org.freedesktop.DBus.Error.UnknownProperty";

/// A connection of its own to the bus at `address`.
pub async fn connect(address: &str) -> zbus::Result<Connection> {
    Builder::address(address).build().await
}

/// The next message, or `None` when the connection has ended.
pub async fn next(stream: &mut MessageStream) -> Option<Message> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await?.ok()
}

/// How a service answers calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Manners {
    /// As it should.
    #[default]
    Good,
    /// Sets succeed and change nothing.
    Stubborn,
    /// Every call is an error.
    Errors,
    /// No call is ever answered.
    Silent,
}

/// What a service has beside the standard interfaces.
pub trait Methods: Send + Sync + 'static {
    /// Hears of each call before it is answered, and says how it is to be.
    fn manners(&self, _call: &Message) -> Manners {
        Manners::Good
    }

    /// Answers `call`, which is not to one of the standard interfaces, or returns false if there is no such method.
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

    /// Takes a name that nobody has.
    pub async fn own(&self, name: &str) -> zbus::Result<()> {
        let flags = RequestNameFlags::DO_NOT_QUEUE;
        self.connection.request_name_with_flags(name, flags).await.map(drop)
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
    ) -> zbus::Result<()> {
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

    /// Gives a property a value, be it new or not, and signals it in any case, as a service does that compares nothing.
    pub async fn say(
        &self,
        path: &str,
        interface: &str,
        name: &str,
        value: impl Into<Variant<'static>>,
        writable: bool,
    ) -> zbus::Result<()> {
        let value = value.into().try_into_owned()?;
        self.add(path, interface, name, value.clone(), writable)?;
        self.changed(path, interface, name, &value).await
    }

    /// Removes a property, and its interface and object if they have no other, and says that it has no value any more.
    pub async fn invalidate(&self, path: &str, interface: &str, name: &str) -> zbus::Result<()> {
        self.forget(path, interface, name);
        let none: HashMap<&str, &OwnedVariant> = HashMap::new();
        let body = (interface, none, vec![name]);
        self.connection.emit_signal(None::<&str>, path, PROPERTIES, "PropertiesChanged", &body).await
    }

    fn forget(&self, path: &str, interface: &str, name: &str) {
        let mut tree = lock(&self.tree);
        let Some(object) = tree.get_mut(path) else { return };
        if let Some(properties) = object.get_mut(interface) {
            properties.remove(name);
        }
        object.retain(|has, properties| has != interface || !properties.is_empty());
        if object.is_empty() {
            tree.remove(path);
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

    /// Says, as the object manager at `manager`, that an object is there with these interfaces, whether that is so or not.
    pub async fn claim(&self, manager: &str, path: &str, interfaces: &[&str]) -> zbus::Result<()> {
        let interfaces: BTreeMap<&str, BTreeMap<&str, &OwnedVariant>> =
            interfaces.iter().map(|interface| (*interface, BTreeMap::new())).collect();
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
    ) -> zbus::Result<()> {
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
    pub fn serve(&self, methods: impl Methods, tasks: &mut JoinSet<()>) -> AbortHandle {
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
        })
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
        let manners = methods.manners(call);
        match manners {
            Manners::Good | Manners::Stubborn => {}
            Manners::Errors => return self.error(&header, NOT_FOUND).await,
            Manners::Silent => return Ok(()),
        }
        match (header.interface().map(InterfaceName::as_str), member) {
            (Some(PEER), "Ping") => self.connection.reply(&header, &()).await,
            (Some(INTROSPECTABLE), "Introspect") => {
                self.connection.reply(&header, &self.introspect(path)).await
            }
            (Some(PROPERTIES), "Get") => self.get(&header, call, path).await,
            (Some(PROPERTIES), "GetAll") => self.get_all(&header, call, path).await,
            (Some(PROPERTIES), "Set") => self.client_sets(&header, call, path, manners).await,
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
        match self.value(path, interface, name) {
            Some(value) => self.connection.reply(header, &value).await,
            None => self.error(header, self.unknown(path)).await,
        }
    }

    async fn get_all(&self, header: &Header<'_>, call: &Message, path: &str) -> zbus::Result<()> {
        let body = call.body();
        let Ok(interface) = body.deserialize::<&str>() else {
            return self.error(header, INVALID_ARGS).await;
        };
        match self.all(path, interface) {
            Ok(all) => self.connection.reply(header, &all).await,
            Err(error) => self.error(header, error).await,
        }
    }

    /// sd-bus: the properties of all interfaces for an empty name.
    fn all(&self, path: &str, interface: &str) -> Result<HashMap<String, OwnedVariant>, &'static str> {
        let tree = lock(&self.tree);
        let object = tree.get(path).ok_or(UNKNOWN_OBJECT)?;
        if !interface.is_empty() && !object.contains_key(interface) {
            return Err(UNKNOWN_INTERFACE);
        }
        let wanted = object.iter().filter(|(name, _)| interface.is_empty() || *name == interface);
        let properties = wanted.flat_map(|(_, properties)| properties);
        Ok(properties.map(|(name, property)| (name.clone(), property.value.clone())).collect())
    }

    /// sd-bus's error for a property that is not there.
    fn unknown(&self, path: &str) -> &'static str {
        if lock(&self.tree).contains_key(path) { UNKNOWN_PROPERTY } else { UNKNOWN_OBJECT }
    }

    async fn client_sets(
        &self,
        header: &Header<'_>,
        call: &Message,
        path: &str,
        manners: Manners,
    ) -> zbus::Result<()> {
        let body = call.body();
        let Ok((interface, name, value)) = body.deserialize::<(&str, &str, OwnedVariant)>() else {
            return self.error(header, INVALID_ARGS).await;
        };
        let stamp = match self.accepts(path, interface, name, &value) {
            Ok(stamp) => stamp,
            Err(refusal) => return self.error(header, refusal).await,
        };
        if manners == Manners::Stubborn {
            return self.connection.reply(header, &()).await;
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

    /// Whether a client may write this; the stamp of that property, if it has one.
    fn accepts(
        &self,
        path: &str,
        interface: &str,
        name: &str,
        value: &OwnedVariant,
    ) -> Result<Option<String>, &'static str> {
        let tree = lock(&self.tree);
        let object = tree.get(path).ok_or(UNKNOWN_OBJECT)?;
        match object.get(interface).and_then(|properties| properties.get(name)) {
            None => Err(UNKNOWN_PROPERTY),
            Some(Property { writable: false, .. }) => Err("org.freedesktop.DBus.Error.PropertyReadOnly"),
            Some(property) if property.value.value_signature() != value.value_signature() => {
                Err(INVALID_ARGS)
            }
            Some(property) => Ok(property.stamp.clone()),
        }
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
