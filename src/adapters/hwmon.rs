// SPDX-License-Identifier: Apache-2.0
//! A temperature that a kernel driver reads: a file of its hwmon directory, found by bus and address, or any file of
//! that form.
//!
//! Owns: finding the file, also again after a rebind, and its text; and what the driver says beside it (sysfs-interface.rst:
//! `temp1_fault`, `temp1_enable`), where it says it: of a diode that is not there, or a sensor that is switched off, it
//! gives a number all the same. Must never: keep a file open, since the next one of that name may be another sensor's;
//! or read more than a number.
//!
//! A limit: an SPD hub whose page somebody else selected gives 0 to the kernel's driver too (unless that
//! looks, as it does when it probes), and with a driver at its address it is not ours to ask.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno};

use super::i2c::of_transfer;
use crate::{
    logic::{
        chip::Progress,
        reading::{Celsius, Fault},
    },
    shell::ports::{TemperatureFile, fault},
};

/// A temperature that is read from a file.
#[derive(Clone, Debug)]
pub struct Hwmon {
    place: Location,
    /// Where the file was found.
    found: Option<PathBuf>,
    /// The file was found in this reading.
    fresh: bool,
    next: Attribute,
}

/// A driver's file of one sensor, in the order in which they are read.
#[derive(Clone, Copy, Debug)]
enum Attribute {
    /// Whether it is faulty.
    Fault,
    /// Whether it is switched on.
    Enable,
    /// Its temperature.
    Input,
}

#[derive(Clone, Debug)]
enum Location {
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
        Self::at(Location::Device { sysfs: sysfs.to_owned(), bus, address, attribute })
    }

    /// This file.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self::at(Location::File(path.to_owned()))
    }

    const fn at(place: Location) -> Self {
        Self { place, found: None, fresh: false, next: Attribute::Fault }
    }

    /// The file of its temperature, as far as it is known or can be found.
    fn input(&mut self) -> Option<PathBuf> {
        match &self.place {
            Location::File(path) => return Some(path.clone()),
            Location::Device { sysfs, bus, address, attribute } if self.found.is_none() => {
                self.found = find(sysfs, *bus, *address, attribute);
                self.fresh = true;
            }
            Location::Device { .. } => {}
        }
        self.found.clone()
    }

    /// Returns the result of a reading, unless it is to be begun anew where the file is now.
    fn take(&mut self, result: Result<Celsius, Fault>) -> Progress {
        let again = result == Err(Fault::Absent) && self.found.is_some() && !self.fresh;
        if again {
            self.found = None;
        }
        self.end();
        match result {
            Err(_) if again => Progress::More,
            Err(fault) => Progress::Fault(fault),
            Ok(celsius) => Progress::Reading(celsius),
        }
    }

    fn end(&mut self) {
        self.fresh = false;
        self.next = Attribute::Fault;
    }
}

impl TemperatureFile for Hwmon {
    /// Forgets where it was found: I3C devices may have been given each other's addresses.
    fn forget(&mut self) {
        self.found = None;
        self.end();
    }

    /// Reads one of its files. Where the one that was found is gone, it is looked for once more in the same reading.
    fn step(&mut self) -> Progress {
        let Some(input) = self.input() else {
            self.end();
            return Progress::Fault(Fault::Absent);
        };
        loop {
            let (beside, bad, why) = match self.next {
                Attribute::Fault => ("_fault", "1", FAULTY),
                Attribute::Enable => ("_enable", "0", SWITCHED_OFF),
                Attribute::Input => return self.take(read(&input)),
            };
            self.next = match self.next {
                Attribute::Fault => Attribute::Enable,
                Attribute::Enable | Attribute::Input => Attribute::Input,
            };
            // Most drivers have neither. A file that cannot be read leaves it to the temperature to say why.
            match beside_it(&input, beside).map(|path| text(&path)) {
                Some(Ok(text)) if text.trim_end() == bad => return self.take(Err(Fault::Unfit(why))),
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                None => {}
                Some(Ok(_) | Err(_)) => return Progress::More,
            }
        }
    }
}

