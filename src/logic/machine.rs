// SPDX-License-Identifier: Apache-2.0
//! One host: events in, effects out. The only place where its state changes.
//!
//! Owns: the ACPI state and its cause (design 3.2), the barrier (3.3), and the times that everything
//! else is computed from. What follows from them is in [`policy`](super::policy). Must never: ask what time it is,
//! wait, or fail.
//!
//! A deadline is never an effect: [`Machine::wake_at`] says when to call [`Machine::step`] next, and a
//! call that comes early, late or twice does no harm. The order in which one step looks at things:
//! what is due, then the event, then what has become due by it.
//!
//! Words: a *report* is what the host Set; everything else that changes the state is *inferred*.
//! *Off* is chassis Off or what counts as it. *Open* is the gate. The rules' numbers are those of design 3.2; the
//! notes' numbers are those of `docs/decisions/0002`.

mod handover;

use core::time::Duration;

use self::handover::Handover;
use super::{
    acpi::{AcpiState, Kind},
    diagnosis::{CpuPower, DIMMS_FROM, DIMMS_FROM_OPEN, DimmCount, NO_CPU_POWER_FOR, NO_CPU_POWER_FROM},
    evidence::{Chassis, Host, Os, Seen},
    history::{Entry, History},
    policy::{BootStage, UnitRow},
    time::Time,
};
use crate::config;

/// Without a chassis service rule 6 waits this long.
const DECIDE_WITHOUT_CHASSIS: Duration = Duration::from_secs(120);
/// Rule 7: how long POST must be complete for an inferred state to become `S0_G0_D0`.
const POST_COMPLETE: Duration = Duration::from_secs(10);
/// Rule 7: the same against a reported S2: only a lost Set explains it.
const POST_COMPLETE_REPORTED: Duration = Duration::from_secs(300);
/// Rule 7: POST complete this soon after power-on is a line wired to power good.
const POST_COMPLETE_BOGUS: Duration = Duration::from_secs(2);
/// Rule 2: S2 again after this long is a reset, not a retry.
const RESET_BETWEEN_SETS: Duration = Duration::from_secs(5);

/// Names one Set that waits for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SetId(pub u32);

/// Counts the closings of one host's gate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Epoch(pub u32);

/// Why the host is thought to be in its state (design 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// The host said so.
    HostReport,
    /// Chassis power went off.
    ChassisOff,
    /// Chassis power came back after a sleep state.
    Resumed,
    /// The host was off for so long that it is off for good.
    HostOff,
    /// The host was reset: firmware runs again and has not told us.
    HostReset,
    /// POST has been complete for long enough.
    PostComplete,
    /// Chassis power came on.
    PowerOn,
    /// The daemon started, and this is what the evidence shows.
    Startup,
    /// The daemon started, and this is what was stored.
    Restored,
}

impl Cause {
    /// The name on D-Bus and in the journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostReport => "HostReport",
            Self::ChassisOff => "ChassisOff",
            Self::Resumed => "Resumed",
            Self::HostOff => "HostOff",
            Self::HostReset => "HostReset",
            Self::PostComplete => "PostComplete",
            Self::PowerOn => "PowerOn",
            Self::Startup => "Startup",
            Self::Restored => "Restored",
        }
    }
}

/// What is remembered of a host from the daemon's last life (rule 6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stored {
    /// Its state then.
    pub state: AcpiState,
    /// A reset was suspected.
    pub reset_suspected: bool,
    /// The BMC has not booted since, and the state was known to be so in this boot.
    pub same_bmc_boot: bool,
    /// The DIMMs at the last good boot, if there was one; it says nothing about the state.
    pub good_dimms: Option<DimmCount>,
}

impl Stored {
    /// A state, and nothing else.
    #[must_use]
    pub const fn new(state: AcpiState) -> Self {
        Self { state, reset_suspected: false, same_bmc_boot: false, good_dimms: None }
    }
}

