// SPDX-License-Identifier: Apache-2.0
//! What dbus-sensors has on this board beside the daemon: the PWMs of the fans, the inlet temperature, and the power into the
//! CPU. All of it works from standby power, whatever the host does.

use std::time::Duration;

use acpi_stated::shell::clock::Clock;
use tokio::task::JoinSet;

use crate::{
    Result,
    clock::{secs, sleep},
    objects::{NoMethods, Objects, connect},
    platform::Platform,
    timeline::{Timeline, Who},
};

/// The PWMs' service.
pub const FAN_SENSOR: &str = "xyz.openbmc_project.FanSensor";
/// The fans: two before the DIMMs, one behind the CPU.
pub const PWMS: [&str; 3] = [
    "/xyz/openbmc_project/control/fanpwm/Pwm_1",
    "/xyz/openbmc_project/control/fanpwm/Pwm_2",
    "/xyz/openbmc_project/control/fanpwm/Pwm_3",
];
/// Their interface.
pub const FAN_PWM: &str = "xyz.openbmc_project.Control.FanPwm";
/// Its property, 0 to 255.
pub const TARGET: &str = "Target";
/// What every fan has when the BMC starts.
const FIRST_TARGET: u64 = 128;

/// The inlet's name.
pub const INLET: &str = "INLET_TEMP";
/// The inlet.
pub const INLET_PATH: &str = "/xyz/openbmc_project/sensors/temperature/INLET_TEMP";
/// How warm the air is, in degrees Celsius.
pub const INLET_TEMPERATURE: f64 = 25.0;

/// The service of the CPU's power.
pub const PSU_SENSOR: &str = "xyz.openbmc_project.PSUSensor";
/// The power that the CPU's regulator reports.
pub const CPU_POWER: &str = "/xyz/openbmc_project/sensors/power/CPU_POWER";
const VALUE: &str = "xyz.openbmc_project.Sensor.Value";
const CRITICAL: &str = "xyz.openbmc_project.Sensor.Threshold.Critical";
/// How often the regulator is asked; dbus-sensors' default for it.
const POLL: Duration = secs(1);
/// No faster than this, in real time.
const SHORTEST_POLL: Duration = Duration::from_millis(2);

/// The services.
#[derive(Clone, Debug)]
pub struct BmcSensors {
    fans: Objects,
    inlet: Objects,
}

impl BmcSensors {
    /// Starts them on the bus at `address`. What the CPU draws is `platform`'s, and told of if it changes much.
    pub async fn start(
        address: &str,
        clock: Clock,
        platform: Platform,
        timeline: Timeline,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self> {
        let fans = Objects::new(connect(address).await?, None);
        for pwm in PWMS {
            fans.add(pwm, FAN_PWM, TARGET, FIRST_TARGET, true)?;
        }
        let inlet = Objects::new(connect(address).await?, None);
        sensor(&inlet, INLET_PATH, "DegreesC", INLET_TEMPERATURE, (-128.0, 127.0))?;
        for alarm in ["CriticalAlarmHigh", "CriticalAlarmLow"] {
            inlet.add(INLET_PATH, CRITICAL, alarm, false, false)?;
        }
        let power = Objects::new(connect(address).await?, None);
        sensor(&power, CPU_POWER, "Watts", 0.0, (0.0, 500.0))?;
        for (objects, name) in
            [(&fans, FAN_SENSOR), (&inlet, "xyz.openbmc_project.HwmonTempSensor.Board"), (&power, PSU_SENSOR)]
        {
            objects.serve(NoMethods, tasks);
            objects.connection().request_name(name).await?;
        }
        tasks.spawn(async move {
            let mut told = String::new();
            loop {
                sleep(clock, POLL.max(SHORTEST_POLL * clock.speed())).await;
                let watts = platform.cpu_watts();
                if power.set(CPU_POWER, VALUE, "Value", watts).await.is_err() {
                    return;
                }
                let text = format!("CPU_POWER {watts:.0} W");
                if told != text {
                    timeline.row(Who::Sensors, &text);
                    told = text;
                }
            }
        });
        Ok(Self { fans, inlet })
    }

    /// Where a fan's PWM stands, 0 to 255.
    #[must_use]
    pub fn target(&self, pwm: &str) -> u64 {
        let value = self.fans.value(pwm, FAN_PWM, TARGET);
        value.and_then(|value| value.downcast_ref().ok()).unwrap_or_default()
    }

    /// The inlet becomes critically hot, or is no longer.
    pub async fn inlet_alarm(&self, alarm: bool) -> Result<()> {
        Ok(self.inlet.set(INLET_PATH, CRITICAL, "CriticalAlarmHigh", alarm).await?)
    }
}

fn sensor(objects: &Objects, path: &str, unit: &str, value: f64, (min, max): (f64, f64)) -> zbus::Result<()> {
    let unit = format!("xyz.openbmc_project.Sensor.Value.Unit.{unit}");
    objects.add(path, VALUE, "Value", value, false)?;
    objects.add(path, VALUE, "MinValue", min, false)?;
    objects.add(path, VALUE, "MaxValue", max, false)?;
    objects.add(path, VALUE, "Unit", unit, false)?;
    objects.add(path, "xyz.openbmc_project.State.Decorator.Availability", "Available", true, false)?;
    objects.add(path, "xyz.openbmc_project.State.Decorator.OperationalStatus", "Functional", true, false)
}
