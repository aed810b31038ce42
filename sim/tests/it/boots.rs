// SPDX-License-Identifier: Apache-2.0
//! Whole boots of each kind of firmware, with the real daemon on the board.

use std::time::Duration;

use crate::common::{self, boots, good, run, setup};
use acpi_sim::{
    board::Board,
    host::Firmware,
    objects::Manners,
    plan::{X86, X86_BARE, X86_PROGRESS},
    poller::Gate,
    power_control::Flavour,
    setup::{Setup, Way},
    tally::Count,
};

/// One boot of every kind that needs a working host before it.
const WAYS: [Way; 6] =
    [Way::PowerOn, Way::OsShutdown, Way::PowerCycle, Way::WarmReset, Way::SlowOsShutdown, Way::ResetInPost];

#[test]
fn firmware_f_finds_all_its_memory() {
    let tally = run(boots(setup(Firmware::F, X86), &WAYS));
    good(&tally, 6);
    assert_eq!(tally.acks.len(), 7, "each POST reports S2, the one that was reset twice");
}

#[test]
fn firmware_f_late_finds_all_its_memory() {
    good(&run(boots(setup(Firmware::FLate, X86), &WAYS)), 6);
}

#[test]
fn firmware_f_retry_finds_all_its_memory_and_both_its_requests_are_answered() {
    // A request that is not answered is a fault in the tally.
    good(&run(boots(setup(Firmware::FRetry, X86), &WAYS)), 6);
}

#[test]
fn firmware_m_finds_all_its_memory() {
    good(&run(boots(setup(Firmware::M, X86), &WAYS)), 6);
}

#[test]
fn firmware_n_finds_all_its_memory() {
    let tally = run(boots(setup(Firmware::N, X86), &WAYS));
    good(&tally, 6);
    assert_eq!(tally.inferred_s5, Count { seen: 4, performed: 4 }, "no shutdown is reported");
}

/// Ten boots of firmware that says nothing before S0, and S5 before a reboot.
#[test]
fn firmware_a_finds_all_its_memory() {
    let ways = [
        Way::PowerOn,
        Way::OsReboot,
        Way::OsShutdown,
        Way::HardReset,
        Way::ForcedReset,
        Way::PowerCycle,
        Way::OsReboot,
        Way::ResetInPost,
        Way::ForcedOff,
        Way::WarmReset,
    ];
    let tally = run(boots(setup(Firmware::A, X86), &ways));
    good(&tally, 10);
    assert_eq!(tally.warm_resets, Count { seen: 3, performed: 3 }, "a reboot of the OS is S5");
}

/// The same where power shows no reset, but one that it was asked for.
#[test]
fn firmware_a_finds_all_its_memory_where_power_shows_no_reset() {
    let ways = [
        Way::PowerOn,
        Way::OsReboot,
        Way::ForcedReset,
        Way::OsShutdown,
        Way::OsReboot,
        Way::PowerCycle,
        Way::ForcedReset,
        Way::ResetInPost,
        Way::OsReboot,
        Way::DcLoss,
    ];
    good(&run(boots(setup(Firmware::A, X86_BARE), &ways)), 10);
}

/// Ten boots of firmware that sends boot progress alone. Power shows none of its reboots; a code does.
#[test]
fn firmware_p_finds_all_its_memory() {
    let ways = [
        Way::PowerOn,
        Way::OsReboot,
        Way::OsShutdown,
        Way::WarmReset,
        Way::OsReboot,
        Way::ForcedReset,
        Way::PowerCycle,
        Way::ForcedReset,
        Way::ResetInPost,
        Way::DcLoss,
    ];
    let tally = run(boots(setup(Firmware::P, Flavour::Psm), &ways));
    good(&tally, 10);
    assert_eq!(tally.warm_resets, Count { seen: 5, performed: 5 });
}

/// The same with an owner of boot progress that shows each reset.
#[test]
fn firmware_p_finds_all_its_memory_where_power_shows_each_reset() {
    let ways = [Way::PowerOn, Way::HardReset, Way::OsReboot, Way::ForcedReset, Way::HardReset];
    good(&run(boots(setup(Firmware::P, X86_PROGRESS), &ways)), 5);
}

#[test]
fn phosphor_state_manager_is_as_good_as_x86_power_control() {
    for firmware in [Firmware::F, Firmware::FLate, Firmware::M] {
        good(&run(boots(setup(firmware, Flavour::Psm), &WAYS)), 6);
    }
}

