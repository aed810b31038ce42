// SPDX-License-Identifier: Apache-2.0
//! When to try again what failed, and when what changed has come to rest.
//!
//! Both learn the time by `tick` only, which is called after everything that happens to their owner and at `wake_at`.
//! Owns: the waiting times. Must never: know what is tried, or what changes.

use super::time::Time;
use core::time::Duration;

/// The first pause after a failure.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// No pause is longer.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The time without a change after which something has come to rest.
pub const AT_REST: Duration = Duration::from_secs(10);

/// Pauses between tries: each twice as long as the one before, until one succeeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backoff {
    /// The last pause.
    pause: Duration,
    /// The last try failed, and the time of the next one is not fixed yet.
    failed: bool,
    at: Option<Time>,
}

impl Backoff {
    /// Nothing has failed.
    pub const NONE: Self = Self { pause: Duration::ZERO, failed: false, at: None };

    /// A try failed. A backoff that waits for its next try is not put off by it.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// A try succeeded, or none is wanted any more.
    pub fn reset(&mut self) {
        *self = Self::NONE;
    }

    /// Whether it is to be tried now; said once for each failure.
    pub fn tick(&mut self, now: Time) -> bool {
        if core::mem::take(&mut self.failed) && self.at.is_none() {
            self.pause = self.pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.at = Some(now + self.pause);
        }
        let due = self.at.is_some_and(|at| at <= now);
        if due {
            self.at = None;
        }
        due
    }

    /// When to call [`Backoff::tick`] next.
    #[must_use]
    pub const fn wake_at(&self) -> Option<Time> {
        self.at
    }
}

/// Notices when something that changes in many small steps has come to rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rest {
    changed: bool,
    /// The last change that no rest has followed yet.
    since: Option<Time>,
}

impl Rest {
    /// Notes a change.
    pub fn changed(&mut self) {
        self.changed = true;
    }

    /// Whether it has come to rest: said once, [`AT_REST`] after the last change and not before it is `settled`.
    pub fn tick(&mut self, now: Time, settled: bool) -> bool {
        if core::mem::take(&mut self.changed) {
            self.since = Some(now);
        }
        let rests = settled && self.since.is_some_and(|since| now.since(since) >= AT_REST);
        if rests {
            self.since = None;
        }
        rests
    }

    /// When to call [`Rest::tick`] next. While it is not settled no time matters.
    #[must_use]
    pub fn wake_at(&self, settled: bool) -> Option<Time> {
        self.since.filter(|_| settled).map(|since| since + AT_REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn pauses_grow_to_a_minute_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let mut now = Time::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            backoff.failed();
            assert!(!backoff.tick(now));
            let next = backoff.wake_at().unwrap();
            pauses.push(next.since(now).as_secs());
            now = next;
            assert!(backoff.tick(now));
            assert!(!backoff.tick(now), "once");
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        backoff.reset();
        backoff.failed();
        assert!(!backoff.tick(now));
        assert_eq!(backoff.wake_at(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn failures_meanwhile_put_nothing_off() {
        let mut backoff = Backoff::default();
        backoff.failed();
        assert!(!backoff.tick(at(0)));
        backoff.failed();
        assert!(!backoff.tick(Time::from_micros(500_000)));
        assert!(backoff.tick(at(1)));
        assert_eq!(backoff.wake_at(), None);
    }

    #[test]
    fn at_rest_ten_seconds_after_the_last_change_and_when_settled() {
        let mut rest = Rest::default();
        assert!(!rest.tick(at(100), true));
        assert_eq!(rest.wake_at(true), None);
        rest.changed();
        assert!(!rest.tick(at(100), true));
        rest.changed();
        assert!(!rest.tick(at(109), true));
        assert_eq!((rest.wake_at(true), rest.wake_at(false)), (Some(at(119)), None));
        assert!(!rest.tick(at(118), true));
        assert!(!rest.tick(at(130), false));
        assert!(rest.tick(at(131), true));
        assert!(!rest.tick(at(132), true));
    }
}
