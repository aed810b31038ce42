// SPDX-License-Identifier: Apache-2.0
//! The board: a server's BMC with the real daemon on it, its D-Bus, DIMM buses, power and host.
//!
//! A board performs boots, one after the other, and knows the truth about each. What it counts comes
//! from the log of its buses, from its own pollers and from what it sees on D-Bus.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use acpi_stated::{
    config::{Group, Settings},
    shell::{clock::Clock, permits::Permits, store::Places},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Error, Result,
    bmc_sensors::BmcSensors,
    buses::SimBuses,
    clock::{Lateness, millis, secs, sleep},
    cooling,
    daemon::DaemonThread,
    fan_control::{Failsafe, FanControl, Record, ZONES},
    host::{Answer, Firmware, Host, Report, Spds},
    hwmon_temp::HwmonTemp,
    ipmid::{GET_ACPI_POWER_STATE, Ipmid, SET_ACPI_POWER_STATE, cc},
    mapper,
    objects::Written,
    observer::Observer,
    pid_inputs::PidInputs,
    platform::{Load, Platform},
    poller::{Gate, Poller},
    power_control::PowerControl,
    private_bus::PrivateBus,
    progress,
    setup::{BUSES, Bmc, CPU_SENSOR, DIMMS_INSTALLED, KINDS, Setup, Way},
    simbus::SimBus,
    spd_mux::SpdMux,
    systemd::Systemd,
    tally::{Count, Tally},
    timeline::{Timeline, Who},
    transfer::{Master, Outcome},
    truth::{Performed, Quiet, REACTION},
};

/// From the reset vector to the first thing that firmware does for us: a report or an SPD read.
const EARLY_INIT: Duration = secs(4);
/// A sped-up UEFI must not become faster than any real one: from a power signal to its first SPD read
/// it takes at least this real time.
const EARLIEST_SPD: Duration = Duration::from_millis(80);
/// From the last SPD read to the end of POST.
const REST_OF_POST: Duration = secs(4);
/// From POST complete to `ExitBootServices`.
const BOOT_LOADER: Duration = secs(1);
/// From there until the operating system runs the methods by which firmware A reports.
const OS_LOADS: Duration = secs(3);
/// How long the host works before the next event, once the BMC polls.
const WORK: Duration = secs(4);
/// How long the power is off between a shutdown and the power button.
const OFF: Duration = secs(3);
/// Longer than a warm reset takes, and by far too short for one to be confirmed.
const SLOW_RAILS: Duration = millis(800);
/// From the report of S5 to the fall of power.
const SMM: Duration = secs(1);
/// How long the gate may take to open, in real time and on the board's clock. 20 s are the daemon's
/// own (settle, and POST complete taken as S0).
const OPENING: (Duration, Duration) = (Duration::from_secs(5), secs(60));
/// How long the daemon may take to serve, in real time.
const START: Duration = Duration::from_secs(10);

/// The PWM of the DIMMs' fans in POST, of 255: the daemon's default.
pub const S2_PWM: u64 = 160;
/// How long the daemon and fan control may take to bring the fans there, in real time.
pub const HELD: Duration = Duration::from_millis(250);

/// A running board.
pub struct Board {
    // Dropped in this order: the pollers stop before the daemon, all before the bus.
    pollers: Vec<Poller>,
    daemon: Option<DaemonThread>,
    /// In the daemon's place.
    _hwmon_temp: Option<HwmonTemp>,
    requests: mpsc::UnboundedReceiver<Written>,
    host: Host,
    power: PowerControl,
    ipmid: Ipmid,
    systemd: Systemd,
    observer: Observer,
    fan_control: PidInputs,
    zones: FanControl,
    bmc_sensors: BmcSensors,
    platform: Platform,
    mux: SpdMux,
    timeline: Timeline,
    setup: Setup,
    clock: Clock,
    buses: Vec<Arc<SimBus>>,
    quiet: Quiet,
    performed: Performed,
    /// The last power signal; UEFI needs time after it.
    power_signal: Instant,
    tally: Tally,
    lateness: Arc<Lateness>,
    tasks: JoinSet<()>,
    bus: PrivateBus,
}

