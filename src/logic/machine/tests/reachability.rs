// SPDX-License-Identifier: Apache-2.0
//! Breadth first over every abstract state that can be reached: every state meets every event.
//!
//! An abstract state is every field of the machine without its time stamps: a deadline is not running, running
//! or due, as the rule sees it that uses it. Left out is what no rule reads (`previous`, the history's entries, the
//! epoch's number, the count of resets, causes that no rule tells apart, the device's value but for whether it is published), and OS
//! status where it is not trusted. Of a drain are kept none, one or more answers. A single concrete machine
//! stands for each abstract state; `properties.rs` tries other times and longer ways, and the events that no search has:
//! [`Event::Found`], [`Event::UnguardedBus`], [`Event::FailsafeConfig`] and [`Event::BusSilent`].
//!
//! Five depths: [`Depth::Everything`] for two sets of options without trusted POST status; for all 16 sets
//! [`Depth::Rules`], which leaves out what no rule of 3.2 reads, since with trusted POST status the product of independent followers takes too long.
//! [`Depth::Firmware`], [`Depth::Handover`] and [`Depth::Diagnoses`] add to those rules what each of them is about.
//!
//! Each event comes now or just before the next deadline, by turns. A run of every change looks at all states of the rules, and
//! at the nearest quarter of a million of each deeper search. With `ACPI_FULL` in the environment (`./dev full`) nothing is left
//! out, and where everything is kept, each event comes at both times in each state.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{
    super::{power::POST_COMPLETE_BOGUS, *},
    invariants::{Broken, Invariant, Said, Watcher},
};
use crate::logic::{
    diagnosis::{CpuPower, DimmCount},
    evidence::{Os, PostCode, Stage},
};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Clock {
    Stopped,
    Running,
    Due,
}

/// How much of a machine an abstract state keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Depth {
    /// Without what no rule of 3.2 reads: fans, units, boot progress; which service is missing is not told apart.
    Rules,
    /// The rules, and the words of boot progress, codes and requests.
    Firmware,
    /// The rules, and the way of the bus to the host and back, with a mux and units.
    Handover,
    /// The rules, and the times and counts of the diagnoses.
    Diagnoses,
    /// All of it.
    Everything,
}

/// Returns an abstract state in 64 bits: two of a million meet by chance about once in 30 million runs.
fn key(machine: &Machine, watcher: &Watcher, depth: Depth) -> u64 {
    let mut hasher = DefaultHasher::new();
    machine.rules_key(&mut hasher);
    if depth == Depth::Everything {
        machine.followers_key(&mut hasher);
        watcher.key().hash(&mut hasher);
    } else {
        machine.power.is_missing().hash(&mut hasher);
    }
    match depth {
        Depth::Rules | Depth::Firmware | Depth::Everything => {}
        Depth::Handover => (machine.handover_key(), watcher.way_key()).hash(&mut hasher),
        Depth::Diagnoses => machine.diagnoses_key(&mut hasher),
    }
    hasher.finish()
}

impl Machine {
    fn clock(&self, at: Option<Time>) -> Clock {
        match at {
            None => Clock::Stopped,
            Some(at) if at > self.now => Clock::Running,
            Some(_) => Clock::Due,
        }
    }

    fn timer(&self, timer: Timer) -> Clock {
        self.clock(self.deadline(timer))
    }

