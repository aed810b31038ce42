// SPDX-License-Identifier: Apache-2.0
//! The composition root: read it to learn the architecture.
//!
//! UEFI reads the memory's SPDs in POST, on I2C buses that the BMC shares. The daemon knows the ACPI power state of each host:
//! the host reports it (ipmid Sets it), or it is inferred from what power control reports. By it the daemon gates the I2C
//! transfers of its sensors, starts systemd's targets, holds the DIMMs' fans, and says what is wrong.
//!
//! "Rules 3.2" in comments is section 3.2 of `docs/rules.md`, a note is a row there; "openbmc 3.4" is a section of
//! `docs/openbmc.md`. The D-Bus services that the daemon talks with are the fields of `Peers` (`adapters/peers.rs`).
//!
//! ```text
//!  Poller: a thread for each I2C bus          ┌── objects (what a Get returns)
//!      ▲ permits, 3 s │ Input::Read            │
//!      └──────────────┼────────────┐           │
//!  D-Bus ──> Bus ── Input ──> EventLoop ── Output ──> Bus ──> D-Bus, systemd
//!             (adapters)        │    ▲  (never waits)  (in order)
//!                               ▼    │           │
//!                  Machine::step, Sensors        └──> store (a thread of its own)
//!                  (logic: pure)
//! ```

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{JoinError, JoinHandle},
};

use crate::{
    adapters::{
        acpi_object::AcpiObject,
        blacklist,
        boot_progress::BootProgress,
        cpu_power::CpuPower,
        dbus::{
            bus::{Bus, Failed, Parts},
            object::Object as _,
            tree::Tree,
            trust::Trust,
        },
        dimm_inventory::DimmInventory,
        event_log::EventLog,
        fan_config::FanConfig,
        fans::FanControl,
        i2c::LinuxBuses,
        mapper::Mapper,
        peers::Peers,
        post_codes::PostCodes,
        power_state::PowerState,
        sensor_objects::SensorObject,
        spd_mux::{self, LinuxLines},
        systemd::Systemd,
    },
    config::{self, Settings},
    logic::machine::{Machine, Stored},
    shell::{
        clock::Clock,
        event_loop::EventLoop,
        held::Held,
        messages::Input,
        permits::Permits,
        poller::Poller,
        ports::{Buses, GpioLines, MuxOrders},
        store::{self, Memory, Places, Storage, Writer},
        supervisor::Supervisor,
        wires::Wires,
    },
    wiring::Wiring,
};

/// Where the kernel shows its devices.
const SYSFS: &str = "/sys";
/// machine-id(5).
const MACHINE_ID: &str = "/etc/machine-id";

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
    gpio: Arc<dyn GpioLines>,
    entity_manager: Option<PathBuf>,
}

/// At its end the daemon waits this long for the SPD muxes to be at the host.
const HAND_OVER: Duration = Duration::from_secs(1);

