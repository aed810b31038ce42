// SPDX-License-Identifier: Apache-2.0
//! The conditions that must hold after every step, whatever happened: `docs/invariants.md`.
//!
//! A [`Watcher`] stands beside a machine, keeps its own record of the events, states rules 3.1 and 3.2 once
//! more from that record, and compares. It must never ask the machine why: only what it shows to the world, and
//! the one or two things a test cannot see otherwise (the deadline, the history's boot).

#![allow(clippy::similar_names, reason = "a stage and a state are what the rules call them")]

use std::fmt::Write as _;

use super::{
    super::{power::POST_COMPLETE_BOGUS, *},
    heard::{Heard, Pending},
};
use crate::logic::{
    diagnosis::{CpuPower, Diagnosis, DimmCount},
    effect::{Target, UnitOrder},
    event::Epoch,
    evidence::{Os, PostCode, Stage},
    policy::{self, FanDemand, FanLevel, SensorMode},
};

macro_rules! invariants {
    ($($variant:ident $name:literal,)*) => {
        /// The invariants by name.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Invariant { $($variant,)* }

        impl Invariant {
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)*];

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

invariants! {
    GateConditions "gate-open-only-under-its-conditions",
    GateShown "gate-and-reasons-agree",
    TimeOpens "time-alone-opens-only-by-rule-6",
    InferredS0 "no-s0-without-rule-6-or-7",
    Evidence "every-inference-has-its-evidence",
    Decision "rule-6-decides-as-written",
    BeforeDecision "nothing-before-rule-6",
    Deadline "closed-under-power-runs-a-deadline",
    Thermal "a-powered-host-shows-its-thermal-sensors",
    ChassisOff "a-chassis-off-is-never-lost",
    SetGet "what-is-set-is-what-get-returns",
    Signals "signals-only-on-change",
    Answered "every-set-is-answered-once-in-time",
    Barrier "who-waits-for-the-drain",
    Order "publish-then-answer-then-the-rest",
    HoldEnds "a-hold-ends",
    HoldBegins "fans-are-held-in-post",
    Wake "wake-at-lies-ahead",
    Ticks "an-early-or-stale-tick-changes-nothing",
    Epoch "the-epoch-grows-at-each-closing",
    Stale "results-of-an-older-epoch-are-dropped",
    Units "unit-orders-match-the-row",
    Progress "boot-progress-never-goes-backwards",
    Transitions "every-change-is-told",
    Stored "what-is-stored-is-what-is",
    Words "a-word-of-the-firmware-is-heeded-in-its-step",
    EarlyReport "an-early-report-opens-nothing",
    OsNotReported "an-os-that-is-not-reported-is-noticed",
    Silence "a-silent-firmware-is-noticed",
    CpuPower "a-cpu-without-power-is-noticed",
    Dimms "a-missing-dimm-is-noticed",
    Told "what-the-daemon-is-told-it-shows",
    Mute "what-nobody-told-is-noticed",
    Handover "the-mux-goes-over-in-order-and-in-time",
    Bus "nothing-is-read-without-the-mux",
}

/// An invariant that does not hold.
pub(super) type Broken = String;

/// Which invariants had something to say in a step, by their position.
pub(super) type Said = u64;

/// A reset is suspected: the record's own words for rules 4 and 4a.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Suspected {
    since: Time,
    explained: bool,
    requested: bool,
    /// The host left Running, and POST has been complete since.
    complete: bool,
    /// POST status fell, and the host has run since.
    fell: bool,
}

impl Suspected {
    fn is_glitch(self) -> bool {
        self.complete && !self.requested
    }
}

/// The record.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Debug)]
pub(super) struct Watcher {
    settings: config::Host,
    stored: Option<Stored>,
    /// It was decided once, and the decision was taken back.
    anew: bool,
    /// When the time for the decision began.
    began: Time,
    pub(super) now: Time,
    said: Said,

    decided: bool,
    chassis: Option<Chassis>,
    host: Option<HostState>,
    os: Option<Os>,
    /// Which of the three are missing.
    missing: [bool; 3],
    /// Of one that is not believed.
    strangers: bool,
    bogus: bool,
    power: Option<Chassis>,
    on_edge_at: Option<Time>,
    host_since: Time,
    suspected: Option<Suspected>,
    firmware: Heard,
    /// A chassis that was found Off, until then.
    found_off: Option<Time>,
    /// The decision was taken back in this step.
    revoked: bool,
    /// The host was seen not to run.
    stood_still: bool,
    /// A rule has made the state.
    acted: bool,
    /// The host has reported the state, and power has not changed since.
    rests: bool,
    /// The newest word before the decision.
    put_off: Option<Event>,
    /// A state that a word of the firmware made in this step.
    made: Option<(AcpiState, Cause)>,
    locked: bool,
    quiet_since: Option<Time>,
    runs_since: Option<Time>,
    all_since: Option<Time>,
    opens_at: Option<Time>,
    complete_since: Option<Time>,
    state_since: Time,

    /// The result of rule 6, in the step in which it decides.
    decision: Option<(AcpiState, Cause)>,

    was_off: bool,
    powered_at: Option<Time>,
    firmware_seen: bool,
    closed_since: Option<Time>,
    reported: bool,
    dimms_known: bool,

    published: (AcpiState, AcpiState),
    waiting: Vec<(SetId, Time)>,
    last_id: u32,
    last_order: Option<UnitOrder>,
    boots: u32,
    foreign: bool,
    stage: Option<BootStage>,
    untold: u32,

    owed: Option<Time>,
    /// A sign came since power-on or reset; and one came before a working state.
    signed: bool,
    speaks: bool,
    last_set: Option<Time>,
    power_since: Time,
    low: Option<Time>,
    cpu_due: Option<Time>,
    /// Stuck, unguarded, failsafe, rival, silent.
    told: [bool; 5],
    /// Since when each of the three has been another than was told.
    untold_since: [Option<Time>; 3],
    /// The state is S2.
    in_s2: bool,
    answering: Option<(u16, bool)>,
    present: Option<u16>,
    good: Option<DimmCount>,
    way: Option<Way>,
    returning: bool,
}

/// The way of the bus to the host, since the gate closed.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Way {
    /// All is ordered by then.
    cap: Time,
    drained: bool,
    units: bool,
    quiesced: bool,
    mux: bool,
}

/// The machine as the world saw it before a step.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
struct Before {
    open: bool,
    draining: bool,
    state: AcpiState,
    cause: Cause,
    epoch: Epoch,
    complete_since: Option<Time>,
    quiet_since: Option<Time>,
    all_since: Option<Time>,
    power: Option<Chassis>,
    /// Power was seen to come on.
    on_edge: bool,
    decided: bool,
    locked: bool,
    waiting: usize,
}

impl Watcher {
    pub(super) fn new(machine: &Machine, stored: Option<Stored>) -> Self {
        let now = machine.now;
        Self {
            settings: machine.settings.clone(),
            stored,
            anew: false,
            began: now,
            now,
            said: 0,
            decided: false,
            chassis: None,
            host: None,
            os: None,
            missing: [false; 3],
            strangers: false,
            bogus: false,
            power: None,
            on_edge_at: None,
            host_since: now,
            suspected: None,
            firmware: Heard::new(now, stored),
            found_off: None,
            revoked: false,
            stood_still: false,
            acted: false,
            rests: stored.is_some_and(|s| s.same_bmc_boot && s.reported),
            put_off: None,
            made: None,
            locked: false,
            quiet_since: None,
            runs_since: None,
            all_since: None,
            opens_at: None,
            complete_since: None,
            state_since: now,
            decision: None,
            was_off: false,
            powered_at: None,
            firmware_seen: false,
            closed_since: None,
            reported: false,
            dimms_known: false,
            published: stored
                .filter(|s| s.same_bmc_boot)
                .map_or((AcpiState::Unknown, AcpiState::Unknown), |s| (s.state, s.device)),
            waiting: Vec::new(),
            last_id: 0,
            last_order: None,
            boots: 0,
            foreign: false,
            stage: None,
            untold: 0,
            owed: None,
            signed: false,
            speaks: stored.is_some_and(|s| s.signs_seen),
            last_set: None,
            power_since: now,
            low: None,
            cpu_due: None,
            told: [false; 5],
            untold_since: [None; 3],
            in_s2: false,
            answering: None,
            present: None,
            good: stored.and_then(|stored| stored.good_dimms),
            way: Some(Way {
                cap: now + machine.settings.timing.ack_cap,
                drained: false,
                units: false,
                quiesced: false,
                mux: false,
            }),
            returning: false,
        }
    }