impl Board {
    /// Starts everything; the host is off.
    #[allow(
        clippy::too_many_lines,
        reason = "one service after the other, in the order in which a BMC has them"
    )]
    pub async fn start(setup: Setup) -> Result<Self> {
        let bus = PrivateBus::start()?;
        let address = bus.address();
        let clock = Clock::scaled(setup.speed);
        let mux = SpdMux::default();
        let buses = dimm_buses(setup.spd_mux.then_some(&mux));
        let timeline = Timeline::new(setup.detail, clock, buses.clone());
        let mut tasks = JoinSet::new();
        let lateness = Lateness::measure(&mut tasks, bus.pid());
        timeline.head();
        mapper::start(address, &mut tasks).await?;
        let systemd = Systemd::start(address, setup.systemd, timeline.clone(), &mut tasks).await?;
        let (to_board, requests) = mpsc::unbounded_channel();
        let platform = Platform::new(clock);
        let power =
            PowerControl::start(address, setup.power, clock, platform.clone(), to_board, &mut tasks).await?;
        let observer = Observer::start(address, timeline.clone(), &mut tasks).await?;
        let of_all = if setup.tells_all { timeline.clone() } else { Timeline::silent() };
        let bmc_sensors =
            BmcSensors::start(address, clock, platform.clone(), of_all.clone(), &mut tasks).await?;
        if setup.heats {
            cooling::start(clock, platform.clone(), buses.clone(), bmc_sensors.clone(), &mut tasks);
        }
        if setup.tells_all {
            let timeline = timeline.clone();
            mux.tell(move |side| {
                let whose = if side == Master::Uefi { "the host" } else { "the BMC" };
                timeline.row(Who::Mux, &format!("the SPD mux gives the DIMM buses to {whose}"));
            });
        }
        let fan_control = PidInputs::start(address, &mut tasks).await?;
        let settings = setup.settings();
        let dimms = settings.sensors.iter().filter(|sensor| sensor.group == Group::Dimm);
        let inputs = (dimms.map(|sensor| sensor.name.clone()).collect(), CPU_SENSOR.to_owned());
        progress::start(address, &mut tasks).await?;
        let of_progress = of_all.clone();
        let say = move |stage: &str| of_progress.row(Who::Host, &format!("boot progress is {stage}"));
        progress::follow(address, say, &mut tasks).await?;
        let ipmid = Ipmid::start(address).await?;
        let host = Host::new(setup.firmware, ipmid.clone(), buses.clone());
        let i2c = SimBuses { dimms: buses.clone(), platform: platform.clone() };
        let fans = async || {
            let (eyes, inputs) = (fan_control.clone(), inputs.clone());
            FanControl::start(address, clock, eyes, bmc_sensors.clone(), of_all.clone(), inputs).await
        };
        let first = if setup.fans_first { Some(fans().await?) } else { None };
        let (daemon, hwmon_temp) = match setup.bmc {
            Bmc::AcpiStated => {
                (Some(start_daemon(&bus, &setup, clock, &mux, &platform, &buses).await?), None)
            }
            Bmc::Without(state) => {
                let sensors =
                    HwmonTemp::start(address, clock, state, &settings.sensors, &i2c, &mut tasks).await?;
                (None, Some(sensors))
            }
        };
        if daemon.is_some() {
            find(&observer, &ipmid).await?;
        }
        let zones = if let Some(zones) = first {
            zones
        } else {
            present(&fan_control, &settings).await?;
            fans().await?
        };
        if !zones.wait(START, |zones| ZONES.iter().all(|zone| zones.is_manual(zone).is_some())).await {
            return Err(Error::from("fan control builds no zones"));
        }
        let pollers = match &daemon {
            Some(daemon) => start_pollers(daemon, &buses, setup.gate)?,
            None => Vec::new(),
        };
        Ok(Self {
            pollers,
            daemon,
            _hwmon_temp: hwmon_temp,
            requests,
            host,
            power,
            ipmid,
            systemd,
            observer,
            fan_control,
            zones,
            bmc_sensors,
            platform,
            mux,
            timeline,
            setup,
            clock,
            buses,
            quiet: Quiet::default(),
            performed: Performed::off(),
            power_signal: Instant::now(),
            tally: Tally::default(),
            lateness,
            tasks,
            bus,
        })
    }

    /// The daemon ends in good order, and systemd starts it again.
    pub async fn restart_daemon(&mut self) -> Result<()> {
        self.pollers.clear();
        if let Some(mut daemon) = self.daemon.take() {
            self.timeline.row(Who::Daemon, "acpi-stated is restarted");
            daemon.stop().await?;
            let Self { bus, setup, clock, mux, platform, buses, .. } = self;
            let daemon = start_daemon(bus, setup, *clock, mux, platform, buses).await?;
            find(&self.observer, &self.ipmid).await?;
            self.pollers = start_pollers(&daemon, &self.buses, self.setup.gate)?;
            self.daemon = Some(daemon);
        }
        Ok(())
    }

    /// Where the board's D-Bus listens.
    #[must_use]
    pub fn address(&self) -> &str {
        self.bus.address()
    }

    /// The daemon as D-Bus shows it.
    #[must_use]
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// What fan control makes of the sensors.
    #[must_use]
    pub fn fan_control(&self) -> &PidInputs {
        &self.fan_control
    }

    /// Fan control's zones.
    #[must_use]
    pub fn zones(&self) -> &FanControl {
        &self.zones
    }

    /// What dbus-sensors has on this board anyway.
    #[must_use]
    pub fn bmc_sensors(&self) -> &BmcSensors {
        &self.bmc_sensors
    }

    /// The mux before the DIMMs, on a board that has one.
    #[must_use]
    pub fn mux(&self) -> &SpdMux {
        &self.mux
    }

    /// The host's hardware.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Who tells what happens.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The host resets with its power on, and its firmware reports S2. Nothing more is done.
    pub async fn reset_and_report(&mut self) -> Answer {
        self.performed.warm_resets += 1;
        self.report(Report::S2).await
    }

    /// How long this machine kept the board waiting at worst.
    #[must_use]
    pub fn lateness(&self) -> Duration {
        self.lateness.worst()
    }

    /// Something is not as it should be.
    pub fn fault(&mut self, what: &str) {
        self.tally.faults.push(what.to_owned());
    }

    /// The daemon's permits, for another bus thread; `None` without a daemon.
    #[must_use]
    pub fn permits(&self) -> Option<&Permits> {
        self.daemon.as_ref().map(DaemonThread::permits)
    }

    /// The daemon's thread does nothing for this long, as if it got no CPU.
    pub fn stall_daemon(&self, length: Duration) {
        if let Some(daemon) = &self.daemon {
            daemon.stall(length);
        }
    }

    /// The DIMM buses, in the order of [`BUSES`].
    #[must_use]
    pub fn buses(&self) -> &[Arc<SimBus>] {
        &self.buses
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The KCS interface to the BMC.
    #[must_use]
    pub fn ipmid(&self) -> &Ipmid {
        &self.ipmid
    }

    /// The board's systemd.
    #[must_use]
    pub fn systemd(&self) -> &Systemd {
        &self.systemd
    }

    /// The power service.
    #[must_use]
    pub fn power(&self) -> &PowerControl {
        &self.power
    }

    /// The requested transitions that clients wrote.
    pub fn requests(&mut self) -> &mut mpsc::UnboundedReceiver<Written> {
        &mut self.requests
    }

    /// Whether anything but the host itself can tell that this boot begins before UEFI reads the SPDs,
    /// and nobody opens the gate with a false report (rules 3.2, Known limits).
    #[must_use]
    pub fn protectable(&self, way: Way) -> bool {
        let Setup { firmware, power, evidence, .. } = &self.setup;
        let same_request =
            way == Way::ForcedReset && !firmware.reports_first() && !self.power.shows_forced_reset();
        way.protectable(*firmware, *power, evidence.post_complete_trusted) && !same_request
    }

    /// Whether the firmware lets anything be heard of it in POST, so that its silence is worth a diagnosis (rules 3.7).
    fn firmware_gives_a_sign(&self) -> bool {
        let Setup { firmware, evidence, sends_progress, .. } = &self.setup;
        let says = firmware.reports(Report::S2) || *firmware == Firmware::P;
        says || *sends_progress || evidence.post_complete_trusted
    }

    /// Performs one boot and counts it. The host works at its end, except after a hang.
    pub async fn boot(&mut self, way: Way) -> Result<()> {
        let openings = self.openings();
        // A request that is made is the same as the next one.
        let protected = self.protectable(way);
        self.leave(way).await?;
        let spds = self.post(way).await?;
        let reached_os = !matches!(way, Way::Hang | Way::NoCpuPower);
        if reached_os {
            self.reach_os().await?;
            self.wait_for_the_gate(protected, &openings).await;
            self.wait_for_the_fans(way).await;
            sleep(self.clock, WORK).await;
        } else if way == Way::Hang {
            self.tell(Who::Host, "UEFI hangs");
            self.wait_for_diagnoses(&["StuckInPost"], self.setup.timing.deadline).await;
        } else {
            let within = self.setup.timing.silent_after;
            if self.firmware_gives_a_sign() {
                self.wait_for_diagnoses(&["NoCpuPower", "FirmwareSilent"], within).await;
            } else {
                self.wait_for_diagnoses(&["NoCpuPower"], within).await;
                // Time enough for what is not due.
                sleep(self.clock, within).await;
            }
        }
        self.count(way, protected, &spds, reached_os, &openings);
        Ok(())
    }

    /// Forces the host off. It stays off until the next boot, which is then a [`Way::PowerOn`].
    pub async fn force_off(&mut self) -> Result<()> {
        self.tell(Who::Power, "the power button is held");
        let shown = self.power.forced_off().await?;
        self.power_fell(shown);
        self.tell(Who::Power, "chassis Off");
        Ok(())
    }

    /// Forgets the transfers since the last boot.
    pub fn forget_transfers(&self) {
        for bus in &self.buses {
            drop(bus.take_log());
        }
    }

    /// Stops everything, and gives the counts.
    pub async fn finish(mut self) -> Result<Tally> {
        let unanswered = self.host.unanswered().await;
        if unanswered != 0 {
            self.tally.faults.push(format!("{unanswered} retried requests were not answered"));
        }
        let (seen, performed) = (self.observer.seen(), self.performed);
        self.tally.inferred_s5 = Count { seen: seen.inferred_s5, performed: performed.inferred_s5 };
        self.tally.warm_resets = Count { seen: seen.warm_resets, performed: performed.warm_resets };
        self.tally.lateness = self.lateness.worst();
        self.count_fans();
        self.pollers.clear();
        if let Some(mut daemon) = self.daemon.take() {
            daemon.stop().await?;
        }
        self.tasks.shutdown().await;
        Ok(self.tally)
    }

    /// From the state the host is in to its reset vector, with the power on.
    async fn leave(&mut self, way: Way) -> Result<()> {
        match way {
            Way::PowerOn => self.press_button("the power button").await,
            Way::OsShutdown => self.shut_down("the power falls at once", millis(200)).await,
            Way::SlowOsShutdown => self.shut_down("the power takes 0.8 s to fall", SLOW_RAILS).await,
            Way::PowerCycle | Way::ResetInPost | Way::Hang | Way::NoCpuPower | Way::AdminSetsS0 => {
                self.tell(Who::Power, "an operator cycles the power; the host cannot tell anybody");
                if way == Way::NoCpuPower {
                    self.platform.trip_at_rise();
                }
                let shown = self.power.power_cycle().await?;
                self.power_fell(shown);
                self.power_rose();
                Ok(())
            }
            Way::ShortCycle => {
                self.tell(Who::Power, "the host cycles its power, off for 0.3 s, and tells nobody");
                let shown = self.power.host_power_cycle(millis(300)).await?;
                self.power_fell(shown);
                self.power_rose();
                Ok(())
            }
            Way::DcLoss => {
                self.tell(Who::Power, "DC power is lost");
                let shown = self.power.dc_lost().await?;
                self.power_fell(shown);
                sleep(self.clock, OFF).await;
                self.press_button("DC power is back, and the power button").await
            }
            Way::ForcedOff => {
                self.force_off().await?;
                sleep(self.clock, OFF).await;
                self.press_button("the power button").await
            }
            Way::WarmReset => self.warm_reset().await,
            Way::OsReboot => self.os_reboot().await,
            Way::HardReset => {
                self.observer.host_is_silent();
                self.tell(Who::Host, "the hardware resets the host, and asks nobody");
                let shown = self.power.host_reset().await?;
                self.was_reset(shown);
                Ok(())
            }
            Way::ForcedReset => {
                self.observer.host_is_silent();
                self.tell(Who::Other, "a client requests a forced warm reboot");
                let shown = self.power.forced_reset().await?;
                self.was_reset(shown);
                Ok(())
            }
        }
    }

    async fn press_button(&mut self, what: &str) -> Result<()> {
        self.tell(Who::Power, what);
        self.power.power_on().await?;
        self.power_rose();
        self.tell(Who::Power, "host Running, chassis On");
        Ok(())
    }

    async fn shut_down(&mut self, how: &str, rails: Duration) -> Result<()> {
        self.tell(Who::Host, &format!("the operating system shuts down; {how}"));
        if self.setup.firmware.reports(Report::S5) {
            let answer = self.report(Report::S5).await;
            self.quiet.from(answer.at);
            sleep(self.clock, SMM).await;
        }
        self.observer.host_is_silent();
        let shown = self.power.os_shutdown(rails).await?;
        self.power_fell(shown);
        self.tell(Who::Power, "chassis Off");
        sleep(self.clock, OFF).await;
        self.press_button("the power button").await
    }

    async fn warm_reset(&mut self) -> Result<()> {
        self.observer.host_is_silent();
        let what = if self.power.shows_warm_reset() {
            "the host resets: Off and Running again, the chassis stays On"
        } else {
            "the host resets, and nothing on D-Bus shows it"
        };
        self.tell(Who::Power, what);
        let shown = self.power.warm_reset().await?;
        self.was_reset(shown);
        Ok(())
    }

    /// The operating system has its firmware reset the host; some tell the BMC of it.
    async fn os_reboot(&mut self) -> Result<()> {
        self.tell(Who::Host, "the operating system reboots");
        match self.setup.firmware {
            Firmware::A => {
                let answer = self.report(Report::S5).await;
                self.quiet.from(answer.at);
            }
            Firmware::P => {
                let code = self.ipmid.send_reset_system().await;
                self.sent("ResetSystem", code);
                self.quiet.from(Instant::now() + REACTION);
                self.watch_the_fans();
            }
            Firmware::F | Firmware::FLate | Firmware::FRetry | Firmware::M | Firmware::N => {}
        }
        sleep(self.clock, SMM).await;
        self.observer.host_is_silent();
        let shown = self.power.host_reset().await?;
        if self.setup.firmware == Firmware::A {
            // It said S5, and that stands until it says S0.
            if let Some(shown) = shown {
                self.quiet.from(shown + REACTION);
            }
            self.power_signal = Instant::now();
        } else {
            self.was_reset(shown);
        }
        Ok(())
    }

    /// The host is at its reset vector, its power on, as `shown` on D-Bus.
    fn was_reset(&mut self, shown: Option<Instant>) {
        if let Some(shown) = shown {
            self.quiet.from(shown + REACTION);
        }
        self.power_signal = Instant::now();
        // A kind that reports S2 or a stage, early or late, shows it; another is seen only by the signal.
        let firmware = self.setup.firmware;
        if shown.is_some() || firmware.reports(Report::S2) || firmware == Firmware::P {
            self.performed.warm_resets += 1;
        }
    }

    /// The power is gone, as `shown` on D-Bus.
    fn power_fell(&mut self, shown: Instant) {
        self.zones.watch(None);
        self.observer.host_is_silent();
        self.performed.power_lost();
        self.quiet.from(shown + REACTION);
    }

    fn power_rose(&mut self) {
        self.power_signal = Instant::now();
        if self.setup.evidence.s2_from_power_on {
            self.performed.host_says_off(false);
        }
    }

    /// UEFI, up to the last SPD it reads. The DIMMs that any pass did without are missing.
    async fn post(&mut self, way: Way) -> Result<Spds> {
        if way == Way::NoCpuPower {
            self.tell(Who::Power, "chassis On; no power gets into the CPU, so nothing runs");
            return Ok(Spds { first: Instant::now(), missing: Vec::new() });
        }
        let power_on_is_s2 = self.setup.evidence.s2_from_power_on && !way.is_reset();
        if power_on_is_s2 && !self.setup.firmware.reports(Report::S2) {
            self.watch_the_fans();
        }
        let mut spds = self.initialise_memory().await?;
        if way == Way::ResetInPost {
            sleep(self.clock, secs(2)).await;
            self.tell(Who::Host, "UEFI resets itself, and nothing on D-Bus shows it");
            let again = self.initialise_memory().await?;
            spds.missing.extend(again.missing);
        }
        if way == Way::AdminSetsS0 {
            sleep(self.clock, secs(1)).await;
            self.administrator_sets_s0().await;
            // Longer than the daemon's settle.
            sleep(self.clock, self.setup.timing.settle + secs(10)).await;
            self.tell(Who::Host, "UEFI trains the memory again");
            let again = self.read_spds().await?;
            spds.missing.extend(again.missing);
        }
        Ok(spds)
    }

    async fn initialise_memory(&mut self) -> Result<Spds> {
        sleep(self.clock, EARLY_INIT).await;
        let firmware = self.setup.firmware;
        if firmware.reports_first() {
            // Its reads begin at once when the answer is there.
            self.report_s2().await;
            return self.read_spds().await;
        }
        tokio::time::sleep_until((self.power_signal + EARLIEST_SPD).into()).await;
        let spds = self.read_spds().await?;
        if firmware.reports(Report::S2) {
            self.report_s2().await;
        }
        Ok(spds)
    }

    async fn report_s2(&mut self) {
        let answer = self.report(Report::S2).await;
        self.quiet.from(answer.at);
        self.tally.acks.push(answer.took);
        self.watch_the_fans();
    }

    /// The daemon knows that this is S2: the DIMMs' fans must be held until POST is over.
    fn watch_the_fans(&self) {
        self.zones.watch(Some(S2_PWM));
    }

    async fn read_spds(&mut self) -> Result<Spds> {
        self.send_progress("MemoryInit").await;
        self.platform.work(Load::Training);
        let spds = self.host.read_spds().await?;
        self.quiet.from(spds.first);
        let found = DIMMS_INSTALLED - spds.missing.len();
        let mut text = format!("UEFI reads the SPDs: {found} of {DIMMS_INSTALLED} DIMMs");
        if !spds.missing.is_empty() {
            text.push_str(" - MEMORY LOST");
        }
        self.tell(Who::Host, &text);
        Ok(spds)
    }

    /// UEFI tells how far it is, if it does.
    async fn send_progress(&mut self, stage: &str) {
        if self.setup.sends_progress {
            self.send_stage(stage).await;
        }
    }

    async fn send_stage(&mut self, stage: &str) {
        let code = self.ipmid.send_boot_progress(stage).await;
        self.sent(stage, code);
    }

    /// UEFI sent the progress code of `what`, and was answered with `code`.
    fn sent(&mut self, what: &str, code: u8) {
        self.tell(Who::Host, &format!("sends the progress code of {what}: {code:02x}h"));
        if code != cc::OK {
            self.tally.faults.push(format!("the progress code of {what} was answered with {code:02x}h"));
        }
    }

    async fn administrator_sets_s0(&mut self) {
        self.zones.watch(None);
        self.tell(Who::Other, "an administrator sets S0 over the network, in the middle of POST");
        self.observer.host_says(Report::S0);
        let [system, device] = Report::S0.bytes();
        let response = self.ipmid.request(&[SET_ACPI_POWER_STATE, system, device]).await;
        if response.first() != Some(&cc::OK) {
            self.tally.faults.push("the administrator's S0 was refused".into());
        }
        if self.setup.firmware == Firmware::P {
            // Its next stage looks like a reset.
            self.performed.warm_resets += 1;
        }
    }

    /// The rest of POST, until the operating system runs.
    async fn reach_os(&mut self) -> Result<()> {
        if self.setup.firmware == Firmware::P {
            return self.reach_os_by_stages().await;
        }
        self.send_progress("PCIInit").await;
        sleep(self.clock, REST_OF_POST).await;
        self.zones.watch(None);
        self.send_progress("SystemInitComplete").await;
        self.platform.work(Load::Working);
        if self.setup.firmware == Firmware::N {
            // Nothing follows that anybody could see.
            self.tell(Who::Host, "POST is complete, the operating system boots");
            self.quiet.until(Instant::now());
            self.performed.host_says_off(false);
            return self.power.post_complete().await;
        }
        self.power.post_complete().await?;
        sleep(self.clock, BOOT_LOADER).await;
        self.quiet.until(Instant::now());
        if self.setup.firmware == Firmware::A {
            self.tell(Who::Host, "the operating system boots, and runs the firmware's methods");
            sleep(self.clock, OS_LOADS).await;
        }
        self.report(Report::S0).await;
        Ok(())
    }

    /// The same of a UEFI that is heard from DXE on, in edk2's order.
    async fn reach_os_by_stages(&mut self) -> Result<()> {
        for stage in ["OEM", "SystemInitComplete", "PCIInit"] {
            self.send_stage(stage).await;
        }
        sleep(self.clock, REST_OF_POST).await;
        self.send_stage("OSStart").await;
        self.power.post_complete().await?;
        self.send_stage("OEM").await;
        sleep(self.clock, BOOT_LOADER).await;
        self.zones.watch(None);
        self.platform.work(Load::Working);
        self.quiet.until(Instant::now());
        self.performed.host_says_off(false);
        self.send_stage("OSRunning").await;
        Ok(())
    }

    async fn report(&mut self, report: Report) -> Answer {
        self.observer.host_says(report);
        self.performed.host_says_off(report == Report::S5);
        let answer = self.host.report(report).await;
        let [system, device] = report.bytes();
        self.tell(
            Who::Host,
            &format!(
                "reports {} (IPMI 06h 06h, {system:02x} {device:02x}): {:02x}h after {:.1} ms",
                report.name(),
                answer.code,
                answer.took.as_secs_f64() * 1e3
            ),
        );
        if answer.code != cc::OK && self.daemon.is_some() {
            let fault = format!("the report of {} was answered with {:02x}h", report.name(), answer.code);
            self.tally.faults.push(fault);
        }
        answer
    }

    /// Per poller, how often it was granted a permit after a refusal.
    fn openings(&self) -> Vec<u64> {
        self.pollers.iter().map(Poller::openings).collect()
    }

    async fn wait_for_the_gate(&self, protected: bool, before: &[u64]) {
        if !protected {
            // It may never have closed.
            return sleep(self.clock, self.setup.timing.settle).await;
        }
        let (real, virt) = OPENING;
        let limit = Instant::now() + real + virt / self.clock.speed();
        while self.openings().iter().zip(before).any(|(now, before)| now == before) && Instant::now() < limit
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// At the end of each boot fan control has its zones back.
    async fn wait_for_the_fans(&mut self, way: Way) {
        let (real, virt) = OPENING;
        let free = |zones: &FanControl| zones.is_manual(ZONES[0]) == Some(false);
        if !self.zones.wait(real + virt / self.clock.speed(), free).await {
            self.tally.faults.push(format!("{way}: the fans were not given back"));
        }
    }

    fn count_fans(&mut self) {
        let Record { failsafes, holds, posts, .. } = self.zones.record();
        self.tally.holds += holds;
        if self.daemon.is_none() {
            return;
        }
        for post in &posts {
            match post.held_after {
                // A time that is shorter than fan control's cycle shows nothing.
                None if post.watched >= HELD => {
                    self.tally.faults.push("the fans were not held in POST".into());
                }
                None => {}
                Some(after) => {
                    self.tally.held_after = self.tally.held_after.max(after);
                    if post.slowest < S2_PWM {
                        self.tally.faults.push(format!("the fans fell to {} in POST", post.slowest));
                    }
                }
            }
        }
        if self.setup.broken {
            return;
        }
        self.tally.failsafes += failsafes.len() as u64;
        if let Some(Failsafe { zone, at, input, why, .. }) = failsafes.first() {
            let at = at.as_secs_f64();
            let fault = format!("zone{zone} was in failsafe, first at {at:.1} s: {input}, {why}");
            self.tally.faults.push(fault);
        }
    }

    async fn wait_for_diagnoses(&mut self, names: &[&str], within: Duration) {
        let limit = START + (within + secs(10)) / self.clock.speed();
        let there = |name: &&str, of: &[String]| of.iter().any(|diagnosis| diagnosis == name);
        if !self.observer.wait(limit, |view| names.iter().all(|name| there(name, &view.diagnoses))).await {
            self.tally.faults.push(format!("no diagnosis of {}", names.join(" and ")));
        }
    }

    fn count(&mut self, way: Way, protected: bool, spds: &Spds, reached_os: bool, before: &[u64]) {
        let (mut closed, mut open) = (0, 0);
        for transfer in self.buses.iter().flat_map(|bus| bus.take_log()) {
            if transfer.master == Master::Bmc {
                self.tally.unconnected += u64::from(transfer.outcome == Outcome::Unconnected);
                *(if self.quiet.broken_by(&transfer) { &mut closed } else { &mut open }) += 1;
            }
        }
        let opens: Vec<u64> = self.openings().iter().zip(before).map(|(now, before)| now - before).collect();
        let missing = u64::from(!spds.missing.is_empty());
        let tally = &mut self.tally;
        if protected {
            tally.boots += 1;
            tally.reached_os += u64::from(reached_os);
            tally.boots_with_missing_dimms += missing;
            tally.transfers_while_closed += closed;
            tally.bmc_transfers_open += open;
            let most = opens.iter().copied().max().unwrap_or_default();
            tally.gate_opens += most;
            if opens.iter().any(|n| *n != most) {
                tally.faults.push(format!("{way}: the gate opened {opens:?} times on the buses"));
            }
        } else {
            tally.unprotectable_boots += 1;
            tally.unprotectable_missing += missing;
        }
        let number = tally.boots + tally.unprotectable_boots;
        let found = DIMMS_INSTALLED.saturating_sub(spds.missing.len());
        let note = if protected { "" } else { " | nobody can protect this one" };
        self.timeline.boot(&format!(
            "   boot {number:>3}, {:<7} | {:<47} | {found} of {DIMMS_INSTALLED} DIMMs | \
             BMC transfers: {closed} while the bus was the host's, {open} otherwise{note}",
            self.setup.firmware.name(),
            way.to_string(),
        ));
    }

    fn tell(&self, who: Who, what: &str) {
        self.timeline.row(who, what);
    }
}

fn dimm_buses(mux: Option<&SpdMux>) -> Vec<Arc<SimBus>> {
    let buses = BUSES.into_iter().zip(KINDS).map(|(number, kind)| {
        let bus = SimBus::new(number, kind);
        Arc::new(if let Some(mux) = mux { bus.behind(mux.clone()) } else { bus })
    });
    buses.collect()
}

/// The daemon on this board. What it remembers outlasts it.
async fn start_daemon(
    bus: &PrivateBus,
    setup: &Setup,
    clock: Clock,
    mux: &SpdMux,
    platform: &Platform,
    buses: &[Arc<SimBus>],
) -> Result<DaemonThread> {
    let i2c = SimBuses { dimms: buses.to_vec(), platform: platform.clone() };
    let memory = bus.dir().join("run");
    std::fs::create_dir_all(&memory)?;
    let places = Places::new(bus.dir().join("state")).and_in_memory(Some(memory));
    let (i2c, mux) = (Arc::new(i2c), Arc::new(mux.clone()));
    DaemonThread::start(bus.address(), setup.settings(), clock, i2c, mux, places).await
}

fn start_pollers(daemon: &DaemonThread, buses: &[Arc<SimBus>], gate: Gate) -> Result<Vec<Poller>> {
    let start = |bus: &Arc<SimBus>| Poller::start(Arc::clone(bus), daemon.permits(), gate);
    let pollers: Vec<_> = buses.iter().filter_map(start).collect();
    if pollers.len() == BUSES.len() {
        Ok(pollers)
    } else {
        Err(Error::from("the daemon has no permits for the DIMM buses"))
    }
}

/// Returns when the mapper knows every sensor that fan control is to find.
async fn present(eyes: &PidInputs, settings: &Settings) -> Result<()> {
    let names: Vec<String> = settings.sensors.iter().map(|sensor| sensor.name.clone()).collect();
    let known = async {
        while eyes.present(&names).await?.len() < names.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    let known = tokio::time::timeout(START, known).await;
    known.map_err(|_| Error::from("the mapper does not find the sensors"))?
}

/// Waits until the daemon serves, and ipmid finds it.
async fn find(observer: &Observer, ipmid: &Ipmid) -> Result<()> {
    if !observer.daemon_ready(START).await {
        return Err(Error::from("the daemon shows no state"));
    }
    // The mapper introspects a new name in its own time; no host boots before the BMC is up.
    let known = async {
        while ipmid.request(&[GET_ACPI_POWER_STATE]).await.first() != Some(&cc::OK) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let known = tokio::time::timeout(START, known).await;
    known.map_err(|_| Error::from("ipmid does not find the daemon"))
}
