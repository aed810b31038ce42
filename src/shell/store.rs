// SPDX-License-Identifier: Apache-2.0
//! What is remembered of each host for the daemon's next life (design 3.8). The format is in `docs/state.md`.
//!
//! Owns: the files. Each host has one on storage, and one in memory (`/run`) where there is such a place.
//!
//! - *Storage* may block for seconds, so one thread writes it, and nobody waits for that: a later value takes the place of
//!   one that is not written yet. A host is answered before its value is handed to that thread.
//! - *Memory* never blocks, so the event loop writes it before anything that a change brings about leaves the process. It
//!   is what a daemon finds that was killed between an answer and the writing of it. It does not outlive the BMC's boot.
//!
//! Must never: fail. Without either the daemon goes on, and its next life knows less.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

use crate::{
    logic::{acpi::AcpiState, diagnosis::DimmCount, machine::Stored},
    shell::permits::HostIndex,
};

/// The first word of a file. Another format gets another one.
const FORMAT: &str = "acpi-stated-1";
/// The same with one word more: the DIMMs at the last good boot. Written only where that is known.
const FORMAT_DIMMS: &str = "acpi-stated-2";
/// In place of a boot id: not known to be so in any boot of the BMC.
const NO_BOOT: &str = "-";
/// Longer than any file of ours.
const LONGEST: u64 = 256;
/// The length of each value in memory, filled up with line ends.
const WIDTH: usize = 128;
/// Where memory is written at once, storage may lag this far: a host that reports without end must not wear out flash.
const APART: Duration = Duration::from_secs(1);
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

/// One word, or it would not be read back as it was written.
fn boot_id(text: &str) -> Option<String> {
    let id = text.trim();
    let good = !id.is_empty() && id != NO_BOOT && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_graphic());
    good.then(|| id.to_owned())
}

// ---- The format ------------------------------------------------------------------------------------

/// One line, without its end: format, state, suspicion, boot, perhaps DIMMs, and the checksum of all that is before it.
fn to_line(stored: Stored, boot: Option<&str>) -> String {
    let suspicion = if stored.reset_suspected { "suspected" } else { "clear" };
    let boot = boot.filter(|_| stored.same_bmc_boot).unwrap_or(NO_BOOT);
    let (format, dimms) = match stored.good_dimms {
        None => (FORMAT, String::new()),
        Some(DimmCount { answering, present: None }) => (FORMAT_DIMMS, format!("{answering} ")),
        Some(DimmCount { answering, present: Some(present) }) => {
            (FORMAT_DIMMS, format!("{answering}/{present} "))
        }
    };
    let body = format!("{format} {} {suspicion} {boot} {dimms}", stored.state.name());
    format!("{body}{:08x}", crc32(body.as_bytes()))
}

/// What [`to_line`] makes, or why it is not that.
fn from_line(line: &str, boot: Option<&str>) -> Result<Stored, &'static str> {
    let mut words = line.split(' ');
    let format = words.next().unwrap_or_default();
    // First, since another format may have another checksum.
    if format != FORMAT && format != FORMAT_DIMMS {
        let ours = FORMAT.trim_end_matches(|c: char| c.is_ascii_digit());
        return Err(if format.starts_with(ours) { "another version wrote it" } else { "it is damaged" });
    }
    let mut read = || {
        let state = AcpiState::from_name(words.next()?)?;
        let reset_suspected = match words.next()? {
            "suspected" => true,
            "clear" => false,
            _ => return None,
        };
        let then = words.next()?;
        let good_dimms = if format == FORMAT_DIMMS { Some(dimms(words.next()?)?) } else { None };
        let stored = Stored { state, reset_suspected, same_bmc_boot: boot == Some(then), good_dimms };
        // There is one way to write it, so this looks at the checksum, and at what is behind it.
        (to_line(Stored { same_bmc_boot: true, ..stored }, Some(then)) == line).then_some(stored)
    };
    read().ok_or("it is damaged")
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

/// What lies at a path.
enum Found {
    Nothing,
    Known(Stored),
    /// It could not be used; it has been set aside, with a log line.
    Unusable,
}

