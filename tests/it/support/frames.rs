// SPDX-License-Identifier: Apache-2.0
//! D-Bus messages that are whole, but otherwise need not be right: for the daemon's socket, and through a real bus.
#![allow(
    unreachable_pub,
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the unit tests of the daemon's socket include this file too, and use less of it"
)]

use zbus::{Message, Variant};

/// One header field.
#[derive(Clone)]
pub struct Field(pub u8, pub &'static str, pub Vec<u8>);

impl Field {
    pub fn text(code: u8, signature: &'static str, text: &str) -> Self {
        Self(code, signature, text.as_bytes().to_vec())
    }
}

/// A message of which nothing need be right but its length.
#[derive(Clone)]
pub struct Raw {
    pub order: u8,
    pub kind: u8,
    pub flags: u8,
    pub version: u8,
    pub serial: u32,
    pub fields: Vec<Field>,
    /// In place of the fields, if there are any.
    pub garbage: Vec<u8>,
    pub body: Vec<u8>,
}

impl Raw {
    /// A call of Set with this signature and body.
    pub fn call(signature: &str, body: &[u8]) -> Self {
        let fields = vec![
            Field::text(1, "o", "/xyz/openbmc_project/control/host0/acpi_power_state"),
            Field::text(2, "s", "org.freedesktop.DBus.Properties"),
            Field::text(3, "s", "Set"),
            Field::text(6, "s", ":1.2"),
            Field::text(7, "s", ":1.7"),
            Field::text(8, "g", signature),
        ];
        let garbage = Vec::new();
        Self { order: b'l', kind: 1, flags: 0, version: 1, serial: 5, fields, garbage, body: body.to_vec() }
    }

    fn u32(&self, number: u32) -> [u8; 4] {
        if self.order == b'B' { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut fields = self.garbage.clone();
        if fields.is_empty() {
            for Field(code, signature, value) in &self.fields {
                fields.resize(fields.len().next_multiple_of(8), 0);
                fields.extend([*code, u8::try_from(signature.len()).unwrap()]);
                fields.extend(signature.as_bytes());
                fields.push(0);
                let length = value.len();
                match *signature {
                    "g" => fields.push(length.to_le_bytes()[0]),
                    "s" | "o" => {
                        fields.resize(fields.len().next_multiple_of(4), 0);
                        fields.extend(self.u32(u32::try_from(length).unwrap()));
                    }
                    _ => fields.resize(fields.len().next_multiple_of(4), 0),
                }
                fields.extend(value);
                if matches!(*signature, "g" | "s" | "o") {
                    fields.push(0);
                }
            }
        }
        let mut bytes = vec![self.order, self.kind, self.flags, self.version];
        bytes.extend(self.u32(u32::try_from(self.body.len()).unwrap()));
        bytes.extend(self.u32(self.serial));
        bytes.extend(self.u32(u32::try_from(fields.len()).unwrap()));
        bytes.extend(fields);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(&self.body);
        bytes
    }
}

/// So many arrays, each but the last in a struct: dbus-daemon counts only those that follow each other, zbus all of them.
pub fn nested(arrays: usize) -> String {
    format!("{}ay{}", "a(".repeat(arrays - 1), ")".repeat(arrays - 1))
}

/// A small generator of numbers: fast, and the same for the same seed (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % end
    }

    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next().to_le_bytes()[7]).collect()
    }
}

/// A signature that is right now and then.
fn signature(random: &mut Random) -> String {
    match random.below(4) {
        0 => nested(1 + random.below(40)),
        1 => "v".repeat(random.below(255)),
        2 => "a".repeat(random.below(70)) + "s",
        _ => {
            let mut one = || *random.one_of(&['y', 's', 'a', '(', ')', '{', '}', 'v', 'h', 'z']);
            (0..30).map(|_| one()).collect::<String>()[..random.below(30)].to_owned()
        }
    }
}

