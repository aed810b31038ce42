// SPDX-License-Identifier: Apache-2.0
//! The package for the host (`host/`): its units beside a real systemd manager, its hook as systemd-shutdown starts it, with an
//! `ipmitool` on the PATH that records its arguments. `./dev nspawn` has the same in a container that is really rebooted.
//!
//! A user manager never shuts a machine down, so what it shows of a shutdown is that nothing is left that could speak after the hook.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::systemd::{Bench, beside};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SERVICE: &str = "acpi-state-host.service";
const TIMER: &str = "acpi-state-host-check.timer";
const CHECK: &str = "acpi-state-host-check.service";
/// Seconds for a request, longer than a busy machine lets one wait: a second try would be recorded too.
const LONG: &str = "30";
/// The service's `RuntimeDirectory=`, with what a user manager has for /run.
const RUNTIME: &str = "/run/u/acpi-state-host";

/// Records its arguments, and does with them what ipmitool 1.8.19 does: `raw` prints each byte of the answer as " %2.2x", then a
/// newline (`ipmi_raw_main` in `lib/ipmi_raw.c`); an error is a line on standard error, and 1. `mode` says how the BMC is, `state` what it
/// has.
const IPMITOOL: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >>"$here/asked"
case $(cat "$here/mode") in
hangs) exec sleep 1000 ;;
away)
    echo "Unable to send RAW command (channel=0x0 netfn=0x6 lun=0x0 cmd=$3 rsp=0xff): Unspecified error" >&2
    exit 1
    ;;
odd)
    echo "a line that no ipmitool says"
    exit 0
    ;;
esac
case $* in
"raw 0x06 0x07") cat "$here/state" ;;
"raw 0x06 0x06 "*)
    printf ' %02x %02x\n' $(($4 & 0x7f)) $(($5 & 0x7f)) >"$here/new"
    mv "$here/new" "$here/state"
    echo
    ;;
*) exit 1 ;;
esac
"#;

/// The arguments by which this state is told, as host/messages.txt has them for all tests.
fn message(state: &str) -> String {
    let file = fs::read_to_string(Path::new(ROOT).join("host/messages.txt")).expect("host/messages.txt");
    let line = file.lines().find_map(|line| line.strip_prefix(state)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("host/messages.txt has no {state}")).to_owned()
}

/// Whether the script noted that the BMC may not know what it was told.
fn unheard() -> bool {
    Path::new(RUNTIME).join("unheard").exists()
}

/// The package, installed below the bench's own directories, and what it works with.
struct Host<'a> {
    bench: &'a Bench,
    home: PathBuf,
}

impl<'a> Host<'a> {
    /// Installed and enabled, with an ipmitool before all others on the PATH, and a target that is a boot.
    fn new(bench: &'a Bench) -> Self {
        let host = Self { bench, home: PathBuf::from("/run/u/host") };
        let bin = host.home.join("bin");
        fs::create_dir_all(&bin).expect("mkdir");
        let tool = bin.join("ipmitool");
        fs::write(&tool, IPMITOOL).expect("write");
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("chmod");
        host.bmc_is("well");
        host.bmc_has(" 05 03");
        // The machine's kernel log is not ours to write to; this name space's is.
        fs::write(host.home.join("kmsg"), "").expect("write");
        if Path::new("/dev/kmsg").exists() {
            let mount = ["--bind", "/run/u/host/kmsg", "/dev/kmsg"];
            assert!(Command::new("mount").args(mount).status().expect("mount").success());
        }
        let installed = Command::new(Path::new(ROOT).join("host/install.sh"))
            .env("PREFIX", &host.home)
            .env("UNITDIR", env::var_os("ACPI_UNITS").expect("set by user-manager.sh"))
            .env("SHUTDOWNDIR", host.home.join("shutdown"))
            .status();
        assert!(installed.expect("install.sh").success());
        let path = format!("PATH={}:{}", bin.display(), env::var("PATH").expect("a PATH"));
        bench.systemctl(&["set-environment", &path, &format!("IPMITOOL_TIMEOUT={LONG}")]);
        let target = "[Unit]\nRequires=basic.target\nAfter=basic.target\n";
        // A user manager's default slice is stopped at a shutdown, and all that is in it; system.slice is not.
        let slice = "[Service]\nSlice=-.slice\n";
        bench.write_units(&[("multi-user.target", target), (&format!("{SERVICE}.d/slice.conf"), slice)]);
        bench.systemctl(&["enable", SERVICE]);
        host
    }

