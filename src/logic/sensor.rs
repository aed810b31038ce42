// SPDX-License-Identifier: Apache-2.0
//! The life of one sensor: mode and results of reads in, the snapshot that is published out (rules 3.1 and 3.4,
//! decision 0005).
//!
//! Owns what is shown of one sensor. Must never: show what was read while it might not be, or what is older than two
//! periods, but while nobody can say whether it may be read ([`Proof`]).

use core::time::Duration;

use super::{
    policy::SensorMode,
    reading::{Celsius, Fault},
    time::Time,
};
use crate::config;

/// So many failed reads in a row make a sensor one that failed.
const MOST_FAILS: u32 = 5;
/// A reading is shown for so many periods.
const PERIODS: u32 = 2;

/// A threshold's two directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Alarm {
    /// Too cold.
    pub low: bool,
    /// Too hot.
    pub high: bool,
}

/// The published values.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// `Value`; `None` is NaN.
    pub value: Option<Celsius>,
    /// `Available`.
    pub available: bool,
    /// `Functional`.
    pub functional: bool,
    /// The warning threshold's alarms.
    pub warning: Alarm,
    /// The critical threshold's alarms.
    pub critical: Alarm,
}

impl Snapshot {
    /// Not read, or not there.
    pub const UNAVAILABLE: Self = Self {
        value: None,
        available: false,
        functional: false,
        warning: Alarm { low: false, high: false },
        critical: Alarm { low: false, high: false },
    };
    /// Fan control must see that it cannot be read.
    pub const FAILED: Self = Self { available: true, ..Self::UNAVAILABLE };
}

/// An event that is worth a line in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// The first read that failed since it was last well, or the first that shows that a device is there.
    Failing(Fault),
    /// The sensor is read again.
    Recovered,
}

/// How fresh the proof is that evidence reaches us (note B3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Proof {
    /// Evidence reaches us.
    #[default]
    Fresh,
    /// Perhaps it does not: nothing is read, and what was read stays.
    Old,
    /// For too long nobody knows: nothing is shown.
    Silent,
}

/// Without an answer of the bus for so long nothing is shown any more, in real time.
pub const SILENT_AFTER: Duration = Duration::from_secs(10);

impl Proof {
    /// Returns the freshness of a proof of this `age`; `lease` is how long it is fresh.
    #[must_use]
    pub fn of(age: Duration, lease: Duration) -> Self {
        if age < lease {
            Self::Fresh
        } else if age < SILENT_AFTER {
            Self::Old
        } else {
            Self::Silent
        }
    }
}

/// A sensor.
#[derive(Clone, Debug)]
pub struct Sensor {
    period: Duration,
    required: bool,
    step: f64,
    hysteresis: f64,
    warning: config::Limits,
    critical: config::Limits,
    mode: SensorMode,
    proof: Proof,
    /// The sensor gave a good reading, or a fault that only a device that is there can give, since it may be read:
    /// the device before may have been another.
    answered: bool,
    /// Failed reads in a row, since it may be read.
    fails: u32,
    /// The fault that was said since it was last well.
    failing: Option<Fault>,
    /// The last good read, since it may be read.
    read_at: Option<Time>,
    /// A result is overdue then.
    overdue_at: Time,
    shown: Snapshot,
}

impl Sensor {
    /// Makes a sensor that may not be read yet.
    #[must_use]
    pub fn new(settings: &config::Sensor) -> Self {
        Self {
            period: settings.poll,
            required: settings.required,
            step: settings.step,
            hysteresis: settings.hysteresis,
            warning: settings.warning,
            critical: settings.critical,
            mode: SensorMode::Unavailable,
            proof: Proof::Fresh,
            answered: false,
            fails: 0,
            failing: None,
            read_at: None,
            overdue_at: Time::ZERO,
            shown: Snapshot::UNAVAILABLE,
        }
    }

