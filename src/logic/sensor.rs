// SPDX-License-Identifier: Apache-2.0
//! One sensor's life: mode and results of reads in, the snapshot that is published out (design 3.1 and 3.4,
//! decision 0005).
//!
//! Owns what is shown of one sensor. Must never: show what was read while it might not be, or what is older than two
//! periods.

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

/// What is published.
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

/// What is worth a line in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// The first read that failed since it was last well.
    Failing(Fault),
    /// It is read again.
    Recovered,
}

/// One sensor.
#[derive(Clone, Debug)]
pub struct Sensor {
    period: Duration,
    required: bool,
    step: f64,
    hysteresis: f64,
    warning: config::Limits,
    critical: config::Limits,
    mode: SensorMode,
    /// It gave a good reading, ever.
    answered: bool,
    /// Failed reads in a row, since it may be read.
    fails: u32,
    /// [`Note::Failing`] was said.
    failing: bool,
    /// The last good read, since it may be read.
    read_at: Option<Time>,
    /// A result is overdue then.
    overdue_at: Time,
    shown: Snapshot,
}

impl Sensor {
    /// One that may not be read yet.
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
            answered: false,
            fails: 0,
            failing: false,
            read_at: None,
            overdue_at: Time::ZERO,
            shown: Snapshot::UNAVAILABLE,
        }
    }

    /// What is to be published now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shown
    }

    /// Whether it may be read.
    #[must_use]
    pub fn mode(&self) -> SensorMode {
        self.mode
    }

    /// It may be read from now on, or may not be.
    pub fn follow(&mut self, now: Time, mode: SensorMode) {
        if self.mode == mode {
            return;
        }
        self.mode = mode;
        self.fails = 0;
        self.read_at = None;
        self.overdue_at = now + self.period * PERIODS;
        self.shown = Snapshot::UNAVAILABLE;
    }

    /// A read has ended.
    pub fn read(&mut self, now: Time, result: Result<Celsius, Fault>) -> Option<Note> {
        if self.mode == SensorMode::Unavailable {
            return None;
        }
        self.overdue_at = now + self.period * PERIODS;
        match result {
            Ok(value) => {
                self.answered = true;
                self.fails = 0;
                self.read_at = Some(now);
                self.show(value);
                core::mem::take(&mut self.failing).then_some(Note::Recovered)
            }
            Err(fault) => {
                self.fail(now);
                (!core::mem::replace(&mut self.failing, true)).then_some(Note::Failing(fault))
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
        let reading = self.mode == SensorMode::Read;
        let overdue = (reading && self.fails < MOST_FAILS).then_some(self.overdue_at);
        let stale = self.shown.value.and(self.stale_at());
        overdue.into_iter().chain(stale).min()
    }

    /// It answered since it may be read.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.read_at.is_some()
    }

    /// It answered, or failed five times, since it may be read.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.answers() || self.fails >= MOST_FAILS
    }

    /// It has to be there.
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
mod tests {
    use super::*;
    use crate::config::{Device, Group, Limits, Source};

    fn settings() -> config::Sensor {
        let source = Source::Device { device: Device::Jc42, bus: 3, address: 0x18 };
        config::Sensor {
            warning: Limits { low: Some(5.0), high: Some(85.0) },
            critical: Limits { low: None, high: Some(95.0) },
            ..config::Sensor::new("DIMM".to_owned(), 0, Group::Dimm, source)
        }
    }

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    fn degrees(degrees: f64) -> Result<Celsius, Fault> {
        Celsius::plausible(degrees)
    }

    const ABSENT: Result<Celsius, Fault> = Err(Fault::Absent);

    fn opened(settings: &config::Sensor) -> Sensor {
        let mut sensor = Sensor::new(settings);
        sensor.follow(at(0), SensorMode::Read);
        sensor
    }