    /// A name for the next Set.
    pub(super) fn next_id(&self) -> SetId {
        SetId(self.last_id + 1)
    }

    /// Lets the machine take an event in, and checks every invariant.
    pub(super) fn step(&mut self, machine: &mut Machine, now: Time, event: Event) -> Result<Said, Broken> {
        self.said = 0;
        if now > self.now && event != Event::Tick {
            self.one(machine, now, Event::Tick)?;
        }
        self.one(machine, now, event)?;
        Ok(self.said)
    }

    /// `premise` says whether the invariant had anything to say.
    fn claim(
        &mut self,
        invariant: Invariant,
        premise: bool,
        holds: bool,
        machine: &Machine,
    ) -> Result<(), Broken> {
        if !premise {
            return Ok(());
        }
        self.said |= 1 << invariant as u64;
        if holds {
            return Ok(());
        }
        let mut broken = format!("the invariant `{}` does not hold\n", invariant.name());
        write!(broken, "{self:#?}\n{machine:#?}").map_err(|e| e.to_string())?;
        Err(broken)
    }

    fn one(&mut self, machine: &mut Machine, now: Time, event: Event) -> Result<(), Broken> {
        let before = Before {
            open: machine.is_open(),
            draining: machine.is_draining(),
            state: machine.state(),
            cause: machine.cause(),
            epoch: machine.epoch(),
            complete_since: self.complete_since,
            quiet_since: self.quiet_since,
            all_since: self.all_since,
            power: self.power,
            on_edge: self.on_edge_at.is_some(),
            decided: self.decided,
            locked: self.locked,
            waiting: self.waiting.len(),
        };
        let effects = machine.step(now, event);
        self.now = now;
        let event = self.record_untold(event);
        let os_before = self.os;
        if let Event::Set { id, .. } | Event::SetDevice { id, .. } = event {
            self.waiting.push((id, now));
            self.last_id = id.0;
        }
        let ended = self.record(machine, &before, event);
        let entered = machine.state() != before.state || self.made.is_some();
        self.record_signs(machine, event, os_before, ended, entered);
        self.watch_effects(machine, &before, event, effects)?;
        self.check_gate(machine, &before, event)?;
        self.check_inferences(machine, &before, event, ended)?;
        self.check_followers(machine)?;
        self.check_diagnoses(machine)?;
        self.check_handover(machine)?;
        self.check_answers(machine, &before, event)?;
        self.check_time(machine)
    }

    // ---- The record: rules 3.1 and 3.2 once more ------------------------------------------------

    fn running(&self) -> bool {
        matches!(self.host, None | Some(HostState::Running))
    }

    fn post(&self) -> Option<Os> {
        let trusted = self.settings.evidence.post_complete_trusted && !self.bogus && self.chassis.is_some();
        self.os.filter(|_| trusted)
    }

    fn evidence_missing(&self) -> bool {
        let [chassis, host, os] = self.missing;
        self.strangers || chassis || host || (os && self.post().is_some())
    }

    /// The conditions of the gate that are not about the state, the firmware and time.
    fn steady(&self) -> bool {
        self.decided
            && self.power != Some(Chassis::Off)
            && self.running()
            && !self.evidence_missing()
            && self.suspected.is_none()
    }

    /// Trusted POST status that is not complete, and is worth it.
    fn level(&self) -> bool {
        let from = self.firmware.ran_from.max(Some(self.power_since));
        let fresh = from.is_some_and(|at| self.now < at + self.settings.timing.restore_settle);
        self.post() == Some(Os::Inactive) && (self.firmware.complete_seen || (fresh && !self.locked))
    }

    fn done(&self) -> bool {
        self.firmware.phase == Phase::Done && !self.level()
    }

    /// `min_post` has passed since power-on, a reset, or the suspicion of one.
    fn old_enough(&self) -> bool {
        self.began_anew().is_none_or(|at| self.now >= at + self.settings.timing.min_post)
    }

    fn began_anew(&self) -> Option<Time> {
        self.firmware.ran_from.max(self.suspected.map(|s| self.ran_again(s)))
    }

    /// When firmware began anew, if the suspicion is right.
    fn ran_again(&self, suspected: Suspected) -> Time {
        if self.host == Some(HostState::Running) {
            suspected.since.max(self.host_since)
        } else {
            suspected.since
        }
    }

    fn off(&self, state: AcpiState) -> bool {
        self.power == Some(Chassis::Off) || (self.power.is_none() && self.decided && state.is_off_like())
    }

    /// Note B2: which values nobody reported. A value that was found is the one that would have been reported.
    fn record_untold(&mut self, event: Event) -> Event {
        fn another<T: Copy + PartialEq>(last: Option<T>, value: T) -> bool {
            last.is_some_and(|last| last != value)
        }
        if let Event::Found(found) = event {
            let (which, told, another) = match found {
                Found::Chassis(value) => (0, Event::Chassis(Some(value)), another(self.chassis, value)),
                Found::Host(value) => (1, Event::Host(Some(value)), another(self.host, value)),
                Found::Os(value) => (2, Event::Os(Some(value)), another(self.os, value)),
            };
            if another {
                self.untold_since[which] = self.untold_since[which].or(Some(self.now));
            }
            return told;
        }
        for (which, tells) in [
            matches!(event, Event::Chassis(_)),
            matches!(event, Event::Host(_)),
            matches!(event, Event::Os(_)),
        ]
        .into_iter()
        .enumerate()
        {
            if tells {
                self.untold_since[which] = None;
            }
        }
        event
    }

    #[allow(clippy::too_many_lines, reason = "every event by name")]
    /// Takes the event down; says whether rule 5 or `host_off` ended a suspicion in this step.
    fn record(&mut self, machine: &Machine, before: &Before, event: Event) -> Option<Suspected> {
        let now = self.now;
        (self.decision, self.made, self.revoked) = (None, None, false);
        let mut expected = before.state;
        match event {
            Event::Chassis(value) => {
                let first = self.chassis.is_none();
                self.missing[0] = value.is_none() && !first;
                self.chassis = value.or(self.chassis);
                if first && value == Some(Chassis::Off) && !self.decided {
                    self.decided = true;
                    self.found_off = Some(now + Duration::from_secs(30));
                }
            }
            Event::Host(value) => self.record_host(before, value),
            Event::Os(value) => self.record_os(before, value),
            Event::ForcedReset => {
                if self.power != Some(Chassis::Off) {
                    let fresh = Suspected {
                        since: now,
                        explained: false,
                        requested: true,
                        complete: false,
                        fell: false,
                    };
                    let again = |s: Suspected| Suspected { since: now, requested: true, ..s };
                    self.suspected = Some(self.suspected.map_or(fresh, again));
                }
            }
            Event::Progress(_) | Event::PostCode(_) => {
                self.foreign |= matches!(event, Event::Progress(_));
                if self.decided {
                    expected = self.word(before.state, event);
                } else if self.is_a_word(event)
                    && matches!(event, Event::Progress(_) | Event::PostCode(PostCode::AtWork))
                {
                    self.put_off = Some(event);
                }
            }
            Event::Set { state, .. } => {
                self.record_set(before, state);
                expected = state;
            }
            Event::Lapsed => {
                self.quiet_since = None;
                self.opens_at = None;
                self.all_since = None;
            }
            Event::DimmsKnown { epoch } => self.dimms_known |= epoch == before.epoch && before.open,
            Event::Dimms { epoch, answering, required_silent } if epoch == before.epoch && before.open => {
                self.answering = Some((answering, required_silent));
            }
            Event::DimmsPresent(count) => self.present = count,
            Event::CpuPower(CpuPower::Low) => self.low = self.low.or(Some(now)),
            Event::CpuPower(CpuPower::Good | CpuPower::Unknown) => self.low = None,
            Event::BusStuck(holds) => self.told[0] = holds,
            Event::UnguardedBus(holds) => self.told[1] = holds,
            Event::FailsafeConfig(holds) => self.told[2] = holds,
            Event::Rival(holds) => self.told[3] = holds,
            Event::BusSilent(holds) => self.told[4] = holds,
            Event::Strangers(there) => self.strangers = there,
            Event::Drained { epoch } if epoch == before.epoch => {
                self.way = self.way.map(|way| Way { drained: true, ..way });
            }
            Event::Quiesced { epoch } if epoch == before.epoch => {
                self.way = self.way.map(|way| Way { quiesced: way.units, ..way });
            }
            Event::MuxAtBmc { epoch } if epoch == before.epoch => self.returning = false,
            Event::SetDevice { .. }
            | Event::Dimms { .. }
            | Event::Drained { .. }
            | Event::Quiesced { .. }
            | Event::MuxAtHost { .. }
            | Event::MuxAtBmc { .. }
            | Event::Found(_)
            | Event::GuardAlarm
            | Event::Tick => {}
        }
        self.follow_power(before.state);
        let read = self.chassis.is_some() && self.host.is_some();
        let decides = (!before.decided || self.revoked)
            && (self.decided || read || now.since(self.began) >= Duration::from_secs(120));
        if decides {
            expected = self.decides(expected);
        }
        if expected != before.state {
            self.state_since = now;
        }
        if self.suspected.is_some_and(|s| s.explained) && self.running() {
            self.suspected = None;
        }
        // Rule 7's premise: the time counts before this step's end.
        let ended = self.suspicion_ends(expected);
        if let Some(suspected) = ended {
            self.resolve(suspected);
        }
        self.bookkeeping(machine, before, event, ended);
        ended
    }

