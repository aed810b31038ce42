// SPDX-License-Identifier: Apache-2.0
//! Power control: the names, objects and properties of host 0 by openbmc 2.1, and a double that says what it is told to.

use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use crate::objects::{NoMethods, Objects, connect};

/// The chassis' object.
pub const CHASSIS_PATH: &str = "/xyz/openbmc_project/state/chassis0";
/// The host's object.
pub const HOST_PATH: &str = "/xyz/openbmc_project/state/host0";

/// A property of power control that holds an enumeration.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// At which object.
    pub path: &'static str,
    /// Of which interface.
    pub interface: &'static str,
    /// Its name.
    pub property: &'static str,
    /// What each of its values begins with.
    pub prefix: &'static str,
}

/// Whether the chassis has power.
pub const CHASSIS: State = State {
    path: CHASSIS_PATH,
    interface: "xyz.openbmc_project.State.Chassis",
    property: "CurrentPowerState",
    prefix: "xyz.openbmc_project.State.Chassis.PowerState.",
};
/// Whether the host runs.
pub const HOST: State = State {
    path: HOST_PATH,
    interface: "xyz.openbmc_project.State.Host",
    property: "CurrentHostState",
    prefix: "xyz.openbmc_project.State.Host.HostState.",
};
/// OS status: whether POST is complete.
pub const OS: State = State {
    path: HOST_PATH,
    interface: "xyz.openbmc_project.State.OperatingSystem.Status",
    property: "OperatingSystemState",
    prefix: "xyz.openbmc_project.State.OperatingSystem.Status.OSStatus.",
};
/// Boot progress: the stage that a boot has reached.
pub const PROGRESS: State = State {
    path: HOST_PATH,
    interface: "xyz.openbmc_project.State.Boot.Progress",
    property: "BootProgress",
    prefix: "xyz.openbmc_project.State.Boot.Progress.ProgressStages.",
};
/// The property beside [`PROGRESS`] that says when it was set, in microseconds since 1970.
pub const STAMP: &str = "BootProgressLastUpdate";

/// The names of who has [`HOST`], the one with the host's number first.
pub const HOST_NAMES: [&str; 2] = ["xyz.openbmc_project.State.Host0", "xyz.openbmc_project.State.Host"];
/// The names of who has [`CHASSIS`].
pub const CHASSIS_NAMES: [&str; 2] =
    ["xyz.openbmc_project.State.Chassis0", "xyz.openbmc_project.State.Chassis"];
/// The names for [`OS`], which x86-power-control has and phosphor-state-manager has not.
pub const OS_NAMES: [&str; 2] =
    ["xyz.openbmc_project.State.OperatingSystem0", "xyz.openbmc_project.State.OperatingSystem"];
/// All that x86-power-control owns for its instance 0.
pub const NAMES: [&str; 6] =
    [HOST_NAMES[0], HOST_NAMES[1], CHASSIS_NAMES[0], CHASSIS_NAMES[1], OS_NAMES[0], OS_NAMES[1]];

impl State {
    /// The value that ends with this word.
    #[must_use]
    pub fn value(&self, word: &str) -> String {
        format!("{}{word}", self.prefix)
    }

    /// Adds the property, with this value.
    pub fn add(&self, objects: &Objects, word: &str, writable: bool) -> zbus::Result<()> {
        objects.add(self.path, self.interface, self.property, self.value(word), writable)
    }

    /// Changes it if it is there, and signals it if the value is another.
    pub async fn set(&self, objects: &Objects, word: &str) -> zbus::Result<()> {
        objects.set(self.path, self.interface, self.property, self.value(word)).await
    }

    /// Gives it this value for others to read, and signals it in any case.
    pub async fn say(&self, objects: &Objects, word: &str) -> zbus::Result<()> {
        objects.say(self.path, self.interface, self.property, self.value(word), false).await
    }
}

/// A power control on a connection of its own, whose properties are read only. It goes away when it is dropped.
#[derive(Debug)]
pub struct PowerDouble {
    objects: Objects,
    tasks: JoinSet<()>,
    serving: AbortHandle,
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
        let objects = Objects::new(connect(address).await?, None);
        for (state, word) in [(CHASSIS, chassis), (HOST, host), (OS, os)] {
            if !word.is_empty() {
                state.add(&objects, word, false)?;
            }
        }
        let mut tasks = JoinSet::new();
        let serving = objects.serve(NoMethods, &mut tasks);
        Ok(Self { objects, tasks, serving })
    }

    /// Takes these names.
    pub async fn own(&self, names: &[&str]) -> zbus::Result<()> {
        for name in names {
            // The one before may not have let go yet.
            let mut tries = 0;
            while let Err(error) = self.objects.own(name).await {
                tries += 1;
                if tries > 500 || !matches!(error, zbus::Error::NameTaken) {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    /// The chassis' state is signalled with this last word, whatever it was.
    pub async fn chassis(&self, word: &str) -> zbus::Result<()> {
        CHASSIS.say(&self.objects, word).await
    }

    /// The host's.
    pub async fn host(&self, word: &str) -> zbus::Result<()> {
        HOST.say(&self.objects, word).await
    }

    /// OS status.
    pub async fn os(&self, word: &str) -> zbus::Result<()> {
        OS.say(&self.objects, word).await
    }

    /// Changes the host's state, and tells nobody.
    pub fn host_in_silence(&self, word: &str) -> zbus::Result<()> {
        HOST.add(&self.objects, word, false)
    }

    /// Returns when the bus has all that was said so far.
    pub async fn said(&self) -> zbus::Result<()> {
        let bus = "org.freedesktop.DBus";
        self.objects.connection().call_method(Some(bus), "/", Some(bus), "GetId", &()).await.map(drop)
    }

    /// Goes away, and returns when the bus knows it.
    pub async fn leave(mut self) {
        // Nothing else holds the connection once the task has ended.
        self.tasks.shutdown().await;
        let connection = self.objects.connection().clone();
        drop(self);
        connection.graceful_shutdown().await;
    }

    /// Stops answering, without going away.
    pub fn hang(&self) {
        self.serving.abort();
    }
}
