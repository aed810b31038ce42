// SPDX-License-Identifier: Apache-2.0
//! The composition root: read it to learn the architecture.

use std::future::Future;

use crate::{
    config::Settings,
    shell::{clock::Clock, permits::Permits},
};

/// The daemon: what `main` and the demo both run.
pub struct Daemon {
    settings: Settings,
    clock: Clock,
    connection: zbus::Connection,
    permits: Permits,
}

/// Why the daemon stopped without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus connection ended.
    #[error("the D-Bus connection was lost")]
    BusLost,
}

impl Daemon {
    /// A daemon that is told `settings`, lives by `clock`, and serves and listens on `connection`.
    /// Nothing else may read from that connection.
    #[must_use]
    pub fn new(settings: Settings, clock: Clock, connection: zbus::Connection) -> Self {
        let permits = Permits::new(settings.hosts.len(), &[]);
        Self { settings, clock, connection, permits }
    }

    /// The permits of the configured buses, for their threads. All closed until the daemon runs.
    #[must_use]
    pub fn permits(&self) -> Permits {
        self.permits.clone()
    }

    /// Serves until `stop` is ready (then the gate is closed, what is under way is drained, and the
    /// answer is `Ok`) or something it cannot live without is gone.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        stop.await;
        Ok(())
    }
}
