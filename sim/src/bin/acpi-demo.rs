// SPDX-License-Identifier: Apache-2.0
//! The demo: the real daemon on a simulated server that is power cycled, reset and hung.

use std::{io::Write as _, process::ExitCode, time::Duration, time::Instant};

use acpi_doubles::power::{PROGRESS, STAMP, State};
use acpi_sim::{
    Error, Result,
    bmc_sensors::{CPU_POWER, FAN_PWM, FAN_SENSOR, PSU_SENSOR, PWMS, TARGET},
    board::Board,
    fair, fan_control, fan_show,
    host::Firmware,
    hwmon_temp::PowerState,
    objects::Written,
    observer,
    pid_inputs::SENSORS,
    plan::{self, Common, Part},
    poller::Gate,
    setup::{DIMMS_INSTALLED, Setup, Way},
    tally::Tally,
    temperatures,
    timeline::{Detail, print},
    truth::REACTION,
};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
The real acpi-stated on a simulated server: watch it being power cycled, and its memory being found.

usage: acpi-demo [options]
  --boots N        perform N boots and tell one line of each (default: a show of every kind and case)
  --firmware KIND  only this firmware: f, f-late, f-retry, m, a, p or n
  --without-daemon only this: a BMC that has no acpi-stated, and dbus-sensors reads the same temperatures
  --gate off       the BMC's poller ignores its permits; the daemon is the same
  --speed X        times faster than life, for the board and for the daemon's times (default 350);
                   bus transfers and the answers to the host are always in real time
  --hold           keep a board running at the end, to explore it with busctl
  --json           print one last line for programs
  --help           print this
";

/// 200 boots take less than a minute, and UEFI still needs longer than the daemon's reaction.
const DEFAULT_SPEED: u32 = 350;
/// How many boots `--firmware` alone performs.
const FEW: usize = 9;
/// How often a held board's bus log is thrown away.
const FORGET: Duration = Duration::from_secs(60);

struct Options {
    boots: Option<usize>,
    firmware: Option<Firmware>,
    without_daemon: bool,
    gate: Gate,
    speed: u32,
    hold: bool,
    json: bool,
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            print(USAGE.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            complain(&format!("{error}\n\n{USAGE}"));
            return ExitCode::from(64);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("acpi-demo: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn complain(text: &str) {
    // Where stderr is gone, the exit code is left.
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn parse() -> Result<Option<Options>> {
    use lexopt::prelude::{Long, Short, Value, ValueExt as _};
    let mut options = Options {
        boots: None,
        firmware: None,
        without_daemon: false,
        gate: Gate::Heeded,
        speed: DEFAULT_SPEED,
        hold: false,
        json: false,
    };
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Long("boots") => match args.value()?.parse()? {
                0 => return Err(Error::from("--boots is at least 1")),
                boots => options.boots = Some(boots),
            },
            Long("firmware") => options.firmware = Some(args.value()?.parse()?),
            Long("gate") => {
                options.gate = match args.value()?.string()?.as_str() {
                    "on" => Gate::Heeded,
                    "off" => Gate::Ignored,
                    other => return Err(Error::from(format!("--gate is on or off, not {other}"))),
                }
            }
            Long("without-daemon") => options.without_daemon = true,
            Long("speed") => options.speed = args.value()?.parse::<u32>()?.max(1),
            Long("hold") => options.hold = true,
            Long("json") => options.json = true,
            Long("help") | Short('h') => return Ok(None),
            Short(_) | Long(_) | Value(_) => return Err(arg.unexpected().into()),
        }
    }
    Ok(Some(options))
}

fn run(options: &Options) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Whichever it is, everything that was started goes with the board.
        tokio::select! {
            good = demo(options) => good,
            _ = interrupt.recv() => Err(Error::from("interrupted")),
            _ = terminate.recv() => Err(Error::from("terminated")),
        }
    })
}

