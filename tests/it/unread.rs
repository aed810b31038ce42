// SPDX-License-Identifier: Apache-2.0
//! A journal, a systemd and a standard error that stand still keep no host waiting: nobody reads what the daemon writes to them, their
//! queues are full, and its answers are as quick as those of a daemon whose writing is read.

use std::{
    fs,
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::support::private_bus::PrivateBus;
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, kill_process},
};
use tokio::time::timeout;
use zbus::{Connection, Variant, connection::Builder};

const DAEMON: &str = env!("CARGO_BIN_EXE_acpi-stated");
const NAME: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
const PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
const SETS: usize = 1000;
/// How much later than the answers of a daemon whose writing is read an answer may be.
const LATER: Duration = Duration::from_millis(50);
/// What else makes an answer late is the machine's doing: a hypervisor that takes the processor away is in no statistics, but does so
/// now and then only. A daemon that waits for a queue does so each time, or has no answer.
const LATE_AT_MOST: usize = SETS / 100;

/// The journal's socket is where journald's is, in a mount namespace of the daemon's own.
const INSIDE: &str = r#"
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && : >/run/systemd/journal/socket &&
    mount --bind "$dir/journal" /run/systemd/journal/socket && exec "$@"
"#;

/// Where the daemon's log goes.
enum Log {
    Journal,
    /// Standard error: this end of a pipe.
    Pipe(PipeWriter),
}

/// A daemon on a bus of its own, and a host's firmware.
struct Bench {
    daemon: Child,
    client: Connection,
    journal: UnixDatagram,
    notify: UnixDatagram,
    bus: PrivateBus,
}

/// For how long these were ready to run and a machine that had others to run did not let them: ourselves, the bus and the daemon. Whoever
/// waits for a queue is not ready. (Linux's Documentation/scheduler/sched-stats.rst: the second number.)
fn starved(pids: [u32; 2]) -> Duration {
    let of = |file: &str| -> u64 {
        let text = fs::read_to_string(file).expect("a kernel with scheduler statistics");
        text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok()).expect("nanoseconds")
    };
    let others = pids.map(|pid| of(&format!("/proc/{pid}/schedstat")));
    Duration::from_nanos(of("/proc/thread-self/schedstat") + others.into_iter().sum::<u64>())
}

impl Bench {
    async fn start(log: Log) -> Self {
        let bus = PrivateBus::start().expect("a private bus");
        // The bus's socket must be seen inside too.
        assert!(!bus.dir().starts_with("/run"), "{}: set TMPDIR", bus.dir().display());
        let dir = bus.dir().to_owned();
        // With dbus-broker "journal" is the bus's.
        let dir_of_log = dir.join("log-of-daemon");
        fs::create_dir(&dir_of_log).unwrap();
        let journal = UnixDatagram::bind(dir_of_log.join("journal")).unwrap();
        let notify = UnixDatagram::bind(dir.join("notify")).unwrap();
        let mut command = Command::new("unshare");
        // Whoever is not root may mount in a user namespace of his own.
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        command.args(["--mount", "sh", "-c", INSIDE, "sh", DAEMON, "--bus", bus.address()]);
        command.arg("--state-dir").arg(dir.join("state"));
        command.env("dir", &dir_of_log).env("NOTIFY_SOCKET", dir.join("notify"));
        // Fed each 30 ms: the notifications fill their queue as fast as the log does its own.
        command.env("WATCHDOG_USEC", "50000").env_remove("WATCHDOG_PID").env_remove("ACPI_STATED_LOG");
        match log {
            Log::Journal => command.env("JOURNAL_STREAM", "1:1").stderr(Stdio::null()),
            Log::Pipe(pipe) => command.env_remove("JOURNAL_STREAM").stderr(pipe),
        };
        let daemon = command.stdin(Stdio::null()).spawn().expect("unshare (util-linux)");
        // The command holds an end of the pipe.
        drop(command);
        let client = Builder::address(bus.address()).build().await.expect("the private bus");
        let began = Instant::now();
        let peer = Some("org.freedesktop.DBus.Peer");
        while client.call_method(Some(NAME), PATH, peer, "Ping", &()).await.is_err() {
            assert!(began.elapsed() < PATIENCE, "the daemon does not come up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { daemon, client, journal, notify, bus }
    }

    /// How long the answer took, without the time that the machine took; `None` if there was none.
    async fn set(&self, state: &str) -> Option<Duration> {
        let value = Variant::from(format!("{NAME}.ACPI.{state}"));
        let body = (NAME, "SysACPIStatus", value);
        let pids = [self.daemon.id(), self.bus.pid()];
        let (begin, starved_before) = (Instant::now(), starved(pids));
        let call = self.client.call_method(Some(NAME), PATH, Some(PROPERTIES), "Set", &body);
        timeout(PATIENCE, call).await.ok()?.expect("a Set is answered with success");
        let starved = starved(pids).saturating_sub(starved_before);
        Some(begin.elapsed().saturating_sub(starved))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // unshare and sh became the daemon.
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

/// Reads what is written until it is dropped, and keeps it.
struct Reader {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn of(socket: &UnixDatagram) -> Self {
        let socket = socket.try_clone().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Self::start(move || {
            let mut text = vec![0; 65_536];
            socket.recv(&mut text).ok().map(|length| String::from_utf8_lossy(&text[..length]).into_owned())
        })
    }

    fn of_pipe(mut pipe: PipeReader) -> Self {
        // So that it can be told to stop.
        fcntl_setfl(&pipe, OFlags::NONBLOCK).unwrap();
        Self::start(move || {
            let mut text = vec![0; 65_536];
            let read = pipe.read(&mut text).ok().filter(|length| *length > 0);
            if read.is_none() {
                thread::sleep(Duration::from_millis(20));
            }
            read.map(|length| String::from_utf8_lossy(&text[..length]).into_owned())
        })
    }

    fn start(mut next: impl FnMut() -> Option<String> + Send + 'static) -> Self {
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<String>>>::default());
        let (stopped, into) = (Arc::clone(&stop), Arc::clone(&heard));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                into.lock().unwrap().extend(next());
            }
        });
        Self { stop, heard, thread: Some(thread) }
    }

