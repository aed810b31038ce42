// SPDX-License-Identifier: Apache-2.0
//! phosphor-pid-control: zones that drive the fans by temperatures, go to failsafe when an input fails, and are blind in Manual.
//!
//! Its rules are those of openbmc 4.1 and 4.2, read again in its source at ca3d666e (`pid/zone.cpp`, `pid/zone.hpp`, `pid/pidloop.cpp`,
//! `pid/fancontroller.cpp`, `dbus/dbuspassive.cpp`, `dbus/dbusconfiguration.cpp`, `main.cpp`):
//!
//! - A cycle every 100 ms drives the fans, one every second looks at the thermal inputs. In Manual both return at once: no
//!   input is looked at, no PWM is written, and what was failed stays so. There is no dead-man.
//! - An input that has failed ([`Input::failure`]) is in the failsafe set until a look finds it good. While the set is not empty,
//!   no PWM is below [`FAILSAFE_PERCENT`].
//! - A PWM is written when its value is another than the one that was written last, and once after Manual=false.
//! - The name comes first, then the zones; where that fails, it is tried again every 10 s. A zone is made of the inputs that the
//!   mapper knows at that moment, and one that is not there is missed by nobody (`findSensors`). A new zone is in failsafe by
//!   its fans until its first cycle, and not in Manual.
//! - `InterfacesAdded` or `InterfacesRemoved` below `/xyz/openbmc_project/sensors/`, or a new configuration, rebuilds all zones 2 s
//!   after the last (`createMatches`, `eventHandler`). Nothing else makes it look for sensors.
//! - `FailSafe` is computed when it is read: no signal tells of it. Where Manual comes before the first cycle of a new zone, it
//!   reads true until Manual is given back, and does nothing.
//!
//! Only its calculation is simpler: a stepwise curve without hysteresis for each kind of input.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use acpi_stated::{logic::time::Time, shell::clock::Clock};
use tokio::{sync::mpsc, task::JoinSet};
use zbus::{
    Connection, MatchRule, Message, MessageStream, ObjectPath, Variant,
    message::{Flags, Type},
};

use crate::{
    Result,
    bmc_sensors::{BmcSensors, FAN_PWM, FAN_SENSOR, INLET, PWMS, TARGET},
    clock::{millis, secs, sleep},
    lock,
    objects::{NoMethods, OBJECT_MANAGER, Objects, PROPERTIES, Written, connect, next},
    pid_inputs::{Input, PidInputs},
    timeline::{Timeline, Who},
};

/// Its bus name.
pub const NAME: &str = "xyz.openbmc_project.State.FanCtrl";
/// Its zones: the first has the DIMMs and the CPU, the second the CPU alone.
pub const ZONES: [&str; 2] =
    ["/xyz/openbmc_project/settings/fanctrl/zone0", "/xyz/openbmc_project/settings/fanctrl/zone1"];
/// The interface of a zone.
pub const MODE: &str = "xyz.openbmc_project.Control.Mode";
const MANUAL: &str = "Manual";
const FAIL_SAFE: &str = "FailSafe";
const MANAGER: &str = "/xyz/openbmc_project/settings/fanctrl";
const SENSORS: &str = "/xyz/openbmc_project/sensors/";

/// What a zone does at least in failsafe.
pub const FAILSAFE_PERCENT: f64 = 90.0;
/// The lowest step of every curve: what a stepwise controller asks for that has no temperature at all.
pub const LOWEST_PERCENT: f64 = 30.0;
/// Temperatures from which a step is asked for, in degrees Celsius.
const DIMM_CURVE: [(f64, f64); 4] =
    [(f64::NEG_INFINITY, LOWEST_PERCENT), (55.0, 45.0), (70.0, 65.0), (85.0, 100.0)];
const CPU_CURVE: [(f64, f64); 4] =
    [(f64::NEG_INFINITY, LOWEST_PERCENT), (65.0, 45.0), (80.0, 65.0), (95.0, 100.0)];

