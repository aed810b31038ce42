// SPDX-License-Identifier: Apache-2.0
//! Every state meets every event, and `docs/state-table.md` shows what follows from each state.
//!
//! What is expected is written here by hand, from rules 3.1 and 3.2; the document is generated
//! (`UPDATE_DOCS=1 cargo test --test it state_table::`) and otherwise compared.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use acpi_stated::{
    config,
    logic::{
        acpi::{AcpiState, StateKind},
        cause::Cause,
        effect::{BootStage, Effect, Target, UnitOrder},
        event::{Event, SetId},
        evidence::{Chassis, HostState, Os, Stage},
        machine::Machine,
        policy::{self, FanDemand, FanLevel, SensorMode},
        time::Time,
    },
};

use AcpiState as S;

/// A machine, its clock, and what it has ordered last.
struct Bench {
    machine: Machine,
    now: Time,
    unit: Option<UnitOrder>,
    progress: Option<BootStage>,
}

impl Bench {
    /// A host under power that has reported `first`, and then `state`.
    fn on(evidence: config::Evidence, first: S, state: S) -> Self {
        let machine = Machine::new(
            Time::ZERO,
            config::Host { evidence, write_boot_progress: true, ..config::Host::new(0) },
            None,
        );
        let mut bench = Self { machine, now: Time::ZERO, unit: None, progress: None };
        bench.does(Event::Chassis(Some(Chassis::On)));
        bench.does(Event::Host(Some(HostState::Running)));
        bench.does(set(first));
        bench.does(set(state));
        bench
    }

    fn does(&mut self, event: Event) {
        let drained = Event::Drained { epoch: self.machine.epoch() };
        for event in [event, drained] {
            for effect in self.machine.step(self.now, event) {
                match effect {
                    Effect::Unit(order) => self.unit = Some(order),
                    Effect::BootProgress(stage) => self.progress = Some(stage),
                    Effect::Publish { .. }
                    | Effect::Answer(_)
                    | Effect::DrainTimedOut
                    | Effect::Assert
                    | Effect::Quiesce(_)
                    | Effect::Unquiesce
                    | Effect::MuxToHost(_)
                    | Effect::MuxToBmc(_)
                    | Effect::Transitioned(_) => {}
                }
            }
        }
    }

    /// So many seconds pass.
    fn waits(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        while let Some(at) = self.machine.wake_at().filter(|at| *at <= until) {
            self.now = at;
            self.does(Event::Tick);
        }
        self.now = until;
        self.does(Event::Tick);
    }
}

fn set(state: S) -> Event {
    Event::Set { id: SetId(1), state }
}

fn chassis(value: Chassis) -> Event {
    Event::Chassis(Some(value))
}

/// One thing that happens to a host, and what each kind of state becomes.
struct Happening {
    what: &'static str,
    evidence: config::Evidence,
    events: &'static [(Event, u64)],
    /// Working, S2, off-like, sleep, Unknown; `None`: stays as it is.
    becomes: [Option<(S, Cause)>; 5],
}

const PLAIN: config::Evidence = config::Evidence {
    post_complete_trusted: false,
    s0_from_post_complete: false,
    s2_from_power_on: true,
    boot_progress: true,
    done_from: config::DoneFrom::OsRunning,
    host_off_is_off: false,
};

const OFF: (Event, u64) = (Event::Chassis(Some(Chassis::Off)), 0);
const ON: (Event, u64) = (Event::Chassis(Some(Chassis::On)), 0);
const INACTIVE: (Event, u64) = (Event::Os(Some(Os::Inactive)), 0);
const COMPLETE: (Event, u64) = (Event::Os(Some(Os::Complete)), 0);
const RUNNING: (Event, u64) = (Event::Host(Some(HostState::Running)), 4);
const HOST_OFF: (Event, u64) = (Event::Host(Some(HostState::Off)), 1);

