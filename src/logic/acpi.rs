// SPDX-License-Identifier: Apache-2.0
//! The 14 ACPI power states and their two codings: the D-Bus enum string and the IPMI byte.
//!
//! Sources: `xyz.openbmc_project.Control.Power.ACPIPowerState` (phosphor-dbus-interfaces), and
//! IPMI 2.0 section 20.6, Set ACPI Power State. The device property uses the same enum, so IPMI's
//! D0 is [`AcpiState::S0G0D0`] there and D3 is [`AcpiState::S3D3`].

/// The prefix of every value of the D-Bus enum.
pub const ENUM_PREFIX: &str = "xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI.";

/// An ACPI power state: one of the 14 values of `xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum AcpiState {
    /// The operating system runs.
    S0G0D0,
    /// Sleeping, processor context kept.
    S1D1,
    /// UEFI is initialising the platform (POST), as firmware reports it.
    S2D2,
    /// Suspended to RAM.
    S3D3,
    /// Suspended to disk.
    S4,
    /// Soft off.
    S5G2,
    /// Off, S4 or S5, the sender cannot tell which.
    S4S5,
    /// Mechanical off.
    G3,
    /// Sleeping in S1, S2 or S3, the sender cannot tell which.
    Sleep,
    /// G1 sleeping, S1 to S4.
    G1Sleep,
    /// Off by the override (the power button held).
    Override,
    /// On, a host without ACPI.
    LegacyOn,
    /// Off, a host without ACPI.
    LegacyOff,
    /// Not known.
    Unknown,
}

/// The meaning of a state for the rules: the rows of rules 3.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StateKind {
    /// The host's operating system runs: S0 and legacy on.
    Working,
    /// Firmware is in POST: S2.
    Post,
    /// No host runs: S5, S4, S4/S5, G3, override, legacy off.
    OffLike,
    /// The host sleeps: S1, S3, SLEEP and `G1_SLEEP`.
    Sleep,
    /// Nobody knows.
    Unknown,
}

impl AcpiState {
    /// Every state, in the order of the D-Bus interface.
    pub const ALL: [Self; 14] = [
        Self::S0G0D0,
        Self::S1D1,
        Self::S2D2,
        Self::S3D3,
        Self::S4,
        Self::S5G2,
        Self::S4S5,
        Self::G3,
        Self::Sleep,
        Self::G1Sleep,
        Self::Override,
        Self::LegacyOn,
        Self::LegacyOff,
        Self::Unknown,
    ];

    /// The last part of the D-Bus enum string: `S0_G0_D0`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        // Every D-Bus string is ENUM_PREFIX and then the name, so that one table serves both.
        let (_, name) = self.dbus().split_at(ENUM_PREFIX.len());
        name
    }

    /// The whole D-Bus enum string.
    #[must_use]
    pub const fn dbus(self) -> &'static str {
        macro_rules! s {
            ($name:literal) => {
                concat!("xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI.", $name)
            };
        }
        match self {
            Self::S0G0D0 => s!("S0_G0_D0"),
            Self::S1D1 => s!("S1_D1"),
            Self::S2D2 => s!("S2_D2"),
            Self::S3D3 => s!("S3_D3"),
            Self::S4 => s!("S4"),
            Self::S5G2 => s!("S5_G2"),
            Self::S4S5 => s!("S4_S5"),
            Self::G3 => s!("G3"),
            Self::Sleep => s!("SLEEP"),
            Self::G1Sleep => s!("G1_SLEEP"),
            Self::Override => s!("OVERRIDE"),
            Self::LegacyOn => s!("LEGACY_ON"),
            Self::LegacyOff => s!("LEGACY_OFF"),
            Self::Unknown => s!("Unknown"),
        }
    }

    /// The state a D-Bus enum string names; `None` for anything that is not exactly one of the 14.
    #[must_use]
    pub fn from_dbus(s: &str) -> Option<Self> {
        Self::from_name(s.strip_prefix(ENUM_PREFIX)?)
    }

    /// The state a short name means (`S2_D2`).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// The row of rules 3.1 this state belongs to.
    #[must_use]
    pub const fn kind(self) -> StateKind {
        match self {
            Self::S0G0D0 | Self::LegacyOn => StateKind::Working,
            Self::S2D2 => StateKind::Post,
            Self::S5G2 | Self::S4 | Self::S4S5 | Self::G3 | Self::Override | Self::LegacyOff => {
                StateKind::OffLike
            }
            Self::S1D1 | Self::S3D3 | Self::Sleep | Self::G1Sleep => StateKind::Sleep,
            Self::Unknown => StateKind::Unknown,
        }
    }

    /// The operating system runs.
    #[must_use]
    pub fn is_working(self) -> bool {
        self.kind() == StateKind::Working
    }

    /// No host runs.
    #[must_use]
    pub fn is_off_like(self) -> bool {
        self.kind() == StateKind::OffLike
    }

    /// The host sleeps.
    #[must_use]
    pub fn is_sleep(self) -> bool {
        self.kind() == StateKind::Sleep
    }
}

/// A byte of IPMI's Set ACPI Power State: which state to set, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpmiByte {
    /// Bit 7 clear, or the code 7Fh: leave it as it is.
    NoChange,
    /// Bit 7 set and a code of the table.
    Set(AcpiState),
}

