// SPDX-License-Identifier: Apache-2.0
//! The one task that reads from and writes to the bus.
//!
//! Everything arrives in one stream: calls, signals, replies to our own calls. Its order is the order
//! of events (design 3.2). Everything leaves in one order too: what a Get returns, the
//! PropertiesChanged that says so, and the answer to the Set behind it are handled by this one task,
//! so that they cannot disagree.
//!
//! It never waits for a reply: the serials of our own calls are kept where their replies are
//! understood. It waits for room in the socket only; while it does, nothing more is read.

use std::{collections::VecDeque, pin::Pin};

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
        boot_progress::BootProgress,
        callers::{Caller, Callers},
        cpu_power::CpuPower,
        dimm_inventory::DimmInventory,
        dispatch::{Answer, Ask, Refusal, dispatch, wants_no_reply},
        event_log::EventLog,
        fan_config::FanConfig,
        fans::Fans,
        mapper::Mapper,
        objects::{Object as _, Request, Tree},
        owner::name_owner,
        peer::{BUS, Outcome, Peer, Pending, call_bus, owner_changes, subscribe},
        power_state::PowerState,
        systemd::Systemd,
    },
    config::{Events, Host},
    logic::machine::{Effect, Event, SetId},
    shell::{
        event_loop::{Input, Output},
        held::Held,
        store::Storage,
        supervisor::Supervisor,
    },
};

/// Calls that wait for the event loop. With more than this, nothing is read until they are answered:
/// a flood of Sets is held back by the bus, in the senders' own queues.
const MOST_WAITING: usize = 32;
/// Sets of callers whose uid is not known yet. These cannot be held back: the uid comes the same way.
const MOST_UNVERIFIED: usize = 512;

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

/// What the reply to one of our calls to the bus driver is about.
#[derive(Debug)]
enum Awaited {
    Name,
    Uid(String),
}

/// What the bus task is told at the start.
pub(crate) struct Setup<'a> {
    /// The hosts, in the order of the configuration.
    pub(crate) hosts: &'a [Host],
    /// Where events go besides the journal.
    pub(crate) events: Events,
    /// Where the held fan zones are written down, and which a process before this one left.
    pub(crate) held: (Held, Vec<String>),
    pub(crate) storage: Option<Storage>,
}

/// Our end of the bus.
pub(crate) struct Bus {
    connection: Connection,
    stream: MessageStream,
    supervisor: Supervisor,
    tree: Tree,
    /// The number of each host in names of units.
    host_ids: Vec<u32>,
    power_state: PowerState,
    systemd: Systemd,
    mapper: Mapper,
    fans: Fans,
    boot_progress: BootProgress,
    cpu_power: CpuPower,
    fan_config: FanConfig,
    dimm_inventory: DimmInventory,
    event_log: EventLog,
    callers: Callers,
    own_uid: u32,
    awaited: Pending<Awaited>,
    retry_at: Option<Instant>,
    /// Sets whose caller's uid is not known yet.
    unverified: VecDeque<(Message, Ask)>,
    /// Calls that the event loop has and will answer.
    waiting: Vec<(SetId, Message)>,
    last_id: u32,
    storage: Option<Storage>,
    inputs: UnboundedSender<Input>,
    outputs: UnboundedReceiver<Output>,
}

impl Bus {
    /// `connection` must be fresh: without our name nobody calls us, so nothing is lost.
    pub(crate) fn new(
        connection: Connection,
        supervisor: Supervisor,
        tree: Tree,
        setup: Setup<'_>,
        inputs: UnboundedSender<Input>,
        outputs: UnboundedReceiver<Output>,
    ) -> Self {
        let Setup { hosts, events, held: (held, left), storage } = setup;
        let host_ids: Vec<u32> = hosts.iter().map(|host| host.id).collect();
        let targets = hosts.iter().map(|host| host.targets.clone()).collect();
        let quiesce = hosts.iter().map(|host| host.quiesce.clone()).collect();
        Self {
            stream: MessageStream::from(&connection),
            connection,
            supervisor,
            power_state: PowerState::new(host_ids.iter().copied()),
            fans: Fans::new(hosts.iter().map(|host| &host.fans), held, left),
            boot_progress: BootProgress::new(host_ids.iter().copied()),
            cpu_power: CpuPower::new(hosts.iter().map(|host| host.cpu_power_sensor.as_deref())),
            fan_config: FanConfig::new(tree.sensors.iter().map(|object| (object.path(), object.host()))),
            dimm_inventory: DimmInventory::new(host_ids.iter().copied()),
            event_log: EventLog::new(events, host_ids.iter().copied()),
            host_ids,
            systemd: Systemd::new(targets, quiesce),
            mapper: Mapper::new(tree.acpi.iter().map(|object| object.path().to_owned())),
            callers: Callers::default(),
            own_uid: rustix::process::geteuid().as_raw(),
            tree,
            awaited: Pending::default(),
            retry_at: None,
            unverified: VecDeque::new(),
            waiting: Vec::new(),
            last_id: 0,
            storage,
            inputs,
            outputs,
        }
    }