    /// A suspicion has ended by time.
    fn resolve(&mut self, suspected: Suspected) {
        let now = self.now;
        let from = self.ran_again(suspected);
        self.suspected = None;
        if !self.running() {
            return;
        }
        if suspected.is_glitch() {
            self.firmware.was_a_glitch(now);
            return;
        }
        let heard = &mut self.firmware;
        let rose = heard.phase == Phase::Done && heard.by_post && heard.since >= suspected.since;
        heard.begins(now, Some(from));
        if rose {
            heard.says(now, Phase::Done, true);
        }
    }

    fn record_host(&mut self, before: &Before, value: Option<HostState>) {
        let now = self.now;
        let last = self.host;
        self.missing[1] = value.is_none() && last.is_some();
        self.host = value.or(last);
        let Some(value) = value.filter(|value| last != Some(*value)) else { return };
        self.host_since = now;
        self.stood_still |= value != HostState::Running;
        let left = match last {
            Some(HostState::Running | HostState::TransitioningToOff) => true,
            Some(HostState::Off | HostState::Halted) => false,
            None => self.decided,
        };
        let was_off = self.power == Some(Chassis::Off);
        self.follow_power(before.state);
        match value {
            HostState::Off | HostState::Halted => {
                if left && self.power != Some(Chassis::Off) {
                    self.suspect();
                }
            }
            HostState::Running => {
                let off_for_good = before.state.is_off_like() && before.cause == Cause::HostOff && !was_off;
                if off_for_good && self.suspected.is_none() {
                    self.suspected = Some(Suspected {
                        since: now,
                        explained: false,
                        requested: false,
                        complete: false,
                        fell: false,
                    });
                }
            }
            HostState::TransitioningToOff => {
                self.suspected = self.suspected.map(|s| Suspected { fell: false, ..s });
            }
        }
    }

    fn record_os(&mut self, before: &Before, value: Option<Os>) {
        let now = self.now;
        let last = self.os;
        self.missing[2] = value.is_none() && last.is_some();
        self.os = value.or(last);
        let powered = self.power != Some(Chassis::Off);
        if value == Some(Os::Inactive) {
            self.firmware.stale = false;
        }
        self.firmware.complete_seen |= self.os == Some(Os::Complete) && self.power == Some(Chassis::On);
        let rose = (last, value) == (Some(Os::Inactive), Some(Os::Complete));
        if let Some(at) = self.on_edge_at.filter(|_| rose) {
            self.bogus = self.settings.evidence.post_complete_trusted && now <= at + POST_COMPLETE_BOGUS;
        }
        let complete = value == Some(Os::Complete) && self.post() == value;
        self.suspected = self.suspected.map(|s| Suspected { complete: s.complete && complete, ..s });
        let fell = (last, value) == (Some(Os::Complete), Some(Os::Inactive));
        if fell && powered {
            self.post_falls();
        }
        if rose && powered {
            self.post_rises(before.state);
        }
    }

    fn post_falls(&mut self) {
        if self.firmware.phase == Phase::Done && self.suspected.is_none() {
            self.suspected = Some(Suspected {
                since: self.now,
                explained: false,
                requested: false,
                complete: false,
                fell: true,
            });
        }
    }

    fn post_rises(&mut self, state: AcpiState) {
        let now = self.now;
        let confirm = self.settings.timing.reset_confirm;
        if let Some(s) = self.suspected
            && s.fell
            && !s.requested
            && now <= s.since + confirm
            && self.running()
        {
            self.suspected = None;
        }
        if self.post() == Some(Os::Complete) {
            self.firmware.says(now, Phase::Done, true);
            self.locked &= !state.is_working();
        }
    }

    fn record_set(&mut self, before: &Before, state: AcpiState) {
        let now = self.now;
        let early = state.is_working() && !self.old_enough();
        let anew = self.suspected.is_some() || self.firmware.phase == Phase::Done;
        let powered = self.power != Some(Chassis::Off);
        (self.reported, self.rests, self.locked, self.put_off) = (true, powered, false, None);
        self.firmware.early = early && self.firmware.phase != Phase::Done;
        let running = self.running();
        if let Some(suspected) = &mut self.suspected {
            suspected.explained |= matches!(state.kind(), StateKind::Post | StateKind::OffLike);
            if state.is_working() && running && !early {
                self.suspected = None;
            }
        }
        if self.power == Some(Chassis::Off) {
            return;
        }
        if state.is_working() && !early {
            self.done_by_others(state);
        }
        if state.is_off_like() && self.power.is_some() && self.firmware.phase == Phase::Done {
            self.firmware.power_goes(now);
            self.firmware.ran_from = Some(now);
        }
        // Rule 2: S2 reported again, and no retry.
        let again = before.state == state
            && before.cause == Cause::HostReport
            && !self.off(state)
            && self.last_set.is_none_or(|at| now >= at + RESET_BETWEEN_SETS);
        if state.kind() == StateKind::Post && (anew || again) {
            self.firmware.begins(now, Some(now));
        } else if state.kind() == StateKind::Post {
            self.firmware.says(now, Phase::AtWork, false);
        }
    }

    /// Done, and not by POST status: that must have followed this POST.
    fn done_by_others(&mut self, state: AcpiState) {
        // A working state that rule 6 could not confirm is confirmed.
        self.locked &= !state.is_working();
        self.firmware.says(self.now, Phase::Done, false);
        self.bogus |= self.settings.evidence.post_complete_trusted && self.firmware.stale;
    }

    /// The word counts, if there is power.
    fn is_a_word(&self, event: Event) -> bool {
        let believed = self.settings.evidence.boot_progress;
        let stage = matches!(event, Event::Progress(stage) if believed && stage != Stage::Oem);
        (stage || matches!(event, Event::PostCode(_))) && self.power != Some(Chassis::Off)
    }

