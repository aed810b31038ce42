// SPDX-License-Identifier: Apache-2.0
//! Finds fan control's configurations that take our unavailable sensors for failed ones (rules 3.7, `FailsafeConfig`).
//!
//! Owns: what of phosphor-pid-control's configuration, as entity-manager publishes it, is about our sensors: `Configuration.Pid` and
//! `Configuration.Stepwise` with their `Inputs`, `MissingIsAcceptable` and `InputUnavailableAsFailed` (pid-control
//! `dbus/dbusconfiguration.cpp` at ca3d666e, openbmc 4.1), and the sensors that phosphor-virtual-sensor computes from ours
//! (`src/virtualSensor.cpp` at ced2145f: `createVirtualSensorsFromDBus`, `parseConfigInterface`). A configuration in a
//! file, `/usr/share/swampd/config.json` or `virtual_sensor_config.json`, is on no bus and is not seen. Must never: let data that is not
//! understood count for more than nothing; hide the diagnosis behind a regular expression ([`Name`]).
//!
//! A virtual sensor leaves out inputs that are NaN, and is NaN itself when nothing is left (`calculateValue`, `src/calculate.cpp`).
//! A virtual sensor never says that it is unavailable, so pid-control takes that NaN for a failure whatever
//! `InputUnavailableAsFailed` is.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use zbus::{Message, Variant};

use crate::{
    adapters::dbus::{
        discovered_objects::{Carrier, DiscoveredObjects, Known, Place, Properties, plain},
        peer::{Moment, Outcome, Peer},
        signal::Signal,
    },
    logic::{event::Event, time::Time},
    shell::permits::HostIndex,
};

const PID: &str = "xyz.openbmc_project.Configuration.Pid";
const STEPWISE: &str = "xyz.openbmc_project.Configuration.Stepwise";

const fn kind(name: &'static str) -> Carrier {
    Carrier { carries: name, read: name }
}

/// The controllers, and the calculations of a virtual sensor (phosphor-virtual-sensor `src/calculate.cpp`, `calculationIfaces`).
static KINDS: [Carrier; 7] = [
    kind(PID),
    kind(STEPWISE),
    kind("xyz.openbmc_project.Configuration.Average"),
    kind("xyz.openbmc_project.Configuration.Maximum"),
    kind("xyz.openbmc_project.Configuration.Minimum"),
    kind("xyz.openbmc_project.Configuration.ModifiedMedian"),
    kind("xyz.openbmc_project.Configuration.Sum"),
];

/// A controller or a virtual sensor has no more inputs than this.
const MOST_INPUTS: usize = 256;
/// A virtual sensor of virtual sensors, and so on: not deeper than this.
const DEEPEST: usize = 8;

/// Where all our sensors are; and the virtual sensors of these units, whose inputs are of their own kind (phosphor-virtual-sensor
/// `unitMap`, `parseConfigInterface`).
const TEMPERATURES: &str = "/xyz/openbmc_project/sensors/temperature/";
const DEGREES: &str = "DegreesC";

/// The hosts whose sensors a configuration takes for failed.
type Hosts = BTreeSet<HostIndex>;

/// The part of one configuration that is of interest.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// Nothing.
    None,
    Controller {
        unavailable_is_failed: bool,
        inputs: Vec<Name>,
        accepted: Vec<Name>,
    },
    /// With the paths that it is at and computed from.
    Virtual {
        path: String,
        inputs: Vec<String>,
    },
}

