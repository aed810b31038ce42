// SPDX-License-Identifier: Apache-2.0
//! entity-manager's `blacklist.json`: which guarded buses fru-device may scan all the same.
//!
//! Owns: what the file means to fru-device (entity-manager src/fru_device/fru_device.cpp, `loadBlocklist`,
//! `findI2CDevices`; contract 3.4). Must never: write it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use crate::config::json::Json;

/// Where entity-manager's file is.
pub const DIRECTORY: &str = "/usr/share/entity-manager";
/// Its name there.
const FILE: &str = "blacklist.json";
/// No list of buses is this long.
const LONGEST: u64 = 1 << 20;

/// A guarded bus that fru-device may scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unguarded {
    /// Linux I2C bus number.
    pub bus: u32,
    /// Why it may.
    pub why: String,
}

/// Those of `buses` that fru-device may scan, by the file in `directory` ([`DIRECTORY`]); none, where entity-manager is
/// not installed. `sysfs` (`/sys`) says which bus a mux's channel is behind.
#[must_use]
pub fn unguarded(directory: &Path, sysfs: &Path, buses: impl IntoIterator<Item = u32>) -> Vec<Unguarded> {
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

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(text)
}

/// What fru-device leaves out of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skips {
    /// All of it.
    Bus,
    /// These addresses; it also reads any EEPROM there that a driver has.
    Addresses,
}

/// The buses of the file. Of two entries for one bus the last counts.
fn listed(text: &[u8]) -> Result<BTreeMap<u64, Skips>, String> {
    let json = Json::parse(text).map_err(|problem| format!("{}: {}", problem.at, problem.wrong))?;
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
            _ => {
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
