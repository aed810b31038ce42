// SPDX-License-Identifier: Apache-2.0
//! A host's object: the standard `ACPIPowerState` interface and our `Tracker`.
//!
//! Owns the published values, and knows which of them changed. Must never: know more than was published.

use zbus::{Message, Variant};

use crate::{
    adapters::objects::{Access, Interface, Method, Object, Property, Request, Signal},
    logic::{
        acpi::AcpiState,
        machine::Cause,
        policy::{Diagnosis, GateReason},
    },
    shell::permits::HostIndex,
};

/// The bus name, which is the existing daemon's: a clash fails loudly (design 5).
pub const BUS_NAME: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
/// The standard interface (phosphor-dbus-interfaces Control/Power/ACPIPowerState).
pub const INTERFACE: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
/// Our own, `docs/dbus/Tracker.interface.yaml`.
pub const TRACKER: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState.Tracker";

const fn read(name: &'static str, signature: &'static str) -> Property {
    Property { name, signature, access: Access::Read }
}

const fn read_write(name: &'static str, signature: &'static str) -> Property {
    Property { name, signature, access: Access::ReadWrite }
}

const SYS: &str = "SysACPIStatus";
const DEV: &str = "DevACPIStatus";
const CAUSE: &str = "Cause";
const SINCE: &str = "Since";
const PREVIOUS: &str = "PreviousState";
const GATE_OPEN: &str = "GateOpen";
const GATE_REASONS: &str = "GateReasons";
const DIAGNOSES: &str = "Diagnoses";
const BOOT_COUNT: &str = "BootCount";
const FIRMWARE_TIME: &str = "LastFirmwareTime";
const BOOT_TIME: &str = "LastBootTime";
const TRANSITIONED: &str = "Transitioned";

static INTERFACES: [Interface; 2] = [
    Interface {
        name: INTERFACE,
        properties: &[read_write(SYS, "s"), read_write(DEV, "s")],
        methods: &[],
        signals: &[],
    },
    Interface {
        name: TRACKER,
        properties: &[
            read(CAUSE, "s"),
            read(SINCE, "t"),
            read(PREVIOUS, "s"),
            read(GATE_OPEN, "b"),
            read(GATE_REASONS, "as"),
            read(DIAGNOSES, "as"),
            read(BOOT_COUNT, "u"),
            read(FIRMWARE_TIME, "t"),
            read(BOOT_TIME, "t"),
        ],
        methods: &[Method { name: "GetHistory", input: &[("max", "u")], output: &[("history", "a(tsssu)")] }],
        signals: &[Signal {
            name: TRANSITIONED,
            args: &[("when", "t"), ("from", "s"), ("to", "s"), ("cause", "s")],
        }],
    },
];

/// What the Tracker shows of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// What brought the state about.
    pub cause: Cause,
    /// When, in microseconds since 1970.
    pub since: u64,
    /// The state before.
    pub previous: AcpiState,
    /// What keeps the gate closed; nothing if it is open.
    pub gate_reasons: Vec<GateReason>,
    /// What is wrong.
    pub diagnoses: Vec<Diagnosis>,
    /// Boots since the daemon started.
    pub boots: u32,
    /// Microseconds from the last boot's beginning to its first S2; 0 if not known.
    pub firmware_time: u64,
    /// Microseconds from the last boot's beginning to the working state; 0 if not known.
    pub boot_time: u64,
}

impl View {
    fn get(&self, name: &str) -> Variant<'static> {
        let names = |names: Vec<&'static str>| Variant::from(names);
        match name {
            CAUSE => self.cause.name().into(),
            SINCE => self.since.into(),
            PREVIOUS => self.previous.dbus().into(),
            GATE_OPEN => self.gate_reasons.is_empty().into(),
            GATE_REASONS => names(self.gate_reasons.iter().map(|reason| reason.name()).collect()),
            DIAGNOSES => names(self.diagnoses.iter().map(|diagnosis| diagnosis.name()).collect()),
            BOOT_COUNT => self.boots.into(),
            FIRMWARE_TIME => self.firmware_time.into(),
            _ => self.boot_time.into(),
        }
    }

    fn differs(&self, other: &Self, name: &str) -> bool {
        match name {
            CAUSE => self.cause != other.cause,
            SINCE => self.since != other.since,
            PREVIOUS => self.previous != other.previous,
            GATE_OPEN => self.gate_reasons.is_empty() != other.gate_reasons.is_empty(),
            GATE_REASONS => self.gate_reasons != other.gate_reasons,
            DIAGNOSES => self.diagnoses != other.diagnoses,
            BOOT_COUNT => self.boots != other.boots,
            FIRMWARE_TIME => self.firmware_time != other.firmware_time,
            _ => self.boot_time != other.boot_time,
        }
    }
}

