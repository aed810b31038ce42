// SPDX-License-Identifier: Apache-2.0
//! Holds the DIMM zones of phosphor-pid-control, or gives them back (rules 3.5, openbmc 4.2).
//!
//! Owns: what has been said to which zone. Manual is set first and read back, then the PWMs' Target: in automatic mode a Target is
//! overwritten at some time or other. Manual has no dead-man, so what is held is written down ([`Held`]) before it is taken. Must
//! never: decide when to hold, or hold up anything else: fan control may be absent, restart, reload its zones, answer
//! errors or never. An order that was refused, or not answered, is sent again at the next one and after a pause (decision 0002, note F1).
//!
//! A zone or a PWM may serve several hosts; it is held while one of them wants it, at the highest of their speeds.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::discriminant,
    num::NonZeroU32,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use zbus::{Connection, Message, Variant};

use crate::{
    adapters::dbus::{
        known_properties::{KnownProperties, Plain, Told},
        names::{MAPPER, MAPPER_PATH, PROPERTIES},
        peer::{Moment, Noted, Outcome, Peer, Pending, Says, earlier, error_of},
        signal::Signal,
    },
    config,
    logic::{
        event::Event,
        patience::Backoff,
        policy::{FanDemand, FanLevel},
        time::Time,
    },
    shell::{held::Held, permits::HostIndex},
};

const MODE: &str = "xyz.openbmc_project.Control.Mode";
const MANUAL: &str = "Manual";
const FAN_PWM: &str = "xyz.openbmc_project.Control.FanPwm";
const TARGET: &str = "Target";
const CRITICAL: &str = "xyz.openbmc_project.Sensor.Threshold.Critical";
const ALARM_HIGH: &str = "CriticalAlarmHigh";
/// Somebody who drops a zone's Manual again and again is let have it, until the next order for that zone.
const MOST_REASSERTS: u32 = 5;
/// How long [`release`] waits for all answers.
const RELEASE_WAIT: Duration = Duration::from_secs(5);

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

/// The kind of a watched item, and the facts known of it besides its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Item {
    Zone(Zone),
    /// With its Target when it was taken.
    Pwm(Option<u64>),
    Guard,
}

/// The tries with an item.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    /// The retries of an order that was refused, or not answered.
    retry: Backoff,
    /// How often Manual was set again since the last order.
    reasserts: u32,
}

/// The subject of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
struct HostFans {
    settings: config::Fans,
    wanted: FanDemand,
    zones: Vec<usize>,
    pwm: Vec<usize>,
    guards: Vec<usize>,
}

/// The zones of all hosts.
#[derive(Debug, Default)]
pub(crate) struct FanControl {
    hosts: Vec<HostFans>,
    watched: KnownProperties,
    /// The kind of each item of `watched`.
    items: Vec<Item>,
    tries: Vec<Tries>,
    awaited: Pending<Awaited>,
    /// The messages that were logged once.
    noted: Noted,
    held: Held,
}

impl FanControl {
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
            let host = HostFans { settings: settings.clone(), wanted: FanDemand::Free, zones, pwm, guards };
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
            self.tries.push(Tries::default());
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

