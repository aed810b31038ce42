// SPDX-License-Identifier: Apache-2.0
//! All sensors and the buses they are on: who may be read, and what is published (rules 3.1, decision 0005).
//!
//! Owns the [`Sensor`]s. Must never: know more of a host than its machine says.

use core::time::Duration;
use std::collections::BTreeSet;

use super::{
    machine::Machine,
    policy::{self, SensorMode},
    reading::{Celsius, Fault},
    sensor::{Note, Proof, Sensor, Snapshot},
    time::Time,
};
use crate::config::Group;

/// A transfer that takes this long, in real time, will not end: the kernel's timeout is far shorter.
pub const STUCK: Duration = Duration::from_secs(1);

/// Counts the closings of what a sensor needs: its bus, and its host's gate or power. A reading that began before its
/// sensor's last opening is dropped.
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
    entries: Vec<Shown>,
    buses: Vec<BusState>,
}

#[derive(Debug, Default)]
struct BusState {
    /// The hosts whose DIMMs it carries.
    carried: Vec<usize>,
    /// The same hosts, and the hosts whose DIMMs are on what a transfer on it is seen on.
    reached: Vec<usize>,
    stuck: bool,
}

#[derive(Debug)]
struct Shown {
    sensor: Sensor,
    placed: Placed,
    opened: Closings,
    /// The snapshot that was last sent.
    taken: Snapshot,
}

impl Sensors {
    /// The sensors in the order of the configuration, and for each bus the hosts whose DIMMs it carries.
    #[must_use]
    pub fn new(sensors: Vec<(Sensor, Placed)>, buses: Vec<Vec<usize>>) -> Self {
        let entry = |(sensor, placed)| Shown { sensor, placed, opened: 0, taken: Snapshot::UNAVAILABLE };
        Self {
            entries: sensors.into_iter().map(entry).collect(),
            buses: buses
                .into_iter()
                .map(|carried| BusState { reached: carried.clone(), carried, stuck: false })
                .collect(),
        }
    }

    /// For each bus the others on which its transfers are seen: all of their hosts have a say.
    pub fn wire(&mut self, seen_on: &[Vec<usize>]) {
        let all = self.buses.iter().enumerate().map(|(index, bus)| {
            let others = seen_on.get(index).into_iter().flatten().filter_map(|other| self.buses.get(*other));
            let hosts = bus.carried.iter().chain(others.flat_map(|other| &other.carried));
            hosts.copied().collect::<BTreeSet<_>>()
        });
        let all: Vec<_> = all.collect();
        for (bus, reached) in self.buses.iter_mut().zip(all) {
            bus.reached = reached.into_iter().collect();
        }
    }

    /// The hosts whose DIMMs a transfer on this bus is seen on.
    #[must_use]
    pub fn reached(&self, bus: usize) -> &[usize] {
        self.buses.get(bus).map_or(&[], |bus| &bus.reached)
    }

    /// Updates the sensors by what the machines say now, and by how fresh the `proof` is that they know; a host without
    /// a machine lets nothing be read. `closings` counts those of a sensor's place up to now.
    pub fn follow(
        &mut self,
        now: Time,
        machines: &[Machine],
        proof: Proof,
        closings: impl Fn(Placed) -> Closings,
    ) {
        for entry in &mut self.entries {
            let Placed { host, group, bus } = entry.placed;
            let own = machines.get(host).map(|machine| match group {
                Group::Dimm | Group::S0 => policy::dimm_sensors(machine),
                Group::Thermal => policy::thermal_sensors(machine),
            });
            let bus_is_open =
                self.buses.get(bus).is_some_and(|bus| policy::bus_is_open(machines, &bus.reached));
            let mode = own.filter(|_| bus_is_open).unwrap_or(SensorMode::Unavailable);
            if mode == SensorMode::Read && entry.sensor.mode() == SensorMode::Unavailable {
                entry.opened = closings(entry.placed);
            }
            entry.sensor.follow(now, mode, proof);
        }
    }

    /// A read has ended that began after so many `closings` of its place.
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

    /// How many DIMM sensors of this host have answered since they may be read, and whether one that is `required` has not.
    #[must_use]
    pub fn dimms_answering(&self, host: usize) -> (u16, bool) {
        let count = self.dimms(host).filter(|sensor| sensor.answers()).count();
        let silent = self.dimms(host).any(|sensor| sensor.is_required() && !sensor.answers());
        (u16::try_from(count).unwrap_or(u16::MAX), silent)
    }

