// SPDX-License-Identifier: Apache-2.0
//! One thread for each bus that has sensors: it sleeps until the schedule says who is next, takes a permit for every
//! register, and hands what came of it to the event loop.
//!
//! Owns the bus devices. Must never: transfer without a permit, or decide what a result means.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    adapters::{
        hwmon::Hwmon,
        i2c::{self, Buses, I2cBus},
    },
    logic::{
        chip::{Chip, Progress},
        reading::{Celsius, Fault},
        schedule::Schedule,
    },
    shell::{
        clock::Clock,
        event_loop::Input,
        permits::{BusId, BusPermits, Closings, Need, Permits},
    },
};

/// Enough for a transfer and a line in the log. Only what is touched takes memory.
const STACK: usize = 128 << 10;

/// A bus with its sensors.
pub(crate) struct Line {
    pub(crate) bus: BusId,
    /// The kernel's timeout of one transfer, in real time.
    pub(crate) timeout: Duration,
    pub(crate) sensors: Vec<Wire>,
}

/// A sensor as its bus sees it.
pub(crate) struct Wire {
    /// Its position in the configuration.
    pub(crate) sensor: usize,
    pub(crate) need: Need,
    pub(crate) period: Duration,
    pub(crate) source: Source,
    /// It has been said which driver has it.
    pub(crate) said_bound: bool,
}

/// Where it is read.
pub(crate) enum Source {
    /// Register by register.
    Chip { address: u8, chip: Chip },
    /// Through a kernel driver's file.
    File { address: u8, file: Hwmon },
}

impl Source {
    fn address(&self) -> u8 {
        match self {
            Self::Chip { address, .. } | Self::File { address, .. } => *address,
        }
    }
}

/// All bus threads. They end when this is dropped, each after its transfer.
pub(crate) struct Poller {
    permits: Permits,
    running: usize,
    ended: UnboundedReceiver<()>,
}

impl Poller {
    /// Starts a thread for each line. Fails only if there can be no thread.
    pub(crate) fn start(
        lines: Vec<Line>,
        buses: &Arc<dyn Buses>,
        permits: &Permits,
        clock: Clock,
        results: &UnboundedSender<Input>,
    ) -> io::Result<Self> {
        let (end, ended) = unbounded_channel();
        let mut running = 0;
        for line in lines {
            let Some(of_bus) = permits.bus(line.bus.clone()) else { continue };
            let name = match &line.bus {
                BusId::I2c(number) => format!("i2c-{number}"),
                BusId::File(_) => "hwmon".to_owned(),
            };
            let (end, buses, results) = (Ended(end.clone()), Arc::clone(buses), results.clone());
            thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
                BusThread::new(line, buses, of_bus, clock, results).run();
                drop(end);
            })?;
            running += 1;
        }
        Ok(Self { permits: permits.clone(), running, ended })
    }

    /// Ready when a thread has ended; none ever does by itself.
    pub(crate) async fn lost(&mut self) {
        if self.running == 0 || self.ended.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Has all threads end, and waits for those that do so in time: a bus that hangs may keep its own.
    pub(crate) async fn stop(mut self, within: Duration) {
        self.permits.end();
        let all = async {
            for _ in 0..self.running {
                self.ended.recv().await;
            }
        };
        // What it left behind is left to the kernel.
        let _in_time: Result<(), _> = tokio::time::timeout(within, all).await;
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.permits.end();
    }
}

/// Says that a thread has ended, in whatever way.
struct Ended(UnboundedSender<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send(()).unwrap_or_default();
    }
}

/// One bus, on its thread.
struct BusThread {
    line: Line,
    buses: Arc<dyn Buses>,
    bus: Option<Box<dyn I2cBus>>,
    permits: BusPermits,
    clock: Clock,
    results: UnboundedSender<Input>,
    /// How often anything was closed when a turn last began.
    closings: Closings,
    /// It has been said that there is no bus.
    said_missing: bool,
    /// How often another master won the bus.
    lost: u32,
}

impl BusThread {
    fn new(
        line: Line,
        buses: Arc<dyn Buses>,
        permits: BusPermits,
        clock: Clock,
        results: UnboundedSender<Input>,
    ) -> Self {
        Self { line, buses, bus: None, permits, clock, results, closings: 0, said_missing: false, lost: 0 }
    }