/// A byte that the table of IPMI 2.0 section 20.6 does not know: completion code C9h.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("ACPI power state byte {0:#04x} is out of range")]
pub struct BadIpmiByte(pub u8);

const SET: u8 = 0x80;
const NO_CHANGE: u8 = 0x7f;

impl AcpiState {
    /// The code of the system power state, 00h-0Ah, 20h, 21h or 2Ah (IPMI 2.0 table 20-8).
    #[must_use]
    pub const fn ipmi_code(self) -> u8 {
        match self {
            Self::S0G0D0 => 0x00,
            Self::S1D1 => 0x01,
            Self::S2D2 => 0x02,
            Self::S3D3 => 0x03,
            Self::S4 => 0x04,
            Self::S5G2 => 0x05,
            Self::S4S5 => 0x06,
            Self::G3 => 0x07,
            Self::Sleep => 0x08,
            Self::G1Sleep => 0x09,
            Self::Override => 0x0a,
            Self::LegacyOn => 0x20,
            Self::LegacyOff => 0x21,
            Self::Unknown => 0x2a,
        }
    }

    /// The state of a code without its set bit.
    #[must_use]
    pub fn from_ipmi_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.ipmi_code() == code)
    }

    /// Reads the first byte of the request, the system power state.
    pub fn from_ipmi_system(byte: u8) -> Result<IpmiByte, BadIpmiByte> {
        ipmi_byte(byte, |_| true)
    }

    /// Reads the second byte of the request, the device power state: D0-D3 and unknown only.
    pub fn from_ipmi_device(byte: u8) -> Result<IpmiByte, BadIpmiByte> {
        ipmi_byte(byte, |state| state.ipmi_code() <= 0x03 || state == Self::Unknown)
    }
}

/// With bit 7 clear nothing is set and the rest of the byte is not looked at, as ipmid does it
/// (openbmc 1.1).
fn ipmi_byte(byte: u8, allowed: fn(AcpiState) -> bool) -> Result<IpmiByte, BadIpmiByte> {
    let code = byte & !SET;
    if byte & SET == 0 || code == NO_CHANGE {
        return Ok(IpmiByte::NoChange);
    }
    AcpiState::from_ipmi_code(code)
        .filter(|state| allowed(*state))
        .map(IpmiByte::Set)
        .ok_or(BadIpmiByte(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_round_trips_in_both_codings() {
        for state in AcpiState::ALL {
            assert_eq!(AcpiState::from_dbus(state.dbus()), Some(state));
            assert_eq!(AcpiState::from_name(state.name()), Some(state));
            assert_eq!(AcpiState::from_ipmi_code(state.ipmi_code()), Some(state));
            assert_eq!(AcpiState::from_ipmi_system(SET | state.ipmi_code()), Ok(IpmiByte::Set(state)));
        }
    }

    #[test]
    fn only_the_exact_strings_are_known() {
        for bad in [
            "",
            "S0_G0_D0",
            "xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI.",
            "xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI.unknown",
            "xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI.Unknow",
            "xyz.openbmc_project.Control.Power.ACPIPowerState.ACPI.S2_D2 ",
            "xyz.openbmc_project.Control.Power.ACPIPowerState.S2_D2",
        ] {
            assert_eq!(AcpiState::from_dbus(bad), None, "{bad:?}");
        }
    }

    /// The table of IPMI 2.0 section 20.6, both bytes, all 256 values each.
    #[test]
    fn the_ipmi_bytes_are_those_of_the_specification() {
        for byte in 0..=u8::MAX {
            let code = byte & 0x7f;
            let system = matches!(code, 0x00..=0x0a | 0x20 | 0x21 | 0x2a);
            let device = matches!(code, 0x00..=0x03 | 0x2a);
            for (valid, read) in
                [(system, AcpiState::from_ipmi_system(byte)), (device, AcpiState::from_ipmi_device(byte))]
            {
                match read {
                    Ok(IpmiByte::NoChange) => assert!(byte < 0x80 || code == 0x7f, "{byte:#x}"),
                    Ok(IpmiByte::Set(state)) => {
                        assert!(byte >= 0x80 && valid && state.ipmi_code() == code, "{byte:#x}");
                    }
                    Err(BadIpmiByte(b)) => assert!(b == byte && byte >= 0x80 && !valid && code != 0x7f),
                }
            }
        }
    }

    #[test]
    fn each_state_is_of_the_kind_the_design_names() {
        use AcpiState as S;
        let of = |kind| S::ALL.into_iter().filter(|s| s.kind() == kind).collect::<Vec<_>>();
        assert_eq!(of(StateKind::Working), [S::S0G0D0, S::LegacyOn]);
        assert_eq!(of(StateKind::Post), [S::S2D2]);
        assert_eq!(of(StateKind::OffLike), [S::S4, S::S5G2, S::S4S5, S::G3, S::Override, S::LegacyOff]);
        assert_eq!(of(StateKind::Sleep), [S::S1D1, S::S3D3, S::Sleep, S::G1Sleep]);
        assert_eq!(of(StateKind::Unknown), [S::Unknown]);
    }
}
