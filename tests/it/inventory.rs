// SPDX-License-Identifier: Apache-2.0
//! What entity-manager publishes of fan control's configuration, and smbios-mdr of the DIMMs, on a real bus: absent at first,
//! appearing, changing, restarting, answering errors, answering never.

use std::time::Duration;

use crate::support::{
    peer::{Key, Manners, Peer, key},
    private_bus::PrivateBus,
    rig::{self, Rig},
};
use acpi_stated::config::{Group, Sensor, Source};
use zbus::Variant;

const ENTITY_MANAGER: &str = "xyz.openbmc_project.EntityManager";
const PID: &str = "xyz.openbmc_project.Configuration.Pid";
const STEPWISE: &str = "xyz.openbmc_project.Configuration.Stepwise";
const BOARD: &str = "/xyz/openbmc_project/inventory/system/board/Baseboard";
const SMBIOS: &str = "xyz.openbmc_project.Smbios.MDR_V2";
const DIMM: &str = "xyz.openbmc_project.Inventory.Item.Dimm";
const ITEM: &str = "xyz.openbmc_project.Inventory.Item";
const SLOT: &str = "/xyz/openbmc_project/inventory/system/chassis/motherboard/dimm";

/// A sensor of ours, on no I2C bus: nothing of this is about reading it.
fn sensor(name: &str) -> Sensor {
    let source = Source::File("/nonexistent".into());
    Sensor::new(name.to_owned(), 0, Group::Dimm, source)
}

fn strings(values: &[&str]) -> Variant<'static> {
    let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
    Variant::from(values)
}

