// SPDX-License-Identifier: Apache-2.0
//! Plays `tests/scenarios/*.trace` against the machine, and keeps `docs/scenarios.md` in step with them.
//!
//! The expected values are written by hand from rules 3.1 and 3.2 and `docs/decisions/0002`, never
//! recorded from the code. How to read and write a trace is said in `tests/scenarios/README.md`.
//! `UPDATE_DOCS=1 cargo test --test it scenarios::` writes the document, an index; without it an outdated one fails.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use crate::support::trace::{Scenario, all};
use acpi_stated::logic::{
    acpi::AcpiState,
    diagnosis::{CpuPower, Diagnosis},
    effect::{BootStage, Effect, Target, UnitOrder},
    event::{Event, SetId},
    evidence::{Chassis, Found, HostState, Os, PostCode, STAGES, Stage},
    history::Transition,
    machine::Machine,
    policy::{self, FanDemand, FanLevel, SensorMode},
    time::Time,
};

/// What a row's event tells the machine; `busy` tells it nothing.
#[allow(clippy::too_many_lines, reason = "one event after another")]
fn event(text: &str, id: SetId, machine: &Machine) -> Option<Event> {
    let member = |kind: &str, value: &str| format!("xyz.openbmc_project.State.{kind}.{value}");
    let words: Vec<_> = text.split(' ').collect();
    let known = |ok: bool| ok.then_some(()).expect("a value of the interface, or `nonsense`");
    Some(match words[..] {
        ["busy"] => return None,
        ["chassis", value] => {
            let read = Chassis::from_dbus(&member("Chassis.PowerState", value));
            known(read.is_some() || value == "nonsense");
            Event::Chassis(read)
        }
        ["host", value] => {
            let read = HostState::from_dbus(&member("Host.HostState", value));
            known(read.is_some() || value == "nonsense");
            Event::Host(read)
        }
        ["os", value] => Event::Os(Os::from_dbus(&member("OperatingSystem.Status.OSStatus", value))),
        ["found", "chassis", value] => {
            let read = Chassis::from_dbus(&member("Chassis.PowerState", value));
            Event::Found(Found::Chassis(read.expect("a value of the interface")))
        }
        ["found", "host", value] => {
            let read = HostState::from_dbus(&member("Host.HostState", value));
            Event::Found(Found::Host(read.expect("a value of the interface")))
        }
        ["found", "os", value] => {
            let read = Os::from_dbus(&member("OperatingSystem.Status.OSStatus", value));
            Event::Found(Found::Os(read.expect("a value of the interface")))
        }
        ["strangers", there] => Event::Strangers(there.parse().expect("true or false")),
        ["bus-silent", there] => Event::BusSilent(there.parse().expect("true or false")),
        ["gone", "chassis"] => Event::Chassis(None),
        ["gone", "host"] => Event::Host(None),
        ["gone", "os"] => Event::Os(None),
        ["set", state] => Event::Set { id, state: AcpiState::from_name(state).expect("a state") },
        ["set-device", state] => {
            Event::SetDevice { id, state: AcpiState::from_name(state).expect("a state") }
        }
        ["dimms", count] => Event::Dimms {
            epoch: machine.epoch(),
            answering: count.parse().expect("a number"),
            required_silent: false,
        },
        ["dimms", count, "required-silent"] => Event::Dimms {
            epoch: machine.epoch(),
            answering: count.parse().expect("a number"),
            required_silent: true,
        },
        ["dimms-present", "unknown"] => Event::DimmsPresent(None),
        ["dimms-present", count] => Event::DimmsPresent(Some(count.parse().expect("a number"))),
        ["quiesced"] => Event::Quiesced { epoch: machine.epoch() },
        ["mux-at-host"] => Event::MuxAtHost { epoch: machine.epoch() },
        ["mux-at-bmc"] => Event::MuxAtBmc { epoch: machine.epoch() },
        ["cpu", watts] => Event::CpuPower(CpuPower::of(watts.parse().expect("watts"))),
        ["bus-stuck"] => Event::BusStuck(true),
        ["bus-free"] => Event::BusStuck(false),
        ["unguarded-bus", there] => Event::UnguardedBus(there.parse().expect("true or false")),
        ["failsafe-config", there] => Event::FailsafeConfig(there.parse().expect("true or false")),
        ["drained"] => Event::Drained { epoch: machine.epoch() },
        ["dimms-known"] => Event::DimmsKnown { epoch: machine.epoch() },
        ["guard-alarm"] => Event::GuardAlarm,
        ["request", "ForceWarmReboot"] => Event::ForcedReset,
        ["progress", stage] => {
            Event::Progress(Stage::from_dbus(&format!("{STAGES}{stage}")).expect("a stage but Unspecified"))
        }
        ["code", ref bytes @ ..] => {
            let bytes = bytes.iter().map(|byte| u8::from_str_radix(byte, 16).expect("a byte"));
            Event::PostCode(PostCode::from_bytes(&bytes.collect::<Vec<_>>()))
        }
        ["rival", "appears"] => Event::Rival(true),
        ["rival", "gone"] => Event::Rival(false),
        ["lapsed"] => Event::Lapsed,
        ["tick"] => Event::Tick,
        _ => panic!("no such event: {text}"),
    })
}

