// SPDX-License-Identifier: Apache-2.0
//! From register bytes to degrees Celsius, by datasheet, and why a read gave none.
//!
//! Owns: the number formats of the devices, and what is believable. Must never: know which register comes next
//! ([`chip`](super::chip) does), or talk to a device.
//!
//! Words are as `SMBus` Read Word gives them: the first byte on the wire is the low one.

use std::fmt;

/// A temperature in degrees Celsius. Finite.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Celsius(f64);

impl Celsius {
    /// No sensor of a server is colder, running or off (rules 3.4).
    pub const COLDEST: f64 = -40.0;
    /// None that still works is hotter (rules 3.4).
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
    /// The device answers, but is not what the configuration says, or its sensor is off: why.
    Unfit(&'static str),
    /// The device is of a kind that has a sensor or not, and has none: why.
    NoSensor(&'static str),
    /// An SPD5118 whose registers cannot be believed: what its MR11 says is not page 0 with addresses of one byte.
    Page(u8),
    /// Outside -40 to 125 degrees (rules 3.4).
    Implausible,
    /// Another errno.
    Other(i32),
}

impl Fault {
    /// Whether only a device that is there brings it about: then there is one, and it cannot be read. (A kernel driver is not
    /// bound to one that does not answer it.)
    #[must_use]
    pub const fn is_of_a_device(self) -> bool {
        match self {
            Self::Unfit(_) | Self::Page(_) | Self::Implausible | Self::Bound => true,
            Self::NoBus
            | Self::Absent
            | Self::Hung
            | Self::ArbitrationLost
            | Self::NoSensor(_)
            | Self::Other(_) => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBus => f.write_str("there is no such bus"),
            Self::Absent => f.write_str("nobody answers"),
            Self::Hung => f.write_str("the bus hangs"),
            Self::Bound => f.write_str("a kernel driver has the address"),
            Self::ArbitrationLost => f.write_str("another master was on the bus"),
            Self::Unfit(why) | Self::NoSensor(why) => f.write_str(why),
            Self::Page(mr11) => write!(
                f,
                "this SPD hub's registers cannot be read: its MR11 is {mr11:#04x}, where page 0 and addresses of one byte \
                 are 0x00; who selected another page? (see spd_page in the configuration)"
            ),
            Self::Implausible => f.write_str("it gives a value outside -40 to 125 degrees"),
            Self::Other(errno) => write!(f, "error {errno}"),
        }
    }
}

/// Nothing was driving the data line, or a register that does not exist was read.
pub(super) const ALL_ONES: Fault = Fault::Unfit("it answers with nothing but ones");
/// Something holds the data line low, or answers for a device that is not there.
pub(super) const ALL_ZEROES: Fault = Fault::Unfit("it answers with nothing but zeroes");

/// `width` bits of two's complement, from bit 0 up.
const fn signed(bits: u16, width: u32) -> i16 {
    let unused = 16_u32.saturating_sub(width);
    #[allow(clippy::cast_possible_wrap, reason = "the sign bit is brought to where i16 has it")]
    let high = (bits << unused) as i16;
    high >> unused
}

/// JC42.4 and `TSE2004av`, register 0x05, high byte first: bit 12 the sign, bits 11-0 the value in 1/16 degree. Bits
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

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "every value here is a multiple of a power of two: exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A word as it is on the wire: the first byte is the low one.
    fn wire(first: u8, second: u8) -> u16 {
        u16::from_le_bytes([first, second])
    }

    /// AT30TSE004A, table 6-15, and MCP9808, equation 5-1 (0xC194 is 25.25 degrees above both limits).
    #[test]
    fn jc42_as_in_the_datasheets() {
        for (bytes, degrees) in [
            ([0x07, 0xd0], 125.0),
            ([0x05, 0x50], 85.0),
            ([0x01, 0x90], 25.0),
            ([0xc1, 0x94], 25.25),
            ([0x00, 0x01], 0.0625),
            ([0x00, 0x00], 0.0),
            ([0x1f, 0xff], -0.0625),
            ([0x1e, 0x70], -25.0),
            ([0x1d, 0x80], -40.0),
            ([0x10, 0x00], -256.0),
            ([0x0f, 0xff], 255.9375),
        ] {
            assert_eq!(jc42(wire(bytes[0], bytes[1])), degrees, "{bytes:02x?}");
            for flags in 0..8 {
                let flagged = (bytes[0] & 0x1f) | flags << 5;
                assert_eq!(jc42(wire(flagged, bytes[1])), degrees, "{flags:03b}");
            }
        }
    }

    /// JESD300-5, the tables of MR49 and MR50: bits 7-2 of the first are 8 to 0.25 degrees, bits 3-0 of the second 128
    /// to 16, bit 4 the sign.
    #[test]
    fn spd5118_as_in_the_standard() {
        for (mr49, mr50, degrees) in [
            (0xd0, 0x07, 125.0),
            (0xf0, 0x05, 95.0),
            (0x50, 0x05, 85.0),
            (0x90, 0x01, 25.0),
            (0x04, 0x00, 0.25),
            (0x80, 0x00, 8.0),
            (0x00, 0x01, 16.0),
            (0x00, 0x00, 0.0),
            (0xfc, 0x1f, -0.25),
            (0x80, 0x1d, -40.0),
            (0x00, 0x10, -256.0),
            (0xfc, 0x0f, 255.75),
        ] {
            assert_eq!(spd5118(wire(mr49, mr50)), degrees, "{mr49:#04x} {mr50:#04x}");
            assert_eq!(spd5118(wire(mr49 | 0x03, mr50 | 0xe0)), degrees, "reserved bits");
        }
    }

    /// TMP75 (SBOS288), table 5.
    #[test]
    fn tmp75_as_in_the_datasheet() {
        for (code, degrees) in [
            (0x7ff_u16, 127.9375),
            (0x640, 100.0),
            (0x500, 80.0),
            (0x4b0, 75.0),
            (0x320, 50.0),
            (0x190, 25.0),
            (0x004, 0.25),
            (0x000, 0.0),
            (0xffc, -0.25),
            (0xe70, -25.0),
            (0xc90, -55.0),
        ] {
            let [high, low] = (code << 4).to_be_bytes();
            assert_eq!(tmp75(wire(high, low)), degrees, "{code:#05x}");
        }
    }

    /// LM75 (SNOS808), table 1, whatever the undefined bits are.
    #[test]
    fn lm75_as_in_the_datasheet() {
        for (code, degrees) in [
            (0x0fa_u16, 125.0),
            (0x032, 25.0),
            (0x001, 0.5),
            (0x000, 0.0),
            (0x1ff, -0.5),
            (0x1ce, -25.0),
            (0x192, -55.0),
        ] {
            for undefined in [0, 0x7f, 0x2a] {
                let [high, low] = (code << 7 | undefined).to_be_bytes();
                assert_eq!(lm75(wire(high, low)), degrees, "{code:#05x}");
            }
        }
    }

    /// TMP421 (SBOS398), table 1 (high bytes in both ranges) and table 2 (low bytes).
    #[test]
    fn tmp421_as_in_the_datasheet() {
        for (standard, extended, degrees) in [
            (0xc9, 0x09, -55.0),
            (0xe7, 0x27, -25.0),
            (0x00, 0x40, 0.0),
            (0x01, 0x41, 1.0),
            (0x05, 0x45, 5.0),
            (0x19, 0x59, 25.0),
            (0x32, 0x72, 50.0),
            (0x4b, 0x8b, 75.0),
            (0x64, 0xa4, 100.0),
            (0x7d, 0xbd, 125.0),
            (0x7f, 0xbf, 127.0),
        ] {
            assert_eq!(tmp421(standard, 0, false), degrees);
            assert_eq!(tmp421(extended, 0, true), degrees);
            for (low, part) in [(0x10, 0.0625), (0x80, 0.5), (0xc0, 0.75), (0xf0, 0.9375), (0x8f, 0.5)] {
                assert_eq!(tmp421(standard, low, false), degrees + part);
                assert_eq!(tmp421(extended, low, true), degrees + part);
            }
        }
        assert_eq!(tmp421(0x00, 0, true), -64.0);
        assert_eq!(tmp421(0xff, 0, true), 191.0);
    }

    /// AMD 40821: 25.125 degrees are 0x19 and 0x20; the bits below do not count.
    #[test]
    fn sbtsi_as_in_the_specification() {
        assert_eq!(sbtsi(0x19, 0x20, false), 25.125);
        assert_eq!(sbtsi(0x19, 0x3f, false), 25.125);
        assert_eq!(sbtsi(0xff, 0xe0, false), 255.875);
        assert_eq!(sbtsi(0x00, 0x00, true), -49.0);
        assert_eq!(sbtsi(0xff, 0xe0, true), 206.875);
    }

    /// TPS40425 (SLUSBO6), READ TEMPERATURE 2; LTC2978, table of formats; Artesyn iHP, READ TEMPERATURE 1.
    #[test]
    fn linear11_as_in_the_datasheets() {
        for (word, value) in [
            (0xf064, 25.0),
            (0xd280, 10.0),
            (0xeac0, 88.0),
            (0x0019, 25.0),
            (0x07f6, -10.0),
            (0x0000, 0.0),
            (0x7bff, 1023.0 * 32768.0),
            (0x7c00, -1024.0 * 32768.0),
            (0x8001, 1.0 / 65536.0),
        ] {
            assert_eq!(linear11(word), value, "{word:#06x}");
        }
    }

    #[test]
    fn every_value_decodes_to_a_number_within_its_format() {
        for word in 0..=u16::MAX {
            let [low, high] = word.to_le_bytes();
            assert!((-256.0..256.0).contains(&jc42(word)));
            assert!((-256.0..256.0).contains(&spd5118(word)));
            assert!((-128.0..128.0).contains(&tmp75(word)));
            assert!((-128.0..128.0).contains(&lm75(word)));
            assert!((-128.0..128.0).contains(&tmp421(low, high, false)));
            assert!((-64.0..192.0).contains(&tmp421(low, high, true)));
            assert!((0.0..256.0).contains(&sbtsi(low, high, false)));
            assert!((-49.0..207.0).contains(&sbtsi(low, high, true)));
            assert!(linear11(word).is_finite());
        }
    }

    #[test]
    fn what_is_believed() {
        for degrees in [-40.0, -0.0625, 0.0, 85.0, 125.0] {
            assert_eq!(Celsius::plausible(degrees).map(Celsius::degrees), Ok(degrees));
        }
        for degrees in [-40.0625, 125.0625, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
            assert_eq!(Celsius::plausible(degrees), Err(Fault::Implausible), "{degrees}");
        }
    }

    proptest! {
        /// Written by the rule of the specification and read back, in each of the exponents that hold it.
        #[test]
        fn linear11_gives_back_what_was_written(mantissa in -1024_i16..1024, exponent in -16_i16..16) {
            let word = (exponent.cast_unsigned() << 11) | (mantissa.cast_unsigned() & 0x07ff);
            prop_assert_eq!(linear11(word), f64::from(mantissa) * 2_f64.powi(exponent.into()));
        }

        #[test]
        fn jc42_gives_back_what_was_written(sixteenths in -4096_i16..4096, flags in 0_u16..8) {
            let register = (flags << 13) | (sixteenths.cast_unsigned() & 0x1fff);
            prop_assert_eq!(jc42(register.swap_bytes()), f64::from(sixteenths) / 16.0);
        }
    }
}
