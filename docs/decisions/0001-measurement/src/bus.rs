// SPDX-License-Identifier: Apache-2.0
//! The one task that reads from and writes to the bus. It owns the published values, so what a Get
//! says and what PropertiesChanged said cannot disagree: both are written by this task, in order.
//!
//! It never awaits a reply. Calls of its own go out with a serial kept in `awaited`, and their replies
//! come in on the same stream as everything else. The only thing it waits for is room in the socket.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::pin::Pin;

use futures_core::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use zbus::export::serde::Serialize;
use zbus::fdo::{RequestNameFlags, RequestNameReply};
use zbus::message::Type;
use zbus::{Connection, DynamicType, Message, MessageStream, Variant};

use crate::callers::Callers;
use crate::contract::{self, Change};
use crate::dispatch::{self, Answer, Refusal, dispatch, refuse, wants_no_reply};
use crate::event_loop::{Effect, Input};
use crate::objects::Tree;

const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

#[derive(Debug)]
pub enum Failed {
    NameTaken,
    /// The connection is gone, or the bus said what it never should.
    Bus(zbus::Error),
}

impl From<zbus::Error> for Failed {
    fn from(e: zbus::Error) -> Self {
        Self::Bus(e)
    }
}

/// What the reply to a call of our own is about.
enum Awaited {
    Name,
    Uid(String),
}

/// A Set whose caller's uid is not known yet, or that came after such a one.
struct Held {
    call: Message,
    change: Change,
}

pub struct Bus {
    connection: Connection,
    stream: MessageStream,
    tree: Tree,
    callers: Callers,
    own_uid: u32,
    awaited: BTreeMap<NonZeroU32, Awaited>,
    /// In arrival order, which is the order the event loop gets them in.
    held: VecDeque<Held>,
    inputs: UnboundedSender<Input<Message>>,
    effects: UnboundedReceiver<Effect<Message>>,
}

impl Bus {
    /// Nothing is lost between `connection` and this: without the name nobody can call us yet.
    pub fn new(
        connection: Connection,
        own_uid: u32,
        inputs: UnboundedSender<Input<Message>>,
        effects: UnboundedReceiver<Effect<Message>>,
    ) -> Self {
        Self {
            stream: MessageStream::from(&connection),
            connection,
            tree: Tree::new(),
            callers: Callers::default(),
            own_uid,
            awaited: BTreeMap::new(),
            held: VecDeque::new(),
            inputs,
            effects,
        }
    }

