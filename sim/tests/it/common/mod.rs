// SPDX-License-Identifier: Apache-2.0
//! What the board's tests have in common.
#![allow(unreachable_pub, reason = "what is here is for all of them")]

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use acpi_sim::{
    fair,
    host::Firmware,
    poller::Gate,
    power_control::Flavour,
    setup::{Setup, Way},
    tally::Tally,
};

/// Slower than the demo: other tests may be running.
pub const SPEED: u32 = 200;

/// Boards keep real time, so one test has the machine at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Runs `test` alone, on a runtime of its own.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test)
}

/// A board with this firmware and power service.
pub fn setup(firmware: Firmware, power: Flavour) -> Setup {
    Setup::new(firmware, power, SPEED)
}

/// Performs these boots and gives the counts, from a machine that let the board run.
pub async fn boots(setup: Setup, ways: &[Way]) -> Tally {
    fair::perform(&setup, ways).await.expect("a board, its boots, and a daemon that ends well")
}

/// All is as it should be, and this many boots were counted.
pub fn good(tally: &Tally, boots: u64) {
    let complaints = tally.complaints(Gate::Heeded);
    let late = tally.lateness;
    assert!(complaints.is_empty(), "{complaints:?} (this machine was up to {late:?} late)");
    assert_eq!(tally.boots, boots);
}

/// Waits until `done`, at most ten seconds.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
