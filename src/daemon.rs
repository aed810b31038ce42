// SPDX-License-Identifier: Apache-2.0
//! The composition root: read it to learn the architecture.
//!
//! ```text
//!  Poller: a thread for each I2C bus          ┌── objects (what a Get returns)
//!      ▲ permits      │ Input::Read            │
//!      └──────────────┼────────────┐           │
//!  D-Bus ──> Bus ── Input ──> EventLoop ── Output ──> Bus ──> D-Bus, systemd
//!             (adapters)        │    ▲  (never waits)  (in order)
//!                               ▼    │           │
//!                  Machine::step, Sensors        └──> store (a thread of its own)
//!                  (logic: pure)
//! ```

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::{
    adapters::{
        acpi_object::AcpiObject,
        blacklist,
        bus::{Bus, Failed, Setup},
        i2c::{Buses, LinuxBuses},
        objects::Tree,
        sensor_objects::SensorObject,
        spd_mux::{Lines, LinuxLines, Mux},
    },
    config::{self, Settings},
    logic::machine::{Event, Machine, Stored},
    shell::{
        clock::Clock,
        event_loop::{EventLoop, Input},
        held::Held,
        permits::{BusId, HostIndex, Permits},
        poller::Poller,
        store::{self, Memory, Places, Storage, Writer},
        supervisor::Supervisor,
        wiring::Wiring,
    },
};

/// Where the kernel shows its devices.
const SYSFS: &str = "/sys";

/// The daemon: what `main` and the demo both run.
pub struct Daemon {
    settings: Settings,
    clock: Clock,
    connection: zbus::Connection,
    supervisor: Supervisor,
    wiring: Wiring,
    permits: Permits,
    places: Option<Places>,
    i2c: Arc<dyn Buses>,
    gpio: Arc<dyn Lines>,
    entity_manager: Option<PathBuf>,
}

/// How long the end waits for the SPD muxes.
const HAND_OVER: Duration = Duration::from_secs(1);