/// Something that happened. A value of `None` means that its service went away, or says something the
/// interface does not know (note 1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Chassis power, read or signalled.
    Chassis(Option<Chassis>),
    /// The host's state, read or signalled.
    Host(Option<Host>),
    /// OS status, read or signalled.
    Os(Option<Os>),
    /// Somebody Set `SysACPIStatus`.
    Set {
        /// Who wants the answer.
        id: SetId,
        /// What to.
        state: AcpiState,
    },
    /// Somebody Set `DevACPIStatus`.
    SetDevice {
        /// Who wants the answer.
        id: SetId,
        /// What to.
        state: AcpiState,
    },
    /// No transfer is under way any more on a bus that carries this host's DIMMs.
    Drained {
        /// The closing it belongs to; an older one is dropped.
        epoch: Epoch,
    },
    /// One DIMM answered since the gate opened, or each failed five times.
    DimmsKnown {
        /// The last closing before that opening; an older one is dropped.
        epoch: Epoch,
    },
    /// The DIMM sensors that have answered since the gate opened.
    Dimms {
        /// The last closing before that opening; an older one is dropped.
        epoch: Epoch,
        /// How many.
        answering: u16,
        /// One that is `required` is not among them.
        required_silent: bool,
    },
    /// How many DIMMs the firmware's own tables list, where something publishes them.
    DimmsPresent(Option<u16>),
    /// The units to quiesce have stopped, or cannot be stopped.
    Quiesced {
        /// The closing it belongs to; an older one is dropped.
        epoch: Epoch,
    },
    /// The SPD mux is at the host.
    MuxAtHost {
        /// The closing it belongs to; an older one is dropped.
        epoch: Epoch,
    },
    /// The SPD mux is at the BMC.
    MuxAtBmc {
        /// The last closing before; an older one is dropped.
        epoch: Epoch,
    },
    /// A guard sensor of the DIMM zones has a critical alarm.
    GuardAlarm,
    /// Someone else wrote a boot progress other than `Unspecified`.
    BootProgressByOthers,
    /// The firmware was heard of in some other way: a POST code.
    SignOfLife,
    /// What the CPU's power sensor shows.
    CpuPower(CpuPower),
    /// A transfer on a bus that matters to this host does not end, or has.
    BusStuck(bool),
    /// Another daemon may scan a bus that carries this host's DIMMs, or none may any more.
    UnguardedBus(bool),
    /// Fan control takes this host's unavailable sensors for failed ones, or does not any more.
    FailsafeConfig(bool),
    /// Somebody else serves the same object, or nobody does any more.
    Rival(bool),
    /// The event loop stalled for longer than an open gate's lease.
    Lapsed,
    /// Time passed.
    Tick,
}

/// Something to do. The order of a step's effects is the order in which they must be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Signal the properties that changed, and let Get return them from now on.
    Publish {
        /// `SysACPIStatus`, if it changed.
        state: Option<AcpiState>,
        /// `DevACPIStatus`, if it changed.
        device: Option<AcpiState>,
    },
    /// Answer a Set: success.
    Answer(SetId),
    /// Stop the units to quiesce, now; [`Event::Quiesced`] is awaited.
    Quiesce(Epoch),
    /// Start them again.
    Unquiesce,
    /// Give the SPD mux to the host, now; [`Event::MuxAtHost`] is awaited.
    MuxToHost(Epoch),
    /// Take it back; nothing is read before [`Event::MuxAtBmc`].
    MuxToBmc(Epoch),
    /// The drain did not end within `ack_cap`; the Set is answered all the same.
    DrainTimedOut,
    /// Announce the sensors' availability and assert the fans again, changed or not.
    Assert,
    /// A transition, for those who follow them.
    Transitioned(Entry),
    /// Order systemd.
    Unit(UnitOrder),
    /// Write the boot progress.
    BootProgress(BootStage),
}

/// What systemd is to do (design 3.6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnitOrder {
    /// Start this state's target.
    Start(Target),
    /// Stop it and start it again.
    Restart(Target),
    /// Stop whichever target is active.
    StopAll,
}

/// A target that a host's state stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// The host works.
    S0,
    /// The host is in POST.
    S2,
    /// The host is off.
    S5,
}

/// A step's effects.
#[must_use = "effects must be performed, in order"]
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effects(Vec<Effect>);

impl IntoIterator for Effects {
    type Item = Effect;
    type IntoIter = std::vec::IntoIter<Effect>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Effects {
    fn push(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    fn publish(&mut self, state: Option<AcpiState>, device: Option<AcpiState>) {
        if state.is_some() || device.is_some() {
            self.push(Effect::Publish { state, device });
        }
    }

    /// What is to be done, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Effect] {
        &self.0
    }
}

/// The new value, if it is one.
fn replaced(published: &mut AcpiState, value: AcpiState) -> Option<AcpiState> {
    (core::mem::replace(published, value) != value).then_some(value)
}

/// Rule 6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Start {
    Undecided { stored: Option<Stored>, at_the_latest: Time },
    Decided,
}

/// Rule 4: the host left Running under power, and nobody has said why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Suspicion {
    /// S2 or an off-like state was reported since.
    reported: bool,
    /// POST has been complete all the time: it may have been a glitch.
    post_complete: bool,
}

/// The DIMM zones' hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hold {
    /// The host was in a working state since power-on: never below the Target that was found.
    pub(super) from_working: bool,
    /// A guard sensor's alarm came while it lasted.
    pub(super) alarmed: bool,
}

/// What goes out at the end of this step, or at the end of the drain (design 3.3).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Pending {
    /// What comes before the answers, and does not wait for them: the last steps of the barrier.
    before: Vec<Effect>,
    /// Sets to answer.
    answers: Vec<SetId>,
    /// They wait for the drain, until then at the latest; real time, as the settings give it.
    cap: Option<Time>,
    /// What comes after the answers.
    afterwards: Vec<Effect>,
}

/// One host.
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts; one state enum of their product would hide the rules"
)]
#[derive(Clone, Debug)]
pub struct Machine {
    pub(super) settings: config::Host,
    /// The latest time the machine was told.
    pub(super) now: Time,
    start: Start,

