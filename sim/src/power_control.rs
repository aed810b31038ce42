// SPDX-License-Identifier: Apache-2.0
//! Doubles of the power services: x86-power-control, and phosphor-state-manager (PSM) where it
//! differs. Names, objects, permissions and the order of signals are those of openbmc 2.1 and 2.2.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use acpi_doubles::power::{
    CHASSIS, CHASSIS_NAMES, CHASSIS_PATH, HOST, HOST_NAMES, HOST_PATH, OS, OS_NAMES, PROGRESS, STAMP,
};
use acpi_stated::shell::clock::Clock;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Result,
    clock::{millis, secs, sleep},
    objects::{NoMethods, Objects, Written, connect, now_us},
    platform::Platform,
};

/// Which service has the power, and what it shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// x86-power-control; with `PostComplete` configured it shows the OS status, and sees a warm reset
    /// by the fall of that line. Without it, a warm reset changes nothing on D-Bus.
    X86 {
        /// `PostComplete` is configured.
        post_complete: bool,
        /// It is patched to have `Boot.Progress`, and does not stamp it (openbmc 6).
        boot_progress: bool,
    },
    /// phosphor-state-manager, built with warm reboot.
    Psm,
}

const REQUESTED: &str = "RequestedHostTransition";
const REBOOT: &str = "xyz.openbmc_project.State.Host.Transition.Reboot";
const FORCE_WARM_REBOOT: &str = "xyz.openbmc_project.State.Host.Transition.ForceWarmReboot";
/// `WarmResetCheckMs`: how long a fall of POST complete may still be a warm reset.
const WARM_RESET_CHECK: Duration = millis(500);
/// `PowerCycleMs`: how long a power cycle stays off.
const POWER_CYCLE: Duration = secs(5);
/// How long the power button is held for a forced off; `ForceOffPulseMs` is at most 15 s.
const FORCE_OFF: Duration = secs(6);
/// From the power button to power good.
const POWER_OK: Duration = secs(1);
/// How fast the rails fall once the platform is told to switch off.
const RAILS_FALL: Duration = millis(200);
/// From the stop of PSM's host target to its start in a warm reboot.
const HOST_RESTART: Duration = secs(2);

/// The power service of host 0.
#[derive(Clone, Debug)]
pub struct PowerControl {
    flavour: Flavour,
    clock: Clock,
    platform: Platform,
    host: Objects,
    chassis: Objects,
}

impl Flavour {
    fn wires_post_complete(self) -> bool {
        matches!(self, Self::X86 { post_complete: true, .. })
    }

    /// Whether a reset that is the host's own doing changes anything on D-Bus.
    #[must_use]
    pub const fn shows_host_reset(self) -> bool {
        matches!(self, Self::X86 { post_complete: true, .. })
    }

    /// Whether a warm reset after POST changes anything on D-Bus: phosphor-state-manager shows those that it performs.
    #[must_use]
    pub const fn shows_warm_reset(self) -> bool {
        matches!(self, Self::Psm) || self.shows_host_reset()
    }

    fn has_progress(self) -> bool {
        matches!(self, Self::Psm | Self::X86 { boot_progress: true, .. })
    }
}

