// SPDX-License-Identifier: Apache-2.0
//! entity-manager's `blacklist.json`: which guarded buses fru-device may scan all the same.
//!
//! Owns: what the file means to fru-device (entity-manager `fru_device.cpp`, `loadBlocklist`,
//! `findI2CDevices`; openbmc 3.4). Must never: write it.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    path::Path,
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    config::{json::Json, problem},
    files::{self, Links},
    logic::event::Event,
    shell::{
        messages::Input,
        permits::{BusId, HostIndex},
        ports::Buses,
    },
};

/// Where entity-manager's file is.
pub const DIRECTORY: &str = "/usr/share/entity-manager";
/// Its name there.
const FILE: &str = "blacklist.json";
/// No list of buses is this long.
const LONGEST: u64 = 1 << 20;

/// A guarded bus that fru-device may scan.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unguarded {
    /// Linux I2C bus number.
    bus: u32,
    /// Why it may.
    why: String,
}

/// Returns those of `buses` that fru-device may scan, by the file in `directory` ([`DIRECTORY`]); none, where
/// entity-manager is not installed. `sysfs` (`/sys`) says which bus a mux's channel is behind.
fn unguarded(directory: &Path, sysfs: &Path, buses: impl IntoIterator<Item = u32>) -> Vec<Unguarded> {
    if !directory.is_dir() {
        return Vec::new();
    }
    let path = directory.join(FILE);
    let listed = match read(&path) {
        Ok(text) => listed(&text).map_err(|wrong| format!("{} is damaged: {wrong}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("there is no {}", path.display()))
        }
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    };
    let may = |bus| match &listed {
        Err(why) => Some(why.clone()),
        Ok(listed) => {
            // fru-device skips a channel with the bus that its mux is on, one level up.
            let whole = |bus| listed.get(&bus) == Some(&Skips::Bus);
            if whole(u64::from(bus)) || parent(sysfs, bus).is_some_and(whole) {
                return None;
            }
            Some(match listed.get(&u64::from(bus)) {
                Some(_) => {
                    format!("{} skips only some addresses there, and scans the others", path.display())
                }
                None => format!("{} does not list it", path.display()),
            })
        }
    };
    buses.into_iter().filter_map(|bus| Some(Unguarded { bus, why: may(bus)? })).collect()
}

/// Looks through the buses with DIMMs, and those above that reach them through a mux: of each that fru-device may scan there is a line,
/// and each host that it carries is told (openbmc 3.4).
pub(crate) fn report(
    directory: &Path,
    buses: &[(BusId, Vec<HostIndex>)],
    sysfs: &Path,
    i2c: &dyn Buses,
    to_loop: &UnboundedSender<Input>,
) {
    for (bus, carried) in buses.iter().filter(|(_, carried)| !carried.is_empty()) {
        let BusId::I2c(number) = bus else { continue };
        let chain = i2c.chain(*number);
        let reach = std::iter::once(*number).chain(chain.exposed_to());
        for found in unguarded(directory, sysfs, reach) {
            let what = if found.bus == *number {
                format!("the guarded I2C bus {number}")
            } else {
                format!("I2C bus {}, from where the guarded bus {number} is reached", found.bus)
            };
            tracing::warn!("fru-device may scan {what}: {}", found.why);
            for host in carried {
                to_loop.send(Input::Event(*host, Event::UnguardedBus(true))).unwrap_or_default();
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    files::open(path, Links::Follow)?.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(text)
}

/// The part of a bus that fru-device leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skips {
    /// All of it.
    Bus,
    /// These addresses; it also reads any EEPROM there that a driver has.
    Addresses,
}

/// The buses of the file. Of two entries for one bus the last counts.
fn listed(text: &[u8]) -> Result<BTreeMap<u64, Skips>, String> {
    let json = problem::parse(text).map_err(|problem| format!("{}: {}", problem.at, problem.wrong))?;
    let Json::Object(entries) = &json else { return Err("it is no object".to_owned()) };
    let mut listed = BTreeMap::new();
    // Without it nothing is skipped, and it is right all the same.
    let Some(buses) = value(entries, "buses") else { return Ok(listed) };
    let Json::Array(buses) = buses else { return Err("\"buses\" is no array".to_owned()) };
    for entry in buses {
        let wrong = || format!("\"buses\" has {}", entry.shortened());
        match entry {
            Json::Object(keys) => {
                let number = value(keys, "bus").and_then(number).ok_or_else(wrong)?;
                let Some(Json::Array(addresses)) = value(keys, "addresses") else { return Err(wrong()) };
                if !addresses.iter().all(|address| matches!(address, Json::String(_))) {
                    return Err(wrong());
                }
                listed.insert(number, Skips::Addresses);
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
                listed.insert(number(entry).ok_or_else(wrong)?, Skips::Bus);
            }
        }
    }
    Ok(listed)
}

fn value<'a>(entries: &'a [(String, Json)], key: &str) -> Option<&'a Json> {
    entries.iter().rfind(|(name, _)| name == key).map(|(_, value)| value)
}

fn number(json: &Json) -> Option<u64> {
    if let Json::Number(number) = json { number.as_u64() } else { None }
}

/// The bus that the mux of this channel is on: its device is called after bus and address, as 3-0070.
fn parent(sysfs: &Path, bus: u32) -> Option<u64> {
    let link = sysfs.join(format!("bus/i2c/devices/i2c-{bus}/mux_device"));
    let mux = std::fs::read_link(link).ok()?;
    mux.file_name()?.to_str()?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use tokio::sync::mpsc::unbounded_channel;

    use super::{super::i2c::scratch::Scratch, *};
    use crate::{
        logic::wires::{Chain, Idle, Mux},
        shell::ports::MockBuses,
    };

    /// The buses of 3, 4 and 12 that may be scanned with this file; 12 is a channel of a mux on 4.
    fn scanned(text: &str) -> Vec<(u32, String)> {
        let root = Scratch::new();
        root.file("em/blacklist.json", text);
        root.directory("sys/devices/i2c-4/4-0070");
        root.link("sys/bus/i2c/devices/i2c-12/mux_device", "sys/devices/i2c-4/4-0070");
        root.link("sys/bus/i2c/devices/i2c-3/mux_device", "sys/devices/platform/i2c-mux");
        let found = unguarded(&root.at("em"), &root.at("sys"), [3, 4, 12]);
        let prefix = format!("{} ", root.at("em/blacklist.json").display());
        found.into_iter().map(|found| (found.bus, found.why.replace(&prefix, ""))).collect()
    }

    fn buses(text: &str) -> Vec<u32> {
        scanned(text).into_iter().map(|(bus, _)| bus).collect()
    }

    /// entity-manager's `blacklist_configuration.md`, and what its reader makes of the other forms.
    #[test]
    fn which_buses_a_file_leaves_to_be_scanned() {
        for (text, left) in [
            (r#"{ "buses": [3, 4, 12] }"#, vec![]),
            (r#"{ "buses": [1, 3, 5] }"#, vec![4, 12]),
            // A channel is skipped with the bus that its mux is on.
            (r#"{ "buses": [4] }"#, vec![3]),
            (r#"{ "buses": [12] }"#, vec![3, 4]),
            // The other addresses are scanned.
            (r#"{ "buses": [4, { "bus": 3, "addresses": ["0x50", "0x51"] }] }"#, vec![3]),
            (r#"{ "buses": [3, { "bus": 4, "addresses": ["0x50"] }] }"#, vec![4, 12]),
            // The last entry of a bus counts.
            (r#"{ "buses": [3, 4, { "bus": 3, "addresses": [] }] }"#, vec![3]),
            (r#"{ "buses": [4, { "bus": 3, "addresses": [] }, 3] }"#, vec![]),
            // Addresses of all buses.
            (r#"{ "buses": [3, 4], "addresses": ["0x50"] }"#, vec![]),
            (r#"{ "addresses": ["0x50"] }"#, vec![3, 4, 12]),
            ("{}", vec![3, 4, 12]),
            (r#"{ "buses": [] }"#, vec![3, 4, 12]),
            // Of a key given twice the last counts.
            (r#"{ "buses": [3, 4], "buses": [3] }"#, vec![4, 12]),
        ] {
            assert_eq!(buses(text), left, "{text}");
        }
    }

    #[test]
    fn each_says_why() {
        let left = scanned(r#"{ "buses": [{ "bus": 3, "addresses": ["0x50"] }] }"#);
        assert_eq!(left[0], (3, "skips only some addresses there, and scans the others".to_owned()));
        assert_eq!(left[1], (4, "does not list it".to_owned()));
    }

    #[test]
    fn a_damaged_file_guards_nothing_and_says_why() {
        for (text, because) in [
            ("", "this is not JSON"),
            ("{ \"buses\": [3, 4 }", "line 1, column"),
            ("[3, 4]", "no object"),
            ("\u{feff}{}", "this is not JSON"),
            (r#"{ "buses": 3 }"#, "no array"),
            (r#"{ "buses": null }"#, "no array"),
            (r#"{ "buses": ["3", 4, 12] }"#, "\"buses\" has \"3\""),
            (r#"{ "buses": [3, 4, -1] }"#, "has -1"),
            (r#"{ "buses": [3, 4.5] }"#, "has 4.5"),
            (r#"{ "buses": [3, 4, { "bus": 5 }] }"#, "has {\"bus\":5}"),
            (r#"{ "buses": [3, 4, { "addresses": ["0x50"] }] }"#, "has {"),
            (r#"{ "buses": [3, 4, { "bus": 5, "addresses": [80] }] }"#, "has {"),
            (r#"{ "buses": [3, 4, { "bus": 5, "addresses": "0x50" }] }"#, "has {"),
        ] {
            let left = scanned(text);
            assert_eq!(left.iter().map(|(bus, _)| *bus).collect::<Vec<_>>(), [3, 4, 12], "{text}");
            assert!(left.iter().all(|(_, why)| why.contains("damaged") && why.contains(because)), "{left:?}");
        }
    }

    #[test]
    fn without_a_file_nothing_is_guarded() {
        let root = Scratch::new();
        root.directory("em");
        let found = unguarded(&root.at("em"), &root.at("sys"), [3, 4]);
        assert_eq!(found.len(), 2);
        assert!(found[0].why.starts_with("there is no /"), "{found:?}");
        // A directory in its place.
        root.directory("em/blacklist.json");
        let found = unguarded(&root.at("em"), &root.at("sys"), [3]);
        assert!(found[0].why.contains("cannot be read"), "{found:?}");
    }

    #[test]
    fn a_file_without_end_is_not_read_to_it() {
        let root = Scratch::new();
        root.file("em/blacklist.json", vec![b' '; (1 << 20) + 1]);
        let found = unguarded(&root.at("em"), &root.at("sys"), [3]);
        assert!(found[0].why.contains("longer than 1 MiB"), "{found:?}");
    }

    #[test]
    fn without_entity_manager_there_is_nothing_to_say() {
        let root = Scratch::new();
        assert_eq!(unguarded(&root.at("em"), &root.at("sys"), [3, 4]), []);
    }

    proptest! {
        /// Nothing in the file makes a bus guarded but an entry of its own, or of its mux's bus.
        #[test]
        fn any_text(text in "[\\[\\]{}:,\" 0-9a-z]{0,40}") {
            drop(listed(text.as_bytes()));
        }

        #[test]
        fn any_list(listed in prop::collection::vec(0_u32..16, 0..8)) {
            let text = format!("{{ \"buses\": {listed:?} }}");
            let has = |bus| listed.contains(&bus);
            let left: Vec<u32> =
                [3, 4, 12].into_iter().filter(|&bus| !(has(bus) || bus == 12 && has(4))).collect();
            prop_assert_eq!(buses(&text), left);
        }
    }

    /// Bus 12 is in the list; bus 3, that the mux is on of which it is a channel, is not.
    #[test]
    fn a_bus_above_that_reaches_dimms_must_not_be_scanned_either() {
        let root = Scratch::new();
        root.file("em/blacklist.json", r#"{ "buses": [12] }"#);
        for (idle, told) in [(Idle::Stays(-1), 1), (Idle::Unknown, 1), (Idle::Disconnects, 0)] {
            let mut i2c = MockBuses::new();
            let mux = Mux { name: "3-0070".to_owned(), idle, on: 3 };
            i2c.expect_chain().return_once(|_| Chain(vec![mux]));
            let (to_loop, mut inputs) = unbounded_channel();
            report(
                &root.path().join("em"),
                &[(BusId::I2c(12), vec![0])],
                &root.path().join("sys"),
                &i2c,
                &to_loop,
            );
            let events = std::iter::from_fn(|| inputs.try_recv().ok());
            assert_eq!(events.count(), told, "{idle:?}");
        }
    }
}
