// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use super::*;
use crate::adapters::dbus::{
    doubles::{calls, changed, failed, owner, reply, serial},
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
    // The host's service has no OS status, here or there: then the other one's counts, and the host's is asked no more than once for each.
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
    assert_eq!(asked, [":1.8", ":1.8", ":1.9"]);
    let last = events.iter().rfind(|event| matches!(event, Event::Os(_)));
    assert_eq!(last, Some(&Event::Os(Some(Os::Complete))));
}

const OS: &str = "xyz.openbmc_project.State.OperatingSystem.Status";

fn unknown(call: &Message, by: &str) -> Message {
    error(call, by, "org.freedesktop.DBus.Error.UnknownObject")
}

/// As x86-power-control before 2022-02: another path, and the bare word.
fn as_before(call: &Message, by: &str) -> Message {
    let path = call.header().path().unwrap().as_str().to_owned();
    match path.as_str() {
        OS_BEFORE => reply(call, by, &Variant::from("Standby")),
        CHASSIS_PATH => reply(call, by, &Variant::from("xyz.openbmc_project.State.Chassis.PowerState.On")),
        _ => {
            let body = call.body();
            let (interface, _) = body.deserialize::<(&str, &str)>().unwrap();
            let running = Variant::from("xyz.openbmc_project.State.Host.HostState.Running");
            if interface == OS { unknown(call, by) } else { reply(call, by, &running) }
        }
    }
}

fn signalled(power: &mut PowerState, by: &str, path: &str, value: &str) -> Vec<(HostIndex, Event)> {
    let signal = changed(by, path, OS, "OperatingSystemState", Variant::from(value.to_owned()));
    power.hear(&signal).unwrap().events
}

#[test]
fn os_status_may_be_where_it_was_before() {
    const HOST: &str = "/xyz/openbmc_project/state/host0";
    let mut power = PowerState::new([0].into_iter());
    let start = power.start().unwrap();
    let rules: Vec<String> =
        calls(&start, "AddMatch").into_iter().map(|call| call.body().deserialize().unwrap()).collect();
    assert_eq!(rules.iter().filter(|rule| rule.contains(&format!("path='{OS_BEFORE}'"))).count(), 1);
    let one = |name: &str| name.ends_with('0').then_some(":1.8");
    let (asked, events) = answer(&mut power, start, one, as_before);
    assert_eq!(asked, [":1.8", ":1.8"]);
    let last = events.iter().rfind(|event| matches!(event, Event::Os(_)));
    assert_eq!(last, Some(&Event::Os(Some(Os::Complete))));
    assert_eq!(signalled(&mut power, ":1.8", OS_BEFORE, "Inactive"), [(0, Event::Os(Some(Os::Inactive)))]);
    assert_eq!(signalled(&mut power, ":1.9", OS_BEFORE, "Standby"), [], "somebody else");
    assert_eq!(signalled(&mut power, ":1.8", HOST, "Standby"), [], "not where it was found");
    // It restarts as a newer one: asked anew, today's path first.
    let changed = owner("xyz.openbmc_project.State.Host0", ":1.12");
    let Outcome { calls: asked, .. } = power.hear(&changed).unwrap();
    let two = |_: &str| None;
    let (asked, _) = answer(&mut power, asked, two, standby);
    assert_eq!(asked, [":1.12"]);
    assert_eq!(
        signalled(&mut power, ":1.12", HOST, &format!("{OS}.OSStatus.Inactive")),
        [(0, Event::Os(Some(Os::Inactive)))]
    );
}

/// An object that is made after it was asked for is heard where it is.
#[test]
fn an_object_that_comes_later_is_heard_at_either_place() {
    for path in [OS_BEFORE, "/xyz/openbmc_project/state/host0"] {
        let mut power = PowerState::new([0].into_iter());
        let start = power.start().unwrap();
        let one = |name: &str| name.ends_with('0').then_some(":1.8");
        answer(&mut power, start, one, unknown);
        assert_eq!(signalled(&mut power, ":1.8", path, "Standby"), [(0, Event::Os(Some(Os::Complete)))]);
        let other = if path == OS_BEFORE { "/xyz/openbmc_project/state/host0" } else { OS_BEFORE };
        assert_eq!(signalled(&mut power, ":1.8", other, "Inactive"), [], "it has told from there");
    }
}

