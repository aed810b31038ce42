// SPDX-License-Identifier: Apache-2.0
//! The machine of one host: events in, effects out. The only place where its state changes.
//!
//! Owns: rules 1 to 11 (rules 3.2) and the order of the barrier (rules 3.3). The consequences of a state are in
//! [`policy`](super::policy). Must never: ask what time it is, wait, or fail.
//!
//! | rule | in short | here |
//! |---|---|---|
//! | 1, 2 | a Set is taken as it is; S2 again after 5 s is a reset | `on_set` |
//! | 3, 8 | chassis goes Off or comes On | `follow_power` |
//! | 4 | the host leaves Running under power, or is to be reset by force: a reset is suspected; Off for `host_off` (20 s) is S5 | `on_host`, `resolve_suspicion` |
//! | 4a | POST status falls from complete: a reset is suspected | `on_os` |
//! | 5 | it is Running again for `reset_confirm` (5 s), and no report or complete POST explains it: S2 | `resolve_suspicion` |
//! | 6 | the daemon starts | `start::decide` |
//! | 7 | with `s0_from_post_complete`: a trusted POST status is complete for 10 s: S0 | `Timer::PostComplete` |
//! | 9 | a power service that was seen is missing: the gate is closed | `conditions` |
//! | 10 | boot progress or a code shows the firmware at work: the gate is closed, and it is S2 | `firmware_works` |
//! | 11 | boot progress says that the OS runs: S0 | `os_runs` |
//!
//! The parts own the data, and know nothing of each other (decision 0006): `Power` what is reported of chassis, host and OS;
//! `Suspicion` a suspected reset; `Firmware` the phase of the firmware; `Current` the state; `Gate` the times of the gate; `Barrier` what waits for the drain;
//! `Handover` whose the guarded buses are; `Boot` the history, and what was seen of the firmware; `Zones` the hold of the
//! DIMMs' fans; `Orders` what was last ordered; `Watch` the facts behind the diagnoses.
//!
//! A deadline is never an effect: [`Machine::wake_at`] says when to call [`Machine::step`] next, and a
//! call that comes early, late or twice does no harm. All deadlines are in one table, `machine/deadlines.rs`.
//!
//! Words: a *report* is what the host Set; everything else that changes the state is *inferred*.
//! *Off* is chassis Off or what counts as it. *Open* is the gate. *POST status* is the OS status of power control, where
//! it is trusted. Rules and notes are those of `docs/rules.md`.

mod barrier;
mod boot;
mod current;
mod deadlines;
mod decision;
pub(crate) mod firmware;
mod gate;
mod handover;
mod orders;
mod power;
mod questions;
mod start;
mod suspicion;
mod timers;
mod watch;
mod words;
mod zones;

use core::time::Duration;

use self::{
    barrier::Barrier,
    firmware::{Firmware, Phase, Source},
    gate::Conditions,
    handover::Handover,
    orders::Orders,
    start::{DECIDE_WITHOUT_CHASSIS, POWER_CONTROL_STARTS, Start},
    suspicion::Suspicion,
    zones::Zones,
};
pub(crate) use self::{
    boot::Boot,
    current::Current,
    gate::Gate,
    power::Power,
    timers::Timer,
    watch::{Answering, Watch},
    zones::Hold,
};
pub use self::{
    firmware::{FirmwareRecord, Phase as FirmwarePhase, Source as FirmwareSource, Word as FirmwareWord},
    gate::GateReason,
    start::Stored,
};
use super::{
    acpi::{AcpiState, StateKind},
    cause::Cause,
    effect::{BootStage, Effect, Effects, UnitRow},
    event::{Event, SetId},
    evidence::{Chassis, Found, HostState},
    history::Transition,
    time::Time,
};
use crate::config;

/// Rule 2: S2 again after this long is a reset, not a retry.
const RESET_BETWEEN_SETS: Duration = Duration::from_secs(5);

/// The machine of one host.
#[derive(Clone, Debug)]
pub struct Machine {
    settings: config::Host,
    /// The latest time the machine was told.
    now: Time,
    start: Start,
    power: Power,
    suspicion: Suspicion,
    firmware: Firmware,
    current: Current,
    gate: Gate,
    barrier: Barrier,
    handover: Handover,
    boot: Boot,
    zones: Zones,
    orders: Orders,
    watch: Watch,
}