/// Why the daemon stopped without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot do without the bus.
    #[error(transparent)]
    Bus(#[from] Failed),
    /// The system gives no timer or no thread.
    #[error("the {0} cannot be started")]
    Start(&'static str, #[source] std::io::Error),
    /// A part of it ended that never should.
    #[error("the {0} ended by itself, which it never should: a fault in acpi-stated")]
    Part(&'static str),
}

impl Daemon {
    /// A daemon that is told `settings`, lives by `clock`, and serves and listens on `connection`,
    /// which must be fresh. Nothing else may read from that connection.
    #[must_use]
    pub fn new(
        settings: Settings,
        clock: Clock,
        connection: zbus::Connection,
        supervisor: Supervisor,
    ) -> Self {
        let wiring = Wiring::new(&settings);
        let permits = Permits::new(settings.hosts.len(), &wiring.buses);
        let i2c = Arc::new(LinuxBuses::default());
        Self {
            settings,
            clock,
            connection,
            supervisor,
            wiring,
            permits,
            places: None,
            i2c,
            gpio: Arc::new(LinuxLines),
            entity_manager: None,
        }
    }

    /// Reads sensors on these buses, in place of the kernel's.
    #[must_use]
    pub fn with_buses(self, i2c: Arc<dyn Buses>) -> Self {
        Self { i2c, ..self }
    }

    /// Drives the SPD muxes by these GPIO lines, in place of the kernel's.
    #[must_use]
    pub fn with_gpio(self, gpio: Arc<dyn Lines>) -> Self {
        Self { gpio, ..self }
    }

    /// Remembers there, for its next life, what it knows of the hosts; without it nothing is read or written.
    #[must_use]
    pub fn with_places(self, places: Places) -> Self {
        Self { places: Some(places), ..self }
    }

    /// Looks into entity-manager's directory for guarded buses that its fru-device may scan.
    #[must_use]
    pub fn with_entity_manager(self, directory: PathBuf) -> Self {
        Self { entity_manager: Some(directory), ..self }
    }

    /// The permits of the configured buses, for their threads. All closed until the daemon runs.
    #[must_use]
    pub fn permits(&self) -> Permits {
        self.permits.clone()
    }

    /// Serves until `stop` is ready (then the gate is closed, what is under way is drained, and the
    /// answer is `Ok`) or something it cannot live without is gone.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let ids: Vec<u32> = self.settings.hosts.iter().map(|host| host.id).collect();
        let places = self.places.take();
        let held = Held::open(places.as_ref().and_then(Places::in_memory));
        let (stored, memory, writer) = match places {
            Some(places) => store::open(places, &ids),
            None => (vec![None; ids.len()], Memory::default(), None),
        };
        let ended = self.serve(stored, memory, held, writer.as_ref().map(Writer::storage), stop).await;
        if let Some(writer) = writer {
            writer.close().await;
        }
        ended
    }

    async fn serve(
        self,
        stored: Vec<Option<Stored>>,
        memory: Memory,
        held: (Held, Vec<String>),
        storage: Option<Storage>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let Self {
            settings,
            clock,
            connection,
            supervisor,
            wiring,
            permits,
            places: _,
            i2c,
            gpio,
            entity_manager,
        } = self;
        let (to_loop, inputs) = unbounded_channel();
        let (to_bus, outputs) = unbounded_channel();

        let drained = to_loop.clone();
        permits.on_drained(Box::new(move || drained.send(Input::Drained).unwrap_or_default()));

        let hosts = settings.hosts.clone();
        // Each mux has the host's side when it says so by hanging up.
        let (done, handed_over) = std::sync::mpsc::channel();
        let mux = |(host, settings): (usize, &config::Host)| {
            let start = |mux| Mux::start(host, mux, &*gpio, to_loop.clone(), done.clone());
            settings.spd_mux.as_ref().map(start).transpose()
        };
        let muxes = hosts.iter().enumerate().map(mux).collect::<Result<Vec<_>, _>>();
        let muxes = muxes.map_err(|error| Error::Start("SPD mux's thread", error))?;
        drop(done);
        // A host feels how long its Set takes, so `ack_cap` is real time on any clock.
        let stop_within = settings.hosts.iter().map(|host| host.timing.ack_cap).max().unwrap_or_default();
        let machines = settings.hosts.into_iter().zip(stored).map(|(mut host, stored)| {
            host.timing.ack_cap = clock.of_real(host.timing.ack_cap);
            Machine::new(clock.now(), host, stored)
        });
        let machines = machines.collect();
        let feed_every = supervisor.feed_every();
        let names = wiring.settings().map(|(sensor, _)| sensor.name.clone()).collect();
        let event_loop =
            EventLoop::new(clock, permits.clone(), machines, inputs, to_bus, feed_every, stop_within)
                .with_memory(memory)
                .with_sensors(wiring.sensors(), names)
                .with_muxes(muxes);

        let objects = event_loop.views().zip(&hosts).enumerate();
        let acpi = objects
            .map(|(host, (view, settings))| AcpiObject::new(host, settings.id, view.clone()))
            .collect();
        let sensors = wiring.settings().map(|(sensor, host)| SensorObject::new(host, sensor)).collect();
        let tree = Tree { acpi, sensors };
        let setup = Setup { hosts: &hosts, events: settings.events, held, storage };
        let bus = Bus::new(connection, supervisor, tree, setup, to_loop.clone(), outputs);
        let lines = wiring.lines(Path::new(SYSFS));
        let mut poller = Poller::start(lines, &i2c, &permits, clock, &to_loop)
            .map_err(|error| Error::Start("bus threads", error))?;

        if let Some(directory) = entity_manager {
            tell_of_unguarded(&directory, &wiring.buses, &to_loop);
        }

        // The bus task outlives the event loop only to send what is left.
        let mut bus = tokio::spawn(bus.run());
        let mut event_loop = tokio::spawn(event_loop.run());
        tokio::select! {
            ended = &mut bus => return Err(bus_ended(ended)),
            _ = &mut event_loop => return Err(Error::Part("event loop")),
            () = poller.lost() => return Err(Error::Part("bus threads")),
            () = stop => {}
        }
        to_loop.send(Input::Stop).unwrap_or_default();
        drop(to_loop);
        let Ok(Ok(())) = event_loop.await else { return Err(Error::Part("event loop")) };
        poller.stop(stop_within).await;
        let ended = match bus.await {
            Ok(Ok(())) => Ok(()),
            ended => Err(bus_ended(ended)),
        };
        // The host's bus is worth a moment; a line that hangs is not worth more.
        handed_over.recv_timeout(HAND_OVER).unwrap_or_default();
        ended
    }
}

/// The one other daemon that transfers on every bus it is not told to leave alone (contract 3.4).
fn tell_of_unguarded(directory: &Path, buses: &[(BusId, Vec<HostIndex>)], to_loop: &UnboundedSender<Input>) {
    for (bus, carried) in buses.iter().filter(|(_, carried)| !carried.is_empty()) {
        let BusId::I2c(number) = bus else { continue };
        for found in blacklist::unguarded(directory, Path::new(SYSFS), [*number]) {
            tracing::warn!("fru-device may scan the guarded I2C bus {number}: {}", found.why);
            for host in carried {
                to_loop.send(Input::Event(*host, Event::UnguardedBus(true))).unwrap_or_default();
            }
        }
    }
}

fn bus_ended(ended: Result<Result<(), Failed>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Err(failed)) => Error::Bus(failed),
        Ok(Ok(())) | Err(_) => Error::Part("bus task"),
    }
}
