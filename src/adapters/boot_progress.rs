// SPDX-License-Identifier: Apache-2.0
//! Writes `State.Boot.Progress` where somebody has it, and hears what the firmware says there (openbmc 6).
//!
//! Owns: which value is ours. Must never: put anything on `state/host<N>` (a second owner there breaks scripts), write where
//! nobody asked for it, or decide what may be written: that is the machine's.
//!
//! A word is a signal: each of the owner's that carries a stage, the one seen before too. A value that is read, whatever the reason, is none:
//! phosphor-state-manager restores the stage of an earlier boot, without its stamp (`host_state_manager.hpp`, `load`).
//!
//! Ours is the one signal with our value that arrives between our Set and its reply; every other is by others. Services of sdbusplus
//! send it inside the Set, before the reply, and send none if the value is the same (sdbusplus `tools/sdbusplus/templates/property.server.cpp.mako`;
//! `asio/object_server.hpp`, `set_handler`).
//!
//! phosphor-state-manager keeps the stage over a reboot of the BMC, and acts upon one that it finds then (`host_reset_recovery.cpp`,
//! `wasHostBooting`, as of August 2026): hence the key `write_boot_progress`, and [`BootProgress::release`].
//!
//! phosphor-state-manager stamps `BootProgressLastUpdate` itself; an owner that does not is recognised by the stamp not having
//! changed, and is helped.

use std::{
    num::NonZeroU32,
    time::{SystemTime, UNIX_EPOCH},
};

use zbus::{Message, Variant};

use crate::{
    adapters::dbus::{
        calls::serial_of,
        known_properties::{KnownProperties, Plain, Told},
        peer::{Moment, Noted, Outcome, Peer, Pending, Says, earlier, error_of},
        signal::Signal,
    },
    logic::{
        effect::BootStage,
        event::Event,
        evidence::{STAGES, Stage},
        patience::Backoff,
        time::Time,
    },
    shell::permits::HostIndex,
};

const PROGRESS: &str = "xyz.openbmc_project.State.Boot.Progress";
const STAGE: &str = "BootProgress";
const LAST_UPDATE: &str = "BootProgressLastUpdate";

const fn name(stage: BootStage) -> &'static str {
    match stage {
        BootStage::Unspecified => "Unspecified",
        BootStage::PrimaryProcInit => "PrimaryProcInit",
        BootStage::OSStart => "OSStart",
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Stage,
    LastUpdate,
}

/// The subject of a reply, host by host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaited {
    Written(HostIndex),
    Stamp(HostIndex),
    Stamped(HostIndex),
}

/// A Set of ours that has no reply yet, however late that is: the bus gives one when the service leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Write {
    serial: NonZeroU32,
    stage: BootStage,
    /// Its signal has come.
    signalled: bool,
    /// Somebody else's has, since it was sent.
    overtaken: bool,
}

#[derive(Debug)]
struct Progress {
    stage: usize,
    last_update: usize,
    /// The stage of ours that stands there, as far as is known.
    ours: Option<BootStage>,
    /// Our Sets that have no reply, in order.
    writes: Vec<Write>,
    /// The stage that was ordered last.
    ordered: Option<BootStage>,
    /// The stamp before the last write.
    before: Option<u64>,
    /// The stage that was ordered while nobody had the property, or that could not be written.
    unsaid: Option<BootStage>,
    retry: Backoff,
}

impl Progress {
    /// This value was read: true if it is one of ours. It may be one whose Set was carried out and never answered well.
    fn found(&mut self, named: &str) -> bool {
        let written = self.writes.iter().map(|write| write.stage);
        self.ours = self.ours.into_iter().chain(written).chain(self.unsaid).find(|ours| name(*ours) == named);
        self.ours.is_some()
    }

    /// Whether a stage of ours may stand there, now or when our Sets have been carried out.
    fn may_stand(&self) -> bool {
        let stage = |stage: BootStage| stage != BootStage::Unspecified;
        match self.writes.iter().rev().find(|write| !write.signalled) {
            Some(write) => stage(write.stage),
            None => self.ours.into_iter().chain(self.unsaid).any(stage),
        }
    }

