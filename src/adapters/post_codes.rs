// SPDX-License-Identifier: Apache-2.0
//! Listens to the POST codes of each host, `State.Boot.Raw` at `state/boot/raw<N>`, while somebody wants them (openbmc 6).
//!
//! Owns: whether their signals are subscribed to. Must never: judge a code, or take one that is read for a word: it may be of an
//! earlier boot.
//!
//! Nothing bounds how often they come. phosphor-host-postd signals each byte that the host writes to port 80h, also the same one
//! again (`main.cpp`, `PostCodeEventHandler`), and has a limit only where its unit names one (`--rate-limit`); some systems under
//! Linux write there for a delay, thousands of times a second. More than [`MOST`] within a second end the subscription for [`PAUSE`], so that
//! what a host writes costs its BMC no more than that: the bus then delivers nothing, and wakes nobody.

use std::{num::NonZeroU32, time::Duration};

use zbus::Message;

use crate::{
    adapters::dbus::{
        known_properties::{KnownProperties, Plain, Told},
        names::PROPERTIES,
        peer::{Moment, Outcome, Peer, earlier},
        signal::Signal,
    },
    logic::{event::Event, evidence::PostCode, limit::Bucket, time::Time},
    shell::permits::HostIndex,
};

const RAW: &str = "xyz.openbmc_project.State.Boot.Raw";
const VALUE: &str = "Value";

/// Codes of one host within [`WINDOW`], and no more.
const MOST: u32 = 200;
const WINDOW: Duration = Duration::from_secs(1);
/// No code is heard for so long after more than that.
const PAUSE: Duration = Duration::from_secs(10);
/// Lines about that.
const LINES_AT_ONCE: u32 = 5;
/// And then one each.
const LINES_EACH: Duration = Duration::from_secs(60);

/// The codes of one host.
#[derive(Debug)]
struct Codes {
    item: usize,
    wanted: bool,
    /// There were too many; until then.
    paused_until: Option<Time>,
    /// The window that is counted in, and how many there were in it.
    window: Option<Time>,
    count: u32,
    /// Heard since the time was last told.
    fresh: u32,
    /// Delivered though nobody listened any more, in the daemon's life.
    dropped: u64,
}

/// The POST codes of all hosts.
#[derive(Debug)]
pub(crate) struct PostCodes {
    hosts: Vec<Codes>,
    watched: KnownProperties,
    lines: Bucket,
}

impl PostCodes {
    /// For the hosts of these ids.
    pub(crate) fn new(ids: impl Iterator<Item = u32>) -> Self {
        let mut watched = KnownProperties::default();
        let hosts = ids.map(|id| Codes {
            item: watched.add_unheard(&format!("/xyz/openbmc_project/state/boot/raw{id}"), RAW, VALUE),
            wanted: false,
            paused_until: None,
            window: None,
            count: 0,
            fresh: 0,
            dropped: 0,
        });
        let hosts = hosts.collect();
        Self { hosts, watched, lines: Bucket::new(LINES_AT_ONCE, LINES_EACH) }
    }

    /// This host's codes are wanted from now on, or are not any more.
    pub(crate) fn want(&mut self, host: HostIndex, wanted: bool) -> zbus::Result<Option<Message>> {
        let Some(of) = self.hosts.get_mut(host) else { return Ok(None) };
        of.wanted = wanted;
        self.watched.hear_of(of.item, wanted && of.paused_until.is_none())
    }

    /// Whether this signal is a code to which nobody listens any more, on its way when the subscription ended. It is counted
    /// by its header, and its body never looked at: with a bus that is behind there may be thousands.
    pub(crate) fn drops(&mut self, signal: &Message) -> bool {
        let header = signal.header();
        let changed = header.interface().is_some_and(|interface| *interface == PROPERTIES);
        let Some(path) = header.path().filter(|_| changed) else { return false };
        let path = path.as_str();
        let watched = &self.watched;
        let mut unheard = self.hosts.iter_mut().filter(|of| !of.wanted || of.paused_until.is_some());
        let Some(of) = unheard.find(|of| watched.path(of.item) == path) else { return false };
        of.dropped = of.dropped.saturating_add(1);
        true
    }

    fn take(&mut self, told: Told, by_signal: bool) -> Outcome {
        let mut outcome = Outcome::of(told.calls);
        for (item, value) in told.news.into_iter().filter(|_| by_signal) {
            let Some((host, of)) = self.hosts.iter_mut().enumerate().find(|(_, of)| of.item == item) else {
                continue;
            };
            let code = match value {
                Some(Plain::Code(bytes)) => PostCode::from_bytes(&bytes),
                // A sign of life, whatever form it has.
                Some(
                    Plain::Bool(_) | Plain::Unsigned(_) | Plain::Double(_) | Plain::Text(_) | Plain::Other,
                ) => PostCode::Other,
                None => continue,
            };
            of.fresh = of.fresh.saturating_add(1);
            outcome.events.push((host, Event::PostCode(code)));
        }
        outcome
    }

