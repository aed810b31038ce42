// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use super::{
    record::{LONGEST_BOOT, crc32, sealed},
    storage::replace,
    *,
};
use crate::logic::{
    acpi::AcpiState,
    diagnosis::DimmCount,
    evidence::Os,
    machine::{FirmwarePhase, FirmwareRecord, FirmwareSource, FirmwareWord},
    time::Time,
};

const BOOT: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
const OTHER: &str = "11111111-2222-3333-4444-555555555555";

/// Every value, with numbers from the least to the greatest.
fn all_records() -> impl Iterator<Item = Record> {
    all().flat_map(|stored| [0, 7, u64::MAX].map(|number| Record { stored, number }))
}

fn all() -> impl Iterator<Item = Stored> {
    AcpiState::ALL.into_iter().flat_map(|state| {
        [(false, false), (false, true), (true, false), (true, true)].into_iter().flat_map(
            move |(reset_suspected, same_bmc_boot)| {
                let count = |answering, present| Some(DimmCount { answering, present });
                let longest =
                    FirmwareWord { phase: FirmwarePhase::NotHeard, source: FirmwareSource::PostStatus };
                let firmware = FirmwareRecord {
                    word: Some(longest),
                    ran_from: Some(Time::from_micros(u64::MAX)),
                    early: true,
                };
                let full = Stored {
                    device: AcpiState::LegacyOff,
                    reported: true,
                    off: true,
                    reset_requested: reset_suspected,
                    firmware,
                    post: Some(Os::Complete),
                    complete_seen: true,
                    signs_seen: true,
                    ..Stored::new(state)
                };
                let counts = [None, count(8, None), count(u16::MAX, Some(u16::MAX))];
                [full, Stored { post: Some(Os::Inactive), off: false, ..full }, Stored::new(state)]
                    .into_iter()
                    .flat_map(move |stored| {
                        counts.map(|good_dimms| Stored {
                            reset_suspected,
                            same_bmc_boot,
                            good_dimms,
                            ..stored
                        })
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
    let longest_boot = "b".repeat(LONGEST_BOOT);
    for record in all_records() {
        assert!(to_line(record, Some(&longest_boot)).len() < WIDTH);
        let line = to_line(record, Some(BOOT));
        assert_eq!(from_line(&line, Some(BOOT)), Ok(record), "{line}");
        let then = Record { stored: Stored { same_bmc_boot: false, ..record.stored }, ..record };
        assert_eq!(from_line(&line, Some(OTHER)), Ok(then), "{line}");
        assert_eq!(from_line(&line, None), Ok(then), "{line}");
        assert_eq!(from_line(&to_line(record, None), Some(BOOT)), Ok(then), "{line}");
    }
    let stored = Stored { same_bmc_boot: true, ..Stored::new(AcpiState::S0G0D0) };
    assert_eq!(
        to_line(Record { stored, number: 42 }, Some(BOOT)),
        "acpi-stated-4 42 S0_G0_D0 clear 0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0 Unknown - - - - a82c2b63"
    );
}

/// As the versions that did not count wrote them.
#[test]
fn the_older_formats_are_read() {
    let stored = Stored { same_bmc_boot: true, ..Stored::new(AcpiState::S0G0D0) };
    let line = "acpi-stated-1 S0_G0_D0 clear 0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0 e387071b";
    assert_eq!(from_line(line, Some(BOOT)), Ok(Record { stored, number: 0 }));
    let good_dimms = Some(DimmCount { answering: 8, present: Some(16) });
    let line = sealed(format!("acpi-stated-2 S0_G0_D0 clear {BOOT} 8/16 "));
    assert_eq!(
        from_line(&line, Some(BOOT)),
        Ok(Record { stored: Stored { good_dimms, ..stored }, number: 0 })
    );
    for wrong in ["acpi-stated-1 S0_G0_D0 clear - 8 ", "acpi-stated-2 S0_G0_D0 clear - "] {
        assert_eq!(from_line(&sealed(wrong.to_owned()), None), Err("it is damaged"), "{wrong}");
    }
}

#[test]
fn one_wrong_bit_or_byte_too_few_or_too_many_is_damage() {
    for record in all_records().filter(|record| record.number == 7) {
        let line = to_line(record, Some(BOOT));
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
    assert_eq!(from_line("acpi-stated-5 anything", None), Err("another version wrote it"));
    assert_eq!(from_line("", None), Err("it is damaged"));
}

fn record(number: u64, state: AcpiState, same_bmc_boot: bool) -> Record {
    Record { stored: Stored { same_bmc_boot, ..Stored::new(state) }, number }
}

/// docs/state.md, "Which record is believed": each pair of what can lie in the two places.
#[test]
fn an_open_record_counts_only_from_memory_that_is_newest_and_can_be_written() {
    let numbers = [0, 1, 2, u64::MAX];
    let states = [AcpiState::S0G0D0, AcpiState::LegacyOn, AcpiState::S2D2, AcpiState::S5G2];
    let each = numbers.iter().flat_map(|number| {
        states.iter().flat_map(|state| [true, false].map(|same| record(*number, *state, same)))
    });
    let each: Vec<AtPath> = each.map(AtPath::Known).chain([AtPath::Nothing, AtPath::Unusable]).collect();
    for (memory, storage) in each.iter().flat_map(|memory| each.iter().map(|storage| (*memory, *storage))) {
        for writable in [true, false] {
            let said = believed(memory, storage, writable);
            let context = format!("{memory:?}, {storage:?}, {writable}: {said:?}");
            let newest = match (memory.record(), storage.record()) {
                (Some(memory), Some(storage)) => {
                    storage.number < memory.number
                        || (storage.number == memory.number && (!memory.is_open() || storage.is_open()))
                }
                (Some(_), None) => true,
                (None, _) => false,
            };
            let counts = said.is_some_and(|(_, counts)| counts);
            assert_eq!(counts, newest && writable && !matches!(storage, AtPath::Unusable), "{context}");
            let expected = match (memory, storage) {
                (AtPath::Unusable, _) => None,
                _ if newest => memory.record(),
                _ => storage.record(),
            };
            assert_eq!(said.map(|(record, _)| record), expected, "{context}");
        }
    }
}

fn directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("acpi-store-{}-{name}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Memory and storage carry the same number for the same value, and it goes on from life to life.
#[test]
fn values_are_counted_from_the_highest_that_was_found() {
    let directory = directory("counted");
    let (storage, memory) = (directory.join("storage"), directory.join("memory"));
    fs::create_dir_all(&storage).unwrap();
    fs::create_dir_all(&memory).unwrap();
    let line = |number, state| to_line(record(number, state, true), Some(BOOT)) + "\n";
    fs::write(storage.join("host0"), line(9, AcpiState::S0G0D0)).unwrap();
    fs::write(memory.join("host0"), line(4, AcpiState::S5G2)).unwrap();
    let places = || Places::new(storage.clone()).and_in_memory(Some(memory.clone())).in_boot(BOOT);

    let (known, mut noted, _writer) = open(places(), &[0]);
    // Newer, but storage's word for it.
    let s0 = record(9, AcpiState::S0G0D0, false).stored;
    assert_eq!(known, [Some(s0)]);
    for (stored, number) in
        [(s0, 10), (s0, 10), (Stored::new(AcpiState::S2D2), 11), (Stored { same_bmc_boot: true, ..s0 }, 12)]
    {
        noted.note(0, stored);
        assert_eq!(noted.number(0), number);
        let found = find(&memory.join("host0"), Some(BOOT)).record();
        assert_eq!(found, Some(Record { stored, number }));
    }
    let (known, mut noted, _writer) = open(places(), &[0]);
    let stored = Stored { same_bmc_boot: true, ..s0 };
    assert_eq!(known, [Some(stored)]);
    // A value that was found is no new one.
    noted.note(0, stored);
    assert_eq!(noted.number(0), 12);
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_a_link_points_at_is_not_written_to() {
    let directory = directory("link");
    let (path, mine) = (directory.join("host0"), directory.join("mine"));
    fs::write(&mine, "mine").unwrap();
    std::os::unix::fs::symlink(&mine, path.with_extension("new")).unwrap();
    replace(&directory, &path, "ours").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"ours");
    // Nor to what is there for memory's record.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&mine, &path).unwrap();
    assert!(write(&mut None, &path, "ours").is_err());
    assert_eq!(fs::read(&mine).unwrap(), b"mine");
    fs::remove_dir_all(directory).unwrap();
}

/// On storage that takes nothing more, what is out of date goes only where it would be dangerous.
#[test]
fn a_failed_write_takes_a_record_away_that_is_more_open_and_no_other() {
    let directory = directory("failed");
    let path = directory.join("host0");
    // In the way of every new file.
    fs::create_dir_all(path.with_extension("new")).unwrap();
    let [open, post, off] = [
        record(1, AcpiState::S0G0D0, true),
        record(2, AcpiState::S2D2, true),
        record(3, AcpiState::S5G2, true),
    ];
    let files = |there: Record| {
        fs::write(&path, to_line(there, Some(BOOT))).unwrap();
        let slots = vec![Slot::new(path.clone(), Some(there))];
        Files { directory: directory.clone(), slots, boot: Some(BOOT.to_owned()), failing: false }
    };
    let there = || find(&path, Some(BOOT)).record();
    files(post).store(0, off);
    assert_eq!(there(), Some(post));
    files(post).store(0, open);
    assert_eq!(there(), Some(post));
    files(open).store(0, Record { number: 2, ..open });
    assert_eq!(there(), Some(open));
    files(open).store(0, post);
    assert_eq!(there(), None);
    assert!(!path.exists());
    // Memory's goes in any case: it is what the next life goes by.
    let (mut noted, path) = (open_memory(&directory), directory.join("memory/host0"));
    noted.note(0, post.stored);
    assert!(path.exists());
    noted.cells[0].file = Some(File::open(&path).unwrap());
    noted.note(0, off.stored);
    assert!(!path.exists());
    noted.note(0, off.stored);
    assert_eq!(find(&path, Some(BOOT)).record(), Some(Record { number: 2, ..off }));
    fs::remove_dir_all(directory).unwrap();
}

fn open_memory(directory: &Path) -> Memory {
    let memory = directory.join("memory");
    fs::create_dir_all(&memory).unwrap();
    open(Places::new(directory.join("none")).and_in_memory(Some(memory)).in_boot(BOOT), &[0]).1
}

/// Where it cannot be removed it is emptied, and what is empty is not believed.
#[test]
fn what_cannot_be_removed_is_emptied() {
    let directory = directory("emptied");
    let path = directory.join("host0");
    fs::write(&path, "record").unwrap();
    let file = files::open_to_write(&path).unwrap();
    assert!(files::invalidate(&path, Some(file)));
    assert!(!path.exists());
    assert!(files::invalidate(&path, None), "it is gone");
    // The name cannot be removed, what is in it can.
    fs::create_dir(&path).unwrap();
    let other = directory.join("other");
    fs::write(&other, "record").unwrap();
    assert!(!files::invalidate(&path, None));
    assert!(files::invalidate(&path, Some(files::open_to_write(&other).unwrap())));
    assert_eq!(fs::read(&other).unwrap(), b"");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_boot_id_is_one_word() {
    assert_eq!(boot_id(&format!("{BOOT}\n")).as_deref(), Some(BOOT));
    for bad in ["", "\n", "-", "a b", "\u{e4}", &"x".repeat(LONGEST_BOOT + 1)] {
        assert_eq!(boot_id(bad), None, "{bad:?}");
    }
}
