// SPDX-License-Identifier: Apache-2.0
//! What a BMC has without the daemon: dbus-sensors' hwmontempsensor, with the same sensors on the same buses.
//!
//! Its rules (openbmc 3.1 and 3.2; dbus-sensors `src/sensor.hpp`, `src/Utils.cpp`, `src/hwmon-temp/HwmonTempSensor.cpp` and
//! `HwmonTempMain.cpp` at fc2953c5): after a good read Value, then Functional=true, then Available=true; the fifth failed read in
//! a row makes it Functional=false, then Value=NaN, and leaves Available as it is. With `PowerState` On it goes at once when the
//! host leaves Running, Value=NaN before Available=false, and 10 s after Running it is Available again, before its first read.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use acpi_doubles::power::HOST_PATH;
use acpi_stated::{
    config::{Sensor, Source},
    logic::chip::{Chip, Progress},
    shell::clock::Clock,
    shell::ports::{Buses, I2cBus},
};
use tokio::{sync::mpsc, task::JoinSet};
use zbus::{MatchRule, MessageStream, Variant, message::Type};

use crate::{
    Result,
    clock::{secs, sleep},
    objects::{NoMethods, Objects, connect, next},
    pid_inputs::SENSORS,
};

const NAME: &str = "xyz.openbmc_project.HwmonTempSensor";
const VALUE: &str = "xyz.openbmc_project.Sensor.Value";
const AVAILABILITY: &str = "xyz.openbmc_project.State.Decorator.Availability";
const OPERATIONAL: &str = "xyz.openbmc_project.State.Decorator.OperationalStatus";
/// `PollRate`'s default.
const POLL: Duration = Duration::from_millis(500);
/// No faster than this, in real time: a transfer takes half a millisecond.
const SHORTEST_POLL: Duration = Duration::from_millis(8);
/// `errorThreshold`.
const ERRORS: u32 = 5;

/// "On comes too quickly".
const ON_DELAY: Duration = secs(10);

/// `PowerState` of the sensors' configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerState {
    /// It is not given: they are read always.
    Always,
    /// While the host runs.
    On,
}

/// What the service goes by.
#[derive(Clone, Copy, Debug)]
enum News {
    /// A read of this sensor has ended, with its value if it was good.
    Read(usize, Option<f64>),
    /// The host runs, or does not.
    Host(bool),
    /// It has run for [`ON_DELAY`], if it has not stopped since this many changes of it.
    On(u64),
}

