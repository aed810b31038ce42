// SPDX-License-Identifier: Apache-2.0
//! Event records beside the journal's own lines, each by configuration: Redfish, SEL, phosphor-logging (openbmc 7).
//!
//! Owns: what was written, so that it can be resolved. Must never: write more than its limits let through (both logs may be on flash),
//! or care whether anybody takes it.
//!
//! - *Redfish*: a journal line with `REDFISH_MESSAGE_ID`, which the machine's rsyslog puts where bmcweb reads. No registry has a
//!   message for ACPI states, so a transition is `ResourceStateChanged` (bmcweb at 7debb892, `redfish-core/include/registries/`; it
//!   replaces the version by its own). `BIOSBoot` is the end of POST there, not S2. `DCPowerOn` and `DCPowerOff` are power control's.
//! - *SEL*: `IpmiSelAdd`. A record of type 22h (System ACPI Power State) cannot be made upstream; the sensor path and
//!   the offsets are those that a fork, and perhaps upstream one day, makes one of.
//! - *phosphor-logging*: diagnoses only, one of a kind in each boot, resolved when over.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use zbus::{Message, ObjectPath, Variant, message::Type};

use crate::{
    adapters::dbus::{
        names::PROPERTIES,
        peer::{Moment, Noted, Outcome, Peer, Pending, Says, earlier, error_of},
        signal::Signal,
    },
    config::Events,
    logic::{
        acpi::AcpiState,
        diagnosis::{Diagnosis, Evidence},
        limit::{Bucket, OncePerBoot},
        patience::Backoff,
        time::Time,
    },
    shell::permits::HostIndex,
};

const SEL: &str = "xyz.openbmc_project.Logging.IPMI";
const SEL_PATH: &str = "/xyz/openbmc_project/Logging/IPMI";
/// The BMC as the generator of a record.
const GENERATOR: u16 = 0x0020;
const LOGGING: &str = "xyz.openbmc_project.Logging";
const LOGGING_PATH: &str = "/xyz/openbmc_project/logging";
const CREATE: &str = "xyz.openbmc_project.Logging.Create";
const ENTRY: &str = "xyz.openbmc_project.Logging.Entry";
/// The number of records that a boot needs, a few times over.
const MOST_AT_ONCE: u32 = 20;
/// And then one each: 1440 a day at most, of some 100 bytes.
const ONE_EACH: Duration = Duration::from_secs(60);
/// So many entries are resolved again when that failed.
const MOST_UNRESOLVED: usize = 64;

/// The offset of IPMI 2.0 table 42-3, sensor type 22h.
#[must_use]
const fn offset(state: AcpiState) -> u8 {
    match state {
        AcpiState::S0G0D0 => 0x00,
        AcpiState::S1D1 => 0x01,
        AcpiState::S2D2 => 0x02,
        AcpiState::S3D3 => 0x03,
        AcpiState::S4 => 0x04,
        AcpiState::S5G2 => 0x05,
        AcpiState::S4S5 => 0x06,
        AcpiState::G3 => 0x07,
        AcpiState::Sleep => 0x08,
        AcpiState::G1Sleep => 0x09,
        AcpiState::Override => 0x0a,
        AcpiState::LegacyOn => 0x0b,
        AcpiState::LegacyOff => 0x0c,
        AcpiState::Unknown => 0x0e,
    }
}

/// The Redfish message of a diagnosis: its id, and its arguments for the host's resource.
fn redfish(diagnosis: Diagnosis, resource: &str) -> (&'static str, String) {
    let name = diagnosis.name();
    match diagnosis {
        Diagnosis::NoCpuPower => ("OpenBMC.0.1.SystemPowerOnFailed", String::new()),
        Diagnosis::FirmwareSilent | Diagnosis::StuckInPost | Diagnosis::BootLoop | Diagnosis::MissingDimm => {
            ("OpenBMC.0.1.BIOSPOSTError", name.to_owned())
        }
        Diagnosis::NotWorking
        | Diagnosis::OsNotReported
        | Diagnosis::EarlyReport
        | Diagnosis::StaleReport
        | Diagnosis::BusStuck
        | Diagnosis::PostCompleteBogus
        | Diagnosis::RivalOwner
        | Diagnosis::UnguardedBus
        | Diagnosis::FailsafeConfig
        | Diagnosis::EvidenceMute
        | Diagnosis::BusSilent => ("ResourceEvent.1.0.ResourceErrorsDetected", format!("{resource},{name}")),
    }
}

