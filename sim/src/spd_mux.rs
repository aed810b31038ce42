// SPDX-License-Identifier: Apache-2.0
//! The mux before the DIMMs: both buses are the host's or the BMC's, as its GPIO line says. Who is not connected gets no answer.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use acpi_stated::shell::ports::{GpioLine, GpioLines};

use crate::{lock, transfer::Master};

/// The name of its line; high is the host's side.
pub const LINE: &str = "SPD_MUX_SEL";

/// Is told whose the buses are from now on.
type Listener = Box<dyn Fn(Master) + Send>;

/// The mux; clones are the same.
#[derive(Clone, Default)]
pub struct SpdMux(Arc<Inner>);

struct Inner {
    listener: Mutex<Option<Listener>>,
    side: Mutex<Master>,
    /// It does not move any more, whatever its line says.
    sticks: AtomicBool,
    moves: AtomicU64,
}

impl Default for Inner {
    /// Somebody has left it at the BMC.
    fn default() -> Self {
        let (sticks, moves) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { listener: Mutex::default(), side: Mutex::new(Master::Bmc), sticks, moves }
    }
}

impl std::fmt::Debug for SpdMux {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SpdMux").field(&self.side()).finish()
    }
}

impl SpdMux {
    /// Its moves are told to this one.
    pub fn tell(&self, listener: impl Fn(Master) + Send + 'static) {
        *lock(&self.0.listener) = Some(Box::new(listener));
    }

    /// Whose the buses are.
    #[must_use]
    pub fn side(&self) -> Master {
        *lock(&self.0.side)
    }

    /// It does not move any more, or does again.
    pub fn stick(&self, sticks: bool) {
        self.0.sticks.store(sticks, SeqCst);
    }

    /// How often it has moved.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.0.moves.load(SeqCst)
    }
}

impl GpioLines for SpdMux {
    fn line(&self, _: &str) -> Box<dyn GpioLine> {
        Box::new(self.clone())
    }
}

impl GpioLine for SpdMux {
    fn drive(&mut self, high: bool) -> io::Result<()> {
        let side = if high { Master::Uefi } else { Master::Bmc };
        let moved = !self.0.sticks.load(SeqCst) && std::mem::replace(&mut *lock(&self.0.side), side) != side;
        if moved {
            self.0.moves.fetch_add(1, SeqCst);
            if let Some(listener) = &*lock(&self.0.listener) {
                listener(side);
            }
        }
        Ok(())
    }
}