    fn dimms(&self, host: usize) -> impl Iterator<Item = &Sensor> {
        let its_own = move |placed: Placed| placed.host == host && placed.group == Group::Dimm;
        self.entries.iter().filter(move |entry| its_own(entry.placed)).map(|entry| &entry.sensor)
    }

    /// Updates the state of a bus from its transfer: how long one has been under way, if one is, and whether a host
    /// has just been answered without waiting for it any longer. Returns true if this changes whether the bus is
    /// stuck.
    pub fn watch(&mut self, bus: usize, under_way: Option<Duration>, given_up: bool) -> bool {
        let Some(BusState { stuck, .. }) = self.buses.get_mut(bus) else { return false };
        let is = under_way.is_some_and(|taken| *stuck || given_up || taken >= STUCK);
        core::mem::replace(stuck, is) != is
    }

    /// Whether a bus that matters to this host is stuck: it carries its DIMMs, or one of its sensors.
    #[must_use]
    pub fn bus_stuck(&self, host: usize) -> bool {
        self.buses.iter().enumerate().any(|(bus, BusState { reached, stuck, .. })| {
            let has = |entry: &Shown| entry.placed.bus == bus && entry.placed.host == host;
            *stuck && (reached.contains(&host) || self.entries.iter().any(has))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{self, Device, Host, Source},
        logic::{
            acpi::AcpiState,
            event::{Event, SetId},
            evidence::{Chassis, HostState},
        },
    };

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    fn step(machine: &mut Machine, seconds: u64, event: Event) {
        drop(machine.step(at(seconds), event));
    }

    /// A host that worked from the first second on; its gate opens at 11 s.
    fn working(id: u32) -> Machine {
        let mut machine = Machine::new(at(0), Host::new(id), None);
        step(&mut machine, 0, Event::Chassis(Some(Chassis::On)));
        step(&mut machine, 0, Event::Host(Some(HostState::Running)));
        step(&mut machine, 1, Event::Set { id: SetId(1), state: AcpiState::S0G0D0 });
        step(&mut machine, 12, Event::Tick);
        assert!(machine.is_open());
        machine
    }

    fn off(id: u32) -> Machine {
        let mut machine = Machine::new(at(0), Host::new(id), None);
        step(&mut machine, 0, Event::Chassis(Some(Chassis::Off)));
        step(&mut machine, 0, Event::Host(Some(HostState::Off)));
        machine
    }

    fn sensor(host: usize, group: Group, bus: usize) -> (Sensor, Placed) {
        let source = Source::Device { device: Device::Tmp75, bus: 3, address: 0x48 };
        let settings = config::Sensor::new("S".to_owned(), 0, group, source);
        (Sensor::new(&settings), Placed { host, group, bus })
    }

    fn degrees(degrees: f64) -> Result<Celsius, Fault> {
        Celsius::plausible(degrees)
    }

    fn modes(sensors: &Sensors) -> Vec<bool> {
        sensors.entries.iter().map(|entry| entry.sensor.mode() == SensorMode::Read).collect()
    }

    /// Two hosts share bus 0; bus 1 carries nobody's DIMMs.
    fn shared() -> Sensors {
        let all = vec![
            sensor(0, Group::Dimm, 0),
            sensor(0, Group::Thermal, 0),
            sensor(0, Group::Thermal, 1),
            sensor(1, Group::Dimm, 0),
            sensor(1, Group::Thermal, 1),
        ];
        Sensors::new(all, vec![vec![0, 1], vec![]])
    }

    #[test]
    fn a_shared_bus_is_read_when_no_host_minds_and_each_sensor_when_its_own_may_be() {
        let mut sensors = shared();
        sensors.follow(at(12), &[working(0), off(1)], Proof::Fresh, |_| 1);
        assert_eq!(modes(&sensors), [true, true, true, false, false], "the other host is off");
        let mut in_post = working(1);
        step(&mut in_post, 12, Event::Set { id: SetId(2), state: AcpiState::S2D2 });
        sensors.follow(at(12), &[working(0), in_post], Proof::Fresh, |_| 2);
        assert_eq!(modes(&sensors), [false, false, true, false, true], "the other host is in POST");
        sensors.follow(at(12), &[working(0), working(1)], Proof::Fresh, |_| 2);
        assert_eq!(modes(&sensors), [true; 5]);
        sensors.follow(at(12), &[], Proof::Fresh, |_| 3);
        assert_eq!(modes(&sensors), [false; 5], "the daemon ends");
    }

    /// Bus 0 carries DIMMs of both hosts, bus 1 nobody's; once they are one piece of wire, both hosts have a say there.
    #[test]
    fn what_is_sent_on_one_bus_and_seen_on_another_needs_the_hosts_of_both() {
        let mut sensors = shared();
        let mut in_post = working(1);
        step(&mut in_post, 12, Event::Set { id: SetId(2), state: AcpiState::S2D2 });
        let hosts = || [working(0), off(1)];
        sensors.wire(&[vec![], vec![0]]);
        assert_eq!((sensors.reached(0), sensors.reached(1)), ([0, 1].as_slice(), [0, 1].as_slice()));
        sensors.follow(at(12), &hosts(), Proof::Fresh, |_| 1);
        assert_eq!(modes(&sensors), [true, true, true, false, false]);
        sensors.follow(at(12), &[working(0), in_post], Proof::Fresh, |_| 2);
        assert_eq!(modes(&sensors), [false; 5], "the other host is in POST");
        assert!(sensors.watch(1, Some(STUCK), false) && sensors.bus_stuck(1));
        // The mux was told to disconnect.
        sensors.wire(&[vec![], vec![]]);
        assert_eq!(sensors.reached(1), [0_usize; 0]);
        sensors.follow(at(12), &hosts(), Proof::Fresh, |_| 2);
        assert_eq!(modes(&sensors), [true, true, true, false, false]);
    }

    /// The read hung while the gate closed and opened again.
    #[test]
    fn a_read_that_began_before_the_last_opening_is_dropped() {
        let mut sensors = shared();
        let hosts = || [working(0), off(1)];
        for opened_at in [7, Closings::MAX, 0] {
            sensors.follow(at(12), &[], Proof::Fresh, |_| opened_at);
            sensors.follow(at(12), &hosts(), Proof::Fresh, |_| opened_at);
            sensors.read(at(12), 0, opened_at.wrapping_sub(1), degrees(30.0));
            assert_eq!(sensors.changed(|_| true).count(), 0, "{opened_at}");
            sensors.read(at(12), 0, opened_at, degrees(31.0));
            assert_eq!(sensors.changed(|_| true).count(), 1, "{opened_at}");
            sensors.follow(at(12), &[], Proof::Fresh, |_| opened_at);
            assert_eq!(sensors.changed(|_| true).count(), 1, "it goes");
        }
    }

    #[test]
    fn a_change_is_told_once_and_kept_while_its_host_waits_for_an_answer() {
        let mut sensors = shared();
        sensors.follow(at(12), &[working(0), off(1)], Proof::Fresh, |_| 0);
        sensors.read(at(12), 0, 0, degrees(30.0));
        assert_eq!(sensors.changed(|host| host != 0).count(), 0);
        assert_eq!(sensors.changed(|_| true).map(|(sensor, _)| sensor).collect::<Vec<_>>(), [0]);
        assert_eq!(sensors.changed(|_| true).count(), 0);
    }

    #[test]
    fn the_fans_wait_for_one_dimm_or_for_all_to_fail() {
        let all = vec![sensor(0, Group::Dimm, 0), sensor(0, Group::Dimm, 0), sensor(0, Group::Thermal, 0)];
        let mut sensors = Sensors::new(all, vec![vec![0]]);
        sensors.follow(at(12), &[working(0)], Proof::Fresh, |_| 0);
        sensors.read(at(12), 2, 0, degrees(30.0));
        for _ in 0..5 {
            sensors.read(at(13), 0, 0, Err(Fault::Absent));
        }
        assert!(!sensors.dimms_known(0), "the other may still answer");
        sensors.read(at(13), 1, 0, degrees(30.0));
        assert!(sensors.dimms_known(0));
        assert_eq!(sensors.dimms_answering(0), (1, false));
    }

    #[test]
    fn a_bus_is_stuck_after_a_second_or_when_a_host_gave_it_up_and_until_the_transfer_ends() {
        let mut sensors = shared();
        let (short, long) = (Some(Duration::from_millis(300)), Some(STUCK));
        assert!(!sensors.watch(0, short, false));
        assert!(sensors.watch(0, short, true));
        assert!(sensors.bus_stuck(0) && sensors.bus_stuck(1));
        assert!(!sensors.watch(0, short, false), "it still is");
        assert!(sensors.watch(0, None, false));
        assert!(!sensors.bus_stuck(0));
        assert!(sensors.watch(1, long, false));
        assert!(sensors.bus_stuck(0) && sensors.bus_stuck(1), "both have a sensor there");
        assert!(!sensors.watch(7, long, true), "there is no such bus");
    }
}