    /// This value was signalled: true if that is what a Set of ours has done.
    fn signalled(&mut self, named: &str) -> bool {
        let ours = self.writes.iter_mut().find(|write| !write.signalled && name(write.stage) == named);
        self.ours = ours.map(|write| {
            write.signalled = true;
            write.stage
        });
        if self.ours.is_none() {
            self.writes.iter_mut().for_each(|write| write.overtaken = true);
        }
        self.ours.is_some()
    }

    /// This Set has a reply. Services answer in order: those before it will have none.
    fn replied(&mut self, serial: NonZeroU32, good: bool) {
        let Some(at) = self.writes.iter().position(|write| write.serial == serial) else { return };
        // The value was there before: whose it was is not known, and it is taken back at the end as ours.
        if let Some(write) = self.writes.drain(..=at).next_back()
            && good
            && !write.signalled
            && !write.overtaken
        {
            self.ours = Some(write.stage);
        }
    }
}

/// The progress of all hosts.
#[derive(Debug)]
pub(crate) struct BootProgress {
    hosts: Vec<Progress>,
    watched: KnownProperties,
    roles: Vec<(HostIndex, Role)>,
    awaited: Pending<Awaited>,
    noted: Noted,
}

impl BootProgress {
    /// For the hosts of these ids.
    pub(crate) fn new(ids: impl Iterator<Item = u32>) -> Self {
        let mut watched = KnownProperties::default();
        let mut roles = Vec::new();
        let hosts = ids.enumerate().map(|(host, id)| {
            let path = format!("/xyz/openbmc_project/state/host{id}");
            let stage = watched.add(&path, PROGRESS, STAGE);
            let last_update = watched.add(&path, PROGRESS, LAST_UPDATE);
            roles.extend([(host, Role::Stage), (host, Role::LastUpdate)]);
            Progress {
                stage,
                last_update,
                ours: None,
                writes: Vec::new(),
                ordered: None,
                before: None,
                unsaid: None,
                retry: Backoff::NONE,
            }
        });
        let hosts = hosts.collect();
        Self { hosts, watched, roles, awaited: Pending::default(), noted: Noted::default() }
    }

    /// Writes this stage, now or when somebody has the property.
    pub(crate) fn write(&mut self, host: HostIndex, stage: BootStage) -> zbus::Result<Vec<Message>> {
        let Some(of) = self.hosts.get_mut(host) else { return Ok(Vec::new()) };
        let value = format!("{STAGES}{}", name(stage));
        let before = stamp(self.watched.value(of.last_update));
        of.ordered = Some(stage);
        let Some(call) = self.watched.set(of.stage, Variant::from(value))? else {
            of.unsaid = Some(stage);
            let path = self.watched.path(of.stage);
            self.noted.once("absent", || {
                tracing::info!("nobody has {PROGRESS} at {path}; Redfish will not show boot progress");
            });
            return Ok(Vec::new());
        };
        (of.before, of.unsaid) = (before, None);
        // Only the newest write counts.
        self.awaited.forget(|asked| *asked == Awaited::Written(host));
        let call = self.awaited.send(call, Awaited::Written(host));
        match &call {
            Some(call) => {
                of.writes.push(Write { serial: serial_of(call), stage, signalled: false, overtaken: false });
            }
            None => self.not_written(host),
        }
        Ok(call.into_iter().collect())
    }

    /// The daemon ends, perhaps with the BMC: a stage of ours that is still there is taken back.
    pub(crate) fn release(&mut self) -> zbus::Result<Vec<Message>> {
        let still_ours = |(_, of): &(HostIndex, &Progress)| of.may_stand();
        let all: Vec<_> = self.hosts.iter().enumerate().filter(still_ours).map(|(host, _)| host).collect();
        let mut calls = Vec::new();
        for host in all {
            calls.extend(self.write(host, BootStage::Unspecified)?);
        }
        Ok(calls)
    }

