// SPDX-License-Identifier: Apache-2.0
//! Where the log goes: to journald with its fields as a service, else to standard error.
//!
//! Owns: both ways out. Must never wait: a thread that logs may be the one that a host waits for. A line that cannot be written at once
//! is lost and counted, and the count is logged when there is room again; the queue is the kernel's, and ours is none.
//!
//! - *journald*: its native protocol (systemd, `docs/JOURNAL_NATIVE_PROTOCOL.md`), each line a datagram on a socket of our own that does not
//!   block. Longer fields than [`LONGEST`] are cut, so that a datagram always fits.
//! - *Standard error* is shared with whoever started us, so it may not be made non-blocking. It is asked for room before each line, and a
//!   line is not longer than a pipe takes as a whole. Another process that writes to the same pipe between question and line could
//!   still make us wait; so could a file on storage that hangs. A service has neither.

use std::{
    fmt::{self, Write as _},
    io::{self, ErrorKind},
    os::unix::net::UnixDatagram,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{sync::Notify, time::sleep};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

/// Where journald listens.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// The longest value of a field, in bytes; and the longest line on standard error. Linux's `PIPE_BUF`.
const LONGEST: usize = 4096;
/// How soon it is tried again to say what was lost.
const AGAIN: Duration = Duration::from_secs(1);

/// The log.
pub(crate) struct Log {
    level: LevelFilter,
    way: Sink,
    /// Lines that could not be written and are not accounted for yet.
    lost: AtomicU32,
    /// There are some.
    losing: Notify,
}

enum Sink {
    Journal(UnixDatagram),
    /// Held from the question to the line: our threads do not take each other's room.
    Stderr(Mutex<()>),
}

/// Logs from now on, down to this level.
pub(crate) fn init(level: LevelFilter) -> Arc<Log> {
    // Set by systemd when standard error is the journal.
    let as_service = std::env::var_os("JOURNAL_STREAM").is_some();
    let journal = as_service.then(journal).and_then(Result::ok);
    let way = journal.map_or_else(|| Sink::Stderr(Mutex::default()), Sink::Journal);
    let log = Arc::new(Log { level, way, lost: AtomicU32::new(0), losing: Notify::new() });
    // Fails only if there is a log already.
    tracing::subscriber::set_global_default(Arc::clone(&log)).unwrap_or_default();
    log
}

fn journal() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match socket.send_to(&[], JOURNAL) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        Ok(_) | Err(_) => Ok(socket),
    }
}

impl Log {
    /// Says how many lines were lost, each time that some were and there is room again. Never returns.
    pub(crate) async fn account(&self) {
        loop {
            self.losing.notified().await;
            while !self.settle() {
                sleep(AGAIN).await;
            }
        }
    }

    /// Says how many lines were lost, if any were and there is room; whether nothing is left to be said.
    pub(crate) fn settle(&self) -> bool {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost == 0 {
            return true;
        }
        let line = Entry {
            message: format!("{lost} lines of the log were lost: nobody took them"),
            fields: Vec::new(),
        };
        let said = self.write(Level::WARN, line).is_ok();
        if !said {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
        said
    }

    /// At once, or not at all.
    fn write(&self, level: Level, line: Entry) -> io::Result<()> {
        let Entry { message, mut fields } = line;
        match &self.way {
            Sink::Journal(socket) => {
                put(&mut fields, "PRIORITY", priority(level));
                put(&mut fields, "SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
                put(&mut fields, "MESSAGE", &message);
                socket.send_to(&fields, JOURNAL).map(drop)
            }
            Sink::Stderr(turn) => {
                let line = format!("{level:>5} {message}");
                let line = format!("{}\n", shortened(&line, LONGEST - 1));
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                let stderr = io::stderr();
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                let room = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&now))?;
                if room == 0 {
                    return Err(ErrorKind::WouldBlock.into());
                }
                let written = rustix::io::write(&stderr, line.as_bytes())?;
                if written < line.len() { Err(ErrorKind::WriteZero.into()) } else { Ok(()) }
            }
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // zbus tells each message at trace level; that is its business.
        *metadata.level() <= self.level && metadata.target().starts_with("acpi_stated")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Entry { message: String::new(), fields: Vec::new() };
        if let Sink::Journal(_) = self.way {
            let metadata = event.metadata();
            put(&mut line.fields, "CODE_FILE", metadata.file().unwrap_or_default());
            put(&mut line.fields, "CODE_LINE", &metadata.line().unwrap_or_default().to_string());
        }
        event.record(&mut line);
        // In order: first what is missing before this line.
        let written = self.settle() && self.write(*event.metadata().level(), line).is_ok();
        if !written && self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            self.losing.notify_one();
        }
    }

    // There are no spans of ours.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// A log line: the text for a person, and the fields for machines as journald takes them. The fields keep their own names:
/// `MESSAGE_ID`, `HOST`, `ACPI_STATE`.
struct Entry {
    message: String,
    fields: Vec<u8>,
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            put(&mut self.fields, &field.name().to_ascii_uppercase(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a String cannot fail.
        write!(text, "{value:?}").unwrap_or_default();
        self.record_str(field, &text);
    }
}

/// A field in journald's binary form, which may hold any text: the name, the length in eight bytes, the value.
fn put(fields: &mut Vec<u8>, name: &str, value: &str) {
    let value = shortened(value, LONGEST);
    let length = u64::try_from(value.len()).unwrap_or_default().to_le_bytes();
    for part in [name.as_bytes(), b"\n", &length, value.as_bytes(), b"\n"] {
        fields.extend_from_slice(part);
    }
}

/// At most so many bytes of it, in whole characters.
fn shortened(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

/// syslog's: from 3 (error) to 7 (debug). A line at `info` is worth a notice, since what others tell at length we do at `debug`.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "5",
        Level::DEBUG => "6",
        Level::TRACE => "7",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(shortened("grün", 10), "grün");
        assert_eq!(shortened("grün", 3), "gr");
        let mut fields = Vec::new();
        put(&mut fields, "MESSAGE", &"ü".repeat(LONGEST));
        assert_eq!(fields.len(), "MESSAGE\n".len() + 8 + LONGEST + 1);
    }
}
