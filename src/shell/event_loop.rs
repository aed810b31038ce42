// SPDX-License-Identifier: Apache-2.0
//! The one owner of the machines: choose, step, close the gate, hand off.
//!
//! The loop never waits for anything but the next event: the orders of a step go into a channel, and one
//! task ([`Bus`](crate::adapters::dbus::bus)) carries them out in order. The gate is closed here, before
//! anything else that a step brought about is even handed off. The log, too, is written there: behind the
//! answers.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::{
    config::Group,
    logic::{
        absence::{self, Absence},
        acpi::AcpiState,
        effect::Effect,
        event::{Epoch, Event, SetId},
        evidence::Untold,
        machine::Machine,
        policy::{self, FanDemand, SensorMode},
        reading::{Celsius, Fault},
        sensor::Note,
        sensors::{Placed, Sensors},
        view::View,
    },
    shell::{
        alarm::Alarm,
        clock::{Clock, Wall},
        lease::Lease,
        messages::{Input, LogLine, Output},
        permits::{Closings, HostIndex, InFlight, Need, Permits, WiringCount},
        ports::{MuxOrders, Side},
        report::{report, view},
        store::{Memory, Record},
    },
};

/// `MESSAGE_ID` of the journal's line of a transition.
const TRANSITION: &str = "663d599a77b04c1e913e7ffc92f42bc8";

/// The loop and what it owns.
pub(crate) struct EventLoop {
    clock: Clock,
    wall: Wall,
    permits: Permits,
    machines: Vec<Machine>,
    /// The values last reported of each host.
    said: Vec<Said>,
    /// The SPD mux of each host that has one.
    muxes: Vec<Option<MuxOrders>>,
    sensors: Sensors,
    sensor_names: Vec<String>,
    memory: Memory,
    inputs: UnboundedReceiver<Input>,
    outputs: UnboundedSender<Output>,
    feed_every: Option<Duration>,
    feed_at: Instant,
    lease: Lease,
    /// How long the way out may take: the longest that any host may be kept waiting.
    stop_within: Duration,
    /// The daemon is ending, at the latest then.
    stop_at: Option<Instant>,
}

/// The values last reported of a host, so that each is reported again only when it is another.
struct Said {
    view: View,
    /// To its power services' follower.
    relies: bool,
    /// To the listener to its POST codes.
    wants_codes: bool,
    /// To its fans; `None` before rule 6 has decided.
    fans: Option<FanDemand>,
    /// For storage.
    stored: Option<Record>,
    /// To its machine.
    dimms: Option<Dimms>,
    /// In the log, of its power service.
    absence: Absence,
}

/// The facts known of a host's DIMM sensors in one opening of its gate.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Dimms {
    epoch: Epoch,
    known: bool,
    answering: (u16, bool),
}

/// The loop's choice of what to do next.
enum Choice {
    Input(Option<Input>),
    Time,
}

impl EventLoop {
    pub(crate) fn new(
        clock: Clock,
        permits: Permits,
        machines: Vec<Machine>,
        inputs: UnboundedReceiver<Input>,
        outputs: UnboundedSender<Output>,
        feed_every: Option<Duration>,
        stop_within: Duration,
    ) -> Self {
        let wall = Wall::now(&clock);
        let said = |machine| Said {
            view: view(machine, &wall),
            relies: false,
            wants_codes: false,
            fans: None,
            stored: None,
            dimms: None,
            absence: Absence::new(clock.now()),
        };
        let said = machines.iter().map(said).collect();
        Self {
            clock,
            wall,
            permits,
            machines,
            said,
            muxes: Vec::new(),
            sensors: Sensors::default(),
            sensor_names: Vec::new(),
            memory: Memory::default(),
            inputs,
            outputs,
            feed_every,
            feed_at: Instant::now(),
            lease: Lease::new(Instant::now()),
            stop_within,
            stop_at: None,
        }
    }

