// SPDX-License-Identifier: Apache-2.0
//! A double of phosphor-host-ipmid for the ACPI power state commands, `NetFn` 06h, and for UEFI's progress codes.
//!
//! It makes exactly the D-Bus calls of the real one (openbmc 1.1), and has its own table of the
//! states, so that the daemon's is tested against it.

use acpi_doubles::power::{PROGRESS, STAMP};
use zbus::{Connection, OwnedVariant, Variant};

use crate::{
    Result,
    mapper::{self, SubTree},
    objects::{PROPERTIES, connect, now_us},
    progress::RAW,
};

/// The interface ipmid looks for.
pub const INTERFACE: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
/// Set ACPI Power State.
pub const SET_ACPI_POWER_STATE: u8 = 0x06;
/// Get ACPI Power State.
pub const GET_ACPI_POWER_STATE: u8 = 0x07;

/// Completion codes of IPMI 2.0 table 5-2.
pub mod cc {
    /// Completed normally.
    pub const OK: u8 = 0x00;
    /// Invalid command.
    pub const INVALID_COMMAND: u8 = 0xc1;
    /// Request data length invalid.
    pub const LENGTH: u8 = 0xc7;
    /// Parameter out of range.
    pub const OUT_OF_RANGE: u8 = 0xc9;
    /// Unspecified error.
    pub const UNSPECIFIED: u8 = 0xff;
}

/// The states by their IPMI code (apphandler.cpp:227-262).
const STATES: [(u8, &str); 14] = [
    (0x00, "S0_G0_D0"),
    (0x01, "S1_D1"),
    (0x02, "S2_D2"),
    (0x03, "S3_D3"),
    (0x04, "S4"),
    (0x05, "S5_G2"),
    (0x06, "S4_S5"),
    (0x07, "G3"),
    (0x08, "SLEEP"),
    (0x09, "G1_SLEEP"),
    (0x0a, "OVERRIDE"),
    (0x20, "LEGACY_ON"),
    (0x21, "LEGACY_OFF"),
    (0x2a, "Unknown"),
];
const ENUM: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI.";
const CHANGE: u8 = 0x80;
const NO_CHANGE: u8 = 0x7f;

/// The code that UEFI sends for this stage: type and severity, operation, subclass, class, instance. The real handler makes a stage of
/// these five only (`sbmrhandler.cpp`, `getSbmrBootProgressStage`); for all others one of edk2's PEI core.
fn progress_code(stage: &str) -> [u8; 9] {
    let [low, high, subclass, class] = match stage {
        "PCIInit" => [0x01, 0x10, 0x01, 0x02],
        "SystemInitComplete" => [0x01, 0x10, 0x04, 0x03],
        "SystemSetup" => [0x07, 0x00, 0x05, 0x03],
        "OSStart" => [0x01, 0x80, 0x05, 0x03],
        "OSRunning" => [0x19, 0x10, 0x10, 0x03],
        // The DXE core's beginning.
        "OEM" => [0x00, 0x10, 0x04, 0x03],
        _ => [0x00, 0x10, 0x02, 0x03],
    };
    [0x01, 0x00, 0x00, 0x00, low, high, subclass, class, 0x00]
}

/// What edk2's runtime services send before they reset the host (`EFI_SW_RS_PC_RESET_SYSTEM`). The real handler makes `OEM` of it.
const RESET_SYSTEM: [u8; 9] = [0x01, 0x00, 0x00, 0x00, 0x0a, 0x10, 0x11, 0x03, 0x00];

/// The service, as the KCS interface reaches it.
#[derive(Clone, Debug)]
pub struct Ipmid {
    connection: Connection,
}

impl Ipmid {
    /// An ipmid on the bus at `address`.
    pub async fn start(address: &str) -> Result<Self> {
        Ok(Self { connection: connect(address).await? })
    }

    /// Performs a request of `NetFn` 06h, command and data, and returns the completion code and data.
    pub async fn request(&self, request: &[u8]) -> Vec<u8> {
        match *request {
            [SET_ACPI_POWER_STATE, system, device] => vec![self.set(system, device).await],
            [GET_ACPI_POWER_STATE] => self.get().await,
            [SET_ACPI_POWER_STATE | GET_ACPI_POWER_STATE, ..] => vec![cc::LENGTH],
            _ => vec![cc::INVALID_COMMAND],
        }
    }

