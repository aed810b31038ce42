// SPDX-License-Identifier: Apache-2.0
//! Boot progress through boots, as Redfish reads it: with an owner that stamps it (phosphor-state-manager) and with one that does not
//! (a patched x86-power-control), and with a UEFI that knows better.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::{run, setup, until};
use acpi_sim::{
    board::Board,
    host::Firmware,
    objects::now_us,
    plan::{X86, X86_PROGRESS},
    power_control::Flavour,
    progress,
    setup::{Setup, Way},
};
use tokio::task::JoinSet;

/// From UEFI's first word to the operating system, as far as anybody here goes.
const ORDER: [&str; 6] =
    ["Unspecified", "PrimaryProcInit", "MemoryInit", "PCIInit", "SystemInitComplete", "OSStart"];
const WAYS: [Way; 6] =
    [Way::PowerOn, Way::OsShutdown, Way::PowerCycle, Way::ResetInPost, Way::DcLoss, Way::WarmReset];
/// What a stamp may differ from when the stage was seen: a busy machine's lateness.
const STAMP_SLACK_US: u64 = 3_000_000;

/// A board, and every stage that was signalled on it, in order.
struct Watched {
    board: Board,
    stages: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Watched {
    async fn start(setup: Setup) -> Self {
        let board = Board::start(setup).await.expect("a board");
        let stages: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&stages);
        let say = move |stage: &str| seen.lock().expect("no panic").push(stage.to_owned());
        let mut tasks = JoinSet::new();
        progress::follow(board.address(), say, &mut tasks).await.expect("a listener");
        Self { board, stages, _tasks: tasks }
    }

    /// One boot; the stages that it showed, without what the end of the one before left.
    async fn boot(&mut self, way: Way, ends_with: &str) -> Vec<String> {
        self.stages.lock().expect("no panic").clear();
        self.board.boot(way).await.expect("a boot");
        let stages = Arc::clone(&self.stages);
        let last = || stages.lock().expect("no panic").last().cloned();
        until(&format!("{way} ends with {ends_with}"), || last().as_deref() == Some(ends_with)).await;
        // Nothing follows.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (stage, stamp) = self.board.power().progress().expect("somebody has it");
        assert_eq!(stage, ends_with, "{way}");
        assert!(
            now_us().abs_diff(stamp) < STAMP_SLACK_US,
            "{way}: {stage} is stamped {stamp}, now is {}",
            now_us()
        );
        let stages = stages.lock().expect("no panic").clone();
        let begin = stages.iter().rposition(|stage| stage == "Unspecified").map_or(0, |at| at + 1);
        stages.get(begin..).expect("some").to_vec()
    }
}

fn never_backwards(stages: &[String]) -> bool {
    let at = |stage: &String| ORDER.iter().position(|known| known == stage).expect("a known stage");
    stages.is_sorted_by_key(at)
}

#[test]
fn it_follows_the_host_with_owners_of_both_kinds() {
    for power in [Flavour::Psm, X86_PROGRESS] {
        run(async {
            let setup = Setup { writes_progress: true, ..setup(Firmware::F, power) };
            let mut watched = Watched::start(setup).await;
            for way in WAYS {
                let stages = watched.boot(way, "OSStart").await;
                assert_eq!(stages, ["PrimaryProcInit", "OSStart"], "{power:?}, {way}");
            }
            watched.stages.lock().expect("no panic").clear();
            watched.board.force_off().await.expect("off");
            let off = || watched.board.power().progress().is_some_and(|(stage, _)| stage == "Unspecified");
            until("off", off).await;
            watched.board.finish().await.expect("the daemon ends well");
        });
    }
}

/// A UEFI that sends progress codes is finer than the daemon, which writes nothing over it until the next boot.
#[test]
fn it_is_left_to_a_uefi_that_knows_better() {
    for power in [Flavour::Psm, X86_PROGRESS] {
        run(async {
            let setup = Setup { sends_progress: true, writes_progress: true, ..setup(Firmware::F, power) };
            let mut watched = Watched::start(setup).await;
            for way in WAYS {
                let stages = watched.boot(way, "SystemInitComplete").await;
                // A silent reset in POST runs through memory initialisation again: UEFI says so itself.
                let firmware = stages.iter().skip(1);
                assert!(
                    firmware.clone().all(|stage| stage != "PrimaryProcInit" && stage != "OSStart"),
                    "{way}: {stages:?}"
                );
                assert_eq!(stages.first().map(String::as_str), Some("PrimaryProcInit"), "{way}: {stages:?}");
                assert!(never_backwards(&stages), "{way}: {stages:?}");
                assert_eq!(stages.last().map(String::as_str), Some("SystemInitComplete"));
            }
            watched.board.finish().await.expect("the daemon ends well");
        });
    }
}

/// x86-power-control as it is has none, and nobody makes one up.
#[test]
fn where_nobody_has_it_nothing_is_written() {
    run(async {
        let setup = Setup { writes_progress: true, ..setup(Firmware::F, X86) };
        let mut watched = Watched::start(setup).await;
        watched.board.boot(Way::PowerOn).await.expect("a boot");
        assert!(watched.board.power().progress().is_none());
        assert!(watched.stages.lock().expect("no panic").is_empty());
        watched.board.finish().await.expect("the daemon ends well");
    });
}