/// The service; it ends when this is dropped.
#[derive(Debug)]
pub struct HwmonTemp {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl HwmonTemp {
    /// Starts it on the bus at `address`, with these sensors on these buses. The host is off.
    pub async fn start(
        address: &str,
        clock: Clock,
        power_state: PowerState,
        sensors: &[Sensor],
        buses: &dyn Buses,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self> {
        let objects = Objects::new(connect(address).await?, None);
        let (news, heard) = mpsc::unbounded_channel();
        let active = Arc::new(AtomicBool::new(power_state == PowerState::Always));
        let mut of_bus: BTreeMap<u32, Vec<(usize, Chip, u8)>> = BTreeMap::new();
        for (index, sensor) in sensors.iter().enumerate() {
            let path = format!("{SENSORS}/{}", sensor.name);
            objects.add(&path, VALUE, "Value", f64::NAN, false)?;
            objects.add(&path, VALUE, "MinValue", -128.0, false)?;
            objects.add(&path, VALUE, "MaxValue", 127.0, false)?;
            objects.add(&path, VALUE, "Unit", "xyz.openbmc_project.Sensor.Value.Unit.DegreesC", false)?;
            objects.add(&path, AVAILABILITY, "Available", active.load(Relaxed), false)?;
            objects.add(&path, OPERATIONAL, "Functional", true, false)?;
            if let Source::Device { device, bus, address } = sensor.source
                && let Some(chip) = Chip::new(device, 0)
            {
                of_bus.entry(bus).or_default().push((index, chip, address));
            }
        }
        objects.serve(NoMethods, tasks);
        objects.connection().request_name(NAME).await?;
        if power_state == PowerState::On {
            follow_host(address, news.clone(), tasks).await?;
        }
        let poll = (POLL / clock.speed()).max(SHORTEST_POLL);
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (bus, chips) in of_bus {
            let bus = Bus { i2c: buses.open(bus, Duration::ZERO)?, poll, active: Arc::clone(&active) };
            let (news, stop) = (news.clone(), Arc::clone(&stop));
            threads.push(thread::spawn(move || bus.serve(chips, &news, &stop)));
        }
        let paths = sensors.iter().map(|sensor| format!("{SENSORS}/{}", sensor.name)).collect();
        tasks.spawn(serve(objects, paths, clock, active, news, heard));
        Ok(Self { stop, threads })
    }
}

/// dbus-sensors matches by path and interface only, whoever says it.
async fn follow_host(
    address: &str,
    news: mpsc::UnboundedSender<News>,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let connection = connect(address).await?;
    let rule = MatchRule::builder().msg_type(Type::Signal).path(HOST_PATH).build()?;
    let mut signals = MessageStream::for_match_rule(rule, &connection, None).await?;
    tasks.spawn(async move {
        while let Some(signal) = next(&mut signals).await {
            let body = signal.body();
            let changed = body.deserialize::<(&str, BTreeMap<&str, Variant<'_>>, Vec<&str>)>();
            if let Ok((_, changed, _)) = changed
                && let Some(Variant::Str(state)) = changed.get("CurrentHostState")
            {
                // The service ends with the board.
                news.send(News::Host(state.ends_with(".Running"))).unwrap_or_default();
            }
        }
        drop(connection);
    });
    Ok(())
}

async fn serve(
    objects: Objects,
    paths: Vec<String>,
    clock: Clock,
    active: Arc<AtomicBool>,
    news: mpsc::UnboundedSender<News>,
    mut heard: mpsc::UnboundedReceiver<News>,
) {
    let mut errors = vec![0; paths.len()];
    let mut changes = 0;
    while let Some(what) = heard.recv().await {
        let said = match what {
            News::Read(index, value) => match (paths.get(index), errors.get_mut(index)) {
                (Some(path), Some(errors)) if active.load(Relaxed) => {
                    publish(&objects, path, errors, value).await
                }
                _ => Ok(()),
            },
            News::Host(running) => {
                changes += 1;
                if running {
                    let (news, changes) = (news.clone(), changes);
                    tokio::spawn(async move {
                        sleep(clock, ON_DELAY).await;
                        news.send(News::On(changes)).unwrap_or_default();
                    });
                    Ok(())
                } else {
                    active.store(false, Relaxed);
                    errors.fill(0);
                    switch(&objects, &paths, false).await
                }
            }
            News::On(of) if of == changes => {
                active.store(true, Relaxed);
                switch(&objects, &paths, true).await
            }
            News::On(_) => Ok(()),
        };
        if said.is_err() {
            return;
        }
    }
}

async fn switch(objects: &Objects, paths: &[String], on: bool) -> zbus::Result<()> {
    for path in paths {
        if !on
            && objects.value(path, AVAILABILITY, "Available") == Some(Variant::Bool(true).try_into_owned()?)
        {
            objects.set(path, VALUE, "Value", f64::NAN).await?;
        }
        objects.set(path, AVAILABILITY, "Available", on).await?;
    }
    Ok(())
}

async fn publish(objects: &Objects, path: &str, errors: &mut u32, value: Option<f64>) -> zbus::Result<()> {
    if let Some(value) = value {
        *errors = 0;
        objects.set(path, VALUE, "Value", value).await?;
        objects.set(path, OPERATIONAL, "Functional", true).await?;
        return objects.set(path, AVAILABILITY, "Available", true).await;
    }
    if *errors >= ERRORS {
        return Ok(());
    }
    *errors += 1;
    if *errors == ERRORS {
        objects.set(path, OPERATIONAL, "Functional", false).await?;
        objects.set(path, VALUE, "Value", f64::NAN).await?;
    }
    Ok(())
}

/// One bus and its thread.
struct Bus {
    i2c: Box<dyn I2cBus>,
    poll: Duration,
    active: Arc<AtomicBool>,
}

impl Bus {
    fn serve(
        mut self,
        mut chips: Vec<(usize, Chip, u8)>,
        news: &mpsc::UnboundedSender<News>,
        stop: &AtomicBool,
    ) {
        while !stop.load(Relaxed) {
            for (index, chip, address) in chips.iter_mut().filter(|_| self.active.load(Relaxed)) {
                let value = read(self.i2c.as_mut(), chip, *address);
                if news.send(News::Read(*index, value)).is_err() {
                    return;
                }
            }
            thread::sleep(self.poll);
        }
    }
}

/// The kernel's driver knows its chip once and for all, so what is left of a fault is that the read failed.
fn read(bus: &mut dyn I2cBus, chip: &mut Chip, address: u8) -> Option<f64> {
    loop {
        match bus.transfer(address, chip.next()).map(|value| chip.take(value)) {
            Ok(Progress::More) => {}
            Ok(Progress::Reading(celsius)) => return Some(celsius.degrees()),
            Ok(Progress::Fault(_)) | Err(_) => return None,
        }
    }
}

impl Drop for HwmonTemp {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // It panics nowhere; and if it did, there would be nothing left to stop.
            drop(thread.join());
        }
    }
}
