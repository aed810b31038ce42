// SPDX-License-Identifier: Apache-2.0
//! Finds fan control's configurations that take our unavailable sensors for failed ones (design 3.7, `FailsafeConfig`).
//!
//! Owns: what of phosphor-pid-control's configuration, as entity-manager publishes it, is about our sensors: `Configuration.Pid` and
//! `Configuration.Stepwise` with their `Inputs`, `MissingIsAcceptable` and `InputUnavailableAsFailed` (pid-control
//! `dbus/dbusconfiguration.cpp` at ca3d666e, contract 4.1). A configuration in a file, `/usr/share/swampd/config.json`, is on no bus
//! and is not seen. Must never: let data that is not understood count for more than nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use zbus::{Message, Variant};

use crate::{
    adapters::{
        collected::{Collected, Gathered, Kind, Known, Place, Properties, plain},
        peer::{Outcome, Peer},
    },
    logic::{machine::Event, pattern::Pattern},
    shell::permits::HostIndex,
};

const PID: &str = "xyz.openbmc_project.Configuration.Pid";
const STEPWISE: &str = "xyz.openbmc_project.Configuration.Stepwise";

static KINDS: [Kind; 2] = [Kind { carries: PID, read: PID }, Kind { carries: STEPWISE, read: STEPWISE }];

/// A controller has no more inputs than this.
const MOST_INPUTS: usize = 256;

/// A sensor of ours: its object's path, and its host.
#[derive(Debug)]
struct Sensor {
    path: String,
    host: HostIndex,
}

/// The hosts whose sensors a configuration takes for failed.
type Hosts = BTreeSet<HostIndex>;

/// Fan control's configuration, as far as it is about our sensors.
#[derive(Debug)]
pub(crate) struct FanConfig {
    sensors: Vec<Sensor>,
    configurations: Collected<Hosts>,
    /// What the machines were told.
    said: Hosts,
}

impl FanConfig {
    /// For our sensors: their paths, and whose they are.
    pub(crate) fn new<'a>(sensors: impl Iterator<Item = (&'a str, HostIndex)>) -> Self {
        let sensors = sensors.map(|(path, host)| Sensor { path: path.to_owned(), host }).collect();
        Self { sensors, configurations: Collected::new(&KINDS), said: Hosts::new() }
    }

    fn take(&mut self, gathered: Gathered) -> Outcome {
        let mut outcome = Outcome::of(gathered.calls);
        if !gathered.changed {
            return outcome;
        }
        let (mut bad, mut all_read) = (BTreeMap::<HostIndex, &str>::new(), true);
        for (place, known) in self.configurations.all() {
            match known {
                Known::Read(hosts) => bad.extend(hosts.iter().map(|host| (*host, place.path.as_str()))),
                // What answers with an error is no configuration.
                Known::Failed => {}
                Known::Unread => all_read = false,
            }
        }
        for (host, path) in bad {
            if self.said.insert(host) {
                tracing::warn!(
                    "fan control's configuration {path} takes unavailable sensors of ours for failed ones; set \
                     InputUnavailableAsFailed to false there"
                );
                outcome.events.push((host, Event::FailsafeConfig(true)));
            }
        }
        // It is over only when everything that there is has been looked at.
        if all_read {
            let still = self.configurations.all().filter_map(|(_, known)| match known {
                Known::Read(hosts) => Some(hosts),
                Known::Unread | Known::Failed => None,
            });
            let still: Hosts = still.flatten().copied().collect();
            let over: Vec<_> = self.said.difference(&still).copied().collect();
            outcome.events.extend(over.into_iter().map(|host| (host, Event::FailsafeConfig(false))));
            self.said = still;
        }
        outcome
    }
}

impl Peer for FanConfig {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        if self.sensors.is_empty() { Ok(Vec::new()) } else { self.configurations.start() }
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let sensors = &self.sensors;
        let gathered = self
            .configurations
            .returned(serial, reply, |place, properties| judge(sensors, place, properties))?;
        Some(gathered.map(|gathered| self.take(gathered)))
    }

    fn signalled(&mut self, signal: &Message) -> zbus::Result<Outcome> {
        if self.sensors.is_empty() {
            return Ok(Outcome::default());
        }
        let gathered = self.configurations.signalled(signal)?;
        Ok(self.take(gathered))
    }
}

/// Whose sensors this configuration takes for failed while they are unavailable.
fn judge(sensors: &[Sensor], place: &Place, properties: &Properties<'_>) -> Hosts {
    // A controller of fans has tachometers for inputs; pid-control does not know any further class.
    let class = properties.get("Class").and_then(text);
    let thermal = class.is_some_and(|class| ["temp", "margin", "power", "powersum"].contains(&class));
    let is_pid = KINDS.get(place.kind).is_some_and(|kind| kind.carries == PID);
    // Not there: true (pid-control's default).
    let as_failed = properties.get("InputUnavailableAsFailed").is_none_or(|value| bool(value) != Some(false));
    if (is_pid && !thermal) || !as_failed {
        return Hosts::new();
    }
    let inputs = patterns(properties.get("Inputs"));
    let accepted = patterns(properties.get("MissingIsAcceptable"));
    let uses = |sensor: &&Sensor| {
        inputs.iter().any(|input| input.finds(&sensor.path))
            && !accepted.iter().any(|accepted| accepted.finds(&sensor.path))
    };
    sensors.iter().filter(uses).map(|sensor| sensor.host).collect()
}

fn bool(value: &Variant<'_>) -> Option<bool> {
    plain(value).downcast_ref().ok()
}

fn text<'a>(value: &'a Variant<'_>) -> Option<&'a str> {
    plain(value).downcast_ref().ok()
}

/// How a configuration names sensors: pid-control looks for `/NAME$`, a regular expression, in their paths, with `_` for spaces.
#[derive(Debug)]
enum Name {
    Plain(String),
    Pattern(Pattern),
}

impl Name {
    fn of(name: &str) -> Option<Self> {
        let name = name.replace(' ', "_");
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Some(Self::Plain(format!("/{name}")));
        }
        Pattern::parse(&format!("/{name}$")).map(Self::Pattern)
    }

    fn finds(&self, path: &str) -> bool {
        match self {
            Self::Plain(end) => path.ends_with(end.as_str()),
            Self::Pattern(pattern) => pattern.is_in(path),
        }
    }
}

/// The names in this list; none if it is no list of strings.
fn patterns(list: Option<&Variant<'_>>) -> Vec<Name> {
    let Some(Variant::Array(names)) = list.map(plain) else { return Vec::new() };
    names.inner().iter().take(MOST_INPUTS).filter_map(|name| Name::of(text(name)?)).collect()
}
