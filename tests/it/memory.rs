// SPDX-License-Identifier: Apache-2.0
//! What memory the daemon keeps of messages that are as long as any may be, with the environment that the unit gives it.
//!
//! The mapper's list may have 4 MiB, all else 64 KiB, and each is several times as long while it is looked at. An allocator that
//! keeps what it had once would keep that for the life of a process which is the last to be ended when memory is short. The table
//! of docs/performance.md: `cargo test --release --test it memory:: -- --ignored --nocapture`

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    frames::{Field, Raw},
    plain::{Heard, Plain},
    private_bus::PrivateBus,
    program::{DAEMON, Program},
    rig::{self, NAME, PROPERTIES},
};

const MAPPER: &str = "xyz.openbmc_project.ObjectMapper";
const SERVICE: &str = "xyz.openbmc_project.EntityManager";
const PID: &str = "xyz.openbmc_project.Configuration.Pid";
/// An object that is read again and again. It is the first of all.
const BIG: &str = "/xyz/openbmc_project/inventory/a";
/// What the mapper answers is just below what is read (src/adapters/dbus/socket.rs).
const LONGEST: usize = (4 << 20) - 1024;
/// And so is all else.
const LONG: usize = (64 << 10) - 1024;
/// KiB that may be kept: with the unit's environment it is 1,400 at most, without it 8,000 to 24,000.
const LITTLE: u64 = 4096;
/// For answers to many long messages on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What D-Bus makes of values, little-endian.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: usize) {
        self.align(4);
        self.0.extend(u32::try_from(number).unwrap().to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap());
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    /// An array of what is aligned so.
    fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let length = self.0.len() - 4;
        self.align(align);
        let begin = self.0.len();
        fill(self);
        let size = u32::try_from(self.0.len() - begin).unwrap();
        self.0[length..length + 4].copy_from_slice(&size.to_le_bytes());
    }

    fn strings(&mut self, strings: &[&str]) {
        self.array(4, |bytes| strings.iter().for_each(|text| bytes.text(text)));
    }

    /// The beginning of one property: its name, and what type it has.
    fn property(&mut self, name: &str, signature: &str) {
        self.align(8);
        self.text(name);
        self.signature(signature);
    }
}

/// A mapper's answer as long as may be: [`BIG`], then short paths, each with a short service; every hundredth is looked for.
fn tree(salt: char) -> Vec<u8> {
    let mut bytes = Bytes::default();
    bytes.array(8, |bytes| {
        for n in 0.. {
            bytes.align(8);
            bytes.text(&if n == 0 { BIG.to_owned() } else { format!("/{salt}{n}") });
            bytes.array(8, |bytes| {
                bytes.align(8);
                bytes.text(if n % 100 == 0 { SERVICE } else { "a.b" });
                bytes.strings(&[if n % 100 == 0 { PID } else { "i" }]);
            });
            if bytes.0.len() >= LONGEST {
                break;
            }
        }
    });
    bytes.0
}

/// Of one controller: its inputs, which are remembered, and if it is long, bytes, each in a variant of its own.
fn controller(long: bool) -> Vec<u8> {
    let mut bytes = Bytes::default();
    bytes.array(8, |bytes| {
        bytes.property("Class", "s");
        bytes.text("temp");
        bytes.property("Inputs", "as");
        bytes.strings(&["DIMM_TEMP_A1", "DIMM_TEMP_B1"]);
        if long {
            bytes.property("Z", "av");
            bytes.array(1, |bytes| {
                while bytes.0.len() < LONG {
                    bytes.signature("y");
                    bytes.0.push(7);
                }
            });
        }
    });
    bytes.0
}

/// What the mapper and a service say, which are one; and how often they said something long.
struct Double {
    thread: Option<thread::JoinHandle<()>>,
    bus_end: std::os::unix::net::UnixStream,
    /// So many trees, and then so many controllers, are to be long.
    wanted: Arc<[AtomicUsize; 2]>,
}

