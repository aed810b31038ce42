// SPDX-License-Identifier: Apache-2.0
//! The conditions that must hold after every step, whatever happened: `docs/invariants.md`.
//!
//! A [`Watcher`] stands beside a machine, keeps its own record of the events, states rules 3.1 and 3.2 once
//! more from that record, and compares. It must never ask the machine why: only what it shows to the world, and
//! the one or two things a test cannot see otherwise (the deadline, the history's boot).

use std::fmt::Write as _;

use super::super::{power::POST_COMPLETE_BOGUS, *};
use crate::logic::{
    diagnosis::{CpuPower, Diagnosis, DimmCount},
    effect::{Target, UnitOrder},
    event::Epoch,
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

/// A reset is suspected: the record's own words for rule 4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Suspected {
    explained: bool,
    complete: bool,
}

/// The record.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Debug)]
pub(super) struct Watcher {
    settings: config::Host,
    stored: Option<Stored>,
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
    locked: bool,
    steady_since: Option<Time>,
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
    last_set: Option<Time>,
    power_since: Time,
    low: Option<Time>,
    cpu_due: Option<Time>,
    /// Stuck, unguarded, failsafe, rival, silent.
    told: [bool; 5],
    /// Since when each of the three has been another than was told.
    untold_since: [Option<Time>; 3],
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
    steady_since: Option<Time>,
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
            locked: false,
            steady_since: None,
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
            published: (AcpiState::Unknown, AcpiState::Unknown),
            waiting: Vec::new(),
            last_id: 0,
            last_order: None,
            boots: 0,
            foreign: false,
            stage: None,
            untold: 0,
            owed: None,
            last_set: None,
            power_since: now,
            low: None,
            cpu_due: None,
            told: [false; 5],
            untold_since: [None; 3],
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
            steady_since: self.steady_since,
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
        self.record_signs(machine, event, os_before, ended);
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

    /// Every condition of the gate but the state and time.
    fn steady(&self) -> bool {
        self.decided
            && self.power != Some(Chassis::Off)
            && self.running()
            && !self.evidence_missing()
            && self.suspected.is_none()
            && self.post() != Some(Os::Inactive)
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
        self.decision = None;
        match event {
            Event::Chassis(value) => {
                let first = self.chassis.is_none();
                self.missing[0] = value.is_none() && !first;
                self.chassis = value.or(self.chassis);
                self.decided |= first && value == Some(Chassis::Off);
            }
            Event::Host(value) => {
                let last = self.host;
                self.missing[1] = value.is_none() && last.is_some();
                self.host = value.or(last);
                if value.is_some() && value != last {
                    self.host_since = now;
                    let left = match last {
                        Some(HostState::Running | HostState::TransitioningToOff) => true,
                        Some(HostState::Off | HostState::Halted) => false,
                        None => self.decided,
                    };
                    self.follow_power();
                    if left
                        && matches!(value, Some(HostState::Off | HostState::Halted))
                        && self.power != Some(Chassis::Off)
                    {
                        self.suspect();
                    }
                }
            }
            Event::Os(value) => {
                self.missing[2] = value.is_none() && self.os.is_some();
                self.os = value.or(self.os);
                let complete = value == Some(Os::Complete) && self.post() == value;
                if let Some(suspected) = &mut self.suspected {
                    suspected.complete &= complete;
                }
            }
            Event::Set { state, .. } => {
                self.reported = true;
                self.locked = false;
                let running = self.running();
                if let Some(suspected) = &mut self.suspected {
                    suspected.explained |= matches!(state.kind(), StateKind::Post | StateKind::OffLike);
                    if state.is_working() && running {
                        self.suspected = None;
                    }
                }
            }
            Event::Lapsed => {
                self.steady_since = None;
                self.opens_at = None;
            }
            Event::BootProgressByOthers => self.foreign = true,
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
            | Event::SignOfLife
            | Event::GuardAlarm
            | Event::Tick => {}
        }
        self.follow_power();
        let read = self.chassis.is_some() && self.host.is_some();
        let decides =
            !before.decided && (self.decided || read || now.since(self.began) >= Duration::from_secs(120));
        let mut expected = before.state;
        if decides {
            self.decided = true;
            let (state, cause) = self.decide();
            // A Set that came first stands, and so does what rules 3 and 4 made of it.
            if self.reported || before.state != AcpiState::Unknown {
                self.locked = false;
            } else {
                self.decision = Some((state, cause));
                expected = state;
            }
        }
        if let Event::Set { state, .. } = event {
            expected = state;
        }
        if expected != before.state {
            self.state_since = now;
        }
        if self.suspected.is_some_and(|s| s.explained) && self.running() {
            self.suspected = None;
        }
        // Rule 7's premise: the time counts before this step's end.
        let ended = self.suspicion_ends(expected);
        if ended.is_some() {
            self.suspected = None;
        }
        self.bookkeeping(machine, before, event, ended);
        ended
    }

