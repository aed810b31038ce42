// SPDX-License-Identifier: Apache-2.0
//! What a daemon knows when it starts: rule 6 of the design in every branch, and what becomes of the stored state, on a
//! real bus. A *life* is one run of the daemon; a *boot* is one of the BMC.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{
    power::PowerDouble,
    private_bus::PrivateBus,
    rig::{self, NAME, PATH, PATIENCE, PROPERTIES, Rig, connect},
};
use acpi_stated::{config::Settings, shell::store::Places};
use rustix::fs::inotify;
use zbus::Variant;

/// `restore_settle` is 1.8 s, `settle` 10 ms, `host_off` 20 ms.
const FAST: u32 = 1000;
/// `settle` is 0.5 s, `host_off` 1 s, `reset_confirm` 0.25 s.
const SLOW: u32 = 20;
/// Time enough at `FAST` for everything but `restore_settle` to have happened.
const LONG: Duration = Duration::from_millis(300);

/// One BMC, over several lives of the daemon.
struct Bmc {
    bus: Arc<PrivateBus>,
    speed: u32,
    boot: &'static str,
    memory: Option<PathBuf>,
    change: fn(&mut Settings),
}

impl Bmc {
    fn new() -> Self {
        let bus = Arc::new(PrivateBus::start().expect("a private bus"));
        Self { bus, speed: FAST, boot: "first", memory: None, change: |_| {} }
    }

    fn at(self, speed: u32) -> Self {
        Self { speed, ..self }
    }

    /// With a place in memory too.
    fn with_memory(self) -> Self {
        let memory = self.bus.dir().join("run");
        fs::create_dir(&memory).expect("a directory");
        Self { memory: Some(memory), ..self }
    }

    fn trusting(self) -> Self {
        let change = |settings: &mut Settings| {
            for host in &mut settings.hosts {
                host.evidence.post_complete_trusted = true;
            }
        };
        Self { change, ..self }
    }

    /// The BMC boots.
    fn reboot(&mut self) {
        self.boot = "second";
        if let Some(memory) = &self.memory {
            fs::remove_dir_all(memory).expect("it was there");
            fs::create_dir(memory).expect("a directory");
        }
    }

    fn memory_dir(&self) -> &Path {
        self.memory.as_deref().expect("with memory")
    }

    fn state_dir(&self) -> PathBuf {
        self.bus.dir().join("var/state")
    }

    fn file(&self) -> PathBuf {
        self.state_dir().join("host0")
    }

    async fn life(&self) -> Rig {
        let places = Places::new(self.state_dir()).and_in_memory(self.memory.clone()).in_boot(self.boot);
        Rig::remembering(Arc::clone(&self.bus), self.speed, Some(places), self.change).await
    }

    async fn power(&self, chassis: &str, host: &str, os: &str) -> PowerDouble {
        PowerDouble::start(self.bus.address(), chassis, host, os).await.expect("a power control")
    }

    /// A life in which the host reports `state`, with the power on.
    async fn lived(&self, state: &str) {
        self.lived_with(state, "").await;
    }

    /// The same, with this POST status.
    async fn lived_with(&self, state: &str, os: &str) {
        let power = self.power("On", "Running", os).await;
        let life = self.life().await;
        life.until_decided().await;
        life.set(state).await;
        life.end().await;
        power.leave().await;
    }
}

impl Rig {
    async fn until_decided(&self) {
        self.until("rule 6 has decided", async || {
            !self.reasons().await.iter().any(|reason| reason == "EvidenceMissing")
        })
        .await;
    }

    /// What rule 6 decided.
    async fn decided(&self) -> [String; 2] {
        self.until_decided().await;
        [self.state().await.expect("a state"), self.cause().await.expect("a cause")]
    }

