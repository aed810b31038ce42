// SPDX-License-Identifier: Apache-2.0
//! A private bus in a directory of its own: for the tests and for the simulated board.
//!
//! Only `std`, and blocking: it takes a few milliseconds. On this bus everybody may own any name and
//! call anybody, as OpenBMC's `dbus-perms` allows it (openbmc 8).
//!
//! It is a dbus-daemon, or with `ACPI_BUS=dbus-broker` in the environment the one that OpenBMC ships:
//! `./dev test` runs the tests of the D-Bus contract with both.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, MetadataExt, PermissionsExt},
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Everybody may everything.
const OPEN: &str = r#"
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow send_type="signal"/>
    <allow eavesdrop="true"/>
  </policy>"#;

/// A running bus; it ends, and its directory goes, when this is dropped.
#[derive(Debug)]
pub struct PrivateBus {
    child: Child,
    dir: PathBuf,
    address: String,
    /// What dbus-broker takes for the journal. It waits for one that nobody reads, and all its clients with it.
    journal: Option<UnixDatagram>,
}

impl PrivateBus {
    /// Starts the bus and waits until it listens.
    pub fn start() -> io::Result<Self> {
        Self::with_policy(OPEN)
    }

    /// The same with other rules: `<policy>` and `<include>` elements of a bus configuration.
    pub fn with_policy(policy: &str) -> io::Result<Self> {
        let dir = new_dir()?;
        let started = match env::var("ACPI_BUS").as_deref() {
            Err(_) | Ok("" | "dbus-daemon") => start_daemon(&dir, policy),
            Ok("dbus-broker") => start_broker(&dir, policy),
            Ok(other) => Err(io::Error::other(format!("ACPI_BUS: there is no {other}"))),
        };
        match started {
            Ok((child, address, journal)) => Ok(Self { child, dir, address, journal }),
            Err(error) => {
                remove(&dir);
                Err(error)
            }
        }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process of the bus, or of what started it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory of the bus, which nobody else may enter.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        end(&mut self.child);
        // Lets its reader go.
        drop(self.journal.as_ref().map(|journal| journal.shutdown(std::net::Shutdown::Both)));
        remove(&self.dir);
    }
}

fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

type Started = (Child, String, Option<UnixDatagram>);

fn start_daemon(dir: &Path, policy: &str) -> io::Result<Started> {
    let config = dir.join("bus.conf");
    fs::write(&config, configuration(&dir.join("bus"), policy))?;
    // Into a file: it may complain about limits of the machine that do not matter here.
    let log = dir.join("log");
    let mut child = Command::new("dbus-daemon")
        .arg("--config-file")
        .arg(&config)
        .args(["--nofork", "--nopidfile", "--print-address"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("dbus-daemon cannot be started: {error}")))?;
    let mut address = String::new();
    let printed = match child.stdout.take() {
        Some(stdout) => BufReader::new(stdout).read_line(&mut address),
        None => Ok(0),
    };
    // The address is a line of its own; without it the bus never listened.
    match printed {
        Ok(read) if read > 0 => Ok((child, address.trim_end().to_owned(), None)),
        Ok(_) | Err(_) => {
            end(&mut child);
            let why = fs::read_to_string(&log).unwrap_or_default();
            Err(io::Error::other(format!("dbus-daemon ended before it listened: {}", why.trim_end())))
        }
    }
}

/// The launcher wants its socket from systemd, as file descriptor 3; a journal; and dbus-broker itself in
/// /usr/bin. Where there is no journal, or it was unpacked elsewhere, that is arranged in a mount namespace.
const LAUNCH: &str = r#"
if [ "$broker" != /usr/bin ] || [ ! -S /run/systemd/journal/socket ]; then
    mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && : >/run/systemd/journal/socket &&
        mount --bind "$dir/journal" /run/systemd/journal/socket && mount --bind "$broker" /usr/bin || exit
fi
export LISTEN_FDS=1 LISTEN_PID=$$ DBUS_SESSION_BUS_ADDRESS="unix:path=$dir/bus"
exec /usr/bin/dbus-broker-launch --scope user --config-file "$dir/bus.conf" 3<&0 0</dev/null
"#;

fn start_broker(dir: &Path, policy: &str) -> io::Result<Started> {
    let path = env::var_os("PATH").unwrap_or_default();
    let broker = env::split_paths(&path).find(|dir| dir.join("dbus-broker-launch").exists());
    let broker = broker.ok_or_else(|| io::Error::other("there is no dbus-broker-launch in PATH"))?;
    // /bin is often the same directory.
    let broker = broker.canonicalize()?;
    let socket = dir.join("bus");
    fs::write(dir.join("bus.conf"), configuration(&socket, policy))?;
    let listener = UnixListener::bind(&socket)?;
    // As dbus-daemon has it: the policy decides, and the directory.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777))?;
    let journal = UnixDatagram::bind(dir.join("journal"))?;
    let reader = journal.try_clone()?;
    std::thread::spawn(move || while reader.recv(&mut [0; 4096]).is_ok_and(|read| read > 0) {});
    let log = dir.join("log");
    let mut unshare = Command::new("unshare");
    // Whoever is not root may mount in a user namespace of his own, where he stays who he is.
    if fs::metadata("/proc/self")?.uid() != 0 {
        unshare.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    let mut child = unshare
        .args(["--mount", "sh", "-c", LAUNCH])
        .env("dir", dir)
        .env("broker", broker)
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("unshare cannot be started: {error}")))?;
    match greet(&socket) {
        Ok(()) => Ok((child, format!("unix:path={}", socket.display()), Some(journal))),
        Err(error) => {
            end(&mut child);
            let why = fs::read_to_string(&log).unwrap_or_default();
            Err(io::Error::other(format!("dbus-broker does not answer ({error}): {}", why.trim_end())))
        }
    }
}

/// Returns when somebody speaks D-Bus at the socket. (Its socket was there before it.)
fn greet(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"\0AUTH\r\n")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    if answer == *b"REJECTED" { Ok(()) } else { Err(io::Error::other("it speaks something else")) }
}

fn configuration(socket: &Path, policy: &str) -> String {
    // The limits are those of dbus-daemon's own session.conf: a flood of calls must meet the daemon
    // under test, not the bus's guard against it.
    format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
{policy}
  <limit name="max_incoming_bytes">1000000000</limit>
  <limit name="max_outgoing_bytes">1000000000</limit>
  <limit name="max_message_size">1000000000</limit>
  <limit name="max_completed_connections">100000</limit>
  <limit name="max_connections_per_user">100000</limit>
  <limit name="max_match_rules_per_connection">50000</limit>
  <limit name="max_names_per_connection">50000</limit>
  <limit name="max_replies_per_connection">50000</limit>
</busconfig>
"#,
        socket = socket.display()
    )
}

/// A new directory that nobody else may enter. Its name is short: a socket's path has 107 bytes.
fn new_dir() -> io::Result<PathBuf> {
    let base = std::env::temp_dir();
    for n in 0..1000 {
        let dir = base.join(format!("acpi-bus-{}-{n}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|()| dir),
        }
    }
    Err(io::Error::other(format!("no directory can be made in {}", base.display())))
}

fn remove(dir: &Path) {
    // What is left behind is a configuration and a socket nobody listens on.
    drop(fs::remove_dir_all(dir));
}
