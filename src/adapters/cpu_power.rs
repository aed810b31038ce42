// SPDX-License-Identifier: Apache-2.0
//! Follows the sensor of each host's CPU power (rules 3.7, `NoCpuPower`).
//!
//! Owns: what was last said of it. Must never: take a sensor that is absent, unavailable or NaN for one that says 0 W, or judge
//! how long is too long.

use std::num::NonZeroU32;

use zbus::Message;

use crate::{
    adapters::dbus::{
        known_properties::{KnownProperties, Plain, Told},
        peer::{Moment, Outcome, Peer},
        signal::Signal,
    },
    logic::{diagnosis::CpuPower as Power, event::Event, time::Time},
    shell::permits::HostIndex,
};

const VALUE: &str = "xyz.openbmc_project.Sensor.Value";
const AVAILABILITY: &str = "xyz.openbmc_project.State.Decorator.Availability";

#[derive(Debug)]
struct Sensor {
    host: HostIndex,
    value: usize,
    available: usize,
    said: Power,
}

/// The sensors of all hosts that have one.
#[derive(Debug, Default)]
pub(crate) struct CpuPower {
    sensors: Vec<Sensor>,
    watched: KnownProperties,
}

impl CpuPower {
    /// For the sensors at these paths, host by host.
    pub(crate) fn new<'a>(paths: impl Iterator<Item = Option<&'a str>>) -> Self {
        let mut power = Self::default();
        for (host, path) in paths.enumerate() {
            let Some(path) = path else { continue };
            let value = power.watched.add(path, VALUE, "Value");
            let available = power.watched.add(path, AVAILABILITY, "Available");
            power.sensors.push(Sensor { host, value, available, said: Power::Unknown });
        }
        power
    }

    fn take(&mut self, told: Told) -> Outcome {
        let mut outcome = Outcome::of(told.calls);
        if told.news.is_empty() {
            return outcome;
        }
        for sensor in &mut self.sensors {
            let gone = self.watched.value(sensor.available) == Some(&Plain::Bool(false));
            let power = match self.watched.value(sensor.value) {
                Some(Plain::Double(watts)) if !gone => Power::of(*watts),
                Some(
                    Plain::Bool(_)
                    | Plain::Unsigned(_)
                    | Plain::Double(_)
                    | Plain::Text(_)
                    | Plain::Code(_)
                    | Plain::Other,
                )
                | None => Power::Unknown,
            };
            if std::mem::replace(&mut sensor.said, power) != power {
                outcome.events.push((sensor.host, Event::CpuPower(power)));
            }
        }
        outcome
    }
}

impl Peer for CpuPower {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        self.watched.start()
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let told = self.watched.returned(serial, reply)?;
        Some(told.map(|told| self.take(told)))
    }

    fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome> {
        let told = self.watched.signalled(signal)?;
        Ok(self.take(told))
    }

    fn tick(&mut self, now: Moment) -> zbus::Result<Outcome> {
        let told = self.watched.tick(now)?;
        Ok(self.take(told))
    }

    fn wake_at(&self) -> Option<Time> {
        self.watched.wake_at()
    }
}

#[cfg(test)]
mod tests {
    use zbus::Variant;

    use super::*;
    use crate::adapters::dbus::doubles::{calls, changed, failed, owned_by, owner, reply, serial};

    const PATH: &str = "/xyz/openbmc_project/sensors/power/CPU_Power";
    const SERVICE: &str = "xyz.openbmc_project.HwmonTempSensor";

    /// Of host 1, with this value, and no Availability.
    fn running(watts: f64) -> (CpuPower, Vec<(HostIndex, Event)>) {
        let mut power = CpuPower::new([None, Some(PATH)].into_iter());
        let begin = power.start().unwrap();
        let [value, available] = calls(&begin, "GetObject")[..] else { panic!("{begin:?}") };
        power.returned(serial(available), &failed(available)).unwrap().unwrap();
        let outcome = power.returned(serial(value), &owned_by(value, SERVICE)).unwrap().unwrap();
        let get = calls(&outcome.calls, "Get")[0];
        let outcome =
            power.returned(serial(get), &reply(get, ":1.3", &Variant::from(watts))).unwrap().unwrap();
        (power, outcome.events)
    }

    fn says(
        power: &mut CpuPower,
        interface: &str,
        property: &str,
        value: Variant<'_>,
    ) -> Vec<(HostIndex, Event)> {
        power.hear(&changed(":1.3", PATH, interface, property, value)).unwrap().events
    }

    #[test]
    fn low_good_and_neither() {
        let (mut power, events) = running(0.0);
        assert_eq!(events, [(1, Event::CpuPower(Power::Low))]);
        assert_eq!(says(&mut power, VALUE, "Value", Variant::from(0.2)), []);
        assert_eq!(
            says(&mut power, VALUE, "Value", Variant::from(55.0)),
            [(1, Event::CpuPower(Power::Good))]
        );
        assert_eq!(
            says(&mut power, VALUE, "Value", Variant::from(f64::NAN)),
            [(1, Event::CpuPower(Power::Unknown))]
        );
    }

    #[test]
    fn a_service_that_goes_takes_its_value_with_it() {
        let (mut power, _) = running(0.0);
        let events = power.hear(&owner(SERVICE, "")).unwrap().events;
        assert_eq!(events, [(1, Event::CpuPower(Power::Unknown))]);
    }

    #[test]
    fn what_is_unavailable_says_nothing() {
        let mut power = CpuPower::new([Some(PATH)].into_iter());
        let begin = power.start().unwrap();
        let mut events = Vec::new();
        for question in calls(&begin, "GetObject") {
            let outcome = power.returned(serial(question), &owned_by(question, SERVICE)).unwrap().unwrap();
            for get in calls(&outcome.calls, "Get") {
                let body = get.body();
                let value = match body.deserialize::<(&str, &str)>().unwrap().1 {
                    "Value" => Variant::from(0.0),
                    _ => Variant::from(false),
                };
                events.extend(
                    power.returned(serial(get), &reply(get, ":1.3", &value)).unwrap().unwrap().events,
                );
            }
        }
        assert_eq!(events.last(), Some(&(0, Event::CpuPower(Power::Unknown))));
        assert_eq!(
            says(&mut power, AVAILABILITY, "Available", Variant::from(true)),
            [(0, Event::CpuPower(Power::Low))]
        );
    }
}