impl Double {
    fn start(bus: &PrivateBus) -> Self {
        let mut plain = Plain::connect(bus);
        plain.own(SERVICE);
        plain.own(MAPPER);
        plain.0.set_read_timeout(None).unwrap();
        plain.0.set_write_timeout(Some(PATIENCE)).unwrap();
        let bus_end = plain.0.try_clone().unwrap();
        let wanted: Arc<[AtomicUsize; 2]> = Arc::default();
        let left = Arc::clone(&wanted);
        let thread = thread::spawn(move || {
            let trees = [tree('y'), tree('z')];
            let [short, long] = [false, true].map(controller);
            let mut small = Bytes::default();
            small.array(8, |bytes| {
                bytes.text(BIG);
                bytes.array(8, |bytes| {
                    bytes.text(SERVICE);
                    bytes.strings(&[PID]);
                });
            });
            let take = |of: usize| left[of].fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok();
            while let Some(call) = plain.next() {
                if call.kind != 1 {
                    continue;
                }
                let (raw, signal) = match call.member.as_str() {
                    "GetSubTree" => match take(0) {
                        Some(left) => (answer(&call, "a{sa{sas}}", &trees[left % 2]), Some(looked_at())),
                        None => (answer(&call, "a{sa{sas}}", &small.0), None),
                    },
                    "GetAll" if call.path == BIG => match take(1) {
                        Some(_) => (answer(&call, "a{sv}", &long), Some(changed())),
                        None => (answer(&call, "a{sv}", &short), None),
                    },
                    "GetAll" => (answer(&call, "a{sv}", &short), None),
                    _ => (error(&call), None),
                };
                let signal = signal.as_ref().map(Raw::bytes).unwrap_or_default();
                if plain.0.write_all(&raw.bytes()).and_then(|()| plain.0.write_all(&signal)).is_err() {
                    break;
                }
            }
        });
        Self { thread: Some(thread), bus_end, wanted }
    }

