// SPDX-License-Identifier: Apache-2.0
//! The muxes between the buses as the kernel shows them, looked at for all bus threads.
//!
//! Owns what was found last. Must never: decide what follows from it; `logic/wires.rs` says what is one piece of wire, and
//! the event loop whose gate that needs.
//!
//! Muxes and their channels may be probed late, and `idle_state` may be written at any time. A thread that opens a bus
//! looks before its first transfer, and each thread looks again every [`LOOK_AGAIN`]; if anything is another than before,
//! this is reported to the event loop, and the thread that looked transfers nothing until the leases follow.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    logic::wires::{self, Chain},
    shell::{
        messages::Input,
        permits::{BusId, HostIndex, WiringCount},
        ports::Buses,
    },
};

/// How often a bus thread looks, in real time.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The wiring of all buses.
pub(crate) struct Wires {
    /// The I2C number of each that has one, and whether it carries DIMMs.
    buses: Vec<Option<(u32, bool)>>,
    i2c: Arc<dyn Buses>,
    found: Mutex<Probed>,
    to_loop: UnboundedSender<Input>,
}

#[derive(Default)]
struct Probed {
    wiring: WiringCount,
    /// For each bus the others on which its transfers are seen.
    seen_on: Vec<Vec<usize>>,
    /// The chain of each bus that was last logged.
    said: Vec<Chain>,
}

impl Wires {
    /// Of these buses, each with the hosts whose DIMMs it carries.
    pub(crate) fn new(
        buses: &[(BusId, Vec<HostIndex>)],
        i2c: Arc<dyn Buses>,
        to_loop: UnboundedSender<Input>,
    ) -> Self {
        let number = |(bus, carried): &(BusId, Vec<HostIndex>)| match bus {
            BusId::I2c(number) => Some((*number, !carried.is_empty())),
            BusId::File(_) => None,
        };
        let seen_on = vec![Vec::new(); buses.len()];
        let found = Probed { wiring: 0, seen_on, said: vec![Chain::default(); buses.len()] };
        Self { buses: buses.iter().map(number).collect(), i2c, found: Mutex::new(found), to_loop }
    }

    /// Looks, and tells the event loop if it is not as it was; which wiring this is.
    pub(crate) fn look(&self) -> WiringCount {
        // Kept while it is looked at, so that the last to look is the last to tell. Nothing here waits for a bus.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let chain = |bus: &Option<(u32, bool)>| bus.map(|(number, _)| (number, self.i2c.chain(number)));
        let chains: Vec<_> = self.buses.iter().map(chain).collect();
        for ((bus, chain), said) in self.buses.iter().zip(&chains).zip(&mut found.said) {
            let (Some((_, true)), Some((number, chain))) = (bus, chain) else { continue };
            if said != chain {
                said.clone_from(chain);
                say(*number, chain);
            }
        }
        let seen_on: Vec<Vec<usize>> = chains.iter().map(|from| seen_from(from.as_ref(), &chains)).collect();
        if seen_on != found.seen_on {
            found.seen_on.clone_from(&seen_on);
            found.wiring = found.wiring.wrapping_add(1);
            self.to_loop.send(Input::Wires { wiring: found.wiring, seen_on }).unwrap_or_default();
        }
        found.wiring
    }
}

/// The positions of the buses on which a transfer on this one is seen.
fn seen_from(from: Option<&(u32, Chain)>, all: &[Option<(u32, Chain)>]) -> Vec<usize> {
    let Some((number, chain)) = from else { return Vec::new() };
    let seen = |to: &Option<(u32, Chain)>| {
        to.as_ref().is_some_and(|to| to.0 != *number && wires::reaches((*number, chain), (to.0, &to.1)))
    };
    all.iter().enumerate().filter(|(_, to)| seen(to)).map(|(position, _)| position).collect()
}

fn say(bus: u32, chain: &Chain) {
    for (warns, line) in wires::describe(bus, chain) {
        if warns {
            tracing::warn!("{line}");
        } else {
            tracing::info!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::{
        logic::wires::{Idle, Mux},
        shell::ports::MockBuses,
    };

    /// Bus 12, of host 0's DIMMs, is a channel of a mux on bus 5. The loop hears of a wiring that is another than the one
    /// before, and of none that is the same.
    #[test]
    fn the_loop_is_told_of_what_is_another() {
        let idle = Arc::new(Mutex::new(None));
        let mut i2c = MockBuses::new();
        let now = Arc::clone(&idle);
        i2c.expect_chain().returning(move |bus| {
            let mux = now.lock().unwrap().filter(|_| bus == 12);
            Chain(mux.map(|idle| Mux { name: "5-0070".to_owned(), idle, on: 5 }).into_iter().collect())
        });
        let buses = [
            (BusId::I2c(5), vec![]),
            (BusId::File(Arc::from(std::path::Path::new("/cpu"))), vec![]),
            (BusId::I2c(12), vec![0]),
        ];
        let (to_loop, mut told) = unbounded_channel();
        let wires = Wires::new(&buses, Arc::new(i2c), to_loop);
        let (apart, one) = (vec![vec![], vec![], vec![0]], vec![vec![2], vec![], vec![0]]);
        let none = vec![vec![]; 3];
        for (mux, wiring, seen_on) in [
            (None, 0, None),
            (Some(Idle::Disconnects), 1, Some(&apart)),
            (Some(Idle::Disconnects), 1, None),
            (Some(Idle::Stays(-1)), 2, Some(&one)),
            (Some(Idle::Unknown), 2, None),
            (None, 3, Some(&none)),
        ] {
            *idle.lock().unwrap() = mux;
            assert_eq!(wires.look(), wiring, "{mux:?}");
            let heard = told.try_recv().ok().map(|input| {
                let Input::Wires { wiring, seen_on } = input else { panic!("{input:?}") };
                (wiring, seen_on)
            });
            assert_eq!(heard, seen_on.map(|seen_on| (wiring, seen_on.clone())), "{mux:?}");
        }
    }
}
