// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use mockall::{Sequence, predicate::eq};

use super::{scratch::Scratch, *};
use crate::{
    config::Device,
    logic::{
        chip::{Chip, Progress},
        reading::Fault,
    },
    shell::ports::{MockI2cBus, fault},
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

/// Reads as the poller does, from a bus whose answers are given.
fn read(chip: &mut Chip, bus: &mut dyn I2cBus, address: u8) -> Progress {
    loop {
        match bus.transfer(address, chip.next()) {
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
        bus.expect_transfer()
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

/// The value of `idle_state` as the kernel prints it, and what is made of others.
#[test]
fn the_muxes_above_a_channel_and_whether_they_disconnect() {
    let sysfs = board();
    let buses = LinuxBuses::at(Path::new("/nowhere"), sysfs.path());
    let devices = "devices/1e78a180.i2c-bus/i2c-3";
    let second = format!("{devices}/i2c-12/12-0071");
    sysfs.directory(&second);
    sysfs.link(&format!("{devices}/i2c-12/mux_device"), &format!("{devices}/3-0070"));
    sysfs.link(&format!("{devices}/i2c-12/i2c-20/mux_device"), &second);
    let first = |idle| Mux { name: "3-0070".to_owned(), idle, on: 3 };
    let unknown = Mux { name: "12-0071".to_owned(), idle: Idle::Unknown, on: 12 };
    for (text, idle) in [
        ("-2\n", Idle::Disconnects),
        ("-1\n", Idle::Stays(-1)),
        ("0\n", Idle::Stays(0)),
        ("3\n", Idle::Stays(3)),
        ("", Idle::Unknown),
        ("what?\n", Idle::Unknown),
    ] {
        sysfs.file(&format!("{devices}/3-0070/idle_state"), text);
        assert_eq!(buses.chain(12), Chain(vec![first(idle)]), "{text}");
        assert_eq!(buses.chain(20), Chain(vec![unknown.clone(), first(idle)]), "{text}");
    }
    fs::remove_file(sysfs.at(&format!("{devices}/3-0070/idle_state"))).unwrap();
    assert_eq!(buses.chain(12), Chain(vec![first(Idle::Unknown)]));
    for alone in [3, 4, 99] {
        assert_eq!(buses.chain(alone), Chain::default(), "{alone}");
    }
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
