// SPDX-License-Identifier: Apache-2.0
//! What a BMC has without the daemon: dbus-sensors' hwmontempsensor, with the same sensors on the same buses.
//!
//! Its configuration is entity-manager's default, no `PowerState`: it polls always. Its rules (contract 3.2; dbus-sensors
//! `src/sensor.hpp`, `src/hwmon-temp/HwmonTempSensor.cpp` at fc2953c5): after a good read Value, then Functional=true, then
//! Available=true; the fifth failed read in a row makes it Functional=false, then Value=NaN, and leaves Available as it is.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use acpi_stated::{
    adapters::i2c::{Buses, I2cBus},
    config::{Sensor, Source},
    logic::chip::{Chip, Progress},
    shell::clock::Clock,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Result,
    objects::{NoMethods, Objects, connect},
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

/// A read that has ended: which sensor, and its value if it was good.
type Read = (usize, Option<f64>);

/// The service; it ends when this is dropped.
#[derive(Debug)]
pub struct HwmonTemp {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl HwmonTemp {
    /// Starts it on the bus at `address`, with these sensors on these buses.
    pub async fn start(
        address: &str,
        clock: Clock,
        sensors: &[Sensor],
        buses: &dyn Buses,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self> {
        let objects = Objects::new(connect(address).await?, None);
        let (reads, mut ended) = mpsc::unbounded_channel::<Read>();
        let mut of_bus: BTreeMap<u32, Vec<(usize, Chip, u8)>> = BTreeMap::new();
        for (index, sensor) in sensors.iter().enumerate() {
            let path = format!("{SENSORS}/{}", sensor.name);
            objects.add(&path, VALUE, "Value", f64::NAN, false)?;
            objects.add(&path, VALUE, "MinValue", -128.0, false)?;
            objects.add(&path, VALUE, "MaxValue", 127.0, false)?;
            objects.add(&path, VALUE, "Unit", "xyz.openbmc_project.Sensor.Value.Unit.DegreesC", false)?;
            objects.add(&path, AVAILABILITY, "Available", true, false)?;
            objects.add(&path, OPERATIONAL, "Functional", true, false)?;
            if let Source::Device { device, bus, address } = sensor.source
                && let Some(chip) = Chip::new(device, 0)
            {
                of_bus.entry(bus).or_default().push((index, chip, address));
            }
        }
        objects.serve(NoMethods, tasks);
        objects.connection().request_name(NAME).await?;
        let poll = (POLL / clock.speed()).max(SHORTEST_POLL);
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (bus, chips) in of_bus {
            let (bus, reads, stop) = (buses.open(bus, Duration::ZERO)?, reads.clone(), Arc::clone(&stop));
            threads.push(thread::spawn(move || serve_bus(bus, chips, poll, &reads, &stop)));
        }
        let paths: Vec<String> = sensors.iter().map(|sensor| format!("{SENSORS}/{}", sensor.name)).collect();
        tasks.spawn(async move {
            let mut errors = vec![0; paths.len()];
            while let Some((index, value)) = ended.recv().await {
                let (Some(path), Some(errors)) = (paths.get(index), errors.get_mut(index)) else { continue };
                if publish(&objects, path, errors, value).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { stop, threads })
    }
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

fn serve_bus(
    mut bus: Box<dyn I2cBus>,
    mut chips: Vec<(usize, Chip, u8)>,
    poll: Duration,
    reads: &mpsc::UnboundedSender<Read>,
    stop: &AtomicBool,
) {
    while !stop.load(Relaxed) {
        for (index, chip, address) in &mut chips {
            let value = read(bus.as_mut(), chip, *address);
            if reads.send((*index, value)).is_err() {
                return;
            }
        }
        thread::sleep(poll);
    }
}

/// The kernel's driver knows its chip once and for all, so what is left of a fault is that the read failed.
fn read(bus: &mut dyn I2cBus, chip: &mut Chip, address: u8) -> Option<f64> {
    loop {
        match bus.read(address, chip.next()).map(|value| chip.take(value)) {
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