    /// It stays closed where it would have opened by `settle`.
    async fn stays_closed(&self) {
        let began = Instant::now();
        while began.elapsed() < LONG {
            assert!(!self.is_open(), "open after {:?}", began.elapsed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn until_open(&self) {
        self.until("the gate is open", async || self.is_open()).await;
    }
}

// ---- Rule 6 ----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_working_state_of_this_boot_stays_and_the_gate_opens_after_settle() {
    let bmc = Bmc::new().at(SLOW).with_memory();
    for state in ["S0_G0_D0", "LEGACY_ON"] {
        bmc.lived(state).await;
        let _power = bmc.power("On", "Running", "").await;
        let began = Instant::now();
        let life = bmc.life().await;
        assert_eq!(life.decided().await, [state, "Restored"]);
        assert!(!life.is_open());
        life.until_open().await;
        assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
        life.end().await;
    }
}

#[tokio::test]
async fn a_working_state_of_another_boot_stays_but_the_gate_waits_for_a_report() {
    let mut bmc = Bmc::new();
    bmc.lived("S0_G0_D0").await;
    bmc.reboot();
    let _power = bmc.power("On", "Running", "").await;
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
    life.stays_closed().await;
    assert_eq!(life.reasons().await, ["FirmwareNotHeard"]);
    life.open().await;
}

/// What was answered last may not be on storage, so its word that nothing has happened since is not enough.
#[tokio::test]
async fn without_memory_no_working_state_is_one_of_this_boot() {
    let bmc = Bmc::new();
    bmc.lived("S0_G0_D0").await;
    let _power = bmc.power("On", "Running", "").await;
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
    life.stays_closed().await;
    assert_eq!(life.reasons().await, ["FirmwareNotHeard"]);
    life.open().await;
}

/// A record there that could not be replaced may be older than what was answered last.
#[tokio::test]
async fn memory_that_takes_nothing_has_no_working_state_of_this_boot() {
    let bmc = Bmc::new().with_memory();
    bmc.lived("S0_G0_D0").await;
    let probe = bmc.memory_dir().join("probe");
    fs::create_dir(&probe).expect("a directory in the way of every file");
    let power = bmc.power("On", "Running", "").await;
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
    life.stays_closed().await;
    life.end().await;
    power.leave().await;

    // Nor has one whose record is lost.
    fs::remove_dir(&probe).expect("it is there");
    bmc.lived("S0_G0_D0").await;
    fs::remove_file(bmc.memory_dir().join("host0")).expect("a record");
    let _power = bmc.power("On", "Running", "").await;
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
    life.stays_closed().await;
}

/// Memory could be neither written nor removed, and storage could be written.
#[tokio::test]
async fn what_is_newer_on_storage_is_believed_and_not_what_memory_says() {
    let bmc = Bmc::new().with_memory();
    bmc.lived("S0_G0_D0").await;
    let record = bmc.memory_dir().join("host0");
    let stale = fs::read(&record).expect("a record");
    bmc.lived("S2_D2").await;
    fs::write(&record, &stale).expect("written");
    let _power = bmc.power("On", "Running", "").await;
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S2_D2", "Restored"]);
    life.stays_closed().await;
}

/// A directory that is no tmpfs, or is on one that outlives the boot (kexec).
#[tokio::test]
async fn memory_that_outlives_the_boot_has_no_working_state_of_this_boot() {
    let mut bmc = Bmc::new().with_memory();
    bmc.lived("S0_G0_D0").await;
    bmc.boot = "second";
    let _power = bmc.power("On", "Running", "").await;
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
    life.stays_closed().await;
}

/// The daemon is updated in one boot of the BMC: what the older one wrote is worth what it was.
#[tokio::test]
async fn what_an_older_version_wrote_is_believed() {
    let boot = "01234567-89ab-cdef-0123-456789abcdef";
    let older = "acpi-stated-1 S0_G0_D0 clear 01234567-89ab-cdef-0123-456789abcdef 2f1ce51a\n";
    let bmc = Bmc { boot, ..Bmc::new().with_memory() };
    fs::create_dir_all(bmc.state_dir()).expect("a directory");
    for file in [bmc.file(), bmc.memory_dir().join("host0")] {
        fs::write(file, older).expect("written");
    }
    let _power = bmc.power("On", "Running", "").await;
    let began = Instant::now();
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
    life.until_open().await;
    assert!(began.elapsed() < Duration::from_millis(1800), "{:?}", began.elapsed());
    life.end().await;
    let now = fs::read_to_string(bmc.memory_dir().join("host0")).expect("a record");
    assert!(now.starts_with("acpi-stated-4 1 S0_G0_D0 clear 01234567"), "{now}");
    assert!(now.contains(" Done/Restored "), "{now}");
}

#[tokio::test]
async fn a_working_state_of_another_boot_is_believed_after_restore_settle() {
    let mut bmc = Bmc::new().with_memory();
    bmc.lived("S0_G0_D0").await;
    bmc.reboot();
    let _power = bmc.power("On", "Running", "").await;
    let began = Instant::now();
    let life = bmc.life().await;
    life.until_open().await;
    assert!(began.elapsed() >= Duration::from_millis(1800), "{:?}", began.elapsed());
    assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
    life.end().await;
    // It has become one of this boot.
    let began = Instant::now();
    let life = bmc.life().await;
    life.until_open().await;
    assert!(began.elapsed() < Duration::from_millis(1800), "{:?}", began.elapsed());
}

#[tokio::test]
async fn another_restart_does_not_make_a_state_of_another_boot_one_of_this() {
    for bmc in [Bmc::new(), Bmc::new().with_memory()] {
        let mut bmc = bmc;
        bmc.lived("S0_G0_D0").await;
        bmc.reboot();
        let _power = bmc.power("On", "Running", "").await;
        for _ in 0..3 {
            let life = bmc.life().await;
            assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
            life.stays_closed().await;
            life.end().await;
        }
        // And the lock is still there: it ends by time.
        let life = bmc.life().await;
        life.until_open().await;
        assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
        life.end().await;
    }
}

#[tokio::test]
async fn a_first_install_on_a_running_host_knows_nothing_until_restore_settle() {
    let bmc = Bmc::new();
    let _power = bmc.power("On", "Running", "").await;
    let began = Instant::now();
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["Unknown", "Startup"]);
    life.stays_closed().await;
    life.until_open().await;
    assert!(began.elapsed() >= Duration::from_millis(1800), "{:?}", began.elapsed());
    assert_eq!(life.decided().await, ["S0_G0_D0", "Startup"]);
}

#[tokio::test]
async fn after_ac_loss_off_stays_off_sleep_stays_asleep_and_the_rest_is_s5() {
    for (stored, found, cause) in [
        ("S0_G0_D0", "S5_G2", "Startup"),
        ("S2_D2", "S5_G2", "Startup"),
        ("Unknown", "S5_G2", "Startup"),
        ("S5_G2", "S5_G2", "Restored"),
        ("S4", "S4", "Restored"),
        ("G3", "G3", "Restored"),
        ("S3_D3", "S3_D3", "Restored"),
    ] {
        let mut bmc = Bmc::new();
        bmc.lived(stored).await;
        bmc.reboot();
        let power = bmc.power("Off", "Off", "").await;
        let life = bmc.life().await;
        assert_eq!(life.decided().await, [found, cause], "{stored}");
        assert_eq!(life.word(NAME, "DevACPIStatus").await.as_deref(), Some("S3_D3"), "{stored}");
        // The restore policy powers the host on.
        power.host("Running").await.expect("a signal");
        power.chassis("On").await.expect("a signal");
        life.until_state("S2_D2").await;
        life.stays_closed().await;
        assert_eq!(life.state().await.as_deref(), Some("S2_D2"), "{stored}");
        life.open().await;
    }
}

#[tokio::test]
async fn a_host_that_does_not_run_at_start_is_suspected_and_running_again_is_in_post() {
    let bmc = Bmc::new().at(SLOW);
    bmc.lived("S0_G0_D0").await;
    let power = bmc.power("On", "Off", "").await;
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
    assert_eq!(life.reasons().await, ["ResetSuspected"]);
    power.host("Running").await.expect("a signal");
    life.until_state("S2_D2").await;
    assert_eq!(life.cause().await.as_deref(), Some("HostReset"));
    assert!(!life.is_open());
}

#[tokio::test]
async fn a_host_that_does_not_run_at_start_and_stays_so_is_off() {
    let bmc = Bmc::new();
    bmc.lived("S0_G0_D0").await;
    let _power = bmc.power("On", "Off", "").await;
    let life = bmc.life().await;
    life.until_state("S5_G2").await;
    assert_eq!(life.cause().await.as_deref(), Some("HostOff"));
    life.stays_closed().await;
}

#[tokio::test]
async fn trusted_post_status_decides_whatever_was_stored() {
    for stored in ["S0_G0_D0", "S2_D2", "S5_G2"] {
        for (os, found) in [("Standby", "S0_G0_D0"), ("Inactive", "S2_D2")] {
            let bmc = Bmc::new().trusting();
            bmc.lived_with(stored, "Standby").await;
            let _power = bmc.power("On", "Running", os).await;
            let life = bmc.life().await;
            assert_eq!(life.decided().await, [found, "Startup"], "{stored} {os}");
        }
    }
}

#[tokio::test]
async fn untrusted_post_status_decides_nothing() {
    let bmc = Bmc::new();
    bmc.lived("S2_D2").await;
    let _power = bmc.power("On", "Running", "Standby").await;
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S2_D2", "Restored"]);
    life.stays_closed().await;
    assert_eq!(life.state().await.as_deref(), Some("S2_D2"));
}

#[tokio::test]
async fn post_stays_post_in_this_boot_and_in_another() {
    let mut bmc = Bmc::new();
    bmc.lived("S2_D2").await;
    let _power = bmc.power("On", "Running", "").await;
    for _ in 0..2 {
        let life = bmc.life().await;
        assert_eq!(life.decided().await, ["S2_D2", "Restored"]);
        life.stays_closed().await;
        life.end().await;
        bmc.reboot();
    }
}

#[tokio::test]
async fn a_stored_suspicion_is_post() {
    let bmc = Bmc::new();
    let power = bmc.power("On", "Running", "").await;
    let life = bmc.life().await;
    life.open().await;
    power.host("Quiesced").await.expect("a signal");
    life.until("it is suspected", async || life.reasons().await == ["ResetSuspected"]).await;
    life.end().await;
    // While nobody looks.
    power.host("Running").await.expect("a signal");
    power.said().await.expect("the bus");
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S2_D2", "Startup"]);
    life.stays_closed().await;
}

#[tokio::test]
async fn an_off_state_of_a_host_that_runs_is_not_believed() {
    for stored in ["S5_G2", "S4", "S3_D3", "SLEEP"] {
        let bmc = Bmc::new();
        bmc.lived(stored).await;
        let _power = bmc.power("On", "Running", "").await;
        let life = bmc.life().await;
        assert_eq!(life.decided().await, ["Unknown", "Startup"], "{stored}");
        life.stays_closed().await;
    }
}

#[tokio::test]
async fn without_a_power_service_it_is_decided_after_120_seconds() {
    let bmc = Bmc::new().with_memory();
    bmc.lived("S0_G0_D0").await;
    let began = Instant::now();
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
    assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
    life.until_open().await;
}

#[tokio::test]
async fn a_set_that_comes_first_stands() {
    let bmc = Bmc::new().at(200);
    bmc.lived("S0_G0_D0").await;
    let life = bmc.life().await;
    assert_eq!(life.state().await.as_deref(), Some("Unknown"));
    life.set("S2_D2").await;
    // 0.6 s until it is decided by time.
    assert_eq!(life.decided().await, ["S2_D2", "HostReport"]);
    life.stays_closed().await;
    assert_eq!(life.state().await.as_deref(), Some("S2_D2"));
    life.end().await;
    // Stored too, though it came before the decision.
    let _power = bmc.power("On", "Running", "").await;
    assert_eq!(bmc.life().await.decided().await, ["S2_D2", "Restored"]);
}

#[tokio::test]
async fn a_life_that_ends_before_the_decision_leaves_what_was_stored() {
    let bmc = Bmc::new().at(1);
    bmc.lived("S0_G0_D0").await;
    let before = fs::read(bmc.file()).expect("it is stored");
    bmc.life().await.end().await;
    assert_eq!(fs::read(bmc.file()).expect("it is stored"), before);
}

// ---- Storage ---------------------------------------------------------------------------------------

#[tokio::test]
async fn a_directory_that_is_missing_is_made() {
    let bmc = Bmc::new();
    assert!(!bmc.state_dir().exists());
    bmc.lived("S0_G0_D0").await;
    let names: Vec<_> =
        fs::read_dir(bmc.state_dir()).expect("it is there").map(|e| e.expect("it").file_name()).collect();
    assert_eq!(names, ["host0"]);
}

/// All the daemon writes is on one line.
#[tokio::test]
async fn a_file_that_is_cut_short_anywhere_is_set_aside_and_nothing_is_known() {
    let bmc = Bmc::new();
    bmc.lived("S0_G0_D0").await;
    let whole = fs::read(bmc.file()).expect("it is stored");
    assert!(whole.ends_with(b"\n"));
    let _power = bmc.power("On", "Running", "").await;
    for length in 0..whole.len() - 1 {
        fs::write(bmc.file(), &whole[..length]).expect("written");
        let life = bmc.life().await;
        assert_eq!(life.decided().await, ["Unknown", "Startup"], "{length}");
        assert!(!life.is_open());
        life.end().await;
        assert_eq!(fs::read(bmc.file().with_extension("bad")).expect("set aside"), &whole[..length]);
    }
    fs::write(bmc.file(), &whole[..whole.len() - 1]).expect("written");
    assert_eq!(bmc.life().await.decided().await, ["S0_G0_D0", "Restored"]);
}

#[tokio::test]
async fn what_is_no_file_of_ours_is_set_aside() {
    let bmc = Bmc::new();
    let _power = bmc.power("On", "Running", "").await;
    fs::create_dir_all(bmc.state_dir()).expect("a directory");
    let make: [&dyn Fn(); 4] = [
        &|| fs::write(bmc.file(), "acpi-stated-2 what is to come\n").expect("written"),
        &|| fs::write(bmc.file(), [0xff; 10_000]).expect("written"),
        &|| fs::create_dir(bmc.file()).expect("a directory"),
        &|| assert!(Command::new("mkfifo").arg(bmc.file()).status().expect("mkfifo").success()),
    ];
    for make in make {
        make();
        let life = bmc.life().await;
        assert_eq!(life.decided().await, ["Unknown", "Startup"]);
        // The way is clear.
        life.set("S0_G0_D0").await;
        life.end().await;
        let life = bmc.life().await;
        assert_eq!(life.decided().await, ["S0_G0_D0", "Restored"]);
        life.end().await;
        fs::remove_file(bmc.file()).expect("a file");
        let bad = bmc.file().with_extension("bad");
        fs::remove_file(&bad).or_else(|_| fs::remove_dir(&bad)).expect("set aside");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_fails_no_set() {
    let bmc = Bmc::new();
    fs::write(bmc.bus.dir().join("var"), "").expect("written");
    let _power = bmc.power("On", "Running", "").await;
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["Unknown", "Startup"]);
    for state in ["S2_D2", "S0_G0_D0", "S5_G2"] {
        life.set(state).await;
    }
    life.end().await;
}

/// The program in a mount namespace of its own, where `mount` has made something of the state directory `$2`.
fn program_beside(mount: &str, bmc: &Bmc) -> Child {
    let script = format!("set -e; {mount}; exec \"$0\" --bus \"$1\" --state-dir \"$2\"");
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if root { "unshare" } else { "sudo" });
    command.args(if root { &[][..] } else { &["-n", "unshare"] });
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        &script,
        env!("CARGO_BIN_EXE_acpi-stated"),
    ]);
    command.arg(bmc.bus.address()).arg(bmc.state_dir());
    command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a mount namespace")
}

