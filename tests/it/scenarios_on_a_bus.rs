// SPDX-License-Identifier: Apache-2.0
//! Plays `tests/scenarios/*.trace` once more: the real daemon on a real bus, among services that do and say what the trace has
//! happen. What rules 3.1 says is then seen as those services see it: who may transfer, which unit was started, what was
//! written as boot progress, what fan control was told.
//!
//! The clock stands still and is moved from one instant that matters to the next, so nothing depends on how busy this
//! machine is. `SCENARIO=09 cargo test --test it scenarios_on_a_bus::` plays those whose name contains `09`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::support::{
    hand::Hand,
    keys::{CPU, GUARD, HOST, PWM, RAW, ZONE, alarm, code, manual, progress, stage, target, watts},
    peer::{Key, Peer, key},
    private_bus::PrivateBus,
    rig::{DIMM, NAME, PATH, PATIENCE, PROPERTIES, Rig, SPD, TRACKER},
    trace::{Row, Scenario, all},
};
use acpi_stated::{
    config::{Bus, Group, Sensor, Settings, Source},
    logic::{evidence::Os, machine::Stored, time::Time},
    shell::ports::{GpioLine, GpioLines},
    shell::{
        permits::{BusPermits, Need, Permit},
        store::Places,
    },
};
use tokio::{task::JoinHandle, time::timeout};
use zbus::Variant;

/// What no service on the bus can bring about, and where it is tested instead.
const ELSEWHERE: [(&str, &str); 11] = [
    (
        "21-rule-2-equal-to-inferred.trace",
        "a transfer that a closed gate lets nobody begin: tests/it/scenarios.rs",
    ),
    (
        "21-rule-2-s2-while-off.trace",
        "a transfer that a closed gate lets nobody begin: tests/it/scenarios.rs",
    ),
    ("41-lapsed.trace", "a stalled event loop: sim/tests/it/protections.rs"),
    ("47-missing-dimm.trace", "counts of sensors: tests/it/inventory.rs"),
    ("47-missing-dimm-learned.trace", "counts of sensors: tests/it/inventory.rs"),
    ("47-missing-dimm-required.trace", "counts of sensors: tests/it/inventory.rs"),
    (
        "48-told.trace",
        "a bus that is stuck, a file, a configuration: tests/it/thermal.rs, tests/it/inventory.rs",
    ),
    ("50-found.trace", "a value that is not signalled: tests/it/trust.rs"),
    ("51-strangers.trace", "somebody else's uid: tests/it/trust.rs"),
    ("52-bus-silent.trace", "a bus that stands still: tests/it/frozen.rs"),
    (
        "49-handover-cap.trace",
        "a mux that is overtaken on its way: tests/it/scenarios.rs, sim/tests/it/spd_mux.rs",
    ),
];

const CHASSIS: &str = "/xyz/openbmc_project/state/chassis0";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const SERVICE: &str = "xyz.openbmc_project.Everything";

/// What fan control writes as the PWMs' Target by itself: above `s2_pwm`, so that the difference shows.
const AUTOMATIC: u64 = 200;
/// A line of the store is valid in this boot of the BMC.
const BOOT: &str = "this-boot";
/// The bus of the DIMMs, and one that is guarded for nobody.
const BUSES: [u32; 2] = [3, 4];

/// A power value: the property, the beginning of its values, and the names by which its owner is known.
struct Power {
    key: Key,
    values: &'static str,
    names: [&'static str; 2],
}

fn power(kind: &str) -> Power {
    match kind {
        "chassis" => Power {
            key: key(CHASSIS, "xyz.openbmc_project.State.Chassis", "CurrentPowerState"),
            values: "xyz.openbmc_project.State.Chassis.PowerState",
            names: ["xyz.openbmc_project.State.Chassis0", "xyz.openbmc_project.State.Chassis"],
        },
        "host" => Power {
            key: key(HOST, "xyz.openbmc_project.State.Host", "CurrentHostState"),
            values: "xyz.openbmc_project.State.Host.HostState",
            names: ["xyz.openbmc_project.State.Host0", "xyz.openbmc_project.State.Host"],
        },
        _ => Power {
            key: key(HOST, "xyz.openbmc_project.State.OperatingSystem.Status", "OperatingSystemState"),
            values: "xyz.openbmc_project.State.OperatingSystem.Status.OSStatus",
            names: [
                "xyz.openbmc_project.State.OperatingSystem0",
                "xyz.openbmc_project.State.OperatingSystem",
            ],
        },
    }
}

/// The SPD mux's GPIO line. Each time it is driven it takes until the trace says that the bus is there.
#[derive(Clone, Default)]
struct Mux(Arc<(Mutex<Switching>, Condvar)>);

#[derive(Default)]
struct Switching {
    /// Where to, since it was last asked.
    ordered: Vec<&'static str>,
    under_way: bool,
    over: bool,
}

impl Mux {
    fn state(&self) -> MutexGuard<'_, Switching> {
        self.0.0.lock().unwrap()
    }

