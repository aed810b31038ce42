// SPDX-License-Identifier: Apache-2.0
//! What the runtime weighs, with the parts of it that a daemon cannot do without: `./dev size`.

use std::time::Duration;

use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    sync::mpsc::unbounded_channel,
};

fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (sender, mut receiver) = unbounded_channel::<u32>();
        let stream = UnixStream::connect(std::env::args().nth(1).unwrap_or_default()).await?;
        let mut terminate = signal(SignalKind::terminate())?;
        let task = tokio::spawn(async move { sender.send(stream.writable().await.is_ok().into()) });
        tokio::select! {
            _ = terminate.recv() => {}
            _ = receiver.recv() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        task.await.map(drop).map_err(std::io::Error::other)
    })
}