// ---- Playing ---------------------------------------------------------------------------------------

/// The machine and what a world around it would see.
struct Bench {
    machine: Machine,
    busy: bool,
    /// What Get returns: state, device.
    got: (AcpiState, AcpiState),
    /// Sets without an answer, and the value of `SysACPIStatus` each wants.
    waiting: Vec<SetId>,
    last_id: u32,
    boots: u32,
    in_boot: bool,
    repeats: Option<Transition>,
    /// Changes of the state that were not told yet.
    untold: usize,
    diagnoses: Vec<Diagnosis>,
}

/// What one row brought about.
#[derive(Default)]
struct Seen {
    units: Vec<String>,
    progress: Vec<String>,
    also: BTreeMap<u8, String>,
    handover: Vec<String>,
}

impl Bench {
    fn new(scenario: &Scenario) -> Self {
        let machine = Machine::new(Time::ZERO, scenario.settings.clone(), scenario.stored);
        Self {
            busy: false,
            got: (machine.state(), machine.device()),
            machine,
            waiting: Vec::new(),
            last_id: 0,
            boots: 0,
            in_boot: false,
            repeats: None,
            untold: 0,
            diagnoses: Vec::new(),
        }
    }

    /// Plays one row, and returns its columns from `state` on.
    fn play(&mut self, at: Time, text: &str) -> Vec<String> {
        let mut seen = Seen::default();
        let waited = self.waiting.clone();
        let next = SetId(self.last_id + 1);
        let event = event(text, next, &self.machine);
        if matches!(event, Some(Event::Set { .. } | Event::SetDevice { .. })) {
            self.last_id += 1;
            self.waiting.push(next);
        }
        self.busy = text == "busy" || (self.busy && text != "drained");
        let state_before = self.machine.state();
        let mut transitions = Vec::new();
        if let Some(event) = event {
            self.step(at, event, &mut seen, &mut transitions);
        }
        if !self.busy && self.machine.wants_drained() {
            let epoch = self.machine.epoch();
            self.step(at, Event::Drained { epoch }, &mut seen, &mut transitions);
        }

        let answered = waited.iter().filter(|id| !self.waiting.contains(id)).count();
        if answered > 0 {
            seen.also.insert(1, format!("answers {answered}"));
        }
        if self.waiting.contains(&next) {
            seen.also.insert(0, "waits".into());
        }
        // Every change of the state is a transition, told at the end of the drain, and nothing else is one but
        // rule 5 in S2.
        self.untold += usize::from(self.machine.state() != state_before);
        let (again, changes): (Vec<Transition>, Vec<Transition>) =
            transitions.iter().partition(|t| t.from == t.to);
        self.untold = self.untold.checked_sub(changes.len()).expect("a transition is a change");
        if !again.is_empty() {
            seen.also.insert(4, "again".into());
        }
        self.notice(&mut seen);
        if !self.machine.is_draining() {
            assert_eq!(self.got.0, self.machine.state(), "what Get returns");
            assert_eq!(self.waiting, [], "Sets without an answer");
            assert_eq!(self.untold, 0, "changes that are no transition");
        }
        self.print(&seen)
    }

