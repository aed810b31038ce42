// SPDX-License-Identifier: Apache-2.0
//! All peers together on a bus where everything goes wrong that can: services answer, answer errors or nonsense, late or never, leave,
//! come back and change their minds, and strangers signal whatever they like. Conditions that hold all the time: nothing grows
//! without end, and nobody's word counts but the owner's. Conditions that hold once the services are well: each peer has sent all that
//! is wanted, knows all that is so, and waits for nothing.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZeroU32,
};

use proptest::prelude::*;
use zbus::{Message, ObjectPath, Variant};

use crate::{
    adapters::{
        boot_progress::BootProgress,
        cpu_power::CpuPower,
        dbus::{
            doubles::serial,
            names::{BUS, INTROSPECTED, MAPPER, MAPPER_PRIVATE, OBJECT_MANAGER, PROPERTIES},
            peer::{ANSWERED_WITHIN, Moment, Outcome},
            signal::Signal,
        },
        dimm_inventory::DimmInventory,
        event_log::EventLog,
        fan_config::FanConfig,
        fans::FanControl,
        mapper::Mapper,
        peers::Peers,
        post_codes::PostCodes,
        power_state::PowerState,
        systemd::Systemd,
    },
    config::{self, Events, Targets},
    logic::{
        acpi::AcpiState,
        diagnosis::{CpuPower as Power, Diagnosis, Evidence},
        effect::{BootStage, Target, UnitOrder},
        event::{Epoch, Event},
        evidence::{Chassis, HostState, Os},
        policy::{FanDemand, FanLevel},
        time::Time,
    },
    shell::held::Held,
};

/// In each of ten lives; `PROPTEST_CASES` makes them more.
const ROUNDS: usize = 1000;

fn lives() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10)
}

const ZONES: [&str; 2] =
    ["/xyz/openbmc_project/settings/fanctrl/zone0", "/xyz/openbmc_project/settings/fanctrl/zone1"];
const PWM: [&str; 2] =
    ["/xyz/openbmc_project/control/fanpwm/Pwm_1", "/xyz/openbmc_project/control/fanpwm/Pwm_2"];
const CPU: &str = "/xyz/openbmc_project/sensors/power/CPU0";
const OURS: &str = "/xyz/openbmc_project/sensors/temperature/DIMM_A1";
const RAW: &str = "/xyz/openbmc_project/state/boot/raw0";
const BOARD: &str = "/xyz/openbmc_project/inventory/system/board/Board";

const FAN_CONTROL: &str = "xyz.openbmc_project.State.FanCtrl";
const FAN_SENSOR: &str = "xyz.openbmc_project.FanSensor";
const PSU: &str = "xyz.openbmc_project.PSUSensor";
const CHASSIS: &str = "xyz.openbmc_project.State.Chassis0";
const HOST: &str = "xyz.openbmc_project.State.Host0";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const SMBIOS: &str = "xyz.openbmc_project.Smbios.MDR_V2";
const MANAGER: &str = "xyz.openbmc_project.EntityManager";
const LOGGING: &str = "xyz.openbmc_project.Logging";
const SEL: &str = "xyz.openbmc_project.Logging.IPMI";
const RIVAL: &str = "xyz.openbmc_project.Settings";
const POSTD: &str = "xyz.openbmc_project.State.Boot.Raw";
const SERVICES: [&str; 12] =
    [MAPPER, FAN_CONTROL, FAN_SENSOR, PSU, CHASSIS, HOST, SYSTEMD, SMBIOS, MANAGER, LOGGING, SEL, POSTD];

const MODE: &str = "xyz.openbmc_project.Control.Mode";
const FAN_PWM: &str = "xyz.openbmc_project.Control.FanPwm";
const CRITICAL: &str = "xyz.openbmc_project.Sensor.Threshold.Critical";
const VALUE: &str = "xyz.openbmc_project.Sensor.Value";
const DIMM: &str = "xyz.openbmc_project.Inventory.Item.Dimm";
const ITEM: &str = "xyz.openbmc_project.Inventory.Item";
const STEPWISE: &str = "xyz.openbmc_project.Configuration.Stepwise";
const MAXIMUM: &str = "xyz.openbmc_project.Configuration.Maximum";
const PROGRESS: &str = "xyz.openbmc_project.State.Boot.Progress";
const ENTRY: &str = "xyz.openbmc_project.Logging.Entry";
const ACPI: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";

