// SPDX-License-Identifier: Apache-2.0
//! Carries the gate's last decision to the bus threads: permits, leases and drain.
//!
//! Owns: which transfers may begin, and how many are under way. Must never: decide when the gate
//! opens or closes; the logic does, and the event loop tells it here after every step.
//!
//! A *permit* is the right to one transfer. A bus thread first counts its transfer in and then looks
//! at the gate; the event loop first closes the gate and then looks at the count (both in one total
//! order). So either the thread sees the gate closed, or the loop sees the transfer: none can slip
//! between. There is no lock on this path, so a bus thread that hangs in the kernel, or is not
//! scheduled, holds up nobody.
//!
//! An open gate is a *lease* in real time: it ends by itself if the event loop stalls, or the bus that evidence comes by.
//!
//! `model/` compiles this file against loom and tries every order of the threads.

use std::{
    fmt,
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::sync::{
    AtomicBool, AtomicU32, Condvar, Instant, Mutex, MutexGuard,
    Ordering::{Relaxed, SeqCst},
};

/// How long an open gate stays open without being renewed, in real time (rules 3.3); for as long a proof that the bus
/// delivers is fresh (note B3).
pub const LEASE: Duration = Duration::from_secs(3);
/// How often the event loop renews an open gate, in real time (rules 3.3).
pub const RENEW: Duration = Duration::from_secs(1);

/// Position of a host in the configuration, not its id.
pub type HostIndex = usize;

/// The condition that a transfer needs besides its bus (rules 3.1; decision 0005, rule 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// The gate of this host: its `dimm` and `s0` sensors.
    Gate(HostIndex),
    /// Power on this host, and that it is warm: its `thermal` sensors.
    Power(HostIndex),
}

/// A bus, which carries one transfer at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BusId {
    /// The Linux I2C bus with this number.
    I2c(u32),
    /// A file that reads like hwmon's.
    File(Arc<Path>),
}

impl From<u32> for BusId {
    fn from(number: u32) -> Self {
        Self::I2c(number)
    }
}

/// Counts the closings of what a transfer needs: its bus, and its host's gate or power. Wraps.
pub type Closings = u32;

/// Counts what was found out about which buses are one piece of wire. Wraps.
pub type WiringCount = u32;

/// Why a permit was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the gate is closed")]
pub struct Closed;

/// The function that [`Permits`] calls when the last permit of a bus came back while the event loop waited for it.
pub type OnDrained = Box<dyn Fn() + Send + Sync>;

/// Leases and permits of all guarded buses. Clones share them.
#[derive(Clone)]
pub struct Permits {
    shared: Arc<Shared>,
}

struct Shared {
    origin: Instant,
    hosts: Box<[HostLeases]>,
    buses: Box<[BusSlot]>,
    /// Which wiring of the buses their leases follow.
    wiring: AtomicU32,
    /// Whether it is all over. Bus threads sleep here, until something opens, a time is reached, or this.
    ended: Mutex<bool>,
    wake: Condvar,
    on_drained: Mutex<Option<Arc<OnDrained>>>,
}

struct HostLeases {
    gate: Lease,
    power: Lease,
}

struct BusSlot {
    bus: BusId,
    lease: Lease,
    /// Permits that are out.
    out: AtomicU32,
    /// Device of the last permit, for the log.
    device: AtomicU32,
    /// When it was granted.
    since: AtomicU32,
    /// Somebody wants to know when `out` is 0.
    draining: AtomicBool,
}

/// The right to transfer, for a time.
struct Lease {
    /// An instant in ms after `origin` until which it holds; 0 means it does not. Wraps after 49 days, which is
    /// harmless since no lease reaches further than [`LEASE`]. 32 bits because the older BMCs have no wider atomics.
    until: AtomicU32,
    /// How often it was closed.
    closings: AtomicU32,
}

impl Lease {
    fn none() -> Self {
        Self { until: AtomicU32::new(0), closings: AtomicU32::new(0) }
    }

    fn close(&self) {
        if self.until.swap(0, SeqCst) != 0 {
            self.closings.fetch_add(1, SeqCst);
        }
    }

    /// True if it was closed before. `now` is asked once the lease is set: somebody may have looked at the
    /// old one just after it ran out, and sleep, who was right to.
    fn open(&self, until: u32, now: impl Fn() -> u32) -> bool {
        let before = self.until.swap(until, SeqCst);
        before == 0 || !Self::reaches(before, now())
    }

    fn holds(&self, now: u32) -> bool {
        Self::reaches(self.until.load(SeqCst), now)
    }

    fn reaches(until: u32, now: u32) -> bool {
        let left = until.wrapping_sub(now);
        until != 0 && left != 0 && left <= ms(LEASE)
    }
}

fn ms(d: Duration) -> u32 {
    // Truncation is the wrap that `Lease` allows for.
    #[allow(clippy::cast_possible_truncation, reason = "the lease's clock wraps by design")]
    let ms = d.as_millis() as u32;
    ms
}