    /// The bus is there now; nothing if it was not on its way.
    fn arrive(&self) {
        self.state().under_way = false;
        self.0.1.notify_all();
    }
}

impl GpioLines for Mux {
    fn line(&self, _name: &str) -> Box<dyn GpioLine> {
        Box::new(self.clone())
    }
}

impl GpioLine for Mux {
    fn drive(&mut self, high: bool) -> io::Result<()> {
        let mut state = self.state();
        state.ordered.push(if high { "mux to host" } else { "mux to bmc" });
        state.under_way = !state.over;
        drop(self.0.1.wait_while(state, |state| state.under_way));
        Ok(())
    }
}

/// CRC-32 as `docs/state.md` has it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// A file of the last life, as `docs/state.md` has it.
fn remember(directory: &Path, stored: Stored) {
    let suspicion = match (stored.reset_suspected, stored.reset_requested) {
        (_, true) => "requested",
        (true, false) => "suspected",
        (false, false) => "clear",
    };
    let boot = if stored.same_bmc_boot { BOOT } else { "an-earlier-one" };
    let firmware = stored.firmware;
    let word = firmware.word.map(|word| format!("{}/{}", word.phase.name(), word.source.name()));
    let ran_from = firmware.ran_from.map(|at| at.as_micros().to_string());
    let post = stored.post.map(|post| if post == Os::Complete { "complete" } else { "inactive" }.to_owned());
    let flags = [
        ("o", stored.off),
        ("r", stored.reported),
        ("e", firmware.early),
        ("c", stored.complete_seen),
        ("s", stored.signs_seen),
    ];
    let flags: String = flags.into_iter().filter_map(|(letter, flag)| flag.then_some(letter)).collect();
    let flags = (!flags.is_empty()).then_some(flags);
    let words = [word, ran_from, post, flags].map(|word| word.unwrap_or_else(|| "-".to_owned())).join(" ");
    let (state, device) = (stored.state.name(), stored.device.name());
    let body = format!("acpi-stated-4 1 {state} {suspicion} {boot} {device} {words} ");
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("host0"), format!("{body}{:08x}\n", crc32(body.as_bytes()))).unwrap();
}

/// A code as the host's interface has it: the bytes, and none beside them (phosphor-dbus-interfaces, State/Boot/Raw).
fn bytes_of(words: &[&str]) -> Variant<'static> {
    let bytes: Vec<u8> = words.iter().map(|word| u8::from_str_radix(word, 16).unwrap()).collect();
    Variant::from((bytes, Vec::<u8>::new()))
}

/// What phosphor-state-manager was asked to do with the host.
fn requested() -> Key {
    key(HOST, "xyz.openbmc_project.State.Host", "RequestedHostTransition")
}

fn configure(settings: &mut Settings, scenario: &Scenario, files: &Path) {
    let mut host = scenario.settings.clone();
    host.fans.zones = vec![ZONE.to_owned()];
    host.fans.pwm = vec![PWM.to_owned()];
    host.fans.guard_sensors = vec![GUARD.to_owned()];
    host.cpu_power_sensor = Some(CPU.to_owned());
    let mut sensors = vec![("CPU", Group::Thermal)];
    if host.has_dimms {
        sensors.push(("DIMM", Group::Dimm));
    }
    // A sensor's turns are multiples of its period since the start. The DIMM's is when it first answers.
    let known = scenario.rows.iter().find(|row| row.event == "dimms-known");
    let poll = known.map_or(Duration::from_secs(3600), |row| row.at.since(Time::ZERO));
    let sensor = |(name, group): (&str, Group)| Sensor {
        poll,
        // Each of a device of its own, and so with a thread of its own.
        ..Sensor::new(name.to_owned(), 0, group, Source::File(files.join(name).join("temp")))
    };
    settings.sensors = sensors.into_iter().map(sensor).collect();
    settings.hosts = vec![host];
    settings.buses = vec![Bus::new(BUSES[0], vec![0]), Bus::new(BUSES[1], Vec::new())];
}

