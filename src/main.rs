// SPDX-License-Identifier: Apache-2.0
//! acpi-stated: what was asked for, and the exit code.

mod arguments;
mod log;

use std::{
    io::Write as _,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use acpi_stated::{
    adapters::{
        blacklist,
        dbus::socket,
        fans,
        i2c::LinuxBuses,
        spd_mux::{self, LinuxLines},
    },
    config::{self, Loaded, Refused, Settings},
    daemon::{Daemon, Error as Failure},
    logic::wires,
    shell::{clock::Clock, held::Held, ports::Buses, store::Places, supervisor::Supervisor},
};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tracing::level_filters::LevelFilter;
use zbus::Connection;

use crate::arguments::{Arguments, USAGE, Wanted};

/// The program as it calls itself.
const NAME: &str = env!("CARGO_PKG_NAME");
/// A bus that does not answer within this time is no bus; systemd tries again.
const CONNECT: Duration = Duration::from_secs(10);
/// How long `--release` waits for the SPD muxes, all together.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// Exit codes, from sysexits.h.
mod exit {
    /// The command line is wrong.
    pub(super) const USAGE: u8 = 64;
    /// No bus, the bus is lost, or the name is taken.
    pub(super) const UNAVAILABLE: u8 = 69;
    /// A fault of the daemon itself.
    pub(super) const SOFTWARE: u8 = 70;
    /// Standard output cannot be written to.
    pub(super) const IO: u8 = 74;
    /// The configuration cannot be used.
    pub(super) const CONFIG: u8 = 78;
}

fn main() -> ExitCode {
    let log = std::env::var("ACPI_STATED_LOG").ok();
    let arguments = match Arguments::parse(lexopt::Parser::from_env(), log) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprint!("{NAME}: {error}\n{USAGE}");
            return exit::USAGE.into();
        }
    };
    let loaded = || config::load(arguments.config.as_deref());
    match arguments.wanted {
        Wanted::Run { bus, log, state_dir } => serve(&bus, log, loaded, places(state_dir)),
        Wanted::Release { bus, log } => release(&bus, log, loaded()),
        Wanted::CheckConfig => check_config(loaded()),
        Wanted::PrintConfig => print_config(loaded()),
        Wanted::Version => said(&format!("{NAME} {}", env!("CARGO_PKG_VERSION"))),
        Wanted::Help => said(USAGE.trim_end()),
    }
}

/// Says it on standard output. A reader that has gone away is no failure of ours to shout about.
fn said(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => exit::IO.into(),
    }
}

fn check_config(loaded: Result<Loaded, Refused>) -> ExitCode {
    match loaded {
        Ok(loaded) => {
            loaded.warning_lines().for_each(|line| eprintln!("warning: {line}"));
            // On the BMC itself the kernel knows more.
            for (warns, line) in muxes(&loaded.settings, &LinuxBuses::default()) {
                eprintln!("{}: {line}", if warns { "warning" } else { "note" });
            }
            said(&loaded.summary())
        }
        Err(refused) => refuse(&refused),
    }
}

/// Returns the lines about the muxes that guarded buses are channels of, each with true if it is a warning.
fn muxes(settings: &Settings, i2c: &dyn Buses) -> Vec<(bool, String)> {
    let guarded = settings.buses.iter().filter(|bus| !bus.hosts.is_empty());
    guarded.flat_map(|bus| wires::describe(bus.bus, &i2c.chain(bus.bus)).collect::<Vec<_>>()).collect()
}

fn print_config(loaded: Result<Loaded, Refused>) -> ExitCode {
    match loaded {
        Ok(loaded) => said(&loaded.to_json()),
        Err(refused) => refuse(&refused),
    }
}

fn refuse(refused: &Refused) -> ExitCode {
    refused.lines().for_each(|line| eprintln!("error: {line}"));
    exit::CONFIG.into()
}