/// The fans themselves, as inputs.
const FANS: &str = "the fans";
const FAN_CYCLE: Duration = millis(100);
const THERMAL_CYCLE: Duration = secs(1);
/// A cycle takes no less than this, in real time.
const SHORTEST_CYCLE: Duration = Duration::from_millis(2);
const BUILD_AGAIN: Duration = secs(10);
const RELOAD: Duration = secs(2);
/// `RestartSec` of its unit.
const RESTART: Duration = secs(5);

/// How a failsafe came to be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// A cycle of the zone looked, and found it.
    ByACycle,
    /// No cycle happened to look, but one might have: each signal is taken in by itself.
    BetweenSignals,
}

/// A zone went to failsafe, or might have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failsafe {
    /// The zone's number.
    pub zone: usize,
    /// Since the board started, on its clock.
    pub at: Duration,
    /// The input.
    pub input: String,
    /// Why it is failed.
    pub why: &'static str,
    /// Who saw it.
    pub seen: Seen,
}

/// What a watched time in POST was like for the DIMMs.
#[derive(Clone, Copy, Debug)]
pub struct Post {
    began: Instant,
    /// How long it was watched, in real time.
    pub watched: Duration,
    /// After how long the fans of the DIMMs were all at the wanted speed, in real time.
    pub held_after: Option<Duration>,
    /// The slowest of them from then on, of 255.
    pub slowest: u64,
}

/// What there is to tell of the zones.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Every time that a zone went to failsafe.
    pub failsafes: Vec<Failsafe>,
    /// How long each zone drove its fans by it, on the board's clock.
    pub in_failsafe: [Duration; ZONES.len()],
    /// How often Manual was taken, of any zone.
    pub holds: u64,
    /// How often the zones were built.
    pub builds: u64,
    /// The times in POST that were watched.
    pub posts: Vec<Post>,
}

/// Fan control.
#[derive(Clone, Debug)]
pub struct FanControl {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    clock: Clock,
    began: Time,
    eyes: PidInputs,
    sensors: BmcSensors,
    timeline: Timeline,
    /// For each zone its inputs, as they are configured.
    inputs: [Vec<String>; ZONES.len()],
    /// And those of them that it was built with.
    found: Mutex<[Vec<String>; ZONES.len()]>,
    record: Mutex<Record>,
    /// The speed that the DIMMs' fans must have now, while a time in POST is watched.
    wanted: Mutex<Option<u64>>,
    life: Mutex<Option<Life>>,
}

/// From a start of the service to its end.
#[derive(Debug)]
struct Life {
    objects: Objects,
    reload: mpsc::UnboundedSender<()>,
    tasks: JoinSet<()>,
}

impl FanControl {
    /// Starts it on the bus at `address`. Its inputs are `dimms` and `cpu`, by name, as far as they are there.
    pub async fn start(
        address: &str,
        clock: Clock,
        eyes: PidInputs,
        sensors: BmcSensors,
        timeline: Timeline,
        (dimms, cpu): (Vec<String>, String),
    ) -> Result<Self> {
        let mut all = dimms;
        all.extend([cpu.clone(), INLET.to_owned()]);
        let shared = Shared {
            address: address.to_owned(),
            clock,
            began: clock.now(),
            eyes,
            sensors,
            timeline,
            inputs: [all, vec![cpu, INLET.to_owned()]],
            found: Mutex::default(),
            record: Mutex::default(),
            wanted: Mutex::default(),
            life: Mutex::default(),
        };
        let control = Self { shared: Arc::new(shared) };
        control.begin().await?;
        Ok(control)
    }

    async fn begin(&self) -> Result<()> {
        let (to_loop, writes) = mpsc::unbounded_channel();
        let (reload, reloads) = mpsc::unbounded_channel();
        let connection = connect(&self.shared.address).await?;
        let rule = MatchRule::builder().msg_type(Type::Signal).interface(OBJECT_MANAGER).build()?;
        let mut changes = MessageStream::for_match_rule(rule, &connection, None).await?;
        let objects = Objects::new(connection, Some(to_loop));
        let mut tasks = JoinSet::new();
        objects.serve(NoMethods, &mut tasks);
        objects.connection().request_name(NAME).await?;
        let new_sensors = reload.clone();
        tasks.spawn(async move {
            while let Some(signal) = next(&mut changes).await {
                let body = signal.body();
                let path = body.deserialize_ignore_signature::<ObjectPath<'_>>();
                if path.is_ok_and(|path| path.as_str().starts_with(SENSORS)) {
                    // The loop ends with this task.
                    new_sensors.send(()).unwrap_or_default();
                }
            }
        });
        tasks.spawn(run(Arc::clone(&self.shared), objects.clone(), writes, reloads));
        *lock(&self.shared.life) = Some(Life { objects, reload, tasks });
        Ok(())
    }

