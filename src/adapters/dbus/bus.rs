// SPDX-License-Identifier: Apache-2.0
//! The one task that reads from and writes to the bus.
//!
//! Everything arrives in one stream: calls, signals, replies to our own calls. Its order is the order
//! of events (rules 3.2). Everything leaves in one order too: what a Get returns, the
//! PropertiesChanged that says so, and the answer to the Set behind it are handled by this one task,
//! so that they cannot disagree.
//!
//! The task never waits for a reply: the serials of our own calls are kept where their replies are
//! understood. It waits for room in the socket only; while it does, nothing more is read.

use std::{num::NonZeroU32, pin::Pin};

use futures_core::Stream;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    time::{Instant, sleep_until},
};
use zbus::{
    Connection, Message, MessageStream,
    fdo::{RequestNameFlags, RequestNameReply},
    message::Type,
    names::UniqueName,
};

use crate::{
    adapters::{
        acpi_object::BUS_NAME,
        dbus::{
            callers::Caller,
            calls::{call_bus, owner_changes, subscribe},
            dispatch::{Answer, Ask, Refusal, announcements, dispatch, wants_no_reply},
            names::BUS,
            object::{Object as _, Request},
            owner::name_owner,
            peer::{ANSWERED_WITHIN, Moment, NOT_BELIEVED, Outcome, Pending},
            signal::{News, Signal},
            tree::Tree,
            trust::Trust,
        },
        peers::Peers,
    },
    logic::{
        effect::Effect,
        event::{Event, SetId},
        time::Time,
    },
    shell::{
        clock::Clock,
        messages::{Input, Output},
        permits::HostIndex,
        store::Storage,
        supervisor::Supervisor,
    },
};

/// Calls that wait for the event loop. With more than this, nothing is read until they are answered:
/// a flood of Sets is held back by the bus, in the senders' own queues.
const MOST_WAITING: usize = 32;

/// Why the bus cannot be served any more.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Another service owns the name.
    #[error("the bus name {BUS_NAME} is taken by {0}")]
    NameTaken(String),
    /// The bus's policy lets somebody else own it, or nobody.
    #[error(
        "the bus does not let uid {uid} own {BUS_NAME} ({0}); its policy file belongs in /etc/dbus-1/system.d, \
         and the daemon runs as root",
        uid = rustix::process::geteuid().as_raw()
    )]
    NameRefused(zbus::Error),
    /// The bus closed the connection.
    #[error("the bus closed the connection")]
    Closed,
    /// The connection is broken, or the bus refuses what it never should.
    #[error("the bus connection failed")]
    Bus(#[from] zbus::Error),
}

/// The subject of a call to the bus driver, by which its reply is understood.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Awaited {
    Name,
    Uid(String),
    /// The fact that the bus answers at all.
    Proof,
}

/// The parts that the bus task works with.
pub(crate) struct Parts {
    pub(crate) supervisor: Supervisor,
    pub(crate) tree: Tree,
    pub(crate) peers: Peers,
    pub(crate) trust: Trust,
    pub(crate) storage: Option<Storage>,
    /// By which the peers' pauses are measured.
    pub(crate) clock: Clock,
}

/// Our end of the bus.
pub(crate) struct Bus {
    connection: Connection,
    stream: MessageStream,
    supervisor: Supervisor,
    tree: Tree,
    peers: Peers,
    trust: Trust,
    storage: Option<Storage>,
    clock: Clock,
    /// Our own questions to the bus driver.
    awaited: Pending<Awaited>,
    /// The peers were told or have heard something, or it is time: [`Peers::tick`] is due.
    tick: bool,
    wake_at: Option<Time>,
    /// Calls that the event loop has and will answer.
    waiting: Vec<(SetId, Message)>,
    last_id: u32,
    inputs: UnboundedSender<Input>,
    outputs: UnboundedReceiver<Output>,
}

