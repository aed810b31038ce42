// SPDX-License-Identifier: Apache-2.0
//! A private dbus-daemon in a directory of its own: for the tests and for the simulated board.
//!
//! Only `std`, and blocking: it takes a few milliseconds. On this bus everybody may own any name and
//! call anybody, as OpenBMC's `dbus-perms` allows it (contract section 8).
#![allow(
    unreachable_pub,
    dead_code,
    reason = "this file is included by crates that do and that do not export it"
)]

use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running dbus-daemon; it ends, and its directory goes, when this is dropped.
#[derive(Debug)]
pub struct PrivateBus {
    child: Child,
    dir: PathBuf,
    address: String,
}

impl PrivateBus {
    /// Starts the bus and waits until it listens.
    pub fn start() -> io::Result<Self> {
        let dir = new_dir()?;
        match start_in(&dir) {
            Ok((child, address)) => Ok(Self { child, dir, address }),
            Err(error) => {
                remove(&dir);
                Err(error)
            }
        }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its directory, which goes with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
        remove(&self.dir);
    }
}

fn start_in(dir: &Path) -> io::Result<(Child, String)> {
    let config = dir.join("bus.conf");
    fs::write(&config, configuration(&dir.join("bus")))?;
    // Into a file: it may complain about limits of the machine that do not matter here.
    let log = dir.join("log");
    let mut child = Command::new("dbus-daemon")
        .arg("--config-file")
        .arg(&config)
        .args(["--nofork", "--nopidfile", "--print-address"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("dbus-daemon cannot be started: {error}")))?;
    let mut address = String::new();
    let printed = match child.stdout.take() {
        Some(stdout) => BufReader::new(stdout).read_line(&mut address),
        None => Ok(0),
    };
    // The address is a line of its own; without it the bus never listened.
    match printed {
        Ok(read) if read > 0 => Ok((child, address.trim_end().to_owned())),
        Ok(_) | Err(_) => {
            drop(child.kill());
            drop(child.wait());
            let why = fs::read_to_string(&log).unwrap_or_default();
            Err(io::Error::other(format!("dbus-daemon ended before it listened: {}", why.trim_end())))
        }
    }
}

fn configuration(socket: &Path) -> String {
    // The limits are those of dbus-daemon's own session.conf: a flood of calls must meet the daemon
    // under test, not the bus's guard against it.
    format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow send_type="signal"/>
    <allow eavesdrop="true"/>
  </policy>
  <limit name="max_incoming_bytes">1000000000</limit>
  <limit name="max_outgoing_bytes">1000000000</limit>
  <limit name="max_message_size">1000000000</limit>
  <limit name="max_completed_connections">100000</limit>
  <limit name="max_connections_per_user">100000</limit>
  <limit name="max_match_rules_per_connection">50000</limit>
  <limit name="max_names_per_connection">50000</limit>
  <limit name="max_replies_per_connection">50000</limit>
</busconfig>
"#,
        socket.display()
    )
}

/// A new directory that nobody else may enter. Its name is short: a socket's path has 107 bytes.
fn new_dir() -> io::Result<PathBuf> {
    let base = std::env::temp_dir();
    for n in 0..1000 {
        let dir = base.join(format!("acpi-bus-{}-{n}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|()| dir),
        }
    }
    Err(io::Error::other(format!("no directory can be made in {}", base.display())))
}

fn remove(dir: &Path) {
    // What is left behind is a configuration and a socket nobody listens on.
    drop(fs::remove_dir_all(dir));
}
