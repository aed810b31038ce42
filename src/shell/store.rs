// SPDX-License-Identifier: Apache-2.0
//! The record of each host for the daemon's next life (rules 3.8). The format is in `docs/state.md`.
//!
//! Owns: the files. Each host has one on storage, and one in memory (`/run`) where there is such a place.
//!
//! - *Storage* may block for seconds, so one thread writes it, and nobody waits for that: a later value takes the place of
//!   one that is not written yet. A host is answered before its value is handed to that thread.
//! - *Memory* never blocks, so the event loop writes it before anything that a change brings about leaves the process. It
//!   is what a daemon finds that was killed between an answer and the writing of it. It does not outlive the BMC's boot.
//!
//! Values are counted, so that of two records the newer is known; and only memory that can be written may say that the gate
//! need not wait for a report (`docs/state.md`, "Which record is believed").
//!
//! Must never: fail; or leave a record that it knows to be out of date where the next life would open the gate by it. Without
//! either place the daemon goes on, and its next life knows less.

mod record;
mod storage;

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use self::{
    record::Record,
    storage::{Storage, Writer},
};
use self::{
    record::{WIDTH, boot_id, from_line, to_line},
    storage::{APART, Files, Slot},
};
use crate::{
    files::{self, Links},
    logic::machine::Stored,
    shell::permits::HostIndex,
};

/// Longer than any file of ours.
const LONGEST: u64 = 512;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where the daemon remembers.
#[derive(Clone, Debug)]
pub struct Places {
    storage: PathBuf,
    memory: Option<PathBuf>,
    boot: Option<String>,
}

impl Places {
    /// On storage, in this directory. It is made when it is first needed.
    #[must_use]
    pub fn new(storage: PathBuf) -> Self {
        let boot = fs::read_to_string(BOOT_ID).ok();
        Self { storage, memory: None, boot: boot.as_deref().and_then(boot_id) }
    }

    /// And in memory, in this directory: one that is there, on a tmpfs, as systemd's `RuntimeDirectory=` makes it.
    #[must_use]
    pub fn and_in_memory(self, memory: Option<PathBuf>) -> Self {
        Self { memory, ..self }
    }

    /// Where memory is, if there is such a place.
    #[must_use]
    pub fn in_memory(&self) -> Option<&Path> {
        self.memory.as_deref()
    }

    /// In another boot of the BMC than this one.
    #[must_use]
    pub fn in_boot(self, id: &str) -> Self {
        Self { boot: boot_id(id), ..self }
    }
}

// ---- Reading ---------------------------------------------------------------------------------------

/// The content that was found at a path.
#[derive(Clone, Copy, Debug)]
enum AtPath {
    Nothing,
    Known(Record),
    /// The file could not be used; it has been set aside, with a log line.
    Unusable,
}

impl AtPath {
    fn record(self) -> Option<Record> {
        match self {
            Self::Known(record) => Some(record),
            Self::Nothing | Self::Unusable => None,
        }
    }
}

fn find(path: &Path, boot: Option<&str>) -> AtPath {
    let why = match read_line(path) {
        Ok(None) => return AtPath::Nothing,
        Ok(Some(line)) => match from_line(&line, boot) {
            Ok(record) => return AtPath::Known(record),
            Err(why) => why.to_owned(),
        },
        Err(error) => error.to_string(),
    };
    let aside = path.with_extension("bad");
    match fs::rename(path, &aside) {
        Ok(()) => tracing::warn!("{} cannot be used: {why}; it is now {}", path.display(), aside.display()),
        Err(error) => tracing::warn!("{} cannot be used: {why}; nor set aside: {error}", path.display()),
    }
    AtPath::Unusable
}

fn read_line(path: &Path) -> io::Result<Option<String>> {
    let file = match files::open(path, Links::Refuse) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    // Bytes that are no text are no line of ours either.
    Ok(Some(String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned()))
}

/// The record that is believed, of those in memory and on storage; and whether its word that it is of this boot of the BMC
/// counts.
///
/// The newer one is; of equal age the more closed one. Where memory cannot be used, storage may have the value before it, and
/// nothing is known. A record in storage may be older than the last answer, so it never counts as of this boot; nor does
/// what is in memory if it cannot be written now, and so may not have been written when it should, or if storage has what
/// cannot be read.
fn believed(in_memory: AtPath, on_storage: AtPath, writable: bool) -> Option<(Record, bool)> {
    match (in_memory, on_storage) {
        (AtPath::Known(memory), AtPath::Known(storage)) => {
            let more_closed = memory.is_open() && !storage.is_open();
            let newer = storage.number > memory.number || (storage.number == memory.number && more_closed);
            Some(if newer { (storage, false) } else { (memory, writable) })
        }
        (AtPath::Known(memory), AtPath::Nothing) => Some((memory, writable)),
        (AtPath::Known(memory), AtPath::Unusable) => Some((memory, false)),
        (AtPath::Nothing, AtPath::Known(storage)) => Some((storage, false)),
        (AtPath::Unusable, _) | (AtPath::Nothing, AtPath::Nothing | AtPath::Unusable) => None,
    }
}

/// The files of the hosts `ids` in `directory`.
fn paths(directory: &Path, ids: &[u32]) -> Vec<PathBuf> {
    ids.iter().map(|id| directory.join(format!("host{id}"))).collect()
}

