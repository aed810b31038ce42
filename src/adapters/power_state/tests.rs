// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use super::*;
use crate::adapters::dbus::{
    doubles::{calls, failed, reply, serial},
    peer::moment,
};

#[test]
fn names_are_those_of_the_contract() {
    assert_eq!(
        Property::Chassis.names(0),
        ["xyz.openbmc_project.State.Chassis0", "xyz.openbmc_project.State.Chassis"]
    );
    assert_eq!(Property::Host.names(3), ["xyz.openbmc_project.State.Host3"]);
    assert_eq!(
        Property::Os.names(0),
        [
            "xyz.openbmc_project.State.Host0",
            "xyz.openbmc_project.State.Host",
            "xyz.openbmc_project.State.OperatingSystem0",
            "xyz.openbmc_project.State.OperatingSystem"
        ]
    );
}

const CHASSIS_PATH: &str = "/xyz/openbmc_project/state/chassis0";

/// Answers each Get as `answer` has it for its destination and path, until there is nothing left to be asked; where OS status was
/// asked for, in their order, and what came of it.
fn answer(
    power: &mut PowerState,
    mut asked: Vec<Message>,
    owner: impl Fn(&str) -> Option<&'static str>,
    answer: impl Fn(&Message, &str) -> Message,
) -> (Vec<String>, Vec<Event>) {
    let (mut of_os, mut events) = (Vec::new(), Vec::new());
    while !asked.is_empty() {
        for call in std::mem::take(&mut asked) {
            let header = call.header();
            let reply = match header.member().unwrap().as_str() {
                "GetNameOwner" => {
                    let body = call.body();
                    owner(body.deserialize().unwrap()).map_or_else(
                        || error(&call, BUS, "org.freedesktop.DBus.Error.NameHasNoOwner"),
                        |owner| reply(&call, BUS, &owner),
                    )
                }
                "Get" => {
                    let to = header.destination().unwrap().to_string();
                    let body = call.body();
                    let (interface, _) = body.deserialize::<(&str, &str)>().unwrap();
                    if interface == Property::Os.interface() {
                        of_os.push(to.clone());
                    }
                    answer(&call, &to)
                }
                _ => continue,
            };
            if let Some(outcome) = power.returned(serial(&call), &reply) {
                let Outcome { calls, events: told } = outcome.unwrap();
                asked.extend(calls);
                events.extend(told.into_iter().map(|(_, event)| event));
            }
        }
    }
    (of_os, events)
}

fn error(call: &Message, by: &str, name: &'static str) -> Message {
    Message::error(&call.header(), name).sender(by).build(&("no",)).unwrap()
}

fn two_owners(name: &str) -> Option<&'static str> {
    match name {
        "xyz.openbmc_project.State.Chassis0" | "xyz.openbmc_project.State.Host0" => Some(":1.8"),
        "xyz.openbmc_project.State.OperatingSystem0" => Some(":1.9"),
        _ => None,
    }
}

fn standby(call: &Message, by: &str) -> Message {
    let value = "xyz.openbmc_project.State.OperatingSystem.Status.OSStatus.Standby";
    reply(call, by, &Variant::from(value))
}

#[test]
fn os_status_is_the_hosts_to_tell() {
    let mut power = PowerState::new([0].into_iter());
    let start = power.start().unwrap();
    let (asked, events) = answer(&mut power, start, two_owners, standby);
    assert_eq!(asked, [":1.8"]);
    assert!(events.contains(&Event::Os(Some(Os::Complete))));
    // The host's service has no OS status: then the other one's counts, and the host's is asked no more than once.
    let mut power = PowerState::new([0].into_iter());
    let start = power.start().unwrap();
    let none = |call: &Message, by: &str| {
        if by == ":1.8" {
            error(call, by, "org.freedesktop.DBus.Error.UnknownProperty")
        } else {
            standby(call, by)
        }
    };
    let (asked, events) = answer(&mut power, start, two_owners, none);
    assert_eq!(asked, [":1.8", ":1.9"]);
    let last = events.iter().rfind(|event| matches!(event, Event::Os(_)));
    assert_eq!(last, Some(&Event::Os(Some(Os::Complete))));
}

#[test]
fn who_is_not_believed_is_passed_over_and_told_of_if_there_is_no_other() {
    let stranger = |call: &Message, by: &str| {
        if by == ":1.8" {
            error(call, by, NOT_BELIEVED)
        } else {
            let chassis = "xyz.openbmc_project.State.Chassis.PowerState.On";
            reply(call, by, &Variant::from(chassis))
        }
    };
    let mut power = PowerState::new([0].into_iter());
    let start = power.start().unwrap();
    let owner = |name: &str| match name {
        "xyz.openbmc_project.State.Chassis0" => Some(":1.8"),
        "xyz.openbmc_project.State.Chassis" => Some(":1.9"),
        _ => None,
    };
    let (_, events) = answer(&mut power, start, owner, stranger);
    assert_eq!(events.last(), Some(&Event::Chassis(Some(Chassis::On))));
    assert!(!events.contains(&Event::Strangers(true)), "there is one who is believed");
    let mut power = PowerState::new([0].into_iter());
    let start = power.start().unwrap();
    let owner = |name: &str| name.ends_with("Chassis0").then_some(":1.8");
    let (_, events) = answer(&mut power, start, owner, stranger);
    assert_eq!(events.last(), Some(&Event::Strangers(true)));
    // He leaves, and somebody else comes.
    let changed = |owner: &str| {
        let name = "xyz.openbmc_project.State.Chassis0";
        Message::signal("/org/freedesktop/DBus", BUS, "NameOwnerChanged")
            .sender(BUS)
            .build(&(name, "", owner))
            .unwrap()
    };
    let Outcome { events, .. } = power.hear(&changed("")).unwrap();
    assert_eq!(events, [(0, Event::Strangers(false))]);
    let Outcome { calls, .. } = power.hear(&changed(":1.9")).unwrap();
    let (_, events) = answer(&mut power, calls, owner, stranger);
    assert_eq!(events, [Event::Chassis(Some(Chassis::On))]);
}