#[tokio::test]
async fn storage_that_is_read_only_or_full_is_one_log_line() {
    for (mount, why) in [
        ("mount --bind \"$2\" \"$2\"; mount -o remount,bind,ro \"$2\"", "Read-only file system"),
        (
            "mount -t tmpfs -o size=4k tmpfs \"$2\"; head -c 4096 /dev/zero >\"$2/fill\"",
            "No space left on device",
        ),
    ] {
        let bmc = Bmc::new();
        fs::create_dir_all(bmc.state_dir()).expect("a directory");
        let power = bmc.power("Off", "Off", "").await;
        let mut program = program_beside(mount, &bmc);
        let client = connect(bmc.bus.address()).await;
        let says = async |what: &str| {
            let began = Instant::now();
            loop {
                let asked = client.call_method(Some(NAME), PATH, Some(PROPERTIES), "GetAll", &"").await;
                if asked.is_ok_and(|all| {
                    let body = all.body();
                    let all: BTreeMap<String, Variant<'_>> = body.deserialize().expect("properties");
                    format!("{all:?}").contains(what)
                }) {
                    return;
                }
                assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // Each of these is to be stored.
        says("S5_G2").await;
        power.host("Running").await.expect("a signal");
        power.chassis("On").await.expect("a signal");
        power.host("Off").await.expect("a signal");
        says("ResetSuspected").await;
        power.chassis("Off").await.expect("a signal");
        says("ChassisOff").await;
        let pid = rustix::process::Pid::from_child(&program);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let mut said = String::new();
        program.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
        assert!(program.wait().expect("it ends").success(), "{said}");
        assert_eq!(said.matches("cannot be written").count(), 1, "{said}");
        assert!(said.contains(why), "{said}");
        assert!(!bmc.file().exists());
    }
}

/// Every fsync takes a minute: strace holds the thread there.
#[tokio::test]
async fn storage_that_blocks_holds_up_nobody() {
    let bmc = Bmc::new().with_memory();
    bmc.lived("S0_G0_D0").await;
    let power = bmc.power("On", "Running", "").await;
    let [log, said] = ["strace", "said"].map(|name| bmc.bus.dir().join(name));
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "--seccomp-bpf", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=60000000"])
        .arg("-o")
        .arg(&log)
        .args([env!("CARGO_BIN_EXE_acpi-stated"), "--bus", bmc.bus.address()])
        .env("STATE_DIRECTORY", bmc.state_dir())
        .env("RUNTIME_DIRECTORY", bmc.memory_dir())
        .stdin(Stdio::null())
        .stderr(fs::File::create(&said).expect("a file"))
        .spawn()
        .expect("strace (Debian: strace)");
    let until = async |what: &str, condition: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < PATIENCE * 3, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    };
    let holds = |path: &Path, text: &str| fs::read_to_string(path).unwrap_or_default().contains(text);
    let client = connect(bmc.bus.address()).await;
    let began = Instant::now();
    while client.call_method(Some(NAME), PATH, Some(PROPERTIES), "GetAll", &"").await.is_err() {
        assert!(began.elapsed() < PATIENCE, "the program does not come up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for state in ["S2_D2", "S0_G0_D0", "S5_G2", "S2_D2"] {
        let began = Instant::now();
        rig::set(&client, state).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{state} took {:?}", began.elapsed());
    }
    until("it writes to storage", &|| holds(&log, "fsync(")).await;
    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    let daemon: i32 = fs::read_to_string(children).expect("proc").trim().parse().expect("one child");
    let daemon = rustix::process::Pid::from_raw(daemon).expect("a pid");
    rustix::process::kill_process(daemon, rustix::process::Signal::TERM).expect("it runs");
    let took = until("it gives up", &|| holds(&said, "storage does not come round")).await;
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(fs::read_to_string(bmc.file()).expect("the old one").contains("S0_G0_D0"));
    // And with it the program, which cannot end before its thread can.
    strace.kill().expect("it runs");
    strace.wait().expect("it ends");
    until("it is gone", &|| rustix::process::test_kill_process(daemon).is_err()).await;
    // What it could not store it has in memory.
    assert_eq!(bmc.life().await.decided().await, ["S2_D2", "Restored"]);
    power.leave().await;
}

/// Rename by rename: name and size of each file that came to be in the directory.
struct Renames(OwnedFd, PathBuf);

impl Renames {
    fn of(directory: PathBuf) -> Self {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK).expect("inotify");
        inotify::add_watch(&fd, &directory, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::MODIFY)
            .expect("a watch");
        Self(fd, directory)
    }

    /// How often each name was written to or renamed to since.
    fn counted(&self) -> BTreeMap<(String, bool), usize> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut counted = BTreeMap::new();
        while let Ok(event) = reader.next() {
            let name = event.file_name().expect("of a file").to_string_lossy().into_owned();
            let moved = event.events().contains(inotify::ReadFlags::MOVED_TO);
            *counted.entry((name, moved)).or_default() += 1;
        }
        counted
    }

    fn files(&self) -> usize {
        self.counted().remove(&("host0".to_owned(), true)).unwrap_or_default()
    }

    fn longest(&self) -> usize {
        fs::read(self.1.join("host0")).expect("it is stored").len()
    }
}