#[rustfmt::skip]
fn happenings() -> Vec<Happening> {
    let trusted = config::Evidence { post_complete_trusted: true, ..PLAIN };
    let s0_too = config::Evidence { s0_from_post_complete: true, ..trusted };
    let no_s2 = config::Evidence { s2_from_power_on: false, ..PLAIN };
    let by_host = config::Evidence { host_off_is_off: true, ..PLAIN };
    let (off, resumed) = (Some((S::S5G2, Cause::ChassisOff)), Some((S::S2D2, Cause::Resumed)));
    let (power_on, host_off) = (Some((S::S2D2, Cause::PowerOn)), Some((S::S5G2, Cause::HostOff)));
    let (reset, complete) = (Some((S::S2D2, Cause::HostReset)), Some((S::S0G0D0, Cause::PostComplete)));
    let (seen, runs) = (Some((S::S2D2, Cause::FirmwareSeen)), Some((S::S0G0D0, Cause::BootProgress)));
    let stays = [None; 5];
    let row = |what, evidence, events, becomes| Happening { what, evidence, events, becomes };
    vec![
        //                                                                      working   S2        off-like  sleep     Unknown
        row("chassis Off",                       PLAIN,   &[OFF],              [off,      off,      None,     None,     off]),
        row("chassis Off, On",                   PLAIN,   &[OFF, ON],          [power_on, power_on, power_on, resumed,  power_on]),
        row("chassis Off, On (`s2_from_power_on` false)", no_s2, &[OFF, ON],   [off,      off,      None,     resumed,  off]),
        row("chassis On again",                  PLAIN,   &[ON],               stays),
        row("host Off for 20 s",                 PLAIN,   &[(HOST_OFF.0, 20)], [host_off, host_off, None,     None,     host_off]),
        row("host Off for 20 s (`host_off_is_off`)", by_host, &[(HOST_OFF.0, 20)], [host_off, host_off, None, None,     host_off]),
        row("host Off, Running for 4 s",         PLAIN,   &[HOST_OFF, RUNNING], stays),
        row("host Off, Running for 5 s",         PLAIN,   &[HOST_OFF, (RUNNING.0, 5)], [reset, reset, None,    reset,    reset]),
        row("host Quiesced for an hour",         PLAIN,   &[(Event::Host(Some(HostState::Halted)), 3600)], stays),
        row("host Quiesced, Running for 5 s",    PLAIN,   &[(Event::Host(Some(HostState::Halted)), 9), (RUNNING.0, 5)], [reset, reset, None, reset, reset]),
        row("host TransitioningToOff, Running",  PLAIN,   &[(Event::Host(Some(HostState::TransitioningToOff)), 60), (RUNNING.0, 60)], stays),
        row("`ForceWarmReboot` requested, 5 s",  PLAIN,   &[(Event::ForcedReset, 5)], [reset, reset, None,    reset,    reset]),
        row("POST complete for an hour",         trusted, &[INACTIVE, (COMPLETE.0, 3600)], stays),
        row("POST complete for 10 s (`s0_from_post_complete`)", s0_too, &[INACTIVE, (COMPLETE.0, 10)], [None, complete, complete, complete, complete]),
        row("POST not complete",                 s0_too,  &[(INACTIVE.0, 60)], stays),
        row("POST complete falls, 5 s, untrusted", PLAIN, &[COMPLETE, (INACTIVE.0, 5)], [reset, None, None, None, None]),
        row("boot progress: `MemoryInit`, or an SBMR code at work", PLAIN, &[(Event::Progress(Stage::Early), 0)], [seen, None, None, None, seen]),
        row("boot progress: `OSStart`",          PLAIN,   &[(Event::Progress(Stage::OsStart), 0)], [seen, None, None, None, seen]),
        row("boot progress: `OSRunning`",        PLAIN,   &[(Event::Progress(Stage::OsRunning), 0)], [None, runs, runs, runs, runs]),
        row("power service gone and back",       PLAIN,   &[(Event::Chassis(None), 60), (Event::Host(None), 60), ON, RUNNING], stays),
        row("device state Set",                  PLAIN,   &[(Event::SetDevice { id: SetId(2), state: S::S1D1 }, 0)], stays),
        row("guard alarm, boot progress `OEM`, lapse", PLAIN, &[(Event::GuardAlarm, 0), (Event::Progress(Stage::Oem), 0), (Event::Lapsed, 60)], stays),
        row("an hour passes",                    PLAIN,   &[(Event::Tick, 3600)], stays),
    ]
}

#[test]
fn every_state_meets_every_event() {
    for happening in happenings() {
        for state in S::ALL {
            let mut bench = Bench::on(happening.evidence, S::S4, state);
            for (event, seconds) in happening.events {
                bench.does(*event);
                bench.waits(*seconds);
            }
            let [working, post, off, sleep, unknown] = happening.becomes;
            let becomes = match state.kind() {
                StateKind::Working => working,
                StateKind::Post => post,
                StateKind::OffLike => off,
                StateKind::Sleep => sleep,
                StateKind::Unknown => unknown,
            };
            let want = becomes.unwrap_or((state, Cause::HostReport));
            assert_eq!((bench.machine.state(), bench.machine.cause()), want, "{state:?}, {}", happening.what);
        }
    }
}

#[test]
fn every_state_takes_every_set() {
    for (from, to) in S::ALL.into_iter().flat_map(|from| S::ALL.map(|to| (from, to))) {
        for off in [false, true] {
            let mut bench = Bench::on(PLAIN, S::S4, from);
            if off {
                bench.does(chassis(Chassis::Off));
            }
            bench.does(set(to));
            assert_eq!((bench.machine.state(), bench.machine.cause()), (to, Cause::HostReport), "{from:?}");
            bench.waits(20);
            assert_eq!(bench.machine.state(), to);
            assert_eq!(bench.machine.is_open(), to.is_working() && !off, "{from:?} {to:?}");
        }
    }
}

