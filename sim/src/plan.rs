// SPDX-License-Identifier: Apache-2.0
//! Which boots the demo performs, on which boards.

use std::time::Duration;

use crate::{
    host::Firmware,
    poller::Gate,
    power_control::Flavour,
    setup::{Setup, Way},
    timeline::Detail,
};

/// x86-power-control as most boards have it.
pub const X86: Flavour = Flavour::X86 { post_complete: true, boot_progress: false };
/// x86-power-control on a board that does not wire POST complete.
pub const X86_BARE: Flavour = Flavour::X86 { post_complete: false, boot_progress: false };
/// x86-power-control with a patch that gives it a boot progress, without a time stamp.
pub const X86_PROGRESS: Flavour = Flavour::X86 { post_complete: true, boot_progress: true };

/// How long a host may hang in POST on the board that shows it; the default is 60 min.
const SHORT_DEADLINE: Duration = Duration::from_secs(120);

/// Slow enough for the CPU's temperature to fail within the two minutes that the board shows.
const FAILURE_SPEED: u32 = 50;

/// A board and what happens on it.
#[derive(Clone, Debug)]
pub struct Part {
    /// What the reader is about to see.
    pub heading: String,
    /// The board.
    pub setup: Setup,
    /// Its boots, from a host that is off.
    pub ways: Vec<Way>,
}

/// What all boards of a run have in common.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// How many times faster than life.
    pub speed: u32,
    /// Whether the pollers heed the gate.
    pub gate: Gate,
    /// How much is told.
    pub detail: Detail,
}

impl Common {
    fn part(self, what: &str, firmware: Firmware, power: Flavour, ways: &[Way]) -> Part {
        let setup = Setup { gate: self.gate, detail: self.detail, ..Setup::new(firmware, power, self.speed) };
        Part { heading: heading(what, &setup), setup, ways: ways.to_vec() }
    }
}

/// The show for a newcomer: each kind of firmware and each way to boot, once.
#[must_use]
pub fn show(common: Common) -> Vec<Part> {
    use Firmware::{A, F, FLate, FRetry, M, N, P};
    use Way::{
        AdminSetsS0, DcLoss, ForcedOff, ForcedReset, Hang, HardReset, NoCpuPower, OsReboot, OsShutdown,
        PowerCycle, PowerOn, ResetInPost, ShortCycle, SlowOsShutdown, WarmReset,
    };
    let ways = [PowerOn, OsShutdown, PowerCycle, WarmReset];
    let mut parts = vec![common.part("A server's day", F, X86, &ways)];
    let ways = [PowerOn, WarmReset, DcLoss];
    parts.push(common.part("Warm resets that nothing but the report shows", F, X86_BARE, &ways));
    let ways = [PowerOn, ShortCycle, ResetInPost];
    parts.push(common.part("Only inference protects the SPDs", FLate, X86, &ways));
    parts.push(common.part("An impatient host", FRetry, X86, &[PowerOn, SlowOsShutdown, WarmReset]));
    let ways = [PowerOn, OsShutdown, WarmReset, PowerCycle];
    parts.push(common.part("A firmware that says little", M, X86, &ways));
    let ways = [PowerOn, OsReboot, ForcedReset, OsShutdown];
    parts.push(common.part("A firmware that speaks when the OS has it speak", A, X86_BARE, &ways));
    let ways = [PowerOn, OsReboot, OsShutdown, ForcedReset];
    parts.push(common.part("A firmware that tells how far it is, and no state", P, Flavour::Psm, &ways));
    let ways = [PowerOn, OsShutdown, WarmReset, PowerCycle, AdminSetsS0];
    parts.push(common.part("A firmware that says nothing", N, X86, &ways));
    let ways = [PowerOn, OsShutdown, PowerCycle, WarmReset];
    parts.push(common.part("The other power service", F, Flavour::Psm, &ways));
    let mut mux = common.part("DIMMs behind a mux", F, X86, &[PowerOn, PowerCycle, WarmReset]);
    mux.setup.spd_mux = true;
    mux.setup.tells_all = true;
    parts.push(mux);
    let mut hang = common.part("A host that never comes up", F, X86, &[PowerOn, Hang, ForcedOff]);
    hang.setup.timing.deadline = SHORT_DEADLINE;
    hang.heading = format!("{}, deadline {} s", hang.heading, SHORT_DEADLINE.as_secs());
    parts.push(hang);
    let slow = Common { speed: FAILURE_SPEED, ..common };
    let ways = [PowerOn, NoCpuPower, ForcedOff];
    let mut failure = slow.part("The chassis is on, and nothing runs", F, X86, &ways);
    failure.setup.broken = true;
    failure.setup.tells_all = true;
    failure.heading = format!("{}, {FAILURE_SPEED} times faster than life", failure.heading);
    parts.push(failure);
    let ways = [PowerOn, WarmReset, WarmReset];
    parts.push(common.part("What nobody can protect: a reset that nothing shows", M, X86_BARE, &ways));
    let ways = [PowerOn, HardReset];
    parts.push(common.part(
        "What nobody can protect: a reset that is heard of after memory was read",
        P,
        Flavour::Psm,
        &ways,
    ));
    let ways = [PowerOn, AdminSetsS0, AdminSetsS0];
    parts.push(common.part("What nobody can protect: a false report", F, X86, &ways));
    parts
}

