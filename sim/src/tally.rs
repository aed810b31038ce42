// SPDX-License-Identifier: Apache-2.0
//! The counts, and what they say.

use std::time::Duration;

use crate::poller::Gate;

/// What was counted on one or more boards. Boots that nobody can protect are counted apart.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Boots, without the unprotectable ones.
    pub boots: u64,
    /// Those in which the host reached its operating system.
    pub reached_os: u64,
    /// Those in which UEFI did without a DIMM.
    pub boots_with_missing_dimms: u64,
    /// BMC transfers while the buses were the host's.
    pub transfers_while_closed: u64,
    /// All other BMC transfers.
    pub bmc_transfers_open: u64,
    /// Times a poller was granted a permit after having been refused.
    pub gate_opens: u64,
    /// Changes to S5 that no host sent.
    pub inferred_s5: Count,
    /// Changes from working straight to S2.
    pub warm_resets: Count,
    /// Boots that nobody can protect.
    pub unprotectable_boots: u64,
    /// Those of them in which UEFI did without a DIMM.
    pub unprotectable_missing: u64,
    /// How long hosts waited for the answer to a Set of S2.
    pub acks: Vec<Duration>,
    /// BMC transfers while a mux had the DIMMs at the host's side.
    pub unconnected: u64,
    /// Times a zone of fan control went to failsafe, or might have, while nothing was broken.
    pub failsafes: u64,
    /// Times the DIMMs' fans were held.
    pub holds: u64,
    /// The longest from the answer to S2 to fans that are held.
    pub held_after: Duration,
    /// How long this machine kept a board waiting at worst.
    pub lateness: Duration,
    /// What else went wrong.
    pub faults: Vec<String>,
}

/// What was seen, and what the board performed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// On D-Bus.
    pub seen: u64,
    /// By the board.
    pub performed: u64,
}

impl Tally {
    /// Adds the counts of another board.
    pub fn add(&mut self, other: Self) {
        self.boots += other.boots;
        self.reached_os += other.reached_os;
        self.boots_with_missing_dimms += other.boots_with_missing_dimms;
        self.transfers_while_closed += other.transfers_while_closed;
        self.bmc_transfers_open += other.bmc_transfers_open;
        self.gate_opens += other.gate_opens;
        self.inferred_s5.add(other.inferred_s5);
        self.warm_resets.add(other.warm_resets);
        self.unprotectable_boots += other.unprotectable_boots;
        self.unprotectable_missing += other.unprotectable_missing;
        self.acks.extend(other.acks);
        self.unconnected += other.unconnected;
        self.failsafes += other.failsafes;
        self.holds += other.holds;
        self.held_after = self.held_after.max(other.held_after);
        self.lateness = self.lateness.max(other.lateness);
        self.faults.extend(other.faults);
    }

    /// The median and the longest time a host waited for its S2, in milliseconds.
    #[must_use]
    pub fn ack_ms(&self) -> Option<(f64, f64)> {
        let mut acks = self.acks.clone();
        acks.sort_unstable();
        let ms = |ack: &Duration| ack.as_secs_f64() * 1e3;
        Some((ms(acks.get(acks.len() / 2)?), ms(acks.last()?)))
    }

    /// What the board holds against the daemon. Lost memory and transfers at the wrong time are what
    /// the gate prevents, so nothing is said of them while nobody heeds it.
    #[must_use]
    pub fn complaints(&self, gate: Gate) -> Vec<String> {
        let mut complaints = self.faults.clone();
        let mut complain = |wrong: bool, text: String| {
            if wrong {
                complaints.push(text);
            }
        };
        if gate == Gate::Heeded {
            let missing = self.boots_with_missing_dimms;
            complain(missing != 0, format!("{missing} boots with missing DIMMs"));
            let closed = self.transfers_while_closed;
            complain(closed != 0, format!("{closed} BMC transfers while the buses were the host's"));
            let unconnected = self.unconnected;
            complain(
                unconnected != 0,
                format!("{unconnected} BMC transfers while the SPD mux was the host's"),
            );
            complain(self.bmc_transfers_open == 0, "the BMC never read a DIMM".into());
        }
        let (opens, reached) = (self.gate_opens, self.reached_os);
        complain(
            opens != reached,
            format!("the gate opened {opens} times in {reached} boots that reached S0"),
        );
        for (what, count) in [("inferred S5", self.inferred_s5), ("warm resets", self.warm_resets)] {
            let Count { seen, performed } = count;
            complain(seen != performed, format!("{what}: {seen} seen, {performed} performed"));
        }
        complaints
    }

