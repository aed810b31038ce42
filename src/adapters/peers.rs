// SPDX-License-Identifier: Apache-2.0
//! The D-Bus services that the daemon talks with.
//!
//! Owns: our side of each conversation. Must never: let one peer's order depend on another's: a reply is one peer's only, and each
//! looks at every signal for itself.

use std::num::NonZeroU32;

use zbus::Message;

use crate::{
    adapters::{
        boot_progress::BootProgress,
        cpu_power::CpuPower,
        dbus::{
            peer::{Moment, Outcome, Peer},
            signal::Signal,
        },
        dimm_inventory::DimmInventory,
        event_log::EventLog,
        fan_config::FanConfig,
        fans::FanControl,
        mapper::Mapper,
        post_codes::PostCodes,
        power_state::PowerState,
        systemd::Systemd,
    },
    logic::time::Time,
};

/// All of them. `daemon.rs` makes it; a new one has a field here and a line in [`Peers::all`].
#[derive(Debug)]
pub(crate) struct Peers {
    /// Power control: chassis, host and operating system (openbmc 2).
    pub(crate) power_state: PowerState,
    /// Targets, and units that are quiet while a host reads its SPDs.
    pub(crate) systemd: Systemd,
    /// Whether somebody else has our objects (openbmc 1.6).
    pub(crate) mapper: Mapper,
    /// Fan control's zones and PWMs (openbmc 4).
    pub(crate) fans: FanControl,
    /// Boot progress, read and written (openbmc 6).
    pub(crate) boot_progress: BootProgress,
    /// POST codes, while somebody wants them (openbmc 6).
    pub(crate) post_codes: PostCodes,
    /// The sensors of CPU power.
    pub(crate) cpu_power: CpuPower,
    /// The configuration of fan control for our sensors.
    pub(crate) fan_config: FanConfig,
    /// The DIMMs that the inventory has.
    pub(crate) dimm_inventory: DimmInventory,
    /// The SEL and phosphor-logging.
    pub(crate) event_log: EventLog,
}

impl Peers {
    /// Each of them.
    pub(crate) fn all(&mut self) -> [&mut dyn Peer; 10] {
        [
            &mut self.power_state,
            &mut self.systemd,
            &mut self.mapper,
            &mut self.fans,
            &mut self.boot_progress,
            &mut self.post_codes,
            &mut self.cpu_power,
            &mut self.fan_config,
            &mut self.dimm_inventory,
            &mut self.event_log,
        ]
    }

    /// Returns the calls that each begins with.
    pub(crate) fn start(&mut self) -> zbus::Result<Vec<Message>> {
        let mut calls = Vec::new();
        for peer in self.all() {
            calls.extend(peer.start()?);
        }
        Ok(calls)
    }

    /// A reply; `None` if nobody waits for it.
    pub(crate) fn returned(&mut self, serial: NonZeroU32, reply: &Message) -> Option<zbus::Result<Outcome>> {
        self.all().into_iter().find_map(|peer| peer.returned(serial, reply))
    }

    /// A signal.
    pub(crate) fn signalled(&mut self, signal: &Signal<'_>) -> zbus::Result<Outcome> {
        self.each(|peer| peer.signalled(signal))
    }

    /// The time is `now`.
    pub(crate) fn tick(&mut self, now: Moment) -> zbus::Result<Outcome> {
        self.each(|peer| peer.tick(now))
    }

    /// When [`Peers::tick`] is due, if nothing happens before.
    pub(crate) fn wake_at(&mut self) -> Option<Time> {
        self.all().into_iter().filter_map(|peer| peer.wake_at()).min()
    }

    fn each(&mut self, to: impl Fn(&mut dyn Peer) -> zbus::Result<Outcome>) -> zbus::Result<Outcome> {
        let mut all = Outcome::default();
        for peer in self.all() {
            let Outcome { calls, events } = to(peer)?;
            all.calls.extend(calls);
            all.events.extend(events);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    /// A peer that is written and not in the list would never be called.
    #[test]
    fn every_peer_is_in_the_list() {
        let adapters = concat!(env!("CARGO_MANIFEST_DIR"), "/src/adapters");
        let files = fs::read_dir(adapters).unwrap().map(|entry| entry.unwrap().path());
        let text: String =
            files.filter(|path| path.is_file()).map(|path| fs::read_to_string(path).unwrap()).collect();
        let written = text.lines().filter(|line| line.starts_with("impl Peer for ")).count();
        let list =
            include_str!("peers.rs").lines().filter(|line| line.trim().starts_with("&mut self.")).count();
        assert!(written > 0);
        assert_eq!(written, list);
    }
}
