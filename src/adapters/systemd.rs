// SPDX-License-Identifier: Apache-2.0
//! Starts and stops the targets through `org.freedesktop.systemd1`, and follows the jobs.
//!
//! Owns: outstanding jobs. The units' names are the configuration's. Must never: hold up anything else, or believe anybody but systemd
//! of its jobs; whatever it does, or does not, is logged and no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use zbus::{Message, ObjectPath};

use crate::{
    adapters::dbus::{
        calls::{owner_changes, subscribe},
        peer::{Moment, Noted, Outcome, Peer, Pending, Speaker},
        signal::{News, Signal},
    },
    config::Targets,
    logic::{
        effect::{Target, UnitOrder},
        event::{Epoch, Event},
        time::Time,
    },
    shell::permits::HostIndex,
};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// A job whose end was missed is forgotten when there are more than so many.
const MOST_JOBS: usize = 64;

/// The calls and jobs under way.
#[derive(Debug, Default)]
pub(crate) struct Systemd {
    /// The units of each host, in the order of the hosts.
    targets: Vec<Targets>,
    /// Unit of each call that has no reply yet, and whether it starts it.
    calls: Pending<(String, bool)>,
    /// The hosts' last orders, where systemd had left too many calls without a reply.
    unsaid: BTreeMap<HostIndex, UnitOrder>,
    /// Units that were quiet, and have not been started again for the same reason.
    unstarted: BTreeSet<String>,
    speaker: Speaker,
    /// Unit of each job, by its object path.
    jobs: BTreeMap<String, String>,
    /// The messages that were noted once: units that do not exist, systemd that does not answer.
    noted: Noted,
    /// The units that each host has stopped inside the barrier.
    quiesce: Vec<Quiesce>,
}

/// The units that a host stops inside the barrier, and how far that is.
#[derive(Debug, Default)]
struct Quiesce {
    units: Vec<String>,
    /// The closing they are stopped for.
    epoch: Epoch,
    /// Calls without a reply, by their unit, and jobs that have not ended.
    calls: Pending<String>,
    jobs: BTreeSet<String>,
}

impl Quiesce {
    fn is_done(&self) -> bool {
        !self.calls.any(|_| true) && self.jobs.is_empty()
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
            of.calls.forget(|_| true);
            of.jobs.clear();
            for unit in &of.units {
                let call = manager("StopUnit", &(unit.as_str(), "replace"))?;
                self.unstarted.remove(unit);
                let call = of.calls.send(call, unit.clone());
                if call.is_none() {
                    // The unit is not being stopped, so this closing is never quiet.
                    of.jobs.insert(String::new());
                }
                calls.extend(call);
            }
        }
        Ok(calls)
    }

    /// Starts it again.
    pub(crate) fn unquiesce(&mut self, host: HostIndex) -> zbus::Result<Vec<Message>> {
        let units = self.quiesce.get(host).map(|of| of.units.clone()).unwrap_or_default();
        let mut calls = Vec::new();
        for unit in units {
            calls.extend(self.start_again(unit)?);
        }
        Ok(calls)
    }

    fn start_again(&mut self, unit: String) -> zbus::Result<Option<Message>> {
        let call = self.tell("StartUnit", unit.clone())?;
        if call.is_none() {
            self.unstarted.insert(unit);
        }
        Ok(call)
    }

    /// Handles the reply about a unit to quiesce, and tells whether that was the last; `None` if it is none of these.
    fn quiesce_returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<Vec<(HostIndex, Event)>> {
        let mut hosts = self.quiesce.iter_mut().enumerate();
        let (host, of) = hosts.find_map(|(host, of)| of.calls.take(serial).map(|_| (host, of)))?;
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
        self.unsaid.remove(&host);
        let mut calls = Vec::new();
        for target in targets {
            let units = match target {
                Target::S0 => &names.s0,
                Target::S2 => &names.s2,
                Target::S5 => &names.s5,
            };
            for unit in units {
                let call = self.tell(member, unit.clone())?;
                if call.is_none() {
                    self.unsaid.insert(host, order);
                    self.noted.once("does not answer", || {
                        tracing::warn!("systemd does not answer; {member} {unit} waits until it does");
                    });
                }
                calls.extend(call);
            }
        }
        Ok(calls)
    }

    /// A call for a unit; `None` if there are too many that have no reply.
    fn tell(&mut self, member: &str, unit: String) -> zbus::Result<Option<Message>> {
        let call = manager(member, &(unit.as_str(), "replace"))?;
        Ok(self.calls.send(call, (unit, member != "StopUnit")))
    }

    /// Sends the orders that could not be sent before, now that systemd answers.
    fn say_the_rest(&mut self) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        for (host, order) in std::mem::take(&mut self.unsaid) {
            calls.extend(self.order(host, order)?);
        }
        for unit in std::mem::take(&mut self.unstarted) {
            calls.extend(self.start_again(unit)?);
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
                    self.noted
                        .once(&unit, || tracing::info!("{unit} is not installed; nothing is started for it"));
                } else {
                    self.noted.once(error, || tracing::error!("{unit} cannot be started: {error}: {text}"));
                }
            }
        } else if let Ok(job) = reply.body().deserialize::<ObjectPath<'_>>() {
            self.noted.forget(&unit);
            // Two orders may share one job. A job whose end was missed must not stay for ever.
            if self.jobs.len() >= MOST_JOBS {
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
}