    pub(super) chassis: Seen<Chassis>,
    pub(super) host: Seen<Host>,
    os: Seen<Os>,
    /// POST complete came too soon after power-on.
    pub(super) post_bogus: bool,
    /// When the host came to its present value, or rule 6 decided.
    host_since: Time,
    /// Chassis power as rules 3 and 8 see it: with `host_off_is_off` it follows the host (note 7).
    pub(super) power: Option<Chassis>,
    /// Since when.
    pub(super) power_since: Time,
    /// Off, as everything that follows from the state sees it (note 6); kept to find its edges.
    was_off: bool,
    /// When power-on was seen; `None` if it was on when the daemon came.
    pub(super) powered_at: Option<Time>,
    /// When an Off to On of the power was seen, as rule 7 asks for it.
    on_edge_at: Option<Time>,
    /// A reported S2 or a working state since power-on.
    pub(super) firmware_seen: bool,
    /// A working state since power-on.
    worked: bool,

    pub(super) state: AcpiState,
    pub(super) cause: Cause,
    previous: AcpiState,
    pub(super) since: Time,
    device: AcpiState,
    published: (AcpiState, AcpiState),
    /// The host has Set its state since the daemon started.
    pub(super) has_reported: bool,
    pub(super) last_set: Option<Time>,
    pub(super) suspicion: Option<Suspicion>,
    /// A working or unknown state that rule 6 could not confirm.
    pub(super) restoring: bool,

    /// Since when the gate's conditions hold, all but the state's and `settle`.
    pub(super) steady_since: Option<Time>,
    /// When the gate opens, if nothing changes: all conditions hold but `settle`. Past once it is open.
    pub(super) opens_at: Option<Time>,
    /// Since when POST has been complete, as rule 7 counts it.
    complete_since: Option<Time>,
    /// Since when the gate is closed under power.
    pub(super) closed_since: Option<Time>,
    epoch: Epoch,
    /// The DIMM sensors have settled since the gate opened.
    dimms_known: bool,
    pub(super) hold: Option<Hold>,

    unit_row: Option<UnitRow>,
    boot_stage: Option<BootStage>,
    foreign_progress: bool,
    pub(super) rival: bool,
    pub(super) bus_stuck: bool,
    pub(super) unguarded_bus: bool,
    pub(super) failsafe_config: bool,
    /// Since when the firmware owes a sign of life.
    quiet_since: Option<Time>,
    /// Since when the CPU draws next to nothing.
    cpu_low_since: Option<Time>,
    /// Since when it should draw something.
    cpu_due_since: Option<Time>,
    /// DIMM sensors that have answered since the gate opened, and whether a required one has not.
    pub(super) answering: Option<(u16, bool)>,
    pub(super) present: Option<u16>,
    pub(super) good_dimms: Option<DimmCount>,
    handover: Handover,
    /// Resets within this boot: those inferred, and S2 reported again.
    pub(super) resets: u32,
    pub(super) history: History,
    pending: Pending,
}

impl Machine {
    /// A host of which nothing is known but what was stored.
    #[must_use]
    pub fn new(now: Time, settings: config::Host, stored: Option<Stored>) -> Self {
        let mut machine = Self {
            settings,
            now,
            start: Start::Undecided { stored, at_the_latest: now + DECIDE_WITHOUT_CHASSIS },
            chassis: Seen::default(),
            host: Seen::default(),
            os: Seen::default(),
            post_bogus: false,
            host_since: now,
            power: None,
            power_since: now,
            was_off: false,
            powered_at: None,
            on_edge_at: None,
            firmware_seen: false,
            worked: false,
            state: AcpiState::Unknown,
            cause: Cause::Startup,
            previous: AcpiState::Unknown,
            since: now,
            device: AcpiState::Unknown,
            published: (AcpiState::Unknown, AcpiState::Unknown),
            has_reported: false,
            last_set: None,
            suspicion: None,
            restoring: false,
            steady_since: None,
            opens_at: None,
            complete_since: None,
            closed_since: None,
            epoch: Epoch::default(),
            dimms_known: false,
            hold: None,
            unit_row: None,
            boot_stage: None,
            foreign_progress: false,
            rival: false,
            bus_stuck: false,
            unguarded_bus: false,
            failsafe_config: false,
            quiet_since: None,
            cpu_low_since: None,
            cpu_due_since: None,
            answering: None,
            present: None,
            good_dimms: stored.and_then(|stored| stored.good_dimms),
            handover: Handover::Ours,
            resets: 0,
            history: History::default(),
            pending: Pending::default(),
        };
        // The gate is closed from the first moment on.
        machine.follow_gate();
        machine
    }