    /// One that answered 40 degrees at once.
    fn well() -> Sensor {
        let mut sensor = opened(&settings());
        assert_eq!(sensor.read(at(0), degrees(40.0)), None);
        sensor
    }

    fn value(sensor: &Sensor) -> Option<f64> {
        sensor.snapshot().value.map(Celsius::degrees)
    }

    #[test]
    fn it_comes_back_only_with_a_good_read() {
        let mut sensor = Sensor::new(&settings());
        assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE);
        assert_eq!(sensor.wake_at(), None, "nothing is expected of one that may not be read");
        assert_eq!(sensor.read(at(0), degrees(40.0)), None);
        assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE, "it may not be read");
        sensor.follow(at(0), SensorMode::Read);
        assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE);
        sensor.read(at(10), degrees(40.0));
        let Snapshot { available, functional, .. } = sensor.snapshot();
        assert_eq!((value(&sensor), available, functional), (Some(40.0), true, true));
    }

    #[test]
    fn it_goes_at_once_and_with_its_alarms() {
        let mut sensor = opened(&settings());
        sensor.read(at(0), degrees(96.0));
        assert!(sensor.snapshot().critical.high);
        sensor.follow(at(1), SensorMode::Unavailable);
        assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE);
        sensor.follow(at(2), SensorMode::Read);
        assert_eq!(sensor.snapshot(), Snapshot::UNAVAILABLE, "the old value does not come back");
        assert!(!sensor.is_known());
    }

    #[test]
    fn the_fifth_failed_read_in_a_row_shows_that_it_failed() {
        let mut sensor = well();
        let mut seen = Vec::new();
        for failed in 1..=6_u64 {
            let note = sensor.read(at(500 * (failed + 1)), ABSENT);
            assert_eq!(note, (failed == 1).then_some(Note::Failing(Fault::Absent)), "said once");
            seen.push((value(&sensor).is_some(), sensor.snapshot() == Snapshot::FAILED));
        }
        let (shown, hidden, failed) = ((true, false), (false, false), (false, true));
        assert_eq!(seen, [shown, shown, hidden, hidden, failed, failed]);
        assert_eq!(sensor.read(at(9000), degrees(41.0)), Some(Note::Recovered));
        assert_eq!(value(&sensor), Some(41.0));
        assert!(sensor.snapshot().functional);
    }

    #[test]
    fn a_slot_that_never_answered_stays_unavailable_unless_it_is_required() {
        for required in [false, true] {
            let mut sensor = opened(&config::Sensor { required, ..settings() });
            for failed in 1..=9 {
                sensor.read(at(500 * failed), ABSENT);
            }
            let shown = if required { Snapshot::FAILED } else { Snapshot::UNAVAILABLE };
            assert_eq!(sensor.snapshot(), shown);
            assert!(sensor.is_known() && !sensor.answers());
            assert_eq!(sensor.wake_at(), None, "nothing more is expected");
        }
    }

    /// What was there at the last opening is not there at this one.
    #[test]
    fn one_that_ever_answered_fails_also_after_the_next_opening() {
        let mut sensor = well();
        sensor.follow(at(1000), SensorMode::Unavailable);
        sensor.follow(at(2000), SensorMode::Read);
        for failed in 1..=5 {
            sensor.read(at(2000 + 500 * failed), ABSENT);
        }
        assert_eq!(sensor.snapshot(), Snapshot::FAILED);
    }

    #[test]
    fn one_lost_read_is_not_seen() {
        let mut sensor = well();
        sensor.read(at(1000), Err(Fault::ArbitrationLost));
        sensor.tick(at(1400));
        assert_eq!(value(&sensor), Some(40.0));
        sensor.read(at(1500), degrees(40.0));
        sensor.tick(at(2100));
        assert_eq!(value(&sensor), Some(40.0));
    }

    #[test]
    fn nothing_older_than_two_periods_is_shown_and_no_answer_is_a_failure() {
        let mut sensor = well();
        assert_eq!(sensor.wake_at(), Some(at(2000)));
        sensor.tick(at(1999));
        assert_eq!(value(&sensor), Some(40.0));
        // The bus hangs.
        let mut failed_at = None;
        for _ in 0..20 {
            let Some(now) = sensor.wake_at() else { break };
            sensor.tick(now);
            assert_eq!(value(&sensor), None, "at {now}");
            if sensor.snapshot() == Snapshot::FAILED {
                failed_at = failed_at.or(Some(now));
            }
        }
        assert_eq!(failed_at, Some(at(6000)), "five reads that should have come");
        assert_eq!(sensor.wake_at(), None);
    }

    #[test]
    fn a_value_that_moves_by_no_more_than_the_step_is_not_published() {
        let mut sensor = well();
        for (read, published) in [(40.25, 40.0), (39.75, 40.0), (40.5, 40.5), (40.25, 40.5), (40.0, 40.0)] {
            sensor.read(at(1), degrees(read));
            assert_eq!(value(&sensor), Some(published), "{read}");
        }
    }

    #[test]
    fn alarms_begin_at_the_threshold_and_end_behind_the_hysteresis() {
        let mut sensor = well();
        let steps = [
            (84.9, false, false, false),
            (85.0, true, false, false),
            (84.0, true, false, false),
            (83.9, false, false, false),
            (95.0, true, true, false),
            (93.9, true, false, false),
            (5.0, false, false, true),
            (6.0, false, false, true),
            (6.1, false, false, false),
        ];
        for (read, warning, critical, cold) in steps {
            sensor.read(at(1), degrees(read));
            let shown = sensor.snapshot();
            let alarms = (shown.warning.high, shown.critical.high, shown.warning.low);
            assert_eq!(alarms, (warning, critical, cold), "{read}");
        }
    }

    /// The step may not hide the value that an alarm is about.
    #[test]
    fn a_value_that_sets_an_alarm_is_published() {
        let mut sensor = opened(&config::Sensor { step: 10.0, ..settings() });
        sensor.read(at(0), degrees(80.0));
        sensor.read(at(1), degrees(84.0));
        assert_eq!(value(&sensor), Some(80.0));
        sensor.read(at(2), degrees(85.0));
        assert_eq!(value(&sensor), Some(85.0));
    }

    proptest::proptest! {
        /// Whatever happens: unavailable while it may not be read; never a value older than two periods; a value is
        /// always functional and available; never more alarms than values.
        #[test]
        fn what_is_shown_is_true(events in proptest::collection::vec((0_u8..8, 0_u64..3000), 1..200)) {
            let mut sensor = Sensor::new(&settings());
            let (mut now, mut last_good) = (0, None);
            for (event, wait) in events {
                now += wait;
                match event {
                    0 => { sensor.follow(at(now), SensorMode::Unavailable); last_good = None; }
                    1 => sensor.follow(at(now), SensorMode::Read),
                    2..=4 => {
                        sensor.read(at(now), degrees(f64::from(event) * 30.0));
                        if sensor.mode() == SensorMode::Read { last_good = Some(now); }
                    }
                    5 => { sensor.read(at(now), ABSENT); }
                    // The event loop ticks at each wake-up.
                    _ => {}
                }
                while let Some(due) = sensor.wake_at().filter(|due| *due <= at(now)) {
                    sensor.tick(at(now));
                    assert_ne!(sensor.wake_at(), Some(due), "it does not get on");
                }
                let shown = sensor.snapshot();
                if sensor.mode() == SensorMode::Unavailable {
                    assert_eq!(shown, Snapshot::UNAVAILABLE);
                }
                if shown.value.is_some() {
                    assert!(shown.available && shown.functional);
                    assert!(last_good.is_some_and(|good| now < good + 2000));
                } else {
                    assert!(!shown.functional);
                    assert_eq!((shown.warning, shown.critical), (Alarm::default(), Alarm::default()));
                }
            }
        }
    }
}
