// SPDX-License-Identifier: Apache-2.0
//! Long random lives of a host: the same invariants as `reachability.rs`, at other times, in longer stories, with
//! every set of options, with and without DIMMs, with short and odd times.

use proptest::prelude::*;

use super::super::*;
use super::invariants::{Broken, Watcher};
use crate::logic::{
    diagnosis::{CpuPower, DimmCount},
    event::Epoch,
    evidence::{Os, PostCode, Stage},
};

/// The next act in a life.
#[derive(Clone, Debug)]
enum Act {
    /// Events in a row, so many milliseconds apart.
    Story(Vec<(u64, What)>),
    /// Time passes up to the next deadline, and so many microseconds more or less.
    ToWake(i64),
    /// So many milliseconds pass.
    Pass(u64),
    /// The daemon wakes up so many milliseconds after it should have.
    Late(u64),
}

/// An event, without what only the machine knows.
#[derive(Clone, Copy, Debug)]
enum What {
    Is(Event),
    Set(AcpiState),
    SetDevice(AcpiState),
    Drained,
    DimmsKnown,
    Dimms(u16, bool),
    Quiesced,
    MuxAtHost,
    MuxAtBmc,
    Old,
}

fn event() -> impl Strategy<Value = What> {
    let chassis = prop_oneof![Just(None), Just(Some(Chassis::Off)), Just(Some(Chassis::On))];
    let hosts = [HostState::Running, HostState::TransitioningToOff, HostState::Off, HostState::Halted];
    let host = prop_oneof![1 => Just(None), 8 => prop::sample::select(hosts.to_vec()).prop_map(Some)];
    let found = prop_oneof![
        prop::sample::select(vec![Chassis::Off, Chassis::On, Chassis::On]).prop_map(Found::Chassis),
        prop::sample::select(hosts.to_vec()).prop_map(Found::Host),
        prop::sample::select(vec![Os::Inactive, Os::Complete]).prop_map(Found::Os),
    ];
    let os = prop_oneof![1 => Just(None), 4 => Just(Some(Os::Inactive)), 6 => Just(Some(Os::Complete))];
    let states = prop_oneof![
        3 => Just(AcpiState::S0G0D0),
        3 => Just(AcpiState::S2D2),
        2 => Just(AcpiState::S5G2),
        2 => prop::sample::select(AcpiState::ALL.to_vec()),
    ];
    prop_oneof![
        4 => chassis.prop_map(|value| What::Is(Event::Chassis(value))),
        6 => host.prop_map(|value| What::Is(Event::Host(value))),
        3 => os.prop_map(|value| What::Is(Event::Os(value))),
        8 => states.clone().prop_map(What::Set),
        1 => states.prop_map(What::SetDevice),
        3 => Just(What::Drained),
        3 => Just(What::DimmsKnown),
        1 => Just(What::Old),
        1 => Just(What::Is(Event::GuardAlarm)),
        3 => prop::sample::select(STAGES.to_vec()).prop_map(|stage| What::Is(Event::Progress(stage))),
        2 => prop::sample::select(CODES.to_vec()).prop_map(|code| What::Is(Event::PostCode(code))),
        1 => Just(What::Is(Event::ForcedReset)),
        1 => Just(What::Is(Event::Lapsed)),
        2 => prop::sample::select(vec![CpuPower::Low, CpuPower::Good, CpuPower::Unknown])
            .prop_map(|power| What::Is(Event::CpuPower(power))),
        1 => any::<bool>().prop_map(|holds| What::Is(Event::BusStuck(holds))),
        1 => any::<bool>().prop_map(|holds| What::Is(Event::UnguardedBus(holds))),
        1 => any::<bool>().prop_map(|holds| What::Is(Event::FailsafeConfig(holds))),
        2 => (0_u16..4, any::<bool>()).prop_map(|(answering, silent)| What::Dimms(answering, silent)),
        1 => prop::option::of(0_u16..4).prop_map(|count| What::Is(Event::DimmsPresent(count))),
        2 => Just(What::Quiesced),
        2 => Just(What::MuxAtHost),
        2 => Just(What::MuxAtBmc),
        1 => any::<bool>().prop_map(|there| What::Is(Event::Rival(there))),
        1 => any::<bool>().prop_map(|holds| What::Is(Event::BusSilent(holds))),
        1 => any::<bool>().prop_map(|there| What::Is(Event::Strangers(there))),
        4 => found.prop_map(|found| What::Is(Event::Found(found))),
    ]
}

