// SPDX-License-Identifier: Apache-2.0
//! DIMMs behind a mux: the host finds them only while the mux is at its side, and the BMC reads them only while it is at the BMC's.

use crate::common::{run, setup, until};
use acpi_sim::{
    board::Board,
    host::Firmware,
    plan::{X86, X86_BARE},
    power_control::Flavour,
    setup::{Setup, Way},
    transfer::Master,
};

fn board(firmware: Firmware, power: Flavour) -> Setup {
    Setup { spd_mux: true, ..setup(firmware, power) }
}

/// In every boot UEFI finds all its memory, and whenever the gate is open the BMC reads the DIMMs: never a transfer of either to the
/// other's side. The first boot finds the mux where a dead daemon left it, at the BMC; at its end the daemon leaves it to the host.
#[test]
fn each_side_has_the_dimms_when_it_needs_them() {
    let ways = [
        Way::PowerOn,
        Way::OsShutdown,
        Way::PowerCycle,
        Way::WarmReset,
        Way::ShortCycle,
        Way::SlowOsShutdown,
        Way::ResetInPost,
        Way::DcLoss,
        Way::ForcedOff,
    ];
    for (firmware, power) in [(Firmware::F, X86), (Firmware::M, Flavour::Psm), (Firmware::FLate, X86)] {
        run(async {
            let mut board = Board::start(board(firmware, power)).await.expect("a board");
            until("the host has it", || board.mux().side() == Master::Uefi).await;
            for way in ways {
                let before = board.mux().moves();
                board.boot(way).await.expect("a boot");
                assert_eq!(board.mux().side(), Master::Bmc, "{way}: the gate is open");
                assert!(board.mux().moves() > before, "{way}");
            }
            let name = "DIMM_TEMP_A0";
            let read = |input: acpi_sim::pid_inputs::Input| input.value > 39.0 && input.available;
            assert!(
                board.fan_control().wait(name, std::time::Duration::from_secs(10), read).await,
                "{name} is read"
            );
            let mux = board.mux().clone();
            let tally = board.finish().await.expect("the daemon ends well");
            assert_eq!(
                (tally.boots, tally.boots_with_missing_dimms, tally.unconnected),
                (ways.len() as u64, 0, 0)
            );
            assert_eq!(mux.side(), Master::Uefi, "nobody is left to hand it over");
        });
    }
}

/// Without its protection, a mux that stays at the BMC's side, the host finds no memory at all; it is answered all the same.
#[test]
fn a_mux_that_stays_at_the_bmc_costs_all_memory() {
    run(async {
        let mut board = Board::start(board(Firmware::F, X86_BARE)).await.expect("a board");
        board.boot(Way::PowerOn).await.expect("a boot");
        board.mux().stick(true);
        let answer = board.reset_and_report().await;
        assert_eq!(answer.code, acpi_sim::ipmid::cc::OK);
        let spds = board.host().read_spds().await.expect("SPDs");
        assert_eq!(spds.missing.len(), acpi_sim::setup::DIMMS_INSTALLED);
        board.mux().stick(false);
        board.finish().await.expect("the daemon ends well");
    });
}
