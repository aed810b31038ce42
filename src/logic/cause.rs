// SPDX-License-Identifier: Apache-2.0
//! Why the host is thought to be in its state: the names of rules 3.2.

/// Why the host is thought to be in its state (rules 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// The host said so.
    HostReport,
    /// Chassis power went off.
    ChassisOff,
    /// Chassis power came back after a sleep state.
    Resumed,
    /// The host was off for so long that it is off for good.
    HostOff,
    /// The host was reset: firmware runs again and has not told us.
    HostReset,
    /// The firmware was heard at work, and nobody had said that it runs.
    FirmwareSeen,
    /// Boot progress says that the OS runs.
    BootProgress,
    /// POST has been complete for long enough.
    PostComplete,
    /// Chassis power came on.
    PowerOn,
    /// The daemon started, and this is what the evidence shows.
    Startup,
    /// The daemon started, and this is what was stored.
    Restored,
}

impl Cause {
    /// The name on D-Bus and in the journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostReport => "HostReport",
            Self::ChassisOff => "ChassisOff",
            Self::Resumed => "Resumed",
            Self::HostOff => "HostOff",
            Self::HostReset => "HostReset",
            Self::FirmwareSeen => "FirmwareSeen",
            Self::BootProgress => "BootProgress",
            Self::PostComplete => "PostComplete",
            Self::PowerOn => "PowerOn",
            Self::Startup => "Startup",
            Self::Restored => "Restored",
        }
    }
}
