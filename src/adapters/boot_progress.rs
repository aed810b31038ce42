// SPDX-License-Identifier: Apache-2.0
//! Writes `State.Boot.Progress` where somebody has it, and hears what the firmware says there (openbmc 6).
//!
//! Owns: which value is ours. Must never: put anything on `state/host<N>` (a second owner there breaks scripts), write where
//! nobody asked for it, or decide what may be written: that is the machine's.
//!
//! phosphor-state-manager keeps the stage over a reboot of the BMC, and acts upon one that it finds then (`host_reset_recovery.cpp`,
//! `wasHostBooting`, as of August 2026): hence the key `write_boot_progress`, and [`BootProgress::release`].
//!
//! phosphor-state-manager stamps `BootProgressLastUpdate` itself; an owner that does not is recognised by the stamp not having
//! changed, and is helped. A POST code at `state/boot/raw<N>` is a sign of life, whatever it says.

use std::{
    num::NonZeroU32,
    time::{SystemTime, UNIX_EPOCH},
};

use zbus::{Message, Variant};

use crate::{
    adapters::dbus::{
        known_properties::{KnownProperties, Plain, Told},
        peer::{Moment, Noted, Outcome, Peer, Pending, Says, earlier, error_of},
        signal::Signal,
    },
    logic::{effect::BootStage, event::Event, patience::Backoff, time::Time},
    shell::permits::HostIndex,
};

const PROGRESS: &str = "xyz.openbmc_project.State.Boot.Progress";
const STAGE: &str = "BootProgress";
const LAST_UPDATE: &str = "BootProgressLastUpdate";
const RAW: &str = "xyz.openbmc_project.State.Boot.Raw";

/// The prefix of every value of the enum.
const STAGES: &str = "xyz.openbmc_project.State.Boot.Progress.ProgressStages.";

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
    Raw,
}

/// The subject of a reply, host by host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaited {
    Written(HostIndex),
    Stamp(HostIndex),
    Stamped(HostIndex),
}

#[derive(Debug)]
struct Progress {
    stage: usize,
    last_update: usize,
    /// The stage that we wrote last.
    ours: Option<BootStage>,
    /// Somebody else has written since.
    theirs: bool,
    /// The stage that we wrote before that: its signal may come after our next write.
    earlier: Option<BootStage>,
    /// The stamp before the last write.
    before: Option<u64>,
    /// The stage that was ordered while nobody had the property, or that could not be written.
    unsaid: Option<BootStage>,
    retry: Backoff,
    /// The value that was seen last.
    seen: Option<String>,
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
            watched.add(&format!("/xyz/openbmc_project/state/boot/raw{id}"), RAW, "Value");
            roles.extend([(host, Role::Stage), (host, Role::LastUpdate), (host, Role::Raw)]);
            Progress {
                stage,
                last_update,
                ours: None,
                theirs: false,
                earlier: None,
                before: None,
                unsaid: None,
                retry: Backoff::NONE,
                seen: None,
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
        let Some(call) = self.watched.set(of.stage, Variant::from(value))? else {
            of.unsaid = Some(stage);
            let path = self.watched.path(of.stage);
            self.noted.once("absent", || {
                tracing::info!("nobody has {PROGRESS} at {path}; Redfish will not show boot progress");
            });
            return Ok(Vec::new());
        };
        if of.ours != Some(stage) {
            of.earlier = of.ours;
        }
        (of.ours, of.theirs, of.before, of.unsaid) = (Some(stage), false, before, None);
        // Only the newest write counts.
        self.awaited.forget(|asked| *asked == Awaited::Written(host));
        let call = self.awaited.send(call, Awaited::Written(host));
        if call.is_none() {
            self.not_written(host);
        }
        Ok(call.into_iter().collect())
    }

