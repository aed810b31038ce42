// SPDX-License-Identifier: Apache-2.0
//! No deadline is forgotten: each that acts is in the timer table, and the table is what wakes the daemon.

use std::{collections::BTreeMap, fs, path::Path};

use super::super::*;
use crate::logic::{
    diagnosis::CpuPower,
    evidence::{Os, PostCode},
    time::track,
};

/// The sources of the machine and of what follows from it, by name.
#[allow(clippy::disallowed_methods, reason = "this test reads sources")]
fn sources() -> BTreeMap<String, String> {
    let logic = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/logic");
    let parts = fs::read_dir(logic.join("machine")).unwrap().map(|entry| entry.unwrap().path());
    let files =
        parts.filter(|path| path.is_file()).chain([logic.join("machine.rs"), logic.join("policy.rs")]);
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

/// Every line that compares a time with the present, or measures how long ago it is, as far as the present goes by its name. In the first block are the two ways in
/// which a deadline of the table acts, and the one in which it wakes; in the second, how old something is at an event, where
/// nothing happens by itself when it grows older.
const COMPARISONS: &[(&str, &str)] = &[
    ("deadlines.rs", "self.deadline(timer).is_some_and(|at| at <= self.now)"),
    ("deadlines.rs", "self.deadline(timer).is_some_and(|at| at > self.now)"),
    ("deadlines.rs", "deadlines.filter(|at| *at > self.now).min()"),
    //
    ("machine.rs", "let retry = last_set.is_some_and(|last| self.now.since(last) < RESET_BETWEEN_SETS);"),
    ("firmware.rs", "now.since(at) <= within"),
    ("power.rs", "self.worth.post_complete_trusted && now.since(at) <= POST_COMPLETE_BOGUS;"),
    ("words.rs", "let soon = self.suspicion.since().is_some_and(|since| self.now.since(since) <= confirm);"),
    ("policy.rs", "let seconds = |since: Time| machine.now().since(since).as_secs().to_string();"),
];

#[test]
fn a_deadline_acts_through_the_table_only() {
    let compares = |line: &&str| {
        let present = ["self.now", "now()", " now "].iter().any(|word| line.contains(word));
        let measures = line.contains("now.since(") || line.contains("now().since(");
        let compared = ["<", ">", "<=", ">=", "==", "max(", "min("];
        measures || (present && line.split(' ').any(|word| compared.iter().any(|by| word.starts_with(by))))
    };
    let sources = sources();
    let mut found = Vec::new();
    for (name, source) in &sources {
        let lines = source.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        found.extend(lines.filter(compares).map(|line| (name.as_str(), line)));
    }
    let mut expected = COMPARISONS.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// A timer that nothing asks for would wake the daemon for nothing.
#[test]
fn each_timer_acts() {
    let sources = sources();
    for timer in Timer::ALL {
        let asks = |source: &String| {
            ["due", "runs"].iter().any(|ask| source.contains(&format!("{ask}(Timer::{timer:?})")))
        };
        let asked = ["machine.rs", "questions.rs", "decision.rs", "words.rs", "policy.rs"]
            .iter()
            .filter_map(|name| sources.get(*name))
            .any(asks);
        assert!(asked, "{timer:?} is in the table, and nothing asks whether it is due");
    }
}

/// Each of them in turn is the next thing to happen, and then it is due: so each of them wakes the daemon.
#[test]
fn each_timer_wakes_and_is_then_due() {
    let mut settings = config::Host { has_dimms: true, ..config::Host::new(0) };
    settings.evidence.post_complete_trusted = true;
    settings.evidence.s0_from_post_complete = true;
    settings.post_codes.done = vec![0xaa];
    settings.evidence.host_off_is_off = true;
    settings.quiesce = vec!["other.service".to_owned()];
    let mut seen: Vec<Timer> = Vec::new();
    let boot =
        |to: u64| vec![(0, Event::Chassis(Some(Chassis::On))), (to, Event::Host(Some(HostState::Running)))];
    let power_on = || {
        vec![
            (0, Event::Chassis(Some(Chassis::Off))),
            (0, Event::Host(Some(HostState::Off))),
            (5, Event::Host(Some(HostState::Running))),
            (5, Event::Chassis(Some(Chassis::On))),
        ]
    };
    let set = |state| Event::Set { id: SetId(1), state };
    let stored = Stored::new(AcpiState::S0G0D0);
    let ways = vec![
        (None, vec![]),
        (Some(stored), boot(0)),
        (None, [boot(0), vec![(1, set(AcpiState::S2D2))]].concat()),
        (
            None,
            [
                boot(0),
                vec![
                    (0, set(AcpiState::S2D2)),
                    (0, Event::Os(Some(Os::Inactive))),
                    (1, Event::Os(Some(Os::Complete))),
                ],
            ]
            .concat(),
        ),
        (None, [boot(0), vec![(0, Event::Os(Some(Os::Inactive)))]].concat()),
        (
            None,
            [boot(0), vec![(0, set(AcpiState::S2D2)), (5, Event::PostCode(PostCode::Byte(0xaa)))]].concat(),
        ),
        (None, vec![(0, Event::Chassis(Some(Chassis::Off)))]),
        (None, [power_on(), vec![(6, set(AcpiState::S0G0D0))]].concat()),
        (Some(Stored { signs_seen: true, ..stored }), power_on()),
        (None, [boot(0), vec![(0, set(AcpiState::S0G0D0)), (9, Event::CpuPower(CpuPower::Low))]].concat()),
        (None, [boot(0), vec![(9, Event::Host(Some(HostState::Off)))]].concat()),
        (
            None,
            [
                boot(0),
                vec![(9, Event::Host(Some(HostState::Off))), (10, Event::Host(Some(HostState::Running)))],
            ]
            .concat(),
        ),
        (
            None,
            [
                boot(0),
                vec![
                    (9, Event::Found(Found::Chassis(Chassis::Off))),
                    (9, Event::Found(Found::Chassis(Chassis::On))),
                ],
            ]
            .concat(),
        ),
    ];
    for (stored, way) in ways {
        let mut machine = Machine::new(Time::ZERO, settings.clone(), stored);
        for (second, event) in way {
            drop(machine.step(Time::from_micros(second * 1_000_000), event));
        }
        while let Some(at) = machine.wake_at() {
            let next: Vec<_> =
                Timer::ALL.iter().filter(|timer| machine.deadline(**timer) == Some(at)).collect();
            assert!(next.iter().all(|timer| machine.runs(**timer) && !machine.due(**timer)));
            seen.extend(next);
            drop(machine.step(at, Event::Tick));
            assert!(machine.wake_at().is_none_or(|next| next > at));
        }
    }
    for timer in Timer::ALL {
        assert!(seen.contains(timer), "{timer:?} has woken nobody");
    }
}

#[test]
fn tracking_keeps_the_first_moment() {
    let mut at = None;
    track(&mut at, true, Time::from_micros(3));
    track(&mut at, true, Time::from_micros(5));
    assert_eq!(at, Some(Time::from_micros(3)));
    track(&mut at, false, Time::from_micros(7));
    assert_eq!(at, None);
}