    /// Takes one event in. The only place where the state changes.
    pub fn step(&mut self, now: Time, event: Event) -> Effects {
        self.now = self.now.max(now);
        let mut effects = Effects::default();
        self.advance();
        self.follow_gate();
        effects.0.append(&mut self.pending.before);
        if self.pending.cap.is_none() {
            // A wait that has just ended is over, whatever the event brings: its Sets do not wait for another drain.
            self.flush(&mut effects);
        }
        let was_open = self.is_open();
        match event {
            Event::Chassis(value) => self.on_chassis(value),
            Event::Host(value) => self.on_host(value),
            Event::Os(value) => self.on_os(value),
            Event::Set { id, state } => {
                self.on_set(id, state, was_open);
                self.quiet_since = None;
            }
            Event::SetDevice { id, state } => {
                self.quiet_since = None;
                // Nothing waits for this one (note 14).
                self.device = state;
                effects.publish(None, replaced(&mut self.published.1, state));
                effects.push(Effect::Answer(id));
            }
            Event::Drained { epoch } if epoch == self.epoch => self.drained(),
            Event::DimmsKnown { epoch } if epoch == self.epoch => self.dimms_known = was_open,
            Event::Dimms { epoch, answering, required_silent } if epoch == self.epoch => {
                self.answering = was_open.then_some((answering, required_silent));
            }
            Event::Drained { .. } | Event::DimmsKnown { .. } | Event::Dimms { .. } | Event::Tick => {}
            Event::DimmsPresent(count) => self.present = count,
            Event::Quiesced { epoch } => self.quiesced(epoch),
            Event::MuxAtHost { epoch } => self.mux_given(epoch),
            Event::MuxAtBmc { epoch } => self.mux_taken(epoch),
            Event::GuardAlarm => {
                if let Some(hold) = &mut self.hold {
                    hold.alarmed = true;
                }
            }
            Event::BootProgressByOthers => {
                self.foreign_progress = true;
                self.quiet_since = None;
            }
            Event::SignOfLife => self.quiet_since = None,
            Event::CpuPower(power) => {
                let since = self.cpu_low_since.or(Some(self.now));
                self.cpu_low_since = since.filter(|_| power == CpuPower::Low);
            }
            Event::BusStuck(holds) => self.bus_stuck = holds,
            Event::UnguardedBus(holds) => self.unguarded_bus = holds,
            Event::FailsafeConfig(holds) => self.failsafe_config = holds,
            Event::Rival(there) => self.rival = there,
            Event::Lapsed => {
                self.steady_since = None;
                self.opens_at = None;
            }
        }
        self.advance();
        if was_open && !self.is_open() {
            self.epoch = Epoch(self.epoch.0.wrapping_add(1));
            self.dimms_known = false;
            self.answering = None;
        }
        self.follow_gate();
        effects.0.append(&mut self.pending.before);
        if self.pending.cap.is_none() {
            self.flush(&mut effects);
        }
        effects
    }

    /// All that is pending: what Get returns first, then the answers, then the rest.
    fn flush(&mut self, effects: &mut Effects) {
        let Pending { answers, afterwards, .. } = core::mem::take(&mut self.pending);
        let state = replaced(&mut self.published.0, self.state);
        let device = replaced(&mut self.published.1, self.device);
        effects.publish(state, device);
        effects.0.extend(answers.into_iter().map(Effect::Answer));
        effects.0.extend(afterwards);
    }

    // ---- The rules of design 3.2 ---------------------------------------------------------------

    /// Rules 1 and 2.
    fn on_set(&mut self, id: SetId, state: AcpiState, was_open: bool) {
        let last_set = self.last_set.replace(self.now);
        self.has_reported = true;
        self.restoring = false;
        self.complete_since = None;
        self.pending.answers.push(id);
        // Which Set waits for the drain: note 15.
        if state.kind() == Kind::Post || (was_open && !state.is_working()) {
            self.pending.cap = self.pending.cap.or(Some(self.now + self.settings.timing.ack_cap));
        }
        self.suspect_less(state);

        if state != self.state {
            self.become_state(state, Cause::HostReport);
        } else if self.cause != Cause::HostReport {
            self.cause = Cause::HostReport;
            self.note_seen();
        } else {
            // It may have been Set while Off, and now again.
            self.note_seen();
            self.history.repeat();
            if state.kind() != Kind::Post {
                self.order_unit();
                return;
            }
            self.emit(Effect::Assert);
            let retry = last_set.is_some_and(|last| self.now.since(last) < RESET_BETWEEN_SETS);
            if !retry && !self.is_off() {
                self.restart_post();
            }
        }
    }

    /// What a report says about a suspected reset (rules 4 and 5).
    fn suspect_less(&mut self, reported: AcpiState) {
        let running = self.host_is_running();
        let Some(suspicion) = &mut self.suspicion else { return };
        match reported.kind() {
            Kind::Working if running => self.suspicion = None,
            Kind::Post | Kind::OffLike => suspicion.reported = true,
            Kind::Working | Kind::Sleep | Kind::Unknown => {}
        }
        self.resolve_reported();
    }

    fn resolve_reported(&mut self) {
        if self.host_is_running() && self.suspicion.is_some_and(|s| s.reported) {
            self.suspicion = None;
        }
    }

