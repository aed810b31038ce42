// SPDX-License-Identifier: Apache-2.0
//! The daemon's settings: rules 6, read and checked.
//!
//! In stages: `json` reads the text, `keys` says for each key what may stand there, what stands there by default
//! and what it means, `check` looks at the keys together. All that is wrong is told at once. `settings`
//! is the result. Must never: touch anything but the one file, or make use of a configuration that has a mistake.

mod check;
pub(crate) mod json;
mod keys;
pub(crate) mod problem;
#[cfg(test)]
mod reference;
mod settings;
mod value;

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
};

pub use self::{
    keys::{Device, DoneFrom, Group, SpdPage},
    problem::{Problem, Refused},
    settings::{
        Bus, Events, Evidence, Fans, Host, Limits, PostCodes, Sensor, Settings, Source, SpdMux, Targets,
        Timing,
    },
};
use self::{problem::Problems, value::Value as _};
use crate::files::{self, Links};

/// Where the configuration is, the first that is there.
pub const FILES: [&str; 2] = ["/etc/acpi-stated/config.json", "/usr/share/acpi-stated/config.json"];
/// No configuration is this long; something else is meant.
const LONGEST: u64 = 1 << 20;

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where it came from. `None`: nowhere, it is all defaults.
    pub file: Option<PathBuf>,
    /// The settings that the daemon works with.
    pub settings: Settings,
    /// The parts of the configuration that will not be as good as they could be.
    pub warnings: Vec<Problem>,
    /// All keys with what they are.
    effective: keys::Config,
}

impl Loaded {
    /// The effective configuration with all defaults; read again, it is the same.
    #[must_use]
    pub fn to_json(&self) -> String {
        self.effective.write().pretty()
    }

    /// Returns one line that says what the configuration is, for a user who wants to know that it can be used.
    #[must_use]
    pub fn summary(&self) -> String {
        let count =
            |number, one: &str, more: &str| format!("{number} {}", if number == 1 { one } else { more });
        let Settings { hosts, buses, sensors, events: _ } = &self.settings;
        format!(
            "{}: ok: {}, {}, {}",
            self.file.as_deref().map_or("defaults".into(), Path::to_string_lossy),
            count(hosts.len(), "host", "hosts"),
            count(buses.len(), "guarded bus", "guarded buses"),
            count(sensors.len(), "sensor", "sensors"),
        )
    }

    /// Returns one line that says what the daemon has, for a user who wants to know why it does not do what it should.
    #[must_use]
    pub fn inventory(&self) -> String {
        fn all(what: &str, ids: impl Iterator<Item = String>) -> String {
            let ids: Vec<_> = ids.collect();
            if ids.is_empty() { format!("no {what}") } else { format!("{what} {}", ids.join(", ")) }
        }
        let Settings { hosts, buses, sensors, events: _ } = &self.settings;
        format!(
            "{}; {}; {}; {}",
            self.file.as_deref().map_or("defaults".into(), Path::to_string_lossy),
            all("host", hosts.iter().map(|host| host.id.to_string())),
            all("bus", buses.iter().map(|bus| bus.bus.to_string())),
            all("sensor", sensors.iter().map(|sensor| sensor.name.clone())),
        )
    }

    /// Returns a line for each warning.
    pub fn warning_lines(&self) -> impl Iterator<Item = String> + '_ {
        let nowhere = self.file.is_none().then(|| {
            let [first, second] = FILES;
            format!("there is neither {first} nor {second}: host 0 with every default, and no bus is guarded")
        });
        let file = self.file.as_deref();
        let warnings = file.map(|file| self.warnings.iter().map(move |w| format!("{}: {w}", file.display())));
        nowhere.into_iter().chain(warnings.into_iter().flatten())
    }
}

/// Loads `file`, or else the first of [`FILES`] that is there, or else the defaults.
pub fn load(file: Option<&Path>) -> Result<Loaded, Refused> {
    match file {
        Some(file) => load_opened(file, files::open(file, Links::Follow)),
        None => load_first(&FILES),
    }
}

fn load_first(files: &[&str]) -> Result<Loaded, Refused> {
    for file in files.iter().map(Path::new) {
        match files::open(file, Links::Follow) {
            // A file that is there and cannot be opened is the one that was meant.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return load_opened(file, opened),
        }
    }
    parse(b"{}").map_err(|problems| Refused { file: PathBuf::new(), problems })
}

