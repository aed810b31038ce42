// SPDX-License-Identifier: Apache-2.0
//! The kernel's I2C: `/dev/i2c-N`, and what sysfs says about it.
//!
//! Owns: the transfers, the limits that are set on an adapter for as long as its bus is open, what an errno means.
//! Must never: write a register, use a bus without being asked (the poller asks, with a permit), or take an address
//! from a kernel driver.
//!
//! The limits are the adapter's, not ours: every user of it has them. The kernel does not tell what they were before,
//! so what is put back is what it gives a new adapter; after a SIGKILL nobody puts back anything.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use i2cdev::{core::I2CDevice as _, linux::LinuxI2CDevice};
use rustix::io::Errno;

use crate::logic::{chip::Access, reading::Fault};

/// One I2C bus, open.
#[cfg_attr(test, mockall::automock)]
pub trait I2cBus: Send {
    /// Reads one register of the device at `address`. Blocks for about the bus's timeout at most, or while other users
    /// of the adapter keep it.
    fn read(&mut self, address: u8, access: Access) -> io::Result<u16>;
}

/// Where buses come from.
#[cfg_attr(test, mockall::automock)]
pub trait Buses: Send + Sync {
    /// Opens a bus, with this limit for each transfer on it.
    fn open(&self, bus: u32, timeout: Duration) -> io::Result<Box<dyn I2cBus>>;

    /// The kernel driver that has this address, on this bus or on another that the same wires reach.
    fn driver_of(&self, bus: u32, address: u8) -> Option<String>;
}

/// What an error of a read means for the sensor.
#[must_use]
pub fn fault(error: &io::Error) -> Fault {
    let Some(errno) = Errno::from_io_error(error) else {
        return Fault::Other(0);
    };
    match errno {
        // Adapters differ in what they give when nobody acknowledges (Documentation/i2c/fault-codes.rst).
        Errno::NXIO | Errno::REMOTEIO | Errno::NODEV | Errno::NOENT => Fault::Absent,
        Errno::TIMEDOUT => Fault::Hung,
        Errno::BUSY => Fault::Bound,
        Errno::AGAIN => Fault::ArbitrationLost,
        other => Fault::Other(other.raw_os_error()),
    }
}

/// EBUSY of a transfer is not the EBUSY of an address: i2c-aspeed gives it when SDA or SCL is held low too long.
pub(super) fn of_transfer(error: io::Error) -> io::Error {
    if Errno::from_io_error(&error) == Some(Errno::BUSY) { Errno::TIMEDOUT.into() } else { error }
}

/// The kernel's buses.
#[derive(Debug)]
pub struct LinuxBuses {
    dev: PathBuf,
    devices: PathBuf,
    limits: Arc<Limits>,
}

impl Default for LinuxBuses {
    fn default() -> Self {
        Self::at(Path::new("/dev"), Path::new("/sys"))
    }
}

impl LinuxBuses {
    fn at(dev: &Path, sysfs: &Path) -> Self {
        let limits = Arc::new(Limits { dev: dev.to_owned(), asked: Mutex::default(), set });
        Self { dev: dev.to_owned(), devices: sysfs.join("bus/i2c/devices"), limits }
    }

    /// The adapters whose wires a transfer on this bus uses: its own, and below a mux those that the mux is on.
    fn adapters(&self, bus: u32) -> Vec<u32> {
        // A mux's channel lies inside its parent: /sys/devices/.../i2c-3/i2c-12 (i2c-mux.c).
        let Ok(place) = fs::canonicalize(self.devices.join(format!("i2c-{bus}"))) else {
            return vec![bus];
        };
        place.ancestors().filter_map(|part| number_of(part.file_name()?)).collect()
    }
}

/// `i2c-12` is adapter 12.
fn number_of(name: &OsStr) -> Option<u32> {
    name.to_str()?.strip_prefix("i2c-")?.parse().ok()
}

impl Buses for LinuxBuses {
    fn open(&self, bus: u32, timeout: Duration) -> io::Result<Box<dyn I2cBus>> {
        // Address 0, the general call, is nobody's; each read sets its own.
        let device = LinuxI2CDevice::new(self.dev.join(format!("i2c-{bus}")), 0)?;
        let mut limits = Vec::new();
        for adapter in self.adapters(bus) {
            limits.push(Limits::ask(&self.limits, adapter, timeout)?);
        }
        Ok(Box::new(LinuxBus { device, _limits: limits }))
    }

    fn driver_of(&self, bus: u32, address: u8) -> Option<String> {
        // What i2c-dev looks at for EBUSY (i2cdev_check_addr): this adapter, those above it, and those below it.
        let wanted = format!("{address:04x}");
        let above = self.adapters(bus);
        fs::read_dir(&self.devices).ok()?.flatten().find_map(|entry| {
            let name = entry.file_name();
            let (number, at) = name.to_str()?.split_once('-')?;
            let number = number.parse().ok()?;
            let reached = above.contains(&number) || self.adapters(number).contains(&bus);
            let driver =
                (at == wanted && reached).then(|| fs::read_link(entry.path().join("driver")).ok())??;
            Some(driver.file_name()?.to_string_lossy().into_owned())
        })
    }
}

