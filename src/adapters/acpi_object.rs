// SPDX-License-Identifier: Apache-2.0
//! A host's object: the standard `ACPIPowerState` interface and our `Tracker`.
//!
//! Owns the published values, and knows which of them changed. Must never: know more than was published.

use zbus::{Message, Variant};

use crate::{
    adapters::dbus::{
        names::Brief,
        object::{Access, Interface, Method, Object, Property, Request, Signal, properties_changed},
    },
    logic::{acpi::AcpiState, cause::Cause, view::View},
    shell::permits::HostIndex,
};

/// The bus name, which is the existing daemon's: a clash fails loudly (rules 5).
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
const GET_HISTORY: &str = "GetHistory";
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
        methods: &[Method { name: GET_HISTORY, input: &[("max", "u")], output: &[("history", "a(tsssu)")] }],
        signals: &[Signal {
            name: TRANSITIONED,
            args: &[("when", "t"), ("from", "s"), ("to", "s"), ("cause", "s")],
        }],
    },
];

/// The value of a property of the Tracker.
fn shown(view: &View, name: &str) -> Option<Variant<'static>> {
    let names = |names: Vec<&'static str>| Variant::from(names);
    Some(match name {
        CAUSE => view.cause.name().into(),
        SINCE => view.since.into(),
        PREVIOUS => view.previous.dbus().into(),
        GATE_OPEN => view.gate_reasons.is_empty().into(),
        GATE_REASONS => names(view.gate_reasons.iter().map(|reason| reason.name()).collect()),
        DIAGNOSES => names(view.diagnoses.iter().map(|diagnosis| diagnosis.name()).collect()),
        BOOT_COUNT => view.boots.into(),
        FIRMWARE_TIME => view.firmware_time.into(),
        BOOT_TIME => view.boot_time.into(),
        _ => return None,
    })
}

/// The object of one host.
#[derive(Debug)]
pub(crate) struct AcpiObject {
    path: String,
    host: HostIndex,
    id: u32,
    state: AcpiState,
    device: AcpiState,
    view: View,
}

impl AcpiObject {
    /// The object of a host, with state and device as they are known before the first event.
    pub(crate) fn new(host: HostIndex, id: u32, (state, device): (AcpiState, AcpiState), view: View) -> Self {
        Self {
            path: format!("/xyz/openbmc_project/control/host{id}/acpi_power_state"),
            host,
            id,
            state,
            device,
            view,
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The host's number in names of units and paths.
    pub(crate) fn id(&self) -> u32 {
        self.id
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
            .filter_map(|property| Some((property.name, shown(&self.view, property.name)?)))
            .filter(|(name, value)| shown(&before, name).as_ref() != Some(value))
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

    fn get(&self, property: &'static Property) -> Option<Variant<'_>> {
        match property.name {
            SYS => Some(self.state.dbus().into()),
            DEV => Some(self.device.dbus().into()),
            name => shown(&self.view, name),
        }
    }

    fn set(&self, property: &'static Property, value: &Variant<'_>) -> Result<Request, String> {
        let Variant::Str(text) = value else {
            return Err(format!("{} takes a string.", property.name));
        };
        let state = AcpiState::from_dbus(text)
            .ok_or_else(|| format!("'{}' is no value of {INTERFACE}.ACPI.", Brief(text)))?;
        match property.name {
            SYS => Ok(Request::Set(state)),
            DEV => Ok(Request::SetDevice(state)),
            name => Err(format!("{name} cannot be set.")),
        }
    }

    fn call(&self, method: &'static Method, call: &Message) -> Result<Request, String> {
        match method.name {
            GET_HISTORY => call.body().deserialize().map(Request::History).map_err(|e| e.to_string()),
            name => Err(format!("{name} cannot be called.")),
        }
    }
}
