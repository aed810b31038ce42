// SPDX-License-Identifier: Apache-2.0
//! The hand of a clock that stands still otherwise, so that a test sees hours pass instant by instant.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use acpi_stated::{
    logic::time::Time,
    shell::clock::{self, Clock},
};

/// Moves a clock.
#[derive(Debug, Default)]
pub struct Hand(Mutex<Standing>);

#[derive(Debug, Default)]
struct Standing {
    now: Time,
    /// The first instant that somebody waits for, of those asked for since the last move.
    awaited: Option<Time>,
}

/// How soon somebody who waits for a clock that stands still looks at it again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Hand {
    /// A clock, and its hand. That is never freed.
    pub fn with_clock() -> (Clock, &'static Self) {
        let hand: &'static Self = Box::leak(Box::default());
        (Clock::by_hand(hand), hand)
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the clock to `target`, or only to the first instant before that which somebody waits for; where it stands now. Those
    /// who wait notice within a millisecond, or with the next thing that happens to them.
    pub fn move_towards(&self, target: Time) -> Time {
        let mut standing = self.standing();
        let next = standing.awaited.take().unwrap_or(target).min(target);
        standing.now = standing.now.max(next);
        standing.now
    }
}

impl clock::Hand for Hand {
    fn now(&self) -> Time {
        self.standing().now
    }

    fn instant(&self, time: Time) -> Instant {
        let mut standing = self.standing();
        if time <= standing.now {
            return Instant::now();
        }
        standing.awaited = Some(standing.awaited.map_or(time, |earlier| earlier.min(time)));
        Instant::now() + LOOK_AGAIN
    }
}
