// SPDX-License-Identifier: Apache-2.0
//! What the doubles of systemd have in common: its names, and its jobs.

use zbus::{Connection, ObjectPath};

/// Its bus name.
pub const NAME: &str = "org.freedesktop.systemd1";
/// Its object.
pub const PATH: &str = "/org/freedesktop/systemd1";
/// The interface that units are started by.
pub const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// The object of a job: what a call that makes one is answered with.
pub fn job_path(job: u32) -> zbus::Result<ObjectPath<'static>> {
    ObjectPath::try_from(format!("{PATH}/job/{job}"))
}

/// Says that a job of this unit has ended well.
pub async fn job_removed(connection: &Connection, job: u32, unit: &str) -> zbus::Result<()> {
    let removed = (job, job_path(job)?, unit, "done");
    connection.emit_signal(None::<&str>, PATH, MANAGER, "JobRemoved", &removed).await
}