    /// Send Boot Progress Code of the SBMR group, by which UEFI tells how far it is: the code to `Boot.Raw`, then the time, then the
    /// stage, each to the first object that has it (openbmc 6). The completion code.
    pub async fn send_boot_progress(&self, stage: &str) -> u8 {
        self.send_code(progress_code(stage), stage).await
    }

    /// The same command, right before the OS has UEFI reset the host.
    pub async fn send_reset_system(&self) -> u8 {
        self.send_code(RESET_SYSTEM, "OEM").await
    }

    async fn send_code(&self, code: [u8; 9], stage: &str) -> u8 {
        let code = Variant::from((code.to_vec(), Vec::<u8>::new()));
        for (interface, property, value) in [
            (RAW, "Value", code),
            (PROGRESS.interface, STAMP, Variant::from(now_us())),
            (PROGRESS.interface, PROGRESS.property, Variant::from(PROGRESS.value(stage))),
        ] {
            let Some((path, service)) = self.find(interface).await else { return cc::UNSPECIFIED };
            let body = (interface, property, value);
            let set = self.connection.call_method(Some(&*service), &*path, Some(PROPERTIES), "Set", &body);
            if set.await.is_err() {
                return cc::UNSPECIFIED;
            }
        }
        cc::OK
    }

    /// System first, then device; a failed system byte leaves the device alone.
    async fn set(&self, system: u8, device: u8) -> u8 {
        let any = |_| true;
        let device_codes = |code| code <= 0x03 || code == 0x2a;
        match self.set_one(system, "SysACPIStatus", any).await {
            cc::OK => self.set_one(device, "DevACPIStatus", device_codes).await,
            failed => failed,
        }
    }

    async fn set_one(&self, byte: u8, property: &str, valid: fn(u8) -> bool) -> u8 {
        let code = byte & !CHANGE;
        if byte & CHANGE == 0 || code == NO_CHANGE {
            return cc::OK;
        }
        let Some((_, name)) = STATES.into_iter().find(|(c, _)| *c == code && valid(code)) else {
            return cc::OUT_OF_RANGE;
        };
        let Some((path, service)) = self.find(INTERFACE).await else {
            return cc::UNSPECIFIED;
        };
        let body = (INTERFACE, property, Variant::from(format!("{ENUM}{name}")));
        let set = self.connection.call_method(
            Some(service.as_str()),
            path.as_str(),
            Some(PROPERTIES),
            "Set",
            &body,
        );
        if set.await.is_ok() { cc::OK } else { cc::UNSPECIFIED }
    }

    async fn get(&self) -> Vec<u8> {
        let Some((path, service)) = self.find(INTERFACE).await else {
            return vec![cc::UNSPECIFIED];
        };
        let mut response = vec![cc::OK];
        for property in ["SysACPIStatus", "DevACPIStatus"] {
            match self.get_one(&path, &service, property).await {
                Some(code) => response.push(code),
                None => return vec![cc::UNSPECIFIED],
            }
        }
        response
    }

    async fn get_one(&self, path: &str, service: &str, property: &str) -> Option<u8> {
        let body = (INTERFACE, property);
        let get = self.connection.call_method(Some(service), path, Some(PROPERTIES), "Get", &body);
        let value: OwnedVariant = get.await.ok()?.body().deserialize().ok()?;
        let name = value.downcast_ref::<&str>().ok()?.strip_prefix(ENUM)?;
        STATES.into_iter().find(|(_, n)| *n == name).map(|(code, _)| code)
    }

    /// Asks the mapper each time, as ipmid does: the lowest path, and there the lowest service.
    async fn find(&self, interface: &str) -> Option<(String, String)> {
        let body = ("/", 0_i32, vec![interface]);
        let call = self.connection.call_method(
            Some(mapper::NAME),
            mapper::PATH,
            Some(mapper::INTERFACE),
            "GetSubTree",
            &body,
        );
        let found: SubTree = call.await.ok()?.body().deserialize().ok()?;
        let (path, services) = found.into_iter().next()?;
        Some((path, services.into_keys().next()?))
    }
}
