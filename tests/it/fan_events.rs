// SPDX-License-Identifier: Apache-2.0
//! The event that is documented for phosphor-fan-presence would be triggered: its object, interface, property and state are the ones
//! that the daemon signals, byte for byte.

use std::{collections::BTreeMap, fs, path::Path, pin::Pin};

use crate::support::rig::{PATIENCE, Rig, connect};
use futures_core::Stream as _;
use serde_json::Value;
use tokio::time::timeout;
use zbus::{MatchRule, MessageStream, Variant, message::Type};

fn example(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/phosphor-fan-presence").join(file);
    serde_json::from_str(&fs::read_to_string(path).expect("the example")).expect("JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key}: {value}"))
}

#[tokio::test]
async fn the_documented_event_is_triggered_by_s2_and_let_go_after_it() {
    let (groups, events) = (example("groups.json"), example("events.json"));
    let event = &events[0];
    let group = &event["groups"][0];
    let of_group = |other: &&Value| text(other, "name") == text(group, "name");
    let members = groups.as_array().expect("groups").iter().find(of_group).expect("the event's group");
    let path = members["members"][0].as_str().expect("a member").to_owned();
    let (interface, property) = (text(group, "interface"), text(&group["property"], "name"));
    let triggers = event["triggers"].as_array().expect("triggers");
    assert!(triggers.iter().any(|t| t["class"] == "signal" && t["signal"] == "properties_changed"));
    let state = text(&event["actions"][0], "state");

    let rig = Rig::start().await;
    // As fan control subscribes: by object, interface and nothing else.
    let watcher = connect(rig.bus.address()).await;
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .interface("org.freedesktop.DBus.Properties")
        .member("PropertiesChanged")
        .path(path.as_str())
        .arg(0, interface)
        .build()
        .expect("a rule");
    let mut signals = MessageStream::for_match_rule(rule, &watcher, None).await.expect("subscribed");

    for (set, matches) in [("S2_D2", true), ("S0_G0_D0", false), ("S2_D2", true), ("S5_G2", false)] {
        rig.set(set).await;
        let next = std::future::poll_fn(|context| Pin::new(&mut signals).poll_next(context));
        let signal = timeout(PATIENCE, next).await.expect("signalled").expect("the bus").expect("a signal");
        let body = signal.body();
        let (_, values, _): (&str, BTreeMap<&str, Variant<'_>>, Vec<&str>) =
            body.deserialize().expect("PropertiesChanged");
        let value: &str = values[property].downcast_ref().expect("a string");
        assert_eq!(value == state, matches, "{set}: {value}");
    }
}