    fn step(&mut self, at: Time, event: Event, seen: &mut Seen, transitions: &mut Vec<Transition>) {
        let draining = self.machine.is_draining();
        for effect in self.machine.step(at, event) {
            match effect {
                Effect::Publish { state, device } => {
                    assert_ne!((state, device), (None, None), "an empty signal");
                    assert_ne!(state, Some(self.got.0), "a signal without a change");
                    assert_ne!(device, Some(self.got.1), "a signal without a change");
                    self.got = (state.unwrap_or(self.got.0), device.unwrap_or(self.got.1));
                    if let Some(device) = device {
                        seen.also.insert(8, format!("dev {}", device.name()));
                    }
                }
                Effect::Answer(id) => {
                    let asked = self.waiting.iter().position(|other| *other == id);
                    self.waiting.remove(asked.expect("answered once"));
                    // What was Set is what Get returns, and was signalled before.
                    if let Event::Set { id: set, state } = event
                        && set == id
                        && !draining
                    {
                        assert_eq!(self.got.0, state, "what Get returns");
                    }
                    if let Event::SetDevice { state, .. } = event {
                        assert_eq!(self.got.1, state, "what Get returns");
                    }
                }
                Effect::DrainTimedOut => drop(seen.also.insert(2, "drain-timeout".into())),
                Effect::Assert => drop(seen.also.insert(5, "assert".into())),
                // With the answers that this step has brought before it: "answers" comes behind these in the column.
                Effect::Quiesce(_) => seen.handover.push("quiesce".into()),
                Effect::MuxToHost(_) => seen.handover.push("mux to host".into()),
                Effect::MuxToBmc(_) => seen.handover.push("mux to bmc".into()),
                Effect::Unquiesce => seen.handover.push("unquiesce".into()),
                Effect::Transitioned(entry) => transitions.push(entry),
                Effect::Unit(order) => seen.units.push(unit(order)),
                Effect::BootProgress(stage) => seen.progress.push(progress(stage).into()),
            }
        }
    }

    /// What no effect says: boots, repeats, diagnoses.
    fn notice(&mut self, seen: &mut Seen) {
        let history = self.machine.history();
        let newest = history.newest_first().next().copied();
        if let (Some(before), Some(now)) = (self.repeats, newest)
            && (before.at, before.to) == (now.at, now.to)
            && now.repeats > before.repeats
        {
            seen.also.insert(3, "repeat".into());
        }
        self.repeats = newest;
        if history.boots() > self.boots {
            seen.also.insert(6, "boot begins".into());
        }
        let began = self.in_boot || history.boots() > self.boots;
        if began && !history.in_boot() {
            seen.also.insert(7, "boot ends".into());
        }
        (self.boots, self.in_boot) = (history.boots(), history.in_boot());
        let diagnoses = policy::diagnoses(&self.machine);
        let news = |before: &[Diagnosis], after: &[Diagnosis]| {
            let new = after.iter().filter(|d| !before.contains(d)).map(|d| d.name());
            new.collect::<Vec<_>>().join(" ")
        };
        for (key, word, names) in [
            (9, "raised", news(&self.diagnoses, &diagnoses)),
            (10, "cleared", news(&diagnoses, &self.diagnoses)),
        ] {
            if !names.is_empty() {
                seen.also.insert(key, format!("{word} {names}"));
            }
        }
        self.diagnoses = diagnoses;
    }

