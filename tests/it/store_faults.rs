// SPDX-License-Identifier: Apache-2.0
//! Each system call by which the real program remembers a host fails, or is the last that it makes: the next life never opens
//! the gate in POST.
//!
//! Life 1 is in S0 with its gate open. The host reports S2, which is answered while strace has one call of the store fail, or
//! kills the program there; then it is killed. In life 2 nothing fails any more, and the host is in POST. Which calls there
//! are, a life without a fault shows first.
//!
//! Without `ACPI_FULL` one error of each call; with it all. strace must be able to trace: where it cannot, this fails.

use std::{
    collections::{BTreeMap, VecDeque},
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::support::{power::PowerDouble, private_bus::PrivateBus, rig::until_gone};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{runtime, time::timeout};
use zbus::{Connection, Variant, connection::Builder};

const NAME: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
const PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Every other time is as shipped.
const CONFIG: &str = r#"{ "hosts": [{ "id": 0, "timing": { "settle": 0.05 } }] }"#;
/// Some times `settle`, counted from when the daemon has decided what the host is.
const WATCHED: Duration = Duration::from_millis(300);
/// Whatever goes on behind an answer has gone on for this long, or has come to its end.
const QUIET: Duration = Duration::from_millis(80);
/// At once, since nearly all of their time they wait.
const WORKERS: usize = 6;

/// By which anything is remembered; one that a machine does not have is no mistake.
const CALLS: &str =
    "?open,openat,read,write,pwrite64,fsync,?rename,?renameat,?renameat2,?unlink,?unlinkat,ftruncate";
const ERRORS: [&str; 6] = ["ENOSPC", "EIO", "EROFS", "EMFILE", "EACCES", "ENOMEM"];

// ---- The attacks -----------------------------------------------------------------------------------

/// One of the two places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    Memory,
    Storage,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Then {
    /// Killed as soon as S2 is answered.
    AtOnce,
    /// Killed when what follows has been done as far as it can be.
    Later,
}

/// What is done to one life, and how the next one finds the two places.
#[derive(Clone, Debug)]
struct Attack {
    /// The line of the table that it counts for.
    kind: String,
    memory: bool,
    place: Place,
    /// As strace has them.
    injections: Vec<String>,
    then: Then,
    /// Life 2 cannot write either.
    stays: bool,
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = if self.memory { "with" } else { "without" };
        let stays = if self.stays { ", and it stays so" } else { "" };
        write!(
            f,
            "{} {memory} memory: {:?} {:?}, killed {:?}{stays}",
            self.kind, self.place, self.injections, self.then
        )
    }
}

/// How often any thread made each call, in each place.
type Calls = BTreeMap<(Place, String), usize>;

/// Every call that was seen, with every error, once and from then on; and as the last call of the program.
fn attacks(memory: bool, calls: &Calls, full: bool) -> Vec<Attack> {
    let mut all = Vec::new();
    let mut add = |kind: &str, place, injections: Vec<String>, then, stays| {
        all.push(Attack { kind: kind.to_owned(), memory, place, injections, then, stays });
    };
    let each = calls.iter().flat_map(|((place, call), count)| (1..=*count).map(move |n| (*place, call, n)));
    for (turn, (place, call, n)) in each.enumerate() {
        for (choice, then) in [Then::AtOnce, Then::Later].into_iter().enumerate() {
            if then == Then::Later {
                add("killed at a call", place, vec![format!("{call}:signal=SIGKILL:when={n}")], then, false);
            }
            for (number, error) in ERRORS.into_iter().enumerate() {
                let chosen = turn % ERRORS.len() == number && (turn + turn / ERRORS.len()) % 2 == choice;
                if full || chosen {
                    add(error, place, vec![format!("{call}:error={error}:when={n}")], then, false);
                }
                if full {
                    let on = format!("{error}, from then on");
                    add(&on, place, vec![format!("{call}:error={error}:when={n}+")], then, false);
                }
            }
        }
    }
    let unlink = if calls.keys().any(|(_, call)| call == "unlinkat") { "unlinkat" } else { "unlink" };
    let count = |place, call: &str| calls.get(&(place, call.to_owned())).copied().unwrap_or_default();
    let errors = if full { &ERRORS[..] } else { &["EROFS"] };
    for error in errors {
        let after = |place, call: &str| format!("{call}:error={error}:when={}+", count(place, call) + 1);
        // The host's S2 is the last that is written.
        let last = |call: &str| format!("{call}:error={error}:when={}+", count(Place::Memory, call).max(1));
        if memory {
            let place = Place::Memory;
            let mut injections = vec![last("pwrite64"), after(place, unlink)];
            for then in [Then::AtOnce, Then::Later] {
                add("memory neither written nor removed", place, injections.clone(), then, false);
            }
            injections.push(after(place, "ftruncate"));
            add("nor emptied", place, injections.clone(), Then::Later, false);
            injections.extend(["fsync", "rename"].map(|call| format!("{call}:error={error}:when=1+")));
            add("neither place can be written", Place::Both, injections, Then::Later, true);
        } else {
            let injections = vec![
                format!("fsync:error={error}:when=1+"),
                format!("{unlink}:error={error}:when=1+"),
                format!("ftruncate:error={error}:when=1+"),
            ];
            add("storage neither written nor removed", Place::Storage, injections, Then::Later, false);
        }
    }
    all
}