    /// The minute's check, ten times a second.
    fn hurried(self) -> Self {
        // An empty one takes away all that the timer has.
        let hurry = "[Timer]\nOnActiveSec=\nOnActiveSec=100ms\nOnUnitInactiveSec=100ms\nAccuracySec=1ms\n";
        self.bench.write_units(&[(&format!("{TIMER}.d/hurry.conf"), hurry)]);
        // A rate of which systemd thinks that it is an accident.
        self.bench.write_units(&[(&format!("{CHECK}.d/hurry.conf"), "[Unit]\nStartLimitIntervalSec=0\n")]);
        self.bench.systemctl(&["restart", TIMER]);
        self
    }

    fn bmc_is(&self, mode: &str) {
        self.put("mode", mode);
    }

    fn bmc_has(&self, bytes: &str) {
        self.put("state", bytes);
    }

    /// At once, since a request may read it at this moment.
    fn put(&self, name: &str, text: &str) {
        let new = self.home.join("bin/newer");
        fs::write(&new, format!("{text}\n")).expect("write");
        fs::rename(new, self.home.join("bin").join(name)).expect("mv");
    }

    /// What ipmitool was given, call by call.
    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.home.join("bin/asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    fn sets(&self) -> Vec<String> {
        self.asked().into_iter().filter(|asked| *asked != message("Get")).collect()
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        self.bench.until(&format!("{what}; last asked {:?}", self.asked().last()), condition);
    }

    /// Waits until so many more calls were made.
    fn calls(&self, more: usize) {
        let wanted = self.asked().len() + more;
        self.until("more checks", || self.asked().len() >= wanted);
    }

    fn boot(&self) {
        self.bench.systemctl(&["start", "multi-user.target"]);
    }

    /// A boot of which the BMC was told.
    fn booted(self) -> Self {
        self.boot();
        self.until("S0 was told", || self.sets() == [message("S0")]);
        self.until("the service has ended", || self.bench.show(SERVICE, "SubState") == "exited");
        self
    }

    /// The hook, as systemd-shutdown starts it: with this one argument, and next to no environment.
    fn hook(&self, action: &str) -> Output {
        self.hook_with(action, LONG)
    }

    fn hook_with(&self, action: &str, seconds: &str) -> Output {
        Command::new(self.home.join("shutdown/acpi-state-host.shutdown"))
            .arg(action)
            .env_clear()
            .env("PATH", self.home.join("bin"))
            .env("IPMITOOL_TIMEOUT", seconds)
            .env("RUNTIME_DIRECTORY", RUNTIME)
            .stdin(Stdio::null())
            .output()
            .expect("the hook")
    }

    /// What the hook had to say, where there is no journal any more.
    fn kernel_log(&self, output: &Output) -> String {
        fs::read_to_string(self.home.join("kmsg")).expect("kmsg") + &String::from_utf8_lossy(&output.stderr)
    }
}