    /// For people.
    #[must_use]
    pub fn text(&self, gate: Gate, dimms: usize) -> String {
        let ack = self.ack_ms().map_or_else(
            || "no firmware here reports S2".to_owned(),
            |(p50, max)| format!("{p50:.2} ms median, {max:.2} ms at most"),
        );
        let heeded = match gate {
            Gate::Heeded => "on",
            Gate::Ignored => "off (the poller ignores it)",
        };
        format!(
            "  gate                                         {heeded}
  boots                                        {boots}, {reached} of them reached the operating system
  boots with missing DIMMs (of {dimms})              {missing}
  BMC transfers while the bus was the host's   {closed}
  BMC transfers otherwise                      {open}
  times the gate opened                        {opens}
  S5 inferred, not reported                    {s5} (the board performed {s5_done})
  warm resets seen                             {resets} (the board performed {resets_done})
  fan control in failsafe                      {failsafes} times
  DIMM fans held                               {holds} times, at most {held_after:.1} ms after the answer to S2
  host waited for the answer to S2             {ack}
  boots that nobody can protect                {unprotectable}, {unprotectable_missing} with missing DIMMs",
            boots = self.boots,
            reached = self.reached_os,
            missing = self.boots_with_missing_dimms,
            closed = self.transfers_while_closed,
            open = self.bmc_transfers_open,
            opens = self.gate_opens,
            s5 = self.inferred_s5.seen,
            s5_done = self.inferred_s5.performed,
            resets = self.warm_resets.seen,
            failsafes = self.failsafes,
            holds = self.holds,
            held_after = self.held_after.as_secs_f64() * 1e3,
            resets_done = self.warm_resets.performed,
            unprotectable = self.unprotectable_boots,
            unprotectable_missing = self.unprotectable_missing,
        )
    }

    /// For programs: one line.
    #[must_use]
    pub fn json(&self, gate: Gate, dimms: usize) -> String {
        let gate = match gate {
            Gate::Heeded => "on",
            Gate::Ignored => "off",
        };
        let (p50, max) = self.ack_ms().map_or_else(
            || ("null".to_owned(), "null".to_owned()),
            |(p50, max)| (format!("{p50:.3}"), format!("{max:.3}")),
        );
        format!(
            "{{\"boots\":{},\"gate\":\"{gate}\",\"dimms_installed\":{dimms},\"boots_with_missing_dimms\":{},\
             \"transfers_while_closed\":{},\"inferred_s5\":{},\"warm_resets\":{},\"gate_opens\":{},\
             \"bmc_transfers_open\":{},\"failsafes\":{},\"holds\":{},\"unprotectable_boots\":{},\"unprotectable_missing\":{},\
             \"ack_ms_p50\":{p50},\"ack_ms_max\":{max}}}",
            self.boots,
            self.boots_with_missing_dimms,
            self.transfers_while_closed,
            self.inferred_s5.seen,
            self.warm_resets.seen,
            self.gate_opens,
            self.bmc_transfers_open,
            self.failsafes,
            self.holds,
            self.unprotectable_boots,
            self.unprotectable_missing,
        )
    }
}

impl Count {
    fn add(&mut self, other: Self) {
        self.seen += other.seen;
        self.performed += other.performed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Tally {
        Tally { boots: 2, reached_os: 2, gate_opens: 2, bmc_transfers_open: 9, ..Tally::default() }
    }

    #[test]
    fn a_good_run_has_no_complaints_and_each_fault_is_named() {
        assert!(good().complaints(Gate::Heeded).is_empty());
        for (bad, word) in [
            (Tally { boots_with_missing_dimms: 1, ..good() }, "missing"),
            (Tally { transfers_while_closed: 1, ..good() }, "transfers"),
            (Tally { bmc_transfers_open: 0, ..good() }, "never"),
            (Tally { gate_opens: 1, ..good() }, "opened"),
            (Tally { inferred_s5: Count { seen: 0, performed: 1 }, ..good() }, "inferred"),
            (Tally { warm_resets: Count { seen: 1, performed: 0 }, ..good() }, "warm"),
            (Tally { faults: vec!["a retry".into()], ..good() }, "retry"),
        ] {
            let complaints = bad.complaints(Gate::Heeded);
            assert!(complaints.len() == 1 && complaints[0].contains(word), "{complaints:?}");
        }
        let lost = Tally { boots_with_missing_dimms: 1, transfers_while_closed: 9, ..good() };
        assert!(lost.complaints(Gate::Ignored).is_empty());
    }

    #[test]
    fn the_waits_are_a_median_and_a_maximum() {
        assert_eq!(good().ack_ms(), None);
        let acks = [3, 1, 2].map(Duration::from_millis).to_vec();
        assert_eq!(Tally { acks, ..good() }.ack_ms(), Some((2.0, 3.0)));
        assert!(good().json(Gate::Ignored, 8).contains("\"gate\":\"off\",\"dimms_installed\":8"));
    }
}