    /// Rule 6, from what was recorded and stored.
    fn decide(&mut self) -> (AcpiState, Cause) {
        let by_evidence = |state| (state, Cause::Startup);
        let restored = |s: Stored| (s.state, Cause::Restored);
        let stored = self.stored;
        let resting = stored.filter(|s| s.state.is_off_like() || s.state.is_sleep());
        let working = stored.filter(|s| s.state.is_working());
        if self.power == Some(Chassis::Off) {
            resting.map_or(by_evidence(AcpiState::S5G2), restored)
        } else if !self.running() {
            self.host_since = self.now;
            if self.suspected.is_none() {
                self.suspect();
            }
            stored.map_or(by_evidence(AcpiState::Unknown), restored)
        } else if let Some(post) = self.post() {
            by_evidence(if post == Os::Complete { AcpiState::S0G0D0 } else { AcpiState::S2D2 })
        } else if let Some(s2) = stored.filter(|s| s.state == AcpiState::S2D2) {
            restored(s2)
        } else if stored.is_some_and(|s| s.reset_suspected) {
            by_evidence(AcpiState::S2D2)
        } else {
            self.locked = !working.is_some_and(|s| s.same_bmc_boot);
            working.map_or(by_evidence(AcpiState::Unknown), restored)
        }
    }

    fn suspect(&mut self) {
        let complete = self.post() == Some(Os::Complete) && !self.missing[2];
        self.suspected = Some(Suspected { explained: false, complete });
    }

    /// Power, with `host_off_is_off`, and what an edge of it does.
    fn follow_power(&mut self) {
        let by_host = self.settings.evidence.host_off_is_off;
        let off_for = self.now.since(self.host_since);
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
        if power == Some(Chassis::Off) {
            self.suspected = None;
        }
        // Before anything is made of what POST status says.
        self.judge_post();
    }

    /// Rule 7: complete this soon after power-on is not complete.
    fn judge_post(&mut self) {
        let fresh = self.on_edge_at.is_some_and(|at| self.now <= at + POST_COMPLETE_BOGUS);
        if fresh && self.chassis == Some(Chassis::On) && self.post() == Some(Os::Complete) {
            self.bogus = true;
        }
    }

    /// `host_off` of rule 4 and `reset_confirm` of rule 5.
    fn suspicion_ends(&self, state: AcpiState) -> Option<Suspected> {
        let timing = &self.settings.timing;
        let suspected = self.suspected?;
        let since = self.host_since;
        let over = match self.host? {
            HostState::Off => self.now >= since + timing.host_off,
            HostState::Running => {
                self.decided
                    && !state.is_off_like()
                    && self.now >= since.max(self.state_since) + timing.reset_confirm
            }
            HostState::Halted | HostState::TransitioningToOff => false,
        };
        over.then_some(suspected)
    }

