// SPDX-License-Identifier: Apache-2.0
//! The one clock of the daemon.
//!
//! The clock can run faster than real time, so that the demo and soaks see hours pass in seconds. Times
//! that a host or a bus feels directly (transfers, `ack_cap`, the gate's lease, the watchdog) are real
//! time.

use std::{
    fmt::Debug,
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::logic::time::Time;

/// Its first word is `CLOCK_BOOTTIME` in seconds, to the hundredth (proc(5)).
const UPTIME: &str = "/proc/uptime";

/// `12.34 5.67`.
fn since_boot(uptime: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(uptime.split(' ').next()?.parse().ok()?).ok()
}

/// Monotonic time since the boot of the BMC, `speed` times as fast as real time: a time that is stored means the same to the
/// daemon's next life. Where the time since boot cannot be read, since the clock was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    speed: u32,
    hand: Option<&'static dyn Hand>,
}

/// Says what a clock shows that does not run by itself. The daemon has none: a test gives it one, to move time from instant to instant.
pub trait Hand: Debug + Sync {
    /// The time now.
    fn now(&self) -> Time;
    /// The real instant at which who waits for `time` looks at the clock again: now, if it has come.
    fn instant(&self, time: Time) -> Instant;
}

impl Default for Clock {
    fn default() -> Self {
        Self::scaled(1)
    }
}

impl Clock {
    /// A clock that shows `speed` seconds for each real second; 0 counts as 1.
    #[must_use]
    pub fn scaled(speed: u32) -> Self {
        let now = Instant::now();
        let booted = fs::read_to_string(UPTIME).ok().and_then(|text| now.checked_sub(since_boot(&text)?));
        Self { origin: booted.unwrap_or(now), speed: speed.max(1), hand: None }
    }

    /// A clock that shows what its hand says.
    #[must_use]
    pub fn by_hand(hand: &'static dyn Hand) -> Self {
        Self { hand: Some(hand), ..Self::scaled(1) }
    }

    /// How many times faster than life this clock runs.
    #[must_use]
    pub fn speed(&self) -> u32 {
        self.speed
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Time {
        if let Some(hand) = self.hand {
            return hand.now();
        }
        Time::ZERO + self.origin.elapsed().saturating_mul(self.speed)
    }

    /// Returns the time that this clock shows while `real` passes.
    #[must_use]
    pub fn of_real(&self, real: Duration) -> Duration {
        real.saturating_mul(self.speed)
    }

    /// The real instant at which this clock will show `time`.
    #[must_use]
    pub fn instant(&self, time: Time) -> Instant {
        if let Some(hand) = self.hand {
            return hand.instant(time);
        }
        // Rounded up: a timer that fires early would only be set again.
        let us = time.as_micros().div_ceil(u64::from(self.speed));
        // A deadline beyond what the platform can express is as good as a year away.
        self.origin
            .checked_add(Duration::from_micros(us))
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(31_536_000))
    }
}

/// How the clock's time translates into wall clock time: what operators read, never for a decision.
#[derive(Clone, Copy, Debug)]
pub struct Wall {
    /// Wall clock time of the clock's origin, in microseconds since 1970.
    origin_us: u64,
    speed: u32,
}

impl Wall {
    /// As it is now.
    #[must_use]
    pub fn now(clock: &Clock) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let running = since_epoch.saturating_sub(clock.origin.elapsed());
        Self { origin_us: u64::try_from(running.as_micros()).unwrap_or(u64::MAX), speed: clock.speed }
    }

    /// Looks whether the wall clock was set (a BMC often learns the time late), and if so follows it.
    /// Smaller differences are left alone, so that one instant has one wall clock time.
    pub fn follow(&mut self, clock: &Clock) {
        let now = Self::now(clock);
        if now.origin_us.abs_diff(self.origin_us) > 1_000_000 {
            *self = now;
        }
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn of(&self, time: Time) -> u64 {
        self.origin_us.saturating_add(time.as_micros() / u64::from(self.speed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_boot() {
        assert_eq!(since_boot("350735.47 234388.90\n"), Some(Duration::from_millis(350_735_470)));
        assert_eq!([since_boot(""), since_boot("x 1"), since_boot("-1 1")], [None; 3]);
        let (first, second) = (Clock::scaled(1).now(), Clock::scaled(1).now());
        // Two lives of the daemon show the same time, to the hundredth that the file has.
        assert!(
            second.since(first) < Duration::from_secs(5) && first.since(second) < Duration::from_millis(20)
        );
    }
}