    /// Has `memory` hold what must survive this process.
    pub(crate) fn with_memory(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    /// Gives it the SPD mux of each host that has one.
    pub(crate) fn with_muxes(self, muxes: Vec<Option<MuxOrders>>) -> Self {
        Self { muxes, ..self }
    }

    /// Has it follow these sensors, which have these names.
    pub(crate) fn with_sensors(self, sensors: Sensors, sensor_names: Vec<String>) -> Self {
        Self { sensors, sensor_names, ..self }
    }

    /// Returns what the objects show before anything has happened: state and device, and the Tracker's view.
    pub(crate) fn views(&self) -> impl Iterator<Item = ((AcpiState, AcpiState), &View)> {
        let known = self.machines.iter().map(|machine| (machine.state(), machine.device()));
        known.zip(self.said.iter().map(|said| &said.view))
    }

    /// Runs until it is told to stop and the buses are quiet, or `ack_cap` later. Fails only if there
    /// is no timer.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        let mut alarm = Alarm::new()?;
        loop {
            let wake_at = self.wake_at();
            let choice = tokio::select! {
                biased;
                input = self.inputs.recv() => Choice::Input(input),
                rung = alarm.until(wake_at) => rung.map(|()| Choice::Time)?,
            };
            self.lease.turn(Instant::now());
            self.look_at_lease();
            match choice {
                Choice::Input(None) => return Ok(()),
                Choice::Input(Some(Input::Event(host, event))) => self.step(host, event),
                Choice::Input(Some(Input::Drained)) | Choice::Time => self.tick(),
                Choice::Input(Some(Input::Read { sensor, closings, result })) => {
                    self.read(sensor, closings, result);
                }
                Choice::Input(Some(Input::Wires { wiring, seen_on })) => self.wire(wiring, &seen_on),
                Choice::Input(Some(Input::History { host, id, most })) => {
                    // The answer holds what is so now, though the alarm that is due comes late.
                    self.tick();
                    self.history(host, id, most);
                }
                Choice::Input(Some(Input::BusAnswered)) => self.bus_answered(),
                Choice::Input(Some(Input::Stop)) => self.stop(),
            }
            self.look_at_proof();
            self.end_drains();
            self.show_sensors();
            self.order_fans();
            self.track();
            self.tell_of_power();
            let over = self.stop_at.is_some_and(|at| self.is_quiet() || at <= self.lease.now());
            self.store(over);
            self.ask_bus();
            self.feed();
            if over {
                return Ok(());
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let machines =
            self.machines.iter().filter_map(Machine::wake_at).map(|at| self.clock.instant(at)).min();
        let sensors = self.sensors.wake_at().map(|at| self.clock.instant(at));
        let absences = self.said.iter().filter_map(|said| said.absence.wake_at());
        let absence = absences.min().map(|at| self.clock.instant(at));
        let feed = self.feed_every.map(|_| self.feed_at);
        let lease = self.lease.wake_at();
        let next = [machines, sensors, absence, feed, lease, self.stop_at].into_iter().flatten().min();
        next.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400))
    }

    /// A lease that ran out means that this loop stalled: evidence may be queued that it has not seen.
    fn look_at_lease(&mut self) {
        if self.lease.ran_out() {
            self.say(|| tracing::warn!("the event loop stalled; the gate stays closed for now"));
            for host in 0..self.machines.len() {
                self.step(host, Event::Lapsed);
            }
        }
    }

    fn bus_answered(&mut self) {
        self.lease.answered();
        self.set_permits();
    }

    /// Tells the machines when nobody can say any more whether they may be read.
    fn look_at_proof(&mut self) {
        if let Some(silent) = self.lease.silence() {
            for host in 0..self.machines.len() {
                self.step(host, Event::BusSilent(silent));
            }
        }
    }

    fn ask_bus(&mut self) {
        if self.lease.ask() {
            self.output(Output::AskBus);
        }
    }

    fn tick(&mut self) {
        for host in 0..self.machines.len() {
            self.step(host, Event::Tick);
        }
        self.sensors.tick(self.clock.now());
        self.tell_of_dimms();
        self.watch_buses(None);
    }

