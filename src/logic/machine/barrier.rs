// SPDX-License-Identifier: Apache-2.0
//! The barrier: what goes out at the end of this step, or at the end of the drain (rules 3.3).
//!
//! Owns: what Get returns, the Sets that wait for their answers, and what comes after these.

use core::time::Duration;

use crate::logic::{
    acpi::AcpiState,
    effect::{Effect, Effects},
    event::SetId,
    time::Time,
};

/// Answers and effects that wait.
#[derive(Clone, Debug)]
pub(super) struct Barrier {
    ack_cap: Duration,
    /// State and device, as Get returns them.
    published: (AcpiState, AcpiState),
    /// Sets to answer.
    answers: Vec<SetId>,
    /// They wait for the drain, until then at the latest; real time, as the settings give it.
    cap: Option<Time>,
    /// Effects that come after the answers.
    afterwards: Vec<Effect>,
}

/// The new value, if it is one.
fn replaced(published: &mut AcpiState, value: AcpiState) -> Option<AcpiState> {
    (core::mem::replace(published, value) != value).then_some(value)
}

impl Barrier {
    /// `published`: state and device, as Get returns them from the start.
    pub(super) fn new(ack_cap: Duration, published: (AcpiState, AcpiState)) -> Self {
        Self { ack_cap, published, answers: Vec::new(), cap: None, afterwards: Vec::new() }
    }

    /// A Set is answered when the barrier next ends.
    pub(super) fn answer(&mut self, id: SetId) {
        self.answers.push(id);
    }

    /// All that is pending waits for the drain.
    pub(super) fn begin(&mut self, now: Time) {
        self.cap = self.cap.or(Some(now + self.ack_cap));
    }

    /// Ends the barrier with this step.
    pub(super) fn end(&mut self) {
        self.cap = None;
    }

    /// Sets wait for the drain.
    pub(super) fn holds(&self) -> bool {
        self.cap.is_some()
    }

    /// When it ends at the latest.
    pub(super) fn cap(&self) -> Option<Time> {
        self.cap
    }

    /// An effect that comes after the answers.
    pub(super) fn emit(&mut self, effect: Effect) {
        self.afterwards.push(effect);
    }

    /// A Set of the device, which nothing waits for (note 14).
    pub(super) fn answer_device(&mut self, id: SetId, device: AcpiState, effects: &mut Effects) {
        effects.publish(None, replaced(&mut self.published.1, device));
        effects.push(Effect::Answer(id));
    }

    /// All that is pending, unless it waits: what Get returns first, then the answers, then the rest.
    pub(super) fn flush(&mut self, state: AcpiState, device: AcpiState, effects: &mut Effects) {
        if self.holds() {
            return;
        }
        let state = replaced(&mut self.published.0, state);
        let device = replaced(&mut self.published.1, device);
        effects.publish(state, device);
        for id in self.answers.drain(..) {
            effects.push(Effect::Answer(id));
        }
        effects.append(&mut self.afterwards);
    }

    /// Returns the facts that a rule can tell apart, for the search through all reachable states: whether state and
    /// device are what Get returns, none, one or more answers, and whether effects wait.
    #[cfg(test)]
    pub(super) fn key(&self, state: AcpiState, device: AcpiState) -> (bool, bool, usize, bool) {
        let (shown, shown_device) = self.published;
        (shown == state, shown_device == device, self.answers.len().min(2), self.afterwards.is_empty())
    }
}
