// SPDX-License-Identifier: Apache-2.0
//! The registers to read from each kind of device, one at a time: its identity, whether its sensor is on, and then
//! its temperature.
//!
//! Owns: the register numbers and their order, and what a device that is dead, busy or another gives. Must never: talk to
//! a device, or have a register that is written but the one of [`Access::Page0`].
//! A permit covers one register, and the gate may close between any two; a chip that was interrupted has to
//! [`forget`](Chip::forget).
//!
//! All zeroes are a believable 0 degrees to each of these chips, and what a device gives that has lost its power, hides
//! its registers, or is none of these. So they are believed only after another register, that is never 0, was read.

use super::reading::{self, ALL_ONES, ALL_ZEROES, Celsius, Fault};
use crate::config::Device;

/// An `SMBus` transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read Byte Data from this register.
    Byte(u8),
    /// Read Word Data from this register: the first byte on the wire is the low one.
    Word(u8),
    /// Write Byte Data of 0 to MR11 of an SPD5118: its page 0, with addresses of one byte. Gives nothing.
    Page0,
}

/// How far a reading has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// Another register has to be read: [`Chip::next`].
    More,
    /// The temperature. The next read begins another one.
    Reading(Celsius),
    /// There is none. The next read begins with who it is.
    Fault(Fault),
}

/// Readings between two looks at whether the sensor is still on. A sensor that is switched off goes on giving its last
/// value, and a look each time would double the traffic.
const RECHECK: u8 = 30;

/// A device that is read register by register.
#[derive(Clone, Debug)]
pub struct Chip {
    kind: Family,
    channel: u8,
    /// The next step.
    step: Step,
    /// Readings until the configuration is looked at again.
    trusted: u8,
    /// The extended number format, by the configuration register.
    extended: bool,
    /// The order in which the halves are to be read, by the same register.
    part_first: bool,
    /// The first half of a value of two bytes, or MR11.
    half: u8,
    doubt: Doubt,
    /// The check that the doubt needs next, before the step.
    check: Option<Check>,
    selects: Selects,
}

/// A value that is not believed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    No,
    /// A temperature of nothing but zeroes.
    Zero,
    /// An SPD5118 that is none, by this; and whether it answered with 0.
    Unfit(Fault, bool),
    /// Another register has vouched for the device: what is read next is its temperature, zeroes or not.
    Vouched,
}

/// Whether page 0 of an SPD5118 may be selected: once in each reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Selects {
    Never,
    Once,
    /// Page 0 was selected in this reading.
    Spent,
}

/// The devices that are read register by register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Jc42,
    Spd5118,
    Sbtsi,
    Tmp75,
    Lm75,
    Tmp421,
    Pmbus,
}

/// A step of reading a device. Not every device has every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The identity of the device.
    Identity,
    /// The model.
    Model,
    /// The abilities of the device, or which of its channels are on.
    Ability,
    /// Whether it measures, and in which format.
    Configuration,
    /// The temperature, or the half of it that is read first.
    First,
    /// The other half.
    Second,
}

/// A transfer besides the steps, because of a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// Which page an SPD5118 shows.
    Page,
    /// Whether it hides its vendor too: only then is it one that hides its registers.
    Vendor,
    /// Page 0 is selected.
    Select,
    /// Whether it is.
    Selected,
    /// A register that is 0 in no such device that works.
    Witness,
}

impl Family {
    /// Where identification begins. A device that has no register for it is only asked whether it is on.
    const fn begin(self) -> Step {
        match self {
            Self::Jc42 | Self::Spd5118 | Self::Tmp421 => Step::Identity,
            Self::Sbtsi | Self::Tmp75 | Self::Lm75 => Step::Configuration,
            Self::Pmbus => Step::First,
        }
    }
}