/// The figures of docs/state.md.
#[tokio::test]
async fn a_boot_writes_five_short_files_and_what_is_the_same_none() {
    let bmc = Bmc { boot: "01234567-89ab-cdef-0123-456789abcdef", ..Bmc::new().at(SLOW) };
    bmc.lived("S5_G2").await;
    let power = bmc.power("Off", "Off", "").await;
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S5_G2", "Restored"]);
    let renames = Renames::of(bmc.state_dir());
    let mut longest = 0;
    let mut wait_for = async |state: &str, life: &Rig| {
        life.until_state(state).await;
        life.until("it is stored", async || {
            fs::read_to_string(bmc.file()).expect("it is there").contains(&format!(" {state} clear "))
        })
        .await;
        longest = longest.max(renames.longest());
    };
    power.host("Running").await.expect("a signal");
    power.chassis("On").await.expect("a signal");
    life.set("S2_D2").await;
    wait_for("S2_D2", &life).await;
    life.set("S0_G0_D0").await;
    wait_for("S0_G0_D0", &life).await;
    life.until_open().await;
    power.host("Off").await.expect("a signal");
    power.chassis("Off").await.expect("a signal");
    wait_for("S5_G2", &life).await;
    let files = renames.files();
    // The host's Off before the chassis' may be written too: a suspicion.
    assert!((4..=5).contains(&files), "{files} files");
    assert!(longest <= 150, "{longest} bytes");

    for _ in 0..100 {
        life.set("S5_G2").await;
    }
    power.chassis("Off").await.expect("a signal");
    tokio::time::sleep(LONG).await;
    life.end().await;
    // Nor does the next life write what it finds.
    let life = bmc.life().await;
    assert_eq!(life.decided().await, ["S5_G2", "Restored"]);
    life.end().await;
    assert_eq!(renames.counted(), BTreeMap::new());
}

