// SPDX-License-Identifier: Apache-2.0
//! What the board knows to be true: when the DIMM buses belonged to the host, and what it performed
//! that others must find out.

use std::time::{Duration, Instant};

use crate::transfer::Transfer;

/// How long after a power signal that reveals a silent power cycle or reset the BMC may still
/// transfer, in real time. UEFI needs longer than that to its first SPD read.
pub const REACTION: Duration = Duration::from_millis(40);

/// The times in which the BMC must not transfer.
#[derive(Clone, Debug, Default)]
pub struct Quiet {
    past: Vec<(Instant, Instant)>,
    since: Option<Instant>,
}

impl Quiet {
    /// The buses are the host's from `at` on, or from earlier if that was known already.
    pub fn from(&mut self, at: Instant) {
        self.since = Some(self.since.map_or(at, |since| since.min(at)));
    }

    /// The host works: the buses are anybody's from `at` on.
    pub fn until(&mut self, at: Instant) {
        if let Some(since) = self.since.take() {
            self.past.push((since, at));
        }
    }

    /// Whether this transfer touches such a time.
    #[must_use]
    pub fn broken_by(&self, transfer: &Transfer) -> bool {
        self.since.is_some_and(|since| transfer.end > since)
            || self.past.iter().any(|(from, to)| transfer.end > *from && transfer.start < *to)
    }
}

/// What the board did that the daemon must infer, and what the host last said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Performed {
    /// Times the power went without the host having said so.
    pub inferred_s5: u64,
    /// Resets of a working host with its power on.
    pub warm_resets: u64,
    /// Nobody can think that the host is anything but off.
    known_off: bool,
}

impl Performed {
    /// A board that is off, and known to be.
    #[must_use]
    pub fn off() -> Self {
        Self { known_off: true, ..Self::default() }
    }

    /// The host said that it is on its way to off, or that it is not.
    pub fn host_says_off(&mut self, off: bool) {
        self.known_off = off;
    }

    /// The power went.
    pub fn power_lost(&mut self) {
        self.inferred_s5 += u64::from(!self.known_off);
        self.known_off = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::{Master, Outcome};

    #[test]
    fn a_transfer_that_reaches_into_a_quiet_time_breaks_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let transfer = |from, to| Transfer {
            device: 0x18,
            master: Master::Bmc,
            start: at(from),
            end: at(to),
            outcome: Outcome::Done,
        };
        let mut quiet = Quiet::default();
        assert!(!quiet.broken_by(&transfer(0, 1)));
        quiet.from(at(20));
        quiet.from(at(10));
        quiet.from(at(15));
        assert!(quiet.broken_by(&transfer(9, 11)));
        assert!(!quiet.broken_by(&transfer(8, 9)));
        quiet.until(at(30));
        for (from, to, broken) in
            [(8, 9, false), (9, 11, true), (12, 13, true), (29, 31, true), (31, 32, false)]
        {
            assert_eq!(quiet.broken_by(&transfer(from, to)), broken, "{from} {to}");
        }
        quiet.from(at(40));
        assert!(quiet.broken_by(&transfer(12, 13)) && quiet.broken_by(&transfer(50, 51)));
    }

    #[test]
    fn only_an_unannounced_loss_of_power_is_to_be_inferred() {
        let mut performed = Performed::off();
        performed.power_lost();
        performed.host_says_off(false);
        performed.host_says_off(true);
        performed.power_lost();
        assert_eq!(performed.inferred_s5, 0);
        performed.host_says_off(false);
        performed.power_lost();
        performed.power_lost();
        assert_eq!(performed.inferred_s5, 1);
    }
}
