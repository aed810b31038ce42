// SPDX-License-Identifier: Apache-2.0
//! Properties of other services that several tests have a [`Peer`](crate::support::peer::Peer) serve, at the paths of the contract.

use acpi_doubles::power::PROGRESS;
use zbus::Variant;

use crate::support::peer::{Key, key};

pub const HOST: &str = PROGRESS.path;
pub const RAW: &str = "/xyz/openbmc_project/state/boot/raw0";
pub const CODES: &str = "xyz.openbmc_project.State.Boot.Raw";
pub const ZONE: &str = "/xyz/openbmc_project/settings/fanctrl/zone0";
pub const PWM: &str = "/xyz/openbmc_project/control/fanpwm/Pwm_1";
pub const GUARD: &str = "/xyz/openbmc_project/sensors/temperature/Inlet";
pub const CPU: &str = "/xyz/openbmc_project/sensors/power/CPU0";

/// Whether pid-control's zone is in manual mode.
pub fn manual() -> Key {
    key(ZONE, "xyz.openbmc_project.Control.Mode", "Manual")
}

/// The speed of a fan of that zone, 0 to 255.
pub fn target() -> Key {
    key(PWM, "xyz.openbmc_project.Control.FanPwm", "Target")
}

/// The alarm of a sensor that guards the zone.
pub fn alarm() -> Key {
    key(GUARD, "xyz.openbmc_project.Sensor.Threshold.Critical", "CriticalAlarmHigh")
}

/// What the CPU draws.
pub fn watts() -> Key {
    key(CPU, "xyz.openbmc_project.Sensor.Value", "Value")
}

/// The newest POST code.
pub fn code() -> Key {
    key(RAW, CODES, "Value")
}

/// How far the boot has come.
pub fn progress() -> Key {
    key(PROGRESS.path, PROGRESS.interface, PROGRESS.property)
}

/// A value of [`progress`].
pub fn stage(name: &str) -> Variant<'static> {
    Variant::from(PROGRESS.value(name))
}