    /// Ends the subscription to a host's codes if there are too many, and a pause that is over.
    fn pace(&mut self, now: Time) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        for of in &mut self.hosts {
            if of.window.is_none_or(|since| now.since(since) >= WINDOW) {
                (of.window, of.count) = ((of.fresh > 0).then_some(now), 0);
            }
            of.count = of.count.saturating_add(std::mem::take(&mut of.fresh));
            if of.paused_until.is_some_and(|until| until <= now) {
                of.paused_until = None;
                calls.extend(self.watched.hear_of(of.item, of.wanted)?);
            }
            if of.count <= MOST || of.paused_until.is_some() {
                continue;
            }
            (of.paused_until, of.window, of.count) = (Some(now + PAUSE), None, 0);
            calls.extend(self.watched.hear_of(of.item, false)?);
            if let Some(more) = self.lines.take(now) {
                let path = self.watched.path(of.item);
                let more = if more > 0 { format!(" (and {more} times more)") } else { String::new() };
                tracing::warn!(
                    "{path}: more than {MOST} POST codes within a second; none is listened to for {} s; {} were dropped so far{more}",
                    PAUSE.as_secs(),
                    of.dropped
                );
            }
        }
        Ok(calls)
    }
}

impl Peer for PostCodes {
    fn start(&mut self) -> zbus::Result<Vec<Message>> {
        self.watched.start()
    }

    fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        let told = self.watched.returned(serial, reply)?;
        Some(told.map(|told| self.take(told, false)))
    }

    fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome> {
        let told = self.watched.signalled(signal)?;
        Ok(self.take(told, true))
    }

    fn tick(&mut self, now: Moment) -> zbus::Result<Outcome> {
        let told = self.watched.tick(now)?;
        let mut outcome = self.take(told, false);
        outcome.calls.extend(self.pace(now.now)?);
        Ok(outcome)
    }

    fn wake_at(&self) -> Option<Time> {
        let pauses = self.hosts.iter().filter_map(|of| of.paused_until).min();
        earlier(self.watched.wake_at(), pauses)
    }
}

#[cfg(test)]
mod tests {
    use zbus::Variant;

    use super::*;
    use crate::adapters::dbus::{
        doubles::{calls, changed, owned_by, reply, serial},
        peer::ANSWERED_WITHIN,
    };

    const PATH: &str = "/xyz/openbmc_project/state/boot/raw0";
    const POSTD: &str = ":1.4";

    fn at(millis: u64) -> Moment {
        Moment { now: Time::from_micros(millis * 1_000), patience: ANSWERED_WITHIN }
    }

    /// phosphor-host-postd has the codes of today's form, and they are wanted.
    fn listening() -> PostCodes {
        let mut codes = PostCodes::new([0].into_iter());
        let begin = codes.start().unwrap();
        assert!(
            rules(&begin, "AddMatch").iter().all(|rule| !rule.contains("PropertiesChanged")),
            "{begin:?}"
        );
        let [question] = calls(&begin, "GetObject")[..] else { panic!("{begin:?}") };
        let outcome = codes.returned(serial(question), &owned_by(question, RAW)).unwrap().unwrap();
        let [get] = calls(&outcome.calls, "Get")[..] else { panic!("{outcome:?}") };
        let old = code(vec![0xaa_u8]);
        let outcome = codes.returned(serial(get), &reply(get, POSTD, &old)).unwrap().unwrap();
        assert_eq!(outcome.events, [], "one that is read is none");
        assert_eq!(hears(&mut codes, vec![0x01]), [], "nobody wants it");
        let listen: Vec<_> = codes.want(0, true).unwrap().into_iter().collect();
        assert_eq!(rules(&listen, "AddMatch").len(), 1);
        assert!(codes.want(0, true).unwrap().is_none());
        codes
    }

    fn rules(sent: &[Message], member: &str) -> Vec<String> {
        calls(sent, member).into_iter().map(|call| call.body().deserialize::<String>().unwrap()).collect()
    }

    fn code<T>(first: T) -> Variant<'static>
    where
        Variant<'static>: From<(T, Vec<u8>)>,
    {
        Variant::from((first, Vec::<u8>::new()))
    }

    fn signal(value: Variant<'_>) -> Message {
        changed(POSTD, PATH, RAW, VALUE, value)
    }

    fn hears(codes: &mut PostCodes, bytes: Vec<u8>) -> Vec<(HostIndex, Event)> {
        codes.hear(&signal(code(bytes))).unwrap().events
    }