fn load_opened(file: &Path, opened: std::io::Result<File>) -> Result<Loaded, Refused> {
    let refused = |problems| Refused { file: file.to_owned(), problems };
    let whole = |wrong: String, remedy: &str| {
        let mut problems = Problems::default();
        problems.add("", wrong, remedy);
        refused(problems.0)
    };
    let mut text = Vec::new();
    opened
        .and_then(|opened| opened.take(LONGEST + 1).read_to_end(&mut text))
        .map_err(|error| whole(format!("it cannot be read: {error}"), "give a file that can be"))?;
    if text.len() as u64 > LONGEST {
        return Err(whole("it is longer than 1 MiB".to_owned(), "give a configuration"));
    }
    let loaded = parse(&text).map_err(refused)?;
    Ok(Loaded { file: Some(file.to_owned()), ..loaded })
}

/// Reads and checks the text of a configuration. All that is wrong with it is reported.
pub fn parse(text: &[u8]) -> Result<Loaded, Vec<Problem>> {
    let json = problem::parse(text).map_err(|problem| vec![problem])?;
    let mut problems = Problems::default();
    let mut warnings = Problems::default();
    let settings = keys::Config::read(&json, "", &mut problems).map(|mut effective| {
        let settings = check::check(&mut effective, &mut problems, &mut warnings);
        (settings, effective)
    });
    match settings {
        Some((settings, effective)) if problems.0.is_empty() => {
            Ok(Loaded { file: None, settings, warnings: warnings.0, effective })
        }
        Some(_) | None => Err(problems.0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOWHERE: &str = "/nowhere/config.json";
    const SLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/eight-host-sled.json");
    const BOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/ast2600-one-socket.json");

    #[test]
    fn the_first_file_that_is_there() {
        assert_eq!(load_first(&[SLED, BOARD]).unwrap().settings.hosts.len(), 8);
        let loaded = load_first(&[NOWHERE, BOARD]).unwrap();
        assert_eq!(loaded.file.as_deref(), Some(Path::new(BOARD)));
        assert_eq!(loaded.settings.hosts.len(), 1);
    }

    /// The first file is there and cannot be read: the second is not the one that is meant.
    #[test]
    fn a_first_file_that_cannot_be_read_is_refused() {
        let refused = load_first(&[env!("CARGO_MANIFEST_DIR"), BOARD]).unwrap_err();
        assert_eq!(refused.file, Path::new(env!("CARGO_MANIFEST_DIR")));
    }

    #[test]
    fn without_a_file_all_is_default_and_one_line_says_so() {
        let loaded = load_first(&[NOWHERE]).unwrap();
        assert_eq!(loaded.file, None);
        assert_eq!(format!("{:?}", loaded.settings), format!("{:?}", Settings::default()));
        let lines: Vec<String> = loaded.warning_lines().collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
    }

    /// The example of a whole configuration, as the daemon works with it.
    #[test]
    fn what_a_file_says_is_what_is_set() {
        let settings = load(Some(Path::new(BOARD))).unwrap().settings;
        let [host] = settings.hosts.as_slice() else { panic!("{settings:?}") };
        assert!(host.has_dimms);
        assert_eq!(host.timing, Timing::default());
        assert_eq!(host.fans.zones, ["/xyz/openbmc_project/settings/fanctrl/zone0"]);
        assert_eq!(host.targets.s0, ["host-s0-state.target", "host-s0-state@0.target"]);
        assert_eq!(settings.buses, [Bus::new(3, vec![0]), Bus::new(4, vec![0])]);
        let sensor = settings.sensors.first().unwrap();
        assert_eq!(
            (sensor.name.as_str(), sensor.host, sensor.poll),
            ("DIMM_TEMP_A1", 0, Duration::from_secs(1))
        );
        assert_eq!(sensor.source, Source::Device { device: Device::Jc42, bus: 3, address: 0x18 });
        assert_eq!(sensor.warning, Limits { low: None, high: Some(85.0) });
        assert_eq!((sensor.channel, sensor.step, sensor.hysteresis), (None, 0.25, 1.0));

        let sled = load(Some(Path::new(SLED))).unwrap().settings;
        let units: Vec<_> = sled.hosts.iter().map(|host| host.targets.s2.last().unwrap().as_str()).collect();
        assert_eq!(units.first(), Some(&"host-s2-state@0.target"));
        assert_eq!(units.last(), Some(&"host-s2-state@7.target"));
        assert_eq!(sled.hosts.last().unwrap().targets.s2.len(), 1);
        assert_eq!(sled.buses.last(), Some(&Bus::new(23, vec![7])));
    }

    #[test]
    fn what_is_special_of_a_sensor_arrives() {
        let text = br#"{ "buses": [{ "bus": 3, "hosts": [] }], "sensors": [
            { "name": "A", "group": "thermal", "device": "tmp421", "bus": 3, "address": "0x4c", "channel": 3,
              "step": 0.5, "hysteresis": 2 }] }"#;
        let settings = parse(text).unwrap().settings;
        let sensor = settings.sensors.first().unwrap();
        assert_eq!((sensor.channel, sensor.step, sensor.hysteresis), (Some(3), 0.5, 2.0));
        assert_eq!(settings.buses, [Bus::new(3, vec![])]);
    }

    #[test]
    fn every_key_of_a_bus_arrives() {
        let text = br#"{ "hosts": [{ "id": 0 }, { "id": 2 }],
            "buses": [{ "bus": 3, "hosts": [2], "timeout_ms": 50, "spd_page": "reset" }] }"#;
        let settings = parse(text).unwrap().settings;
        let timeout = Duration::from_millis(50);
        assert_eq!(settings.buses, [Bus { bus: 3, hosts: vec![2], timeout, spd_page: SpdPage::Reset }]);
        assert_eq!(Bus::new(3, vec![]).spd_page, SpdPage::Report);
    }

    #[test]
    fn every_key_of_a_host_arrives() {
        let text = br#"{ "hosts": [{ "id": 2,
            "evidence": { "post_complete": "trusted", "s0_from_post_complete": true, "s2_from_power_on": false, "host_off_is_off": true,
                          "boot_progress": "ignored", "progress_done_from": "OSStart", "post_codes": { "began": ["0x01", "0x19"], "done": ["0xAA"] } },
            "timing": { "ack_cap_ms": 2000, "settle": 1, "reset_confirm": 2, "host_off": 3, "min_post": 3.5, "deadline": 4, "silent_after": 5,
                        "restore_settle": 6, "thermal_grace": 7.5, "max_resets": 8 },
            "targets": { "s0": "a.target", "s2": "b.target", "s5": "c.service" },
            "fans": { "zones": ["/z"], "pwm": ["/p"], "s2_pwm": 10, "stall_pwm": 20, "hold_after": 9, "guard_sensors": ["/g"] },
            "cpu_power_sensor": "/c", "spd_mux": { "line": "MUX", "host_level": 0 }, "quiesce": ["q.service"],
            "write_boot_progress": true }] }"#;
        let settings = parse(text).unwrap().settings;
        let [host] = settings.hosts.as_slice() else { panic!("{settings:?}") };
        let seconds = Duration::from_secs;
        assert_eq!(host.id, 2);
        assert_eq!(
            host.evidence,
            Evidence {
                post_complete_trusted: true,
                s0_from_post_complete: true,
                s2_from_power_on: false,
                boot_progress: false,
                done_from: DoneFrom::OsStart,
                host_off_is_off: true
            }
        );
        assert_eq!(host.post_codes, PostCodes { began: vec![0x01, 0x19], done: vec![0xaa] });
        assert_eq!(
            host.timing,
            Timing {
                ack_cap: seconds(2),
                settle: seconds(1),
                reset_confirm: seconds(2),
                host_off: seconds(3),
                min_post: Duration::from_millis(3500),
                deadline: seconds(4),
                silent_after: seconds(5),
                restore_settle: seconds(6),
                thermal_grace: Duration::from_millis(7500),
                hold_after: seconds(9),
                max_resets: 8,
            }
        );
        let one = |name: &str| vec![name.to_owned()];
        assert_eq!(host.targets, Targets { s0: one("a.target"), s2: one("b.target"), s5: one("c.service") });
        assert_eq!(
            host.fans,
            Fans { zones: one("/z"), pwm: one("/p"), s2_pwm: 10, stall_pwm: 20, guard_sensors: one("/g") }
        );
        assert_eq!(host.cpu_power_sensor.as_deref(), Some("/c"));
        assert_eq!(host.spd_mux, Some(SpdMux { line: "MUX".to_owned(), host_level: false }));
        assert_eq!(host.quiesce, one("q.service"));
        assert!(host.write_boot_progress && !Host::new(2).write_boot_progress);
    }

    #[test]
    fn boot_progress_is_believed_of_the_only_host() {
        let believed = |hosts: &str| -> Vec<_> {
            let settings = parse(format!(r#"{{ "hosts": [{hosts}] }}"#).as_bytes()).unwrap().settings;
            settings.hosts.iter().map(|host| host.evidence.boot_progress).collect()
        };
        assert_eq!(believed(r#"{ "id": 0 }"#), [true]);
        let one_says_so = r#"{ "id": 0, "evidence": { "boot_progress": "believed" } }, { "id": 1 }"#;
        assert_eq!(believed(one_says_so), [true, false]);
        assert_eq!(believed(r#"{ "id": 0 }, { "id": 1 }"#), [false, false]);
    }
}