/// `boots` boots of this kind of firmware on the boards it is found on, and besides them the boots of
/// this kind that nobody can protect.
#[must_use]
pub fn boots_of(firmware: Firmware, boots: usize, common: Common) -> Vec<Part> {
    let boards: &[Flavour] = match firmware {
        Firmware::F | Firmware::FRetry | Firmware::FLate | Firmware::M | Firmware::A => {
            &[X86, Flavour::Psm, X86_BARE]
        }
        // It needs an owner of its boot progress.
        Firmware::P => &[Flavour::Psm],
        // It needs the trusted POST status.
        Firmware::N => &[X86],
    };
    let mut parts = Vec::new();
    for (index, power) in boards.iter().enumerate() {
        let share = boots / boards.len();
        let last = index + 1 == boards.len();
        // What does not divide evenly goes to the last board, which thus always has one: the
        // unprotectable boots follow on it.
        let here = if last { boots - share * index } else { share };
        let mut ways = protectable_ways(firmware, *power, here);
        if ways.is_empty() {
            continue;
        }
        if last {
            ways.extend(unprotectable_ways(firmware));
        }
        parts.push(common.part("Boots of one kind", firmware, *power, &ways));
    }
    parts
}

/// `boots` boots over all kinds of firmware.
#[must_use]
pub fn boots_of_all(boots: usize, common: Common) -> Vec<Part> {
    let kinds = Firmware::ALL.len();
    Firmware::ALL
        .into_iter()
        .enumerate()
        .flat_map(|(index, firmware)| boots_of(firmware, (boots + kinds - 1 - index) / kinds, common))
        .collect()
}

/// The first from off, then each way in turn.
fn protectable_ways(firmware: Firmware, power: Flavour, boots: usize) -> Vec<Way> {
    let mut turn = vec![
        Way::OsShutdown,
        Way::PowerCycle,
        Way::WarmReset,
        Way::SlowOsShutdown,
        Way::ShortCycle,
        Way::ResetInPost,
        Way::DcLoss,
        Way::ForcedOff,
        Way::OsReboot,
        Way::HardReset,
        // A power cycle lies between two of them, and is another request.
        Way::ForcedReset,
        Way::AdminSetsS0,
    ];
    let trusted = Setup::new(firmware, power, 1).evidence.post_complete_trusted;
    turn.retain(|way| way.protectable(firmware, power, trusted));
    std::iter::once(Way::PowerOn).chain(turn.into_iter().cycle()).take(boots).collect()
}

