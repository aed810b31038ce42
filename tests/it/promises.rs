// SPDX-License-Identifier: Apache-2.0
//! What the daemon is for, promise by promise, kept on a real bus. `tests/mutants/` takes each promise away and must find
//! its test red.

use std::time::{Duration, Instant};

use crate::support::{
    power::PowerDouble,
    rig::{DIMM, NAME, PATH, PATIENCE, Rig, SPD, TRACKER, set},
};
use tokio::time::timeout;

async fn running(rig: &Rig) -> PowerDouble {
    PowerDouble::start(rig.bus.address(), "On", "Running", "").await.expect("a power control")
}

/// The drain: rules 3.3 (2).
#[tokio::test]
async fn a_set_is_answered_when_the_transfer_under_way_has_ended() {
    let rig = Rig::start().await;
    rig.open().await;
    let transfer = rig.dimms.try_acquire(DIMM, SPD).expect("the gate is open");

    let client = rig.client.clone();
    let mut pending = tokio::spawn(async move { set(&client, "S2_D2").await });
    rig.until("the gate closes", async || !rig.is_open()).await;
    // The daemon's answers are in order: what it would have said to the Set would have come before this one.
    let history = rig.client.call_method(Some(NAME), PATH, Some(TRACKER), "GetHistory", &1_u32);
    timeout(PATIENCE, history).await.expect("others are answered meanwhile").expect("GetHistory");
    assert!(
        timeout(Duration::from_millis(50), &mut pending).await.is_err(),
        "answered while the bus is busy"
    );
    assert_eq!(rig.state().await.as_deref(), Some("S0_G0_D0"), "not before the signal");

    drop(transfer);
    timeout(PATIENCE, pending).await.expect("answered now").expect("the Set");
    assert_eq!(rig.state().await.as_deref(), Some("S2_D2"));
    assert!(!rig.is_open());
}

/// The barrier: rules 3.3 (1).
#[tokio::test]
async fn a_set_is_answered_when_the_gate_is_closed() {
    let rig = Rig::start().await;
    for state in ["S2_D2", "S5_G2", "S3_D3", "Unknown"] {
        rig.open().await;
        rig.set(state).await;
        assert!(!rig.is_open(), "{state} is answered and the gate is open");
    }
}

/// The inference: rules 3.2, rule 3.
#[tokio::test]
async fn power_that_goes_off_without_a_word_is_s5() {
    let rig = Rig::start().await;
    let power = running(&rig).await;
    rig.open().await;
    power.chassis("Off").await.expect("a signal");
    rig.until_state("S5_G2").await;
    assert_eq!(rig.cause().await.as_deref(), Some("ChassisOff"));
    assert_eq!(rig.word(NAME, "DevACPIStatus").await.as_deref(), Some("S3_D3"));
    assert!(!rig.is_open());
}

/// The latch: a chassis Off that was seen is not undone by the On behind it.
#[tokio::test]
async fn power_that_went_off_and_on_again_was_off() {
    let rig = Rig::start().await;
    let power = running(&rig).await;
    rig.open().await;
    power.chassis("Off").await.expect("a signal");
    power.chassis("On").await.expect("a signal");
    rig.until("the gate is closed", async || !rig.is_open()).await;
    rig.until_state("S2_D2").await;
    // Nor later: the gate would have opened again by now, a hundred times over.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!rig.is_open());
    assert_eq!(rig.state().await.as_deref(), Some("S2_D2"));
}

/// Rules 3.3: a transfer that hangs holds a host up for `ack_cap` and no longer.
#[tokio::test]
async fn a_bus_that_hangs_holds_a_set_up_for_ack_cap() {
    let rig = Rig::with(1000, |_| {}).await;
    rig.open().await;
    let hanging = rig.dimms.try_acquire(DIMM, SPD).expect("the gate is open");
    let (watch, began) = (rig.watch(), Instant::now());
    rig.set("S2_D2").await;
    let (taken, waited) = (watch.taken(), began.elapsed());
    assert!(waited >= Duration::from_millis(250), "{waited:?}");
    assert!(taken < Duration::from_millis(500), "{taken:?} of {waited:?}");
    assert_eq!(rig.state().await.as_deref(), Some("S2_D2"));
    assert!(!rig.is_open());
    drop(hanging);
}

/// Rules 3.3: several Sets may wait; all are answered, and the last one's value stands.
#[tokio::test]
async fn sets_that_wait_together_are_all_answered_and_the_last_one_stands() {
    let rig = Rig::start().await;
    rig.open().await;
    let transfer = rig.dimms.try_acquire(DIMM, SPD).expect("the gate is open");
    let sets: Vec<_> = ["S2_D2", "S2_D2", "S5_G2", "S0_G0_D0", "S2_D2"]
        .into_iter()
        .map(|state| {
            let client = rig.client.clone();
            tokio::spawn(async move { set(&client, state).await })
        })
        .collect();
    rig.until("the gate closes", async || !rig.is_open()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(sets.iter().all(|set| !set.is_finished()), "answered while the bus is busy");
    drop(transfer);
    for set in sets {
        timeout(PATIENCE, set).await.expect("answered").expect("the Set");
    }
    assert_eq!(rig.state().await.as_deref(), Some("S2_D2"));
}

/// Rules 3.8: on the way out the gate is closed and what is under way is waited for.
#[tokio::test]
async fn the_daemon_ends_when_its_buses_are_quiet() {
    let mut rig = Rig::start().await;
    rig.open().await;
    let dimms = std::mem::replace(&mut rig.dimms, rig.permits.bus(3).expect("bus 3"));
    let ended = {
        let transfer = dimms.try_acquire(DIMM, SPD).expect("the gate is open");
        rig.ask_to_stop();
        rig.until("the gate closes", async || !rig.is_open()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!rig.has_ended(), "it ended while a transfer was under way");
        drop(transfer);
        Instant::now()
    };
    rig.until("it ends", async || rig.has_ended()).await;
    assert!(ended.elapsed() < Duration::from_secs(1));
}