    fn print(&self, seen: &Seen) -> Vec<String> {
        let machine = &self.machine;
        let mut state = machine.state().name().to_owned();
        if self.got.0 != machine.state() {
            write!(state, " ({})", self.got.0.name()).unwrap();
        }
        let reasons = machine.gate_reasons();
        assert_eq!(reasons.is_empty(), machine.is_open(), "the gate and its reasons");
        let gate = match reasons.iter().map(|r| r.name()).collect::<Vec<_>>().join("+") {
            reasons if reasons.is_empty() => "open".into(),
            reasons => reasons,
        };
        let or_dot = |list: String| if list.is_empty() { ".".into() } else { list };
        vec![
            state,
            machine.cause().name().to_owned(),
            gate,
            mode(policy::dimm_sensors(machine)).into(),
            mode(policy::thermal_sensors(machine)).into(),
            fans(policy::fans(machine)),
            or_dot(seen.units.join(", ")),
            or_dot(seen.progress.join(", ")),
            or_dot(seen.handover.iter().chain(seen.also.values()).cloned().collect::<Vec<_>>().join(", ")),
        ]
    }
}

fn mode(mode: SensorMode) -> &'static str {
    match mode {
        SensorMode::Unavailable => "n/a",
        SensorMode::Read => "read",
    }
}

fn fans(fans: FanDemand) -> String {
    match fans {
        FanDemand::Free => "free".into(),
        FanDemand::Held { level, at_least_found } => {
            let level = match level {
                FanLevel::S2 => "s2",
                FanLevel::Stall => "stall",
            };
            format!("{level}{}", if at_least_found { "+" } else { "" })
        }
    }
}

fn unit(order: UnitOrder) -> String {
    let name = |target| match target {
        Target::S0 => "s0",
        Target::S2 => "s2",
        Target::S5 => "s5",
    };
    match order {
        UnitOrder::Start(target) => format!("start {}", name(target)),
        UnitOrder::Restart(target) => format!("restart {}", name(target)),
        UnitOrder::StopAll => "stop all".into(),
    }
}

fn progress(stage: BootStage) -> &'static str {
    match stage {
        BootStage::Unspecified => "Unspecified",
        BootStage::PrimaryProcInit => "PrimaryProcInit",
        BootStage::OSStart => "OSStart",
    }
}

/// Plays a scenario to its end; says every row that differs.
fn play(scenario: &Scenario) -> Vec<String> {
    let mut faults = Vec::new();
    let mut bench = Bench::new(scenario);
    let mut now = Time::ZERO;
    let mut shown = bench.print(&Seen::default());
    for row in &scenario.rows {
        assert!(row.at >= now, "line {}: time runs backwards", row.line);
        // Time passes; nothing may change that has no row of its own.
        for wakes in 0.. {
            assert!(wakes < 1000, "line {}: no end of wake-ups", row.line);
            let Some(at) = bench.machine.wake_at().filter(|at| *at <= row.at) else { break };
            assert!(at > now, "line {}: a wake-up at {at} when it is {now}", row.line);
            if at == row.at && row.event == "tick" {
                break;
            }
            now = at;
            let after = bench.play(now, "tick");
            if after != shown {
                faults.push(format!(
                    "before line {}: a change at {now}:\n      {}",
                    row.line,
                    after.join("  ")
                ));
                shown = after;
            }
        }
        now = row.at;
        let got = bench.play(now, &row.event);
        if got != row.expected {
            faults.push(format!(
                "line {}: {}\n  want {}\n  got  {}",
                row.line,
                row.event,
                row.expected.join("  "),
                got.join("  ")
            ));
        }
        // Orders and events are of their moment; what stays is what must not change by itself.
        shown = got;
        for cell in &mut shown[6..] {
            *cell = ".".into();
        }
    }
    // A wake-up that comes early, twice or late changes nothing.
    let again = bench.play(now + Duration::from_micros(1), "tick");
    if again != shown {
        faults.push(format!("after the last row: a change:\n      {}", again.join("  ")));
    }
    faults
}

