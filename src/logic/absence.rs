// SPDX-License-Identifier: Apache-2.0
//! Whether the power service of one host is there, for whoever reads the log: a daemon that waits for something says for what.
//!
//! Owns: since when it has not been, and whether that has been said. It decides nothing about the host: that is rules 6 and 9.

use core::time::Duration;

use super::{evidence::Untold, time::Time};

/// A service that restarts is away for less than this, and one that starts with the BMC may come as late.
pub const SAID_AFTER: Duration = Duration::from_secs(20);

/// The report that is due now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// Nobody has told these for [`SAID_AFTER`].
    Absent(Untold),
    /// They are told (again).
    There,
}

/// The absence of one host's power service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Absence {
    since: Option<Time>,
    said: Option<Untold>,
}

impl Absence {
    /// Nothing is told yet.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self { since: Some(now), said: None }
    }

    /// Returns the report that is due, now that these values are not reported.
    pub fn follow(&mut self, now: Time, untold: Untold) -> Option<Note> {
        if untold == Untold::default() {
            self.since = None;
            return self.said.take().map(|_| Note::There);
        }
        let since = *self.since.get_or_insert(now);
        if now.since(since) < SAID_AFTER || self.said == Some(untold) {
            return None;
        }
        // Of two that are away one may come alone: then the other is still to be waited for.
        self.said = Some(untold);
        Some(Note::Absent(untold))
    }

    /// When to look again, if nothing happens before.
    #[must_use]
    pub fn wake_at(&self) -> Option<Time> {
        self.since.filter(|_| self.said.is_none()).map(|since| since + SAID_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Untold = Untold { chassis: true, host: true };
    const HOST: Untold = Untold { chassis: false, host: true };
    const NONE: Untold = Untold { chassis: false, host: false };

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_said_once_after_a_while_and_again_when_it_comes() {
        let mut absence = Absence::new(at(0));
        // Also if nothing ever happens.
        assert_eq!(absence.wake_at(), Some(at(20)));
        assert_eq!(absence.follow(at(19), BOTH), None);
        assert_eq!(absence.follow(at(20), BOTH), Some(Note::Absent(BOTH)));
        assert_eq!((absence.follow(at(500), BOTH), absence.wake_at()), (None, None));
        assert_eq!(absence.follow(at(600), HOST), Some(Note::Absent(HOST)));
        assert_eq!(absence.follow(at(601), NONE), Some(Note::There));
        assert_eq!((absence.follow(at(602), NONE), absence.wake_at()), (None, None));
    }

    #[test]
    fn a_restart_is_not_worth_a_line() {
        let mut absence = Absence::new(at(0));
        assert_eq!(absence.follow(at(100), NONE), None);
        assert_eq!(absence.follow(at(110), BOTH), None);
        assert_eq!(absence.follow(at(115), NONE), None);
        assert_eq!(absence.follow(at(131), BOTH), None);
        assert_eq!(absence.follow(at(151), BOTH), Some(Note::Absent(BOTH)));
    }
}