impl Machine {
    /// A host of which nothing is known but what was stored.
    #[must_use]
    pub fn new(now: Time, settings: config::Host, stored: Option<Stored>) -> Self {
        // The record of this boot of the BMC is shown at once; nothing follows from it before rule 6 decides.
        let known = stored.filter(|stored| stored.same_bmc_boot);
        let current = Current::new(now, known);
        let mut machine = Self {
            now,
            start: Start::Undecided { stored, at_the_latest: now + DECIDE_WITHOUT_CHASSIS, heard: None },
            power: Power::new(now, &settings, stored.is_some_and(|stored| stored.complete_seen)),
            suspicion: Suspicion::default(),
            firmware: Firmware::new(now, known.filter(|stored| !stored.off).map(|stored| stored.firmware)),
            gate: Gate::new(&settings.timing),
            barrier: Barrier::new(settings.timing.ack_cap, (current.state(), current.device())),
            current,
            handover: Handover::new(&settings),
            boot: Boot::default(),
            zones: Zones::new(settings.has_dimms),
            orders: Orders::default(),
            watch: Watch::new(settings.has_dimms, stored),
            settings,
        };
        // The gate is closed from the first moment on.
        machine.follow_gate();
        machine
    }

    /// Takes one event in. The only place where the state changes. In this order: what is due by now, and what that ends;
    /// the event; what is due by it. The caller revokes permits before it carries out any effect, if the gate is
    /// not open any more.
    pub fn step(&mut self, now: Time, event: Event) -> Effects {
        self.now = self.now.max(now);
        let mut effects = Effects::default();
        self.advance();
        // A barrier that time has just ended is over, whatever the event brings: its Sets do not wait for another drain.
        self.flush(&mut effects);
        let was_open = self.is_open();
        self.handle(event, was_open, &mut effects);
        self.advance();
        if was_open && !self.is_open() {
            self.gate.count_closing();
            self.zones.set_dimms_known(false);
            self.watch.answering = None;
        }
        self.flush(&mut effects);
        effects
    }

    /// The orders of the handover first: they wait for no barrier.
    fn flush(&mut self, effects: &mut Effects) {
        self.follow_gate();
        self.handover.flush(effects);
        self.barrier.flush(self.current.state(), self.current.device(), effects);
    }

    fn follow_gate(&mut self) {
        let open = self.is_open();
        self.handover.follow(self.now, open, self.gate.epoch(), self.barrier.cap());
    }

    fn handle(&mut self, event: Event, was_open: bool, effects: &mut Effects) {
        let present = self.gate.epoch();
        match event {
            Event::Chassis(value) => self.on_chassis(value),
            Event::Host(value) => self.on_host(value),
            Event::Os(value) => self.on_os(value),
            Event::Found(found) => self.on_found(found),
            Event::ForcedReset => {
                // Rule 4.
                if !self.power.is_off() {
                    self.suspicion.request(self.now);
                }
            }
            Event::Progress(stage) => {
                self.boot.note_progress_by_others(self.now);
                self.on_progress(stage);
                self.watch.note_sign();
            }
            Event::PostCode(code) => {
                self.on_post_code(code);
                self.watch.note_sign();
            }
            Event::Strangers(there) => self.power.set_strangers(there),
            Event::Set { id, state } => {
                self.on_set(id, state, was_open);
                self.watch.note_sign();
            }
            Event::SetDevice { id, state } => {
                self.watch.note_sign();
                self.current.set_device(state);
                self.barrier.answer_device(id, state, effects);
            }
            Event::Drained { epoch } if epoch == present => self.handed_over(|way| way.drained(present)),
            Event::Quiesced { epoch } if epoch == present => self.handed_over(|way| way.quiesced(present)),
            Event::MuxAtHost { epoch } if epoch == present => self.handed_over(Handover::mux_given),
            Event::MuxAtBmc { epoch } if epoch == present => self.handover.mux_taken(),
            Event::DimmsKnown { epoch } if epoch == present => self.zones.set_dimms_known(was_open),
            Event::Dimms { epoch, answering, required_silent } if epoch == present => {
                let answering = Answering { count: answering, required_silent };
                self.watch.answering = was_open.then_some(answering);
            }
            // Of an older closing.
            Event::Drained { .. }
            | Event::Quiesced { .. }
            | Event::MuxAtHost { .. }
            | Event::MuxAtBmc { .. }
            | Event::DimmsKnown { .. }
            | Event::Dimms { .. }
            | Event::Tick => {}
            Event::DimmsPresent(count) => self.watch.present = count,
            Event::GuardAlarm => self.zones.alarm(),
            Event::CpuPower(power) => self.watch.set_cpu_power(self.now, power),
            Event::BusStuck(holds) => self.watch.bus_stuck = holds,
            Event::UnguardedBus(holds) => self.watch.unguarded_bus = holds,
            Event::FailsafeConfig(holds) => self.watch.failsafe_config = holds,
            Event::Rival(there) => self.watch.rival = there,
            Event::BusSilent(holds) => self.watch.bus_silent = holds,
            Event::Lapsed => self.gate.lapse(),
        }
    }