impl Chip {
    /// A device of this kind, of which nothing is known yet. `channel` 0 is the default: of a TMP421 the local sensor,
    /// of a `PMBus` device `READ_TEMPERATURE_1`. `None` for hwmon, which is a file.
    #[must_use]
    pub const fn new(device: Device, channel: u8) -> Option<Self> {
        let kind = match device {
            Device::Jc42 => Family::Jc42,
            Device::Spd5118 => Family::Spd5118,
            Device::Sbtsi => Family::Sbtsi,
            Device::Tmp75 => Family::Tmp75,
            Device::Lm75 => Family::Lm75,
            Device::Tmp421 => Family::Tmp421,
            Device::Pmbus => Family::Pmbus,
            Device::Hwmon => return None,
        };
        Some(Self {
            kind,
            channel,
            step: kind.begin(),
            trusted: 0,
            extended: false,
            part_first: false,
            half: 0,
            doubt: Doubt::No,
            check: None,
            selects: Selects::Never,
        })
    }

    /// Where an SPD5118 hides its registers behind another page, its page 0 is selected.
    #[must_use]
    pub fn selecting_page_0(self) -> Self {
        let selects = if self.kind == Family::Spd5118 { Selects::Once } else { Selects::Never };
        Self { selects, ..self }
    }

    /// Forgets who it is: after a fault, and after the host was off, when it may be another one.
    pub fn forget(&mut self) {
        self.step = self.kind.begin();
        self.trusted = 0;
        self.end_reading();
    }

    fn end_reading(&mut self) {
        self.doubt = Doubt::No;
        self.check = None;
        self.selects = match self.selects {
            Selects::Never => Selects::Never,
            Selects::Once | Selects::Spent => Selects::Once,
        };
    }

    /// Returns the next transfer.
    #[must_use]
    pub fn next(&self) -> Access {
        match self.check {
            None => self.register(),
            // JESD300-5: MR3-MR4 vendor id, MR11 page and addressing.
            Some(Check::Page | Check::Selected) => Access::Byte(0x0b),
            Some(Check::Vendor) => Access::Word(0x03),
            Some(Check::Select) => Access::Page0,
            Some(Check::Witness) => self.witness(),
        }
    }

    /// Returns the register that vouches for a temperature of nothing but zeroes: the identity of the device, or else its
    /// upper limit (SB-TSI 0x07, TMP75 and LM75 0x03) or `PMBUS_REVISION`. (Nothing vouches for a device with a limit of 0
    /// degrees, or for `PMBus` 1.0.)
    const fn witness(&self) -> Access {
        match self.kind {
            Family::Jc42 => Access::Word(0x06),
            Family::Spd5118 => Access::Word(0x00),
            Family::Sbtsi => Access::Byte(0x07),
            Family::Tmp75 | Family::Lm75 => Access::Word(0x03),
            Family::Tmp421 => Access::Byte(0xfe),
            Family::Pmbus => Access::Byte(0x98),
        }
    }

    fn register(&self) -> Access {
        match self.kind {
            // JESD 21-C 4.1.6 (TSE2004av): all registers have 16 bits, high byte first. 0x06 manufacturer, 0x00
            // capability, 0x01 configuration, 0x05 temperature.
            Family::Jc42 => match self.step {
                Step::Identity => Access::Word(0x06),
                Step::Model | Step::Ability => Access::Word(0x00),
                Step::Configuration => Access::Word(0x01),
                Step::First | Step::Second => Access::Word(0x05),
            },
            // JESD300-5: MR0-MR1 device type, MR5 capability, MR26 sensor configuration, MR49-MR50 temperature. The
            // register address counts on within a read, so two registers are one word: it is one transfer, that no
            // other master can come between, and one permit; of two byte reads the value could change in between,
            // and be wrong by 16 degrees. Nothing with bit 7, the memory behind the hub.
            Family::Spd5118 => match self.step {
                Step::Identity | Step::Model => Access::Word(0x00),
                Step::Ability => Access::Byte(0x05),
                Step::Configuration => Access::Byte(0x1a),
                Step::First | Step::Second => Access::Word(0x31),
            },
            // AMD 40821: it knows byte reads only. 0x03 configuration, 0x01 whole degrees, 0x10 eighths. Reading one
            // holds the other, in the order that the configuration says.
            Family::Sbtsi => match (self.step, self.part_first) {
                (Step::Identity | Step::Model | Step::Ability | Step::Configuration, _) => Access::Byte(0x03),
                (Step::First, false) | (Step::Second, true) => Access::Byte(0x01),
                (Step::First, true) | (Step::Second, false) => Access::Byte(0x10),
            },
            // SBOS288 and SNOS808: 0x00 temperature, 16 bits, high byte first; 0x01 configuration, 8 bits.
            Family::Tmp75 | Family::Lm75 => match self.step {
                Step::Identity | Step::Model | Step::Ability | Step::Configuration => Access::Byte(0x01),
                Step::First | Step::Second => Access::Word(0x00),
            },
            // SBOS398, table 3. The low byte is of the conversion whose high byte was read just before.
            Family::Tmp421 => match self.step {
                Step::Identity => Access::Byte(0xfe),
                Step::Model => Access::Byte(0xff),
                Step::Ability => Access::Byte(0x0a),
                Step::Configuration => Access::Byte(0x09),
                Step::First => Access::Byte(self.channel & 0x03),
                Step::Second => Access::Byte(0x10 | (self.channel & 0x03)),
            },
            // PMBus specification part II: READ_TEMPERATURE_1 0x8D to READ_TEMPERATURE_3 0x8F.
            Family::Pmbus => Access::Word(0x8c + self.channel.clamp(1, 3)),
        }
    }

