// SPDX-License-Identifier: Apache-2.0
//! A small org.freedesktop.systemd1: the host state targets with their `Conflicts=`, jobs, and a
//! record of what was asked for and what is active.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use acpi_doubles::systemd::{MANAGER, NAME, PATH, job_path, job_removed};
use tokio::task::JoinSet;
use zbus::{Connection, Message, message::Header, names::MemberName};

use crate::{
    Result, lock,
    objects::{INVALID_ARGS, Manners, Methods, Objects, connect},
    timeline::{Timeline, Who},
};

/// The units that exist: the plain targets and host 0's instances of the templates (rules 3.6).
/// Those in one row conflict with each other.
const UNITS: [[&str; 3]; 2] = [
    ["host-s0-state.target", "host-s2-state.target", "host-s5-state.target"],
    ["host-s0-state@0.target", "host-s2-state@0.target", "host-s5-state@0.target"],
];

/// What was asked of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// `StartUnit`, `StopUnit` or `RestartUnit`.
    pub method: String,
    /// The unit.
    pub unit: String,
    /// The job's mode, as `replace`.
    pub mode: String,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Systemd {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    manners: Manners,
    timeline: Timeline,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    active: BTreeSet<&'static str>,
    asked: Vec<Asked>,
    jobs: u32,
}

/// A job that is done: its number and its unit.
type Job = (u32, &'static str);

impl Systemd {
    /// Starts it on the bus at `address`.
    pub async fn start(
        address: &str,
        manners: Manners,
        timeline: Timeline,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self> {
        let objects = Objects::new(connect(address).await?, None);
        objects.add(PATH, MANAGER, "SystemState", "running", false)?;
        let shared = Shared { manners, timeline, state: Mutex::default() };
        let systemd = Self { shared: Arc::new(shared) };
        objects.serve(systemd.clone(), tasks);
        objects.connection().request_name(NAME).await?;
        Ok(systemd)
    }

    /// The units that are active now, in alphabetical order.
    #[must_use]
    pub fn active(&self) -> Vec<&'static str> {
        lock(&self.shared.state).active.iter().copied().collect()
    }

    /// All that was asked of it, oldest first.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.state).asked.clone()
    }

    /// Performs a request; the jobs it made, the one asked for last. `None` if there is no such unit.
    fn perform(&self, method: &str, unit: &str, mode: &str) -> Option<Vec<Job>> {
        let mut state = lock(&self.shared.state);
        state.asked.push(Asked { method: method.into(), unit: unit.into(), mode: mode.into() });
        let row = UNITS.into_iter().find(|row| row.contains(&unit))?;
        let unit = row.into_iter().find(|name| *name == unit)?;
        let mut units: Vec<&'static str> = Vec::new();
        if method == "StopUnit" {
            state.active.remove(unit);
        } else {
            units.extend(row.into_iter().filter(|other| *other != unit && state.active.remove(other)));
            state.active.insert(unit);
        }
        units.push(unit);
        let jobs = units.into_iter().map(|unit| {
            state.jobs += 1;
            (state.jobs, unit)
        });
        Some(jobs.collect())
    }

    async fn unit_method(
        &self,
        connection: &Connection,
        call: &Header<'_>,
        body: &Message,
    ) -> zbus::Result<()> {
        let method = call.member().map_or("", |member| member.as_str());
        let body = body.body();
        let Ok((unit, mode)) = body.deserialize::<(&str, &str)>() else {
            return connection.reply_error(call, INVALID_ARGS, &"").await;
        };
        let Some(jobs) = self.perform(method, unit, mode) else {
            let text = format!("Unit {unit} not found.");
            return connection.reply_error(call, "org.freedesktop.systemd1.NoSuchUnit", &text).await;
        };
        // The template's instance follows the plain target; one row tells of both.
        let instance = unit.contains('@');
        let verb = method.trim_end_matches("Unit").to_lowercase();
        if !instance {
            self.shared.timeline.row(Who::Systemd, &format!("{verb} {unit}"));
        }
        let asked_for = jobs.last().map_or(0, |(job, _)| *job);
        connection.reply(call, &job_path(asked_for)?).await?;
        for (job, unit) in jobs {
            job_removed(connection, job, unit).await?;
        }
        Ok(())
    }
}

impl Methods for Systemd {
    fn manners(&self, _: &Message) -> Manners {
        self.shared.manners
    }

    async fn call(&self, connection: &Connection, call: &Message) -> zbus::Result<bool> {
        let header = call.header();
        match header.member().map(MemberName::as_str) {
            // JobRemoved is broadcast whether or not anybody subscribed, which systemd does as well
            // as soon as one client has.
            Some("Subscribe" | "Unsubscribe") => connection.reply(&header, &()).await?,
            Some("StartUnit" | "StopUnit" | "RestartUnit") => {
                self.unit_method(connection, &header, call).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn systemd() -> Systemd {
        let shared = Shared { manners: Manners::Good, timeline: Timeline::silent(), state: Mutex::default() };
        Systemd { shared: Arc::new(shared) }
    }

    #[test]
    fn conflicting_targets_stop_each_other_and_templates_are_apart() {
        let systemd = systemd();
        let start = |unit| systemd.perform("StartUnit", unit, "replace");
        assert_eq!(start("host-s5-state.target"), Some(vec![(1, "host-s5-state.target")]));
        assert_eq!(start("host-s5-state@0.target"), Some(vec![(2, "host-s5-state@0.target")]));
        let jobs = vec![(3, "host-s5-state.target"), (4, "host-s2-state.target")];
        assert_eq!(start("host-s2-state.target"), Some(jobs));
        assert_eq!(systemd.active(), ["host-s2-state.target", "host-s5-state@0.target"]);
        assert_eq!(start("host-s7-state.target"), None);
        systemd.perform("StopUnit", "host-s2-state.target", "replace");
        assert_eq!(systemd.active(), ["host-s5-state@0.target"]);
        assert_eq!(systemd.asked().len(), 5);
    }
}
