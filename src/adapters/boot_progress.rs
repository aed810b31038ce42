// SPDX-License-Identifier: Apache-2.0
//! Writes `State.Boot.Progress` where somebody has it, and hears what the firmware says there (contract 6).
//!
//! Owns: which value is ours. Must never: put anything on `state/host<N>` (a second owner there breaks scripts), write where
//! nobody asked for it, or decide what may be written: that is the machine's.
//!
//! phosphor-state-manager stamps `BootProgressLastUpdate` itself; an owner that does not is recognised by the stamp not having
//! changed, and is helped. A POST code at `state/boot/raw<N>` is a sign of life, whatever it says.

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    time::{SystemTime, UNIX_EPOCH},
};

use zbus::{Message, Variant, message::Type};

use crate::{
    adapters::{
        peer::{Outcome, Peer, Pending},
        watched::{Plain, Told, Watched},
    },
    logic::{machine::Event, policy::BootStage},
    shell::permits::HostIndex,
};

const PROGRESS: &str = "xyz.openbmc_project.State.Boot.Progress";
const STAGE: &str = "BootProgress";
const LAST_UPDATE: &str = "BootProgressLastUpdate";
const RAW: &str = "xyz.openbmc_project.State.Boot.Raw";

/// What every value of the enum begins with.
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

/// What a reply is about, host by host, with the stamp before the write.
#[derive(Debug)]
enum Awaited {
    Written(HostIndex, Option<u64>),
    Stamp(HostIndex, Option<u64>),
    Stamped,
}

#[derive(Debug)]
struct Host {
    stage: usize,
    last_update: usize,
    /// What we wrote last.
    ours: Option<BootStage>,
    /// What was ordered while nobody had it.
    unsaid: Option<BootStage>,
    /// What was seen last.
    seen: Option<String>,
}

/// The progress of all hosts.
#[derive(Debug)]
pub(crate) struct BootProgress {
    hosts: Vec<Host>,
    watched: Watched,
    roles: Vec<(HostIndex, Role)>,
    awaited: Pending<Awaited>,
    noted: BTreeSet<String>,
}

impl BootProgress {
    /// For the hosts of these ids.
    pub(crate) fn new(ids: impl Iterator<Item = u32>) -> Self {
        let mut watched = Watched::default();
        let mut roles = Vec::new();
        let hosts = ids.enumerate().map(|(host, id)| {
            let path = format!("/xyz/openbmc_project/state/host{id}");
            let stage = watched.add(&path, PROGRESS, STAGE);
            let last_update = watched.add(&path, PROGRESS, LAST_UPDATE);
            watched.add(&format!("/xyz/openbmc_project/state/boot/raw{id}"), RAW, "Value");
            roles.extend([(host, Role::Stage), (host, Role::LastUpdate), (host, Role::Raw)]);
            Host { stage, last_update, ours: None, unsaid: None, seen: None }
        });
        let hosts = hosts.collect();
        Self { hosts, watched, roles, awaited: Pending::default(), noted: BTreeSet::new() }
    }

    /// Writes this stage, now or when somebody has the property.
    pub(crate) fn write(&mut self, host: HostIndex, stage: BootStage) -> zbus::Result<Vec<Message>> {
        let Some(of) = self.hosts.get_mut(host) else { return Ok(Vec::new()) };
        let value = format!("{STAGES}{}", name(stage));
        let before = stamp(self.watched.value(of.last_update));
        let Some(call) = self.watched.set(of.stage, Variant::from(value))? else {
            of.unsaid = Some(stage);
            let path = self.watched.path(of.stage);
            if self.noted.insert("absent".to_owned()) {
                tracing::info!("nobody has {PROGRESS} at {path}; Redfish will not show boot progress");
            }
            return Ok(Vec::new());
        };
        (of.ours, of.unsaid) = (Some(stage), None);
        self.awaited.add(&call, Awaited::Written(host, before));
        Ok(vec![call])
    }

    fn answered(&mut self, what: &Awaited, reply: &Message, outcome: &mut Outcome) -> zbus::Result<()> {
        let good = reply.message_type() == Type::MethodReturn;
        match *what {
            Awaited::Written(host, before) if good => {
                let item = self.hosts.get(host).map_or(0, |host| host.last_update);
                if let Some(get) = self.watched.get(item)? {
                    self.awaited.add(&get, Awaited::Stamp(host, before));
                    outcome.calls.push(get);
                }
            }
            Awaited::Stamp(host, before) if good => {
                let body = reply.body();
                let now = body.deserialize::<Variant<'_>>().ok();
                let stamped = stamp(now.as_ref().map(Plain::of).as_ref());
                let item = self.hosts.get(host).map_or(0, |host| host.last_update);
                if stamped.is_some()
                    && stamped == before
                    && let Some(set) = self.watched.set(item, Variant::U64(wall_clock()))?
                {
                    self.awaited.add(&set, Awaited::Stamped);
                    outcome.calls.push(set);
                }
            }
            // Without a stamp there is none to help with.
            Awaited::Stamp(..) => {}
            Awaited::Stamped if good => {}
            Awaited::Written(..) | Awaited::Stamped => {
                let header = reply.header();
                let error = header.error_name().map_or("", |name| name.as_str()).to_owned();
                if self.noted.insert(error.clone()) {
                    tracing::warn!("boot progress cannot be written: {error}");
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, told: Told, by_signal: bool) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::of(told.calls);
        for (item, value) in told.news {
            let Some((host, role)) = self.roles.get(item).copied() else { continue };
            match (role, value) {
                (Role::Stage, Some(Plain::Text(value))) => self.stage_is(host, value, &mut outcome)?,
                // What is read may be a code of an earlier boot; what is signalled is new.
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
        if of.ours.map(name) != Some(named.as_str()) && !unspecified {
            outcome.events.push((host, Event::BootProgressByOthers));
        }
        // What could not be said before, unless somebody else has said more.
        if let Some(stage) = of.unsaid.take()
            && (unspecified || stage == BootStage::Unspecified)
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
        Some(self.answered(&what, reply, &mut outcome).map(|()| outcome))
    }

    fn signalled(&mut self, signal: &Message) -> zbus::Result<Outcome> {
        let told = self.watched.signalled(signal)?;
        self.take(told, true)
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
    use crate::adapters::watched::doubles::{calls, changed, failed, owned_by, reply, serial};

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
        progress.signalled(&signal).unwrap().events
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
            let outcome = late.signalled(&signal).unwrap();
            assert_eq!(calls(&outcome.calls, "Set").len(), said, "{stage}");
        }
    }

    #[test]
    fn a_post_code_is_a_sign_of_life_and_an_old_one_is_not() {
        // `running` has read one.
        let mut progress = running("Unspecified");
        let code = changed(PSM, POST, RAW, "Value", Variant::from(7_i32));
        assert_eq!(progress.signalled(&code).unwrap().events, [(0, Event::SignOfLife)]);
        let strangers = changed(":1.99", POST, RAW, "Value", Variant::from(7_i32));
        assert_eq!(progress.signalled(&strangers).unwrap().events, []);
    }

    #[test]
    fn an_error_is_no_progress_and_no_harm() {
        let mut progress = running("Unspecified");
        let written = progress.write(0, BootStage::OSStart).unwrap();
        let after = progress.returned(serial(&written[0]), &failed(&written[0])).unwrap().unwrap();
        assert!(after.calls.is_empty() && after.events.is_empty());
    }
}
