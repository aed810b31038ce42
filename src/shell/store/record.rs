// SPDX-License-Identifier: Apache-2.0
//! The text of a record (`docs/state.md`).

use crate::logic::{acpi::AcpiState, diagnosis::DimmCount, machine::Stored};

/// The first word of a file. Another format gets another one.
const FORMAT: &str = "acpi-stated-3";
/// The oldest: no number, and no DIMMs. Read, so that an update of the daemon loses nothing.
const FORMAT_1: &str = "acpi-stated-1";
/// The next: no number, and always the DIMMs at the last good boot.
const FORMAT_2: &str = "acpi-stated-2";
/// In place of a boot id: not known to be so in any boot of the BMC.
const NO_BOOT: &str = "-";
/// The length of each value in memory, filled up with line ends.
pub(super) const WIDTH: usize = 128;
/// Of a boot id; with it every line is shorter than [`WIDTH`]. Linux's has 36 bytes.
pub(super) const LONGEST_BOOT: usize = 48;

/// A value, and which one it is of those that were noted of its host: of two records the one with the higher number is
/// newer, and the same number is the same value. 0: an older version wrote it, and did not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) stored: Stored,
    pub(crate) number: u64,
}

impl Record {
    /// By it alone the next life would open the gate without a report, in this boot of the BMC.
    pub(super) fn is_open(&self) -> bool {
        let Stored { state, reset_suspected, same_bmc_boot, good_dimms: _ } = self.stored;
        state.is_working() && !reset_suspected && same_bmc_boot
    }
}

/// Returns a record as one line, without its end: format, number, state, suspicion, boot, perhaps DIMMs, and the checksum
/// of all that is before it.
pub(super) fn to_line(record: Record, boot: Option<&str>) -> String {
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

pub(super) fn sealed(body: &str) -> String {
    format!("{body}{:08x}", crc32(body.as_bytes()))
}

/// Reads a line that [`to_line`] or an older version made. The error says why it is none.
pub(super) fn from_line(line: &str, boot: Option<&str>) -> Result<Record, &'static str> {
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
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// Returns the id if it is one word: any other would not be read back as it was written.
pub(super) fn boot_id(text: &str) -> Option<String> {
    let id = text.trim();
    let short = !id.is_empty() && id.len() <= LONGEST_BOOT;
    let good = short && id != NO_BOOT && id.bytes().all(|b| b.is_ascii_graphic());
    good.then(|| id.to_owned())
}