    /// So many long answers of a kind.
    async fn say(&mut self, long: Long, count: usize) {
        let wanted = &self.wanted[long as usize];
        wanted.store(count, Relaxed);
        let signal = if long == Long::Trees { looked_at() } else { changed() };
        self.bus_end.write_all(&signal.bytes()).unwrap();
        let began = Instant::now();
        while wanted.load(Relaxed) > 0 {
            assert!(began.elapsed() < PATIENCE, "the daemon does not ask");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        drop(self.bus_end.shutdown(std::net::Shutdown::Both));
        drop(self.thread.take().map(thread::JoinHandle::join));
    }
}

fn answer(call: &Heard, signature: &str, body: &[u8]) -> Raw {
    let fields = vec![
        Field(5, "u", call.serial.to_le_bytes().to_vec()),
        Field::text(6, "s", &call.sender),
        Field::text(8, "g", signature),
    ];
    Raw { kind: 2, flags: 1, fields, ..Raw::call("", body) }
}

fn error(call: &Heard) -> Raw {
    let mut raw = answer(call, "", &[]);
    raw.fields.pop();
    raw.fields.push(Field::text(4, "s", "xyz.openbmc_project.Common.Error.ResourceNotFound"));
    Raw { kind: 3, ..raw }
}

fn signal(path: &str, interface: &str, member: &str, signature: &str, body: &Bytes) -> Raw {
    let fields = vec![
        Field::text(1, "o", path),
        Field::text(2, "s", interface),
        Field::text(3, "s", member),
        Field::text(8, "g", signature),
    ];
    Raw { kind: 4, flags: 1, fields, ..Raw::call("", &body.0) }
}

/// The mapper has looked at the service: a reason to ask it.
fn looked_at() -> Raw {
    let mut body = Bytes::default();
    body.text(SERVICE);
    signal(
        "/xyz/openbmc_project/object_mapper",
        &format!("{MAPPER}.Private"),
        "IntrospectionComplete",
        "s",
        &body,
    )
}

/// The controller has changed: a reason to read it.
fn changed() -> Raw {
    let mut body = Bytes::default();
    body.text(PID);
    body.array(8, |_| ());
    body.strings(&[]);
    signal(BIG, PROPERTIES, "PropertiesChanged", "sa{sv}as", &body)
}

/// A Set of the longest value that is read.
fn long_call() -> Vec<u8> {
    let mut body = Bytes::default();
    body.text(NAME);
    body.text("SysACPIStatus");
    body.signature("ay");
    body.array(1, |bytes| bytes.0.resize(LONG, 7));
    let mut raw = Raw::call("ssv", &body.0);
    raw.fields.retain(|field| field.0 != 6 && field.0 != 7);
    raw.fields.push(Field::text(6, "s", NAME));
    raw.flags = 1;
    raw.bytes()
}

/// What the unit says that the environment is.
fn of_the_unit() -> Vec<(String, String)> {
    let unit =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/acpi-stated.service")).unwrap();
    let lines = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    lines.flat_map(words).collect()
}

/// Assignments between spaces.
fn words(text: &str) -> Vec<(String, String)> {
    let words = text.split_whitespace().map(|word| word.split_once('=').unwrap());
    words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The daemon with the example's sensors, and this environment and no other for its allocator.
fn start(bus: &PrivateBus, environment: &[(String, String)]) -> Program {
    let mut command = Command::new(DAEMON);
    command.args(["--bus", bus.address()]).arg("--state-dir").arg(bus.dir().join("state"));
    command.args(["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/examples/ast2600-one-socket.json")]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MALLOC_") || name == "GLIBC_TUNABLES" {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    Program(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// What is sent to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Long {
    /// Answers of the mapper.
    Trees = 0,
    /// Answers of a service, each of whose values has a variant of its own.
    Properties = 1,
    /// Calls.
    Calls,
}

/// In KiB of what was measured, and the daemon's processor time for all that was sent.
struct Measured {
    idle: u64,
    peak: u64,
    kept: u64,
    spent: Duration,
}

/// What so many of these take, and what is kept of it: after ten seconds, or as soon as it is no more than this. `what` is the line
/// of `smaps_rollup` that is measured.
async fn measure(
    environment: &[(String, String)],
    long: Long,
    count: usize,
    what: &str,
    little: u64,
) -> Measured {
    let bus = PrivateBus::start().unwrap();
    let mut double = Double::start(&bus);
    let program = start(&bus, environment);
    let client = rig::connect(bus.address()).await;
    let answers = async || {
        let began = Instant::now();
        let peer = Some("org.freedesktop.DBus.Peer");
        while client.call_method(Some(NAME), rig::PATH, peer, "Ping", &()).await.is_err() {
            assert!(began.elapsed() < PATIENCE, "the daemon does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    answers().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (idle, spent) = (program.memory("smaps_rollup", what), program.processor_time());
    if long == Long::Calls {
        let (mut plain, call) = (Plain::connect(&bus), long_call());
        for _ in 0..count {
            assert!(plain.send(&call));
        }
    } else {
        double.say(long, count).await;
    }
    // What it has not read yet is before this.
    answers().await;
    let spent = program.processor_time().saturating_sub(spent);
    let (began, mut kept) = (Instant::now(), u64::MAX);
    while kept > idle + little && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        kept = program.memory("smaps_rollup", what);
    }
    let peak = program.memory("status", "VmHWM");
    Measured { idle, peak, kept, spent }
}

#[tokio::test]
#[ignore = "a measurement: docs/performance.md"]
async fn what_each_setting_keeps() {
    let settings = [
        "",
        "MALLOC_ARENA_MAX=1",
        "MALLOC_TOP_PAD_=65536",
        "MALLOC_TRIM_THRESHOLD_=131072",
        "MALLOC_MMAP_THRESHOLD_=131072",
        "MALLOC_MMAP_THRESHOLD_=65536",
        "MALLOC_MMAP_THRESHOLD_=32768",
        "MALLOC_MMAP_THRESHOLD_=32768 MALLOC_TRIM_THRESHOLD_=1048576",
        "MALLOC_MMAP_THRESHOLD_=32768 MALLOC_ARENA_MAX=1",
    ];
    for setting in settings {
        let environment = words(setting);
        for (long, count) in [(Long::Trees, 100), (Long::Properties, 500), (Long::Calls, 1000)] {
            let Measured { idle, peak, kept, spent } = measure(&environment, long, count, "Pss", 0).await;
            println!("| {setting} | {long:?} | {idle} | {peak} | {kept} | {} |", spent.as_millis());
        }
    }
}

#[tokio::test]
async fn what_long_messages_took_is_given_back() {
    for (long, count) in [(Long::Trees, 30), (Long::Properties, 50), (Long::Calls, 200)] {
        // Of the program's own pages other tests' daemons have a part in PSS.
        let measured = measure(&of_the_unit(), long, count, "Private_Dirty", LITTLE).await;
        let Measured { idle, peak, kept, .. } = measured;
        println!("{long:?}: {idle} KiB before, at most {peak}, {kept} KiB after");
        assert!(kept <= idle + LITTLE, "{long:?}: {idle} KiB before, {kept} KiB after");
    }
}
