// SPDX-License-Identifier: Apache-2.0
//! Bus threads: one for each I2C bus that has sensors, and a few for all files. Each sleeps until the schedule says which
//! sensor is next, takes a permit for every register, and hands the result to the event loop.
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
    logic::{
        chip::{Chip, Progress},
        reading::{Celsius, Fault},
        schedule::Schedule,
        time::Time,
    },
    shell::{
        clock::Clock,
        messages::Input,
        permits::{BusId, BusPermits, Closings, Need, Permits, WiringCount},
        ports::{Buses, I2cBus, TemperatureFile, fault},
        wires::{LOOK_AGAIN, Wires},
    },
};

/// Enough for a transfer and a line in the log. Only what is touched takes memory.
const STACK: usize = 128 << 10;

/// The sensors that one thread reads.
pub(crate) struct Lane {
    /// The number of its I2C bus, and the kernel's timeout of one transfer there, in real time; nothing, if it reads files.
    pub(crate) i2c: Option<(u32, Duration)>,
    pub(crate) sensors: Vec<Wire>,
}

/// A sensor as its bus sees it.
pub(crate) struct Wire {
    /// Its position in the configuration.
    pub(crate) sensor: usize,
    /// The bus that its permits are for.
    pub(crate) bus: BusId,
    pub(crate) need: Need,
    pub(crate) period: Duration,
    pub(crate) source: Reader,
    /// The driver that has the sensor's address has been logged.
    pub(crate) said_bound: bool,
    /// How often what it needs had been closed when a turn last began; at first a count that there is not, so that the
    /// first opening is one like the others: its turn is its next place, and not at once.
    pub(crate) closings: Closings,
}

/// Where it is read.
pub(crate) enum Reader {
    /// Register by register.
    Chip { address: u8, chip: Chip },
    /// Through a kernel driver's file.
    File { address: u8, file: Box<dyn TemperatureFile> },
}

