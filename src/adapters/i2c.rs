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
    sync::{Arc, Mutex, PoisonError},
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
    /// What each user of an adapter asked for; the shortest holds.
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
            // What a test leaves behind is a few small files.
            drop(fs::remove_dir_all(&self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use mockall::{Sequence, predicate::eq};

    use super::{scratch::Scratch, *};
    use crate::{
        config::Device,
        logic::chip::{Chip, Progress},
    };

    fn errno(errno: Errno) -> io::Error {
        errno.into()
    }

    #[test]
    fn what_an_errno_means() {
        for (error, means) in [
            (errno(Errno::NXIO), Fault::Absent),
            (errno(Errno::REMOTEIO), Fault::Absent),
            (errno(Errno::NODEV), Fault::Absent),
            (errno(Errno::NOENT), Fault::Absent),
            (errno(Errno::TIMEDOUT), Fault::Hung),
            (errno(Errno::BUSY), Fault::Bound),
            (errno(Errno::AGAIN), Fault::ArbitrationLost),
            (errno(Errno::IO), Fault::Other(5)),
            (errno(Errno::PROTO), Fault::Other(71)),
            (errno(Errno::NODATA), Fault::Other(61)),
            (io::Error::other("without a number"), Fault::Other(0)),
        ] {
            assert_eq!(fault(&error), means, "{error}");
        }
    }

    /// An address that a driver has, and a bus that is held low, are both EBUSY on an ASPEED.
    #[test]
    fn a_busy_transfer_is_a_hung_bus() {
        assert_eq!(fault(&of_transfer(errno(Errno::BUSY))), Fault::Hung);
        assert_eq!(fault(&of_transfer(errno(Errno::NXIO))), Fault::Absent);
    }

    /// What the poller does, with a bus whose answers are given.
    fn read(chip: &mut Chip, bus: &mut dyn I2cBus, address: u8) -> Progress {
        loop {
            match bus.read(address, chip.next()) {
                Err(error) => {
                    chip.forget();
                    return Progress::Fault(fault(&error));
                }
                Ok(value) => match chip.take(value) {
                    Progress::More => {}
                    end @ (Progress::Reading(_) | Progress::Fault(_)) => return end,
                },
            }
        }
    }

    /// A transfer that fails in the middle of identification: nothing of it is believed afterwards.
    #[test]
    fn an_interrupted_device_is_identified_again() {
        let mut bus = MockI2cBus::new();
        let mut order = Sequence::new();
        let mut expect = |register, result: Result<u16, Errno>| {
            bus.expect_read()
                .with(eq(0x18), eq(Access::Word(register)))
                .times(1)
                .in_sequence(&mut order)
                .return_once(move |_, _| Ok(result?));
        };
        expect(0x06, Ok(0xb300));
        expect(0x00, Err(Errno::AGAIN));
        expect(0x06, Ok(0xb300));
        expect(0x00, Ok(0xf700));
        expect(0x01, Ok(0x0000));
        expect(0x05, Ok(0x9001));
        expect(0x05, Ok(0x9101));
        expect(0x05, Err(Errno::NXIO));
        expect(0x06, Err(Errno::NXIO));
        let mut chip = Chip::new(Device::Jc42, 0).unwrap();
        let mut next = || match read(&mut chip, &mut bus, 0x18) {
            Progress::Reading(celsius) => Ok(celsius.degrees()),
            Progress::Fault(fault) => Err(fault),
            Progress::More => unreachable!(),
        };
        assert_eq!(next(), Err(Fault::ArbitrationLost));
        assert_eq!(next(), Ok(25.0));
        assert_eq!(next(), Ok(25.0625));
        assert_eq!(next(), Err(Fault::Absent));
        assert_eq!(next(), Err(Fault::Absent));
    }

    /// sysfs of a board: adapter 3 with two drivers and a mux, whose channel 12 has a mux with channel 20; adapter 4.
    fn board() -> Scratch {
        let sysfs = Scratch::new();
        let devices = "bus/i2c/devices";
        for (name, at) in [
            ("i2c-3", "devices/1e78a180.i2c-bus/i2c-3"),
            ("i2c-4", "devices/1e78a200.i2c-bus/i2c-4"),
            ("i2c-12", "devices/1e78a180.i2c-bus/i2c-3/i2c-12"),
            ("i2c-20", "devices/1e78a180.i2c-bus/i2c-3/i2c-12/i2c-20"),
            ("3-0018", "devices/1e78a180.i2c-bus/i2c-3/3-0018"),
            ("3-0019", "devices/1e78a180.i2c-bus/i2c-3/3-0019"),
            ("3-0070", "devices/1e78a180.i2c-bus/i2c-3/3-0070"),
            ("12-0048", "devices/1e78a180.i2c-bus/i2c-3/i2c-12/12-0048"),
            ("20-0049", "devices/1e78a180.i2c-bus/i2c-3/i2c-12/i2c-20/20-0049"),
            ("4-0018", "devices/1e78a200.i2c-bus/i2c-4/4-0018"),
        ] {
            sysfs.directory(at);
            sysfs.link(&format!("{devices}/{name}"), at);
        }
        for (device, driver) in [
            ("3-0018", "jc42"),
            ("3-0070", "pca954x"),
            ("12-0048", "lm75"),
            ("20-0049", "tmp421"),
            ("4-0018", "ee1004"),
        ] {
            sysfs.directory(&format!("bus/i2c/drivers/{driver}"));
            sysfs.link(&format!("{devices}/{device}/driver"), &format!("bus/i2c/drivers/{driver}"));
        }
        sysfs
    }

    #[test]
    fn a_transfer_below_a_mux_uses_the_adapters_above_it() {
        let sysfs = board();
        let buses = LinuxBuses::at(Path::new("/nowhere"), sysfs.path());
        assert_eq!(buses.adapters(3), [3]);
        assert_eq!(buses.adapters(12), [12, 3]);
        assert_eq!(buses.adapters(20), [20, 12, 3]);
        assert_eq!(buses.adapters(99), [99]);
    }

    #[test]
    fn the_driver_that_has_an_address() {
        let sysfs = board();
        let buses = LinuxBuses::at(Path::new("/nowhere"), sysfs.path());
        for (bus, address, driver) in [
            (3, 0x18, Some("jc42")),
            (4, 0x18, Some("ee1004")),
            // A device without a driver, and none at all.
            (3, 0x19, None),
            (3, 0x1a, None),
            (99, 0x18, None),
            // Above and below a mux the wires are the same; beside it they are not.
            (12, 0x18, Some("jc42")),
            (20, 0x70, Some("pca954x")),
            (3, 0x48, Some("lm75")),
            (12, 0x49, Some("tmp421")),
            (4, 0x48, None),
        ] {
            assert_eq!(buses.driver_of(bus, address).as_deref(), driver, "{bus} {address:#x}");
        }
        assert_eq!(LinuxBuses::at(Path::new("/"), Path::new("/nowhere")).driver_of(3, 0x18), None);
    }

    #[test]
    fn a_bus_that_is_not_there_cannot_be_opened() {
        let dev = Scratch::new();
        let buses = LinuxBuses::at(dev.path(), Path::new("/nowhere"));
        let error = buses.open(3, Duration::from_millis(30)).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        // Something else of that name knows no such ioctl.
        dev.file("i2c-3", "");
        let error = buses.open(3, Duration::from_millis(30)).err().unwrap();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOTTY));
    }

    /// Adapters and the milliseconds that were set.
    type Log = Arc<Mutex<Vec<(u32, u128)>>>;

    /// Limits that note what is set, and fail at adapter 9.
    fn limits() -> (Arc<Limits>, Log) {
        let log = Log::default();
        let noted = Arc::clone(&log);
        let set = move |adapter, timeout: Duration| {
            noted.lock().unwrap().push((adapter, timeout.as_millis()));
            if adapter == 9 { Err(errno(Errno::NXIO)) } else { Ok(()) }
        };
        (Arc::new(Limits { asked: Mutex::default(), set: Box::new(set) }), log)
    }

    #[test]
    fn the_shortest_limit_holds_and_the_kernels_is_put_back() {
        let (limits, log) = limits();
        let ask = |adapter, ms| Limits::ask(&limits, adapter, Duration::from_millis(ms));
        let first = ask(3, 30).unwrap();
        let second = ask(3, 20).unwrap();
        let third = ask(3, 20).unwrap();
        let other = ask(4, 50).unwrap();
        drop(second);
        drop(third);
        drop(other);
        let longer = ask(3, 100).unwrap();
        drop(first);
        drop(longer);
        let set = log.lock().unwrap();
        let expected =
            [(3, 30), (3, 20), (3, 20), (4, 50), (3, 20), (3, 30), (4, 1000), (3, 30), (3, 100), (3, 1000)];
        assert_eq!(set[..], expected);
    }

    #[test]
    fn a_limit_that_cannot_be_set_is_taken_back() {
        let (limits, log) = limits();
        assert!(Limits::ask(&limits, 9, Duration::from_millis(30)).is_err());
        assert_eq!(log.lock().unwrap()[..], [(9, 30), (9, 1000)]);
        assert!(limits.asked.lock().unwrap()[&9].is_empty());
    }
}