/// The board around one daemon.
struct World {
    rig: Rig,
    hand: &'static Hand,
    /// All services at once: what they hear has one order.
    peer: Peer,
    /// As the pollers of the two buses have them.
    permits: [&'static BusPermits; 2],
    /// Whether a transfer is under way whenever the gate closes; and that one.
    busy: bool,
    held: Option<Permit<'static>>,
    mux: Mux,
    sets: Vec<JoinHandle<zbus::Result<zbus::Message>>>,
    diagnoses: BTreeSet<String>,
    boots: u32,
}

/// What is compared of a row, by name.
type Columns = BTreeMap<&'static str, String>;

impl World {
    async fn start(scenario: &Scenario) -> Self {
        let bus = PrivateBus::start().expect("a private bus");
        let [state, memory] = ["state", "memory"].map(|name| bus.dir().join(name));
        let files = bus.dir().to_owned();
        for directory in [&memory, &files.join("CPU"), &files.join("DIMM")] {
            fs::create_dir(directory).unwrap();
        }
        if let Some(stored) = scenario.stored {
            for directory in [&state, &memory] {
                remember(directory, stored);
            }
        }
        fs::write(files.join("CPU/temp"), "41500\n").unwrap();
        let values = [
            (manual(), Variant::Bool(false)),
            (target(), Variant::U64(AUTOMATIC)),
            (alarm(), Variant::Bool(false)),
            (watts(), Variant::F64(f64::NAN)),
            (progress(), stage("Unspecified")),
            (code(), bytes_of(&["00"])),
        ];
        let peer = Peer::start(bus.address(), &[SERVICE, SYSTEMD], values).await;
        peer.knows(&[ZONE, PWM, GUARD, CPU, HOST, RAW].map(|path| (path, SERVICE)));
        peer.own(acpi_doubles::mapper::NAME).await;
        let (clock, hand) = Hand::with_clock();
        let places = Places::new(state).and_in_memory(Some(memory)).in_boot(BOOT);
        let mux = Mux::default();
        let gpio = Arc::new(mux.clone());
        let change = |settings: &mut Settings| configure(settings, scenario, &files);
        let rig = Rig::living_by(clock, bus, Some(places), gpio, change).await;
        // A held permit borrows from it; a few bytes for each scenario.
        let permits = BUSES.map(|bus| &*Box::leak(Box::new(rig.permits.bus(bus).expect("a bus"))));
        let (sets, diagnoses) = (Vec::new(), BTreeSet::new());
        let world =
            Self { rig, hand, peer, permits, busy: false, held: None, mux, sets, diagnoses, boots: 0 };
        world.settle().await;
        world
    }

    /// Returns when all that was said has had its effect: the daemon has been through its event loop, and nobody had to be
    /// asked or told anything more.
    async fn settle(&self) {
        let name = self.peer.unique_name();
        let mut before = self.peer.served();
        // What comes due with the first question is done before the second is answered.
        self.history().await;
        let mut quiet = false;
        while !quiet {
            self.history().await;
            // It answers anything.
            let ping = self.rig.client.call_method(Some(name.as_str()), "/", Some("a.b"), "Ping", &());
            ping.await.expect("an answer");
            let now = self.peer.served();
            quiet = now == before + 1;
            before = now;
        }
    }

    /// A question that is answered by the event loop.
    async fn history(&self) {
        let call = self.rig.client.call_method(Some(NAME), PATH, Some(TRACKER), "GetHistory", &1_u32);
        timeout(PATIENCE, call).await.expect("in time").expect("an answer");
    }

    /// Lets time pass, one instant that matters after the other.
    async fn pass(&self, until: Time) {
        for moves in 0.. {
            assert!(moves < 10_000, "no end of instants");
            let now = self.hand.move_towards(until);
            self.settle().await;
            self.regulate().await;
            if now >= until {
                return;
            }
        }
    }

