// SPDX-License-Identifier: Apache-2.0
//! (A): zbus's object server, with our own Properties interface in place of the stock one.

mod callers;
mod contract;
mod event_loop;
mod objects;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};
use zbus::fdo::{Error, ObjectManager, RequestNameFlags};
use zbus::message::Header;
use zbus::names::InterfaceName;
use zbus::{Connection, OwnedVariant, Variant, interface};

use callers::Callers;
use contract::{Change, Property};
use event_loop::{Effect, Input};
use objects::{Access, Object, Tree};

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

type Shared = Arc<Mutex<Tree>>;
type Reply = oneshot::Sender<()>;

/// Gives introspection and GetManagedObjects what they need; the setters are never called.
struct Acpi(Shared);

#[interface(name = "xyz.openbmc_project.Control.Power.ACPIPowerState", introspection_docs = false)]
impl Acpi {
    #[zbus(property, name = "SysACPIStatus")]
    fn sys(&self) -> &str {
        self.0.lock().unwrap().acpi.sys.as_str()
    }
    #[zbus(property, name = "SysACPIStatus")]
    fn set_sys(&self, _value: &str) {}
    #[zbus(property, name = "DevACPIStatus")]
    fn dev(&self) -> &str {
        self.0.lock().unwrap().acpi.dev.as_str()
    }
    #[zbus(property, name = "DevACPIStatus")]
    fn set_dev(&self, _value: &str) {}
}

struct Properties {
    tree: Shared,
    inputs: mpsc::UnboundedSender<Input<Reply>>,
    callers: Mutex<Callers>,
    own_uid: u32,
}

fn find(object: &dyn Object, interface: &str, property: &str) -> Result<(usize, usize), Error> {
    let found = object.interfaces().iter().position(|i| i.name == interface).and_then(|i| {
        object.interfaces()[i].properties.iter().position(|p| p.name == property).map(|p| (i, p))
    });
    found.ok_or_else(|| Error::UnknownProperty(format!("Unknown interface {interface} or property {property}.")))
}

impl Properties {
    fn check(&self, path: &str, interface: &str, property: &str, value: &Variant<'_>) -> Result<Change, Error> {
        let tree = self.tree.lock().unwrap();
        let object = tree.object(path).ok_or_else(|| Error::UnknownObject(path.into()))?;
        let (i, p) = find(object, interface, property)?;
        if object.interfaces()[i].properties[p].access == Access::Read {
            return Err(Error::PropertyReadOnly(format!("Property '{property}' is not writable.")));
        }
        object.check(i, p, value).map_err(Error::InvalidArgs)
    }

    async fn uid(&self, conn: &Connection, header: &Header<'_>) -> Result<Option<u32>, Error> {
        let sender = header.sender().ok_or_else(|| Error::AccessDenied("no sender".into()))?;
        if let Some(uid) = self.callers.lock().unwrap().uid(sender.as_str()) {
            return Ok(uid);
        }
        let bus = Some("org.freedesktop.DBus");
        let reply =
            conn.call_method(bus, "/org/freedesktop/DBus", bus, "GetConnectionUnixUser", &sender.as_str()).await;
        let uid = match reply {
            Ok(m) => Some(m.body().deserialize()?),
            Err(_) => None,
        };
        self.callers.lock().unwrap().remember(sender.as_str().to_owned(), uid);
        Ok(uid)
    }
}

#[interface(name = "org.freedesktop.DBus.Properties", introspection_docs = false)]
impl Properties {
    async fn get(
        &self,
        interface_name: &str,
        property_name: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<OwnedVariant, Error> {
        let path = header.path().ok_or(zbus::Error::MissingField)?;
        let tree = self.tree.lock().unwrap();
        let object = tree.object(path.as_str()).ok_or_else(|| Error::UnknownObject(path.to_string()))?;
        let (i, p) = find(object, interface_name, property_name)?;
        Ok(object.get(i, p).try_into().map_err(zbus::Error::from)?)
    }

    async fn set(
        &self,
        interface_name: &str,
        property_name: &str,
        value: &Variant<'_>,
        #[zbus(connection)] conn: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Error> {
        let path = header.path().ok_or(zbus::Error::MissingField)?;
        let change = self.check(path.as_str(), interface_name, property_name, value)?;
        let uid = self.uid(conn, &header).await?;
        if !uid.is_some_and(|uid| uid == 0 || uid == self.own_uid) {
            return Err(Error::AccessDenied("Only root may set this.".into()));
        }
        let (reply, done) = oneshot::channel();
        _ = self.inputs.send(Input { change, id: reply });
        done.await.map_err(|_| Error::Failed("ending".into()))
    }

    async fn get_all(
        &self,
        interface_name: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<HashMap<String, OwnedVariant>, Error> {
        let path = header.path().ok_or(zbus::Error::MissingField)?;
        let tree = self.tree.lock().unwrap();
        let object = tree.object(path.as_str()).ok_or_else(|| Error::UnknownObject(path.to_string()))?;
        let mut all = HashMap::new();
        let mut known = interface_name.is_empty() || interface_name.starts_with("org.freedesktop.DBus.");
        for (i, info) in object.interfaces().iter().enumerate() {
            if interface_name.is_empty() || info.name == interface_name {
                known = true;
                for (name, value) in object.values(i) {
                    all.insert(name.to_owned(), value.try_into().map_err(zbus::Error::from)?);
                }
            }
        }
        if known { Ok(all) } else { Err(Error::UnknownInterface(interface_name.to_owned())) }
    }

    #[zbus(signal)]
    async fn properties_changed(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        interface_name: InterfaceName<'_>,
        changed_properties: HashMap<&str, Variant<'_>>,
        invalidated_properties: &[&str],
    ) -> zbus::Result<()>;
}

async fn outbox(conn: Connection, tree: Shared, mut effects: mpsc::UnboundedReceiver<Effect<Reply>>) -> zbus::Result<()> {
    while let Some(effect) = effects.recv().await {
        match effect {
            Effect::Publish(change) => {
                let name = match change.property {
                    Property::Sys | Property::Dev => change.property.name(),
                };
                let changed = BTreeMap::from([(name, Variant::from(change.value.as_str()))]);
                let none: &[&str] = &[];
                let body = (contract::INTERFACE, changed, none);
                conn.emit_signal(None::<&str>, contract::PATH, PROPERTIES, "PropertiesChanged", &body).await?;
                tree.lock().unwrap().publish(change);
            }
            Effect::Answer(reply) => _ = reply.send(()),
        }
    }
    Ok(())
}

fn main() -> zbus::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let conn = zbus::connection::Builder::session().build().await?;
        let tree = Arc::new(Mutex::new(Tree::new()));
        let (inputs, input_queue) = mpsc::unbounded_channel();
        let (out, effects) = mpsc::unbounded_channel();
        tokio::spawn(event_loop::run(input_queue, out));
        tokio::spawn(outbox(conn.clone(), tree.clone(), effects));
        let own_uid = std::fs::metadata("/proc/self")?.uid();
        let server = conn.object_server();
        server.at(contract::PATH, Acpi(tree.clone())).await?;
        server.remove_named(contract::PATH, InterfaceName::from_static_str(PROPERTIES)?).await?;
        server.at(contract::PATH, Properties { tree, inputs, callers: Mutex::default(), own_uid }).await?;
        server.at(contract::MANAGER, ObjectManager).await?;
        conn.request_name_with_flags(contract::NAME, RequestNameFlags::DO_NOT_QUEUE).await?;
        conn.closed().await;
        Ok(())
    })
}