    /// Rules 10 and 11: a word by boot progress or a code; the state that it leads to.
    fn word(&mut self, state: AcpiState, event: Event) -> AcpiState {
        if !self.is_a_word(event) {
            return state;
        }
        let now = self.now;
        let evidence = self.settings.evidence;
        if let Event::PostCode(code) = event {
            let confirm = self.settings.timing.reset_confirm;
            let runs = state.is_working() || self.firmware.phase == Phase::Done;
            let of = |codes: &Vec<u8>| matches!(code, PostCode::Byte(byte) if codes.contains(&byte));
            let (began, done) = (of(&self.settings.post_codes.began), of(&self.settings.post_codes.done));
            let other = self.firmware.code_is(now, code, confirm);
            let sbmr = code == PostCode::AtWork && evidence.boot_progress;
            let works = other || sbmr || (began && !runs);
            let state = if works { self.works(state, None) } else { state };
            if began && !works {
                self.firmware.pending = Some(Pending { began: true, code, at: now });
            }
            let same = self.firmware.pending.is_some_and(|pending| !pending.began && pending.code == code);
            if done && !same {
                self.firmware.pending = Some(Pending { began: false, code, at: now });
            }
            return state;
        }
        let Event::Progress(stage) = event else { return state };
        self.firmware_seen = true;
        if stage < Stage::from(evidence.done_from) {
            return self.works(state, Some(stage));
        }
        self.firmware.stage_is(stage);
        self.done_by_others(state);
        if stage != Stage::OsRunning {
            return state;
        }
        self.locked = false;
        let soon = !self.old_enough();
        if self.running() && !soon {
            self.suspected = None;
        }
        if state.is_working() {
            return state;
        }
        self.made = Some((AcpiState::S0G0D0, Cause::BootProgress));
        (self.rests, self.acted) = (false, true);
        AcpiState::S0G0D0
    }

    /// Rule 10.
    fn works(&mut self, state: AcpiState, stage: Option<Stage>) -> AcpiState {
        let now = self.now;
        self.firmware_seen = true;
        self.locked = false;
        let was_done = self.firmware.phase == Phase::Done;
        let anew = match stage {
            Some(stage) => self.firmware.stage_is(stage),
            None => was_done,
        };
        let (makes, begins) = match state.kind() {
            StateKind::Working => (true, true),
            StateKind::Post => (anew, anew),
            StateKind::Unknown => (true, false),
            StateKind::OffLike => (!self.rests, false),
            StateKind::Sleep => (false, false),
        };
        if begins {
            self.firmware.begins(now, Some(now));
            self.firmware.stage = stage;
        } else {
            self.firmware.says(now, Phase::AtWork, false);
        }
        self.suspected = self.suspected.map(|s| Suspected { explained: true, ..s });
        if !makes {
            return state;
        }
        self.made = Some((AcpiState::S2D2, Cause::FirmwareSeen));
        (self.rests, self.acted) = (false, true);
        AcpiState::S2D2
    }

    /// Rule 6 decides in this step; the state that it leads to.
    fn decides(&mut self, state: AcpiState) -> AcpiState {
        self.decided = true;
        let put_off = self.put_off.take();
        let (found, cause) = self.decide(put_off);
        let mut state = state;
        // A Set that came first stands, and so does what rules 3 and 4 made of it.
        if self.reported || self.acted {
            self.locked = false;
        } else {
            // Only the same state, found again, is one that the host had reported.
            self.rests &= found == state && matches!(cause, Cause::Startup | Cause::Restored);
            self.decision = Some((found, cause));
            state = found;
            self.find_phase(cause);
        }
        self.compare(state);
        let Some(event) = put_off else { return state };
        let after = self.word(state, event);
        if self.made.is_some() {
            self.decision = None;
        }
        after
    }

    /// What the decision finds the firmware to be at.
    fn find_phase(&mut self, cause: Cause) {
        let now = self.now;
        if matches!(cause, Cause::FirmwareSeen) {
            return self.firmware.begins(now, Some(now));
        }
        if matches!(cause, Cause::BootProgress) {
            return self.firmware.says(now, Phase::Done, false);
        }
        if self.power == Some(Chassis::Off) || !self.running() {
            return;
        }
        let same = self.stored.filter(|s| s.same_bmc_boot && !s.off);
        if let Some(s) = same {
            if s.reset_suspected {
                self.firmware.begins(now, Some(now));
            } else if s.firmware.word.is_none() && s.state.is_working() {
                self.firmware.says(now, Phase::Done, false);
            }
        } else if let Some(post) = self.worth() {
            self.firmware.says(now, if post == Os::Complete { Phase::Done } else { Phase::AtWork }, false);
        } else if self.stored.is_some_and(|s| s.reset_suspected || s.state == AcpiState::S2D2) {
            self.firmware.says(now, Phase::AtWork, false);
        }
    }

    /// POST status that rule 6 goes by: Inactive of a service that nobody writes is none.
    fn worth(&self) -> Option<Os> {
        self.post().filter(|post| *post == Os::Complete || self.firmware.complete_seen)
    }

    /// What is read now differs from what was stored in this boot of the BMC.
    fn compare(&mut self, state: AcpiState) {
        let Some(stored) = self.stored.filter(|s| s.same_bmc_boot) else { return };
        if self.power == Some(Chassis::Off) {
            return;
        }
        match (stored.post, self.os) {
            (Some(Os::Complete), Some(Os::Inactive)) => self.post_falls(),
            (Some(Os::Inactive), Some(Os::Complete)) => self.post_rises(state),
            _ => {}
        }
        if state.is_off_like() && !self.rests && self.power.is_some() && self.host == Some(HostState::Running)
        {
            let requested = self.suspected.is_some_and(|s| s.requested);
            self.suspected = Some(Suspected {
                since: self.now,
                explained: false,
                requested,
                complete: false,
                fell: false,
            });
        }
    }

    /// Rule 6, from what was recorded and stored, and by the newest word since.
    fn decide(&mut self, put_off: Option<Event>) -> (AcpiState, Cause) {
        let (state, cause) = self.decide_by_record();
        if self.power == Some(Chassis::Off) || self.reported || self.acted {
            return (state, cause);
        }
        let evidence = self.settings.evidence;
        let works = match put_off {
            Some(Event::Progress(Stage::OsRunning)) => Some(false),
            Some(Event::Progress(stage)) if stage < Stage::from(evidence.done_from) => Some(true),
            Some(Event::PostCode(PostCode::AtWork)) if evidence.boot_progress => Some(true),
            _ => None,
        };
        let rests = state.is_off_like() && self.stored.is_some_and(|s| s.same_bmc_boot && s.reported);
        match works {
            Some(true) if state != AcpiState::S2D2 && !rests && !state.is_sleep() => {
                self.locked = false;
                (AcpiState::S2D2, Cause::FirmwareSeen)
            }
            Some(false) if !state.is_working() => {
                self.locked = false;
                (AcpiState::S0G0D0, Cause::BootProgress)
            }
            _ => (state, cause),
        }
    }

    fn decide_by_record(&mut self) -> (AcpiState, Cause) {
        let by_evidence = |state| (state, Cause::Startup);
        let restored = |s: Stored| (s.state, Cause::Restored);
        let stored = self.stored;
        let resting = stored.filter(|s| s.state.is_off_like() || s.state.is_sleep());
        let working = stored.filter(|s| s.state.is_working());
        let suspected = stored.is_some_and(|s| s.reset_suspected);
        let same = stored.filter(|s| s.same_bmc_boot && !s.off);
        if self.power == Some(Chassis::Off) {
            return resting.map_or(by_evidence(AcpiState::S5G2), restored);
        }
        if !self.running() {
            self.host_since = self.now;
            if self.suspected.is_none() {
                self.suspect();
            }
            if let Some(s) = &mut self.suspected
                && stored.is_some_and(|s| s.same_bmc_boot && s.reset_requested)
            {
                (s.since, s.requested) = (self.now, true);
            }
            return stored.map_or(by_evidence(AcpiState::Unknown), restored);
        }
        let to_s2 =
            |s: Stored| if s.state == AcpiState::S2D2 { restored(s) } else { by_evidence(AcpiState::S2D2) };
        if let Some(s) = same {
            return if suspected { to_s2(s) } else { restored(s) };
        }
        if let Some(post) = self.worth() {
            return by_evidence(if post == Os::Complete { AcpiState::S0G0D0 } else { AcpiState::S2D2 });
        }
        if let Some(s) = stored.filter(|s| s.state == AcpiState::S2D2 || s.reset_suspected) {
            return to_s2(s);
        }
        self.locked = true;
        working.map_or(by_evidence(AcpiState::Unknown), restored)
    }

    fn suspect(&mut self) {
        let complete = self.post() == Some(Os::Complete) && !self.missing[2];
        let requested = self.suspected.is_some_and(|s| s.requested);
        let since = self.now;
        self.suspected = Some(Suspected { since, explained: false, requested, complete, fell: false });
        self.firmware.host_leaves(since);
    }

