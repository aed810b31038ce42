// SPDX-License-Identifier: Apache-2.0
//! A client of a bus that writes and reads bytes, since no library sends some messages, or sends them as fast.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
};

use crate::support::{
    frames::{Field, Raw},
    private_bus::PrivateBus,
    rig::PATIENCE,
};

/// A client that writes bytes.
pub struct Plain(pub UnixStream);

/// What came.
#[derive(Debug, Default)]
pub struct Heard {
    /// 1 is a call.
    pub kind: u8,
    pub serial: u32,
    pub sender: String,
    pub path: String,
    pub member: String,
    /// To what call it is the answer.
    pub answers: Option<u32>,
    pub body: Vec<u8>,
}

impl Heard {
    /// The header of a message and what follows it, from the bytes of one with this machine's byte order or the other.
    fn read(fixed: [u8; 16], rest: &[u8]) -> Self {
        let number = |bytes: &[u8]| {
            let number = bytes[..4].try_into().unwrap();
            if fixed[0] == b'B' { u32::from_be_bytes(number) } else { u32::from_le_bytes(number) }
        };
        let size = |bytes: &[u8]| usize::try_from(number(bytes)).unwrap();
        let end = size(&fixed[12..]);
        let mut heard = Self { kind: fixed[1], serial: number(&fixed[8..]), ..Self::default() };
        let mut at = 0;
        while at < end {
            // Of the fields that a bus passes on, each is a string, a signature, or a number.
            let (code, kind) = (rest[at], rest[at + 2]);
            at += 4;
            if kind == b'u' {
                if code == 5 {
                    heard.answers = Some(number(&rest[at..]));
                }
                at += 4;
            } else {
                let (begin, length) = match kind {
                    b'g' => (at + 1, usize::from(rest[at])),
                    _ => (at + 4, size(&rest[at..])),
                };
                let text = || String::from_utf8_lossy(&rest[begin..begin + length]).into_owned();
                match code {
                    1 => heard.path = text(),
                    3 => heard.member = text(),
                    7 => heard.sender = text(),
                    _ => {}
                }
                at = begin + length + 1;
            }
            at = at.next_multiple_of(8);
        }
        heard.body = rest[at..].to_vec();
        heard
    }
}

impl Plain {
    /// Connects, and says hello.
    pub fn connect(bus: &PrivateBus) -> Self {
        let path = bus.address().split(['=', ',']).nth(1).unwrap();
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut uid = String::new();
        for digit in rustix::process::geteuid().as_raw().to_string().bytes() {
            write!(uid, "{digit:02x}").unwrap();
        }
        write!(stream, "\0AUTH EXTERNAL {uid}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n").unwrap();
        // OK, and AGREE_UNIX_FD: byte by byte, since a message may follow.
        let mut answers = String::new();
        while answers.lines().count() < 2 || !answers.ends_with('\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answers.push(char::from(byte[0]));
        }
        assert!(answers.contains("OK ") && answers.contains("AGREE_UNIX_FD"), "{answers}");
        let mut plain = Self(stream);
        plain.0.write_all(&to_the_bus("Hello", 1).bytes()).unwrap();
        assert!(plain.reply(1).is_some(), "the bus does not say hello");
        plain
    }

    /// The next message. `None` if there is none in time, or the bus has hung up.
    pub fn next(&mut self) -> Option<Heard> {
        let mut fixed = [0; 16];
        self.0.read_exact(&mut fixed).ok()?;
        let number = |at: usize| {
            let number = fixed[at..at + 4].try_into().unwrap();
            if fixed[0] == b'B' { u32::from_be_bytes(number) } else { u32::from_le_bytes(number) }
        };
        let fields_end = (16 + number(12)).next_multiple_of(8) - 16;
        let mut rest = vec![0; usize::try_from(fields_end + number(4)).unwrap()];
        self.0.read_exact(&mut rest).ok()?;
        Some(Heard::read(fixed, &rest))
    }

    /// The answer to the call of this serial: its type. `None` if the bus has hung up.
    pub fn reply(&mut self, serial: u32) -> Option<u8> {
        loop {
            let heard = self.next()?;
            if heard.answers == Some(serial) {
                return Some(heard.kind);
            }
        }
    }

    /// Writes these bytes, and waits until the bus has handled them. False if it has hung up for them.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
            && self.0.write_all(&to_the_bus("GetId", 77_777).bytes()).is_ok()
            && self.reply(77_777).is_some()
    }

    /// Owns this name.
    pub fn own(&mut self, name: &str) {
        let mut raw = to_the_bus("RequestName", 77_778);
        raw.fields.push(Field::text(8, "g", "su"));
        raw.body.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
        raw.body.extend(name.as_bytes());
        raw.body.push(0);
        raw.body.resize(raw.body.len().next_multiple_of(4), 0);
        raw.body.extend(4_u32.to_le_bytes());
        self.0.write_all(&raw.bytes()).unwrap();
        assert_eq!(self.reply(77_778), Some(2), "{name}");
    }
}

/// A call to the bus itself.
fn to_the_bus(member: &'static str, serial: u32) -> Raw {
    let bus = "org.freedesktop.DBus";
    let mut raw = Raw::call("", &[]);
    raw.fields = vec![
        Field::text(1, "o", "/org/freedesktop/DBus"),
        Field::text(2, "s", bus),
        Field::text(3, "s", member),
        Field::text(6, "s", bus),
    ];
    Raw { serial, ..raw }
}
