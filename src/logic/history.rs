// SPDX-License-Identifier: Apache-2.0
//! The bounded log of transitions, and how long boots take.

use core::time::Duration;
use std::collections::VecDeque;

use super::{acpi::AcpiState, cause::Cause, time::Time};

/// How many transitions are kept.
pub const CAPACITY: usize = 256;

/// A transition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    /// When it happened.
    pub at: Time,
    /// The state before.
    pub from: AcpiState,
    /// The state after.
    pub to: AcpiState,
    /// The cause.
    pub cause: Cause,
    /// How often the host has reported the same state again since.
    pub repeats: u32,
}

/// The transitions, oldest first, and the boots they make up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    entries: VecDeque<Transition>,
    boots: u32,
    boot_began: Option<Time>,
    firmware_time: Option<Duration>,
    boot_time: Option<Duration>,
}

impl History {
    pub(super) fn record(&mut self, transition: Transition) {
        if self.entries.len() == CAPACITY {
            self.entries.pop_front();
        }
        self.entries.push_back(transition);
    }

    pub(super) fn repeat(&mut self) {
        if let Some(entry) = self.entries.back_mut() {
            entry.repeats = entry.repeats.saturating_add(1);
        }
    }

    pub(super) fn boot_begins(&mut self, now: Time) {
        self.boots = self.boots.saturating_add(1);
        self.boot_began = Some(now);
        self.firmware_time = None;
        self.boot_time = None;
    }

    /// The firmware's first word in the boot. A boot that begins with it has no time before it.
    pub(super) fn firmware_seen(&mut self, now: Time) {
        self.firmware_time = self.firmware_time.or(self.since_boot(now));
    }

    /// The boot ends in a working state.
    pub(super) fn booted(&mut self, now: Time) {
        self.boot_time = self.since_boot(now);
        self.boot_began = None;
    }

    /// The boot ends elsewhere.
    pub(super) fn boot_abandoned(&mut self) {
        self.boot_began = None;
    }

    fn since_boot(&self, now: Time) -> Option<Duration> {
        self.boot_began.map(|began| now.since(began))
    }

    /// A boot is under way.
    #[must_use]
    pub fn in_boot(&self) -> bool {
        self.boot_began.is_some()
    }

    /// The transitions, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Transition> {
        self.entries.iter().rev()
    }

    /// Boots since the daemon started.
    #[must_use]
    pub fn boots(&self) -> u32 {
        self.boots
    }

    /// From the last boot's beginning to the firmware's first word, if that came.
    #[must_use]
    pub fn firmware_time(&self) -> Option<Duration> {
        self.firmware_time
    }

    /// From the last boot's beginning to the working state, if that came.
    #[must_use]
    pub fn boot_time(&self) -> Option<Duration> {
        self.boot_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_newest_first_with_repeats() {
        let mut history = History::default();
        history.repeat();
        assert_eq!(history.newest_first().count(), 0);
        for i in 0..CAPACITY as u64 + 10 {
            history.record(Transition {
                at: Time::from_micros(i),
                from: AcpiState::S5G2,
                to: AcpiState::S2D2,
                cause: Cause::HostReport,
                repeats: 0,
            });
        }
        history.repeat();
        history.repeat();
        assert_eq!(history.newest_first().count(), CAPACITY);
        let newest = history.newest_first().next().unwrap();
        assert_eq!((newest.at, newest.repeats), (Time::from_micros(CAPACITY as u64 + 9), 2));
    }

    #[test]
    fn times_of_a_boot() {
        let at = |s: u64| Time::from_micros(s * 1_000_000);
        let mut history = History::default();
        history.boot_begins(at(1));
        history.firmware_seen(at(4));
        history.firmware_seen(at(9));
        history.booted(at(30));
        assert_eq!(history.firmware_time(), Some(Duration::from_secs(3)));
        assert_eq!(history.boot_time(), Some(Duration::from_secs(29)));
        assert!(!history.in_boot());
        history.boot_begins(at(50));
        assert_eq!((history.firmware_time(), history.boot_time(), history.boots()), (None, None, 2));
        history.boot_abandoned();
        assert!(!history.in_boot());
    }
}
