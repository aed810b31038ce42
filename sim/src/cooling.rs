// SPDX-License-Identifier: Apache-2.0
//! How warm DIMMs and CPU get: by what the host does, and less with more air.

use std::{sync::Arc, time::Duration};

use acpi_stated::shell::clock::Clock;
use tokio::task::JoinSet;

use crate::{
    bmc_sensors::{BmcSensors, INLET_TEMPERATURE, PWMS},
    clock::{secs, sleep},
    platform::{Load, Platform},
    simbus::SimBus,
};

/// How often it is calculated; in real time at least [`SHORTEST_TICK`].
const TICK: Duration = secs(1);
const SHORTEST_TICK: Duration = Duration::from_millis(5);
/// How fast anything here gets warm. A heat sink is slower; a board that runs faster than life has no time for that.
const INERTIA: Duration = secs(10);

/// Degrees Celsius above the air with all fans at their fastest.
fn heat(load: Load, is_up: bool) -> (f64, f64) {
    match load {
        _ if !is_up => (0.0, 0.0),
        Load::Idle => (6.0, 10.0),
        // Training works the memory harder than any program does.
        Load::Training => (24.0, 12.0),
        Load::Working => (12.0, 14.0),
    }
}

/// Where something ends up, with the fans at this PWM.
fn settles_at(heat: f64, pwm: u64) -> f64 {
    let speed = f64::from(u32::try_from(pwm.min(255)).unwrap_or(255)) / 255.0;
    INLET_TEMPERATURE + heat / (0.25 + 0.75 * speed)
}

/// Calculates until the task is aborted.
pub fn start(
    clock: Clock,
    platform: Platform,
    buses: Vec<Arc<SimBus>>,
    sensors: BmcSensors,
    tasks: &mut JoinSet<()>,
) {
    tasks.spawn(async move {
        let tick = TICK.max(SHORTEST_TICK * clock.speed());
        let share = (tick.as_secs_f64() / INERTIA.as_secs_f64()).min(1.0);
        loop {
            sleep(clock, tick).await;
            let (of_dimm, of_cpu) = heat(platform.load(), platform.is_up());
            let [one, two, three] = PWMS.map(|pwm| sensors.target(pwm));
            for dimm in buses.iter().flat_map(|bus| bus.dimms()) {
                dimm.warm((settles_at(of_dimm, one.min(two)) - dimm.temperature()) * share);
            }
            let cpu = platform.cpu_temperature();
            platform.set_cpu_temperature(cpu + (settles_at(of_cpu, three) - cpu) * share);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_is_the_hottest_and_air_helps() {
        let trained = |pwm| settles_at(heat(Load::Training, true).0, pwm);
        assert!(trained(76) > 70.0 && trained(160) < 60.0, "{} {}", trained(76), trained(160));
        assert!(settles_at(heat(Load::Working, true).0, 76) < 55.0, "the lowest step is enough for work");
        assert!((settles_at(heat(Load::Working, false).0, 0) - INLET_TEMPERATURE).abs() < 0.01);
    }
}
