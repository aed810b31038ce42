// SPDX-License-Identifier: Apache-2.0
//! How the program ends when it cannot go on: its exit code, and the one line that a person reads.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so and fails"
)]

#[path = "support/private_bus.rs"]
mod private_bus;

use std::{
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use private_bus::PrivateBus;
use zbus::{
    connection::Builder,
    fdo::{RequestNameFlags, RequestNameReply},
};

const DAEMON: &str = env!("CARGO_BIN_EXE_acpi-stated");
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
    let owned = || {
        let address = format!("--address={}", bus.address());
        Command::new("busctl").args([&address, "status", NAME]).output().expect("busctl").status.success()
    };
    while !owned() {
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
