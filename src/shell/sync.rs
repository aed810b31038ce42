// SPDX-License-Identifier: Apache-2.0
//! The types that [`super::permits`] synchronises with: the standard library's. In its model (`model/`) a module of the
//! same name offers loom's instead.

pub(super) use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};
