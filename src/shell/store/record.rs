// SPDX-License-Identifier: Apache-2.0
//! The text of a record (`docs/state.md`).

use crate::logic::{
    acpi::AcpiState,
    diagnosis::DimmCount,
    evidence::Os,
    machine::{FirmwarePhase, FirmwareRecord, FirmwareSource, FirmwareWord, Stored},
    time::Time,
};

/// The first word of a file, oldest first. Each format adds to the one before; all are read, so that an update of the daemon
/// loses nothing. The last one is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Format {
    /// State, suspicion, boot.
    One,
    /// And always the DIMMs at the last good boot.
    Two,
    /// With a number; the DIMMs where they are known.
    Three,
    /// With device, power, firmware and POST status.
    Four,
}

impl Format {
    const ALL: [Self; 4] = [Self::One, Self::Two, Self::Three, Self::Four];
    const NOW: Self = Self::Four;

    const fn name(self) -> &'static str {
        match self {
            Self::One => "acpi-stated-1",
            Self::Two => "acpi-stated-2",
            Self::Three => "acpi-stated-3",
            Self::Four => "acpi-stated-4",
        }
    }
}

/// In place of a boot id: not known to be so in any boot of the BMC. In place of any other word: nothing.
const NONE: &str = "-";
/// The length of each value in memory, filled up with line ends.
pub(super) const WIDTH: usize = 256;
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
        let stored = &self.stored;
        let done = match stored.firmware.word {
            Some(word) => word.phase == FirmwarePhase::Done,
            None => stored.state.is_working(),
        };
        done && !stored.reset_suspected && stored.same_bmc_boot
    }
}

/// Returns a record as one line, without its end: format, number, state, suspicion, boot, what is known of the firmware,
/// perhaps DIMMs, and the checksum of all that is before it.
pub(super) fn to_line(record: Record, boot: Option<&str>) -> String {
    written(Format::NOW, record, boot)
}

fn written(format: Format, Record { stored, number }: Record, boot: Option<&str>) -> String {
    let mut line = String::with_capacity(WIDTH);
    let mut word = |word: &str| {
        line.push_str(word);
        line.push(' ');
    };
    word(format.name());
    if format >= Format::Three {
        word(&number.to_string());
    }
    word(stored.state.name());
    word(match (stored.reset_suspected, stored.reset_requested && format >= Format::Four) {
        (true, true) => "requested",
        (true, false) => "suspected",
        (false, _) => "clear",
    });
    word(boot.filter(|_| stored.same_bmc_boot).unwrap_or(NONE));
    if format >= Format::Four {
        word(stored.device.name());
        match stored.firmware.word {
            Some(FirmwareWord { phase, source }) => word(&[phase.name(), "/", source.name()].concat()),
            None => word(NONE),
        }
        match stored.firmware.ran_from {
            Some(at) => word(&at.as_micros().to_string()),
            None => word(NONE),
        }
        word(match stored.post {
            Some(Os::Inactive) => "inactive",
            Some(Os::Complete) => "complete",
            None => NONE,
        });
        let flags: String = FLAGS.iter().filter(|flag| (flag.get)(&stored)).map(|flag| flag.letter).collect();
        word(if flags.is_empty() { NONE } else { &flags });
    }
    if let Some(DimmCount { answering, present }) = stored.good_dimms {
        word(&present.map_or_else(|| answering.to_string(), |present| format!("{answering}/{present}")));
    }
    sealed(line)
}

/// A truth of a record.
struct Flag {
    letter: char,
    get: fn(&Stored) -> bool,
    set: fn(&mut Stored),
}

/// All of them.
const FLAGS: [Flag; 5] = [
    Flag { letter: 'o', get: |stored| stored.off, set: |stored| stored.off = true },
    Flag { letter: 'r', get: |stored| stored.reported, set: |stored| stored.reported = true },
    Flag { letter: 'e', get: |stored| stored.firmware.early, set: |stored| stored.firmware.early = true },
    Flag { letter: 'c', get: |stored| stored.complete_seen, set: |stored| stored.complete_seen = true },
    Flag { letter: 's', get: |stored| stored.signs_seen, set: |stored| stored.signs_seen = true },
];

/// With the checksum behind it.
pub(super) fn sealed(mut line: String) -> String {
    let sum = crc32(line.as_bytes());
    line.extend((0..8).rev().filter_map(|nibble| char::from_digit(sum >> (4 * nibble) & 0xf, 16)));
    line
}

