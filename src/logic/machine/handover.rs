// SPDX-License-Identifier: Apache-2.0
//! The guarded buses of a host with an SPD mux or with units to quiesce: whose they are (design 3.3).
//!
//! Owns: the order. At every closing: drain, stop the units, give the mux to the host. At every opening: take
//! the mux back, read, start the units. What is ordered comes back as an event of the closing it belongs to; one of
//! an older closing is dropped. `ack_cap` bounds the whole way to the host: what has not been ordered by then
//! is ordered then, and not waited for. On the way back nothing is bounded: without the mux there is nothing to read.

use super::{Effect, Epoch, Machine, Time};

/// Where the way to the host, or back, has got to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Handover {
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

impl Machine {
    fn hands_over(&self) -> bool {
        self.settings.spd_mux.is_some() || !self.settings.quiesce.is_empty()
    }

    /// The gate is open and the bus is ours: a transfer may begin.
    #[must_use]
    pub fn has_bus(&self) -> bool {
        self.is_open() && self.handover == Handover::Ours
    }

    /// [`Event::Drained`](super::Event::Drained) is wanted: for a Set, or for the mux.
    #[must_use]
    pub fn wants_drained(&self) -> bool {
        self.is_draining() || matches!(self.handover, Handover::Draining(_))
    }

    /// When what is left is done without waiting.
    pub(super) fn handover_at(&self) -> Option<Time> {
        match self.handover {
            Handover::Draining(at) | Handover::Stopping(at) | Handover::Switching(at) => Some(at),
            Handover::Ours | Handover::Theirs | Handover::Returning => None,
        }
    }

    /// The gate has been looked at: begins the way that it now asks for.
    pub(super) fn follow_gate(&mut self) {
        if !self.hands_over() {
            return;
        }
        match (self.is_open(), self.handover) {
            (false, Handover::Ours | Handover::Returning) => {
                // A Set may be waiting since an earlier closing. Nobody is answered before all is ordered, so this way's
                // time is not longer than that of whoever waits.
                let own = self.now + self.settings.timing.ack_cap;
                let at = self.pending.cap.map_or(own, |cap| cap.min(own));
                self.handover = Handover::Draining(at);
            }
            (
                true,
                Handover::Draining(_) | Handover::Stopping(_) | Handover::Switching(_) | Handover::Theirs,
            ) => self.take_back(),
            (true, Handover::Ours | Handover::Returning)
            | (
                false,
                Handover::Draining(_) | Handover::Stopping(_) | Handover::Switching(_) | Handover::Theirs,
            ) => {}
        }
    }

    /// Nothing is on the wire any more.
    pub(super) fn drained(&mut self) {
        if let Handover::Draining(at) = self.handover {
            self.stop_units(at);
        }
        match self.handover {
            Handover::Ours | Handover::Theirs | Handover::Returning => self.pending.cap = None,
            Handover::Draining(_) | Handover::Stopping(_) | Handover::Switching(_) => {}
        }
    }

    fn stop_units(&mut self, at: Time) {
        if self.settings.quiesce.is_empty() {
            self.give_mux(at);
        } else {
            self.pending.before.push(Effect::Quiesce(self.epoch));
            self.handover = Handover::Stopping(at);
        }
    }

    /// The units have stopped, or never will.
    pub(super) fn quiesced(&mut self, epoch: Epoch) {
        if let Handover::Stopping(at) = self.handover
            && epoch == self.epoch
        {
            self.give_mux(at);
        }
    }

    fn give_mux(&mut self, at: Time) {
        if self.settings.spd_mux.is_none() {
            self.handed_over();
        } else {
            self.pending.before.push(Effect::MuxToHost(self.epoch));
            self.handover = Handover::Switching(at);
        }
    }

    /// The mux is at the host.
    pub(super) fn mux_given(&mut self, epoch: Epoch) {
        if matches!(self.handover, Handover::Switching(_)) && epoch == self.epoch {
            self.handed_over();
        }
    }

    /// All in its order and in time: whoever waits for that is answered.
    fn handed_over(&mut self) {
        self.handover = Handover::Theirs;
        self.pending.cap = None;
    }

    /// `ack_cap` has passed: what has not been ordered is ordered, and nobody waits for it. A Set that came later goes on
    /// waiting for the drain.
    pub(super) fn hand_over_late(&mut self) {
        if self.handover_at().is_none_or(|at| at > self.now) {
            return;
        }
        let mux = self.settings.spd_mux.is_some();
        let units = !self.settings.quiesce.is_empty();
        if units && matches!(self.handover, Handover::Draining(_)) {
            self.pending.before.push(Effect::Quiesce(self.epoch));
        }
        if mux && !matches!(self.handover, Handover::Switching(_)) {
            self.pending.before.push(Effect::MuxToHost(self.epoch));
        }
        self.handover = Handover::Theirs;
    }

    fn take_back(&mut self) {
        if self.settings.spd_mux.is_none() {
            self.taken_back();
        } else {
            self.pending.before.push(Effect::MuxToBmc(self.epoch));
            self.handover = Handover::Returning;
        }
    }

    /// The mux is at the BMC.
    pub(super) fn mux_taken(&mut self, epoch: Epoch) {
        if self.handover == Handover::Returning && epoch == self.epoch {
            self.taken_back();
        }
    }

    fn taken_back(&mut self) {
        self.handover = Handover::Ours;
        if !self.settings.quiesce.is_empty() {
            // In one order with what stops them, also while a Set waits.
            self.pending.before.push(Effect::Unquiesce);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::{
        super::{Event, SetId},
        *,
    };
    use crate::{
        config,
        logic::{
            acpi::AcpiState,
            evidence::{Chassis, Host},
        },
    };

    /// A Set waits for a transfer, the gate opens and closes again meanwhile: the units are ordered to stop by the time
    /// that the first Set is answered, not only `ack_cap` after the second closing.
    #[test]
    fn nobody_is_answered_before_all_is_ordered() {
        let mut host = config::Host::new(0);
        host.timing.settle = Duration::from_millis(1);
        host.timing.ack_cap = Duration::from_secs(3);
        host.quiesce = vec!["other.service".to_owned()];
        let at = |ms: u64| Time::from_micros(ms * 1000);
        let set = |id, state| Event::Set { id: SetId(id), state };
        let mut machine = Machine::new(at(0), host, None);
        drop(machine.step(at(0), Event::Chassis(Some(Chassis::On))));
        drop(machine.step(at(0), Event::Host(Some(Host::Running))));
        drop(machine.step(at(1), set(1, AcpiState::S0G0D0)));
        drop(machine.step(at(10_000), Event::Tick));
        assert!(machine.is_open());
        drop(machine.step(at(70_000), set(2, AcpiState::S2D2)));
        drop(machine.step(at(70_000), set(3, AcpiState::S0G0D0)));
        drop(machine.step(at(70_001), Event::Tick));
        assert!(machine.is_open() && machine.is_draining());
        drop(machine.step(at(70_001), set(4, AcpiState::S2D2)));
        let effects: Vec<_> = machine.step(at(73_000), Event::Tick).into_iter().collect();
        let position = |wanted: fn(&Effect) -> bool| effects.iter().position(wanted);
        let ordered = position(|effect| matches!(effect, Effect::Quiesce(_)));
        let answered = position(|effect| matches!(effect, Effect::Answer(_)));
        assert!(ordered.is_some() && ordered < answered, "{effects:?}");
    }
}
