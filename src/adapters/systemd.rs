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
    adapters::peer::{Outcome, Peer, Pending, subscribe},
    config::Targets,
    logic::machine::{Epoch, Event, Target, UnitOrder},
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
    calls: Pending<(String, bool)>,
    /// Unit of each job, by its object path.
    jobs: BTreeMap<String, String>,
    /// What was noted once: units that do not exist, systemd that does not answer.
    noted: BTreeSet<String>,
    /// What each host has stopped inside the barrier.
    quiesce: Vec<Quiesce>,
}

/// The units that a host stops inside the barrier, and how far that is.
#[derive(Debug, Default)]
struct Quiesce {
    units: Vec<String>,
    /// The closing they are stopped for.
    epoch: Epoch,
    /// Calls without a reply, and jobs that have not ended.
    calls: Pending<()>,
    jobs: BTreeSet<String>,
}

impl Quiesce {
    fn is_done(&self) -> bool {
        self.calls.len() == 0 && self.jobs.is_empty()
    }
}

impl Systemd {
    /// For hosts with these units, and these to stop inside the barrier.
    pub(crate) fn new(targets: Vec<Targets>, quiesce: Vec<Vec<String>>) -> Self {
        let quiesce = quiesce.into_iter().map(|units| Quiesce { units, ..Quiesce::default() }).collect();
        Self { targets, quiesce, ..Self::default() }
    }

    /// Stops what is to be quiet for this closing. However long systemd takes, [`Event::Quiesced`] comes from
    /// [`Systemd::returned`] or [`Systemd::signalled`], or it never comes.
    pub(crate) fn quiesce(&mut self, host: HostIndex, epoch: Epoch) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        if let Some(of) = self.quiesce.get_mut(host) {
            of.epoch = epoch;
            of.calls = Pending::default();
            of.jobs.clear();
            for unit in &of.units {
                let call = manager("StopUnit", &(unit.as_str(), "replace"))?;
                of.calls.add(&call, ());
                calls.push(call);
            }
        }
        Ok(calls)
    }

    /// Starts it again.
    pub(crate) fn unquiesce(&mut self, host: HostIndex) -> zbus::Result<Vec<Message>> {
        let units = self.quiesce.get(host).map(|of| of.units.clone()).unwrap_or_default();
        let mut calls = Vec::new();
        for unit in units {
            let call = manager("StartUnit", &(unit.as_str(), "replace"))?;
            self.calls.add(&call, (unit, true));
            calls.push(call);
        }
        Ok(calls)
    }

    /// What became of a unit to quiesce, and whether that was the last; `None` if it is none of these.
    fn quiesce_returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<Vec<(HostIndex, Event)>> {
        let mut hosts = self.quiesce.iter_mut().enumerate();
        let (host, of) = hosts.find_map(|(host, of)| of.calls.take(serial).map(|()| (host, of)))?;
        // An error: there is nothing to stop, or it cannot be.
        if let Some(error) = reply.header().error_name() {
            if error.as_str() != NO_SUCH_UNIT {
                tracing::warn!("a unit to quiesce cannot be stopped: {error}");
            }
        } else if let Ok(job) = reply.body().deserialize::<ObjectPath<'_>>() {
            of.jobs.insert(job.as_str().to_owned());
        }
        let quiet = of.is_done().then_some((host, Event::Quiesced { epoch: of.epoch }));
        Some(quiet.into_iter().collect())
    }

    /// A job has ended: perhaps the last one that a barrier waits for.
    fn quiesce_ended(&mut self, job: &str, unit: &str, result: &str) -> Option<(HostIndex, Event)> {
        let host = self.quiesce.iter().position(|of| of.jobs.contains(job))?;
        let of = self.quiesce.get_mut(host)?;
        of.jobs.remove(job);
        if result != "done" {
            tracing::warn!("{unit}: stopping it ended with {result:?}");
        }
        of.is_done().then_some((host, Event::Quiesced { epoch: of.epoch }))
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
                self.calls.add(&call, (unit.clone(), member != "StopUnit"));
                calls.push(call);
            }
        }
        Ok(calls)
    }

    /// The reply to a call for an order; `None` if it is not one.
    fn order_returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<()> {
        let (unit, starts) = self.calls.take(serial)?;
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
        Some(())
    }

    /// A job of an order has ended.
    fn order_ended(&mut self, job: &str, result: &str) {
        let Some(unit) = self.jobs.remove(job) else { return };
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

impl Peer for Systemd {
    /// Without Subscribe the manager sends no `JobRemoved`.
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        let rule = format!(
            "type='signal',sender='{SYSTEMD}',path='{SYSTEMD_PATH}',interface='{MANAGER}',member='JobRemoved'"
        );
        Ok(vec![subscribe(&rule)?, manager("Subscribe", &())?])
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let events = match self.quiesce_returned(serial, reply) {
            Some(quiet) => quiet,
            None => self.order_returned(serial, reply).map(|()| Vec::new())?,
        };
        Some(Ok(Outcome { events, ..Outcome::default() }))
    }

    fn signalled(&mut self, signal: &Message) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        if signal.header().member().is_none_or(|member| member.as_str() != "JobRemoved") {
            return Ok(outcome);
        }
        let body = signal.body();
        if let Ok((_, job, unit, result)) = body.deserialize::<(u32, ObjectPath<'_>, &str, &str)>() {
            self.order_ended(job.as_str(), result);
            outcome.events.extend(self.quiesce_ended(job.as_str(), unit, result));
        }
        Ok(outcome)
    }
}

