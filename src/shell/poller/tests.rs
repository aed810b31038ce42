// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use tokio::runtime;

use super::*;
use crate::{
    adapters::hwmon::Hwmon,
    config::Device,
    logic::chip::Access,
    shell::{clock::Hand, permits::LEASE},
};

const DIMM: Need = Need::Gate(0);
const SOON: Duration = Duration::from_secs(10);

/// A bus of JC42.4 sensors, at 0x18, that looks at the permits during each transfer.
struct KnownProperties {
    permits: Permits,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Registers that were read.
    reads: usize,
    /// Of those, while a permit was out.
    permitted: usize,
    /// How often it is not there yet.
    missing: usize,
    opened: usize,
}

struct Buses2(Arc<KnownProperties>);

impl Buses for Buses2 {
    fn open(&self, _: u32, _: Duration) -> io::Result<Box<dyn I2cBus>> {
        let mut seen = self.0.seen.lock().unwrap();
        seen.opened += 1;
        if seen.opened <= seen.missing {
            return Err(rustix::io::Errno::NOENT.into());
        }
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }

    fn driver_of(&self, _: u32, _: u8) -> Option<String> {
        None
    }
}

impl I2cBus for Buses2 {
    fn transfer(&mut self, address: u8, access: Access) -> io::Result<u16> {
        let mut seen = self.0.seen.lock().unwrap();
        seen.reads += 1;
        seen.permitted += usize::from(self.0.permits.in_flight(|_| true).is_some());
        match (address, access) {
            (0x18, Access::Word(0)) => Ok(0xef00),
            (0x18, Access::Word(1)) => Ok(0),
            (0x18, Access::Word(5)) => Ok(0x9001),
            (0x18, Access::Word(6)) => Ok(0x4a10),
            _ => Err(rustix::io::Errno::NXIO.into()),
        }
    }
}

/// Buses that have nothing to do with each other.
fn unwired(i2c: &Arc<dyn Buses>) -> Wires {
    Wires::new(&[], Arc::clone(i2c), unbounded_channel().0)
}

struct Bench {
    permits: Permits,
    watched: Arc<KnownProperties>,
    poller: Option<Poller>,
    results: UnboundedReceiver<Input>,
    runtime: runtime::Runtime,
}

/// A sensor at 0x18 and an empty slot.
fn lane() -> Lane {
    let wire = |sensor, address| {
        let chip = Chip::new(Device::Jc42, 0).unwrap();
        let source = Reader::Chip { address, chip };
        Wire {
            sensor,
            bus: BusId::I2c(3),
            need: DIMM,
            period: Duration::from_secs(1),
            source,
            said_bound: false,
            closings: 0,
        }
    };
    Lane { i2c: Some((3, SOON)), sensors: vec![wire(0, 0x18), wire(1, 0x19)] }
}

/// A bus with these sensors, on a clock a hundred times faster than real time.
fn bench(missing: usize) -> Bench {
    let permits = Permits::new(1, [3]);
    let seen = Mutex::new(Seen { missing, ..Seen::default() });
    let watched = Arc::new(KnownProperties { permits: permits.clone(), seen });
    let buses: Arc<dyn Buses> = Arc::new(Buses2(Arc::clone(&watched)));
    let (to_loop, results) = unbounded_channel();
    let poller =
        Poller::start(vec![lane()], &buses, unwired(&buses), &permits, Clock::scaled(100), &to_loop).unwrap();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Bench { permits, watched, poller: Some(poller), results, runtime }
}

impl Bench {
    fn open(&self, open: bool) {
        self.permits.set(LEASE, |_| open, |_| open);
    }

    fn next(&mut self) -> (usize, Result<f64, Fault>) {
        let next = async { tokio::time::timeout(SOON, self.results.recv()).await };
        match self.runtime.block_on(next).unwrap() {
            Some(Input::Read { sensor, result, .. }) => (sensor, result.map(Celsius::degrees)),
            other => panic!("{other:?}"),
        }
    }

    fn reads(&self) -> usize {
        self.watched.seen.lock().unwrap().reads
    }
}