    /// Orders what this host's fans are to do from now on.
    pub(crate) fn order(&mut self, host: HostIndex, wanted: FanDemand) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        let Some(of) = self.hosts.get_mut(host) else { return Ok(outcome) };
        let before = std::mem::replace(&mut of.wanted, wanted);
        let (zones, pwm, guards) = (of.zones.clone(), of.pwm.clone(), of.guards.clone());
        if before == FanDemand::Free && wanted != FanDemand::Free {
            for pwm in pwm {
                self.remember(pwm, &mut outcome)?;
            }
            if guards.iter().any(|guard| self.watched.value(*guard) == Some(&Plain::Bool(true))) {
                outcome.events.push((host, Event::GuardAlarm));
            }
        }
        for zone in zones {
            self.ordered(zone);
            self.follow(zone, false, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// A zone that is ordered anew may be dropped as often again.
    fn ordered(&mut self, zone: usize) {
        if let Some(tries) = self.tries.get_mut(zone) {
            tries.reasserts = 0;
        }
    }

    /// Says all that is wanted for this host once more.
    pub(crate) fn assert(&mut self, host: HostIndex) -> zbus::Result<Outcome> {
        let mut outcome = Outcome::default();
        for zone in self.hosts.get(host).map(|of| of.zones.clone()).unwrap_or_default() {
            self.ordered(zone);
            self.follow(zone, true, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// The daemon ends: every zone is given back. Nobody waits for the answers; what is not confirmed stays written down.
    pub(crate) fn release(&mut self) -> zbus::Result<Vec<Message>> {
        let mut outcome = Outcome::default();
        for host in &mut self.hosts {
            host.wanted = FanDemand::Free;
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
            outcome.calls.extend(self.awaited.send(get, Awaited::Found(pwm)));
        }
        Ok(())
    }

    /// Brings a zone to what its hosts want.
    fn follow(&mut self, zone: usize, again: bool, outcome: &mut Outcome) -> zbus::Result<()> {
        let wanted =
            self.hosts.iter().any(|host| host.wanted != FanDemand::Free && host.zones.contains(&zone));
        let is = self.zone(zone);
        let manual = match (wanted, is) {
            (true, Zone::Held) if !again => return self.set_targets(zone, outcome),
            // The answer is under way. An order that was refused is sent again.
            (true, Zone::Taking) if !again && self.is_asked(zone) => return Ok(()),
            (true, _) => true,
            (false, Zone::Releasing) if self.is_asked(zone) => return Ok(()),
            (false, Zone::Taking | Zone::Held | Zone::Left | Zone::Releasing) => false,
            (false, Zone::Free) => return Ok(()),
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
                self.noted.once(&path, || {
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
        self.awaited.forget(|what| is_about(*what, zone));
        self.send(call, Awaited::Manual(zone, manual), zone, outcome);
        Ok(())
    }

    /// Whether this zone has been told or asked something that is not answered.
    fn is_asked(&self, zone: usize) -> bool {
        self.awaited.any(|what| is_about(*what, zone))
    }

    /// Sends what an item is told; one that leaves too much unanswered is told later.
    fn send(&mut self, call: Message, about: Awaited, item: usize, outcome: &mut Outcome) {
        let call = self.awaited.send(call, about);
        if call.is_none() {
            self.failed(item);
        }
        outcome.calls.extend(call);
    }

    fn failed(&mut self, item: usize) {
        if let Some(tries) = self.tries.get_mut(item) {
            tries.retry.failed();
        }
    }

    fn succeeded(&mut self, item: usize) {
        if let Some(tries) = self.tries.get_mut(item) {
            tries.retry.reset();
        }
    }

    /// Says once more what was refused, if it is still wanted.
    fn retry(&mut self, item: usize, outcome: &mut Outcome) -> zbus::Result<()> {
        match self.items.get(item) {
            Some(Item::Zone(Zone::Taking | Zone::Releasing)) => self.follow(item, false, outcome),
            Some(Item::Pwm(_)) if !self.awaited.any(|what| *what == Awaited::Target(item)) => {
                self.set_target_again(item, outcome)
            }
            Some(Item::Zone(Zone::Free | Zone::Left | Zone::Held) | Item::Pwm(_) | Item::Guard) | None => {
                Ok(())
            }
        }
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
        let of = |host: &HostFans| {
            let FanDemand::Held { level, at_least_found } = host.wanted else { return None };
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
            self.send(call, Awaited::Target(pwm), pwm, outcome);
        } else {
            let path = self.watched.path(pwm).to_owned();
            self.noted.once(&path, || tracing::info!("nobody has {path}; it is not set"));
        }
        Ok(())
    }

    // ---- What is heard -----------------------------------------------------------------------------

    /// An answer, or that there is none.
    fn answered(
        &mut self,
        what: Awaited,
        reply: Option<&Message>,
        outcome: &mut Outcome,
    ) -> zbus::Result<()> {
        let says = Says::of(reply);
        let body = reply.filter(|_| says == Says::Good).map(Message::body);
        let value = body.as_ref().and_then(|body| body.deserialize::<Variant<'_>>().ok());
        match what {
            Awaited::Manual(zone, true) if says == Says::Good => {
                if let Some(get) = self.watched.get(zone)? {
                    self.send(get, Awaited::Check(zone), zone, outcome);
                }
            }
            Awaited::Manual(zone, false) if says == Says::Good => {
                self.succeeded(zone);
                self.becomes(zone, Zone::Free);
            }
            // The change may have been made all the same, so the zone stays written down.
            Awaited::Manual(zone, manual) => {
                self.refused(zone, says, reply, &format!("fan control refuses Manual={manual}"));
            }
            Awaited::Check(zone) => {
                if value.as_ref().and_then(plain_bool) == Some(true) {
                    self.succeeded(zone);
                    self.becomes(zone, Zone::Held);
                    self.set_targets(zone, outcome)?;
                } else {
                    self.refused(
                        zone,
                        says,
                        reply,
                        "fan control does not keep Manual; its fans are not held",
                    );
                }
            }
            Awaited::Found(pwm) => {
                if let Some(found) = value.as_ref().and_then(plain_u64) {
                    let before = self.target(pwm);
                    // Where it was already set this is our own value, and changes nothing.
                    self.set_found(pwm, self.found(pwm).max(Some(found)));
                    if self.target(pwm) != before {
                        self.set_target_again(pwm, outcome)?;
                    }
                }
            }
            Awaited::Target(pwm) if says == Says::Good => self.succeeded(pwm),
            Awaited::Target(pwm) => self.refused(pwm, says, reply, "its Target cannot be set"),
        }
        Ok(())
    }

    /// Notes an item's refusal, or its silence, and plans to try again. A service that has left the bus is called when it is back.
    fn refused(&mut self, item: usize, says: Says, reply: Option<&Message>, what: &str) {
        if says != Says::Nobody {
            self.failed(item);
        }
        let error = error_of(reply);
        let path = self.watched.path(item).to_owned();
        self.noted.once(&format!("{path} {what} {error}"), || tracing::warn!("{path}: {what}: {error}"));
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
                        if host.guards.contains(&item) && host.wanted != FanDemand::Free {
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
            // The zone waits for the first order of its host.
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
        if self.zone(zone) != Zone::Held {
            return Ok(());
        }
        let Some(tries) = self.tries.get_mut(zone) else { return Ok(()) };
        if tries.reasserts >= MOST_REASSERTS {
            // The next order takes it again.
            self.becomes(zone, Zone::Taking);
            let path = self.watched.path(zone).to_owned();
            self.noted.once(&format!("{path} dropped"), || {
                tracing::warn!(
                    "{path}: Manual is dropped again and again; until the next order it is not set any more"
                );
            });
            return Ok(());
        }
        tries.reasserts += 1;
        let path = self.watched.path(zone);
        tracing::info!("{path}: Manual was dropped while its fans are held; it is set again");
        self.follow(zone, true, outcome)
    }

    fn set_target_again(&mut self, pwm: usize, outcome: &mut Outcome) -> zbus::Result<()> {
        let held = |host: &HostFans| {
            let confirmed = host.zones.iter().any(|zone| self.zone(*zone) == Zone::Held);
            host.pwm.contains(&pwm) && confirmed
        };
        if self.hosts.iter().any(held) { self.set_target(pwm, outcome) } else { Ok(()) }
    }
}

impl Peer for FanControl {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        self.watched.start()
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        if let Some(told) = self.watched.returned(serial, reply) {
            return Some(told.and_then(|told| self.take(told)));
        }
        let what = self.awaited.take(serial)?;
        let mut outcome = Outcome::default();
        Some(self.answered(what, Some(reply), &mut outcome).map(|()| outcome))
    }

    fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome> {
        let told = self.watched.signalled(signal)?;
        self.take(told)
    }

    fn tick(&mut self, now: Moment) -> zbus::Result<Outcome> {
        let told = self.watched.tick(now)?;
        let mut outcome = self.take(told)?;
        for what in self.awaited.unanswered(now) {
            self.answered(what, None, &mut outcome)?;
        }
        for item in 0..self.tries.len() {
            if self.tries.get_mut(item).is_some_and(|tries| tries.retry.tick(now.now)) {
                self.retry(item, &mut outcome)?;
            }
        }
        Ok(outcome)
    }

    fn wake_at(&self) -> Option<Time> {
        let retries = self.tries.iter().filter_map(|tries| tries.retry.wake_at()).min();
        earlier(earlier(self.awaited.wake_at(), self.watched.wake_at()), retries)
    }
}

/// Whether this is about Manual of this zone.
fn is_about(what: Awaited, zone: usize) -> bool {
    match what {
        Awaited::Manual(other, _) | Awaited::Check(other) => other == zone,
        Awaited::Found(_) | Awaited::Target(_) => false,
    }
}

fn plain_bool(value: &Variant<'_>) -> Option<bool> {
    if let Variant::Variant(inner) = value { plain_bool(inner) } else { value.downcast_ref().ok() }
}

fn plain_u64(value: &Variant<'_>) -> Option<u64> {
    if let Variant::Variant(inner) = value { plain_u64(inner) } else { value.downcast_ref().ok() }
}

/// Gives zones back that a process held which is gone: `--release`. All at once: one that is not answered for keeps no other. Those
/// that could not be given back, with why.
pub async fn release(connection: &Connection, zones: &[String]) -> Vec<(String, String)> {
    let until = Instant::now() + RELEASE_WAIT;
    let mut all = JoinSet::new();
    for zone in zones {
        let (connection, zone) = (connection.clone(), zone.clone());
        all.spawn(async move { release_one(&connection, &zone, until).await.map_err(|why| (zone, why)) });
    }
    let mut failed: Vec<_> = all.join_all().await.into_iter().filter_map(Result::err).collect();
    failed.sort_unstable();
    failed
}

async fn release_one(connection: &Connection, zone: &str, until: Instant) -> Result<(), String> {
    let question = (zone, [MODE].as_slice());
    let ask = connection.call_method(Some(MAPPER), MAPPER_PATH, Some(MAPPER), "GetObject", &question);
    let reply = timeout_at(until, ask).await.map_err(|_| "the mapper does not answer".to_owned())?;
    let reply = reply.map_err(|error| error.to_string())?;
    let services: BTreeMap<String, Vec<String>> =
        reply.body().deserialize().map_err(|error| error.to_string())?;
    let service = services.into_keys().next().ok_or("nobody has it")?;
    let value = (MODE, MANUAL, Variant::Bool(false));
    let set = connection.call_method(Some(service.as_str()), zone, Some(PROPERTIES), "Set", &value);
    let reply = timeout_at(until, set).await.map_err(|_| format!("{service} does not answer"))?;
    reply.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
