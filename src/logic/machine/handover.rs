// SPDX-License-Identifier: Apache-2.0
//! The guarded buses of a host with an SPD mux or with units to quiesce: whose they are (rules 3.3).
//!
//! Owns: the order. At every closing: drain, stop the units, give the mux to the host. At every opening: take
//! the mux back, read, start the units. An order that is done comes back as an event of the closing it belongs to; one
//! of an older closing is dropped. `ack_cap` bounds the whole way to the host: what has not been ordered by then
//! is ordered then, and not waited for. On the way back nothing is bounded: without the mux there is nothing to read.
//!
//! ```text
//!   gate closes                 drained            units quiet           mux at host
//!  Ours ────────▶ Draining ───────────▶ Stopping ────────────▶ Switching ───────────▶ Theirs
//!   ▲                └──────────────────────┴── ack_cap ────────────┴─────────────────▶ │
//!   │                                                                                   │ gate opens
//!   └─────────────────────────── mux at BMC ────────────────────── Returning ◀──────────┘
//! ```
//!
//! A step without a mux, or without units, is left out.

use core::time::Duration;

use crate::{
    config,
    logic::{
        effect::{Effect, Effects},
        event::Epoch,
        time::Time,
    },
};

/// How far the way to the host, or back, has got.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
    /// The bus is the BMC's, or it is nobody's business.
    Ours,
    /// To the host: transfers end. At the latest then.
    Draining(Time),
    /// The units stop.
    Stopping(Time),
    /// The mux switches.
    Switching(Time),
    /// The bus is the host's.
    Theirs,
    /// Back to us: the mux switches.
    Returning,
}

/// The buses of one host.
#[derive(Clone, Debug)]
pub(super) struct Handover {
    has_mux: bool,
    has_units: bool,
    ack_cap: Duration,
    step: Step,
    /// Orders of the present step: they wait for no answer.
    orders: Vec<Effect>,
}

impl Handover {
    pub(super) fn new(host: &config::Host) -> Self {
        Self {
            has_mux: host.spd_mux.is_some(),
            has_units: !host.quiesce.is_empty(),
            ack_cap: host.timing.ack_cap,
            step: Step::Ours,
            orders: Vec::new(),
        }
    }

    /// A transfer may begin, if the gate is open.
    pub(super) fn is_ours(&self) -> bool {
        self.step == Step::Ours
    }

    /// True if the handover waits for the transfers that are under way.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.step, Step::Draining(_))
    }

    /// When what is left is done without waiting.
    pub(super) fn late_at(&self) -> Option<Time> {
        match self.step {
            Step::Draining(at) | Step::Stopping(at) | Step::Switching(at) => Some(at),
            Step::Ours | Step::Theirs | Step::Returning => None,
        }
    }

    /// Hands the step's orders over.
    pub(super) fn flush(&mut self, effects: &mut Effects) {
        effects.append(&mut self.orders);
    }

    /// The gate has been looked at: begins the way that it now asks for. `cap`: when a Set is answered that waits since
    /// an earlier closing; nobody is answered before all is ordered, so this way's time is not longer.
    pub(super) fn follow(&mut self, now: Time, open: bool, epoch: Epoch, cap: Option<Time>) {
        if !self.has_mux && !self.has_units {
            return;
        }
        match (open, self.step) {
            (false, Step::Ours | Step::Returning) => {
                let own = now + self.ack_cap;
                self.step = Step::Draining(cap.map_or(own, |cap| cap.min(own)));
            }
            (true, Step::Draining(_) | Step::Stopping(_) | Step::Switching(_) | Step::Theirs) => {
                self.take_back(epoch);
            }
            (true, Step::Ours | Step::Returning)
            | (false, Step::Draining(_) | Step::Stopping(_) | Step::Switching(_) | Step::Theirs) => {}
        }
    }

    /// Nothing is on the wire any more. This and the two that follow return whether whoever waits for the bus to be the
    /// host's is answered now.
    #[must_use]
    pub(super) fn drained(&mut self, epoch: Epoch) -> bool {
        if let Step::Draining(at) = self.step {
            self.stop_units(at, epoch);
        }
        match self.step {
            Step::Ours | Step::Theirs | Step::Returning => true,
            Step::Draining(_) | Step::Stopping(_) | Step::Switching(_) => false,
        }
    }

    /// The units have stopped, or never will.
    #[must_use]
    pub(super) fn quiesced(&mut self, epoch: Epoch) -> bool {
        let Step::Stopping(at) = self.step else { return false };
        self.give_mux(at, epoch);
        self.step == Step::Theirs
    }

    /// The mux is at the host.
    #[must_use]
    pub(super) fn mux_given(&mut self) -> bool {
        let given = matches!(self.step, Step::Switching(_));
        if given {
            self.step = Step::Theirs;
        }
        given
    }

    fn stop_units(&mut self, at: Time, epoch: Epoch) {
        if self.has_units {
            self.orders.push(Effect::Quiesce(epoch));
            self.step = Step::Stopping(at);
        } else {
            self.give_mux(at, epoch);
        }
    }

    fn give_mux(&mut self, at: Time, epoch: Epoch) {
        if self.has_mux {
            self.orders.push(Effect::MuxToHost(epoch));
            self.step = Step::Switching(at);
        } else {
            self.step = Step::Theirs;
        }
    }

    /// `ack_cap` has passed: what has not been ordered is ordered, and nobody waits for it. A Set that came later goes on
    /// waiting for the drain.
    pub(super) fn hand_over_late(&mut self, epoch: Epoch) {
        if self.has_units && self.is_draining() {
            self.orders.push(Effect::Quiesce(epoch));
        }
        if self.has_mux && !matches!(self.step, Step::Switching(_)) {
            self.orders.push(Effect::MuxToHost(epoch));
        }
        self.step = Step::Theirs;
    }

    fn take_back(&mut self, epoch: Epoch) {
        if self.has_mux {
            self.orders.push(Effect::MuxToBmc(epoch));
            self.step = Step::Returning;
        } else {
            self.taken_back();
        }
    }

    /// The mux is at the BMC.
    pub(super) fn mux_taken(&mut self) {
        if self.step == Step::Returning {
            self.taken_back();
        }
    }

    fn taken_back(&mut self) {
        self.step = Step::Ours;
        if self.has_units {
            // In one order with what stops them, also while a Set waits.
            self.orders.push(Effect::Unquiesce);
        }
    }

    /// Where the way has got, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn key(&self) -> impl core::hash::Hash + use<> {
        core::mem::discriminant(&self.step)
    }
}