#[test]
fn a_permit_is_out_during_every_transfer_and_none_is_made_while_closed() {
    let mut bench = bench(0);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.reads(), 0);
    bench.open(true);
    let mut seen = [bench.next(), bench.next(), bench.next()];
    seen.sort_by_key(|(sensor, _)| *sensor);
    assert_eq!(seen[0], (0, Ok(25.0)));
    assert_eq!(seen[2], (1, Err(Fault::Absent)));
    bench.open(false);
    while bench.permits.in_flight(|_| true).is_some() {
        std::thread::yield_now();
    }
    let reads = bench.reads();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.reads(), reads, "it read without a permit");
    assert_eq!(bench.watched.seen.lock().unwrap().permitted, reads);
    bench.open(true);
    while bench.results.try_recv().is_ok() {}
    assert!(bench.next().0 < 2, "it goes on");
}

/// A clock's hand, at so many milliseconds.
#[derive(Debug)]
struct At(AtomicU64);

impl Hand for At {
    fn now(&self) -> Time {
        Time::from_micros(self.0.load(Ordering::SeqCst) * 1000)
    }

    fn instant(&self, time: Time) -> Instant {
        Instant::now() + time.since(self.now()).min(Duration::from_millis(1))
    }
}

/// On a clock that stands still until the test moves it: the second of two sensors is read half a period after the start.
#[test]
fn a_thread_that_comes_late_keeps_the_places_in_time() {
    static HAND: At = At(AtomicU64::new(300));
    let mut bench = bench(0);
    let permits = Permits::new(1, [3]);
    let buses: Arc<dyn Buses> = Arc::new(Buses2(Arc::clone(&bench.watched)));
    let (to_loop, results) = unbounded_channel();
    bench.results = results;
    permits.set(LEASE, |_| true, |_| true);
    let wires = Arc::new(unwired(&buses));
    let its_lane = lane();
    let ways = its_lane.sensors.iter().map(|wire| (permits.bus(BusId::I2c(3)).unwrap(), wire.need)).collect();
    let thread_of_it = BusThread::new(its_lane, buses, wires, ways, Clock::by_hand(&HAND), to_loop);
    let thread = thread::spawn(|| thread_of_it.run(Time::ZERO));
    assert_eq!(bench.next().0, 0, "its turn has passed, and so is now");
    HAND.0.store(500, Ordering::SeqCst);
    assert_eq!(bench.next().0, 1);
    permits.end();
    thread.join().unwrap();
}

#[test]
fn a_bus_that_comes_late_is_found() {
    let mut bench = bench(4);
    bench.open(true);
    let mut results: Vec<_> = std::iter::repeat_with(|| bench.next().1).take(4).collect();
    assert_eq!(results, [Err(Fault::NoBus); 4]);
    while results.pop() != Some(Ok(25.0)) {
        results.push(bench.next().1);
    }
}

/// A CPU's JC42.4 sensor on a bus of its own, where a transfer takes its time and the gate closes during each.
struct Beside {
    permits: Permits,
    log: Mutex<Vec<(Instant, Access)>>,
}

struct OfCpu(Arc<Beside>);

impl Beside {
    fn close_and_open(&self) {
        self.permits.set(LEASE, |need| need != DIMM, |bus| bus != 0);
        self.permits.set(LEASE, |_| true, |_| true);
    }
}

impl Buses for OfCpu {
    fn open(&self, _: u32, _: Duration) -> io::Result<Box<dyn I2cBus>> {
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }

    fn driver_of(&self, _: u32, _: u8) -> Option<String> {
        None
    }
}

impl I2cBus for OfCpu {
    fn transfer(&mut self, _: u8, access: Access) -> io::Result<u16> {
        self.0.log.lock().unwrap().push((Instant::now(), access));
        self.0.close_and_open();
        std::thread::sleep(Duration::from_millis(5));
        match access {
            Access::Word(0) => Ok(0xef00),
            Access::Word(5) => Ok(0x9001),
            Access::Word(6) => Ok(0x4a10),
            Access::Word(_) | Access::Byte(_) | Access::Page0 => Ok(0),
        }
    }
}