    /// The times that count from one of this step's facts.
    fn bookkeeping(&mut self, machine: &Machine, before: &Before, event: Event, ended: Option<Suspected>) {
        let now = self.now;
        let state = machine.state();
        let again = machine.cause() == Cause::HostReset && ended.is_some_and(|s| !s.complete);
        let entered = state != before.state || again;
        if entered {
            self.state_since = now;
        }
        if event != Event::Tick {
            self.judge_post();
        }

        let off = self.off(state);
        if off != self.was_off {
            self.was_off = off;
            self.firmware_seen = false;
            self.powered_at = (!off).then_some(now);
            self.owed = self.powered_at;
        }
        let reported_s2 = matches!(event, Event::Set { state: AcpiState::S2D2, .. });
        self.firmware_seen |= !off && (state.is_working() || reported_s2);

        // The lock of rule 6 ends by time (then the gate opens), by any Set, by any change of state.
        let steady = self.steady();
        let mut unlocked = false;
        // After a very late wake-up rule 7, due before, may have ended it first; then `settle` runs.
        let overtaken = entered && machine.cause() != Cause::Startup;
        if self.locked && steady && !overtaken {
            let since = self.steady_since.unwrap_or(now);
            unlocked = now >= since + self.settings.timing.restore_settle;
        }
        // A very late wake-up may bring the decision and what ends its lock in one step.
        let inferred = entered && !matches!(machine.cause(), Cause::Startup | Cause::Restored);
        if unlocked || (before.locked && entered) || inferred {
            self.locked = false;
        }
        self.steady_since = if steady { self.steady_since.or(Some(now)) } else { None };
        let may_open = steady && state.is_working() && !self.locked;
        let opens_at = if unlocked { now } else { now + self.settings.timing.settle };
        self.opens_at = if may_open { self.opens_at.or(Some(opens_at)) } else { None };
        let complete = steady && self.post() == Some(Os::Complete);
        let anew = entered || matches!(event, Event::Set { .. });
        self.complete_since =
            if complete { self.complete_since.filter(|_| !anew).or(Some(now)) } else { None };
        let closed = self.decided && !off && !self.open();
        self.closed_since = if closed { self.closed_since.or(Some(now)) } else { None };
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
    ) {
        let now = self.now;
        let state = machine.state();
        // Firmware runs anew: by rule 5, or it is found in POST.
        let reset = ended.is_some_and(|s| !s.complete) && machine.cause() == Cause::HostReset;
        let found = self.decision.is_some_and(|(state, _)| state == AcpiState::S2D2);
        if reset {
            self.owed = Some(now);
        } else if found && state == AcpiState::S2D2 {
            self.owed = self.owed.or(Some(now));
        }
        let os_changed = os_before.is_some() && self.post().is_some() && self.os != os_before;
        if matches!(event, Event::Set { .. }) {
            self.last_set = Some(now);
        }
        let said = matches!(event, Event::Set { .. } | Event::SetDevice { .. } | Event::BootProgressByOthers);
        let heard = said || event == Event::SignOfLife || (os_changed && matches!(event, Event::Os(_)));
        if heard || state.is_working() {
            self.owed = None;
        }

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

    /// Two minutes after S0, and one after the gate opened.
    fn dimms_due(&self) -> bool {
        let settled = self.now >= self.state_since + Duration::from_secs(120);
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
            self.foreign |= event == Event::BootProgressByOthers;
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
                    let allowed = change || (entry.to == AcpiState::S2D2 && entry.cause == Cause::HostReset);
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
        let settled = before.state.is_working()
            && before.steady_since.is_some_and(|at| self.now >= at + self.settings.timing.settle);
        let unlocked = before.locked
            && before.steady_since.is_some_and(|at| self.now >= at + self.settings.timing.restore_settle);
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
        let again = cause == Cause::HostReset && ended.is_some_and(|s| !s.complete);
        let inferred = (state != before.state || again) && !matches!(event, Event::Set { .. });
        let decided = self.decided && !before.decided;
        let unlocked = before.locked && !self.locked;
        let complete_for = before.complete_since.map(|at| now.since(at));
        let on_edge = self.power == Some(Chassis::On) && before.power == Some(Chassis::Off);
        let off_edge = self.power == Some(Chassis::Off) && before.power != Some(Chassis::Off);
        let wait = match (before.state.kind(), before.cause) {
            (StateKind::Post, Cause::HostReport) => Duration::from_secs(300),
            _ => Duration::from_secs(10),
        };
        let only_s2 = !self.settings.evidence.s0_from_post_complete;
        let post_complete = complete_for.is_some_and(|d| d >= wait)
            && self.settings.evidence.post_complete_trusted
            && (!only_s2 || before.state == AcpiState::S2D2);
        let host_off = ended.is_some() && self.host == Some(HostState::Off);
        let evidence = match cause {
            Cause::HostReport => false,
            Cause::ChassisOff => off_edge && state == AcpiState::S5G2,
            Cause::HostOff => (off_edge || host_off) && state == AcpiState::S5G2,
            Cause::HostReset => {
                state == AcpiState::S2D2 && self.running() && ended.is_some_and(|s| !s.complete)
            }
            Cause::Resumed => on_edge && before.state.is_sleep() && state == AcpiState::S2D2,
            Cause::PowerOn => on_edge && state == AcpiState::S2D2,
            Cause::PostComplete => state == AcpiState::S0G0D0 && post_complete,
            Cause::Startup | Cause::Restored => decided || unlocked,
        };
        self.claim(I::Evidence, inferred, evidence, machine)?;
        let s0 = inferred && state.is_working();
        let licensed = decided || unlocked || post_complete;
        self.claim(I::InferredS0, s0, licensed && !self.off_now(machine), machine)?;

        // A transition that is due by time has come.
        let due = complete_for.is_some_and(|d| d >= wait)
            && (before.state == AcpiState::S2D2 || (!only_s2 && !before.state.is_working()));
        self.claim(I::Evidence, due && event == Event::Tick, state == AcpiState::S0G0D0, machine)?;
        let reset = ended.is_some_and(|s| !s.complete) && self.running();
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
        self.claim(
            I::BeforeDecision,
            undecided,
            unknown || machine.cause() == Cause::Resumed || machine.cause() == Cause::PowerOn,
            machine,
        )?;
        let decision = self.decision;
        // Rule 5 may have been waiting for it, or, after a very late wake-up, `host_off`.
        let followed = matches!(machine.cause(), Cause::HostReset | Cause::HostOff);
        let decided = decision == Some((machine.state(), machine.cause()));
        self.claim(I::Decision, decision.is_some(), decided || followed, machine)?;

        let deadline = self.closed_since.map(|at| at + timing.deadline);
        self.claim(I::Deadline, self.decided, machine.deadline(Timer::ClosedTooLong) == deadline, machine)?;
        let due = deadline.is_some_and(|at| at <= now);
        // A host that only settles has overcome it (note 21).
        let settles = machine.state() != AcpiState::S2D2 && self.opens_at.is_some();
        self.claim(I::Deadline, due || stuck, stuck == (due && !settles), machine)?;
        let ahead = deadline.is_some_and(|at| at > now);
        let stall = matches!(fans, FanDemand::Held { level: FanLevel::Stall, .. });
        self.claim(I::Deadline, ahead, machine.wake_at() <= deadline, machine)?;
        self.claim(I::Deadline, due && held, stall, machine)?;

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
                    reset_suspected: suspected,
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
        let silent = self.owed.is_some_and(|at| now >= at + self.settings.timing.silent_after);
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
            self.owed.map(|at| at + self.settings.timing.silent_after),
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