    fn count(&self, what: &str) -> usize {
        self.heard.lock().unwrap().iter().map(|text| text.matches(what).count()).sum()
    }

    async fn until(&self, what: &str) {
        let began = Instant::now();
        while self.count(what) == 0 {
            assert!(began.elapsed() < PATIENCE, "{what} is never said");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Sets each of the two in turn, so that both see the same machine.
async fn answers_as_quickly(unread: &Bench, control: &Bench) {
    let (mut waited, mut usual) = (Vec::new(), Vec::new());
    for state in ["S2_D2", "S0_G0_D0"].into_iter().cycle().take(SETS) {
        waited.push(unread.set(state).await.unwrap_or_else(|| panic!("no answer to Set {}", waited.len())));
        usual.push(control.set(state).await.expect("an answer of the daemon whose writing is read"));
    }
    usual.sort_unstable();
    let usual = usual[SETS / 2];
    let late: Vec<_> = waited.iter().filter(|took| **took > usual + LATER).collect();
    assert!(
        late.len() <= LATE_AT_MOST,
        "{} of {SETS} answers are late ({usual:?} is usual): {late:?}",
        late.len()
    );
}

#[tokio::test]
async fn a_journal_and_a_systemd_that_stand_still_keep_no_host_waiting() {
    let control = Bench::start(Log::Journal).await;
    let _readers = [Reader::of(&control.journal), Reader::of(&control.notify)];
    let unread = Bench::start(Log::Journal).await;
    answers_as_quickly(&unread, &control).await;

    // Both come round, and the journal first, since it has to take what is said of the other: what was lost is counted, and what
    // matters was not lost.
    let journal = Reader::of(&unread.journal);
    journal.until("lines of the log were lost").await;
    let notify = Reader::of(&unread.notify);
    notify.until("STATUS=host0 S0_G0_D0 (HostReport)").await;
    journal.until("systemd takes our notifications again").await;
    assert_eq!(notify.count("READY=1"), 1);
    let written = journal.count("ACPI_PREVIOUS");
    assert!(written < SETS, "{written} transitions: the queue was never full");
    assert!(unread.set("S2_D2").await.is_some());
    journal.until("-> S2_D2").await;
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_keeps_no_host_waiting() {
    let (read, write) = std::io::pipe().unwrap();
    let _reader = Reader::of_pipe(read);
    let control = Bench::start(Log::Pipe(write)).await;
    let _readers = [Reader::of(&control.journal), Reader::of(&control.notify)];
    let (read, write) = std::io::pipe().unwrap();
    fill(&write);
    let unread = Bench::start(Log::Pipe(write)).await;
    let _notify = Reader::of(&unread.notify);
    answers_as_quickly(&unread, &control).await;
    let log = Reader::of_pipe(read);
    log.until("lines of the log were lost").await;
    drop(unread);
}

/// Its end is not held up either: systemd would wait for it before it starts the next.
#[tokio::test]
async fn what_nobody_reads_keeps_it_from_no_end() {
    let mut unread = Bench::start(Log::Journal).await;
    for state in ["S2_D2", "S0_G0_D0"].into_iter().cycle().take(SETS) {
        assert!(unread.set(state).await.is_some(), "a Set is answered");
    }
    let id = Pid::from_raw(unread.daemon.id().try_into().unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    let began = Instant::now();
    while unread.daemon.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "it does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(unread.daemon.try_wait().unwrap().unwrap().code(), Some(0));
}

/// Until it takes no more.
fn fill(pipe: &PipeWriter) {
    let flags = fcntl_getfl(pipe).unwrap();
    fcntl_setfl(pipe, flags | OFlags::NONBLOCK).unwrap();
    while (&*pipe).write(&[b'\n'; 4096]).is_ok() {}
    fcntl_setfl(pipe, flags).unwrap();
}
