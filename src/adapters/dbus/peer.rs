// SPDX-License-Identifier: Apache-2.0
//! The interface between an adapter to another daemon and the task on the bus, and what each conversation needs.

use std::{collections::BTreeSet, num::NonZeroU32, time::Duration};

use zbus::{Message, message::Type, names::UniqueName};

use crate::{
    adapters::dbus::{calls::serial_of, names::BUS, signal::Signal},
    logic::{event::Event, time::Time},
    shell::permits::HostIndex,
};

/// The error that stands in the place of an answer that is not believed; its text says why.
pub(crate) const NOT_BELIEVED: &str = "xyz.openbmc_project.ACPIPowerState.NotBelieved";

/// The result of a message.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// To be sent, in order.
    pub(crate) calls: Vec<Message>,
    /// For the event loop, in order.
    pub(crate) events: Vec<(HostIndex, Event)>,
}

impl Outcome {
    /// Nothing but calls.
    pub(crate) fn of(calls: Vec<Message>) -> Self {
        Self { calls, events: Vec::new() }
    }
}

/// Our side of the talk with one other daemon.
///
/// The other daemon may be absent, appear, restart, answer errors or never; none of that is an error here. An error is returned
/// only where a message cannot be built.
pub(crate) trait Peer: std::fmt::Debug + Send {
    /// The calls to begin with: subscribed first, asked afterwards.
    fn start(&mut self) -> zbus::Result<Vec<Message>>;

    /// A reply; `None` if it is not one to a call of ours.
    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>>;

    /// A signal, of whatever kind and from whomever. A bus may deliver one that nobody subscribed to (it was addressed to us): who
    /// sent it has to be looked at each time.
    fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome>;

    /// The same, of a message.
    #[cfg(test)]
    fn hear(&mut self, signal: &Message) -> zbus::Result<Outcome> {
        Signal::read(signal, |signal| self.signalled(signal))
    }

    /// The time is `now`. Called at [`Peer::wake_at`], and after everything else that was called here: an adapter that has to
    /// wait for something learns by this from when on.
    fn tick(&mut self, now: Moment) -> zbus::Result<Outcome>;

    /// When [`Peer::tick`] is to be called next, if nothing happens before.
    fn wake_at(&self) -> Option<Time>;
}

/// A time on the daemon's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: Time,
    /// The time that the clock shows while [`ANSWERED_WITHIN`] passes in real time.
    pub(crate) patience: Duration,
}

/// A call that has no reply after this long, real time, counts as answered with an error (libdbus and sd-bus give up after 25 s).
pub(crate) const ANSWERED_WITHIN: Duration = Duration::from_secs(25);

/// The earlier of two times, if there are any.
pub(crate) fn earlier(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    one.into_iter().chain(other).min()
}

/// A peer that leaves so many calls about one thing without a reply is not called about it any more, until it answers one, or
/// leaves the bus (which then answers all of them in its place). The bus keeps a place for each reply that is due to us, and
/// gives us no more than 128 (dbus-daemon on a system bus: `bus/config-parser.c`, `max_replies_per_connection`): one peer must not
/// use up the others', nor those of what we ask the bus itself.
pub(crate) const MOST_OF_ONE: usize = 8;

/// A call that has no reply.
#[derive(Debug)]
struct Sent<T> {
    serial: NonZeroU32,
    about: T,
    /// A reply would still be news.
    awaited: bool,
    /// When it counts as answered, once that is known.
    until: Option<Time>,
}

/// Our calls that have no reply yet, in their order, with what each is about. There are few at a time: [`MOST_OF_ONE`] about one thing.
#[derive(Debug)]
pub(crate) struct Pending<T>(Vec<Sent<T>>);

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone + PartialEq> Pending<T> {
    /// This call is to be sent, and its reply awaited; `None` if there are too many about the same that have none.
    #[must_use]
    pub(crate) fn send(&mut self, call: Message, about: T) -> Option<Message> {
        if self.0.iter().filter(|sent| sent.about == about).count() >= MOST_OF_ONE {
            return None;
        }
        self.0.push(Sent { serial: serial_of(&call), about, awaited: true, until: None });
        Some(call)
    }

    /// Returns the subject of the reply to this call; `None` if nobody waits for it (any more).
    pub(crate) fn take(&mut self, serial: NonZeroU32) -> Option<T> {
        let at = self.0.iter().position(|sent| sent.serial == serial)?;
        let Sent { about, awaited, .. } = self.0.remove(at);
        // Services answer in order: what was asked before this and has no answer will have none.
        let mut index = 0;
        self.0.retain(|sent| {
            index += 1;
            index > at || sent.about != about
        });
        awaited.then_some(about)
    }

    /// Replies about these are no news any more.
    pub(crate) fn forget(&mut self, which: impl Fn(&T) -> bool) {
        for sent in self.0.iter_mut().filter(|sent| which(&sent.about)) {
            sent.awaited = false;
        }
    }

    /// Whether a reply about one of these is waited for.
    pub(crate) fn any(&self, which: impl Fn(&T) -> bool) -> bool {
        self.0.iter().any(|sent| sent.awaited && which(&sent.about))
    }

    /// Returns the subjects that have not been answered within [`ANSWERED_WITHIN`]; each once, and a late answer is no news.
    pub(crate) fn unanswered(&mut self, Moment { now, patience }: Moment) -> Vec<T> {
        let mut given_up = Vec::new();
        for sent in self.0.iter_mut().filter(|sent| sent.awaited) {
            if *sent.until.get_or_insert(now + patience) <= now {
                sent.awaited = false;
                given_up.push(sent.about.clone());
            }
        }
        given_up
    }

    /// When to call [`Pending::unanswered`] next.
    pub(crate) fn wake_at(&self) -> Option<Time> {
        self.0.iter().filter(|sent| sent.awaited).filter_map(|sent| sent.until).min()
    }
}