    /// Takes in what was read at [`next`](Self::next); of a byte the upper eight bits do not count.
    pub fn take(&mut self, value: u16) -> Progress {
        match self.digest(value) {
            Ok(None) => Progress::More,
            Ok(Some(celsius)) => {
                self.end_reading();
                self.trusted = self.trusted.saturating_sub(1);
                let recheck = self.trusted == 0 && self.kind != Family::Pmbus;
                self.step = if recheck { self.recheck() } else { Step::First };
                Progress::Reading(celsius)
            }
            Err(fault) => {
                self.forget();
                Progress::Fault(fault)
            }
        }
    }

    /// Where a device that is known is asked whether it still measures.
    const fn recheck(&self) -> Step {
        match self.kind {
            Family::Tmp421 => Step::Ability,
            Family::Jc42 | Family::Spd5118 | Family::Sbtsi | Family::Tmp75 | Family::Lm75 | Family::Pmbus => {
                Step::Configuration
            }
        }
    }

    fn digest(&mut self, word: u16) -> Result<Option<Celsius>, Fault> {
        let [byte, _] = word.to_le_bytes();
        if let Some(check) = self.check.take() {
            self.settle(check, word, byte)?;
            return Ok(None);
        }
        match self.step {
            Step::Identity => {
                let fits = self.identity(word);
                self.doubted(fits, word == 0)?;
            }
            Step::Model => self.model(byte)?,
            Step::Ability => {
                let fits = self.ability(word, byte);
                self.doubted(fits, byte == 0)?;
            }
            Step::Configuration => self.configuration(word, byte)?,
            Step::First => return self.first(word, byte),
            Step::Second => return self.second(byte),
        }
        Ok(None)
    }

    /// An SPD5118 that is none may have another page selected.
    fn doubted(&mut self, fits: Result<(), Fault>, zero: bool) -> Result<(), Fault> {
        match fits {
            Err(fault) if self.kind == Family::Spd5118 => {
                (self.doubt, self.check) = (Doubt::Unfit(fault, zero), Some(Check::Page));
                Ok(())
            }
            fits => fits,
        }
    }

    /// Whether this temperature is nothing but zeroes, for which nobody has vouched yet; then somebody is asked.
    fn is_doubtful(&mut self, zero: bool) -> bool {
        let doubtful = zero && self.doubt != Doubt::Vouched;
        if doubtful {
            let check = if self.kind == Family::Spd5118 { Check::Page } else { Check::Witness };
            (self.doubt, self.check, self.step) = (Doubt::Zero, Some(check), Step::First);
        }
        doubtful
    }