fn find(path: &Path, boot: Option<&str>) -> Found {
    let why = match read_line(path) {
        Ok(None) => return Found::Nothing,
        Ok(Some(line)) => match from_line(&line, boot) {
            Ok(stored) => return Found::Known(stored),
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
    // Opening anything else might wait.
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(io::Error::other("it is no file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
    // Bytes that are no text are no line of ours either.
    Ok(Some(String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned()))
}

/// What is known of one host. What is in memory is never older than what is on storage; where it cannot be used, a
/// value on storage may be the one before, and so nothing is known.
fn known(in_memory: Found, on_storage: Found) -> Option<Stored> {
    match (in_memory, on_storage) {
        (Found::Known(stored), _) | (Found::Nothing, Found::Known(stored)) => Some(stored),
        (Found::Unusable, _) | (Found::Nothing, Found::Nothing | Found::Unusable) => None,
    }
}

/// The files of the hosts `ids` in `directory`.
fn paths(directory: &Path, ids: &[u32]) -> Vec<PathBuf> {
    ids.iter().map(|id| directory.join(format!("host{id}"))).collect()
}

/// What is known of the hosts `ids`, and the two places for what is to come.
pub(crate) fn open(places: Places, ids: &[u32]) -> (Vec<Option<Stored>>, Memory, Option<Writer>) {
    let boot = places.boot.as_deref();
    let storage = paths(&places.storage, ids);
    let found: Vec<_> = storage.iter().map(|path| find(path, boot)).collect();
    let on_storage = found.iter().map(Found::stored).collect();
    let memory = places.memory.as_deref().map(|directory| paths(directory, ids));
    let stored = match &memory {
        None => found.into_iter().map(|found| known(Found::Nothing, found)).collect(),
        Some(paths) => paths.iter().zip(found).map(|(path, found)| known(find(path, boot), found)).collect(),
    };
    let apart = if memory.is_some() { APART } else { Duration::ZERO };
    let memory = memory.unwrap_or_default().into_iter().map(|path| Cell { path, file: None, last: None });
    let memory = Memory { cells: memory.collect(), boot: places.boot.clone(), failing: false };
    let files =
        Files { directory: places.storage, paths: storage, boot: places.boot, on_storage, failing: false };
    (stored, memory, Writer::start(files, apart))
}

impl Found {
    fn stored(&self) -> Option<Stored> {
        match self {
            Self::Known(stored) => Some(*stored),
            Self::Nothing | Self::Unusable => None,
        }
    }
}

// ---- Memory ----------------------------------------------------------------------------------------

/// What is in memory. Without a place there, this does nothing.
#[derive(Default)]
pub(crate) struct Memory {
    cells: Vec<Cell>,
    boot: Option<String>,
    failing: bool,
}

struct Cell {
    path: PathBuf,
    file: Option<File>,
    last: Option<Stored>,
}

impl Memory {
    /// Notes a value at once, if it is a new one.
    pub(crate) fn note(&mut self, host: HostIndex, stored: Stored) {
        let Some(cell) = self.cells.get_mut(host) else { return };
        if cell.last == Some(stored) {
            return;
        }
        match cell.write(&to_line(stored, self.boot.as_deref())) {
            Ok(()) => {
                cell.last = Some(stored);
                self.failing = false;
            }
            Err(error) => {
                // What it holds is not true any more.
                let gone = fs::remove_file(&cell.path).is_ok();
                (cell.file, cell.last) = (None, None);
                if !std::mem::replace(&mut self.failing, true) {
                    let left = if gone { "" } else { ", and may be out of date" };
                    tracing::warn!("{} cannot be written{left}: {error}", cell.path.display());
                }
            }
        }
    }
}

impl Cell {
    /// In one write, over what is there: every value is as long.
    fn write(&mut self, line: &str) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut how = OpenOptions::new();
                how.write(true).create(true).truncate(false).mode(0o644);
                none.insert(how.open(&self.path)?)
            }
        };
        file.write_all_at(format!("{line:\n<WIDTH$}").as_bytes(), 0)
    }
}

// ---- Storage ---------------------------------------------------------------------------------------

/// What the thread that writes is to do.
#[derive(Default)]
struct Orders {
    wanted: Vec<Option<Stored>>,
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
    /// Has a value written some time later, unless another one comes meanwhile.
    pub(crate) fn put(&self, host: HostIndex, stored: Stored) {
        self.0.order(|orders| {
            if let Some(wanted) = orders.wanted.get_mut(host) {
                *wanted = Some(stored);
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
    fn take(&self, earliest: Option<Instant>) -> (Vec<Option<Stored>>, bool) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let early = earliest.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            let wanted = orders.wanted.iter().any(Option::is_some);
            if orders.ending || (wanted && early.is_zero()) {
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
        let wanted = vec![None; files.paths.len()];
        let desk = Arc::new(Desk { orders: Mutex::new(Orders { wanted, ending: false }), ..Desk::default() });
        let (end, ended) = oneshot::channel();
        let orders = Arc::clone(&desk);
        let run = move || {
            let mut earliest = None;
            loop {
                let (wanted, last) = orders.take(earliest);
                for (host, stored) in wanted.into_iter().enumerate() {
                    if let Some(stored) = stored {
                        files.store(host, stored);
                    }
                }
                if last {
                    break;
                }
                earliest = Some(Instant::now() + apart);
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
    paths: Vec<PathBuf>,
    boot: Option<String>,
    on_storage: Vec<Option<Stored>>,
    failing: bool,
}

impl Files {
    fn store(&mut self, host: HostIndex, stored: Stored) {
        let (Some(path), Some(there)) = (self.paths.get(host), self.on_storage.get_mut(host)) else { return };
        if *there == Some(stored) {
            return;
        }
        let line = to_line(stored, self.boot.as_deref()) + "\n";
        match replace(&self.directory, path, &line) {
            Ok(()) => {
                *there = Some(stored);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("{} can be written again", path.display());
                }
            }
            Err(error) => {
                *there = None;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("{} cannot be written: {error}; the daemon goes on", path.display());
                }
            }
        }
    }
}

/// The old text or the new one, whatever happens meanwhile.
fn replace(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = match create(&new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            create(&new)?
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

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    const OTHER: &str = "11111111-2222-3333-4444-555555555555";

    fn all() -> impl Iterator<Item = Stored> {
        AcpiState::ALL.into_iter().flat_map(|state| {
            [(false, false), (false, true), (true, false), (true, true)].into_iter().flat_map(
                move |(reset_suspected, same_bmc_boot)| {
                    let count = |answering, present| Some(DimmCount { answering, present });
                    [None, count(8, None), count(u16::MAX, Some(u16::MAX))].map(|good_dimms| Stored {
                        state,
                        reset_suspected,
                        same_bmc_boot,
                        good_dimms,
                    })
                },
            )
        })
    }

    #[test]
    fn crc32_is_the_one_everybody_means() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for stored in all() {
            let line = to_line(stored, Some(BOOT));
            assert!(line.len() < WIDTH, "{line}");
            assert_eq!(from_line(&line, Some(BOOT)), Ok(stored), "{line}");
            let then = Stored { same_bmc_boot: false, ..stored };
            assert_eq!(from_line(&line, Some(OTHER)), Ok(then), "{line}");
            assert_eq!(from_line(&line, None), Ok(then), "{line}");
            assert_eq!(from_line(&to_line(stored, None), Some(BOOT)), Ok(then), "{line}");
        }
        let one = Stored { same_bmc_boot: true, ..Stored::new(AcpiState::S0G0D0) };
        assert_eq!(
            to_line(one, Some(BOOT)),
            "acpi-stated-1 S0_G0_D0 clear 0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0 e387071b"
        );
    }

    #[test]
    fn one_wrong_bit_or_byte_too_few_or_too_many_is_damage() {
        for stored in all() {
            let line = to_line(stored, Some(BOOT));
            for bit in 0..line.len() * 8 {
                let mut bytes = line.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let changed = String::from_utf8_lossy(&bytes);
                assert!(from_line(&changed, Some(BOOT)).is_err(), "{changed}");
            }
            for length in 0..line.len() {
                assert!(from_line(&line[..length], Some(BOOT)).is_err(), "{length} of {line}");
                assert!(from_line(&line[length + 1..], Some(BOOT)).is_err(), "{line} from {length}");
            }
            for more in [" ", "0", "\n", "\0", " more"] {
                assert!(from_line(&format!("{line}{more}"), Some(BOOT)).is_err(), "{line}{more:?}");
            }
        }
        assert_eq!(from_line("acpi-stated-3 anything", None), Err("another version wrote it"));
        assert_eq!(from_line("", None), Err("it is damaged"));
    }

    #[test]
    fn a_boot_id_is_one_word() {
        assert_eq!(boot_id(&format!("{BOOT}\n")).as_deref(), Some(BOOT));
        for bad in ["", "\n", "-", "a b", "\u{e4}", &"x".repeat(65)] {
            assert_eq!(boot_id(bad), None, "{bad:?}");
        }
    }
}