/// Neither during a transfer nor between two turns: it is read on, without another look at who it is, and no turn is
/// moved. The median tells a moved turn, which each closing would bring about, from a machine that is slow at times.
#[test]
fn a_closing_of_a_gate_is_not_seen_beside_it() {
    const PERIOD: Duration = Duration::from_millis(200);
    let permits = Permits::new(1, [3, 5]);
    let beside = Arc::new(Beside { permits: permits.clone(), log: Mutex::default() });
    let source = Reader::Chip { address: 0x18, chip: Chip::new(Device::Jc42, 0).unwrap() };
    let need = Need::Power(0);
    let wire = Wire {
        sensor: 0,
        bus: BusId::I2c(5),
        need,
        period: PERIOD * 100,
        source,
        said_bound: false,
        closings: Closings::MAX,
    };
    let lane = Lane { i2c: Some((5, SOON)), sensors: vec![wire] };
    let buses: Arc<dyn Buses> = Arc::new(OfCpu(Arc::clone(&beside)));
    let (to_loop, mut results) = unbounded_channel();
    permits.set(LEASE, |_| true, |_| true);
    let _poller =
        Poller::start(vec![lane], &buses, unwired(&buses), &permits, Clock::scaled(100), &to_loop).unwrap();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for turn in 0..13 {
        let next = runtime.block_on(async { tokio::time::timeout(SOON, results.recv()).await });
        let Ok(Some(Input::Read { result, .. })) = next else { panic!("turn {turn}: {next:?}") };
        assert_eq!(result.map(Celsius::degrees), Ok(25.0), "turn {turn}");
        beside.close_and_open();
    }
    let log = beside.log.lock().unwrap();
    let looks = log.iter().filter(|(_, access)| *access != Access::Word(5)).count();
    assert_eq!(looks, 3, "it is identified once: {log:?}");
    let turns: Vec<Instant> =
        log.iter().filter(|(_, access)| *access == Access::Word(5)).map(|(at, _)| *at).collect();
    let mut gaps: Vec<Duration> = turns.windows(2).map(|two| two[1] - two[0]).collect();
    gaps.sort();
    assert!(gaps[gaps.len() / 2] < PERIOD * 3 / 2, "turns are moved: {gaps:?}");
}

/// An SPD5118 behind page 5, whose gate closes while its MR11 is read for the `closes`th time.
struct Hub {
    permits: Permits,
    seen: Mutex<(u8, usize)>,
    closes: usize,
}

struct OfHub(Arc<Hub>);

impl Buses for OfHub {
    fn open(&self, _: u32, _: Duration) -> io::Result<Box<dyn I2cBus>> {
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }

    fn driver_of(&self, _: u32, _: u8) -> Option<String> {
        None
    }
}

impl I2cBus for OfHub {
    fn transfer(&mut self, _: u8, access: Access) -> io::Result<u16> {
        let Hub { permits, seen, closes } = &*self.0;
        assert!(permits.in_flight(|_| true).is_some(), "without a permit: {access:?}");
        let mut seen = seen.lock().unwrap();
        let (mr11, looks) = &mut *seen;
        match access {
            Access::Byte(0x0b) => {
                *looks += 1;
                if *looks == *closes {
                    permits.set(LEASE, |_| false, |_| false);
                }
                return Ok((*mr11).into());
            }
            Access::Page0 => {
                assert!(permits.closings(DIMM, 0) == 0 || *looks > *closes, "the gate is closed");
                *mr11 = 0;
            }
            Access::Byte(_) | Access::Word(_) if *mr11 != 0 => {}
            Access::Word(0) => return Ok(0x1851),
            Access::Byte(5) => return Ok(3),
            Access::Word(0x31) => return Ok(0x0190),
            Access::Byte(_) | Access::Word(_) => {}
        }
        Ok(0)
    }
}

