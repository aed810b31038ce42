// SPDX-License-Identifier: Apache-2.0
//! An I2C bus with DIMMs on it and two masters: the BMC, and the CPU on which UEFI runs.
//!
//! A transfer takes 0.45 ms of real time. A master that starts while another's transfer is under way
//! is denied, as one that loses arbitration or finds the bus busy. Every transfer is logged: all that
//! the board counts about its buses is counted from this log. The BMC's own threads take turns, as the
//! kernel's lock on an adapter makes them.

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    dimm::{Dimm, Kind},
    lock,
    spd_mux::SpdMux,
    transfer::{Master, Outcome, TRANSFER, Transfer},
};

/// How many DIMMs a bus has.
pub const DIMMS: u32 = 4;

/// One bus.
#[derive(Debug)]
pub struct SimBus {
    number: u32,
    dimms: Vec<Dimm>,
    /// What is between the masters and the DIMMs, if anything.
    mux: Option<SpdMux>,
    /// The adapter, which one thread of the BMC has at a time.
    adapter: Mutex<()>,
    inner: Mutex<Inner>,
    begun: [AtomicU64; 2],
}

#[derive(Debug, Default)]
struct Inner {
    holder: Option<Master>,
    log: Vec<Transfer>,
}

impl SimBus {
    /// A quiet bus with this Linux bus number, and with DIMMs of this kind. To the board, a DIMM's SPD and its sensor
    /// have one address.
    #[must_use]
    pub fn new(number: u32, kind: Kind) -> Self {
        let first = match kind {
            Kind::Ddr4 => 0x18,
            Kind::Ddr5 => 0x50,
        };
        Self {
            number,
            dimms: (first..first + DIMMS).map(|address| Dimm::new(address, kind)).collect(),
            mux: None,
            adapter: Mutex::default(),
            inner: Mutex::default(),
            begun: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    /// The same bus with its DIMMs behind this mux.
    #[must_use]
    pub fn behind(self, mux: SpdMux) -> Self {
        Self { mux: Some(mux), ..self }
    }

    /// Whether this master reaches the DIMMs.
    fn is_connected(&self, master: Master) -> bool {
        self.mux.as_ref().is_none_or(|mux| mux.side() == master)
    }

    /// Its DIMMs.
    #[must_use]
    pub fn dimms(&self) -> &[Dimm] {
        &self.dimms
    }

    /// Its Linux bus number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// One transfer; blocks as long as it takes.
    pub fn transfer(&self, master: Master, device: u32) -> Outcome {
        self.stretched(master, device, TRANSFER)
    }

    /// A transfer with a device that stretches the clock, so that it takes `length`.
    pub fn stretched(&self, master: Master, device: u32, length: Duration) -> Outcome {
        let start = Instant::now();
        self.held(master, device, || thread::sleep(length.saturating_sub(start.elapsed())))
    }

    /// A transfer that ends when `until` returns.
    pub fn held(&self, master: Master, device: u32, until: impl FnOnce()) -> Outcome {
        let _adapter = (master == Master::Bmc).then(|| lock(&self.adapter));
        self.begun(master).fetch_add(1, Relaxed);
        let start = {
            let mut inner = lock(&self.inner);
            // Only now: a transfer begins when the bus is taken, not when somebody waits for this lock.
            let start = Instant::now();
            let refused = match inner.holder {
                _ if !self.is_connected(master) => Some(Outcome::Unconnected),
                Some(_) => Some(Outcome::Denied),
                None => None,
            };
            if let Some(outcome) = refused {
                inner.log.push(Transfer { device, master, start, end: start, outcome });
                return outcome;
            }
            inner.holder = Some(master);
            start
        };
        until();
        let outcome = if self.is_connected(master) { Outcome::Done } else { Outcome::Unconnected };
        let mut inner = lock(&self.inner);
        inner.holder = None;
        inner.log.push(Transfer { device, master, start, end: Instant::now(), outcome });
        outcome
    }

    /// How many transfers this master has begun so far.
    #[must_use]
    pub fn count(&self, master: Master) -> u64 {
        self.begun(master).load(Relaxed)
    }

    /// The log since it was last taken. A transfer that is under way is in the next one.
    pub fn take_log(&self) -> Vec<Transfer> {
        std::mem::take(&mut lock(&self.inner).log)
    }

    fn begun(&self, master: Master) -> &AtomicU64 {
        let [bmc, uefi] = &self.begun;
        match master {
            Master::Bmc => bmc,
            Master::Uefi => uefi,
        }
    }
}

impl fmt::Display for SimBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bus {}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_transfer_takes_its_time_and_is_logged() {
        let bus = SimBus::new(3, Kind::Ddr4);
        assert_eq!(bus.transfer(Master::Uefi, 0x18), Outcome::Done);
        let log = bus.take_log();
        assert_eq!(log.len(), 1);
        assert_eq!((log[0].master, log[0].device, log[0].outcome), (Master::Uefi, 0x18, Outcome::Done));
        assert!(log[0].end - log[0].start >= TRANSFER);
        assert!(bus.take_log().is_empty());
        assert_eq!((bus.count(Master::Uefi), bus.count(Master::Bmc)), (1, 0));
    }

    #[test]
    fn a_second_master_is_denied_while_the_first_transfers_and_not_after() {
        let bus = Arc::new(SimBus::new(3, Kind::Ddr4));
        let first = {
            let bus = Arc::clone(&bus);
            thread::spawn(move || {
                while bus.count(Master::Uefi) == 0 {
                    bus.transfer(Master::Bmc, 0x18);
                }
            })
        };
        while bus.count(Master::Bmc) == 0 {
            thread::yield_now();
        }
        // The BMC transfers back to back until UEFI has tried: one of a few tries meets it.
        let mut denied = false;
        for _ in 0..100 {
            denied |= bus.transfer(Master::Uefi, 0x19) == Outcome::Denied;
        }
        first.join().unwrap();
        assert_eq!(bus.transfer(Master::Uefi, 0x19), Outcome::Done);
        let log = bus.take_log();
        assert_eq!(log.iter().any(|t| t.master == Master::Uefi && t.outcome == Outcome::Denied), denied);
        // Whatever the threads did, no two transfers that were done overlap.
        let mut done: Vec<_> = log.iter().filter(|t| t.outcome == Outcome::Done).collect();
        done.sort_by_key(|t| t.start);
        assert!(done.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
}
