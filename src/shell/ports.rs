// SPDX-License-Identifier: Apache-2.0
//! Ports: what the shell needs of the hardware, as traits that the adapters and the tests' doubles have.

use std::{io, sync::mpsc::Sender, time::Duration};

use rustix::io::Errno;

use crate::logic::{
    chip::{Access, Progress},
    event::Epoch,
    reading::Fault,
    wires::Chain,
};

/// An open I2C bus.
#[cfg_attr(test, mockall::automock)]
pub trait I2cBus: Send {
    /// Makes one transfer with the device at `address`, and returns the value that it gave; 0 where it gives none.
    /// Fails with EBUSY where a kernel driver has the address. Blocks for about the bus's timeout at most, or while
    /// other users of the adapter keep it.
    fn transfer(&mut self, address: u8, access: Access) -> io::Result<u16>;
}

/// Where buses come from.
#[cfg_attr(test, mockall::automock)]
pub trait Buses: Send + Sync {
    /// Opens a bus, with this limit for each transfer on it.
    fn open(&self, bus: u32, timeout: Duration) -> io::Result<Box<dyn I2cBus>>;

    /// The kernel driver that has this address, on this bus or on another that the same wires reach.
    fn driver_of(&self, bus: u32, address: u8) -> Option<String>;

    /// The muxes between this bus and the controller, as far as they are there now. Does not block.
    #[allow(unused_variables, reason = "whichever it is, unless they know better it hangs on none")]
    fn chain(&self, bus: u32) -> Chain {
        Chain::default()
    }
}

/// Returns the fault that an error of a transfer means for the sensor.
#[must_use]
pub fn fault(error: &io::Error) -> Fault {
    let Some(errno) = Errno::from_io_error(error) else {
        return Fault::Other(0);
    };
    match errno {
        // Adapters differ in what they give when nobody acknowledges (Documentation/i2c/fault-codes.rst).
        Errno::NXIO | Errno::REMOTEIO | Errno::NODEV | Errno::NOENT => Fault::Absent,
        Errno::TIMEDOUT => Fault::Hung,
        Errno::BUSY => Fault::Bound,
        Errno::AGAIN => Fault::ArbitrationLost,
        other => Fault::Other(other.raw_os_error()),
    }
}

/// Whose the bus is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Host,
    Bmc,
}

/// A GPIO line that can be driven.
pub trait GpioLine: Send {
    /// Drives it, high or low.
    fn drive(&mut self, high: bool) -> io::Result<()>;
}

/// Where lines come from.
pub trait GpioLines: Send + Sync {
    /// The line of this name, which need not be there before it is driven.
    fn line(&self, name: &str) -> Box<dyn GpioLine>;
}

/// The way to the thread of one SPD mux.
#[derive(Clone, Debug)]
pub(crate) struct MuxOrders(pub(crate) Sender<(Side, Epoch)>);

impl MuxOrders {
    /// Never waits.
    pub(crate) fn order(&self, side: Side, epoch: Epoch) {
        // The thread ends only when this does.
        self.0.send((side, epoch)).unwrap_or_default();
    }
}

/// A kernel driver's file of a temperature, and those beside it.
pub(crate) trait TemperatureFile: Send {
    /// Reads one of its files; a reading takes several steps.
    fn step(&mut self) -> Progress;

    /// Forgets where it was found.
    fn forget(&mut self);
}
