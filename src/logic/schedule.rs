// SPDX-License-Identifier: Apache-2.0
//! When each sensor of one bus is read next (decision 0005, rules 4, 6 and 8). Pure: the bus thread asks and sleeps.

use core::time::Duration;

use super::time::Time;

/// After so many failed reads in a row a sensor is asked less often.
const PATIENCE: u32 = 5;
/// The longest rest of one that never answered.
const LONGEST_ABSENT: Duration = Duration::from_secs(60);
/// The longest rest of one that has answered since its place was last skipped.
const LONGEST_FAILING: Duration = Duration::from_secs(10);

/// The places of a bus's sensors in time.
#[derive(Clone, Debug)]
pub struct Schedule {
    places: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    period: Duration,
    /// The first place on the grid; the others follow each period.
    first: Time,
    due: Time,
    fails: u32,
    answered: bool,
}

impl Schedule {
    /// Makes one place for each sensor, by their periods, spread evenly.
    #[must_use]
    pub fn new(now: Time, periods: &[Duration]) -> Self {
        let all = u32::try_from(periods.len()).unwrap_or(u32::MAX).max(1);
        let place = |(place, period): (u32, &Duration)| {
            let first = now + *period * place / all;
            Slot { period: *period, first, due: first, fails: 0, answered: false }
        };
        Self { places: (0..).zip(periods).map(place).collect() }
    }

    /// Returns which sensor is next, and when.
    #[must_use]
    pub fn next(&self) -> Option<(usize, Time)> {
        self.places.iter().map(|place| place.due).enumerate().min_by_key(|(_, due)| *due)
    }

    /// This one could not be read for a while: it is at its next place again, and nothing is known of it. A place that has
    /// just come is not passed over: who wakes up late must not lose it.
    pub fn resume(&mut self, sensor: usize, now: Time) {
        if let Some(place) = self.places.get_mut(sensor) {
            (place.fails, place.answered) = (0, false);
            place.due = place.at_or_after(now);
        }
    }

    /// This one may not be read now: its turn passes.
    pub fn skip(&mut self, sensor: usize, now: Time) {
        if let Some(place) = self.places.get_mut(sensor) {
            place.fails = 0;
            place.due = place.after(now);
        }
    }

    /// This one was read. `there` is whether something answered, good or not.
    pub fn done(&mut self, sensor: usize, now: Time, good: bool, there: bool) {
        let Some(place) = self.places.get_mut(sensor) else { return };
        place.answered |= there;
        if good {
            place.fails = 0;
            place.due = place.after(now);
            return;
        }
        place.fails = place.fails.saturating_add(1);
        place.due = if place.fails < PATIENCE { now + place.period / 2 } else { now + place.rest() };
    }
}

impl Slot {
    /// This place on the grid, or the next one.
    fn at_or_after(&self, now: Time) -> Time {
        // Time has no finer grain.
        if now <= self.first { self.first } else { self.after(now - Duration::from_micros(1)) }
    }

    /// The next place on the grid.
    fn after(&self, now: Time) -> Time {
        if now < self.first {
            return self.first;
        }
        let period = self.period.as_micros().max(1);
        let periods = now.since(self.first).as_micros() / period + 1;
        let us = u64::try_from(periods * period).unwrap_or(u64::MAX);
        self.first + Duration::from_micros(us)
    }