    /// It is told of a new configuration, and rebuilds its zones: 2 s later Manual is gone.
    pub fn reload(&self) {
        if let Some(life) = &*lock(&self.shared.life) {
            // A service that has ended reloads nothing.
            life.reload.send(()).unwrap_or_default();
        }
    }

    /// It crashes, and systemd starts it again: 5 s later Manual is gone.
    pub async fn restart(&self) -> Result<()> {
        let life = lock(&self.shared.life).take();
        self.shared.tell("phosphor-pid-control crashes");
        if let Some(Life { objects, mut tasks, .. }) = life {
            tasks.shutdown().await;
            objects.connection().release_name(NAME).await?;
        }
        sleep(self.shared.clock, RESTART).await;
        self.begin().await
    }

    /// Somebody writes a zone's Manual, as any client can.
    pub async fn set_manual(&self, zone: &str, manual: bool) -> Result<()> {
        let client = connect(&self.shared.address).await?;
        let body = (MODE, MANUAL, Variant::from(manual));
        client.call_method(Some(NAME), zone, Some(PROPERTIES), "Set", &body).await?;
        Ok(())
    }

    /// Whether a zone is in Manual; `None` if it is not there.
    #[must_use]
    pub fn is_manual(&self, zone: &str) -> Option<bool> {
        let life = lock(&self.shared.life);
        life.as_ref()?.objects.value(zone, MODE, MANUAL)?.downcast_ref().ok()
    }

    /// Whether a zone is in failsafe; `None` if it is not there.
    #[must_use]
    pub fn is_failsafe(&self, zone: &str) -> Option<bool> {
        let life = lock(&self.shared.life);
        life.as_ref()?.objects.value(zone, MODE, FAIL_SAFE)?.downcast_ref().ok()
    }

    /// Whether the zones have all their inputs.
    #[must_use]
    pub fn knows_all(&self) -> bool {
        *lock(&self.shared.found) == self.shared.inputs
    }

    /// The slowest of the DIMMs' fans, of 255.
    #[must_use]
    pub fn slowest(&self) -> u64 {
        self.shared.slowest()
    }

    /// Waits until this holds; true if it was in time.
    pub async fn wait(&self, within: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let wanted = async {
            while !condition(self) {
                tokio::time::sleep(SHORTEST_CYCLE).await;
            }
        };
        tokio::time::timeout(within, wanted).await.is_ok()
    }

    /// From now on the DIMMs' fans must be as fast as this; or whoever watched has seen enough.
    pub fn watch(&self, wanted: Option<u64>) {
        let before = std::mem::replace(&mut *lock(&self.shared.wanted), wanted);
        if wanted.is_some() && before.is_none() {
            let post =
                Post { began: Instant::now(), watched: Duration::ZERO, held_after: None, slowest: u64::MAX };
            lock(&self.shared.record).posts.push(post);
        }
    }

    /// What there is to tell so far.
    #[must_use]
    pub fn record(&self) -> Record {
        lock(&self.shared.record).clone()
    }
}

/// One zone as its loop has it.
#[derive(Debug)]
struct Zone {
    number: usize,
    /// Failed inputs, and why.
    failed: BTreeMap<String, &'static str>,
    percent: f64,
    thermals_at: Time,
    written: BTreeMap<&'static str, u64>,
    write_again: bool,
    /// Manual, as it was written last.
    is_taken: bool,
    was_manual: bool,
    told: String,
}

impl Zone {
    fn new(number: usize) -> Self {
        Self {
            number,
            failed: BTreeMap::from([(FANS.to_owned(), "the zone is new")]),
            percent: LOWEST_PERCENT,
            thermals_at: Time::ZERO,
            written: BTreeMap::new(),
            write_again: false,
            is_taken: false,
            was_manual: false,
            told: String::new(),
        }
    }

