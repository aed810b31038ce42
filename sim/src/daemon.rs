// SPDX-License-Identifier: Apache-2.0
//! The real daemon, run as its own `main` runs it.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use acpi_stated::{
    adapters::dbus::socket,
    config::Settings,
    daemon::Daemon,
    shell::{
        clock::Clock,
        permits::Permits,
        ports::{Buses, GpioLines},
        store::Places,
        supervisor::Supervisor,
    },
};
use tokio::sync::{mpsc, oneshot};

use crate::{Error, Result};

/// The real daemon, on a thread with a runtime and a connection of its own.
pub struct DaemonThread {
    permits: Permits,
    /// How long it shall stall; it ends when this is dropped.
    orders: Option<mpsc::UnboundedSender<Duration>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl DaemonThread {
    /// Starts it on the bus at `address`, and waits until its permits are there. It remembers in these places.
    pub async fn start(
        address: &str,
        settings: Settings,
        clock: Clock,
        buses: Arc<dyn Buses>,
        gpio: Arc<dyn GpioLines>,
        places: Places,
    ) -> Result<Self> {
        let (orders, mut ordered) = mpsc::unbounded_channel();
        let (to_board, permits) = oneshot::channel();
        let address = address.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let connection = socket::connect(&address).await?;
                let daemon = Daemon::new(settings, clock, connection, Supervisor::silent());
                let daemon = daemon.with_buses(buses).with_gpio(gpio).with_places(places);
                if to_board.send(daemon.permits()).is_err() {
                    return Err(Error::from("the board is gone"));
                }
                let stop = async {
                    while let Some(length) = ordered.recv().await {
                        // Not the runtime's sleep: everything on this thread shall stand still.
                        std::thread::sleep(length);
                    }
                };
                daemon.run(stop).await?;
                Ok(())
            })
        });
        let permits = permits.await.map_err(|_| Error::from("the daemon did not start"))?;
        Ok(Self { permits, orders: Some(orders), thread: Some(thread) })
    }

    /// Nothing happens on its thread for this long.
    pub fn stall(&self, length: Duration) {
        if let Some(orders) = &self.orders {
            // A daemon that has ended stands still anyway.
            orders.send(length).unwrap_or_default();
        }
    }

    /// The permits of its buses.
    #[must_use]
    pub fn permits(&self) -> &Permits {
        &self.permits
    }

    /// Stops it, and says what it died of if it did before.
    pub async fn stop(&mut self) -> Result<()> {
        drop(self.orders.take());
        let Some(thread) = self.thread.take() else { return Ok(()) };
        // Joined elsewhere: the daemon may still be calling the board's services.
        match tokio::task::spawn_blocking(|| thread.join()).await? {
            Ok(ended) => ended,
            Err(_) => Err(Error::from("the daemon panicked")),
        }
    }
}
