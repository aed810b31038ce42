// SPDX-License-Identifier: Apache-2.0
//! From the settings to what is wired where: the buses, the hosts whose DIMMs they carry, and their sensors.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use crate::{
    adapters::hwmon::Hwmon,
    config::{self, Group, Settings, SpdPage},
    logic::{
        chip::Chip,
        sensor::Sensor,
        sensors::{Placed, Sensors},
    },
    shell::{
        event_loop::need,
        permits::{BusId, Closings, HostIndex, Need},
        poller::{Lane, Reader, Wire},
    },
};

/// At most so many threads read files, however many there are.
const FILE_THREADS: usize = 8;

/// Buses and sensors, by position.
pub(crate) struct Wiring {
    /// Each bus with the hosts whose DIMMs it carries.
    pub(crate) buses: Vec<(BusId, Vec<HostIndex>)>,
    /// How each I2C bus is used; these are the first of the buses.
    manners: Vec<Manner>,
    sensors: Vec<(config::Sensor, Placed)>,
}

/// How a bus is used.
#[derive(Clone, Copy)]
struct Manner {
    timeout: Duration,
    spd_page: SpdPage,
}

impl Wiring {
    pub(crate) fn new(settings: &Settings) -> Self {
        let index: BTreeMap<u32, HostIndex> = settings.hosts.iter().map(|host| host.id).zip(0..).collect();
        let carried = |bus: &config::Bus| bus.hosts.iter().filter_map(|id| index.get(id).copied()).collect();
        let mut wiring = Self {
            buses: settings.buses.iter().map(|bus| (BusId::I2c(bus.bus), carried(bus))).collect(),
            manners: settings
                .buses
                .iter()
                .map(|bus| Manner { timeout: bus.timeout, spd_page: bus.spd_page })
                .collect(),
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
                Some(self.buses.len() - 1)
            }
        }
    }

    /// The lives of the sensors.
    pub(crate) fn sensors(&self) -> Sensors {
        let lives = self.sensors.iter().map(|(sensor, placed)| (Sensor::new(sensor), *placed));
        Sensors::new(lives.collect(), self.buses.iter().map(|(_, carried)| carried.clone()).collect())
    }

    /// The name of each sensor.
    pub(crate) fn names(&self) -> Vec<String> {
        self.sensors.iter().map(|(sensor, _)| sensor.name.clone()).collect()
    }

    /// Each sensor's settings and the position of its host.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (&config::Sensor, HostIndex)> {
        self.sensors.iter().map(|(sensor, placed)| (sensor, placed.host))
    }

    /// Returns the work of each bus thread; `sysfs` is where the kernel shows its devices. There is a thread for each I2C
    /// bus. The files share a few threads, and those of one device (one directory) share one: a file that hangs takes its
    /// device's with it, and those of the devices that share its thread, but not all.
    pub(crate) fn lanes(&self, sysfs: &Path) -> Vec<Lane> {
        let of_i2c = |(position, (bus, manner)): (usize, (&(BusId, Vec<HostIndex>), &Manner))| {
            let BusId::I2c(number) = bus.0 else { return None };
            let here = self.sensors.iter().enumerate().filter(|(_, (_, placed))| placed.bus == position);
            let sensors = here.map(|(index, (sensor, placed))| {
                wire(index, sensor, &bus.0, placed.host, manner.spd_page, sysfs)
            });
            Some(Lane { i2c: Some((number, manner.timeout)), sensors: sensors.collect() })
        };
        let i2c = self.buses.iter().zip(&self.manners).enumerate().filter_map(of_i2c);
        let mut lanes: Vec<Lane> = i2c.filter(|lane| !lane.sensors.is_empty()).collect();

        let mut devices = BTreeMap::new();
        let mut of_files: Vec<Lane> = Vec::new();
        for (index, (sensor, placed)) in self.sensors.iter().enumerate() {
            let config::Source::File(path) = &sensor.source else { continue };
            let Some((bus, _)) = self.buses.get(placed.bus) else { continue };
            let next = devices.len() % FILE_THREADS;
            let thread = *devices.entry(path.parent()).or_insert(next);
            let wire = wire(index, sensor, bus, placed.host, SpdPage::Report, sysfs);
            match of_files.get_mut(thread) {
                Some(lane) => lane.sensors.push(wire),
                None => of_files.push(Lane { i2c: None, sensors: vec![wire] }),
            }
        }
        lanes.append(&mut of_files);
        lanes
    }
}