/// The page of a hub is changed with the gate open only: not even when it closes just before, and with a permit.
#[test]
fn a_page_is_selected_with_the_gate_open_only() {
    let permits = Permits::new(1, [3]);
    let hub = Arc::new(Hub { permits: permits.clone(), seen: Mutex::new((5, 0)), closes: 1 });
    let chip = Chip::new(Device::Spd5118, 0).unwrap().selecting_page_0();
    let source = Reader::Chip { address: 0x50, chip };
    let period = Duration::from_secs(1);
    let bus = BusId::I2c(3);
    let wire =
        Wire { sensor: 0, bus, need: DIMM, period, source, said_bound: false, closings: Closings::MAX };
    let lane = Lane { i2c: Some((3, SOON)), sensors: vec![wire] };
    let buses: Arc<dyn Buses> = Arc::new(OfHub(Arc::clone(&hub)));
    let (to_loop, mut results) = unbounded_channel();
    let _poller =
        Poller::start(vec![lane], &buses, unwired(&buses), &permits, Clock::scaled(100), &to_loop).unwrap();
    permits.set(LEASE, |_| true, |_| true);
    let began = Instant::now();
    while hub.seen.lock().unwrap().1 == 0 {
        assert!(began.elapsed() < SOON, "it is not read");
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(*hub.seen.lock().unwrap(), (5, 1), "the gate is closed");
    assert!(results.try_recv().is_err(), "nothing came of it");
    permits.set(LEASE, |_| true, |_| true);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let next = runtime.block_on(async { tokio::time::timeout(SOON, results.recv()).await });
    let Ok(Some(Input::Read { result, .. })) = next else { panic!("{next:?}") };
    assert_eq!(result.map(Celsius::degrees), Ok(25.0));
    assert_eq!(hub.seen.lock().unwrap().0, 0);
}

/// Two files of two hosts on one thread: each is read while its own host's gate is open, whatever the other's is.
#[test]
fn files_that_share_a_thread_do_not_wait_for_each_others_gate() {
    let directory = std::env::temp_dir().join(format!("acpi-poller-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let paths = ["temp1_input", "temp2_input"].map(|name| directory.join(name));
    let buses = [0, 1].map(|file: usize| BusId::File(Arc::from(paths[file].as_path())));
    let permits = Permits::new(2, buses.clone());
    let wire = |(sensor, bus): (usize, &BusId)| {
        std::fs::write(&paths[sensor], format!("{}000\n", 20 + sensor)).unwrap();
        let source = Reader::File { address: 0, file: Box::new(Hwmon::file(&paths[sensor])) };
        let (bus, need) = (bus.clone(), Need::Gate(sensor));
        let period = Duration::from_secs(1);
        Wire { sensor, bus, need, period, source, said_bound: false, closings: Closings::MAX }
    };
    let lane = Lane { i2c: None, sensors: buses.iter().enumerate().map(wire).collect() };
    let seen = KnownProperties { permits: permits.clone(), seen: Mutex::default() };
    let i2c: Arc<dyn Buses> = Arc::new(Buses2(Arc::new(seen)));
    let (to_loop, mut results) = unbounded_channel();
    let wires = unwired(&i2c);
    let poller = Poller::start(vec![lane], &i2c, wires, &permits, Clock::scaled(100), &to_loop).unwrap();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for open in [0, 1] {
        permits.set(LEASE, |need| need == Need::Gate(open), |bus| bus == open);
        // A read that was under way when the gates changed may still give a result.
        let mut in_a_row = 0;
        while in_a_row < 5 {
            let next = async { tokio::time::timeout(SOON, results.recv()).await };
            let Some(Input::Read { sensor, result, .. }) = runtime.block_on(next).unwrap() else {
                panic!("it reads")
            };
            in_a_row = if sensor == open { in_a_row + 1 } else { 0 };
            assert_eq!(result.map(Celsius::degrees), Ok(if sensor == 0 { 20.0 } else { 21.0 }));
        }
    }
    drop(poller);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_threads_end_when_they_are_told_to_and_one_that_ends_by_itself_is_noticed() {
    let mut bench = bench(0);
    bench.open(true);
    assert!(bench.next().0 < 2);
    let poller = bench.poller.take().unwrap();
    let began = Instant::now();
    bench.runtime.block_on(poller.stop(SOON));
    assert!(began.elapsed() < SOON);
    bench.open(true);
    let reads = bench.reads();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.reads(), reads);

    let (end, ended) = unbounded_channel();
    let mut poller = Poller { permits: bench.permits.clone(), running: 2, ended };
    drop(Ended(end));
    bench.runtime.block_on(async { tokio::time::timeout(SOON, poller.lost()).await }).unwrap();
}