    /// Takes in what a check gave.
    fn settle(&mut self, check: Check, word: u16, byte: u8) -> Result<(), Fault> {
        self.check = match check {
            // MR11: bits 2-0 the page, bit 3 addresses of two bytes, the others reserved and 0. Hubs of Renesas give 0 in
            // all registers but this one while another page is selected (Linux, drivers/hwmon/spd5118.c, spd5118_i2c_init).
            Check::Page => match (byte & 0x0f, self.doubt) {
                (0, Doubt::Unfit(fault, _)) => return Err(fault),
                (0, Doubt::No | Doubt::Zero | Doubt::Vouched) => Some(Check::Witness),
                (_, doubt) => {
                    self.half = byte;
                    let hides = matches!(doubt, Doubt::Zero | Doubt::Unfit(_, true));
                    let may = hides && byte & 0xf8 == 0 && self.selects == Selects::Once;
                    if !may {
                        return Err(Fault::Page(byte));
                    }
                    Some(Check::Vendor)
                }
            },
            // A hub that shows a vendor shows its registers on any page: then the page was not the cause.
            Check::Vendor if word == 0 => Some(Check::Select),
            Check::Vendor => return Err(Fault::Page(self.half)),
            Check::Select => {
                self.selects = Selects::Spent;
                Some(Check::Selected)
            }
            Check::Selected if byte == 0 => {
                (self.doubt, self.step) = (Doubt::No, self.kind.begin());
                None
            }
            Check::Selected => return Err(Fault::Page(byte)),
            Check::Witness => {
                self.vouch(word, byte)?;
                self.doubt = Doubt::Vouched;
                None
            }
        };
        Ok(())
    }

    /// Whether the witness speaks for a device that works.
    fn vouch(&self, word: u16, byte: u8) -> Result<(), Fault> {
        let (zero, ones) = match self.kind {
            Family::Jc42 | Family::Spd5118 | Family::Tmp75 | Family::Lm75 => (word == 0, word == 0xffff),
            Family::Sbtsi | Family::Tmp421 | Family::Pmbus => (byte == 0, byte == 0xff),
        };
        if zero {
            return Err(ALL_ZEROES);
        }
        if ones { Err(ALL_ONES) } else { Ok(()) }
    }

    fn identity(&mut self, word: u16) -> Result<(), Fault> {
        let [low, high] = word.to_le_bytes();
        match self.kind {
            // A PCI-SIG vendor id. Which ones there are is not a closed list.
            Family::Jc42 => {
                fit(word != 0x0000 && word != 0xffff, "no manufacturer's id: it is no JC42.4 sensor")?;
                self.step = Step::Ability;
            }
            Family::Spd5118 => {
                if (low, high) == (0x51, 0x08) {
                    return Err(Fault::NoSensor("it is an SPD5108: that has no temperature sensor"));
                }
                fit((low, high) == (0x51, 0x18), "its device type is not that of an SPD5118")?;
                self.step = Step::Ability;
            }
            Family::Tmp421 => {
                fit(low == 0x55, "its manufacturer's id is not Texas Instruments': it is no TMP421")?;
                self.step = Step::Model;
            }
            Family::Sbtsi | Family::Tmp75 | Family::Lm75 | Family::Pmbus => self.step = self.kind.begin(),
        }
        Ok(())
    }

    /// Only a TMP421 has models that differ: in how many remote sensors they have.
    fn model(&mut self, byte: u8) -> Result<(), Fault> {
        let remote = match byte {
            0x21 | 0x41 => 1,
            0x22 | 0x42 => 2,
            0x23 => 3,
            _ => return Err(Fault::Unfit("its device id is none of the TMP421 family")),
        };
        fit(self.channel <= remote, "this model of the TMP421 family does not have that channel")?;
        self.step = Step::Ability;
        Ok(())
    }

    fn ability(&mut self, word: u16, byte: u8) -> Result<(), Fault> {
        match self.kind {
            // Bits 15-8 are reserved and 0.
            Family::Jc42 => {
                fit(
                    word.swap_bytes() & 0xff00 == 0,
                    "its capability register is not that of a JC42.4 sensor",
                )?;
            }
            // MR5 bit 1: it has a temperature sensor. Bits 7-2 are reserved and 0.
            Family::Spd5118 => {
                fit(byte & 0xfc == 0, "its capability register is not that of an SPD5118")?;
                if byte & 0x02 == 0 {
                    return Err(Fault::NoSensor("this SPD5118 has no temperature sensor"));
                }
            }
            // Configuration 2: bit 3 the local sensor, bits 4-6 the remote ones.
            Family::Tmp421 => {
                fit(byte & (0x08 << (self.channel & 0x03)) != 0, "this channel is switched off")?;
            }
            Family::Sbtsi | Family::Tmp75 | Family::Lm75 | Family::Pmbus => {}
        }
        self.step = Step::Configuration;
        Ok(())
    }

