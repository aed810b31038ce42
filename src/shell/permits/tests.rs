// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use std::sync::mpsc;

use super::*;

const DIMM: Need = Need::Gate(0);

fn one_bus() -> (Permits, BusPermits) {
    let permits = Permits::new(1, [3]);
    let bus = permits.bus(3).unwrap();
    (permits, bus)
}

fn set(permits: &Permits, open: bool) {
    permits.set(LEASE, |_| open, |_| open);
}

fn in_flight(permits: &Permits) -> Option<(BusId, u32)> {
    permits.in_flight(|bus| bus == 0).map(|transfer| (transfer.bus, transfer.device))
}

#[test]
fn closed_until_told_otherwise() {
    let (permits, bus) = one_bus();
    assert!(bus.try_acquire(DIMM, 0x18).is_err());
    assert_eq!(permits.in_flight(|_| true), None);
    assert!(permits.bus(4).is_none());
    set(&permits, true);
    assert!(bus.try_acquire(DIMM, 0x18).is_ok());
}

#[test]
fn a_refused_permit_is_not_in_flight() {
    let (permits, bus) = one_bus();
    let refused = bus.try_acquire(DIMM, 0x18);
    assert!(refused.is_err());
    drop(refused);
    assert_eq!(permits.in_flight(|_| true), None);
}

#[test]
fn the_end_of_the_last_transfer_is_told_once_and_only_if_asked_for() {
    let (permits, bus) = one_bus();
    let (tx, rx) = mpsc::channel();
    permits.on_drained(Box::new(move || tx.send(()).unwrap()));
    set(&permits, true);
    drop(bus.try_acquire(DIMM, 0x18));
    assert!(rx.try_recv().is_err(), "nobody waited for it");

    let first = bus.try_acquire(DIMM, 0x18).unwrap();
    let second = bus.try_acquire(DIMM, 0x1a).unwrap();
    set(&permits, false);
    assert_eq!(in_flight(&permits), Some((BusId::I2c(3), 0x1a)));
    assert!(bus.try_acquire(DIMM, 0x18).is_err());
    drop(first);
    assert!(rx.try_recv().is_err(), "one is still out");
    drop(second);
    assert_eq!(rx.try_iter().count(), 1);
    assert_eq!(permits.in_flight(|_| true), None);
}

#[test]
fn a_bus_carries_several_hosts() {
    let permits = Permits::new(2, [3, 5]);
    let (shared, own) = (permits.bus(3).unwrap(), permits.bus(5).unwrap());
    // Host 1 is in POST, host 0 works: the shared bus is nobody's.
    let powered = |need| matches!(need, Need::Gate(0) | Need::Power(_));
    permits.set(LEASE, powered, |_| false);
    assert!(shared.try_acquire(Need::Gate(0), 0x18).is_err());
    assert!(shared.try_acquire(Need::Power(1), 0x18).is_err());
    // Host 1 is off: host 0's sensors may be read, host 1's may not.
    permits.set(LEASE, |need| matches!(need, Need::Gate(0) | Need::Power(0)), |_| true);
    assert!(shared.try_acquire(Need::Gate(0), 0x18).is_ok());
    assert!(shared.try_acquire(Need::Gate(1), 0x18).is_err());
    assert!(own.try_acquire(Need::Power(0), 0x18).is_ok());
    assert!(own.try_acquire(Need::Power(1), 0x18).is_err());
    let permit = own.try_acquire(Need::Power(0), 0x4c).unwrap();
    assert_eq!(permits.in_flight(|bus| bus == 0), None, "it is on bus 5");
    assert!(permits.in_flight(|bus| bus == 1).is_some());
    drop(permit);
}

#[test]
fn the_lease_ends_by_itself() {
    let lease = Lease::none();
    assert!(!lease.holds(0));
    for start in [1_u32, 5_000, u32::MAX - 2_000, u32::MAX] {
        let until = start.wrapping_add(ms(LEASE)).max(1);
        assert!(lease.open(until, || until));
        lease.close();
        assert!(lease.open(until, || start));
        assert!(!lease.open(until, || start), "a renewal");
        assert!(lease.holds(start.wrapping_add(ms(LEASE) - 10)), "{start}");
        assert!(!lease.holds(start.wrapping_add(ms(LEASE) + 10)), "{start}");
    }
}

