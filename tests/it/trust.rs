// SPDX-License-Identifier: Apache-2.0
//! Who is believed about a host, on a bus where anyone may take any name that is free, as with OpenBMC's dbus-perms (note B1).
//! The tests need root: what a stranger does, nobody does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{
    nobody::{NOBODY, as_nobody},
    peer::{Peer, key},
    power::PowerDouble,
    private_bus::PrivateBus,
    rig::{NAME, PATH, PATIENCE, PROPERTIES, Rig, TRACKER, connect},
};
use acpi_stated::config::{Bus, Host, Settings};
use zbus::{Connection, Variant};

/// On the clock of [`rig`] ten minutes: whatever would open the gate has opened it.
const LONG: Duration = Duration::from_millis(600);

/// dbus-perms, and our policy after it.
fn bus() -> PrivateBus {
    let shipped =
        concat!(env!("CARGO_MANIFEST_DIR"), "/dbus/xyz.openbmc_project.Control.Power.ACPIPowerState.conf");
    let rules = format!(
        r#"
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="signal"/>
    <allow send_destination="*"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
  <include>{shipped}</include>"#
    );
    PrivateBus::with_policy(&rules).expect("a private bus")
}

async fn rig(bus: Arc<PrivateBus>, speed: u32, change: impl FnOnce(&mut Settings)) -> Rig {
    Rig::remembering(bus, speed, None, change).await
}

/// One word of ours as anyone may read it.
async fn read(client: &Connection, interface: &str, property: &str) -> Variant<'static> {
    let body = (interface, property);
    let reply = client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Get", &body).await.unwrap();
    reply.body().deserialize::<Variant<'_>>().unwrap().try_to_owned().unwrap().into()
}

async fn reasons(client: &Connection) -> Vec<String> {
    Vec::try_from(read(client, TRACKER, "GateReasons").await).unwrap()
}

