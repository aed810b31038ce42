// SPDX-License-Identifier: Apache-2.0
//! Each protection of the daemon by itself, as the board's buses feel it. Without the protection, the
//! test that is named after it fails.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::common::{boots, good, run, setup, until};
use acpi_sim::{
    board::Board,
    host::{Firmware, Report},
    ipmid::{SET_ACPI_POWER_STATE, cc},
    plan::X86_BARE,
    setup::{BUSES, Setup, Way},
    transfer::{Master, Outcome},
};
use acpi_stated::shell::permits::{LEASE, Need};

const GATE: Need = Need::Gate(0);

/// A board whose host works and whose gate is open. Nothing on its D-Bus shows a warm reset.
async fn working(setup: Setup) -> Board {
    let mut board = Board::start(setup).await.expect("a board");
    board.boot(Way::PowerOn).await.expect("a boot");
    board
}

/// The host is answered when the transfer that has begun is over: a BMC that reads a slow device
/// (50 ms) does not cost the host that resets meanwhile any memory.
#[test]
fn drain() {
    run(async {
        let board = working(setup(Firmware::F, X86_BARE)).await;
        let [number, _] = BUSES;
        let [bus, _] = board.buses() else { unreachable!("two buses") };
        let permits = board.permits().expect("a daemon").bus(number).expect("a guarded bus");
        let slow = {
            let bus = Arc::clone(bus);
            thread::spawn(move || {
                loop {
                    let permit = permits.try_acquire(GATE, 0x18).expect("an open gate");
                    let outcome = bus.stretched(Master::Bmc, 0x18, Duration::from_millis(50));
                    drop(permit);
                    // The poller may have had the bus.
                    if outcome == Outcome::Done {
                        return Instant::now();
                    }
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
        let answer = board.host().report(Report::S2).await;
        let spds = board.host().read_spds().await.expect("SPDs");
        assert_eq!(spds.missing, []);
        let over = slow.join().expect("no panic");
        assert_eq!(answer.code, cc::OK);
        assert!(answer.at >= over, "the host was answered {:?} before the bus was quiet", over - answer.at);
        board.finish().await.expect("the daemon ends well");
    });
}

/// A transfer that hangs does not hold the host up for longer than `ack_cap`, 250 ms.
#[test]
fn drain_is_bounded() {
    run(async {
        let board = working(setup(Firmware::F, X86_BARE)).await;
        let [number, _] = BUSES;
        let permits = board.permits().expect("a daemon").bus(number).expect("a guarded bus");
        let hangs = permits.try_acquire(GATE, 0x18).expect("an open gate");
        let answer = board.host().report(Report::S2).await;
        assert_eq!(answer.code, cc::OK);
        assert!(answer.took >= Duration::from_millis(240), "{:?}", answer.took);
        assert!(answer.took < Duration::from_secs(2), "{:?}", answer.took);
        drop(hangs);
        board.finish().await.expect("the daemon ends well");
    });
}

/// The gate is closed when the host is answered: it reads its SPDs at once.
#[test]
fn barrier() {
    run(async {
        let mut board = working(setup(Firmware::F, X86_BARE)).await;
        for _ in 0..4 {
            board.boot(Way::WarmReset).await.expect("a boot");
        }
        // Without a device state: there is no second Set behind which the gate may have closed.
        let response = board.ipmid().request(&[SET_ACPI_POWER_STATE, 0x82, 0x00]).await;
        assert_eq!(response, [cc::OK]);
        for bus in BUSES {
            let permits = board.permits().expect("a daemon").bus(bus).expect("a guarded bus");
            assert!(permits.try_acquire(GATE, 0x18).is_err(), "bus {bus} is open");
        }
        let spds = board.host().read_spds().await.expect("SPDs");
        assert_eq!(spds.missing, []);
        let tally = board.finish().await.expect("the daemon ends well");
        // The S2 after the last boot is a warm reset that the board did not perform.
        assert_eq!((tally.boots_with_missing_dimms, tally.transfers_while_closed), (0, 0));
        assert_eq!((tally.boots, tally.gate_opens), (5, 5));
    });
}

/// Whoever is answered finds the gate closed, every time: a gate that closes soon after would be found open only now and then.
#[test]
fn barrier_every_time() {
    run(async {
        let mut setup = setup(Firmware::F, X86_BARE);
        // S0 follows S2 at once, and is believed.
        setup.timing.min_post = Duration::ZERO;
        let board = working(setup).await;
        let permits = board.permits().expect("a daemon");
        let buses = BUSES.map(|bus| permits.bus(bus).expect("a guarded bus"));
        for _ in 0..20 {
            until("the gate is open", || buses.iter().all(|bus| bus.is_open(GATE))).await;
            let response = board.ipmid().request(&[SET_ACPI_POWER_STATE, 0x82, 0x00]).await;
            assert_eq!(response, [cc::OK]);
            assert!(
                buses.iter().all(|bus| bus.try_acquire(GATE, 0x18).is_err()),
                "answered with a gate open"
            );
            board.host().report(Report::S0).await;
        }
    });
}

/// The power goes, nobody says so, and UEFI reads the SPDs before it reports anything.
#[test]
fn inference() {
    good(&run(boots(setup(Firmware::FLate, X86_BARE), &[Way::PowerOn, Way::PowerCycle, Way::DcLoss])), 3);
}

/// The power is gone for an instant only: by the time anybody asks, it is back.
#[test]
fn latch() {
    let ways = [Way::PowerOn, Way::ShortCycle, Way::ShortCycle];
    good(&run(boots(setup(Firmware::FLate, X86_BARE), &ways)), 3);
}

/// The daemon stands still with its gate open: nobody could close it now, so it closes by itself.
#[test]
fn lease() {
    run(async {
        let board = working(setup(Firmware::F, X86_BARE)).await;
        let transfers = |board: &Board| board.buses().iter().map(|bus| bus.count(Master::Bmc)).sum::<u64>();
        let before = transfers(&board);
        until("polling", || transfers(&board) > before).await;
        board.stall_daemon(LEASE + Duration::from_secs(2));
        tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
        let quiet = transfers(&board);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(transfers(&board), quiet, "the gate is open and nobody watches");
        // Back, it looks first: the gate opens when `settle` has passed.
        until("the gate opens again", || transfers(&board) > quiet).await;
        board.finish().await.expect("the daemon ends well");
    });
}
