// SPDX-License-Identifier: Apache-2.0
//! The board's time. Power supplies, firmware and the operating system follow the daemon's clock, so
//! that both run equally faster than life; transfers and replies take real time.

use std::time::Duration;

use acpi_stated::shell::clock::Clock;

/// Sleeps until `duration` has passed on `clock`.
pub async fn sleep(clock: Clock, duration: Duration) {
    tokio::time::sleep(duration / clock.speed()).await;
}

/// Seconds on the board's clock.
#[must_use]
pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Milliseconds on the board's clock.
#[must_use]
pub const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
