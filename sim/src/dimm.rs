// SPDX-License-Identifier: Apache-2.0
//! DIMMs as the BMC sees them: register maps behind the simulated buses, as JEDEC has them, and their ways to fail.

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicI32, AtomicU64, Ordering::Relaxed},
    },
};

use acpi_stated::logic::chip::Access;

use crate::lock;

/// What kind of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// With a JC42.4 sensor (`TSE2004av`).
    Ddr4,
    /// With an SPD5118 hub.
    Ddr5,
}

/// How a slot behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Manner {
    /// As it should.
    #[default]
    Well,
    /// It is empty.
    Absent,
    /// It answers, with all ones.
    Garbage,
    /// It holds the clock down: the transfer does not end until this does.
    Hangs,
}

/// One slot.
#[derive(Debug)]
pub struct Dimm {
    address: u32,
    kind: Kind,
    /// In sixteenths of a degree Celsius.
    temperature: AtomicI32,
    manner: Mutex<Manner>,
    reads: AtomicU64,
}

impl Dimm {
    /// A DIMM of 40 degrees that behaves well.
    #[must_use]
    pub fn new(address: u32, kind: Kind) -> Self {
        let (temperature, manner) = (AtomicI32::new(40 * 16), Mutex::default());
        Self { address, kind, temperature, manner, reads: AtomicU64::new(0) }
    }

    /// Its address on its bus.
    #[must_use]
    pub fn address(&self) -> u32 {
        self.address
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Makes it this warm, in degrees Celsius.
    pub fn set_temperature(&self, degrees: i32) {
        self.temperature.store(degrees * 16, Relaxed);
    }

    /// Makes it this much warmer, in degrees Celsius.
    #[allow(clippy::cast_possible_truncation, reason = "a temperature; the cast saturates")]
    pub fn warm(&self, degrees: f64) {
        self.temperature.fetch_add((degrees * 16.0).round() as i32, Relaxed);
    }

    /// How warm it is, in degrees Celsius.
    #[must_use]
    pub fn temperature(&self) -> f64 {
        f64::from(self.temperature.load(Relaxed)) / 16.0
    }

    /// Makes it behave this way from now on.
    pub fn behave(&self, manner: Manner) {
        *lock(&self.manner) = manner;
    }

    /// How often the BMC read a register of it.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Relaxed)
    }

    /// The BMC has read it once more.
    pub(crate) fn count_read(&self) {
        self.reads.fetch_add(1, Relaxed);
    }

    pub(crate) fn manner(&self) -> Manner {
        *lock(&self.manner)
    }

    /// The value of a register; `None` if it has no such one.
    pub(crate) fn register(&self, access: Access) -> Option<u16> {
        // In sixteenths, two's complement.
        let temperature =
            u16::from_ne_bytes(i16::try_from(self.temperature.load(Relaxed)).ok()?.to_ne_bytes());
        match (self.kind, access) {
            // TSE2004av: capabilities, configuration, temperature, manufacturer, device; big-endian.
            (Kind::Ddr4, Access::Word(register)) => {
                let value = match register {
                    0 => 0x00ef,
                    1 => 0x0000,
                    5 => temperature & 0x1fff,
                    6 => 0x104a,
                    7 => 0x2201,
                    _ => return None,
                };
                Some(value.swap_bytes())
            }
            // SPD5118: type, capability, page, configuration of the sensor, and the temperature in quarters at bit 2.
            (Kind::Ddr5, Access::Word(0)) => Some(u16::from_le_bytes([0x51, 0x18])),
            (Kind::Ddr5, Access::Byte(0)) => Some(0x51),
            (Kind::Ddr5, Access::Byte(1)) => Some(0x18),
            (Kind::Ddr5, Access::Byte(5)) => Some(0x03),
            (Kind::Ddr5, Access::Byte(11 | 26)) => Some(0),
            (Kind::Ddr5, Access::Word(49)) => Some(temperature & 0x1ffc),
            (Kind::Ddr4 | Kind::Ddr5, _) => None,
        }
    }
}

/// What a controller gives when no device acknowledges.
pub(crate) fn nobody_answers() -> io::Error {
    io::Error::from(rustix::io::Errno::NXIO)
}