fn manager<B>(member: &str, body: &B) -> zbus::Result<Message>
where
    B: zbus::export::serde::Serialize + zbus::DynamicType,
{
    Message::method_call(SYSTEMD_PATH, member).destination(SYSTEMD).interface(MANAGER).build(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::watched::doubles::{failed, reply, serial};

    fn systemd() -> Systemd {
        let units = vec!["a.service".to_owned(), "b.service".to_owned()];
        Systemd::new(Vec::new(), vec![Vec::new(), units])
    }

    fn removed(job: &str) -> Message {
        let job = ObjectPath::try_from(job).unwrap();
        Message::signal(SYSTEMD_PATH, MANAGER, "JobRemoved")
            .build(&(1_u32, job, "a.service", "done"))
            .unwrap()
    }

    /// What came of this reply; `None` if nobody asked.
    fn returned(systemd: &mut Systemd, call: &Message, reply: &Message) -> Option<Vec<(HostIndex, Event)>> {
        Some(systemd.returned(serial(call), reply)?.unwrap().events)
    }

    fn ended(systemd: &mut Systemd, job: &str) -> Vec<(HostIndex, Event)> {
        systemd.signalled(&removed(job)).unwrap().events
    }

    #[test]
    fn quiet_when_the_last_job_has_ended() {
        let mut systemd = systemd();
        let calls = systemd.quiesce(1, Epoch(5)).unwrap();
        assert_eq!(calls.len(), 2);
        for (call, job) in calls.iter().zip(["/job/1", "/job/2"]) {
            let job = ObjectPath::try_from(job).unwrap();
            assert_eq!(returned(&mut systemd, call, &reply(call, ":1.0", &job)), Some(Vec::new()));
        }
        assert_eq!(ended(&mut systemd, "/job/2"), []);
        assert_eq!(ended(&mut systemd, "/job/9"), []);
        assert_eq!(ended(&mut systemd, "/job/1"), [(1, Event::Quiesced { epoch: Epoch(5) })]);
        assert_eq!(systemd.unquiesce(1).unwrap().len(), 2);
    }

    #[test]
    fn a_unit_that_cannot_be_stopped_is_not_waited_for_and_an_older_order_does_not_count() {
        let mut systemd = systemd();
        let old = systemd.quiesce(1, Epoch(5)).unwrap();
        let calls = systemd.quiesce(1, Epoch(6)).unwrap();
        assert_eq!(returned(&mut systemd, &old[0], &failed(&old[0])), None);
        assert_eq!(returned(&mut systemd, &calls[0], &failed(&calls[0])), Some(Vec::new()));
        let quiet = Some(vec![(1, Event::Quiesced { epoch: Epoch(6) })]);
        assert_eq!(returned(&mut systemd, &calls[1], &failed(&calls[1])), quiet);
    }
}
