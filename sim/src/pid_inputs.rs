// SPDX-License-Identifier: Apache-2.0
//! phosphor-pid-control's eyes: what it concludes of each temperature sensor, signal by signal.
//!
//! It applies every signal by itself and may run its loop between any two; so each is judged by its rules as it comes
//! (openbmc 4.1).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::JoinSet;
use zbus::{Connection, MatchRule, Message, MessageStream, Variant, message::Type};

use crate::{
    Result, lock, mapper,
    objects::{PROPERTIES, connect, next},
};

/// Where the sensors are.
pub const SENSORS: &str = "/xyz/openbmc_project/sensors/temperature";

const VALUE: &str = "xyz.openbmc_project.Sensor.Value";

/// What pid-control knows of a sensor.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// `Value`.
    pub value: f64,
    /// What its loops calculate with: the last good value, until the sensor becomes unavailable.
    pub cached: f64,
    /// `Available`.
    pub available: bool,
    /// `Functional`; it is not read at the start, and taken for true.
    pub functional: bool,
    /// `CriticalAlarmHigh` or `CriticalAlarmLow`.
    pub critical: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self { value: f64::NAN, cached: f64::NAN, available: true, functional: true, critical: false }
    }
}

impl Input {
    /// Why it is failed, by pid-control's list; `None` if it is not. `InputUnavailableAsFailed` is false, as
    /// documented for our sensors.
    #[must_use]
    pub fn failure(&self) -> Option<&'static str> {
        if !self.available {
            return None;
        }
        if !self.value.is_finite() {
            return Some("the value is no number");
        }
        if self.critical {
            return Some("a critical alarm");
        }
        (!self.functional).then_some("not functional")
    }

    /// One property of a signal or of the first read.
    pub fn learn(&mut self, name: &str, value: &Variant<'_>) {
        match (name, value) {
            ("Value", Variant::F64(value)) => {
                self.value = *value;
                if value.is_finite() {
                    self.cached = *value;
                }
            }
            ("Available", Variant::Bool(available)) => {
                self.available = *available;
                if !available {
                    // It blanks what it has when it sees a sensor go (dbuspassive.cpp:483-493).
                    (self.value, self.cached) = (f64::NAN, f64::NAN);
                }
            }
            ("Functional", Variant::Bool(functional)) => self.functional = *functional,
            ("CriticalAlarmHigh" | "CriticalAlarmLow", Variant::Bool(alarm)) => self.critical = *alarm,
            _ => {}
        }
    }
}

/// What it knows of all.
#[derive(Clone, Debug)]
pub struct PidInputs {
    connection: Connection,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    inputs: BTreeMap<String, Input>,
    /// What was signalled of a sensor while its first read is under way: it counts after that.
    early: BTreeMap<String, Vec<(String, Variant<'static>)>>,
    /// Sensors that were failed after a signal, and why.
    failures: Vec<(String, &'static str)>,
    /// How many of them were taken.
    taken: usize,
    signals: u64,
}

impl PidInputs {
    /// Starts listening on the bus at `address`.
    pub async fn start(address: &str, tasks: &mut JoinSet<()>) -> Result<Self> {
        let connection = connect(address).await?;
        let rule = MatchRule::builder().msg_type(Type::Signal).path_namespace(SENSORS).build()?;
        let mut signals = MessageStream::for_match_rule(rule, &connection, None).await?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let of_task = Arc::clone(&shared);
        tasks.spawn(async move {
            while let Some(signal) = next(&mut signals).await {
                lock(&of_task).signal(&signal);
            }
        });
        Ok(Self { connection, shared })
    }

    /// Which of these sensors the mapper knows (pid-control asks it for all that there is, `dbus/dbusconfiguration.cpp`).
    pub async fn present(&self, names: impl IntoIterator<Item = &String>) -> Result<Vec<String>> {
        let body = ("/", 0_i32, [VALUE].as_slice());
        let found = self
            .connection
            .call_method(Some(mapper::NAME), mapper::PATH, Some(mapper::INTERFACE), "GetSubTree", &body)
            .await?;
        let found: mapper::SubTree = found.body().deserialize()?;
        let there = |name: &&String| found.contains_key(&format!("{SENSORS}/{name}"));
        Ok(names.into_iter().filter(there).cloned().collect())
    }

    /// Reads a sensor for the first time: finds its service by the mapper, and reads all its interfaces at once.
    pub async fn discover(&self, name: &str) -> Result<BTreeMap<String, Variant<'static>>> {
        let path = format!("{SENSORS}/{name}");
        let body = (path.as_str(), [VALUE].as_slice());
        let services = self
            .connection
            .call_method(Some(mapper::NAME), mapper::PATH, Some(mapper::INTERFACE), "GetObject", &body)
            .await?;
        let services: mapper::Services = services.body().deserialize()?;
        let service = services.into_keys().next().ok_or("nobody has it")?;
        lock(&self.shared).early.insert(name.to_owned(), Vec::new());
        let reply = self
            .connection
            .call_method(Some(service.as_str()), path.as_str(), Some(PROPERTIES), "GetAll", &"")
            .await?;
        let body = reply.body();
        let all: BTreeMap<String, Variant<'_>> = body.deserialize()?;
        let mut input = Input::default();
        for (property, value) in all.iter().filter(|(property, _)| *property != "Functional") {
            input.learn(property, value);
        }
        lock(&self.shared).begin(name, input);
        let owned = all.into_iter().map(|(name, value)| Ok((name, value.try_to_owned()?.into())));
        owned.collect::<zbus::Result<_>>().map_err(Into::into)
    }

    /// Forgets all sensors, as a reload of its zones does.
    pub fn forget(&self) {
        lock(&self.shared).inputs.clear();
    }

    /// What is known of a sensor.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<Input> {
        lock(&self.shared).inputs.get(name).copied()
    }

