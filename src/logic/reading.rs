// SPDX-License-Identifier: Apache-2.0
//! From register bytes to degrees Celsius, by datasheet, and why a read gave none.
//!
//! Owns: the number formats of the devices, and what is believable. Must never: know which register comes next
//! ([`chip`](super::chip) does), or talk to a device.
//!
//! Words are as SMBus Read Word gives them: the first byte on the wire is the low one.

use std::fmt;

/// A temperature in degrees Celsius. Finite.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Celsius(f64);

impl Celsius {
    /// No sensor of a server is colder, running or off (design 3.4).
    pub const COLDEST: f64 = -40.0;
    /// None that still works is hotter (design 3.4).
    pub const HOTTEST: f64 = 125.0;

    /// A reading, if it can be believed: from [`COLDEST`](Self::COLDEST) to [`HOTTEST`](Self::HOTTEST).
    pub fn plausible(degrees: f64) -> Result<Self, Fault> {
        if (Self::COLDEST..=Self::HOTTEST).contains(&degrees) {
            Ok(Self(degrees))
        } else {
            Err(Fault::Implausible)
        }
    }

    /// The degrees.
    #[must_use]
    pub const fn degrees(self) -> f64 {
        self.0
    }
}

/// Why a read gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The bus device cannot be opened (yet).
    NoBus,
    /// Nobody answers: ENXIO, EREMOTEIO, ENODEV; for a file ENOENT.
    Absent,
    /// The bus hangs: ETIMEDOUT.
    Hung,
    /// A kernel driver has the address: EBUSY.
    Bound,
    /// EAGAIN: another master spoke at the same time, the collision we exist for.
    ArbitrationLost,
    /// It answers, but is not what the configuration says, or its sensor is off: why.
    Unfit(&'static str),
    /// Outside -40 to 125 degrees (design 3.4).
    Implausible,
    /// Another errno.
    Other(i32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBus => f.write_str("there is no such bus"),
            Self::Absent => f.write_str("nobody answers"),
            Self::Hung => f.write_str("the bus hangs"),
            Self::Bound => f.write_str("a kernel driver has the address"),
            Self::ArbitrationLost => f.write_str("another master was on the bus"),
            Self::Unfit(why) => f.write_str(why),
            Self::Implausible => f.write_str("it gives a value outside -40 to 125 degrees"),
            Self::Other(errno) => write!(f, "error {errno}"),
        }
    }
}

/// Nothing was driving the data line, or a register that does not exist was read.
pub(super) const ALL_ONES: Fault = Fault::Unfit("it answers with nothing but ones");

/// `width` bits of two's complement, from bit 0 up.
const fn signed(bits: u16, width: u32) -> i16 {
    let unused = 16_u32.saturating_sub(width);
    #[allow(clippy::cast_possible_wrap, reason = "the sign bit is brought to where i16 has it")]
    let high = (bits << unused) as i16;
    high >> unused
}

/// JC42.4 and TSE2004av, register 0x05, high byte first: bit 12 the sign, bits 11-0 the value in 1/16 degree. Bits
/// 15-13 are flags: above critical, above and below the window.
pub(super) fn jc42(word: u16) -> f64 {
    f64::from(signed(word.swap_bytes(), 13)) / 16.0
}

/// SPD5118 (JESD300-5), MR49 low and MR50 high, low byte first: bit 12 the sign, bits 11-2 the value, in 1/16 degree;
/// bits 1-0 and 15-13 are reserved.
pub(super) fn spd5118(word: u16) -> f64 {
    f64::from(signed(word >> 2, 11)) / 4.0
}

/// TMP75, register 0x00, high byte first: 12 bits in 1/16 degree, left-aligned. At a lower resolution the last are 0.
pub(super) fn tmp75(word: u16) -> f64 {
    f64::from(signed(word.swap_bytes() >> 4, 12)) / 16.0
}

/// LM75, register 0x00, high byte first: 9 bits in half degrees, left-aligned; the others are not defined.
pub(super) fn lm75(word: u16) -> f64 {
    f64::from(signed(word.swap_bytes() >> 7, 9)) / 2.0
}

/// TMP421 (SBOS398), high byte 0x00-0x03 and low byte 0x10-0x13: 12 bits in 1/16 degree, left-aligned. In the
/// extended range they are a binary number that begins at -64 degrees.
pub(super) fn tmp421(high: u8, low: u8, extended: bool) -> f64 {
    let value = u16::from_be_bytes([high, low]) >> 4;
    if extended { f64::from(value) / 16.0 - 64.0 } else { f64::from(signed(value, 12)) / 16.0 }
}

/// AMD SB-TSI, whole degrees 0x01 and, in the upper three bits of 0x10, eighths. The extended range begins at -49
/// degrees.
pub(super) fn sbtsi(whole: u8, part: u8, extended: bool) -> f64 {
    let value = f64::from(whole) + f64::from(part >> 5) / 8.0;
    if extended { value - 49.0 } else { value }
}

/// `PMBus` LINEAR11 (specification part II, 7.1): bits 15-11 the exponent of two, bits 10-0 the mantissa, both signed.
pub(super) fn linear11(word: u16) -> f64 {
    let exponent = signed(word >> 11, 5);
    f64::from(signed(word, 11)) * 2_f64.powi(exponent.into())
}