// ---- Lives -----------------------------------------------------------------------------------------

/// A bus with a host that runs, and the program's files.
struct Bench {
    runtime: runtime::Runtime,
    bus: PrivateBus,
    client: Connection,
    _power: PowerDouble,
    memory: bool,
}

/// What came of an attack.
#[derive(Clone, Debug)]
struct Outcome {
    /// The host was told that it is in S2.
    answered: bool,
    /// A call was hit.
    hit: bool,
    /// What life 2 said it was.
    state: String,
    /// The gate was open in it.
    opened: bool,
}

struct Life {
    child: Child,
    /// The program itself, where strace is the child.
    traced: bool,
}

impl Life {
    fn pid(&self) -> Option<Pid> {
        if !self.traced {
            return Some(Pid::from_child(&self.child));
        }
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        Pid::from_raw(fs::read_to_string(children).ok()?.trim().parse().ok()?)
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    fn kill(mut self) {
        if let Some(pid) = self.pid() {
            // It may be dead.
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
        let began = Instant::now();
        while !self.has_ended() {
            if began.elapsed() > PATIENCE {
                // Its tracees die with it.
                self.child.kill().expect("it runs");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Bench {
    fn new() -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let bus = PrivateBus::start().expect("a private bus");
        let (client, power) = runtime.block_on(async {
            let client = Builder::address(bus.address()).build().await.expect("the private bus");
            let power = PowerDouble::start(bus.address(), "On", "Running", "").await;
            (client, power.expect("a power control"))
        });
        fs::write(bus.dir().join("config.json"), CONFIG).expect("written");
        Self { runtime, bus, client, _power: power, memory: false }
    }

    fn at(&self, name: &str) -> PathBuf {
        // strace compares paths as the kernel has them.
        fs::canonicalize(self.bus.dir()).expect("a directory").join(name)
    }

    /// Both places as a healthy life left them that ended in S0; without memory there is one only.
    fn furnish(&mut self, seed: Option<&Path>, memory: bool) {
        self.memory = memory;
        for name in ["state", "run"] {
            let directory = self.at(name);
            fs::remove_dir_all(&directory).unwrap_or_default();
            fs::create_dir(&directory).expect("a directory");
            if let Some(seed) = seed {
                fs::copy(seed.join(name), directory.join("host0")).expect("a record");
            }
        }
    }

    fn paths(&self, place: Place) -> Vec<PathBuf> {
        let of = |directory: &str| {
            let directory = self.at(directory);
            let files = ["host0", "host0.new", "host0.bad", "probe"].map(|name| directory.join(name));
            files.into_iter().chain([directory])
        };
        match place {
            Place::Memory => of("run").collect(),
            Place::Storage => of("state").collect(),
            Place::Both => of("run").chain(of("state")).collect(),
        }
    }

    /// The program; under strace, if that is to do anything to it.
    fn begin(&self, traced: Option<(Place, &[String])>) -> Life {
        let program = env!("CARGO_BIN_EXE_acpi-stated");
        let mut command = match traced {
            None => Command::new(program),
            Some((place, injections)) => {
                let mut command = Command::new("strace");
                command.args(["-f", "-qq", "-e", &format!("trace={CALLS}"), "-o"]).arg(self.at("strace"));
                if !injections.iter().any(|injection| injection.contains("signal=")) {
                    // Quicker; but strace 6.1 then delivers no signal.
                    command.arg("--seccomp-bpf");
                }
                command.args(self.paths(place).iter().flat_map(|path| [Path::new("-P"), path]));
                command.args(injections.iter().flat_map(|it| ["-e".to_owned(), format!("inject={it}")]));
                command.arg(program);
                command
            }
        };
        command.args(["--bus", self.bus.address(), "--config"]).arg(self.at("config.json"));
        command.env("STATE_DIRECTORY", self.at("state")).env_remove("RUNTIME_DIRECTORY");
        if self.memory {
            command.env("RUNTIME_DIRECTORY", self.at("run"));
        }
        let said = fs::File::create(self.at("said")).expect("a file");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn();
        Life { child: child.expect("strace (Debian: strace)"), traced: traced.is_some() }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.at("said")).unwrap_or_default()
    }

    fn traced(&self) -> String {
        fs::read_to_string(self.at("strace")).unwrap_or_default()
    }

    /// Last word of the state, reasons, and whether the gate is open.
    async fn look(&self) -> Option<(String, Vec<String>, bool)> {
        let all = self.client.call_method(Some(NAME), PATH, Some(PROPERTIES), "GetAll", &"").await.ok()?;
        let body = all.body();
        let mut all: BTreeMap<String, Variant<'_>> = body.deserialize().expect("properties");
        let mut take = |name: &str| all.remove(name).expect(name);
        let state = String::try_from(take("SysACPIStatus")).expect("a string");
        let reasons = Vec::<String>::try_from(take("GateReasons")).expect("strings");
        let open = bool::try_from(take("GateOpen")).expect("a boolean");
        Some((state.rsplit('.').next().expect("a name").to_owned(), reasons, open))
    }

    /// Waits until it says so. False if it has ended.
    async fn until(&self, life: &mut Life, says: impl Fn(&str, &[String], bool) -> bool) -> bool {
        let began = Instant::now();
        loop {
            if let Some((state, reasons, open)) = self.look().await
                && says(&state, &reasons, open)
            {
                return true;
            }
            if life.has_ended() {
                return false;
            }
            assert!(began.elapsed() < PATIENCE, "waited in vain; it says:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// True if it was answered.
    async fn set(&self, state: &str) -> bool {
        let value = Variant::from(format!("{NAME}.ACPI.{state}"));
        let arguments = (NAME, "SysACPIStatus", value);
        let reply = self.client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Set", &arguments);
        timeout(PATIENCE, reply).await.expect("an answer or an end").is_ok()
    }

    /// A life in S0 with its gate open, in which S2 is answered. True if it was.
    async fn answered(&self, life: &mut Life) -> bool {
        self.until(life, |_, reasons, _| !reasons.iter().any(|r| r == "EvidenceMissing")).await
            && self.set("S0_G0_D0").await
            && self.until(life, |_, _, open| open).await
            && self.set("S2_D2").await
    }

    /// Waits until the store has been quiet for a while; with an injection that is still to come, some time longer.
    async fn until_quiet(&self, life: &mut Life, to_hit: bool) {
        let began = Instant::now();
        let (mut traced, mut since) = (self.traced(), Instant::now());
        while !life.has_ended() {
            let missed =
                to_hit && !traced.contains("INJECTED") && began.elapsed() < Duration::from_millis(1500);
            if since.elapsed() > QUIET && !missed {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = self.traced();
            if now != traced {
                (traced, since) = (now, Instant::now());
            }
        }
    }

    /// Waits until storage has S2, to which nothing is done; in vain, if it is not reached.
    async fn until_stored(&self, life: &mut Life) {
        let (began, file) = (Instant::now(), self.at("state").join("host0"));
        let stored = || fs::read_to_string(&file).unwrap_or_default().contains(" S2_D2 ");
        while !stored() && !life.has_ended() && began.elapsed() < Duration::from_secs(3) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn carry_out(&mut self, attack: &Attack, seed: &Path) -> Outcome {
        self.furnish(Some(seed), attack.memory);
        fs::write(self.at("strace"), "").expect("written");
        self.runtime.block_on(async {
            let mut life = self.begin(Some((attack.place, &attack.injections)));
            let answered = self.answered(&mut life).await;
            if attack.then == Then::Later {
                self.until_quiet(&mut life, true).await;
                if attack.place == Place::Memory {
                    self.until_stored(&mut life).await;
                }
            }
            let hit = life.has_ended() || self.traced().contains("INJECTED");
            life.kill();
            until_gone(&self.client, PATIENCE).await;
            let again = "unlink,write,pwrite64,fsync,rename:error=EROFS:when=1+";
            let again = [again.to_owned()];
            let mut life = self.begin(attack.stays.then_some((Place::Both, &again[..])));
            let decided =
                |_: &str, reasons: &[String], _: bool| !reasons.iter().any(|r| r == "EvidenceMissing");
            assert!(self.until(&mut life, decided).await, "{attack}: life 2 ends:\n{}", self.said());
            let (began, mut opened, mut state) = (Instant::now(), false, String::new());
            while began.elapsed() < WATCHED && !opened {
                let (said, _, open) = self.look().await.expect("it runs");
                (state, opened) = (said, open);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            life.kill();
            until_gone(&self.client, PATIENCE).await;
            Outcome { answered, hit, state, opened }
        })
    }

    /// A healthy life that ends in S0: what lies in both places then is left in `seed`.
    fn sow(&mut self, seed: &Path) {
        self.furnish(None, true);
        self.runtime.block_on(async {
            let mut life = self.begin(None);
            let began =
                self.until(&mut life, |_, reasons, _| !reasons.iter().any(|r| r == "EvidenceMissing"));
            assert!(began.await && self.set("S0_G0_D0").await, "{}", self.said());
            assert!(self.until(&mut life, |_, _, open| open).await, "{}", self.said());
            kill_process(life.pid().expect("it runs"), Signal::TERM).expect("it runs");
            life.child.wait().expect("it ends");
            until_gone(&self.client, PATIENCE).await;
        });
        fs::create_dir_all(seed).expect("a directory");
        for name in ["state", "run"] {
            fs::copy(self.at(name).join("host0"), seed.join(name)).expect("a record");
        }
    }

    /// The calls of a life to which nothing is done.
    fn calls(&mut self, seed: &Path, memory: bool) -> Calls {
        self.furnish(Some(seed), memory);
        let mut all = Calls::new();
        for place in if memory { &[Place::Memory, Place::Storage][..] } else { &[Place::Storage] } {
            self.furnish(Some(seed), memory);
            fs::write(self.at("strace"), "").expect("written");
            self.runtime.block_on(async {
                let mut life = self.begin(Some((*place, &[])));
                assert!(self.answered(&mut life).await, "strace cannot trace, or:\n{}", self.said());
                self.until_quiet(&mut life, false).await;
                tokio::time::sleep(Duration::from_millis(1200)).await;
                life.kill();
                until_gone(&self.client, PATIENCE).await;
            });
            // strace counts for each thread.
            let mut counted: BTreeMap<(String, String), usize> = BTreeMap::new();
            for line in self.traced().lines() {
                let (thread, call) = line.split_once(' ').expect("a thread");
                let Some((call, _)) = call.trim_start().split_once('(') else { continue };
                if !call.contains(' ') {
                    *counted.entry((thread.to_owned(), call.to_owned())).or_default() += 1;
                }
            }
            for ((_, call), count) in counted {
                let most = all.entry((*place, call)).or_default();
                *most = count.max(*most);
            }
        }
        all
    }
}

#[test]
fn no_call_of_the_store_that_fails_or_is_the_last_opens_the_gate_in_post() {
    let full = env::var_os("ACPI_FULL").is_some();
    let mut bench = Bench::new();
    let seed = bench.at("seed");
    bench.sow(&seed);
    let mut all = VecDeque::new();
    for memory in [true, false] {
        let calls = bench.calls(&seed, memory);
        println!("{} memory: {calls:?}", if memory { "with" } else { "without" });
        for needed in ["write", "fsync", "rename"] {
            assert!(calls.keys().any(|(_, call)| call.contains(needed)), "no {needed} among {calls:?}");
        }
        all.extend(attacks(memory, &calls, full));
    }
    let all = Mutex::new(all);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mut bench = Bench::new();
                loop {
                    let next = all.lock().expect("no panic").pop_front();
                    let Some(attack) = next else { return };
                    let outcome = bench.carry_out(&attack, &seed);
                    done.lock().expect("no panic").push((attack, outcome));
                }
            });
        }
    });
    let done = done.into_inner().expect("no panic");
    let mut table: BTreeMap<(bool, &str), [usize; 4]> = BTreeMap::new();
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for (attack, outcome) in &done {
        let row = table.entry((!attack.memory, &attack.kind)).or_default();
        let opened = outcome.opened && outcome.answered;
        let counts = [true, outcome.hit, outcome.answered, opened];
        row.iter_mut().zip(counts).for_each(|(sum, one)| *sum += usize::from(one));
        *states.entry(&outcome.state).or_default() += 1;
    }
    println!("\n| memory | attack | cases | hit | S2 answered | opened |\n|---|---|---|---|---|---|");
    for ((without, kind), [cases, hit, answered, opened]) in &table {
        let memory = if *without { "no" } else { "yes" };
        println!("| {memory} | {kind} | {cases} | {hit} | {answered} | {opened} |");
    }
    println!("life 2 was {states:?}");
    let opened: Vec<String> = done
        .iter()
        .filter(|(_, outcome)| outcome.opened && outcome.answered)
        .map(|(attack, outcome)| format!("{attack}: {}", outcome.state))
        .collect();
    assert!(
        opened.is_empty(),
        "{} of {} opened the gate in POST:\n{}",
        opened.len(),
        done.len(),
        opened.join("\n")
    );
    // Without these it would have shown nothing.
    let hit = done.iter().filter(|(_, outcome)| outcome.hit).count();
    assert!(hit * 10 >= done.len() * 6, "{hit} of {} were hit", done.len());
    let answered = done.iter().filter(|(_, outcome)| outcome.answered).count();
    assert!(answered * 2 >= done.len(), "{answered} of {} were answered", done.len());
}