    /// What is known of all, by name.
    #[must_use]
    pub fn inputs(&self) -> BTreeMap<String, Input> {
        lock(&self.shared).inputs.clone()
    }

    /// Who was taken for failed, after which signal; forgets it.
    #[must_use]
    pub fn take_failures(&self) -> Vec<(String, &'static str)> {
        let mut shared = lock(&self.shared);
        let all = shared.failures.len();
        let from = std::mem::replace(&mut shared.taken, all);
        shared.failures.get(from..).unwrap_or_default().to_vec()
    }

    /// The same from the `from`-th on; takes nothing.
    #[must_use]
    pub fn failures(&self, from: usize) -> Vec<(String, &'static str)> {
        lock(&self.shared).failures.get(from..).unwrap_or_default().to_vec()
    }

    /// How many signals of sensors there were.
    #[must_use]
    pub fn signals(&self) -> u64 {
        lock(&self.shared).signals
    }

    /// Waits until a sensor is as `condition` says; true if it was in time.
    pub async fn wait(&self, name: &str, within: Duration, condition: impl Fn(Input) -> bool) -> bool {
        let wanted = async {
            while !self.input(name).is_some_and(&condition) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(within, wanted).await.is_ok()
    }
}

impl Shared {
    fn begin(&mut self, name: &str, mut input: Input) {
        for (property, value) in self.early.remove(name).unwrap_or_default() {
            input.learn(&property, &value);
        }
        self.inputs.entry(name.to_owned()).or_insert(input);
    }

    fn signal(&mut self, signal: &Message) {
        self.signals += 1;
        let header = signal.header();
        let (Some(path), Some("PropertiesChanged")) =
            (header.path(), header.member().map(zbus::names::MemberName::as_str))
        else {
            return;
        };
        let Some((_, name)) = path.as_str().rsplit_once('/') else { return };
        let body = signal.body();
        let Ok((_, changed, _)) = body.deserialize::<(&str, BTreeMap<&str, Variant<'_>>, Vec<&str>)>() else {
            return;
        };
        if let Some(early) = self.early.get_mut(name) {
            let owned = changed.iter().filter_map(|(property, value)| {
                Some(((*property).to_owned(), Variant::from(value.try_to_owned().ok()?)))
            });
            early.extend(owned);
        }
        let Some(input) = self.inputs.get_mut(name) else { return };
        for (property, value) in &changed {
            input.learn(property, value);
        }
        if let Some(why) = input.failure() {
            self.failures.push((name.to_owned(), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: Variant<'static> = Variant::F64(f64::NAN);
    const NO: Variant<'static> = Variant::Bool(false);

    /// The judge must be able to see: the orders that OpenBMC's other daemons use, or might, are failures.
    #[test]
    fn only_the_right_order_is_no_failure() {
        let judged = |order: &[(&str, Variant<'static>)]| {
            let mut input = Input { value: 40.0, cached: 40.0, ..Input::default() };
            order.iter().any(|(name, value)| {
                input.learn(name, value);
                input.failure().is_some()
            })
        };
        assert!(!judged(&[("Available", NO), ("Value", NAN), ("Functional", NO)]));
        assert!(judged(&[("Value", NAN), ("Available", NO)]), "dbus-sensors' own order");
        assert!(judged(&[("Functional", NO), ("Available", NO)]));

        let back = |order: &[(&str, Variant<'static>)]| {
            let mut input = Input { available: false, functional: false, ..Input::default() };
            order.iter().any(|(name, value)| {
                input.learn(name, value);
                input.failure().is_some()
            })
        };
        let (value, yes) = (Variant::F64(40.0), Variant::Bool(true));
        assert!(!back(&[("Value", value.clone()), ("Functional", yes.clone()), ("Available", yes.clone())]));
        assert!(back(&[("Available", yes.clone()), ("Value", value.clone()), ("Functional", yes.clone())]));
        assert!(back(&[("Value", value), ("Available", yes.clone()), ("Functional", yes)]));
    }
}