    // ---- The rules of rules 3.2 ---------------------------------------------------------------

    /// Rules 1 and 2.
    fn on_set(&mut self, id: SetId, state: AcpiState, was_open: bool) {
        let last_set = self.current.note_set(self.now, !self.power.is_off());
        self.gate.set_locked(false);
        self.power.forget_complete();
        self.barrier.answer(id);
        // Which Set waits for the drain: note 15.
        if state.kind() == StateKind::Post || (was_open && !state.is_working()) {
            self.barrier.begin(self.now);
        }
        self.hear_report(state.kind());

        if state != self.current.state() {
            self.become_state(state, Cause::HostReport);
        } else if self.current.cause() != Cause::HostReport {
            self.current.confirm();
            self.note_seen();
        } else {
            // The same report counts anew: the first may have come while the host was off.
            self.note_seen();
            self.boot.repeat();
            if state.kind() != StateKind::Post {
                self.order_unit();
                return;
            }
            self.barrier.emit(Effect::Assert);
            let retry = last_set.is_some_and(|last| self.now.since(last) < RESET_BETWEEN_SETS);
            if !retry && !self.is_off() {
                self.firmware.begin(self.now, Source::Report, Some(self.now));
                self.restart_post();
            }
        }
    }

    fn on_chassis(&mut self, value: Option<Chassis>) {
        let before = self.power.set_chassis(value);
        // Before the decision a first value is rule 6's; a change from one value to another is rule 3's.
        if !self.is_decided() && self.power.chassis() == Some(Chassis::Off) && before.is_none() {
            // With `host_off_is_off` power may have been seen to come on before: then this is its edge all the same.
            if self.power.came_on() {
                self.follow_power(Cause::ChassisOff);
            } else {
                self.power.found_off();
                self.suspicion.clear();
                self.firmware.end(self.now);
                self.current.forget_report();
            }
            let Start::Undecided { stored, .. } = self.start else { return };
            self.decide();
            let stored = stored.map(|stored| Stored { same_bmc_boot: false, ..stored });
            self.start = Start::FoundOff { stored, until: self.now + POWER_CONTROL_STARTS };
            return;
        }
        self.follow_power(Cause::ChassisOff);
    }

    fn on_host(&mut self, value: Option<HostState>) {
        let was_off = self.power.is_off();
        let Some(change) = self.power.set_host(self.now, value) else { return };
        self.follow_power(Cause::HostOff);
        // Rule 4. A host whose first value comes after the decision was taken for Running until then (note 4).
        let left_running = match change.from {
            Some(HostState::Running | HostState::TransitioningToOff) => true,
            Some(HostState::Off | HostState::Halted) => false,
            None => self.is_decided(),
        };
        match change.to {
            HostState::Off | HostState::Halted if left_running => self.suspect(),
            HostState::Running => {
                let off_for_good =
                    self.current.state().is_off_like() && self.current.cause() == Cause::HostOff;
                if off_for_good && !was_off && !self.suspicion.holds() {
                    self.suspicion.host_came(self.now);
                }
                self.suspicion.host_runs();
            }
            HostState::TransitioningToOff => self.suspicion.host_stops(),
            HostState::Off | HostState::Halted => {}
        }
    }

    fn suspect(&mut self) {
        if !self.power.is_off() {
            self.suspicion.host_left(self.now, self.power.post_is_complete());
            self.firmware.suspend(self.now);
        }
    }

    /// A value that was read again, and no signal has told (note B2): evidence like any other.
    fn on_found(&mut self, found: Found) {
        let untold = self.power.untold_since(self.now, found);
        match found {
            Found::Chassis(value) => self.on_chassis(Some(value)),
            Found::Host(value) => self.on_host(Some(value)),
            Found::Os(value) => self.on_os(Some(value)),
        }
        self.power.set_untold(found, untold);
    }