impl Peer for Systemd {
    /// Without Subscribe the manager sends no `JobRemoved`.
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        let rule = format!(
            "type='signal',sender='{SYSTEMD}',path='{SYSTEMD_PATH}',interface='{MANAGER}',member='JobRemoved'"
        );
        Ok(vec![subscribe(&owner_changes(SYSTEMD))?, subscribe(&rule)?, manager("Subscribe", &())?])
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let events = match self.quiesce_returned(serial, reply) {
            Some(quiet) => quiet,
            None => self.order_returned(serial, reply).map(|()| Vec::new())?,
        };
        self.speaker.replied(reply);
        Some(self.say_the_rest().map(|calls| Outcome { calls, events }))
    }

    fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        if let News::Owner { name: SYSTEMD, owner } = signal.news {
            self.speaker.changed(owner);
            if !owner.is_empty() {
                outcome.calls.push(manager("Subscribe", &())?);
                outcome.calls.extend(self.say_the_rest()?);
            }
        }
        // Another's would end the wait for a job that still runs: for units that read where the host is about to.
        if let News::JobRemoved { job, unit, result } = &signal.news
            && self.speaker.is(signal.sender)
        {
            self.order_ended(job.as_str(), result);
            outcome.events.extend(self.quiesce_ended(job.as_str(), unit, result));
        }
        Ok(outcome)
    }

    /// Nothing is waited for: systemd bounds its jobs itself, and a host's Set has `ack_cap`.
    fn tick(&mut self, _now: Moment) -> zbus::Result<Outcome> {
        Ok(Outcome::default())
    }

    fn wake_at(&self) -> Option<Time> {
        None
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
    use crate::adapters::dbus::{
        doubles::{failed, reply, serial},
        names::BUS,
        peer::MOST_OF_ONE,
    };

    fn systemd() -> Systemd {
        let units = vec!["a.service".to_owned(), "b.service".to_owned()];
        Systemd::new(Vec::new(), vec![Vec::new(), units])
    }

    fn removed(sender: &'static str, job: &str) -> Message {
        let job = ObjectPath::try_from(job).unwrap();
        Message::signal(SYSTEMD_PATH, MANAGER, "JobRemoved")
            .sender(sender)
            .build(&(1_u32, job, "a.service", "done"))
            .unwrap()
    }

    /// Returns the events of this reply; `None` if nobody asked.
    fn returned(systemd: &mut Systemd, call: &Message, reply: &Message) -> Option<Vec<(HostIndex, Event)>> {
        Some(systemd.returned(serial(call), reply)?.unwrap().events)
    }

    fn ended(systemd: &mut Systemd, job: &str) -> Vec<(HostIndex, Event)> {
        systemd.hear(&removed(":1.0", job)).unwrap().events
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
    fn nobody_but_systemd_says_that_a_job_has_ended() {
        let mut systemd = systemd();
        let calls = systemd.quiesce(1, Epoch(5)).unwrap();
        for (call, job) in calls.iter().zip(["/job/1", "/job/2"]) {
            let job = ObjectPath::try_from(job).unwrap();
            assert_eq!(returned(&mut systemd, call, &reply(call, ":1.0", &job)), Some(Vec::new()));
        }
        assert_eq!(ended(&mut systemd, "/job/1"), []);
        assert_eq!(systemd.hear(&removed(":1.66", "/job/2")).unwrap().events, []);
        // Nor one that says it is systemd now.
        let claim = |sender: &'static str, new: &str| {
            let signal = Message::signal("/org/freedesktop/DBus", BUS, "NameOwnerChanged").sender(sender);
            signal.build(&(SYSTEMD, "", new)).unwrap()
        };
        systemd.hear(&claim(":1.66", ":1.66")).unwrap();
        assert_eq!(systemd.hear(&removed(":1.66", "/job/2")).unwrap().events, []);
        // Systemd has executed itself anew: it has another connection, and the same jobs.
        let again = systemd.hear(&claim(BUS, ":1.7")).unwrap().calls;
        assert_eq!(again[0].header().member().unwrap().as_str(), "Subscribe");
        assert_eq!(systemd.hear(&removed(":1.0", "/job/2")).unwrap().events, []);
        let quiet = systemd.hear(&removed(":1.7", "/job/2")).unwrap().events;
        assert_eq!(quiet, [(1, Event::Quiesced { epoch: Epoch(5) })]);
    }

    #[test]
    fn a_systemd_that_does_not_answer_is_told_the_last_order_when_it_does() {
        let targets =
            Targets { s0: vec!["s0".to_owned()], s2: vec!["s2".to_owned()], s5: vec!["s5".to_owned()] };
        let mut systemd = Systemd::new(vec![targets], vec![vec!["a.service".to_owned()]]);
        let mut sent = Vec::new();
        for _ in 0..1000 {
            sent.extend(systemd.order(0, UnitOrder::Start(Target::S0)).unwrap());
            sent.extend(systemd.unquiesce(0).unwrap());
        }
        assert_eq!(sent.len(), 2 * MOST_OF_ONE);
        let job = ObjectPath::try_from("/job/1").unwrap();
        let last = sent.last().unwrap();
        let after = systemd.returned(serial(last), &reply(last, ":1.0", &job)).unwrap().unwrap().calls;
        let unit = |call: &Message| call.body().deserialize::<(String, String)>().unwrap().0;
        assert_eq!(after.iter().map(unit).collect::<Vec<_>>(), ["a.service"]);
        let last = sent.iter().rev().find(|call| unit(call) == "s0").unwrap();
        let after = systemd.returned(serial(last), &reply(last, ":1.0", &job)).unwrap().unwrap().calls;
        assert_eq!(after.iter().map(unit).collect::<Vec<_>>(), ["s0"]);
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