/// A bus of the kernel.
struct LinuxBus {
    device: LinuxI2CDevice,
    _limits: Vec<Asked>,
}

impl I2cBus for LinuxBus {
    fn read(&mut self, address: u8, access: Access) -> io::Result<u16> {
        // Each time, also if it is the same: this is where the kernel says that a driver has come.
        self.device.set_slave_address(address.into())?;
        let value = match access {
            Access::Byte(register) => self.device.smbus_read_byte_data(register).map(u16::from),
            Access::Word(register) => self.device.smbus_read_word_data(register),
        };
        value.map_err(|error| of_transfer(error.into()))
    }
}

/// The limits of the adapters that are in use. Two buses below one mux share those above it.
struct Limits {
    dev: PathBuf,
    /// What each user of an adapter asked for; the shortest holds.
    asked: Mutex<BTreeMap<u32, Vec<Duration>>>,
    /// Sets timeout and retries of the adapter of that file.
    set: fn(&Path, Duration, u32) -> io::Result<()>,
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// The timeout of a new adapter (i2c-core-base.c, `i2c_register_adapter`).
const KERNEL_TIMEOUT: Duration = Duration::from_secs(1);
/// The retries of a new adapter, and ours: the kernel repeats what lost arbitration, and that is what we must know of.
const RETRIES: u32 = 0;

impl Limits {
    fn asked(&self) -> MutexGuard<'_, BTreeMap<u32, Vec<Duration>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(this: &Arc<Self>, adapter: u32, timeout: Duration) -> io::Result<Asked> {
        let mut asked = this.asked();
        let all = asked.entry(adapter).or_default();
        all.push(timeout);
        let shortest = all.iter().min().copied().unwrap_or(timeout);
        // From here on dropping it puts it back, also if setting it fails.
        let held = Asked { limits: Arc::clone(this), adapter, timeout };
        drop(asked);
        this.apply(adapter, shortest)?;
        Ok(held)
    }

    fn apply(&self, adapter: u32, timeout: Duration) -> io::Result<()> {
        (self.set)(&self.dev.join(format!("i2c-{adapter}")), timeout, RETRIES)
    }
}

/// A limit that one open bus asked for.
struct Asked {
    limits: Arc<Limits>,
    adapter: u32,
    timeout: Duration,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut asked = self.limits.asked();
        let all = asked.entry(self.adapter).or_default();
        if let Some(place) = all.iter().position(|timeout| *timeout == self.timeout) {
            all.swap_remove(place);
        }
        let rest = all.iter().min().copied().unwrap_or(KERNEL_TIMEOUT);
        drop(asked);
        // The adapter may be gone, and then so is its limit.
        self.limits.apply(self.adapter, rest).unwrap_or_default();
    }
}

/// Sets an adapter's timeout, in steps of 10 ms, and its retries.
fn set(file: &Path, timeout: Duration, retries: u32) -> io::Result<()> {
    let adapter = fs::File::options().read(true).write(true).open(file)?;
    let steps = usize::try_from(timeout.as_millis() / 10).unwrap_or(usize::MAX).clamp(1, 1000);
    ioctl::set_timeout(&adapter, steps)?;
    ioctl::set_retries(&adapter, usize::try_from(retries).unwrap_or(0))?;
    Ok(())
}

/// The two ioctls that i2cdev does not have.
#[allow(
    unsafe_code,
    reason = "an ioctl is as safe as its number and argument are right; each says why they are"
)]
mod ioctl {
    use std::os::fd::AsFd;

    use rustix::{
        io::Result,
        ioctl::{IntegerSetter, Opcode, ioctl},
    };

    // include/uapi/linux/i2c-dev.h
    const I2C_RETRIES: Opcode = 0x0701;
    const I2C_TIMEOUT: Opcode = 0x0702;

    pub(super) fn set_timeout(adapter: impl AsFd, steps: usize) -> Result<()> {
        // SAFETY: I2C_TIMEOUT takes its argument by value, and no memory of ours; on another device it is not known.
        unsafe { ioctl(adapter, IntegerSetter::<I2C_TIMEOUT>::new_usize(steps)) }
    }

    pub(super) fn set_retries(adapter: impl AsFd, retries: usize) -> Result<()> {
        // SAFETY: I2C_RETRIES takes its argument by value, and no memory of ours; on another device it is not known.
        unsafe { ioctl(adapter, IntegerSetter::<I2C_RETRIES>::new_usize(retries)) }
    }
}