    /// Chassis power as the rules see it, and its edges: rules 3 and 8.
    fn follow_power(&mut self, off_cause: Cause) {
        if self.power_control_starts() {
            return;
        }
        let Some(edge) = self.power.follow(self.now, self.due(Timer::HostOff)) else { return };
        self.follow_off();
        match edge.to {
            Some(Chassis::Off) => {
                self.suspicion.clear();
                self.firmware.end(self.now);
                self.current.forget_report();
                self.current.device_is_off();
                if !self.current.state().is_off_like() && !self.current.state().is_sleep() {
                    self.become_state(AcpiState::S5G2, off_cause);
                }
            }
            Some(Chassis::On) if edge.from == Some(Chassis::Off) => self.power_came(),
            Some(Chassis::On) | None => {}
        }
        self.follow_rows();
    }

    /// Rules 3 and 8: chassis Off to On.
    fn power_came(&mut self) {
        let kind = self.current.kind();
        self.current.forget_report();
        // A resume is quick, and its report true.
        let from = (kind != StateKind::Sleep).then_some(self.now);
        self.firmware.begin(self.now, Source::Power, from);
        match kind {
            StateKind::Sleep => self.become_state(AcpiState::S2D2, Cause::Resumed),
            StateKind::Working => self.become_state(AcpiState::S2D2, Cause::PowerOn),
            StateKind::OffLike if self.settings.evidence.s2_from_power_on => {
                self.become_state(AcpiState::S2D2, Cause::PowerOn);
            }
            StateKind::OffLike | StateKind::Post | StateKind::Unknown => {}
        }
    }

    /// Everything whose time has come.
    fn advance(&mut self) {
        // Due long before rule 6's two minutes, if the wake-up is that late.
        self.follow_power(Cause::HostOff);
        let read = self.power.chassis().is_some() && self.power.host().is_some();
        if !self.is_decided() && (read || self.due(Timer::Decide)) {
            self.decide();
            self.follow_power(Cause::HostOff);
        }
        if self.due(Timer::Suspicion) {
            self.resolve_suspicion();
        }
        self.mark();
        if self.act() {
            self.mark();
        }
        if self.due(Timer::Dimms) {
            self.watch.learn_dimms();
        }
    }

    /// The deadlines that act on times which [`Machine::mark`] has brought up to date. True if one of them was due.
    fn act(&mut self) -> bool {
        let complete = self.due(Timer::PostComplete);
        if complete {
            self.become_state(AcpiState::S0G0D0, Cause::PostComplete);
        }
        let unlock = self.due(Timer::Unlock);
        if unlock {
            // Nothing has contradicted a working host for `restore_settle`.
            if self.current.state() == AcpiState::Unknown {
                self.become_state(AcpiState::S0G0D0, Cause::Startup);
            }
            self.firmware.done(self.now, Source::Restored);
            self.gate.end_lock(self.now);
        }
        // Time has made an early report true, or nothing followed a code that says so.
        let early = self.due(Timer::Early);
        let silence = self.due(Timer::DoneCode);
        if early || silence {
            self.firmware_is_done(if silence { Source::PostCode } else { Source::Restored });
        }
        let late = self.due(Timer::Handover);
        if late {
            self.handover.hand_over_late(self.gate.epoch());
        }
        let capped = self.due(Timer::AckCap);
        if capped {
            self.barrier.end();
            self.barrier.emit(Effect::DrainTimedOut);
        }
        complete || unlock || early || silence || late || capped
    }

    /// Rules 4 and 5: what time says about a suspected reset. Due only where the host is Off, or is Running and the state is
    /// not an off-like one: `suspicion_ends_at`.
    fn resolve_suspicion(&mut self) {
        let (glitch, began) = (self.suspicion.is_glitch(), self.reset_began());
        let complete = self.firmware.is_done_by_post_since(self.suspicion.since());
        self.suspicion.clear();
        if !self.power.host_may_run() {
            if !self.current.state().is_off_like() && !self.current.state().is_sleep() {
                self.become_state(AcpiState::S5G2, Cause::HostOff);
            }
        } else if glitch {
            self.firmware.resume(self.now);
        } else {
            self.firmware.begin(self.now, Source::Reset, began);
            if complete {
                // It rose since the reset began, and so is the newer word; `min_post` counts from the reset.
                self.firmware.done(self.now, Source::PostStatus);
            }
            self.become_state(AcpiState::S2D2, Cause::HostReset);
        }
    }