/// The state's paths and values: service, path, interface, property, and where its values' names begin.
type State = (&'static str, &'static str, &'static str, &'static str, &'static str, [&'static str; 3]);
const STATES: [State; 3] = [
    (
        CHASSIS,
        "/xyz/openbmc_project/state/chassis0",
        "xyz.openbmc_project.State.Chassis",
        "CurrentPowerState",
        "xyz.openbmc_project.State.Chassis.PowerState",
        ["On", "Off", "Nonsense"],
    ),
    (
        HOST,
        "/xyz/openbmc_project/state/host0",
        "xyz.openbmc_project.State.Host",
        "CurrentHostState",
        "xyz.openbmc_project.State.Host.HostState",
        ["Running", "Off", "Quiesced"],
    ),
    (
        HOST,
        "/xyz/openbmc_project/state/host0",
        "xyz.openbmc_project.State.OperatingSystem.Status",
        "OperatingSystemState",
        "xyz.openbmc_project.State.OperatingSystem.Status.OSStatus",
        ["Inactive", "Standby", "Nonsense"],
    ),
];

/// Each of them has much to talk about.
fn peers() -> Peers {
    let strings = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    let fans = |zones: &[&str], pwm: &[&str]| config::Fans {
        zones: strings(zones),
        pwm: strings(pwm),
        guard_sensors: strings(&[OURS]),
        s2_pwm: 160,
        stall_pwm: 255,
    };
    let fans = [fans(&ZONES[..1], &PWM), fans(&ZONES, &PWM[1..])];
    let targets = |host: u32| Targets {
        s0: vec![format!("s0@{host}.target")],
        s2: vec![format!("s2@{host}.target")],
        s5: vec![format!("s5@{host}.target")],
    };
    Peers {
        power_state: PowerState::new([0].into_iter()),
        systemd: Systemd::new(
            vec![targets(0), targets(1)],
            vec![vec!["a.service".to_owned(), "b.service".to_owned()], vec!["c.service".to_owned()]],
        ),
        mapper: Mapper::new([ACPI_PATH.to_owned()].into_iter()),
        fans: FanControl::new(fans.iter(), Held::default(), vec![ZONES[0].to_owned()]),
        boot_progress: BootProgress::new([0].into_iter()),
        post_codes: PostCodes::new([0].into_iter()),
        cpu_power: CpuPower::new([Some(CPU)].into_iter()),
        fan_config: FanConfig::new([(OURS, 0)].into_iter()),
        dimm_inventory: DimmInventory::new([0].into_iter()),
        event_log: EventLog::new(Events { redfish: true, sel: true, logging: true }, [0].into_iter()),
    }
}

const ACPI_PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";

/// More than this no peer has in its memory. (The most that was seen is about half.)
const LARGEST: usize = 60_000;
/// Nor are there more calls without a reply.
const MOST_UNANSWERED: usize = 2_000;
/// No signal is worth more calls.
const MOST_FOR_A_SIGNAL: usize = 40;

/// The fate of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Error(&'static str),
    Nonsense,
    /// Done at once, and answered some time later; a question with what is so by then, as services answer.
    Late,
    /// Done or not, and never answered: not before its service leaves.
    Lost,
}

/// The calls and jobs that one closing waits for.
#[derive(Default)]
struct Closing {
    epoch: Epoch,
    calls: BTreeSet<NonZeroU32>,
    jobs: BTreeSet<String>,
}

