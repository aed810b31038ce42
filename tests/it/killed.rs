// SPDX-License-Identifier: Apache-2.0
//! SIGKILL at random moments of a host's power cycles: the next life of the daemon knows the true state or says that it
//! does not, and the gate is never open when it must not be, from the first life to the last.
//!
//! Once with the real program; once with the library in a process of its own (this test, started again) whose clock runs
//! fast, so that the gate does open, and whose permits are tried all the time.
//!
//! `ACPI_SEED` repeats a run's choices, though not its timing. With `ACPI_FULL` there are ten times as many (`./dev full`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    env, fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::support::{
    power::PowerDouble,
    private_bus::PrivateBus,
    rig::{DIMM, NAME, PATH, PATIENCE, PROPERTIES, SPD, TRACKER, connect, until_gone},
};
use acpi_stated::{
    config::{Bus, Settings},
    daemon::Daemon,
    shell::{clock::Clock, store::Places, supervisor::Supervisor},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::{runtime, time::timeout};
use zbus::{Connection, Variant};

/// `settle` is 25 ms, `host_off` 50 ms, `restore_settle` 4.5 s.
const SPEED: u32 = 400;
const SETTLE: u64 = 10_000_000_000 / SPEED as u64;
/// A life of the daemon, at most, once it is up; about as long as a power cycle.
const LIFE_US: u64 = 90_000;

/// Nanoseconds of a clock that all processes share.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).expect("after boot") * 1_000_000_000
        + u64::try_from(now.tv_nsec).expect("positive")
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed: u64 = match env::var("ACPI_SEED") {
            Ok(seed) => seed.parse().expect("ACPI_SEED is a number"),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").subsec_nanos().into(),
        };
        println!("ACPI_SEED={seed}");
        Self(seed | 1 << 40)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn micros(&mut self, bound: u64) -> Duration {
        Duration::from_micros(self.below(bound))
    }
}

// ---- The daemon ------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq)]
enum What {
    Program,
    Fast,
}

/// One life.
struct Life {
    child: Child,
    began: u64,
    /// When its gate was found open.
    opened: JoinHandle<Vec<u64>>,
}

impl Life {
    fn begin(what: What, bus: &PrivateBus) -> Self {
        let [state, memory] = places(bus.dir());
        let mut command = match what {
            What::Program => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_acpi-stated"));
                command.args(["--bus", bus.address()]).env("STATE_DIRECTORY", state);
                command.env("RUNTIME_DIRECTORY", memory).stderr(Stdio::null());
                command
            }
            What::Fast => {
                let mut command = Command::new(env::current_exe().expect("the test binary"));
                command.args(["--exact", "killed::the_library_with_a_gate_that_opens", "--nocapture"]);
                command.env("ACPI_KILLED_BUS", bus.address()).env("ACPI_KILLED_DIR", bus.dir());
                command
            }
        };
        let began = now();
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the daemon can be started");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let opened = std::thread::spawn(move || {
            // What was being written when it was killed may be cut short.
            let lines = said
                .split(b'\n')
                .map_while(Result::ok)
                .map(|line| String::from_utf8_lossy(&line).into_owned());
            lines.filter_map(|line| line.strip_prefix("open ")?.strip_suffix('.')?.parse().ok()).collect()
        });
        Self { child, began, opened }
    }

    /// Ends it at once, and says when its gate was found open.
    fn kill(mut self) -> (u64, Vec<u64>) {
        self.child.kill().expect("it runs until it is killed");
        self.child.wait().expect("it ended");
        (self.began, self.opened.join().expect("lines"))
    }
}

fn places(dir: &Path) -> [PathBuf; 2] {
    ["state", "memory"].map(|name| dir.join(name))
}

/// What the started process does: the daemon, and a thread that transfers whenever it may.
fn be_the_daemon(address: &str) {
    let dir = PathBuf::from(env::var_os("ACPI_KILLED_DIR").expect("set by the test"));
    let [state, memory] = places(&dir);
    std::thread::spawn(|| {
        // It does not outlive the test.
        std::io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
        std::process::exit(1);
    });
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let connection = connect(address).await;
        let mut settings = Settings::default();
        settings.buses.push(Bus::new(3, vec![0]));
        // S0 follows S2 at once.
        settings.hosts[0].timing.min_post = Duration::ZERO;
        let daemon = Daemon::new(settings, Clock::scaled(SPEED), connection, Supervisor::silent())
            .with_places(Places::new(state).and_in_memory(Some(memory)));
        let dimms = daemon.permits().bus(3).expect("bus 3");
        std::thread::spawn(move || {
            loop {
                let permit = dimms.try_acquire(DIMM, SPD);
                if permit.is_ok() {
                    println!("open {}.", now());
                }
                std::thread::sleep(Duration::from_micros(200));
                drop(permit);
            }
        });
        daemon.run(std::future::pending()).await.expect("it runs until it is killed");
    });
}

