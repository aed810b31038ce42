// SPDX-License-Identifier: Apache-2.0
//! Holds the DIMM zones of phosphor-pid-control, or gives them back (design 3.5, contract 4.2).
//!
//! Owns: what has been said to which zone. Manual is set first and read back, then the PWMs' Target: in automatic mode a Target is
//! overwritten at some time or other. Manual has no dead-man, so what is held is written down ([`Held`]) before it is taken. Must
//! never: decide when to hold, or hold up anything else: fan control may be absent, restart, reload its zones, answer
//! errors or never.
//!
//! A zone or a PWM may serve several hosts; it is held while one of them wants it, at the highest of their speeds.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::discriminant,
    num::NonZeroU32,
    time::Duration,
};

use tokio::time::timeout;
use zbus::{Connection, Message, Variant, message::Type};

use crate::{
    adapters::{
        dispatch::PROPERTIES,
        peer::{MAPPER, MAPPER_PATH, Outcome, Peer, Pending},
        watched::{Plain, Told, Watched},
    },
    config,
    logic::{
        machine::Event,
        policy::{FanLevel, Fans as Wanted},
    },
    shell::{held::Held, permits::HostIndex},
};

const MODE: &str = "xyz.openbmc_project.Control.Mode";
const MANUAL: &str = "Manual";
const FAN_PWM: &str = "xyz.openbmc_project.Control.FanPwm";
const TARGET: &str = "Target";
const CRITICAL: &str = "xyz.openbmc_project.Sensor.Threshold.Critical";
const ALARM_HIGH: &str = "CriticalAlarmHigh";
/// Somebody who drops Manual again and again is let have it, until the next order.
const MOST_REASSERTS: u32 = 5;
/// How long [`release`] waits for each answer.
const RELEASE_WAIT: Duration = Duration::from_secs(3);

/// How far a zone has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Zone {
    /// Fan control has it.
    Free,
    /// A process before this one held it.
    Left,
    /// Manual was set, and is not confirmed.
    Taking,
    /// Manual was read back.
    Held,
    /// Manual was taken back, and that is not confirmed.
    Releasing,
}

/// What an item that is watched is, and what is known of it besides its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Item {
    Zone(Zone),
    /// With its Target when it was taken.
    Pwm(Option<u64>),
    Guard,
}

/// What a reply is about.
#[derive(Debug)]
enum Awaited {
    /// Manual was set to this.
    Manual(usize, bool),
    /// Manual was read back.
    Check(usize),
    /// The Target before it was touched.
    Found(usize),
    /// A Target was set.
    Target(usize),
}

#[derive(Debug)]
struct Host {
    settings: config::Fans,
    wanted: Wanted,
    zones: Vec<usize>,
    pwm: Vec<usize>,
    guards: Vec<usize>,
}

/// The zones of all hosts.
#[derive(Debug, Default)]
pub(crate) struct Fans {
    hosts: Vec<Host>,
    watched: Watched,
    /// What each item of it is.
    items: Vec<Item>,
    awaited: Pending<Awaited>,
    reasserts: u32,
    /// What was logged once.
    noted: BTreeSet<String>,
    held: Held,
}

