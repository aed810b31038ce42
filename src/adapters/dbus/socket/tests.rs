// SPDX-License-Identifier: Apache-2.0
//! The input from a bus, byte by byte.

use std::{
    io::Write as _,
    os::unix::net::UnixStream as Plain,
    sync::mpsc::{Receiver, sync_channel},
};

use super::*;
use crate::{
    adapters::{
        acpi_object::AcpiObject,
        dbus::{dispatch::dispatch, tree::Tree},
    },
    logic::{acpi::AcpiState, cause::Cause, view::View},
};
use frames::{Field, Random, Raw, mangled, nested};

#[path = "../../../../tests/it/support/frames.rs"]
mod frames;

/// The two ends of a socket.
fn pair() -> (Reader, Plain) {
    let (ours, theirs) = Plain::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let socket = UnixStream::from_std(ours).unwrap();
    (BusSocket(socket).split().take().0, theirs)
}

async fn receive(reader: &mut Reader) -> zbus::Result<Message> {
    reader.receive_message(1, &mut Vec::new(), &mut Vec::new()).await
}

/// The member of the next message.
async fn next(reader: &mut Reader) -> String {
    receive(reader).await.unwrap().header().member().unwrap().to_string()
}

fn signal(member: &str) -> Vec<u8> {
    let message = Message::signal("/a/b", "a.b.C", member).sender(":1.7").build(&("text", 7_u32)).unwrap();
    message.data().bytes().to_vec()
}

fn without(code: u8) -> Raw {
    let mut raw = Raw::call("", &[]);
    raw.fields.retain(|field| field.0 != code);
    raw
}

#[tokio::test]
async fn a_message_that_cannot_be_parsed_is_dropped_and_the_next_one_is_read() {
    let deep = Raw::call(&nested(33), &[0; 8]);
    let bad = [
        ("33 arrays in structs", deep.clone()),
        ("no such type", Raw { kind: 0, ..deep.clone() }),
        ("a type of tomorrow", Raw { kind: 9, ..Raw::call("", &[]) }),
        ("another version", Raw { version: 2, ..Raw::call("", &[]) }),
        ("serial 0", Raw { serial: 0, ..Raw::call("", &[]) }),
        ("no member", without(3)),
        ("no path", without(1)),
        ("garbage fields", Raw { garbage: vec![0xff; 40], ..Raw::call("", &[]) }),
        ("descriptors that did not come", {
            let mut raw = Raw::call("h", &[0; 4]);
            raw.fields.push(Field(9, "u", 1_u32.to_le_bytes().to_vec()));
            raw
        }),
    ];
    for (what, raw) in bad {
        for order in [b'l', b'B'] {
            let (mut reader, mut peer) = pair();
            let raw = Raw { order, ..raw.clone() };
            peer.write_all(&[raw.bytes(), raw.bytes(), signal("Next"), signal("Last")].concat()).unwrap();
            assert_eq!(next(&mut reader).await, "Next", "{what}");
            assert_eq!(next(&mut reader).await, "Last", "{what}");
            assert_eq!(
                (reader.dropped.not_parsed, reader.dropped.too_long),
                (1, 0),
                "{what}: one is reported"
            );
        }
    }
}

