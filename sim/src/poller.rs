// SPDX-License-Identifier: Apache-2.0
//! The BMC's polling of the DIMM temperatures: one thread per bus, with the daemon's real permits.
//!
//! It takes at most a tenth of its bus. With [`Gate::Ignored`] it transfers whether or not it got a
//! permit, and still asks for one: the daemon is the same, only nobody heeds it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use acpi_stated::shell::permits::{BusPermits, Need, Permits};

use crate::{dimm::Dimm, simbus::SimBus, transfer::Master};

/// Whether the poller heeds a refused permit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// As every poller must.
    Heeded,
    /// To show what the gate is for.
    Ignored,
}

/// The DIMMs of the board belong to host 0.
const NEED: Need = Need::Gate(0);
/// A transfer is followed by a rest of nine times its length.
const REST: u32 = 9;
/// No transfer of a bus that works takes longer.
const LONGEST: Duration = Duration::from_millis(100);
/// How often it looks at the gate while it rests.
const LOOK: Duration = Duration::from_millis(10);
/// How often a closed gate is looked at.
const WAIT: Duration = Duration::from_micros(500);

/// The thread of one bus; it ends when this is dropped.
#[derive(Debug)]
pub struct Poller {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    openings: AtomicU64,
}

impl Poller {
    /// Starts polling; `None` if the daemon does not guard this bus.
    #[must_use]
    pub fn start(bus: Arc<SimBus>, permits: &Permits, gate: Gate) -> Option<Self> {
        let permits = permits.bus(bus.number())?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = thread::spawn(move || poll(&bus, &permits, gate, &of_thread));
        Some(Self { shared, thread: Some(thread) })
    }

    /// How often a permit was granted after one had been refused.
    #[must_use]
    pub fn openings(&self) -> u64 {
        self.shared.openings.load(Relaxed)
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics nowhere; and if it did, there would be nothing left to stop.
            drop(thread.join());
        }
    }
}

fn poll(bus: &SimBus, permits: &BusPermits, gate: Gate, shared: &Shared) {
    // Closed until the daemon has seen a host that works, also where this thread is late to notice.
    let mut refused = true;
    for device in bus.dimms().iter().map(Dimm::address).cycle() {
        if shared.stop.load(Relaxed) {
            return;
        }
        let permit = permits.try_acquire(NEED, device).ok();
        if permit.is_some() && refused {
            shared.openings.fetch_add(1, Relaxed);
        }
        refused = permit.is_none();
        if refused && gate == Gate::Heeded {
            thread::sleep(WAIT);
            continue;
        }
        let start = Instant::now();
        bus.transfer(Master::Bmc, device);
        let taken = start.elapsed();
        drop(permit);
        // A bus that hung is no reason to stay away from it for ever, nor to miss that the gate was closed meanwhile.
        let mut rest = taken.min(LONGEST) * REST;
        while !rest.is_zero() {
            let slice = rest.min(LOOK);
            thread::sleep(slice);
            rest -= slice;
            refused |= permits.try_acquire(NEED, device).is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dimm::Kind;
    use acpi_stated::shell::permits::LEASE;

    fn set(permits: &Permits, open: bool) {
        permits.set(LEASE, |_| open, |_| open);
    }

    fn wait(what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn polls_while_it_is_permitted_and_takes_a_tenth_of_the_bus() {
        let permits = Permits::new(1, [3]);
        let bus = Arc::new(SimBus::new(3, Kind::Ddr4));
        assert!(Poller::start(Arc::new(SimBus::new(4, Kind::Ddr5)), &permits, Gate::Heeded).is_none());
        let poller = Poller::start(Arc::clone(&bus), &permits, Gate::Heeded).unwrap();
        thread::sleep(Duration::from_millis(20));
        assert_eq!(bus.count(Master::Bmc), 0);
        set(&permits, true);
        wait("transfers", || bus.count(Master::Bmc) > 10);
        set(&permits, false);
        wait("drain", || permits.in_flight(|_| true).is_none());
        let log = bus.take_log();
        thread::sleep(Duration::from_millis(20));
        assert!(bus.take_log().is_empty(), "it went on without a permit");
        assert_eq!(poller.openings(), 1);
        let all = log.last().unwrap().end - log[0].start;
        // The last one has had no rest yet.
        let busy: Duration = log[..log.len() - 1].iter().map(|t| t.end - t.start).sum();
        assert!(busy * 10 <= all, "{busy:?} of {all:?}");
    }

    #[test]
    fn with_the_gate_ignored_it_transfers_and_still_counts_openings() {
        let permits = Permits::new(1, [3]);
        let bus = Arc::new(SimBus::new(3, Kind::Ddr4));
        let poller = Poller::start(Arc::clone(&bus), &permits, Gate::Ignored).unwrap();
        wait("transfers", || bus.count(Master::Bmc) > 2);
        assert_eq!(poller.openings(), 0);
        set(&permits, true);
        wait("an opening", || poller.openings() == 1);
    }
}