    fn read(&mut self, sensor: usize, closings: Closings, result: Result<Celsius, Fault>) {
        let note = self.sensors.read(self.clock.now(), sensor, closings, result);
        if let (Some(note), Some(name)) = (note, self.sensor_names.get(sensor).cloned()) {
            self.say(move || match note {
                Note::Failing(fault) => tracing::warn!(sensor = name, "{name}: {fault}"),
                Note::Recovered => tracing::info!(sensor = name, "{name} is read again"),
            });
        }
        self.tell_of_dimms();
    }

    /// Updates the wiring. The bus thread that found it out waits until the leases follow it.
    fn wire(&mut self, wiring: WiringCount, seen_on: &[Vec<usize>]) {
        self.sensors.wire(seen_on);
        self.set_permits();
        self.permits.follow_wiring(wiring);
    }

    /// Tells the machines of their DIMM sensors: how many answer, and when the fans need not wait for them any more.
    fn tell_of_dimms(&mut self) {
        for host in 0..self.machines.len() {
            let (Some(machine), Some(said)) = (self.machines.get(host), self.said.get_mut(host)) else {
                continue;
            };
            if !machine.is_open() {
                continue;
            }
            let (epoch, known) = (machine.epoch(), self.sensors.dimms_known(host));
            let dimms = Dimms { epoch, known, answering: self.sensors.dimms_answering(host) };
            if said.dimms.replace(dimms) == Some(dimms) {
                continue;
            }
            if known {
                self.step(host, Event::DimmsKnown { epoch });
            }
            let (answering, required_silent) = dimms.answering;
            self.step(host, Event::Dimms { epoch, answering, required_silent });
        }
    }

    /// Looks for transfers that do not end. `given_up` is a host that was answered without waiting for them any longer.
    fn watch_buses(&mut self, given_up: Option<HostIndex>) {
        let mut changed = false;
        for (bus, transfer) in self.permits.under_way().enumerate() {
            let given_up = given_up.is_some_and(|host| self.sensors.reached(bus).contains(&host));
            if self.sensors.watch(bus, transfer.as_ref().map(|transfer| transfer.taken), given_up) {
                changed = true;
                self.say(move || {
                    if let Some(transfer) = transfer {
                        tracing::warn!("{transfer} does not end: the bus is stuck");
                    } else {
                        tracing::info!("the transfer that was stuck has ended");
                    }
                });
            }
        }
        if changed {
            for host in 0..self.machines.len() {
                self.step(host, Event::BusStuck(self.sensors.bus_stuck(host)));
            }
        }
    }

    fn step(&mut self, host: HostIndex, event: Event) {
        let now = self.clock.now();
        let Some(machine) = self.machines.get_mut(host) else { return };
        let effects = machine.step(now, event);
        self.set_permits();
        self.note(host);
        let mut answering = true;
        for effect in effects {
            let before_the_answer = matches!(
                effect,
                Effect::Publish { .. } | Effect::Answer(_) | Effect::Quiesce(_) | Effect::MuxToHost(_)
            );
            if answering && !before_the_answer {
                answering = false;
                // The first thing after the answer: fan control must not take what is off for broken.
                self.show_sensors();
            }
            self.hand_off(host, effect);
        }
    }

    /// Hands off what the sensors show, where it changed; behind the answers of their host, if any wait.
    fn show_sensors(&mut self) {
        let may_show = |host: usize| self.machines.get(host).is_some_and(|machine| !machine.is_draining());
        for (sensor, snapshot) in self.sensors.changed(may_show) {
            self.outputs.send(Output::Sensor(sensor, snapshot)).unwrap_or_default();
        }
    }

    /// The gate's decision goes to the bus threads before anything else happens.
    fn set_permits(&mut self) {
        // A turn that was held up makes no proof fresher.
        self.lease.turn(Instant::now());
        let (machines, stopping) = (&self.machines, self.stop_at.is_some());
        let granted = |need: Need| {
            !stopping
                && match need {
                    Need::Gate(host) => machines.get(host).map(policy::dimm_sensors),
                    Need::Power(host) => machines.get(host).map(policy::thermal_sensors),
                } == Some(SensorMode::Read)
        };
        let bus_open = |bus| !stopping && policy::bus_is_open(machines, self.sensors.reached(bus));
        let any_open = self.permits.set(self.lease.left(), granted, bus_open);
        self.lease.renew(any_open);
        let proof = self.lease.proof();
        let machines = if stopping { &[] } else { machines.as_slice() };
        let closings = |placed: Placed| self.permits.closings(need(placed.host, placed.group), placed.bus);
        self.sensors.follow(self.clock.now(), machines, proof, closings);
    }