    /// Returns the snapshot to be published now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shown
    }

    /// Whether it may be read.
    #[must_use]
    pub fn mode(&self) -> SensorMode {
        self.mode
    }

    /// Updates whether the sensor may be read from now on, as far as the `proof` lets anybody know.
    pub fn follow(&mut self, now: Time, mode: SensorMode, proof: Proof) {
        if self.mode != mode {
            self.mode = mode;
            self.answered = false;
            self.fails = 0;
            self.read_at = None;
            self.overdue_at = now + self.period * PERIODS;
            self.shown = Snapshot::UNAVAILABLE;
        }
        let before = core::mem::replace(&mut self.proof, proof);
        match proof {
            Proof::Silent => self.shown = Snapshot::UNAVAILABLE,
            // The D-Bus daemon was late, not the device.
            Proof::Fresh if before != Proof::Fresh => {
                self.overdue_at = now + self.period * PERIODS;
                self.read_at = self.read_at.map(|_| now);
            }
            Proof::Old | Proof::Fresh => {}
        }
    }

    /// A read has ended.
    pub fn read(&mut self, now: Time, result: Result<Celsius, Fault>) -> Option<Note> {
        if self.mode == SensorMode::Unavailable || self.proof == Proof::Silent {
            return None;
        }
        self.overdue_at = now + self.period * PERIODS;
        match result {
            Ok(value) => {
                self.answered = true;
                self.fails = 0;
                self.read_at = Some(now);
                self.show(value);
                self.failing.take().map(|_| Note::Recovered)
            }
            Err(fault) => {
                self.answered |= fault.is_of_a_device();
                self.fail(now);
                let said = self.failing.is_some_and(|said| said.is_of_a_device() || !fault.is_of_a_device());
                (!said).then(|| Note::Failing(*self.failing.insert(fault)))
            }
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        if self.wake_at().is_none_or(|at| now < at) {
            return;
        }
        if self.overdue_at <= now && self.fails < MOST_FAILS {
            self.overdue_at = now + self.period;
            self.fail(now);
        }
        self.age(now);
    }

    /// When [`Sensor::tick`] has something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<Time> {
        if self.proof != Proof::Fresh {
            return None;
        }
        let reading = self.mode == SensorMode::Read;
        let overdue = (reading && self.fails < MOST_FAILS).then_some(self.overdue_at);
        let stale = self.shown.value.and(self.stale_at());
        overdue.into_iter().chain(stale).min()
    }

    /// True if the sensor gave a good reading since it may be read.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.read_at.is_some()
    }

    /// True if the sensor gave a good reading, or failed five times, since it may be read.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.answers() || self.fails >= MOST_FAILS
    }

    /// True if the sensor has to be there.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.required
    }

    fn stale_at(&self) -> Option<Time> {
        Some(self.read_at? + self.period * PERIODS)
    }

    /// Nothing old is shown as valid.
    fn age(&mut self, now: Time) {
        if self.shown.value.is_some() && self.stale_at().is_none_or(|at| at <= now) {
            self.shown = Snapshot::UNAVAILABLE;
        }
    }

    fn fail(&mut self, now: Time) {
        self.fails = (self.fails + 1).min(MOST_FAILS);
        self.age(now);
        if self.fails == MOST_FAILS && (self.answered || self.required) {
            self.shown = Snapshot::FAILED;
        }
    }

    fn show(&mut self, value: Celsius) {
        let warning = alarm(self.warning, self.shown.warning, self.hysteresis, value);
        let critical = alarm(self.critical, self.shown.critical, self.hysteresis, value);
        let same_alarms = (warning, critical) == (self.shown.warning, self.shown.critical);
        let near = |shown: Celsius| (value.degrees() - shown.degrees()).abs() <= self.step;
        let value = self.shown.value.filter(|shown| same_alarms && near(*shown)).unwrap_or(value);
        self.shown = Snapshot { value: Some(value), available: true, functional: true, warning, critical };
    }
}

/// An alarm is on from its threshold, and goes off when the value is back by more than `hysteresis`.
fn alarm(limits: config::Limits, was: Alarm, hysteresis: f64, value: Celsius) -> Alarm {
    let value = value.degrees();
    let back = |on: bool| if on { hysteresis } else { 0.0 };
    Alarm {
        low: limits.low.is_some_and(|low| value <= low + back(was.low)),
        high: limits.high.is_some_and(|high| value >= high - back(was.high)),
    }
}

#[cfg(test)]
mod tests;