    /// Power, with `host_off_is_off`, and what an edge of it does.
    fn follow_power(&mut self, state: AcpiState) {
        let by_host = self.settings.evidence.host_off_is_off;
        let off_for = self.now.since(self.host_since);
        if let Some(until) = self.found_off {
            let comes = self.power == Some(Chassis::Off) && self.chassis == Some(Chassis::On);
            if comes || self.now >= until {
                self.found_off = None;
            }
            if comes && self.now < until && !self.stood_still && !self.reported && !self.acted {
                // A power service that has just started: no edge, and another boot of the BMC.
                (self.power, self.power_since, self.on_edge_at) = (Some(Chassis::On), self.now, None);
                (self.decided, self.began, self.was_off, self.revoked) = (false, self.now, false, true);
                self.anew = true;
                self.stored = self.stored.map(|s| Stored { same_bmc_boot: false, ..s });
                self.firmware.complete_seen |= self.os == Some(Os::Complete);
                return;
            }
        }
        let power = match (self.chassis, self.host) {
            (Some(Chassis::Off), _) => Some(Chassis::Off),
            (_, Some(HostState::Running | HostState::Halted)) if by_host => Some(Chassis::On),
            (_, Some(HostState::Off)) if by_host && off_for >= self.settings.timing.host_off => {
                Some(Chassis::Off)
            }
            (chassis, Some(_)) if by_host => self.power.or(chassis),
            (chassis, _) => chassis,
        };
        if power == self.power {
            return;
        }
        let on = self.power == Some(Chassis::Off) && power == Some(Chassis::On);
        self.on_edge_at = on.then_some(self.now);
        self.power_since = self.now;
        self.power = power;
        self.firmware.stale = on && self.os == Some(Os::Complete);
        self.firmware.complete_seen |= self.os == Some(Os::Complete) && power == Some(Chassis::On);
        if power == Some(Chassis::Off) {
            self.suspected = None;
            self.rests = false;
            self.firmware.power_goes(self.now);
        } else if on {
            self.rests = false;
            let resumed = state.is_sleep();
            self.firmware.begins(self.now, (!resumed).then_some(self.now));
        }
    }

    /// `host_off` of rule 4 and `reset_confirm` of rule 5.
    fn suspicion_ends(&self, state: AcpiState) -> Option<Suspected> {
        let timing = &self.settings.timing;
        let suspected = self.suspected?;
        let since = self.host_since;
        let over = match self.host {
            Some(HostState::Off) => self.now >= since + timing.host_off,
            Some(HostState::Running) | None => {
                self.decided
                    && !(state.is_off_like() && self.rests)
                    && !self.off(state)
                    && self.now >= since.max(self.state_since).max(suspected.since) + timing.reset_confirm
            }
            Some(HostState::Halted | HostState::TransitioningToOff) => false,
        };
        over.then_some(suspected)
    }

    /// The times that count from one of this step's facts.
    fn bookkeeping(&mut self, machine: &Machine, before: &Before, event: Event, ended: Option<Suspected>) {
        let now = self.now;
        let state = machine.state();
        let again = machine.cause() == Cause::HostReset && ended.is_some_and(|s| !s.is_glitch());
        let entered = state != before.state || again || self.made.is_some();
        if entered {
            self.state_since = now;
        }
        let found = matches!(machine.cause(), Cause::Startup | Cause::Restored);
        self.acted |= entered && !found;
        self.rests &= !entered || machine.cause() == Cause::HostReport;

        let off = self.off(state);
        if off != self.was_off {
            self.was_off = off;
            self.firmware_seen = false;
            self.powered_at = (!off).then_some(now);
            self.owed = self.powered_at;
            self.signed &= off;
        }
        let reported_s2 = matches!(event, Event::Set { state: AcpiState::S2D2, .. });
        self.firmware_seen |= !off && (state.is_working() || reported_s2);

        // The lock of rule 6 ends by time (then the gate opens), by any Set, by any change of state.
        let quiet =
            self.steady() && self.firmware.phase != Phase::AtWork && !self.level() && self.old_enough();
        let mut unlocked = false;
        // After a very late wake-up rule 7, due before, may have ended it first; then `settle` runs.
        let overtaken = entered && machine.cause() != Cause::Startup;
        if self.locked && quiet && !overtaken {
            let since = self.quiet_since.unwrap_or(now);
            unlocked = now >= since + self.settings.timing.restore_settle;
        }
        // A very late wake-up may bring the decision and what ends its lock in one step.
        let inferred = entered && !found;
        if unlocked || (before.locked && entered) || inferred {
            self.locked = false;
        }
        if unlocked {
            self.firmware.says(now, Phase::Done, false);
        }
        // An early report that nothing has contradicted, and a code that nothing has followed.
        let restore = self.settings.timing.restore_settle;
        let stands = self.firmware.early && state.is_working();
        let silence =
            self.firmware.pending.is_some_and(|p| !p.began && now >= p.at + self.settings.timing.settle);
        if silence || (stands && self.began_anew().is_some_and(|at| now >= at + restore)) {
            self.done_by_others(state);
        }
        self.quiet_since = if quiet && self.locked { self.quiet_since.or(Some(now)) } else { None };
        let all_but_state = self.steady() && self.done() && self.old_enough();
        let all = all_but_state && (state.is_working() || state == AcpiState::S2D2);
        self.all_since = if all { self.all_since.or(Some(now)) } else { None };
        let opens_at = if unlocked { now } else { now + self.settings.timing.settle };
        self.opens_at = if all && !self.locked { self.opens_at.or(Some(opens_at)) } else { None };
        let complete = all_but_state && self.post() == Some(Os::Complete);
        let anew = entered || matches!(event, Event::Set { .. });
        self.complete_since =
            if complete { self.complete_since.filter(|_| !anew).or(Some(now)) } else { None };
        let closed = self.decided && !off && !self.open();
        self.closed_since = if closed { self.closed_since.or(Some(now)) } else { None };
        let runs = closed && !self.locked && !self.firmware.early;
        self.runs_since = if runs { self.runs_since.or(Some(now)) } else { None };
        if before.open && !self.open() {
            self.dimms_known = false;
            self.answering = None;
        }
    }

    /// Records what is heard of the firmware, the CPU's power and the DIMMs; after everything else of this step is known.
    fn record_signs(
        &mut self,
        machine: &Machine,
        event: Event,
        os_before: Option<Os>,
        ended: Option<Suspected>,
        entered: bool,
    ) {
        let now = self.now;
        let state = machine.state();
        // Firmware runs anew: by rule 5, or it is found in POST.
        let reset = ended.is_some_and(|s| !s.is_glitch()) && machine.cause() == Cause::HostReset;
        let found = self.decision.is_some_and(|(state, _)| state == AcpiState::S2D2);
        if reset {
            self.owed = Some(now);
            self.signed = false;
        } else if found && state == AcpiState::S2D2 {
            self.owed = self.owed.or(Some(now));
        }
        let os_changed = os_before.is_some() && self.post().is_some() && self.os != os_before;
        if matches!(event, Event::Set { .. }) {
            self.last_set = Some(now);
        }
        let by_os = os_changed && matches!(event, Event::Os(_));
        let said = matches!(
            event,
            Event::Set { .. } | Event::SetDevice { .. } | Event::Progress(_) | Event::PostCode(_)
        );
        self.firmware_seen |= by_os && !self.was_off;
        let found_working = matches!(machine.cause(), Cause::Startup | Cause::Restored);
        // What makes the state a working one does not come before it.
        self.speaks |= entered && state.is_working() && self.signed && !found_working;
        self.signed |= said || by_os;
        if said || by_os || state.is_working() {
            self.owed = None;
        }

        self.in_s2 = state == AcpiState::S2D2;
        let off = self.off(state);
        let said_off = state.is_off_like() && self.last_set >= Some(self.power_since);
        let due = self.decided && !off && self.host != Some(HostState::Off) && !state.is_sleep() && !said_off;
        self.cpu_due = if due { self.cpu_due.or(Some(now)) } else { None };

        if self.dimms_due() && !self.dimms_missing() {
            let answering = if self.settings.has_dimms { self.answering.map(|a| a.0) } else { Some(0) };
            if let Some(answering) = answering {
                let present = self.present.or(self.good.and_then(|good| good.present));
                let nothing = answering == 0 && present.is_none();
                self.good = if nothing { None } else { Some(DimmCount { answering, present }) };
            }
        }
    }