/// The unique name that speaks for a well-known one.
#[derive(Debug, Default)]
pub(crate) struct Speaker(Option<String>);

impl Speaker {
    /// The bus says that the name has this owner now, or none (empty).
    pub(crate) fn changed(&mut self, owner: &str) {
        self.0 = (!owner.is_empty()).then(|| owner.to_owned());
    }

    /// The name's owner has answered a call. A report of the bus since then counts for more. An answer of the
    /// bus itself, in the place of a service that is not there, does not count.
    pub(crate) fn replied(&mut self, reply: &Message) {
        if self.0.is_none() {
            let header = reply.header();
            self.0 =
                header.sender().map(UniqueName::as_str).filter(|sender| *sender != BUS).map(str::to_owned);
        }
    }

    /// Whether it is this one.
    pub(crate) fn is(&self, sender: &str) -> bool {
        self.0.as_deref() == Some(sender)
    }
}

/// The messages that were logged, and are not logged again.
#[derive(Debug, Default)]
pub(crate) struct Noted(BTreeSet<String>);

impl Noted {
    /// Others may make up error names without end.
    const MOST: usize = 256;

    /// Logs this, if it is the first time, and there is not too much already.
    pub(crate) fn once(&mut self, what: &str, log: impl FnOnce()) {
        if self.0.len() < Self::MOST && self.0.insert(what.to_owned()) {
            log();
        }
    }

    /// Lets this be logged again.
    pub(crate) fn forget(&mut self, what: &str) {
        self.0.remove(what);
    }
}

/// Why this reply is not the one that was wanted: the name of its error; "not set" if it is none. `None` is no reply in time.
pub(crate) fn error_of(reply: Option<&Message>) -> String {
    let Some(reply) = reply else { return "no answer".to_owned() };
    reply.header().error_name().map_or_else(|| "not set".to_owned(), ToString::to_string)
}

/// The meaning of an answer for the thing that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Says {
    /// This is it.
    Good,
    /// There is no such thing. When there is one, somebody announces it.
    NotThere,
    /// Nobody has that name. When somebody has, the bus says so.
    Nobody,
    /// Something went wrong, or there was no answer in time.
    Failed,
}

impl Says {
    /// Returns the meaning, if the answer was understood: an answer to something else than was asked for is none.
    pub(crate) fn understood(self, understood: bool) -> Self {
        if self == Self::Good && !understood { Self::Failed } else { self }
    }

    /// Returns the meaning of this reply; `None` is none in time.
    pub(crate) fn of(reply: Option<&Message>) -> Self {
        let Some(reply) = reply else { return Self::Failed };
        if reply.message_type() == Type::MethodReturn {
            return Self::Good;
        }
        let header = reply.header();
        let name = header.error_name().map_or("", |name| name.as_str());
        let name = name.strip_prefix("org.freedesktop.DBus.Error.").unwrap_or(name);
        match name {
            "ServiceUnknown" | "NameHasNoOwner" => Self::Nobody,
            // The mapper's (phosphor-objmgr `src/handler.cpp`), today's and, as errno, that of its first years.
            "xyz.openbmc_project.Common.Error.ResourceNotFound"
            | "FileNotFound"
            | "UnknownObject"
            | "UnknownInterface"
            | "UnknownProperty"
            | "UnknownMethod" => Self::NotThere,
            _ => Self::Failed,
        }
    }
}

/// This many seconds on a clock that runs as fast as life.
#[cfg(test)]
pub(crate) fn moment(seconds: u64) -> Moment {
    Moment { now: Time::from_micros(seconds * 1_000_000), patience: ANSWERED_WITHIN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::dbus::calls::call_bus;

    fn call() -> Message {
        call_bus("GetId", &()).unwrap()
    }

    #[test]
    fn who_answers_nothing_is_not_asked_without_end() {
        let mut pending = Pending::default();
        let sent: Vec<_> = (0..1000).filter_map(|_| pending.send(call(), 'a')).collect();
        assert_eq!(sent.len(), MOST_OF_ONE);
        assert!(pending.send(call(), 'b').is_some(), "another matter");
        // Nobody waits for them any more; the bus still does.
        pending.forget(|_| true);
        assert!(pending.send(call(), 'a').is_none());
        // The peer has answered one: those before it will have no answer.
        assert_eq!(pending.take(serial_of(&sent[5])), None);
        let again: Vec<_> = (0..1000).filter_map(|_| pending.send(call(), 'a')).collect();
        assert_eq!(again.len(), 6);
        assert_eq!(pending.take(serial_of(&sent[3])), None);
        assert_eq!(pending.take(serial_of(&again[5])), Some('a'));
        assert!(!pending.any(|about| *about == 'a'));
    }

    #[test]
    fn what_is_not_answered_in_time_is_told_once() {
        let mut pending = Pending::default();
        let sent = pending.send(call(), 'a').unwrap();
        assert!(pending.unanswered(moment(100)).is_empty());
        assert_eq!(pending.wake_at(), Some(moment(125).now));
        assert!(pending.unanswered(moment(124)).is_empty());
        assert_eq!(pending.unanswered(moment(125)), ['a']);
        assert_eq!((pending.unanswered(moment(126)), pending.wake_at()), (Vec::new(), None));
        assert_eq!(pending.take(serial_of(&sent)), None, "too late");
    }
}