fn wire(
    index: usize,
    sensor: &config::Sensor,
    bus: &BusId,
    host: HostIndex,
    spd_page: SpdPage,
    sysfs: &Path,
) -> Wire {
    let need = need(host, sensor.group);
    let channel = sensor.channel.unwrap_or_default();
    let source = match &sensor.source {
        config::Source::Device { device, bus, address } => match Chip::new(*device, channel) {
            // A hub that is read in POST too is not written to: the gate may be closed.
            Some(chip) if spd_page == SpdPage::Reset && matches!(need, Need::Gate(_)) => {
                Reader::Chip { address: *address, chip: chip.selecting_page_0() }
            }
            Some(chip) => Reader::Chip { address: *address, chip },
            None => Reader::File {
                address: *address,
                file: Box::new(Hwmon::device(sysfs, *bus, *address, channel)),
            },
        },
        config::Source::File(path) => Reader::File { address: 0, file: Box::new(Hwmon::file(path)) },
    };
    Wire {
        sensor: index,
        bus: bus.clone(),
        need,
        period: sensor.poll,
        source,
        said_bound: false,
        closings: Closings::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use super::*;
    use crate::{
        config::{Bus, Device, Sensor, Source as Place},
        logic::{chip::Progress, reading::Fault},
    };

    /// Whether a page would be selected where one is, by the key of the bus and the group of the sensor.
    #[test]
    fn a_page_is_selected_where_the_bus_says_so_and_the_gate_guards_it() {
        for (spd_page, group, selects) in [
            (SpdPage::Report, Group::Dimm, false),
            (SpdPage::Reset, Group::Dimm, true),
            (SpdPage::Reset, Group::S0, true),
            (SpdPage::Reset, Group::Thermal, false),
        ] {
            let source = Place::Device { device: Device::Spd5118, bus: 3, address: 0x50 };
            let settings = Settings {
                buses: vec![Bus { spd_page, ..Bus::new(3, vec![0]) }],
                sensors: vec![config::Sensor::new("A".to_owned(), 0, group, source)],
                ..Settings::default()
            };
            let mut lanes = Wiring::new(&settings).lanes(Path::new("/nowhere"));
            let Some(Reader::Chip { chip, .. }) = lanes[0].sensors.first_mut().map(|wire| &mut wire.source)
            else {
                panic!("no chip")
            };
            assert_eq!(chip.take(0), Progress::More);
            let page_3 = chip.take(3);
            assert_eq!(page_3 == Progress::More, selects, "{spd_page:?} {group:?}");
            assert!(selects || page_3 == Progress::Fault(Fault::Page(3)));
        }
    }

    /// The files of each thread, with `devices` devices of two files each, and one I2C bus beside them.
    fn threads(devices: usize) -> Vec<BTreeSet<usize>> {
        let mut settings = Settings::default();
        settings.buses.push(Bus::new(3, vec![0]));
        let path = |device, file| PathBuf::from(format!("/sys/class/hwmon/hwmon{device}/temp{file}_input"));
        let files = (0..devices).flat_map(|device| [(device, 1), (device, 2)]);
        settings.sensors = files
            .map(|(device, file)| {
                let source = config::Source::File(path(device, file));
                Sensor::new(format!("T{device}_{file}"), 0, Group::Dimm, source)
            })
            .collect();
        let source = config::Source::Device { device: config::Device::Jc42, bus: 3, address: 0x18 };
        settings.sensors.push(Sensor::new("A1".to_owned(), 0, Group::Dimm, source));
        let wiring = Wiring::new(&settings);
        assert_eq!(wiring.buses.len(), 1 + 2 * devices, "each file has permits of its own");
        let mut lanes = wiring.lanes(Path::new("/sys"));
        assert_eq!(lanes.remove(0).i2c.map(|(number, _)| number), Some(3));
        assert!(lanes.iter().all(|lane| lane.i2c.is_none()));
        lanes.iter().map(|lane| lane.sensors.iter().map(|wire| wire.sensor).collect()).collect()
    }

    #[test]
    fn files_share_at_most_eight_threads_and_those_of_a_device_one() {
        assert_eq!(threads(0), Vec::<BTreeSet<usize>>::new());
        assert_eq!(threads(2), [BTreeSet::from([0, 1]), BTreeSet::from([2, 3])]);
        let many = threads(128);
        assert_eq!(many.len(), 8);
        assert_eq!(many.iter().map(BTreeSet::len).sum::<usize>(), 256);
        for device in 0..128 {
            let together = many.iter().filter(|thread| thread.contains(&(2 * device)));
            assert!(together.clone().all(|thread| thread.contains(&(2 * device + 1))));
            assert_eq!(together.count(), 1);
        }
    }
}
