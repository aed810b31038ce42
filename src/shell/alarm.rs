// SPDX-License-Identifier: Apache-2.0
//! A timer that wakes the process once.
//!
//! The runtime's own timers are kept in a wheel: a sleep of 18 s is cut into up to three, each with
//! its wake-up. An idle BMC is to be left alone, so the event loop sleeps on a timerfd.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

/// The timer.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: AsyncFd<OwnedFd>,
    set_to: Option<Instant>,
}

impl Alarm {
    /// Fails only if the process may open no more files.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe for the sake of types whose descriptor can change; an \
                                      OwnedFd's cannot"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer, set_to: None })
    }

    /// Sleeps until `at`. May be dropped at any time, and called again with another one.
    pub(crate) async fn until(&mut self, at: Instant) -> io::Result<()> {
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if self.set_to != Some(at) {
                self.set(left)?;
                self.set_to = Some(at);
            }
            let mut ready = self.timer.readable().await?;
            // The timer has run out, or was set anew meanwhile: the time decides, not the descriptor.
            ready.clear_ready();
            self.set_to = None;
        }
    }

    /// Setting it also takes back that it had run out.
    fn set(&self, left: Duration) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: zero, it_value: value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_rings_when_it_should_also_when_set_anew() {
        let mut alarm = Alarm::new().unwrap();
        for ms in [20, 1, 0, 30] {
            let began = Instant::now();
            // An earlier and a later one that nobody waits for any more.
            for other in [5, 60_000] {
                let until = alarm.until(began + Duration::from_millis(other));
                drop(tokio::time::timeout(Duration::ZERO, until).await);
            }
            alarm.until(began + Duration::from_millis(ms)).await.unwrap();
            let slept = began.elapsed();
            assert!(slept >= Duration::from_millis(ms), "{slept:?} of {ms} ms");
            assert!(slept < Duration::from_secs(5), "{slept:?} of {ms} ms");
        }
    }
}