fn with_host(test: &str, scenario: impl FnOnce(Host<'_>)) {
    beside(&format!("host_package::{test}"), |bench| scenario(Host::new(bench)));
}

#[test]
fn a_boot_says_s0_once_and_a_bmc_that_forgot_is_told_again() {
    with_host("a_boot_says_s0_once_and_a_bmc_that_forgot_is_told_again", |host| {
        let host = host.booted().hurried();
        // It knows: it is asked, and told nothing.
        host.calls(3);
        assert_eq!(host.sets(), [message("S0")]);
        // A BMC that restarted and knows nothing; that missed a reset; that holds something else for other reasons.
        for (already, forgotten) in [" 2a 2a", " 02 02", " 05 03", " 20 00"].into_iter().enumerate() {
            host.bmc_has(forgotten);
            host.until("it is told S0 again", || host.sets().len() > already + 1);
            host.calls(3);
            assert_eq!(host.sets(), vec![message("S0"); already + 2], "after{forgotten}");
        }
        // The device's state alone is no reason.
        host.bmc_has(" 00 2a");
        host.calls(3);
        assert_eq!(host.sets().len(), 5);
        // Nor is a word that is none of the BMC's.
        host.bmc_is("odd");
        host.calls(2);
        host.bmc_is("well");
        host.until("that word is made good", || !unheard());
        // The system goes to another target, which has no timer, and comes back: the checks go on, and it was no boot.
        host.bench.systemctl(&["stop", "multi-user.target", TIMER]);
        let told = host.sets().len();
        host.boot();
        host.until("the timer is back", || host.bench.active(TIMER));
        host.calls(2);
        assert_eq!(host.sets().len(), told);
    });
}

/// It may have S0 from its storage, and not believe it.
#[test]
fn a_bmc_that_was_away_is_told_once_whatever_it_says() {
    with_host("a_bmc_that_was_away_is_told_once_whatever_it_says", |host| {
        let host = host.booted().hurried();
        host.bmc_is("away");
        host.calls(2);
        host.until("that is noted", unheard);
        assert_eq!(host.sets(), [message("S0")], "nothing is set while it is away");
        assert!(
            !host.bench.show(CHECK, "ActiveState").contains("failed"),
            "a BMC that is away fails no unit"
        );
        host.bmc_is("well");
        host.until("it is told S0 again", || host.sets().len() > 1);
        host.calls(3);
        assert_eq!(host.sets(), vec![message("S0"); 2]);
    });
}

#[test]
fn a_shutdown_stops_the_checks_and_then_says_how_it_ends() {
    with_host("a_shutdown_stops_the_checks_and_then_says_how_it_ends", |host| {
        let host = host.booted().hurried();
        host.calls(1);
        // As systemd's own reboot.target and systemd-reboot.service, but for what the latter does: there the hook is run by
        // systemd-shutdown.
        let reboot = format!(
            "[Unit]\nDefaultDependencies=no\nRequires=shutdown.target\nAfter=shutdown.target\n[Service]\nType=oneshot\nSlice=-.slice\n\
             Environment=RUNTIME_DIRECTORY=%t/acpi-state-host\nExecStart={} reboot\n",
            host.home.join("shutdown/acpi-state-host.shutdown").display()
        );
        let target =
            "[Unit]\nDefaultDependencies=no\nRequires=systemd-reboot.service\nAfter=systemd-reboot.service\n";
        host.bench.write_units(&[("systemd-reboot.service", &reboot), ("reboot.target", target)]);
        host.bench.systemctl(&["start", "--job-mode=replace-irreversibly", "reboot.target"]);
        // It was started only when all else was stopped, so nothing comes after it.
        let before = host.asked();
        assert_eq!(before.last(), Some(&message("S2")));
        assert_eq!(host.sets(), [message("S0"), message("S2")]);
        assert!(!host.bench.active(TIMER));
        assert_eq!(host.bench.show(CHECK, "ActiveState"), "inactive");
        assert!(host.bench.active(SERVICE), "it is what the hook goes by");
        // A kexec runs no firmware, and a host that is halted stays as it is; the last is no word of systemd-shutdown's.
        for action in ["kexec", "halt", "soft-reboot"] {
            assert!(host.hook(action).status.success(), "{action}");
            assert_eq!(host.asked(), before, "{action}");
        }
        assert!(host.hook("poweroff").status.success());
        assert_eq!(host.asked()[before.len()..], [message("S5")]);
        assert_eq!(host.kernel_log(&host.hook("kexec")), "", "there is nothing to complain of");
    });
}

/// Who is told S2 by a host must be told S0 by it again.
#[test]
fn a_host_whose_service_is_stopped_says_nothing() {
    with_host("a_host_whose_service_is_stopped_says_nothing", |host| {
        let host = host.booted().hurried();
        host.calls(1);
        host.bench.systemctl(&["disable", "--now", SERVICE]);
        host.until("the timer is stopped with it", || !host.bench.active(TIMER));
        host.until("no check runs", || host.bench.show(CHECK, "ActiveState") == "inactive");
        let before = host.asked();
        host.bmc_has(" 2a 2a");
        host.bench.systemctl(&["start", CHECK]);
        for action in ["reboot", "poweroff"] {
            assert!(host.hook(action).status.success(), "{action}");
        }
        assert_eq!(host.asked(), before);
    });
}

#[test]
fn an_ipmitool_that_hangs_holds_up_nothing() {
    with_host("an_ipmitool_that_hangs_holds_up_nothing", |host| {
        host.bmc_is("hangs");
        host.bench.systemctl(&["set-environment", "IPMITOOL_TIMEOUT=1"]);
        // The boot does not wait: the target is reached while ipmitool hangs.
        host.boot();
        assert!(host.bench.active("multi-user.target"));
        host.until("it is asked", || !host.asked().is_empty());
        let begin = Instant::now();
        let output = host.hook_with("reboot", "1");
        let took = begin.elapsed();
        // Two tries of a second each, and one between them. The rest is for a busy machine, and far from 1000 s.
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert!(!output.status.success());
        assert_eq!(host.sets().iter().filter(|asked| **asked == message("S2")).count(), 2);
        let said = host.kernel_log(&output);
        assert!(
            said.contains("acpi-state-host: the BMC does not know of S2: no answer within 1 s"),
            "{said}"
        );
        // A check gives up too, and is no failed unit.
        host.bench.systemctl(&["start", CHECK]);
        assert_eq!(host.bench.show(CHECK, "ActiveState"), "inactive");
        assert_eq!(host.bench.show(CHECK, "Result"), "success");
    });
}

#[test]
fn a_host_without_ipmitool_boots_and_ends() {
    with_host("a_host_without_ipmitool_boots_and_ends", |host| {
        host.bench.systemctl(&["set-environment", "IPMITOOL=ipmitool-that-is-not-there"]);
        host.boot();
        host.until("the service has tried", || host.bench.show(SERVICE, "SubState") == "exited");
        assert!(host.bench.active(SERVICE));
        host.bench.systemctl(&["start", CHECK]);
        assert_eq!(host.bench.systemctl(&["list-units", "--failed", "--plain", "--no-legend"]), "");
        fs::remove_file(host.home.join("bin/ipmitool")).expect("rm");
        // The real one, should this machine have it, is behind it on the PATH: it finds no BMC, or is not there.
        let output = Command::new(host.home.join("shutdown/acpi-state-host.shutdown"))
            .arg("reboot")
            .env_clear()
            .env("IPMITOOL", "ipmitool-that-is-not-there")
            .env("RUNTIME_DIRECTORY", RUNTIME)
            .output()
            .expect("the hook");
        let said = host.kernel_log(&output);
        assert!(said.contains("the BMC does not know of S2: "), "{said}");
        assert_eq!(host.asked(), [""; 0]);
    });
}

/// In the units as they are on a host, with the system manager's own units.
#[test]
fn the_units_are_understood_and_the_package_comes_off_again() {
    let root = env::temp_dir().join(format!("acpi-state-host-{}", std::process::id()));
    let install = |arguments: &[&str]| {
        let script = Path::new(ROOT).join("host/install.sh");
        let run = Command::new(script).args(arguments).env("DESTDIR", &root).status().expect("install.sh");
        assert!(run.success());
    };
    install(&[]);
    let units = root.join("usr/lib/systemd/system");
    for unit in [SERVICE, CHECK, TIMER] {
        assert!(units.join(unit).exists(), "{unit}");
    }
    for program in ["usr/sbin/acpi-state-host", "usr/lib/systemd/system-shutdown/acpi-state-host.shutdown"] {
        let mode = fs::metadata(root.join(program)).expect(program).permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{program}");
        for shell in ["dash", "bash", "busybox"] {
            let mut syntax = Command::new(shell);
            syntax.args(if shell == "busybox" { &["sh", "-n"][..] } else { &["-n"] }).arg(root.join(program));
            match syntax.status() {
                Ok(status) => assert!(status.success(), "{shell} does not read {program}"),
                // The one that runs it is there, whichever it is.
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{shell}"),
            }
        }
    }
    // Where the program is not installed, that is all there is to complain of.
    let copies = root.join("copies");
    fs::create_dir(&copies).expect("mkdir");
    for unit in [SERVICE, CHECK, TIMER] {
        let text = fs::read_to_string(units.join(unit)).expect(unit);
        let here = text
            .replace("/usr/sbin/acpi-state-host", "/bin/true")
            .replace("file:/usr/share/doc", "https://none");
        fs::write(copies.join(unit), here).expect("write");
    }
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args([SERVICE, CHECK, TIMER].map(|unit| copies.join(unit)))
        .output()
        .expect("systemd-analyze");
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(verify.status.success() && !said.contains("acpi-state-host"), "{said}");
    fs::remove_dir_all(copies).expect("rm");
    install(&["--uninstall"]);
    let left = Command::new("find").arg(&root).args(["-type", "f"]).output().expect("find");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    fs::remove_dir_all(root).expect("rm");
}