    #[test]
    fn a_code_is_what_it_is_in_both_forms_and_in_none() {
        let mut codes = listening();
        let reset = [0x01_u8, 0, 0, 0, 0x0a, 0x10, 0x11, 0x03, 0];
        for (value, meaning) in [
            (code(vec![0xaa_u8]), PostCode::Byte(0xaa)),
            // The same again is another one: phosphor-host-postd signals it.
            (code(vec![0xaa_u8]), PostCode::Byte(0xaa)),
            (code(reset.to_vec()), PostCode::AtWork),
            (code(vec![0x11_u8, 0x22]), PostCode::Other),
            (code(vec![0x01_u8; 60_000]), PostCode::Other),
            (code(Vec::<u8>::new()), PostCode::Other),
            (code(0xaa_u64), PostCode::Byte(0xaa)),
            (code(0_u64), PostCode::Byte(0)),
            // Eight bytes are none of SBMR's, which a number cannot hold.
            (code(0x0311_100a_0000_0001_u64), PostCode::Other),
            (Variant::U64(0xaa), PostCode::Other),
            (Variant::from("0xaa"), PostCode::Other),
            (Variant::from((1_i32, 2_i32)), PostCode::Other),
            (Variant::from(vec![0xaa_u8]), PostCode::Other),
        ] {
            let shown = format!("{value:.40?}");
            assert_eq!(
                codes.hear(&signal(value)).unwrap().events,
                [(0, Event::PostCode(meaning))],
                "{shown}"
            );
        }
        let strangers = changed(":1.99", PATH, RAW, VALUE, code(vec![0xaa_u8]));
        assert_eq!(codes.hear(&strangers).unwrap().events, []);
    }

    #[test]
    fn who_wants_none_is_told_none() {
        let mut codes = listening();
        assert!(!codes.drops(&signal(code(vec![1_u8]))));
        let end: Vec<_> = codes.want(0, false).unwrap().into_iter().collect();
        assert_eq!(rules(&end, "RemoveMatch").len(), 1);
        assert_eq!(hears(&mut codes, vec![0x01]), []);
        // What was on its way is dropped by its header.
        assert!(codes.drops(&signal(code(vec![1_u8]))));
        assert!(!codes.drops(&changed(POSTD, "/elsewhere", RAW, VALUE, code(vec![1_u8]))));
        let announced = Message::signal(PATH, "org.freedesktop.DBus.ObjectManager", "InterfacesAdded");
        assert!(!codes.drops(&announced.build(&()).unwrap()), "its service may be its own object manager");
    }

    /// As many as there may be, for a minute; then one more.
    #[test]
    fn as_many_as_there_may_be_are_heard() {
        let mut codes = listening();
        for millis in (0..60_000).step_by(5) {
            assert_eq!(hears(&mut codes, vec![1]).len(), 1);
            assert_eq!(codes.tick(at(millis)).unwrap().calls.len(), 0, "{millis}");
        }
        for more in 0..200 {
            assert_eq!(codes.tick(at(59_996)).unwrap().calls.len(), 0, "{more}");
            hears(&mut codes, vec![1]);
            if codes.tick(at(59_996)).unwrap().calls.len() == 1 {
                assert!(codes.hosts[0].paused_until.is_some());
                return;
            }
        }
        panic!("400 in a second");
    }

    /// 10,000 codes a second for an hour.
    #[test]
    fn a_flood_is_dropped_and_looked_at_again_later() {
        let mut codes = listening();
        let message = signal(code(vec![0x80_u8]));
        let (mut heard, mut matches, mut listens) = (0_u32, Vec::new(), true);
        for tick in 0..36_000_u64 {
            for part in 0..1_000 {
                // The bus delivers what is subscribed to, and ten more that were on their way.
                if !listens && part > 10 {
                    break;
                }
                if !codes.drops(&message) {
                    heard += u32::try_from(codes.hear(&message).unwrap().events.len()).unwrap();
                }
                let calls = codes.tick(at(tick * 100)).unwrap().calls;
                for call in &calls {
                    listens = call.header().member().unwrap().as_str() == "AddMatch";
                    matches.push(listens);
                }
            }
        }
        assert!(matches.len() <= 720 && matches.len() >= 700, "{}", matches.len());
        assert!(matches.chunks(2).all(|pair| pair.len() == 1 || *pair == [false, true]));
        assert_eq!(heard, (MOST + 1) * 360, "201 each time");
        assert!(codes.hosts[0].dropped > 3_000);
        // Five lines, and one each minute.
        assert!(codes.lines.take(at(3_660_000).now).is_some_and(|more| more > 0));
    }

    /// A pause outlives its reason: the host goes off and comes back.
    #[test]
    fn a_pause_is_not_ended_by_who_wants_codes() {
        let mut codes = listening();
        for _ in 0..=MOST {
            hears(&mut codes, vec![1]);
        }
        assert_eq!(calls(&codes.tick(at(1_000)).unwrap().calls, "RemoveMatch").len(), 1);
        assert!(codes.want(0, false).unwrap().is_none());
        assert!(codes.want(0, true).unwrap().is_none());
        assert_eq!(codes.wake_at(), Some(at(11_000).now));
        assert_eq!(calls(&codes.tick(at(11_000)).unwrap().calls, "AddMatch").len(), 1);
        assert_eq!(codes.wake_at(), None);
        assert_eq!(hears(&mut codes, vec![1]).len(), 1);
    }
}