/// A transfer that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InFlight {
    /// Where.
    pub bus: BusId,
    /// The 7-bit address of the device; nothing for a file.
    pub device: u32,
    /// For how long.
    pub taken: Duration,
}

impl fmt::Display for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bus {
            BusId::I2c(number) => write!(f, "bus {number} device {:#04x}", self.device),
            BusId::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Permits {
    /// All closed, and wiring 0. `hosts` is how many hosts there are.
    #[must_use]
    pub fn new<B: Into<BusId>>(hosts: usize, buses: impl IntoIterator<Item = B>) -> Self {
        let slot = |bus: B| BusSlot {
            bus: bus.into(),
            lease: Lease::none(),
            out: AtomicU32::new(0),
            device: AtomicU32::new(0),
            since: AtomicU32::new(0),
            draining: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(Shared {
                origin: Instant::now(),
                hosts: (0..hosts).map(|_| HostLeases { gate: Lease::none(), power: Lease::none() }).collect(),
                buses: buses.into_iter().map(slot).collect(),
                wiring: AtomicU32::new(0),
                ended: Mutex::new(false),
                wake: Condvar::new(),
                on_drained: Mutex::new(None),
            }),
        }
    }

    /// Sets what is called, on a bus thread, when a drain that [`Permits::in_flight`] found unfinished
    /// has ended. It must not block.
    pub fn on_drained(&self, notify: OnDrained) {
        *lock(&self.shared.on_drained) = Some(Arc::new(notify));
    }

    /// The event loop's word after each step and at each renewal: what each host grants, and per bus (in the order
    /// of [`Permits::new`]) whether the hosts whose DIMMs it reaches let anyone transfer at all. Closing takes effect before this returns;
    /// what is open is open for another `lease`, [`LEASE`] at the most. Without any it lets nothing begin, and yet is not closed:
    /// no closing is counted. True if anything is open.
    pub fn set(
        &self,
        lease: Duration,
        granted: impl Fn(Need) -> bool,
        bus_open: impl Fn(usize) -> bool,
    ) -> bool {
        let shared = &*self.shared;
        let (now, lease) = (shared.now(), ms(lease.min(LEASE)));
        // 0 is the mark of a closed lease, and one that lets nothing begin lies behind.
        let until = if lease == 0 { now.wrapping_sub(1) | 1 } else { now.wrapping_add(lease).max(1) };
        let (mut opened, mut any_open) = (false, false);
        let mut apply = |lease: &Lease, open: bool| {
            any_open |= open;
            if open {
                opened |= lease.open(until, || shared.now());
            } else {
                lease.close();
            }
        };
        for (host, leases) in shared.hosts.iter().enumerate() {
            apply(&leases.gate, granted(Need::Gate(host)));
            apply(&leases.power, granted(Need::Power(host)));
        }
        for (bus, slot) in shared.buses.iter().enumerate() {
            apply(&slot.lease, bus_open(bus));
        }
        if opened {
            // A thread that sleeps looked at the leases with this lock held, so it cannot miss an opening.
            drop(lock(&shared.ended));
            shared.wake.notify_all();
        }
        any_open
    }

    /// How often what such a transfer needs was closed so far. `bus` is a position in the order of [`Permits::new`].
    #[must_use]
    pub fn closings(&self, need: Need, bus: usize) -> Closings {
        self.shared.buses.get(bus).map_or(0, |slot| self.shared.closings(slot, need))
    }

    /// Closes everything for good, and wakes the bus threads that sleep.
    pub fn end(&self) {
        self.set(Duration::ZERO, |_| false, |_| false);
        *lock(&self.shared.ended) = true;
        self.shared.wake.notify_all();
    }

    /// The leases follow this wiring from now on: [`Permits::set`] was told of it.
    pub fn follow_wiring(&self, wiring: WiringCount) {
        self.shared.wiring.store(wiring, SeqCst);
    }

    /// The first transfer still under way on one of `buses` (by position in the order of [`Permits::new`]), or `None`
    /// when they are quiet. If there is one, [`Permits::on_drained`] is called when it ends.
    #[must_use]
    pub fn in_flight(&self, buses: impl Fn(usize) -> bool) -> Option<InFlight> {
        let mut first = None;
        for (_, under_way) in self.under_way().enumerate().filter(|(bus, _)| buses(*bus)) {
            first = first.or(under_way);
        }
        first
    }

    /// The transfer that is under way on each bus, in the order of [`Permits::new`]. If there is one,
    /// [`Permits::on_drained`] is called when it ends.
    pub fn under_way(&self) -> impl Iterator<Item = Option<InFlight>> {
        self.shared.buses.iter().map(|slot| self.shared.under_way(slot))
    }

    /// The handle of a bus thread; `None` if this bus is not guarded.
    #[must_use]
    pub fn bus(&self, bus: impl Into<BusId>) -> Option<BusPermits> {
        let bus = bus.into();
        let index = self.shared.buses.iter().position(|slot| slot.bus == bus)?;
        Some(BusPermits { shared: Arc::clone(&self.shared), index })
    }
}

impl BusSlot {
    /// Whether a transfer is under way; if so its end will be told.
    fn busy(&self) -> bool {
        self.draining.store(true, SeqCst);
        let busy = self.out.load(SeqCst) != 0;
        if !busy {
            self.draining.store(false, SeqCst);
        }
        busy
    }
}

impl Shared {
    fn now(&self) -> u32 {
        ms(self.origin.elapsed())
    }

