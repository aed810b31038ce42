// SPDX-License-Identifier: Apache-2.0
//! The daemon, as the library's function, on a private bus of its own, with one guarded I2C bus.
//!
//! Its clock may run faster than life; what a host waits for is real time.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::{JoinHandle, ThreadId},
    time::{Duration, Instant},
};

use acpi_stated::{
    adapters::{dbus::socket, i2c::LinuxBuses, spd_mux::LinuxLines},
    config::{Bus, Settings},
    daemon::Daemon,
    shell::{
        clock::Clock,
        permits::{BusPermits, Need, Permits},
        ports::{Buses, GpioLines},
        store::Places,
        supervisor::Supervisor,
    },
};
use tokio::{runtime, sync::oneshot, time::timeout};
use zbus::{Connection, Message, Variant, connection::Builder};

use crate::support::private_bus::PrivateBus;

pub const NAME: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
pub const PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
pub const TRACKER: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState.Tracker";
pub const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

pub const DIMM: Need = Need::Gate(0);
pub const SPD: u32 = 0x18;
/// Longer than anything here takes; only a failure waits for it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The daemon and a client of it.
pub struct Rig {
    pub client: Connection,
    pub permits: Permits,
    pub dimms: BusPermits,
    stop: Option<oneshot::Sender<()>>,
    daemon: Option<JoinHandle<()>>,
    /// What the kernel shows of the daemon's event loop.
    event_loop: PathBuf,
    pub bus: Arc<PrivateBus>,
}

/// How long something takes, without what the machine takes: the time in which a thread that a call goes through (the test's, the
/// bus's, the event loop's) could have run and was not let, as the kernel counts it. A slow daemon is told from a starved one by
/// that; where the machine has time, it is real time.
pub struct Watch<'a> {
    rig: &'a Rig,
    kept: Duration,
    began: Instant,
}

impl Watch<'_> {
    pub fn taken(&self) -> Duration {
        let real = self.began.elapsed();
        real.saturating_sub(self.rig.kept().saturating_sub(self.kept))
    }
}

/// The second number of `schedstat` is how long this thread has waited for a processor, in nanoseconds.
fn kept(thread: &Path) -> Duration {
    let text = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0))
}

/// The thread that asks.
fn this_thread() -> PathBuf {
    let thread = fs::read_link("/proc/thread-self").expect("/proc");
    Path::new("/proc").join(thread)
}

impl Rig {
    /// A clock a thousand times faster than life: 120 s without power services take 0.12 s, and the 10 s for which
    /// the gate settles 10 ms. A host waits for its answer as long as a test may take.
    pub async fn start() -> Self {
        Self::with(1000, |settings| {
            for host in &mut settings.hosts {
                host.timing.ack_cap = PATIENCE * 2;
            }
        })
        .await
    }

    /// The defaults, changed by `change`, on a clock `speed` times faster than life.
    pub async fn with(speed: u32, change: impl FnOnce(&mut Settings)) -> Self {
        let bus = PrivateBus::start().expect("a private bus");
        Self::on(bus, speed, change).await
    }

    pub async fn on(bus: PrivateBus, speed: u32, change: impl FnOnce(&mut Settings)) -> Self {
        Self::remembering(bus, speed, None, change).await
    }

    /// One life of a daemon that remembers there.
    pub async fn remembering(
        bus: impl Into<Arc<PrivateBus>>,
        speed: u32,
        places: Option<Places>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::living_by(Clock::scaled(speed), bus, places, Arc::new(LinuxLines), change).await
    }

    /// One life by this clock, with these GPIO lines.
    pub async fn living_by(
        clock: Clock,
        bus: impl Into<Arc<PrivateBus>>,
        places: Option<Places>,
        gpio: Arc<dyn GpioLines>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::amid(clock, bus, places, gpio, Arc::new(LinuxBuses::default()), change).await
    }

    /// One life by this clock that reads sensors on these I2C buses.
    pub async fn reading(
        clock: Clock,
        bus: PrivateBus,
        i2c: Arc<dyn Buses>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::amid(clock, bus, None, Arc::new(LinuxLines), i2c, change).await
    }

