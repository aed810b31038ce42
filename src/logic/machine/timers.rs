// SPDX-License-Identifier: Apache-2.0
//! Every deadline of a machine, by name. When each is, is in `deadlines.rs`.

macro_rules! timers {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A deadline.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Timer { $($(#[doc = $doc])* $name,)* }

        impl Timer {
            /// Every deadline.
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

timers! {
    /// Rule 6 decides, with or without a chassis service.
    Decide,
    /// A chassis that comes On is a power-on, though it was found Off.
    FoundOff,
    /// With `host_off_is_off`: a host that is Off counts as chassis Off (note 7).
    HostOff,
    /// Rule 4's `host_off` or rule 5's `reset_confirm` ends.
    Suspicion,
    /// Rule 7 makes the state `S0_G0_D0`.
    PostComplete,
    /// The lock of rule 6 ends.
    Unlock,
    /// The gate opens: `settle` ends.
    Open,
    /// The host can be done: `min_post` ends.
    MinPost,
    /// POST status that was never seen complete counts for nothing any more.
    PostLevel,
    /// A working state that was reported too early has stood for so long that it is true.
    Early,
    /// A POST code that says that the firmware is done has stood alone for long enough.
    DoneCode,
    /// A Set is answered without waiting any longer: `ack_cap` ends.
    AckCap,
    /// The bus is handed to the host without waiting any longer.
    Handover,
    /// The DIMM zones are held, if the gate stays closed.
    Hold,
    /// A hold that outlasts its boot is no boot's any more.
    BootHold,
    /// The gate has been closed under power for too long.
    ClosedTooLong,
    /// Thermal sensors of a host that has reported nothing are read.
    Thermal,
    /// The firmware has been done for so long that the OS should have been reported.
    OsNotReported,
    /// The firmware has owed a sign of life for too long.
    Silent,
    /// The CPU has drawn no power for too long.
    NoCpuPower,
    /// Every DIMM must have answered.
    Dimms,
    /// A value has been unreported for so long that its service does not report it.
    Mute,
}
