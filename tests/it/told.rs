// SPDX-License-Identifier: Apache-2.0
//! What the log says while nothing happens: what the daemon has, and what it waits for.

use std::{
    fmt::{self, Write as _},
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use crate::support::{
    hand::Hand,
    power::PowerDouble,
    private_bus::PrivateBus,
    rig::{self, Rig},
};
use acpi_stated::{adapters::spd_mux::LinuxLines, logic::time::Time};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// What a [`Listener`] hears.
struct Heard(Mutex<Vec<String>>);

static HEARD: Heard = Heard(Mutex::new(Vec::new()));

impl Heard {
    fn count(&self, text: &str) -> usize {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.contains(text)).count()
    }

    async fn until(&self, text: &str, times: usize) {
        let began = Instant::now();
        while self.count(text) < times {
            assert!(began.elapsed() < rig::PATIENCE, "never said {times} times: {text}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// To what one thread logs: the daemons of other tests are in this program too. It is the only one here that listens.
struct Listener(ThreadId);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("acpi_stated")
    }
    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                if field.name() == "message" {
                    write!(self.0, "{value:?}").expect("a String");
                }
            }
        }
        if thread::current().id() != self.0 {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        HEARD.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// On a clock that a hand moves: not later than 30 s after the start, and after a service went.
#[tokio::test]
async fn a_power_service_that_is_not_there_is_a_line_and_again_when_it_comes() {
    const ABSENT: &str = "host0: nobody tells the State of Chassis and Host";
    const THERE: &str = "host0: the power service is there";
    let (clock, hand) = Hand::with_clock();
    let bus = PrivateBus::start().expect("a private bus");
    let rig = Rig::living_by(clock, bus, None, Arc::new(LinuxLines), |_| {}).await;
    // Nothing of this is said before the clock moves.
    tracing::subscriber::set_global_default(Listener(rig.thread())).expect("the first");
    let thirty = hand.move_towards(Time::ZERO) + Duration::from_secs(30);
    while hand.move_towards(thirty) < thirty {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    HEARD.until(ABSENT, 1).await;
    assert_eq!(HEARD.count(THERE), 0);
    let power = PowerDouble::start(rig.bus.address(), "On", "Running", "").await.expect("a power control");
    HEARD.until(THERE, 1).await;
    // It goes for good.
    drop(power);
    let missing = async || rig.reasons().await.contains(&"EvidenceMissing".to_owned());
    rig.until("its loss is seen", missing).await;
    let sixty = thirty + Duration::from_secs(30);
    while hand.move_towards(sixty) < sixty {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    HEARD.until(ABSENT, 2).await;
}

#[test]
fn the_first_line_says_what_the_daemon_has() {
    let bus = PrivateBus::start().expect("a private bus");
    let config = bus.dir().join("config.json");
    let text = r#"{ "hosts": [{ "id": 0 }, { "id": 2 }], "buses": [{ "bus": 3, "hosts": [0] }, { "bus": 14, "hosts": [2] }],
        "sensors": [{ "name": "DIMM_A", "host": 2, "group": "dimm", "device": "jc42", "bus": 14, "address": "0x18" }] }"#;
    std::fs::write(&config, text).expect("a configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_acpi-stated"));
    command
        .args(["--bus", bus.address(), "--config"])
        .arg(&config)
        .arg("--state-dir")
        .arg(bus.dir().join("state"));
    command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").env_remove("ACPI_STATED_LOG");
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program");
    let mut line = String::new();
    let read = BufReader::new(child.stderr.take().expect("piped")).read_line(&mut line);
    drop(child.kill());
    drop(child.wait());
    read.expect("a line");
    let wanted = format!(
        " INFO acpi-stated {} starts: {}; host 0, 2; bus 3, 14; sensor DIMM_A\n",
        env!("CARGO_PKG_VERSION"),
        config.display()
    );
    assert_eq!(line, wanted);
}
