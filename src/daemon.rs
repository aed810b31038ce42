// SPDX-License-Identifier: Apache-2.0
//! The composition root: read it to learn the architecture.

use std::future::Future;

use crate::{
    config::Settings,
    shell::{clock::Clock, permits::Permits},
};

/// Everything the daemon needs from outside.
pub struct Daemon {
    /// What it is told.
    pub settings: Settings,
    /// Its time.
    pub clock: Clock,
    /// The bus it serves and listens on. Nothing else may read from this connection.
    pub connection: zbus::Connection,
}

/// Why the daemon stopped without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus connection ended.
    #[error("the D-Bus connection was lost")]
    BusLost,
}

impl Daemon {
    /// The permits of the configured buses, for their threads. All closed until the daemon runs.
    #[must_use]
    pub fn permits(&self) -> Permits {
        todo!()
    }

    /// Serves until `stop` is ready (then the gate is closed, what is under way is drained, and the
    /// answer is `Ok`) or something it cannot live without is gone.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        stop.await;
        Ok(())
    }
}
