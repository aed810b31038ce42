// SPDX-License-Identifier: Apache-2.0
//! The barrier with units to quiesce, on a real bus with a systemd that takes its time: rules 3.3, note 32.

use std::time::{Duration, Instant};

use crate::support::{
    peer::{Manners, Peer},
    power::PowerDouble,
    private_bus::PrivateBus,
    rig::{PATIENCE, Rig, set},
};
use tokio::time::timeout;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const CAP: Duration = Duration::from_millis(600);

async fn world() -> (Rig, Peer, PowerDouble) {
    let bus = PrivateBus::start().expect("a private bus");
    let systemd = Peer::start(bus.address(), &[SYSTEMD], []).await;
    let power = PowerDouble::start(bus.address(), "On", "Running", "").await.expect("a power control");
    let rig = Rig::on(bus, 1000, |settings| {
        for host in &mut settings.hosts {
            host.quiesce = vec!["other.service".to_owned()];
            host.timing.ack_cap = CAP;
        }
    })
    .await;
    (rig, systemd, power)
}

/// What was said to systemd of the unit, oldest first.
fn said(systemd: &Peer) -> Vec<String> {
    let of = |(member, strings): (String, Vec<String>)| {
        (strings.first().map(String::as_str) == Some("other.service")).then_some(member)
    };
    systemd.calls().into_iter().filter_map(of).collect()
}

#[tokio::test]
async fn a_set_is_answered_when_the_units_have_stopped_and_they_start_again_with_the_gate() {
    let (rig, systemd, _power) = world().await;
    rig.open().await;
    rig.until("the unit runs", async || said(&systemd).last().is_some_and(|last| last == "StartUnit")).await;

    let client = rig.client.clone();
    let mut pending = tokio::spawn(async move { set(&client, "S2_D2").await });
    rig.until("the unit is stopped", async || said(&systemd).last().is_some_and(|last| last == "StopUnit"))
        .await;
    assert!(!rig.is_open(), "the gate is first");
    assert!(
        timeout(Duration::from_millis(50), &mut pending).await.is_err(),
        "answered while the unit is still stopping"
    );
    let watch = rig.watch();
    systemd.job_removed().await;
    timeout(PATIENCE, pending).await.expect("answered now").expect("the Set");
    assert!(watch.taken() < CAP / 2, "it was the job, not the cap");

    rig.open().await;
    rig.until("the unit runs again", async || said(&systemd).last().is_some_and(|last| last == "StartUnit"))
        .await;
}

/// Nobody knows when systemd comes round: `ack_cap` is the most a host waits.
#[tokio::test]
async fn a_systemd_that_does_not_come_round_costs_ack_cap_and_no_more() {
    for manners in [Manners::Good, Manners::Silent] {
        let (rig, systemd, _power) = world().await;
        rig.open().await;
        systemd.mind(manners);
        let (watch, begin) = (rig.watch(), Instant::now());
        rig.set("S2_D2").await;
        let (taken, real) = (watch.taken(), begin.elapsed());
        assert!(real >= CAP * 9 / 10 && taken < CAP * 2, "{manners:?}: {taken:?} of {real:?}");
        assert!(!rig.is_open());
    }
}

/// A unit that cannot be stopped is not waited for.
#[tokio::test]
async fn a_systemd_that_answers_errors_costs_nothing() {
    let (rig, systemd, _power) = world().await;
    rig.open().await;
    systemd.mind(Manners::Errors);
    let watch = rig.watch();
    rig.set("S2_D2").await;
    let taken = watch.taken();
    assert!(taken < CAP / 2, "{taken:?}");
}
