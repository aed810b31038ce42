// SPDX-License-Identifier: Apache-2.0
//! A test that is somebody else for a while: it runs a copy of its own program under the uid of nobody, which finds
//! `ACPI_AS_NOBODY` in its environment and is the caller. It needs root.

use std::{env, fs, os::unix::fs::PermissionsExt, path::Path, process::Stdio, sync::Arc};

use tokio::process::Command;

use crate::support::private_bus::PrivateBus;

/// Its uid.
pub const NOBODY: u32 = 65534;

/// Runs `caller` as nobody, with the address of the bus that `bus` makes. `name` is that of the calling test, with its module; it
/// runs twice, and `serve`s the outer time.
pub async fn as_nobody<S>(
    name: &str,
    bus: impl FnOnce() -> PrivateBus,
    serve: impl AsyncFnOnce(Arc<PrivateBus>) -> S,
    caller: impl AsyncFnOnce(String),
) {
    if env::var("ACPI_AS_NOBODY").is_ok_and(|wanted| wanted == name) {
        let address = env::var("ACPI_BUS_ADDRESS").expect("the address of the bus");
        return caller(address).await;
    }
    let bus = Arc::new(bus());
    let _served = serve(Arc::clone(&bus)).await;
    // The directory keeps others out; for once they may come in, and find this program there.
    fs::set_permissions(bus.dir(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let copy = bus.dir().join("test");
    copy_program(&env::current_exe().expect("the test binary"), &copy).await;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "timeout", "--kill-after=5", "60"])
        .arg(copy)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .current_dir("/")
        .env("ACPI_AS_NOBODY", name)
        .env("ACPI_BUS_ADDRESS", bus.address())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("setpriv (util-linux)");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    // "1 passed": a name that matches no test passes too, with none.
    if !output.status.success() || !said.contains("1 passed") {
        let marked = said.trim_end().replace('\n', "\n  | ");
        panic!("{name}, as nobody: {}\n  | {marked}", output.status);
    }
}

/// By a process of its own. A file that anyone has open for writing cannot be run ("text file busy"), and what this process
/// opens, a child that another test's thread has just forked has open too until it becomes its program.
async fn copy_program(from: &Path, to: &Path) {
    let done = Command::new("install").args(["-m", "755"]).arg(from).arg(to).stdin(Stdio::null()).status();
    assert!(done.await.expect("install (coreutils)").success(), "{} cannot be copied", from.display());
}
