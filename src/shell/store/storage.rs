// SPDX-License-Identifier: Apache-2.0
//! The records on storage, which may block for seconds: a thread writes them, and nobody waits for it.
//!
//! Owns: those files. Must never: leave there what is out of date, if the next life would open the gate by it.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

use super::record::{Record, to_line};
use crate::{files, shell::permits::HostIndex};

/// Where memory is written at once, writes to storage are so far apart on average: a host that reports without end must not wear
/// out flash.
pub(super) const APART: Duration = Duration::from_secs(1);
/// So many may follow each other at once, twice what a boot needs: a hard reset of the BMC right after a boot's report must not
/// find the state before it.
const AT_ONCE: u32 = 8;
/// How long the daemon waits on its way out for storage that does not come round.
const FLUSH: Duration = Duration::from_secs(2);
/// Enough for a path, a file of ours and a log line.
const STACK: usize = 64 * 1024;

/// The orders to the thread that writes.
#[derive(Default)]
struct Orders {
    wanted: Vec<Option<Record>>,
    /// A wanted value is not in memory.
    urgent: bool,
    ending: bool,
}

#[derive(Default)]
struct Desk {
    orders: Mutex<Orders>,
    changed: Condvar,
}

/// Takes values for storage.
#[derive(Clone)]
pub(crate) struct Storage(Arc<Desk>);

impl Storage {
    /// Has a value written some time later, unless another one comes meanwhile; at once if it is `urgent`.
    pub(crate) fn put(&self, host: HostIndex, record: Record, urgent: bool) {
        self.0.order(|orders| {
            orders.urgent |= urgent;
            if let Some(wanted) = orders.wanted.get_mut(host) {
                *wanted = Some(record);
            }
        });
    }
}

impl Desk {
    /// The lock is held for an assignment only.
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Waits for something to write, not before `earliest`; and whether that is all.
    fn take(&self, earliest: Option<Instant>) -> (Vec<Option<Record>>, bool) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let early = earliest.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            let wanted = orders.wanted.iter().any(Option::is_some);
            if orders.ending || (wanted && (early.is_zero() || orders.urgent)) {
                orders.urgent = false;
                return (orders.wanted.iter_mut().map(Option::take).collect(), orders.ending);
            }
            orders = if wanted {
                self.changed.wait_timeout(orders, early).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.changed.wait(orders).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }
}

/// The thread that writes.
pub(crate) struct Writer {
    desk: Arc<Desk>,
    ended: oneshot::Receiver<()>,
}

impl Writer {
    /// `None`, with a log line, if there can be no thread.
    pub(super) fn start(mut files: Files, apart: Duration) -> Option<Self> {
        let wanted = vec![None; files.slots.len()];
        let desk =
            Arc::new(Desk { orders: Mutex::new(Orders { wanted, ..Orders::default() }), ..Desk::default() });
        let (end, ended) = oneshot::channel();
        let orders = Arc::clone(&desk);
        let run = move || {
            // When as many writes as ever may follow each other again.
            let mut rested = Instant::now();
            loop {
                let (wanted, last) = orders.take(rested.checked_sub(apart * (AT_ONCE - 1)));
                let mut wrote = false;
                for (host, record) in wanted.into_iter().enumerate() {
                    wrote |= record.is_some_and(|record| files.store(host, record));
                }
                if last {
                    break;
                }
                if wrote {
                    rested = rested.max(Instant::now()) + apart;
                }
            }
            // Nobody waits any more if this took too long.
            end.send(()).unwrap_or_default();
        };
        match std::thread::Builder::new().name("store".to_owned()).stack_size(STACK).spawn(run) {
            Ok(_detached) => Some(Self { desk, ended }),
            Err(error) => {
                tracing::warn!("nothing will be stored: there can be no thread for it: {error}");
                None
            }
        }
    }

    pub(crate) fn storage(&self) -> Storage {
        Storage(Arc::clone(&self.desk))
    }

    /// Has everything written that was put, and waits for that, within bounds.
    pub(crate) async fn close(self) {
        self.desk.order(|orders| orders.ending = true);
        if timeout(FLUSH, self.ended).await.is_err() {
            tracing::warn!("storage does not come round; the last state may be lost");
        }
    }
}

/// The files on storage.
pub(super) struct Files {
    pub(super) directory: PathBuf,
    pub(super) slots: Vec<Slot>,
    pub(super) boot: Option<String>,
    pub(super) failing: bool,
}

pub(super) struct Slot {
    path: PathBuf,
    /// The record that is there, if that is known.
    there: Option<Record>,
    /// The record that is there may be an open one.
    open: bool,
}

impl Slot {
    pub(super) fn new(path: PathBuf, there: Option<Record>) -> Self {
        Self { path, there, open: there.is_some_and(|record| record.is_open()) }
    }
}

impl Files {
    /// False if there was nothing to do.
    pub(super) fn store(&mut self, host: HostIndex, record: Record) -> bool {
        let Some(slot) = self.slots.get_mut(host) else { return false };
        if slot.there == Some(record) {
            return false;
        }
        let line = to_line(record, self.boot.as_deref()) + "\n";
        match replace(&self.directory, &slot.path, &line) {
            Ok(()) => {
                *slot = Slot {
                    there: Some(record),
                    open: record.is_open(),
                    path: std::mem::take(&mut slot.path),
                };
                if std::mem::take(&mut self.failing) {
                    tracing::info!("{} can be written again", slot.path.display());
                }
            }
            Err(error) => {
                slot.there = None;
                // A record that is not the newest is only kept where it is no more open than that: it has the DIMMs too.
                let stale = slot.open && !record.is_open();
                let gone = stale && files::invalidate(&slot.path, None);
                // The new one may have come to be there.
                slot.open = (slot.open && !gone) || record.is_open();
                if !std::mem::replace(&mut self.failing, true) {
                    let left = match (stale, gone) {
                        (false, _) => "",
                        (true, true) => "; the one before is removed",
                        (true, false) => ", and may be out of date",
                    };
                    tracing::warn!(
                        "{} cannot be written{left}: {error}; the daemon goes on",
                        slot.path.display()
                    );
                }
            }
        }
        true
    }
}

/// The old text or the new one, whatever happens meanwhile.
pub(super) fn replace(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = match files::anew(&new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            files::anew(&new)?
        }
        created => created?,
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&new, path)) {
        // On storage that is full it is in the way.
        drop(fs::remove_file(&new));
        return Err(error);
    }
    File::open(directory)?.sync_all()
}
