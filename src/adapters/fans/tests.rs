// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use super::*;
use crate::adapters::dbus::{
    doubles::{calls, changed, failed, owned_by, owner, reply, serial},
    peer::{MOST_OF_ONE, moment},
};

const ZONE: &str = "/xyz/openbmc_project/settings/fanctrl/zone0";
const PWM: &str = "/xyz/openbmc_project/control/fanpwm/Pwm_1";
const GUARD: &str = "/xyz/openbmc_project/sensors/temperature/Inlet";
const CONTROL: &str = "xyz.openbmc_project.State.FanCtrl";
const SENSORS: &str = "xyz.openbmc_project.FanSensor";
const S2: FanDemand = FanDemand::Held { level: FanLevel::S2, at_least_found: false };

fn settings() -> config::Fans {
    config::Fans {
        zones: vec![ZONE.to_owned()],
        pwm: vec![PWM.to_owned()],
        guard_sensors: vec![GUARD.to_owned()],
        ..config::Host::new(0).fans
    }
}

fn fans(left: &[&str]) -> FanControl {
    let left = left.iter().map(|zone| (*zone).to_owned()).collect();
    FanControl::new([settings()].iter(), Held::default(), left)
}

/// Returns what a call does: the last part of its path, its member, and for a Set the value.
fn said(call: &Message) -> String {
    let header = call.header();
    let path = header.path().map_or("", |path| path.as_str()).rsplit('/').next().unwrap().to_owned();
    let body = call.body();
    match body.deserialize::<(&str, &str, Variant<'_>)>() {
        Ok((_, property, value)) => {
            let value =
                plain_bool(&value).map(|v| v.to_string()).or(plain_u64(&value).map(|v| v.to_string()));
            format!("{path} {property}={}", value.unwrap())
        }
        Err(_) => format!("{path} {}", header.member().unwrap().as_str()),
    }
}

fn all_said(calls: &[Message]) -> Vec<String> {
    calls.iter().map(said).collect()
}

/// A bus on which everybody answers: what is sent, and what follows from it, until nothing does.
struct World {
    manual: bool,
    target: u64,
    /// Everything that was Set, in order.
    sets: Vec<String>,
    events: Vec<Event>,
}

impl World {
    fn new() -> Self {
        Self { manual: false, target: 90, sets: Vec::new(), events: Vec::new() }
    }

    fn carry(&mut self, fans: &mut FanControl, mut calls: Vec<Message>) {
        for _ in 0..100 {
            if calls.is_empty() {
                return;
            }
            let call = calls.remove(0);
            let Some(answer) = self.answer(&call) else { continue };
            if let Some(outcome) = fans.returned(serial(&call), &answer) {
                let outcome = outcome.unwrap();
                self.events.extend(outcome.events.into_iter().map(|(_, event)| event));
                calls.extend(outcome.calls);
            }
        }
        panic!("no end of calls");
    }