    fn rules_key(&self, hasher: &mut impl Hasher) {
        let (state, power) = (self.current.state(), &self.power);
        let start = match self.start {
            // The stored record matters to rule 6 only where nothing has overtaken it.
            Start::Undecided { stored, heard, .. } => {
                Some((stored.filter(|_| !self.current.stands()), heard, false))
            }
            Start::FoundOff { stored, .. } => {
                Some((stored.filter(|_| !self.power.stood_still() && !self.current.stands()), None, true))
            }
            Start::Decided => None,
        };
        let trusted = self.settings.evidence.post_complete_trusted;
        // The other causes are not told apart by any rule.
        let cause = match self.current.cause() {
            Cause::HostReport | Cause::HostReset | Cause::Startup => self.current.cause(),
            Cause::Restored => Cause::Startup,
            Cause::HostOff => Cause::HostOff,
            Cause::ChassisOff
            | Cause::Resumed
            | Cause::PowerOn
            | Cause::FirmwareSeen
            | Cause::BootProgress
            | Cause::PostComplete => Cause::PowerOn,
        };
        let (is_shown, _, answers, _) = self.barrier.key(state, self.current.device());
        (start, power.key(trusted, self.is_decided()), self.boot.was_off()).hash(hasher);
        (state, cause, self.boot.firmware_was_seen(), self.current.is_reported()).hash(hasher);
        (self.suspicion.key(), self.gate.is_locked(), is_shown, answers).hash(hasher);
        let edge = power.on_edge_at().filter(|_| trusted).map(|at| at + POST_COMPLETE_BOGUS);
        for at in [edge.filter(|at| *at >= self.now), power.complete_since()] {
            self.clock(at).hash(hasher);
        }
        (self.firmware.key(), self.rests(), self.power.stood_still() && start.is_some()).hash(hasher);
        for timer in [
            Timer::AckCap,
            Timer::Suspicion,
            Timer::HostOff,
            Timer::PostComplete,
            Timer::Unlock,
            Timer::Open,
            Timer::ClosedTooLong,
            Timer::FoundOff,
            Timer::MinPost,
            Timer::PostLevel,
            Timer::Early,
            Timer::DoneCode,
        ] {
            self.timer(timer).hash(hasher);
        }
        let thermal = self.deadline(Timer::Thermal).filter(|_| !self.boot.firmware_was_seen());
        self.clock(thermal).hash(hasher);
    }

    fn followers_key(&self, hasher: &mut impl Hasher) {
        let reported_s2 =
            self.current.state() == AcpiState::S2D2 && self.current.cause() == Cause::HostReport;
        let retry = self.current.last_set().filter(|_| reported_s2).map(|at| at + RESET_BETWEEN_SETS);
        let (_, device_is_shown, _, nothing_waits) =
            self.barrier.key(self.current.state(), self.current.device());
        (self.power.missing(), device_is_shown, nothing_waits).hash(hasher);
        (self.boot.has_worked(), self.zones.key(), self.orders.key()).hash(hasher);
        (self.boot.progress_is_by_others(), self.boot.is_under_way()).hash(hasher);
        let hold = self.deadline(Timer::Hold).filter(|_| self.zones.hold().is_none());
        for at in [retry, hold, self.deadline(Timer::BootHold)] {
            self.clock(at).hash(hasher);
        }
    }

    /// When it is due is told apart by whether it has begun: it is due together with the drain's cap, or before.
    fn handover_key(&self) -> impl Hash + use<> {
        (self.handover.key(), self.timer(Timer::Handover))
    }

    fn diagnoses_key(&self, hasher: &mut impl Hasher) {
        let said_off = self.current.was_set_since(self.power.since());
        for timer in [Timer::Silent, Timer::NoCpuPower, Timer::Dimms, Timer::OsNotReported] {
            self.timer(timer).hash(hasher);
        }
        (self.watch.key(), said_off).hash(hasher);
    }
}

const STATES: [AcpiState; 7] = [
    AcpiState::S0G0D0,
    AcpiState::LegacyOn,
    AcpiState::S2D2,
    AcpiState::S5G2,
    AcpiState::G3,
    AcpiState::S3D3,
    AcpiState::Unknown,
];

fn events(machine: &Machine, id: SetId, depth: Depth) -> Vec<Event> {
    let epoch = machine.epoch();
    let mut events = vec![
        Event::Chassis(None),
        Event::Chassis(Some(Chassis::Off)),
        Event::Chassis(Some(Chassis::On)),
        Event::Host(None),
        Event::Host(Some(HostState::Running)),
        Event::Host(Some(HostState::TransitioningToOff)),
        Event::Host(Some(HostState::Off)),
        Event::Host(Some(HostState::Halted)),
        Event::SetDevice { id, state: AcpiState::S0G0D0 },
        Event::Drained { epoch },
        Event::DimmsKnown { epoch },
        Event::Lapsed,
    ];
    if depth == Depth::Everything {
        events.extend([Event::GuardAlarm, Event::Progress(Stage::Oem), Event::Rival(true)]);
    }
    match depth {
        Depth::Rules | Depth::Everything => {}
        Depth::Firmware => {
            let stages = [Stage::Early, Stage::PciInit, Stage::OsStart, Stage::OsRunning];
            let codes = [PostCode::Byte(0x10), PostCode::Byte(0xaa), PostCode::AtWork, PostCode::Other];
            events.extend(stages.map(Event::Progress));
            events.extend(codes.map(Event::PostCode));
            events.push(Event::ForcedReset);
        }
        Depth::Handover => {
            events.extend([Event::Quiesced { epoch }, Event::MuxAtHost { epoch }, Event::MuxAtBmc { epoch }]);
        }
        Depth::Diagnoses => events.extend([
            Event::PostCode(PostCode::Other),
            Event::CpuPower(CpuPower::Low),
            Event::CpuPower(CpuPower::Unknown),
            Event::Dimms { epoch, answering: 1, required_silent: false },
            Event::Dimms { epoch, answering: 2, required_silent: false },
            Event::Dimms { epoch, answering: 2, required_silent: true },
            Event::DimmsPresent(Some(1)),
            Event::BusStuck(true),
            Event::Strangers(true),
            Event::Strangers(false),
        ]),
    }
    if machine.settings.evidence.post_complete_trusted {
        events.extend([None, Some(Os::Inactive), Some(Os::Complete)].map(Event::Os));
    }
    events.extend(STATES.map(|state| Event::Set { id, state }));
    events
}

