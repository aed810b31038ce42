// SPDX-License-Identifier: Apache-2.0
//! The host's hardware in truth: its rails, what it does, and what the CPU draws. What D-Bus shows of it is others' doing.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use acpi_stated::{logic::chip::Access, shell::clock::Clock, shell::ports::I2cBus};

use crate::{clock::secs, dimm::nobody_answers, lock, transfer::TRANSFER};

/// The bus of the CPU's own sensor; no DIMM is on it.
pub const CPU_BUS: u32 = 5;
/// The CPU's SB-TSI there.
pub const CPU_ADDRESS: u8 = 0x4c;
/// From the rails to a CPU that answers.
const CPU_STARTS: Duration = secs(2);

/// What the host does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Load {
    /// Nothing: it is off, or hangs.
    #[default]
    Idle,
    /// UEFI trains the memory.
    Training,
    /// The operating system works.
    Working,
}

/// The hardware; clones are the same.
#[derive(Clone, Debug)]
pub struct Platform(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    up_since: Mutex<Option<Instant>>,
    load: Mutex<Load>,
    /// The CPU's regulator has tripped, and gives nothing until the rails rise again.
    tripped: AtomicBool,
    /// It will as soon as they rise.
    will_trip: AtomicBool,
    /// In eighths of a degree Celsius.
    cpu_temperature: AtomicI32,
}

impl Platform {
    /// Everything off.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            clock,
            up_since: Mutex::default(),
            load: Mutex::default(),
            tripped: AtomicBool::new(false),
            will_trip: AtomicBool::new(false),
            cpu_temperature: AtomicI32::new(45 * 8),
        }))
    }

    /// The rails rise.
    pub fn rise(&self) {
        self.0.tripped.store(self.0.will_trip.swap(false, Relaxed), Relaxed);
        *lock(&self.0.up_since) = Some(Instant::now());
    }

    /// The rails fall.
    pub fn fall(&self) {
        *lock(&self.0.up_since) = None;
        self.work(Load::Idle);
    }

    /// Whether the rails are up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up_since().is_some()
    }

    /// Since when the rails are up.
    #[must_use]
    pub fn up_since(&self) -> Option<Instant> {
        *lock(&self.0.up_since)
    }

    /// The host does this from now on.
    pub fn work(&self, load: Load) {
        *lock(&self.0.load) = load;
    }

    /// What the host does.
    #[must_use]
    pub fn load(&self) -> Load {
        *lock(&self.0.load)
    }

    /// The CPU's regulator trips, and is well again when the rails rise the next time.
    pub fn trip(&self) {
        self.0.tripped.store(true, Relaxed);
    }

    /// The CPU's regulator trips when the rails rise the next time, and is well again when they rise after that.
    pub fn trip_at_rise(&self) {
        self.0.will_trip.store(true, Relaxed);
    }

    /// Whether there is power in the CPU.
    #[must_use]
    pub fn cpu_is_powered(&self) -> bool {
        self.is_up() && !self.0.tripped.load(Relaxed)
    }

    /// What the CPU draws, in watts.
    #[must_use]
    pub fn cpu_watts(&self) -> f64 {
        if !self.cpu_is_powered() {
            return 0.0;
        }
        match self.load() {
            Load::Idle => 35.0,
            Load::Training => 62.0,
            Load::Working => 118.0,
        }
    }

    /// Makes the CPU this warm, in degrees Celsius.
    #[allow(clippy::cast_possible_truncation, reason = "a temperature; the cast saturates")]
    pub fn set_cpu_temperature(&self, degrees: f64) {
        self.0.cpu_temperature.store((degrees * 8.0) as i32, Relaxed);
    }

    /// How warm the CPU is, in degrees Celsius.
    #[must_use]
    pub fn cpu_temperature(&self) -> f64 {
        f64::from(self.0.cpu_temperature.load(Relaxed)) / 8.0
    }

    /// The BMC's controller of [`CPU_BUS`].
    #[must_use]
    pub fn cpu_bus(&self) -> Box<dyn I2cBus> {
        Box::new(CpuBus(self.clone()))
    }

    fn cpu_answers(&self) -> bool {
        let up_for = self.up_since().map(|since| since.elapsed() * self.0.clock.speed());
        self.cpu_is_powered() && up_for.is_some_and(|up_for| up_for >= CPU_STARTS)
    }
}

struct CpuBus(Platform);

impl I2cBus for CpuBus {
    fn transfer(&mut self, address: u8, access: Access) -> std::io::Result<u16> {
        std::thread::sleep(TRANSFER);
        if address != CPU_ADDRESS || !self.0.cpu_answers() {
            return Err(nobody_answers());
        }
        let eighths = self.0.0.cpu_temperature.load(Relaxed).clamp(0, 255 * 8 + 7);
        // AMD 40821: whole degrees, configuration, upper limit, and eighths in the upper three bits.
        let value = match access {
            Access::Byte(0x01) => eighths / 8,
            Access::Byte(0x03) => 0,
            Access::Byte(0x07) => 70,
            Access::Byte(0x10) => (eighths % 8) << 5,
            Access::Byte(_) | Access::Word(_) | Access::Page0 => return Err(nobody_answers()),
        };
        Ok(u16::try_from(value).unwrap_or_default())
    }
}
