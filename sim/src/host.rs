// SPDX-License-Identifier: Apache-2.0
//! The host: its firmware reads the DIMMs' SPDs, and reports over KCS what its kind reports.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    Result,
    dimm::Dimm,
    ipmid::{Ipmid, SET_ACPI_POWER_STATE, cc},
    lock,
    simbus::SimBus,
    transfer::{Master, Outcome},
};

/// How many words UEFI reads of each SPD.
pub const SPD_WORDS: u32 = 16;
/// What UEFI does between two words.
const THINK: Duration = Duration::from_micros(50);
/// How long an answer to a request that was given up may take, in real time.
const ANSWER: Duration = Duration::from_secs(2);

/// What the firmware reports, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Firmware {
    /// S2 before it reads the SPDs, S0, S5.
    F,
    /// The same, but S2 only after it has read the SPDs: until then only inference protects it.
    FLate,
    /// As `F`, and it gives up each request at once and sends it again: two Sets are in flight.
    FRetry,
    /// Only S0 at `ExitBootServices`, and S5 before the power-off.
    M,
    /// As AMI Aptio: S0 and S5, by methods that the OS runs. Linux 6.1 or later has S5 reported at a plain reboot too.
    A,
    /// Boot progress by SBMR from DXE on, and no ACPI state. Before a reset that the OS asks for it says so.
    P,
    /// Nothing.
    N,
}

impl Firmware {
    /// All kinds.
    pub const ALL: [Self; 7] = [Self::F, Self::FLate, Self::FRetry, Self::M, Self::A, Self::P, Self::N];

    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F => "f",
            Self::FLate => "f-late",
            Self::FRetry => "f-retry",
            Self::M => "m",
            Self::A => "a",
            Self::P => "p",
            Self::N => "n",
        }
    }

    /// For the reader of the timeline.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::F => "reports S2 (then reads the SPDs), S0 and S5",
            Self::FLate => "reads the SPDs, then reports S2; reports S0 and S5",
            Self::FRetry => "reports S2, S0 and S5, each request retried while the first is in flight",
            Self::M => "reports only S0, and S5 before power-off",
            Self::A => "reports S0 when the OS loads, and S5 at shutdown and reboot",
            Self::P => "sends boot progress from DXE on, and says that it is about to be reset",
            Self::N => "reports nothing",
        }
    }

    /// Whether this kind reports this state.
    #[must_use]
    pub const fn reports(self, state: Report) -> bool {
        match self {
            Self::F | Self::FLate | Self::FRetry => true,
            Self::M | Self::A => !matches!(state, Report::S2),
            Self::P | Self::N => false,
        }
    }

    /// Whether it reports S2 before it reads the SPDs.
    #[must_use]
    pub const fn reports_first(self) -> bool {
        matches!(self, Self::F | Self::FRetry)
    }

    /// Whether it says that the OS is about to reset the host.
    #[must_use]
    pub const fn announces_reboot(self) -> bool {
        matches!(self, Self::A | Self::P)
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Firmware {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no firmware kind {name}; there are {names}")
        })
    }
}

/// A state that firmware reports with Set ACPI Power State.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// Working, device D0.
    S0,
    /// POST, device D2.
    S2,
    /// Soft off, device D3.
    S5,
}

impl Report {
    /// Its name on D-Bus.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::S0 => "S0_G0_D0",
            Self::S2 => "S2_D2",
            Self::S5 => "S5_G2",
        }
    }

    /// The request's data bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 2] {
        match self {
            Self::S0 => [0x80, 0x80],
            Self::S2 => [0x82, 0x82],
            Self::S5 => [0x85, 0x83],
        }
    }
}

/// The answer to a report, as the host sees it.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The completion code.
    pub code: u8,
    /// When it arrived.
    pub at: Instant,
    /// How long the host waited.
    pub took: Duration,
}

/// What UEFI found when it read the SPDs.
#[derive(Clone, Debug)]
pub struct Spds {
    /// When the first transfer began.
    pub first: Instant,
    /// The DIMMs it will do without: bus and address.
    pub missing: Vec<(u32, u32)>,
}

/// The host of the board.
#[derive(Debug)]
pub struct Host {
    firmware: Firmware,
    ipmid: Ipmid,
    buses: Vec<Arc<SimBus>>,
    given_up: Mutex<JoinSet<Vec<u8>>>,
}

impl Host {
    /// A host with this firmware, whose DIMMs are on these buses.
    #[must_use]
    pub fn new(firmware: Firmware, ipmid: Ipmid, buses: Vec<Arc<SimBus>>) -> Self {
        Self { firmware, ipmid, buses, given_up: Mutex::default() }
    }

