// SPDX-License-Identifier: Apache-2.0
//! Messages: what goes into the event loop, and what comes out of it.

use std::fmt;

use crate::{
    logic::{
        diagnosis::{Diagnosis, Evidence},
        effect::Effect,
        event::{Event, SetId},
        history::Transition,
        policy::FanDemand,
        reading::{Celsius, Fault},
        sensor::Snapshot,
        view::View,
    },
    shell::{
        permits::{Closings, HostIndex, WiringCount},
        store::Record,
    },
};

/// Something that happened outside.
#[derive(Debug)]
pub(crate) enum Input {
    /// To one host.
    Event(HostIndex, Event),
    /// A bus for which a drain waited has become quiet.
    Drained,
    /// A sensor was read.
    Read {
        /// Its position in the configuration.
        sensor: usize,
        /// How often what it needs had been closed when the read began.
        closings: Closings,
        /// The result of the read.
        result: Result<Celsius, Fault>,
    },
    /// Which buses are one piece of wire was found to be another than before.
    Wires {
        /// The how manieth finding this is.
        wiring: WiringCount,
        /// For each bus the others on which its transfers are seen, by position.
        seen_on: Vec<Vec<usize>>,
    },
    /// Somebody wants to know the newest transitions.
    History {
        /// Of which host.
        host: HostIndex,
        /// The call that asks.
        id: SetId,
        /// How many at most.
        most: u32,
    },
    /// The bus has answered [`Output::AskBus`].
    BusAnswered,
    /// The daemon is to end.
    Stop,
}

/// The reply to `GetHistory`, `a(tsssu)`: when, from, to, cause, repeats.
pub(crate) type History = Vec<(u64, &'static str, &'static str, &'static str, u32)>;

/// Something to do outside.
#[derive(Debug)]
pub(crate) enum Output {
    /// An effect that a step of this host's machine ordered.
    Effect(HostIndex, Effect),
    /// A transition, with its wall clock time in microseconds since 1970.
    Transitioned {
        /// Of which host.
        host: HostIndex,
        /// When.
        when: u64,
        /// The transition.
        entry: Transition,
    },
    /// The view that the Tracker shows now.
    Track(HostIndex, Box<View>),
    /// A bus may be open by what this host's power services report, or none may any more.
    Rely(HostIndex, bool),
    /// This host's POST codes are wanted, or are not any more.
    PostCodes(HostIndex, bool),
    /// The snapshot that this sensor shows now.
    Sensor(usize, Snapshot),
    /// The state of its DIMM zones' fans now.
    Fans(HostIndex, FanDemand),
    /// A diagnosis is raised, in this boot and with what shows it; or it is over.
    Diagnosis {
        /// Of which host.
        host: HostIndex,
        /// Which.
        diagnosis: Diagnosis,
        /// `None`: it is over.
        raised: Option<Box<(u32, Evidence)>>,
    },
    /// A record to be stored.
    Store {
        /// Of which host.
        host: HostIndex,
        /// The record.
        record: Record,
        /// The record is not in memory.
        urgent: bool,
    },
    /// The answer to [`Input::History`].
    History {
        /// The call that asked.
        id: SetId,
        /// Newest first.
        entries: History,
    },
    /// Something is to be asked of the bus driver, to prove that the bus delivers.
    AskBus,
    /// A line for the log.
    Line(LogLine),
    /// The daemon is ending.
    Stopping,
    /// The loop has come round; so must what carries this out, for the watchdog to be fed.
    Heartbeat,
}

/// A line for the log that is not written yet: like everything else that no host waits for, it comes behind the answers.
pub(crate) struct LogLine(Box<dyn FnOnce() + Send>);

impl LogLine {
    /// Is written when everything before it has gone out.
    pub(crate) fn new(line: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(line))
    }

    /// Writes it.
    pub(crate) fn say(self) {
        (self.0)();
    }
}

impl fmt::Debug for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}
