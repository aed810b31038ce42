// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use zbus::ObjectPath;

use super::*;
use crate::adapters::dbus::{
    doubles::*,
    names::{INTROSPECTED, MAPPER_PATH, MAPPER_PRIVATE},
};

const PATH: &str = "/xyz/openbmc_project/sensors/power/CPU0";
const VALUE: &str = "xyz.openbmc_project.Sensor.Value";

fn watched() -> KnownProperties {
    let mut watched = KnownProperties::default();
    watched.add(PATH, VALUE, "Value");
    watched
}

/// Brings it to the first value, 5.0, of `:1.7`, which is `the.service`.
fn running() -> KnownProperties {
    let mut watched = watched();
    let begin = watched.start().unwrap();
    let [question] = calls(&begin, "GetObject")[..] else { panic!("{begin:?}") };
    let told = watched.returned(serial(question), &owned_by(question, "the.service")).unwrap().unwrap();
    assert_eq!(told.appeared, [0]);
    let [get] = calls(&told.calls, "Get")[..] else { panic!("{told:?}") };
    let value = reply(get, ":1.7", &Variant::from(5.0));
    let told = watched.returned(serial(get), &value).unwrap().unwrap();
    assert_eq!(told.news, [(0, Some(Plain::Double(5.0)))]);
    watched
}

#[test]
fn another_service_that_takes_the_object_over_need_not_announce_it() {
    let mut watched = running();
    watched.hear(&owner("the.service", "")).unwrap();
    let looked = Message::signal(MAPPER_PATH, MAPPER_PRIVATE, INTROSPECTED).sender(":1.1");
    let looked = looked.build(&"its.successor").unwrap();
    let told = watched.hear(&looked).unwrap();
    let [question] = calls(&told.calls, "GetObject")[..] else { panic!("{told:?}") };
    let told = watched.returned(serial(question), &owned_by(question, "its.successor")).unwrap().unwrap();
    assert_eq!(told.appeared, [0]);
    assert_eq!(calls(&told.calls, "Get").len(), 1);
    // While its service is there, nobody asks for another.
    assert_eq!(watched.hear(&looked).unwrap().calls.len(), 0);
}

#[test]
fn found_read_and_followed() {
    let mut watched = running();
    assert_eq!(watched.value(0), Some(&Plain::Double(5.0)));
    let signal = changed(":1.7", PATH, VALUE, "Value", Variant::from(6.5));
    assert_eq!(watched.hear(&signal).unwrap().news, [(0, Some(Plain::Double(6.5)))]);
    // Another one's word does not count, nor another interface's.
    let other = changed(":1.8", PATH, VALUE, "Value", Variant::from(0.0));
    assert_eq!(watched.hear(&other).unwrap().news, []);
    let other = changed(":1.7", PATH, "another.Interface", "Value", Variant::from(0.0));
    assert_eq!(watched.hear(&other).unwrap().news, []);
    assert_eq!(watched.value(0), Some(&Plain::Double(6.5)));
}

/// A service that announces nothing itself: the mapper says when it knows the service.
#[test]
fn a_service_that_comes_late_is_found_when_the_mapper_knows_it() {
    let mapped = Message::signal(MAPPER_PATH, MAPPER_PRIVATE, INTROSPECTED);
    let mapped = mapped.sender(":1.1").build(&"the.service").unwrap();
    let mut watched = watched();
    let begin = watched.start().unwrap();
    let [question] = calls(&begin, "GetObject")[..] else { panic!("{begin:?}") };
    let told = watched.returned(serial(question), &failed(question)).unwrap().unwrap();
    assert!(told.appeared.is_empty());
    let told = watched.hear(&mapped).unwrap();
    let [question] = calls(&told.calls, "GetObject")[..] else { panic!("{told:?}") };
    let told = watched.returned(serial(question), &owned_by(question, "the.service")).unwrap().unwrap();
    assert_eq!(told.appeared, [0]);
    // Once it is found, other services do not matter.
    assert!(watched.hear(&mapped).unwrap().calls.is_empty());
}

#[test]
fn a_service_that_restarts_is_read_anew() {
    let mut watched = running();
    let told = watched.hear(&owner("the.service", "")).unwrap();
    assert_eq!((told.news.as_slice(), watched.value(0)), ([(0, None)].as_slice(), None));
    let told = watched.hear(&owner("the.service", ":1.9")).unwrap();
    assert_eq!((told.appeared.as_slice(), calls(&told.calls, "Get").len()), ([0].as_slice(), 1));
    let old = changed(":1.7", PATH, VALUE, "Value", Variant::from(1.0));
    assert_eq!(watched.hear(&old).unwrap().news, []);
}

#[test]
fn a_mapper_that_comes_later_is_asked_again_and_errors_are_no_value() {
    let mut watched = watched();
    let begin = watched.start().unwrap();
    let question = calls(&begin, "GetObject")[0];
    let told = watched.returned(serial(question), &failed(question)).unwrap().unwrap();
    assert!(told.appeared.is_empty());
    let told = watched.hear(&owner(MAPPER, ":1.1")).unwrap();
    let question = calls(&told.calls, "GetObject")[0];
    let told = watched.returned(serial(question), &owned_by(question, "the.service")).unwrap().unwrap();
    let get = calls(&told.calls, "Get")[0];
    let told = watched.returned(serial(get), &failed(get)).unwrap().unwrap();
    assert_eq!(told.news, [(0, None)]);
    assert!(watched.returned(serial(get), &failed(get)).is_none());
}

#[test]
fn an_object_that_is_announced_is_looked_up_again() {
    let mut watched = running();
    let path = ObjectPath::try_from(PATH).unwrap();
    let interfaces: BTreeMap<&str, BTreeMap<&str, Variant<'_>>> = BTreeMap::new();
    let signal = Message::signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded")
        .sender(":1.7")
        .build(&(path, interfaces))
        .unwrap();
    let told = watched.hear(&signal).unwrap();
    assert_eq!(calls(&told.calls, "GetObject").len(), 1);
}

#[test]
fn an_object_that_is_removed_takes_its_value_with_it() {
    let mut watched = running();
    let removed = |sender: &'static str, interface: &'static str| {
        let path = ObjectPath::try_from(PATH).unwrap();
        Message::signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesRemoved")
            .sender(sender)
            .build(&(path, vec![interface]))
            .unwrap()
    };
    // Another one's word does not count, nor another interface's.
    for signal in [removed(":1.8", VALUE), removed(":1.7", "another.Interface")] {
        assert_eq!(watched.hear(&signal).unwrap().news, []);
    }
    assert_eq!(watched.hear(&removed(":1.7", VALUE)).unwrap().news, [(0, None)]);
    assert_eq!(watched.value(0), None);
}
