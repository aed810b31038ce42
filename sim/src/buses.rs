// SPDX-License-Identifier: Apache-2.0
//! The board's I2C buses as the daemon opens them, in the place of the kernel's.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use acpi_stated::{
    logic::chip::Access,
    shell::ports::{Buses, I2cBus},
};

use crate::{
    dimm::{Dimm, Manner, nobody_answers},
    platform::{CPU_BUS, Platform},
    simbus::SimBus,
    transfer::{Master, Outcome, TRANSFER},
};

/// How long a bus that hangs keeps its master; the kernel's timeout, on a driver that has one.
const HANG_TICK: Duration = Duration::from_millis(1);
/// No bus of a board hangs longer.
const LONGEST_HANG: Duration = Duration::from_secs(20);

/// The board's buses: those of the DIMMs, and the CPU's.
#[derive(Clone, Debug)]
pub struct SimBuses {
    /// Those of the DIMMs.
    pub dimms: Vec<Arc<SimBus>>,
    /// Nothing answers without power.
    pub platform: Platform,
}

impl Buses for SimBuses {
    fn open(&self, bus: u32, _: Duration) -> io::Result<Box<dyn I2cBus>> {
        if bus == CPU_BUS {
            return Ok(self.platform.cpu_bus());
        }
        let bus = self.dimms.iter().find(|known| known.number() == bus);
        let bus = bus.ok_or_else(|| io::Error::from(rustix::io::Errno::NOENT))?;
        Ok(Box::new(Bmc { bus: Arc::clone(bus), platform: self.platform.clone() }))
    }

    fn driver_of(&self, _: u32, _: u8) -> Option<String> {
        None
    }
}

/// The BMC's controller of one bus.
struct Bmc {
    bus: Arc<SimBus>,
    platform: Platform,
}

impl I2cBus for Bmc {
    fn transfer(&mut self, address: u8, access: Access) -> io::Result<u16> {
        let errno = |errno: rustix::io::Errno| io::Error::from(errno);
        let address = u32::from(address);
        let dimm = self.bus.dimms().iter().find(|dimm| dimm.address() == address);
        let manner = dimm.filter(|_| self.platform.is_up()).map_or(Manner::Absent, Dimm::manner);
        let length = if manner == Manner::Absent { TRANSFER / 4 } else { TRANSFER };
        let outcome = match dimm.filter(|_| manner == Manner::Hangs) {
            Some(dimm) => self.bus.held(Master::Bmc, address, || {
                let began = Instant::now();
                while dimm.manner() == Manner::Hangs && began.elapsed() < LONGEST_HANG {
                    thread::sleep(HANG_TICK);
                }
            }),
            None => self.bus.stretched(Master::Bmc, address, length),
        };
        match outcome {
            Outcome::Done => {}
            Outcome::Denied => return Err(errno(rustix::io::Errno::AGAIN)),
            Outcome::Unconnected => return Err(nobody_answers()),
        }
        let Some(dimm) = dimm else { return Err(nobody_answers()) };
        dimm.count_read();
        match manner {
            Manner::Well => dimm.register(access).ok_or_else(|| errno(rustix::io::Errno::REMOTEIO)),
            Manner::Absent => Err(nobody_answers()),
            Manner::Garbage => Ok(0xffff),
            Manner::Hangs => Err(errno(rustix::io::Errno::TIMEDOUT)),
        }
    }
}