    /// Two minutes after S0, and one after the gate opened; in S2 the latter alone.
    fn dimms_due(&self) -> bool {
        let settled = self.in_s2 || self.now >= self.state_since + Duration::from_secs(120);
        settled && self.opens_at.is_some_and(|at| self.now >= at + Duration::from_secs(60))
    }

    fn dimms_missing(&self) -> bool {
        let answering = if self.settings.has_dimms { self.answering.map(|a| a.0) } else { Some(0) };
        let good = self.good.unwrap_or_default();
        let listed = self.present.zip(good.present).is_some_and(|(now, good)| now < good);
        self.answering.is_some_and(|(_, silent)| silent)
            || answering.is_some_and(|answering| answering < good.answering || listed)
    }

    fn open(&self) -> bool {
        self.opens_at.is_some_and(|at| at <= self.now)
    }

    // ---- The invariants ----------------------------------------------------------------------------

    /// Checks the effects, in their order.
    fn watch_effects(
        &mut self,
        machine: &Machine,
        before: &Before,
        event: Event,
        effects: Effects,
    ) -> Result<(), Broken> {
        use Invariant as I;
        let (mut rest, mut answered_state) = (false, false);
        let history = machine.history();
        if history.boots() != self.boots {
            (self.boots, self.foreign, self.stage) = (history.boots(), false, None);
            self.foreign |= matches!(event, Event::Progress(_));
        }
        self.untold += u32::from(machine.state() != before.state);
        for effect in effects {
            match effect {
                Effect::Quiesce(epoch) | Effect::MuxToHost(epoch) => {
                    let to_host = matches!(effect, Effect::MuxToHost(_));
                    let no_units = self.settings.quiesce.is_empty();
                    let allowed = self.way.is_some_and(|way| {
                        let late = self.now >= way.cap;
                        let units = no_units || (way.units && (way.quiesced || late));
                        let first = if to_host { !way.mux && units } else { !way.units && !way.mux };
                        first && (way.drained || late)
                    });
                    let ours = epoch == before.epoch && !rest && !answered_state;
                    self.claim(I::Handover, true, allowed && ours, machine)?;
                    self.way = self.way.map(|way| Way {
                        units: way.units || !to_host,
                        mux: way.mux || to_host,
                        ..way
                    });
                }
                Effect::MuxToBmc(epoch) => {
                    let ours = epoch == machine.epoch();
                    self.claim(I::Handover, true, self.open() && ours && !self.returning, machine)?;
                    self.returning = true;
                }
                Effect::Unquiesce => {
                    self.claim(I::Handover, true, self.open() && !self.returning, machine)?;
                }
                Effect::Publish { state, device } => {
                    let published = self.published;
                    let news = (state, device) != (None, None)
                        && state != Some(published.0)
                        && device != Some(published.1);
                    self.claim(I::Signals, true, news, machine)?;
                    self.claim(I::Order, true, !rest && !answered_state, machine)?;
                    self.published = (state.unwrap_or(published.0), device.unwrap_or(published.1));
                }
                Effect::Answer(id) => {
                    let known = self.waiting.iter().position(|(waiting, _)| *waiting == id);
                    self.claim(I::Answered, true, known.is_some(), machine)?;
                    self.claim(I::Order, true, !rest, machine)?;
                    self.waiting.retain(|(waiting, _)| *waiting != id);
                    // The values that Get returns from now on.
                    let got = self.published;
                    // A device's Set is answered at once, a Set that waits with what has overtaken it.
                    let same = if let Event::SetDevice { id: own, state } = event
                        && own == id
                    {
                        got.1 == state
                    } else if let Event::Set { id: own, state } = event
                        && own == id
                    {
                        answered_state = true;
                        got.0 == state
                    } else {
                        answered_state = true;
                        got.0 == machine.state()
                    };
                    self.claim(I::SetGet, true, same, machine)?;
                    let of_device = matches!(event, Event::SetDevice { id: own, .. } if own == id);
                    let in_post = !of_device && machine.state() == AcpiState::S2D2 && !before.open;
                    let over = self.way.is_none_or(|way| self.all_ordered(way));
                    self.claim(I::Handover, in_post && self.hands_over(), over, machine)?;
                }
                Effect::Unit(order) => {
                    rest = true;
                    self.last_order = Some(order);
                }
                Effect::BootProgress(stage) => {
                    rest = true;
                    let queued = before.waiting > 0;
                    let known_only = matches!(machine.cause(), Cause::Startup | Cause::Restored);
                    let backwards = stage != BootStage::Unspecified && self.stage > Some(stage);
                    let over_others = stage != BootStage::Unspecified && self.foreign;
                    let wanted = machine.settings.write_boot_progress;
                    let holds = wanted && !known_only && !backwards && !over_others;
                    self.claim(I::Progress, !queued, holds, machine)?;
                    self.stage = Some(stage);
                }
                Effect::Transitioned(entry) => {
                    rest = true;
                    let change = entry.from != entry.to;
                    let reset = matches!(entry.cause, Cause::HostReset | Cause::FirmwareSeen);
                    let allowed = change || (entry.to == AcpiState::S2D2 && reset);
                    let untold = self.untold;
                    self.claim(I::Transitions, true, allowed && (!change || untold > 0), machine)?;
                    self.untold -= u32::from(change);
                }
                Effect::DrainTimedOut | Effect::Assert => rest = true,
            }
        }
        let quiet = !machine.is_draining();
        let untold = self.untold;
        // A value that came and went within a drain is told as well; a decision and rule 5 may fall together.
        self.claim(I::Transitions, quiet, untold == 0, machine)
    }

    fn check_gate(&mut self, machine: &Machine, before: &Before, event: Event) -> Result<(), Broken> {
        use Invariant as I;
        let open = machine.is_open();
        let expected = self.open();
        self.claim(I::GateConditions, true, open == expected, machine)?;
        let read = policy::dimm_sensors(machine) == SensorMode::Read;
        self.claim(I::GateShown, true, open == machine.gate_reasons().is_empty(), machine)?;
        self.claim(I::Bus, true, read == machine.has_bus(), machine)?;

        let opened = open && !before.open;
        let settled = before.all_since.is_some_and(|at| self.now >= at + self.settings.timing.settle);
        let unlocked = before.locked
            && before.quiet_since.is_some_and(|at| self.now >= at + self.settings.timing.restore_settle);
        self.claim(
            I::TimeOpens,
            opened,
            event == Event::Tick && (unlocked || (settled && !before.locked)),
            machine,
        )?;
        let closed = before.open && !open;
        let grown = machine.epoch().0 == before.epoch.0 + u32::from(closed);
        self.claim(I::Epoch, closed || machine.epoch() != before.epoch, grown, machine)
    }

