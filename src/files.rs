// SPDX-License-Identifier: Apache-2.0
//! Files that are opened with care: what lies at a path may be anything, and may have been put there for us.
//!
//! To open a pipe waits for who has the other end, and to open a device may act on it: neither is a file of ours.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

/// The treatment of a path whose last part is a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// The link is followed: an administrator may have made it.
    Follow,
    /// The link is refused: the daemon makes no links, so somebody else did.
    Refuse,
}

/// Opens a regular file for reading. Fails for anything else, without waiting for it.
pub(crate) fn open(path: &Path, links: Links) -> io::Result<File> {
    regular(path, links, OpenOptions::new().read(true))
}

/// Opens a regular file that is there for writing, and leaves what is in it. Fails for anything else, without waiting.
pub(crate) fn open_to_write(path: &Path) -> io::Result<File> {
    regular(path, Links::Refuse, OpenOptions::new().write(true))
}

/// A new file for writing, in place of whatever has this name: what a link points at, or who holds the old file open, gets
/// nothing.
pub(crate) fn anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // O_EXCL: not what somebody may have put there since, and no link is followed.
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)
}

/// Has nobody believe what is at `path`, which `file` may be: it is removed, or else emptied. False if it may still be there.
pub(crate) fn invalidate(path: &Path, file: Option<File>) -> bool {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {}
        Ok(()) | Err(_) => return true,
    }
    let file = file.map_or_else(|| open_to_write(path), Ok);
    file.and_then(|file| file.set_len(0)).is_ok()
}

fn regular(path: &Path, links: Links, how: &mut OpenOptions) -> io::Result<File> {
    let (metadata, no_links) = match links {
        Links::Follow => (fs::metadata(path)?, OFlags::empty()),
        Links::Refuse => (fs::symlink_metadata(path)?, OFlags::NOFOLLOW),
    };
    let regular = |metadata: &fs::Metadata| {
        if metadata.is_file() { Ok(()) } else { Err(io::Error::other("it is no regular file")) }
    };
    regular(&metadata)?;
    #[allow(clippy::cast_possible_wrap, reason = "open(2) takes the bits as an int")]
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | no_links).bits() as i32;
    let file = how.custom_flags(flags).open(path)?;
    // The file may have become another one meanwhile.
    regular(&file.metadata()?)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::fs::symlink,
        path::PathBuf,
    };

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("acpi-files-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_is_waited_for() {
        let directory = directory("regular");
        let at = |name: &str| directory.join(name);
        fs::write(at("file"), "text").unwrap();
        fs::create_dir(at("directory")).unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        symlink("file", at("link")).unwrap();
        for no_file in ["directory", "pipe"] {
            for links in [Links::Follow, Links::Refuse] {
                let error = open(&at(no_file), links).unwrap_err();
                assert_eq!(error.to_string(), "it is no regular file", "{no_file}");
            }
            assert!(open_to_write(&at(no_file)).is_err());
        }
        let mut text = String::new();
        open(&at("link"), Links::Follow).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        assert!(open(&at("link"), Links::Refuse).is_err());
        assert!(open_to_write(&at("link")).is_err());
        open_to_write(&at("file")).unwrap().write_all(b"n").unwrap();
        assert_eq!(fs::read(at("file")).unwrap(), b"next");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_new_file_is_none_that_was_there() {
        let directory = directory("anew");
        let (path, target) = (directory.join("new"), directory.join("target"));
        fs::write(&target, "mine").unwrap();
        let written = |path: &Path| {
            anew(path).unwrap().write_all(b"ours").unwrap();
            assert!(fs::symlink_metadata(path).unwrap().is_file());
            assert_eq!(fs::read(path).unwrap(), b"ours");
        };
        symlink(&target, &path).unwrap();
        written(&path);
        fs::remove_file(&path).unwrap();
        fs::hard_link(&target, &path).unwrap();
        written(&path);
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        written(&path);
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(anew(&path).is_err());
        fs::remove_dir_all(directory).unwrap();
    }
}
