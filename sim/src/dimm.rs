// SPDX-License-Identifier: Apache-2.0
//! DIMMs as the BMC sees them: register maps behind the simulated buses, as JEDEC has them, and their ways to fail.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use acpi_stated::{
    adapters::i2c::{Buses, I2cBus},
    logic::chip::Access,
};

use crate::{
    lock,
    platform::{CPU_BUS, Platform},
    simbus::{Master, Outcome, SimBus, TRANSFER},
};

/// How long a bus that hangs keeps its master; the kernel's timeout, on a driver that has one.
const HANG_TICK: Duration = Duration::from_millis(1);
/// No bus of a board hangs longer.
const LONGEST_HANG: Duration = Duration::from_secs(20);

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

    fn manner(&self) -> Manner {
        *lock(&self.manner)
    }

    /// The value of a register; `None` if it has no such one.
    fn register(&self, access: Access) -> Option<u16> {
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
            // SPD5118: type, capability, configuration of the sensor, and the temperature in quarters at bit 2.
            (Kind::Ddr5, Access::Word(0)) => Some(u16::from_le_bytes([0x51, 0x18])),
            (Kind::Ddr5, Access::Byte(0)) => Some(0x51),
            (Kind::Ddr5, Access::Byte(1)) => Some(0x18),
            (Kind::Ddr5, Access::Byte(5)) => Some(0x03),
            (Kind::Ddr5, Access::Byte(26)) => Some(0),
            (Kind::Ddr5, Access::Word(49)) => Some(temperature & 0x1ffc),
            (Kind::Ddr4 | Kind::Ddr5, _) => None,
        }
    }
}

/// What a controller gives when no device acknowledges.
pub(crate) fn nobody_answers() -> io::Error {
    io::Error::from(rustix::io::Errno::NXIO)
}

/// The board's buses, in the place of the kernel's: those of the DIMMs, and the CPU's.
#[derive(Clone, Debug)]
pub struct SimBuses {
    /// Those of the DIMMs.
    pub dimms: Vec<Arc<SimBus>>,
    /// Nothing answers without power.
    pub platform: Platform,
}

impl Buses for SimBuses {
    fn open(&self, bus: u32, _: Duration) -> io::Result<Box<dyn I2cBus>> {
        if bus == CPU_BUS {
            return Ok(self.platform.cpu_bus());
        }
        let bus = self.dimms.iter().find(|known| known.number() == bus);
        let bus = bus.ok_or_else(|| io::Error::from(rustix::io::Errno::NOENT))?;
        Ok(Box::new(Bmc { bus: Arc::clone(bus), platform: self.platform.clone() }))
    }

    fn driver_of(&self, _: u32, _: u8) -> Option<String> {
        None
    }
}

/// The BMC's controller of one bus.
struct Bmc {
    bus: Arc<SimBus>,
    platform: Platform,
}

impl I2cBus for Bmc {
    fn read(&mut self, address: u8, access: Access) -> io::Result<u16> {
        let errno = |errno: rustix::io::Errno| io::Error::from(errno);
        let address = u32::from(address);
        let dimm = self.bus.dimms().iter().find(|dimm| dimm.address == address);
        let manner = dimm.filter(|_| self.platform.is_up()).map_or(Manner::Absent, Dimm::manner);
        let length = if manner == Manner::Absent { TRANSFER / 4 } else { TRANSFER };
        let outcome = match dimm.filter(|_| manner == Manner::Hangs) {
            Some(dimm) => self.bus.held(Master::Bmc, address, || {
                let began = Instant::now();
                while dimm.manner() == Manner::Hangs && began.elapsed() < LONGEST_HANG {
                    thread::sleep(HANG_TICK);
                }
            }),
            None => self.bus.stretched(Master::Bmc, address, length),
        };
        match outcome {
            Outcome::Done => {}
            Outcome::Denied => return Err(errno(rustix::io::Errno::AGAIN)),
            Outcome::Unconnected => return Err(nobody_answers()),
        }
        let Some(dimm) = dimm else { return Err(nobody_answers()) };
        dimm.reads.fetch_add(1, Relaxed);
        match manner {
            Manner::Well => dimm.register(access).ok_or_else(|| errno(rustix::io::Errno::REMOTEIO)),
            Manner::Absent => Err(nobody_answers()),
            Manner::Garbage => Ok(0xffff),
            Manner::Hangs => Err(errno(rustix::io::Errno::TIMEDOUT)),
        }
    }
}