    /// Fan control's own loop: while nobody holds the zone, it writes its Target.
    async fn regulate(&self) {
        if self.peer.value(&manual()) == "false" && self.peer.value(&target()) != AUTOMATIC.to_string() {
            self.peer.change(target(), Variant::U64(AUTOMATIC)).await;
            self.settle().await;
        }
    }

    async fn happen(&mut self, event: &str) {
        let words: Vec<_> = event.split(' ').collect();
        match words[..] {
            ["tick" | "dimms-known"] => {}
            ["busy"] => self.busy = true,
            ["drained"] => self.busy = false,
            ["gone", kind] => self.power_gone(kind).await,
            [kind @ ("chassis" | "host" | "os"), value] => self.power_is(kind, value).await,
            ["set", state] => self.set("SysACPIStatus", state),
            ["set-device", state] => self.set("DevACPIStatus", state),
            ["guard-alarm"] => {
                self.peer.change(alarm(), Variant::Bool(true)).await;
                self.peer.change(alarm(), Variant::Bool(false)).await;
            }
            ["progress", value] => self.peer.change(progress(), stage(value)).await,
            ["request", value] => {
                let value = format!("xyz.openbmc_project.State.Host.Transition.{value}");
                self.peer.change(requested(), Variant::from(value)).await;
            }
            ["code", ref bytes @ ..] => self.peer.change(code(), bytes_of(bytes)).await,
            ["cpu", value] => self.peer.change(watts(), Variant::F64(value.parse().unwrap())).await,
            ["rival", there] => {
                let rival = (there == "appears").then_some("xyz.openbmc_project.Settings");
                self.peer.lists([NAME].into_iter().chain(rival).map(|service| (PATH, service, NAME)));
                self.peer.introspected("xyz.openbmc_project.Settings").await;
            }
            ["quiesced"] => self.peer.job_removed().await,
            ["mux-at-host" | "mux-at-bmc"] => self.mux.arrive(),
            _ => panic!("this cannot be made to happen on the bus: {event}"),
        }
        self.settle().await;
        self.regulate().await;
    }

    /// Its first value comes with its service; a later one is signalled.
    async fn power_is(&self, kind: &str, value: &str) {
        let Power { key, values, names } = power(kind);
        let value = Variant::from(format!("{values}.{value}"));
        let known = !self.peer.value(&key).is_empty();
        // One connection has them all: where the host is known, another name of it is no news.
        if known || kind == "os" {
            self.peer.change(key, value).await;
        } else {
            self.peer.change_silently(key, &value);
        }
        for name in if known { &[][..] } else { &names[..] } {
            self.peer.own(name).await;
        }
    }

    async fn power_gone(&self, kind: &str) {
        let Power { key, names, .. } = power(kind);
        self.peer.invalidate(&key).await;
        self.peer.disown(&names).await;
    }

    fn set(&mut self, property: &'static str, state: &str) {
        let value = Variant::from(format!("{NAME}.ACPI.{state}"));
        let client = self.rig.client.clone();
        self.sets.push(tokio::spawn(async move {
            client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Set", &(NAME, property, value)).await
        }));
    }