/// Why the daemon stopped without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus failed, and the daemon cannot do without it.
    #[error(transparent)]
    Bus(#[from] Failed),
    /// The system gives no thread.
    #[error("the {0} cannot be started")]
    Start(&'static str, #[source] io::Error),
    /// The system gives the event loop no timer, or takes it away.
    #[error("the event loop has no timer")]
    Timer(#[source] io::Error),
    /// A part of it ended that never should.
    #[error("the {0} ended by itself, which it never should: a fault in acpi-stated")]
    Part(&'static str),
}

impl Daemon {
    /// A daemon that is told `settings`, lives by `clock`, and serves and listens on `connection`,
    /// which must be fresh, and made by [`socket::connect`](crate::adapters::dbus::socket::connect): any other ends with the first
    /// message that zbus cannot parse. Nothing else may read from that connection.
    #[must_use]
    pub fn new(
        settings: Settings,
        clock: Clock,
        connection: zbus::Connection,
        supervisor: Supervisor,
    ) -> Self {
        let wiring = Wiring::new(&settings);
        let permits = Permits::new(settings.hosts.len(), wiring.buses.iter().map(|(bus, _)| bus.clone()));
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
    pub fn with_gpio(self, gpio: Arc<dyn GpioLines>) -> Self {
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
        let past = Past { stored, memory, held, storage: writer.as_ref().map(Writer::storage) };
        let ended = match self.start(past) {
            Ok(running) => running.until(stop).await,
            Err(error) => Err(error),
        };
        if let Some(writer) = writer {
            writer.close().await;
        }
        ended
    }

    /// Puts the parts together, and starts them.
    fn start(self, Past { stored, memory, held, storage }: Past) -> Result<Running, Error> {
        let Self { settings, clock, connection, supervisor, wiring, permits, i2c, gpio, .. } = self;
        let (to_loop, inputs) = unbounded_channel();
        let (to_bus, outputs) = unbounded_channel();

        let drained = to_loop.clone();
        permits.on_drained(Box::new(move || drained.send(Input::Drained).unwrap_or_default()));

        let hosts = settings.hosts.clone();
        let (muxes, handed_over) = start_muxes(&hosts, &*gpio, &to_loop)?;
        let stop_within = settings.hosts.iter().map(|host| host.timing.ack_cap).max().unwrap_or_default();
        let machines = machines(settings.hosts, stored, clock);
        let feed_every = supervisor.feed_every();
        let event_loop =
            EventLoop::new(clock, permits.clone(), machines, inputs, to_bus, feed_every, stop_within)
                .with_memory(memory)
                .with_sensors(wiring.sensors(), wiring.names())
                .with_muxes(muxes);

        let tree = tree(&event_loop, &hosts, &wiring);
        let peers = peers(&hosts, &tree, settings.events, held);
        let parts = Parts { supervisor, tree, peers, trust: trust(&hosts), storage, clock };
        let bus = Bus::new(connection, parts, to_loop.clone(), outputs);

        let lanes = wiring.lanes(Path::new(SYSFS));
        let wires = Wires::new(&wiring.buses, Arc::clone(&i2c), to_loop.clone());
        let poller = Poller::start(lanes, &i2c, wires, &permits, clock, &to_loop)
            .map_err(|error| Error::Start("bus threads", error))?;

        if let Some(directory) = self.entity_manager {
            blacklist::report(&directory, &wiring.buses, Path::new(SYSFS), &*i2c, &to_loop);
        }
        let (bus, event_loop) = (tokio::spawn(bus.run()), tokio::spawn(event_loop.run()));
        Ok(Running { bus, event_loop, poller, to_loop, handed_over, stop_within })
    }
}

/// The data that the lives before this one left.
struct Past {
    stored: Vec<Option<Stored>>,
    memory: Memory,
    held: (Held, Vec<String>),
    storage: Option<Storage>,
}

/// The parts at work.
struct Running {
    bus: JoinHandle<Result<(), Failed>>,
    event_loop: JoinHandle<io::Result<()>>,
    poller: Poller,
    to_loop: UnboundedSender<Input>,
    /// Closes when every SPD mux is at its host.
    handed_over: UnboundedReceiver<()>,
    stop_within: Duration,
}

impl Running {
    /// Until `stop` is ready, or one of them ends.
    async fn until(mut self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        tokio::select! {
            ended = &mut self.bus => return Err(match ended {
                // The bus task ends well only behind the event loop, which knows why.
                Ok(Ok(())) => loop_ended(self.event_loop.await),
                ended => bus_ended(ended),
            }),
            ended = &mut self.event_loop => return Err(loop_ended(ended)),
            () = self.poller.lost() => return Err(Error::Part("bus threads")),
            () = stop => {}
        }
        self.to_loop.send(Input::Stop).unwrap_or_default();
        drop(self.to_loop);
        let ended = self.event_loop.await;
        if !matches!(ended, Ok(Ok(()))) {
            return Err(loop_ended(ended));
        }
        self.poller.stop(self.stop_within).await;
        // The bus task outlives the event loop only to send what is left.
        let ended = match self.bus.await {
            Ok(Ok(())) => Ok(()),
            ended => Err(bus_ended(ended)),
        };
        // The host's bus is worth a moment; a line that hangs is not worth more.
        let _in_time: Result<_, _> = tokio::time::timeout(HAND_OVER, self.handed_over.recv()).await;
        ended
    }
}

fn machines(hosts: Vec<config::Host>, stored: Vec<Option<Stored>>, clock: Clock) -> Vec<Machine> {
    let machine = |(mut host, stored): (config::Host, Option<Stored>)| {
        // A host feels how long its Set takes, so `ack_cap` is real time on any clock.
        host.timing.ack_cap = clock.of_real(host.timing.ack_cap);
        Machine::new(clock.now(), host, stored)
    };
    hosts.into_iter().zip(stored).map(machine).collect()
}

/// The objects on the bus, as they are before the first event.
fn tree(event_loop: &EventLoop, hosts: &[config::Host], wiring: &Wiring) -> Tree {
    let objects = event_loop.views().zip(hosts).enumerate();
    let acpi = objects
        .map(|(host, ((known, view), settings))| AcpiObject::new(host, settings.id, known, view.clone()));
    let sensors = wiring.settings().map(|(sensor, host)| SensorObject::new(host, sensor));
    let machine_id = std::fs::read_to_string(MACHINE_ID).ok().map(|id| id.trim().to_owned());
    Tree { acpi: acpi.collect(), sensors: sensors.collect(), machine_id }
}

/// Makes the adapters to the services that the daemon talks with.
fn peers(
    hosts: &[config::Host],
    tree: &Tree,
    events: config::Events,
    (held, left): (Held, Vec<String>),
) -> Peers {
    let ids = || hosts.iter().map(|host| host.id);
    let targets = hosts.iter().map(|host| host.targets.clone()).collect();
    let quiesce = hosts.iter().map(|host| host.quiesce.clone()).collect();
    Peers {
        power_state: PowerState::new(ids()),
        systemd: Systemd::new(targets, quiesce),
        mapper: Mapper::new(tree.acpi.iter().map(|object| object.path().to_owned())),
        fans: FanControl::new(hosts.iter().map(|host| &host.fans), held, left),
        boot_progress: BootProgress::new(ids()),
        post_codes: PostCodes::new(ids()),
        cpu_power: CpuPower::new(hosts.iter().map(|host| host.cpu_power_sensor.as_deref())),
        fan_config: FanConfig::new(tree.sensors.iter().map(|object| (object.path(), object.host()))),
        dimm_inventory: DimmInventory::new(ids()),
        event_log: EventLog::new(events, ids()),
    }
}

/// Whose word about the hosts counts: root's, ours, and those of `evidence.trusted_uids`.
fn trust(hosts: &[config::Host]) -> Trust {
    let own_uid = rustix::process::geteuid().as_raw();
    Trust::new(own_uid, hosts.iter().flat_map(|host| &host.trusted_uids).copied().collect())
}

/// The ways to the threads of the SPD muxes; and a receiver that closes when each of them has ended, its mux at the host.
fn start_muxes(
    hosts: &[config::Host],
    gpio: &dyn GpioLines,
    to_loop: &UnboundedSender<Input>,
) -> Result<(Vec<Option<MuxOrders>>, UnboundedReceiver<()>), Error> {
    let (done, handed_over) = unbounded_channel();
    let mux = |(host, settings): (usize, &config::Host)| {
        let start = |mux| spd_mux::start(host, mux, gpio, to_loop.clone(), done.clone());
        settings.spd_mux.as_ref().map(start).transpose()
    };
    let muxes = hosts.iter().enumerate().map(mux).collect::<Result<Vec<_>, _>>();
    let muxes = muxes.map_err(|error| Error::Start("SPD mux's thread", error))?;
    Ok((muxes, handed_over))
}

fn loop_ended(ended: Result<io::Result<()>, JoinError>) -> Error {
    match ended {
        Ok(Err(error)) => Error::Timer(error),
        Ok(Ok(())) | Err(_) => Error::Part("event loop"),
    }
}

fn bus_ended(ended: Result<Result<(), Failed>, JoinError>) -> Error {
    match ended {
        Ok(Err(failed)) => Error::Bus(failed),
        Ok(Ok(())) | Err(_) => Error::Part("bus task"),
    }
}