/// True if everything was as it should be.
async fn demo(options: &Options) -> Result<bool> {
    if options.without_daemon {
        without_daemon(PowerState::Always, Detail::Full).await?;
        without_daemon(PowerState::On, Detail::Full).await?;
        return Ok(true);
    }
    let show = options.boots.is_none() && options.firmware.is_none();
    let detail = if options.boots.is_some() { Detail::Boots } else { Detail::Full };
    let common = Common { speed: options.speed, gate: options.gate, detail };
    let parts = match (options.boots, options.firmware) {
        (None, None) => plan::show(common),
        (boots, Some(firmware)) => plan::boots_of(firmware, boots.unwrap_or(FEW), common),
        (Some(boots), None) => plan::boots_of_all(boots, common),
    };
    introduce(options, show);
    let start = Instant::now();
    let mut tally = Tally::default();
    for part in parts {
        tally.add(perform(part).await?);
    }
    if show && options.gate == Gate::Heeded {
        print(&format!("\n== DIMM temperatures\n   {} times faster than life", temperatures::SPEED));
        tally.add(temperatures::show(detail).await?);
        print(&format!(
            "\n== Fans\n   {} times faster than life; zone0 cools DIMMs and CPU, zone1 the CPU; PWM is of 255",
            fan_show::SPEED
        ));
        tally.add(fan_show::with_daemon(detail).await?);
        without_daemon(PowerState::Always, detail).await?;
    }
    print(&format!("\nTally, after {:.0} s", start.elapsed().as_secs_f64()));
    print(&tally.text(options.gate, DIMMS_INSTALLED));
    if tally.unprotectable_boots != 0 {
        print(plan::explain_unprotectable());
    }
    let complaints = tally.complaints(options.gate);
    print(&format!("\n{}", verdict(&tally, options.gate, &complaints)));
    if options.hold {
        let setup = Setup::new(Firmware::F, plan::X86_PROGRESS, options.speed);
        let setup = Setup { gate: options.gate, heats: true, tells_all: true, ..setup };
        tokio::select! {
            ended = hold(setup) => ended?,
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
    }
    if options.json {
        print(&tally.json(options.gate, DIMMS_INSTALLED));
    }
    Ok(complaints.is_empty())
}

/// The same board, and the same boots, as a BMC has them that does not know of ACPI states.
async fn without_daemon(power_state: PowerState, detail: Detail) -> Result<()> {
    let how = match power_state {
        PowerState::Always => "polls the same sensors, always",
        PowerState::On => "polls the same sensors, with PowerState On: from 10 s after the host is Running",
    };
    print(&format!(
        "\n== The same without acpi-stated: hwmontempsensor {how}\n   {} times faster than life; the host is answered \
         FFh, since nobody has the state",
        fan_show::SPEED
    ));
    let tally = fan_show::without_daemon(power_state, detail).await?;
    print(&format!(
        "   {} of {} boots lost memory (a transfer is not faster than life, so they meet more often than in life)",
        tally.boots_with_missing_dimms, tally.boots
    ));
    Ok(())
}

fn introduce(options: &Options, show: bool) {
    let speed = options.speed;
    print(&format!(
        "acpi-stated on a simulated server: {DIMMS_INSTALLED} DIMMs on two buses, read by UEFI at boot and polled by \
         the BMC.\nTimes are the board's, {speed} times faster than life; transfers (0.45 ms) and answers are in \
         real time.\nAfter a power signal the BMC may go on for {} ms of real time; UEFI needs longer to its first \
         read.",
        REACTION.as_millis()
    ));
    if options.gate == Gate::Ignored {
        print("The gate is off: the daemon is the same, but the BMC's poller ignores it.");
    }
    if show {
        print(
            "ACPI states: S5_G2 is off, S2_D2 is UEFI in POST, S0_G0_D0 is a running operating system. BMC and UEFI \
             count the transfers\non the DIMM buses since the row before.",
        );
    }
}

async fn perform(part: Part) -> Result<Tally> {
    print(&format!("\n== {}", part.heading));
    fair::perform(&part.setup, &part.ways).await
}

fn verdict(tally: &Tally, gate: Gate, complaints: &[String]) -> String {
    if !complaints.is_empty() {
        return format!(
            "NOT as it should be: {}. (This machine kept the board waiting for up to {} ms; if that is much, \
             try a lower --speed.)",
            complaints.join("; "),
            tally.lateness.as_millis()
        );
    }
    let Tally { boots, boots_with_missing_dimms: missing, transfers_while_closed: closed, .. } = tally;
    match gate {
        Gate::Heeded => format!(
            "All {boots} boots found all their memory. The BMC read the DIMMs {} times, and never while the buses \
             were the host's.",
            tally.bmc_transfers_open
        ),
        Gate::Ignored => format!(
            "Without the gate, {missing} of {boots} boots lost memory: the BMC was on the bus {closed} times while \
             it was the host's."
        ),
    }
}

/// Keeps a board with a working host until it is interrupted, and does what clients request of it.
async fn hold(setup: Setup) -> Result<()> {
    let mut board = Board::start(Setup { detail: Detail::Full, ..setup }).await?;
    board.boot(Way::PowerOn).await?;
    // Without the guid, which only makes it longer.
    let address = board.address().split(',').next().unwrap_or_default();
    let (name, path) = (observer::NAME, observer::PATH);
    let State { path: host, interface: progress, property: stage, .. } = PROGRESS;
    print(&format!(
        "\nThe board keeps running; Ctrl-C ends it. Explore it from another shell:
  busctl --address={address} introspect {name} {path}
  busctl --address={address} call {name} {path} {} GetHistory u 10
  busctl --address={address} introspect {name} {SENSORS}/DIMM_TEMP_A0
  busctl --address={address} introspect {} {}
  busctl --address={address} get-property {FAN_SENSOR} {} {FAN_PWM} {TARGET}
  busctl --address={address} get-property xyz.openbmc_project.State.Host0 {host} {progress} {stage} {STAMP}
  busctl --address={address} get-property {PSU_SENSOR} {CPU_POWER} xyz.openbmc_project.Sensor.Value Value
  busctl --address={address} set-property {name} {path} {name} SysACPIStatus s {name}.ACPI.S2_D2
  busctl --address={address} set-property xyz.openbmc_project.State.Chassis0 /xyz/openbmc_project/state/chassis0 \\
    xyz.openbmc_project.State.Chassis RequestedPowerTransition s xyz.openbmc_project.State.Chassis.Transition.PowerCycle
(also Chassis.Transition.Off and .On; on State.Host0, RequestedHostTransition with Host.Transition.Reboot or
.ForceWarmReboot)\n",
        observer::TRACKER,
        fan_control::NAME,
        fan_control::ZONES[0],
        PWMS[0],
    ));
    let mut on = true;
    loop {
        tokio::select! {
            request = board.requests().recv() => {
                let Some(request) = request else { return Ok(()) };
                obey(&mut board, &request, &mut on).await?;
            }
            () = tokio::time::sleep(FORGET) => board.forget_transfers(),
        }
    }
}

/// What the power service does about a requested transition; what makes no sense now is ignored.
async fn obey(board: &mut Board, request: &Written, on: &mut bool) -> Result<()> {
    let transition = request.value.rsplit('.').next().unwrap_or_default();
    let way = match (request.property.as_str(), transition, *on) {
        ("RequestedPowerTransition" | "RequestedHostTransition", "On", false) => Way::PowerOn,
        ("RequestedPowerTransition" | "RequestedHostTransition", "Off", true) => {
            *on = false;
            return board.force_off().await;
        }
        ("RequestedPowerTransition", "PowerCycle", true) | ("RequestedHostTransition", "Reboot", true) => {
            Way::PowerCycle
        }
        ("RequestedHostTransition", "ForceWarmReboot", true) => Way::WarmReset,
        _ => return Ok(()),
    };
    *on = true;
    board.boot(way).await
}
