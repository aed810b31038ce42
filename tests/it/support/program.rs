// SPDX-License-Identifier: Apache-2.0
//! The real program, and what the kernel knows of it.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use zbus::Connection;

use crate::support::{
    private_bus::PrivateBus,
    rig::{NAME, PATH, PATIENCE, connect},
};

pub const DAEMON: &str = env!("CARGO_BIN_EXE_acpi-stated");

/// The real program on a private bus.
pub struct Program(pub Child);

impl Program {
    pub async fn start(bus: &PrivateBus, environment: &[(&str, &str)]) -> (Self, Connection) {
        Self::with(bus, &[], environment).await
    }

    /// With these arguments too.
    pub async fn with(
        bus: &PrivateBus,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> (Self, Connection) {
        let mut command = Command::new(DAEMON);
        command
            .args(arguments)
            .args(["--bus", bus.address()])
            .arg("--state-dir")
            .arg(bus.dir().join("state"));
        command.envs(environment.iter().copied());
        let program = Self(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let client = connect(bus.address()).await;
        let began = Instant::now();
        let peer = Some("org.freedesktop.DBus.Peer");
        while client.call_method(Some(NAME), PATH, peer, "Ping", &()).await.is_err() {
            assert!(began.elapsed() < PATIENCE, "the daemon does not come up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (program, client)
    }

    /// Private dirty memory, in KiB.
    pub fn private_dirty(&self) -> u64 {
        self.memory("smaps_rollup", "Private_Dirty")
    }

    /// This line of this file of its directory in /proc, in KiB.
    pub fn memory(&self, file: &str, what: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// How long its event loop has had a processor.
    pub fn processor_time(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.0.id())).unwrap();
        Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
    }

    /// How often its threads went to sleep so far. What the kernel takes from them for others (`nonvoluntary_ctxt_switches`)
    /// says how busy the machine is, and nothing about the daemon.
    pub fn sleeps(&self) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let of = |text: String| -> u64 {
            let lines = text.lines().filter(|line| line.starts_with("voluntary_ctxt_switches"));
            lines.map(|line| line.split_whitespace().next_back().unwrap().parse::<u64>().unwrap()).sum()
        };
        threads
            .map(|thread| of(std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap()))
            .sum()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
