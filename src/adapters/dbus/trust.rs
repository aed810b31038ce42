// SPDX-License-Identifier: Apache-2.0
//! Whose word counts (rules 3.9, note B1): the bus says which uid stands behind a connection, once, and until it has said so what came
//! from there waits here.
//!
//! Owns: who is known, and what waits for the bus's answer. Must never: send anything, or let a word through before it is known whose
//! it is.

use std::{collections::VecDeque, time::Duration};

use zbus::{Message, names::UniqueName};

use crate::{
    adapters::dbus::{
        callers::{Caller, Callers},
        dispatch::Ask,
    },
    logic::{limit::Bucket, time::Time},
};

/// Sets of callers whose uid is not known yet, and as many words. These cannot be held back: the uid comes the same way.
const MOST_WAITING: usize = 512;
/// Bytes of these words together. The longest that is expected, the mapper's list, has some 100,000.
const MOST_BYTES: usize = 1 << 20;
/// Lines about those who are not believed.
const STRANGERS_AT_ONCE: u32 = 5;
/// And then one each.
const STRANGERS_EACH: Duration = Duration::from_secs(60);

/// The callers that are known, and the messages that wait until their sender is.
#[derive(Debug)]
pub(crate) struct Trust {
    callers: Callers,
    own_uid: u32,
    /// Besides root and our own.
    trusted_uids: Vec<u32>,
    /// Sets, in their order.
    calls: VecDeque<(Message, Ask)>,
    /// Signals and answers, in their order.
    words: VecDeque<Message>,
    /// How many lines there may be about those who are not believed.
    strangers: Bucket,
}

impl Trust {
    /// Believes root, `own_uid` and these.
    pub(crate) fn new(own_uid: u32, trusted_uids: Vec<u32>) -> Self {
        Self {
            callers: Callers::default(),
            own_uid,
            trusted_uids,
            calls: VecDeque::new(),
            words: VecDeque::new(),
            strangers: Bucket::new(STRANGERS_AT_ONCE, STRANGERS_EACH),
        }
    }

    /// Returns what the bus knows of a message's sender, if it was asked and has answered.
    pub(crate) fn caller(&self, message: &Message) -> Option<Caller> {
        match message.header().sender() {
            Some(sender) => self.callers.get(sender.as_str()),
            None => Some(Caller::Gone),
        }
    }

    /// Whether he may Set: root, or who we are.
    pub(crate) fn may_set(&self, caller: Caller) -> bool {
        matches!(caller, Caller::Uid(uid) if uid == 0 || uid == self.own_uid)
    }

    /// Whether what he says of a host counts: who may Set, and `evidence.trusted_uids`.
    pub(crate) fn believes(&self, caller: Caller) -> bool {
        self.may_set(caller) || matches!(caller, Caller::Uid(uid) if self.trusted_uids.contains(&uid))
    }

    /// A word waits until it is known whose it is. A sender that floods us before the bus has named it loses words; a power
    /// service's value is asked for again.
    pub(crate) fn keep_word(&mut self, word: Message) {
        let held: usize = self.words.iter().map(|word| word.data().len()).sum();
        if self.words.len() < MOST_WAITING && held + word.data().len() <= MOST_BYTES {
            self.words.push_back(word);
        }
    }

    /// A Set waits until it is known whose it is. False if too many do.
    #[must_use]
    pub(crate) fn keep_call(&mut self, call: &Message, ask: Ask) -> bool {
        let room = self.calls.len() < MOST_WAITING;
        if room {
            self.calls.push_back((call.clone(), ask));
        }
        room
    }

    /// The bus has said who this is; whoever is forgotten for it.
    pub(crate) fn learned(&mut self, name: String, caller: Caller, now: Time) -> Option<String> {
        self.tell_of_stranger(&name, caller, now);
        self.callers.remember(name, caller)
    }

    /// A connection is gone. True if it was known.
    pub(crate) fn left(&mut self, name: &str) -> bool {
        self.callers.forget(name)
    }

    /// The words of those that are known by now, in their order.
    pub(crate) fn words(&mut self) -> Vec<(Caller, Message)> {
        let mut known = Vec::new();
        for word in std::mem::take(&mut self.words) {
            match self.caller(&word) {
                None => self.words.push_back(word),
                Some(caller) => known.push((caller, word)),
            }
        }
        known
    }

    /// Their Sets, in their order.
    pub(crate) fn calls(&mut self) -> Vec<(Caller, Message, Ask)> {
        let mut known = Vec::new();
        for (call, ask) in std::mem::take(&mut self.calls) {
            match self.caller(&call) {
                None => self.calls.push_back((call, ask)),
                Some(caller) => known.push((caller, call, ask)),
            }
        }
        known
    }

    /// A line for who has said something and is not believed, once for each connection.
    fn tell_of_stranger(&mut self, name: &str, caller: Caller, now: Time) {
        let Caller::Uid(uid) = caller else { return };
        let has_spoken = |word: &Message| word.header().sender().map(UniqueName::as_str) == Some(name);
        if self.believes(caller) || !self.words.iter().any(has_spoken) {
            return;
        }
        if let Some(more) = self.strangers.take(now) {
            let more = if more > 0 { format!(", nor were {more} more before") } else { String::new() };
            tracing::warn!(
                "{name} is not believed, since its uid is {uid}{more}: root's words about a host count, and those of \
                 evidence.trusted_uids; busctl status {name} says who it is"
            );
        }
    }
}