impl Fans {
    /// The fans of these hosts; `left` are the zones that a process before this one held.
    pub(crate) fn new<'a>(
        settings: impl Iterator<Item = &'a config::Fans>,
        held: Held,
        left: Vec<String>,
    ) -> Self {
        let mut fans = Self { held, ..Self::default() };
        for settings in settings {
            let mut all = |paths: &[String], interface, property, kind| -> Vec<usize> {
                paths.iter().map(|path| fans.item(path, interface, property, kind)).collect()
            };
            let zones = all(&settings.zones, MODE, MANUAL, Item::Zone(Zone::Free));
            let pwm = all(&settings.pwm, FAN_PWM, TARGET, Item::Pwm(None));
            let guards = all(&settings.guard_sensors, CRITICAL, ALARM_HIGH, Item::Guard);
            let host = Host { settings: settings.clone(), wanted: Wanted::Free, zones, pwm, guards };
            fans.hosts.push(host);
        }
        for path in left {
            let zone = fans.item(&path, MODE, MANUAL, Item::Zone(Zone::Free));
            fans.set_zone(zone, Zone::Left);
        }
        fans
    }

    /// The item of this path and kind, one for all hosts that name it.
    fn item(&mut self, path: &str, interface: &'static str, property: &'static str, kind: Item) -> usize {
        let same = |(item, other): &(usize, &Item)| {
            discriminant(*other) == discriminant(&kind) && self.watched.path(*item) == path
        };
        let known = self.items.iter().enumerate().find(same).map(|(item, _)| item);
        known.unwrap_or_else(|| {
            self.items.push(kind);
            self.watched.add(path, interface, property)
        })
    }

    fn zone(&self, item: usize) -> Zone {
        if let Some(Item::Zone(zone)) = self.items.get(item) { *zone } else { Zone::Free }
    }

    fn set_zone(&mut self, item: usize, is: Zone) {
        if let Some(Item::Zone(zone)) = self.items.get_mut(item) {
            *zone = is;
        }
    }

    /// Every zone that is not simply fan control's.
    fn zones_in_hand(&self) -> impl Iterator<Item = usize> {
        (0..self.items.len()).filter(|item| self.zone(*item) != Zone::Free)
    }

    fn found(&self, item: usize) -> Option<u64> {
        if let Some(Item::Pwm(found)) = self.items.get(item) { *found } else { None }
    }

    fn set_found(&mut self, item: usize, target: Option<u64>) {
        if let Some(Item::Pwm(found)) = self.items.get_mut(item) {
            *found = target;
        }
    }

    // ---- Orders ------------------------------------------------------------------------------------

    /// What this host's fans are to do from now on.
    pub(crate) fn order(&mut self, host: HostIndex, wanted: Wanted) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        self.reasserts = 0;
        let Some(of) = self.hosts.get_mut(host) else { return Ok(outcome) };
        let before = std::mem::replace(&mut of.wanted, wanted);
        let (zones, pwm, guards) = (of.zones.clone(), of.pwm.clone(), of.guards.clone());
        if before == Wanted::Free && wanted != Wanted::Free {
            for pwm in pwm {
                self.remember(pwm, &mut outcome)?;
            }
            if guards.iter().any(|guard| self.watched.value(*guard) == Some(&Plain::Bool(true))) {
                outcome.events.push((host, Event::GuardAlarm));
            }
        }
        for zone in zones {
            self.follow(zone, false, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Says all that is wanted for this host once more.
    pub(crate) fn assert(&mut self, host: HostIndex) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        self.reasserts = 0;
        for zone in self.hosts.get(host).map(|of| of.zones.clone()).unwrap_or_default() {
            self.follow(zone, true, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// The daemon ends: every zone is given back. Nobody waits for the answers; what is not confirmed stays written down.
    pub(crate) fn release(&mut self) -> zbus::Result<Vec<Message>> {
        let mut outcome = Outcome::default();
        for host in &mut self.hosts {
            host.wanted = Wanted::Free;
        }
        for zone in self.zones_in_hand().collect::<Vec<_>>() {
            self.follow(zone, false, &mut outcome)?;
        }
        Ok(outcome.calls)
    }

    /// Before a PWM is touched: where it stands.
    fn remember(&mut self, pwm: usize, outcome: &mut Outcome) -> zbus::Result<()> {
        if self.found(pwm).is_some() {
            return Ok(());
        }
        if let Some(Plain::Unsigned(target)) = self.watched.value(pwm) {
            self.set_found(pwm, Some(*target));
        }
        if let Some(get) = self.watched.get(pwm)? {
            self.awaited.add(&get, Awaited::Found(pwm));
            outcome.calls.push(get);
        }
        Ok(())
    }

    /// Brings a zone to what its hosts want.
    fn follow(&mut self, zone: usize, again: bool, outcome: &mut Outcome) -> zbus::Result<()> {
        let wanted = self.hosts.iter().any(|host| host.wanted != Wanted::Free && host.zones.contains(&zone));
        let is = self.zone(zone);
        let manual = match (wanted, is) {
            (true, Zone::Held) if !again => return self.set_targets(zone, outcome),
            (true, Zone::Taking) if !again => return Ok(()),
            (true, _) => true,
            (false, Zone::Taking | Zone::Held | Zone::Left) => false,
            (false, Zone::Free | Zone::Releasing) => return Ok(()),
        };
        if manual {
            // First written down, then taken.
            self.becomes(zone, Zone::Taking);
        }
        let Some(call) = self.watched.set(zone, Variant::Bool(manual))? else {
            if manual {
                // When it appears it is taken; until then there is nothing to give back.
                self.becomes(zone, Zone::Free);
                let path = self.watched.path(zone).to_owned();
                self.note(path.clone(), || {
                    tracing::info!("no fan control has {path}; its fans are not held");
                });
            }
            return Ok(());
        };
        if !manual {
            self.becomes(zone, Zone::Releasing);
            self.forget_targets(zone);
        }
        // Only the newest order's answer counts.
        self.awaited.forget(
            |what| matches!(what, Awaited::Manual(other, _) | Awaited::Check(other) if *other == zone),
        );
        self.awaited.add(&call, Awaited::Manual(zone, manual));
        outcome.calls.push(call);
        Ok(())
    }

    fn becomes(&mut self, zone: usize, is: Zone) {
        self.set_zone(zone, is);
        self.held.note(self.zones_in_hand().map(|zone| self.watched.path(zone).to_owned()).collect());
    }

    /// The PWMs of hosts that want nothing any more may be found anew.
    fn forget_targets(&mut self, zone: usize) {
        let hosts = self.hosts.iter().filter(|host| host.zones.contains(&zone));
        for pwm in hosts.flat_map(|host| host.pwm.clone()).collect::<Vec<_>>() {
            self.set_found(pwm, None);
        }
    }

    /// The speed that a PWM is wanted at.
    fn target(&self, pwm: usize) -> Option<u64> {
        let of = |host: &Host| {
            let Wanted::Held { level, at_least_found } = host.wanted else { return None };
            let speed = match level {
                FanLevel::S2 => host.settings.s2_pwm,
                FanLevel::Stall => host.settings.stall_pwm,
            };
            let found = self.found(pwm).filter(|_| at_least_found);
            Some(u64::from(speed).max(found.unwrap_or(0)))
        };
        self.hosts.iter().filter(|host| host.pwm.contains(&pwm)).filter_map(of).max()
    }

    /// Sets the PWMs of the hosts that this zone cools.
    fn set_targets(&mut self, zone: usize, outcome: &mut Outcome) -> zbus::Result<()> {
        let hosts = self.hosts.iter().filter(|host| host.zones.contains(&zone));
        let all: BTreeSet<usize> = hosts.flat_map(|host| host.pwm.iter().copied()).collect();
        all.into_iter().try_for_each(|pwm| self.set_target(pwm, outcome))
    }

    fn set_target(&mut self, pwm: usize, outcome: &mut Outcome) -> zbus::Result<()> {
        let Some(target) = self.target(pwm) else { return Ok(()) };
        if let Some(call) = self.watched.set(pwm, Variant::U64(target))? {
            self.awaited.add(&call, Awaited::Target(pwm));
            outcome.calls.push(call);
        } else {
            let path = self.watched.path(pwm).to_owned();
            self.note(path.clone(), || tracing::info!("nobody has {path}; it is not set"));
        }
        Ok(())
    }

    // ---- What is heard -----------------------------------------------------------------------------

    fn answered(&mut self, what: &Awaited, reply: &Message, outcome: &mut Outcome) -> zbus::Result<()> {
        let good = reply.message_type() == Type::MethodReturn;
        let header = reply.header();
        let error = header.error_name().map_or("", |name| name.as_str());
        match *what {
            Awaited::Manual(zone, true) if good => {
                if let Some(get) = self.watched.get(zone)? {
                    self.awaited.add(&get, Awaited::Check(zone));
                    outcome.calls.push(get);
                }
            }
            Awaited::Manual(zone, false) if good => self.becomes(zone, Zone::Free),
            Awaited::Manual(zone, manual) => {
                let path = self.watched.path(zone).to_owned();
                self.note(format!("{path} {error}"), || {
                    tracing::warn!("{path}: fan control refuses Manual={manual}: {error}");
                });
                // It may have been taken all the same, so it stays written down.
            }
            Awaited::Check(zone) => {
                let body = reply.body();
                let value = body.deserialize::<Variant<'_>>().ok();
                if good && value.and_then(|value| plain_bool(&value)) == Some(true) {
                    self.becomes(zone, Zone::Held);
                    self.set_targets(zone, outcome)?;
                } else {
                    let path = self.watched.path(zone).to_owned();
                    self.note(format!("{path} not Manual"), || {
                        tracing::warn!("{path}: fan control does not keep Manual; its fans are not held");
                    });
                }
            }
            Awaited::Found(pwm) => {
                let body = reply.body();
                let value = body.deserialize::<Variant<'_>>().ok().filter(|_| good);
                if let Some(found) = value.as_ref().and_then(plain_u64) {
                    let before = self.target(pwm);
                    // Where it was already set this is our own value, and changes nothing.
                    self.set_found(pwm, self.found(pwm).max(Some(found)));
                    let confirmed = |host: &Host| {
                        host.pwm.contains(&pwm)
                            && host.zones.iter().any(|zone| self.zone(*zone) == Zone::Held)
                    };
                    if self.target(pwm) != before && self.hosts.iter().any(confirmed) {
                        self.set_target(pwm, outcome)?;
                    }
                }
            }
            Awaited::Target(_) if good => {}
            Awaited::Target(pwm) => {
                let path = self.watched.path(pwm).to_owned();
                self.note(format!("{path} {error}"), || {
                    tracing::warn!("{path}: its Target cannot be set: {error}");
                });
            }
        }
        Ok(())
    }

    fn take(&mut self, told: Told) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::of(told.calls);
        for item in told.appeared {
            match self.items.get(item) {
                Some(Item::Zone(_)) => self.zone_appeared(item, &mut outcome)?,
                Some(Item::Pwm(_)) => self.set_target_again(item, &mut outcome)?,
                Some(Item::Guard) | None => {}
            }
        }
        for (item, value) in told.news {
            match (self.items.get(item), value) {
                (Some(Item::Zone(_)), Some(Plain::Bool(false))) => {
                    self.manual_dropped(item, &mut outcome)?;
                }
                (Some(Item::Guard), Some(Plain::Bool(true))) => {
                    for (index, host) in self.hosts.iter().enumerate() {
                        if host.guards.contains(&item) && host.wanted != Wanted::Free {
                            outcome.events.push((index, Event::GuardAlarm));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(outcome)
    }

    /// Fan control has started, restarted or reloaded its zones: Manual is gone, whatever was said before.
    fn zone_appeared(&mut self, zone: usize, outcome: &mut Outcome) -> zbus::Result<()> {
        let nobodys = !self.hosts.iter().any(|host| host.zones.contains(&zone));
        match self.zone(zone) {
            // It waits for the first order of its host.
            Zone::Left if !nobodys => Ok(()),
            // The answer was lost with fan control; said once more it does no harm.
            Zone::Releasing => {
                self.becomes(zone, Zone::Left);
                self.follow(zone, true, outcome)
            }
            Zone::Free | Zone::Left | Zone::Taking | Zone::Held => self.follow(zone, true, outcome),
        }
    }

    fn manual_dropped(&mut self, zone: usize, outcome: &mut Outcome) -> zbus::Result<()> {
        if self.zone(zone) != Zone::Held || self.reasserts >= MOST_REASSERTS {
            return Ok(());
        }
        self.reasserts += 1;
        let path = self.watched.path(zone);
        tracing::info!("{path}: Manual was dropped while its fans are held; it is set again");
        self.follow(zone, true, outcome)
    }

    fn set_target_again(&mut self, pwm: usize, outcome: &mut Outcome) -> zbus::Result<()> {
        let held = |host: &Host| {
            let confirmed = host.zones.iter().any(|zone| self.zone(*zone) == Zone::Held);
            host.pwm.contains(&pwm) && confirmed
        };
        if self.hosts.iter().any(held) { self.set_target(pwm, outcome) } else { Ok(()) }
    }

    fn note(&mut self, what: String, log: impl FnOnce()) {
        if self.noted.insert(what) {
            log();
        }
    }
}

impl Peer for Fans {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        self.watched.start()
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        if let Some(told) = self.watched.returned(serial, reply) {
            return Some(told.and_then(|told| self.take(told)));
        }
        let what = self.awaited.take(serial)?;
        let mut outcome = Outcome::default();
        Some(self.answered(&what, reply, &mut outcome).map(|()| outcome))
    }

    fn signalled(&mut self, signal: &Message) -> zbus::Result<Outcome> {
        let told = self.watched.signalled(signal)?;
        self.take(told)
    }
}

fn plain_bool(value: &Variant<'_>) -> Option<bool> {
    if let Variant::Variant(inner) = value { plain_bool(inner) } else { value.downcast_ref().ok() }
}

fn plain_u64(value: &Variant<'_>) -> Option<u64> {
    if let Variant::Variant(inner) = value { plain_u64(inner) } else { value.downcast_ref().ok() }
}

/// Gives zones back that a process held which is gone: `--release-fans`. Those that could not be, with why.
pub async fn release(connection: &Connection, zones: &[String]) -> Vec<(String, String)> {
    let mut failed = Vec::new();
    for zone in zones {
        if let Err(why) = release_one(connection, zone).await {
            failed.push((zone.clone(), why));
        }
    }
    failed
}

async fn release_one(connection: &Connection, zone: &str) -> Result<(), String> {
    let question = (zone, [MODE].as_slice());
    let ask = connection.call_method(Some(MAPPER), MAPPER_PATH, Some(MAPPER), "GetObject", &question);
    let reply = timeout(RELEASE_WAIT, ask).await.map_err(|_| "the mapper does not answer".to_owned())?;
    let reply = reply.map_err(|error| error.to_string())?;
    let services: BTreeMap<String, Vec<String>> =
        reply.body().deserialize().map_err(|error| error.to_string())?;
    let service = services.into_keys().next().ok_or("nobody has it")?;
    let value = (MODE, MANUAL, Variant::Bool(false));
    let set = connection.call_method(Some(service.as_str()), zone, Some(PROPERTIES), "Set", &value);
    let reply = timeout(RELEASE_WAIT, set).await.map_err(|_| format!("{service} does not answer"))?;
    reply.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::watched::doubles::{calls, changed, failed, owned_by, owner, reply, serial};

    const ZONE: &str = "/xyz/openbmc_project/settings/fanctrl/zone0";
    const PWM: &str = "/xyz/openbmc_project/control/fanpwm/Pwm_1";
    const GUARD: &str = "/xyz/openbmc_project/sensors/temperature/Inlet";
    const CONTROL: &str = "xyz.openbmc_project.State.FanCtrl";
    const SENSORS: &str = "xyz.openbmc_project.FanSensor";
    const S2: Wanted = Wanted::Held { level: FanLevel::S2, at_least_found: false };

    fn settings() -> config::Fans {
        config::Fans {
            zones: vec![ZONE.to_owned()],
            pwm: vec![PWM.to_owned()],
            guard_sensors: vec![GUARD.to_owned()],
            ..config::Host::new(0).fans
        }
    }

    fn fans(left: &[&str]) -> Fans {
        let left = left.iter().map(|zone| (*zone).to_owned()).collect();
        Fans::new([settings()].iter(), Held::default(), left)
    }

    /// What a call does: the last part of its path, its member, and for a Set the value.
    fn said(call: &Message) -> String {
        let header = call.header();
        let path = header.path().map_or("", |path| path.as_str()).rsplit('/').next().unwrap().to_owned();
        let body = call.body();
        match body.deserialize::<(&str, &str, Variant<'_>)>() {
            Ok((_, property, value)) => {
                let value =
                    plain_bool(&value).map(|v| v.to_string()).or(plain_u64(&value).map(|v| v.to_string()));
                format!("{path} {property}={}", value.unwrap())
            }
            Err(_) => format!("{path} {}", header.member().unwrap().as_str()),
        }
    }

    fn all_said(calls: &[Message]) -> Vec<String> {
        calls.iter().map(said).collect()
    }

    /// A bus on which everybody answers: what is sent, and what follows from it, until nothing does.
    struct World {
        manual: bool,
        target: u64,
        /// Everything that was Set, in order.
        sets: Vec<String>,
        events: Vec<Event>,
    }

    impl World {
        fn new() -> Self {
            Self { manual: false, target: 90, sets: Vec::new(), events: Vec::new() }
        }

        fn carry(&mut self, fans: &mut Fans, mut calls: Vec<Message>) {
            for _ in 0..100 {
                if calls.is_empty() {
                    return;
                }
                let call = calls.remove(0);
                let Some(answer) = self.answer(&call) else { continue };
                if let Some(outcome) = fans.returned(serial(&call), &answer) {
                    let outcome = outcome.unwrap();
                    self.events.extend(outcome.events.into_iter().map(|(_, event)| event));
                    calls.extend(outcome.calls);
                }
            }
            panic!("no end of calls");
        }

        fn answer(&mut self, call: &Message) -> Option<Message> {
            let header = call.header();
            let path = header.path().unwrap().as_str().to_owned();
            match header.member().unwrap().as_str() {
                "GetObject" => {
                    let body = call.body();
                    let (of, _): (&str, Vec<&str>) = body.deserialize().unwrap();
                    let service = if of == ZONE { CONTROL } else { SENSORS };
                    Some(owned_by(call, service))
                }
                "Get" if path == ZONE => Some(reply(call, ":1.5", &Variant::Bool(self.manual))),
                "Get" if path == PWM => Some(reply(call, ":1.6", &Variant::U64(self.target))),
                "Get" => Some(reply(call, ":1.6", &Variant::Bool(false))),
                "Set" => {
                    self.sets.push(said(call));
                    let body = call.body();
                    let (_, _, value): (&str, &str, Variant<'_>) = body.deserialize().unwrap();
                    self.manual = plain_bool(&value).unwrap_or(self.manual);
                    self.target = plain_u64(&value).unwrap_or(self.target);
                    Some(reply(call, ":1.5", &()))
                }
                _ => None,
            }
        }
    }

    fn started(left: &[&str]) -> (Fans, World) {
        let (mut fans, mut world) = (fans(left), World::new());
        let begin = fans.start().unwrap();
        world.carry(&mut fans, begin);
        (fans, world)
    }

    fn held(wanted: Wanted) -> (Fans, World) {
        let (mut fans, mut world) = started(&[]);
        let outcome = fans.order(0, wanted).unwrap();
        world.carry(&mut fans, outcome.calls);
        (fans, world)
    }

    #[test]
    fn manual_is_read_back_before_a_target_is_set_and_given_back_alone() {
        let (mut fans, mut world) = held(S2);
        assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=160"]);
        let stall = Wanted::Held { level: FanLevel::Stall, at_least_found: false };
        let outcome = fans.order(0, stall).unwrap();
        assert_eq!(all_said(&outcome.calls), ["Pwm_1 Target=255"]);
        world.carry(&mut fans, outcome.calls);
        let outcome = fans.order(0, Wanted::Free).unwrap();
        assert_eq!(all_said(&outcome.calls), ["zone0 Manual=false"]);
        world.carry(&mut fans, outcome.calls);
        assert_eq!(fans.zones_in_hand().count(), 0);
        assert_eq!(all_said(&fans.order(0, Wanted::Free).unwrap().calls), Vec::<String>::new());
    }

    #[test]
    fn a_zone_that_does_not_keep_manual_is_not_driven() {
        let (mut fans, _) = started(&[]);
        let outcome = fans.order(0, S2).unwrap();
        let set = calls(&outcome.calls, "Set")[0];
        let outcome = fans.returned(serial(set), &reply(set, ":1.5", &())).unwrap().unwrap();
        let check = calls(&outcome.calls, "Get")[0];
        let no = reply(check, ":1.5", &Variant::Bool(false));
        let outcome = fans.returned(serial(check), &no).unwrap().unwrap();
        assert_eq!(all_said(&outcome.calls), Vec::<String>::new());
    }

    #[test]
    fn never_below_what_was_found() {
        let (mut fans, mut world) = started(&[]);
        world.target = 210;
        let wanted = Wanted::Held { level: FanLevel::S2, at_least_found: true };
        let outcome = fans.order(0, wanted).unwrap();
        world.carry(&mut fans, outcome.calls);
        assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=210"]);
    }

    #[test]
    fn a_found_target_that_comes_late_still_counts() {
        let (mut fans, _) = started(&[]);
        let outcome = fans.order(0, Wanted::Held { level: FanLevel::S2, at_least_found: true }).unwrap();
        let (get, set) = (calls(&outcome.calls, "Get")[0], calls(&outcome.calls, "Set")[0]);
        let after = fans.returned(serial(set), &reply(set, ":1.5", &())).unwrap().unwrap();
        let check = calls(&after.calls, "Get")[0];
        let after =
            fans.returned(serial(check), &reply(check, ":1.5", &Variant::Bool(true))).unwrap().unwrap();
        assert_eq!(all_said(&after.calls), ["Pwm_1 Target=160"]);
        let after = fans.returned(serial(get), &reply(get, ":1.6", &Variant::U64(220))).unwrap().unwrap();
        assert_eq!(all_said(&after.calls), ["Pwm_1 Target=220"]);
    }

    #[test]
    fn manual_dropped_fan_control_restarted_and_asserted_again() {
        let (mut fans, mut world) = held(S2);
        world.manual = false;
        let dropped = changed(":1.5", ZONE, MODE, MANUAL, Variant::Bool(false));
        let outcome = fans.signalled(&dropped).unwrap();
        assert_eq!(all_said(&outcome.calls), ["zone0 Manual=true"]);
        world.sets.clear();
        world.carry(&mut fans, outcome.calls);
        assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=160"]);

        world.sets.clear();
        world.manual = false;
        fans.signalled(&owner(CONTROL, "")).unwrap();
        let outcome = fans.signalled(&owner(CONTROL, ":1.5")).unwrap();
        world.carry(&mut fans, outcome.calls);
        assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=160"]);

        world.sets.clear();
        let outcome = fans.assert(0).unwrap();
        world.carry(&mut fans, outcome.calls);
        assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=160"]);
    }

    #[test]
    fn who_drops_manual_without_end_may_have_it() {
        let (mut fans, mut world) = held(S2);
        let mut set = 0;
        for _ in 0..20 {
            let dropped = changed(":1.5", ZONE, MODE, MANUAL, Variant::Bool(false));
            let outcome = fans.signalled(&dropped).unwrap();
            set += calls(&outcome.calls, "Set").len();
            world.carry(&mut fans, outcome.calls);
        }
        assert_eq!(set, MOST_REASSERTS as usize);
    }

    #[test]
    fn fan_control_that_comes_later_is_taken_then() {
        let mut fans = fans(&[]);
        let mut world = World::new();
        let begin = fans.start().unwrap();
        for question in calls(&begin, "GetObject") {
            assert!(fans.returned(serial(question), &failed(question)).is_some());
        }
        assert_eq!(all_said(&fans.order(0, S2).unwrap().calls), Vec::<String>::new());
        assert_eq!(all_said(&fans.release().unwrap()), Vec::<String>::new());
        fans.order(0, S2).unwrap();
        let outcome = fans.signalled(&owner(MAPPER, ":1.1")).unwrap();
        world.carry(&mut fans, outcome.calls);
        assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=160"]);
    }

    #[test]
    fn an_error_or_no_answer_holds_up_nothing() {
        let (mut fans, _) = started(&[]);
        let outcome = fans.order(0, S2).unwrap();
        let set = calls(&outcome.calls, "Set")[0];
        let after = fans.returned(serial(set), &failed(set)).unwrap().unwrap();
        assert_eq!(all_said(&after.calls), Vec::<String>::new());
        // It may have been done all the same: it is given back.
        let outcome = fans.order(0, Wanted::Free).unwrap();
        assert_eq!(all_said(&outcome.calls), ["zone0 Manual=false"]);
        // That is never answered; the next hold does not wait for it.
        let outcome = fans.order(0, S2).unwrap();
        assert!(all_said(&outcome.calls).contains(&"zone0 Manual=true".to_owned()));
    }

    #[test]
    fn what_was_left_held_is_given_back_when_the_host_says_so() {
        let (mut fans, mut world) = started(&[ZONE]);
        assert_eq!(world.sets, Vec::<String>::new());
        let outcome = fans.order(0, Wanted::Free).unwrap();
        world.carry(&mut fans, outcome.calls);
        assert_eq!(world.sets, ["zone0 Manual=false"]);
        // Of no host's zones nobody says anything: at once.
        let (_, world) = {
            let mut fans =
                Fans::new([config::Host::new(0).fans].iter(), Held::default(), vec![ZONE.to_owned()]);
            let mut world = World::new();
            let begin = fans.start().unwrap();
            world.carry(&mut fans, begin);
            (fans, world)
        };
        assert_eq!(world.sets, ["zone0 Manual=false"]);
    }

    #[test]
    fn a_guard_alarm_counts_while_held_and_as_it_begins() {
        let (mut fans, _) = started(&[]);
        let alarm = changed(":1.6", GUARD, CRITICAL, ALARM_HIGH, Variant::Bool(true));
        assert_eq!(fans.signalled(&alarm).unwrap().events, []);
        assert_eq!(fans.order(0, S2).unwrap().events, [(0, Event::GuardAlarm)]);
        fans.order(0, Wanted::Free).unwrap();
        let over = changed(":1.6", GUARD, CRITICAL, ALARM_HIGH, Variant::Bool(false));
        assert_eq!(fans.signalled(&over).unwrap().events, []);
        assert_eq!(fans.order(0, S2).unwrap().events, []);
        assert_eq!(fans.signalled(&alarm).unwrap().events, [(0, Event::GuardAlarm)]);
    }

    #[test]
    fn a_zone_of_two_hosts_is_held_for_either_at_the_higher_speed() {
        let mut fans = Fans::new([settings(), settings()].iter(), Held::default(), Vec::new());
        let mut world = World::new();
        let begin = fans.start().unwrap();
        world.carry(&mut fans, begin);
        let outcome = fans.order(0, S2).unwrap();
        world.carry(&mut fans, outcome.calls);
        let outcome = fans.order(1, Wanted::Held { level: FanLevel::Stall, at_least_found: false }).unwrap();
        world.carry(&mut fans, outcome.calls);
        let outcome = fans.order(0, Wanted::Free).unwrap();
        world.carry(&mut fans, outcome.calls);
        assert_eq!(world.target, 255);
        assert!(world.manual);
        let outcome = fans.order(1, Wanted::Free).unwrap();
        world.carry(&mut fans, outcome.calls);
        assert!(!world.manual);
    }
}
