// SPDX-License-Identifier: Apache-2.0
//! How much may be written to logs that live on flash: a token bucket, and one entry of a kind in each boot.
//!
//! Owns: the counts. Must never: know what is written, or where.

use super::{diagnosis::Diagnosis, time::Time};
use core::time::Duration;

/// So many at once, and then one each `every`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bucket {
    most: u32,
    every: Duration,
    tokens: u32,
    filled_at: Time,
    /// Refused since the last one that was let through.
    refused: u32,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(most: u32, every: Duration) -> Self {
        Self { most, every, tokens: most, filled_at: Time::ZERO, refused: 0 }
    }

    /// Whether one more may be written; if so, how many were refused since the last one.
    pub fn take(&mut self, now: Time) -> Option<u32> {
        let every = self.every.max(Duration::from_micros(1)).as_micros();
        let fresh = now.since(self.filled_at).as_micros() / every;
        let fresh = u32::try_from(fresh).unwrap_or(u32::MAX);
        if fresh >= self.most.saturating_sub(self.tokens) {
            (self.tokens, self.filled_at) = (self.most, now);
        } else {
            // The rest of the time counts for the next one.
            self.tokens += fresh;
            self.filled_at = self.filled_at + self.every.saturating_mul(fresh);
        }
        if self.tokens == 0 {
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        self.tokens -= 1;
        Some(core::mem::take(&mut self.refused))
    }
}

/// Which diagnoses have had their entry in this boot (rules 3.7: at most one per kind and boot).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OncePerBoot {
    boot: u32,
    had: Vec<Diagnosis>,
}

impl OncePerBoot {
    /// Whether this one may have an entry in this boot, which it then has had.
    pub fn take(&mut self, boot: u32, diagnosis: Diagnosis) -> bool {
        if self.boot != boot {
            self.boot = boot;
            self.had.clear();
        }
        let first = !self.had.contains(&diagnosis);
        if first {
            self.had.push(diagnosis);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn so_many_at_once_and_then_one_each() {
        let mut bucket = Bucket::new(3, Duration::from_secs(60));
        assert_eq!([0; 3].map(|s| bucket.take(at(s))), [Some(0); 3]);
        assert_eq!([1, 30, 59].map(|s| bucket.take(at(s))), [None; 3]);
        assert_eq!(bucket.take(at(60)), Some(3));
        assert_eq!(bucket.take(at(119)), None);
        // 60 and 120 s: the time in between is not lost.
        assert_eq!([bucket.take(at(120)), bucket.take(at(121))], [Some(1), None]);
        assert_eq!([10_000; 4].map(|s| bucket.take(at(s))), [Some(1), Some(0), Some(0), None]);
    }

    #[test]
    fn a_day_of_flapping_is_bounded() {
        let mut bucket = Bucket::new(20, Duration::from_secs(60));
        let written = (0..864_000).filter(|tenth| bucket.take(Time::from_micros(tenth * 100_000)).is_some());
        assert_eq!(written.count(), 20 + 1439);
    }

    #[test]
    fn one_of_a_kind_in_each_boot() {
        let mut once = OncePerBoot::default();
        assert!(once.take(1, Diagnosis::StuckInPost));
        assert!(!once.take(1, Diagnosis::StuckInPost));
        assert!(once.take(1, Diagnosis::NoCpuPower));
        assert!(once.take(2, Diagnosis::StuckInPost));
    }
}