/// The rows of rules 3.1: gate, unit, boot progress.
fn row_of_3_1(kind: StateKind) -> (bool, &'static str, &'static str) {
    match kind {
        StateKind::Working => (true, "`host-s0-state.target`", "`OSStart`"),
        StateKind::Post => (false, "`host-s2-state.target`", "`PrimaryProcInit`"),
        StateKind::OffLike => (false, "`host-s5-state.target`", "`Unspecified`"),
        StateKind::Sleep => (false, "none", "unchanged"),
        StateKind::Unknown => (false, "none; the active one is stopped", "unchanged"),
    }
}

fn unit(order: Option<UnitOrder>) -> &'static str {
    match order {
        None => "none",
        Some(UnitOrder::StopAll) => "none; the active one is stopped",
        Some(UnitOrder::Start(target) | UnitOrder::Restart(target)) => match target {
            Target::S0 => "`host-s0-state.target`",
            Target::S2 => "`host-s2-state.target`",
            Target::S5 => "`host-s5-state.target`",
        },
    }
}

fn progress(stage: Option<BootStage>) -> &'static str {
    match stage {
        None => "unchanged",
        Some(BootStage::Unspecified) => "`Unspecified`",
        Some(BootStage::PrimaryProcInit) => "`PrimaryProcInit`",
        Some(BootStage::OSStart) => "`OSStart`",
    }
}

fn fans(fans: FanDemand) -> &'static str {
    match fans {
        FanDemand::Free => "free",
        FanDemand::Held { level: FanLevel::S2, .. } => "`s2_pwm`",
        FanDemand::Held { level: FanLevel::Stall, .. } => "`stall_pwm`",
    }
}

fn read(mode: SensorMode) -> &'static str {
    if mode == SensorMode::Read { "read" } else { "unavailable" }
}

fn state_table() -> String {
    let mut table = String::from(
        "| state | kind | unit | boot progress | gate | `dimm`, `s0` sensors | `thermal` sensors | DIMM fans |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for state in S::ALL {
        // Reported after another kind of state, so that all that follows is news.
        let first = if state.is_off_like() { S::S2D2 } else { S::S4 };
        let mut bench = Bench::on(PLAIN, first, first);
        (bench.unit, bench.progress) = (None, None);
        bench.does(set(state));
        bench.waits(30);
        let machine = &bench.machine;
        let gate = if machine.is_open() { "opens after `settle`" } else { "closed" };
        let (may_open, want_unit, want_progress) = row_of_3_1(state.kind());
        let got = (machine.is_open(), unit(bench.unit), progress(bench.progress));
        assert_eq!(got, (may_open, want_unit, want_progress), "{state:?}");
        let [dimm, thermal] = [policy::dimm_sensors(machine), policy::thermal_sensors(machine)].map(read);
        let (name, kind, fans) = (state.name(), state.kind(), fans(policy::fans(machine)));
        let (_, ordered, written) = got;
        writeln!(
            table,
            "| `{name}` | {kind:?} | {ordered} | {written} | {gate} | {dimm} | {thermal} | {fans} |"
        )
        .unwrap();
        // While Off the off-like row holds, whatever was reported.
        (bench.unit, bench.progress) = (None, None);
        bench.does(chassis(Chassis::Off));
        bench.does(set(state));
        assert_eq!(unit(bench.unit), "`host-s5-state.target`", "{state:?} while Off");
        assert!(matches!(bench.progress, None | Some(BootStage::Unspecified)), "{state:?} while Off");
        let machine = &bench.machine;
        assert_eq!(
            fans_and_sensors(machine),
            (FanDemand::Free, SensorMode::Unavailable, SensorMode::Unavailable)
        );
    }
    table
}

fn fans_and_sensors(machine: &Machine) -> (FanDemand, SensorMode, SensorMode) {
    (policy::fans(machine), policy::dimm_sensors(machine), policy::thermal_sensors(machine))
}

fn event_table() -> String {
    let mut table = String::from(
        "| what happens | working | `S2_D2` | off-like | sleep | `Unknown` |\n|---|---|---|---|---|---|\n",
    );
    for happening in happenings() {
        let cells = happening.becomes.map(|becomes| match becomes {
            None => "stays".into(),
            Some((state, cause)) => format!("`{}`, {}", state.name(), cause.name()),
        });
        writeln!(table, "| {} | {} |", happening.what, cells.join(" | ")).unwrap();
    }
    table
}

#[test]
fn the_document_shows_the_tables() {
    let document = format!(
        "# The states\n\n\
         Generated by `UPDATE_DOCS=1 cargo test --test it state_table::`; do not edit.\n\n\
         ## What follows from each state\n\n\
         Chassis On, host Running, the state reported, and 30 s later. While chassis is Off the row of `S5_G2` holds for\n\
         unit and boot progress, all sensors are unavailable and the fans are free, whatever was reported.\n\
         Boot progress is written with the key `write_boot_progress` only.\n\n\
         {}\n\
         ## What each event makes of each state\n\n\
         The state was reported; where an option is not named the defaults hold.\n\n\
         {}",
        state_table(),
        event_table(),
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/state-table.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &document).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == document,
        "docs/state-table.md is out of date: UPDATE_DOCS=1 cargo test --test it state_table::"
    );
}