/// One host's object.
#[derive(Debug)]
pub(crate) struct AcpiObject {
    path: String,
    host: HostIndex,
    state: AcpiState,
    device: AcpiState,
    view: View,
}

impl AcpiObject {
    /// The object of a host of which nothing is known yet.
    pub(crate) fn new(host: HostIndex, id: u32, view: View) -> Self {
        Self {
            path: format!("/xyz/openbmc_project/control/host{id}/acpi_power_state"),
            host,
            state: AcpiState::Unknown,
            device: AcpiState::Unknown,
            view,
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Takes new values in; the PropertiesChanged that says so.
    pub(crate) fn publish(
        &mut self,
        state: Option<AcpiState>,
        device: Option<AcpiState>,
    ) -> zbus::Result<Message> {
        self.state = state.unwrap_or(self.state);
        self.device = device.unwrap_or(self.device);
        let changed = [(SYS, state), (DEV, device)];
        let changed =
            changed.into_iter().filter_map(|(name, state)| Some((name, Variant::from(state?.dbus()))));
        properties_changed(&self.path, INTERFACE, changed.collect())
    }

    /// Takes a new view in; the PropertiesChanged that says so, if anything did change.
    pub(crate) fn track(&mut self, view: View) -> zbus::Result<Option<Message>> {
        let before = core::mem::replace(&mut self.view, view);
        let changed: Vec<_> = INTERFACES
            .iter()
            .filter(|interface| interface.name == TRACKER)
            .flat_map(|interface| interface.properties)
            .filter(|property| before.differs(&self.view, property.name))
            .map(|property| (property.name, self.view.get(property.name)))
            .collect();
        if changed.is_empty() { Ok(None) } else { properties_changed(&self.path, TRACKER, changed).map(Some) }
    }

    /// The signal of one transition.
    pub(crate) fn transitioned(
        &self,
        when: u64,
        from: AcpiState,
        to: AcpiState,
        cause: Cause,
    ) -> zbus::Result<Message> {
        Message::signal(self.path.as_str(), TRACKER, TRANSITIONED).build(&(
            when,
            from.dbus(),
            to.dbus(),
            cause.name(),
        ))
    }

    /// The published state.
    pub(crate) fn state(&self) -> AcpiState {
        self.state
    }

    /// The published view.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }
}

impl Object for AcpiObject {
    fn path(&self) -> &str {
        &self.path
    }

    fn host(&self) -> HostIndex {
        self.host
    }

    fn interfaces(&self) -> &'static [Interface] {
        &INTERFACES
    }

    fn get(&self, property: &'static Property) -> Variant<'_> {
        match property.name {
            SYS => self.state.dbus().into(),
            DEV => self.device.dbus().into(),
            name => self.view.get(name),
        }
    }

    fn set(&self, property: &'static Property, value: &Variant<'_>) -> Result<Request, String> {
        let Variant::Str(text) = value else {
            return Err(format!("{} takes a string.", property.name));
        };
        let state =
            AcpiState::from_dbus(text).ok_or_else(|| format!("'{text}' is no value of {INTERFACE}.ACPI."))?;
        Ok(if property.name == SYS { Request::Set(state) } else { Request::SetDevice(state) })
    }

    fn call(&self, _: &'static Method, call: &Message) -> Result<Request, String> {
        call.body().deserialize().map(Request::History).map_err(|e| e.to_string())
    }
}

/// The PropertiesChanged of these properties.
pub(super) fn properties_changed(
    path: &str,
    interface: &str,
    changed: Vec<(&'static str, Variant<'_>)>,
) -> zbus::Result<Message> {
    let changed: std::collections::BTreeMap<_, _> = changed.into_iter().collect();
    let invalidated: [&str; 0] = [];
    Message::signal(path, super::dispatch::PROPERTIES, "PropertiesChanged").build(&(
        interface,
        changed,
        invalidated.as_slice(),
    ))
}