impl PowerControl {
    /// Starts the service on the bus at `address`, everything off. It switches `platform`'s rails. Requested transitions
    /// go to `requests`.
    pub async fn start(
        address: &str,
        flavour: Flavour,
        clock: Clock,
        platform: Platform,
        requests: mpsc::UnboundedSender<Written>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self> {
        let host = Objects::new(connect(address).await?, Some(requests.clone()));
        // x86-power-control has all on one connection, PSM a process for each.
        let chassis = match flavour {
            Flavour::X86 { .. } => host.clone(),
            Flavour::Psm => Objects::new(connect(address).await?, Some(requests)),
        };
        let power = Self { flavour, clock, platform, host, chassis };
        power.add_objects()?;
        power.host.serve(NoMethods, tasks);
        let (host, chassis) = (power.host.connection(), power.chassis.connection());
        for name in HOST_NAMES {
            host.request_name(name).await?;
        }
        if flavour == Flavour::Psm {
            power.chassis.serve(NoMethods, tasks);
        } else {
            for name in OS_NAMES {
                host.request_name(name).await?;
            }
        }
        for name in CHASSIS_NAMES {
            chassis.request_name(name).await?;
        }
        Ok(power)
    }

    fn add_objects(&self) -> Result<()> {
        // PSM's properties carry no readonly flag (openbmc 2.1).
        let psm = self.flavour == Flavour::Psm;
        let (host, chassis) = (&self.host, &self.chassis);
        let no_transition = "xyz.openbmc_project.State.Host.Transition.Off";
        HOST.add(host, "Off", psm)?;
        host.add(HOST_PATH, HOST.interface, REQUESTED, no_transition, true)?;
        let no_transition = "xyz.openbmc_project.State.Chassis.Transition.Off";
        CHASSIS.add(chassis, "Off", psm)?;
        chassis.add(CHASSIS_PATH, CHASSIS.interface, "RequestedPowerTransition", no_transition, true)?;
        chassis.add(CHASSIS_PATH, CHASSIS.interface, "LastStateChangeTime", 0_u64, psm)?;
        if self.flavour.has_progress() {
            PROGRESS.add(host, "Unspecified", true)?;
            host.add(HOST_PATH, PROGRESS.interface, STAMP, 0_u64, true)?;
        }
        if psm {
            host.stamps(HOST_PATH, PROGRESS.interface, PROGRESS.property, STAMP);
            OS.add(host, "Inactive", true)?;
            let attempts = "xyz.openbmc_project.Control.Boot.RebootAttempts";
            host.add(HOST_PATH, attempts, "AttemptsLeft", 3_u32, true)?;
        } else if self.flavour.wires_post_complete() {
            OS.add(host, "Inactive", false)?;
            let cause = "xyz.openbmc_project.State.Host.RestartCause.Unknown";
            host.add(
                "/xyz/openbmc_project/control/host0/restart_cause",
                "xyz.openbmc_project.Control.Host.RestartCause",
                "RestartCause",
                cause,
                false,
            )?;
        }
        Ok(())
    }

    /// The boot progress and its time stamp, in microseconds since 1970; `None` where nobody has it.
    #[must_use]
    pub fn progress(&self) -> Option<(String, u64)> {
        let stage = self.host.string(HOST_PATH, PROGRESS.interface, PROGRESS.property)?;
        let stamp = self.host.value(HOST_PATH, PROGRESS.interface, STAMP)?.downcast_ref().ok()?;
        Some((stage.strip_prefix(PROGRESS.prefix)?.to_owned(), stamp))
    }

    /// Whether a warm reset after POST changes anything on D-Bus.
    #[must_use]
    pub fn shows_warm_reset(&self) -> bool {
        self.flavour.shows_warm_reset()
    }

    /// Whether a forced warm reboot that is requested now changes anything on D-Bus: the same request twice is signalled once.
    #[must_use]
    pub fn shows_forced_reset(&self) -> bool {
        self.shows_warm_reset() || !self.is_requested(FORCE_WARM_REBOOT)
    }

    /// The power button, from off.
    pub async fn power_on(&self) -> Result<()> {
        // waitForPowerOK shows itself only here.
        self.state_changed().await?;
        sleep(self.clock, POWER_OK).await;
        self.rails_rise().await
    }

    /// UEFI hands over to the operating system, and asserts POST complete.
    pub async fn post_complete(&self) -> Result<()> {
        if self.flavour.wires_post_complete() {
            self.os("Standby").await?;
        }
        Ok(())
    }

    /// The host shuts itself down; its rails fall `rails` later. Returns when D-Bus first showed it.
    pub async fn os_shutdown(&self, rails: Duration) -> Result<Instant> {
        if !self.flavour.wires_post_complete() {
            sleep(self.clock, rails).await;
            return self.rails_fall().await;
        }
        // POST complete falls: checkForWarmReset.
        self.host_state("Off").await?;
        let shown = Instant::now();
        self.os("Inactive").await?;
        sleep(self.clock, rails.min(WARM_RESET_CHECK)).await;
        if rails > WARM_RESET_CHECK {
            // It looks like a warm reset until the power really goes.
            self.host_state("Running").await?;
            sleep(self.clock, rails.saturating_sub(WARM_RESET_CHECK)).await;
        }
        self.rails_fall().await?;
        Ok(shown)
    }

    /// The power button is held. Returns when D-Bus first showed it.
    pub async fn forced_off(&self) -> Result<Instant> {
        if self.flavour == Flavour::Psm {
            return self.rails_fall().await;
        }
        self.host_state("Off").await?;
        let shown = Instant::now();
        sleep(self.clock, FORCE_OFF).await;
        self.rails_fall().await?;
        Ok(shown)
    }

    /// An operator's power cycle. Returns when D-Bus first showed it.
    pub async fn power_cycle(&self) -> Result<Instant> {
        let mut shown = None;
        if self.flavour == Flavour::Psm {
            self.request(REBOOT).await?;
        } else {
            self.host_state("Off").await?;
            shown = Some(Instant::now());
            // It acts first, and signals then what it was asked for.
            self.request(REBOOT).await?;
            sleep(self.clock, RAILS_FALL).await;
        }
        let fell = self.rails_fall().await?;
        sleep(self.clock, POWER_CYCLE).await;
        self.rails_rise().await?;
        Ok(shown.unwrap_or(fell))
    }

    /// A cycle that the host itself asks for, with the power off for `off` only. Returns when D-Bus
    /// first showed it.
    pub async fn host_power_cycle(&self, off: Duration) -> Result<Instant> {
        let shown = self.os_shutdown(RAILS_FALL).await?;
        sleep(self.clock, off).await;
        self.rails_rise().await?;
        Ok(shown)
    }

    /// DC power is lost without warning. Returns when D-Bus showed it.
    pub async fn dc_lost(&self) -> Result<Instant> {
        self.rails_fall().await
    }

    /// The host resets after POST with its power on. Returns when D-Bus first showed it, if it did.
    pub async fn warm_reset(&self) -> Result<Option<Instant>> {
        if !self.shows_warm_reset() {
            return Ok(None);
        }
        self.host_state("Off").await?;
        let shown = Instant::now();
        self.host_is_off().await?;
        let off = if self.flavour == Flavour::Psm { HOST_RESTART } else { WARM_RESET_CHECK };
        sleep(self.clock, off).await;
        self.host_state("Running").await?;
        Ok(Some(shown))
    }

    /// The host resets itself after POST, or its hardware does. Returns when D-Bus first showed it, if it did.
    pub async fn host_reset(&self) -> Result<Option<Instant>> {
        if self.flavour.shows_host_reset() { self.warm_reset().await } else { Ok(None) }
    }

    /// A client requests a forced warm reboot. Returns when D-Bus first showed it, if it did.
    pub async fn forced_reset(&self) -> Result<Option<Instant>> {
        let signalled = self.request(FORCE_WARM_REBOOT).await?.then(Instant::now);
        let shown = self.warm_reset().await?;
        Ok(signalled.or(shown))
    }

    /// What a client asked for is signalled, but not what was asked for before. True if it was.
    async fn request(&self, transition: &'static str) -> Result<bool> {
        if self.is_requested(transition) {
            return Ok(false);
        }
        self.host.set(HOST_PATH, HOST.interface, REQUESTED, transition).await?;
        Ok(true)
    }

    fn is_requested(&self, transition: &str) -> bool {
        self.host.string(HOST_PATH, HOST.interface, REQUESTED).as_deref() == Some(transition)
    }

    async fn rails_rise(&self) -> Result<()> {
        self.platform.rise();
        if self.flavour == Flavour::Psm {
            self.chassis_state("On").await?;
            self.state_changed().await?;
            return self.host_state("Running").await;
        }
        self.host_state("Running").await?;
        self.chassis_state("On").await?;
        self.state_changed().await
    }

    async fn rails_fall(&self) -> Result<Instant> {
        self.platform.fall();
        let shown;
        if self.flavour == Flavour::Psm {
            // obmc-host-stop@ comes after obmc-chassis-poweroff@.
            self.chassis_state("Off").await?;
            shown = Instant::now();
            self.state_changed().await?;
            self.host_state("Off").await?;
        } else {
            self.host_state("Off").await?;
            self.chassis_state("Off").await?;
            shown = Instant::now();
            self.state_changed().await?;
        }
        self.host_is_off().await?;
        Ok(shown)
    }

    /// What follows from a host that is off.
    async fn host_is_off(&self) -> Result<()> {
        if self.flavour == Flavour::Psm {
            // By the same setter that others come through.
            self.host.set(HOST_PATH, PROGRESS.interface, STAMP, now_us()).await?;
            PROGRESS.set(&self.host, "Unspecified").await?;
        }
        self.os("Inactive").await
    }

    async fn host_state(&self, word: &str) -> Result<()> {
        Ok(HOST.set(&self.host, word).await?)
    }

    async fn chassis_state(&self, word: &str) -> Result<()> {
        Ok(CHASSIS.set(&self.chassis, word).await?)
    }

    /// Does nothing where the service shows no OS status.
    async fn os(&self, word: &str) -> Result<()> {
        Ok(OS.set(&self.host, word).await?)
    }

    async fn state_changed(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Ok(self.chassis.set(CHASSIS_PATH, CHASSIS.interface, "LastStateChangeTime", ms).await?)
    }
}