type Key = (&'static str, String, &'static str, &'static str);

struct World {
    peers: Peers,
    now: Time,
    /// The unique names of those that are there.
    there: BTreeMap<&'static str, String>,
    names: u32,
    values: BTreeMap<Key, Variant<'static>>,
    /// Others have an object at our path too.
    rival: bool,
    sent: VecDeque<Message>,
    late: VecDeque<(&'static str, Message, Option<Message>)>,
    lost: Vec<(&'static str, Message)>,
    jobs: Vec<(String, String)>,
    last_job: u32,
    closings: [Closing; 2],
    /// The event last sent of each kind to a host's machine.
    told: BTreeMap<(usize, String), Event>,
    orders: [Option<UnitOrder>; 2],
    quiet: [bool; 2],
    /// The orders that systemd received, in order.
    units: Vec<String>,
    wanted: [FanDemand; 2],
    stage: Option<BootStage>,
    drops: [u32; 2],
    /// Entries that were to be resolved and are not; and those that are.
    open: BTreeSet<String>,
    resolved: BTreeSet<String>,
    chance: Cell<u32>,
}

fn key(service: &'static str, path: &str, interface: &'static str, property: &'static str) -> Key {
    (service, path.to_owned(), interface, property)
}

fn slot(number: usize) -> Key {
    key(
        SMBIOS,
        &format!("/xyz/openbmc_project/inventory/system/chassis/motherboard/dimm{number}"),
        ITEM,
        "Present",
    )
}

impl World {
    fn new() -> Self {
        let strings = |value: &str| Variant::from(vec![value.to_owned()]);
        let (curve, virtual_sensor) = (format!("{BOARD}/Curve"), format!("{BOARD}/All_DIMMs"));
        let mut values: BTreeMap<Key, Variant<'static>> = BTreeMap::new();
        for zone in ZONES {
            values.insert(key(FAN_CONTROL, zone, MODE, "Manual"), Variant::Bool(false));
        }
        for pwm in PWM {
            values.insert(key(FAN_SENSOR, pwm, FAN_PWM, "Target"), Variant::U64(90));
        }
        values.insert(key(FAN_SENSOR, OURS, CRITICAL, "CriticalAlarmHigh"), Variant::Bool(false));
        values.insert(key(PSU, CPU, VALUE, "Value"), Variant::F64(50.0));
        for (service, path, interface, property, names, [value, ..]) in STATES {
            values.insert(key(service, path, interface, property), Variant::from(format!("{names}.{value}")));
        }
        values.insert(key(HOST, STATES[1].1, PROGRESS, "BootProgress"), stage(BootStage::Unspecified));
        values.insert(key(POSTD, RAW, POSTD, "Value"), code(0));
        for number in 0..3 {
            values.insert(slot(number), Variant::Bool(true));
        }
        values.insert(key(MANAGER, &curve, STEPWISE, "Inputs"), strings("All DIMMs"));
        values.insert(key(MANAGER, &curve, STEPWISE, "InputUnavailableAsFailed"), Variant::Bool(false));
        values.insert(key(MANAGER, &virtual_sensor, MAXIMUM, "Sensors"), strings("DIMM A1"));
        values.insert(key(MANAGER, &virtual_sensor, MAXIMUM, "Units"), Variant::from("DegreesC"));
        let mut world = Self {
            peers: peers(),
            now: Time::ZERO,
            there: BTreeMap::new(),
            names: 0,
            values,
            rival: false,
            sent: VecDeque::new(),
            late: VecDeque::new(),
            lost: Vec::new(),
            jobs: Vec::new(),
            last_job: 0,
            closings: Default::default(),
            told: BTreeMap::new(),
            orders: [None; 2],
            quiet: [false; 2],
            units: Vec::new(),
            wanted: [FanDemand::Free; 2],
            stage: None,
            drops: [0; 2],
            open: BTreeSet::new(),
            resolved: BTreeSet::new(),
            chance: Cell::new(1),
        };
        let begin = world.peers.start().unwrap();
        world.send(begin);
        world
    }

    // ---- What the peers do -------------------------------------------------------------------------

    fn send(&mut self, calls: Vec<Message>) {
        for call in calls {
            let header = call.header();
            let member = header.member().unwrap().as_str();
            if member.ends_with("Unit") {
                let (unit, _): (String, String) = call.body().deserialize().unwrap();
                self.units.push(format!("{member} {unit}"));
            }
            let path = header.path().unwrap().as_str();
            if path.starts_with("/xyz/openbmc_project/logging/entry/") && !self.resolved.contains(path) {
                self.open.insert(path.to_owned());
            }
            drop(header);
            self.sent.push_back(call);
        }
    }

    fn heard(&mut self, outcome: Outcome) {
        for (host, event) in outcome.events {
            if let Event::Quiesced { epoch } = event {
                let closing = &self.closings[host];
                assert_eq!(closing.epoch, epoch);
                assert!(
                    closing.calls.is_empty() && closing.jobs.is_empty(),
                    "quiet, and something still runs"
                );
            }
            let name = format!("{event:?}").split(['(', ' ']).next().unwrap().to_owned();
            self.told.insert((host, name), event);
        }
        self.send(outcome.calls);
        self.tick();
    }

    fn tick(&mut self) {
        for _ in 0..3 {
            let now = Moment { now: self.now, patience: ANSWERED_WITHIN };
            let all = self.peers.tick(now).unwrap();
            if all.calls.is_empty() && all.events.is_empty() {
                return;
            }
            for (host, event) in all.events {
                let name = format!("{event:?}").split(['(', ' ']).next().unwrap().to_owned();
                self.told.insert((host, name), event);
            }
            self.send(all.calls);
        }
        panic!("no end of what is due at one time");
    }

    fn wake_at(&mut self) -> Option<Time> {
        self.peers.wake_at()
    }

    /// Lets this much time pass, waking whoever wants to be.
    fn pass(&mut self, until: Time) {
        for _ in 0..1000 {
            match self.wake_at() {
                Some(at) if at <= until => self.now = self.now.max(at),
                Some(_) | None => {
                    self.now = until;
                    return self.tick();
                }
            }
            self.tick();
        }
        panic!("woken without end");
    }

    fn signal(&mut self, signal: &Message) {
        let all = Signal::read(signal, |signal| self.peers.signalled(signal)).unwrap();
        assert!(all.calls.len() <= MOST_FOR_A_SIGNAL, "{} calls for one signal", all.calls.len());
        self.heard(all);
    }

    // ---- The bus and its services ------------------------------------------------------------------

    fn owner_is(&mut self, service: &str, new: &str) {
        let signal = Message::signal("/org/freedesktop/DBus", BUS, "NameOwnerChanged");
        self.signal(&signal.sender(BUS).build(&(service, "", new)).unwrap());
    }

    fn comes(&mut self, service: &'static str) {
        if self.there.contains_key(service) {
            return;
        }
        self.names += 1;
        let name = format!(":1.{}", self.names + 100);
        self.there.insert(service, name.clone());
        self.owner_is(service, &name);
        if service == MAPPER {
            return;
        }
        // The mapper looks at it, and says so.
        self.introspected(service);
    }

    fn introspected(&mut self, service: &str) {
        if let Some(mapper) = self.there.get(MAPPER).cloned() {
            let signal = Message::signal("/", MAPPER_PRIVATE, INTROSPECTED).sender(mapper.as_str());
            self.signal(&signal.build(&service).unwrap());
        }
    }

    fn goes(&mut self, service: &'static str) {
        if self.there.remove(service).is_none() {
            return;
        }
        if service == FAN_CONTROL {
            self.values
                .iter_mut()
                .filter(|(key, _)| key.0 == FAN_CONTROL)
                .for_each(|(_, v)| *v = Variant::Bool(false));
        }
        if service == SYSTEMD {
            self.jobs.clear();
        }
        // The bus answers for it.
        let (late, kept) = std::mem::take(&mut self.late).into_iter().partition(|(of, ..)| *of == service);
        self.late = kept;
        let (lost, kept) = std::mem::take(&mut self.lost).into_iter().partition(|(of, _)| *of == service);
        self.lost = kept;
        let late: VecDeque<(&str, Message, Option<Message>)> = late;
        let lost: Vec<(&str, Message)> = lost;
        for call in late.into_iter().map(|(_, call, _)| call).chain(lost.into_iter().map(|(_, call)| call)) {
            self.reply(&call, &error(&call, BUS, "org.freedesktop.DBus.Error.NoReply"));
        }
        self.owner_is(service, "");
    }

    fn reply(&mut self, call: &Message, reply: &Message) {
        let serial = serial(call);
        for closing in &mut self.closings {
            if closing.calls.remove(&serial)
                && let Ok(job) = reply.body().deserialize::<ObjectPath<'_>>()
            {
                closing.jobs.insert(job.as_str().to_owned());
            }
        }
        let outcome = self.peers.returned(serial, reply);
        if let Some(outcome) = outcome {
            self.heard(outcome.unwrap());
        }
    }

    /// The service that is called, by either of its names.
    fn called(&self, call: &Message) -> Option<&'static str> {
        let header = call.header();
        let name = header.destination()?.as_str().to_owned();
        SERVICES
            .into_iter()
            .find(|service| *service == name || self.there.get(service).is_some_and(|unique| *unique == name))
    }

    fn deliver(&mut self, fate: Fate) {
        let Some(call) = self.sent.pop_front() else { return };
        let to_bus = call.header().destination().is_some_and(|name| name.as_str() == BUS);
        if to_bus {
            let reply = self.bus_answers(&call);
            return self.reply(&call, &reply);
        }
        let Some(service) = self.called(&call).filter(|service| self.there.contains_key(service)) else {
            return self.reply(&call, &error(&call, BUS, "org.freedesktop.DBus.Error.ServiceUnknown"));
        };
        let sender = self.there.get(service).cloned().unwrap();
        match fate {
            Fate::Late => {
                let reply = (!asks(&call)).then(|| self.service_answers(&call, service, &sender));
                self.late.push_back((service, call, reply));
            }
            Fate::Lost => {
                if self.chance(2) == 0 {
                    self.service_answers(&call, service, &sender);
                }
                self.lost.push((service, call));
            }
            Fate::Error(name) => self.reply(&call, &error(&call, &sender, name)),
            // Nonsense is no answer to a question. A service that says that it has done something has done it.
            Fate::Nonsense if asks(&call) => {
                self.reply(&call, &answer(&call, &sender, &(7_u8, "nonsense")));
            }
            Fate::Answered | Fate::Nonsense => {
                let reply = self.service_answers(&call, service, &sender);
                self.reply(&call, &reply);
            }
        }
    }

    fn deliver_late(&mut self) {
        if let Some((service, call, reply)) = self.late.pop_front() {
            let sender = self.there.get(service).cloned().unwrap();
            let reply = reply.unwrap_or_else(|| self.service_answers(&call, service, &sender));
            self.reply(&call, &reply);
        }
    }

    fn bus_answers(&self, call: &Message) -> Message {
        let header = call.header();
        if header.member().unwrap().as_str() != "GetNameOwner" {
            return answer(call, BUS, &());
        }
        let body = call.body();
        let name: &str = body.deserialize().unwrap();
        match self.there.get(name) {
            Some(owner) => answer(call, BUS, &owner.as_str()),
            None => error(call, BUS, "org.freedesktop.DBus.Error.NameHasNoOwner"),
        }
    }

    fn service_answers(&mut self, call: &Message, service: &'static str, sender: &str) -> Message {
        let header = call.header();
        let path = header.path().unwrap().as_str().to_owned();
        let body = call.body();
        match header.member().unwrap().as_str() {
            "GetObject" => {
                let (of, _): (&str, Vec<&str>) = body.deserialize().unwrap();
                let mut services = BTreeMap::new();
                for (owner, at, ..) in self.values.keys() {
                    if at == of && self.there.contains_key(owner) {
                        services.insert(*owner, Vec::<&str>::new());
                    }
                }
                if of == ACPI_PATH && self.rival {
                    services.insert(RIVAL, Vec::new());
                }
                if services.is_empty() {
                    return error(call, sender, "xyz.openbmc_project.Common.Error.ResourceNotFound");
                }
                answer(call, sender, &services)
            }
            "GetSubTree" => {
                let (_, _, wanted): (&str, i32, Vec<&str>) = body.deserialize().unwrap();
                let mut tree: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
                for (owner, at, interface, _) in self.values.keys() {
                    let carries = if *interface == ITEM { DIMM } else { interface };
                    if wanted.contains(&carries) && self.there.contains_key(owner) {
                        tree.entry(at).or_default().insert(owner, vec![carries]);
                    }
                }
                answer(call, sender, &tree)
            }
            "Get" => {
                let (interface, property): (&str, &str) = body.deserialize().unwrap();
                let is = |(key, _): &(&Key, _)| {
                    key.0 == service && key.1 == path && key.2 == interface && key.3 == property
                };
                match self.values.iter().find(is) {
                    Some((_, value)) => answer(call, sender, value),
                    None => error(call, sender, "org.freedesktop.DBus.Error.UnknownProperty"),
                }
            }
            "GetAll" => {
                let interface: &str = body.deserialize().unwrap();
                let of = self.values.iter().filter(|(key, _)| key.1 == path && key.2 == interface);
                let all: BTreeMap<&str, &Variant<'_>> = of.map(|(key, value)| (key.3, value)).collect();
                answer(call, sender, &all)
            }
            "Set" => {
                let (interface, property, value): (&str, &str, Variant<'_>) = body.deserialize().unwrap();
                if interface == ENTRY {
                    self.open.remove(&path);
                    self.resolved.insert(path.clone());
                }
                let is = |key: &&Key| key.1 == path && key.2 == interface && key.3 == property;
                if let Some(key) = self.values.keys().find(is).cloned() {
                    let value: Variant<'static> = value.try_to_owned().unwrap().into();
                    if self.values.get(&key) != Some(&value) {
                        self.changes(&key, value);
                    }
                }
                answer(call, sender, &())
            }
            "StartUnit" | "StopUnit" | "RestartUnit" => {
                let (unit, _): (String, String) = body.deserialize().unwrap();
                self.last_job += 1;
                let job = format!("/org/freedesktop/systemd1/job/{}", self.last_job);
                self.jobs.push((job.clone(), unit));
                answer(call, sender, &ObjectPath::try_from(job).unwrap())
            }
            "Create" => {
                self.last_job += 1;
                let entry = format!("/xyz/openbmc_project/logging/entry/{}", self.last_job);
                answer(call, sender, &ObjectPath::try_from(entry).unwrap())
            }
            "IpmiSelAdd" => answer(call, sender, &7_u16),
            _ => answer(call, sender, &()),
        }
    }

    fn job_ends(&mut self, index: usize) {
        if self.jobs.is_empty() {
            return;
        }
        let (job, unit) = self.jobs.remove(index % self.jobs.len());
        for closing in &mut self.closings {
            closing.jobs.remove(&job);
        }
        let sender = self.there.get(SYSTEMD).cloned().unwrap();
        self.signal(&job_removed(&sender, &job, &unit));
    }

    /// The service says that this is so now.
    fn changes(&mut self, key: &Key, value: Variant<'static>) {
        self.values.insert(key.clone(), value.clone());
        if let Some(sender) = self.there.get(key.0).cloned() {
            self.signal(&changed(&sender, key, value));
        }
    }

    // ---- What happens ------------------------------------------------------------------------------

    fn chance(&self, of: u32) -> u32 {
        // Numerical Recipes' generator; its high bits are the better ones.
        self.chance.set(self.chance.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        (self.chance.get() >> 16) % of
    }

    fn fate(&self) -> Fate {
        match self.chance(20) {
            0 => Fate::Error("org.freedesktop.DBus.Error.Timeout"),
            1 => Fate::Error("xyz.openbmc_project.Common.Error.InternalFailure"),
            2 => Fate::Nonsense,
            3 | 4 => Fate::Lost,
            5 | 6 => Fate::Late,
            _ => Fate::Answered,
        }
    }

    fn happen(&mut self, (what, a): (u8, u16)) {
        self.chance.set(self.chance.get() ^ (u32::from(a) << 16));
        let host = usize::from(a & 1);
        let number = usize::from(a >> 1);
        match what {
            0 => self.order_fans(host, number),
            1 => {
                let outcome = self.peers.fans.assert(host).unwrap();
                self.drops = [0; 2];
                self.heard(outcome);
            }
            2 => {
                // Two of the three: when what was written before the last but one is read again, it cannot be told from another
                // writer's, and is rightly left alone.
                let stage = [BootStage::Unspecified, BootStage::OSStart][number % 2];
                self.stage = Some(stage);
                let calls = self.peers.boot_progress.write(0, stage).unwrap();
                self.heard(Outcome::of(calls));
            }
            3 => self.order_units(host, number),
            4 if number % 3 == 0 => {
                let calls = self.peers.post_codes.want(0, host == 0).unwrap();
                self.heard(Outcome::of(calls.into_iter().collect()));
            }
            4 => self.quiesce(host),
            5 => self.record(number),
            6 => {
                let service = SERVICES[number % SERVICES.len()];
                self.goes(service);
                if a & 1 == 0 {
                    self.comes(service);
                }
            }
            7 | 8 => self.comes(SERVICES[number % SERVICES.len()]),
            9 | 10 => self.something_changes(number),
            11 => self.pass(self.now + std::time::Duration::from_millis(u64::from(a))),
            12 | 13 => self.stranger(number),
            14 => self.job_ends(number),
            _ => {
                for _ in 0..=number % 16 {
                    let fate = self.fate();
                    self.deliver(fate);
                    if self.chance(4) == 0 {
                        self.deliver_late();
                    }
                }
            }
        }
    }

    fn order_fans(&mut self, host: usize, number: usize) {
        let held = |level| FanDemand::Held { level, at_least_found: false };
        self.wanted[host] = [FanDemand::Free, held(FanLevel::S2), held(FanLevel::Stall)][number % 3];
        self.drops[0] = 0;
        if host == 1 {
            self.drops[1] = 0;
        }
        let outcome = self.peers.fans.order(host, self.wanted[host]).unwrap();
        self.heard(outcome);
    }

    fn order_units(&mut self, host: usize, number: usize) {
        let orders = [
            UnitOrder::Start(Target::S0),
            UnitOrder::Start(Target::S2),
            UnitOrder::Restart(Target::S2),
            UnitOrder::StopAll,
        ];
        self.orders[host] = Some(orders[number % 4]);
        let calls = self.peers.systemd.order(host, orders[number % 4]).unwrap();
        self.heard(Outcome::of(calls));
    }

    fn quiesce(&mut self, host: usize) {
        self.quiet[host] = !self.quiet[host];
        if self.quiet[host] {
            let epoch = Epoch(self.closings[host].epoch.0 + 1);
            let calls = self.peers.systemd.quiesce(host, epoch).unwrap();
            self.closings[host] =
                Closing { epoch, calls: calls.iter().map(serial).collect(), jobs: BTreeSet::new() };
            self.heard(Outcome::of(calls));
        } else {
            let calls = self.peers.systemd.unquiesce(host).unwrap();
            self.heard(Outcome::of(calls));
        }
    }

    fn record(&mut self, number: usize) {
        let diagnosis = [Diagnosis::BusStuck, Diagnosis::StuckInPost][number % 2];
        let boot = u32::try_from(number).unwrap();
        let calls = match number % 3 {
            0 => self.peers.event_log.raised(0, diagnosis, boot, &Evidence::default()).unwrap(),
            1 => self.peers.event_log.cleared(0, diagnosis).unwrap().into_iter().collect(),
            _ => self.peers.event_log.transition(0, AcpiState::S0G0D0, "HostReport").unwrap(),
        };
        self.heard(Outcome::of(calls));
    }

    fn something_changes(&mut self, number: usize) {
        let (which, how) = (number % 9, number / 9);
        match which {
            0..3 => {
                let (service, path, interface, property, names, values) = STATES[which];
                let value = Variant::from(format!("{names}.{}", values[how % 3]));
                self.changes(&key(service, path, interface, property), value);
            }
            3 => self.changes(&key(PSU, CPU, VALUE, "Value"), Variant::F64([0.0, 80.0, f64::NAN][how % 3])),
            4 => self.changes(&slot(how % 3), Variant::Bool(how % 2 == 0)),
            5 => {
                let accepted = ["All_DIMMs", "Another"][how % 2];
                let key = key(MANAGER, &format!("{BOARD}/Curve"), STEPWISE, "MissingIsAcceptable");
                self.changes(&key, Variant::from(vec![accepted.to_owned()]));
            }
            // More than are listened to.
            7 => {
                for _ in 0..how % 300 {
                    self.changes(&key(POSTD, RAW, POSTD, "Value"), code(how));
                }
            }
            // As often as it is let have it.
            6 if self.drops[how % 2] < 5 && self.there.contains_key(FAN_CONTROL) => {
                self.drops[how % 2] += 1;
                self.changes(&key(FAN_CONTROL, ZONES[how % 2], MODE, "Manual"), Variant::Bool(false));
            }
            _ => {
                self.rival = how % 2 == 0;
                let announcer = self.there.get(HOST).cloned().unwrap_or_else(|| ":1.1".to_owned());
                self.signal(&announced(&announcer, "InterfacesAdded", ACPI_PATH, ACPI));
            }
        }
    }

    /// Nobody's word counts: not that a job has ended, that the power is off, that a name has an owner.
    fn stranger(&mut self, number: usize) {
        const WHO: &str = ":1.66";
        let before = self.told.clone();
        let how = number / 8;
        let signal = match number % 8 {
            0 => announced(WHO, "InterfacesAdded", ZONES[how % 2], MODE),
            1 => announced(WHO, "InterfacesRemoved", CPU, VALUE),
            2 => announced(WHO, "InterfacesAdded", &slot(how % 9).1, DIMM),
            3 => {
                let keys: Vec<Key> = self.values.keys().cloned().collect();
                changed(WHO, &keys[how % keys.len()], Variant::Bool(how.is_multiple_of(2)))
            }
            4 => {
                let signal = Message::signal("/org/freedesktop/DBus", BUS, "NameOwnerChanged").sender(WHO);
                signal.build(&(SERVICES[how % SERVICES.len()], "", WHO)).unwrap()
            }
            5 => {
                let Some((job, unit)) = self.jobs.get(how % self.jobs.len().max(1)) else { return };
                job_removed(WHO, job, unit)
            }
            6 => Message::signal("/", MAPPER_PRIVATE, INTROSPECTED).sender(WHO).build(&SMBIOS).unwrap(),
            _ => {
                let members = ["PropertiesChanged", "InterfacesAdded", "JobRemoved", "NameOwnerChanged"];
                let signal = Message::signal(ZONES[0], PROPERTIES, members[how % 4]);
                signal.sender([WHO, BUS][how % 2]).build(&(3_u8, "nonsense")).unwrap()
            }
        };
        self.signal(&signal);
        assert_eq!(self.told, before, "{signal:?}");
    }

    // ---- What has to hold --------------------------------------------------------------------------

    fn is_bounded(&mut self) {
        // How much each has in its memory, in characters that show it.
        let sizes = self.peers.all().map(|peer| format!("{peer:?}").len());
        assert!(sizes.iter().all(|size| *size < LARGEST), "{sizes:?}");
        let unanswered = self.sent.len() + self.late.len() + self.lost.len();
        assert!(unanswered < MOST_UNANSWERED, "{unanswered} calls without a reply");
    }

    /// All are there and answer: what is late too, and what was lost stays so.
    fn is_well(&mut self) {
        for service in SERVICES {
            self.comes(service);
        }
        let end = self.now + std::time::Duration::from_secs(1800);
        while self.now < end {
            for _ in 0..10_000 {
                if self.sent.is_empty() {
                    break;
                }
                self.deliver(Fate::Answered);
            }
            assert!(self.sent.is_empty(), "no end of calls");
            while !self.late.is_empty() {
                self.deliver_late();
            }
            while !self.jobs.is_empty() {
                self.job_ends(0);
            }
            if self.sent.is_empty() {
                let Some(at) = self.wake_at() else { return };
                self.pass(at);
            }
        }
        panic!("who has nothing to do still wakes");
    }

    fn value(
        &self,
        service: &'static str,
        path: &str,
        interface: &'static str,
        property: &'static str,
    ) -> &Variant<'static> {
        self.values.get(&key(service, path, interface, property)).unwrap()
    }

    fn all_is_said(&self) {
        let level = |host: usize| match self.wanted[host] {
            FanDemand::Free => None,
            FanDemand::Held { level: FanLevel::S2, .. } => Some(160),
            FanDemand::Held { level: FanLevel::Stall, .. } => Some(255),
        };
        let (first, both) = (level(0), level(0).max(level(1)));
        for (zone, wanted) in ZONES.into_iter().zip([both, level(1)]) {
            assert_eq!(
                *self.value(FAN_CONTROL, zone, MODE, "Manual"),
                Variant::Bool(wanted.is_some()),
                "{zone}"
            );
        }
        for (pwm, wanted) in PWM.into_iter().zip([first, both]) {
            if let Some(speed) = wanted {
                assert_eq!(*self.value(FAN_SENSOR, pwm, FAN_PWM, "Target"), Variant::U64(speed), "{pwm}");
            }
        }
        if let Some(wanted) = self.stage {
            assert_eq!(*self.value(HOST, STATES[1].1, PROGRESS, "BootProgress"), stage(wanted));
        }
        for (host, order) in self.orders.iter().enumerate() {
            let last = match order {
                None => continue,
                Some(UnitOrder::Start(Target::S0)) => format!("StartUnit s0@{host}.target"),
                Some(UnitOrder::Start(_)) => format!("StartUnit s2@{host}.target"),
                Some(UnitOrder::Restart(_)) => format!("RestartUnit s2@{host}.target"),
                Some(UnitOrder::StopAll) => format!("StopUnit s5@{host}.target"),
            };
            let of_host = self.units.iter().rev().find(|said| said.ends_with(&format!("@{host}.target")));
            assert_eq!(of_host, Some(&last));
        }
        for (unit, host) in [("a.service", 0), ("b.service", 0), ("c.service", 1)] {
            let said = self.units.iter().rev().find(|said| said.ends_with(unit)).map(String::as_str);
            let verb = said.map(|said| said.split(' ').next().unwrap() == "StopUnit");
            assert!(verb.is_none_or(|stopped| stopped == self.quiet[host]), "{said:?}");
        }
        assert!(self.open.is_empty(), "still open: {:?}", self.open);
    }

    fn all_is_known(&self) {
        let text =
            |(service, path, interface, property, ..): (
                &'static str,
                &str,
                &'static str,
                &'static str,
                &str,
                [&str; 3],
            )| { self.value(service, path, interface, property).downcast_ref::<&str>().unwrap() };
        let present = (0..3).filter(|number| self.values.get(&slot(*number)) == Some(&Variant::Bool(true)));
        let Variant::F64(watts) = self.value(PSU, CPU, VALUE, "Value") else { panic!("watts") };
        let accepted = key(MANAGER, &format!("{BOARD}/Curve"), STEPWISE, "MissingIsAcceptable");
        let accepts = self.values.get(&accepted) == Some(&Variant::from(vec!["All_DIMMs".to_owned()]));
        let is = [
            Event::Chassis(Chassis::from_dbus(text(STATES[0]))),
            Event::Host(HostState::from_dbus(text(STATES[1]))),
            Event::Os(Os::from_dbus(text(STATES[2]))),
            Event::CpuPower(Power::of(*watts)),
            Event::DimmsPresent(Some(u16::try_from(present.count()).unwrap())),
            Event::FailsafeConfig(!accepts),
        ];
        for event in is {
            let name = format!("{event:?}").split('(').next().unwrap().to_owned();
            let told = self.told.get(&(0, name));
            // Never told: as it was at first.
            let silent = matches!(event, Event::FailsafeConfig(false) | Event::CpuPower(Power::Unknown));
            assert!(told == Some(&event) || told.is_none() && silent, "{told:?} and not {event:?}");
        }
    }
}

/// Whether it is a question, and no order.
fn asks(call: &Message) -> bool {
    call.header().member().is_some_and(|member| member.as_str().starts_with("Get"))
}

fn stage(stage: BootStage) -> Variant<'static> {
    Variant::from(format!("{PROGRESS}.ProgressStages.{stage:?}"))
}

fn code(number: usize) -> Variant<'static> {
    Variant::from((number.to_le_bytes().to_vec(), Vec::<u8>::new()))
}

fn answer<B>(call: &Message, sender: &str, body: &B) -> Message
where
    B: zbus::export::serde::Serialize + zbus::DynamicType,
{
    Message::method_return(&call.header()).sender(sender).build(body).unwrap()
}

fn error(call: &Message, sender: &str, name: &str) -> Message {
    Message::error(&call.header(), name).sender(sender).build(&("no",)).unwrap()
}

fn changed(sender: &str, key: &Key, value: Variant<'static>) -> Message {
    let values: BTreeMap<&str, Variant<'_>> = [(key.3, value)].into();
    let signal = Message::signal(key.1.as_str(), PROPERTIES, "PropertiesChanged").sender(sender);
    signal.build(&(key.2, values, Vec::<&str>::new())).unwrap()
}

fn announced(sender: &str, member: &'static str, path: &str, interface: &str) -> Message {
    let path = ObjectPath::try_from(path).unwrap();
    let signal = Message::signal("/", OBJECT_MANAGER, member).sender(sender);
    if member == "InterfacesRemoved" {
        return signal.build(&(path, vec![interface])).unwrap();
    }
    let interfaces: BTreeMap<&str, BTreeMap<&str, Variant<'_>>> = [(interface, BTreeMap::new())].into();
    signal.build(&(path, interfaces)).unwrap()
}

fn job_removed(sender: &str, job: &str, unit: &str) -> Message {
    let job = ObjectPath::try_from(job).unwrap();
    let signal =
        Message::signal("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "JobRemoved");
    signal.sender(sender).build(&(1_u32, job, unit, "done")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: lives(), max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_others_do_nothing_grows_and_in_the_end_all_is_said(
        happenings in prop::collection::vec((0_u8..30, any::<u16>()), ROUNDS),
    ) {
        let mut world = World::new();
        for (round, happening) in happenings.into_iter().enumerate() {
            world.happen(happening);
            if round % 50 == 0 {
                world.is_bounded();
            }
        }
        world.is_bounded();
        world.is_well();
        world.is_bounded();
        world.all_is_said();
        world.all_is_known();
    }
}
