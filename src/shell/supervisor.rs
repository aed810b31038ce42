// SPDX-License-Identifier: Apache-2.0
//! What systemd is told of us: ready, alive, and how things are (`sd_notify`).

use std::{fmt::Write, time::Duration};

use sd_notify::NotifyState;

use crate::{adapters::acpi_object::View, logic::acpi::AcpiState};

/// The way to systemd; silent where nobody listens.
#[derive(Debug, Default)]
pub struct Supervisor {
    last_status: String,
    silent: bool,
}

impl Supervisor {
    /// Tells whoever `NOTIFY_SOCKET` names.
    #[must_use]
    pub fn from_env() -> Self {
        Self::default()
    }

    /// Tells nobody: a daemon that is part of another program.
    #[must_use]
    pub fn silent() -> Self {
        Self { last_status: String::new(), silent: true }
    }

    /// How often the watchdog wants to be fed, if there is one: often enough that one late feeding does
    /// no harm, and no oftener, since each is a wake-up of an idle BMC.
    #[must_use]
    pub fn feed_every(&self) -> Option<Duration> {
        if self.silent { None } else { sd_notify::watchdog_enabled().map(|period| period * 6 / 10) }
    }

    pub(crate) fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    pub(crate) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    pub(crate) fn feed(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// The line that `systemctl status` shows.
    pub(crate) fn status<'a>(&mut self, hosts: impl Iterator<Item = (u32, AcpiState, &'a View)>) {
        if self.silent {
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
        if status != self.last_status {
            self.tell(&[NotifyState::Status(&status)]);
            self.last_status = status;
        }
    }

    fn tell(&self, what: &[NotifyState<'_>]) {
        if self.silent {
            return;
        }
        if let Err(error) = sd_notify::notify(what) {
            tracing::warn!("systemd cannot be notified: {error}");
        }
    }
}
