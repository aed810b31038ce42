// SPDX-License-Identifier: Apache-2.0
//! The D-Bus names, and the values the two properties may take. Owns no state.

pub const NAME: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
pub const INTERFACE: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState";
pub const PATH: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
pub const MANAGER: &str = "/xyz/openbmc_project/control";

/// One of the 14 values; the index is into `STATES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acpi(u8);

macro_rules! states { ($($s:literal)*) => {
    const STATES: &[&str] = &[$(concat!("xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI.", $s)),*];
}}
states!("S0_G0_D0" "S1_D1" "S2_D2" "S3_D3" "S4" "S5_G2" "S4_S5" "G3" "SLEEP" "G1_SLEEP" "OVERRIDE" "LEGACY_ON" "LEGACY_OFF" "Unknown");

impl Acpi {
    pub const UNKNOWN: Self = Self(13);

    pub fn parse(text: &str) -> Option<Self> {
        STATES.iter().position(|s| *s == text).map(|i| Self(i as u8))
    }

    pub fn as_str(self) -> &'static str {
        STATES.get(usize::from(self.0)).copied().unwrap_or("")
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Property {
    Sys,
    Dev,
}

impl Property {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sys => "SysACPIStatus",
            Self::Dev => "DevACPIStatus",
        }
    }
}

/// What a Set that passed all checks asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    pub property: Property,
    pub value: Acpi,
}