/// What a boot reports is on storage as soon as storage can, also where the report before it was written just now: a hard reset
/// of the BMC soon after the answer finds it. (How soon is the disk's and the machine's affair, so of several tries the best
/// counts; a pause between the writes would be in each.)
#[tokio::test]
async fn a_report_right_after_another_is_stored_at_once() {
    let bmc = Bmc::new().with_memory();
    let _power = bmc.power("On", "Running", "").await;
    let life = bmc.life().await;
    let stored = async |state: &str| {
        let began = Instant::now();
        let there = || fs::read_to_string(bmc.file()).is_ok_and(|line| line.contains(&format!(" {state} ")));
        while !there() {
            assert!(began.elapsed() < PATIENCE, "{state} is not stored");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    };
    let mut best = PATIENCE;
    for _ in 0..3 {
        life.set("S0_G0_D0").await;
        stored("S0_G0_D0").await;
        life.set("S2_D2").await;
        best = best.min(stored("S2_D2").await);
    }
    assert!(best < Duration::from_millis(500), "{best:?}");
    life.end().await;
}

/// With a place in memory, storage is written once a second on average: a host that reports without end wears out no flash.
#[tokio::test]
async fn a_flood_of_reports_is_stored_once_a_second_and_its_last_one_at_the_end() {
    let bmc = Bmc::new().with_memory();
    bmc.lived("S5_G2").await;
    let _power = bmc.power("On", "Running", "").await;
    let life = bmc.life().await;
    let renames = Renames::of(bmc.state_dir());
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        life.set("S0_G0_D0").await;
        life.set("S2_D2").await;
    }
    life.set("S4").await;
    life.end().await;
    let files = renames.files();
    let seconds = usize::try_from(began.elapsed().as_secs()).expect("a few");
    // Eight may follow each other at once, and at the end what is left is written.
    assert!(files <= seconds + 10, "{files} files in {:?}", began.elapsed());
    assert!(fs::read_to_string(bmc.file()).expect("stored").contains(" S4 clear first "));
}

/// A place in memory that cannot be had is no more than that.
#[tokio::test]
async fn without_the_directory_in_memory_storage_alone_serves() {
    let mut bmc = Bmc::new().with_memory();
    bmc.memory = Some(bmc.bus.dir().join("absent"));
    bmc.lived("S2_D2").await;
    let _power = bmc.power("On", "Running", "").await;
    assert_eq!(bmc.life().await.decided().await, ["S2_D2", "Restored"]);
}

#[tokio::test]
async fn a_damaged_file_in_memory_means_that_nothing_is_known() {
    let bmc = Bmc::new().with_memory();
    let memory = bmc.memory.clone().expect("a place").join("host0");
    let _power = bmc.power("On", "Running", "").await;
    for damage in ["", "acpi-stated-1 S0_G0_D0 clear first 00000000\n"] {
        let life = bmc.life().await;
        life.set("S0_G0_D0").await;
        life.end().await;
        fs::write(&memory, damage).expect("written");
        let life = bmc.life().await;
        assert_eq!(life.decided().await, ["Unknown", "Startup"], "{damage:?}");
        life.end().await;
    }
}
