// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::{
    config::Host,
    logic::{
        acpi::AcpiState,
        diagnosis::Diagnosis,
        evidence::{Chassis, HostState},
        sensor::SILENT_AFTER,
    },
    shell::permits::{BusId, LEASE, RENEW},
};

/// The age of a proof counts from its question: a message that the bus held back before its answer is not known to be here.
#[test]
fn a_proof_is_as_old_as_its_question() {
    let clock = Clock::default();
    let (_to_loop, inputs) = unbounded_channel();
    let (to_bus, mut outputs) = unbounded_channel();
    let permits = Permits::new(1, [BusId::I2c(3)]);
    let bus = permits.bus(3).unwrap();
    let mut host = Host::new(0);
    host.timing.settle = Duration::ZERO;
    let machine = Machine::new(clock.now(), host, None);
    let mut event_loop = EventLoop::new(clock, permits, vec![machine], inputs, to_bus, None, Duration::ZERO);
    let before = |ago| Instant::now().checked_sub(ago);
    event_loop.lease = Lease::new(Instant::now()).since(before(SILENT_AFTER), None);
    event_loop.step(0, Event::Chassis(Some(Chassis::On)));
    event_loop.step(0, Event::Host(Some(HostState::Running)));
    event_loop.step(0, Event::Set { id: SetId(7), state: AcpiState::S0G0D0 });
    let is_read = |event_loop: &EventLoop| {
        assert!(event_loop.machines.iter().all(Machine::is_open));
        bus.try_acquire(Need::Gate(0), 0x18).is_ok()
    };
    assert!(!is_read(&event_loop), "nothing is proved yet");
    event_loop.ask_bus();
    event_loop.ask_bus();
    let asked = std::iter::from_fn(|| outputs.try_recv().ok());
    assert_eq!(asked.filter(|output| matches!(output, Output::AskBus)).count(), 1, "one at a time");
    for (ago, reads) in [(LEASE.saturating_sub(RENEW), true), (LEASE + RENEW, false)] {
        event_loop.lease = event_loop.lease.since(before(SILENT_AFTER * 2), before(ago));
        event_loop.bus_answered();
        assert_eq!(is_read(&event_loop), reads, "asked {ago:?} ago");
    }
    event_loop.lease = event_loop.lease.since(before(SILENT_AFTER * 2), None);
    event_loop.look_at_proof();
    assert!(
        event_loop.machines.iter().all(|machine| policy::diagnoses(machine).contains(&Diagnosis::BusSilent))
    );
    event_loop.lease = event_loop.lease.since(before(SILENT_AFTER * 2), before(Duration::ZERO));
    event_loop.bus_answered();
    event_loop.look_at_proof();
    assert!(event_loop.machines.iter().all(|machine| policy::diagnoses(machine).is_empty()));
}

/// The outputs of a Set, as the task on the bus gets them: the log is among those that come behind the answer.
#[test]
fn the_log_is_written_behind_the_answer() {
    let clock = Clock::default();
    let (to_loop, inputs) = unbounded_channel();
    let (to_bus, mut outputs) = unbounded_channel();
    let permits = Permits::new(1, [BusId::I2c(3)]);
    let machine = Machine::new(clock.now(), Host::new(0), None);
    let mut event_loop = EventLoop::new(clock, permits, vec![machine], inputs, to_bus, None, Duration::ZERO);
    event_loop.step(0, Event::Set { id: SetId(7), state: AcpiState::S2D2 });
    event_loop.end_drains();
    let outputs: Vec<Output> = std::iter::from_fn(|| outputs.try_recv().ok()).collect();
    let at = |what: fn(&Output) -> bool| outputs.iter().position(what).unwrap();
    let answer = at(|output| matches!(output, Output::Effect(0, Effect::Answer(SetId(7)))));
    let line = at(|output| matches!(output, Output::Line(_)));
    assert!(answer < line, "{outputs:?}");
    drop(to_loop);
}
