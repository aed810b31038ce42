// SPDX-License-Identifier: Apache-2.0
//! A thermal sensor on the bus that a mux is on, DIMMs on a channel of it (0005, rule 12): what is sent to the one is on the
//! wires of the others, unless the mux disconnects.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use crate::support::{
    power::PowerDouble,
    private_bus::PrivateBus,
    rig::{self, NAME, PROPERTIES, Rig},
};
use acpi_stated::{
    config::{Bus, Device, Group, Sensor, Settings, Source},
    logic::{
        chip::Access,
        wires::{Chain, Idle, Mux},
    },
    shell::clock::Clock,
    shell::ports::{Buses, I2cBus},
};
use zbus::Variant;

/// The bus that the mux is on, with a TMP75; its channel with the DIMMs; and another channel with a TMP75.
const ABOVE: u32 = 5;
const DIMMS: u32 = 12;
const BESIDE: u32 = 13;

/// What there is of it, and what was done.
#[derive(Default)]
struct Seen {
    /// How often the bus of the DIMMs was not there.
    in_vain: u32,
    /// `None`: the mux is not there yet.
    idle: Option<Idle>,
    /// Transfers that have begun on the bus above and the channel beside, and how many are under way.
    above: u32,
    beside: u32,
    under_way: u32,
    /// How long one takes there, ms.
    takes: u64,
}

#[derive(Clone, Default)]
struct Board(Arc<Mutex<Seen>>);

