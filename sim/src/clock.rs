// SPDX-License-Identifier: Apache-2.0
//! The board's time. Power supplies, firmware and the operating system follow the daemon's clock, so
//! that both run equally faster than life; transfers and replies take real time.

use std::{
    collections::BTreeMap,
    path::PathBuf,
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

/// How long this machine kept the board waiting at worst: with too much of it, a sped-up board is too fast for its own daemon.
///
/// A slow daemon is told apart from a starved one by what the kernel says: how much longer than it asked for the board slept, and
/// how long any thread of the board, the daemon or the bus could have run and was not let (`schedstat`'s second number). What a
/// daemon does with its time while it runs, or sleeps, does not count.
#[derive(Debug, Default)]
pub struct Lateness {
    worst_us: AtomicU64,
}

impl Lateness {
    const EVERY: Duration = Duration::from_millis(5);
    /// Of so many sleeps one is followed by a look at all threads.
    const LOOK: u32 = 4;

    /// Measures until the task is aborted. The processes are this one and `bus`.
    pub fn measure(tasks: &mut JoinSet<()>, bus: u32) -> Arc<Self> {
        let lateness = Arc::new(Self::default());
        let of_task = Arc::clone(&lateness);
        tasks.spawn(async move {
            let mut waits = Waits::new([std::process::id(), bus]);
            loop {
                for _ in 0..Self::LOOK {
                    let start = Instant::now();
                    tokio::time::sleep(Self::EVERY).await;
                    of_task.note(start.elapsed().saturating_sub(Self::EVERY));
                }
                of_task.note(waits.longest());
            }
        });
        lateness
    }

    fn note(&self, late: Duration) {
        self.worst_us.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The worst so far.
    #[must_use]
    pub fn worst(&self) -> Duration {
        Duration::from_micros(self.worst_us.load(Relaxed))
    }
}

/// How long each thread of some processes has waited for a processor so far, in nanoseconds.
struct Waits {
    processes: [u32; 2],
    seen: BTreeMap<PathBuf, u64>,
}

impl Waits {
    fn new(processes: [u32; 2]) -> Self {
        let mut waits = Self { processes, seen: BTreeMap::new() };
        waits.longest();
        waits
    }

    /// The longest that one of them waited since the last look. The kernel adds a wait when it ends.
    fn longest(&mut self) -> Duration {
        let before = std::mem::take(&mut self.seen);
        let mut longest = 0;
        let threads = |process| std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
        for thread in self.processes.into_iter().flat_map(threads).flatten() {
            let path = thread.path().join("schedstat");
            // A thread that has ended meanwhile waits for nothing.
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let Some(waited) = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()) else {
                continue;
            };
            longest = longest.max(before.get(&path).map_or(0, |before| waited - before));
            self.seen.insert(path, waited);
        }
        Duration::from_nanos(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is kept from running waits; one that sleeps does not.
    #[test]
    fn one_that_is_not_let_run_is_told_from_one_that_sleeps() {
        let shell = |script: &str| {
            std::process::Command::new("taskset")
                .args(["-c", "0", "sh", "-c", script])
                .spawn()
                .expect("taskset")
        };
        let mut sleeps = shell("exec sleep 60");
        let mut busy = [shell("while :; do :; done"), shell("while :; do :; done")];
        let [one, other] = busy.each_ref().map(std::process::Child::id);
        let mut of_busy = Waits::new([one, other]);
        let mut of_sleeper = Waits::new([sleeps.id(), sleeps.id()]);
        let begin = Instant::now();
        let mut waited = Duration::ZERO;
        while waited < Duration::from_millis(20) && begin.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
            waited += of_busy.longest();
        }
        let slept = of_sleeper.longest();
        for child in busy.iter_mut().chain([&mut sleeps]) {
            child.kill().expect("it runs");
            child.wait().expect("it ends");
        }
        assert!(waited >= Duration::from_millis(20), "of two on one processor one waits: {waited:?}");
        assert!(slept < waited, "{slept:?}");
    }
}
