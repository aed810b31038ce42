// SPDX-License-Identifier: Apache-2.0
//! Boot progress as somebody else on the bus sees it, and phosphor-host-postd's object for POST codes. What is written to that is
//! nobody's business here but the daemon's: a sign of life.

use std::collections::BTreeMap;

use acpi_doubles::power::PROGRESS;
use tokio::task::JoinSet;
use zbus::{MatchRule, MessageStream, Variant, message::Type};

use crate::{
    Result,
    objects::{NoMethods, Objects, connect, next},
};

/// Its bus name and its interface.
pub const RAW: &str = "xyz.openbmc_project.State.Boot.Raw";
const PATH: &str = "/xyz/openbmc_project/state/boot/raw0";

/// Tells `say` of each stage that is signalled on the bus at `address`.
pub async fn follow(
    address: &str,
    say: impl Fn(&str) + Send + 'static,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let connection = connect(address).await?;
    let rule = MatchRule::builder().msg_type(Type::Signal).path(PROGRESS.path).build()?;
    let mut signals = MessageStream::for_match_rule(rule, &connection, None).await?;
    tasks.spawn(async move {
        while let Some(signal) = next(&mut signals).await {
            let body = signal.body();
            let changed = body.deserialize::<(&str, BTreeMap<&str, Variant<'_>>, Vec<&str>)>();
            if let Ok((interface, changed, _)) = changed
                && interface == PROGRESS.interface
                && let Some(Variant::Str(stage)) = changed.get(PROGRESS.property)
                && let Some(stage) = stage.strip_prefix(PROGRESS.prefix)
            {
                say(stage);
            }
        }
        drop(connection);
    });
    Ok(())
}

/// Starts the POST codes' object on the bus at `address`. `Value` is two byte arrays, primary code and secondary.
pub async fn start(address: &str, tasks: &mut JoinSet<()>) -> Result<()> {
    let objects = Objects::new(connect(address).await?, None);
    objects.add(PATH, RAW, "Value", (Vec::<u8>::new(), Vec::<u8>::new()), true)?;
    objects.serve(NoMethods, tasks);
    Ok(objects.connection().request_name(RAW).await?)
}