/// How a configuration finds sensors of ours.
#[derive(Clone, Copy, Debug)]
enum Through<'a> {
    Input,
    /// Through an input that is this regular expression, perhaps.
    Expression(&'a str),
    /// Through the virtual sensor at this path.
    Virtual(&'a str),
}

/// Fan control's configuration, as far as it is about our sensors.
#[derive(Debug)]
pub(crate) struct FanConfig {
    /// Our sensors by their paths, and whose they are.
    sensors: BTreeMap<String, HostIndex>,
    configurations: DiscoveredObjects<Role>,
    /// The hosts whose machines were last sent `FailsafeConfig(true)`.
    said: Hosts,
}

impl FanConfig {
    /// For our sensors: their paths, and whose they are.
    pub(crate) fn new<'a>(sensors: impl Iterator<Item = (&'a str, HostIndex)>) -> Self {
        let sensors = sensors.map(|(path, host)| (path.to_owned(), host)).collect();
        Self { sensors, configurations: DiscoveredObjects::new(&KINDS), said: Hosts::new() }
    }

    /// All that was read, with the path of its object. An object that answers with an error is no configuration.
    fn roles(&self) -> impl Iterator<Item = (&str, &Role)> {
        self.configurations.all().filter_map(|(place, known)| match known {
            Known::Read(role) => Some((place.path.as_str(), role)),
            Known::Unread | Known::Failed => None,
        })
    }

    /// The virtual sensors that are NaN when sensors of ours are unavailable, and whose those are: all their inputs are ours, or are
    /// such sensors.
    fn blinded(&self) -> BTreeMap<&str, Hosts> {
        let mut blinded = BTreeMap::<&str, Hosts>::new();
        for _ in 0..DEEPEST {
            let before = blinded.len();
            for (_, role) in self.roles() {
                let Role::Virtual { path, inputs } = role else { continue };
                let of = |input: &String| match self.sensors.get(input) {
                    Some(host) => Some(Hosts::from([*host])),
                    None => blinded.get(input.as_str()).cloned(),
                };
                let hosts: Option<Vec<Hosts>> = inputs.iter().map(of).collect();
                let Some(hosts) = hosts.filter(|hosts| !hosts.is_empty()) else { continue };
                blinded.insert(path, hosts.into_iter().flatten().collect());
            }
            if blinded.len() == before {
                break;
            }
        }
        blinded
    }

    /// The hosts whose unavailable sensors are taken for failed ones, with where and through what that is.
    fn bad(&self) -> BTreeMap<HostIndex, (&str, Through<'_>)> {
        let blinded = self.blinded();
        let mut bad = BTreeMap::new();
        for (at, role) in self.roles() {
            let Role::Controller { unavailable_is_failed, inputs, accepted } = role else { continue };
            let found = |path: &str, named| {
                if accepted.iter().any(|accepted| accepted.is(path)) {
                    return None;
                }
                let expression = inputs.iter().find_map(Name::expression).map(Through::Expression);
                if inputs.iter().any(|input| input.is(path)) { Some(named) } else { expression }
            };
            if *unavailable_is_failed {
                for (path, host) in &self.sensors {
                    if let Some(through) = found(path, Through::Input) {
                        bad.insert(*host, (at, through));
                    }
                }
            }
            for (path, hosts) in &blinded {
                if let Some(through) = found(path, Through::Virtual(path)) {
                    for host in hosts {
                        bad.entry(*host).or_insert((at, through));
                    }
                }
            }
        }
        bad
    }

    /// Tells the machines what is so now.
    fn take(&mut self, outcome: &mut Outcome) {
        let bad = self.bad();
        for (host, (at, through)) in &bad {
            if self.said.contains(host) {
                continue;
            }
            match through {
                Through::Input => tracing::warn!(
                    "fan control's configuration {at} takes unavailable sensors of ours for failed ones; set \
                     InputUnavailableAsFailed to false there"
                ),
                Through::Expression(name) => tracing::warn!(
                    "fan control's configuration {at} has the regular expression {name} among its inputs, which may find sensors \
                     of ours; if it does, list them by their names, with InputUnavailableAsFailed false"
                ),
                Through::Virtual(path) => tracing::warn!(
                    "fan control's configuration {at} has the virtual sensor {path} among its inputs, which looks failed while \
                     the sensors of ours that it is computed from are unavailable; have those for inputs, with \
                     InputUnavailableAsFailed false, or list it in MissingIsAcceptable"
                ),
            }
            outcome.events.push((*host, Event::FailsafeConfig(true)));
        }
        let still: Hosts = bad.into_keys().collect();
        // The diagnosis is over only when everything that there is has been looked at.
        let all_read = self.configurations.all().all(|(_, known)| *known != Known::Unread);
        let over = self.said.difference(&still).copied().filter(|_| all_read);
        outcome.events.extend(over.map(|host| (host, Event::FailsafeConfig(false))));
        self.said = if all_read { still } else { self.said.union(&still).copied().collect() };
    }
}

impl Peer for FanConfig {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        if self.sensors.is_empty() { Ok(Vec::new()) } else { self.configurations.start() }
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        Some(self.configurations.returned(serial, reply, role)?.map(Outcome::of))
    }

    fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome> {
        if self.sensors.is_empty() {
            return Ok(Outcome::default());
        }
        self.configurations.signalled(signal).map(Outcome::of)
    }

    fn tick(&mut self, now: Moment) -> zbus::Result<Outcome> {
        let gathered = self.configurations.tick(now, role)?;
        let mut outcome = Outcome::of(gathered.calls);
        if gathered.rests {
            self.take(&mut outcome);
        }
        Ok(outcome)
    }

    fn wake_at(&self) -> Option<Time> {
        self.configurations.wake_at()
    }
}