    /// Plays a row; what it should look like, and what it looks like.
    #[allow(clippy::too_many_lines, reason = "one column after another")]
    async fn play(&mut self, row: &Row) -> (Columns, Columns) {
        self.happen(&row.event).await;
        if !self.busy {
            self.held = None;
            self.settle().await;
            self.regulate().await;
        } else if self.held.is_none() {
            self.held = self.permits[0].try_acquire(DIMM, SPD).ok();
        }
        if row.event.starts_with("mux") || row.expected[8].contains("mux to") {
            self.mux_follows(row).await;
        }
        let answered = self.sets.iter().filter(|set| set.is_finished()).count();
        self.sets.retain(|set| !set.is_finished());
        let [state, cause, gate, dimm, thermal, fans, unit, progress, also] = &row.expected[..] else {
            panic!("nine columns")
        };
        let also: Vec<&str> = also.split(", ").collect();
        let raised = |word| also.iter().find_map(|said| said.strip_prefix(word)).unwrap_or_default();
        self.diagnoses.extend(raised("raised ").split_whitespace().map(str::to_owned));
        for over in raised("cleared ").split_whitespace() {
            self.diagnoses.remove(over);
        }
        // Whoever waits for a transfer in vain says so; the machine alone does not know why it waited.
        if also.contains(&"drain-timeout") {
            self.diagnoses.insert("BusStuck".to_owned());
        } else if row.event == "drained" {
            self.diagnoses.remove("BusStuck");
        }
        self.boots += u32::from(also.contains(&"boot begins"));

        let (mut want, mut got) = (Columns::new(), Columns::new());
        let mut compare = |name, wanted: String, seen: String| {
            want.insert(name, wanted);
            got.insert(name, seen);
        };
        // During a barrier Get returns what was, and nothing else has been told to anybody.
        let draining = !self.sets.is_empty();
        let published = state.split_once(" (").map_or(state.as_str(), |(_, old)| old.trim_end_matches(')'));
        compare("state", published.to_owned(), self.word(NAME, "SysACPIStatus").await);
        compare("dimm", dimm.clone(), may(self.permits[0], DIMM).to_owned());
        compare("thermal", thermal.clone(), may(self.permits[1], Need::Power(0)).to_owned());
        compare("unit", units(unit, &also), self.told_systemd());
        let muxes: Vec<_> = also.iter().copied().filter(|said| said.starts_with("mux")).collect();
        compare("mux", muxes.join(", "), std::mem::take(&mut self.mux.state().ordered).join(", "));
        let sets = self.peer.take_sets();
        let stages: Vec<_> = sets.iter().filter_map(|set| set.strip_prefix("host0 BootProgress=")).collect();
        compare("progress", progress.trim_matches('.').to_owned(), stages.join(", "));
        // `DevACPIStatus` waits for nothing.
        let own =
            usize::from(row.event.starts_with("set-device") || row.event.starts_with("set") && !draining);
        let answers = raised("answers ").parse().unwrap_or(0);
        compare("answered", (answers + own).to_string(), answered.to_string());
        compare("waits", (also.contains(&"waits") || state.contains('(')).to_string(), draining.to_string());
        if let Some(device) = also.iter().find_map(|said| said.strip_prefix("dev ")) {
            compare("device", device.to_owned(), self.word(NAME, "DevACPIStatus").await);
        }
        let told_fans = sets.iter().any(|set| set.starts_with("zone0") || set.starts_with("Pwm_1"));
        if draining {
            compare("fans are told during a barrier", false.to_string(), told_fans.to_string());
        } else {
            let reasons = self.rig.reasons().await;
            let open = if reasons.is_empty() { "open".to_owned() } else { reasons.join("+") };
            compare("gate", gate.clone(), open);
            let value = self.rig.get(TRACKER, "GateOpen").await.unwrap();
            compare("GateOpen", (gate == "open").to_string(), bool::try_from(value).unwrap().to_string());
            compare("cause", cause.clone(), self.rig.cause().await.unwrap());
            compare("fans", speed(fans), self.fans());
            let raised: BTreeSet<_> = self.rig.diagnoses().await.into_iter().collect();
            compare("diagnoses", format!("{:?}", self.diagnoses), format!("{raised:?}"));
            let value = self.rig.get(TRACKER, "BootCount").await.unwrap();
            compare("boots", self.boots.to_string(), u32::try_from(value).unwrap().to_string());
            if also.contains(&"assert") && fans != "free" {
                let again = sets.iter().any(|set| set == "zone0 Manual=true");
                compare("assert", "true".to_owned(), again.to_string());
            }
        }
        (want, got)
    }

    /// The mux has a thread of its own, which is not waited for otherwise.
    async fn mux_follows(&self, row: &Row) {
        let [_, _, _, dimm, .., also] = &row.expected[..] else { panic!("nine columns") };
        let began = Instant::now();
        let ordered = |also: &str| also.matches("mux to").count();
        while (self.mux.state().ordered.len() < ordered(also)
            || may(self.permits[0], DIMM) != dimm
            || also.contains("answers") && self.sets.iter().any(|set| !set.is_finished()))
            && began.elapsed() < PATIENCE
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.settle().await;
    }

    async fn word(&self, interface: &str, property: &str) -> String {
        self.rig.word(interface, property).await.unwrap_or_default()
    }

