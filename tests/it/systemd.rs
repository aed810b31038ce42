// SPDX-License-Identifier: Apache-2.0
//! The daemon as a unit of a real systemd, driven by the real `busctl` and `systemctl`.
//!
//! Each test runs itself again, beside a `systemd --user` in namespaces of its own (tests/support/user-manager.sh): the outer
//! run starts that, the inner one finds `ACPI_SCENARIO` in its environment and is the scenario. Nothing is skipped: where
//! no user manager can be had, the tests fail and say so.

use std::{
    env, fs,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

const DAEMON: &str = env!("CARGO_BIN_EXE_acpi-stated");
const SERVICE: &str = "acpi-stated.service";
const NAME: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
const PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
const VALUES: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI.";

/// Longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `scenario` beside a user manager of its own. `name` is that of the calling test.
fn beside_systemd(name: &str, scenario: impl FnOnce(&Bench)) {
    beside(&format!("systemd::{name}"), scenario);
}

/// The same for a test of another module: `name` is `MODULE::TEST`.
pub(crate) fn beside(name: &str, scenario: impl FnOnce(&Bench)) {
    if env::var_os("ACPI_SCENARIO").is_some_and(|wanted| wanted == name) {
        return scenario(&Bench::new());
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/user-manager.sh");
    let itself = env::current_exe().expect("the test binary");
    let output = Command::new("timeout")
        .args(["--kill-after=5", "60", "bash", script, DAEMON])
        .arg(itself)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("ACPI_SCENARIO", name)
        .stdin(Stdio::null())
        .output()
        .expect("timeout (coreutils)");
    let said = text(&output);
    // "1 passed": a name that matches no test passes too, with none.
    if !output.status.success() || !said.contains("1 passed") {
        // Marked, so that nobody who reads the closing lines of the runner takes the inner one for it.
        let marked = said.trim_end().replace('\n', "\n  | ");
        panic!("{name}, beside a user manager: {}\n  | {marked}", output.status);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs `systemctl`, `busctl` or the like for the user manager.
fn user(program: &str, args: &[&str]) -> Output {
    Command::new(program).arg("--user").args(args).output().expect(program)
}

/// What a scenario holds: the user manager it runs beside.
pub(crate) struct Bench {
    units: PathBuf,
    logs: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = |key| PathBuf::from(env::var_os(key).expect("set by user-manager.sh"));
        Self { units: dir("ACPI_UNITS"), logs: dir("ACPI_LOGS") }
    }

    /// A bench whose acpi-stated.service is up.
    fn started(&self) -> &Self {
        self.systemctl(&["start", SERVICE]);
        self
    }

    fn ok(&self, program: &str, args: &[&str]) -> String {
        let output = user(program, args);
        assert!(output.status.success(), "{program} {args:?}: {}{}", text(&output), self.told());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn systemctl(&self, args: &[&str]) -> String {
        self.ok("systemctl", args)
    }

    /// Waits until `what` is true.
    pub(crate) fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let begin = Instant::now();
        while !condition() {
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}{}", self.told());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The logs, for a failure.
    pub(crate) fn told(&self) -> String {
        let log = |name| fs::read_to_string(self.logs.join(name)).unwrap_or_default();
        let units =
            text(&user("systemctl", &["list-units", "--all", "--no-pager", "--plain", "host-*", "acpi*"]));
        format!(
            "\n-- acpi-stated.log\n{}-- manager.log\n{}-- units\n{units}",
            log("acpi-stated.log"),
            log("manager.log")
        )
    }

    fn daemon_log(&self) -> String {
        fs::read_to_string(self.logs.join("acpi-stated.log")).unwrap_or_default()
    }

    /// A property of a unit, as `systemctl show` says it.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl(&["show", "--value", "--property", property, unit])
    }

    pub(crate) fn active(&self, unit: &str) -> bool {
        self.show(unit, "ActiveState") == "active"
    }

    fn main_pid(&self) -> String {
        self.show(SERVICE, "MainPID")
    }

    /// What ipmid does when the host reports a state.
    fn set(&self, state: &str) {
        self.ok(
            "busctl",
            &["set-property", NAME, PATH, NAME, "SysACPIStatus", "s", &format!("{VALUES}{state}")],
        );
    }

    fn get(&self) -> String {
        let answer = self.ok("busctl", &["get-property", NAME, PATH, NAME, "SysACPIStatus"]);
        answer.trim_start_matches("s \"").trim_end_matches('"').trim_start_matches(VALUES).to_owned()
    }

    /// Writes unit files (path under the unit directory, contents) and has the manager read them.
    pub(crate) fn write_units(&self, files: &[(&str, &str)]) {
        for (path, contents) in files {
            let path = self.units.join(path);
            fs::create_dir_all(path.parent().expect("a file")).expect("mkdir");
            fs::write(path, contents).expect("write");
        }
        self.systemctl(&["daemon-reload"]);
    }

    /// Installs a oneshot service that is wanted by `target` and leaves one line in a file each time it runs.
    fn write_counter(&self, name: &str, target: &str, section: &str) {
        let file = self.counter(name);
        let unit = format!(
            "[Unit]\nPartOf={target}\n[Service]\nType=oneshot\n{section}\nExecStart=/bin/sh -c 'echo ran >>{}'\n",
            file.display()
        );
        self.write_units(&[(&format!("{name}.service"), &unit)]);
        let wants = self.units.join(format!("{target}.wants"));
        fs::create_dir_all(&wants).expect("mkdir");
        std::os::unix::fs::symlink(format!("../{name}.service"), wants.join(format!("{name}.service")))
            .expect("ln");
        self.systemctl(&["daemon-reload"]);
    }

    fn counter(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.count"))
    }

    fn runs(&self, name: &str) -> usize {
        fs::read_to_string(self.counter(name)).map_or(0, |text| text.lines().count())
    }

    fn until_runs(&self, name: &str, times: usize) {
        self.until(&format!("{name} ran {times} times"), || self.runs(name) >= times);
        assert_eq!(self.runs(name), times, "{name}{}", self.told());
    }

    /// Waits until the targets of `state` (0, 2 or 5) are active, plain and of host 0, and no other is.
    fn until_only(&self, state: u8) {
        self.until(&format!("only the S{state} targets are active"), || {
            [0, 2, 5].into_iter().all(|s| {
                [format!("host-s{s}-state.target"), format!("host-s{s}-state@0.target")]
                    .iter()
                    .all(|unit| self.active(unit) == (s == state))
            })
        });
    }
}

#[test]
fn a_set_starts_its_targets_and_stops_the_others() {
    beside_systemd("a_set_starts_its_targets_and_stops_the_others", |bench| {
        bench.started();
        for (value, target) in
            [("S0_G0_D0", 0), ("S5_G2", 5), ("S2_D2", 2), ("S0_G0_D0", 0), ("S2_D2", 2), ("S5_G2", 5)]
        {
            bench.set(value);
            assert_eq!(bench.get(), value);
            bench.until_only(target);
        }
    });
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// As a service the daemon writes to journald, one line with its fields for each transition (rules 3.7).
#[test]
fn a_transition_is_one_line_of_the_journal_with_its_fields() {
    beside_systemd("a_transition_is_one_line_of_the_journal_with_its_fields", |bench| {
        // /run is the namespace's own, so the journal's socket can be ours.
        let socket = "/run/systemd/journal/socket";
        fs::create_dir_all("/run/systemd/journal").expect("mkdir");
        drop(fs::remove_file(socket));
        let journal = UnixDatagram::bind(socket).expect("the journal's socket");
        journal.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // systemd sets this when standard error is the journal.
        let environment = "[Service]\nEnvironment=JOURNAL_STREAM=1:1\n";
        bench.write_units(&[("acpi-stated.service.d/journal.conf", environment)]);
        bench.started().set("S2_D2");
        bench.set("S2_D2");
        bench.set("S5_G2");
        let mut lines = Vec::new();
        while lines.len() < 2 {
            let mut datagram = vec![0; 65_536];
            let length = journal.recv(&mut datagram).expect("a line in the journal");
            datagram.truncate(length);
            if contains(&datagram, b"ACPI_STATE") {
                lines.push(datagram);
            }
        }
        for (line, from, to) in [(&lines[0], "Unknown", "S2_D2"), (&lines[1], "S2_D2", "S5_G2")] {
            let has = |field: &str, value: &str| {
                // The journal's binary form: the name, the length in eight bytes, the value.
                let length = (value.len() as u64).to_le_bytes();
                let wanted = [field.as_bytes(), b"\n", &length, value.as_bytes(), b"\n"].concat();
                assert!(contains(line, &wanted), "no {field}={value} in {:?}", String::from_utf8_lossy(line));
            };
            has("ACPI_STATE", to);
            has("ACPI_PREVIOUS", from);
            has("ACPI_CAUSE", "HostReport");
            has("HOST", "0");
            has("MESSAGE", &format!("host0: {from} -> {to} (HostReport)"));
            assert!(contains(line, b"MESSAGE_ID\n"));
        }
    });
}

#[test]
fn a_sleep_state_leaves_the_targets_and_unknown_stops_them() {
    beside_systemd("a_sleep_state_leaves_the_targets_and_unknown_stops_them", |bench| {
        // It runs once for each time that its target is entered anew.
        bench.write_counter("entered-s0", "host-s0-state.target", "RemainAfterExit=yes");
        bench.started().set("S0_G0_D0");
        bench.until_only(0);
        bench.set("S3_D3");
        bench.set("S0_G0_D0");
        bench.until_only(0);
        bench.until_runs("entered-s0", 1);
        bench.set("Unknown");
        bench.until("no target is active", || {
            !bench.active("host-s0-state.target") && !bench.active("host-s0-state@0.target")
        });
        bench.set("S0_G0_D0");
        bench.until_only(0);
        bench.until_runs("entered-s0", 2);
    });
}

#[test]
fn a_oneshot_wanted_by_s0_runs_at_each_s0() {
    beside_systemd("a_oneshot_wanted_by_s0_runs_at_each_s0", |bench| {
        bench.write_counter("at-s0", "host-s0-state.target", "");
        bench.write_counter("stays-at-s0", "host-s0-state.target", "RemainAfterExit=yes");
        bench.started();
        for boot in 1..=3 {
            bench.set("S2_D2");
            bench.until_only(2);
            bench.set("S0_G0_D0");
            bench.until_only(0);
            bench.until_runs("at-s0", boot);
            bench.until_runs("stays-at-s0", boot);
        }
    });
}

#[test]
fn a_repeated_s2_runs_its_units_again() {
    beside_systemd("a_repeated_s2_runs_its_units_again", |bench| {
        bench.write_counter("at-s2", "host-s2-state.target", "");
        bench.write_counter("stays-at-s2", "host-s2-state.target", "RemainAfterExit=yes");
        bench.write_counter("at-s2-of-host-0", "host-s2-state@0.target", "RemainAfterExit=yes");
        bench.started().set("S2_D2");
        for run in 1..=2 {
            bench.until_only(2);
            for unit in ["at-s2", "stays-at-s2", "at-s2-of-host-0"] {
                bench.until_runs(unit, run);
            }
            if run == 1 {
                // Rules 3.2 rule 2: not before 5 s have passed since the last Set.
                std::thread::sleep(Duration::from_millis(5200));
                bench.set("S2_D2");
            }
        }
    });
}

#[test]
fn a_target_that_fails_is_logged_by_name() {
    beside_systemd("a_target_that_fails_is_logged_by_name", |bench| {
        bench.write_units(&[
            ("broken.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n"),
            ("host-s0-state.target.d/needs.conf", "[Unit]\nRequires=broken.service\nAfter=broken.service\n"),
        ]);
        bench.started().set("S0_G0_D0");
        bench.until("the failure is logged", || bench.daemon_log().contains("host-s0-state.target"));
        // It stands in nobody's way: the other target of S0 came up, and the next state comes.
        bench.until("the target of host 0 is active", || bench.active("host-s0-state@0.target"));
        bench.set("S5_G2");
        bench.until_only(5);
        assert!(!bench.daemon_log().contains("host-s5-state.target"), "no failure, no line{}", bench.told());
    });
}

#[test]
fn a_target_that_is_overtaken_is_not_a_failure() {
    beside_systemd("a_target_that_is_overtaken_is_not_a_failure", |bench| {
        bench.write_units(&[
            (
                "slow.service",
                "[Unit]\nPartOf=host-s2-state.target\n[Service]\nType=oneshot\nExecStart=/bin/sleep 30\n",
            ),
            ("host-s2-state.target.d/slow.conf", "[Unit]\nWants=slow.service\nAfter=slow.service\n"),
        ]);
        bench.started().set("S2_D2");
        bench.until("the slow unit runs", || bench.show("slow.service", "ActiveState") == "activating");
        bench.set("S0_G0_D0");
        bench.until_only(0);
        assert!(
            !bench.daemon_log().contains("host-s2-state.target"),
            "cancelled, not failed{}",
            bench.told()
        );
    });
}

#[test]
fn targets_that_are_not_installed_are_noted_once() {
    beside_systemd("targets_that_are_not_installed_are_noted_once", |bench| {
        for file in ["host-s5-state.target", "host-s5-state@.target"] {
            fs::remove_file(bench.units.join(file)).expect("rm");
        }
        bench.systemctl(&["daemon-reload"]);
        bench.started();
        for _ in 0..3 {
            bench.set("S5_G2");
            assert_eq!(bench.get(), "S5_G2");
            bench.until("it is noted", || bench.daemon_log().contains("host-s5-state.target"));
            bench.set("S0_G0_D0");
            bench.until_only(0);
        }
        for unit in ["host-s5-state.target", "host-s5-state@0.target"] {
            let lines = bench.daemon_log().lines().filter(|line| line.contains(unit)).count();
            assert_eq!(lines, 1, "{unit}{}", bench.told());
        }
    });
}

#[test]
fn start_waits_for_ready_and_status_tells_the_state() {
    beside_systemd("start_waits_for_ready_and_status_tells_the_state", |bench| {
        // Type=notify: start returns at READY=1, and by then the object answers, also under the older unit name.
        bench.systemctl(&["start", "acpi-power-state.service"]);
        assert_eq!(bench.get(), "Unknown");
        assert!(bench.active(SERVICE));
        assert!(!bench.show(SERVICE, "StatusText").is_empty(), "no STATUS={}", bench.told());
        bench.set("S0_G0_D0");
        bench.until("STATUS= tells S0", || bench.show(SERVICE, "StatusText").contains("S0"));
        bench.set("S5_G2");
        bench.until("STATUS= tells S5", || bench.show(SERVICE, "StatusText").contains("S5"));
    });
}

#[test]
fn a_stopped_daemon_is_killed_by_the_watchdog_and_comes_back() {
    beside_systemd("a_stopped_daemon_is_killed_by_the_watchdog_and_comes_back", |bench| {
        bench.write_units(&[("acpi-stated.service.d/20-watchdog.conf", "[Service]\nWatchdogSec=1\n")]);
        bench.started().set("S0_G0_D0");
        bench.until_only(0);
        let first = bench.main_pid();
        // It is fed: three periods pass.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(
            (bench.main_pid(), bench.show(SERVICE, "NRestarts")),
            (first.clone(), "0".into()),
            "{}",
            bench.told()
        );

        let stop = Command::new("kill").args(["-STOP", &first]).status().expect("kill");
        assert!(stop.success());
        bench.until("another process is up", || {
            bench.active(SERVICE) && !["0", &first].contains(&bench.main_pid().as_str())
        });
        assert_eq!(bench.show(SERVICE, "NRestarts"), "1", "{}", bench.told());
        bench.set("S5_G2");
        assert_eq!(bench.get(), "S5_G2");
        bench.until_only(5);
    });
}

#[test]
fn sigterm_ends_with_success() {
    beside_systemd("sigterm_ends_with_success", |bench| {
        // systemd forgets a stopped unit that nothing refers to, and its exit status with it.
        let end = bench.logs.join("end");
        let note = format!(
            "ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS >{}'",
            end.display()
        );
        bench.write_units(&[("acpi-stated.service.d/20-end.conf", &format!("[Service]\n{note}\n"))]);
        bench.started().set("S0_G0_D0");
        bench.systemctl(&["stop", SERVICE]);
        assert_eq!(fs::read_to_string(end).expect("the end").trim(), "success exited 0", "{}", bench.told());
    });
}

#[test]
fn a_second_instance_ends_with_69_and_leaves_the_first_alone() {
    beside_systemd("a_second_instance_ends_with_69_and_leaves_the_first_alone", |bench| {
        bench.started().set("S0_G0_D0");
        let second = Command::new("timeout")
            .args(["10", DAEMON, "--bus", "session", "--state-dir", "/run/u/second"])
            .env_remove("NOTIFY_SOCKET")
            .output()
            .expect("timeout");
        assert_eq!(second.status.code(), Some(69), "{}{}", text(&second), bench.told());
        let said = text(&second);
        let owner = format!("is taken by acpi-stated (pid {}, {SERVICE}); ", bench.main_pid());
        assert!(said.contains(NAME) && said.contains(&owner), "{said}");
        assert!(said.contains(&format!("systemctl disable --now {SERVICE}")), "what to do: {said}");
        assert_eq!(bench.get(), "S0_G0_D0");
    });
}

#[test]
fn the_unit_gives_it_two_places_to_remember_and_they_outlive_it() {
    beside_systemd("the_unit_gives_it_two_places_to_remember_and_they_outlive_it", |bench| {
        bench.started().set("S2_D2");
        let first = bench.main_pid();
        let environment = fs::read_to_string(format!("/proc/{first}/environ")).expect("it runs");
        let files = ["STATE_DIRECTORY=", "RUNTIME_DIRECTORY="].map(|variable| {
            let directory = environment.split('\0').find_map(|pair| pair.strip_prefix(variable));
            PathBuf::from(directory.expect(variable)).join("host0")
        });
        let there = || {
            let remembers = |file| fs::read_to_string(file).is_ok_and(|line| line.contains(" S2_D2 clear "));
            files.iter().all(remembers)
        };
        bench.until("both are written", there);
        Command::new("kill").args(["-KILL", &first]).status().expect("kill");
        bench.until("it is back", || {
            bench.active(SERVICE) && !["0", &first].contains(&bench.main_pid().as_str())
        });
        assert!(there(), "after a crash{}", bench.told());
        bench.systemctl(&["stop", SERVICE]);
        assert!(there(), "after a stop{}", bench.told());
    });
}

#[test]
fn it_is_started_again_however_often_it_dies() {
    beside_systemd("it_is_started_again_however_often_it_dies", |bench| {
        // Default limits give up after five starts in 10 s, OpenBMC's after two in 30 s.
        bench.started();
        for death in 1..=7 {
            let pid = bench.main_pid();
            Command::new("kill").args(["-KILL", &pid]).status().expect("kill");
            bench.until(&format!("it is back after death {death}"), || {
                bench.active(SERVICE) && !["0", &pid].contains(&bench.main_pid().as_str())
            });
        }
        assert_eq!(bench.get(), "Unknown");
    });
}

#[test]
fn a_bad_configuration_does_not_loop_and_a_lost_bus_does() {
    beside_systemd("a_bad_configuration_does_not_loop_and_a_lost_bus_does", |bench| {
        // The unit's part of it: what it does with the daemon's exit codes.
        let exits = |code: u8| {
            let dropin = format!(
                "[Service]\nType=exec\nExecStart=\nExecStart=/bin/sh -c 'exit {code}'\nRestartSec=10ms\n"
            );
            bench.write_units(&[("acpi-stated.service.d/30-exits.conf", &dropin)]);
            let _failed = user("systemctl", &["start", SERVICE]);
        };
        exits(78);
        bench.until("it has failed", || bench.show(SERVICE, "ActiveState") == "failed");
        assert_eq!(bench.show(SERVICE, "NRestarts"), "0", "{}", bench.told());
        exits(69);
        bench.until("it is restarted", || {
            bench.show(SERVICE, "NRestarts").parse::<u32>().is_ok_and(|n| n > 5)
        });
        bench.systemctl(&["stop", SERVICE]);
    });
}

#[test]
fn the_units_are_free_of_mistakes_and_can_be_enabled() {
    beside_systemd("the_units_are_free_of_mistakes_and_can_be_enabled", |bench| {
        let files: Vec<String> = fs::read_dir(&bench.units)
            .expect("units")
            .map(|entry| entry.expect("unit").file_name().into_string().expect("UTF-8"))
            .filter(|name| name.ends_with(".service") || name.ends_with(".target"))
            .map(|name| name.replace("@.", "@0."))
            .collect();
        assert_eq!(files.len(), 8, "service, alias, three targets, three templates: {files:?}");
        let mut args = vec!["verify", "--man=no"];
        args.extend(files.iter().map(String::as_str));
        let verify = user("systemd-analyze", &args);
        assert!(
            verify.status.success() && text(&verify).is_empty(),
            "systemd-analyze verify: {}",
            text(&verify)
        );

        // Offline, in a root of its own: [Install] as the package will use it.
        let root = bench.logs.join("root");
        let unit_dir = root.join("usr/lib/systemd/system");
        fs::create_dir_all(&unit_dir).expect("mkdir");
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/acpi-stated.service");
        fs::copy(shipped, unit_dir.join(SERVICE)).expect("cp");
        let root_option = format!("--root={}", root.display());
        let enable =
            Command::new("systemctl").args([&root_option, "enable", SERVICE]).output().expect("systemctl");
        assert!(enable.status.success(), "{}", text(&enable));
        for link in ["acpi-power-state.service", "multi-user.target.wants/acpi-stated.service"] {
            let target = fs::read_link(root.join("etc/systemd/system").join(link));
            assert!(target.is_ok_and(|target| target.ends_with(SERVICE)), "{link}");
        }
    });
}

/// A drop-in that starts the daemon with this configuration.
fn with_config(bench: &Bench, config: &str) {
    let file = bench.logs.join("config.json");
    fs::write(&file, config).expect("write");
    let exec =
        format!("[Service]\nExecStart=\nExecStart={DAEMON} --bus session --config {}\n", file.display());
    bench.write_units(&[("acpi-stated.service.d/20-config.conf", &exec)]);
}

#[test]
fn a_bad_configuration_is_told_once_and_not_tried_again() {
    beside_systemd("a_bad_configuration_is_told_once_and_not_tried_again", |bench| {
        with_config(bench, r#"{ "hosts": [{ "id": 0, "timing": { "settle": 0, "setle": 1 } }] }"#);
        assert!(!user("systemctl", &["start", SERVICE]).status.success());
        bench.until("the unit has failed", || bench.show(SERVICE, "ActiveState") == "failed");
        assert_eq!(bench.show(SERVICE, "ExecMainStatus"), "78");
        // RestartSec is 500 ms.
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(bench.show(SERVICE, "NRestarts"), "0");
        let log = bench.daemon_log();
        assert_eq!(log.lines().count(), 2, "{log}");
        assert!(log.contains("config.json: hosts[0].timing.setle: 1: there is no such key"), "{log}");
        assert!(log.contains("config.json: hosts[0].timing.settle: 0: not accepted"), "{log}");
    });
}

#[test]
fn a_configured_target_takes_the_place_of_the_usual_ones() {
    beside_systemd("a_configured_target_takes_the_place_of_the_usual_ones", |bench| {
        bench.write_units(&[(
            "running.target",
            "[Unit]\nConflicts=host-s2-state.target host-s5-state.target\nStopWhenUnneeded=no\n",
        )]);
        with_config(bench, r#"{ "hosts": [{ "id": 0, "targets": { "s0": "running.target" } }] }"#);
        bench.started().set("S0_G0_D0");
        bench.until("its target is active", || bench.active("running.target"));
        assert!(!bench.active("host-s0-state.target") && !bench.active("host-s0-state@0.target"));
        bench.set("S5_G2");
        bench.until_only(5);
        bench.until("its target is stopped", || !bench.active("running.target"));
        bench.set("S0_G0_D0");
        bench.until("its target is active", || bench.active("running.target"));
        bench.set("Unknown");
        bench.until("its target is stopped", || !bench.active("running.target"));
    });
}