/// The bus is late with its answer, and comes round again.
#[test]
fn without_a_lease_nothing_begins_and_nothing_was_closed() {
    let (permits, bus) = one_bus();
    set(&permits, true);
    let before = bus.try_acquire(DIMM, 0x18).unwrap();
    assert!(permits.set(Duration::ZERO, |_| true, |_| true), "it is open all the same");
    assert!(bus.try_acquire(DIMM, 0x18).is_err());
    assert_eq!(before.closings(), bus.closings(DIMM), "what was under way counts");
    set(&permits, true);
    assert!(bus.try_acquire(DIMM, 0x18).is_ok());
    assert_eq!(bus.closings(DIMM), 0);
}

#[test]
fn a_wiring_is_followed_from_when_it_is_told_and_so_is_every_older_one() {
    let (permits, bus) = one_bus();
    assert!(bus.follows(0) && !bus.follows(1));
    for wiring in [1, 2, WiringCount::MAX, 0] {
        permits.follow_wiring(wiring);
        assert!(bus.follows(wiring) && bus.follows(wiring.wrapping_sub(1)));
        assert!(!bus.follows(wiring.wrapping_add(1)));
    }
}

#[test]
fn a_waiting_thread_wakes_when_the_gate_opens() {
    let (permits, bus) = one_bus();
    let thread = std::thread::spawn(move || bus.wait_open(&[Need::Power(0), DIMM]));
    permits.set(LEASE, |need| need == DIMM, |_| true);
    assert!(thread.join().unwrap());
}

#[test]
fn the_end_wakes_whoever_waits_or_rests() {
    let (permits, bus) = one_bus();
    set(&permits, true);
    let other = permits.bus(3).unwrap();
    let waits = std::thread::spawn(move || bus.wait_open(&[Need::Gate(7)]));
    let rests = std::thread::spawn(move || (other.rest(Duration::from_secs(30)), other));
    permits.end();
    assert!(!waits.join().unwrap());
    let (rested, other) = rests.join().unwrap();
    assert!(!rested);
    assert!(other.try_acquire(DIMM, 0x18).is_err());
}

/// A value that was read under an older permit can be told apart from one that was read since.
#[test]
fn a_permit_knows_the_closings_before_it() {
    let (permits, bus) = one_bus();
    set(&permits, true);
    let old = bus.try_acquire(DIMM, 0x18).unwrap();
    let closings = || permits.closings(DIMM, 0);
    assert_eq!(old.closings(), closings());
    set(&permits, true);
    assert_eq!(old.closings(), closings(), "a renewal closes nothing");
    set(&permits, false);
    set(&permits, true);
    assert_ne!(old.closings(), closings());
    assert_eq!(bus.try_acquire(DIMM, 0x18).unwrap().closings(), closings());
}

/// Host 0's gate closes, and with it bus 3. Nobody else has been closed.
#[test]
fn a_closing_counts_where_it_closes_something() {
    let permits = Permits::new(2, [3, 4, 5]);
    let all = || {
        let needs = [Need::Gate(0), Need::Power(0), Need::Gate(1), Need::Power(1)];
        [0, 1, 2].map(|bus| needs.map(|need| permits.closings(need, bus)))
    };
    set(&permits, true);
    assert_eq!(all(), [[0; 4]; 3]);
    permits.set(LEASE, |need| need != Need::Gate(0), |bus| bus != 0);
    assert_eq!(all(), [[2, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]]);
    let bus = permits.bus(4).unwrap();
    assert_eq!(bus.try_acquire(Need::Power(1), 0x48).unwrap().closings(), bus.closings(Need::Power(1)));
    assert_eq!(permits.closings(Need::Gate(7), 7), 0, "there is neither");
}

/// Two threads take permits as fast as they can while the gate opens and closes: whenever the
/// loop was told that the bus is quiet, no transfer is under way until it opens the gate again.
#[test]
fn no_transfer_begins_or_goes_on_after_a_drain() {
    let (permits, _) = one_bus();
    let busy = Arc::new(AtomicU32::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (bus, busy, stop) = (permits.bus(3).unwrap(), Arc::clone(&busy), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut transfers = 0_u64;
                while !stop.load(SeqCst) {
                    if let Ok(_permit) = bus.try_acquire(DIMM, 0x18) {
                        busy.fetch_add(1, SeqCst);
                        transfers += 1;
                        busy.fetch_sub(1, SeqCst);
                    }
                }
                transfers
            })
        })
        .collect();
    for _ in 0..5_000 {
        set(&permits, true);
        std::thread::yield_now();
        set(&permits, false);
        while permits.in_flight(|_| true).is_some() {
            std::hint::spin_loop();
        }
        for _ in 0..20 {
            assert_eq!(busy.load(SeqCst), 0);
        }
    }
    stop.store(true, SeqCst);
    let transfers: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert!(transfers > 0, "the test is idle");
}