fn serve(
    bus: &str,
    level: LevelFilter,
    loaded: impl FnOnce() -> Result<Loaded, Refused>,
    places: Places,
) -> ExitCode {
    let log = log::init(level);
    let settings = match loaded() {
        Ok(loaded) => {
            tracing::info!("{NAME} {} starts: {}", env!("CARGO_PKG_VERSION"), loaded.inventory());
            loaded.warning_lines().for_each(|line| tracing::warn!("{line}"));
            loaded.settings
        }
        Err(refused) => {
            refused.lines().for_each(|line| tracing::error!("{line}"));
            return exit::CONFIG.into();
        }
    };
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("the event loop cannot be set up: {error}");
            return exit::SOFTWARE.into();
        }
    };
    // Ends with the runtime.
    let accounts = Arc::clone(&log);
    drop(runtime.spawn(async move { accounts.account().await }));
    let code = match runtime.block_on(run(bus, settings, places)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            let code = match error.downcast_ref() {
                Some(Failure::Bus(_)) => exit::UNAVAILABLE,
                None if error.is::<NoBus>() => exit::UNAVAILABLE,
                // Or it could not set itself up.
                Some(Failure::Part(_) | Failure::Start(..) | Failure::Timer(_)) | None => exit::SOFTWARE,
            };
            code.into()
        }
    };
    log.settle();
    code
}

/// Gives back what a daemon that is gone may still hold. Systemd waits for this, so it is bounded; and it succeeds, since a
/// failure would not make anything better.
fn release(bus: &str, level: LevelFilter, loaded: Result<Loaded, Refused>) -> ExitCode {
    let log = log::init(level);
    let hosts = loaded.map(|loaded| loaded.settings.hosts).unwrap_or_default();
    let muxes: Vec<_> = hosts.iter().filter_map(|host| host.spd_mux.as_ref()).collect();
    for (line, error) in spd_mux::give_to_hosts(&muxes, &LinuxLines, Instant::now() + GIVE_BACK) {
        tracing::error!("the SPD mux {line} cannot be given to the host: {error}");
    }
    let runtime_directory = directory("RUNTIME_DIRECTORY");
    let (mut held, left) = Held::open(runtime_directory.as_deref());
    // Without that directory nobody wrote down what was held.
    let zones = match &runtime_directory {
        Some(_) => left,
        None => hosts.into_iter().flat_map(|host| host.fans.zones).collect(),
    };
    if zones.is_empty() {
        return ExitCode::SUCCESS;
    }
    let released = async {
        let connection = connect(bus).await?;
        Ok::<_, anyhow::Error>(fans::release(&connection, &zones).await)
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let released = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(released));
    match released {
        Ok(failed) => {
            for (zone, why) in &failed {
                tracing::error!("{zone} is not given back to fan control: {why}");
            }
            tracing::info!("{} of {} fan zones given back", zones.len() - failed.len(), zones.len());
            held.note(failed.into_iter().map(|(zone, _)| zone).collect());
        }
        Err(error) => tracing::error!("the fan zones are not given back: {error:#}"),
    }
    log.settle();
    ExitCode::SUCCESS
}

async fn run(bus: &str, settings: Settings, places: Places) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let connection = connect(bus).await?;
    let daemon = Daemon::new(settings, Clock::default(), connection, Supervisor::from_env());
    daemon.with_places(places).with_entity_manager(blacklist::DIRECTORY.into()).run(stop).await?;
    Ok(())
}

async fn connect(bus: &str) -> anyhow::Result<Connection> {
    match timeout(CONNECT, socket::connect(bus)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(NoBus { bus: bus.to_owned(), why: error.to_string() }.into()),
        Err(_) => Err(NoBus { bus: bus.to_owned(), why: format!("no answer within {CONNECT:?}") }.into()),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("there is no D-Bus at {bus}: {why}")]
struct NoBus {
    bus: String,
    why: String,
}

/// Where the states are remembered: where we are told to, else where systemd says, else where it would.
fn places(state_dir: Option<PathBuf>) -> Places {
    let storage = state_dir.or_else(|| directory("STATE_DIRECTORY"));
    let storage = storage.unwrap_or_else(|| PathBuf::from("/var/lib/acpi-stated"));
    Places::new(storage).and_in_memory(directory("RUNTIME_DIRECTORY"))
}

/// The directory that systemd made for us, by the name of its environment variable; the first, if there are several.
fn directory(variable: &str) -> Option<PathBuf> {
    let all = std::env::var(variable).ok()?;
    let first = all.split(':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(first))
}