/// Returns the part of this configuration that is of interest.
fn role(place: &Place, properties: &Properties<'_>) -> Role {
    let kind = KINDS.get(place.kind).map_or("", |kind| kind.carries);
    if kind == PID || kind == STEPWISE {
        return controller(kind == PID, properties);
    }
    if properties.get("Units").and_then(text) != Some(DEGREES) {
        return Role::None;
    }
    // Its name is that of its object (`createVirtualSensorsFromDBus`).
    let path = |name: &str| format!("{TEMPERATURES}{}", name.replace(' ', "_"));
    let name = place.path.rsplit('/').next().unwrap_or_default();
    let inputs = strings(properties.get("Sensors")).into_iter().map(path).collect();
    Role::Virtual { path: path(name), inputs }
}

fn controller(is_pid: bool, properties: &Properties<'_>) -> Role {
    // A controller of fans has tachometers for inputs; pid-control does not know any further class.
    let class = properties.get("Class").and_then(text);
    let thermal = class.is_some_and(|class| ["temp", "margin", "power", "powersum"].contains(&class));
    if is_pid && !thermal {
        return Role::None;
    }
    // Not there: true (pid-control's default).
    let unavailable_is_failed =
        properties.get("InputUnavailableAsFailed").is_none_or(|value| bool(value) != Some(false));
    let names = |list| strings(properties.get(list)).into_iter().map(Name::of).collect();
    Role::Controller {
        unavailable_is_failed,
        inputs: names("Inputs"),
        accepted: names("MissingIsAcceptable"),
    }
}

fn bool(value: &Variant<'_>) -> Option<bool> {
    plain(value).downcast_ref().ok()
}

fn text<'a>(value: &'a Variant<'_>) -> Option<&'a str> {
    plain(value).downcast_ref().ok()
}

/// How a configuration names sensors: pid-control looks for `/NAME$`, a regular expression, in their paths, with `_` for spaces
/// (openbmc 4.1). No published board has more than a name there. So an expression is not evaluated: as an input it may find any sensor
/// of ours, and among those that may be missing it finds none. Both raise the diagnosis rather than hide it.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    /// The end of a path.
    Plain(String),
    /// As it is written.
    Expression(String),
}