#[test]
fn a_warm_reset_that_only_the_report_shows_is_one() {
    let tally = run(boots(setup(Firmware::F, X86_BARE), &[Way::PowerOn, Way::WarmReset, Way::WarmReset]));
    good(&tally, 3);
    assert_eq!(tally.warm_resets, Count { seen: 2, performed: 2 });
}

#[test]
fn every_way_the_power_can_go_is_seen() {
    let ways = [Way::PowerOn, Way::ShortCycle, Way::DcLoss, Way::ForcedOff];
    let tally = run(boots(setup(Firmware::FLate, X86), &ways));
    good(&tally, 4);
    assert_eq!(tally.inferred_s5, Count { seen: 3, performed: 3 });
}

#[test]
fn without_the_gate_memory_is_lost() {
    let setup = Setup { gate: Gate::Ignored, ..setup(Firmware::F, X86) };
    let tally = run(boots(setup, &[Way::PowerOn, Way::PowerCycle, Way::OsShutdown]));
    assert!(tally.boots_with_missing_dimms > 0 && tally.transfers_while_closed > 0, "{tally:?}");
    assert_eq!(tally.gate_opens, 3, "the daemon is the same");
}

#[test]
fn what_nobody_can_protect_is_counted_apart() {
    let tally = run(boots(setup(Firmware::M, X86_BARE), &[Way::PowerOn, Way::WarmReset, Way::AdminSetsS0]));
    good(&tally, 1);
    assert_eq!(tally.unprotectable_boots, 2);
}

/// What would protect each is in `plan::explain_unprotectable`.
#[test]
fn resets_of_firmware_a_and_p_that_nobody_can_protect_are_counted_apart() {
    // The second request is the same as the first, and is not signalled.
    for (firmware, power, ways) in [
        (Firmware::A, X86_BARE, [Way::HardReset, Way::ForcedReset, Way::ForcedReset]),
        (Firmware::P, Flavour::Psm, [Way::HardReset, Way::ForcedReset, Way::HardReset]),
    ] {
        let ways: Vec<_> = std::iter::once(Way::PowerOn).chain(ways).collect();
        let tally = run(boots(setup(firmware, power), &ways));
        good(&tally, 2);
        assert_eq!(tally.unprotectable_boots, 2);
        assert!(tally.unprotectable_missing > 0, "{firmware}: they do lose memory");
    }
}

#[test]
fn with_a_trusted_post_status_a_false_report_does_no_harm() {
    good(&run(boots(setup(Firmware::N, X86), &[Way::PowerOn, Way::AdminSetsS0])), 2);
}

#[test]
fn a_hang_in_post_is_diagnosed_and_the_next_boot_is_a_good_one() {
    let mut setup = setup(Firmware::F, X86);
    setup.timing.deadline = Duration::from_secs(60);
    let tally = run(boots(setup, &[Way::PowerOn, Way::Hang, Way::ForcedOff]));
    good(&tally, 3);
    assert_eq!(tally.reached_os, 2);
}

#[test]
fn a_systemd_that_never_answers_delays_no_host() {
    let setup = Setup { systemd: Manners::Silent, ..setup(Firmware::F, X86) };
    let tally = run(boots(setup, &[Way::PowerOn, Way::OsShutdown, Way::WarmReset]));
    good(&tally, 3);
    let (_, longest) = tally.ack_ms().expect("answers");
    let most = 250.0 + tally.lateness.as_secs_f64() * 1e3;
    assert!(longest < most, "{longest} ms of {most}");
}

#[test]
fn the_targets_follow_the_host() {
    run(async {
        let mut board = Board::start(setup(Firmware::F, X86)).await.expect("a board");
        let now = |board: &Board, state: &str| {
            board.systemd().active()
                == [format!("host-{state}-state.target"), format!("host-{state}-state@0.target")]
        };
        common::until("S5", || now(&board, "s5")).await;
        board.boot(Way::PowerOn).await.expect("a boot");
        assert!(now(&board, "s0"), "{:?}", board.systemd().active());
        board.force_off().await.expect("off");
        common::until("S5 again", || now(&board, "s5")).await;
        let started: Vec<_> = board.systemd().asked().into_iter().map(|asked| asked.unit).collect();
        for state in ["s5", "s2", "s0"] {
            assert!(started.contains(&format!("host-{state}-state.target")), "{started:?}");
        }
        assert!(board.systemd().asked().iter().all(|asked| asked.mode == "replace"));
        board.finish().await.expect("the daemon ends well");
    });
}
