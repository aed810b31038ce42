// SPDX-License-Identifier: Apache-2.0
//! The daemon's settings: design section 6, checked, with their defaults.
//!
//! A duration is in the daemon's clock, except `ack_cap`, which is real time: a host waits for it.

use std::time::Duration;

/// Everything the daemon is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The hosts, in the order of the configuration.
    pub hosts: Vec<Host>,
    /// The guarded buses.
    pub buses: Vec<Bus>,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The number in its D-Bus paths and unit names.
    pub id: u32,
    /// What its power evidence is worth.
    pub evidence: Evidence,
    /// Its times.
    pub timing: Timing,
    /// Whether `dimm` sensors are configured; the fans wait for one of them to answer.
    pub has_dimms: bool,
}

/// What the board's power evidence is worth (design 3.2, rules 7 and 8).
#[allow(
    clippy::struct_excessive_bools,
    reason = "four independent answers about a board, as its configuration gives them"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// `OperatingSystemState` follows POST complete, and nothing else.
    pub post_complete_trusted: bool,
    /// A trusted POST complete makes any state `S0_G0_D0`: firmware that never reports.
    pub s0_from_post_complete: bool,
    /// Power-on makes an off-like state `S2_D2`: firmware that does not report S2.
    pub s2_from_power_on: bool,
    /// A host that is Off for `host_off` counts as chassis Off.
    pub host_off_is_off: bool,
}

/// The times of design section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// The longest a host waits for the answer to its Set, in real time.
    pub ack_cap: Duration,
    /// How long all conditions must hold before the gate opens.
    pub settle: Duration,
    /// How long the host must run again before a suspected reset is one.
    pub reset_confirm: Duration,
    /// How long the host must be Off before it counts as off.
    pub host_off: Duration,
    /// The longest the gate may stay closed under power.
    pub deadline: Duration,
    /// In place of `settle` where a working state was only restored.
    pub restore_settle: Duration,
    /// How long thermal sensors may need after power-on.
    pub thermal_grace: Duration,
    /// How long the gate may be closed outside POST before the DIMM fans are held.
    pub hold_after: Duration,
    /// How many resets within one boot are still no boot loop.
    pub max_resets: u32,
}

/// A guarded bus.
#[derive(Clone, Debug)]
pub struct Bus {
    /// Linux I2C bus number.
    pub bus: u32,
    /// Ids of the hosts whose DIMMs it carries.
    pub hosts: Vec<u32>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ack_cap: Duration::from_millis(250),
            settle: Duration::from_secs(10),
            reset_confirm: Duration::from_secs(5),
            host_off: Duration::from_secs(20),
            deadline: Duration::from_secs(1800),
            restore_settle: Duration::from_secs(1800),
            thermal_grace: Duration::from_secs(60),
            hold_after: Duration::from_secs(25),
            max_resets: 10,
        }
    }
}

impl Host {
    /// A host with every default.
    #[must_use]
    pub fn new(id: u32) -> Self {
        Self { id, evidence: Evidence::default(), timing: Timing::default(), has_dimms: false }
    }
}

impl Default for Settings {
    /// Host 0 with every default, and no guarded bus.
    fn default() -> Self {
        Self { hosts: vec![Host::new(0)], buses: Vec::new() }
    }
}