    fn configuration(&mut self, word: u16, byte: u8) -> Result<(), Fault> {
        const OFF: &str = "its sensor is switched off";
        match self.kind {
            // Bit 8: shutdown. Bits 15-11 are reserved and 0.
            Family::Jc42 => {
                let bits = word.swap_bytes();
                fit(bits & 0xf800 == 0, "its configuration register is not that of a JC42.4 sensor")?;
                fit(bits & 0x0100 == 0, OFF)?;
            }
            // MR26 bit 0: sensor disabled. TMP75 and LM75 bit 0: shutdown.
            Family::Spd5118 | Family::Tmp75 | Family::Lm75 => fit(byte & 0x01 == 0, OFF)?,
            // Bit 6: stopped. Bit 5: the eighths are to be read first. Bit 2: extended range.
            Family::Sbtsi => {
                fit(byte & 0x40 == 0, OFF)?;
                self.part_first = byte & 0x20 != 0;
                self.extended = byte & 0x04 != 0;
            }
            // Configuration 1, bit 6: shutdown. Bit 2: extended range.
            Family::Tmp421 => {
                fit(byte & 0x40 == 0, OFF)?;
                self.extended = byte & 0x04 != 0;
            }
            Family::Pmbus => {}
        }
        self.trusted = RECHECK;
        self.step = Step::First;
        Ok(())
    }

    fn first(&mut self, word: u16, byte: u8) -> Result<Option<Celsius>, Fault> {
        if matches!(self.kind, Family::Jc42 | Family::Spd5118 | Family::Tmp75 | Family::Lm75 | Family::Pmbus)
            && self.is_doubtful(word == 0)
        {
            return Ok(None);
        }
        let degrees = match self.kind {
            Family::Sbtsi | Family::Tmp421 => {
                self.half = byte;
                self.step = Step::Second;
                return Ok(None);
            }
            // Each would be a believable -0.06 to -0.5 degrees. None is one: in the first the flags say too hot and too
            // cold at once, in the second reserved bits are set, in the third those that are always 0, and a PMBus
            // device answers so to a command that it does not have.
            Family::Jc42 | Family::Spd5118 | Family::Tmp75 | Family::Lm75 | Family::Pmbus
                if word == 0xffff =>
            {
                return Err(ALL_ONES);
            }
            Family::Jc42 => reading::jc42(word),
            Family::Spd5118 => reading::spd5118(word),
            Family::Tmp75 => reading::tmp75(word),
            Family::Lm75 => reading::lm75(word),
            Family::Pmbus => reading::linear11(word),
        };
        Celsius::plausible(degrees).map(Some)
    }

    fn second(&mut self, byte: u8) -> Result<Option<Celsius>, Fault> {
        if self.is_doubtful(self.half == 0 && byte == 0) {
            return Ok(None);
        }
        let degrees = match (self.kind, self.part_first) {
            (Family::Sbtsi, false) => reading::sbtsi(self.half, byte, self.extended),
            (Family::Sbtsi, true) => reading::sbtsi(byte, self.half, self.extended),
            // The low byte, bit 1: the supply was too low. Bit 0, of the remote ones: the diode is open.
            (Family::Tmp421, _) => {
                fit(byte & 0x02 == 0, "its supply voltage is too low to measure")?;
                fit(byte & 0x01 == 0, "its remote diode is not connected")?;
                reading::tmp421(self.half, byte, self.extended)
            }
            (Family::Jc42 | Family::Spd5118 | Family::Tmp75 | Family::Lm75 | Family::Pmbus, _) => {
                return Err(Fault::Implausible);
            }
        };
        Celsius::plausible(degrees).map(Some)
    }
}

fn fit(is: bool, unless: &'static str) -> Result<(), Fault> {
    if is { Ok(()) } else { Err(Fault::Unfit(unless)) }
}

#[cfg(test)]
mod tests;