#[tokio::test]
async fn what_comes_with_the_handshake_or_in_pieces_is_read() {
    let (mut reader, mut peer) = pair();
    let [first, second] = [signal("First"), signal("Second")];
    let mut already = [first.as_slice(), &second[..10]].concat();
    let message = reader.receive_message(1, &mut already, &mut Vec::new()).await.unwrap();
    assert_eq!(message.header().member().unwrap().as_str(), "First");
    assert!(already.is_empty());
    for byte in &second[10..] {
        peer.write_all(&[*byte]).unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(next(&mut reader).await, "Second");
}

#[tokio::test]
async fn what_is_too_long_is_never_held() {
    let cases = [
        (1, 65_000, true),
        (1, 70_000, false),
        (4, 70_000, false),
        (1, 100 << 20, false),
        (9, 70_000, false),
    ];
    let cases = cases.map(|(kind, length, read)| (kind, "s", length, read));
    let list = "a{sa{sas}}";
    let replies = [
        (2, list, 4_000_000, true),
        (2, list, 5 << 20, false),
        (2, "s", 65_000, true),
        (2, "s", 70_000, false),
        (2, "a{sas}", 70_000, false),
        (3, "s", 4_000_000, false),
        (3, "s", 5 << 20, false),
    ];
    for (kind, signature, length, read) in cases.into_iter().chain(replies) {
        let (mut reader, mut peer) = pair();
        let body =
            [u32::try_from(length - 5).unwrap().to_le_bytes().as_slice(), &vec![b'a'; length - 4]].concat();
        let mut raw = Raw { kind, ..Raw::call(signature, &[]) };
        raw.fields.push(Field(5, "u", 3_u32.to_le_bytes().to_vec()));
        raw.fields.push(Field::text(4, "s", "a.b.Error"));
        let body_len = u32::try_from(body.len()).unwrap();
        let writer = std::thread::spawn(move || {
            let mut bytes = raw.bytes();
            bytes[4..8].copy_from_slice(&body_len.to_le_bytes());
            peer.write_all(&bytes).unwrap();
            peer.write_all(&body).unwrap();
            peer.write_all(&signal("Last")).unwrap();
            peer
        });
        if read {
            let message = receive(&mut reader).await.unwrap();
            assert!(message.data().len() > length, "{kind} {signature} of {length}");
        }
        assert_eq!(next(&mut reader).await, "Last", "{kind} {signature} of {length}");
        assert_eq!(reader.dropped.not_parsed, 0, "{kind} {signature} of {length}");
        assert_eq!(reader.buffer.len(), CHUNK, "nothing is kept after {kind} {signature} of {length}");
        drop(writer.join().unwrap());
    }
}

#[tokio::test]
async fn only_what_is_no_message_ends_the_connection() {
    let (mut reader, mut peer) = pair();
    peer.write_all(&[signal("First"), vec![b'x'; 16]].concat()).unwrap();
    assert_eq!(next(&mut reader).await, "First");
    assert!(receive(&mut reader).await.is_err());
    // And one that is longer than the specification allows: nobody can say what is behind it.
    let (mut reader, mut peer) = pair();
    let mut bytes = Raw::call("", &[]).bytes();
    bytes[4..8].copy_from_slice(&(129_u32 << 20).to_le_bytes());
    peer.write_all(&bytes).unwrap();
    assert!(receive(&mut reader).await.is_err());
    // Or the end of it, in the middle of a message or between two.
    for end in [10, 30, signal("First").len()] {
        let (mut reader, mut peer) = pair();
        peer.write_all(&signal("First")[..end]).unwrap();
        drop(peer);
        if end == signal("First").len() {
            assert_eq!(next(&mut reader).await, "First");
        }
        assert!(receive(&mut reader).await.is_err());
    }
}

/// The lengths may be anything.
#[test]
fn a_length_is_never_wrong() {
    proptest::proptest!(|(kind: u8, body: u32, fields: u32, big: bool)| {
        let mut raw = Raw { order: if big { b'B' } else { b'l' }, kind, ..Raw::call("", &[]) }.bytes();
        let number = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        raw[4..8].copy_from_slice(&number(body));
        raw[12..16].copy_from_slice(&number(fields));
        match Frame::at_the_start_of(&raw) {
            Ok(frame) => {
                assert_eq!(frame.length, (16 + u64::from(fields)).div_ceil(8) * 8 + u64::from(body));
                assert!(frame.length <= LONGEST);
            }
            Err(_) => assert!(u64::from(body) + u64::from(fields) > LONGEST - 24),
        }
    });
}

/// How many messages of the fuzz between two that are right.
const EACH: usize = 1000;

/// Writes `most` mangled messages, and after each thousand one that is right and has a number.
fn flood(mut peer: Plain, seed: u64, most: usize) -> Receiver<()> {
    let (done, is_done) = sync_channel(1);
    std::thread::spawn(move || {
        let mut random = Random(seed);
        for number in 0..most / EACH {
            let mut bytes = Vec::with_capacity(EACH * 256);
            for _ in 0..EACH {
                bytes.extend(mangled(&mut random, ":1.2"));
            }
            bytes.extend(signal(&format!("Right{number}")));
            peer.write_all(&bytes).unwrap();
        }
        done.send(()).unwrap();
    });
    is_done
}

/// Whatever is in a whole message, the one behind it is read, and a call is answered or refused.
/// `ACPI_FUZZ` is how many messages; `ACPI_SEED` begins another sequence.
#[tokio::test]
async fn no_whole_message_ends_the_connection() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let most = number("ACPI_FUZZ").unwrap_or(100_000);
    let seed = number("ACPI_SEED").unwrap_or(0x9e37_79b9_7f4a_7c15);
    let view = View {
        cause: Cause::Startup,
        since: 0,
        previous: AcpiState::Unknown,
        gate_reasons: Vec::new(),
        diagnoses: Vec::new(),
        boots: 0,
        firmware_time: 0,
        boot_time: 0,
    };
    let tree = Tree {
        acpi: vec![AcpiObject::new(0, 0, (AcpiState::Unknown, AcpiState::Unknown), view)],
        sensors: Vec::new(),
        machine_id: None,
    };
    let (mut reader, peer) = pair();
    let most = usize::try_from(most).unwrap();
    let done = flood(peer, seed, most);
    let (mut right, mut parsed) = (0, 0);
    while right < most / EACH {
        let message = receive(&mut reader).await.unwrap();
        let header = message.header();
        if header.member().is_some_and(|member| *member == format!("Right{right}").as_str()) {
            right += 1;
        } else {
            parsed += 1;
            if message.message_type() == zbus::message::Type::MethodCall {
                drop(dispatch(&tree, &message).unwrap());
            }
        }
    }
    done.recv().unwrap();
    println!("seed {seed}: {most} messages, {parsed} of them parsed, all {right} behind each thousand read");
    assert!(parsed > most / 20 && parsed < most * 19 / 20, "{parsed} parsed of {most}: it tests nothing");
}