/// The sequences of openbmc 2.2, and what firmware says in them.
fn story() -> impl Strategy<Value = Vec<(u64, What)>> {
    let chassis = |value| What::Is(Event::Chassis(Some(value)));
    let host = |value| What::Is(Event::Host(Some(value)));
    let os = |value| What::Is(Event::Os(Some(value)));
    let (s0, s2, s5) = (AcpiState::S0G0D0, AcpiState::S2D2, AcpiState::S5G2);
    let stories = vec![
        // Power on, each kind of firmware.
        vec![
            (0, host(HostState::Running)),
            (0, chassis(Chassis::On)),
            (7000, What::Set(s2)),
            (50_000, What::Set(s0)),
        ],
        vec![(0, chassis(Chassis::On)), (900, host(HostState::Running)), (30_000, What::Set(s0))],
        vec![(0, host(HostState::Running)), (0, chassis(Chassis::On)), (40_000, os(Os::Complete))],
        // Off: reported, not reported, with the blip, forced, chassis first.
        vec![
            (0, What::Set(s5)),
            (900, os(Os::Inactive)),
            (2000, host(HostState::Off)),
            (0, chassis(Chassis::Off)),
        ],
        vec![
            (0, host(HostState::Off)),
            (500, host(HostState::Running)),
            (100, host(HostState::Off)),
            (900, chassis(Chassis::Off)),
        ],
        vec![(0, host(HostState::Off)), (15_000, chassis(Chassis::Off))],
        vec![(0, chassis(Chassis::Off)), (200, host(HostState::Off))],
        // Warm reset.
        vec![
            (0, host(HostState::Off)),
            (0, os(Os::Inactive)),
            (500, host(HostState::Running)),
            (3000, What::Set(s2)),
        ],
        vec![(0, host(HostState::Off)), (500, host(HostState::Running)), (9000, os(Os::Complete))],
        // A retry, and the drain.
        vec![(0, What::Set(s2)), (100, What::Set(s2)), (100, What::Drained)],
        vec![(10_000, What::DimmsKnown)],
        // The whole way to the host, and back; and what the DIMMs say after it.
        vec![(1, What::Drained), (30, What::Quiesced), (2, What::MuxAtHost)],
        vec![(10_000, What::MuxAtBmc), (3000, What::Dimms(2, false)), (0, What::DimmsKnown)],
        vec![
            (0, What::Is(Event::CpuPower(CpuPower::Low))),
            (60_000, What::Is(Event::PostCode(PostCode::Other))),
        ],
        // Power control restarts.
        vec![
            (0, What::Is(Event::Chassis(None))),
            (0, What::Is(Event::Host(None))),
            (3000, chassis(Chassis::On)),
            (0, host(HostState::Running)),
        ],
    ];
    prop::sample::select(stories)
}

const STAGES: [Stage; 6] =
    [Stage::Oem, Stage::Early, Stage::PciInit, Stage::SystemInitComplete, Stage::OsStart, Stage::OsRunning];
const CODES: [PostCode; 5] =
    [PostCode::Byte(0x10), PostCode::Byte(0xaa), PostCode::Byte(0x55), PostCode::AtWork, PostCode::Other];

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => event().prop_map(|what| Act::Story(vec![(0, what)])),
        3 => story().prop_map(Act::Story),
        4 => (-2_i64..3).prop_map(Act::ToWake),
        2 => (0_u64..30_000).prop_map(Act::Pass),
        1 => (0_u64..4_000_000).prop_map(Act::Late),
    ]
}

fn settings() -> impl Strategy<Value = config::Host> {
    let odd = config::Timing {
        ack_cap: Duration::from_secs(3),
        settle: Duration::from_millis(1),
        min_post: Duration::from_secs(3),
        reset_confirm: Duration::from_secs(30),
        host_off: Duration::from_secs(2),
        deadline: Duration::from_secs(5),
        restore_settle: Duration::from_secs(4),
        thermal_grace: Duration::from_millis(100),
        hold_after: Duration::from_secs(7),
        max_resets: 2,
        silent_after: Duration::from_secs(3),
    };
    let timing = prop_oneof![4 => Just(config::Timing::default()), 1 => Just(odd)];
    (any::<[bool; 10]>(), timing).prop_map(
        |([trusted, s0, s2, off, has_dimms, mux, units, progress, believed, from_start], timing)| {
            config::Host {
                spd_mux: mux.then(|| config::SpdMux { line: "SPD_MUX_SEL".to_owned(), host_level: true }),
                quiesce: if units { vec!["other.service".to_owned()] } else { Vec::new() },
                evidence: config::Evidence {
                    post_complete_trusted: trusted,
                    s0_from_post_complete: s0,
                    s2_from_power_on: s2,
                    host_off_is_off: off,
                    boot_progress: believed,
                    done_from: if from_start {
                        config::DoneFrom::OsStart
                    } else {
                        config::DoneFrom::OsRunning
                    },
                },
                post_codes: config::PostCodes { began: vec![0x10], done: vec![0xaa] },
                timing,
                has_dimms,
                write_boot_progress: progress,
                ..config::Host::new(0)
            }
        },
    )
}