    /// The daemon ends, perhaps with the BMC: a stage of ours that is still there is taken back.
    pub(crate) fn release(&mut self) -> zbus::Result<Vec<Message>> {
        let still_ours = |(_, of): &(HostIndex, &Progress)| {
            !of.theirs && of.ours.is_some_and(|stage| stage != BootStage::Unspecified)
        };
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
            of.unsaid = of.ours;
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
                (Role::Stage, Some(Plain::Text(value))) => self.stage_is(host, value, &mut outcome)?,
                // A code that is read may be of an earlier boot; a code that is signalled is new.
                (Role::Raw, Some(_)) if by_signal => outcome.events.push((host, Event::SignOfLife)),
                (Role::Stage | Role::LastUpdate | Role::Raw, _) => {}
            }
        }
        Ok(outcome)
    }

    fn stage_is(&mut self, host: HostIndex, value: String, outcome: &mut Outcome) -> zbus::Result<()> {
        let Some(of) = self.hosts.get_mut(host) else { return Ok(()) };
        let named = value.strip_prefix(STAGES).unwrap_or_default().to_owned();
        if of.seen.replace(value.clone()) == Some(value) {
            return Ok(());
        }
        let unspecified = named == name(BootStage::Unspecified);
        let earlier = of.earlier.map(name) == Some(named.as_str());
        if of.ours.map(name) != Some(named.as_str()) && !earlier && !unspecified {
            of.theirs = true;
            outcome.events.push((host, Event::BootProgressByOthers));
        }
        // The stage could not be written before; it is now, unless somebody else has reported more.
        if let Some(stage) = of.unsaid.take()
            && (unspecified || earlier || stage == BootStage::Unspecified)
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
        Some(Plain::Bool(_) | Plain::Double(_) | Plain::Text(_) | Plain::Other) | None => None,
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
    use crate::adapters::dbus::doubles::{calls, changed, failed, owned_by, reply, serial};

    const HOST: &str = "/xyz/openbmc_project/state/host0";
    const POST: &str = "/xyz/openbmc_project/state/boot/raw0";
    const PSM: &str = ":1.4";

    fn dbus(stage: &str) -> Variant<'static> {
        Variant::from(format!("{STAGES}{stage}"))
    }

    /// Answered by somebody who has the progress at `stage`, and POST codes.
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
                    LAST_UPDATE => Variant::U64(100),
                    _ => Variant::from(1_i32),
                };
                progress.returned(serial(get), &reply(get, PSM, &value)).unwrap().unwrap();
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
            other @ (Plain::Bool(_) | Plain::Double(_) | Plain::Other) => panic!("{other:?}"),
        };
        (property.to_owned(), text)
    }

    #[test]
    fn what_we_write_is_ours_and_all_else_is_another_writers() {
        let mut progress = running("Unspecified");
        let written = progress.write(0, BootStage::PrimaryProcInit).unwrap();
        assert_eq!(set(&written[0]), (STAGE.to_owned(), "PrimaryProcInit".to_owned()));
        assert_eq!(signal(&mut progress, "PrimaryProcInit"), []);
        assert_eq!(signal(&mut progress, "MemoryInit"), [(0, Event::BootProgressByOthers)]);
        assert_eq!(signal(&mut progress, "MemoryInit"), []);
        assert_eq!(signal(&mut progress, "Unspecified"), []);
        // Two in a row.
        progress.write(0, BootStage::PrimaryProcInit).unwrap();
        progress.write(0, BootStage::OSStart).unwrap();
        assert_eq!(signal(&mut progress, "PrimaryProcInit"), []);
        assert_eq!(signal(&mut progress, "OSStart"), []);
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
            late.hosts[0].seen = None;
            late.hosts[0].unsaid = Some(BootStage::PrimaryProcInit);
            let signal = changed(PSM, HOST, PROGRESS, STAGE, dbus(stage));
            let outcome = late.hear(&signal).unwrap();
            assert_eq!(calls(&outcome.calls, "Set").len(), said, "{stage}");
        }
    }

    #[test]
    fn a_post_code_is_a_sign_of_life_and_an_old_one_is_not() {
        // `running` has read one.
        let mut progress = running("Unspecified");
        let code = changed(PSM, POST, RAW, "Value", Variant::from(7_i32));
        assert_eq!(progress.hear(&code).unwrap().events, [(0, Event::SignOfLife)]);
        let strangers = changed(":1.99", POST, RAW, "Value", Variant::from(7_i32));
        assert_eq!(progress.hear(&strangers).unwrap().events, []);
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
    }

    #[test]
    fn an_error_is_no_progress_and_no_harm() {
        let mut progress = running("Unspecified");
        let written = progress.write(0, BootStage::OSStart).unwrap();
        let after = progress.returned(serial(&written[0]), &failed(&written[0])).unwrap().unwrap();
        assert!(after.calls.is_empty() && after.events.is_empty());
    }
}
