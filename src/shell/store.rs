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

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

use crate::{
    files::{self, Links},
    logic::{acpi::AcpiState, diagnosis::DimmCount, machine::Stored},
    shell::permits::HostIndex,
};

/// The first word of a file. Another format gets another one.
const FORMAT: &str = "acpi-stated-3";
/// The oldest: no number, and no DIMMs. Read, so that an update of the daemon loses nothing.
const FORMAT_1: &str = "acpi-stated-1";
/// The next: no number, and always the DIMMs at the last good boot.
const FORMAT_2: &str = "acpi-stated-2";
/// In place of a boot id: not known to be so in any boot of the BMC.
const NO_BOOT: &str = "-";
/// Longer than any file of ours.
const LONGEST: u64 = 256;
/// The length of each value in memory, filled up with line ends.
const WIDTH: usize = 128;
/// Of a boot id; with it every line is shorter than [`WIDTH`]. Linux's has 36 bytes.
const LONGEST_BOOT: usize = 48;
/// Where memory is written at once, writes to storage are so far apart on average: a host that reports without end must not wear
/// out flash.
const APART: Duration = Duration::from_secs(1);
/// So many may follow each other at once, twice what a boot needs: a hard reset of the BMC right after a boot's report must not
/// find the state before it.
const AT_ONCE: u32 = 8;
/// How long the daemon waits on its way out for storage that does not come round.
const FLUSH: Duration = Duration::from_secs(2);
/// Enough for a path, a file of ours and a log line.
const STACK: usize = 64 * 1024;

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

/// Returns the id if it is one word: any other would not be read back as it was written.
fn boot_id(text: &str) -> Option<String> {
    let id = text.trim();
    let short = !id.is_empty() && id.len() <= LONGEST_BOOT;
    let good = short && id != NO_BOOT && id.bytes().all(|b| b.is_ascii_graphic());
    good.then(|| id.to_owned())
}

// ---- The format ------------------------------------------------------------------------------------

/// A value, and which one it is of those that were noted of its host: of two records the one with the higher number is
/// newer, and the same number is the same value. 0: an older version wrote it, and did not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) stored: Stored,
    pub(crate) number: u64,
}

impl Record {
    /// By it alone the next life would open the gate without a report, in this boot of the BMC.
    fn is_open(&self) -> bool {
        let Stored { state, reset_suspected, same_bmc_boot, good_dimms: _ } = self.stored;
        state.is_working() && !reset_suspected && same_bmc_boot
    }
}

/// Returns a record as one line, without its end: format, number, state, suspicion, boot, perhaps DIMMs, and the checksum
/// of all that is before it.
fn to_line(record: Record, boot: Option<&str>) -> String {
    sealed(&format!("{FORMAT} {} {}", record.number, words(record.stored, boot)))
}

/// Returns the words that all formats have, each with a space behind it.
fn words(stored: Stored, boot: Option<&str>) -> String {
    let suspicion = if stored.reset_suspected { "suspected" } else { "clear" };
    let boot = boot.filter(|_| stored.same_bmc_boot).unwrap_or(NO_BOOT);
    let dimms = match stored.good_dimms {
        None => String::new(),
        Some(DimmCount { answering, present: None }) => format!("{answering} "),
        Some(DimmCount { answering, present: Some(present) }) => format!("{answering}/{present} "),
    };
    format!("{} {suspicion} {boot} {dimms}", stored.state.name())
}

fn sealed(body: &str) -> String {
    format!("{body}{:08x}", crc32(body.as_bytes()))
}

/// Reads a line that [`to_line`] or an older version made. The error says why it is none.
fn from_line(line: &str, boot: Option<&str>) -> Result<Record, &'static str> {
    let (format, rest) = line.split_once(' ').unwrap_or((line, ""));
    // First, since another format may have another checksum.
    if ![FORMAT, FORMAT_1, FORMAT_2].contains(&format) {
        let ours = FORMAT.trim_end_matches(|c: char| c.is_ascii_digit());
        return Err(if format.starts_with(ours) { "another version wrote it" } else { "it is damaged" });
    }
    let read = || {
        let (number, rest) = if format == FORMAT { rest.split_once(' ')? } else { ("0", rest) };
        let number = number.parse().ok()?;
        let (stored, then) = value(rest)?;
        // There is one way to write it, so this looks at the checksum, and at what is behind it.
        let again = Record { stored: Stored { same_bmc_boot: true, ..stored }, number };
        let again = match (format, stored.good_dimms) {
            (FORMAT, _) => to_line(again, Some(then)),
            (FORMAT_1, None) | (FORMAT_2, Some(_)) => {
                sealed(&format!("{format} {}", words(again.stored, Some(then))))
            }
            (_, None | Some(_)) => return None,
        };
        let stored = Stored { same_bmc_boot: boot == Some(then), ..stored };
        (again == line).then_some(Record { stored, number })
    };
    read().ok_or("it is damaged")
}

