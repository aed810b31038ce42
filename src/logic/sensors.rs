// SPDX-License-Identifier: Apache-2.0
//! All sensors and the buses they are on: who may be read, and what is published (design 3.1, decision 0005).
//!
//! Owns the [`Sensor`]s. Must never: know more of a host than its machine says.

use core::time::Duration;

use super::{
    machine::Machine,
    policy::{self, SensorMode},
    reading::{Celsius, Fault},
    sensor::{Note, Sensor, Snapshot},
    time::Time,
};
use crate::config::Group;

/// A transfer that takes this long, in real time, will not end: the kernel's timeout is far shorter.
pub const STUCK: Duration = Duration::from_secs(1);

/// Counts the closings of anything. A reading that began before its sensor's last opening is dropped.
pub type Closings = u32;

/// A sensor's place: by its host, group and bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Position of its host.
    pub host: usize,
    /// When it may be read.
    pub group: Group,
    /// Position of its bus.
    pub bus: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Sensors {
    entries: Vec<Entry>,
    /// For each bus the hosts whose DIMMs it carries, and whether it is stuck.
    buses: Vec<(Vec<usize>, bool)>,
}

#[derive(Debug)]
struct Entry {
    sensor: Sensor,
    placed: Placed,
    opened: Closings,
    /// What was taken last.
    taken: Snapshot,
}

impl Sensors {
    /// The sensors in the order of the configuration, and for each bus the hosts whose DIMMs it carries.
    #[must_use]
    pub fn new(sensors: Vec<(Sensor, Placed)>, buses: Vec<Vec<usize>>) -> Self {
        let entry = |(sensor, placed)| Entry { sensor, placed, opened: 0, taken: Snapshot::UNAVAILABLE };
        Self {
            entries: sensors.into_iter().map(entry).collect(),
            buses: buses.into_iter().map(|hosts| (hosts, false)).collect(),
        }
    }

    /// What the machines say now; a host without one lets nothing be read. `closings` counts those up to now.
    pub fn follow(&mut self, now: Time, machines: &[Machine], closings: Closings) {
        for entry in &mut self.entries {
            let Placed { host, group, bus } = entry.placed;
            let own = machines.get(host).map(|machine| match group {
                Group::Dimm | Group::S0 => machine.dimm_sensors(),
                Group::Thermal => machine.thermal_sensors(),
            });
            let bus_is_open =
                self.buses.get(bus).is_some_and(|(carried, _)| policy::bus_is_open(machines, carried));
            let mode = own.filter(|_| bus_is_open).unwrap_or(SensorMode::Unavailable);
            if mode == SensorMode::Read && entry.sensor.mode() == SensorMode::Unavailable {
                entry.opened = closings;
            }
            entry.sensor.follow(now, mode);
        }
    }

    /// A read has ended that began after so many `closings`.
    pub fn read(
        &mut self,
        now: Time,
        sensor: usize,
        closings: Closings,
        result: Result<Celsius, Fault>,
    ) -> Option<Note> {
        let entry = self.entries.get_mut(sensor)?;
        // The count may wrap; half of it is years of closings.
        let stale = closings.wrapping_sub(entry.opened) > Closings::MAX / 2;
        if stale { None } else { entry.sensor.read(now, result) }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        for entry in &mut self.entries {
            entry.sensor.tick(now);
        }
    }

    /// When [`Sensors::tick`] has something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<Time> {
        self.entries.iter().filter_map(|entry| entry.sensor.wake_at()).min()
    }

    /// The snapshots that changed since the last call, of sensors whose host `may_show`.
    pub fn changed(&mut self, may_show: impl Fn(usize) -> bool) -> impl Iterator<Item = (usize, Snapshot)> {
        self.entries.iter_mut().enumerate().filter_map(move |(index, entry)| {
            let now = entry.sensor.snapshot();
            if now == entry.taken || !may_show(entry.placed.host) {
                return None;
            }
            entry.taken = now;
            Some((index, now))
        })
    }

    /// Position of the host of a sensor.
    #[must_use]
    pub fn host(&self, sensor: usize) -> Option<usize> {
        self.entries.get(sensor).map(|entry| entry.placed.host)
    }

    /// Whether the fans need not wait for this host's DIMMs any more: one answered, or each failed five times.
    #[must_use]
    pub fn dimms_known(&self, host: usize) -> bool {
        let mut known = true;
        for sensor in self.dimms(host) {
            if sensor.answers() {
                return true;
            }
            known &= sensor.is_known();
        }
        known
    }

    /// How many DIMM sensors of this host answer.
    #[must_use]
    pub fn dimms_answering(&self, host: usize) -> usize {
        self.dimms(host).filter(|sensor| sensor.snapshot().value.is_some()).count()
    }

    fn dimms(&self, host: usize) -> impl Iterator<Item = &Sensor> {
        let its_own = move |placed: Placed| placed.host == host && placed.group == Group::Dimm;
        self.entries.iter().filter(move |entry| its_own(entry.placed)).map(|entry| &entry.sensor)
    }

    /// What is known of the transfer on a bus: how long it has been under way, if one is, and whether a host has just
    /// been answered without waiting for it any longer. True if this changes whether the bus is stuck.
    pub fn watch(&mut self, bus: usize, under_way: Option<Duration>, given_up: bool) -> bool {
        let Some((_, stuck)) = self.buses.get_mut(bus) else { return false };
        let is = under_way.is_some_and(|taken| *stuck || given_up || taken >= STUCK);
        core::mem::replace(stuck, is) != is
    }

    /// Whether a bus that matters to this host is stuck: it carries its DIMMs, or one of its sensors.
    #[must_use]
    pub fn bus_stuck(&self, host: usize) -> bool {
        self.buses.iter().enumerate().any(|(bus, (carried, stuck))| {
            let has = |entry: &Entry| entry.placed.bus == bus && entry.placed.host == host;
            *stuck && (carried.contains(&host) || self.entries.iter().any(has))
        })
    }
}