    /// Every state that nobody Set, by its cause.
    fn check_inferences(
        &mut self,
        machine: &Machine,
        before: &Before,
        event: Event,
        ended: Option<Suspected>,
    ) -> Result<(), Broken> {
        use Invariant as I;
        let (state, cause) = (machine.state(), machine.cause());
        let now = self.now;
        let again = cause == Cause::HostReset && ended.is_some_and(|s| !s.is_glitch());
        let inferred = (state != before.state || again) && !matches!(event, Event::Set { .. });
        let decided = self.decided && (!before.decided || self.revoked);
        let unlocked = before.locked && !self.locked;
        let complete_for = before.complete_since.map(|at| now.since(at));
        let on_edge = !self.revoked && self.power == Some(Chassis::On) && before.power == Some(Chassis::Off);
        let off_edge = self.power == Some(Chassis::Off) && before.power != Some(Chassis::Off);
        let wait = Duration::from_secs(10);
        let evidence = self.settings.evidence;
        let acts = evidence.s0_from_post_complete && evidence.post_complete_trusted;
        let post_complete = acts && complete_for.is_some_and(|d| d >= wait);
        let made = self.made;
        let host_off = ended.is_some() && self.host == Some(HostState::Off);
        let evidence = match cause {
            Cause::HostReport => false,
            Cause::ChassisOff => off_edge && state == AcpiState::S5G2,
            Cause::HostOff => (off_edge || host_off) && state == AcpiState::S5G2,
            Cause::HostReset => {
                state == AcpiState::S2D2 && self.running() && ended.is_some_and(|s| !s.is_glitch())
            }
            // Before the decision the word waits for it.
            Cause::FirmwareSeen | Cause::BootProgress => {
                made == Some((state, cause)) || self.decision == Some((state, cause))
            }
            Cause::Resumed => on_edge && before.state.is_sleep() && state == AcpiState::S2D2,
            Cause::PowerOn => on_edge && state == AcpiState::S2D2,
            Cause::PostComplete => state == AcpiState::S0G0D0 && post_complete,
            Cause::Startup | Cause::Restored => decided || unlocked,
        };
        self.claim(I::Evidence, inferred, evidence, machine)?;
        let s0 = inferred && state.is_working();
        let runs = made.is_some_and(|(_, cause)| cause == Cause::BootProgress);
        let licensed = decided || unlocked || post_complete || runs;
        self.claim(I::InferredS0, s0, licensed && !self.off_now(machine), machine)?;

        // A transition that is due by time has come.
        let due = acts && complete_for.is_some_and(|d| d >= wait) && !before.state.is_working();
        self.claim(I::Evidence, due && event == Event::Tick, state == AcpiState::S0G0D0, machine)?;
        // A word acts in its step; what else falls into it comes behind the word.
        let heeded = made.is_none_or(|made| made == (state, cause) || ended.is_some());
        self.claim(I::Words, made.is_some(), heeded, machine)?;
        let reset = ended.is_some_and(|s| !s.is_glitch()) && self.running();
        self.claim(I::Evidence, reset, state == AcpiState::S2D2 && cause == Cause::HostReset, machine)?;
        let gone = host_off && !before.state.is_off_like() && !before.state.is_sleep();
        self.claim(I::Evidence, gone, state == AcpiState::S5G2, machine)?;

        // Rule 3, and rule 8. A first value is rule 6's, but not of a power that was seen to come on (note 3).
        let says_off = off_edge && (before.decided || before.on_edge);
        let rested = state.is_off_like() || state.is_sleep();
        self.claim(
            I::ChassisOff,
            says_off,
            rested && machine.device() == AcpiState::S3D3 && !machine.is_open(),
            machine,
        )?;
        let woken = !before.state.is_working() && !before.state.is_sleep();
        let s2 =
            on_edge && (!woken || (self.settings.evidence.s2_from_power_on && before.state.is_off_like()));
        self.claim(I::ChassisOff, s2, state == AcpiState::S2D2, machine)?;
        self.claim(I::ChassisOff, on_edge, !state.is_working(), machine)
    }

    fn off_now(&self, machine: &Machine) -> bool {
        self.off(machine.state())
    }

    /// Deadline, sensors, fans, units: what follows.
    fn check_followers(&mut self, machine: &Machine) -> Result<(), Broken> {
        use Invariant as I;
        let now = self.now;
        let timing = self.settings.timing;
        let off = self.off_now(machine);
        let fans = policy::fans(machine);
        let held = fans != FanDemand::Free;
        let diagnoses = policy::diagnoses(machine);
        let stuck = diagnoses.contains(&Diagnosis::StuckInPost) || diagnoses.contains(&Diagnosis::NotWorking);
        let undecided = !self.decided;
        let shown = policy::thermal_sensors(machine) == SensorMode::Read;
        let nothing = !machine.is_open()
            && !shown
            && !held
            && !stuck
            && machine.deadline(Timer::ClosedTooLong).is_none();
        self.claim(I::BeforeDecision, undecided, nothing, machine)?;
        let unknown = self.reported || machine.state() == AcpiState::Unknown || machine.state().is_off_like();
        // The record of this boot of the BMC is shown at once.
        let remembered = self.stored.is_some_and(|s| s.same_bmc_boot && s.state == machine.state());
        let by_rule_3 = machine.cause() == Cause::Resumed || machine.cause() == Cause::PowerOn;
        // Or what was decided first, where a power service had just started.
        let anew = self.anew && machine.state().is_sleep();
        self.claim(I::BeforeDecision, undecided, unknown || remembered || by_rule_3 || anew, machine)?;
        let decision = self.decision;
        // Rule 5 may have been waiting for it, or, after a very late wake-up, `host_off`.
        let followed = matches!(machine.cause(), Cause::HostReset | Cause::HostOff);
        let decided = decision == Some((machine.state(), machine.cause()));
        self.claim(I::Decision, decision.is_some(), decided || followed, machine)?;

        let deadline = self.runs_since.map(|at| at + timing.deadline);
        self.claim(I::Deadline, self.decided, machine.deadline(Timer::ClosedTooLong) == deadline, machine)?;
        let due = deadline.is_some_and(|at| at <= now);
        // A host that only settles has overcome it (note 21).
        let settles = machine.state() != AcpiState::S2D2 && self.opens_at.is_some();
        self.claim(I::Deadline, due || stuck, stuck == (due && !settles), machine)?;
        let ahead = deadline.is_some_and(|at| at > now);
        let stall = matches!(fans, FanDemand::Held { level: FanLevel::Stall, .. });
        self.claim(I::Deadline, ahead, machine.wake_at() <= deadline, machine)?;
        // A hold that is about to end keeps its level.
        let ends_soon = self.opens_at.is_some_and(|at| now < at + timing.hold_after);
        self.claim(I::Deadline, due && held && !ends_soon, stall, machine)?;
        self.claim(I::EarlyReport, diagnoses.contains(&Diagnosis::EarlyReport), !machine.is_open(), machine)?;
        let early = diagnoses.contains(&Diagnosis::EarlyReport) == self.firmware.early;
        self.claim(I::EarlyReport, self.firmware.early, early, machine)?;
        let waits = matches!(machine.state().kind(), StateKind::Post | StateKind::Unknown);
        let waits = waits && self.decided && !off && self.done();
        let long = waits && now >= self.firmware.since + Duration::from_secs(600);
        self.claim(I::OsNotReported, waits, diagnoses.contains(&Diagnosis::OsNotReported) == long, machine)?;

        let warm = self.firmware_seen || self.powered_at.is_none_or(|at| at + timing.thermal_grace <= now);
        self.claim(I::Thermal, self.decided, shown == (!off && warm), machine)?;

        let free = off || (machine.is_open() && (self.dimms_known || !self.settings.has_dimms));
        self.claim(I::HoldEnds, free, !held, machine)?;
        let in_post = machine.state() == AcpiState::S2D2 && self.closed_since.is_some();
        let long = self.closed_since.is_some_and(|at| at + timing.hold_after <= now);
        self.claim(I::HoldBegins, in_post || long, held, machine)?;
        self.claim(I::HoldEnds, held, !off && self.decided, machine)?;

        // The row of 3.1 is what systemd was told last.
        let row = match machine.state().kind() {
            _ if off => Some(UnitOrder::Start(Target::S5)),
            StateKind::Working => Some(UnitOrder::Start(Target::S0)),
            StateKind::Post => Some(UnitOrder::Start(Target::S2)),
            StateKind::OffLike => Some(UnitOrder::Start(Target::S5)),
            StateKind::Sleep => None,
            StateKind::Unknown => Some(UnitOrder::StopAll),
        };
        let told = match self.last_order {
            Some(UnitOrder::Restart(target)) => Some(UnitOrder::Start(target)),
            order => order,
        };
        let quiet = self.decided && !machine.is_draining() && row.is_some();
        self.claim(I::Units, quiet, told == row, machine)?;

        let stored = machine.to_store();
        let known = self.decided || self.reported || self.suspected.is_some();
        let suspected = self.suspected.is_some();
        self.claim(
            I::Stored,
            known,
            stored
                == Some(Stored {
                    state: machine.state(),
                    device: machine.device(),
                    reported: self.rests,
                    off,
                    reset_suspected: suspected,
                    reset_requested: self.suspected.is_some_and(|s| s.requested),
                    firmware: FirmwareRecord {
                        word: Some(FirmwareWord {
                            phase: self.firmware.phase,
                            source: machine.firmware.word().source,
                        }),
                        ran_from: self.firmware.ran_from,
                        early: self.firmware.early,
                    },
                    post: self.os,
                    complete_seen: self.firmware.complete_seen,
                    signs_seen: self.speaks,
                    same_bmc_boot: !self.locked,
                    good_dimms: self.good,
                }),
            machine,
        )
    }