/// The old path names no host. Each host's power control is a connection of its own; one that has several says with it whose it is of none.
#[test]
fn the_path_without_a_number_is_the_owners_only_hosts() {
    let mut power = PowerState::new([0, 1].into_iter());
    let start = power.start().unwrap();
    let each = |name: &str| if name.ends_with('1') { Some(":1.9") } else { Some(":1.8") };
    let (asked, _) = answer(&mut power, start, each, as_before);
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert_eq!(signalled(&mut power, ":1.9", OS_BEFORE, "Inactive"), [(1, Event::Os(Some(Os::Inactive)))]);
    assert_eq!(signalled(&mut power, ":1.8", OS_BEFORE, "Inactive"), [(0, Event::Os(Some(Os::Inactive)))]);

    let mut power = PowerState::new([0, 1].into_iter());
    let start = power.start().unwrap();
    let (_, events) = answer(&mut power, start, |_| Some(":1.8"), as_before);
    assert!(!events.contains(&Event::Os(Some(Os::Complete))), "{events:?}");
    assert_eq!(signalled(&mut power, ":1.8", OS_BEFORE, "Standby"), []);
}

const REQUEST: [&str; 3] =
    ["/xyz/openbmc_project/state/host0", "xyz.openbmc_project.State.Host", "RequestedHostTransition"];

fn request(word: &str) -> Variant<'static> {
    Variant::from(format!("xyz.openbmc_project.State.Host.Transition.{word}"))
}

#[test]
fn a_forced_reset_is_a_signal_of_the_owner_and_nothing_else() {
    let mut power = PowerState::new([0].into_iter());
    let start = power.start().unwrap();
    let one = |name: &str| name.ends_with('0').then_some(":1.8");
    // Whatever is asked for, the answer is this: nobody reads it.
    let forced = |call: &Message, by: &str| reply(call, by, &request("ForceWarmReboot"));
    let (_, events) = answer(&mut power, start, one, forced);
    assert!(!events.contains(&Event::ForcedReset), "{events:?}");
    let [path, interface, property] = REQUEST;
    let hear = |power: &mut PowerState, by: &str, path: &str, interface: &str, value: Variant<'static>| {
        let Outcome { events, .. } = power.hear(&changed(by, path, interface, property, value)).unwrap();
        events
    };
    // As often as it is signalled.
    for _ in 0..3 {
        let events = hear(&mut power, ":1.8", path, interface, request("ForceWarmReboot"));
        assert_eq!(events, [(0, Event::ForcedReset)]);
    }
    let before = power.lines.clone();
    for other in ["On", "Off", "Reboot", "GracefulWarmReboot", "Nonsense", ""] {
        assert_eq!(hear(&mut power, ":1.8", path, interface, request(other)), [], "{other}");
    }
    assert_eq!(hear(&mut power, ":1.8", path, interface, Variant::U64(3)), []);
    assert_eq!(power.lines, before, "no line about it");
    for (by, path, interface) in [
        (":1.9", path, interface),
        (":1.8", "/xyz/openbmc_project/state/host1", interface),
        (":1.8", CHASSIS_PATH, "xyz.openbmc_project.State.Chassis"),
        (":1.8", path, OS),
    ] {
        assert_eq!(hear(&mut power, by, path, interface, request("ForceWarmReboot")), [], "{by} {path}");
    }
    // An announcement with all values, as of a service that restores them.
    let announced = Message::signal(path, "org.freedesktop.DBus.ObjectManager", "InterfacesAdded");
    let values = BTreeMap::from([(interface, BTreeMap::from([(property, request("ForceWarmReboot"))]))]);
    let body = (zbus::ObjectPath::try_from(path).unwrap(), values);
    let Outcome { events, .. } = power.hear(&announced.sender(":1.8").build(&body).unwrap()).unwrap();
    assert_eq!(events, []);
}

/// A service that puts both into one signal, in whatever order: first what was asked for.
#[test]
fn a_request_comes_before_what_came_of_it() {
    let mut power = PowerState::new([0].into_iter());
    let start = power.start().unwrap();
    let one = |name: &str| name.ends_with('0').then_some(":1.8");
    answer(&mut power, start, one, as_before);
    let [path, interface, property] = REQUEST;
    let off = Variant::from("xyz.openbmc_project.State.Host.HostState.Off");
    let values = BTreeMap::from([("CurrentHostState", off), (property, request("ForceWarmReboot"))]);
    let signal = Message::signal(path, "org.freedesktop.DBus.Properties", "PropertiesChanged");
    let signal = signal.sender(":1.8").build(&(interface, values, Vec::<&str>::new())).unwrap();
    let Outcome { events, .. } = power.hear(&signal).unwrap();
    assert_eq!(events, [(0, Event::ForcedReset), (0, Event::Host(Some(HostState::Off)))]);
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
