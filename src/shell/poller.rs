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