async fn until_reasons(client: &Connection, expected: &[&str]) {
    let began = Instant::now();
    loop {
        let reasons = reasons(client).await;
        if reasons == expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{reasons:?}, and never {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn trusted_post(settings: &mut Settings) {
    for host in &mut settings.hosts {
        host.evidence.post_complete_trusted = true;
    }
}

/// phosphor-state-manager has no name of its own for OS status, so that one is free.
#[tokio::test]
async fn a_name_that_nobody_held_does_not_end_post() {
    as_nobody(
        "trust::a_name_that_nobody_held_does_not_end_post",
        bus,
        async |bus| {
            let power = PowerDouble::nameless(bus.address(), "On", "Running", "Inactive").await.unwrap();
            power
                .own(&["xyz.openbmc_project.State.Chassis0", "xyz.openbmc_project.State.Host0"])
                .await
                .unwrap();
            let rig = rig(bus, 1000, trusted_post).await;
            rig.set("S0_G0_D0").await;
            rig.until("POST goes on", async || rig.reasons().await == ["FirmwareAtWork"]).await;
            (rig, power)
        },
        async |address| {
            let client = connect(&address).await;
            let rogue = PowerDouble::nameless(&address, "On", "Running", "Standby").await.unwrap();
            rogue.own(&["xyz.openbmc_project.State.OperatingSystem0"]).await.unwrap();
            rogue.own(&["xyz.openbmc_project.State.OperatingSystem"]).await.unwrap();
            rogue.os("Standby").await.unwrap();
            rogue.said().await.unwrap();
            tokio::time::sleep(LONG).await;
            assert_eq!(reasons(&client).await, ["FirmwareAtWork"]);
        },
    )
    .await;
}

/// A separate service for it, that is believed, is heard.
#[tokio::test]
async fn os_status_of_a_service_of_its_own_is_heard() {
    let bus = Arc::new(bus());
    let power = PowerDouble::nameless(bus.address(), "On", "Running", "").await.unwrap();
    power.own(&["xyz.openbmc_project.State.Chassis0", "xyz.openbmc_project.State.Host0"]).await.unwrap();
    let other = PowerDouble::nameless(bus.address(), "", "", "Inactive").await.unwrap();
    other.own(&["xyz.openbmc_project.State.OperatingSystem0"]).await.unwrap();
    let rig = rig(bus, 1000, trusted_post).await;
    rig.set("S0_G0_D0").await;
    rig.until("POST goes on", async || rig.reasons().await == ["FirmwareAtWork"]).await;
    other.os("Standby").await.unwrap();
    rig.until("the gate is open", async || rig.is_open()).await;
}

#[tokio::test]
async fn a_stranger_is_no_power_control() {
    as_nobody(
        "trust::a_stranger_is_no_power_control",
        bus,
        async |bus| {
            let rig = rig(bus, 1000, |_| {}).await;
            rig.set("S0_G0_D0").await;
            rig
        },
        async |address| {
            let client = connect(&address).await;
            // Nobody tells anything: the report counts.
            until_reasons(&client, &[]).await;
            let rogue = PowerDouble::start(&address, "On", "Running", "").await.unwrap();
            until_reasons(&client, &["EvidenceMissing"]).await;
            rogue.chassis("On").await.unwrap();
            rogue.host("Running").await.unwrap();
            rogue.chassis("Off").await.unwrap();
            rogue.said().await.unwrap();
            tokio::time::sleep(LONG).await;
            assert_eq!(reasons(&client).await, ["EvidenceMissing"], "he is not heard, and not believed");
            assert_eq!(
                String::try_from(read(&client, NAME, "SysACPIStatus").await).unwrap(),
                format!("{NAME}.ACPI.S0_G0_D0")
            );
            rogue.leave().await;
            until_reasons(&client, &[]).await;
        },
    )
    .await;
}

/// The service has the name without a number; the stranger takes the one with it.
#[tokio::test]
async fn a_better_name_does_not_make_a_stranger_believed() {
    as_nobody(
        "trust::a_better_name_does_not_make_a_stranger_believed",
        bus,
        async |bus| {
            let power = PowerDouble::nameless(bus.address(), "Off", "Off", "").await.unwrap();
            power
                .own(&["xyz.openbmc_project.State.Chassis", "xyz.openbmc_project.State.Host"])
                .await
                .unwrap();
            let rig = rig(bus, 1000, |_| {}).await;
            rig.until_state("S5_G2").await;
            (rig, power)
        },
        async |address| {
            let client = connect(&address).await;
            let rogue = PowerDouble::nameless(&address, "On", "Running", "").await.unwrap();
            rogue
                .own(&["xyz.openbmc_project.State.Chassis0", "xyz.openbmc_project.State.Host0"])
                .await
                .unwrap();
            rogue.chassis("On").await.unwrap();
            rogue.said().await.unwrap();
            tokio::time::sleep(LONG).await;
            assert_eq!(reasons(&client).await, ["State", "ChassisOff"]);
        },
    )
    .await;
}

/// And is heard: through the shipped policy, which says who may send to us, as soon as it signals. On a clock as fast as life it
/// would be found after 10 s otherwise.
#[tokio::test]
async fn a_power_control_with_a_uid_that_is_trusted_is_believed() {
    as_nobody(
        "trust::a_power_control_with_a_uid_that_is_trusted_is_believed",
        bus,
        async |bus| {
            let rig = rig(bus, 1, |settings| {
                for host in &mut settings.hosts {
                    host.trusted_uids = vec![NOBODY];
                    host.timing.settle = Duration::from_millis(20);
                }
            })
            .await;
            rig.set("S0_G0_D0").await;
            rig
        },
        async |address| {
            let client = connect(&address).await;
            let power = PowerDouble::start(&address, "On", "Running", "").await.unwrap();
            until_reasons(&client, &[]).await;
            let told = Instant::now();
            power.chassis("Off").await.unwrap();
            until_reasons(&client, &["State", "ChassisOff"]).await;
            assert!(told.elapsed() < Duration::from_secs(5), "it was found, and not heard");
            let diagnoses = Vec::<String>::try_from(read(&client, TRACKER, "Diagnoses").await).unwrap();
            assert!(!diagnoses.contains(&"EvidenceMute".to_owned()));
            // A Set is root's and ours all the same.
            let body = (NAME, "SysACPIStatus", Variant::from(format!("{NAME}.ACPI.S0_G0_D0")));
            assert!(client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Set", &body).await.is_err());
        },
    )
    .await;
}

/// Note B2. Ten times faster than life: every second.
#[tokio::test]
async fn what_power_control_does_not_signal_is_found() {
    let rig = rig(Arc::new(bus()), 10, |_| {}).await;
    let power = PowerDouble::start(rig.bus.address(), "On", "Running", "").await.unwrap();
    rig.open().await;
    power.host_in_silence("Off").unwrap();
    rig.until("the gate is closed", async || rig.reasons().await == ["ResetSuspected"]).await;
    rig.diagnosed("EvidenceMute", true).await;
    power.host("Running").await.unwrap();
    rig.diagnosed("EvidenceMute", false).await;
}

/// The same of a host that is off, where its Off opens a bus for another host's sensors: it may be in POST by now.
#[tokio::test]
async fn an_off_that_opens_a_bus_is_asked_for_again() {
    let bus = Arc::new(bus());
    let state = |id: u32, kind: &str| format!("/xyz/openbmc_project/state/{kind}{id}");
    let chassis = |id| key(&state(id, "chassis"), "xyz.openbmc_project.State.Chassis", "CurrentPowerState");
    let host = |id| key(&state(id, "host"), "xyz.openbmc_project.State.Host", "CurrentHostState");
    let is = |what: &str| Variant::from(format!("xyz.openbmc_project.State.{what}"));
    let (on, off) = (is("Chassis.PowerState.On"), is("Chassis.PowerState.Off"));
    let names = [0, 1].map(|id| ["Chassis", "Host"].map(|of| format!("xyz.openbmc_project.State.{of}{id}")));
    let names: Vec<_> = names.as_flattened().iter().map(String::as_str).collect();
    let values = [
        (chassis(0), on.clone()),
        (host(0), is("Host.HostState.Running")),
        (chassis(1), off),
        (host(1), is("Host.HostState.Off")),
    ];
    let power = Peer::start(bus.address(), &names, values).await;
    let rig = rig(Arc::clone(&bus), 10, |settings| {
        settings.hosts.push(Host::new(1));
        settings.buses = vec![Bus::new(3, vec![0, 1])];
    })
    .await;
    rig.open().await;
    let diagnoses = async || {
        let path = "/xyz/openbmc_project/control/host1/acpi_power_state";
        let body = (TRACKER, "Diagnoses");
        let reply = rig.client.call_method(Some(NAME), path, Some(PROPERTIES), "Get", &body).await.unwrap();
        let value = reply.body().deserialize::<Variant<'_>>().unwrap().try_to_owned().unwrap();
        Vec::<String>::try_from(value).unwrap()
    };
    assert!(diagnoses().await.is_empty());
    power.change_silently(chassis(1), &on);
    rig.until("it is found, and that nobody said so", async || diagnoses().await == ["EvidenceMute"]).await;
}

/// Nor is one that takes questions and answers none: what it would tell nobody knows.
#[tokio::test]
async fn a_power_control_that_does_not_answer_any_more_is_gone() {
    let rig = rig(Arc::new(bus()), 1000, |_| {}).await;
    let power = PowerDouble::start(rig.bus.address(), "On", "Running", "").await.unwrap();
    rig.open().await;
    power.hang();
    // 25 s of real time are 25,000 on this clock.
    let began = Instant::now();
    while rig.reasons().await != ["EvidenceMissing"] {
        assert!(began.elapsed() < Duration::from_secs(60), "its last word counts for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
