// SPDX-License-Identifier: Apache-2.0
//! Doubles of OpenBMC's services on a D-Bus: for the daemon's tests, and for the simulated board.
//!
//! They follow OpenBMC's behaviour and know nothing of the daemon, which is not even a dependency: what is changed there, as by
//! a mutant, builds nothing here anew.
//!
//! - [`objects`]: objects with properties, as sdbusplus shows them. All that is served here and on the simulated board is served
//!   by it.
//! - [`mapper`]: phosphor-objmgr's mapper.
//! - [`power`]: power control, what it is called and what it shows.
//! - [`private_bus`]: a bus of its own for each test.
//! - [`systemd`]: systemd's jobs.
//! - [`peer`]: a service that is what a test tells it to be, and may misbehave.

pub mod mapper;
pub mod objects;
pub mod peer;
pub mod power;
pub mod private_bus;
pub mod systemd;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nobody here leaves data half written under a lock, so a poisoned one is as good as another.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