    /// How long one that fails is left alone.
    fn rest(&self) -> Duration {
        let longest = if self.answered { LONGEST_FAILING } else { LONGEST_ABSENT };
        let doublings = (self.fails - PATIENCE).min(16);
        self.period.saturating_mul(1 << doublings).min(longest.max(self.period))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    fn four() -> Schedule {
        Schedule::new(Time::ZERO, &[SECOND; 4])
    }

    /// Reads for so long; who was read when, in ms.
    fn run(schedule: &mut Schedule, until: Time, good: impl Fn(usize) -> bool) -> Vec<(usize, u64)> {
        let mut log = Vec::new();
        while let Some((sensor, due)) = schedule.next().filter(|(_, due)| *due < until) {
            log.push((sensor, due.as_micros() / 1000));
            schedule.done(sensor, due, good(sensor), good(sensor));
        }
        log
    }

    #[test]
    fn the_sensors_of_a_bus_are_spread_over_the_period() {
        let log = run(&mut four(), at(2000), |_| true);
        assert_eq!(log, [(0, 0), (1, 250), (2, 500), (3, 750), (0, 1000), (1, 1250), (2, 1500), (3, 1750)]);
    }

    #[test]
    fn a_failed_read_is_tried_again_after_half_a_period() {
        let mut schedule = four();
        schedule.done(0, at(1000), false, false);
        assert!(run(&mut schedule, at(2001), |_| true).contains(&(0, 1500)));
        assert!(run(&mut schedule, at(3001), |_| true).contains(&(0, 3000)), "back on its place");
    }

    #[test]
    fn who_never_answers_is_asked_less_often_down_to_once_a_minute() {
        let mut schedule = four();
        let asked: Vec<u64> = run(&mut schedule, at(400_000), |sensor| sensor != 2)
            .into_iter()
            .filter_map(|(sensor, ms)| (sensor == 2).then_some(ms))
            .collect();
        assert_eq!(asked[..9], [500, 1000, 1500, 2000, 2500, 3500, 5500, 9500, 17_500]);
        assert!(asked.windows(2).all(|two| two[1] - two[0] <= 60_000), "{asked:?}");
        assert_eq!(asked[asked.len() - 1] - asked[asked.len() - 2], 60_000);
    }

    #[test]
    fn who_has_answered_is_asked_every_ten_seconds() {
        let mut schedule = Schedule::new(Time::ZERO, &[SECOND]);
        schedule.done(0, at(0), true, true);
        let log = run(&mut schedule, at(100_000), |_| false);
        let last_two = &log[log.len() - 2..];
        assert_eq!(last_two[1].1 - last_two[0].1, 10_000);
    }

    /// The device is there, and may get well.
    #[test]
    fn who_answers_with_a_fault_is_asked_every_ten_seconds() {
        let mut schedule = Schedule::new(Time::ZERO, &[SECOND]);
        let mut asked = Vec::new();
        while let Some((sensor, due)) = schedule.next().filter(|(_, due)| *due < at(100_000)) {
            asked.push(due);
            schedule.done(sensor, due, false, true);
        }
        assert!(asked.windows(2).all(|two| two[1].since(two[0]) <= SECOND * 10), "{asked:?}");
    }

    /// After hours of a closed gate, nobody's turn is at once, and no two have the same.
    #[test]
    fn no_burst_after_an_opening() {
        let mut schedule = four();
        for _ in 0..9 {
            schedule.done(1, at(0), false, false);
        }
        (0..4).for_each(|sensor| schedule.resume(sensor, at(7_200_100)));
        let log = run(&mut schedule, at(7_201_101), |_| true);
        assert_eq!(log, [(1, 7_200_250), (2, 7_200_500), (3, 7_200_750), (0, 7_201_000)]);
    }

    #[test]
    fn nothing_is_known_of_it_after_an_opening() {
        let mut schedule = four();
        schedule.done(0, at(0), true, true);
        schedule.done(0, at(0), false, true);
        schedule.resume(0, at(7_200_100));
        assert_eq!((schedule.places[0].fails, schedule.places[0].answered), (0, false));
    }

    #[test]
    fn a_turn_that_has_just_come_is_not_lost_to_an_opening() {
        for (opened, next) in [(0, (0, 0)), (999, (0, 1000)), (1000, (0, 1000)), (1001, (1, 1250))] {
            let mut schedule = four();
            schedule.done(0, at(0), true, true);
            (0..4).for_each(|sensor| schedule.resume(sensor, at(opened)));
            assert_eq!(schedule.next(), Some((next.0, at(next.1))), "opened at {opened}");
        }
    }

    #[test]
    fn a_turn_that_passes_is_no_failure() {
        let mut schedule = four();
        schedule.done(0, at(0), false, false);
        schedule.skip(0, at(500));
        assert_eq!(schedule.places[0].fails, 0);
        assert_eq!(schedule.places[0].due, at(1000));
    }

    #[test]
    fn every_length_of_period_works() {
        let mut schedule = Schedule::new(at(5), &[Duration::from_nanos(1), Duration::from_secs(86_400)]);
        schedule.resume(0, at(10));
        assert!(schedule.next().is_some());
        assert_eq!(Schedule::new(Time::ZERO, &[]).next(), None);
    }
}
