// SPDX-License-Identifier: Apache-2.0
//! The owner of our bus name, in the words of the person who has to do something about it.
//!
//! Asked once, on the way out: what it needs to know (the bus, /proc) may be gone or wrong by then, and then it says less.

use std::{fs, time::Duration};

use tokio::time::timeout;
use zbus::Connection;

use crate::adapters::{
    acpi_object::BUS_NAME,
    dbus::names::{BUS, BUS_PATH},
};

/// A bus that takes longer does not hold up the exit.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns the owner of our name, and what to do: "phosphor-settings (pid 321, settings.service): ...".
pub(crate) async fn name_owner(connection: &Connection) -> String {
    match timeout(PATIENCE, process(connection)).await {
        Ok(Some(process)) => process.to_string(),
        Ok(None) => "somebody who has left meanwhile".to_owned(),
        Err(_) => "somebody, and the bus does not say who".to_owned(),
    }
}

/// The owner's process, unless it is gone.
async fn process(connection: &Connection) -> Option<Process> {
    let owner = ask(connection, "GetNameOwner", BUS_NAME).await?;
    let owner: String = owner.body().deserialize().ok()?;
    let pid = ask(connection, "GetConnectionUnixProcessID", &owner).await;
    let pid = pid.and_then(|reply| reply.body().deserialize().ok()).unwrap_or(0);
    let of = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    Some(Process { pid, command: of("comm"), unit: unit(&of("cgroup")).map(str::to_owned), owner })
}

async fn ask(connection: &Connection, member: &str, about: &str) -> Option<zbus::Message> {
    connection.call_method(Some(BUS), BUS_PATH, Some(BUS), member, &about).await.ok()
}

/// The unit that /proc/PID/cgroup names.
fn unit(cgroup: &str) -> Option<&str> {
    // systemd's own hierarchy: the unified one, or beside the older ones the one with its name.
    let mut hierarchies = cgroup.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    hierarchies.find_map(|(controllers, path)| {
        // The innermost; a scope is somebody's shell, and a user's manager not what is meant.
        let mut parts = path.rsplit('/').filter_map(|part| Some((part, part.rsplit_once('.')?.1)));
        let (unit, kind) = parts.find(|(_, kind)| ["service", "scope"].contains(kind))?;
        let ours = ["", "name=systemd"].contains(&controllers);
        (ours && kind == "service" && !unit.starts_with("user@")).then_some(unit)
    })
}

struct Process {
    /// On the bus: ":1.42".
    owner: String,
    /// 0 if the bus does not know, or it is in a pid namespace that is not ours.
    pid: u32,
    command: String,
    unit: Option<String>,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { owner, pid, command, unit } = self;
        // A process calls itself what it likes.
        let command = match command.trim_end() {
            "" => "a process".into(),
            command => command.escape_debug().to_string(),
        };
        match (unit, pid) {
            (Some(unit), pid) => {
                write!(
                    f,
                    "{command} (pid {pid}, {unit}); if that is not to serve it: systemctl disable --now {unit}"
                )
            }
            (None, 0) => {
                write!(f, "{command} that the bus calls {owner}; busctl status {owner} may know more")
            }
            (None, pid) => {
                write!(f, "{command} (pid {pid}, of no service); if that is not to serve it: kill {pid}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_innermost_service() {
        for (cgroup, expected) in [
            ("0::/system.slice/acpi-power-state.service\n", Some("acpi-power-state.service")),
            ("12:cpu:/a.service\n1:name=systemd:/system.slice/x@0.service/sub\n0::/\n", Some("x@0.service")),
            ("0::/user.slice/user-0.slice/user@0.service/app.slice/mine.service\n", Some("mine.service")),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            ("0::/user.slice/user-0.slice/user@0.service/app.slice/shell.scope\n", None),
            ("0::/user.slice/user-0.slice/user@0.service/init\n", None),
            ("0::/\n", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(unit(cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn it_says_what_it_knows() {
        let owner = |pid, command: &str, unit: Option<&str>| {
            let unit = unit.map(str::to_owned);
            Process { owner: ":1.7".to_owned(), pid, command: command.to_owned(), unit }.to_string()
        };
        assert_eq!(
            owner(12, "old\n", Some("old.service")),
            "old (pid 12, old.service); if that is not to serve it: systemctl disable --now old.service"
        );
        assert_eq!(
            owner(12, "a\nb\n", None),
            "a\\nb (pid 12, of no service); if that is not to serve it: kill 12"
        );
        assert_eq!(owner(0, "", None), "a process that the bus calls :1.7; busctl status :1.7 may know more");
    }
}