    /// Until it is all over.
    fn run(mut self) {
        let needs: Vec<Need> = self.line.sensors.iter().map(|wire| wire.need).collect();
        let periods: Vec<Duration> = self.line.sensors.iter().map(|wire| wire.period).collect();
        let mut schedule = Schedule::new(self.clock.now(), &periods);
        while self.permits.wait_open(&needs) {
            if self.permits.closings() != self.closings {
                self.begin_anew();
                schedule.resume(self.clock.now());
            }
            let Some((place, due)) = schedule.next() else { return };
            let wait = self.clock.instant(due).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                if self.permits.rest(wait) {
                    continue;
                }
                return;
            }
            match self.read(place) {
                None => schedule.skip(place, self.clock.now()),
                Some((sensor, result)) => {
                    schedule.done(place, self.clock.now(), result.is_ok());
                    let closings = self.closings;
                    self.results.send(Input::Read { sensor, closings, result }).unwrap_or_default();
                }
            }
        }
    }

    /// Something was closed: what is on the bus may be another, and the bus as well. (While it is open the kernel
    /// keeps its adapter.)
    fn begin_anew(&mut self) {
        self.closings = self.permits.closings();
        self.bus = None;
        for wire in &mut self.line.sensors {
            if let Source::Chip { chip, .. } = &mut wire.source {
                chip.forget();
            }
        }
    }

    /// One reading, a permit for each transfer; `None` if it may not be, or something was closed meanwhile.
    fn read(&mut self, place: usize) -> Option<(usize, Result<Celsius, Fault>)> {
        if self.line.sensors.get(place).is_some_and(|wire| matches!(wire.source, Source::Chip { .. })) {
            self.open();
        }
        let Self { line, bus, permits, closings, .. } = self;
        let wire = line.sensors.get_mut(place)?;
        let address = wire.source.address();
        let granted = || {
            let permit = permits.try_acquire(wire.need, address.into()).ok()?;
            (permit.closings() == *closings).then_some(permit)
        };
        let result = match (&mut wire.source, bus) {
            (Source::File { file, .. }, _) => {
                let _permit = granted()?;
                file.read()
            }
            (Source::Chip { .. }, None) => {
                let _permit = granted()?;
                Err(Fault::NoBus)
            }
            (Source::Chip { chip, .. }, Some(bus)) => loop {
                let permit = granted()?;
                let value = bus.read(address, chip.next());
                drop(permit);
                match value.map(|value| chip.take(value)) {
                    Ok(Progress::More) => {}
                    Ok(Progress::Reading(value)) => break Ok(value),
                    Ok(Progress::Fault(fault)) => break Err(fault),
                    Err(error) => {
                        chip.forget();
                        break Err(i2c::fault(&error));
                    }
                }
            },
        };
        let sensor = wire.sensor;
        match result {
            Err(Fault::ArbitrationLost) => self.count_lost(),
            Err(Fault::Bound) if !std::mem::replace(&mut wire.said_bound, true) => self.name_driver(address),
            Ok(_) => wire.said_bound = false,
            Err(_) => {}
        }
        Some((sensor, result))
    }

    /// Opens the bus if it is not open. It is said once that it cannot be.
    fn open(&mut self) {
        let BusId::I2c(number) = self.line.bus else { return };
        if self.bus.is_some() {
            return;
        }
        match self.buses.open(number, self.line.timeout) {
            Ok(bus) => {
                if std::mem::take(&mut self.said_missing) {
                    tracing::info!("I2C bus {number} is there now");
                }
                self.bus = Some(bus);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.said_missing, true) {
                    tracing::warn!("I2C bus {number} cannot be opened, and is tried again: {error}");
                }
            }
        }
    }

    /// Who has the address, and what can be done.
    fn name_driver(&self, address: u8) {
        let BusId::I2c(number) = self.line.bus else { return };
        let driver = self.buses.driver_of(number, address);
        let driver = driver.as_deref().unwrap_or("of an unknown name");
        tracing::warn!(
            "I2C bus {number}: the kernel driver {driver} has address {address:#04x}; \
             unbind it, or configure the sensor with device \"hwmon\""
        );
    }

    /// The collision that this daemon exists for. Said at each doubling.
    fn count_lost(&mut self) {
        self.lost = self.lost.saturating_add(1);
        if self.lost.is_power_of_two() {
            let BusId::I2c(number) = self.line.bus else { return };
            tracing::warn!(
                bus = number,
                lost = self.lost,
                "I2C bus {number}: another master won the bus from this BMC, {} times so far; \
                 who is it? (the host, or a driver or daemon that does not ask)",
                self.lost
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::runtime;

    use super::*;
    use crate::{config::Device, logic::chip::Access};

    const DIMM: Need = Need::Gate(0);
    const SOON: Duration = Duration::from_secs(10);

    /// A bus of JC42.4 sensors, at 0x18, that looks at the permits during each transfer.
    struct Watched {
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

    struct Buses2(Arc<Watched>);

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
        fn read(&mut self, address: u8, access: Access) -> io::Result<u16> {
            let mut seen = self.0.seen.lock().unwrap();
            seen.reads += 1;
            seen.permitted += usize::from(self.0.permits.in_flight(0).is_some());
            match (address, access) {
                (0x18, Access::Word(0)) => Ok(0xef00),
                (0x18, Access::Word(1)) => Ok(0),
                (0x18, Access::Word(5)) => Ok(0x9001),
                (0x18, Access::Word(6)) => Ok(0x4a10),
                _ => Err(rustix::io::Errno::NXIO.into()),
            }
        }
    }

    struct Bench {
        permits: Permits,
        watched: Arc<Watched>,
        poller: Option<Poller>,
        results: UnboundedReceiver<Input>,
        runtime: runtime::Runtime,
    }

    /// One bus with a sensor at 0x18 and an empty slot, on a clock a hundred times faster than life.
    fn bench(missing: usize) -> Bench {
        let permits = Permits::new(1, &[(3, vec![0])]);
        let seen = Mutex::new(Seen { missing, ..Seen::default() });
        let watched = Arc::new(Watched { permits: permits.clone(), seen });
        let wire = |sensor, address| {
            let chip = Chip::new(Device::Jc42, 0).unwrap();
            let source = Source::Chip { address, chip };
            Wire { sensor, need: DIMM, period: Duration::from_secs(1), source, said_bound: false }
        };
        let line = Line { bus: BusId::I2c(3), timeout: SOON, sensors: vec![wire(0, 0x18), wire(1, 0x19)] };
        let buses: Arc<dyn Buses> = Arc::new(Buses2(Arc::clone(&watched)));
        let (to_loop, results) = unbounded_channel();
        let poller = Poller::start(vec![line], &buses, &permits, Clock::scaled(100), &to_loop).unwrap();
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Bench { permits, watched, poller: Some(poller), results, runtime }
    }

    impl Bench {
        fn open(&self, open: bool) {
            self.permits.set(|_| open, |_| open);
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
        while bench.permits.in_flight(0).is_some() {
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
}
