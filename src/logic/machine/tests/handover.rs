// SPDX-License-Identifier: Apache-2.0
//! The way of the bus, where the search does not look.

use core::time::Duration;

use super::super::Machine;
use crate::{
    config,
    logic::{
        acpi::AcpiState,
        effect::Effect,
        event::{Event, SetId},
        evidence::{Chassis, HostState},
        time::Time,
    },
};

/// A Set waits for a transfer, the gate opens and closes again meanwhile: the units are ordered to stop by the time
/// that the first Set is answered, not only `ack_cap` after the second closing.
#[test]
fn nobody_is_answered_before_all_is_ordered() {
    let mut host = config::Host::new(0);
    (host.timing.settle, host.timing.min_post) = (Duration::from_millis(1), Duration::ZERO);
    host.timing.ack_cap = Duration::from_secs(3);
    host.quiesce = vec!["other.service".to_owned()];
    let at = |ms: u64| Time::from_micros(ms * 1000);
    let set = |id, state| Event::Set { id: SetId(id), state };
    let mut machine = Machine::new(at(0), host, None);
    drop(machine.step(at(0), Event::Chassis(Some(Chassis::On))));
    drop(machine.step(at(0), Event::Host(Some(HostState::Running))));
    drop(machine.step(at(1), set(1, AcpiState::S0G0D0)));
    drop(machine.step(at(10_000), Event::Tick));
    assert!(machine.is_open());
    drop(machine.step(at(70_000), set(2, AcpiState::S2D2)));
    drop(machine.step(at(70_000), set(3, AcpiState::S0G0D0)));
    drop(machine.step(at(70_001), Event::Tick));
    assert!(machine.is_open() && machine.is_draining());
    drop(machine.step(at(70_001), set(4, AcpiState::S2D2)));
    let effects: Vec<_> = machine.step(at(73_000), Event::Tick).into_iter().collect();
    let position = |wanted: fn(&Effect) -> bool| effects.iter().position(wanted);
    let ordered = position(|effect| matches!(effect, Effect::Quiesce(_)));
    let answered = position(|effect| matches!(effect, Effect::Answer(_)));
    assert!(ordered.is_some() && ordered < answered, "{effects:?}");
}