/// On the last board of [`boots_of`].
fn unprotectable_ways(firmware: Firmware) -> Vec<Way> {
    match firmware {
        Firmware::F | Firmware::FRetry => vec![Way::AdminSetsS0; 2],
        Firmware::FLate | Firmware::M | Firmware::A => {
            vec![Way::WarmReset, Way::WarmReset, Way::AdminSetsS0, Way::AdminSetsS0]
        }
        Firmware::P => vec![Way::HardReset, Way::HardReset, Way::AdminSetsS0],
        Firmware::N => Vec::new(),
    }
}

fn heading(what: &str, setup: &Setup) -> String {
    let power = match setup.power {
        Flavour::X86 { boot_progress: true, .. } => "x86-power-control, patched to have boot progress",
        Flavour::X86 { post_complete: true, .. } => "x86-power-control",
        Flavour::X86 { post_complete: false, .. } => "x86-power-control without POST complete",
        Flavour::Psm => "phosphor-state-manager",
    };
    let mut options = Vec::new();
    for (set, name) in [
        (setup.evidence.post_complete_trusted, "post_complete trusted"),
        (setup.evidence.s0_from_post_complete, "s0_from_post_complete"),
        (!setup.evidence.s2_from_power_on, "s2_from_power_on false"),
    ] {
        if set {
            options.push(name);
        }
    }
    let options = if options.is_empty() { "defaults".to_owned() } else { options.join(", ") };
    let firmware = setup.firmware;
    format!("{what}\n   firmware {firmware}: {}; power: {power}; daemon: {options}", firmware.describe())
}

/// Why the unprotectable boots of a run are that.
#[must_use]
pub fn explain_unprotectable() -> &'static str {
    "
Boots that nobody can protect, and what helps:
  - A reset of a firmware that reports S2 late or never, on a board that does not show the reset on D-Bus: the
    BMC goes on reading while UEFI reads the SPDs. Wire POST complete, or have UEFI report S2.
  - The same where it was requested, and the request before was the same: D-Bus signals a change only. The same
    helps.
  - A reset by the host's hardware of a firmware that is heard from DXE on, as by SBMR: memory was read before
    its first word. Let the BMC see the host's reset line.
  - An administrator sets S0 over the network while UEFI trains memory, later than `min_post`: the daemon must
    believe it. With `post_complete: trusted` it does not open the gate before POST is complete."
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: Common = Common { speed: 250, gate: Gate::Heeded, detail: Detail::Silent };

    fn protected(parts: &[Part]) -> usize {
        let protectable = |part: &Part, way: &Way| {
            let Setup { firmware, power, evidence, .. } = &part.setup;
            way.protectable(*firmware, *power, evidence.post_complete_trusted)
        };
        parts.iter().map(|part| part.ways.iter().filter(|way| protectable(part, way)).count()).sum()
    }

    #[test]
    fn as_many_boots_as_were_asked_for_whatever_the_firmware() {
        for boots in [0, 1, 2, 3, 7, 200] {
            for firmware in Firmware::ALL {
                let parts = boots_of(firmware, boots, COMMON);
                assert_eq!(protected(&parts), boots, "{firmware} {boots}");
                assert!(parts.iter().all(|part| part.ways.first() == Some(&Way::PowerOn)));
            }
            assert_eq!(protected(&boots_of_all(boots, COMMON)), boots);
        }
    }

    #[test]
    fn the_show_has_every_kind_and_every_way() {
        let parts = show(COMMON);
        assert!(Firmware::ALL.into_iter().all(|kind| parts.iter().any(|part| part.setup.firmware == kind)));
        for way in [
            Way::PowerOn,
            Way::OsShutdown,
            Way::SlowOsShutdown,
            Way::PowerCycle,
            Way::ShortCycle,
            Way::DcLoss,
            Way::ForcedOff,
            Way::WarmReset,
            Way::OsReboot,
            Way::HardReset,
            Way::ForcedReset,
            Way::ResetInPost,
            Way::Hang,
            Way::NoCpuPower,
            Way::AdminSetsS0,
        ] {
            assert!(parts.iter().any(|part| part.ways.contains(&way)), "{way}");
        }
    }
}