    fn answer(&mut self, call: &Message) -> Option<Message> {
        let header = call.header();
        let path = header.path().unwrap().as_str().to_owned();
        match header.member().unwrap().as_str() {
            "GetObject" => {
                let body = call.body();
                let (of, _): (&str, Vec<&str>) = body.deserialize().unwrap();
                let service = if of.contains("fanctrl") { CONTROL } else { SENSORS };
                Some(owned_by(call, service))
            }
            "Get" if path.contains("fanctrl") => Some(reply(call, ":1.5", &Variant::Bool(self.manual))),
            "Get" if path == PWM => Some(reply(call, ":1.6", &Variant::U64(self.target))),
            "Get" => Some(reply(call, ":1.6", &Variant::Bool(false))),
            "Set" => {
                self.sets.push(said(call));
                let body = call.body();
                let (_, _, value): (&str, &str, Variant<'_>) = body.deserialize().unwrap();
                self.manual = plain_bool(&value).unwrap_or(self.manual);
                self.target = plain_u64(&value).unwrap_or(self.target);
                Some(reply(call, ":1.5", &()))
            }
            _ => None,
        }
    }
}

fn started(left: &[&str]) -> (FanControl, World) {
    let (mut fans, mut world) = (fans(left), World::new());
    let begin = fans.start().unwrap();
    world.carry(&mut fans, begin);
    (fans, world)
}

fn held(wanted: FanDemand) -> (FanControl, World) {
    let (mut fans, mut world) = started(&[]);
    let outcome = fans.order(0, wanted).unwrap();
    world.carry(&mut fans, outcome.calls);
    (fans, world)
}

#[test]
fn manual_is_read_back_before_a_target_is_set_and_given_back_alone() {
    let (mut fans, mut world) = held(S2);
    assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=160"]);
    let stall = FanDemand::Held { level: FanLevel::Stall, at_least_found: false };
    let outcome = fans.order(0, stall).unwrap();
    assert_eq!(all_said(&outcome.calls), ["Pwm_1 Target=255"]);
    world.carry(&mut fans, outcome.calls);
    let outcome = fans.order(0, FanDemand::Free).unwrap();
    assert_eq!(all_said(&outcome.calls), ["zone0 Manual=false"]);
    world.carry(&mut fans, outcome.calls);
    assert_eq!(fans.zones_in_hand().count(), 0);
    assert_eq!(all_said(&fans.order(0, FanDemand::Free).unwrap().calls), Vec::<String>::new());
}

#[test]
fn a_zone_that_does_not_keep_manual_is_not_driven() {
    let (mut fans, _) = started(&[]);
    let outcome = fans.order(0, S2).unwrap();
    let set = calls(&outcome.calls, "Set")[0];
    let outcome = fans.returned(serial(set), &reply(set, ":1.5", &())).unwrap().unwrap();
    let check = calls(&outcome.calls, "Get")[0];
    let no = reply(check, ":1.5", &Variant::Bool(false));
    let outcome = fans.returned(serial(check), &no).unwrap().unwrap();
    assert_eq!(all_said(&outcome.calls), Vec::<String>::new());
}

#[test]
fn never_below_what_was_found() {
    let (mut fans, mut world) = started(&[]);
    world.target = 210;
    let wanted = FanDemand::Held { level: FanLevel::S2, at_least_found: true };
    let outcome = fans.order(0, wanted).unwrap();
    world.carry(&mut fans, outcome.calls);
    assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=210"]);
}

#[test]
fn a_found_target_that_comes_late_still_counts() {
    let (mut fans, _) = started(&[]);
    let outcome = fans.order(0, FanDemand::Held { level: FanLevel::S2, at_least_found: true }).unwrap();
    let (get, set) = (calls(&outcome.calls, "Get")[0], calls(&outcome.calls, "Set")[0]);
    let after = fans.returned(serial(set), &reply(set, ":1.5", &())).unwrap().unwrap();
    let check = calls(&after.calls, "Get")[0];
    let after = fans.returned(serial(check), &reply(check, ":1.5", &Variant::Bool(true))).unwrap().unwrap();
    assert_eq!(all_said(&after.calls), ["Pwm_1 Target=160"]);
    let after = fans.returned(serial(get), &reply(get, ":1.6", &Variant::U64(220))).unwrap().unwrap();
    assert_eq!(all_said(&after.calls), ["Pwm_1 Target=220"]);
}

#[test]
fn manual_dropped_fan_control_restarted_and_asserted_again() {
    let (mut fans, mut world) = held(S2);
    world.manual = false;
    let dropped = changed(":1.5", ZONE, MODE, MANUAL, Variant::Bool(false));
    let outcome = fans.hear(&dropped).unwrap();
    assert_eq!(all_said(&outcome.calls), ["zone0 Manual=true"]);
    world.sets.clear();
    world.carry(&mut fans, outcome.calls);
    assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=160"]);

    world.sets.clear();
    world.manual = false;
    fans.hear(&owner(CONTROL, "")).unwrap();
    let outcome = fans.hear(&owner(CONTROL, ":1.5")).unwrap();
    world.carry(&mut fans, outcome.calls);
    assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=160"]);

    world.sets.clear();
    let outcome = fans.assert(0).unwrap();
    world.carry(&mut fans, outcome.calls);
    assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=160"]);
}

#[test]
fn who_drops_manual_without_end_may_have_it() {
    let (mut fans, mut world) = held(S2);
    let mut set = 0;
    for _ in 0..20 {
        let dropped = changed(":1.5", ZONE, MODE, MANUAL, Variant::Bool(false));
        let outcome = fans.hear(&dropped).unwrap();
        set += calls(&outcome.calls, "Set").len();
        world.carry(&mut fans, outcome.calls);
    }
    assert_eq!(set, MOST_REASSERTS as usize);
}

#[test]
fn fan_control_that_comes_later_is_taken_then() {
    let mut fans = fans(&[]);
    let mut world = World::new();
    let begin = fans.start().unwrap();
    for question in calls(&begin, "GetObject") {
        assert!(fans.returned(serial(question), &failed(question)).is_some());
    }
    assert_eq!(all_said(&fans.order(0, S2).unwrap().calls), Vec::<String>::new());
    assert_eq!(all_said(&fans.release().unwrap()), Vec::<String>::new());
    fans.order(0, S2).unwrap();
    let outcome = fans.hear(&owner(MAPPER, ":1.1")).unwrap();
    world.carry(&mut fans, outcome.calls);
    assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=160"]);
}

#[test]
fn an_error_or_no_answer_holds_up_nothing() {
    let (mut fans, _) = started(&[]);
    let outcome = fans.order(0, S2).unwrap();
    let set = calls(&outcome.calls, "Set")[0];
    let after = fans.returned(serial(set), &failed(set)).unwrap().unwrap();
    assert_eq!(all_said(&after.calls), Vec::<String>::new());
    // The change may have been made all the same: the zone is given back.
    let outcome = fans.order(0, FanDemand::Free).unwrap();
    assert_eq!(all_said(&outcome.calls), ["zone0 Manual=false"]);
    // The release is never answered; the next hold does not wait for it.
    let outcome = fans.order(0, S2).unwrap();
    assert!(all_said(&outcome.calls).contains(&"zone0 Manual=true".to_owned()));
}

/// Fan control rebuilds its zones, say: the object is not there for a moment.
#[test]
fn a_hold_that_was_refused_is_tried_again_by_itself_and_at_the_next_order() {
    let (mut fans, mut world) = started(&[]);
    let refuse = |fans: &mut FanControl, calls: &[Message]| {
        let set = calls.iter().find(|call| said(call) == "zone0 Manual=true").unwrap();
        let after = fans.returned(serial(set), &failed(set)).unwrap().unwrap();
        assert_eq!(all_said(&after.calls), Vec::<String>::new());
    };
    let mut outcome = fans.order(0, S2).unwrap();
    // Each pause is twice as long; nothing is sent before it is over.
    for (from, until) in [(0, 1), (1, 3), (3, 7)] {
        refuse(&mut fans, &outcome.calls);
        assert!(fans.tick(moment(from)).unwrap().calls.is_empty());
        assert_eq!(fans.wake_at(), Some(moment(until).now));
        outcome = fans.tick(moment(until)).unwrap();
        assert_eq!(all_said(&outcome.calls), ["zone0 Manual=true"]);
    }
    refuse(&mut fans, &outcome.calls);
    // The next order does not wait for the pause.
    let stall = FanDemand::Held { level: FanLevel::Stall, at_least_found: false };
    let outcome = fans.order(0, stall).unwrap();
    assert_eq!(all_said(&outcome.calls), ["zone0 Manual=true"]);
    world.carry(&mut fans, outcome.calls);
    assert_eq!(world.sets, ["zone0 Manual=true", "Pwm_1 Target=255"]);
    assert!(fans.tick(moment(100)).unwrap().calls.is_empty());
    assert_eq!(fans.wake_at(), None);
}

#[test]
fn a_release_or_a_speed_that_was_refused_is_tried_again_too() {
    let (mut fans, mut world) = held(S2);
    let stall = FanDemand::Held { level: FanLevel::Stall, at_least_found: false };
    for (wanted, says) in [(stall, "Pwm_1 Target=255"), (FanDemand::Free, "zone0 Manual=false")] {
        let outcome = fans.order(0, wanted).unwrap();
        assert_eq!(all_said(&outcome.calls), [says]);
        fans.returned(serial(&outcome.calls[0]), &failed(&outcome.calls[0])).unwrap().unwrap();
        fans.tick(moment(10)).unwrap();
        let outcome = fans.tick(moment(11)).unwrap();
        assert_eq!(all_said(&outcome.calls), [says]);
        world.carry(&mut fans, outcome.calls);
    }
    assert_eq!(fans.zones_in_hand().count(), 0);
}

#[test]
fn no_answer_is_as_good_as_an_error_and_is_not_heaped_up() {
    let (mut fans, _) = held(S2);
    let mut sent = 0;
    for second in 0..100_000 {
        // The service takes each call, and answers none.
        sent += fans.order(0, S2).unwrap().calls.len() + fans.tick(moment(second)).unwrap().calls.len();
    }
    assert_eq!(sent, MOST_OF_ONE);
    assert!(format!("{:?}", fans.awaited).len() < 10_000);
    // The service restarts: the bus says so, and answers for it.
    let outcome = fans.hear(&owner(SENSORS, ":1.9")).unwrap();
    assert_eq!(
        all_said(&calls(&outcome.calls, "Set").into_iter().cloned().collect::<Vec<_>>()),
        Vec::<String>::new()
    );
}

#[test]
fn each_zone_may_be_dropped_as_often_as_any_other() {
    const OTHER: &str = "/xyz/openbmc_project/settings/fanctrl/zone1";
    let mut settings = settings();
    settings.zones.push(OTHER.to_owned());
    let mut fans = FanControl::new([settings].iter(), Held::default(), Vec::new());
    let mut world = World::new();
    let begin = fans.start().unwrap();
    world.carry(&mut fans, begin);
    let outcome = fans.order(0, S2).unwrap();
    world.carry(&mut fans, outcome.calls);
    let mut drop = |fans: &mut FanControl, zone: &str| {
        let outcome = fans.hear(&changed(":1.5", zone, MODE, MANUAL, Variant::Bool(false))).unwrap();
        let sets = calls(&outcome.calls, "Set").len();
        world.carry(fans, outcome.calls);
        sets
    };
    let most = MOST_REASSERTS as usize;
    assert_eq!((0..20).map(|_| drop(&mut fans, ZONE)).sum::<usize>(), most);
    assert_eq!((0..20).map(|_| drop(&mut fans, OTHER)).sum::<usize>(), most);
    // The next order takes the zones that fan control was let have.
    let outcome = fans.order(0, S2).unwrap();
    assert_eq!(all_said(&outcome.calls), ["zone0 Manual=true", "zone1 Manual=true"]);
}

#[test]
fn what_was_left_held_is_given_back_when_the_host_says_so() {
    let (mut fans, mut world) = started(&[ZONE]);
    assert_eq!(world.sets, Vec::<String>::new());
    let outcome = fans.order(0, FanDemand::Free).unwrap();
    world.carry(&mut fans, outcome.calls);
    assert_eq!(world.sets, ["zone0 Manual=false"]);
    // Of no host's zones nobody says anything: at once.
    let (_, world) = {
        let mut fans =
            FanControl::new([config::Host::new(0).fans].iter(), Held::default(), vec![ZONE.to_owned()]);
        let mut world = World::new();
        let begin = fans.start().unwrap();
        world.carry(&mut fans, begin);
        (fans, world)
    };
    assert_eq!(world.sets, ["zone0 Manual=false"]);
}

#[test]
fn a_guard_alarm_counts_while_held_and_as_it_begins() {
    let (mut fans, _) = started(&[]);
    let alarm = changed(":1.6", GUARD, CRITICAL, ALARM_HIGH, Variant::Bool(true));
    assert_eq!(fans.hear(&alarm).unwrap().events, []);
    assert_eq!(fans.order(0, S2).unwrap().events, [(0, Event::GuardAlarm)]);
    fans.order(0, FanDemand::Free).unwrap();
    let over = changed(":1.6", GUARD, CRITICAL, ALARM_HIGH, Variant::Bool(false));
    assert_eq!(fans.hear(&over).unwrap().events, []);
    assert_eq!(fans.order(0, S2).unwrap().events, []);
    assert_eq!(fans.hear(&alarm).unwrap().events, [(0, Event::GuardAlarm)]);
}

#[test]
fn a_zone_of_two_hosts_is_held_for_either_at_the_higher_speed() {
    let mut fans = FanControl::new([settings(), settings()].iter(), Held::default(), Vec::new());
    let mut world = World::new();
    let begin = fans.start().unwrap();
    world.carry(&mut fans, begin);
    let outcome = fans.order(0, S2).unwrap();
    world.carry(&mut fans, outcome.calls);
    let outcome = fans.order(1, FanDemand::Held { level: FanLevel::Stall, at_least_found: false }).unwrap();
    world.carry(&mut fans, outcome.calls);
    let outcome = fans.order(0, FanDemand::Free).unwrap();
    world.carry(&mut fans, outcome.calls);
    assert_eq!(world.target, 255);
    assert!(world.manual);
    let outcome = fans.order(1, FanDemand::Free).unwrap();
    world.carry(&mut fans, outcome.calls);
    assert!(!world.manual);
}
