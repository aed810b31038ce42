// SPDX-License-Identifier: Apache-2.0
//! A power control that says what it is told to: State.Chassis, State.Host and
//! State.OperatingSystem.Status of one host, on a connection of its own, by the names of openbmc 2.1.
#![allow(unreachable_pub, dead_code, reason = "acpi-bench includes this file too, and uses less of it")]

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures_core::Stream;
use zbus::{Connection, Message, MessageStream, Variant, fdo::RequestNameFlags, message::Type};

pub const CHASSIS: &str = "/xyz/openbmc_project/state/chassis0";
pub const HOST: &str = "/xyz/openbmc_project/state/host0";

/// Interface, property and the beginning of its values.
const CHASSIS_STATE: [&str; 3] = [
    "xyz.openbmc_project.State.Chassis",
    "CurrentPowerState",
    "xyz.openbmc_project.State.Chassis.PowerState.",
];
const HOST_STATE: [&str; 3] =
    ["xyz.openbmc_project.State.Host", "CurrentHostState", "xyz.openbmc_project.State.Host.HostState."];
const OS_STATE: [&str; 3] = [
    "xyz.openbmc_project.State.OperatingSystem.Status",
    "OperatingSystemState",
    "xyz.openbmc_project.State.OperatingSystem.Status.OSStatus.",
];

/// The names x86-power-control owns for its instance 0.
pub const NAMES: [&str; 6] = [
    "xyz.openbmc_project.State.Host0",
    "xyz.openbmc_project.State.Host",
    "xyz.openbmc_project.State.Chassis0",
    "xyz.openbmc_project.State.Chassis",
    "xyz.openbmc_project.State.OperatingSystem0",
    "xyz.openbmc_project.State.OperatingSystem",
];

type Values = Arc<Mutex<BTreeMap<&'static str, String>>>;

/// A power control. It goes away when it is dropped.
pub struct PowerDouble {
    connection: Connection,
    values: Values,
    task: tokio::task::JoinHandle<()>,
}

impl PowerDouble {
    /// Values first, names last. A value of `""` is a property that does not exist.
    pub async fn start(address: &str, chassis: &str, host: &str, os: &str) -> zbus::Result<Self> {
        let double = Self::nameless(address, chassis, host, os).await?;
        double.own(&NAMES).await?;
        Ok(double)
    }

    /// The same objects without any name.
    pub async fn nameless(address: &str, chassis: &str, host: &str, os: &str) -> zbus::Result<Self> {
        let connection = zbus::connection::Builder::address(address).build().await?;
        let values = [(CHASSIS_STATE, chassis), (HOST_STATE, host), (OS_STATE, os)];
        let values = values.into_iter().filter(|(_, value)| !value.is_empty());
        let values = values.map(|([interface, _, prefix], value)| (interface, format!("{prefix}{value}")));
        let values = Arc::new(Mutex::new(values.collect()));
        let stream = MessageStream::from(&connection);
        let task = tokio::spawn(answer(stream, connection.clone(), Arc::clone(&values)));
        Ok(Self { connection, values, task })
    }

    pub async fn own(&self, names: &[&str]) -> zbus::Result<()> {
        for name in names {
            // The one before may not have let go yet.
            let mut tries = 0;
            while let Err(error) =
                self.connection.request_name_with_flags(*name, RequestNameFlags::DO_NOT_QUEUE).await
            {
                tries += 1;
                if tries > 500 || !matches!(error, zbus::Error::NameTaken) {
                    return Err(error);
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    pub async fn chassis(&self, value: &str) -> zbus::Result<()> {
        self.change(CHASSIS, CHASSIS_STATE, value).await
    }

    pub async fn host(&self, value: &str) -> zbus::Result<()> {
        self.change(HOST, HOST_STATE, value).await
    }

    /// Changes it, and tells nobody.
    pub fn host_in_silence(&self, value: &str) {
        let [interface, _, prefix] = HOST_STATE;
        if let Ok(mut values) = self.values.lock() {
            values.insert(interface, format!("{prefix}{value}"));
        }
    }

    pub async fn os(&self, value: &str) -> zbus::Result<()> {
        self.change(HOST, OS_STATE, value).await
    }

    async fn change(
        &self,
        path: &str,
        [interface, property, prefix]: [&'static str; 3],
        value: &str,
    ) -> zbus::Result<()> {
        let value = format!("{prefix}{value}");
        if let Ok(mut values) = self.values.lock() {
            values.insert(interface, value.clone());
        }
        let changed = BTreeMap::from([(property, Variant::from(value.as_str()))]);
        let none: [&str; 0] = [];
        let signal = Message::signal(path, "org.freedesktop.DBus.Properties", "PropertiesChanged")
            .build(&(interface, changed, none.as_slice()))?;
        self.connection.send(&signal).await
    }

    /// Returns when the bus has all that was said so far.
    pub async fn said(&self) -> zbus::Result<()> {
        let bus = "org.freedesktop.DBus";
        self.connection.call_method(Some(bus), "/", Some(bus), "GetId", &()).await.map(drop)
    }

    /// Goes away, and returns when the bus knows it.
    pub async fn leave(self) {
        self.task.abort();
        // Nothing else holds the connection once the task has ended.
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
        let connection = self.connection.clone();
        drop(self);
        connection.graceful_shutdown().await;
    }

    /// Stops answering, without going away.
    pub fn hang(&self) {
        self.task.abort();
    }
}

impl Drop for PowerDouble {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: MessageStream, connection: Connection, values: Values) {
    while let Some(Ok(call)) = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        if call.message_type() != Type::MethodCall {
            continue;
        }
        let body = call.body();
        let asked: Option<(&str, &str)> = body.deserialize().ok();
        let value = asked.and_then(|(interface, _)| values.lock().ok()?.get(interface).cloned());
        let reply = match value {
            Some(value) => Message::method_return(&call.header()).build(&Variant::from(value)),
            None => Message::error(&call.header(), "org.freedesktop.DBus.Error.UnknownProperty").build(&"no"),
        };
        if let Ok(reply) = reply
            && connection.send(&reply).await.is_err()
        {
            return;
        }
    }
}