    /// Serves until the event loop ends (`Ok`) or the bus does.
    pub(crate) async fn run(mut self) -> Result<(), Failed> {
        // The objects are there, so the name may be (contract 1.6); and it comes first, since ipmid is ordered behind us. DoNotQueue
        // without AllowReplacement: a second owner must fail, whichever of us it is.
        let name = call_bus("RequestName", &(BUS_NAME, RequestNameFlags::DO_NOT_QUEUE))?;
        self.awaited.add(&name, Awaited::Name);
        let mut calls = vec![name];
        for peer in self.peers() {
            calls.extend(peer.start()?);
        }
        self.connection.send_all(&calls).await?;
        loop {
            let room = self.waiting.len() < MOST_WAITING;
            let retry_at = self.retry_at;
            tokio::select! {
                biased;
                output = self.outputs.recv() => match output {
                    Some(output) => self.perform(output).await?,
                    None => return Ok(()),
                },
                message = next(&mut self.stream), if room => match message {
                    Some(message) => self.receive(message?).await?,
                    None => return Err(Failed::Closed),
                },
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    self.retry_at = None;
                    let outcome = self.power_state.retry()?;
                    self.pass_on(outcome).await?;
                }
            }
        }
    }

    /// Those we talk with. The order does not matter: a reply is one's only, and each looks at its own signals.
    fn peers(&mut self) -> [&mut dyn Peer; 9] {
        [
            &mut self.power_state,
            &mut self.systemd,
            &mut self.mapper,
            &mut self.fans,
            &mut self.boot_progress,
            &mut self.cpu_power,
            &mut self.fan_config,
            &mut self.dimm_inventory,
            &mut self.event_log,
        ]
    }

    // ---- In ----------------------------------------------------------------------------------------

    async fn receive(&mut self, message: Message) -> Result<(), Failed> {
        match message.message_type() {
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
            Type::MethodReturn | Type::Error => self.returned(&message).await,
            Type::Signal => self.signalled(&message).await,
        }
    }

    async fn returned(&mut self, reply: &Message) -> Result<(), Failed> {
        let Some(serial) = reply.header().reply_serial() else { return Ok(()) };
        let outcome = self.peers().into_iter().find_map(|peer| peer.returned(serial, reply));
        if let Some(outcome) = outcome {
            return self.pass_on(outcome?).await;
        }
        let good = reply.message_type() == Type::MethodReturn;
        match self.awaited.take(serial) {
            None => Ok(()),
            Some(Awaited::Name) if good => match reply.body().deserialize()? {
                RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => {
                    self.status();
                    self.supervisor.ready();
                    Ok(())
                }
                RequestNameReply::InQueue | RequestNameReply::Exists => {
                    Err(Failed::NameTaken(name_owner(&self.connection).await))
                }
            },
            Some(Awaited::Name) => Err(Failed::NameRefused(zbus::Error::from(reply.clone()))),
            Some(Awaited::Uid(name)) => {
                // A caller that left before the bus could say has no uid any more.
                let caller = if good { Caller::Uid(reply.body().deserialize()?) } else { Caller::Gone };
                let mut calls = vec![subscribe(&owner_changes(&name))?];
                if let Some(gone) = self.callers.remember(name, caller) {
                    calls.push(call_bus("RemoveMatch", &owner_changes(&gone).as_str())?);
                }
                self.connection.send_all(&calls).await?;
                self.release().await
            }
        }
    }

    async fn signalled(&mut self, signal: &Message) -> Result<(), Failed> {
        if let Some(gone) = name_lost(signal)
            && self.callers.forget(&gone)
        {
            self.connection.send(&call_bus("RemoveMatch", &owner_changes(&gone).as_str())?).await?;
            return Ok(());
        }
        let mut all = Outcome::default();
        for peer in self.peers() {
            let Outcome { calls, events } = peer.signalled(signal)?;
            all.calls.extend(calls);
            all.events.extend(events);
        }
        self.pass_on(all).await
    }

    /// Sends what an adapter wants to ask, and passes on what it heard.
    async fn pass_on(&mut self, outcome: Outcome) -> Result<(), Failed> {
        let calls = self.take(outcome);
        if let Some(wait) = self.power_state.retry_after() {
            let at = Instant::now() + wait;
            self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
        }
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
        if let Some(caller) = self.caller(&call) {
            return self.admit(caller, call, ask).await;
        }
        if self.unverified.len() >= MOST_UNVERIFIED {
            return self.refuse(&call, &Refusal::limits_exceeded()).await;
        }
        if let Some(sender) = call.header().sender().map(UniqueName::as_str)
            && !self.awaited.any(|what| matches!(what, Awaited::Uid(name) if name == sender))
        {
            let question = call_bus("GetConnectionUnixUser", &sender)?;
            self.awaited.add(&question, Awaited::Uid(sender.to_owned()));
            self.connection.send(&question).await?;
        }
        self.unverified.push_back((call, ask));
        Ok(())
    }

    /// What the bus knows of a call's sender, if it was asked and has answered.
    fn caller(&self, call: &Message) -> Option<Caller> {
        match call.header().sender() {
            Some(sender) => self.callers.get(sender.as_str()),
            None => Some(Caller::Gone),
        }
    }

    /// Passes on the Sets of callers that are known by now, in their order.
    async fn release(&mut self) -> Result<(), Failed> {
        for (call, ask) in std::mem::take(&mut self.unverified) {
            match self.caller(&call) {
                None => self.unverified.push_back((call, ask)),
                Some(caller) => self.admit(caller, call, ask).await?,
            }
        }
        Ok(())
    }

    async fn admit(&mut self, caller: Caller, call: Message, ask: Ask) -> Result<(), Failed> {
        match caller {
            Caller::Uid(uid) if uid == 0 || uid == self.own_uid => {
                self.ask(call, ask);
                Ok(())
            }
            Caller::Uid(_) | Caller::Gone => self.refuse(&call, &Refusal::access_denied()).await,
        }
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
        let all = self.tree.acpi.iter().zip(&self.host_ids);
        self.supervisor.status(all.map(|(object, id)| (*id, object.state(), object.view())));
    }

    /// The messages of everything that no host waits for. Never inlined, so that the bench can count up
    /// to here.
    #[inline(never)]
    fn make_later(&mut self, output: Output, out: &mut Vec<Message>) -> Result<(), Failed> {
        match output {
            Output::Effect(host, effect) => match effect {
                Effect::Unit(order) => {
                    out.extend(self.systemd.order(host, order)?);
                }
                Effect::Assert => {
                    for object in self.tree.sensors.iter().filter(|object| object.host() == host) {
                        out.extend(object.assert()?);
                    }
                    let outcome = self.fans.assert(host)?;
                    out.extend(self.take(outcome));
                }
                Effect::BootProgress(stage) => out.extend(self.boot_progress.write(host, stage)?),
                Effect::Quiesce(epoch) => out.extend(self.systemd.quiesce(host, epoch)?),
                Effect::Unquiesce => out.extend(self.systemd.unquiesce(host)?),
                // The first two are handled with the answers, the others by the event loop itself.
                Effect::Publish { .. }
                | Effect::Answer(_)
                | Effect::Transitioned(_)
                | Effect::DrainTimedOut
                | Effect::MuxToHost(_)
                | Effect::MuxToBmc(_) => {}
            },
            Output::Fans(host, fans) => {
                let outcome = self.fans.order(host, fans)?;
                out.extend(self.take(outcome));
            }
            Output::Diagnosis { host, diagnosis, raised } => match raised {
                Some(raised) => {
                    let (boot, evidence) = *raised;
                    out.extend(self.event_log.raised(host, diagnosis, boot, &evidence)?);
                }
                None => out.extend(self.event_log.cleared(host, diagnosis)?),
            },
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
                out.extend(self.event_log.transition(host, entry.to, entry.cause.name())?);
            }
            Output::Store(host, stored) => {
                if let Some(storage) = &self.storage {
                    storage.put(host, stored);
                }
            }
            Output::History { id, entries } => out.extend(self.answer(id, &entries)?),
            Output::Stopping => {
                self.supervisor.stopping();
                out.extend(self.fans.release()?);
            }
            Output::Heartbeat => self.supervisor.feed(),
        }
        Ok(())
    }
}

/// The unique name that a NameOwnerChanged of the bus says is gone.
fn name_lost(signal: &Message) -> Option<String> {
    let header = signal.header();
    if header.member()?.as_str() != "NameOwnerChanged" || header.sender()?.as_str() != BUS {
        return None;
    }
    let body = signal.body();
    let (name, _, new) = body.deserialize::<(&str, &str, &str)>().ok()?;
    (name.starts_with(':') && new.is_empty()).then(|| name.to_owned())
}

async fn next(stream: &mut MessageStream) -> Option<zbus::Result<Message>> {
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}