#[test]
fn every_scenario_goes_as_written() {
    let scenarios = all();
    let rows: usize = scenarios.iter().map(|(_, s)| s.rows.len()).sum();
    println!("{} scenarios, {rows} rows", scenarios.len());
    let only = std::env::var("SCENARIO").unwrap_or_default();
    let mut faults = String::new();
    for (name, scenario) in scenarios.iter().filter(|(name, _)| name.contains(&only)) {
        for fault in play(scenario) {
            writeln!(faults, "{name}, {fault}").unwrap();
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

// ---- The index -------------------------------------------------------------------------------------

/// The questions of docs/scenarios.md, and how the names of the traces begin that answer each.
const QUESTIONS: [(&str, &[&str]); 24] = [
    ("What happens when the host is switched on?", &["01-"]),
    ("What happens when the host shuts down, or is switched off?", &["02-", "03-", "04-"]),
    ("What happens at a power cycle or a reboot?", &["05-", "06-", "11-"]),
    ("What happens at a reset, with power on?", &["07-", "08-", "09-"]),
    ("What happens when power is lost?", &["10-", "12-"]),
    ("What happens when the host sleeps?", &["22-sleep-"]),
    ("What happens when the BMC reboots, and the host does not?", &["13-"]),
    ("What does the daemon take for the state when it starts? (rule 6)", &["25-"]),
    ("What does a report change? (rules 1 and 2)", &["20-", "21-", "67-"]),
    ("What does it change that power goes or comes? (rules 3 and 8)", &["22-rule-", "27-"]),
    ("When is the host off, or was it reset, while there is power? (rules 4 and 5)", &["23-", "24-"]),
    ("What does POST complete change? (rule 7)", &["26-"]),
    ("What does boot progress change, and what do POST codes? (rules 10 and 11)", &["61-", "66-"]),
    ("What of a host that is in setup, or boots no OS?", &["60-"]),
    ("What of a reset that somebody asks for, or that POST status shows? (rules 4 and 4a)", &["62-", "65-"]),
    ("What of a report that comes too early, and of a long POST?", &["63-"]),
    ("What of the firmware is remembered when the daemon or the BMC restarts?", &["64-"]),
    ("What if a power service is missing? (rule 9)", &["28-", "31-"]),
    ("What of a board whose chassis is always On?", &["30-"]),
    ("When is a Set answered? (the barrier, the mux)", &["40-", "49-"]),
    ("Who is believed, and what if nothing is heard?", &["41-lapsed", "50-", "51-", "52-"]),
    ("What do the fans of the DIMM zones do?", &["42-"]),
    ("Who writes the boot progress?", &["43-"]),
    (
        "What is found to be wrong? (diagnoses)",
        &["41-not-working", "41-stuck-in-post", "44-", "45-", "46-", "47-", "48-"],
    ),
];

fn index(scenarios: &[(String, Scenario)]) -> String {
    let mut document = String::from(
        "# Scenarios\n\n\
         What acpi-stated does when this or that happens to a host: each line leads to a trace, row by row, which is a test.\n\
         [How to read a trace](../tests/scenarios/README.md).\n\n\
         Generated by `UPDATE_DOCS=1 cargo test --test it scenarios::`; do not edit.\n",
    );
    let mut left: Vec<_> = scenarios.iter().collect();
    for (question, beginnings) in QUESTIONS {
        let answers = |name: &str| beginnings.iter().any(|beginning| name.starts_with(beginning));
        let (here, others) = left.into_iter().partition::<Vec<_>, _>(|(name, _)| answers(name));
        left = others;
        assert!(!here.is_empty(), "no trace answers: {question}");
        write!(document, "\n## {question}\n\n").unwrap();
        for (file, scenario) in here {
            let name = file.trim_end_matches(".trace");
            writeln!(document, "- [{}](../tests/scenarios/{file}) (`{name}`)", scenario.title).unwrap();
        }
    }
    let left: Vec<_> = left.iter().map(|(name, _)| name).collect();
    assert!(left.is_empty(), "no question in QUESTIONS has these: {left:?}");
    document
}

#[test]
fn the_document_leads_to_every_scenario() {
    let document = index(&all());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scenarios.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &document).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == document,
        "docs/scenarios.md is out of date: UPDATE_DOCS=1 cargo test --test it scenarios::"
    );
}