    fn under_way(&self, slot: &BusSlot) -> Option<InFlight> {
        slot.busy().then(|| InFlight {
            bus: slot.bus.clone(),
            device: slot.device.load(Relaxed),
            taken: Duration::from_millis(self.now().wrapping_sub(slot.since.load(Relaxed)).into()),
        })
    }

    fn lease(&self, need: Need) -> Option<&Lease> {
        match need {
            Need::Gate(host) => Some(&self.hosts.get(host)?.gate),
            Need::Power(host) => Some(&self.hosts.get(host)?.power),
        }
    }

    /// Sleeps until `open`, which looks at the leases. False if it is all over.
    fn wait(&self, open: impl Fn() -> bool) -> bool {
        let guard = lock(&self.ended);
        let waited = self.wake.wait_timeout_while(guard, Duration::MAX, |ended| !*ended && !open());
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn allowed(&self, slot: &BusSlot, need: Need) -> bool {
        let now = self.now();
        self.lease(need).is_some_and(|lease| lease.holds(now)) && slot.lease.holds(now)
    }

    /// Both only grow, so that their sum tells whether either did.
    fn closings(&self, slot: &BusSlot, need: Need) -> Closings {
        let of_need = self.lease(need).map_or(0, |lease| lease.closings.load(SeqCst));
        of_need.wrapping_add(slot.lease.closings.load(SeqCst))
    }
}

/// A bus thread's access to permits.
pub struct BusPermits {
    shared: Arc<Shared>,
    index: usize,
}

impl BusPermits {
    /// A permit for one transfer to `device` (its 7-bit address), if the gate is open now.
    pub fn try_acquire(&self, need: Need, device: u32) -> Result<Permit<'_>, Closed> {
        let slot = self.slot().ok_or(Closed)?;
        // Read first: a closing after it makes what is transferred old.
        let closings = self.shared.closings(slot, need);
        slot.since.store(self.shared.now(), Relaxed);
        slot.device.store(device, Relaxed);
        // Counted in before the gate is looked at: see the module's header.
        slot.out.fetch_add(1, SeqCst);
        let permit = Permit { shared: &self.shared, slot, closings };
        if self.shared.allowed(slot, need) { Ok(permit) } else { Err(Closed) }
    }

    /// How often what such a transfer needs was closed so far.
    #[must_use]
    pub fn closings(&self, need: Need) -> Closings {
        self.slot().map_or(0, |slot| self.shared.closings(slot, need))
    }

    /// Whether the leases follow this wiring, or a later one.
    #[must_use]
    pub fn follows(&self, wiring: WiringCount) -> bool {
        self.shared.wiring.load(SeqCst).wrapping_sub(wiring) <= WiringCount::MAX / 2
    }

    /// Whether a transfer of this kind may be tried now.
    #[must_use]
    pub fn is_open(&self, need: Need) -> bool {
        self.slot().is_some_and(|slot| self.shared.allowed(slot, need))
    }

    /// Sleeps until a transfer of one of these kinds may be tried. False if that will never be.
    #[must_use]
    pub fn wait_open(&self, needs: &[Need]) -> bool {
        self.shared.wait(|| needs.iter().any(|need| self.is_open(*need)))
    }

    /// The same of transfers on several buses, each with what it needs. False, too, if there are none.
    #[must_use]
    pub fn wait_any_open(wanted: &[(Self, Need)]) -> bool {
        let any_open = || wanted.iter().any(|(bus, need)| bus.is_open(*need));
        wanted.first().is_some_and(|(bus, _)| bus.shared.wait(any_open))
    }

    /// Sleeps for so long. False if it is all over.
    #[must_use]
    pub fn rest(&self, length: Duration) -> bool {
        let guard = lock(&self.shared.ended);
        let waited = self.shared.wake.wait_timeout_while(guard, length, |ended| !*ended);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn slot(&self) -> Option<&BusSlot> {
        self.shared.buses.get(self.index)
    }
}

/// The right to one transfer; it comes back when dropped.
#[must_use = "a permit that is dropped at once permits nothing"]
pub struct Permit<'a> {
    shared: &'a Shared,
    slot: &'a BusSlot,
    closings: Closings,
}

impl Permit<'_> {
    /// How often what it needed was closed before it was granted.
    #[must_use]
    pub fn closings(&self) -> Closings {
        self.closings
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let last = self.slot.out.fetch_sub(1, SeqCst) == 1;
        if last && self.slot.draining.swap(false, SeqCst) {
            let notify = lock(&self.shared.on_drained).clone();
            if let Some(notify) = notify {
                notify();
            }
        }
    }
}

/// No critical section here can leave its data half written, so a poisoned lock is as good as another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "permits/tests.rs"]
mod tests;
