// SPDX-License-Identifier: Apache-2.0
//! Tells what happens, row by row, as it happens.

use std::{
    io::Write as _,
    sync::{Arc, Mutex},
};

use acpi_stated::{logic::time::Time, shell::clock::Clock};

use crate::{lock, simbus::SimBus, transfer::Master};

/// How much is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Detail {
    /// Nothing.
    Silent,
    /// A line for each boot.
    Boots,
    /// Everything.
    Full,
}

/// Who does what a row tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// Power buttons, power supplies and the power service.
    Power,
    /// The host's firmware or operating system.
    Host,
    /// The daemon, as anybody on D-Bus sees it.
    Daemon,
    /// systemd.
    Systemd,
    /// The DIMMs' sensors, as fan control sees them.
    Sensors,
    /// Fan control and its fans.
    Fans,
    /// The SPD mux.
    Mux,
    /// Somebody else.
    Other,
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Host => "host",
            Self::Daemon => "acpi",
            Self::Systemd => "unit",
            Self::Sensors => "temp",
            Self::Fans => "fans",
            Self::Mux => "mux",
            Self::Other => "other",
        }
    }
}

/// The teller; clones tell together.
#[derive(Clone, Debug)]
pub struct Timeline {
    detail: Detail,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    began: Time,
    buses: Vec<Arc<SimBus>>,
    shown: Mutex<Shown>,
}

/// The right half of a row.
#[derive(Debug, Default)]
struct Shown {
    state: String,
    cause: String,
    gate: &'static str,
    /// Transfers already told of, by BMC and UEFI.
    told: [u64; 2],
}

impl Timeline {
    /// Tells of a board with this clock and these buses.
    #[must_use]
    pub fn new(detail: Detail, clock: Clock, buses: Vec<Arc<SimBus>>) -> Self {
        let inner = Inner { clock, began: clock.now(), buses, shown: Mutex::default() };
        Self { detail, inner: Arc::new(inner) }
    }

    /// Tells nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(Detail::Silent, Clock::default(), Vec::new())
    }

    /// The names of the columns.
    pub fn head(&self) {
        if self.detail == Detail::Full {
            let head = row("time", "who", "what", "ACPI state", "cause", "gate", ["BMC", "UEFI"]);
            print(&head);
            print(&"-".repeat(head.len()));
        }
    }

    /// One thing that happened.
    pub fn row(&self, who: Who, what: &str) {
        if self.detail < Detail::Full {
            return;
        }
        let now = self.inner.clock.now().since(self.inner.began);
        let mut shown = lock(&self.inner.shown);
        let transfers = [Master::Bmc, Master::Uefi]
            .map(|master| self.inner.buses.iter().map(|bus| bus.count(master)).sum::<u64>());
        let new: [String; 2] = {
            let [bmc, uefi] = transfers;
            let [told_bmc, told_uefi] = shown.told;
            [bmc.saturating_sub(told_bmc), uefi.saturating_sub(told_uefi)].map(count)
        };
        shown.told = transfers;
        let time = format!("{:.1} s", now.as_secs_f64());
        let [bmc, uefi] = &new;
        print(&row(&time, who.name(), what, &shown.state, &shown.cause, shown.gate, [bmc, uefi]));
    }

    /// A boot is over.
    pub fn boot(&self, text: &str) {
        if self.detail >= Detail::Boots {
            print(text);
        }
    }

    /// The daemon shows this state.
    pub fn state(&self, state: &str) {
        state.clone_into(&mut lock(&self.inner.shown).state);
    }

    /// The daemon shows this cause.
    pub fn cause(&self, cause: &str) {
        cause.clone_into(&mut lock(&self.inner.shown).cause);
    }

    /// The daemon shows this gate.
    pub fn gate(&self, open: bool, reasons: &[String]) {
        lock(&self.inner.shown).gate = if open { "OPEN" } else { "closed" };
        if open {
            self.row(Who::Daemon, "the gate opens: the BMC may read the DIMMs");
        } else {
            self.row(Who::Daemon, &format!("the gate is closed: {}", reasons.join(", ")));
        }
    }
}

fn count(transfers: u64) -> String {
    if transfers == 0 { String::new() } else { transfers.to_string() }
}

fn row(
    time: &str,
    who: &str,
    what: &str,
    state: &str,
    cause: &str,
    gate: &str,
    [bmc, uefi]: [&str; 2],
) -> String {
    format!(
        "{time:>9} | {who:<5} | {what:<64} | {state:<10} | {cause:<12} | {gate:<6} | {bmc:>4} | {uefi:>4}"
    )
}

/// Prints a line. A reader who has gone away does not stop the board.
pub fn print(line: &str) {
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}