    /// Sends a report and waits for the answer, as firmware does in SMM with every core stopped.
    pub async fn report(&self, report: Report) -> Answer {
        let [system, device] = report.bytes();
        let request = [SET_ACPI_POWER_STATE, system, device];
        let sent = Instant::now();
        if self.firmware == Firmware::FRetry {
            // kcsbridge drops its slot and sends the new request; the first goes on (openbmc 1.2).
            let ipmid = self.ipmid.clone();
            lock(&self.given_up).spawn(async move { ipmid.request(&request).await });
        }
        let response = self.ipmid.request(&request).await;
        let at = Instant::now();
        Answer { code: response.first().copied().unwrap_or(cc::UNSPECIFIED), at, took: at - sent }
    }

    /// How many of the requests that were given up got no answer, or a bad one.
    pub async fn unanswered(&self) -> usize {
        let mut given_up = std::mem::take(&mut *lock(&self.given_up));
        let mut bad = given_up.len();
        while let Ok(Some(response)) = tokio::time::timeout(ANSWER, given_up.join_next()).await {
            if response.is_ok_and(|response| response.first() == Some(&cc::OK)) {
                bad -= 1;
            }
        }
        bad
    }

    /// Reads the SPDs of all DIMMs, those of a bus one after the other and the buses side by side;
    /// skips a DIMM that it was denied.
    pub async fn read_spds(&self) -> Result<Spds> {
        let buses = self.buses.clone();
        Ok(tokio::task::spawn_blocking(move || read_spds(&buses)).await?)
    }
}

fn read_spds(buses: &[Arc<SimBus>]) -> Spds {
    let first = Instant::now();
    let addresses = |bus: &SimBus| bus.dimms().iter().map(Dimm::address).collect::<Vec<_>>();
    let missing_on = |bus: &SimBus| {
        addresses(bus).into_iter().filter(|device| !read_spd(bus, *device)).collect::<Vec<_>>()
    };
    let missing = thread::scope(|scope| {
        // All threads must have started before the first is waited for.
        let readers: Vec<_> = buses.iter().map(|bus| (bus, scope.spawn(|| missing_on(bus)))).collect();
        let found = readers.into_iter().flat_map(|(bus, reader)| {
            // A reader that panicked found nothing.
            let missing = reader.join().unwrap_or_else(|_| addresses(bus));
            missing.into_iter().map(|device| (bus.number(), device))
        });
        found.collect()
    });
    Spds { first, missing }
}

/// False if a word was denied: the firmware of the field does not try again.
fn read_spd(bus: &SimBus, device: u32) -> bool {
    (0..SPD_WORDS).all(|_| {
        let outcome = bus.transfer(Master::Uefi, device);
        thread::sleep(THINK);
        outcome == Outcome::Done
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;
    use crate::dimm::Kind;

    #[test]
    fn uefi_finds_all_dimms_on_quiet_buses_and_skips_those_it_was_denied() {
        let buses = [Arc::new(SimBus::new(3, Kind::Ddr4)), Arc::new(SimBus::new(4, Kind::Ddr5))];
        assert!(read_spds(&buses).missing.is_empty());
        let words = 2 * 4 * SPD_WORDS as usize;
        let log: Vec<_> = buses.iter().flat_map(|bus| bus.take_log()).collect();
        assert_eq!(log.len(), words);

        // A BMC that transfers back to back on one bus.
        let stop = AtomicBool::new(false);
        let spds = thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    buses[1].transfer(Master::Bmc, 0x18);
                }
            });
            let spds = read_spds(&buses);
            stop.store(true, Relaxed);
            spds
        });
        assert!(!spds.missing.is_empty());
        assert!(spds.missing.iter().all(|(bus, _)| *bus == 4));
        let denied: Vec<u32> = buses[1]
            .take_log()
            .iter()
            .filter(|t| t.master == Master::Uefi && t.outcome == Outcome::Denied)
            .map(|t| t.device)
            .collect();
        let missing: Vec<u32> = spds.missing.iter().map(|(_, device)| *device).collect();
        assert_eq!(denied, missing, "each was denied once, and not tried again");
    }

    #[test]
    fn kinds_have_names_and_report_what_the_design_says() {
        for kind in Firmware::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("x".parse::<Firmware>().is_err());
        let of = |kind: Firmware| [Report::S2, Report::S0, Report::S5].map(|state| kind.reports(state));
        assert_eq!(of(Firmware::F), [true, true, true]);
        assert_eq!(of(Firmware::M), [false, true, true]);
        assert_eq!(of(Firmware::A), [false, true, true]);
        assert_eq!(of(Firmware::P), [false, false, false]);
        assert_eq!(of(Firmware::N), [false, false, false]);
    }
}
