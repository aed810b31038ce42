// SPDX-License-Identifier: Apache-2.0
//! What the daemon shows on D-Bus, seen by somebody else on the bus.
//!
//! Counted are only changes of `SysACPIStatus`, against what the board knows that its host sent. The
//! rest, the Tracker interface, is for the timeline.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet};
use zbus::{
    Connection, MatchRule, Message, MessageStream, OwnedVariant, Variant, message::Type, names::MemberName,
};

use crate::{
    Result,
    host::Report,
    ipmid::INTERFACE,
    lock,
    objects::{PROPERTIES, connect, next},
    timeline::{Timeline, Who},
};

/// The daemon's bus name.
pub const NAME: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
/// The object of host 0.
pub const PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
/// The daemon's own interface on it.
pub const TRACKER: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState.Tracker";
const UNKNOWN: &str = "Unknown";

/// What is shown now.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The last part of `SysACPIStatus`; empty before the first was seen.
    pub state: String,
    /// The names in `Diagnoses`.
    pub diagnoses: Vec<String>,
}

/// A diagnosis came or went.
#[derive(Clone, Debug)]
pub struct Diagnosed {
    /// Its name.
    pub name: String,
    /// It came.
    pub raised: bool,
    /// When that was seen.
    pub at: Instant,
}

/// What was seen, by the board's count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Changes to S5 that no host sent.
    pub inferred_s5: u64,
    /// Changes from working straight to S2.
    pub warm_resets: u64,
}

/// The observer.
#[derive(Clone, Debug)]
pub struct Observer {
    connection: Connection,
    shared: Arc<Shared>,
    view: watch::Receiver<View>,
}

#[derive(Debug)]
struct Shared {
    view: watch::Sender<View>,
    timeline: Timeline,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    seen: Seen,
    /// What the host has said and is not shown yet.
    said: Option<Report>,
    diagnosed: Vec<Diagnosed>,
}

impl Observer {
    /// Starts watching on the bus at `address`; the daemon need not be there yet.
    pub async fn start(address: &str, timeline: Timeline, tasks: &mut JoinSet<()>) -> Result<Self> {
        let connection = connect(address).await?;
        let rule = MatchRule::builder().msg_type(Type::Signal).path(PATH).build()?;
        let mut signals = MessageStream::for_match_rule(rule, &connection, None).await?;
        let (view, seen) = watch::channel(View::default());
        let shared = Arc::new(Shared { view, timeline, book: Mutex::default() });
        let of_task = Arc::clone(&shared);
        tasks.spawn(async move {
            while let Some(signal) = next(&mut signals).await {
                of_task.signal(&signal);
            }
        });
        Ok(Self { connection, shared, view: seen })
    }