/// How bad it is, for phosphor-logging.
const fn level(diagnosis: Diagnosis) -> &'static str {
    match diagnosis {
        Diagnosis::FirmwareSilent
        | Diagnosis::NoCpuPower
        | Diagnosis::StuckInPost
        | Diagnosis::NotWorking
        | Diagnosis::BootLoop
        | Diagnosis::MissingDimm => "xyz.openbmc_project.Logging.Entry.Level.Error",
        Diagnosis::OsNotReported
        | Diagnosis::EarlyReport
        | Diagnosis::StaleReport
        | Diagnosis::BusStuck
        | Diagnosis::PostCompleteBogus
        | Diagnosis::RivalOwner
        | Diagnosis::UnguardedBus
        | Diagnosis::FailsafeConfig
        | Diagnosis::EvidenceMute
        | Diagnosis::BusSilent => "xyz.openbmc_project.Logging.Entry.Level.Warning",
    }
}

/// An entry that phosphor-logging has, or will have.
#[derive(Debug)]
struct LogEntry {
    /// Once it has said so.
    path: Option<String>,
    /// The diagnosis was over before it said so.
    over: bool,
}

#[derive(Debug)]
struct HostLog {
    id: u32,
    transitions: Bucket,
    once: OncePerBoot,
    entries: BTreeMap<Diagnosis, LogEntry>,
}

/// The subject of a reply.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Awaited {
    Sel,
    Entry(HostIndex, Diagnosis),
    /// The entry at this path.
    Resolved(String),
}

/// The records of all hosts.
#[derive(Debug)]
pub(crate) struct EventLog {
    events: Events,
    hosts: Vec<HostLog>,
    began: Instant,
    awaited: Pending<Awaited>,
    /// The paths of entries that are to be resolved and are not known to be.
    unresolved: BTreeSet<String>,
    retry: Backoff,
    noted: Noted,
}

impl EventLog {
    /// For the hosts of these ids.
    pub(crate) fn new(events: Events, ids: impl Iterator<Item = u32>) -> Self {
        let hosts = ids.map(|id| HostLog {
            id,
            transitions: Bucket::new(MOST_AT_ONCE, ONE_EACH),
            once: OncePerBoot::default(),
            entries: BTreeMap::new(),
        });
        let hosts = hosts.collect();
        Self {
            events,
            hosts,
            began: Instant::now(),
            awaited: Pending::default(),
            unresolved: BTreeSet::new(),
            retry: Backoff::default(),
            noted: Noted::default(),
        }
    }

    /// Real time, on any clock: flash wears in real time.
    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The records of a transition.
    pub(crate) fn transition(
        &mut self,
        host: HostIndex,
        to: AcpiState,
        cause: &str,
    ) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        if !self.events.redfish && !self.events.sel {
            return Ok(calls);
        }
        let now = self.now();
        let Some(of) = self.hosts.get_mut(host) else { return Ok(calls) };
        let id = of.id;
        let Some(left_out) = of.transitions.take(now) else { return Ok(calls) };
        if left_out > 0 {
            tracing::warn!("host{id}: {left_out} event records were left out: too many in a short time");
        }
        if self.events.redfish {
            tracing::info!(
                redfish_message_id = "ResourceEvent.1.0.ResourceStateChanged",
                redfish_message_args = format!("{},{}", resource(id), to.name()),
                "host{id}: Redfish: {} ({cause})",
                to.name()
            );
        }
        if self.events.sel {
            let text = format!("host{id}: ACPI state {} ({cause})", to.name());
            let path = format!("/xyz/openbmc_project/sensors/acpisystem/host{id}_acpi_power_state");
            let data = [offset(to), 0xff, 0xff];
            let call = Message::method_call(SEL_PATH, "IpmiSelAdd")
                .destination(SEL)
                .interface(SEL)
                .build(&(text, path, data.as_slice(), true, GENERATOR))?;
            calls.extend(self.awaited.send(call, Awaited::Sel));
        }
        Ok(calls)
    }

    /// The records of a diagnosis that is raised, in this boot of the host, with what shows it.
    pub(crate) fn raised(
        &mut self,
        host: HostIndex,
        diagnosis: Diagnosis,
        boot: u32,
        evidence: &Evidence,
    ) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        let Some(of) = self.hosts.get_mut(host) else { return Ok(calls) };
        let id = of.id;
        if (!self.events.redfish && !self.events.logging) || !of.once.take(boot, diagnosis) {
            return Ok(calls);
        }
        if self.events.redfish {
            let (message, args) = redfish(diagnosis, &resource(id));
            tracing::warn!(
                redfish_message_id = message,
                redfish_message_args = args,
                "host{id}: Redfish: {}",
                diagnosis.name()
            );
        }
        if self.events.logging {
            let message = format!("xyz.openbmc_project.AcpiState.Error.{}", diagnosis.name());
            let host_name = format!("host{id}");
            let mut data: BTreeMap<&str, &str> =
                evidence.as_slice().iter().map(|(name, value)| (*name, value.as_str())).collect();
            data.insert("HOST", &host_name);
            data.insert("ADVICE", diagnosis.advice());
            let call = Message::method_call(LOGGING_PATH, "Create")
                .destination(LOGGING)
                .interface(CREATE)
                .build(&(message, level(diagnosis), data))?;
            // A logger that does not answer is told no more.
            if let Some(call) = self.awaited.send(call, Awaited::Entry(host, diagnosis)) {
                of.entries.insert(diagnosis, LogEntry { path: None, over: false });
                calls.push(call);
            }
        }
        Ok(calls)
    }

    /// A diagnosis is over: its entry is resolved.
    pub(crate) fn cleared(&mut self, host: HostIndex, diagnosis: Diagnosis) -> zbus::Result<Option<Message>> {
        let Some(entry) = self.hosts.get_mut(host).and_then(|of| of.entries.get_mut(&diagnosis)) else {
            return Ok(None);
        };
        entry.over = true;
        self.resolve(host, diagnosis)
    }

    /// Says that it is over, if that can be said.
    fn resolve(&mut self, host: HostIndex, diagnosis: Diagnosis) -> zbus::Result<Option<Message>> {
        let Some(of) = self.hosts.get_mut(host) else { return Ok(None) };
        let Some(LogEntry { path: Some(path), over: true }) = of.entries.get(&diagnosis) else {
            return Ok(None);
        };
        let call = resolving(path)?;
        let path = path.clone();
        of.entries.remove(&diagnosis);
        if self.unresolved.len() < MOST_UNRESOLVED {
            self.unresolved.insert(path.clone());
        }
        Ok(self.awaited.send(call, Awaited::Resolved(path)))
    }

    /// An answer to a resolving, or that there is none: an entry that stays open for one error would be open for ever.
    fn resolved(&mut self, path: &str, says: Says) {
        match says {
            Says::Good | Says::NotThere => {
                self.unresolved.remove(path);
                // An entry that is resolved says nothing of the others.
                if self.unresolved.is_empty() {
                    self.retry.reset();
                }
            }
            Says::Nobody | Says::Failed => self.retry.failed(),
        }
    }
}

