// SPDX-License-Identifier: Apache-2.0
//! Loom's counterparts of `src/shell/sync.rs`.
//!
//! Loom takes a `SeqCst` access for an `AcqRel` one, and would find faults that are none; its `SeqCst` fences are what
//! the language says. A fence on either side of each `SeqCst` access gives them the one order of all that they have
//! where, as in the permits, every access is `SeqCst`. A `SeqCst` store is a swap here, the same in that order, since
//! loom lets a store slip between the read and the write of a swap elsewhere. Weaker accesses stay as they are, but the
//! fences of a `SeqCst` neighbour order them too: loom sees that a side is too weak, not always that one access is.
#![allow(
    missing_docs,
    clippy::must_use_candidate,
    reason = "the names are the standard library's, and used as it is"
)]

use std::{sync::LockResult, time::Duration};

use loom::sync::atomic::fence;
pub use loom::sync::{Mutex, MutexGuard, atomic::Ordering};

/// Performs `access` in the one order of all if `order` is `SeqCst`.
fn ordered<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
    if order != Ordering::SeqCst {
        return access();
    }
    fence(order);
    let result = access();
    fence(order);
    result
}

#[derive(Debug)]
pub struct AtomicU32(loom::sync::atomic::AtomicU32);

impl AtomicU32 {
    pub fn new(value: u32) -> Self {
        Self(loom::sync::atomic::AtomicU32::new(value))
    }

    pub fn load(&self, order: Ordering) -> u32 {
        ordered(order, || self.0.load(order))
    }

    pub fn store(&self, value: u32, order: Ordering) {
        if order == Ordering::SeqCst {
            self.swap(value, order);
        } else {
            self.0.store(value, order);
        }
    }

    pub fn swap(&self, value: u32, order: Ordering) -> u32 {
        ordered(order, || self.0.swap(value, order))
    }

    pub fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        ordered(order, || self.0.fetch_add(value, order))
    }

    pub fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        ordered(order, || self.0.fetch_sub(value, order))
    }
}

#[derive(Debug)]
pub struct AtomicBool(loom::sync::atomic::AtomicBool);

impl AtomicBool {
    pub fn new(value: bool) -> Self {
        Self(loom::sync::atomic::AtomicBool::new(value))
    }

    pub fn load(&self, order: Ordering) -> bool {
        ordered(order, || self.0.load(order))
    }

    pub fn store(&self, value: bool, order: Ordering) {
        if order == Ordering::SeqCst {
            self.swap(value, order);
        } else {
            self.0.store(value, order);
        }
    }

    pub fn swap(&self, value: bool, order: Ordering) -> bool {
        ordered(order, || self.0.swap(value, order))
    }
}

/// One whose waits never time out: who is not woken sleeps for ever, and loom says so.
#[derive(Debug)]
pub struct Condvar(loom::sync::Condvar);

#[derive(Clone, Copy, Debug)]
pub struct NeverTimedOut;

impl NeverTimedOut {
    pub fn timed_out(self) -> bool {
        false
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl Condvar {
    pub fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        _timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, NeverTimedOut)> {
        while condition(&mut guard) {
            // Loom's locks are never poisoned.
            guard = self.0.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        Ok((guard, NeverTimedOut))
    }
}

loom::lazy_static! {
    /// Milliseconds since the model began. It stands still but for [`advance`]. Reading it orders nothing else.
    static ref NOW: loom::sync::atomic::AtomicU32 = loom::sync::atomic::AtomicU32::new(1);
}

/// Lets time pass.
pub fn advance(by: Duration) {
    let by = u32::try_from(by.as_millis()).unwrap_or(u32::MAX);
    NOW.fetch_add(by, Ordering::AcqRel);
}

/// The beginning of the model: all its instants are the same.
#[derive(Clone, Copy, Debug)]
pub struct Instant;

impl Instant {
    pub fn now() -> Self {
        Self
    }

    pub fn elapsed(self) -> Duration {
        Duration::from_millis(NOW.load(Ordering::Acquire).into())
    }
}