    fn is_failsafe(&self) -> bool {
        !self.failed.is_empty()
    }

    fn pwms(&self) -> &'static [&'static str] {
        pwms(self.number)
    }

    /// A look at the thermal inputs. The failures that it finds and the last look did not.
    fn look(&mut self, wanted: &[String], inputs: &BTreeMap<String, Input>) -> Vec<(String, &'static str)> {
        let of = |name: &String| inputs.get(name).copied().unwrap_or_default();
        let failed: BTreeMap<String, &'static str> =
            wanted.iter().filter_map(|name| Some((name.clone(), of(name).failure()?))).collect();
        let new = failed.iter().filter(|(name, _)| !self.failed.contains_key(*name));
        let new = new.map(|(name, why)| (name.clone(), *why)).collect();
        self.failed = failed;
        let hottest = |is: fn(&str) -> bool| {
            // As std::max in C++: what is no number never wins.
            wanted
                .iter()
                .filter(|name| is(name))
                .map(|name| of(name).cached)
                .fold(f64::NEG_INFINITY, f64::max)
        };
        let dimms = step(&DIMM_CURVE, hottest(|name| name.starts_with("DIMM")));
        self.percent = dimms.max(step(&CPU_CURVE, hottest(|name| name.starts_with("CPU"))));
        new
    }

    /// What its fans are to do, of 255.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a percentage; pid-control truncates as well"
    )]
    fn target(&self) -> u64 {
        let percent = if self.is_failsafe() { self.percent.max(FAILSAFE_PERCENT) } else { self.percent };
        (percent / 100.0 * 255.0) as u64
    }
}

/// The fans of a zone.
#[must_use]
pub fn pwms(zone: usize) -> &'static [&'static str] {
    const OF: (&[&str], &[&str]) = {
        let [one, two, three] = &PWMS;
        (&[*one, *two], &[*three])
    };
    if zone == 0 { OF.0 } else { OF.1 }
}

/// The step that this temperature asks for.
fn step(curve: &[(f64, f64)], temperature: f64) -> f64 {
    let reached = curve.iter().filter(|(from, _)| temperature >= *from);
    reached.map(|(_, percent)| *percent).fold(LOWEST_PERCENT, f64::max)
}

async fn run(
    shared: Arc<Shared>,
    objects: Objects,
    mut writes: mpsc::UnboundedReceiver<Written>,
    mut reloads: mpsc::UnboundedReceiver<()>,
) {
    loop {
        while shared.discover().await.is_err() {
            sleep(shared.clock, BUILD_AGAIN).await;
        }
        let cycles = shared.cycles(&objects, &mut writes, &mut reloads);
        if cycles.await.is_err() {
            // The connection has ended, and with it all that there is to do.
            return;
        }
    }
}

impl Shared {
    fn tell(&self, what: &str) {
        self.timeline.row(Who::Fans, what);
    }

    fn slowest(&self) -> u64 {
        pwms(0).iter().map(|pwm| self.sensors.target(pwm)).min().unwrap_or_default()
    }

    async fn discover(&self) -> Result<()> {
        self.eyes.forget();
        let all: BTreeSet<&String> = self.inputs.iter().flatten().collect();
        let present = self.eyes.present(all).await?;
        for name in &present {
            self.eyes.discover(name).await?;
        }
        let mut found = self.inputs.clone();
        for inputs in &mut found {
            inputs.retain(|name| present.contains(name));
        }
        *lock(&self.found) = found;
        Ok(())
    }

