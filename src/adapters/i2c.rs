// SPDX-License-Identifier: Apache-2.0
//! The kernel's I2C: `/dev/i2c-N`, and what sysfs says about it.
//!
//! Owns: the transfers, the limits that are set on an adapter for as long as its bus is open, what an errno means.
//! Must never: write a register but an SPD hub's page ([`Access::Page0`]), use a bus without being asked (the poller asks, with a permit), or take an address
//! from a kernel driver.
//!
//! The limits are the adapter's, not ours: every user of it has them. The kernel does not tell what they were before,
//! so what is put back is what it gives a new adapter; after a SIGKILL nobody puts back anything.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use i2cdev::{core::I2CDevice as _, linux::LinuxI2CDevice};
use rustix::io::Errno;

use crate::{
    logic::{
        chip::Access,
        wires::{Chain, Idle, Mux},
    },
    shell::ports::{Buses, I2cBus},
};

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
        let directory = dev.to_owned();
        let set = move |adapter, timeout| set(&device_file(&directory, adapter), timeout, RETRIES);
        let limits = Arc::new(Limits { asked: Mutex::default(), set: Box::new(set) });
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

/// Reads what a mux does after a transfer: -2 disconnects it, -1 leaves it as it is, another is the channel that it
/// goes to (include/dt-bindings/mux/mux.h; i2c-mux-pca954x.c). Other drivers' muxes have no such file.
fn idle(mux: &Path) -> Idle {
    let state = fs::read_to_string(mux.join("idle_state")).ok().and_then(|text| text.trim().parse().ok());
    match state {
        Some(-2) => Idle::Disconnects,
        Some(state) => Idle::Stays(state),
        None => Idle::Unknown,
    }
}

fn device_file(dev: &Path, adapter: u32) -> PathBuf {
    dev.join(format!("i2c-{adapter}"))
}

/// `i2c-12` is adapter 12.
fn number_of(name: &OsStr) -> Option<u32> {
    name.to_str()?.strip_prefix("i2c-")?.parse().ok()
}

impl Buses for LinuxBuses {
    fn open(&self, bus: u32, timeout: Duration) -> io::Result<Box<dyn I2cBus>> {
        // Address 0, the general call, is nobody's; each read sets its own.
        let device = LinuxI2CDevice::new(device_file(&self.dev, bus), 0)?;
        let mut limits = Vec::new();
        for adapter in self.adapters(bus) {
            limits.push(Limits::ask(&self.limits, adapter, timeout)?);
        }
        Ok(Box::new(LinuxBus { device, _limits: limits }))
    }

    fn driver_of(&self, bus: u32, address: u8) -> Option<String> {
        // The adapters that i2c-dev looks at for EBUSY (i2cdev_check_addr): this one, those above it, and those below it.
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

    fn chain(&self, bus: u32) -> Chain {
        let buses = self.adapters(bus);
        let muxes = buses.iter().zip(buses.iter().skip(1)).map(|(channel, on)| {
            // Made by i2c_mux_add_adapter (i2c-mux.c).
            let mux = self.devices.join(format!("i2c-{channel}")).join("mux_device");
            let name = fs::read_link(&mux).ok();
            let name = name.as_deref().and_then(Path::file_name).unwrap_or(OsStr::new("?"));
            Mux { name: name.to_string_lossy().into_owned(), idle: idle(&mux), on: *on }
        });
        Chain(muxes.collect())
    }
}

/// A bus of the kernel.
struct LinuxBus {
    device: LinuxI2CDevice,
    _limits: Vec<Asked>,
}

/// JESD300-5, MR11: bits 2-0 the page, bit 3 addresses of two bytes.
const MR11: u8 = 0x0b;

impl I2cBus for LinuxBus {
    fn transfer(&mut self, address: u8, access: Access) -> io::Result<u16> {
        // Each time, also if it is the same: this is where the kernel says that a driver has come.
        self.device.set_slave_address(address.into())?;
        let value = match access {
            Access::Byte(register) => self.device.smbus_read_byte_data(register).map(u16::from),
            Access::Word(register) => self.device.smbus_read_word_data(register),
            Access::Page0 => self.device.smbus_write_byte_data(MR11, 0).map(|()| 0),
        };
        value.map_err(|error| of_transfer(error.into()))
    }
}

/// The limits of the adapters that are in use. Two buses below one mux share those above it.
struct Limits {
    /// The timeout that each user of an adapter asked for; the shortest holds.
    asked: Mutex<BTreeMap<u32, Vec<Duration>>>,
    /// Sets an adapter's timeout.
    set: Box<SetTimeout>,
}

type SetTimeout = dyn Fn(u32, Duration) -> io::Result<()> + Send + Sync;

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// The timeout of a new adapter (i2c-core-base.c, `i2c_register_adapter`).
const KERNEL_TIMEOUT: Duration = Duration::from_secs(1);
/// The retries of a new adapter, and ours: the kernel repeats what lost arbitration, and that is what we must know of.
const RETRIES: usize = 0;

impl Limits {
    /// Another user; until the result is dropped.
    fn ask(this: &Arc<Self>, adapter: u32, timeout: Duration) -> io::Result<Asked> {
        let asked = Asked { limits: Arc::clone(this), adapter, timeout };
        // If it cannot be set, dropping `asked` takes it back.
        this.change(adapter, |users| users.push(timeout))?;
        Ok(asked)
    }

    fn change(&self, adapter: u32, edit: impl FnOnce(&mut Vec<Duration>)) -> io::Result<()> {
        // Kept while it is set, so that the last to change is the last to set. Nothing here waits for the bus.
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let users = asked.entry(adapter).or_default();
        edit(users);
        (self.set)(adapter, users.iter().min().copied().unwrap_or(KERNEL_TIMEOUT))
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
        let take_back = |users: &mut Vec<Duration>| {
            let place = users.iter().position(|timeout| *timeout == self.timeout);
            place.map(|place| users.swap_remove(place));
        };
        // The adapter may be gone, and then so is its limit.
        self.limits.change(self.adapter, take_back).unwrap_or_default();
    }
}

/// Sets an adapter's timeout, in steps of 10 ms, and its retries.
fn set(file: &Path, timeout: Duration, retries: usize) -> io::Result<()> {
    let adapter = fs::File::options().read(true).write(true).open(file)?;
    let steps = usize::try_from(timeout.as_millis() / 10).unwrap_or(usize::MAX).clamp(1, 1000);
    ioctl::set_timeout(&adapter, steps)?;
    ioctl::set_retries(&adapter, retries)?;
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

/// Directories that look like parts of sysfs, for the tests of this and the neighbouring adapters.
#[cfg(test)]
pub(super) mod scratch {
    use std::{
        fs,
        os::unix::fs::symlink,
        path::{Path, PathBuf},
        sync::atomic::{AtomicU32, Ordering},
    };

    /// A directory that goes away with its test.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("acpi-stated-unit-{}-{number}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(fs::canonicalize(path).unwrap())
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }

        pub(crate) fn at(&self, path: &str) -> PathBuf {
            self.0.join(path)
        }

        pub(crate) fn directory(&self, path: &str) {
            fs::create_dir_all(self.at(path)).unwrap();
        }

        /// A file, with the directories above it.
        pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) {
            let path = self.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// A link to another path in here, with the directories above it.
        pub(crate) fn link(&self, path: &str, to: &str) {
            let path = self.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(self.at(to), path).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            // The remains of a test are a few small files.
            drop(fs::remove_dir_all(&self.0));
        }
    }
}

#[cfg(test)]
mod tests;
