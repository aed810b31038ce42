// SPDX-License-Identifier: Apache-2.0
//! From the settings to what is wired where: the buses, the hosts whose DIMMs they carry, and their sensors.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use crate::{
    adapters::hwmon::Hwmon,
    config::{self, Group, Settings},
    logic::{
        chip::Chip,
        sensor::Sensor,
        sensors::{Placed, Sensors},
    },
    shell::{
        permits::{BusId, HostIndex, Need},
        poller::{Line, Source, Wire},
    },
};

/// Buses and sensors, by position.
pub(crate) struct Wiring {
    /// Each bus with the hosts whose DIMMs it carries.
    pub(crate) buses: Vec<(BusId, Vec<HostIndex>)>,
    timeouts: Vec<Duration>,
    sensors: Vec<(config::Sensor, Placed)>,
}

impl Wiring {
    pub(crate) fn new(settings: &Settings) -> Self {
        let index: BTreeMap<u32, HostIndex> = settings.hosts.iter().map(|host| host.id).zip(0..).collect();
        let carried = |bus: &config::Bus| bus.hosts.iter().filter_map(|id| index.get(id).copied()).collect();
        let mut wiring = Self {
            buses: settings.buses.iter().map(|bus| (BusId::I2c(bus.bus), carried(bus))).collect(),
            timeouts: settings.buses.iter().map(|bus| bus.timeout).collect(),
            sensors: Vec::new(),
        };
        for sensor in &settings.sensors {
            // The check of the configuration has seen to it that there is such a host and such a bus.
            let Some(host) = index.get(&sensor.host).copied() else { continue };
            let Some(bus) = wiring.bus_of(sensor, host) else { continue };
            wiring.sensors.push((sensor.clone(), Placed { host, group: sensor.group, bus }));
        }
        wiring
    }

    /// Position of the bus of a sensor. A file is a bus of its own.
    fn bus_of(&mut self, sensor: &config::Sensor, host: HostIndex) -> Option<usize> {
        match &sensor.source {
            config::Source::Device { bus, .. } => {
                self.buses.iter().position(|(id, _)| *id == BusId::I2c(*bus))
            }
            config::Source::File(path) => {
                let carried = if sensor.group == Group::Thermal { Vec::new() } else { vec![host] };
                self.buses.push((BusId::File(Arc::from(path.as_path())), carried));
                self.timeouts.push(Duration::ZERO);
                Some(self.buses.len() - 1)
            }
        }
    }

    /// The lives of the sensors.
    pub(crate) fn sensors(&self) -> Sensors {
        let lives = self.sensors.iter().map(|(sensor, placed)| (Sensor::new(sensor), *placed));
        Sensors::new(lives.collect(), self.buses.iter().map(|(_, carried)| carried.clone()).collect())
    }

    /// Each sensor's settings and the position of its host.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (&config::Sensor, HostIndex)> {
        self.sensors.iter().map(|(sensor, placed)| (sensor, placed.host))
    }

    /// What each bus thread has to do; `sysfs` is where the kernel shows its devices.
    pub(crate) fn lines(&self, sysfs: &Path) -> Vec<Line> {
        let all = self.buses.iter().zip(&self.timeouts).enumerate();
        let lines = all.map(|(position, ((bus, _), timeout))| {
            let here = self.sensors.iter().enumerate().filter(|(_, (_, placed))| placed.bus == position);
            let sensors = here.map(|(index, (sensor, placed))| wire(index, sensor, placed.host, sysfs));
            Line { bus: bus.clone(), timeout: *timeout, sensors: sensors.collect() }
        });
        lines.filter(|line| !line.sensors.is_empty()).collect()
    }
}

fn wire(index: usize, sensor: &config::Sensor, host: HostIndex, sysfs: &Path) -> Wire {
    let need = match sensor.group {
        Group::Dimm | Group::S0 => Need::Gate(host),
        Group::Thermal => Need::Power(host),
    };
    let channel = sensor.channel.unwrap_or_default();
    let source = match &sensor.source {
        config::Source::Device { device, bus, address } => match Chip::new(*device, channel) {
            Some(chip) => Source::Chip { address: *address, chip },
            None => Source::File { address: *address, file: Hwmon::device(sysfs, *bus, *address, channel) },
        },
        config::Source::File(path) => Source::File { address: 0, file: Hwmon::file(path) },
    };
    Wire { sensor: index, need, period: sensor.poll, source, said_bound: false }
}