    /// Notes that the stage is to be written again later, unless somebody else has reported more by then.
    fn not_written(&mut self, host: HostIndex) {
        if let Some(of) = self.hosts.get_mut(host) {
            of.unsaid = of.ordered;
            of.retry.failed();
        }
    }

    /// An answer, or that there is none.
    fn answered(
        &mut self,
        what: Awaited,
        reply: Option<&Message>,
        outcome: &mut Outcome,
    ) -> zbus::Result<()> {
        let good = Says::of(reply) == Says::Good;
        let body = reply.filter(|_| good).map(Message::body);
        match what {
            Awaited::Written(host) if good => {
                let Some(of) = self.hosts.get_mut(host) else { return Ok(()) };
                of.retry.reset();
                if let Some(get) = self.watched.get(of.last_update)? {
                    outcome.calls.extend(self.awaited.send(get, Awaited::Stamp(host)));
                }
            }
            Awaited::Stamp(host) => {
                // Without a stamp there is none to help with.
                let now = body.as_ref().and_then(|body| body.deserialize::<Variant<'_>>().ok());
                let stamped = stamp(now.as_ref().map(Plain::of).as_ref());
                let Some(of) = self.hosts.get(host) else { return Ok(()) };
                if stamped.is_some()
                    && stamped == of.before
                    && let Some(set) = self.watched.set(of.last_update, Variant::U64(wall_clock()))?
                {
                    outcome.calls.extend(self.awaited.send(set, Awaited::Stamped(host)));
                }
            }
            Awaited::Stamped(_) if good => {}
            Awaited::Written(host) => {
                self.refused(reply);
                self.not_written(host);
            }
            Awaited::Stamped(_) => self.refused(reply),
        }
        Ok(())
    }

    fn refused(&mut self, reply: Option<&Message>) {
        let error = error_of(reply);
        self.noted.once(&error, || tracing::warn!("boot progress cannot be written: {error}"));
    }

    fn take(&mut self, told: Told, by_signal: bool) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::of(told.calls);
        for (item, value) in told.news {
            let Some((host, role)) = self.roles.get(item).copied() else { continue };
            match (role, value) {
                (Role::Stage, Some(Plain::Text(value))) => {
                    self.stage_is(host, &value, by_signal, &mut outcome)?;
                }
                (Role::Stage | Role::LastUpdate, _) => {}
            }
        }
        Ok(outcome)
    }

    fn stage_is(
        &mut self,
        host: HostIndex,
        value: &str,
        by_signal: bool,
        outcome: &mut Outcome,
    ) -> zbus::Result<()> {
        let Some(of) = self.hosts.get_mut(host) else { return Ok(()) };
        let named = value.strip_prefix(STAGES).unwrap_or_default();
        let ours = if by_signal { of.signalled(named) } else { of.found(named) };
        if by_signal && !ours {
            outcome.events.extend(Stage::from_dbus(value).map(|stage| (host, Event::Progress(stage))));
        }
        // The stage could not be written before; it is now, unless somebody else has reported more.
        if let Some(stage) = of.unsaid.take()
            && (ours || named == name(BootStage::Unspecified) || stage == BootStage::Unspecified)
            && name(stage) != named
        {
            outcome.calls.extend(self.write(host, stage)?);
        }
        Ok(())
    }
}

impl Peer for BootProgress {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        self.watched.start()
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        if let Some(told) = self.watched.returned(serial, reply) {
            return Some(told.and_then(|told| self.take(told, false)));
        }
        for of in &mut self.hosts {
            of.replied(serial, Says::of(Some(reply)) == Says::Good);
        }
        let what = self.awaited.take(serial)?;
        let mut outcome = Outcome::default();
        Some(self.answered(what, Some(reply), &mut outcome).map(|()| outcome))
    }

    fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome> {
        let told = self.watched.signalled(signal)?;
        self.take(told, true)
    }

    fn tick(&mut self, now: Moment) -> zbus::Result<Outcome> {
        let told = self.watched.tick(now)?;
        let mut outcome = self.take(told, false)?;
        for what in self.awaited.unanswered(now) {
            self.answered(what, None, &mut outcome)?;
        }
        for host in 0..self.hosts.len() {
            let Some(of) = self.hosts.get_mut(host) else { continue };
            if of.retry.tick(now.now)
                && let Some(stage) = of.unsaid
            {
                outcome.calls.extend(self.write(host, stage)?);
            }
        }
        Ok(outcome)
    }

    fn wake_at(&self) -> Option<Time> {
        let retries = self.hosts.iter().filter_map(|of| of.retry.wake_at()).min();
        earlier(earlier(self.awaited.wake_at(), self.watched.wake_at()), retries)
    }
}