    /// What fan control does with the DIMM zone's fans.
    fn fans(&self) -> String {
        if self.peer.value(&manual()) == "true" { self.peer.value(&target()) } else { "free".to_owned() }
    }

    /// What systemd was told since the last row.
    fn told_systemd(&self) -> String {
        let order = |(member, strings): (String, Vec<String>)| {
            let word = member.strip_suffix("Unit")?.to_lowercase();
            Some(format!("{word} {}", strings.first()?))
        };
        sorted(self.peer.take_calls().into_iter().filter_map(order))
    }
}

fn may(bus: &BusPermits, need: Need) -> &'static str {
    if bus.is_open(need) { "read" } else { "n/a" }
}

fn sorted(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<_> = words.collect();
    words.sort();
    words.join(", ")
}

/// The unit column, in systemd's words: host 0 has its own targets and the plain ones.
fn units(column: &str, also: &[&str]) -> String {
    let orders = column.trim_matches('.').split(", ").filter(|order| !order.is_empty());
    let each = orders.flat_map(|order| match order.split_once(' ') {
        Some(("stop", "all")) => vec![("stop", "s0"), ("stop", "s2"), ("stop", "s5")],
        Some(one) => vec![one],
        None => panic!("no order: {order}"),
    });
    let targets = each.flat_map(|(word, state)| {
        ["", "@0"].map(|instance| format!("{word} host-{state}-state{instance}.target"))
    });
    let other = also.iter().filter_map(|said| match *said {
        "quiesce" => Some("stop other.service".to_owned()),
        "unquiesce" => Some("start other.service".to_owned()),
        _ => None,
    });
    sorted(targets.chain(other))
}

impl Drop for World {
    /// Nothing holds up the daemon's end.
    fn drop(&mut self) {
        self.mux.state().over = true;
        self.mux.arrive();
    }
}

/// The fans column, as the PWMs' Target.
fn speed(column: &str) -> String {
    match column {
        "free" => "free".to_owned(),
        "s2" => "160".to_owned(),
        "s2+" => AUTOMATIC.to_string(),
        "stall" | "stall+" => "255".to_owned(),
        _ => panic!("no such speed: {column}"),
    }
}

/// Plays a scenario to its end; says every row that differs.
async fn play(scenario: &Scenario) -> Vec<String> {
    let mut world = World::start(scenario).await;
    let mut faults = Vec::new();
    for row in &scenario.rows {
        let dimm = world.rig.bus.dir().join("DIMM/temp");
        if row.event == "dimms-known" {
            // It answers from this very instant on.
            world.pass(Time::from_micros(row.at.as_micros() - 1)).await;
            fs::write(dimm, "30000\n").unwrap();
        } else if !world.permits[0].is_open(DIMM) {
            drop(fs::remove_file(dimm));
        }
        world.pass(row.at).await;
        let (want, mut got) = world.play(row).await;
        // A bus thread is not waited for.
        let began = Instant::now();
        while row.event == "dimms-known" && want["fans"] != got["fans"] && began.elapsed() < PATIENCE {
            world.settle().await;
            got.insert("fans", world.fans());
        }
        for (name, wanted) in &want {
            if got[name] != *wanted {
                let (line, event, seen) = (row.line, &row.event, &got[name]);
                faults.push(format!("line {line}: {event}: {name} is {seen:?}, and not {wanted:?}"));
            }
        }
    }
    faults
}

#[tokio::test]
async fn every_scenario_goes_as_written_on_a_bus() {
    let only = std::env::var("SCENARIO").unwrap_or_default();
    let elsewhere = |name: &str| ELSEWHERE.iter().any(|(other, _)| name == *other);
    let (mut faults, mut played) = (String::new(), 0);
    let scenarios = all();
    for (other, _) in ELSEWHERE {
        assert!(scenarios.iter().any(|(name, _)| name == other), "{other} is no scenario");
    }
    for (name, scenario) in scenarios.iter().filter(|(name, _)| name.contains(&only) && !elsewhere(name)) {
        played += 1;
        for fault in play(scenario).await {
            writeln!(faults, "{name}, {fault}").unwrap();
        }
    }
    println!("{played} scenarios on a bus");
    assert!(faults.is_empty(), "\n{faults}");
}
