// SPDX-License-Identifier: Apache-2.0
//! Reads `tests/scenarios/*.trace`: what happens to a host, and what is expected of it (`tests/scenarios/README.md`).

use std::{fs, path::Path};

use acpi_stated::{
    config,
    logic::{
        acpi::AcpiState,
        diagnosis::DimmCount,
        evidence::Os,
        machine::{FirmwarePhase, FirmwareSource, FirmwareWord, Stored},
        time::Time,
    },
};

const HEADER: [&str; 11] =
    ["time", "event", "state", "cause", "gate", "dimm", "thermal", "fans", "unit", "progress", "also"];

/// One scenario, as its file says it.
pub struct Scenario {
    pub title: String,
    pub settings: config::Host,
    pub stored: Option<Stored>,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub line: usize,
    pub at: Time,
    pub event: String,
    /// The columns from `state` on.
    pub expected: Vec<String>,
}

/// Columns are two or more spaces apart; a `|` is for the eye.
fn columns(line: &str) -> Vec<String> {
    let cells = line.replace('|', "  ");
    cells.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

pub fn read(text: &str) -> Result<Scenario, String> {
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim_end())).peekable();
    let title = lines.next().and_then(|(_, l)| l.strip_prefix("# ")).ok_or("no title")?.to_owned();
    let mut scenario = Scenario { title, settings: config::Host::new(0), stored: None, rows: Vec::new() };
    // Who opens the file reads first what it is about.
    let mut explained = false;
    while let Some((_, comment)) = lines.next_if(|(_, line)| line.starts_with('#')) {
        explained |= comment.len() > 1;
    }
    if !explained {
        return Err("it does not say what it shows".to_owned());
    }
    let mut began = false;
    for (number, line) in lines {
        let wrong = |what: &str| format!("line {number}: {what}: {line}");
        if line.is_empty() || line.starts_with("--") {
            // For the reader.
        } else if let Some(options) = line.strip_prefix("options") {
            options
                .split_whitespace()
                .try_for_each(|o| option(&mut scenario.settings, o))
                .map_err(|e| wrong(&e))?;
        } else if let Some(words) = line.strip_prefix("stored") {
            scenario.stored = Some(stored(words).ok_or_else(|| wrong("stored"))?);
        } else if !began {
            began = columns(line) == HEADER;
            if !began {
                return Err(wrong("this is not the header"));
            }
        } else {
            let mut cells = columns(line);
            if cells.len() != HEADER.len() {
                return Err(wrong("a row has 11 columns"));
            }
            let expected = cells.split_off(2);
            let at = seconds(&cells[0]).ok_or_else(|| wrong("time"))?;
            scenario.rows.push(Row { line: number, at, event: cells[1].clone(), expected });
        }
    }
    Ok(scenario)
}

/// `12.5`, in seconds, to the microsecond.
fn seconds(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let micros: u64 = format!("{fraction:0<6}").parse().ok()?;
    Some(Time::from_micros(whole.parse::<u64>().ok()? * 1_000_000 + micros))
}

fn option(settings: &mut config::Host, option: &str) -> Result<(), String> {
    let evidence = &mut settings.evidence;
    match option {
        "post_complete=trusted" => evidence.post_complete_trusted = true,
        "s0_from_post_complete" => evidence.s0_from_post_complete = true,
        "s2_from_power_on=false" => evidence.s2_from_power_on = false,
        "boot_progress=ignored" => evidence.boot_progress = false,
        "progress_done_from=OSStart" => evidence.done_from = config::DoneFrom::OsStart,
        "codes" => settings.post_codes = config::PostCodes { began: vec![0x10], done: vec![0xaa] },
        "host_off_is_off" => evidence.host_off_is_off = true,
        "write_boot_progress" => settings.write_boot_progress = true,
        "dimms" => settings.has_dimms = true,
        "mux" => {
            settings.spd_mux = Some(config::SpdMux { line: "SPD_MUX_SEL".to_owned(), host_level: true });
        }
        "quiesce" => settings.quiesce = vec!["other.service".to_owned()],
        _ => return Err(format!("no such option: {option}")),
    }
    Ok(())
}

fn stored(words: &str) -> Option<Stored> {
    let mut words = words.split_whitespace();
    let mut stored = Stored::new(AcpiState::from_name(words.next()?)?);
    let firmware = &mut stored.firmware;
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("reset_suspected", "") => stored.reset_suspected = true,
            ("reset_requested", "") => (stored.reset_suspected, stored.reset_requested) = (true, true),
            ("off", "") => stored.off = true,
            ("reported", "") => stored.reported = true,
            ("early", "") => firmware.early = true,
            ("complete_seen", "") => stored.complete_seen = true,
            ("signs_seen", "") => stored.signs_seen = true,
            ("os", "Inactive") => stored.post = Some(Os::Inactive),
            ("os", "Standby") => stored.post = Some(Os::Complete),
            ("device", device) => stored.device = AcpiState::from_name(device)?,
            ("ran_from", at) => firmware.ran_from = Some(seconds(at)?),
            ("firmware", phase) => {
                let phase = FirmwarePhase::from_name(phase)?;
                firmware.word = Some(FirmwareWord { phase, source: FirmwareSource::Report });
            }
            ("same_bmc_boot", "") => stored.same_bmc_boot = true,
            ("dimms", count) => stored.good_dimms = Some(dimm_count(count)?),
            _ => return None,
        }
    }
    Some(stored)
}

/// `8`, or `8/16`: answering, and present.
fn dimm_count(text: &str) -> Option<DimmCount> {
    let (answering, present) = match text.split_once('/') {
        None => (text, None),
        Some((answering, present)) => (answering, Some(present.parse().ok()?)),
    };
    Some(DimmCount { answering: answering.parse().ok()?, present })
}

pub fn all() -> Vec<(String, Scenario)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "trace"));
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let read = |path: &Path| {
        read(&fs::read_to_string(path).unwrap()).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
    };
    files.iter().map(|path| (name(path), read(path))).collect()
}