/// `temp1_fault` is beside `temp1_input`; a file of another name has none.
fn beside_it(input: &Path, attribute: &str) -> Option<PathBuf> {
    let sensor = input.file_name()?.to_str()?.strip_suffix("_input")?;
    Some(input.with_file_name(format!("{sensor}{attribute}")))
}

const FAULTY: &str = "its driver says that the sensor is faulty";
const SWITCHED_OFF: &str = "its driver says that the sensor is switched off";
const NO_VALUE: &str = "its driver has no value";

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
    let text = text(path).map_err(|error| {
        // Content that is not UTF-8 has no errno; everything else has one.
        let content = error.kind() == io::ErrorKind::InvalidData && error.raw_os_error().is_none();
        match Errno::from_io_error(&error) {
            _ if content => Fault::Unfit(NO_NUMBER),
            Some(Errno::NODATA) => Fault::Unfit(NO_VALUE),
            _ => fault(&of_transfer(error)),
        }
    })?;
    Celsius::plausible(millidegrees(&text).ok_or(Fault::Unfit(NO_NUMBER))? / 1000.0)
}

const NO_NUMBER: &str = "its file does not hold a whole number of millidegrees";

/// More than the longest number, and its newline.
const LONGEST: usize = 32;

/// Returns the content of a small file. Bounded, and never waiting for somebody to write to it.
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::{super::i2c::scratch::Scratch, *};

    const DEVICE: &str = "bus/i2c/devices/3-0018";

    fn degrees(hwmon: &mut Hwmon) -> Result<f64, Fault> {
        for _ in 0..8 {
            match hwmon.step() {
                Progress::More => {}
                Progress::Reading(celsius) => return Ok(celsius.degrees()),
                Progress::Fault(fault) => return Err(fault),
            }
        }
        panic!("no end");
    }

    /// A driver gives a number of a diode that is not connected, or a sensor that is off, too.
    #[test]
    fn what_the_driver_says_beside_it_counts() {
        let sysfs = Scratch::new();
        let file = |name: &str, text: &str| sysfs.file(&format!("{DEVICE}/hwmon/hwmon5/temp2_{name}"), text);
        file("input", "25000\n");
        sysfs.file(&format!("{DEVICE}/hwmon/hwmon5/temp1_fault"), "1\n");
        let mut hwmon = Hwmon::device(sysfs.path(), 3, 0x18, 2);
        let path = sysfs.at(&format!("{DEVICE}/hwmon/hwmon5/temp2_input"));
        let mut by_path = Hwmon::file(&path);
        let mut expect = |expected| {
            for _ in 0..2 {
                assert_eq!(degrees(&mut hwmon), expected);
                assert_eq!(degrees(&mut by_path), expected);
            }
        };
        expect(Ok(25.0));
        file("fault", "0\n");
        file("enable", "1\n");
        expect(Ok(25.0));
        file("fault", "1\n");
        expect(Err(Fault::Unfit(FAULTY)));
        file("fault", "0\n");
        file("enable", "0\n");
        expect(Err(Fault::Unfit(SWITCHED_OFF)));
        // Whatever else it is, the temperature says.
        file("enable", "what?\n");
        expect(Ok(25.0));
        // A step reads one file, under a permit of its own.
        let mut hwmon = Hwmon::file(&path);
        assert_eq!([hwmon.step(), hwmon.step()], [Progress::More; 2]);
        assert!(matches!(hwmon.step(), Progress::Reading(_)));
    }

    #[test]
    fn found_by_bus_and_address() {
        let sysfs = Scratch::new();
        sysfs.file(&format!("{DEVICE}/hwmon/hwmon5/temp1_input"), "25250\n");
        sysfs.file(&format!("{DEVICE}/hwmon/hwmon5/temp3_input"), "-3000\n");
        let read = |bus, address, channel| degrees(&mut Hwmon::device(sysfs.path(), bus, address, channel));
        assert_eq!(read(3, 0x18, 0), Ok(25.25));
        assert_eq!(read(3, 0x18, 1), Ok(25.25));
        assert_eq!(read(3, 0x18, 3), Ok(-3.0));
        assert_eq!(read(3, 0x18, 2), Err(Fault::Absent));
        assert_eq!(read(3, 0x19, 1), Err(Fault::Absent));
        assert_eq!(read(4, 0x18, 1), Err(Fault::Absent));
    }

    /// A rebind gives another number, sometimes with nothing in between; without a driver there is no directory.
    #[test]
    fn found_again_after_a_rebind() {
        let sysfs = Scratch::new();
        let mut hwmon = Hwmon::device(sysfs.path(), 3, 0x18, 1);
        assert_eq!(degrees(&mut hwmon), Err(Fault::Absent));
        sysfs.directory(DEVICE);
        assert_eq!(degrees(&mut hwmon), Err(Fault::Absent));
        sysfs.file(&format!("{DEVICE}/hwmon/hwmon5/temp1_input"), "25000\n");
        assert_eq!(degrees(&mut hwmon), Ok(25.0));

        // The new one has the same value in a file of the old name elsewhere: it is not taken for it.
        sysfs.file("bus/i2c/devices/3-0019/hwmon/hwmon5/temp1_input", "99000\n");
        let (old, new) = (sysfs.at(&format!("{DEVICE}/hwmon/hwmon5")), format!("{DEVICE}/hwmon/hwmon12"));
        fs::rename(&old, sysfs.at(&new)).unwrap();
        sysfs.file(&format!("{new}/temp1_input"), "26000\n");
        assert_eq!(degrees(&mut hwmon), Ok(26.0));

        fs::remove_dir_all(sysfs.at(&format!("{DEVICE}/hwmon"))).unwrap();
        assert_eq!(degrees(&mut hwmon), Err(Fault::Absent));
        sysfs.file(&format!("{DEVICE}/hwmon/hwmon5/temp1_input"), "27000\n");
        assert_eq!(degrees(&mut hwmon), Ok(27.0));
        fs::remove_dir_all(sysfs.at(DEVICE)).unwrap();
        assert_eq!(degrees(&mut hwmon), Err(Fault::Absent));
    }

    /// A fault of the value is no reason to look elsewhere.
    #[test]
    fn a_fault_keeps_the_file() {
        let sysfs = Scratch::new();
        let file = format!("{DEVICE}/hwmon/hwmon5/temp1_input");
        sysfs.file(&file, "25000\n");
        let mut hwmon = Hwmon::device(sysfs.path(), 3, 0x18, 1);
        assert_eq!(degrees(&mut hwmon), Ok(25.0));
        sysfs.file(&file, "126000\n");
        assert_eq!(degrees(&mut hwmon), Err(Fault::Implausible));
        sysfs.file(&file, "no\n");
        assert_eq!(degrees(&mut hwmon), Err(Fault::Unfit(NO_NUMBER)));
        sysfs.file(&file, "25125\n");
        assert_eq!(degrees(&mut hwmon), Ok(25.125));
    }

    #[test]
    fn an_i3c_device_is_found_by_its_dynamic_address() {
        let sysfs = Scratch::new();
        let device = |name: &str, address: &str, value: &str| {
            sysfs.file(&format!("bus/i3c/devices/{name}/dynamic_address"), address);
            sysfs.file(&format!("bus/i3c/devices/{name}/hwmon/hwmon7/temp1_input"), value);
        };
        sysfs.file("bus/i3c/devices/i3c-2/mode", "pure\n");
        sysfs.file("bus/i3c/devices/2-4cc51180000/pid", "4cc51180000\n");
        device("2-4cc51181000", "50\n", "31000\n");
        device("2-4cc51182000", "51\n", "32000\n");
        device("12-4cc51181000", "50\n", "33000\n");
        let mut hwmon = Hwmon::device(sysfs.path(), 2, 0x51, 1);
        assert_eq!(degrees(&mut hwmon), Ok(32.0));
        assert_eq!(degrees(&mut Hwmon::device(sysfs.path(), 2, 0x50, 1)), Ok(31.0));
        assert_eq!(degrees(&mut Hwmon::device(sysfs.path(), 12, 0x50, 1)), Ok(33.0));
        assert_eq!(degrees(&mut Hwmon::device(sysfs.path(), 2, 0x52, 1)), Err(Fault::Absent));
        // After a power cycle of the DIMMs the id is that of another, at the same address.
        fs::rename(sysfs.at("bus/i3c/devices/2-4cc51182000"), sysfs.at("bus/i3c/devices/2-4cc51189000"))
            .unwrap();
        assert_eq!(degrees(&mut hwmon), Ok(32.0));
        // Given anew, the addresses of two DIMMs may have changed places. Then both files are there.
        fs::write(sysfs.at("bus/i3c/devices/2-4cc51189000/dynamic_address"), "50\n").unwrap();
        fs::write(sysfs.at("bus/i3c/devices/2-4cc51181000/dynamic_address"), "51\n").unwrap();
        hwmon.forget();
        assert_eq!(degrees(&mut hwmon), Ok(31.0));
    }

    #[test]
    fn a_file_by_its_path() {
        let directory = Scratch::new();
        let mut hwmon = Hwmon::file(&directory.at("temp"));
        assert_eq!(degrees(&mut hwmon), Err(Fault::Absent));
        directory.file("temp", "40000");
        assert_eq!(degrees(&mut hwmon), Ok(40.0));
        // Replaced by another of that name: the new one is read.
        directory.file("new", "41000\n");
        fs::rename(directory.at("new"), directory.at("temp")).unwrap();
        assert_eq!(degrees(&mut hwmon), Ok(41.0));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let directory = Scratch::new();
        let mut hwmon = Hwmon::file(&directory.at("temp"));
        let long = vec![b'1'; 1 << 20];
        for text in [
            b"".as_slice(),
            b"\n",
            b"-",
            b"--1",
            b"+25000",
            b" 25000\n",
            b"25000 \n",
            b"25000\n\n",
            b"25000\n1",
            b"25.5",
            b"2.5e4",
            b"0x10",
            b"nan",
            b"inf",
            b"25000\0",
            b"25000\r\n",
            b"9999999999999999999",
            b"\xff\xfe",
            "\u{0662}\u{0665}".as_bytes(),
            &long,
        ] {
            directory.file("temp", text);
            assert_eq!(
                degrees(&mut hwmon),
                Err(Fault::Unfit(NO_NUMBER)),
                "{:?}",
                text.get(..20).unwrap_or(text)
            );
        }
        for (text, value) in
            [("125000", Ok(125.0)), ("-40000\n", Ok(-40.0)), ("-0", Ok(0.0)), ("007", Ok(0.007))]
        {
            directory.file("temp", text);
            assert_eq!(degrees(&mut hwmon), value);
        }
        for text in ["125001", "-40001", "999999999999999", "-999999999999999"] {
            directory.file("temp", text);
            assert_eq!(degrees(&mut hwmon), Err(Fault::Implausible), "{text}");
        }
    }

    /// None of these may keep the thread that asks.
    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let directory = Scratch::new();
        let read = |name: &str| degrees(&mut Hwmon::file(&directory.at(name)));
        directory.directory("directory");
        assert_eq!(read("directory"), Err(Fault::Other(21)));
        mknodat(CWD, directory.at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read("fifo"), Err(Fault::Unfit(NO_NUMBER)));
        symlink("/dev/zero", directory.at("endless")).unwrap();
        assert_eq!(read("endless"), Err(Fault::Unfit(NO_NUMBER)));
        symlink("loop", directory.at("loop")).unwrap();
        assert_eq!(read("loop"), Err(Fault::Other(40)));
        assert_eq!(read("directory/none"), Err(Fault::Absent));
    }

    proptest! {
        #[test]
        fn every_number_is_read_back(value in -40_000_i32..=125_000, newline: bool) {
            let text = format!("{value}{}", if newline { "\n" } else { "" });
            prop_assert_eq!(millidegrees(&text), Some(f64::from(value)));
        }

        /// Whatever the file says, there is an answer, and only a whole number is one.
        #[test]
        fn any_text(text in "[-+ 0-9.e\n\\PC]{0,40}") {
            let number = text.strip_suffix('\n').unwrap_or(&text);
            let digits = number.strip_prefix('-').unwrap_or(number);
            let plain = !digits.is_empty() && digits.len() < 16 && digits.chars().all(|c| c.is_ascii_digit());
            prop_assert_eq!(millidegrees(&text).is_some(), plain);
        }
    }
}
