// SPDX-License-Identifier: Apache-2.0
//! acpi-stated: argv and exit code.

mod log;

use std::{process::ExitCode, time::Duration};

use acpi_stated::{
    config::Settings,
    daemon::{Daemon, Error as Failure},
    shell::{clock::Clock, supervisor::Supervisor},
};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tracing::level_filters::LevelFilter;
use zbus::{Connection, connection::Builder};

/// The program as it calls itself.
const NAME: &str = env!("CARGO_PKG_NAME");
/// A bus that does not answer within this time is no bus; systemd tries again.
const CONNECT: Duration = Duration::from_secs(10);

const USAGE: &str = "\
Usage: acpi-stated [--bus system|session|ADDRESS] [--log LEVEL] [--version]

  --bus    the D-Bus to serve (default: system)
  --log    error, warn, info, debug or trace (default: $ACPI_STATED_LOG, or info)
";

/// Exit codes, from sysexits.h.
mod exit {
    /// The command line is wrong.
    pub(super) const USAGE: u8 = 64;
    /// No bus, the bus is lost, or the name is taken.
    pub(super) const UNAVAILABLE: u8 = 69;
    /// A fault of the daemon itself.
    pub(super) const SOFTWARE: u8 = 70;
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{NAME}: {error}\n{USAGE}");
            return exit::USAGE.into();
        }
    };
    log::init(arguments.log);
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("the event loop cannot be set up: {error}");
            return exit::SOFTWARE.into();
        }
    };
    match runtime.block_on(run(&arguments.bus)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            let code = match error.downcast_ref() {
                Some(Failure::Bus(_)) => exit::UNAVAILABLE,
                None if error.is::<NoBus>() => exit::UNAVAILABLE,
                // Or it could not set itself up.
                Some(Failure::Part(_)) | None => exit::SOFTWARE,
            };
            code.into()
        }
    }
}

async fn run(bus: &str) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let connection = connect(bus).await?;
    let daemon = Daemon::new(Settings::default(), Clock::default(), connection, Supervisor::from_env());
    daemon.run(stop).await?;
    Ok(())
}

async fn connect(bus: &str) -> anyhow::Result<Connection> {
    let builder = match bus {
        "system" => Builder::system(),
        "session" => Builder::session(),
        address => Builder::address(address),
    };
    match timeout(CONNECT, builder.build()).await {
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

struct Arguments {
    bus: String,
    log: LevelFilter,
}

impl Arguments {
    /// `None` if all that was wanted has been printed.
    fn parse() -> anyhow::Result<Option<Self>> {
        use lexopt::prelude::{Long, Short, Value};

        let mut bus = "system".to_owned();
        let mut log = std::env::var("ACPI_STATED_LOG").ok();
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("bus") => {
                    bus = parser.value()?.into_string().map_err(|_| anyhow::anyhow!("bad --bus"))?;
                }
                Long("log") => log = Some(parser.value()?.to_string_lossy().into_owned()),
                Long("version") => {
                    println!("{NAME} {}", env!("CARGO_PKG_VERSION"));
                    return Ok(None);
                }
                Long("help") | Short('h') => {
                    print!("{USAGE}");
                    return Ok(None);
                }
                Long(_) | Short(_) | Value(_) => return Err(argument.unexpected().into()),
            }
        }
        let log = match log {
            None => LevelFilter::INFO,
            Some(level) => level.parse().map_err(|_| anyhow::anyhow!("{level:?} is no log level"))?,
        };
        Ok(Some(Self { bus, log }))
    }
}