/// The call that resolves the entry at this path.
fn resolving(path: &str) -> zbus::Result<Message> {
    Message::method_call(path, "Set").destination(LOGGING).interface(PROPERTIES).build(&(
        ENTRY,
        "Resolved",
        Variant::Bool(true),
    ))
}

impl Peer for EventLog {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        Ok(Vec::new())
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let what = self.awaited.take(serial)?;
        if let Awaited::Resolved(path) = &what {
            self.resolved(path, Says::of(Some(reply)));
        }
        if reply.message_type() != Type::MethodReturn {
            let of = match what {
                Awaited::Sel => "the SEL",
                Awaited::Entry(host, diagnosis) => {
                    if let Some(of) = self.hosts.get_mut(host) {
                        of.entries.remove(&diagnosis);
                    }
                    "phosphor-logging"
                }
                Awaited::Resolved(_) => "phosphor-logging (resolving)",
            };
            let error = error_of(Some(reply));
            let log = || tracing::warn!("{of} does not take our records: {error}");
            self.noted.once(&format!("{of} {error}"), log);
            return Some(Ok(Outcome::default()));
        }
        let Awaited::Entry(host, diagnosis) = what else { return Some(Ok(Outcome::default())) };
        let body = reply.body();
        let path = body.deserialize::<ObjectPath<'_>>().ok().map(|path| path.as_str().to_owned());
        if let Some(entry) = self.hosts.get_mut(host).and_then(|of| of.entries.get_mut(&diagnosis)) {
            entry.path = path;
        }
        Some(self.resolve(host, diagnosis).map(|call| Outcome::of(call.into_iter().collect())))
    }

    /// Ignores the signals: a service that is only written to has nothing to say.
    fn signalled(&mut self, _signal: &Signal<'_>) -> zbus::Result<Outcome> {
        Ok(Outcome::default())
    }

    /// Records that are lost are lost; an entry that is to be resolved is not.
    fn tick(&mut self, now: Moment) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        for what in self.awaited.unanswered(now) {
            if let Awaited::Resolved(path) = what {
                self.resolved(&path, Says::Failed);
            }
        }
        if self.retry.tick(now.now) {
            for path in &self.unresolved {
                outcome.calls.extend(self.awaited.send(resolving(path)?, Awaited::Resolved(path.clone())));
            }
        }
        Ok(outcome)
    }

    fn wake_at(&self) -> Option<Time> {
        earlier(self.awaited.wake_at(), self.retry.wake_at())
    }
}