    /// From the building of the zones to the next reload.
    async fn cycles(
        &self,
        objects: &Objects,
        writes: &mut mpsc::UnboundedReceiver<Written>,
        reloads: &mut mpsc::UnboundedReceiver<()>,
    ) -> Result<()> {
        lock(&self.record).builds += 1;
        let mut zones: Vec<Zone> = (0..ZONES.len()).map(Zone::new).collect();
        for zone in ZONES {
            objects.add(zone, MODE, MANUAL, false, true)?;
            objects.add(zone, MODE, FAIL_SAFE, true, false)?;
            objects.announce(MANAGER, zone).await?;
        }
        // A write of the zones that were there before is none of these.
        while writes.try_recv().is_ok() {}
        let mut seen = self.eyes.failures(0).len();
        let mut reload_at = None;
        let mut last = self.clock.now();
        loop {
            sleep(self.clock, FAN_CYCLE.max(SHORTEST_CYCLE * self.clock.speed())).await;
            let now = self.clock.now();
            while let Ok(written) = writes.try_recv() {
                let written_to = |zone: &&mut Zone| ZONES.get(zone.number) == Some(&&*written.path);
                let Some(zone) = zones.iter_mut().find(written_to).filter(|_| written.property == MANUAL)
                else {
                    continue;
                };
                let manual = written.value == "true";
                zone.write_again |= !manual;
                let taken = !std::mem::replace(&mut zone.is_taken, manual) && manual;
                lock(&self.record).holds += u64::from(taken);
            }
            let between = self.eyes.failures(seen);
            seen += between.len();
            for zone in &mut zones {
                self.cycle(objects, zone, now, now.since(last), &between).await?;
            }
            self.watch_post();
            last = now;
            if reloads.try_recv().is_ok() {
                // Each one puts it off, as they tend to come in bunches.
                reload_at = Some(now + RELOAD);
            }
            if reload_at.is_some_and(|at| at <= now) {
                self.tell("phosphor-pid-control reloads its zones");
                for zone in ZONES {
                    objects.remove(MANAGER, zone).await?;
                }
                return Ok(());
            }
        }
    }