    fn hand_off(&mut self, host: HostIndex, effect: Effect) {
        let id = self.machines.get(host).map_or(0, Machine::id);
        match effect {
            Effect::Transitioned(entry) => {
                self.wall.follow(&self.clock);
                let when = self.wall.of(entry.at);
                let (from, to, cause) = (entry.from.name(), entry.to.name(), entry.cause.name());
                self.say(move || {
                    tracing::info!(
                        message_id = TRANSITION,
                        host = id,
                        acpi_state = to,
                        acpi_previous = from,
                        acpi_cause = cause,
                        "host{id}: {from} -> {to} ({cause})"
                    );
                });
                self.output(Output::Transitioned { host, when, entry });
            }
            Effect::DrainTimedOut => {
                // Nothing in flight any more means that it ended just in time.
                if let Some(transfer) = self.in_flight(host) {
                    self.say(move || {
                        tracing::warn!(
                            "host{id}: {transfer} did not end in time; the host was answered without it"
                        );
                    });
                }
                self.watch_buses(Some(host));
            }
            Effect::MuxToHost(epoch) => self.switch(host, Side::Host, epoch),
            Effect::MuxToBmc(epoch) => self.switch(host, Side::Bmc, epoch),
            Effect::Publish { .. }
            | Effect::Answer(_)
            | Effect::Assert
            | Effect::Quiesce(_)
            | Effect::Unquiesce
            | Effect::Unit(_)
            | Effect::BootProgress(_) => self.output(Output::Effect(host, effect)),
        }
    }

    fn switch(&self, host: HostIndex, side: Side, epoch: Epoch) {
        // While the daemon ends, nothing comes back to the BMC.
        let ending = side == Side::Bmc && self.stop_at.is_some();
        if let Some(Some(mux)) = self.muxes.get(host).filter(|_| !ending) {
            mux.order(side, epoch);
        }
    }

    /// Hands off what the fans do, where it changed; behind the answers, if any wait.
    fn order_fans(&mut self) {
        for (host, (machine, said)) in self.machines.iter().zip(&mut self.said).enumerate() {
            let ready = machine.is_decided() && machine.has_zones() && self.stop_at.is_none();
            if machine.is_draining() || !ready {
                continue;
            }
            let fans = policy::fans(machine);
            if said.fans.replace(fans) != Some(fans) {
                self.outputs.send(Output::Fans(host, fans)).unwrap_or_default();
            }
        }
    }

    /// Tells the machines that wait for it that their buses are quiet.
    fn end_drains(&mut self) {
        for host in 0..self.machines.len() {
            let Some(machine) = self.machines.get(host) else { continue };
            if machine.wants_drained() && self.in_flight(host).is_none() {
                let epoch = machine.epoch();
                self.step(host, Event::Drained { epoch });
            }
        }
    }

    /// Hands off what the Trackers show, where it changed; behind the answers, if any wait.
    fn track(&mut self) {
        for (host, (machine, said)) in self.machines.iter().zip(&mut self.said).enumerate() {
            if machine.is_draining() {
                continue;
            }
            let relies = policy::relies_on_power(&self.machines, host);
            if core::mem::replace(&mut said.relies, relies) != relies {
                self.outputs.send(Output::Rely(host, relies)).unwrap_or_default();
            }
            let wants_codes = policy::wants_post_codes(machine);
            if core::mem::replace(&mut said.wants_codes, wants_codes) != wants_codes {
                self.outputs.send(Output::PostCodes(host, wants_codes)).unwrap_or_default();
            }
            let view = view(machine, &self.wall);
            if view != said.view {
                for output in report(host, machine, &said.view.diagnoses, &view.diagnoses) {
                    self.outputs.send(output).unwrap_or_default();
                }
                said.view.clone_from(&view);
                self.outputs.send(Output::Track(host, Box::new(view))).unwrap_or_default();
            }
        }
    }

