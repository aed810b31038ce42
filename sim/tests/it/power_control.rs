// SPDX-License-Identifier: Apache-2.0
//! The power services show what openbmc 2.2 says, in its order, and nothing else.

use std::{collections::HashMap, time::Duration};

use crate::common::{SPEED, run};
use acpi_sim::{
    clock::{millis, secs},
    mapper::{self, Services},
    objects::{PROPERTIES, connect, next},
    plan::{X86, X86_BARE},
    platform::Platform,
    power_control::{Flavour, PowerControl},
    private_bus::PrivateBus,
};
use acpi_stated::shell::clock::Clock;
use tokio::{sync::mpsc, task::JoinSet};
use zbus::{Connection, MatchRule, MessageStream, Variant, message::Type};

const HOST: &str = "/xyz/openbmc_project/state/host0";
const CHASSIS: &str = "/xyz/openbmc_project/state/chassis0";

struct Watched {
    power: PowerControl,
    connection: Connection,
    signals: MessageStream,
    tasks: JoinSet<()>,
    bus: PrivateBus,
}

impl Watched {
    async fn start(flavour: Flavour) -> Self {
        let bus = PrivateBus::start().expect("a bus");
        let mut tasks = JoinSet::new();
        let (requests, _) = mpsc::unbounded_channel();
        let clock = Clock::scaled(SPEED);
        let platform = Platform::new(clock);
        let power = PowerControl::start(bus.address(), flavour, clock, platform, requests, &mut tasks).await;
        let connection = connect(bus.address()).await.expect("a connection");
        let rule = MatchRule::builder().msg_type(Type::Signal).path_namespace("/xyz/openbmc_project").build();
        let signals = MessageStream::for_match_rule(rule.expect("a rule"), &connection, None).await;
        let (power, signals) = (power.expect("a power service"), signals.expect("a stream"));
        Self { power, connection, signals, tasks, bus }
    }

