// SPDX-License-Identifier: Apache-2.0
//! The DIMM temperatures: what fan control makes of them through power cycles, and DIMMs and buses that misbehave.

use std::time::{Duration, Instant};

use crate::common::{run, until};
use acpi_sim::{
    board::Board,
    dimm::{Dimm, Manner},
    host::{Firmware, Report},
    ipmid::cc,
    pid_inputs::Input,
    plan::{X86, X86_BARE},
    power_control::Flavour,
    setup::{Setup, Way},
};
use zbus::Variant;

/// Slow enough for a period of the sensors, 1 s, to be 33 ms of real time.
const SPEED: u32 = 30;
const SOON: Duration = Duration::from_secs(10);
const ALL: [&str; 8] = [
    "DIMM_TEMP_A0",
    "DIMM_TEMP_A1",
    "DIMM_TEMP_A2",
    "DIMM_TEMP_A3",
    "DIMM_TEMP_B0",
    "DIMM_TEMP_B1",
    "DIMM_TEMP_B2",
    "DIMM_TEMP_B3",
];

fn reads(input: Input, degrees: f64) -> bool {
    (input.value - degrees).abs() < 0.01 && input.available && input.functional
}

/// As it was at the start: fan control has not been told of `Functional`.
fn is_unavailable(input: Input) -> bool {
    input.value.is_nan() && !input.available
}

fn is_gone(input: Input) -> bool {
    input.value.is_nan() && !input.available && !input.functional
}

fn has_failed(input: Input) -> bool {
    input.value.is_nan() && input.available && !input.functional
}

async fn off(firmware: Firmware, power: Flavour) -> Board {
    Board::start(Setup::new(firmware, power, SPEED)).await.expect("a board")
}

/// A board whose host works and whose sensors are read.
async fn working() -> Board {
    let mut board = off(Firmware::F, X86).await;
    board.boot(Way::PowerOn).await.expect("a boot");
    for name in ALL {
        assert!(board.fan_control().wait(name, SOON, |input| reads(input, 40.0)).await, "{name}");
    }
    board
}

/// At every single signal of every way to boot, fan control finds no sensor failed: no failsafe.
#[test]
fn fan_control_never_takes_a_sensor_for_failed() {
    run(async {
        for (firmware, power) in
            [(Firmware::F, X86), (Firmware::M, Flavour::Psm), (Firmware::FLate, X86_BARE)]
        {
            let mut board = off(firmware, power).await;
            for name in ALL {
                assert!(
                    board.fan_control().input(name).is_some_and(is_unavailable),
                    "{name} while the host is off"
                );
            }
            for way in [Way::PowerOn, Way::OsShutdown, Way::PowerCycle, Way::ShortCycle, Way::ForcedOff] {
                board.boot(way).await.expect("a boot");
                for name in ALL {
                    assert!(board.fan_control().wait(name, SOON, |input| reads(input, 40.0)).await, "{name}");
                }
                assert_eq!(board.fan_control().take_failures(), [], "{firmware}, {way}");
            }
            board.force_off().await.expect("off");
            for name in ALL {
                assert!(board.fan_control().wait(name, SOON, is_gone).await, "{name} after a forced off");
            }
            assert_eq!(board.fan_control().take_failures(), []);
            // Each came back in each boot and went after it, three signals each time.
            let least = 8 * 5 * (3 + 3);
            let signals = board.fan_control().signals();
            assert!(signals >= least, "{signals} signals: the judge has seen nothing");
            board.finish().await.expect("the daemon ends well");
        }
    });
}

