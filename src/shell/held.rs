// SPDX-License-Identifier: Apache-2.0
//! Which fan zones this daemon holds, written where it outlives the process: whoever comes next releases them.
//!
//! Owns: one file in memory (`/run`), a line for each zone. Fan control's Manual does not outlive the BMC's boot, so neither must
//! this. Must never: fail, or touch storage that may block.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use crate::files::{self, Links};

/// The file's name, in the directory that systemd made.
const NAME: &str = "fans-held";
/// No list of zones is longer.
const LONGEST: u64 = 64 * 1024;

/// The file.
#[derive(Debug, Default)]
pub struct Held {
    file: Option<PathBuf>,
    written: Vec<String>,
    failing: bool,
}

impl Held {
    /// In this directory, and what the last process left there. Without a directory nothing is written.
    #[must_use]
    pub fn open(directory: Option<&Path>) -> (Self, Vec<String>) {
        let file = directory.map(|directory| directory.join(NAME));
        let left = match file.as_deref().map(read) {
            Some(Ok(left)) => left,
            Some(Err(error)) => {
                tracing::warn!("what fan zones were held cannot be read: {error}");
                Vec::new()
            }
            None => Vec::new(),
        };
        (Self { file, written: left.clone(), failing: false }, left)
    }

    /// Has exactly these zones written down.
    pub fn note(&mut self, zones: Vec<String>) {
        let Some(file) = &self.file else { return };
        if zones == self.written {
            return;
        }
        match write(file, &zones) {
            Ok(()) => (self.written, self.failing) = (zones, false),
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("{} cannot be written: {error}", file.display());
                }
            }
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<String>> {
    let opened = match files::open(file, Links::Refuse) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    opened.take(LONGEST).read_to_string(&mut text)?;
    // Anything else is no object path, and nobody can be asked for it.
    let paths = text.lines().filter(|line| zbus::ObjectPath::try_from(*line).is_ok());
    Ok(paths.map(str::to_owned).collect())
}

/// The old list or the new one, whatever happens meanwhile; no file if it is empty.
fn write(file: &Path, zones: &[String]) -> io::Result<()> {
    if zones.is_empty() {
        return match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
    }
    let new = file.with_extension("new");
    let mut text = zones.join("\n");
    text.push('\n');
    files::anew(&new)?.write_all(text.as_bytes())?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("acpi-held-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn what_is_noted_is_found_by_the_next() {
        let directory = directory("noted");
        let zones = vec!["/a/zone0".to_owned(), "/a/zone1".to_owned()];
        let (mut held, left) = Held::open(Some(&directory));
        assert_eq!(left, Vec::<String>::new());
        held.note(zones.clone());
        assert_eq!(Held::open(Some(&directory)).1, zones);
        held.note(Vec::new());
        assert_eq!(Held::open(Some(&directory)).1, Vec::<String>::new());
        assert!(!directory.join(NAME).exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_a_link_points_at_is_not_written_to() {
        let directory = directory("link");
        let mine = directory.join("mine");
        fs::write(&mine, "mine").unwrap();
        std::os::unix::fs::symlink(&mine, directory.join(NAME).with_extension("new")).unwrap();
        let (mut held, _) = Held::open(Some(&directory));
        held.note(vec!["/a/zone0".to_owned()]);
        assert_eq!(Held::open(Some(&directory)).1, ["/a/zone0"]);
        assert_eq!(fs::read(&mine).unwrap(), b"mine");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_is_no_path_is_left_out_and_no_directory_is_no_error() {
        let directory = directory("damaged");
        fs::write(directory.join(NAME), "/a/zone0\nnonsense\n\n/bad//path\n").unwrap();
        assert_eq!(Held::open(Some(&directory)).1, ["/a/zone0"]);
        fs::remove_dir_all(&directory).unwrap();
        let (mut held, left) = Held::open(Some(&directory));
        held.note(vec!["/a/zone0".to_owned()]);
        assert!(left.is_empty() && held.failing);
        Held::open(None).0.note(vec!["/a/zone0".to_owned()]);
    }
}