    /// What has changed since the last time, in order, as `host Off`; without `LastStateChangeTime`.
    async fn shown(&mut self) -> Vec<String> {
        // What a service answers now comes behind what it has signalled.
        for (service, path) in [("Host0", HOST), ("Chassis0", CHASSIS)] {
            let service = format!("xyz.openbmc_project.State.{service}");
            let all = self.connection.call_method(Some(service), path, Some(PROPERTIES), "GetAll", &"");
            all.await.expect("properties");
        }
        let mut shown = Vec::new();
        let quiet = Duration::from_millis(1);
        while let Ok(Some(signal)) = tokio::time::timeout(quiet, next(&mut self.signals)).await {
            let body = signal.body();
            let (_, changed, _): (&str, HashMap<&str, Variant<'_>>, Vec<&str>) =
                body.deserialize().expect("PropertiesChanged");
            for (name, value) in changed {
                let what = match name {
                    "CurrentHostState" => "host",
                    "CurrentPowerState" => "chassis",
                    "OperatingSystemState" => "os",
                    "RequestedHostTransition" => "requested",
                    // Times are none of the order's business.
                    "LastStateChangeTime" | "BootProgressLastUpdate" => continue,
                    other => other,
                };
                let value = value.downcast_ref::<&str>().expect("a string");
                shown.push(format!("{what} {}", value.rsplit('.').next().unwrap_or_default()));
            }
        }
        shown
    }
}

#[test]
fn x86_power_control_shows_what_its_state_machine_does() {
    run(async {
        let mut board = Watched::start(X86).await;
        board.power.power_on().await.expect("on");
        assert_eq!(board.shown().await, ["host Running", "chassis On"]);
        board.power.post_complete().await.expect("POST complete");
        assert_eq!(board.shown().await, ["os Standby"]);
        board.power.warm_reset().await.expect("a reset").expect("it is shown");
        assert_eq!(board.shown().await, ["host Off", "os Inactive", "host Running"]);
        board.power.post_complete().await.expect("POST complete");
        board.power.os_shutdown(millis(200)).await.expect("a shutdown");
        assert_eq!(board.shown().await, ["os Standby", "host Off", "os Inactive", "chassis Off"]);
        board.power.power_on().await.expect("on");
        board.power.post_complete().await.expect("POST complete");
        board.shown().await;
        board.power.os_shutdown(secs(2)).await.expect("a slow shutdown");
        let blip = ["host Off", "os Inactive", "host Running", "host Off", "chassis Off"];
        assert_eq!(board.shown().await, blip);
        board.power.power_on().await.expect("on");
        board.shown().await;
        board.power.power_cycle().await.expect("a cycle");
        let cycle = ["host Off", "requested Reboot", "chassis Off", "host Running", "chassis On"];
        assert_eq!(board.shown().await, cycle);
        board.power.forced_reset().await.expect("a reset").expect("it is shown");
        assert_eq!(board.shown().await, ["requested ForceWarmReboot", "host Off", "host Running"]);
        board.power.host_reset().await.expect("a reset").expect("it is shown");
        assert_eq!(board.shown().await, ["host Off", "host Running"]);
        board.power.forced_off().await.expect("off");
        assert_eq!(board.shown().await, ["host Off", "chassis Off"]);
    });
}

#[test]
fn without_post_complete_a_warm_reset_shows_nothing_and_there_is_no_os_status() {
    run(async {
        let mut board = Watched::start(X86_BARE).await;
        board.power.power_on().await.expect("on");
        board.power.post_complete().await.expect("POST complete");
        assert_eq!(board.shown().await, ["host Running", "chassis On"]);
        assert!(board.power.warm_reset().await.expect("a reset").is_none());
        // The same request twice is one signal.
        assert!(board.power.forced_reset().await.expect("a reset").is_some());
        assert!(board.power.forced_reset().await.expect("a reset").is_none());
        assert_eq!(board.shown().await, ["requested ForceWarmReboot"]);
        board.power.host_power_cycle(millis(300)).await.expect("a cycle");
        assert_eq!(board.shown().await, ["host Off", "chassis Off", "host Running", "chassis On"]);
        board.power.dc_lost().await.expect("a loss");
        assert_eq!(board.shown().await, ["host Off", "chassis Off"]);
    });
}

#[test]
fn phosphor_state_manager_has_the_chassis_first_and_its_own_boot_progress() {
    run(async {
        let mut board = Watched::start(Flavour::Psm).await;
        board.power.power_on().await.expect("on");
        assert_eq!(board.shown().await, ["chassis On", "host Running"]);
        let progress = "xyz.openbmc_project.State.Boot.Progress.ProgressStages.OSStart";
        let body = ("xyz.openbmc_project.State.Boot.Progress", "BootProgress", Variant::from(progress));
        let host = "xyz.openbmc_project.State.Host";
        let set = board.connection.call_method(Some(host), HOST, Some(PROPERTIES), "Set", &body);
        set.await.expect("writable");
        board.power.power_cycle().await.expect("a cycle");
        let expected = [
            "BootProgress OSStart",
            "requested Reboot",
            "chassis Off",
            "host Off",
            "BootProgress Unspecified",
            "chassis On",
            "host Running",
        ];
        assert_eq!(board.shown().await, expected);
        board.power.warm_reset().await.expect("a reset").expect("it is shown");
        assert_eq!(board.shown().await, ["host Off", "host Running"]);
        assert!(board.power.host_reset().await.expect("a reset").is_none(), "it performs none");
        board.power.forced_reset().await.expect("a reset").expect("it is shown");
        assert_eq!(board.shown().await, ["requested ForceWarmReboot", "host Off", "host Running"]);
    });
}

/// Openbmc 2.1: all names of x86-power-control are on one connection, so the mapper lists its
/// objects under each; the OS names are not PSM's.
#[test]
fn the_mapper_lists_an_object_under_each_name_of_its_connection() {
    let suffixed = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .flat_map(|name| ["", "0"].map(|n| format!("xyz.openbmc_project.State.{name}{n}")))
            .collect()
    };
    for (flavour, names) in
        [(X86, suffixed(&["Chassis", "Host", "OperatingSystem"])), (Flavour::Psm, suffixed(&["Host"]))]
    {
        run(async {
            let mut board = Watched::start(flavour).await;
            mapper::start(board.bus.address(), &mut board.tasks).await.expect("a mapper");
            let body = (HOST, vec!["xyz.openbmc_project.State.Host"]);
            let mut found = Services::new();
            for _ in 0..1000 {
                let call = board.connection.call_method(
                    Some(mapper::NAME),
                    mapper::PATH,
                    Some(mapper::INTERFACE),
                    "GetObject",
                    &body,
                );
                found = call.await.ok().and_then(|r| r.body().deserialize().ok()).unwrap_or_default();
                if found.len() == names.len() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(found.into_keys().collect::<Vec<_>>(), names);
        });
    }
}