    fn on_chassis(&mut self, value: Option<Chassis>) {
        let before = self.chassis.update(value);
        if !self.is_decided() {
            // The first value is rule 6's, an edge from one to another is rule 3's.
            if self.chassis.last() == Some(Chassis::Off) && before.is_none() {
                self.power = Some(Chassis::Off);
                self.suspicion = None;
                self.decide();
                return;
            }
        }
        self.follow_power(Cause::ChassisOff);
        self.judge_post();
    }

    fn on_host(&mut self, value: Option<Host>) {
        let before = self.host.update(value);
        let Some(host) = self.host.last() else { return };
        if before == Some(host) {
            return;
        }
        self.host_since = self.now;
        self.follow_power(Cause::HostOff);
        // Rule 4. A host that is first seen after the decision was taken as Running (note 4).
        let left_running = match before {
            Some(Host::Running | Host::TransitioningToOff) => true,
            Some(Host::Off | Host::Halted) => false,
            None => self.is_decided(),
        };
        match host {
            Host::Off | Host::Halted if left_running => self.suspect(),
            Host::Running => self.resolve_reported(),
            Host::Off | Host::Halted | Host::TransitioningToOff => {}
        }
    }

    fn suspect(&mut self) {
        if self.power != Some(Chassis::Off) {
            self.suspicion =
                Some(Suspicion { reported: false, post_complete: self.post() == Some(Os::Complete) });
        }
    }