    async fn amid(
        clock: Clock,
        bus: impl Into<Arc<PrivateBus>>,
        places: Option<Places>,
        gpio: Arc<dyn GpioLines>,
        i2c: Arc<dyn Buses>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let bus = bus.into();
        let mut settings = Settings::default();
        settings.buses.push(Bus::new(3, vec![0]));
        // Where a test does not say how long a boot takes, S0 follows S2 at once.
        for host in &mut settings.hosts {
            host.timing.min_post = Duration::ZERO;
        }
        change(&mut settings);
        let (stop, stopped) = oneshot::channel();
        let (to_us, permits) = mpsc::channel();
        let address = bus.address().to_owned();
        let daemon = std::thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let connection = socket::connect(&address).await.expect("the private bus");
                let daemon = Daemon::new(settings, clock, connection, Supervisor::silent());
                let daemon = daemon.with_gpio(gpio).with_buses(i2c);
                let daemon = match places {
                    Some(places) => daemon.with_places(places),
                    None => daemon,
                };
                to_us.send((daemon.permits(), this_thread())).expect("the test waits for them");
                daemon.run(async { drop(stopped.await) }).await.expect("it runs until it is told to stop");
            });
        });
        let (permits, event_loop) = permits.recv().expect("the daemon is built");
        let client = connect(bus.address()).await;
        let dimms = permits.bus(3).expect("bus 3");
        let rig = Self { client, permits, dimms, stop: Some(stop), daemon: Some(daemon), event_loop, bus };
        rig.until("the object is there", async || rig.state().await.is_some()).await;
        rig
    }

    /// The thread of the daemon's event loop, which is the one that writes its log.
    pub fn thread(&self) -> ThreadId {
        self.daemon.as_ref().expect("it has not been stopped").thread().id()
    }

    /// Begins to measure what a call takes. It is one thread that begins, calls and asks.
    pub fn watch(&self) -> Watch<'_> {
        Watch { rig: self, kept: self.kept(), began: Instant::now() }
    }

    /// How often the daemon's loop has gone to sleep, and so was woken.
    pub fn wakeups(&self) -> u64 {
        let status = fs::read_to_string(self.event_loop.join("status")).expect("the thread runs");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.expect("a count").trim().parse().expect("a number")
    }

    /// How long the daemon's loop has had a processor. The first number of `schedstat`, in nanoseconds.
    pub fn ran(&self) -> Duration {
        let text = fs::read_to_string(self.event_loop.join("schedstat")).expect("the thread runs");
        Duration::from_nanos(
            text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number"),
        )
    }

    fn kept(&self) -> Duration {
        let bus = PathBuf::from(format!("/proc/{}", self.bus.pid()));
        kept(&this_thread()) + kept(&self.event_loop) + kept(&bus)
    }

    /// Tells the daemon to end.
    pub fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    pub fn has_ended(&self) -> bool {
        self.daemon.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Tells the daemon to end, and waits for it.
    pub fn stop(&mut self) {
        self.ask_to_stop();
        // If it failed it has said so; a panic here would hide why the test did.
        drop(self.daemon.take().map(JoinHandle::join));
    }

    /// Ends this life, and returns when the bus knows it: the next one can begin.
    pub async fn end(mut self) {
        self.stop();
        let bus = "org.freedesktop.DBus";
        self.until("the name is free", async || {
            let owned = self.client.call_method(Some(bus), "/", Some(bus), "NameHasOwner", &NAME).await;
            !owned.expect("a reply").body().deserialize::<bool>().expect("a boolean")
        })
        .await;
    }

    pub async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let begin = Instant::now();
        while !condition().await {
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub fn is_open(&self) -> bool {
        self.dimms.try_acquire(DIMM, SPD).is_ok()
    }

    /// The host reports S0, and the gate opens. Returns when that has been signalled too, so that who listens from here on does
    /// not hear of it.
    pub async fn open(&self) {
        self.set("S0_G0_D0").await;
        self.until("the gate is open", async || self.is_open()).await;
        self.until("it is said to be open", async || self.reasons().await.is_empty()).await;
    }

    pub async fn set(&self, state: &str) {
        set(&self.client, state).await;
    }

    /// Waits until the object says this.
    pub async fn until_state(&self, state: &str) {
        self.until(&format!("it is {state}"), async || self.state().await.as_deref() == Some(state)).await;
    }

    /// The last word of `SysACPIStatus`; `None` if nobody answers.
    pub async fn state(&self) -> Option<String> {
        self.word(NAME, "SysACPIStatus").await
    }

    /// The last word of a string property.
    pub async fn word(&self, interface: &str, property: &str) -> Option<String> {
        let value = String::try_from(self.get(interface, property).await?).ok()?;
        Some(value.rsplit('.').next().unwrap_or_default().to_owned())
    }

    pub async fn cause(&self) -> Option<String> {
        self.word(TRACKER, "Cause").await
    }

    /// What keeps the gate closed.
    pub async fn reasons(&self) -> Vec<String> {
        self.words("GateReasons").await
    }

    /// What is wrong.
    pub async fn diagnoses(&self) -> Vec<String> {
        self.words("Diagnoses").await
    }

    /// Waits until this is among what is wrong, or is not.
    pub async fn diagnosed(&self, name: &str, there: bool) {
        let holds = async || self.diagnoses().await.iter().any(|diagnosis| diagnosis == name) == there;
        self.until(&format!("{name}: {there}"), holds).await;
    }

    async fn words(&self, property: &str) -> Vec<String> {
        let value = self.get(TRACKER, property).await.expect(property);
        Vec::<String>::try_from(value).expect("strings")
    }

    pub async fn get(&self, interface: &str, property: &str) -> Option<Variant<'static>> {
        let reply = self.properties("Get", &(interface, property)).await.ok()?;
        let body = reply.body();
        let value: Variant<'_> = body.deserialize().ok()?;
        Some(value.try_to_owned().ok()?.into())
    }

    /// Calls the object's Properties interface.
    pub async fn properties<B>(&self, member: &str, body: &B) -> zbus::Result<Message>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType,
    {
        self.client.call_method(Some(NAME), PATH, Some(PROPERTIES), member, body).await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
    }
}

pub async fn connect(address: &str) -> Connection {
    Builder::address(address).build().await.expect("the private bus")
}

/// A Set of `SysACPIStatus`, answered with success.
pub async fn set(client: &Connection, state: &str) {
    set_within(PATIENCE, client, state).await;
}

/// The same, where thousands may be before it.
pub async fn set_within(bound: Duration, client: &Connection, state: &str) {
    let value = Variant::from(format!("{NAME}.ACPI.{state}"));
    let arguments = (NAME, "SysACPIStatus", value);
    let reply = client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Set", &arguments);
    timeout(bound, reply).await.expect("a Set is answered").expect("a Set succeeds");
}

/// Waits until nobody has the daemon's name any more.
pub async fn until_gone(client: &Connection, within: Duration) {
    let bus = "org.freedesktop.DBus";
    let began = Instant::now();
    loop {
        let owned = client.call_method(Some(bus), "/", Some(bus), "NameHasOwner", &NAME).await;
        if !owned.expect("a reply").body().deserialize::<bool>().expect("a boolean") {
            return;
        }
        assert!(began.elapsed() < within, "it is dead and has its name");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
