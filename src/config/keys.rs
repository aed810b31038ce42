// SPDX-License-Identifier: Apache-2.0
//! Every key of the configuration (rules 6): its kind, its default, its meaning. This is the one place.
//!
//! The structs are the file as it was read: each value by itself is right. Their meaning together is
//! [`check`](super::check)'s matter. The comments are what the documentation and the JSON Schema say.

use super::{
    json::Json,
    problem::Problems,
    value::{
        Address, Byte, Celsius, Degrees, FilePath, LineName, List, ObjectPath, Seconds, SensorName, UnitName,
        Value, Whole, words,
    },
};

/// Defines structs whose fields are keys. A key without a default is mandatory.
///
/// Not serde's derive: that stops at the first thing it does not like.
macro_rules! keys {
    ($($(#[doc = $doc:literal])+ struct $name:ident { $(
        $(#[doc = $text:literal])+
        $key:ident: $kind:ty $(= $default:expr)?,
    )+ })+) => {$(
        $(#[doc = $doc])+
        #[allow(clippy::struct_field_names, reason = "the keys are as the file has them")]
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $name { $($(#[doc = $text])+ pub(crate) $key: $kind,)+ }

        impl Value for $name {
            fn accepted() -> String {
                concat!("an object {...} with the keys of \"", stringify!($name), "\"").to_owned()
            }
            fn parse(json: &Json) -> Option<Self> {
                let mut problems = Problems::default();
                Self::read(json, "", &mut problems).filter(|_| problems.0.is_empty())
            }
            fn read(json: &Json, at: &str, problems: &mut Problems) -> Option<Self> {
                let entries = entries(json, at, &[$(stringify!($key)),+], problems)?;
                $(let $key = take::<$kind>(entries, at, stringify!($key), keys!(@default $($default)?), problems);)+
                Some(Self { $($key: $key?,)+ })
            }
            fn write(&self) -> Json {
                Json::Object(vec![$((stringify!($key).to_owned(), self.$key.write())),+])
            }
            #[cfg(test)]
            fn schema() -> Json {
                super::reference::object_schema(&Self::rows())
            }
            #[cfg(test)]
            fn describe(sections: &mut super::reference::Sections) {
                sections.push((stringify!($name), concat!($($doc, "\n"),+), Self::rows()));
                $(<$kind as Value>::describe(sections);)+
            }
        }

        #[cfg(test)]
        impl $name {
            fn rows() -> Vec<super::reference::Row> {
                vec![$(super::reference::Row {
                    key: stringify!($key),
                    accepted: <$kind as Value>::accepted(),
                    default: keys!(@default $($default)?).map(|value: $kind| value.write()),
                    meaning: concat!($($text, "\n"),+),
                    schema: <$kind as Value>::schema(),
                }),+]
            }
        }
    )+};
    (@default $default:expr) => { Some($default) };
    (@default) => { None };
}

/// The same where every key has a default, and so the whole has one.
macro_rules! keys_with_defaults {
    ($($(#[doc = $doc:literal])+ struct $name:ident { $(
        $(#[doc = $text:literal])+
        $key:ident: $kind:ty = $default:expr,
    )+ })+) => {$(
        keys! { $(#[doc = $doc])+ struct $name { $($(#[doc = $text])+ $key: $kind = $default,)+ } }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }
    )+};
}

keys_with_defaults! {
    /// The whole file.
    struct Config {
        /// The hosts of this BMC.
        hosts: List<Host> = std::iter::once(Host::new(0)).collect(),
        /// The guarded buses: those that carry DIMMs, and every other one that a sensor below is on.
        buses: List<Bus> = List::empty(),
        /// The sensors that this daemon reads and publishes.
        sensors: List<Sensor> = List::empty(),
        /// Where events go besides the journal.
        events: Events = Events::default(),
    }
}

keys! {
    /// A host.
    struct Host {
        /// Its number in D-Bus paths and unit names.
        id: Whole<0, 255>,
        /// The weight of the board's power evidence.
        evidence: Evidence = Evidence::default(),
        /// Its times and limits.
        timing: Timing = Timing::default(),
        /// The units that its states start.
        targets: Targets = Targets::default(),
        /// The fans that cool its DIMMs.
        fans: Fans = Fans::default(),
        /// The D-Bus path of the sensor of its CPU power. Below 1 W under power is the diagnosis `NoCpuPower`.
        cpu_power_sensor: Option<ObjectPath> = None,
        /// The mux that gives the SPD bus to the host or to the BMC.
        spd_mux: Option<SpdMux> = None,
        /// Units that are stopped before the host is answered. With them `ack_cap_ms` may be up to 3000.
        quiesce: List<UnitName> = List::empty(),
        /// Its states are written to `BootProgress` where a service has it. phosphor-state-manager keeps the last stage over a reboot of the BMC; if it finds one and
        /// the host not running under power, it takes that for a boot that went wrong and quiesces the host, which by default reboots it.
        write_boot_progress: bool = false,
    }
}

keys_with_defaults! {
    /// The weight of the board's power evidence.
    struct Evidence {
        /// `trusted`: `OperatingSystemState` of the power service follows POST complete and nothing else.
        /// Many boards wire it to power good; leave those `untrusted`.
        post_complete: PostComplete = PostComplete::Untrusted,
        /// POST complete makes any state S0: for firmware that never reports. Needs `post_complete`: `trusted`.
        s0_from_post_complete: bool = false,
        /// Power-on makes an off-like state S2. `false`: the state stays off-like until the firmware says more. The gate is closed either way.
        s2_from_power_on: bool = true,
        /// `believed`: the boot progress and the SBMR codes at this host's objects are this host's. `null`: they are with one host, and are not with several,
        /// since phosphor-host-ipmid writes those of every host to the objects of the first.
        boot_progress: Option<BootProgress> = None,
        /// The stage of boot progress from which on the firmware has handed the DIMM buses over. It makes no state: `OSRunning` alone makes S0.
        progress_done_from: DoneFrom = DoneFrom::OsRunning,
        /// POST codes that say that the firmware has begun, or is done.
        post_codes: PostCodes = PostCodes::default(),
        /// A host that is Off for `host_off` counts as powered off: for boards whose chassis stays on.
        host_off_is_off: bool = false,
        /// The uids, besides root and the daemon's own, whose words about hosts are believed: power control, BIOS or fan control that does
        /// not run as root. A uid that any host lists is believed for all.
        trusted_uids: List<Whole<0, 4_294_967_294>> = List::empty(),
    }

    /// POST codes of one byte, as port 80h shows them: strings, as `"0xaa"`. No code is in both lists.
    struct PostCodes {
        /// The firmware has begun. Under a running OS one alone says nothing: another code must follow it within `reset_confirm`.
        began: List<Byte> = List::empty(),
        /// The firmware is done, if no other code follows within `settle`.
        done: List<Byte> = List::empty(),
    }

    /// A host's times and limits.
    struct Timing {
        /// The longest a host waits for the answer to its Set, in milliseconds of real time. Above 250 only with `quiesce`.
        ack_cap_ms: Whole<1, { ACK_CAP_QUIESCE_MS }> = Whole(ACK_CAP_MS),
        /// How long all conditions must hold before the gate opens.
        settle: Seconds = Seconds::whole(10),
        /// How long the host must run again before a suspected reset is one.
        reset_confirm: Seconds = Seconds::whole(5),
        /// How long the host must be Off before it counts as off.
        host_off: Seconds = Seconds::whole(20),
        /// The shortest time from power-on or a reset to the OS; below the host's fastest boot. A working state that is reported earlier is shown, and opens nothing: `EarlyReport`.
        min_post: Seconds = Seconds::whole(20),
        /// The longest the gate may stay closed under power; then `StuckInPost` or `NotWorking` is raised. Memory training is slow.
        deadline: Seconds = Seconds::whole(3600),
        /// How long a powered host may show no sign of life before `FirmwareSilent` is raised.
        silent_after: Seconds = Seconds::whole(120),
        /// In place of `settle` where a working state was only restored at the daemon's start, or was reported too early.
        restore_settle: Seconds = Seconds::whole(3600),
        /// How long thermal sensors may need after power-on.
        thermal_grace: Seconds = Seconds::whole(60),
        /// More resets than this within one boot raise `BootLoop`.
        max_resets: Whole<1, 1000> = Whole(10),
    }

    /// The units that a host's states start. `null`: host N starts `host-sX-state@N.target`, and host 0
    /// the plain `host-sX-state.target` as well. A unit named here takes the place of those,
    /// and must conflict with those of the other two states as they do: that is what stops it.
    struct Targets {
        /// Started in a working state (S0).
        s0: Option<UnitName> = None,
        /// Started in S2.
        s2: Option<UnitName> = None,
        /// Started in an off-like state (S5).
        s5: Option<UnitName> = None,
    }

    /// The fans that cool a host's DIMMs. They are held while DIMM temperatures cannot be read.
    struct Fans {
        /// The D-Bus paths of fan control's zones, as `/xyz/openbmc_project/settings/fanctrl/zone0`. With zones, `pwm` and `guard_sensors` must be given.
        zones: List<ObjectPath> = List::empty(),
        /// The D-Bus paths of the zones' `Control.FanPwm` objects, as `/xyz/openbmc_project/control/fanpwm/Pwm_1`.
        pwm: List<ObjectPath> = List::empty(),
        /// Their speed during a boot.
        s2_pwm: Whole<0, 255> = Whole(160),
        /// Their speed when a boot stalls or a guard sensor is critical. Not below `s2_pwm`.
        stall_pwm: Whole<0, 255> = Whole(255),
        /// How long the gate may be closed outside POST before the fans are held; longer than a forced off takes.
        hold_after: Seconds = Seconds::whole(25),
        /// The D-Bus paths of sensors whose `CriticalAlarmHigh` sets held fans to `stall_pwm`: holding blinds fan control for the whole zone.
        guard_sensors: List<ObjectPath> = List::empty(),
    }
}

keys! {
    /// The mux that gives the SPD bus to the host or to the BMC.
    struct SpdMux {
        /// The GPIO line that switches it.
        line: LineName,
        /// The line's level that gives the bus to the host.
        host_level: Whole<0, 1> = Whole(1),
    }

    /// A guarded bus: no transfer on it unless every host that it lists is working with its gate open, or off.
    struct Bus {
        /// Linux number of the I2C bus; a mux's channel is a bus of its own. At most 256 are listed.
        bus: Whole<0, 65535>,
        /// The hosts whose DIMMs it carries. `null`: every host. `[]`: none, it only has sensors that are read whenever there is power (`thermal`).
        hosts: Option<List<Whole<0, 255>>> = None,
        /// The kernel's timeout for one transfer in milliseconds, in steps of ten. It applies to every user of that adapter, and below a mux also to the adapters that the mux is on.
        timeout_ms: Whole<10, 1000> = TIMEOUT_MS,
        /// The treatment of the hub of a DDR5 DIMM (`spd5118`) that hides its registers because a page of its memory
        /// other than 0 is selected. `report`: the hub is shown as a sensor that failed. `reset`: page 0 is selected,
        /// with the gate open only; for boards on which nothing else reads the SPDs then.
        spd_page: SpdPage = SPD_PAGE,
    }

    /// A temperature sensor.
    struct Sensor {
        /// The last element of its D-Bus path. IPMI shows 16 characters of it.
        name: SensorName,
        /// The host it belongs to. `null`: the only one; with several hosts it must be given.
        host: Option<Whole<0, 255>> = None,
        /// When it may be read. `dimm`: while the gate is open; `s0`: the same, for other devices in the CPU's power domain, as VRs; `thermal`: whenever there is power.
        group: Group,
        /// The kind of the device.
        device: Device,
        /// The number of its bus, one of `buses`.
        bus: Option<Whole<0, 65535>> = None,
        /// Its address on that bus, as a string: `"0x18"`.
        address: Option<Address> = None,
        /// Only for `hwmon`, in place of `bus` and `address`: any file that reads like hwmon's `temp1_input`. At most 256 sensors have one; they share at most 8 threads, those of one directory one.
        path: Option<FilePath> = None,
        /// Which of the device's sensors: of a `tmp421` 0, the local one, to 3; of a `pmbus` device 1 to 3, for `READ_TEMPERATURE_1` to `_3`; with `hwmon` the number in `temp1_input`. `null`: the first.
        channel: Option<Whole<0, 32>> = None,
        /// How often it is read.
        poll: Seconds = POLL,
        /// The sensor must be there: when it does not answer it is shown as failed, not as absent.
        required: bool = false,
        /// The warning thresholds.
        warning: Limits = Limits::default(),
        /// The critical thresholds. They lie outside the warning ones.
        critical: Limits = Limits::default(),
        /// A value is signalled when it is more than this away from the last one that was.
        step: Degrees<10> = STEP,
        /// An alarm ends when the value is this far back inside the threshold.
        hysteresis: Degrees<20> = HYSTERESIS,
        /// The D-Bus path of the inventory item that it belongs to; Redfish shows it there. `null`: it has no such association.
        chassis: Option<ObjectPath> = None,
    }
}

keys_with_defaults! {
    /// A pair of thresholds.
    struct Limits {
        /// An alarm below this. `null`: none.
        low: Option<Celsius> = None,
        /// An alarm above this. `null`: none.
        high: Option<Celsius> = None,
    }

    /// Where events go besides the journal.
    struct Events {
        /// Redfish's event log.
        redfish: bool = false,
        /// IPMI's system event log.
        sel: bool = false,
        /// `phosphor-logging`.
        logging: bool = false,
    }
}

/// The default of `ack_cap_ms`, and its maximum without `quiesce`: a host may wait in SMM with every core stopped.
pub(crate) const ACK_CAP_MS: u32 = 250;
/// The most with `quiesce`.
pub(crate) const ACK_CAP_QUIESCE_MS: u32 = 3000;

/// A bus's timeout: rules 3.3, short by construction.
pub(crate) const TIMEOUT_MS: Whole<10, 1000> = Whole(30);

/// The default treatment of an SPD hub's page: nothing is done with it.
pub(crate) const SPD_PAGE: SpdPage = SpdPage::Report;

/// How often a sensor is read.
pub(crate) const POLL: Seconds = Seconds::whole(1);
/// The step of a sensor's signals.
pub(crate) const STEP: Degrees<10> = Degrees(0.25);
/// How far an alarmed value must go back.
pub(crate) const HYSTERESIS: Degrees<20> = Degrees(1.0);

impl Host {
    /// A host with every default.
    pub(crate) fn new(id: u32) -> Self {
        Self {
            id: Whole(id),
            evidence: Evidence::default(),
            timing: Timing::default(),
            targets: Targets::default(),
            fans: Fans::default(),
            cpu_power_sensor: None,
            spd_mux: None,
            quiesce: List::empty(),
            write_boot_progress: false,
        }
    }
}

words! {
    /// Whether the boot progress at a host's objects is that host's.
    pub(crate) enum BootProgress {
        /// Another host's may be written there.
        Ignored = "ignored",
        /// It is this host's.
        Believed = "believed",
    }

    /// The first stage of boot progress at which the firmware is done.
    pub enum DoneFrom {
        /// `SystemInitComplete`.
        SystemInitComplete = "SystemInitComplete",
        /// `SystemSetup`.
        SystemSetup = "SystemSetup",
        /// `OSStart`.
        OsStart = "OSStart",
        /// `OSRunning`.
        OsRunning = "OSRunning",
    }

    /// Whether POST complete is to be believed.
    pub(crate) enum PostComplete {
        /// POST complete may be wired to power good.
        Untrusted = "untrusted",
        /// POST complete is what it says.
        Trusted = "trusted",
    }

    /// The treatment of the hub of a DDR5 DIMM that hides its registers behind another page than 0.
    pub enum SpdPage {
        /// The hub is shown as a sensor that failed.
        Report = "report",
        /// Its page 0 is selected.
        Reset = "reset",
    }

    /// When a sensor may be read (rules 3.1).
    pub enum Group {
        /// While the gate is open.
        Dimm = "dimm",
        /// Whenever there is power.
        Thermal = "thermal",
        /// While the gate is open, though it is no DIMM.
        S0 = "s0",
    }

    /// The kind of device that a sensor is (rules 3.4).
    pub enum Device {
        /// JC42.4 or TSE2004, on a DDR4 DIMM.
        Jc42 = "jc42",
        /// SPD5118, the hub of a DDR5 DIMM.
        Spd5118 = "spd5118",
        /// AMD's SB-TSI.
        Sbtsi = "sbtsi",
        /// TMP75.
        Tmp75 = "tmp75",
        /// LM75.
        Lm75 = "lm75",
        /// TMP421 and its like.
        Tmp421 = "tmp421",
        /// `READ_TEMPERATURE_1` to `_3` of a PMBus device.
        Pmbus = "pmbus",
        /// A kernel driver's hwmon file.
        Hwmon = "hwmon",
    }
}

/// The entries of an object. Keys that are unknown or given twice are told.
fn entries<'a>(
    json: &'a Json,
    at: &str,
    known: &[&str],
    problems: &mut Problems,
) -> Option<&'a [(String, Json)]> {
    let Json::Object(entries) = json else {
        problems.found(
            at,
            json,
            "not accepted",
            format!("give an object {{...}}, with any of the keys {}", known.join(", ")),
        );
        return None;
    };
    for (place, (key, value)) in entries.iter().enumerate() {
        let at = join(at, key);
        if !known.contains(&key.as_str()) {
            let remedy = match known.iter().find(|known| resemble(known, key)) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("the keys here are {}", known.join(", ")),
            };
            problems.found(&at, value, "there is no such key", remedy);
        } else if entries.iter().take(place).any(|(earlier, _)| earlier == key) {
            problems.found(&at, value, "this key is there twice", "keep one of them");
        }
    }
    Some(entries)
}

/// The value of one key. A value that cannot be read is reported, and its default used, so that the rest can be looked at.
fn take<T: Value>(
    entries: &[(String, Json)],
    at: &str,
    key: &str,
    default: Option<T>,
    problems: &mut Problems,
) -> Option<T> {
    let at = join(at, key);
    if let Some((_, json)) = entries.iter().find(|(name, _)| name == key) {
        return T::read(json, &at, problems).or(default);
    }
    if default.is_none() {
        problems.add(&at, "missing", format!("give {}", T::accepted()));
    }
    default
}

/// The path of a key. A key that does not read like one is quoted.
fn join(at: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let key = if plain { key.to_owned() } else { Json::String(key.to_owned()).shortened() };
    if at.is_empty() { key } else { format!("{at}.{key}") }
}

/// True if the keys are one typing error apart: a character too many, too few, another, or two exchanged.
fn resemble(known: &str, given: &str) -> bool {
    let given = given.to_ascii_lowercase().replace('-', "_");
    let (a, b) = (known.as_bytes(), given.as_bytes());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (a.split_at(same).1, b.split_at(same.min(b.len())).1);
    match (a, b) {
        ([], rest) | (rest, []) => rest.len() <= 1,
        ([a0, a_rest @ ..], [b0, b_rest @ ..]) => {
            a_rest == b
                || a == b_rest
                || a_rest == b_rest
                || matches!((a_rest, b_rest), ([a1, a @ ..], [b1, b @ ..]) if a == b && a0 == b1 && a1 == b0)
        }
    }
}