fn beginnings() -> Vec<Option<Stored>> {
    let stored = |state: AcpiState, reset_suspected, same_bmc_boot: bool| {
        let good_dimms = Some(DimmCount { answering: 2, present: Some(2) });
        let word = same_bmc_boot.then_some(if state.is_working() { Phase::Done } else { Phase::AtWork });
        let word = word.map(|phase| FirmwareWord { phase, source: Source::Report });
        Some(Stored {
            reset_suspected,
            same_bmc_boot,
            good_dimms,
            firmware: FirmwareRecord { word, ..FirmwareRecord::default() },
            complete_seen: true,
            signs_seen: true,
            ..Stored::new(state)
        })
    };
    vec![
        None,
        stored(AcpiState::S0G0D0, false, true),
        stored(AcpiState::LegacyOn, false, false),
        stored(AcpiState::S0G0D0, true, true),
        stored(AcpiState::S2D2, false, true),
        stored(AcpiState::G3, false, true),
        stored(AcpiState::S3D3, false, true),
        stored(AcpiState::Unknown, true, false),
    ]
}

struct Node {
    machine: Machine,
    watcher: Watcher,
    /// Where it came from, for the story of a failure.
    from: Option<usize>,
    by: (Time, Event),
}

/// The way to a node, event by event.
fn story(nodes: &[(Option<usize>, (Time, Event))], mut at: Option<usize>) -> String {
    let mut lines = Vec::new();
    while let Some((from, (time, event))) = at.and_then(|at| nodes.get(at)) {
        lines.push(format!("{time}  {event:?}"));
        at = *from;
    }
    lines.reverse();
    lines.join("\n")
}

/// States of the deeper searches in a run of every change: the nearest ones, breadth first. The night's run has no bound.
const AT_FIRST: usize = 250_000;

fn full() -> bool {
    std::env::var_os("ACPI_FULL").is_some()
}

struct Counts {
    states: usize,
    transitions: usize,
    said: Said,
}

fn explore(evidence: config::Evidence, depth: Depth) -> Counts {
    let both = depth == Depth::Everything && full();
    let mut settings = config::Host { evidence, has_dimms: true, ..config::Host::new(0) };
    settings.write_boot_progress = depth == Depth::Everything;
    if depth == Depth::Firmware {
        settings.post_codes = config::PostCodes { began: vec![0x10], done: vec![0xaa] };
    }
    if depth == Depth::Handover {
        settings.spd_mux = Some(config::SpdMux { line: "SPD_MUX_SEL".to_owned(), host_level: true });
        settings.quiesce = vec!["other.service".to_owned()];
    }
    let mut known = HashSet::new();
    let mut ways: Vec<(Option<usize>, (Time, Event))> = Vec::new();
    let mut queue = VecDeque::new();
    let mut counts = Counts { states: 0, transitions: 0, said: 0 };
    for stored in beginnings() {
        let machine = Machine::new(Time::ZERO, settings.clone(), stored);
        let watcher = Watcher::new(&machine, stored);
        known.insert(key(&machine, &watcher, depth));
        queue.push_back(Node { machine, watcher, from: None, by: (Time::ZERO, Event::Tick) });
    }
    let most = if full() || depth == Depth::Rules { usize::MAX } else { AT_FIRST };
    while let Some(mut node) = queue.pop_front().filter(|_| counts.states < most) {
        counts.states += 1;
        let index = ways.len();
        ways.push((node.from, node.by));
        let fail = |broken: Broken, last: (Time, Event)| -> ! {
            panic!("{broken}\nthe way there:\n{}\n{}  {:?}", story(&ways, Some(index)), last.0, last.1)
        };
        let now = node.machine.now;
        match node.watcher.check_still(&node.machine) {
            Ok(said) => counts.said |= said,
            Err(broken) => fail(broken, (now, Event::Tick)),
        }
        let wake = node.machine.wake_at();
        let early = wake.map_or(now + Duration::from_secs(3600), |at| at - Duration::from_micros(1));
        // An event at `wake_at` itself has the effect that it has on the state that a tick then leads to.
        let mut steps = vec![(early, Event::Tick)];
        steps.extend(wake.map(|at| (at, Event::Tick)));
        for (turn, event) in events(&node.machine, node.watcher.next_id(), depth).into_iter().enumerate() {
            steps.extend((both || (turn + index).is_multiple_of(2)).then_some((now, event)));
            steps.extend((both || !(turn + index).is_multiple_of(2)).then_some((early, event)));
        }
        for (at, event) in steps {
            counts.transitions += 1;
            let (mut machine, mut watcher) = (node.machine.clone(), node.watcher.clone());
            match watcher.step(&mut machine, at, event) {
                Ok(said) => counts.said |= said,
                Err(broken) => fail(broken, (at, event)),
            }
            let reached = key(&machine, &watcher, depth);
            if known.insert(reached) {
                // `advance` marks a second time only if something was due.
                let mut again = machine.clone();
                again.mark();
                assert_eq!(key(&again, &watcher, depth), reached, "a second mark: {machine:?} {again:?}");
                machine.boot.forget_history(machine.now);
                watcher.forget_history(&machine);
                queue.push_back(Node { machine, watcher, from: Some(index), by: (at, event) });
            }
        }
    }
    counts
}

