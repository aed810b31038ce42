// SPDX-License-Identifier: Apache-2.0
//! The fans: phosphor-pid-control's zones through power cycles, with the daemon and without it, and fan control that reloads and
//! restarts while the daemon holds it.

use std::time::Duration;

use crate::common::run;
use acpi_sim::{
    bmc_sensors::INLET,
    board::{Board, HELD, S2_PWM},
    clock::sleep,
    fan_control::{Failsafe, FanControl, Seen, ZONES},
    host::{Firmware, Report},
    hwmon_temp::PowerState,
    plan::{X86, X86_BARE},
    power_control::Flavour,
    setup::{Bmc, CPU_SENSOR, MIN_POST, Setup, Way},
};
use acpi_stated::shell::clock::Clock;

const SPEED: u32 = 100;
/// Of the temperatures. Five failed reads are then 0.2 s of real time: the daemon hears of a power loss long before, also on a
/// machine that is busy.
const POLL: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(10);
const CYCLES: usize = 100;
/// How often Manual that is dropped is set again, at least.
const DROPS: u32 = 5;

/// Power cycles of every kind, in an order that is always the same: a linear congruential generator picks them.
fn mixed(cycles: usize) -> Vec<Way> {
    const WAYS: [Way; 8] = [
        Way::OsShutdown,
        Way::SlowOsShutdown,
        Way::PowerCycle,
        Way::ShortCycle,
        Way::DcLoss,
        Way::ForcedOff,
        Way::WarmReset,
        Way::ResetInPost,
    ];
    let mut seed = 0x5eed_u32;
    let picked = std::iter::repeat_with(move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        WAYS.into_iter().cycle().nth((seed >> 16) as usize % WAYS.len()).expect("there are some")
    });
    std::iter::once(Way::PowerOn).chain(picked).take(cycles).collect()
}

fn board(firmware: Firmware, power: Flavour, bmc: Bmc) -> Setup {
    Setup { bmc, heats: true, poll: POLL, ..Setup::new(firmware, power, SPEED) }
}

fn held(zones: &FanControl) -> bool {
    zones.is_manual(ZONES[0]) == Some(true) && zones.slowest() >= S2_PWM
}

/// The zones through 100 mixed power cycles, on boards of three kinds: never in failsafe, nor could they have been between any
/// two signals; the DIMMs' fans are held in every POST and given back after it.
#[test]
fn no_zone_is_in_failsafe_through_100_mixed_power_cycles() {
    let boards = [(Firmware::F, X86), (Firmware::M, Flavour::Psm), (Firmware::FLate, X86_BARE)];
    let cycles = mixed(CYCLES);
    let mut done = 0;
    for ((firmware, power), share) in boards.into_iter().zip(cycles.chunks(CYCLES.div_ceil(boards.len()))) {
        run(async {
            let mut board = Board::start(board(firmware, power, Bmc::AcpiStated)).await.expect("a board");
            // What nobody can see (rules 3.2, last paragraph) is a power cycle here; the first of a board is from off.
            let seen = share.iter().map(|way| if board.protectable(*way) { *way } else { Way::PowerCycle });
            let ways: Vec<_> = std::iter::once(Way::PowerOn).chain(seen.skip(1)).collect();
            for (number, way) in ways.iter().enumerate() {
                let way = if number % 8 == 7 {
                    // Long enough for a sensor to fail that is read without power.
                    board.force_off().await.expect("off");
                    sleep(Clock::scaled(SPEED), POLL * 6).await;
                    Way::PowerOn
                } else {
                    *way
                };
                board.boot(way).await.expect("a boot");
                for zone in ZONES {
                    assert_eq!(
                        board.zones().is_manual(zone),
                        Some(false),
                        "{way}: {zone} when the host works"
                    );
                }
            }
            let record = board.zones().record();
            let late = board.lateness();
            assert_eq!(record.failsafes, [], "{firmware} (this machine was up to {late:?} late)");
            assert_eq!(record.builds, 1, "no sensor came or went, so nothing was reloaded");
            assert!(record.holds >= ways.len() as u64, "{} holds", record.holds);
            // A firmware that does not report S2 is watched from power-on, so not in a warm reset.
            let unseen = |way: &&Way| !firmware.reports(Report::S2) && **way == Way::WarmReset;
            let watched = ways.len() - ways.iter().filter(unseen).count();
            assert!(record.posts.len() >= watched, "{} times in POST of {watched}", record.posts.len());
            done += ways.len();
            let tally = board.finish().await.expect("the daemon ends well");
            assert_eq!(tally.reached_os, ways.len() as u64);
            // On a machine that is late everything is.
            let bound = HELD + tally.lateness;
            for post in &record.posts {
                let after = post.held_after.expect("held in POST");
                assert!(after <= bound && post.slowest >= S2_PWM, "{post:?}, {bound:?}");
            }
        });
    }
    assert_eq!(done, CYCLES);
}

