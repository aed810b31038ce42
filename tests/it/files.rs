// SPDX-License-Identifier: Apache-2.0
//! As many files as may be configured, one of which hangs: the real program reads them with eight threads, and goes on with
//! those of other devices.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{
    power::PowerDouble,
    private_bus::PrivateBus,
    rig::{self, PROPERTIES, connect},
};
use zbus::Variant;

const NAME: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
const SENSORS: &str = "/xyz/openbmc_project/sensors/temperature";
const VALUE: &str = "xyz.openbmc_project.Sensor.Value";
const DEVICES: usize = 16;
const FILES: usize = 16;
/// Only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends strace, and with it what it traces.
struct Traced(Child);

impl Drop for Traced {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

fn configuration(directory: &Path) -> String {
    let sensor = |device: usize, file: usize| {
        let path = directory.join(format!("hwmon{device}"));
        fs::create_dir_all(&path).expect("a directory");
        let path = path.join(format!("temp{file}_input"));
        fs::write(&path, format!("{}000\n", 20 + device)).expect("written");
        format!(
            r#"{{ "name": "T{device}_{file}", "group": "thermal", "device": "hwmon", "path": "{}" }}"#,
            path.display()
        )
    };
    let sensors: Vec<_> =
        (0..DEVICES).flat_map(|device| (0..FILES).map(move |file| sensor(device, file))).collect();
    format!(r#"{{ "hosts": [{{ "id": 0 }}], "sensors": [{}] }}"#, sensors.join(", "))
}

/// How many threads of the process have this name.
fn threads(pid: &str, name: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|comm| comm.trim() == name).count()
}

#[tokio::test]
async fn eight_threads_read_256_files_and_one_that_hangs_does_not_stop_other_devices() {
    let bus = PrivateBus::start().expect("a private bus");
    let directory = fs::canonicalize(bus.dir()).expect("a directory");
    let config = directory.join("config.json");
    fs::write(&config, configuration(&directory)).expect("written");
    let _power = PowerDouble::start(bus.address(), "On", "Running", "").await.expect("a power control");
    let (log, hangs) = (directory.join("strace"), directory.join("hwmon0/temp0_input"));
    let strace = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-e",
            "trace=read",
            "-e",
            "inject=read:delay_enter=600000000",
            "-P",
        ])
        .arg(&hangs)
        .arg("-o")
        .arg(&log)
        .args([env!("CARGO_BIN_EXE_acpi-stated"), "--bus", bus.address(), "--state-dir"])
        .arg(directory.join("state"))
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let strace = Traced(strace.expect("strace (Debian: strace)"));
    let client = connect(bus.address()).await;
    let value = async |device: usize, file: usize| {
        let path = format!("{SENSORS}/T{device}_{file}");
        let arguments = (VALUE, "Value");
        let reply = client.call_method(Some(NAME), path, Some(PROPERTIES), "Get", &arguments).await.ok()?;
        f64::try_from(reply.body().deserialize::<Variant<'_>>().ok()?).ok()
    };
    let began = Instant::now();
    while !fs::read_to_string(&log).unwrap_or_default().contains("read(") {
        assert!(began.elapsed() < PATIENCE, "the file that hangs is not read");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The eighth device from it shares its thread.
    for (device, file) in (0..DEVICES).filter(|device| device % 8 != 0).flat_map(|d| [(d, 0), (d, FILES - 1)])
    {
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let expected = (20 + device) as f64;
        while value(device, file).await != Some(expected) {
            assert!(began.elapsed() < PATIENCE, "T{device}_{file} is not read");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let children = format!("/proc/{0}/task/{0}/children", strace.0.id());
    let pid = fs::read_to_string(children).expect("proc");
    assert_eq!(threads(pid.trim(), "hwmon"), 8);
    rig::set(&client, "S2_D2").await;
    assert!(value(0, 0).await.is_none_or(f64::is_nan), "it hangs");
}