fn stored() -> impl Strategy<Value = Option<Stored>> {
    let state = prop::sample::select(AcpiState::ALL.to_vec());
    let good = prop::option::of((0_u16..4, prop::option::of(0_u16..4)))
        .prop_map(|good| good.map(|(answering, present)| DimmCount { answering, present }));
    let word = prop::option::of(
        (prop::sample::select(Phase::ALL.to_vec()), prop::sample::select(Source::ALL.to_vec()))
            .prop_map(|(phase, source)| FirmwareWord { phase, source }),
    );
    let post = prop::sample::select(vec![None, Some(Os::Inactive), Some(Os::Complete)]);
    // The daemon's clock counts from the boot of the BMC, and may have run for a while.
    let ran_from = prop::option::of(0_u64..90_000);
    prop::option::of((state, any::<[bool; 8]>(), word, post, ran_from, good).prop_map(
        |(state, flags, word, post, ran_from, good_dimms)| {
            let [same_bmc_boot, suspected, requested, off, reported, early, complete_seen, signs_seen] =
                flags;
            Stored {
                reset_suspected: suspected,
                reset_requested: suspected && requested,
                firmware: FirmwareRecord {
                    word,
                    ran_from: ran_from.map(|millis| Time::ZERO + Duration::from_millis(millis)),
                    early: early && state.is_working(),
                },
                same_bmc_boot,
                off,
                reported,
                post,
                complete_seen,
                signs_seen,
                good_dimms,
                ..Stored::new(state)
            }
        },
    ))
}

/// Plays the life of one host; the first broken invariant ends it.
fn live(settings: config::Host, stored: Option<Stored>, acts: &[Act]) -> Result<(), Broken> {
    let mut machine = Machine::new(Time::from_micros(60_000_000), settings, stored);
    let mut watcher = Watcher::new(&machine, stored);
    let mut steps = Vec::new();
    for act in acts {
        let now = machine.now;
        match act {
            Act::Story(story) => {
                let mut at = now;
                for (after, what) in story {
                    at = at + Duration::from_millis(*after);
                    steps.push((at, Some(*what)));
                }
            }
            Act::ToWake(micros) => {
                let wake = machine.wake_at().unwrap_or(now);
                let by = Duration::from_micros(micros.unsigned_abs());
                steps.push((if *micros < 0 { wake - by } else { wake + by }, None));
            }
            Act::Pass(millis) => steps.push((now + Duration::from_millis(*millis), None)),
            Act::Late(millis) => {
                let at = machine.wake_at().unwrap_or(now) + Duration::from_millis(*millis);
                let (mut one, mut two) = (machine.clone(), machine.clone());
                // An event that finds something due does what a tick and then the event do.
                let id = watcher.next_id();
                let event = Event::Set { id, state: AcpiState::S2D2 };
                let mut apart: Vec<_> = one.step(at, Event::Tick).into_iter().collect();
                apart.extend(one.step(at, event));
                let together: Vec<_> = two.step(at, event).into_iter().collect();
                if apart != together || format!("{one:?}") != format!("{two:?}") {
                    return Err(format!("due things and an event together: {apart:?} {together:?}"));
                }
                watcher.step(&mut machine, at, Event::Tick)?;
            }
        }
        for (at, what) in steps.drain(..) {
            // On the way there the daemon wakes up whenever the machine asks for it.
            let mut wakes = 0;
            while let Some(wake) = machine.wake_at().filter(|wake| *wake < at) {
                watcher.step(&mut machine, wake, Event::Tick)?;
                wakes += 1;
                if wakes > 1000 {
                    return Err("no end of wake-ups".into());
                }
            }
            let id = watcher.next_id();
            let epoch = machine.epoch();
            let event = match what {
                None => Event::Tick,
                Some(What::Is(event)) => event,
                Some(What::Set(state)) => Event::Set { id, state },
                Some(What::SetDevice(state)) => Event::SetDevice { id, state },
                Some(What::Drained) => Event::Drained { epoch },
                Some(What::DimmsKnown) => Event::DimmsKnown { epoch },
                Some(What::Dimms(answering, required_silent)) => {
                    Event::Dimms { epoch, answering, required_silent }
                }
                Some(What::Quiesced) => Event::Quiesced { epoch },
                Some(What::MuxAtHost) => Event::MuxAtHost { epoch },
                Some(What::MuxAtBmc) => Event::MuxAtBmc { epoch },
                Some(What::Old) => Event::Drained { epoch: Epoch(epoch.0.wrapping_sub(1)) },
            };
            let at = at.max(machine.now);
            watcher.step(&mut machine, at, event)?;
            // `advance` marks a second time only if something was due.
            let mut again = machine.clone();
            again.mark();
            if format!("{again:?}") != format!("{machine:?}") {
                return Err(format!("a second mark: {machine:?} {again:?}"));
            }
        }
        watcher.check_still(&machine)?;
    }
    Ok(())
}

/// Of a run; the night's takes its time.
fn cases() -> u32 {
    if std::env::var_os("ACPI_FULL").is_some() { 20_000 } else { 1500 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_invariant_holds_in_long_random_lives(
        settings in settings(),
        stored in stored(),
        acts in prop::collection::vec(act(), 1..150),
    ) {
        if let Err(broken) = live(settings, stored, &acts) {
            return Err(TestCaseError::fail(broken));
        }
    }
}