/// A host that is answered in POST has its sensors shown as unavailable, and no register of them is read.
#[test]
fn in_post_nothing_is_read_and_nothing_is_shown() {
    run(async {
        let board = working().await;
        let answer = board.host().report(Report::S2).await;
        assert_eq!(answer.code, cc::OK);
        let count = || board.buses().iter().flat_map(|bus| bus.dimms()).map(Dimm::reads).sum::<u64>();
        let before = count();
        for name in ALL {
            assert!(board.fan_control().wait(name, SOON, is_gone).await, "{name}");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(count(), before, "registers were read while the gate was closed");
        assert_eq!(board.fan_control().take_failures(), []);
        board.finish().await.expect("the daemon ends well");
    });
}

#[test]
fn a_value_that_changes_is_shown_and_one_that_does_not_is_no_signal() {
    run(async {
        let board = working().await;
        let fan_control = board.fan_control();
        let [ddr4, ddr5] = board.buses() else { unreachable!("two buses") };
        let (before, reads_before) = (fan_control.signals(), ddr4.dimms()[0].reads());
        until("ten reads", || ddr4.dimms()[0].reads() >= reads_before + 10).await;
        assert_eq!(fan_control.signals(), before, "an unchanged value was signalled");
        ddr4.dimms()[1].set_temperature(-7);
        ddr5.dimms()[2].set_temperature(83);
        assert!(fan_control.wait("DIMM_TEMP_A1", SOON, |input| reads(input, -7.0)).await);
        assert!(fan_control.wait("DIMM_TEMP_B2", SOON, |input| reads(input, 83.0)).await);
        ddr5.dimms()[2].set_temperature(99);
        assert!(fan_control.wait("DIMM_TEMP_B2", SOON, |input| input.critical).await, "a critical alarm");
        assert_eq!(fan_control.take_failures().pop(), Some(("DIMM_TEMP_B2".to_owned(), "a critical alarm")));
        // It goes away with its alarm.
        board.host().report(Report::S2).await;
        assert!(fan_control.wait("DIMM_TEMP_B2", SOON, |input| is_gone(input) && !input.critical).await);
        board.finish().await.expect("the daemon ends well");
    });
}

#[test]
fn an_absent_dimm_is_unavailable_and_one_that_fails_is_seen_to() {
    run(async {
        let mut board = off(Firmware::F, X86).await;
        let [ddr4, ddr5] = board.buses() else { unreachable!("two buses") };
        ddr4.dimms()[3].behave(Manner::Absent);
        ddr5.dimms()[3].behave(Manner::Garbage);
        board.boot(Way::PowerOn).await.expect("a boot");
        let fan_control = board.fan_control().clone();
        for name in ALL.into_iter().filter(|name| !name.ends_with('3')) {
            assert!(fan_control.wait(name, SOON, |input| reads(input, 40.0)).await, "{name}");
        }
        // What answers is there, whatever it says; five reads later fan control sees that it cannot be read.
        // (`Functional` was false from the start, so it is not signalled.)
        let seen = |input: Input| input.value.is_nan() && input.available;
        assert!(fan_control.wait("DIMM_TEMP_B3", SOON, seen).await, "it answers with garbage");
        // Longer than five reads.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(fan_control.input("DIMM_TEMP_A3").is_some_and(is_unavailable), "it never answered");
        let failures = fan_control.take_failures();
        assert!(failures.iter().all(|(name, _)| name == "DIMM_TEMP_B3"), "{failures:?}");

        // It is put right, and then one that has answered falls silent: fan control must see that.
        let [ddr4, ddr5] = board.buses() else { unreachable!("two buses") };
        ddr5.dimms()[3].behave(Manner::Well);
        ddr4.dimms()[0].behave(Manner::Absent);
        assert!(fan_control.wait("DIMM_TEMP_A0", SOON, has_failed).await);
        ddr4.dimms()[0].behave(Manner::Garbage);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(fan_control.input("DIMM_TEMP_A0").is_some_and(has_failed), "garbage is no value");
        ddr4.dimms()[0].behave(Manner::Well);
        assert!(fan_control.wait("DIMM_TEMP_A0", SOON * 3, |input| reads(input, 40.0)).await);
        assert!(fan_control.wait("DIMM_TEMP_B3", SOON * 3, |input| reads(input, 40.0)).await);
        board.finish().await.expect("the daemon ends well");
    });
}

/// One bus hangs: its own sensors are not shown as valid, the other bus's are right, a host waits for `ack_cap` and no
/// longer, and all is well when it ends.
#[test]
fn a_bus_that_hangs_holds_up_nobody() {
    run(async {
        let board = working().await;
        let fan_control = board.fan_control();
        let [ddr4, ddr5] = board.buses() else { unreachable!("two buses") };
        ddr4.dimms()[1].behave(Manner::Hangs);
        for name in ["DIMM_TEMP_A0", "DIMM_TEMP_A1", "DIMM_TEMP_A2", "DIMM_TEMP_A3"] {
            assert!(fan_control.wait(name, SOON, |input| input.value.is_nan()).await, "{name} is old");
            assert!(fan_control.wait(name, SOON, has_failed).await, "{name}");
        }
        ddr5.dimms()[0].set_temperature(50);
        assert!(fan_control.wait("DIMM_TEMP_B0", SOON, |input| reads(input, 50.0)).await);
        let stuck = |view: &acpi_sim::observer::View| view.diagnoses.iter().any(|name| name == "BusStuck");
        assert!(board.observer().wait(SOON, stuck).await, "BusStuck");

        let answer = board.host().report(Report::S2).await;
        assert_eq!(answer.code, cc::OK);
        // `ack_cap` is 250 ms; the report is two Sets, of which the first waits.
        let most = Duration::from_millis(300) + board.lateness();
        assert!(
            answer.took >= Duration::from_millis(240) && answer.took <= most,
            "{:?} of {most:?}",
            answer.took
        );
        for name in ALL {
            assert!(fan_control.wait(name, SOON, is_gone).await, "{name}");
        }
        ddr4.dimms()[1].behave(Manner::Well);
        assert!(board.observer().wait(SOON, |view| !stuck(view)).await, "BusStuck is over");
        board.host().report(Report::S0).await;
        for name in ALL {
            let degrees = if name == "DIMM_TEMP_B0" { 50.0 } else { 40.0 };
            assert!(fan_control.wait(name, SOON, |input| reads(input, degrees)).await, "{name}");
        }
        board.finish().await.expect("the daemon ends well");
    });
}

/// What bmcweb's and ipmid's developers look for.
#[test]
fn an_object_has_all_that_redfish_and_ipmi_read() {
    run(async {
        let board = working().await;
        let all = board.fan_control().discover("DIMM_TEMP_A0").await.expect("GetAll of no interface");
        let number = |name: &str| match all.get(name) {
            Some(Variant::F64(number)) => *number,
            other => unreachable!("{name}: {other:?}"),
        };
        assert!((number("Value") - 40.0).abs() < 0.01);
        assert_eq!((number("MinValue"), number("MaxValue")), (-128.0, 127.0));
        assert_eq!((number("WarningHigh"), number("CriticalHigh")), (85.0, 95.0));
        assert!(number("WarningLow").is_nan() && number("CriticalLow").is_nan());
        let unit = "xyz.openbmc_project.Sensor.Value.Unit.DegreesC";
        assert_eq!(all.get("Unit"), Some(&Variant::from(unit)));
        let flags = ["Available", "Functional"].map(|name| all.get(name).cloned());
        assert_eq!(flags, [Some(Variant::Bool(true)), Some(Variant::Bool(true))]);
        assert!(all.contains_key("Associations"));
        board.finish().await.expect("the daemon ends well");
    });
}

/// The time from the closing to the answer while both buses are busy is one transfer's.
#[test]
fn a_host_waits_for_one_transfer_only() {
    run(async {
        let board = working().await;
        let mut waits = Vec::new();
        for _ in 0..20 {
            let began = Instant::now();
            board.host().report(Report::S2).await;
            waits.push(began.elapsed());
            board.host().report(Report::S0).await;
        }
        waits.sort_unstable();
        assert!(waits[10] < Duration::from_millis(50) + board.lateness(), "{waits:?}");
        board.finish().await.expect("the daemon ends well");
    });
}