impl Bus {
    /// `connection` must be fresh: without our name nobody calls us, so nothing is lost.
    pub(crate) fn new(
        connection: Connection,
        parts: Parts,
        inputs: UnboundedSender<Input>,
        outputs: UnboundedReceiver<Output>,
    ) -> Self {
        let Parts { supervisor, tree, peers, trust, storage, clock } = parts;
        Self {
            stream: MessageStream::from(&connection),
            connection,
            supervisor,
            tree,
            peers,
            trust,
            storage,
            clock,
            awaited: Pending::default(),
            tick: true,
            wake_at: None,
            waiting: Vec::new(),
            last_id: 0,
            inputs,
            outputs,
        }
    }

    /// Serves until the event loop ends (`Ok`) or the bus does.
    pub(crate) async fn run(mut self) -> Result<(), Failed> {
        // The objects are there, so the name may be (openbmc 1.6); and it comes first, since ipmid is ordered behind us. DoNotQueue
        // without AllowReplacement: a second owner must fail, whichever of us it is.
        let name = call_bus("RequestName", &(BUS_NAME, RequestNameFlags::DO_NOT_QUEUE))?;
        let mut calls: Vec<_> = self.awaited.send(name, Awaited::Name).into_iter().collect();
        calls.extend(self.peers.start()?);
        self.connection.send_all(&calls).await?;
        loop {
            if std::mem::take(&mut self.tick) {
                self.let_time_pass().await?;
            }
            let room = self.waiting.len() < MOST_WAITING;
            let wake_at = self.wake_at.map(|at| self.clock.instant(at).into());
            let notify_at = self.supervisor.again_at().map(Instant::from_std);
            tokio::select! {
                biased;
                output = self.outputs.recv() => {
                    let Some(output) = output else {
                        self.supervisor.close();
                        return Ok(());
                    };
                    self.perform(output).await?;
                }
                message = next(&mut self.stream), if room => match message {
                    Some(message) => self.receive(message?).await?,
                    None => return Err(Failed::Closed),
                },
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => self.tick = true,
                () = sleep_until(notify_at.unwrap_or_else(Instant::now)), if notify_at.is_some() => {
                    self.supervisor.again();
                }
            }
        }
    }

    /// Tells the peers how late it is, and asks when they want to know next.
    async fn let_time_pass(&mut self) -> Result<(), Failed> {
        let now = Moment { now: self.clock.now(), patience: self.clock.of_real(ANSWERED_WITHIN) };
        let outcome = self.peers.tick(now)?;
        // The calls that are sent now have to be answered in time too.
        self.tick = !outcome.calls.is_empty();
        self.wake_at = self.peers.wake_at();
        self.pass_on(outcome).await
    }

    // ---- In ----------------------------------------------------------------------------------------

    async fn receive(&mut self, message: Message) -> Result<(), Failed> {
        match message.message_type() {
            // A call whose only effect is its answer, and that wants none, must cost nothing: the sender pays for no
            // answer either.
            Type::MethodCall if wants_no_reply(&message) && !is_set(&message) => Ok(()),
            Type::MethodCall => match dispatch(&self.tree, &message)? {
                Answer::Reply(reply) => self.reply(&message, reply).await,
                Answer::Ask(ask) => match ask.request {
                    Request::Set(_) | Request::SetDevice(_) => self.verify(message, ask).await,
                    Request::History(_) => {
                        self.ask(message, ask);
                        Ok(())
                    }
                },
            },
            Type::MethodReturn | Type::Error | Type::Signal => self.hear(message).await,
        }
    }

    /// A word arrives when it is known whose it is (note B1).
    async fn hear(&mut self, word: Message) -> Result<(), Failed> {
        if word.header().sender().is_some_and(|sender| *sender == BUS) {
            return self.take_in(&word).await;
        }
        if let Some(caller) = self.trust.caller(&word) {
            return self.judge(caller, &word).await;
        }
        self.ask_for_uid(&word).await?;
        self.trust.keep_word(word);
        Ok(())
    }

