// SPDX-License-Identifier: Apache-2.0
//! What the permits promise (rules 3.3), in every order in which the threads may run.
//!
//! Each model is one execution, which loom repeats until it has seen them all (or all with [`PREEMPTIONS`] switches away
//! from a thread that could go on; faults need few). A thread that is never woken is found as a deadlock.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so and fails"
)]

use std::{sync::Arc, time::Duration};

use acpi_model::{
    permits::{BusPermits, LEASE, Need, Permits},
    sync::{AtomicBool, Instant, Ordering::SeqCst, advance},
};
use loom::{
    cell::UnsafeCell,
    sync::{Condvar, Mutex},
    thread,
};

const PREEMPTIONS: usize = 3;
const DIMM: Need = Need::Gate(0);
const SPD: u32 = 0x18;

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

/// One host, and one bus with its DIMMs.
fn one_bus() -> (Permits, BusPermits) {
    let permits = Permits::new(1, [3]);
    let bus = permits.bus(3).expect("bus 3");
    (permits, bus)
}

fn set(permits: &Permits, open: bool) {
    permits.set(LEASE, |_| open, |_| open);
}

/// The wires. Loom reports whoever is on them while someone else is, or was without having been waited for.
struct Wires(UnsafeCell<()>);

impl Wires {
    #[allow(clippy::arc_with_non_send_sync, reason = "whether threads may share it is what loom finds out")]
    fn new() -> Arc<Self> {
        Arc::new(Self(UnsafeCell::new(())))
    }

    fn transfer(&self) {
        self.0.with_mut(|_| ());
    }
}

/// The channel to the event loop: how many notices lie in it.
struct Notices {
    count: Mutex<usize>,
    more: Condvar,
}

impl Notices {
    /// Of the end of a drain.
    fn of(permits: &Permits) -> Arc<Self> {
        let notices = Arc::new(Self { count: Mutex::new(0), more: Condvar::new() });
        let sender = Arc::clone(&notices);
        permits.on_drained(Box::new(move || {
            *sender.count.lock().expect("not poisoned") += 1;
            sender.more.notify_one();
        }));
        notices
    }

    fn receive(&self) {
        let mut count = self.count.lock().expect("not poisoned");
        while *count == 0 {
            count = self.more.wait(count).expect("not poisoned");
        }
        *count -= 1;
    }
}

/// What the event loop does: closes the gate, and waits until nothing is under way.
fn drain(permits: &Permits, drained: &Notices) {
    set(permits, false);
    while permits.in_flight(|_| true).is_some() {
        drained.receive();
    }
}

/// A thread that tries `times` transfers.
fn poller(bus: BusPermits, wires: &Arc<Wires>, times: usize) -> thread::JoinHandle<()> {
    let wires = Arc::clone(wires);
    thread::spawn(move || {
        for _ in 0..times {
            if let Ok(_permit) = bus.try_acquire(DIMM, SPD) {
                wires.transfer();
            }
        }
    })
}

/// Once drained, the bus is the host's: no permit is out and none is given. And the end of the last one is told.
#[test]
fn a_drained_bus_is_the_hosts() {
    check(|| {
        let (permits, bus) = one_bus();
        let wires = Wires::new();
        let drained = Notices::of(&permits);
        set(&permits, true);
        let poller = poller(bus, &wires, 2);
        drain(&permits, &drained);
        wires.transfer();
        poller.join().expect("the poller ends");
    });
}

/// The same with two pollers: the last of them tells. (They share the wires in turn, as the kernel makes them.)
#[test]
fn the_last_of_two_transfers_ends_the_drain() {
    check(|| {
        let (permits, first) = one_bus();
        let second = permits.bus(3).expect("bus 3");
        let wires = [Wires::new(), Wires::new()];
        let drained = Notices::of(&permits);
        set(&permits, true);
        let pollers = [poller(first, &wires[0], 1), poller(second, &wires[1], 1)];
        drain(&permits, &drained);
        for wires in &wires {
            wires.transfer();
        }
        for poller in pollers {
            poller.join().expect("the poller ends");
        }
    });
}

/// The gate that opens again while a poller is on its way, and closes a second time.
#[test]
fn a_second_drain_is_as_good_as_the_first() {
    check(|| {
        let (permits, bus) = one_bus();
        let wires = Wires::new();
        let drained = Notices::of(&permits);
        set(&permits, true);
        let poller = poller(bus, &wires, 1);
        for _ in 0..2 {
            drain(&permits, &drained);
            wires.transfer();
            set(&permits, true);
        }
        poller.join().expect("the poller ends");
    });
}

/// A lease that is not renewed ends; it counts from when the loop looked at the clock, however long it then took.
#[test]
fn a_lease_that_runs_out_closes() {
    check(|| {
        let (permits, bus) = one_bus();
        let over = Arc::new(AtomicBool::new(false));
        let time = {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                advance(LEASE);
                over.store(true, SeqCst);
            })
        };
        let poller = thread::spawn(move || {
            let was_over = over.load(SeqCst);
            let permit = bus.try_acquire(DIMM, SPD);
            was_over && permit.is_ok()
        });
        set(&permits, true);
        // Otherwise the loop may have come so late that its lease began after time had passed.
        let in_time = Instant::now().elapsed() < LEASE;
        let given = poller.join().expect("the poller ends");
        time.join().expect("time passes");
        assert!(!(in_time && given), "a permit from a lease that was over");
    });
}

/// A poller that waits for the gate is woken when it opens.
#[test]
fn no_opening_is_missed() {
    check(|| {
        let (permits, bus) = one_bus();
        let waiting = thread::spawn(move || bus.wait_open(&[DIMM]));
        set(&permits, true);
        assert!(waiting.join().expect("woken"));
    });
}

/// Nor if it is a renewal to the loop, and an opening to the poller: the lease ran out in between.
#[test]
fn a_renewal_in_the_last_moment_wakes_who_came_too_late() {
    check(|| {
        let (permits, bus) = one_bus();
        set(&permits, true);
        advance(LEASE.saturating_sub(Duration::from_millis(1)));
        let time = thread::spawn(|| advance(Duration::from_millis(1)));
        let waiting = thread::spawn(move || bus.wait_open(&[DIMM]));
        set(&permits, true);
        assert!(waiting.join().expect("woken"));
        time.join().expect("time passes");
    });
}

/// What was read before a closing is told from what was read since, also if the gate is open again: its permit's count
/// is an older one.
#[test]
fn a_transfer_from_before_a_closing_is_told_by_its_count() {
    check(|| {
        let (permits, bus) = one_bus();
        let another = Arc::new(AtomicBool::new(false));
        set(&permits, true);
        let poller = {
            let another = Arc::clone(&another);
            thread::spawn(move || {
                let permit = bus.try_acquire(DIMM, SPD).ok()?;
                Some((permit.closings(), another.load(SeqCst)))
            })
        };
        set(&permits, false);
        another.store(true, SeqCst);
        set(&permits, true);
        if let Some((closings, of_another)) = poller.join().expect("the poller ends") {
            assert!(
                of_another || closings != permits.closings(DIMM, 0),
                "the old DIMM is taken for the new one"
            );
        }
    });
}
