// SPDX-License-Identifier: Apache-2.0
//! The sensors' objects, as fan control, Redfish and IPMI read them (openbmc 4.1 and 5).
//!
//! Owns the published values, and the order of the signals in which a sensor goes away and comes back. Must never:
//! know more than was published. The objects are there from the start and stay: fan control rebuilds its zones, and
//! IPMI renumbers, when one comes or goes.

use zbus::{Message, Variant};

use crate::{
    adapters::dbus::object::{
        Access, Interface, Method, Object, Property, Request, Signal, properties_changed,
    },
    config::{self, Limits},
    logic::{
        reading::Celsius,
        sensor::{Alarm, Snapshot},
    },
    shell::permits::HostIndex,
};

const VALUE: &str = "xyz.openbmc_project.Sensor.Value";
const WARNING: &str = "xyz.openbmc_project.Sensor.Threshold.Warning";
const CRITICAL: &str = "xyz.openbmc_project.Sensor.Threshold.Critical";
const AVAILABILITY: &str = "xyz.openbmc_project.State.Decorator.Availability";
const STATUS: &str = "xyz.openbmc_project.State.Decorator.OperationalStatus";
const ASSOCIATIONS: &str = "xyz.openbmc_project.Association.Definitions";

const UNIT: &str = "xyz.openbmc_project.Sensor.Value.Unit.DegreesC";
/// Finite, or ipmid has no record of the sensor; the same as dbus-sensors' (openbmc 5).
const RANGE: (f64, f64) = (-128.0, 127.0);

const fn read(name: &'static str, signature: &'static str) -> Property {
    Property { name, signature, access: Access::Read }
}

const fn with_value(name: &'static str) -> Signal {
    Signal { name, args: &[("SensorValue", "d")] }
}

/// dbus-sensors' own signal, which the SEL logger's threshold monitor listens for.
const ASSERTED: Signal = Signal {
    name: "ThresholdAsserted",
    args: &[
        ("SensorName", "s"),
        ("InterfaceName", "s"),
        ("ThresholdName", "s"),
        ("Asserted", "b"),
        ("SensorValue", "d"),
    ],
};

static INTERFACES: [Interface; 6] = [
    Interface {
        name: VALUE,
        properties: &[read("Value", "d"), read("MaxValue", "d"), read("MinValue", "d"), read("Unit", "s")],
        methods: &[],
        signals: &[],
    },
    Interface {
        name: WARNING,
        properties: &[
            read("WarningHigh", "d"),
            read("WarningLow", "d"),
            read("WarningAlarmHigh", "b"),
            read("WarningAlarmLow", "b"),
        ],
        methods: &[],
        signals: &[
            with_value("WarningHighAlarmAsserted"),
            with_value("WarningHighAlarmDeasserted"),
            with_value("WarningLowAlarmAsserted"),
            with_value("WarningLowAlarmDeasserted"),
            ASSERTED,
        ],
    },
    Interface {
        name: CRITICAL,
        properties: &[
            read("CriticalHigh", "d"),
            read("CriticalLow", "d"),
            read("CriticalAlarmHigh", "b"),
            read("CriticalAlarmLow", "b"),
        ],
        methods: &[],
        signals: &[
            with_value("CriticalHighAlarmAsserted"),
            with_value("CriticalHighAlarmDeasserted"),
            with_value("CriticalLowAlarmAsserted"),
            with_value("CriticalLowAlarmDeasserted"),
            ASSERTED,
        ],
    },
    Interface { name: AVAILABILITY, properties: &[read("Available", "b")], methods: &[], signals: &[] },
    Interface { name: STATUS, properties: &[read("Functional", "b")], methods: &[], signals: &[] },
    Interface {
        name: ASSOCIATIONS,
        properties: &[read("Associations", "a(sss)")],
        methods: &[],
        signals: &[],
    },
];

/// A direction of one threshold: its alarm's property and the signals that it sends.
struct Direction {
    interface: &'static str,
    alarm: &'static str,
    asserted: &'static str,
    deasserted: &'static str,
    of: fn(&Snapshot) -> bool,
}

static DIRECTIONS: [Direction; 4] = [
    Direction {
        interface: WARNING,
        alarm: "WarningAlarmHigh",
        asserted: "WarningHighAlarmAsserted",
        deasserted: "WarningHighAlarmDeasserted",
        of: |snapshot| snapshot.warning.high,
    },
    Direction {
        interface: WARNING,
        alarm: "WarningAlarmLow",
        asserted: "WarningLowAlarmAsserted",
        deasserted: "WarningLowAlarmDeasserted",
        of: |snapshot| snapshot.warning.low,
    },
    Direction {
        interface: CRITICAL,
        alarm: "CriticalAlarmHigh",
        asserted: "CriticalHighAlarmAsserted",
        deasserted: "CriticalHighAlarmDeasserted",
        of: |snapshot| snapshot.critical.high,
    },
    Direction {
        interface: CRITICAL,
        alarm: "CriticalAlarmLow",
        asserted: "CriticalLowAlarmAsserted",
        deasserted: "CriticalLowAlarmDeasserted",
        of: |snapshot| snapshot.critical.low,
    },
];

/// The object of one sensor.
#[derive(Debug)]
pub(crate) struct SensorObject {
    path: String,
    name: String,
    host: HostIndex,
    warning: Limits,
    critical: Limits,
    /// Forward, backward, path.
    associations: Vec<(&'static str, &'static str, String)>,
    shown: Snapshot,
}

