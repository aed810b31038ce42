// SPDX-License-Identifier: Apache-2.0
//! What fleets see: the chassis is on, the CPU gets no power, nothing runs, and the last thing that the host ever said is that it
//! works. And a CPU that loses its power while it works.

use std::time::{Duration, Instant};

use crate::common::run;
use acpi_sim::{
    board::Board,
    clock::secs,
    fan_control::{FanControl, ZONES},
    host::Firmware,
    observer::{Observer, TRACKER},
    plan::X86,
    power_control::Flavour,
    setup::{CPU_SENSOR, Setup, Way},
};
use zbus::Variant;

/// Slow enough for deadlines to be told apart from how long a busy machine takes.
const SPEED: u32 = 30;
const SOON: Duration = Duration::from_secs(10);
/// What a diagnosis may come late, on the board's clock: a third of a second of real time.
const SLACK: Duration = secs(10);

async fn board(firmware: Firmware, power: Flavour) -> Board {
    let setup = Setup { broken: true, ..Setup::new(firmware, power, SPEED) };
    let mut board = Board::start(setup).await.expect("a board");
    board.boot(Way::PowerOn).await.expect("a boot");
    assert_eq!(board.observer().get_state().await.as_deref(), Some("S0_G0_D0"), "the host works");
    board
}

/// When this diagnosis was last raised, on the board's clock since `begin`.
fn raised(observer: &Observer, name: &str, begin: Instant) -> Duration {
    let all = observer.diagnosed();
    let found = all.iter().rev().find(|diagnosed| diagnosed.name == name && diagnosed.raised);
    found.expect(name).at.duration_since(begin) * SPEED
}

async fn gate_is_open(observer: &Observer) -> bool {
    matches!(observer.get(TRACKER, "GateOpen").await.as_deref(), Some(Variant::Bool(true)))
}

/// Rules 3.7: `NoCpuPower` 30 s after chassis On; `FirmwareSilent` after 120 s, where the firmware gave a sign before S0 in an
/// earlier boot: firmware m gives none. All is over when the host has recovered, and the BMC never takes the DIMM buses meanwhile.
#[test]
fn chassis_on_and_no_power_into_the_cpu_is_diagnosed_in_time_and_over_after_recovery() {
    let (no_power, silent) = (("NoCpuPower", secs(30)), ("FirmwareSilent", secs(120)));
    for (firmware, power, due) in
        [(Firmware::F, X86, vec![no_power, silent]), (Firmware::M, Flavour::Psm, vec![no_power])]
    {
        run(async {
            let mut board = board(firmware, power).await;
            board.boot(Way::NoCpuPower).await.expect("a boot");
            let late = board.lateness() * SPEED;
            let on = board.platform().up_since().expect("the chassis is on");
            for (name, after) in &due {
                let raised = raised(board.observer(), name, on);
                assert!(raised >= *after && raised <= *after + SLACK + late, "{name} after {raised:?}");
            }
            // More than 120 s are over.
            let came: Vec<_> = board.observer().diagnosed().into_iter().map(|one| one.name).collect();
            assert_eq!(came, due.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "and no other");
            assert!(!gate_is_open(board.observer()).await);

            board.boot(Way::ForcedOff).await.expect("a boot");
            assert!(board.observer().wait(SOON, |view| view.diagnoses.is_empty()).await, "all is over");
            assert!(gate_is_open(board.observer()).await);
            let tally = board.finish().await.expect("the daemon ends well");
            assert_eq!(
                (tally.boots, tally.reached_os, tally.gate_opens),
                (3, 2, 2),
                "never open but for a host that works"
            );
            assert_eq!(tally.faults, Vec::<String>::new());
        });
    }
}

/// The regulator trips under a working host, and nothing else changes: 10 s of 0 W are enough. Nobody has said that the host does
/// not work, so its state stays; its temperature fails, and that is a failsafe which fan control must have.
#[test]
fn a_cpu_that_loses_its_power_while_it_works_is_diagnosed_and_fan_control_sees_it() {
    run(async {
        let mut board = board(Firmware::F, X86).await;
        assert!(
            board.fan_control().wait(CPU_SENSOR, SOON, |input| input.value > 40.0).await,
            "the CPU's temperature is read"
        );
        // More than 30 s after chassis On.
        let on = board.platform().up_since().expect("the chassis is on");
        tokio::time::sleep_until((on + secs(35) / SPEED).into()).await;
        let began = Instant::now();
        board.platform().trip();
        let low = |name: &str| name == "NoCpuPower";
        assert!(board.observer().wait(SOON, |view| view.diagnoses.iter().any(|name| low(name))).await);
        let late = board.lateness() * SPEED;
        let raised = raised(board.observer(), "NoCpuPower", began);
        // Up to a second until the regulator is asked, then 10 s.
        assert!(raised >= secs(10) && raised <= secs(11) + SLACK + late, "after {raised:?}");
        assert_eq!(board.observer().get_state().await.as_deref(), Some("S0_G0_D0"));
        let failsafe = |zones: &FanControl| ZONES.iter().all(|zone| zones.is_failsafe(zone) == Some(true));
        assert!(board.zones().wait(SOON, failsafe).await, "{:?}", board.zones().record());

        board.boot(Way::PowerCycle).await.expect("a boot");
        assert!(board.observer().wait(SOON, |view| view.diagnoses.is_empty()).await, "it is over");
        let good = |zones: &FanControl| ZONES.iter().all(|zone| zones.is_failsafe(zone) == Some(false));
        assert!(board.zones().wait(SOON, good).await);
        board.finish().await.expect("the daemon ends well");
    });
}