    async fn judge(&mut self, caller: Caller, word: &Message) -> Result<(), Failed> {
        if self.trust.believes(caller) {
            return self.take_in(word).await;
        }
        // A signal of his is nothing. The peer that asked him has to know that there is no answer.
        let Some(serial) = word.header().reply_serial() else { return Ok(()) };
        let header = word.header();
        let mut error = Message::error(&header, NOT_BELIEVED);
        if let Some(sender) = header.sender() {
            error = error.sender(sender);
        }
        let error = error.build(&caller.to_string())?;
        self.returned(serial, &error).await
    }

    async fn take_in(&mut self, word: &Message) -> Result<(), Failed> {
        match word.header().reply_serial() {
            Some(serial) => self.returned(serial, word).await,
            None => self.signalled(word).await,
        }
    }

    async fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Result<(), Failed> {
        if let Some(outcome) = self.peers.returned(serial, reply) {
            self.tick = true;
            return self.pass_on(outcome?).await;
        }
        // All our own questions are the bus's to answer.
        if reply.header().sender().is_none_or(|sender| *sender != BUS) {
            return Ok(());
        }
        let good = reply.message_type() == Type::MethodReturn;
        match self.awaited.take(serial) {
            None => Ok(()),
            Some(Awaited::Name) if good => match reply.body().deserialize()? {
                RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => {
                    self.status();
                    self.supervisor.ready();
                    self.announce().await
                }
                RequestNameReply::InQueue | RequestNameReply::Exists => {
                    Err(Failed::NameTaken(name_owner(&self.connection).await))
                }
            },
            Some(Awaited::Name) => Err(Failed::NameRefused(zbus::Error::from(reply.clone()))),
            Some(Awaited::Proof) => {
                self.input(Input::BusAnswered);
                Ok(())
            }
            Some(Awaited::Uid(name)) => {
                // A caller that left before the bus could say has no uid any more.
                let caller = if good { Caller::Uid(reply.body().deserialize()?) } else { Caller::Gone };
                let mut calls = vec![subscribe(&owner_changes(&name))?];
                if let Some(gone) = self.trust.learned(name, caller, self.clock.now()) {
                    calls.push(call_bus("RemoveMatch", &owner_changes(&gone).as_str())?);
                }
                self.connection.send_all(&calls).await?;
                self.release().await
            }
        }
    }

    /// Tells those that were there before us what there is. Fan control and ipmid list the sensors once, and then wait for
    /// `InterfacesAdded` (docs/dbus-api.md). All of it in one go: fan control reloads 2 s after the last. `InterfacesRemoved`
    /// is never sent: the objects stay, and a reload takes Manual from a zone that is held.
    async fn announce(&self) -> Result<(), Failed> {
        self.connection.send_all(&announcements(&self.tree)?).await?;
        let mut again = Vec::new();
        for sensor in &self.tree.sensors {
            again.extend(sensor.state_again()?);
        }
        Ok(self.connection.send_all(&again).await?)
    }

    async fn signalled(&mut self, signal: &Message) -> Result<(), Failed> {
        if self.peers.post_codes.drops(signal) {
            return Ok(());
        }
        let outcome = Signal::read(signal, |signal| {
            // A connection that was known is gone: that is no peer's matter.
            if let News::Owner { name, owner: "" } = signal.news
                && name.starts_with(':')
                && self.trust.left(name)
            {
                return Ok(Outcome::of(vec![call_bus("RemoveMatch", &owner_changes(name).as_str())?]));
            }
            self.tick = true;
            self.peers.signalled(signal)
        })?;
        self.pass_on(outcome).await
    }

    /// Sends what an adapter wants to ask, and passes on what it heard.
    async fn pass_on(&mut self, outcome: Outcome) -> Result<(), Failed> {
        let calls = self.take(outcome);
        Ok(self.connection.send_all(&calls).await?)
    }

    /// Passes on what an adapter heard, and leaves what it wants to ask.
    fn take(&self, outcome: Outcome) -> Vec<Message> {
        for (host, event) in outcome.events {
            self.input(Input::Event(host, event));
        }
        outcome.calls
    }