impl Board {
    fn with(idle: Option<Idle>) -> Self {
        let board = Self::default();
        board.seen().idle = idle;
        board
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

struct OnBus(Board, u32);

impl Buses for Board {
    fn open(&self, bus: u32, _: Duration) -> io::Result<Box<dyn I2cBus>> {
        if bus != ABOVE && self.seen().idle.is_none() {
            self.seen().in_vain += u32::from(bus == DIMMS);
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(OnBus(self.clone(), bus)))
    }

    fn driver_of(&self, _: u32, _: u8) -> Option<String> {
        None
    }

    fn chain(&self, bus: u32) -> Chain {
        match (bus, self.seen().idle) {
            (DIMMS | BESIDE, Some(idle)) => Chain(vec![Mux { name: "5-0070".to_owned(), idle, on: ABOVE }]),
            _ => Chain::default(),
        }
    }
}

impl I2cBus for OnBus {
    fn transfer(&mut self, _: u8, access: Access) -> io::Result<u16> {
        let Self(board, bus) = self;
        let takes = {
            let mut seen = board.seen();
            match *bus {
                ABOVE => seen.above += 1,
                BESIDE => seen.beside += 1,
                _ => {}
            }
            seen.under_way += 1;
            seen.takes
        };
        if *bus != DIMMS {
            std::thread::sleep(Duration::from_millis(takes));
        }
        board.seen().under_way -= 1;
        Ok(if access == Access::Word(0) { 0x4019 } else { 0x0060 })
    }
}

struct World {
    rig: Rig,
    board: Board,
    _power: PowerDouble,
}

/// A host that works, on a clock a hundred times faster than life. Both TMP75s are read each 20 ms, the DIMM too.
async fn world(board: Board) -> World {
    let bus = PrivateBus::start().unwrap();
    let power = PowerDouble::start(bus.address(), "On", "Running", "").await.unwrap();
    let rig = Rig::reading(Clock::scaled(100), bus, Arc::new(board.clone()), |settings: &mut Settings| {
        settings.hosts.iter_mut().for_each(|host| host.timing.ack_cap = rig::PATIENCE);
        settings.buses = vec![Bus::new(3, vec![0]), Bus::new(ABOVE, vec![]), Bus::new(DIMMS, vec![0])];
        settings.buses.push(Bus::new(BESIDE, vec![]));
        for (name, group, bus) in [
            ("ABOVE", Group::Thermal, ABOVE),
            ("DIMM", Group::Dimm, DIMMS),
            ("BESIDE", Group::Thermal, BESIDE),
        ] {
            let source = Source::Device { device: Device::Tmp75, bus, address: 0x48 };
            let sensor = Sensor::new(name.to_owned(), 0, group, source);
            settings.sensors.push(Sensor { poll: Duration::from_secs(2), ..sensor });
        }
    })
    .await;
    World { rig, board, _power: power }
}

impl World {
    async fn shown(&self, name: &str) -> (bool, bool) {
        let path = format!("/xyz/openbmc_project/sensors/temperature/{name}");
        let get = async |interface: &'static str, property: &'static str| {
            let arguments = (interface, property);
            let call =
                self.rig.client.call_method(Some(NAME), path.as_str(), Some(PROPERTIES), "Get", &arguments);
            let reply = call.await.unwrap();
            let body = reply.body();
            bool::try_from(body.deserialize::<Variant<'_>>().unwrap()).unwrap()
        };
        let available = get("xyz.openbmc_project.State.Decorator.Availability", "Available").await;
        (available, get("xyz.openbmc_project.State.Decorator.OperationalStatus", "Functional").await)
    }

    async fn until(&self, name: &str, shown: (bool, bool)) {
        self.rig.until(&format!("{name} is {shown:?}"), async || self.shown(name).await == shown).await;
    }

    /// The host goes into POST; how many transfers there were above and beside from the answer on, in a time in which
    /// there would be a few.
    async fn in_post(&self) -> (u32, u32) {
        self.rig.set("S2_D2").await;
        let (above, beside) = {
            let seen = self.board.seen();
            (seen.above, seen.beside)
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        let seen = self.board.seen();
        (seen.above - above, seen.beside - beside)
    }
}

const READ: (bool, bool) = (true, true);
const GONE: (bool, bool) = (false, false);

#[tokio::test]
async fn what_a_mux_leaves_connected_is_guarded_with_its_channel() {
    for idle in [Idle::Stays(-1), Idle::Stays(0), Idle::Unknown] {
        let world = world(Board::with(Some(idle))).await;
        for _ in 0..3 {
            world.rig.open().await;
            for name in ["ABOVE", "DIMM", "BESIDE"] {
                world.until(name, READ).await;
            }
            assert_eq!(world.in_post().await, (0, 0), "{idle:?}");
            for name in ["ABOVE", "DIMM", "BESIDE"] {
                assert_eq!(world.shown(name).await, GONE, "{name}: it may not be read, and has not failed");
            }
        }
    }
}

#[tokio::test]
async fn what_a_mux_disconnects_is_read_in_post_too() {
    let world = world(Board::with(Some(Idle::Disconnects))).await;
    world.rig.open().await;
    for name in ["ABOVE", "DIMM", "BESIDE"] {
        world.until(name, READ).await;
    }
    world.rig.set("S2_D2").await;
    let (above, beside) = {
        let seen = world.board.seen();
        (seen.above, seen.beside)
    };
    world
        .rig
        .until("both are read on", async || {
            let seen = world.board.seen();
            seen.above > above + 3 && seen.beside > beside + 3
        })
        .await;
    world.until("DIMM", GONE).await;
    world.until("ABOVE", READ).await;
}

/// A transfer above that is under way keeps the answer back, as one to the DIMMs would.
#[tokio::test]
async fn the_answer_waits_for_a_transfer_on_the_same_wires() {
    let board = Board::with(Some(Idle::Stays(-1)));
    let world = world(board.clone()).await;
    world.rig.open().await;
    world.until("ABOVE", READ).await;
    board.seen().takes = 100;
    for _ in 0..5 {
        world.rig.open().await;
        world.rig.until("one is under way", async || board.seen().under_way > 0).await;
        world.rig.set("S2_D2").await;
        assert_eq!(board.seen().under_way, 0, "the host is answered while the wires are busy");
    }
}

/// The mux is probed while the bus that it is on is in use; and its idle state is written later.
#[tokio::test]
async fn a_mux_that_comes_late_guards_as_well() {
    let board = Board::with(None);
    let world = world(board.clone()).await;
    world.rig.open().await;
    world.until("ABOVE", READ).await;
    // Who looks for the first time would see it in any case.
    world.rig.until("its bus was looked for", async || board.seen().in_vain > 1).await;
    let (above, _) = world.in_post().await;
    assert!(above > 0, "nothing hangs on it yet");
    board.seen().idle = Some(Idle::Stays(-1));
    world.rig.open().await;
    world.until("DIMM", READ).await;
    world.until("ABOVE", READ).await;
    assert_eq!(world.in_post().await, (0, 0));
}