    async fn cycle(
        &self,
        objects: &Objects,
        zone: &mut Zone,
        now: Time,
        passed: Duration,
        between: &[(String, &'static str)],
    ) -> Result<()> {
        let wanted = lock(&self.found).get(zone.number).cloned();
        let (Some(path), Some(wanted)) = (ZONES.get(zone.number), wanted) else {
            return Ok(());
        };
        let manual = objects.value(path, MODE, MANUAL).and_then(|value| value.downcast_ref().ok());
        let manual = manual.unwrap_or(false);
        if !manual {
            zone.failed.remove(FANS);
            let mut found = Vec::new();
            if now >= zone.thermals_at {
                zone.thermals_at = now + THERMAL_CYCLE;
                found = zone.look(&wanted, &self.eyes.inputs());
            }
            // What was signalled while it was blind is found by its next look, or by none.
            let between = if zone.was_manual { &[] } else { between };
            self.note(zone, now, &found, between);
            self.drive(objects.connection(), zone).await?;
        }
        zone.was_manual = manual;
        if zone.is_failsafe()
            && !manual
            && let Some(time) = lock(&self.record).in_failsafe.get_mut(zone.number)
        {
            *time += passed;
        }
        objects.set_silently(path, MODE, FAIL_SAFE, zone.is_failsafe())?;
        self.tell_of(zone, manual);
        Ok(())
    }

    fn note(
        &self,
        zone: &Zone,
        now: Time,
        found: &[(String, &'static str)],
        between: &[(String, &'static str)],
    ) {
        let at = now.since(self.began);
        let failsafe = |(input, why): &(String, &'static str), seen| Failsafe {
            zone: zone.number,
            at,
            input: input.clone(),
            why,
            seen,
        };
        let inputs = self.inputs.get(zone.number);
        let might = between.iter().filter(|(input, _)| {
            !zone.failed.contains_key(input) && inputs.is_some_and(|inputs| inputs.contains(input))
        });
        let mut record = lock(&self.record);
        record.failsafes.extend(found.iter().map(|one| failsafe(one, Seen::ByACycle)));
        record.failsafes.extend(might.map(|one| failsafe(one, Seen::BetweenSignals)));
    }

    async fn drive(&self, connection: &Connection, zone: &mut Zone) -> Result<()> {
        let target = zone.target();
        let again = std::mem::take(&mut zone.write_again);
        let other = |pwm: &&&'static str| again || zone.written.get(**pwm) != Some(&target);
        let pwms: Vec<&'static str> = zone.pwms().iter().filter(other).copied().collect();
        let body = (FAN_PWM, TARGET, Variant::from(target));
        // One handler of one thread: who Sets Manual meanwhile is answered when all are written (`dbus/dbuswrite.cpp`).
        // So nothing is waited for in between, and the last answer is that of all.
        let Some((last, others)) = pwms.split_last() else { return Ok(()) };
        for pwm in others {
            let set = Message::method_call(*pwm, "Set").destination(FAN_SENSOR).interface(PROPERTIES);
            connection.send(&set.with_flags(Flags::NO_REPLY_EXPECTED).build(&body)?).await?;
        }
        connection.call_method(Some(FAN_SENSOR), *last, Some(PROPERTIES), "Set", &body).await?;
        zone.written.extend(pwms.into_iter().map(|pwm| (pwm, target)));
        Ok(())
    }

    fn watch_post(&self) {
        let Some(wanted) = *lock(&self.wanted) else { return };
        let slowest = self.slowest();
        if let Some(post) = lock(&self.record).posts.last_mut() {
            post.watched = post.began.elapsed();
            if post.held_after.is_some() {
                post.slowest = post.slowest.min(slowest);
            } else if slowest >= wanted {
                (post.held_after, post.slowest) = (Some(post.began.elapsed()), slowest);
            }
        }
    }

    fn tell_of(&self, zone: &mut Zone, manual: bool) {
        let pwm = zone.pwms().first().map_or(0, |pwm| self.sensors.target(pwm));
        let mode = match (manual, zone.failed.first_key_value()) {
            (true, _) => "Manual: held by the daemon".to_owned(),
            (false, Some((input, why))) => format!("FAILSAFE: {input}, {why}"),
            (false, None) => "automatic".to_owned(),
        };
        let text = format!("zone{} {mode}; PWM {pwm}", zone.number);
        if zone.told != text {
            self.tell(&text);
            zone.told = text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(dimm: Input, cpu: Input) -> BTreeMap<String, Input> {
        BTreeMap::from([("DIMM_TEMP_A0".to_owned(), dimm), ("CPU_TEMP".to_owned(), cpu)])
    }

    fn at(value: f64) -> Input {
        Input { value, cached: value, ..Input::default() }
    }

    const AWAY: Input =
        Input { value: f64::NAN, cached: f64::NAN, available: false, functional: false, critical: false };

    #[test]
    fn a_zone_drives_by_its_hottest_input_and_without_any_at_its_lowest() {
        let wanted = ["DIMM_TEMP_A0", "CPU_TEMP"].map(ToOwned::to_owned);
        let mut zone = Zone::new(0);
        assert!(zone.is_failsafe(), "by its fans, until it has looked");
        zone.failed.clear();
        for (dimm, cpu, target) in [(40.0, 45.0, 76), (56.0, 45.0, 114), (40.0, 81.0, 165), (90.0, 81.0, 255)]
        {
            assert_eq!(zone.look(&wanted, &inputs(at(dimm), at(cpu))), []);
            assert_eq!(zone.target(), target, "{dimm} {cpu}");
        }
        assert_eq!(zone.look(&wanted, &inputs(AWAY, AWAY)), []);
        assert_eq!(
            (zone.is_failsafe(), zone.target()),
            (false, 76),
            "memory that trains has the slowest fans"
        );
    }

    #[test]
    fn a_failed_input_is_a_failsafe_until_a_look_finds_it_good() {
        let wanted = ["DIMM_TEMP_A0", "CPU_TEMP"].map(ToOwned::to_owned);
        let mut zone = Zone::new(0);
        zone.failed.clear();
        let broken = Input { value: f64::NAN, functional: false, ..at(40.0) };
        let found = zone.look(&wanted, &inputs(broken, at(45.0)));
        assert_eq!(found, [("DIMM_TEMP_A0".to_owned(), "the value is no number")]);
        assert_eq!((zone.is_failsafe(), zone.target()), (true, 229));
        assert_eq!(zone.look(&wanted, &inputs(broken, at(45.0))), [], "it is not new");
        zone.look(&wanted, &inputs(broken, at(99.0)));
        assert_eq!(zone.target(), 255, "at least, not at most");
        zone.look(&wanted, &inputs(at(40.0), at(45.0)));
        assert_eq!((zone.is_failsafe(), zone.target()), (false, 76));
    }
}
