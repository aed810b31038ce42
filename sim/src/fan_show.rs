// SPDX-License-Identifier: Apache-2.0
//! The part of the show that is about the fans: the same boots with the daemon, and with what a BMC has without it.

use std::time::Duration;

use crate::{
    Result,
    board::{Board, S2_PWM},
    clock::secs,
    fan_control::{FanControl, Record, Seen, ZONES},
    host::{Firmware, Report},
    hwmon_temp::PowerState,
    plan,
    setup::{Bmc, Setup, Way},
    tally::Tally,
    timeline::{Detail, Who, print},
};

/// Slow enough for temperatures that are read every half second: without the daemon that takes a tenth of a DIMM bus, as the
/// board's own poller does, since a transfer takes real time.
pub const SPEED: u32 = 15;
const SOON: Duration = Duration::from_secs(20);
/// Between two things that happen, on the board's clock.
const A_WHILE: Duration = secs(3);
/// What both boards go through.
const WAYS: [Way; 3] = [Way::PowerOn, Way::OsShutdown, Way::DcLoss];

fn setup(bmc: Bmc, detail: Detail) -> Setup {
    Setup { bmc, detail, heats: true, tells_all: true, ..Setup::new(Firmware::F, plan::X86_PROGRESS, SPEED) }
}

/// Performs it on a board with the daemon, where fan control also reloads and restarts in POST.
pub async fn with_daemon(detail: Detail) -> Result<Tally> {
    let mut board = Board::start(setup(Bmc::AcpiStated, detail)).await?;
    for way in WAYS {
        board.boot(way).await?;
    }
    board.reset_and_report().await;
    let held = |zones: &FanControl| zones.is_manual(ZONES[0]) == Some(true) && zones.slowest() >= S2_PWM;
    expect(&mut board, "the DIMMs' fans are held", held).await;
    board.timeline().row(Who::Other, "somebody takes Manual back, by hand, while memory trains");
    board.zones().set_manual(ZONES[0], false).await?;
    expect(&mut board, "they are held again", held).await;
    board.zones().reload();
    let reloaded = move |zones: &FanControl| zones.record().builds == 2 && held(zones);
    expect(&mut board, "they are held again: a reload forgets Manual", reloaded).await;
    board.zones().restart().await?;
    let restarted = move |zones: &FanControl| zones.record().builds == 3 && held(zones);
    expect(&mut board, "they are held again: a restart forgets it too", restarted).await;
    board.host().report(Report::S0).await;
    expect(&mut board, "they are given back", |zones| zones.is_manual(ZONES[0]) == Some(false)).await;
    summary(&board.zones().record());
    board.finish().await
}

/// Performs it on a board without: hwmontempsensor reads the same sensors.
pub async fn without_daemon(power_state: PowerState, detail: Detail) -> Result<Tally> {
    let mut board = Board::start(setup(Bmc::Without(power_state), detail)).await?;
    for way in WAYS {
        board.boot(way).await?;
    }
    summary(&board.zones().record());
    board.finish().await
}

/// Waits until that holds, tells it, and lets some time pass.
async fn expect(board: &mut Board, what: &str, condition: impl Fn(&FanControl) -> bool) {
    if board.zones().wait(SOON, condition).await {
        board.timeline().row(Who::Fans, what);
    } else {
        board.fault(&format!("it never came to this: {what}"));
    }
    tokio::time::sleep(A_WHILE / SPEED).await;
}

/// The times a cycle of a zone found a failed input where the one before had not.
fn entries(record: &Record, zone: usize) -> usize {
    let of = record.failsafes.iter().filter(|one| one.zone == zone && one.seen == Seen::ByACycle);
    let mut times: Vec<_> = of.map(|one| one.at).collect();
    times.dedup();
    times.len()
}

fn summary(record: &Record) {
    for (zone, time) in record.in_failsafe.iter().enumerate() {
        let (times, time) = (entries(record, zone), time.as_secs_f64());
        let might =
            record.failsafes.iter().filter(|one| one.zone == zone && one.seen == Seen::BetweenSignals);
        let might =
            if times == 0 && might.count() > 0 { "; by chance: its sensors looked broken" } else { "" };
        print(&format!("   zone{zone}: {times} times in failsafe, {time:.1} s in all{might}"));
    }
    print(&format!("   the DIMMs' fans were held {} times", record.holds));
}
