// SPDX-License-Identifier: Apache-2.0
//! (B): no object server. Two tasks: `bus` reads, dispatches, publishes and answers; `event_loop`
//! decides.

mod bus;
mod callers;
mod contract;
mod dispatch;
mod event_loop;
mod objects;

use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use tokio::sync::mpsc::unbounded_channel;

const EX_UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let failed = runtime.block_on(async {
        let connection = match zbus::connection::Builder::session().build().await {
            Ok(connection) => connection,
            Err(e) => return bus::Failed::Bus(e),
        };
        let (inputs, input_queue) = unbounded_channel();
        let (outbox, effects) = unbounded_channel();
        tokio::spawn(event_loop::run(input_queue, outbox));
        let own_uid = match std::fs::metadata("/proc/self") {
            Ok(me) => me.uid(),
            Err(e) => return bus::Failed::Bus(e.into()),
        };
        // Spawned, not awaited here: tokio's current_thread scheduler makes an extra epoll_wait each
        // time the future given to block_on itself is woken.
        match tokio::spawn(bus::Bus::new(connection, own_uid, inputs, effects).run()).await {
            Ok(failed) => failed,
            Err(e) => bus::Failed::Bus(zbus::Error::Failure(e.to_string())),
        }
    });
    match failed {
        bus::Failed::NameTaken => eprintln!("{} is taken", contract::NAME),
        bus::Failed::Bus(e) => eprintln!("bus: {e}"),
    }
    ExitCode::from(EX_UNAVAILABLE)
}