/// Returns the stored values of the hosts `ids`, and the two places for values to come.
pub(crate) fn open(places: Places, ids: &[u32]) -> (Vec<Option<Stored>>, Memory, Option<Writer>) {
    let boot = places.boot.as_deref();
    let storage = paths(&places.storage, ids);
    let found: Vec<_> = storage.iter().map(|path| find(path, boot)).collect();
    let memory = places.memory.as_deref().map(|directory| paths(directory, ids)).unwrap_or_default();
    let takes_files = places.memory.as_deref().is_some_and(takes_files);
    let mut memory = memory.into_iter();
    let (mut known, mut cells) = (Vec::new(), Vec::new());
    for on_storage in &found {
        let path = memory.next();
        let in_memory = path.as_deref().map_or(AtPath::Nothing, |path| find(path, boot));
        let (cell, stored) = Cell::open(path, in_memory, *on_storage, takes_files);
        cells.push(cell);
        known.push(stored);
    }
    let apart = if takes_files { APART } else { Duration::ZERO };
    let memory = Memory { cells, boot: places.boot.clone(), failing: false };
    let slots = storage.into_iter().zip(found).map(|(path, found)| Slot::new(path, found.record()));
    let files =
        Files { directory: places.storage, slots: slots.collect(), boot: places.boot, failing: false };
    (known, memory, Writer::start(files, apart))
}

/// Whether a directory in memory takes a new file of our size now. A directory that is not there takes none.
fn takes_files(directory: &Path) -> bool {
    let probe = directory.join("probe");
    let tried = files::anew(&probe).and_then(|mut file| file.write_all(&[b'\n'; WIDTH]));
    let tried = tried.and_then(|()| fs::remove_file(&probe));
    if let Err(error) = &tried {
        tracing::warn!(
            "{} takes no file: {error}; after a restart the gate will wait for the host's report",
            directory.display()
        );
    }
    tried.is_ok()
}

// ---- Memory ----------------------------------------------------------------------------------------

/// The records in memory, and the count of the values. Without a place there, it only counts.
#[derive(Default)]
pub(crate) struct Memory {
    cells: Vec<Cell>,
    boot: Option<String>,
    failing: bool,
}

struct Cell {
    path: Option<PathBuf>,
    /// Its record, open for writing.
    file: Option<File>,
    /// The newest value; at first the one that was found.
    last: Option<Stored>,
    /// The newest value's number.
    number: u64,
    /// The newest value is in memory, from this life.
    written: bool,
}

impl Memory {
    /// Notes a value at once, if it is a new one.
    pub(crate) fn note(&mut self, host: HostIndex, stored: Stored) {
        let Some(cell) = self.cells.get_mut(host) else { return };
        if cell.last != Some(stored) {
            (cell.last, cell.written) = (Some(stored), false);
            cell.number = cell.number.saturating_add(1);
        }
        if cell.written {
            return;
        }
        let Some(path) = &cell.path else { return };
        let record = Record { stored, number: cell.number };
        match write(&mut cell.file, path, &to_line(record, self.boot.as_deref())) {
            Ok(()) => (cell.written, self.failing) = (true, false),
            Err(error) => {
                // The record there is not true any more.
                let gone = files::invalidate(path, cell.file.take());
                if !std::mem::replace(&mut self.failing, true) {
                    let left = if gone { "" } else { ", and may be out of date" };
                    tracing::warn!("{} cannot be written{left}: {error}", path.display());
                }
            }
        }
    }

    /// True if the value that was noted last is not there, and an older one may be.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    /// The number of the value that was noted last.
    pub(crate) fn number(&self, host: HostIndex) -> u64 {
        self.cells.get(host).map_or(0, |cell| cell.number)
    }
}

impl Cell {
    /// And what is known of its host by it and by what is on storage. `takes_files`: its directory does.
    fn open(
        path: Option<PathBuf>,
        in_memory: AtPath,
        on_storage: AtPath,
        takes_files: bool,
    ) -> (Self, Option<Stored>) {
        let file = path.as_deref().filter(|_| in_memory.record().is_some()).map(files::open_to_write);
        let writable = takes_files && !matches!(file, Some(Err(_)));
        let believed = believed(in_memory, on_storage, writable);
        let number = |found: AtPath| found.record().map_or(0, |record| record.number);
        let cell = Self {
            path,
            file: file.and_then(Result::ok),
            last: believed.map(|(record, _)| record.stored),
            number: number(in_memory).max(number(on_storage)),
            written: false,
        };
        let known = believed.map(|(Record { stored, .. }, counts)| Stored {
            same_bmc_boot: stored.same_bmc_boot && counts,
            ..stored
        });
        (cell, known)
    }
}

/// In one write, over what is there: every value is as long. `file` is it, once it is open.
fn write(file: &mut Option<File>, path: &Path, line: &str) -> io::Result<()> {
    let file = match file {
        Some(file) => file,
        none => none.insert(match files::open_to_write(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => files::anew(path)?,
            opened => opened?,
        }),
    };
    let mut bytes = line.as_bytes().to_vec();
    bytes.resize(WIDTH, b'\n');
    file.write_all_at(&bytes, 0)
}

#[cfg(test)]
mod tests;