    /// Waits until the daemon shows a state that is not Unknown; true if it did.
    pub async fn daemon_ready(&self, within: Duration) -> bool {
        let shown = async {
            loop {
                if let Some(state) = self.get_state().await
                    && state != UNKNOWN
                {
                    self.shared.view.send_modify(|view| view.state.clone_from(&state));
                    self.shared.timeline.state(&state);
                    self.show_gate().await;
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(within, shown).await.is_ok()
    }

    async fn show_gate(&self) {
        let open = self.get(TRACKER, "GateOpen").await;
        let reasons = self.get(TRACKER, "GateReasons").await;
        if let (Some(Variant::Bool(open)), Some(reasons)) = (open.as_deref(), reasons.as_deref()) {
            self.shared.timeline.gate(*open, &strings(reasons));
        }
    }

    /// The last part of `SysACPIStatus`, asked for.
    pub async fn get_state(&self) -> Option<String> {
        let value = self.get(INTERFACE, "SysACPIStatus").await?;
        Some(short(value.downcast_ref::<&str>().ok()?).to_owned())
    }

    /// A property of the daemon's object, asked for.
    pub async fn get(&self, interface: &str, property: &str) -> Option<OwnedVariant> {
        let body = (interface, property);
        let call = self.connection.call_method(Some(NAME), PATH, Some(PROPERTIES), "Get", &body);
        call.await.ok()?.body().deserialize().ok()
    }

    /// Waits until what is shown is as wanted; true if it was.
    pub async fn wait(&self, within: Duration, wanted: impl FnMut(&View) -> bool) -> bool {
        let mut view = self.view.clone();
        tokio::time::timeout(within, view.wait_for(wanted)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// The host is about to report this state.
    pub fn host_says(&self, report: Report) {
        lock(&self.shared.book).said = Some(report);
    }

    /// Whatever is shown from now on comes from no report made before.
    pub fn host_is_silent(&self) {
        lock(&self.shared.book).said = None;
    }

    /// Every diagnosis that came or went, oldest first.
    #[must_use]
    pub fn diagnosed(&self) -> Vec<Diagnosed> {
        lock(&self.shared.book).diagnosed.clone()
    }

    /// The counts so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        lock(&self.shared.book).seen
    }
}

impl Shared {
    fn signal(&self, signal: &Message) {
        let header = signal.header();
        let body = signal.body();
        match header.member().map(MemberName::as_str) {
            Some("PropertiesChanged") => {
                let changed = body.deserialize::<(&str, HashMap<&str, Variant<'_>>, Vec<&str>)>();
                if let Ok((interface, properties, _)) = changed {
                    self.changed(interface, &properties);
                }
            }
            Some("Transitioned") => {
                if let Ok((_, from, to, cause)) = body.deserialize::<(u64, &str, &str, &str)>() {
                    self.timeline.cause(cause);
                    let text = format!("{} -> {} ({cause})", short(from), short(to));
                    self.timeline.row(Who::Daemon, &text);
                }
            }
            _ => {}
        }
    }

    fn changed(&self, interface: &str, properties: &HashMap<&str, Variant<'_>>) {
        if interface == INTERFACE
            && let Some(Variant::Str(state)) = properties.get("SysACPIStatus")
        {
            self.state_changed(short(state));
        }
        if interface != TRACKER {
            return;
        }
        if let Some(Variant::Bool(open)) = properties.get("GateOpen") {
            let reasons = properties.get("GateReasons").map(strings).unwrap_or_default();
            self.timeline.gate(*open, &reasons);
        }
        if let Some(diagnoses) = properties.get("Diagnoses").map(strings) {
            let before = self.view.borrow().diagnoses.clone();
            let at = Instant::now();
            let came = diagnoses.iter().filter(|name| !before.contains(name)).map(|name| (name, true));
            let went = before.iter().filter(|name| !diagnoses.contains(name)).map(|name| (name, false));
            for (name, raised) in came.chain(went) {
                let what = if raised { "diagnosis" } else { "diagnosis is over" };
                self.timeline.row(Who::Daemon, &format!("{what}: {name}"));
                lock(&self.book).diagnosed.push(Diagnosed { name: name.clone(), raised, at });
            }
            self.view.send_modify(|view| view.diagnoses = diagnoses);
        }
    }

    fn state_changed(&self, state: &str) {
        let before = self.view.borrow().state.clone();
        let mut book = lock(&self.book);
        let reported = book.said.is_some_and(|report| report.name() == state);
        if reported {
            book.said = None;
        }
        // The daemon's first state is where counting begins.
        if !before.is_empty() && before != UNKNOWN {
            book.seen.inferred_s5 += u64::from(state == Report::S5.name() && !reported);
            book.seen.warm_resets += u64::from(before == Report::S0.name() && state == Report::S2.name());
        }
        drop(book);
        self.timeline.state(state);
        self.view.send_modify(|view| state.clone_into(&mut view.state));
    }
}

/// The last part of an enum string.
fn short(value: &str) -> &str {
    value.rsplit('.').next().unwrap_or(value)
}

fn strings(value: &Variant<'_>) -> Vec<String> {
    let Variant::Array(array) = value else { return Vec::new() };
    array.iter().filter_map(|item| item.downcast_ref::<&str>().ok()).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_and_inferred_changes_are_told_apart() {
        let (view, _seen) = watch::channel(View::default());
        let shared = Shared { view, timeline: Timeline::silent(), book: Mutex::default() };
        shared.state_changed("S5_G2");
        assert_eq!(lock(&shared.book).seen.inferred_s5, 0, "the first state is nobody's change");
        shared.state_changed("S2_D2");
        shared.state_changed("S0_G0_D0");
        lock(&shared.book).said = Some(Report::S5);
        shared.state_changed("S5_G2");
        shared.state_changed("S0_G0_D0");
        shared.state_changed("S5_G2");
        shared.state_changed("S0_G0_D0");
        shared.state_changed("S2_D2");
        let seen = lock(&shared.book).seen;
        assert_eq!((seen.inferred_s5, seen.warm_resets), (1, 1));
    }
}