/// A controller, as entity-manager publishes it.
fn controller(name: &str, interface: &str, inputs: &[&str]) -> [(Key, Variant<'static>); 3] {
    let path = format!("{BOARD}/{name}");
    [
        (key(&path, interface, "Name"), Variant::from(name.to_owned())),
        (key(&path, interface, "Class"), Variant::from("temp")),
        (key(&path, interface, "Inputs"), strings(inputs)),
    ]
}

fn slot(number: u32) -> Key {
    key(&format!("{SLOT}{number}"), ITEM, "Present")
}

/// The daemon with one DIMM sensor, and the mapper.
struct World {
    rig: Rig,
    mapper: Peer,
    address: String,
}

impl World {
    async fn start(speed: u32) -> Self {
        let bus = PrivateBus::start().expect("a private bus");
        let address = bus.address().to_owned();
        let mapper = Peer::mapper(&address, &[]).await;
        let rig = Rig::on(bus, speed, |settings| {
            settings.sensors.push(sensor("DIMM_TEMP_A1"));
        })
        .await;
        Self { rig, mapper, address }
    }

    async fn entity_manager(&self, values: impl IntoIterator<Item = (Key, Variant<'static>)>) -> Peer {
        Peer::start(&self.address, &[ENTITY_MANAGER], values).await
    }

    /// The mapper was asked so often for configurations and DIMMs.
    fn listings(&self) -> usize {
        let asked = |(member, of): &&(String, Vec<String>)| member == "GetSubTree" && *of != [rig::NAME];
        self.mapper.calls().iter().filter(asked).count()
    }
}

#[tokio::test]
async fn a_configuration_that_appears_is_found_and_its_repair_too() {
    let world = World::start(1000).await;
    // Nobody is there at the start: asked, and nothing is wrong.
    world.rig.until("the mapper was asked", async || world.listings() == 2).await;
    assert_eq!(world.rig.diagnoses().await, Vec::<String>::new());

    let path = format!("{BOARD}/DIMMs");
    let values = controller("DIMMs", PID, &["CPU_TEMP", "DIMM TEMP A1"]);
    let manager = world.entity_manager(values).await;
    world.mapper.lists([(path.as_str(), ENTITY_MANAGER, PID)]);
    manager.announce_with(&path, &[PID]).await;
    world.rig.diagnosed("FailsafeConfig", true).await;

    // As an operator repairs it on a running BMC.
    manager.change(key(&path, PID, "InputUnavailableAsFailed"), Variant::Bool(false)).await;
    world.rig.diagnosed("FailsafeConfig", false).await;
    manager.change(key(&path, PID, "InputUnavailableAsFailed"), Variant::Bool(true)).await;
    world.rig.diagnosed("FailsafeConfig", true).await;
    // A sensor whose absence is accepted fails no zone.
    manager.change(key(&path, PID, "MissingIsAcceptable"), strings(&["DIMM TEMP A1"])).await;
    world.rig.diagnosed("FailsafeConfig", false).await;
    manager.change(key(&path, PID, "MissingIsAcceptable"), strings(&["CPU_TEMP"])).await;
    world.rig.diagnosed("FailsafeConfig", true).await;

    world.mapper.lists([]);
    manager.remove(&path).await;
    world.rig.diagnosed("FailsafeConfig", false).await;
}

/// Each of these is there while the bad one is looked for: what is about others' sensors, or is no configuration, counts for nothing.
#[tokio::test]
async fn only_what_is_about_our_sensors_counts_and_a_restart_is_followed() {
    let world = World::start(1000).await;
    let mut values = Vec::new();
    values.extend(controller("Others", PID, &["DIMM_TEMP_A11", "IMM_TEMP_A1", "dimm_temp_a1"]));
    values.extend(controller("Fans", PID, &["DIMM_TEMP_A1"]));
    values.push((key(&format!("{BOARD}/Fans"), PID, "Class"), Variant::from("fan")));
    values.extend(controller("Fine", STEPWISE, &["DIMM_TEMP_A1"]));
    values.push((key(&format!("{BOARD}/Fine"), STEPWISE, "InputUnavailableAsFailed"), Variant::Bool(false)));
    values.extend(controller("Garbage", STEPWISE, &["", "/", "DIMM_TEMP_A1/"]));
    values.extend(controller("Number", STEPWISE, &[]));
    values.push((key(&format!("{BOARD}/Number"), STEPWISE, "Inputs"), Variant::U64(7)));
    let good: Vec<_> = ["Others", "Fans", "Fine", "Garbage", "Number", "Nothing"]
        .iter()
        .map(|name| {
            (format!("{BOARD}/{name}"), if ["Others", "Fans"].contains(name) { PID } else { STEPWISE })
        })
        .collect();
    let list = |bad: Option<&'static str>| {
        let mut objects: Vec<_> =
            good.iter().map(|(path, kind)| (path.as_str(), ENTITY_MANAGER, *kind)).collect();
        objects.extend(bad.map(|path| (path, ENTITY_MANAGER, STEPWISE)));
        world.mapper.lists(objects);
    };
    let bad = "/xyz/openbmc_project/inventory/system/board/Baseboard/Bad";
    values.extend(controller("Bad", STEPWISE, &["DIMM_TEMP_[A-D]1"]));
    list(Some(bad));
    let manager = world.entity_manager(values.clone()).await;
    manager.announce_with(bad, &[STEPWISE]).await;
    world.rig.diagnosed("FailsafeConfig", true).await;

    // It restarts without the bad one. While it is away, nothing new is known.
    drop(manager);
    values.retain(|(key, _)| key.0 != bad);
    list(None);
    let manager = world.entity_manager(values).await;
    world.rig.diagnosed("FailsafeConfig", false).await;

    // Whoever announces something: the mapper and the owner are asked.
    let others = format!("{BOARD}/Others");
    manager.announce_with(&others, &[PID]).await;
    let stranger = Peer::start(&world.address, &[], []).await;
    stranger.change(key(&others, PID, "Inputs"), strings(&["DIMM_TEMP_A1"])).await;
    let before = world.listings();
    stranger.announce_with(bad, &[STEPWISE]).await;
    world.rig.until("the mapper was asked again", async || world.listings() > before).await;
    world.rig.set("S5_G2").await;
    assert_eq!(world.rig.diagnoses().await, Vec::<String>::new());
}

/// The mapper and every peer are absent, appear late, answer errors, or never: the Set is answered within `ack_cap`.
#[tokio::test]
async fn peers_that_misbehave_hold_up_no_host() {
    for manners in [Manners::Errors, Manners::Silent] {
        let world = World::start(1000).await;
        let path = format!("{BOARD}/DIMMs");
        let slot_path = format!("{SLOT}0");
        let manager = world.entity_manager(controller("DIMMs", PID, &["DIMM_TEMP_A1"])).await;
        let smbios = Peer::start(&world.address, &[SMBIOS], [(slot(0), Variant::Bool(true))]).await;
        for peer in [&manager, &smbios] {
            peer.mind(manners);
        }
        world.mapper.lists([(path.as_str(), ENTITY_MANAGER, PID), (slot_path.as_str(), SMBIOS, DIMM)]);
        manager.announce_with(&path, &[PID]).await;
        smbios.announce_with(&slot_path, &[DIMM]).await;
        world.rig.open().await;
        world.mapper.mind(manners);
        for _ in 0..5 {
            manager.announce_with(&path, &[PID]).await;
            smbios.announce_with(&slot_path, &[DIMM]).await;
            let watch = world.rig.watch();
            world.rig.set("S2_D2").await;
            let taken = watch.taken();
            assert!(taken < Duration::from_millis(250), "{manners:?}: {taken:?}");
            assert!(!world.rig.is_open());
            world.rig.open().await;
        }
        assert!(!world.rig.diagnoses().await.contains(&"FailsafeConfig".to_owned()));

        // All restart, and behave: what is wrong is found.
        drop((manager, smbios));
        let World { rig, mapper, address } = world;
        drop(mapper);
        let manager =
            Peer::start(&address, &[ENTITY_MANAGER], controller("DIMMs", PID, &["DIMM_TEMP_A1"])).await;
        let mapper = Peer::start(&address, &[], []).await;
        mapper.lists([(path.as_str(), ENTITY_MANAGER, PID)]);
        mapper.own(acpi_doubles::mapper::NAME).await;
        let world = World { rig, mapper, address };
        world.rig.diagnosed("FailsafeConfig", true).await;
        drop(manager);
    }
}

/// A storm of announcements is a question or two, not a storm of questions.
#[tokio::test]
async fn a_storm_of_announcements_is_not_answered_with_one() {
    let world = World::start(1000).await;
    let path = format!("{BOARD}/DIMMs");
    world.rig.until("the mapper was asked", async || world.listings() == 2).await;
    let manager = world.entity_manager(controller("DIMMs", PID, &["DIMM_TEMP_A1"])).await;
    world.mapper.mind(Manners::Silent);
    for _ in 0..1000 {
        manager.announce_with(&path, &[PID]).await;
    }
    world.rig.set("S5_G2").await;
    // The one question that is under way is never answered; the mapper restarts, and is asked once more.
    let World { rig, mapper, address } = world;
    drop(mapper);
    let mapper = Peer::start(&address, &[], []).await;
    mapper.lists([(path.as_str(), ENTITY_MANAGER, PID)]);
    mapper.own(acpi_doubles::mapper::NAME).await;
    let world = World { rig, mapper, address };
    world.rig.diagnosed("FailsafeConfig", true).await;
    assert!(world.listings() <= 4, "{}", world.listings());
}

/// The DIMMs that the firmware lists: one fewer than at the last good boot, by its own tables.
#[tokio::test]
async fn a_dimm_that_the_firmware_no_longer_lists_is_missing() {
    let bus = PrivateBus::start().expect("a private bus");
    let address = bus.address().to_owned();
    let mapper = Peer::mapper(&address, &[]).await;
    let rig = Rig::on(bus, 1000, |_| {}).await;
    let world = World { rig, mapper, address };
    let paths: Vec<_> = (0..3).map(|number| format!("{SLOT}{number}")).collect();
    world.mapper.lists(paths.iter().map(|path| (path.as_str(), SMBIOS, DIMM)));
    // Another inventory has slots that are always populated: it does not count.
    let values =
        [(slot(0), Variant::Bool(true)), (slot(1), Variant::Bool(true)), (slot(2), Variant::Bool(false))];
    let smbios = Peer::start(&world.address, &[SMBIOS], values.clone()).await;
    smbios.announce_with(&paths[0], &[DIMM]).await;

    // A good boot: 2 of 3 slots. On this clock two minutes are 0.12 s.
    world.rig.open().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!world.rig.diagnoses().await.contains(&"MissingDimm".to_owned()));
    smbios.change(slot(1), Variant::Bool(false)).await;
    world.rig.diagnosed("MissingDimm", true).await;

    // What is not known is not fewer.
    drop(smbios);
    world.rig.diagnosed("MissingDimm", false).await;
    let [first, _, third] = values;
    let smbios =
        Peer::start(&world.address, &[SMBIOS], [first, (slot(1), Variant::Bool(false)), third]).await;
    world.rig.diagnosed("MissingDimm", true).await;
    smbios.change(slot(1), Variant::Bool(true)).await;
    world.rig.diagnosed("MissingDimm", false).await;
}