/// The host in Redfish. bmcweb has one system, or, where it is built for several, numbers them.
fn resource(id: u32) -> String {
    if id == 0 { "/redfish/v1/Systems/system".to_owned() } else { format!("/redfish/v1/Systems/system{id}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::dbus::{
        doubles::{failed, reply, serial},
        peer::MOST_OF_ONE,
    };

    const ALL: Events = Events { redfish: true, sel: true, logging: true };
    const PATH: &str = "/xyz/openbmc_project/logging/entry/7";

    fn log(events: Events) -> EventLog {
        EventLog::new(events, [0, 1].into_iter())
    }

    fn raise(log: &mut EventLog, diagnosis: Diagnosis, boot: u32) -> Vec<Message> {
        let evidence = Evidence::default();
        log.raised(1, diagnosis, boot, &evidence).unwrap()
    }

    #[test]
    fn a_sel_record_as_the_logger_wants_it() {
        let mut log = log(ALL);
        let calls = log.transition(1, AcpiState::S2D2, "HostReport").unwrap();
        let header = calls[0].header();
        assert_eq!(header.member().unwrap().as_str(), "IpmiSelAdd");
        assert_eq!(calls[0].body().signature().to_string(), "(ssaybq)");
        let body = calls[0].body();
        let (_, path, data, assert, generator): (&str, &str, Vec<u8>, bool, u16) =
            body.deserialize().unwrap();
        assert_eq!(path, "/xyz/openbmc_project/sensors/acpisystem/host1_acpi_power_state");
        assert_eq!((data.as_slice(), assert, generator), ([0x02, 0xff, 0xff].as_slice(), true, 0x20));
        assert!(log.returned(serial(&calls[0]), &failed(&calls[0])).is_some());
    }

    #[test]
    fn every_state_has_the_offset_of_the_table() {
        let offsets: Vec<u8> = AcpiState::ALL.into_iter().map(offset).collect();
        assert_eq!(offsets, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14]);
    }

    #[test]
    fn nothing_is_said_that_was_not_asked_for() {
        let mut log = log(Events::default());
        assert!(log.transition(0, AcpiState::S0G0D0, "HostReport").unwrap().is_empty());
        assert!(raise(&mut log, Diagnosis::StuckInPost, 1).is_empty());
    }

    #[test]
    fn a_flapping_host_does_not_wear_the_flash() {
        let mut log = log(ALL);
        let written = (0..1000).filter(|_| {
            let calls = log.transition(0, AcpiState::S0G0D0, "HostReport").unwrap();
            for call in &calls {
                log.returned(serial(call), &reply(call, ":1.2", &1_u16));
            }
            !calls.is_empty()
        });
        let written = written.count();
        assert!((20..=21).contains(&written), "{written}");
        // The other host has its own.
        assert_eq!(log.transition(1, AcpiState::S0G0D0, "HostReport").unwrap().len(), 1);
    }

    #[test]
    fn an_entry_is_made_once_in_a_boot_and_resolved_when_over() {
        let mut log = log(ALL);
        let calls = raise(&mut log, Diagnosis::StuckInPost, 3);
        let body = calls[0].body();
        let (message, level, data): (&str, &str, BTreeMap<&str, &str>) = body.deserialize().unwrap();
        assert_eq!(message, "xyz.openbmc_project.AcpiState.Error.StuckInPost");
        assert_eq!(level, "xyz.openbmc_project.Logging.Entry.Level.Error");
        assert_eq!(data.get("HOST"), Some(&"host1"));
        let path = ObjectPath::try_from(PATH).unwrap();
        let made = log.returned(serial(&calls[0]), &reply(&calls[0], ":1.2", &path)).unwrap().unwrap();
        assert!(made.calls.is_empty());
        let resolved = log.cleared(1, Diagnosis::StuckInPost).unwrap().unwrap();
        assert_eq!(resolved.header().path().unwrap().as_str(), PATH);
        assert!(log.cleared(1, Diagnosis::StuckInPost).unwrap().is_none());
        assert!(raise(&mut log, Diagnosis::StuckInPost, 3).is_empty());
        assert_eq!(raise(&mut log, Diagnosis::StuckInPost, 4).len(), 1);
    }

    #[test]
    fn over_before_the_entry_is_known_is_resolved_then() {
        let mut log = log(ALL);
        let calls = raise(&mut log, Diagnosis::BusStuck, 1);
        assert!(log.cleared(1, Diagnosis::BusStuck).unwrap().is_none());
        let path = ObjectPath::try_from(PATH).unwrap();
        let resolved = log.returned(serial(&calls[0]), &reply(&calls[0], ":1.2", &path)).unwrap().unwrap();
        assert_eq!(resolved.calls[0].header().path().unwrap().as_str(), PATH);
    }

    #[test]
    fn a_logger_that_never_answers_is_not_told_for_ever() {
        let mut log = log(Events { logging: true, ..Events::default() });
        let made: usize = (0..1000).map(|boot| raise(&mut log, Diagnosis::BusStuck, boot + 1).len()).sum();
        assert_eq!(made, MOST_OF_ONE);
    }
}