fn evidence(bits: u8) -> config::Evidence {
    config::Evidence {
        post_complete_trusted: bits & 1 != 0,
        s0_from_post_complete: bits & 2 != 0,
        s2_from_power_on: bits & 4 != 0,
        host_off_is_off: bits & 8 != 0,
        boot_progress: true,
        done_from: if bits & 4 == 0 { config::DoneFrom::OsStart } else { config::DoneFrom::OsRunning },
    }
}

#[allow(clippy::disallowed_macros, reason = "a test says how much it has seen")]
fn run(bits: u8, depth: Depth) {
    let counts = explore(evidence(bits), depth);
    println!("{:?}, {depth:?}: {} states, {} transitions", evidence(bits), counts.states, counts.transitions);
    let mute = |i: &&Invariant| counts.said & (1 << **i as u64) == 0;
    // Boot progress is written at one depth only, there is a way for the bus at another, and words at a third. Without these
    // and without POST status S2 is never the state of firmware that is done.
    let elsewhere = |i: &&Invariant| {
        (**i != Invariant::Handover || depth == Depth::Handover)
            && (**i != Invariant::Progress || depth == Depth::Everything)
            && (**i != Invariant::Words || depth == Depth::Firmware)
            && (**i != Invariant::OsNotReported
                || depth == Depth::Firmware
                || evidence(bits).post_complete_trusted)
    };
    let mute: Vec<_> = Invariant::ALL.iter().filter(mute).filter(elsewhere).map(|i| i.name()).collect();
    assert!(mute.is_empty(), "nothing was ever checked of {mute:?}");
}

macro_rules! options {
    ($($name:ident $bits:literal,)*) => { $(#[test] fn $name() { run($bits, Depth::Rules); })* };
}

options! {
    untrusted 0,
    trusted 1,
    s0_untrusted 2,
    s0 3,
    s2_untrusted 4,
    s2_trusted 5,
    s2_s0_untrusted 6,
    s2_s0 7,
    off_untrusted 8,
    off_trusted 9,
    off_s0_untrusted 10,
    off_s0 11,
    off_s2_untrusted 12,
    off_s2_trusted 13,
    off_s2_s0_untrusted 14,
    off_s2_s0 15,
}

#[test]
fn everything_untrusted() {
    run(0, Depth::Everything);
}

#[test]
fn everything_untrusted_all_options() {
    run(12, Depth::Everything);
}

#[test]
fn firmware_untrusted() {
    run(0, Depth::Firmware);
}

#[test]
fn firmware_s2_untrusted() {
    run(4, Depth::Firmware);
}

#[test]
fn handover_untrusted() {
    run(0, Depth::Handover);
}

#[test]
fn handover_all_options() {
    run(15, Depth::Handover);
}

#[test]
fn diagnoses_untrusted() {
    run(0, Depth::Diagnoses);
}