/// While a bus may be open by them, and one question at a time.
#[test]
fn what_a_bus_is_open_by_is_asked_for_again() {
    let mut power = PowerState::new([0].into_iter());
    let start = power.start().unwrap();
    let chassis = |call: &Message, by: &str| {
        reply(call, by, &Variant::from("xyz.openbmc_project.State.Chassis.PowerState.On"))
    };
    let owner = |name: &str| name.ends_with("Chassis0").then_some(":1.8");
    answer(&mut power, start, owner, chassis);
    assert_eq!((power.tick(moment(0)).unwrap().calls.len(), power.wake_at()), (0, None), "it is closed");
    power.rely(0, true);
    assert!(power.tick(moment(100)).unwrap().calls.is_empty());
    assert_eq!(power.wake_at(), Some(moment(110).now));
    let asked = power.tick(moment(110)).unwrap().calls;
    assert_eq!(calls(&asked, "Get").len(), 1, "nobody has told the others");
    assert!(power.tick(moment(120)).unwrap().calls.is_empty(), "it has not answered yet");
    let (_, events) = answer(&mut power, asked, owner, chassis);
    assert_eq!(events, [Event::Found(Found::Chassis(Chassis::On))]);
    assert_eq!(calls(&power.tick(moment(130)).unwrap().calls, "Get").len(), 1);
    power.rely(0, false);
    assert!(power.tick(moment(140)).unwrap().calls.is_empty());
}

/// A service that says nonsense without end has a few lines, and then one a minute.
#[test]
fn nonsense_without_end_is_a_few_lines() {
    let mut power = PowerState::new([0].into_iter());
    let start = power.start().unwrap();
    let nonsense = |call: &Message, by: &str| reply(call, by, &Variant::from("x".repeat(60_000)));
    let owner = |name: &str| name.ends_with("Chassis0").then_some(":1.8");
    let (_, events) = answer(&mut power, start, owner, nonsense);
    assert_eq!(events, [Event::Chassis(None)]);
    let key = (CHASSIS_PATH, Property::Chassis.interface(), Property::Chassis.property());
    for _ in 0..10_000 {
        let body = (key.1, BTreeMap::from([(key.2, Variant::from("nonsense"))]), [""; 0].as_slice());
        let signal = Message::signal(key.0, "org.freedesktop.DBus.Properties", "PropertiesChanged");
        let signal = signal.sender(":1.8").build(&body).unwrap();
        assert_eq!(power.hear(&signal).unwrap().events, [(0, Event::Chassis(None))]);
    }
    assert_eq!(power.lines.take(power.now), None, "all lines that there may be were made");
    assert_eq!(power.lines.take(moment(60).now), Some(10_001 - LINES_AT_ONCE + 1));
}

/// The bus stands still when we come, for longer than anybody is waited for.
#[test]
fn a_bus_that_is_late_has_not_said_that_there_is_no_power_control() {
    let mut power = PowerState::new([0].into_iter());
    let start = power.start().unwrap();
    drop(power.tick(moment(0)).unwrap());
    let again = power.tick(moment(25)).unwrap().calls;
    assert_eq!(calls(&again, "GetNameOwner").len(), calls(&start, "GetNameOwner").len());
    let on = |call: &Message, by: &str| {
        reply(call, by, &Variant::from("xyz.openbmc_project.State.Chassis.PowerState.On"))
    };
    let owner = |name: &str| name.ends_with("Chassis0").then_some(":1.8");
    let (_, events) = answer(&mut power, start.into_iter().chain(again).collect(), owner, on);
    assert_eq!(events.last(), Some(&Event::Chassis(Some(Chassis::On))));
}

/// A broken value among good ones: the good ones do not make its pauses short again.
#[test]
fn the_pause_grows_for_the_one_that_is_broken() {
    let mut power = PowerState::new([0].into_iter());
    let mut asked = power.start().unwrap();
    let mut pauses = Vec::new();
    let mut now = 0;
    for _ in 0..9 {
        while let Some(call) = asked.pop() {
            let path = call.header().path().unwrap().as_str().to_owned();
            let answer = match call.header().member().unwrap().as_str() {
                "GetNameOwner" => reply(&call, BUS, &":1.8"),
                "Get" if path.contains("chassis") => failed(&call),
                "Get" => {
                    reply(&call, ":1.8", &Variant::from("xyz.openbmc_project.State.Host.HostState.Running"))
                }
                _ => continue,
            };
            asked.extend(
                power
                    .returned(serial(&call), &answer)
                    .map(|outcome| outcome.unwrap().calls)
                    .unwrap_or_default(),
            );
        }
        assert!(power.tick(moment(now)).unwrap().calls.is_empty());
        let next = power.wake_at().unwrap().as_micros() / 1_000_000;
        pauses.push(next - now);
        now = next;
        asked = power.tick(moment(now)).unwrap().calls;
        assert_eq!(calls(&asked, "Get").len(), 3);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}
