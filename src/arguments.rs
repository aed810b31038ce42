// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value};
use tracing::level_filters::LevelFilter;

pub(crate) const USAGE: &str = "\
Usage: acpi-stated [--config FILE] [--bus system|session|ADDRESS] [--state-dir DIR] [--log LEVEL]
       acpi-stated --check-config [FILE]
       acpi-stated --print-config [--config FILE]
       acpi-stated --release [--config FILE] [--bus system|session|ADDRESS]
       acpi-stated --version

  --config        the configuration (default: /etc/acpi-stated/config.json, then
                  /usr/share/acpi-stated/config.json, then defaults: host 0, no guarded bus)
  --check-config  say all that is wrong with the configuration, and end; needs no BMC
  --print-config  print the configuration with all defaults, as JSON, and end
  --release       give back what a daemon that died still holds: the fan zones, and the SPD muxes to
                  their hosts; for ExecStopPost=
  --bus           the D-Bus to serve (default: system)
  --state-dir     what is remembered of the hosts (default: $STATE_DIRECTORY, or /var/lib/acpi-stated)
  --log           error, warn, info, debug or trace (default: $ACPI_STATED_LOG, or info)
";

/// The action that the command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Wanted {
    Run { bus: String, log: LevelFilter, state_dir: Option<PathBuf> },
    CheckConfig,
    PrintConfig,
    Release { bus: String, log: LevelFilter },
    Version,
    Help,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) wanted: Wanted,
    pub(crate) config: Option<PathBuf>,
}

impl Arguments {
    /// `log` is the level where the command line says nothing.
    pub(crate) fn parse(mut parser: lexopt::Parser, log: Option<String>) -> anyhow::Result<Self> {
        let mut bus = "system".to_owned();
        let mut log = log;
        let mut state_dir = None;
        let mut config: Option<PathBuf> = None;
        let mut wanted = None;
        let mut after_check = false;
        while let Some(argument) = parser.next()? {
            let names_file = std::mem::take(&mut after_check);
            match argument {
                Long("config") => config = Some(parser.value()?.into()),
                Long("check-config") => {
                    wanted = Some(Wanted::CheckConfig);
                    let file = parser.optional_value();
                    after_check = file.is_none();
                    config = file.map(PathBuf::from).or(config);
                }
                Long("print-config") => wanted = Some(Wanted::PrintConfig),
                Long("release") => {
                    wanted = Some(Wanted::Release { bus: String::new(), log: LevelFilter::INFO });
                }
                Long("bus") => {
                    bus = parser.value()?.into_string().map_err(|_| anyhow::anyhow!("bad --bus"))?;
                }
                Long("state-dir") => state_dir = Some(parser.value()?.into()),
                Long("log") => log = Some(parser.value()?.to_string_lossy().into_owned()),
                Long("version") => return Ok(Self { wanted: Wanted::Version, config: None }),
                Long("help") | Short('h') => return Ok(Self { wanted: Wanted::Help, config: None }),
                Value(file) if names_file => config = Some(file.into()),
                Long(_) | Short(_) | Value(_) => return Err(argument.unexpected().into()),
            }
        }
        let wanted = match wanted {
            Some(Wanted::Release { .. }) => Wanted::Release { bus, log: level(log)? },
            Some(wanted) => wanted,
            None => Wanted::Run { bus, log: level(log)?, state_dir },
        };
        Ok(Self { wanted, config })
    }
}

fn level(log: Option<String>) -> anyhow::Result<LevelFilter> {
    match log {
        None => Ok(LevelFilter::INFO),
        Some(level) => level.parse().map_err(|_| anyhow::anyhow!("{level:?} is no log level")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> anyhow::Result<Arguments> {
        Arguments::parse(lexopt::Parser::from_args(line.split_whitespace()), None)
    }

    fn of(wanted: Wanted, config: Option<&str>) -> Arguments {
        Arguments { wanted, config: config.map(PathBuf::from) }
    }

    #[test]
    fn the_file_to_check_may_follow_or_not() {
        for line in
            ["--check-config f", "--check-config=f", "--config f --check-config", "--check-config --config f"]
        {
            assert_eq!(parsed(line).unwrap(), of(Wanted::CheckConfig, Some("f")), "{line}");
        }
        assert_eq!(parsed("--check-config").unwrap(), of(Wanted::CheckConfig, None));
    }

    #[test]
    fn a_stray_word_is_refused() {
        for line in ["f", "--check-config f g", "--print-config f", "--config", "--log loud", "--wrong"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_rest_is_as_the_usage_says() {
        let run = |bus: &str, log, dir: Option<&str>| Wanted::Run {
            bus: bus.to_owned(),
            log,
            state_dir: dir.map(PathBuf::from),
        };
        assert_eq!(parsed("").unwrap(), of(run("system", LevelFilter::INFO, None), None));
        assert_eq!(
            parsed("--bus session --log debug --state-dir d --config f").unwrap(),
            of(run("session", LevelFilter::DEBUG, Some("d")), Some("f"))
        );
        assert_eq!(parsed("--print-config --config f").unwrap(), of(Wanted::PrintConfig, Some("f")));
        let release = Wanted::Release { bus: "session".to_owned(), log: LevelFilter::INFO };
        assert_eq!(parsed("--bus session --release").unwrap(), of(release, None));
        assert_eq!(parsed("--version").unwrap().wanted, Wanted::Version);
        assert_eq!(parsed("-h").unwrap().wanted, Wanted::Help);
    }
}