/// An array of anything, nested as deep as it may be or a little deeper, and empty: its length, and the gap before what it has
/// none of.
fn empty_array(random: &mut Random) -> (String, Vec<u8>) {
    let mut inner = (*random.one_of(&["y", "s", "v", "t", "g", "o", "b", "d", "as", "ay"])).to_owned();
    for _ in 0..random.below(36) {
        inner = match random.below(4) {
            0 => format!("a{inner}"),
            1 => format!("a{{s{inner}}}"),
            2 => format!("({inner})"),
            _ => format!("a({inner})"),
        };
    }
    let length =
        if matches!(inner.as_bytes()[0], b'(' | b't' | b'd') || inner.starts_with('{') { 8 } else { 4 };
    (format!("a{inner}"), vec![0; length])
}

/// A whole message with something wrong in it, or nothing.
#[allow(clippy::too_many_lines, reason = "one way to mangle after another")]
pub fn mangled(random: &mut Random, destination: &str) -> Vec<u8> {
    let value = Variant::from("xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI.S2_D2");
    let name = "xyz.openbmc_project.Control.Power.ACPIPowerState";
    let set = Message::method_call("/", "Set").build(&(name, "SysACPIStatus", value)).unwrap();
    let body = set.body().data().bytes().to_vec();
    let mut raw = Raw::call("ssv", &body);
    raw.kind = *random.one_of(&[1, 1, 1, 2, 3, 4, 4]);
    raw.order = *random.one_of(b"llB");
    raw.fields.retain(|field| field.0 != 6 && field.0 != 7);
    raw.fields.push(Field::text(6, "s", destination));
    if random.below(3) == 0 {
        let (signature, body) = empty_array(random);
        raw.fields.retain(|field| field.0 != 8);
        raw.fields.push(Field::text(8, "g", &signature[..signature.len().min(255)]));
        raw.body = body;
        if random.below(3) > 0 {
            return raw.bytes();
        }
    }
    for _ in 0..=random.below(3) {
        match random.below(14) {
            0 => raw.kind = random.next().to_le_bytes()[0],
            1 => raw.flags = random.next().to_le_bytes()[0],
            2 => raw.version = random.next().to_le_bytes()[0] % 4,
            3 => raw.serial = u32::try_from(random.below(3)).unwrap(),
            4 => raw.garbage = random.bytes(80),
            5 => raw.body = random.bytes(200),
            6 | 7 => {
                let signature = signature(random);
                raw.fields.retain(|field| field.0 != 8);
                raw.fields.push(Field::text(8, "g", &signature[..signature.len().min(255)]));
            }
            8 => {
                let gone = random.below(raw.fields.len().max(1));
                if gone < raw.fields.len() {
                    raw.fields.remove(gone);
                }
            }
            9 => {
                let (code, kind) = (
                    random.next().to_le_bytes()[0] % 12,
                    *random.one_of(&["s", "o", "g", "u", "v", "a{sv}"]),
                );
                raw.fields.push(Field(code, kind, random.bytes(40)));
            }
            10 => {
                if let Some(field) = raw.fields.last_mut() {
                    field.1 = *random.one_of(&["s", "o", "g", "u", "ay"]);
                }
            }
            11 => raw.fields.push(Field(9, "u", raw.u32(u32::try_from(random.below(20)).unwrap()).to_vec())),
            12 => {
                let at = random.below(raw.body.len().max(1));
                if let Some(byte) = raw.body.get_mut(at) {
                    *byte = random.next().to_le_bytes()[0];
                }
            }
            _ => {
                // Behind the lengths: what is inside is wrong, and where it ends is right.
                let mut bytes = raw.bytes();
                for _ in 0..=random.below(4) {
                    let at = 16 + random.below(bytes.len() - 16);
                    bytes[at] = random.next().to_le_bytes()[0];
                }
                return bytes;
            }
        }
    }
    raw.bytes()
}
