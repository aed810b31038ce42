// SPDX-License-Identifier: Apache-2.0
//! For a machine without a board: the mapper, a power service that says On and Running, and phosphor-pid-control's zone 0
//! with two fans, on the bus of `DBUS_SYSTEM_BUS_ADDRESS` or the system's. Prints what is written to it, a line each.

use acpi_doubles::power::{CHASSIS_NAMES, HOST_NAMES, PowerDouble};
use acpi_sim::{
    Error, Result, mapper,
    objects::{NoMethods, Objects, connect},
};
use tokio::{sync::mpsc, task::JoinSet};

const ZONE: &str = "/xyz/openbmc_project/settings/fanctrl/zone0";
const PWMS: [&str; 2] =
    ["/xyz/openbmc_project/control/fanpwm/Pwm_1", "/xyz/openbmc_project/control/fanpwm/Pwm_2"];

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve())
}

async fn serve() -> Result<()> {
    let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS")
        .unwrap_or_else(|_| "unix:path=/run/dbus/system_bus_socket".to_owned());
    let mut tasks = JoinSet::new();
    mapper::start(&address, &mut tasks).await?;
    let (to_us, mut writes) = mpsc::unbounded_channel();

    let power = PowerDouble::nameless(&address, "On", "Running", "").await?;
    let fans = Objects::new(connect(&address).await?, Some(to_us));
    fans.add(ZONE, "xyz.openbmc_project.Control.Mode", "Manual", false, true)?;
    fans.add(ZONE, "xyz.openbmc_project.Control.Mode", "FailSafe", false, false)?;
    for pwm in PWMS {
        fans.add(pwm, "xyz.openbmc_project.Control.FanPwm", "Target", 90_u64, true)?;
    }
    fans.serve(NoMethods, &mut tasks);

    power.own(&CHASSIS_NAMES).await?;
    power.own(&HOST_NAMES).await?;
    fans.connection().request_name("xyz.openbmc_project.State.FanCtrl").await?;
    println!("ready");
    while let Some(written) = writes.recv().await {
        println!("{}={}", written.property, written.value);
    }
    Err(Error::from("the bus is gone"))
}
