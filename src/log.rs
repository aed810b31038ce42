// SPDX-License-Identifier: Apache-2.0
//! Where the log goes: to journald with its fields as a service, else to standard error.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter, layer::SubscriberExt, util::SubscriberInitExt};

/// Logs from now on, down to this level.
pub(crate) fn init(level: LevelFilter) {
    // Set by systemd when standard error is the journal.
    let as_service = std::env::var_os("JOURNAL_STREAM").is_some();
    let journal = if as_service { tracing_journald::layer().ok() } else { None };
    // Fields keep their own names: MESSAGE_ID, HOST, ACPI_STATE.
    let journal = journal.map(|layer| layer.with_field_prefix(None));
    // journald adds the time, and systemd the name; so does whoever reads standard error.
    let stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_target(false)
            .with_ansi(false)
            .without_time()
            // What is for machines is in the text already.
            .fmt_fields(tracing_subscriber::fmt::format::debug_fn(|writer, field, value| {
                if field.name() == "message" { write!(writer, "{value:?}") } else { Ok(()) }
            }))
    });
    // zbus tells each message at trace level; that is its business.
    let ours = filter::filter_fn(|metadata| metadata.target().starts_with("acpi_stated"));
    tracing_subscriber::registry().with(journal).with(stderr).with(level.and_then(ours)).init();
}