    /// A Set arrives when it is known that its caller may: what comes meanwhile does not wait for that.
    async fn verify(&mut self, call: Message, ask: Ask) -> Result<(), Failed> {
        if let Some(caller) = self.trust.caller(&call) {
            return self.admit(caller, call, ask).await;
        }
        if !self.trust.keep_call(&call, ask) {
            return self.refuse(&call, &Refusal::limits_exceeded()).await;
        }
        self.ask_for_uid(&call).await
    }

    /// Asks the bus for its sender's, unless it has been asked.
    async fn ask_for_uid(&mut self, message: &Message) -> Result<(), Failed> {
        if let Some(sender) = message.header().sender().map(UniqueName::as_str)
            && !self.awaited.any(|what| matches!(what, Awaited::Uid(name) if name == sender))
        {
            let question = call_bus("GetConnectionUnixUser", &sender)?;
            if let Some(question) = self.awaited.send(question, Awaited::Uid(sender.to_owned())) {
                self.connection.send(&question).await?;
            }
        }
        Ok(())
    }

    /// Passes on the Sets and the words of those that are known by now, in their order.
    async fn release(&mut self) -> Result<(), Failed> {
        for (caller, word) in self.trust.words() {
            Box::pin(self.judge(caller, &word)).await?;
        }
        for (caller, call, ask) in self.trust.calls() {
            self.admit(caller, call, ask).await?;
        }
        Ok(())
    }

    async fn admit(&mut self, caller: Caller, call: Message, ask: Ask) -> Result<(), Failed> {
        if !self.trust.may_set(caller) {
            return self.refuse(&call, &Refusal::access_denied()).await;
        }
        self.ask(call, ask);
        Ok(())
    }

    fn ask(&mut self, call: Message, Ask { host, request }: Ask) {
        self.last_id = self.last_id.wrapping_add(1);
        let id = SetId(self.last_id);
        self.waiting.push((id, call));
        self.input(match request {
            Request::Set(state) => Input::Event(host, Event::Set { id, state }),
            Request::SetDevice(state) => Input::Event(host, Event::SetDevice { id, state }),
            Request::History(most) => Input::History { host, id, most },
        });
    }

    fn input(&self, input: Input) {
        // The event loop ends before this task only when the daemon does.
        self.inputs.send(input).unwrap_or_default();
    }

    // ---- Out ---------------------------------------------------------------------------------------

    async fn reply(&self, call: &Message, reply: Message) -> Result<(), Failed> {
        if !wants_no_reply(call) {
            self.connection.send(&reply).await?;
        }
        Ok(())
    }

    async fn refuse(&self, call: &Message, why: &Refusal) -> Result<(), Failed> {
        self.reply(call, why.to(call)?).await
    }

    /// Performs this and all that waits behind it, in order. PropertiesChanged and the answers behind
    /// it leave in one write; what comes after them is not even made before.
    async fn perform(&mut self, first: Output) -> Result<(), Failed> {
        let mut out = Vec::with_capacity(4);
        let mut next = Some(first);
        while let Some(output) = next {
            if let Output::Effect(host, Effect::Publish { state, device }) = output {
                if let Some(object) = self.tree.acpi.get_mut(host) {
                    out.push(object.publish(state, device)?);
                }
            } else if let Output::Effect(_, Effect::Answer(id)) = output {
                out.extend(self.answer(id, &())?);
            } else {
                if !out.is_empty() {
                    self.connection.send_all(&out).await?;
                    out.clear();
                }
                self.make_later(output, &mut out)?;
            }
            next = self.outputs.try_recv().ok();
        }
        Ok(self.connection.send_all(&out).await?)
    }

    /// The answer to a call that waits for it, if it wants one.
    fn answer<B>(&mut self, id: SetId, body: &B) -> zbus::Result<Option<Message>>
    where
        B: zbus::export::serde::Serialize + zbus::DynamicType,
    {
        let at = self.waiting.iter().position(|(waiting, _)| *waiting == id);
        let call = at.map(|at| self.waiting.swap_remove(at).1).filter(|call| !wants_no_reply(call));
        call.map(|call| Message::method_return(&call.header()).build(body)).transpose()
    }