/// What the zones made of the first of the same power cycles without the daemon, boot by boot.
fn without(power_state: PowerState, cycles: usize) -> Vec<Vec<Failsafe>> {
    run(async {
        let bmc = Bmc::Without(power_state);
        let setup = Setup { bmc, heats: true, ..Setup::new(Firmware::F, X86, 50) };
        let mut board = Board::start(setup).await.expect("a board");
        let mut boots = Vec::new();
        for way in mixed(CYCLES).into_iter().take(cycles) {
            let before = board.zones().record().failsafes.len();
            board.boot(way).await.expect("a boot");
            boots.push(board.zones().record().failsafes.into_iter().skip(before).collect());
        }
        let record = board.zones().record();
        assert!(!record.failsafes.iter().any(|one| one.input == INLET), "that one has power");
        assert_eq!(record.holds, 0, "nobody holds anything");
        // The reports of S2 are refused, and the fans are where fan control has them.
        assert!(record.posts.len() >= cycles);
        if power_state == PowerState::On {
            let left_alone = record.posts.iter().filter(|post| post.held_after.is_none()).count();
            assert!(left_alone > cycles / 2, "memory trains with slow fans: {left_alone} of {cycles}");
        }
        board.finish().await.expect("it ends well");
        boots
    })
}

fn with_both_zones(boots: &[Vec<Failsafe>], seen: Seen) -> usize {
    let of = |boot: &&Vec<Failsafe>, zone| boot.iter().any(|one| one.zone == zone && one.seen == seen);
    boots.iter().filter(|boot| of(boot, 0) && of(boot, 1)).count()
}

/// The same power cycles on a board whose temperatures dbus-sensors reads, as it does without a `PowerState`: a sensor that is
/// read without power fails with its fifth read, and is NaN while it is Available. A cycle of each zone finds it.
#[test]
fn without_the_daemon_the_zones_go_to_failsafe() {
    let boots = without(PowerState::Always, 20);
    let found = with_both_zones(&boots, Seen::ByACycle);
    assert!(found >= boots.len() / 2, "{found} of {}", boots.len());
    assert!(boots.iter().flatten().any(|one| one.input == CPU_SENSOR));
}

/// With `PowerState` On, and `InputUnavailableAsFailed` false, it is better and not good: a sensor that goes is NaN before it is
/// unavailable, and one that comes is Available before it has a value. Whether a cycle falls in between is chance.
#[test]
fn without_the_daemon_the_best_configuration_leaves_failsafe_to_chance() {
    let boots = without(PowerState::On, 20);
    let possible = with_both_zones(&boots, Seen::BetweenSignals);
    assert!(possible >= boots.len() / 2, "{possible} of {}", boots.len());
}

/// A board whose host is in POST, has reported S2, and stays there; the DIMMs' fans are held.
async fn in_post() -> Board {
    let mut board = Board::start(board(Firmware::F, X86, Bmc::AcpiStated)).await.expect("a board");
    board.boot(Way::PowerOn).await.expect("a boot");
    board.reset_and_report().await;
    assert!(board.zones().wait(SOON, held).await, "held in POST");
    board
}

/// The host works again, as long after its reset as any host needs, and fan control has its zones, drives by its own curve, and is not in failsafe.
async fn is_given_back(board: Board) {
    sleep(Clock::scaled(SPEED), MIN_POST + Duration::from_secs(1)).await;
    board.host().report(Report::S0).await;
    let free = |zones: &FanControl| {
        ZONES
            .iter()
            .all(|zone| zones.is_manual(zone) == Some(false) && zones.is_failsafe(zone) == Some(false))
            && zones.slowest() < S2_PWM
    };
    assert!(board.zones().wait(SOON, free).await, "given back: {:?}", board.zones().record());
    board.finish().await.expect("the daemon ends well");
}