// ---- The host --------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    Set(&'static str),
    HostOff,
    ChassisOff,
    PowerOn,
}

/// A working state whose host has left Running.
const SUSPECTED: &str = "S0_G0_D0, suspected";

struct Host {
    client: Connection,
    power: PowerDouble,
    runs: bool,
    powered: bool,
    /// What the daemon may know; one value but for what it is being told just now.
    known: BTreeSet<&'static str>,
    /// When the gate must not have been open, and since when it must not be.
    forbidden: Vec<(u64, u64)>,
    forbidden_since: Option<u64>,
}

impl Host {
    /// What the next life may know, by rule 6.
    fn restored(&self) -> BTreeSet<&'static str> {
        let some = |known: &&'static str| match (*known, self.powered, self.runs) {
            (_, false, _) => vec!["S5_G2"],
            (SUSPECTED, true, false) => vec!["S0_G0_D0"],
            (SUSPECTED, true, true) => vec!["S2_D2"],
            // Stored without power: another boot. Stored under power: rule 4, and a little later rule 5.
            ("S5_G2", true, true) => vec!["Unknown", "S5_G2", "S2_D2"],
            (known, true, _) => vec![known],
        };
        let mut all: BTreeSet<_> = self.known.iter().flat_map(some).collect();
        if self.powered && !self.runs {
            // `host_off` may pass before anyone asks.
            all.insert("S5_G2");
        }
        all
    }

    async fn take(&mut self, step: Step) -> zbus::Result<()> {
        let after = match step {
            Step::Set("S0_G0_D0") => {
                self.forbidden.extend(self.forbidden_since.take().map(|since| (since, now())));
                BTreeSet::from(["S0_G0_D0"])
            }
            Step::Set(state) => BTreeSet::from([state]),
            Step::HostOff => BTreeSet::from([SUSPECTED, "S5_G2"]),
            Step::ChassisOff => BTreeSet::from(["S5_G2"]),
            // Where power was seen to be off.
            Step::PowerOn => self.known.iter().copied().chain(["S2_D2"]).collect(),
        };
        self.known.extend(&after);
        match step {
            Step::Set(state) => {
                let value = Variant::from(format!("{NAME}.ACPI.{state}"));
                let arguments = (NAME, "SysACPIStatus", value);
                self.client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Set", &arguments).await?;
            }
            Step::HostOff => {
                self.runs = false;
                self.power.host("Off").await.expect("a signal");
                self.heard().await?;
            }
            Step::ChassisOff => {
                self.powered = false;
                self.power.chassis("Off").await.expect("a signal");
                self.heard().await?;
            }
            Step::PowerOn => {
                (self.runs, self.powered) = (true, true);
                self.power.host("Running").await.expect("a signal");
                self.power.chassis("On").await.expect("a signal");
                self.heard().await?;
            }
        }
        self.known = after;
        if step != Step::Set("S0_G0_D0") {
            self.forbidden_since.get_or_insert(now());
        }
        Ok(())
    }

    /// Returns when the daemon has acted on all that the power control said: this question comes behind it.
    async fn heard(&self) -> zbus::Result<()> {
        self.power.said().await.expect("the bus");
        self.client.call_method(Some(NAME), PATH, Some(TRACKER), "GetHistory", &0_u32).await.map(drop)
    }

    /// What the daemon says it is, once rule 6 has decided.
    async fn decided(&self) -> String {
        let began = Instant::now();
        loop {
            if let Ok(all) = self.client.call_method(Some(NAME), PATH, Some(PROPERTIES), "GetAll", &"").await
            {
                let body = all.body();
                let mut all: BTreeMap<String, Variant<'_>> = body.deserialize().expect("properties");
                let mut take = |name: &str| all.remove(name).expect(name);
                let reasons = Vec::<String>::try_from(take("GateReasons")).expect("strings");
                let open = bool::try_from(take("GateOpen")).expect("a boolean");
                assert_eq!(open, reasons.is_empty());
                let state = String::try_from(take("SysACPIStatus")).expect("a string");
                let state = state.rsplit('.').next().expect("a name").to_owned();
                if !reasons.iter().any(|reason| reason == "EvidenceMissing") {
                    return state;
                }
                // The record is shown at once.
                let remembered = |known: &&str| known.starts_with(&state);
                let known = state == "Unknown" || self.known.iter().any(remembered);
                assert!(
                    known || self.restored().contains(state.as_str()),
                    "it says {state} before it can know"
                );
            }
            assert!(began.elapsed() < PATIENCE, "the daemon does not come up");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[allow(clippy::too_many_lines, reason = "one life after another")]
async fn kill_and_look(what: What) {
    let kills = if env::var_os("ACPI_FULL").is_some() { 2000 } else { 200 };
    let mut random = Random::seeded();
    let bus = PrivateBus::start().expect("a private bus");
    fs::create_dir(bus.dir().join("memory")).expect("a directory");
    let client = connect(bus.address()).await;
    let power = PowerDouble::start(bus.address(), "On", "Running", "").await.expect("a power control");
    let mut host = Host {
        client,
        power,
        runs: true,
        powered: true,
        known: BTreeSet::from(["Unknown"]),
        forbidden: Vec::new(),
        forbidden_since: Some(now()),
    };
    let mut script = VecDeque::from([Step::Set("S2_D2"), Step::Set("S0_G0_D0")]);
    let (mut killed_in, mut came_back) = (BTreeMap::new(), BTreeMap::new());
    let mut lives = Vec::new();
    for kill in 0..=kills {
        let life = Life::begin(what, &bus);
        let state = host.decided().await;
        let allowed = host.restored();
        let state = allowed.get(state.as_str()).unwrap_or_else(|| {
            panic!("after {kill} kills it comes back as {state}; known was {:?}, so {allowed:?}", host.known)
        });
        let suspected = host.powered && !host.runs && *state == "S0_G0_D0";
        host.known = BTreeSet::from([if suspected { SUSPECTED } else { state }]);
        *came_back.entry(*state).or_insert(0) += 1;

        let (_ask, time_is_up) = mpsc::channel::<()>();
        let after = random.micros(LIFE_US);
        let executioner = std::thread::spawn(move || {
            // Either the time comes or nobody waits for it any more.
            time_is_up.recv_timeout(after).unwrap_or_default();
            life.kill()
        });
        let died_in = loop {
            let Some(step) = script.front().copied() else {
                let off = [Step::HostOff, Step::ChassisOff, Step::PowerOn];
                script.extend(off.into_iter().filter(|_| kill % 3 != 0));
                script.extend([Step::Set("S2_D2"), Step::Set("S0_G0_D0")]);
                continue;
            };
            match timeout(PATIENCE, host.take(step)).await.expect("an answer or an end") {
                Ok(()) => script.pop_front(),
                Err(_) => break Some(step),
            };
            let dwell = if step == Step::Set("S0_G0_D0") { 60_000 } else { 8_000 };
            tokio::time::sleep(random.micros(dwell)).await;
            if executioner.is_finished() {
                break None;
            }
        };
        *killed_in.entry(format!("{died_in:?}")).or_insert(0) += 1;
        let killed =
            tokio::task::spawn_blocking(|| executioner.join().expect("killed")).await.expect("killed");
        lives.push(killed);
        until_gone(&host.client, PATIENCE).await;
    }
    host.forbidden.extend(host.forbidden_since.map(|since| (since, now())));

    let opened = lives.iter().filter(|(_, opened)| !opened.is_empty()).count();
    println!(
        "came back as {came_back:?}\nkilled in {killed_in:?}\nopen in {opened} of {} lives",
        lives.len()
    );
    for (began, opened) in &lives {
        for at in opened {
            assert!(at - began >= SETTLE, "open {} ns after its start", at - began);
            let wrong = host.forbidden.iter().find(|(since, until)| since < at && at < until);
            assert!(wrong.is_none(), "open {} ns after it had to be closed", at - wrong.expect("one").0);
        }
    }
    // Without these it would have shown nothing.
    assert!(came_back.len() >= 4, "{came_back:?}");
    assert!(killed_in.len() >= 4, "{killed_in:?}");
    assert!(what == What::Program || opened * 10 >= lives.len(), "open in {opened} lives");
}

#[tokio::test]
async fn the_program_killed_at_any_moment_comes_back_with_the_truth() {
    kill_and_look(What::Program).await;
}

#[test]
fn the_library_with_a_gate_that_opens() {
    if let Ok(address) = env::var("ACPI_KILLED_BUS") {
        return be_the_daemon(&address);
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(kill_and_look(What::Fast));
}