    fn status(&mut self) {
        let all = self.tree.acpi.iter();
        self.supervisor.status(all.map(|object| (object.id(), object.state(), object.view())));
    }

    /// The messages of everything that no host waits for. Never inlined, so that the bench can count up
    /// to here.
    #[inline(never)]
    fn make_later(&mut self, output: Output, out: &mut Vec<Message>) -> Result<(), Failed> {
        self.tick = true;
        match output {
            Output::Effect(host, effect) => self.carry_out(host, effect, out)?,
            Output::Fans(host, fans) => {
                let outcome = self.peers.fans.order(host, fans)?;
                out.extend(self.take(outcome));
            }
            Output::Diagnosis { host, diagnosis, raised } => match raised {
                Some(raised) => {
                    let (boot, evidence) = *raised;
                    out.extend(self.peers.event_log.raised(host, diagnosis, boot, &evidence)?);
                }
                None => out.extend(self.peers.event_log.cleared(host, diagnosis)?),
            },
            Output::Rely(host, relies) => self.peers.power_state.rely(host, relies),
            Output::PostCodes(host, wanted) => out.extend(self.peers.post_codes.want(host, wanted)?),
            Output::Track(host, view) => {
                if let Some(object) = self.tree.acpi.get_mut(host) {
                    out.extend(object.track(*view)?);
                }
                self.status();
            }
            Output::Sensor(sensor, snapshot) => {
                if let Some(object) = self.tree.sensors.get_mut(sensor) {
                    out.extend(object.publish(snapshot)?);
                }
            }
            Output::Transitioned { host, when, entry } => {
                if let Some(object) = self.tree.acpi.get(host) {
                    out.push(object.transitioned(when, entry.from, entry.to, entry.cause)?);
                }
                out.extend(self.peers.event_log.transition(host, entry.to, entry.cause.name())?);
            }
            Output::Store { host, record, urgent } => {
                if let Some(storage) = &self.storage {
                    storage.put(host, record, urgent);
                }
            }
            Output::Line(line) => line.say(),
            Output::History { id, entries } => out.extend(self.answer(id, &entries)?),
            Output::Stopping => {
                self.supervisor.stopping();
                out.extend(self.peers.fans.release()?);
                out.extend(self.peers.boot_progress.release()?);
            }
            Output::AskBus => out.extend(self.awaited.send(call_bus("GetId", &())?, Awaited::Proof)),
            Output::Heartbeat => self.supervisor.feed(),
        }
        Ok(())
    }

    /// Carries out an effect that a step ordered and that no host waits for.
    fn carry_out(&mut self, host: HostIndex, effect: Effect, out: &mut Vec<Message>) -> Result<(), Failed> {
        match effect {
            Effect::Unit(order) => out.extend(self.peers.systemd.order(host, order)?),
            Effect::Assert => {
                for object in self.tree.sensors.iter().filter(|object| object.host() == host) {
                    out.extend(object.assert()?);
                }
                let outcome = self.peers.fans.assert(host)?;
                out.extend(self.take(outcome));
            }
            Effect::BootProgress(stage) => out.extend(self.peers.boot_progress.write(host, stage)?),
            Effect::Quiesce(epoch) => out.extend(self.peers.systemd.quiesce(host, epoch)?),
            Effect::Unquiesce => out.extend(self.peers.systemd.unquiesce(host)?),
            // The first two are handled with the answers, the others by the event loop itself.
            Effect::Publish { .. }
            | Effect::Answer(_)
            | Effect::Transitioned(_)
            | Effect::DrainTimedOut
            | Effect::MuxToHost(_)
            | Effect::MuxToBmc(_) => {}
        }
        Ok(())
    }
}

fn is_set(call: &Message) -> bool {
    call.header().member().is_some_and(|member| *member == "Set")
}

async fn next(stream: &mut MessageStream) -> Option<zbus::Result<Message>> {
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}
