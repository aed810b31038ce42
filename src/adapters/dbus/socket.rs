// SPDX-License-Identifier: Apache-2.0
//! Our end of the bus's socket: bytes in, whole messages out.
//!
//! A bus passes on what it does not understand itself. It does not check the signature of a body as zbus does, it lets through
//! what is longer than anything we are ever told, and (dbus-daemon) it delivers file descriptors to whoever said that it takes
//! them. For zbus's own socket a message that it cannot parse is the end of the connection, and so of this daemon; here it is a
//! message that is dropped.
//!
//! Owns: where one message ends and the next begins (D-Bus specification, "Message Format"), and how long one may be. Must
//! never: hold a message that is too long, take a file descriptor, or end the connection for what is inside a message.

use std::{ffi::OsStr, io, os::fd::OwnedFd, os::unix::ffi::OsStrExt as _, pin::Pin, time::Duration};

use tokio::{
    io::AsyncWrite as _,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, timeout_at},
};
use zbus::{
    Address, Connection, Message, Type as _,
    address::{Transport, transport::UnixSocket},
    connection::{
        Builder,
        socket::{ReadHalf, Socket, Split, WriteHalf},
    },
    export::async_trait::async_trait,
};

use crate::adapters::dbus::sub_tree::SubTree;

/// Bytes of the part of a header that has a fixed place: byte order, type, flags, version, and the lengths of body and fields.
const FIXED: usize = 16;
/// Bytes of the longest message that the specification allows. A message that states a greater length is none.
const LONGEST: u64 = 128 << 20;
/// Bytes of the longest call or signal that is read. The longest that anybody sends us for a reason, the announcement of an
/// object with many properties, has a few thousand.
const LONGEST_UNASKED: u64 = 64 << 10;
/// Bytes of the longest reply that is read. The longest that we ask for is the mapper's list ([`SubTree`]), which has some 100,000.
/// No other reply is longer than a signal may be: the values in it would be some 30 times as long when they are parsed.
const LONGEST_REPLY: u64 = 4 << 20;
/// Bytes that are read ahead, at once.
const CHUNK: usize = 4 << 10;
/// Dropped messages are reported at most this often.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Connects to `system`, `session`, or the bus at this address (`unix:path=` or `unix:abstract=`). Never returns if the bus does
/// not answer: it is the caller that must not wait for ever.
///
/// # Errors
/// There is no bus, it refuses us, or it is of a kind that this daemon does not connect to.
pub async fn connect(bus: &str) -> zbus::Result<Connection> {
    let address = match bus {
        "system" => Address::system()?,
        "session" => Address::session()?,
        address => address.parse()?,
    };
    let Transport::Unix(unix) = address.transport() else {
        return Err(zbus::Error::Address(format!("{address} is not the address of a Unix socket")));
    };
    let stream = match unix.path() {
        UnixSocket::File(path) => UnixStream::connect(path).await?,
        UnixSocket::Abstract(name) => {
            let name = [b"\0", name.as_bytes()].concat();
            UnixStream::connect(OsStr::from_bytes(&name)).await?
        }
        // Where a bus listens; and what zbus may add.
        UnixSocket::Dir(_) | UnixSocket::TmpDir(_) | _ => {
            return Err(zbus::Error::Address(format!("{address} is no socket that there is")));
        }
    };
    Builder::socket(BusSocket(stream)).build().await
}

/// The socket, before it is split.
#[derive(Debug)]
struct BusSocket(UnixStream);

impl Socket for BusSocket {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (read, write) = self.0.into_split();
        Split::new(Reader::new(read), Writer(write))
    }
}

/// The half that messages come through.
///
/// The reader does not take file descriptors: neither half says that it can, so the bus does not deliver any, and the kernel
/// closes what comes with bytes that are read without asking for it.
#[derive(Debug)]
struct Reader {
    socket: OwnedReadHalf,
    /// The bytes that were read and not handed on yet are `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    dropped: Dropped,
}

impl Reader {
    fn new(socket: OwnedReadHalf) -> Self {
        Self { socket, buffer: vec![0; CHUNK], start: 0, end: 0, dropped: Dropped::default() }
    }

    fn held(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Takes so many of the bytes that are held, or all.
    fn take(&mut self, most: usize) -> &[u8] {
        let from = self.start;
        self.start = self.end.min(from.saturating_add(most));
        self.buffer.get(from..self.start).unwrap_or_default()
    }

    /// Puts the bytes that came before anything was read here in front.
    fn put_before(&mut self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.held());
        (self.start, self.end) = (0, bytes.len());
        bytes.resize(self.end.max(CHUNK), 0);
        self.buffer = std::mem::take(bytes);
    }

    /// Reads once, behind what is held, of which there is less than fits.
    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end.saturating_sub(self.start));
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        self.end += read(&self.socket, room, &mut self.dropped).await?;
        Ok(())
    }

    /// The bytes of the next message that may be read.
    async fn frame(&mut self) -> io::Result<Vec<u8>> {
        loop {
            while self.held().len() < FIXED {
                self.fill().await?;
            }
            let frame = Frame::at_the_start_of(self.held())?;
            if frame.length > frame.longest() {
                self.skip(frame.length).await?;
                self.dropped.too_long();
                continue;
            }
            // Not more than 4 MiB: `longest`.
            let length = usize::try_from(frame.length).unwrap_or(usize::MAX);
            if length <= self.buffer.len() {
                while self.held().len() < length {
                    self.fill().await?;
                }
                return Ok(self.take(length).to_vec());
            }
            // A message that is longer than the buffer is read into its own place.
            let mut bytes = self.take(length).to_vec();
            let mut at = bytes.len();
            bytes.resize(length, 0);
            while at < length {
                let room = bytes.get_mut(at..).unwrap_or_default();
                at += read(&self.socket, room, &mut self.dropped).await?;
            }
            return Ok(bytes);
        }
    }

    /// Reads past a message in pieces.
    async fn skip(&mut self, length: u64) -> io::Result<()> {
        let mut left = length;
        loop {
            let taken = self.take(usize::try_from(left).unwrap_or(usize::MAX)).len();
            left = left.saturating_sub(taken as u64);
            if left == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }
}

