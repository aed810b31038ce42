// SPDX-License-Identifier: Apache-2.0
//! How the program ends when it cannot go on: its exit code, and the one line that a person reads.

use std::{
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::support::private_bus::PrivateBus;
use zbus::{
    connection::Builder,
    fdo::{RequestNameFlags, RequestNameReply},
};

const DAEMON: &str = env!("CARGO_BIN_EXE_acpi-stated");
const PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
const NAME: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";

fn daemon(bus: &str) -> Command {
    let mut command = Command::new("timeout");
    // What it would warn of at start depends on the machine: whether there is a configuration.
    command.args(["--kill-after=5", "20", DAEMON, "--log", "error", "--bus", bus]);
    // As in a person's terminal.
    command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").env_remove("ACPI_STATED_LOG");
    command.stdin(Stdio::null());
    command
}

/// Whether a Set is answered: all of it runs.
fn answers(bus: &PrivateBus) -> bool {
    let address = format!("--address={}", bus.address());
    let value = format!("{NAME}.ACPI.S5_G2");
    let mut busctl = Command::new("busctl");
    busctl.args([&address, "set-property", NAME, PATH, NAME, "SysACPIStatus", "s", &value]);
    busctl.output().expect("busctl").status.success()
}

/// Whether the name is owned.
fn owned(bus: &PrivateBus) -> bool {
    let address = format!("--address={}", bus.address());
    Command::new("busctl").args([&address, "status", NAME]).output().expect("busctl").status.success()
}

/// The exit code, and what was said if that was one line.
fn ended(output: &Output) -> (i32, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.stdout.is_empty());
    assert_eq!(said.lines().count(), 1, "one line: {said}");
    (output.status.code().expect("an exit code"), said.trim_end().to_owned())
}

#[test]
fn no_bus_is_69_and_says_where_there_is_none() {
    let output = daemon("unix:path=/nonexistent/bus").output().expect("timeout (coreutils)");
    let (code, said) = ended(&output);
    assert_eq!(code, 69);
    assert!(
        said.starts_with("ERROR there is no D-Bus at unix:path=/nonexistent/bus: ")
            && said.contains("No such file or directory"),
        "{said}"
    );
}

#[test]
fn a_lost_bus_is_69() {
    let bus = PrivateBus::start().expect("a private bus");
    let child = daemon(bus.address()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("timeout");
    // It has come so far that it is lost.
    let began = Instant::now();
    while !owned(&bus) {
        assert!(began.elapsed() < Duration::from_secs(10), "the daemon does not come up");
        thread::sleep(Duration::from_millis(5));
    }
    drop(bus);
    let (code, said) = ended(&child.wait_with_output().expect("its end"));
    assert_eq!(code, 69);
    assert!(
        said.contains("the bus closed the connection") || said.contains("the bus connection failed"),
        "{said}"
    );
}

#[tokio::test]
async fn a_name_that_is_taken_is_69_and_says_by_whom() {
    let bus = PrivateBus::start().expect("a private bus");
    let owner = Builder::address(bus.address()).build().await.expect("the private bus");
    let reply =
        owner.request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE).await.expect("RequestName");
    assert_eq!(reply, RequestNameReply::PrimaryOwner);
    let (code, said) = ended(&daemon(bus.address()).output().expect("timeout"));
    assert_eq!(code, 69);
    let pid = std::process::id();
    let comm = std::fs::read_to_string("/proc/self/comm").expect("comm");
    let begins = format!("ERROR the bus name {NAME} is taken by {} (pid {pid}, ", comm.trim());
    assert!(said.starts_with(&begins), "{said}");
    // A test may run in anybody's service, or in none.
    assert!(said.contains("systemctl disable --now ") || said.ends_with(&format!("kill {pid}")), "{said}");
}

#[test]
fn a_name_that_the_policy_refuses_is_69_and_says_what_is_missing() {
    let policy = r#"<policy context="default">
        <allow user="*"/><deny own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
    </policy>"#;
    let bus = PrivateBus::with_policy(policy).expect("a private bus");
    let (code, said) = ended(&daemon(bus.address()).output().expect("timeout"));
    assert_eq!(code, 69);
    assert!(
        said.starts_with("ERROR the bus does not let uid ")
            && said.contains(NAME)
            && said.contains("/etc/dbus-1/system.d"),
        "{said}"
    );
}

/// With ever more file descriptors until it comes up: whatever it cannot get, it says what, and not that it is broken.
#[test]
fn what_the_system_does_not_give_is_said_by_name() {
    let bus = PrivateBus::start().expect("a private bus");
    let mut all = Vec::new();
    for most in 4..64 {
        let limit = format!("--nofile={most}:{most}");
        let mut command = Command::new("timeout");
        command.args([
            "--kill-after=5",
            "20",
            "prlimit",
            &limit,
            DAEMON,
            "--log",
            "error",
            "--bus",
            bus.address(),
        ]);
        command
            .arg("--state-dir")
            .arg(bus.dir().join("state"))
            .env_remove("JOURNAL_STREAM")
            .env_remove("NOTIFY_SOCKET");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("timeout");
        let ended = loop {
            if child.try_wait().expect("its end").is_some() {
                break true;
            }
            if answers(&bus) {
                break false;
            }
            thread::sleep(Duration::from_millis(5));
        };
        if !ended {
            // `timeout` passes it on.
            let id = rustix::process::Pid::from_raw(child.id().try_into().expect("a pid")).expect("a pid");
            rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it is there");
            drop(child.wait());
            assert!(
                all.iter()
                    .any(|said: &String| said.contains("the event loop has no timer: Too many open files")),
                "{all:#?}"
            );
            return;
        }
        let output = child.wait_with_output().expect("its end");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("a fault in acpi-stated"), "{most} files: {said}");
        all.push(said);
    }
    panic!("it never comes up: {all:#?}");
}

/// Too few file descriptors for an event loop: enough for the program's libraries, and no more.
#[test]
fn a_fault_of_its_own_is_70() {
    let limited = ["--nofile=4:4", DAEMON, "--log", "error", "--bus", "unix:path=/nonexistent/bus"];
    let output =
        Command::new("prlimit").args(limited).env_remove("JOURNAL_STREAM").output().expect("util-linux");
    let (code, said) = ended(&output);
    assert_eq!(code, 70);
    assert!(said.starts_with("ERROR the event loop cannot be set up: Too many open files"), "{said}");
}
