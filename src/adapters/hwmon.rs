// SPDX-License-Identifier: Apache-2.0
//! A temperature that a kernel driver reads: a file of its hwmon directory, found by bus and address, or any file of
//! that form.
//!
//! Owns: finding the file, also again after a rebind, and its text. Must never: keep a file open, since the next one
//! of that name may be another sensor's; or read more than a number.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::i2c::{fault, of_transfer};
use crate::logic::reading::{Celsius, Fault};

/// One temperature that is read from a file.
#[derive(Clone, Debug)]
pub struct Hwmon {
    place: Place,
    /// Where the file was found.
    found: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Place {
    /// The device at an address of an I2C or I3C bus.
    Device { sysfs: PathBuf, bus: u32, address: u8, attribute: String },
    /// This file.
    File(PathBuf),
}

impl Hwmon {
    /// `temp<channel>_input` of the driver that is bound to the device at `address`; channel 0 is 1. `sysfs` is `/sys`.
    #[must_use]
    pub fn device(sysfs: &Path, bus: u32, address: u8, channel: u8) -> Self {
        let attribute = format!("temp{}_input", channel.max(1));
        Self { place: Place::Device { sysfs: sysfs.to_owned(), bus, address, attribute }, found: None }
    }

    /// This file.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self { place: Place::File(path.to_owned()), found: None }
    }

    /// Reads it once; where a file that was found is gone, once more where it is now.
    pub fn read(&mut self) -> Result<Celsius, Fault> {
        let (sysfs, bus, address, attribute) = match &self.place {
            Place::File(path) => return read(path),
            Place::Device { sysfs, bus, address, attribute } => (sysfs, *bus, *address, attribute),
        };
        if let Some(path) = &self.found {
            match read(path) {
                Err(Fault::Absent) => self.found = None,
                result => return result,
            }
        }
        let path = find(sysfs, bus, address, attribute).ok_or(Fault::Absent)?;
        let result = read(&path);
        self.found = Some(path);
        result
    }
}

/// The file of that name in the device's hwmon directory.
fn find(sysfs: &Path, bus: u32, address: u8, attribute: &str) -> Option<PathBuf> {
    let i2c = sysfs.join(format!("bus/i2c/devices/{bus}-{address:04x}"));
    in_device(&i2c, attribute).or_else(|| in_device(&i3c_device(sysfs, bus, address)?, attribute))
}

/// An I3C device has its name from its bus and provisional id, and its address in a file (i3c/master.c).
fn i3c_device(sysfs: &Path, bus: u32, address: u8) -> Option<PathBuf> {
    let of_bus = format!("{bus}-");
    fs::read_dir(sysfs.join("bus/i3c/devices")).ok()?.flatten().map(|entry| entry.path()).find(|device| {
        let name = device.file_name().and_then(|name| name.to_str());
        let here = name.is_some_and(|name| name.starts_with(&of_bus));
        here && text(&device.join("dynamic_address"))
            .ok()
            .and_then(|text| u8::from_str_radix(text.trim(), 16).ok())
            .is_some_and(|dynamic| dynamic == address)
    })
}

/// A device has one hwmon directory, or none; the first in order, if there should be more.
fn in_device(device: &Path, attribute: &str) -> Option<PathBuf> {
    let directories = fs::read_dir(device.join("hwmon")).ok()?.flatten();
    directories.map(|entry| entry.path().join(attribute)).filter(|path| path.exists()).min()
}

fn read(path: &Path) -> Result<Celsius, Fault> {
    let text = text(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Fault::Unfit(NO_NUMBER),
        _ => fault(&of_transfer(error)),
    })?;
    Celsius::plausible(millidegrees(&text).ok_or(Fault::Unfit(NO_NUMBER))? / 1000.0)
}

const NO_NUMBER: &str = "its file does not hold a whole number of millidegrees";

/// More than the longest number, and its newline.
const LONGEST: usize = 32;

/// What a small file says. Bounded, and never waiting for somebody to write to it.
fn text(path: &Path) -> io::Result<String> {
    #[allow(clippy::cast_possible_wrap, reason = "open(2) takes the bits as an int")]
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let mut text = String::new();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    file.take(LONGEST as u64).read_to_string(&mut text)?;
    Ok(text)
}

/// sysfs-interface.rst: "temperatures are in millidegrees", one whole number and a newline.
fn millidegrees(text: &str) -> Option<f64> {
    let number = text.strip_suffix('\n').unwrap_or(text);
    // A plus sign is a digit to parse().
    let digits = number.strip_prefix('-').unwrap_or(number);
    let plain = digits.len() < LONGEST / 2 && digits.bytes().all(|b| b.is_ascii_digit());
    #[allow(clippy::cast_precision_loss, reason = "what is not exact here is not believed either")]
    plain.then(|| number.parse::<i64>().ok().map(|value| value as f64))?
}