    fn check_diagnoses(&mut self, machine: &Machine) -> Result<(), Broken> {
        use Invariant as I;
        let now = self.now;
        let diagnoses = policy::diagnoses(machine);
        let has = |diagnosis| diagnoses.contains(&diagnosis);
        let owed = self.owed.filter(|_| self.speaks);
        let silent = owed.is_some_and(|at| now >= at + self.settings.timing.silent_after);
        self.claim(I::Silence, true, has(Diagnosis::FirmwareSilent) == silent, machine)?;
        let dark = self.cpu_due.is_some_and(|at| now >= at + Duration::from_secs(30))
            && self.low.is_some_and(|at| now >= at + Duration::from_secs(10));
        self.claim(I::CpuPower, true, has(Diagnosis::NoCpuPower) == dark, machine)?;
        let missing = self.dimms_due() && self.dimms_missing();
        self.claim(I::Dimms, true, has(Diagnosis::MissingDimm) == missing, machine)?;
        let told = [
            Diagnosis::BusStuck,
            Diagnosis::UnguardedBus,
            Diagnosis::FailsafeConfig,
            Diagnosis::RivalOwner,
            Diagnosis::BusSilent,
        ];
        let told = told.map(has);
        let mute = self.untold_since.iter().flatten().min().map(|since| *since + Duration::from_secs(2));
        self.claim(I::Mute, true, has(Diagnosis::EvidenceMute) == mute.is_some_and(|at| at <= now), machine)?;
        self.claim(I::Told, true, told == self.told, machine)?;
        // Each deadline that lies ahead wakes the machine.
        let ahead = [
            owed.map(|at| at + self.settings.timing.silent_after),
            mute,
            self.cpu_due
                .zip(self.low)
                .map(|(due, low)| (due + Duration::from_secs(30)).max(low + Duration::from_secs(10))),
        ];
        for at in ahead.into_iter().flatten().filter(|at| *at > now) {
            self.claim(I::Wake, true, machine.wake_at().is_some_and(|wake| wake <= at), machine)?;
        }
        Ok(())
    }

    fn hands_over(&self) -> bool {
        self.settings.spd_mux.is_some() || !self.settings.quiesce.is_empty()
    }

    fn all_ordered(&self, way: Way) -> bool {
        (way.mux || self.settings.spd_mux.is_none()) && (way.units || self.settings.quiesce.is_empty())
    }

    fn check_handover(&mut self, machine: &Machine) -> Result<(), Broken> {
        use Invariant as I;
        let open = self.open();
        self.returning &= open;
        if open {
            self.way = None;
        } else if self.way.is_none() {
            // A Set that waits since an earlier closing does not wait longer for this one.
            let waiting = self.waiting.first().map_or(self.now, |(_, since)| *since);
            let cap = waiting + self.settings.timing.ack_cap;
            self.way = Some(Way { cap, drained: false, units: false, quiesced: false, mux: false });
        }
        let bus = open && !self.returning;
        self.claim(I::Bus, true, machine.has_bus() == bus, machine)?;
        let Some(way) = self.way.filter(|_| self.hands_over()) else { return Ok(()) };
        let ordered = self.all_ordered(way);
        let late = self.now >= way.cap;
        self.claim(I::Handover, late, ordered, machine)?;
        self.claim(I::Handover, !way.drained && !ordered, machine.wants_drained(), machine)?;
        let cap = way.cap;
        self.claim(I::Handover, !ordered, machine.wake_at().is_some_and(|at| at <= cap), machine)
    }

    fn check_answers(&mut self, machine: &Machine, before: &Before, event: Event) -> Result<(), Broken> {
        use Invariant as I;
        let now = self.now;
        let cap = self.settings.timing.ack_cap;
        let draining = machine.is_draining();
        let published = self.published;
        let current = (machine.state(), machine.device());
        self.claim(I::SetGet, !draining, published == current, machine)?;
        if let Event::Set { id, state } = event {
            self.claim(I::SetGet, true, machine.state() == state, machine)?;
            let must_wait =
                before.draining || state == AcpiState::S2D2 || (before.open && !machine.is_open());
            let waits = self.waiting.iter().any(|(waiting, _)| *waiting == id);
            self.claim(I::Barrier, true, waits == must_wait, machine)?;
        }
        if let Event::Drained { epoch } = event {
            let ours = epoch == before.epoch;
            // With a mux or units it is one step of several.
            self.claim(I::Answered, ours && !self.hands_over(), !draining, machine)?;
            self.claim(I::Stale, !ours, draining == before.draining, machine)?;
        }
        let waiting = self.waiting.len();
        self.claim(I::Answered, true, (waiting > 0) == draining, machine)?;
        let oldest = self.waiting.first().map(|(_, at)| *at + cap);
        self.claim(I::Answered, oldest.is_some(), oldest > Some(now) && machine.wake_at() <= oldest, machine)
    }

    fn check_time(&mut self, machine: &Machine) -> Result<(), Broken> {
        use Invariant as I;
        let now = self.now;
        let wake = machine.wake_at();
        self.claim(I::Wake, wake.is_some(), wake > Some(now), machine)
    }

    /// Checks the events that change nothing.
    pub(super) fn check_still(&mut self, machine: &Machine) -> Result<Said, Broken> {
        self.said = 0;
        self.check_ticks(machine)?;
        self.check_stale(machine)?;
        Ok(self.said)
    }

    /// A tick now, and just before `wake_at`, changes nothing that the world can see.
    fn check_ticks(&mut self, machine: &Machine) -> Result<(), Broken> {
        let early = machine
            .wake_at()
            .map_or(self.now + Duration::from_secs(3600), |at| at - Duration::from_micros(1));
        for at in [self.now, early] {
            let mut copy = machine.clone();
            let effects = copy.step(at, Event::Tick);
            let same = effects.as_slice().is_empty()
                && shown(&copy) == shown(machine)
                && copy.wake_at() == machine.wake_at();
            self.claim(Invariant::Ticks, true, same, machine)?;
        }
        Ok(())
    }

    /// Results that belong to an older closing change nothing that the world can see.
    fn check_stale(&mut self, machine: &Machine) -> Result<(), Broken> {
        let epoch = Epoch(machine.epoch().0.wrapping_sub(1));
        for event in [
            Event::Drained { epoch },
            Event::DimmsKnown { epoch },
            Event::Dimms { epoch, answering: 0, required_silent: true },
            Event::Quiesced { epoch },
            Event::MuxAtHost { epoch },
            Event::MuxAtBmc { epoch },
        ] {
            let mut copy = machine.clone();
            let effects = copy.step(self.now, event);
            let same = effects.as_slice().is_empty() && shown(&copy) == shown(machine);
            self.claim(Invariant::Stale, true, same, machine)?;
        }
        Ok(())
    }

    /// The machine has forgotten its history.
    pub(super) fn forget_history(&mut self, machine: &Machine) {
        self.boots = machine.history().boots();
    }

    /// Returns what the record remembers that the machine does not: part of an abstract state.
    pub(super) fn key(&self) -> impl Eq + std::hash::Hash + use<> {
        (self.waiting.len().min(2), self.last_order, self.foreign, self.stage)
    }

    /// The same of the way to the host.
    pub(super) fn way_key(&self) -> impl Eq + std::hash::Hash + use<> {
        let way = self.way.map(|way| (way.drained, way.units, way.quiesced, way.mux));
        (way, self.returning, self.waiting.len().min(2))
    }
}

/// All that the world can see, now and by waiting.
fn shown(machine: &Machine) -> impl PartialEq + use<> {
    (
        (machine.state(), machine.cause(), machine.device(), machine.epoch(), machine.is_draining()),
        (machine.is_open(), machine.gate_reasons(), policy::thermal_sensors(machine), policy::fans(machine)),
        (policy::diagnoses(machine), machine.is_off(), machine.to_store(), machine.zones.key().0),
        (machine.has_bus(), machine.wants_drained()),
    )
}

/// The document names every invariant, and no other.
#[test]
fn the_document_lists_every_invariant() {
    let text = include_str!("../../../../docs/invariants.md");
    let listed: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(listed, Invariant::ALL.iter().map(|i| i.name()).collect::<Vec<_>>());
}