impl Reader {
    /// Forgets the device: another one may be there.
    fn forget(&mut self) {
        match self {
            Self::Chip { chip, .. } => chip.forget(),
            Self::File { file, .. } => file.forget(),
        }
    }

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
    /// Starts a thread for each lane; `wires` is how the buses hang together. Fails only if there can be no thread.
    pub(crate) fn start(
        lanes: Vec<Lane>,
        buses: &Arc<dyn Buses>,
        wires: Wires,
        permits: &Permits,
        clock: Clock,
        results: &UnboundedSender<Input>,
    ) -> io::Result<Self> {
        let (end, ended) = unbounded_channel();
        let mut running = 0;
        let wires = Arc::new(wires);
        // Said now, and told before anything is read.
        wires.look();
        // The places in time count from here, however late a thread comes to run.
        let began = clock.now();
        for lane in lanes {
            let of_wire = |wire: &Wire| Some((permits.bus(wire.bus.clone())?, wire.need));
            let Some(ways) = lane.sensors.iter().map(of_wire).collect() else { continue };
            let name = lane.i2c.map_or("hwmon".to_owned(), |(number, _)| format!("i2c-{number}"));
            let (end, buses, results) = (Ended(end.clone()), Arc::clone(buses), results.clone());
            let wires = Arc::clone(&wires);
            thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
                BusThread::new(lane, buses, wires, ways, clock, results).run(began);
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
        // Threads that have not ended are left to the kernel.
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

/// The result of a turn.
struct Read {
    sensor: usize,
    /// How often what it needs had been closed when it began.
    closings: Closings,
    result: Result<Celsius, Fault>,
}

/// The thread of one bus, or of some files.
struct BusThread {
    lane: Lane,
    buses: Arc<dyn Buses>,
    bus: Option<Box<dyn I2cBus>>,
    wires: Arc<Wires>,
    /// When they were last looked at, if that counts still, and what they were.
    looked: Option<Instant>,
    wiring: WiringCount,
    /// Each sensor's way to permits, and what it needs.
    ways: Vec<(BusPermits, Need)>,
    clock: Clock,
    results: UnboundedSender<Input>,
    /// The absence of the bus has been logged.
    said_missing: bool,
    /// How often another master won the bus.
    lost: u32,
}

impl BusThread {
    fn new(
        lane: Lane,
        buses: Arc<dyn Buses>,
        wires: Arc<Wires>,
        ways: Vec<(BusPermits, Need)>,
        clock: Clock,
        results: UnboundedSender<Input>,
    ) -> Self {
        Self {
            lane,
            buses,
            bus: None,
            wires,
            looked: None,
            wiring: 0,
            ways,
            clock,
            results,
            said_missing: false,
            lost: 0,
        }
    }

    /// Until it is all over. The sensors' places in time count from `began`.
    fn run(mut self, began: Time) {
        let periods: Vec<Duration> = self.lane.sensors.iter().map(|wire| wire.period).collect();
        let mut schedule = Schedule::new(began, &periods);
        while BusPermits::wait_any_open(&self.ways) {
            self.look_at_closings(&mut schedule);
            let Some((place, due)) = schedule.next() else { return };
            let wait = self.clock.instant(due).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                if self.ways.first().is_some_and(|(any, _)| any.rest(wait)) {
                    continue;
                }
                return;
            }
            match self.read(place) {
                None => schedule.skip(place, self.clock.now()),
                Some(Read { sensor, closings, result }) => {
                    let there = result.is_ok() || result.is_err_and(Fault::is_of_a_device);
                    schedule.done(place, self.clock.now(), result.is_ok(), there);
                    self.results.send(Input::Read { sensor, closings, result }).unwrap_or_default();
                }
            }
        }
    }

    /// Where something was closed, what is there may be another, and the bus as well. (While it is open the kernel
    /// keeps its adapter.) A sensor that needs nothing of what was closed goes on as if it had not been.
    fn look_at_closings(&mut self, schedule: &mut Schedule) {
        for (place, (wire, (permits, need))) in self.lane.sensors.iter_mut().zip(&self.ways).enumerate() {
            let closings = permits.closings(*need);
            if std::mem::replace(&mut wire.closings, closings) == closings {
                continue;
            }
            wire.source.forget();
            schedule.resume(place, self.clock.now());
            self.bus = None;
        }
    }

    /// Whether the leases are those of the wiring as it is now.
    fn is_wired(&mut self, place: usize) -> bool {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            self.wiring = self.wires.look();
            self.looked = Some(Instant::now());
        }
        self.ways.get(place).is_some_and(|(permits, _)| permits.follows(self.wiring))
    }

    /// Makes one reading, with a permit for each transfer. Returns `None` if the sensor may not be read, or something
    /// that it needs was closed meanwhile.
    fn read(&mut self, place: usize) -> Option<Read> {
        if self.lane.sensors.get(place).is_some_and(|wire| matches!(wire.source, Reader::Chip { .. })) {
            self.open();
        }
        if !self.is_wired(place) {
            return None;
        }
        let Self { lane, bus, ways, .. } = self;
        let (wire, (permits, need)) = (lane.sensors.get_mut(place)?, ways.get(place)?);
        let (address, closings) = (wire.source.address(), wire.closings);
        let granted = || {
            let permit = permits.try_acquire(*need, address.into()).ok()?;
            (permit.closings() == closings).then_some(permit)
        };
        let result = match (&mut wire.source, bus) {
            (Reader::File { file, .. }, _) => loop {
                let permit = granted()?;
                let progress = file.step();
                drop(permit);
                match progress {
                    Progress::More => {}
                    Progress::Reading(value) => break Ok(value),
                    Progress::Fault(fault) => break Err(fault),
                }
            },
            (Reader::Chip { .. }, None) => {
                let _permit = granted()?;
                Err(Fault::NoBus)
            }
            (Reader::Chip { chip, .. }, Some(bus)) => loop {
                let permit = granted()?;
                let value = bus.transfer(address, chip.next());
                drop(permit);
                match value.map(|value| chip.take(value)) {
                    Ok(Progress::More) => {}
                    Ok(Progress::Reading(value)) => break Ok(value),
                    Ok(Progress::Fault(fault)) => break Err(fault),
                    Err(error) => {
                        chip.forget();
                        break Err(fault(&error));
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
        Some(Read { sensor, closings, result })
    }

    /// Opens the bus if it is not open. It is said once that it cannot be.
    fn open(&mut self) {
        let Some((number, timeout)) = self.lane.i2c else { return };
        if self.bus.is_some() {
            return;
        }
        match self.buses.open(number, timeout) {
            Ok(bus) => {
                if std::mem::take(&mut self.said_missing) {
                    tracing::info!("I2C bus {number} is there now");
                }
                self.bus = Some(bus);
                // The bus, or the mux that it is a channel of, may have come just now.
                self.looked = None;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.said_missing, true) {
                    tracing::warn!("I2C bus {number} cannot be opened, and is tried again: {error}");
                }
            }
        }
    }

    /// Logs which driver has the address, and what can be done.
    fn name_driver(&self, address: u8) {
        let Some((number, _)) = self.lane.i2c else { return };
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
            let Some((number, _)) = self.lane.i2c else { return };
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
mod tests;
