// SPDX-License-Identifier: Apache-2.0
//! The mux before the DIMMs: both buses are the host's or the BMC's, as its GPIO line says. Who is not connected gets no answer.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use acpi_stated::adapters::spd_mux::{Line, Lines};

use crate::{
    lock,
    simbus::Master,
    timeline::{Timeline, Who},
};

/// The name of its line; high is the host's side.
pub const LINE: &str = "SPD_MUX_SEL";

/// The mux; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct SpdMux(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    timeline: Mutex<Option<Timeline>>,
    side: Mutex<Master>,
    /// It does not move any more, whatever its line says.
    sticks: AtomicBool,
    moves: AtomicU64,
}

impl Default for Inner {
    /// Somebody has left it at the BMC.
    fn default() -> Self {
        let (sticks, moves) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { timeline: Mutex::default(), side: Mutex::new(Master::Bmc), sticks, moves }
    }
}

impl SpdMux {
    /// Its moves are told there.
    pub fn tell(&self, timeline: Timeline) {
        *lock(&self.0.timeline) = Some(timeline);
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

impl Lines for SpdMux {
    fn line(&self, _: &str) -> Box<dyn Line> {
        Box::new(self.clone())
    }
}

impl Line for SpdMux {
    fn drive(&mut self, high: bool) -> io::Result<()> {
        let side = if high { Master::Uefi } else { Master::Bmc };
        let moved = !self.0.sticks.load(SeqCst) && std::mem::replace(&mut *lock(&self.0.side), side) != side;
        if moved {
            self.0.moves.fetch_add(1, SeqCst);
            let whose = if high { "the host" } else { "the BMC" };
            if let Some(timeline) = &*lock(&self.0.timeline) {
                timeline.row(Who::Mux, &format!("the SPD mux gives the DIMM buses to {whose}"));
            }
        }
        Ok(())
    }
}