impl Name {
    fn of(name: &str) -> Self {
        if name.contains(['^', '$', '.', '*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '\\']) {
            return Self::Expression(name.to_owned());
        }
        Self::Plain(format!("/{}", name.replace(' ', "_")))
    }

    /// True if the name is certain to find the sensor at this path.
    fn is(&self, path: &str) -> bool {
        match self {
            Self::Plain(end) => path.ends_with(end.as_str()),
            Self::Expression(_) => false,
        }
    }

    fn expression(&self) -> Option<&str> {
        match self {
            Self::Plain(_) => None,
            Self::Expression(text) => Some(text),
        }
    }
}

/// The strings in this list; none if it is no list of strings.
fn strings<'a>(list: Option<&'a Variant<'_>>) -> Vec<&'a str> {
    let Some(Variant::Array(values)) = list.map(plain) else { return Vec::new() };
    values.inner().iter().take(MOST_INPUTS).filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::dbus::{
        doubles::{calls, reply, serial},
        peer::moment,
    };

    const BOARD: &str = "/xyz/openbmc_project/inventory/system/board/Board";
    const MANAGER: &str = "xyz.openbmc_project.EntityManager";
    const NOBODY: [HostIndex; 0] = [];
    const MAXIMUM: &str = "xyz.openbmc_project.Configuration.Maximum";

    type Configuration = (&'static str, &'static str, Vec<(&'static str, Variant<'static>)>);

    fn list(names: &[&str]) -> Variant<'static> {
        Variant::from(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    fn virtual_sensor(name: &'static str, sensors: &[&str]) -> Configuration {
        (name, MAXIMUM, vec![("Sensors", list(sensors)), ("Units", Variant::from("DegreesC"))])
    }

    /// As it should be, for our own sensors.
    fn curve(inputs: &[&str]) -> Configuration {
        (
            "Curve",
            STEPWISE,
            vec![("Inputs", list(inputs)), ("InputUnavailableAsFailed", Variant::Bool(false))],
        )
    }

    /// Returns the hosts that are reported for these configurations, of a board with a sensor of each of two hosts.
    fn told(configurations: &[Configuration]) -> Vec<HostIndex> {
        let ours = ["A1", "B1"].map(|name| format!("{TEMPERATURES}DIMM_{name}"));
        let mut config = FanConfig::new(ours.iter().enumerate().map(|(host, path)| (path.as_str(), host)));
        let begin = config.start().unwrap();
        let question = calls(&begin, "GetSubTree")[0];
        let mut tree: BTreeMap<String, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
        for (name, interface, _) in configurations {
            tree.entry(format!("{BOARD}/{name}")).or_default().insert(MANAGER, vec![interface]);
        }
        let outcome = config.returned(serial(question), &reply(question, ":1.1", &tree)).unwrap().unwrap();
        for get in calls(&outcome.calls, "GetAll") {
            let path = get.header().path().unwrap().as_str().to_owned();
            let of = configurations.iter().find(|(name, ..)| path == format!("{BOARD}/{name}")).unwrap();
            let values: BTreeMap<&str, Variant<'_>> = of.2.iter().cloned().collect();
            config.returned(serial(get), &reply(get, ":1.5", &values)).unwrap().unwrap();
        }
        assert_eq!(config.tick(moment(0)).unwrap().events, []);
        let told = config.tick(moment(10)).unwrap().events;
        assert!(told.iter().all(|(_, event)| *event == Event::FailsafeConfig(true)));
        told.into_iter().map(|(host, _)| host).collect()
    }

    #[test]
    fn a_virtual_sensor_hides_ours_and_never_says_that_it_is_unavailable() {
        assert_eq!(told(&[curve(&["DIMM A1", "DIMM B1"])]), NOBODY);
        let hottest = || virtual_sensor("DIMM_Max", &["DIMM A1"]);
        assert_eq!(told(&[curve(&["DIMM Max"]), hottest()]), [0]);
        // Nobody has it among the inputs; or it is another's.
        assert_eq!(told(&[curve(&["CPU Max"]), hottest()]), NOBODY);
        assert_eq!(told(&[hottest()]), NOBODY);
        assert_eq!(told(&[curve(&["CPU_Max"]), virtual_sensor("CPU_Max", &["CPU0", "CPU1"])]), NOBODY);
        // Of both hosts; and accepted as missing.
        assert_eq!(told(&[curve(&["Both"]), virtual_sensor("Both", &["DIMM_A1", "DIMM_B1"])]), [0, 1]);
        let mut accepting = curve(&["DIMM Max"]);
        accepting.2.push(("MissingIsAcceptable", list(&["DIMM_Max"])));
        assert_eq!(told(&[accepting, hottest()]), NOBODY);
    }

    #[test]
    fn a_regular_expression_may_find_ours_and_accepts_nothing() {
        let failing = |inputs: &[&str], accepted: &[&str]| {
            told(&[(
                "Curve",
                STEPWISE,
                vec![("Inputs", list(inputs)), ("MissingIsAcceptable", list(accepted))],
            )])
        };
        assert_eq!(failing(&["DIMM A1"], &[]), [0]);
        assert_eq!(failing(&["CPU", "DIMM-A1", "DIMM_A", "MM_A1", ""], &[]), NOBODY);
        assert_eq!(failing(&["DIMM_A1", "DIMM B1"], &["DIMM_A1"]), [1]);
        for character in r"^$.*+?()[]{}|\".chars() {
            let expression = format!("CPU{character}");
            assert_eq!(failing(&[&expression], &[]), [0, 1], "{expression}");
            assert_eq!(failing(&[&expression], &["DIMM A1", "DIMM B1"]), NOBODY, "{expression}");
            assert_eq!(failing(&["DIMM_A1"], &[&expression]), [0], "{expression}");
        }
        // Where what is unavailable is not failed, it may still find a virtual sensor, if there is one that is blind.
        assert_eq!(told(&[curve(&["DIMM_.*"])]), NOBODY);
        assert_eq!(told(&[curve(&["DIMM_.*"]), virtual_sensor("Max", &["DIMM_A1"])]), [0]);
    }

    #[test]
    fn a_chain_is_followed_and_one_that_other_sensors_keep_alive_is_not_blind() {
        let chain = |last: &[&str]| {
            [
                curve(&["Hottest"]),
                virtual_sensor("Hottest", &["Middle"]),
                virtual_sensor("Middle", &["First", "DIMM_B1"]),
                virtual_sensor("First", last),
            ]
        };
        assert_eq!(told(&chain(&["DIMM_A1"])), [0, 1]);
        // A part of it that is not ours has a value.
        assert_eq!(told(&chain(&["DIMM_A1", "Inlet"])), NOBODY);
        // A ring is nobody's; and neither is what has no inputs, or is of another unit.
        assert_eq!(told(&chain(&["Hottest"])), NOBODY);
        assert_eq!(told(&chain(&[])), NOBODY);
        let mut power = virtual_sensor("DIMM_Max", &["DIMM_A1"]);
        power.2[1].1 = Variant::from("Watts");
        assert_eq!(told(&[curve(&["DIMM_Max"]), power]), NOBODY);
    }
}