/// State, suspicion, boot and perhaps DIMMs, and the boot as it is written.
fn value(text: &str) -> Option<(Stored, &str)> {
    let mut words = text.split(' ');
    let state = AcpiState::from_name(words.next()?)?;
    let reset_suspected = match words.next()? {
        "suspected" => true,
        "clear" => false,
        _ => return None,
    };
    let then = words.next()?;
    // The checksum is last.
    let next = words.next()?;
    let good_dimms = if words.next().is_some() { Some(dimms(next)?) } else { None };
    Some((Stored { state, reset_suspected, same_bmc_boot: false, good_dimms }, then))
}

/// `8`, or `8/16`: answering, and present.
fn dimms(word: &str) -> Option<DimmCount> {
    let (answering, present) = match word.split_once('/') {
        None => (word, None),
        Some((answering, present)) => (answering, Some(present.parse().ok()?)),
    };
    Some(DimmCount { answering: answering.parse().ok()?, present })
}

/// CRC-32 as in zip and Ethernet. A few dozen bytes, a few times in a boot: no table.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

// ---- Reading ---------------------------------------------------------------------------------------

/// The content that was found at a path.
#[derive(Clone, Copy, Debug)]
enum Found {
    Nothing,
    Known(Record),
    /// The file could not be used; it has been set aside, with a log line.
    Unusable,
}

impl Found {
    fn record(self) -> Option<Record> {
        match self {
            Self::Known(record) => Some(record),
            Self::Nothing | Self::Unusable => None,
        }
    }
}

fn find(path: &Path, boot: Option<&str>) -> Found {
    let why = match read_line(path) {
        Ok(None) => return Found::Nothing,
        Ok(Some(line)) => match from_line(&line, boot) {
            Ok(record) => return Found::Known(record),
            Err(why) => why.to_owned(),
        },
        Err(error) => error.to_string(),
    };
    let aside = path.with_extension("bad");
    match fs::rename(path, &aside) {
        Ok(()) => tracing::warn!("{} cannot be used: {why}; it is now {}", path.display(), aside.display()),
        Err(error) => tracing::warn!("{} cannot be used: {why}; nor set aside: {error}", path.display()),
    }
    Found::Unusable
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
fn believed(in_memory: Found, on_storage: Found, writable: bool) -> Option<(Record, bool)> {
    match (in_memory, on_storage) {
        (Found::Known(memory), Found::Known(storage)) => {
            let more_closed = memory.is_open() && !storage.is_open();
            let newer = storage.number > memory.number || (storage.number == memory.number && more_closed);
            Some(if newer { (storage, false) } else { (memory, writable) })
        }
        (Found::Known(memory), Found::Nothing) => Some((memory, writable)),
        (Found::Known(memory), Found::Unusable) => Some((memory, false)),
        (Found::Nothing, Found::Known(storage)) => Some((storage, false)),
        (Found::Unusable, _) | (Found::Nothing, Found::Nothing | Found::Unusable) => None,
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
        let in_memory = path.as_deref().map_or(Found::Nothing, |path| find(path, boot));
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
                let gone = invalidate(path, cell.file.take());
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
        in_memory: Found,
        on_storage: Found,
        takes_files: bool,
    ) -> (Self, Option<Stored>) {
        let file = path.as_deref().filter(|_| in_memory.record().is_some()).map(files::open_to_write);
        let writable = takes_files && !matches!(file, Some(Err(_)));
        let believed = believed(in_memory, on_storage, writable);
        let number = |found: Found| found.record().map_or(0, |record| record.number);
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
    file.write_all_at(format!("{line:\n<WIDTH$}").as_bytes(), 0)
}

/// Has nobody believe what is at `path`, which `file` may be: it is removed, or else emptied. False if it may still be there.
fn invalidate(path: &Path, file: Option<File>) -> bool {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {}
        Ok(()) | Err(_) => return true,
    }
    let file = file.map_or_else(|| files::open_to_write(path), Ok);
    file.and_then(|file| file.set_len(0)).is_ok()
}

// ---- Storage ---------------------------------------------------------------------------------------

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
    fn start(mut files: Files, apart: Duration) -> Option<Self> {
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
struct Files {
    directory: PathBuf,
    slots: Vec<Slot>,
    boot: Option<String>,
    failing: bool,
}

struct Slot {
    path: PathBuf,
    /// The record that is there, if that is known.
    there: Option<Record>,
    /// The record that is there may be an open one.
    open: bool,
}

impl Slot {
    fn new(path: PathBuf, there: Option<Record>) -> Self {
        Self { path, there, open: there.is_some_and(|record| record.is_open()) }
    }
}

impl Files {
    /// False if there was nothing to do.
    fn store(&mut self, host: HostIndex, record: Record) -> bool {
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
                let gone = stale && invalidate(&slot.path, None);
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
fn replace(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
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

#[cfg(test)]
mod tests;