fn stamp(value: Option<&Plain>) -> Option<u64> {
    match value {
        Some(Plain::Unsigned(stamp)) => Some(*stamp),
        Some(Plain::Bool(_) | Plain::Double(_) | Plain::Text(_) | Plain::Code(_) | Plain::Other) | None => {
            None
        }
    }
}

/// Microseconds since 1970.
fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::dbus::{
        doubles::{calls, changed, failed, owned_by, owner, reply, serial},
        peer::moment,
    };

    const HOST: &str = "/xyz/openbmc_project/state/host0";
    const PSM: &str = ":1.4";

    fn dbus(stage: &str) -> Variant<'static> {
        Variant::from(format!("{STAGES}{stage}"))
    }

    /// Answered by somebody who has the progress at `stage`.
    fn running(stage: &str) -> BootProgress {
        let mut progress = BootProgress::new([0].into_iter());
        let begin = progress.start().unwrap();
        for question in calls(&begin, "GetObject") {
            let answer = owned_by(question, "xyz.openbmc_project.State.Host");
            let outcome = progress.returned(serial(question), &answer).unwrap().unwrap();
            for get in calls(&outcome.calls, "Get") {
                let body = get.body();
                let value = match body.deserialize::<(&str, &str)>().unwrap().1 {
                    STAGE => dbus(stage),
                    _ => Variant::U64(100),
                };
                let read = progress.returned(serial(get), &reply(get, PSM, &value)).unwrap().unwrap();
                assert_eq!(read.events, [], "what is read is no word");
            }
        }
        progress
    }

    fn signal(progress: &mut BootProgress, stage: &str) -> Vec<(HostIndex, Event)> {
        let signal = changed(PSM, HOST, PROGRESS, STAGE, dbus(stage));
        progress.hear(&signal).unwrap().events
    }

    fn set(call: &Message) -> (String, String) {
        let body = call.body();
        let (_, property, value): (&str, &str, Variant<'_>) = body.deserialize().unwrap();
        let text = match Plain::of(&value) {
            Plain::Text(text) => text.strip_prefix(STAGES).unwrap().to_owned(),
            Plain::Unsigned(number) => number.to_string(),
            other @ (Plain::Bool(_) | Plain::Double(_) | Plain::Code(_) | Plain::Other) => {
                panic!("{other:?}")
            }
        };
        (property.to_owned(), text)
    }

    const EARLY: [(HostIndex, Event); 1] = [(0, Event::Progress(Stage::Early))];

    /// The owner has carried a Set out, whether that is still waited for or not.
    fn carried_out(progress: &mut BootProgress, call: &Message) {
        let outcome = progress.returned(serial(call), &reply(call, PSM, &()));
        assert!(outcome.is_none_or(|outcome| outcome.unwrap().events.is_empty()));
    }

    #[test]
    fn every_signal_is_a_word() {
        let mut progress = running("MemoryInit");
        for (value, event) in [
            ("MemoryInit", Some(Stage::Early)),
            ("MemoryInit", Some(Stage::Early)),
            ("Unspecified", None),
            ("SystemInitComplete", Some(Stage::SystemInitComplete)),
            ("OEM", Some(Stage::Oem)),
            ("Later", Some(Stage::Oem)),
            ("OSRunning", Some(Stage::OsRunning)),
        ] {
            let event: Vec<_> = event.into_iter().map(|stage| (0, Event::Progress(stage))).collect();
            assert_eq!(signal(&mut progress, value), event, "{value}");
        }
        // Of another enum, of another type, by somebody else.
        for (who, value, events) in [
            (PSM, Variant::from("OSRunning"), 1),
            (PSM, Variant::U64(3), 0),
            (":1.99", dbus("MemoryInit"), 0),
        ] {
            let signal = changed(who, HOST, PROGRESS, STAGE, value);
            assert_eq!(progress.hear(&signal).unwrap().events.len(), events);
        }
    }

    /// The owner says that there is another value and not which: what it answers then is read.
    #[test]
    fn what_is_read_again_is_no_word() {
        let mut progress = running("Unspecified");
        let body = (PROGRESS, std::collections::BTreeMap::<&str, Variant<'_>>::new(), vec![STAGE]);
        let signal = Message::signal(HOST, "org.freedesktop.DBus.Properties", "PropertiesChanged");
        let outcome = progress.hear(&signal.sender(PSM).build(&body).unwrap()).unwrap();
        let [get] = calls(&outcome.calls, "Get")[..] else { panic!("{outcome:?}") };
        let read = progress.returned(serial(get), &reply(get, PSM, &dbus("MemoryInit"))).unwrap().unwrap();
        assert_eq!(read.events, []);
    }

    #[test]
    fn ours_is_the_signal_between_our_set_and_its_reply() {
        let mut progress = running("Unspecified");
        let written = progress.write(0, BootStage::PrimaryProcInit).unwrap();
        assert_eq!(set(&written[0]), (STAGE.to_owned(), "PrimaryProcInit".to_owned()));
        assert_eq!(signal(&mut progress, "PrimaryProcInit"), []);
        // One signal for one Set.
        assert_eq!(signal(&mut progress, "PrimaryProcInit"), EARLY);
        carried_out(&mut progress, &written[0]);
        assert_eq!(signal(&mut progress, "PrimaryProcInit"), EARLY);
        // The value stood there, and nobody signalled: with the reply it is over.
        let written = progress.write(0, BootStage::PrimaryProcInit).unwrap();
        carried_out(&mut progress, &written[0]);
        assert_eq!(signal(&mut progress, "PrimaryProcInit"), EARLY);
        // Another one's comes in between.
        let written = progress.write(0, BootStage::PrimaryProcInit).unwrap();
        assert_eq!(signal(&mut progress, "MemoryInit"), EARLY);
        assert_eq!(signal(&mut progress, "PrimaryProcInit"), []);
        carried_out(&mut progress, &written[0]);
        // Two in a row.
        let first = progress.write(0, BootStage::PrimaryProcInit).unwrap();
        let second = progress.write(0, BootStage::OSStart).unwrap();
        assert_eq!(signal(&mut progress, "PrimaryProcInit"), []);
        carried_out(&mut progress, &first[0]);
        assert_eq!(signal(&mut progress, "OSStart"), []);
        carried_out(&mut progress, &second[0]);
        assert_eq!(signal(&mut progress, "OSStart"), [(0, Event::Progress(Stage::OsStart))]);
    }

    /// A service that hangs for longer than it is waited for: its answer is late, and the signal before it is ours still.
    #[test]
    fn a_late_reply_ends_what_is_ours() {
        let mut progress = running("Unspecified");
        let written = progress.write(0, BootStage::PrimaryProcInit).unwrap();
        assert!(progress.tick(moment(0)).unwrap().calls.is_empty());
        assert!(progress.tick(moment(25)).unwrap().calls.is_empty(), "given up");
        assert_eq!(signal(&mut progress, "PrimaryProcInit"), []);
        assert!(progress.returned(serial(&written[0]), &reply(&written[0], PSM, &())).is_none(), "too late");
        assert_eq!(signal(&mut progress, "PrimaryProcInit"), EARLY);
    }

    #[test]
    fn an_owner_that_stamps_is_left_alone_and_one_that_does_not_is_helped() {
        for (stamp, helped) in [(200, false), (100, true)] {
            let mut progress = running("Unspecified");
            let written = progress.write(0, BootStage::OSStart).unwrap();
            let after =
                progress.returned(serial(&written[0]), &reply(&written[0], PSM, &())).unwrap().unwrap();
            let get = calls(&after.calls, "Get")[0];
            let after =
                progress.returned(serial(get), &reply(get, PSM, &Variant::U64(stamp))).unwrap().unwrap();
            let sets = calls(&after.calls, "Set");
            assert_eq!(sets.len(), usize::from(helped));
            if let [call] = sets[..] {
                let (property, value) = set(call);
                assert_eq!(property, LAST_UPDATE);
                assert!(value.parse::<u64>().unwrap() > 1_600_000_000_000_000);
            }
        }
    }

    #[test]
    fn without_an_owner_nothing_is_sent_until_there_is_one() {
        let mut progress = BootProgress::new([0].into_iter());
        let begin = progress.start().unwrap();
        for question in calls(&begin, "GetObject") {
            progress.returned(serial(question), &failed(question)).unwrap().unwrap();
        }
        assert!(progress.write(0, BootStage::PrimaryProcInit).unwrap().is_empty());
        for (stage, said) in [("Unspecified", 1), ("MemoryInit", 0)] {
            let mut late = running(stage);
            late.hosts[0].unsaid = Some(BootStage::PrimaryProcInit);
            let signal = changed(PSM, HOST, PROGRESS, STAGE, dbus(stage));
            let outcome = late.hear(&signal).unwrap();
            assert_eq!(calls(&outcome.calls, "Set").len(), said, "{stage}");
        }
    }

    #[test]
    fn what_is_ours_is_taken_back_and_nothing_else() {
        let mut progress = running("Unspecified");
        assert!(progress.release().unwrap().is_empty());
        // Whether it has been signalled or not.
        progress.write(0, BootStage::OSStart).unwrap();
        let taken_back = progress.release().unwrap();
        assert_eq!(set(&taken_back[0]), (STAGE.to_owned(), "Unspecified".to_owned()));
        signal(&mut progress, "OSRunning");
        assert!(progress.release().unwrap().is_empty());
        // Carried out, with a signal and without; and another one's after it, or while nothing of ours was to be changed.
        for (signals, others, taken_back) in [
            (&["OSStart"][..], None, 1),
            (&[], None, 1),
            (&["OSStart"], Some("OSRunning"), 0),
            (&["OSRunning"], None, 0),
            (&["OSRunning", "OSStart"], None, 1),
        ] {
            let mut progress = running("Unspecified");
            let written = progress.write(0, BootStage::OSStart).unwrap();
            for stage in signals {
                signal(&mut progress, stage);
            }
            carried_out(&mut progress, &written[0]);
            if let Some(stage) = others {
                signal(&mut progress, stage);
            }
            assert_eq!(progress.release().unwrap().len(), taken_back, "{signals:?} {others:?}");
        }
    }

    #[test]
    fn an_error_is_no_progress_and_no_harm() {
        let mut progress = running("Unspecified");
        let written = progress.write(0, BootStage::OSStart).unwrap();
        let after = progress.returned(serial(&written[0]), &failed(&written[0])).unwrap().unwrap();
        assert!(after.calls.is_empty() && after.events.is_empty());
        // It may have been carried out all the same: phosphor-state-manager ended behind it, and has restored it.
        assert_eq!(progress.release().unwrap().len(), 1);
        let mut progress = running("Unspecified");
        let written = progress.write(0, BootStage::OSStart).unwrap();
        progress.returned(serial(&written[0]), &failed(&written[0])).unwrap().unwrap();
        let outcome = progress.hear(&owner("xyz.openbmc_project.State.Host", ":1.12")).unwrap();
        for get in calls(&outcome.calls, "Get") {
            let property = get.body().deserialize::<(String, String)>().unwrap().1;
            let value = if property == STAGE { dbus("OSStart") } else { Variant::U64(100) };
            let read = progress.returned(serial(get), &reply(get, ":1.12", &value)).unwrap().unwrap();
            assert!(read.events.is_empty() && read.calls.is_empty(), "it stands there");
        }
        assert_eq!(progress.release().unwrap().len(), 1);
    }
}