/// Fan control reloads its zones in POST: they vanish and come back without Manual, and nothing but their coming says so.
#[test]
fn fan_control_that_reloads_in_post_is_held_again() {
    run(async {
        let board = in_post().await;
        for builds in 2..5 {
            board.zones().reload();
            let rebuilt = |zones: &FanControl| zones.record().builds == builds;
            assert!(board.zones().wait(SOON, rebuilt).await, "reloaded");
            assert!(board.zones().wait(SOON, held).await, "held again");
        }
        assert_eq!(board.zones().is_manual(ZONES[1]), Some(false), "the other zone is nobody's");
        is_given_back(board).await;
    });
}

#[test]
fn fan_control_that_restarts_in_post_is_held_again() {
    run(async {
        let board = in_post().await;
        board.zones().restart().await.expect("it restarts");
        assert!(board.zones().wait(SOON, held).await, "held again");
        is_given_back(board).await;
    });
}

#[test]
fn manual_that_somebody_drops_in_post_is_set_again() {
    run(async {
        let board = in_post().await;
        let holds = board.zones().record().holds;
        board.zones().set_manual(ZONES[0], false).await.expect("a write");
        let again = |zones: &FanControl| held(zones) && zones.record().holds > holds;
        assert!(board.zones().wait(SOON, again).await, "held again");
        is_given_back(board).await;
    });
}

/// Fan control that was there first has nothing but the board's own sensor, and learns of ours by their announcement alone. All of them
/// come in one burst, so that it reloads once.
#[test]
fn fan_control_that_was_there_first_learns_of_every_sensor() {
    run(async {
        let setup = Setup { fans_first: true, heats: false, ..board(Firmware::F, X86, Bmc::AcpiStated) };
        // It reloads 2 s of the board's after the last announcement, and the mapper has to have looked at us by then: 0.2 s of a machine
        // that may be busy.
        let mut board = Board::start(setup.at_speed(10)).await.expect("a board");
        let known = board.zones().wait(SOON, FanControl::knows_all).await;
        assert!(known, "it knows {:?}", board.fan_control().inputs().into_keys());
        assert_eq!(board.zones().record().builds, 2, "before us, and after us");
        board.boot(Way::PowerOn).await.expect("a boot");
        // It drives by them.
        board.buses()[1].dimms()[2].set_temperature(88);
        let fast = |zones: &FanControl| zones.slowest() == 255;
        assert!(board.zones().wait(SOON, fast).await, "a hot DIMM: {}", board.zones().slowest());
        assert_eq!(board.zones().record().builds, 2);
        board.finish().await.expect("the daemon ends well");
    });
}

/// Our restart in POST makes fan control reload, since sensors are announced; that takes Manual from the zone that the new process has
/// just taken. It is held again, and whoever drops Manual afterwards meets the whole of the patience there is for that.
#[test]
fn a_restart_of_the_daemon_in_post_holds_the_fans_through_the_reload_that_follows() {
    run(async {
        let mut board = in_post().await;
        let builds = board.zones().record().builds;
        board.restart_daemon().await.expect("it restarts");
        let reloaded = |zones: &FanControl| zones.record().builds == builds + 1 && held(zones);
        assert!(board.zones().wait(SOON, reloaded).await, "reloaded and held: {:?}", board.zones().record());
        for drop in 1..=DROPS {
            let holds = board.zones().record().holds;
            board.zones().set_manual(ZONES[0], false).await.expect("a write");
            let again = |zones: &FanControl| held(zones) && zones.record().holds > holds;
            assert!(board.zones().wait(SOON, again).await, "held again after drop {drop}");
        }
        assert_eq!(board.zones().record().builds, builds + 1, "announced once");
        is_given_back(board).await;
    });
}

/// Manual blinds fan control for everything in the zone, so the daemon looks at the guard in its place.
#[test]
fn a_guard_that_gets_too_hot_while_its_zone_is_blind_drives_the_fans_up() {
    run(async {
        let board = in_post().await;
        board.bmc_sensors().inlet_alarm(true).await.expect("a signal");
        assert!(
            board.zones().wait(SOON, |zones| zones.slowest() == 255).await,
            "{}",
            board.zones().slowest()
        );
        assert_eq!(board.zones().is_manual(ZONES[0]), Some(true));
        board.bmc_sensors().inlet_alarm(false).await.expect("a signal");
        is_given_back(board).await;
    });
}