/// Whether it is as short as any message may be, or may be longer.
fn is_expected(message: &Message) -> bool {
    message.data().len() as u64 <= LONGEST_UNASKED || message.body().signature() == SubTree::SIGNATURE
}

/// Reads once. While it waits it reports what was dropped, when that is due.
async fn read(socket: &OwnedReadHalf, room: &mut [u8], dropped: &mut Dropped) -> io::Result<usize> {
    loop {
        if let Some(at) = dropped.report_at() {
            match timeout_at(at, socket.readable()).await {
                Ok(ready) => ready?,
                Err(_) => dropped.report(),
            }
        } else {
            socket.readable().await?;
        }
        match socket.try_read(room) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

#[async_trait]
impl ReadHalf for Reader {
    async fn receive_message(
        &mut self,
        seq: u64,
        already_received_bytes: &mut Vec<u8>,
        _already_received_fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        if !already_received_bytes.is_empty() {
            self.put_before(already_received_bytes);
        }
        loop {
            let mut bytes = self.frame().await?;
            let message = Parser.receive_message(seq, &mut bytes, &mut Vec::new()).await;
            match &message {
                Ok(whole) if is_expected(whole) => return message,
                Ok(_) => self.dropped.too_long(),
                Err(_) => self.dropped.not_parsed(),
            }
        }
    }

    /// For the lines before the first message (SASL).
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((read(&self.socket, buffer, &mut self.dropped).await?, Vec::new()))
    }
}

/// zbus's own way from bytes to a message, for bytes that are there: it takes those of one message off the front of them.
#[derive(Debug)]
struct Parser;

#[async_trait]
impl ReadHalf for Parser {
    async fn recvmsg(&mut self, _buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((0, Vec::new()))
    }
}

/// The kind and length of a message, as the message states them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frame {
    /// The second byte: 2 and 3 are replies.
    kind: u8,
    /// In bytes, from its first to its last.
    length: u64,
}

impl Frame {
    /// Fails if these are not the first bytes of a message: then nobody knows where the next one begins.
    fn at_the_start_of(bytes: &[u8]) -> io::Result<Self> {
        let fixed = bytes.first_chunk::<FIXED>().ok_or(io::ErrorKind::UnexpectedEof)?;
        let [order, kind, _, _, b0, b1, b2, b3, _, _, _, _, f0, f1, f2, f3] = *fixed;
        let number = match order {
            b'l' => u32::from_le_bytes,
            b'B' => u32::from_be_bytes,
            _ => return Err(no_message("it has no byte order")),
        };
        let (body, fields) = (u64::from(number([b0, b1, b2, b3])), u64::from(number([f0, f1, f2, f3])));
        // The body begins at a multiple of 8.
        let length = (FIXED as u64 + fields).next_multiple_of(8) + body;
        if length > LONGEST {
            return Err(no_message("it is longer than any may be"));
        }
        Ok(Self { kind, length })
    }

    const fn longest(self) -> u64 {
        match self.kind {
            2 | 3 => LONGEST_REPLY,
            _ => LONGEST_UNASKED,
        }
    }
}

fn no_message(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what the bus sends is no message: {why}"))
}

/// Counts what was dropped, and reports it: the first at once, more of them once a minute.
#[derive(Debug, Default)]
struct Dropped {
    not_parsed: u64,
    too_long: u64,
    reported: Option<Instant>,
}

impl Dropped {
    fn not_parsed(&mut self) {
        self.not_parsed += 1;
        self.report_if_due();
    }

    fn too_long(&mut self) {
        self.too_long += 1;
        self.report_if_due();
    }

    fn report_if_due(&mut self) {
        if self.report_at().is_some_and(|at| at <= Instant::now()) {
            self.report();
        }
    }

    /// When there is something to report.
    fn report_at(&self) -> Option<Instant> {
        let any = self.not_parsed + self.too_long > 0;
        any.then(|| self.reported.map_or_else(Instant::now, |at| at + REPORT_EVERY))
    }

    fn report(&mut self) {
        tracing::warn!(
            "dropped of what came from the bus: {} messages that cannot be parsed, {} that are too long",
            self.not_parsed,
            self.too_long
        );
        *self = Self { reported: Some(Instant::now()), ..Self::default() };
    }
}

/// The half that messages go through.
#[derive(Debug)]
struct Writer(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Writer {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        self.send_messages(std::slice::from_ref(message)).await
    }

    /// In one write, if the socket takes them all.
    async fn send_messages(&mut self, messages: &[Message]) -> zbus::Result<()> {
        let mut all: Vec<_> = messages.iter().map(|message| io::IoSlice::new(message.data())).collect();
        let mut left = all.as_mut_slice();
        while !left.is_empty() {
            self.0.writable().await?;
            match self.0.try_write_vectored(left) {
                Ok(written) => io::IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn sendmsg(&mut self, buffer: &[u8], _: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<usize> {
        loop {
            self.0.writable().await?;
            match self.0.try_write(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| Pin::new(&mut self.0).poll_shutdown(context)).await
    }
}

#[cfg(test)]
mod tests;
