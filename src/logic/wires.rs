// SPDX-License-Identifier: Apache-2.0
//! Which buses a transfer on another is seen on: a mux makes of several buses one piece of wire.
//!
//! Owns the rule (0005, rule 12). Must never: look at the kernel, or know what a bus carries.
//!
//! A mux of the `PCA954x` kind joins one of its channels to the bus that it is on, and stays on it after the transfer
//! unless it is told to disconnect (Linux, `i2c-mux-pca954x.c`, `pca954x_deselect_mux`). Example: DIMMs on bus 12, a
//! channel of a mux on bus 3, and a sensor on bus 3. After a DIMM was read, what is sent to the sensor is on the DIMMs'
//! wires too. The same holds for bus 13, another channel: the mux is told to leave bus 12 over bus 3, while both are one.

/// The idle behaviour of a mux: what it does with its channel after a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// The mux leaves all of its channels.
    Disconnects,
    /// By its `idle_state` it stays on the last one, or goes to another.
    Stays(i32),
    /// The mux does not say: not every kind of mux has an `idle_state`.
    Unknown,
}

/// A mux, seen from one of its channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mux {
    /// Its name in the kernel, as `3-0070`.
    pub name: String,
    /// The behaviour after a transfer.
    pub idle: Idle,
    /// The number of the bus that it is on.
    pub on: u32,
}

/// How a bus hangs on others: by the mux that it is a channel of, by the mux that this one's bus is a channel of, and so
/// on. A bus that hangs on none has an empty one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain(pub Vec<Mux>);

impl Chain {
    /// The numbers of this bus and of those above it.
    fn buses(&self, bus: u32) -> impl Iterator<Item = u32> {
        std::iter::once(bus).chain(self.0.iter().map(|mux| mux.on))
    }

    /// The buses above this one whose transfers reach it.
    pub fn exposed_to(&self) -> impl Iterator<Item = u32> {
        self.0.iter().take_while(|mux| mux.idle != Idle::Disconnects).map(|mux| mux.on)
    }
}

/// Whether a transfer on the bus `from` is seen on the bus `to`; each has its number and how it hangs. The buses above
/// `from` carry all of it. From there it goes down through what stays connected.
#[must_use]
pub fn reaches(from: (u32, &Chain), to: (u32, &Chain)) -> bool {
    let is_above = |bus: u32| from.1.buses(from.0).any(|above| above == bus);
    is_above(to.0) || to.1.exposed_to().any(is_above)
}

/// Returns the lines about a guarded bus that is a channel: one for each mux, with true if it is a warning.
pub fn describe(bus: u32, chain: &Chain) -> impl Iterator<Item = (bool, String)> {
    let channels = chain.buses(bus);
    channels.zip(&chain.0).map(move |(channel, Mux { name, idle, on })| {
        let does = match idle {
            Idle::Disconnects => {
                format!("which disconnects when idle: what is sent on bus {on} does not reach it")
            }
            Idle::Stays(state) => format!("whose idle_state is {state}{STAYS}"),
            Idle::Unknown => format!("which has no idle_state{STAYS}"),
        };
        let below =
            if channel == bus { String::new() } else { format!(" (the guarded bus {bus} hangs on it)") };
        let line = format!("I2C bus {channel} is a channel of the mux {name} on bus {on}, {does}{below}");
        (*idle != Idle::Disconnects, line)
    })
}

const STAYS: &str = ": it stays connected, so that what is sent on the other buses there reaches it. Ours obey the same \
                     gate, other programs' do not; \"i2c-mux-idle-disconnect\" in the mux's node of the device tree ends it";

#[cfg(test)]
mod tests {
    use super::*;

    fn mux(on: u32, idle: Idle) -> Mux {
        Mux { name: format!("{on}-0070"), idle, on }
    }

    const LAST: Idle = Idle::Stays(-1);

    /// Bus 3 with a mux of channels 12 and 13, and on 12 another mux with channel 20; bus 4 is somewhere else.
    fn chain(bus: u32, first: Idle, second: Idle) -> Chain {
        Chain(match bus {
            12 | 13 => vec![mux(3, first)],
            20 => vec![mux(12, second), mux(3, first)],
            _ => Vec::new(),
        })
    }

    #[test]
    fn what_a_transfer_is_seen_on() {
        let stays = [LAST, Idle::Stays(0), Idle::Unknown];
        for (first, second) in stays.into_iter().flat_map(|first| stays.map(|second| (first, second))) {
            for (from, seen) in
                [(3, [3, 12, 13, 20]), (12, [3, 12, 13, 20]), (13, [3, 12, 13, 20]), (20, [3, 12, 13, 20])]
            {
                assert_eq!(seen_on(from, first, second), seen, "{from} {first:?} {second:?}");
            }
            assert_eq!(seen_on(4, first, second), [4]);
        }
    }

    fn seen_on(from: u32, first: Idle, second: Idle) -> Vec<u32> {
        let of = |bus| chain(bus, first, second);
        [3, 4, 12, 13, 20].into_iter().filter(|to| reaches((from, &of(from)), (*to, &of(*to)))).collect()
    }

    /// The buses above carry what is sent below, whatever the mux does afterwards.
    #[test]
    fn a_mux_that_disconnects_hides_its_channels_and_not_the_bus_it_is_on() {
        let none = Idle::Disconnects;
        for (from, seen) in
            [(3, vec![3]), (12, vec![3, 12]), (13, vec![3, 13]), (20, vec![3, 12, 20]), (4, vec![4])]
        {
            assert_eq!(seen_on(from, none, none), seen, "{from}");
        }
        // A single mux that disconnects, of two on the way, is enough.
        for (from, seen) in [(3, vec![3, 12, 13]), (20, vec![3, 12, 13, 20])] {
            assert_eq!(seen_on(from, LAST, none), seen, "{from}");
        }
        for (from, seen) in [(3, vec![3]), (12, vec![3, 12, 20]), (13, vec![3, 13])] {
            assert_eq!(seen_on(from, none, LAST), seen, "{from}");
        }
    }

    #[test]
    fn who_above_reaches_it() {
        let exposed = |first, second| chain(20, first, second).exposed_to().collect::<Vec<_>>();
        assert_eq!(exposed(LAST, LAST), [12, 3]);
        assert_eq!(exposed(Idle::Disconnects, LAST), [12]);
        assert_eq!(exposed(LAST, Idle::Disconnects), [0_u32; 0]);
    }

    #[test]
    fn what_is_said_of_it() {
        assert_eq!(describe(3, &Chain::default()).count(), 0);
        let lines: Vec<_> = describe(20, &chain(20, Idle::Disconnects, Idle::Unknown)).collect();
        let [(true, first), (false, second)] = &lines[..] else { panic!("{lines:?}") };
        assert!(
            first
                .starts_with("I2C bus 20 is a channel of the mux 12-0070 on bus 12, which has no idle_state")
        );
        assert!(first.contains("i2c-mux-idle-disconnect"));
        assert_eq!(
            second,
            "I2C bus 12 is a channel of the mux 3-0070 on bus 3, which disconnects when idle: what is sent on bus 3 does not \
             reach it (the guarded bus 20 hangs on it)"
        );
        let (_, line) = describe(12, &chain(12, LAST, LAST)).next().unwrap();
        assert!(line.contains("whose idle_state is -1: it stays connected"), "{line}");
    }
}