    /// Serves until the bus is lost or the name is refused.
    pub async fn run(mut self) -> Failed {
        match self.serve().await {
            Ok(never) => match never {},
            Err(failed) => failed,
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Failed> {
        // Not Connection::request_name_with_flags: that leaves two match rules behind, against which
        // zbus then matches every message that comes in.
        self.call("RequestName", &(contract::NAME, RequestNameFlags::DO_NOT_QUEUE), Awaited::Name).await?;
        loop {
            tokio::select! {
                biased;
                Some(effect) = self.effects.recv() => self.perform(effect).await?,
                message = next(&mut self.stream) => match message {
                    Some(message) => self.receive(message?).await?,
                    None => return Err(Failed::Bus(zbus::Error::Failure("the bus closed the connection".into()))),
                },
            }
        }
    }

    async fn receive(&mut self, message: Message) -> Result<(), Failed> {
        match message.message_type() {
            Type::MethodCall => match dispatch(&self.tree, &message)? {
                Answer::Reply(_) if wants_no_reply(&message) => Ok(()),
                Answer::Reply(reply) => Ok(self.connection.send(&reply).await?),
                Answer::Set(change) => self.hold(message, change).await,
            },
            Type::MethodReturn | Type::Error => self.returned(&message).await,
            // The power services' signals come in here.
            Type::Signal => Ok(()),
        }
    }

    /// A call of our own to the bus driver. Returns as soon as it is written.
    async fn call<B>(&mut self, member: &str, body: &B, what: Awaited) -> Result<(), Failed>
    where
        B: Serialize + DynamicType,
    {
        let call = Message::method_call(BUS_PATH, member).destination(BUS).interface(BUS).build(body)?;
        self.awaited.insert(call.primary_header().serial_num(), what);
        Ok(self.connection.send(&call).await?)
    }

    async fn returned(&mut self, reply: &Message) -> Result<(), Failed> {
        let Some(what) = reply.header().reply_serial().and_then(|serial| self.awaited.remove(&serial)) else {
            return Ok(());
        };
        let good = reply.message_type() == Type::MethodReturn;
        match what {
            Awaited::Name if !good => Err(Failed::Bus(zbus::Error::from(reply.clone()))),
            Awaited::Name => match reply.body().deserialize()? {
                RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => Ok(()),
                RequestNameReply::InQueue | RequestNameReply::Exists => Err(Failed::NameTaken),
            },
            Awaited::Uid(name) => {
                // A caller that left before the answer has no uid any more.
                let uid = if good { Some(reply.body().deserialize()?) } else { None };
                self.callers.remember(name, uid);
                self.release().await
            }
        }
    }

    async fn hold(&mut self, call: Message, change: Change) -> Result<(), Failed> {
        if let Some(sender) = call.header().sender()
            && self.callers.uid(sender.as_str()).is_none()
        {
            let name = sender.as_str().to_owned();
            let asked = self.awaited.values().any(|a| matches!(a, Awaited::Uid(n) if *n == name));
            if !asked {
                self.call("GetConnectionUnixUser", &sender.as_str(), Awaited::Uid(name)).await?;
            }
        }
        self.held.push_back(Held { call, change });
        self.release().await
    }

    /// Passes on the held Sets, in order, up to the first whose caller is still unknown.
    async fn release(&mut self) -> Result<(), Failed> {
        while let Some(Held { call, .. }) = self.held.front() {
            let Some(uid) = call.header().sender().and_then(|s| self.callers.uid(s.as_str())) else {
                return Ok(());
            };
            let Some(Held { call, change }) = self.held.pop_front() else { return Ok(()) };
            if uid.is_some_and(|uid| uid == 0 || uid == self.own_uid) {
                // The event loop ends only with the process.
                _ = self.inputs.send(Input { change, id: call });
            } else {
                self.refuse(&call, &refuse!("AccessDenied", "Only root may set this.")).await?;
            }
        }
        Ok(())
    }

    async fn refuse(&self, call: &Message, why: &Refusal) -> Result<(), Failed> {
        if wants_no_reply(call) {
            return Ok(());
        }
        Ok(self.connection.send(&dispatch::refusal(&call.header(), why)?).await?)
    }

    /// Performs this effect and all that wait behind it, in order, in one write.
    async fn perform(&mut self, first: Effect<Message>) -> Result<(), Failed> {
        let mut out = Vec::with_capacity(2);
        let mut effect = Some(first);
        while let Some(e) = effect {
            match e {
                Effect::Publish(change) => {
                    self.tree.publish(change);
                    out.push(properties_changed(change)?);
                }
                Effect::Answer(call) if wants_no_reply(&call) => {}
                Effect::Answer(call) => out.push(Message::method_return(&call.header()).build(&())?),
            }
            effect = self.effects.try_recv().ok();
        }
        Ok(self.connection.send_all(&out).await?)
    }
}

pub fn properties_changed(change: Change) -> zbus::Result<Message> {
    let changed = BTreeMap::from([(change.property.name(), Variant::from(change.value.as_str()))]);
    let none: &[&str] = &[];
    Message::signal(contract::PATH, dispatch::PROPERTIES, "PropertiesChanged").build(&(
        contract::INTERFACE,
        changed,
        none,
    ))
}

pub async fn next(stream: &mut MessageStream) -> Option<zbus::Result<Message>> {
    std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}