impl SensorObject {
    /// The object of a sensor that has not been read.
    pub(crate) fn new(host: HostIndex, sensor: &config::Sensor) -> Self {
        let chassis = sensor.chassis.iter().map(|path| ("chassis", "all_sensors", path.clone()));
        Self {
            path: format!("/xyz/openbmc_project/sensors/temperature/{}", sensor.name),
            name: sensor.name.clone(),
            host,
            warning: sensor.warning,
            critical: sensor.critical,
            associations: chassis.collect(),
            shown: Snapshot::UNAVAILABLE,
        }
    }

    /// Takes new values in; the signals that say so, each of which fan control may act on before it has the next.
    pub(crate) fn publish(&mut self, now: Snapshot) -> zbus::Result<Vec<Message>> {
        let before = std::mem::replace(&mut self.shown, now);
        let mut out = Vec::new();
        let going = before.available && !now.available;
        let value = number(now.value.map(Celsius::degrees));
        let mut available =
            (AVAILABILITY, "Available", now.available.into(), before.available != now.available);
        let mut rest = [
            (VALUE, "Value", value.into(), before.value != now.value),
            (STATUS, "Functional", now.functional.into(), before.functional != now.functional),
        ];
        let mut say =
            |(interface, name, value, changed): &mut (&str, &'static str, Variant<'static>, bool)| {
                if *changed {
                    let value = std::mem::replace(value, Variant::U8(0));
                    out.push(properties_changed(&self.path, interface, vec![(*name, value)])?);
                }
                zbus::Result::Ok(())
            };
        if going {
            say(&mut available)?;
            rest.iter_mut().try_for_each(&mut say)?;
        } else {
            rest.iter_mut().try_for_each(&mut say)?;
            say(&mut available)?;
        }
        // The value that ended an alarm is the last one there was, where there is none now.
        let trigger = number(now.value.or(before.value).map(Celsius::degrees));
        for direction in &DIRECTIONS {
            let on = (direction.of)(&now);
            if on != (direction.of)(&before) {
                self.alarm(direction, on, trigger, &mut out)?;
            }
        }
        Ok(out)
    }

    /// Says again that it is unavailable, if it is.
    pub(crate) fn assert(&self) -> zbus::Result<Vec<Message>> {
        if self.shown.available {
            return Ok(Vec::new());
        }
        let say = |interface, name, value: Variant<'static>| {
            properties_changed(&self.path, interface, vec![(name, value)])
        };
        Ok(vec![
            say(AVAILABILITY, "Available", false.into())?,
            say(VALUE, "Value", f64::NAN.into())?,
            say(STATUS, "Functional", false.into())?,
        ])
    }

    /// Says all that changes, changed or not: its availability, and that no alarm is on. Somebody may still believe what a process
    /// before this one said of it.
    pub(crate) fn state_again(&self) -> zbus::Result<Vec<Message>> {
        let mut out = self.assert()?;
        for direction in &DIRECTIONS {
            let on = (direction.of)(&self.shown);
            out.push(properties_changed(
                &self.path,
                direction.interface,
                vec![(direction.alarm, on.into())],
            )?);
        }
        Ok(out)
    }

    fn alarm(&self, direction: &Direction, on: bool, value: f64, out: &mut Vec<Message>) -> zbus::Result<()> {
        let Direction { interface, alarm, asserted, deasserted, .. } = *direction;
        let signal = |name| Message::signal(self.path.as_str(), interface, name);
        out.push(properties_changed(&self.path, interface, vec![(alarm, on.into())])?);
        out.push(signal(if on { asserted } else { deasserted }).build(&value)?);
        out.push(signal(ASSERTED.name).build(&(self.name.as_str(), interface, alarm, on, value))?);
        Ok(())
    }
}

/// As D-Bus has it: NaN where there is nothing.
fn number(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

impl Object for SensorObject {
    fn path(&self) -> &str {
        &self.path
    }

    fn host(&self) -> HostIndex {
        self.host
    }

    fn interfaces(&self) -> &'static [Interface] {
        &INTERFACES
    }

    fn get(&self, property: &'static Property) -> Option<Variant<'_>> {
        let Snapshot { value, available, functional, warning, critical } = self.shown;
        let Alarm { low: warning_low, high: warning_high } = warning;
        let Alarm { low: critical_low, high: critical_high } = critical;
        Some(match property.name {
            "Value" => number(value.map(Celsius::degrees)).into(),
            "MinValue" => RANGE.0.into(),
            "MaxValue" => RANGE.1.into(),
            "Unit" => UNIT.into(),
            "WarningHigh" => number(self.warning.high).into(),
            "WarningLow" => number(self.warning.low).into(),
            "WarningAlarmHigh" => warning_high.into(),
            "WarningAlarmLow" => warning_low.into(),
            "CriticalHigh" => number(self.critical.high).into(),
            "CriticalLow" => number(self.critical.low).into(),
            "CriticalAlarmHigh" => critical_high.into(),
            "CriticalAlarmLow" => critical_low.into(),
            "Available" => available.into(),
            "Functional" => functional.into(),
            "Associations" => {
                let of = |(forward, backward, path): &(&'static str, &'static str, String)| {
                    (*forward, *backward, path.clone())
                };
                self.associations.iter().map(of).collect::<Vec<_>>().into()
            }
            _ => return None,
        })
    }

    fn set(&self, property: &'static Property, _: &Variant<'_>) -> Result<Request, String> {
        Err(format!("{} cannot be set.", property.name))
    }

    fn call(&self, method: &'static Method, _: &Message) -> Result<Request, String> {
        Err(format!("{} cannot be called.", method.name))
    }
}
