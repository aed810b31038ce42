// SPDX-License-Identifier: Apache-2.0
//! The lease of what is open (rules 3.3): it lasts while this loop runs, and while the bus is known to deliver (note B3).
//!
//! Owns: when the lease was last given, and the proof that the bus delivers. Must never: decide what is open. All times are real.

use std::time::{Duration, Instant};

use crate::{
    logic::sensor::{Proof, SILENT_AFTER},
    shell::permits::{LEASE, RENEW},
};

/// The lease, and what it hangs on.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The beginning of this turn of the loop, or its last look at the permits.
    now: Instant,
    /// The last renewal; `None` while nothing is open.
    given: Option<Instant>,
    /// The bus has delivered all that it had for us up to then.
    proved: Instant,
    /// The question that the bus has not answered yet was sent then.
    asked: Option<Instant>,
    /// The machines were told that the bus does not answer.
    silent: bool,
}

impl Lease {
    /// Nothing is open.
    pub(crate) fn new(now: Instant) -> Self {
        Self { now, given: None, proved: now, asked: None, silent: false }
    }

    /// A lease whose bus has proved itself, and was asked, at these times.
    #[cfg(test)]
    pub(crate) fn since(self, proved: Option<Instant>, asked: Option<Instant>) -> Self {
        Self { proved: proved.unwrap(), asked, ..self }
    }

    /// The time has come to `now`.
    pub(crate) fn turn(&mut self, now: Instant) {
        self.now = now;
    }

    /// The time of the last [`Lease::turn`].
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// True, once, when the lease has run out: this loop stalled, and evidence may be queued that it has not seen.
    pub(crate) fn ran_out(&mut self) -> bool {
        let over = self.given.is_some_and(|at| self.now.saturating_duration_since(at) >= LEASE);
        if over {
            self.given = None;
        }
        over
    }

    /// How long it may be given for.
    pub(crate) fn left(&self) -> Duration {
        LEASE.saturating_sub(self.age())
    }

    /// The permits were given this lease, or nothing is open.
    pub(crate) fn renew(&mut self, any_open: bool) {
        if any_open && self.given.is_none() {
            // Nobody was asked while nothing was open: that is no silence.
            self.proved = self.now.checked_sub(LEASE).map_or(self.now, |at| at.max(self.proved));
        }
        self.given = any_open.then_some(self.now);
    }

    /// The bus has answered: all that it had for us before the question is in by now.
    pub(crate) fn answered(&mut self) {
        self.proved = self.asked.take().map_or(self.proved, |asked| asked.max(self.proved));
    }

    /// True if the bus is to be asked now: for the next proof, behind all that was handed off.
    pub(crate) fn ask(&mut self) -> bool {
        let ask = self.given.is_some() && self.asked.is_none() && self.age() >= RENEW;
        if ask {
            self.asked = Some(self.now);
        }
        ask
    }

    /// The proof that the bus delivers, by its age.
    pub(crate) fn proof(&self) -> Proof {
        Proof::of(self.age(), LEASE)
    }

    /// Whether nobody can say any more what may be read, where that has changed.
    pub(crate) fn silence(&mut self) -> Option<bool> {
        let silent = self.given.is_some() && self.proof() == Proof::Silent;
        (std::mem::replace(&mut self.silent, silent) != silent).then_some(silent)
    }

    /// When to look again.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let given = self.given?;
        let ageing = [LEASE, SILENT_AFTER].map(|age| self.proved + age).into_iter();
        ageing.filter(|at| given < *at).chain([given + RENEW]).min()
    }

    fn age(&self) -> Duration {
        self.now.saturating_duration_since(self.proved)
    }
}