    // ---- The barrier of rules 3.3 ----------------------------------------------------------------

    /// A step of the handover is done. If it was the last, the waiting Sets are answered.
    fn handed_over(&mut self, step: impl FnOnce(&mut Handover) -> bool) {
        if step(&mut self.handover) {
            self.barrier.end();
        }
    }

    // ---- What the rules are made of --------------------------------------------------------------

    /// Enters a state, or the same one again for a new cause.
    fn become_state(&mut self, state: AcpiState, cause: Cause) {
        if !matches!(cause, Cause::Startup | Cause::Restored) {
            self.gate.set_locked(false);
        }
        self.power.forget_complete();
        let again = self.current.state() == state;
        let reset = matches!(cause, Cause::HostReset | Cause::FirmwareSeen);
        let is_transition = !again || reset;
        if is_transition {
            let from = self.current.state();
            let transition = Transition { at: self.now, from, to: state, cause, repeats: 0 };
            self.boot.record(transition);
            self.barrier.emit(Effect::Transitioned(transition));
        }
        self.current.enter(self.now, state, cause, is_transition);
        self.follow_off();
        let reported = cause == Cause::HostReport;
        self.boot.entered(self.now, state.kind(), reported);
        if cause == Cause::HostReset {
            self.watch.owe_sign_anew(self.now);
        } else if state.is_working() {
            self.watch.works(matches!(cause, Cause::Startup | Cause::Restored));
        }
        if again && reset {
            self.barrier.emit(Effect::Assert);
            self.restart_post();
        } else {
            self.order_unit();
        }
        self.write_progress();
    }

    /// Notes what the state shows of the host since power-on.
    fn note_seen(&mut self) {
        let reported = self.current.cause() == Cause::HostReport;
        self.boot.note_seen(self.now, self.current.kind(), reported);
    }

    /// The edges of off, as everything that follows from the state sees it.
    fn follow_off(&mut self) {
        let off = self.is_off();
        if self.boot.follow_off(self.now, off) {
            if off {
                self.watch.owe_nothing();
            } else {
                self.watch.owe_sign_anew(self.now);
            }
        }
    }

    fn unit_row(&self) -> Option<UnitRow> {
        UnitRow::of(self.is_off(), self.current.kind())
    }

    /// Power changed what the rows of 3.1 say, though the state did not.
    fn follow_rows(&mut self) {
        if self.is_decided() && self.orders.differ(self.unit_row()) {
            self.order_unit();
        }
        self.write_progress();
    }

    fn order_unit(&mut self) {
        if let Some(order) = self.orders.follow(self.unit_row()) {
            self.barrier.emit(Effect::Unit(order));
        }
    }

    /// S2 once more: firmware was reset in POST.
    fn restart_post(&mut self) {
        self.boot.count_reset();
        self.barrier.emit(Effect::Unit(self.orders.restart_post()));
    }

    fn write_progress(&mut self) {
        let Some(stage) = self.orders.enter(BootStage::of(self.is_off(), self.current.kind())) else {
            return;
        };
        let wanted = self.settings.write_boot_progress;
        let known_only = matches!(self.current.cause(), Cause::Startup | Cause::Restored);
        let others = self.boot.progress_is_by_others() && stage != BootStage::Unspecified;
        if wanted && !known_only && !others {
            self.barrier.emit(Effect::BootProgress(stage));
        }
    }

    // ---- Times -----------------------------------------------------------------------------------

    /// Brings the times up to date that the deadlines are computed from. A second call at the same time changes nothing.
    fn mark(&mut self) {
        let now = self.now;
        let conditions = self.conditions();
        self.gate.follow(now, conditions.hold(), conditions.are_quiet());
        self.power.count_complete(now, conditions.are_steady());

        let open = self.is_open();
        let powered = self.is_powered();
        let waits = self.gate.is_locked() || self.firmware.is_early();
        self.gate.follow_closed(now, powered && !open, !waits);
        self.watch.expect_cpu_power(now, powered && self.cpu_should_run());
        if !powered {
            self.zones.release();
        } else if open {
            self.zones.opened();
        } else if self.due(Timer::Hold) {
            self.zones.take(self.boot.has_worked());
        }
    }
}

#[cfg(test)]
#[allow(clippy::too_many_lines, reason = "a rule is one claim after another")]
mod tests {
    mod handover;
    mod heard;
    mod invariants;
    mod properties;
    mod reachability;
    mod timers;
}
