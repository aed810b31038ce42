// SPDX-License-Identifier: Apache-2.0
//! The messages to systemd about the daemon: ready, alive, and its status (`sd_notify(3)`).
//!
//! Owns: a datagram socket that does not block, and what is still to be said. Must never wait: systemd's queue is full when systemd
//! hangs, and the task that tells it is the one that answers hosts. A message that does not fit is sent later, in one with those
//! that came since: never more than one of each kind.

use std::{
    env,
    ffi::OsStr,
    fmt::Write,
    io::{self, ErrorKind},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::{Duration, Instant},
};

use crate::logic::{acpi::AcpiState, view::View};

/// How soon it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The way to systemd; silent where nobody listens.
#[derive(Debug, Default)]
pub struct Supervisor {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// The status that `systemctl status` is to show.
    status: String,
    /// The messages that are still to be sent.
    owed: Owed,
    /// How often systemd took nothing since it last took something.
    refused: u32,
    again_at: Option<Instant>,
    failing: bool,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "four independent messages")]
struct Owed {
    ready: bool,
    stopping: bool,
    status: bool,
    alive: bool,
}

impl Supervisor {
    /// Tells whoever `NOTIFY_SOCKET` names.
    #[must_use]
    pub fn from_env() -> Self {
        match env::var_os("NOTIFY_SOCKET").as_deref().map(Self::to).transpose() {
            Ok(supervisor) => supervisor.unwrap_or_default(),
            Err(error) => {
                tracing::warn!("systemd cannot be notified: {error}");
                Self::default()
            }
        }
    }

    /// Tells whoever listens there: a path, or an abstract name after `@`.
    fn to(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { to: Some((socket, address)), ..Self::default() })
    }

    /// Tells nobody: a daemon that is part of another program.
    #[must_use]
    pub fn silent() -> Self {
        Self::default()
    }

    /// How often the watchdog wants to be fed, if there is one: often enough that one late feeding does
    /// no harm, and no oftener, since each is a wake-up of an idle BMC.
    #[must_use]
    pub fn feed_every(&self) -> Option<Duration> {
        self.to.as_ref()?;
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let us = number("WATCHDOG_USEC").filter(|us| *us > 0)?;
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        ours.then(|| Duration::from_micros(us) * 6 / 10)
    }

    pub(crate) fn ready(&mut self) {
        self.owed.ready = true;
        self.tell();
    }

    pub(crate) fn stopping(&mut self) {
        self.owed.stopping = true;
        self.tell();
    }

    pub(crate) fn feed(&mut self) {
        self.owed.alive = true;
        self.tell();
    }

    /// The line that `systemctl status` shows.
    pub(crate) fn status<'a>(&mut self, hosts: impl Iterator<Item = (u32, AcpiState, &'a View)>) {
        if self.to.is_none() {
            return;
        }
        let mut status = String::new();
        for (id, state, view) in hosts {
            let separator = if status.is_empty() { "" } else { "; " };
            let (state, cause) = (state.name(), view.cause.name());
            let mut text = format!("{separator}host{id} {state} ({cause}), gate ");
            if view.gate_reasons.is_empty() {
                text.push_str("open");
            } else {
                let reasons: Vec<_> = view.gate_reasons.iter().map(|reason| reason.name()).collect();
                // Writing to a String cannot fail.
                write!(text, "closed: {}", reasons.join(", ")).unwrap_or_default();
            }
            for diagnosis in &view.diagnoses {
                write!(text, ", {}", diagnosis.name()).unwrap_or_default();
            }
            status.push_str(&text);
        }
        if status != self.status {
            self.status = status;
            self.owed.status = true;
            self.tell();
        }
    }

    /// When [`Supervisor::again`] is to be called; `None` while nothing is owed.
    pub(crate) fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// Says what could not be said before.
    pub(crate) fn again(&mut self) {
        if self.again_at.is_some() {
            self.tell();
        }
    }

    /// The end: what cannot be said now never will be.
    pub(crate) fn close(&mut self) {
        self.again();
        if self.again_at.is_some() {
            tracing::warn!(
                "systemd did not take our last notification: {}",
                self.message().replace('\n', ", ")
            );
        }
    }

    fn message(&self) -> String {
        let mut lines = Vec::new();
        let status = format!("STATUS={}", self.status);
        lines.extend(self.owed.ready.then_some("READY=1"));
        lines.extend(self.owed.stopping.then_some("STOPPING=1"));
        lines.extend(self.owed.status.then_some(status.as_str()));
        lines.extend(self.owed.alive.then_some("WATCHDOG=1"));
        lines.join("\n")
    }

    /// At once, or later.
    fn tell(&mut self) {
        let Some((socket, address)) = &self.to else { return };
        match socket.send_to_addr(self.message().as_bytes(), address) {
            Ok(_) => {
                let refused = std::mem::take(&mut self.refused);
                if refused > 0 {
                    tracing::warn!("systemd takes our notifications again; {refused} times it took none");
                }
                (self.owed, self.again_at, self.failing) = (Owed::default(), None, false);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.again_at = Some(Instant::now() + AGAIN);
                self.refused = self.refused.saturating_add(1);
                if self.refused == 1 {
                    tracing::warn!("systemd takes no notification; it is told again each second");
                }
            }
            // Nobody will be there a second later either.
            Err(error) => {
                (self.owed, self.again_at) = (Owed::default(), None);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("systemd cannot be notified: {error}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text of each datagram that has arrived.
    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut text = [0; 1024];
        let one = || {
            socket.recv(&mut text).ok().map(|length| String::from_utf8_lossy(&text[..length]).into_owned())
        };
        std::iter::from_fn(one).collect()
    }

    #[test]
    fn what_systemd_does_not_take_is_said_later_once_and_in_one() {
        let path = std::env::temp_dir().join(format!("acpi-notify-{}", std::process::id()));
        drop(std::fs::remove_file(&path));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut supervisor = Supervisor::to(path.as_os_str()).unwrap();
        let mut fed: u32 = 0;
        while supervisor.again_at().is_none() {
            supervisor.feed();
            fed += 1;
            assert!(fed < 100_000, "the queue has an end");
        }
        supervisor.status = "host0 S5_G2".to_owned();
        supervisor.owed.status = true;
        supervisor.ready();
        for _ in 0..100 {
            supervisor.feed();
        }
        assert_eq!(supervisor.refused, 102);
        assert_eq!(heard(&socket), vec!["WATCHDOG=1"; fed as usize - 1]);
        supervisor.again();
        assert_eq!(heard(&socket), ["READY=1\nSTATUS=host0 S5_G2\nWATCHDOG=1"]);
        assert_eq!((supervisor.again_at(), supervisor.refused), (None, 0));
        // Nothing is owed any more.
        supervisor.again();
        supervisor.stopping();
        assert_eq!(heard(&socket), ["STOPPING=1"]);
        drop(socket);
        supervisor.feed();
        assert!(supervisor.failing && supervisor.again_at().is_none());
        std::fs::remove_file(&path).unwrap();
    }
}
