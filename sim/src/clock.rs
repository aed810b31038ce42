// SPDX-License-Identifier: Apache-2.0
//! The board's time. Power supplies, firmware and the operating system follow the daemon's clock, so
//! that both run equally faster than life; transfers and replies take real time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use acpi_stated::shell::clock::Clock;
use tokio::task::JoinSet;

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

/// How much longer than it asked for this machine let the board sleep: with too much of it, a sped-up
/// board is too fast for its own daemon.
#[derive(Debug, Default)]
pub struct Lateness {
    worst_us: AtomicU64,
}

impl Lateness {
    const EVERY: Duration = Duration::from_millis(5);

    /// Measures until the task is aborted.
    pub fn measure(tasks: &mut JoinSet<()>) -> Arc<Self> {
        let lateness = Arc::new(Self::default());
        let of_task = Arc::clone(&lateness);
        tasks.spawn(async move {
            loop {
                let start = Instant::now();
                tokio::time::sleep(Self::EVERY).await;
                let late = start.elapsed().saturating_sub(Self::EVERY);
                of_task.worst_us.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Relaxed);
            }
        });
        lateness
    }

    /// The worst so far.
    #[must_use]
    pub fn worst(&self) -> Duration {
        Duration::from_micros(self.worst_us.load(Relaxed))
    }
}
