// SPDX-License-Identifier: Apache-2.0
//! Starts and stops the targets through `org.freedesktop.systemd1`, and follows the jobs.
//!
//! Owns: outstanding jobs. The units' names are the configuration's. Must never: hold up anything else; whatever systemd does,
//! or does not, is logged and no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use zbus::{Message, ObjectPath};

use crate::{
    adapters::bus::call_bus,
    config::Targets,
    logic::machine::{Target, UnitOrder},
    shell::permits::HostIndex,
};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// A systemd that does not answer is not asked more often than this.
const MOST_OUTSTANDING: usize = 64;

/// The calls and jobs under way.
#[derive(Debug, Default)]
pub(crate) struct Systemd {
    /// The units of each host, in the order of the hosts.
    targets: Vec<Targets>,
    /// Unit of each call that has no reply yet, and whether it starts it.
    calls: BTreeMap<NonZeroU32, (String, bool)>,
    /// Unit of each job, by its object path.
    jobs: BTreeMap<String, String>,
    /// What was noted once: units that do not exist, systemd that does not answer.
    noted: BTreeSet<String>,
}

impl Systemd {
    /// For hosts with these units.
    pub(crate) fn new(targets: Vec<Targets>) -> Self {
        Self { targets, ..Self::default() }
    }

    /// The calls to begin with: without Subscribe the manager sends no `JobRemoved`.
    pub(crate) fn start() -> zbus::Result<Vec<Message>> {
        let rule = format!(
            "type='signal',sender='{SYSTEMD}',path='{SYSTEMD_PATH}',interface='{MANAGER}',member='JobRemoved'"
        );
        Ok(vec![call_bus("AddMatch", &rule.as_str())?, manager("Subscribe", &())?])
    }

    /// The calls an order of this host means.
    pub(crate) fn order(&mut self, host: HostIndex, order: UnitOrder) -> zbus::Result<Vec<Message>> {
        let Some(names) = self.targets.get(host).cloned() else { return Ok(Vec::new()) };
        let (member, targets): (_, &[Target]) = match &order {
            UnitOrder::Start(target) => ("StartUnit", std::slice::from_ref(target)),
            UnitOrder::Restart(target) => ("RestartUnit", std::slice::from_ref(target)),
            UnitOrder::StopAll => ("StopUnit", &[Target::S0, Target::S2, Target::S5]),
        };
        let mut calls = Vec::new();
        for target in targets {
            let units = match target {
                Target::S0 => &names.s0,
                Target::S2 => &names.s2,
                Target::S5 => &names.s5,
            };
            for unit in units {
                if self.calls.len() >= MOST_OUTSTANDING {
                    self.note("does not answer", || {
                        tracing::warn!("systemd does not answer; {member} {unit} is left out");
                    });
                    continue;
                }
                let call = manager(member, &(unit.as_str(), "replace"))?;
                self.calls.insert(call.primary_header().serial_num(), (unit.clone(), member != "StopUnit"));
                calls.push(call);
            }
        }
        Ok(calls)
    }

    /// A reply to a call of ours. False if it is not.
    pub(crate) fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> bool {
        let Some((unit, starts)) = self.calls.remove(&serial) else { return false };
        let header = reply.header();
        if let Some(error) = header.error_name() {
            // Nothing to stop is what stopping is for.
            if starts {
                let body = reply.body();
                let text: &str = body.deserialize().unwrap_or_default();
                let error = error.as_str();
                if error == NO_SUCH_UNIT {
                    self.note(&unit, || tracing::info!("{unit} is not installed; nothing is started for it"));
                } else {
                    self.note(error, || tracing::error!("{unit} cannot be started: {error}: {text}"));
                }
            }
        } else if let Ok(job) = reply.body().deserialize::<ObjectPath<'_>>() {
            self.noted.remove(&unit);
            // Two orders may share one job. A job whose end was missed must not stay for ever.
            if self.jobs.len() >= MOST_OUTSTANDING {
                self.jobs.pop_first();
            }
            self.jobs.insert(job.as_str().to_owned(), unit);
        }
        true
    }

    /// A signal, of whatever kind.
    pub(crate) fn signalled(&mut self, signal: &Message) {
        if signal.header().member().is_none_or(|member| member.as_str() != "JobRemoved") {
            return;
        }
        let body = signal.body();
        let Ok((_, job, _, result)) = body.deserialize::<(u32, ObjectPath<'_>, &str, &str)>() else { return };
        let Some(unit) = self.jobs.remove(job.as_str()) else { return };
        // A job that gave way to the next state's is canceled, which is as it should be.
        match result {
            "done" | "canceled" => tracing::debug!("{unit}: job {result}"),
            _ => tracing::error!("{unit}: its job ended with {result:?}"),
        }
    }

    fn note(&mut self, what: &str, log: impl FnOnce()) {
        if self.noted.len() < MOST_OUTSTANDING && self.noted.insert(what.to_owned()) {
            log();
        }
    }
}

fn manager<B>(member: &str, body: &B) -> zbus::Result<Message>
where
    B: zbus::export::serde::Serialize + zbus::DynamicType,
{
    Message::method_call(SYSTEMD_PATH, member).destination(SYSTEMD).interface(MANAGER).build(body)
}