    fn on_os(&mut self, value: Option<Os>) {
        let before = self.os.update(value);
        let complete = self.post() == Some(Os::Complete) && !self.os.is_missing();
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.post_complete &= complete;
        }
        self.judge_post();
        if before.is_some() && self.post().is_some() && self.post() != before {
            self.quiet_since = None;
        }
    }

    /// Rule 7: POST complete this soon after power-on is not POST complete.
    fn judge_post(&mut self) {
        let fresh = self.on_edge_at.is_some_and(|at| self.now.since(at) <= POST_COMPLETE_BOGUS);
        if fresh && self.chassis.last() == Some(Chassis::On) && self.post() == Some(Os::Complete) {
            self.post_bogus = true;
        }
    }

    /// Chassis power as the rules see it, and its edges: rules 3 and 8.
    fn follow_power(&mut self, off_cause: Cause) {
        let power = match (self.chassis.last(), self.host.last()) {
            (Some(Chassis::Off), _) => Some(Chassis::Off),
            (chassis, Some(host)) if self.settings.evidence.host_off_is_off => match host {
                // A host that is neither off nor running has power, for all we know.
                Host::Running | Host::Halted => Some(Chassis::On),
                Host::Off if self.host_off_for_long() => Some(Chassis::Off),
                Host::Off | Host::TransitioningToOff => self.power.or(chassis),
            },
            (chassis, _) => chassis,
        };
        let before = core::mem::replace(&mut self.power, power);
        if before == power {
            return;
        }
        self.power_since = self.now;
        self.follow_off();
        self.on_edge_at = (before == Some(Chassis::Off) && power == Some(Chassis::On)).then_some(self.now);
        match power {
            Some(Chassis::Off) => {
                self.suspicion = None;
                self.device = AcpiState::S3D3;
                if !self.state.is_off_like() && !self.state.is_sleep() {
                    self.become_state(AcpiState::S5G2, off_cause);
                }
            }
            Some(Chassis::On) if before == Some(Chassis::Off) => match self.state.kind() {
                Kind::Sleep => self.become_state(AcpiState::S2D2, Cause::Resumed),
                Kind::Working => self.become_state(AcpiState::S2D2, Cause::PowerOn),
                Kind::OffLike if self.settings.evidence.s2_from_power_on => {
                    self.become_state(AcpiState::S2D2, Cause::PowerOn);
                }
                Kind::OffLike | Kind::Post | Kind::Unknown => {}
            },
            Some(Chassis::On) | None => {}
        }
        self.judge_post();
        self.follow_rows();
    }

    /// Rule 6, once there is enough to decide by.
    fn decide(&mut self) {
        let Start::Undecided { stored, .. } = core::mem::replace(&mut self.start, Start::Decided) else {
            return;
        };
        self.follow_off();
        let working = stored.filter(|s| s.state.is_working());
        let resting = stored.filter(|s| s.state.is_off_like() || s.state.is_sleep());
        let restored = |s: Stored| (s.state, Cause::Restored);
        let unknown = (AcpiState::Unknown, Cause::Startup);
        let mut restoring = false;

        let (state, cause) = if self.power == Some(Chassis::Off) {
            resting.map_or((AcpiState::S5G2, Cause::Startup), restored)
        } else if self.host.last().is_some_and(|host| host != Host::Running) {
            self.host_since = self.now;
            if self.suspicion.is_none() {
                self.suspect();
            }
            stored.map_or(unknown, restored)
        } else if let Some(post) = self.post() {
            match post {
                Os::Complete => (AcpiState::S0G0D0, Cause::Startup),
                Os::Inactive => (AcpiState::S2D2, Cause::Startup),
            }
        } else if let Some(s) = stored.filter(|s| s.reset_suspected || s.state.kind() == Kind::Post) {
            let used = s.state.kind() == Kind::Post;
            (AcpiState::S2D2, if used { Cause::Restored } else { Cause::Startup })
        } else if let Some(s) = working.filter(|s| s.same_bmc_boot) {
            restored(s)
        } else {
            restoring = true;
            working.map_or(unknown, restored)
        };

        if self.power == Some(Chassis::Off) && self.device == AcpiState::Unknown {
            self.device = AcpiState::S3D3;
        }
        if self.has_reported || self.state != AcpiState::Unknown {
            // A Set that came first stands, and so does what rules 3 and 4 made of it.
            self.follow_rows();
        } else {
            self.restoring = restoring;
            self.become_state(state, cause);
            if state.kind() == Kind::Post {
                // Firmware that is at work will be heard.
                self.quiet_since = self.quiet_since.or(Some(self.now));
            }
        }
    }

    /// Everything whose time has come. Each rule that acts takes its own condition away, so this ends.
    fn advance(&mut self) {
        // Due long before rule 6's two minutes, if the wake-up is that late.
        self.follow_power(Cause::HostOff);
        if let Start::Undecided { at_the_latest, .. } = self.start {
            let read = self.chassis.last().is_some() && self.host.last().is_some();
            if read || at_the_latest <= self.now {
                self.decide();
            }
        }
        self.follow_power(Cause::HostOff);
        self.settle_suspicion();
        self.mark();
        if self.post_complete_at().is_some_and(|at| at <= self.now) {
            self.become_state(AcpiState::S0G0D0, Cause::PostComplete);
        }
        if self.restored_at().is_some_and(|at| at <= self.now) {
            if self.state == AcpiState::Unknown {
                self.become_state(AcpiState::S0G0D0, Cause::Startup);
            }
            // `restore_settle` was in place of `settle`.
            self.restoring = false;
            self.opens_at = Some(self.now);
        }
        self.hand_over_late();
        if self.pending.cap.is_some_and(|cap| cap <= self.now) {
            self.pending.cap = None;
            self.emit(Effect::DrainTimedOut);
        }
        self.mark();
    }

    /// Rules 4 and 5: what time says about a suspected reset.
    fn settle_suspicion(&mut self) {
        let Some(suspicion) = self.suspicion else { return };
        if self.suspicion_at().is_none_or(|at| at > self.now) {
            return;
        }
        self.suspicion = None;
        if !self.host_is_running() {
            if !self.state.is_off_like() && !self.state.is_sleep() {
                self.become_state(AcpiState::S5G2, Cause::HostOff);
            }
        } else if !suspicion.post_complete {
            self.become_state(AcpiState::S2D2, Cause::HostReset);
        }
    }

    /// When rule 4's `host_off` or rule 5's `reset_confirm` ends.
    fn suspicion_at(&self) -> Option<Time> {
        self.suspicion?;
        match self.host.last()? {
            Host::Off => Some(self.host_since + self.settings.timing.host_off),
            // From an off-like state nothing changes.
            // What was Set stands for as long: rule 1.
            Host::Running if self.is_decided() && !self.state.is_off_like() => {
                Some(self.host_since.max(self.since) + self.settings.timing.reset_confirm)
            }
            Host::Running | Host::Halted | Host::TransitioningToOff => None,
        }
    }

    /// When rule 7 makes the state `S0_G0_D0`.
    fn post_complete_at(&self) -> Option<Time> {
        let wait = match (self.state.kind(), self.cause) {
            (Kind::Working, _) => return None,
            (Kind::Post, Cause::HostReport) => POST_COMPLETE_REPORTED,
            (Kind::Post, _) => POST_COMPLETE,
            (Kind::OffLike | Kind::Sleep | Kind::Unknown, _) => {
                if !self.settings.evidence.s0_from_post_complete {
                    return None;
                }
                POST_COMPLETE
            }
        };
        Some(self.complete_since? + wait)
    }

    /// When the lock of rule 6 ends by time.
    pub(super) fn restored_at(&self) -> Option<Time> {
        self.restoring.then_some(self.steady_since? + self.settings.timing.restore_settle)
    }

    // ---- What the rules are made of --------------------------------------------------------------

    /// Enters a state, or the same one again for a new cause.
    fn become_state(&mut self, state: AcpiState, cause: Cause) {
        self.restoring &= matches!(cause, Cause::Startup | Cause::Restored);
        self.complete_since = None;
        let again = self.state == state;
        let entry = (!again || cause == Cause::HostReset)
            .then(|| self.history.transition(self.now, self.state, state, cause));
        self.cause = cause;
        if let Some(entry) = entry {
            self.previous = self.state;
            self.since = self.now;
            self.state = state;
            self.emit(Effect::Transitioned(entry));
        }
        self.follow_off();
        self.note_seen();
        match state.kind() {
            Kind::Post if !self.is_off() => {
                self.begin_boot();
                self.history.firmware_seen(self.now);
            }
            Kind::Working if self.history.in_boot() => self.history.booted(self.now),
            Kind::OffLike => self.history.boot_abandoned(),
            Kind::Post | Kind::Working | Kind::Sleep | Kind::Unknown => {}
        }
        if cause == Cause::HostReset {
            self.quiet_since = Some(self.now);
        } else if state.is_working() {
            self.quiet_since = None;
        }
        if again && cause == Cause::HostReset {
            self.emit(Effect::Assert);
            self.restart_post();
        } else {
            self.order_unit();
        }
        self.write_progress();
    }

    /// What a state shows of the host since power-on.
    fn note_seen(&mut self) {
        let working = self.state.is_working();
        if !self.is_off() {
            self.worked |= working;
            self.firmware_seen |=
                working || (self.state.kind() == Kind::Post && self.cause == Cause::HostReport);
        }
    }

    fn begin_boot(&mut self) {
        if !self.history.in_boot() {
            self.history.boot_begins(self.now);
            self.foreign_progress = false;
            self.resets = 0;
        }
    }

    /// The edges of off, as everything that follows from the state sees it.
    fn follow_off(&mut self) {
        let off = self.is_off();
        if core::mem::replace(&mut self.was_off, off) == off {
            return;
        }
        self.firmware_seen = false;
        self.worked = false;
        if off {
            self.powered_at = None;
            self.quiet_since = None;
            self.history.boot_abandoned();
        } else {
            self.powered_at = Some(self.now);
            self.quiet_since = Some(self.now);
            self.begin_boot();
        }
    }

    /// Power changed what the rows of 3.1 say, though the state did not.
    fn follow_rows(&mut self) {
        if self.is_decided() && self.unit_row() != self.unit_row {
            self.order_unit();
        }
        self.write_progress();
    }

    fn order_unit(&mut self) {
        let Some(row) = self.unit_row() else { return };
        self.unit_row = Some(row);
        let order = match row {
            UnitRow::Active(target) => UnitOrder::Start(target),
            UnitRow::NoneActive => UnitOrder::StopAll,
        };
        self.emit(Effect::Unit(order));
    }

    /// S2 once more: firmware was reset in POST.
    fn restart_post(&mut self) {
        self.resets = self.resets.saturating_add(1);
        self.unit_row = Some(UnitRow::Active(Target::S2));
        self.emit(Effect::Unit(UnitOrder::Restart(Target::S2)));
    }

    fn write_progress(&mut self) {
        let Some(stage) = self.boot_stage() else { return };
        if self.boot_stage.replace(stage) == Some(stage) {
            return;
        }
        let known_only = matches!(self.cause, Cause::Startup | Cause::Restored);
        let others = self.foreign_progress && stage != BootStage::Unspecified;
        if !known_only && !others {
            self.emit(Effect::BootProgress(stage));
        }
    }

    /// An effect that comes after the answers.
    fn emit(&mut self, effect: Effect) {
        self.pending.afterwards.push(effect);
    }

    // ---- Times -----------------------------------------------------------------------------------

    /// Brings the times up to date that everything else is computed from.
    fn mark(&mut self) {
        fn track(at: &mut Option<Time>, holds: bool, began: Time) {
            *at = if holds { at.or(Some(began)) } else { None };
        }
        let now = self.now;
        let steady = self.is_steady();
        let clear = steady && self.state.is_working() && !self.restoring;
        let complete = steady && self.post() == Some(Os::Complete);
        track(&mut self.steady_since, steady, now);
        track(&mut self.opens_at, clear, now + self.settings.timing.settle);
        track(&mut self.complete_since, complete, now);

        let open = self.is_open();
        let powered = self.is_decided() && !self.is_off();
        track(&mut self.closed_since, powered && !open, now);
        let cpu_due = powered && self.cpu_should_run();
        track(&mut self.cpu_due_since, cpu_due, now);
        if self.dimms_at().is_some_and(|at| at <= now) && !self.dimms_are_missing() {
            self.good_dimms =
                self.dimm_count().map_or(self.good_dimms, |count| count.learned(self.good_dimms));
        }
        let released = !powered || (open && (self.dimms_known || !self.settings.has_dimms));
        if released {
            self.hold = None;
        } else if self.hold.is_none() && self.hold_at().is_some_and(|at| at <= now) {
            self.hold = Some(Hold { from_working: self.worked, alarmed: false });
        }
    }

    /// When the DIMM zones are taken, if the gate stays closed.
    fn hold_at(&self) -> Option<Time> {
        let closed = self.closed_since?;
        let in_post = self.state.kind() == Kind::Post;
        Some(if in_post { closed } else { closed + self.settings.timing.hold_after })
    }

    /// When [`Machine::step`] must be called next, if nothing happens before. An early or stale call
    /// changes nothing.
    #[must_use]
    pub fn wake_at(&self) -> Option<Time> {
        let timing = &self.settings.timing;
        let undecided = match self.start {
            Start::Undecided { at_the_latest, .. } => Some(at_the_latest),
            Start::Decided => None,
        };
        let host_is_off = (self.settings.evidence.host_off_is_off && self.host.last() == Some(Host::Off))
            .then_some(self.host_since + timing.host_off);
        [
            undecided,
            self.pending.cap,
            self.suspicion_at(),
            host_is_off,
            self.post_complete_at(),
            self.restored_at(),
            self.opens_at,
            self.hold_at(),
            self.hold.and_then(|_| self.boot_hold_ends_at()),
            self.deadline_at(),
            self.thermal_at(),
            self.handover_at(),
            self.silent_at(),
            self.no_cpu_power_at(),
            self.dimms_at(),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > self.now)
        .min()
    }

    /// When the firmware has owed a sign of life for too long.
    pub(super) fn silent_at(&self) -> Option<Time> {
        Some(self.quiet_since? + self.settings.timing.silent_after)
    }

    /// When the CPU has drawn no power for too long.
    pub(super) fn no_cpu_power_at(&self) -> Option<Time> {
        let due = self.cpu_due_since? + NO_CPU_POWER_FROM;
        Some(due.max(self.cpu_low_since? + NO_CPU_POWER_FOR))
    }

    /// From when on every DIMM must have answered.
    pub(super) fn dimms_at(&self) -> Option<Time> {
        Some((self.since + DIMMS_FROM).max(self.opens_at? + DIMMS_FROM_OPEN))
    }

    // ---- Asking ----------------------------------------------------------------------------------

    fn host_off_for_long(&self) -> bool {
        self.now.since(self.host_since) >= self.settings.timing.host_off
    }

    fn host_is_running(&self) -> bool {
        self.host.last().is_none_or(|host| host == Host::Running)
    }

    /// A CPU under power draws some, unless the host sleeps, is off, or has said that it will be (note 29).
    fn cpu_should_run(&self) -> bool {
        let host_off = self.host.last() == Some(Host::Off);
        let said_off = self.state.is_off_like() && self.last_set.is_some_and(|set| set >= self.power_since);
        !host_off && !said_off && !self.state.is_sleep()
    }

    /// The DIMMs that there are, as far as anybody counts them.
    pub(super) fn dimm_count(&self) -> Option<DimmCount> {
        let answering = if self.settings.has_dimms { self.answering?.0 } else { 0 };
        Some(DimmCount { answering, present: self.present })
    }

    /// Fewer than at the last good boot, or a required one does not answer.
    pub(super) fn dimms_are_missing(&self) -> bool {
        let fewer = self.dimm_count().zip(self.good_dimms).is_some_and(|(now, good)| now.is_fewer_than(good));
        fewer || self.answering.is_some_and(|(_, required_silent)| required_silent)
    }

    /// Rule 6 has decided.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.start == Start::Decided
    }

    /// POST status, where it is trusted and there is any (rule 7).
    pub(super) fn post(&self) -> Option<Os> {
        let trusted = self.settings.evidence.post_complete_trusted && !self.post_bogus;
        // Without a chassis service nothing it says can be checked.
        if trusted && self.chassis.last().is_some() { self.os.last() } else { None }
    }

    /// A power service that was seen is missing (rule 9).
    pub(super) fn evidence_is_missing(&self) -> bool {
        self.chassis.is_missing() || self.host.is_missing() || (self.post().is_some() && self.os.is_missing())
    }

    /// The host's number in its D-Bus paths and unit names.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.settings.id
    }

    /// There are fan zones to be held for it.
    #[must_use]
    pub fn has_zones(&self) -> bool {
        !self.settings.fans.zones.is_empty()
    }

    /// The ACPI state as it is decided now; during a barrier it is ahead of what Get returns.
    #[must_use]
    pub fn state(&self) -> AcpiState {
        self.state
    }

    /// The device state.
    #[must_use]
    pub fn device(&self) -> AcpiState {
        self.device
    }

    /// What brought the state about.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// The state before.
    #[must_use]
    pub fn previous(&self) -> AcpiState {
        self.previous
    }

    /// When the last transition was.
    #[must_use]
    pub fn since(&self) -> Time {
        self.since
    }

    /// The transitions and boots.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What is to be remembered for the next life of the daemon. `None`, before rule 6 has decided: what was stored stays,
    /// unless a Set, rule 3 or rule 4 has overtaken it. A state that the lock of rule 6 still holds is not of this boot
    /// of the BMC: another restart must not take it for confirmed.
    #[must_use]
    pub fn to_store(&self) -> Option<Stored> {
        let reset_suspected = self.suspicion.is_some();
        let overtaken = self.has_reported || self.state != AcpiState::Unknown || reset_suspected;
        let stored = Stored {
            state: self.state,
            reset_suspected,
            same_bmc_boot: !self.restoring,
            good_dimms: self.good_dimms,
        };
        (self.is_decided() || overtaken).then_some(stored)
    }

    /// Sets wait for the drain: [`Event::Drained`] is wanted.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.pending.cap.is_some()
    }

    /// How often the gate was closed: what [`Event::Drained`] and [`Event::DimmsKnown`] must carry.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod reachability;