/// Reads a line that [`to_line`] or an older version made. The error says why it is none.
pub(super) fn from_line(line: &str, boot: Option<&str>) -> Result<Record, &'static str> {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    // First, since another format may have another checksum.
    let Some(format) = Format::ALL.into_iter().find(|format| format.name() == name) else {
        let ours = Format::NOW.name().trim_end_matches(|c: char| c.is_ascii_digit());
        return Err(if name.starts_with(ours) { "another version wrote it" } else { "it is damaged" });
    };
    let read = || {
        let (record, then) = value(format, rest)?;
        // There is one way to write it, so this looks at the checksum, and at what is behind it.
        let again = Record { stored: Stored { same_bmc_boot: true, ..record.stored }, ..record };
        let has_dimms = record.stored.good_dimms.is_some();
        let one_way = match format {
            Format::One => !has_dimms,
            Format::Two => has_dimms,
            Format::Three | Format::Four => true,
        };
        if !one_way || written(format, again, Some(then)) != line {
            return None;
        }
        let stored = Stored { same_bmc_boot: boot == Some(then), ..record.stored };
        Some(Record { stored, ..record })
    };
    read().ok_or("it is damaged")
}

/// What stands behind the format, and the boot as it is written.
fn value(format: Format, text: &str) -> Option<(Record, &str)> {
    let mut words = text.split(' ').peekable();
    let number = if format >= Format::Three { words.next()?.parse().ok()? } else { 0 };
    let mut stored = Stored::new(AcpiState::from_name(words.next()?)?);
    (stored.reset_suspected, stored.reset_requested) = match words.next()? {
        "requested" => (true, true),
        "suspected" => (true, false),
        "clear" => (false, false),
        _ => return None,
    };
    let then = words.next()?;
    if format >= Format::Four {
        stored.device = AcpiState::from_name(words.next()?)?;
        let mut next = || words.next().map(|word| Some(word).filter(|word| *word != NONE));
        let (word, ran_from, post, flags) = (next()?, next()?, next()?, next()?);
        stored.firmware = firmware(word, ran_from)?;
        stored.post = match post {
            None => None,
            Some("inactive") => Some(Os::Inactive),
            Some("complete") => Some(Os::Complete),
            Some(_) => return None,
        };
        for letter in flags.unwrap_or_default().chars() {
            (FLAGS.iter().find(|flag| flag.letter == letter)?.set)(&mut stored);
        }
    }
    // The checksum is last.
    let next = words.next()?;
    if words.next().is_some() {
        stored.good_dimms = Some(dimms(next)?);
    }
    Some((Record { stored, number }, then))
}

/// `Done/Report`, and microseconds on the clock that counts from the BMC's boot.
fn firmware(word: Option<&str>, ran_from: Option<&str>) -> Option<FirmwareRecord> {
    let mut record = FirmwareRecord::default();
    if let Some(word) = word {
        let (phase, source) = word.split_once('/')?;
        let (phase, source) = (FirmwarePhase::from_name(phase)?, FirmwareSource::from_name(source)?);
        record.word = Some(FirmwareWord { phase, source });
    }
    if let Some(at) = ran_from {
        record.ran_from = Some(Time::from_micros(at.parse().ok()?));
    }
    Some(record)
}

/// `8`, or `8/16`: answering, and present.
fn dimms(word: &str) -> Option<DimmCount> {
    let (answering, present) = match word.split_once('/') {
        None => (word, None),
        Some((answering, present)) => (answering, Some(present.parse().ok()?)),
    };
    Some(DimmCount { answering: answering.parse().ok()?, present })
}

/// CRC-32 as in zip and Ethernet, half a byte at a time: a host waits for it.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 4) ^ NIBBLES.get((crc & 0xf) as usize).copied().unwrap_or_default();
    !bytes.iter().fold(!0, |crc, byte| step(step(crc ^ u32::from(*byte))))
}

/// What each half of a byte does to the sum.
#[allow(clippy::indexing_slicing, reason = "a constant: what is out of bounds does not compile")]
const NIBBLES: [u32; 16] = {
    let mut table = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        let mut crc: u32 = nibble;
        let mut bit = 0;
        while bit < 4 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[nibble as usize] = crc;
        nibble += 1;
    }
    table
};

/// Returns the id if it is one word: any other would not be read back as it was written.
pub(super) fn boot_id(text: &str) -> Option<String> {
    let id = text.trim();
    let short = !id.is_empty() && id.len() <= LONGEST_BOOT;
    let good = short && id != NONE && id.bytes().all(|b| b.is_ascii_graphic());
    good.then(|| id.to_owned())
}