    /// A line for a power service that is not there, and one when it comes.
    fn tell_of_power(&mut self) {
        let now = self.clock.now();
        for (machine, said) in self.machines.iter().zip(&mut self.said) {
            if machine.is_draining() {
                continue;
            }
            let id = machine.id();
            let Some(note) = said.absence.follow(now, machine.untold()) else { continue };
            let line = move || match note {
                absence::Note::Absent(Untold { chassis, host }) => {
                    let what = match (chassis, host) {
                        (true, false) => "Chassis",
                        (false, _) => "Host",
                        (true, true) => "Chassis and Host",
                    };
                    tracing::warn!(
                        host = id,
                        "host{id}: nobody tells the State of {what}: there is no power service, or it does not answer"
                    );
                }
                absence::Note::There => {
                    tracing::info!(
                        host = id,
                        "host{id}: the power service is there: State of Chassis and Host are told"
                    );
                }
            };
            self.outputs.send(Output::Line(LogLine::new(line))).unwrap_or_default();
        }
    }

    /// A process that is killed from here on will be followed by one that knows.
    fn note(&mut self, host: HostIndex) {
        if let Some(stored) = self.machines.get(host).and_then(Machine::to_store) {
            self.memory.note(host, stored);
        }
    }

    /// Hands off what is to be stored, where it changed; behind the answers, if any wait and will get one.
    fn store(&mut self, over: bool) {
        for (host, (machine, said)) in self.machines.iter().zip(&mut self.said).enumerate() {
            if machine.is_draining() && !over {
                continue;
            }
            let Some(stored) = machine.to_store() else { continue };
            let record = Record { stored, number: self.memory.number(host) };
            if said.stored.replace(record) != Some(record) {
                let urgent = self.memory.is_failing();
                self.outputs.send(Output::Store { host, record, urgent }).unwrap_or_default();
            }
        }
    }

    fn history(&mut self, host: HostIndex, id: SetId, most: u32) {
        self.wall.follow(&self.clock);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let newest = self.machines.get(host).map(|machine| machine.history().newest_first());
        let entries = newest.into_iter().flatten().take(most).map(|entry| {
            let when = self.wall.of(entry.at);
            (when, entry.from.dbus(), entry.to.dbus(), entry.cause.name(), entry.repeats)
        });
        let entries = entries.collect();
        self.output(Output::History { id, entries });
    }

    fn feed(&mut self) {
        let Some(every) = self.feed_every else { return };
        if self.feed_at <= self.lease.now() {
            self.feed_at = self.lease.now() + every;
            self.output(Output::Heartbeat);
        }
    }

    fn stop(&mut self) {
        self.stop_at = self.stop_at.or(Some(Instant::now() + self.stop_within));
        self.set_permits();
        self.output(Output::Stopping);
    }

    /// Nothing is on the wire any more.
    fn is_quiet(&self) -> bool {
        (0..self.machines.len()).all(|host| self.in_flight(host).is_none())
    }

    /// The first transfer that is under way on a bus that reaches this host's DIMMs.
    fn in_flight(&self, host: HostIndex) -> Option<InFlight> {
        self.permits.in_flight(|bus| self.sensors.reached(bus).contains(&host))
    }

    fn say(&self, line: impl FnOnce() + Send + 'static) {
        self.output(Output::Line(LogLine::new(line)));
    }

    fn output(&self, output: Output) {
        // The task that performs outputs ends before this one only when the daemon does.
        self.outputs.send(output).unwrap_or_default();
    }
}

/// Returns the condition that a sensor of this host and group needs besides its bus.
pub(crate) fn need(host: HostIndex, group: Group) -> Need {
    match group {
        Group::Dimm | Group::S0 => Need::Gate(host),
        Group::Thermal => Need::Power(host),
    }
}

#[cfg(test)]
mod tests;
