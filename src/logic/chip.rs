// SPDX-License-Identifier: Apache-2.0
//! What to read from each kind of device, one register at a time: who it is, whether its sensor is on, and then how
//! warm it is.
//!
//! Owns: the register numbers and their order. Must never: talk to a device, or have a register that is written.
//! One permit covers one register read, and the gate may close between any two; a chip that was interrupted is told
//! to [`forget`](Chip::forget).

use super::reading::{self, ALL_ONES, Celsius, Fault};
use crate::config::Device;

/// One SMBus read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read Byte Data from this register.
    Byte(u8),
    /// Read Word Data from this register: the first byte on the wire is the low one.
    Word(u8),
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

/// One device that is read register by register.
#[derive(Clone, Debug)]
pub struct Chip {
    kind: Kind,
    channel: u8,
    /// What comes next.
    step: Step,
    /// Readings until the configuration is looked at again.
    trusted: u8,
    /// What the configuration register said of the number format.
    extended: bool,
    /// The same of the order in which the halves are to be read.
    part_first: bool,
    /// The first half of a value of two bytes.
    half: u8,
}

/// The devices that are read register by register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Jc42,
    Spd5118,
    Sbtsi,
    Tmp75,
    Lm75,
    Tmp421,
    Pmbus,
}

/// What is read. Not every device has every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Who it is.
    Identity,
    /// What of it.
    Model,
    /// What it can do, or which of its channels are on.
    Ability,
    /// Whether it measures, and in which format.
    Configuration,
    /// The temperature, or the half of it that is read first.
    First,
    /// The other half.
    Second,
}

impl Kind {
    /// Where identification begins. What has no register for it is only asked whether it is on.
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
            Device::Jc42 => Kind::Jc42,
            Device::Spd5118 => Kind::Spd5118,
            Device::Sbtsi => Kind::Sbtsi,
            Device::Tmp75 => Kind::Tmp75,
            Device::Lm75 => Kind::Lm75,
            Device::Tmp421 => Kind::Tmp421,
            Device::Pmbus => Kind::Pmbus,
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
        })
    }

    /// Forgets who it is: after a fault, and after the host was off, when it may be another one.
    pub fn forget(&mut self) {
        self.step = self.kind.begin();
        self.trusted = 0;
    }

    /// The next register to read.
    #[must_use]
    pub fn next(&self) -> Access {
        match self.kind {
            // JESD 21-C 4.1.6 (TSE2004av): all registers have 16 bits, high byte first. 0x06 manufacturer, 0x00
            // capability, 0x01 configuration, 0x05 temperature.
            Kind::Jc42 => match self.step {
                Step::Identity => Access::Word(0x06),
                Step::Model | Step::Ability => Access::Word(0x00),
                Step::Configuration => Access::Word(0x01),
                Step::First | Step::Second => Access::Word(0x05),
            },
            // JESD300-5: MR0-MR1 device type, MR5 capability, MR26 sensor configuration, MR49-MR50 temperature. The
            // register address counts on within a read, so two registers are one word: it is one transfer, that no
            // other master can come between, and one permit; of two byte reads the value could change in between,
            // and be wrong by 16 degrees. Never MR11, the page, and nothing with bit 7, the memory behind the hub.
            Kind::Spd5118 => match self.step {
                Step::Identity | Step::Model => Access::Word(0x00),
                Step::Ability => Access::Byte(0x05),
                Step::Configuration => Access::Byte(0x1a),
                Step::First | Step::Second => Access::Word(0x31),
            },
            // AMD 40821: it knows byte reads only. 0x03 configuration, 0x01 whole degrees, 0x10 eighths. Reading one
            // holds the other, in the order that the configuration says.
            Kind::Sbtsi => match (self.step, self.part_first) {
                (Step::Identity | Step::Model | Step::Ability | Step::Configuration, _) => Access::Byte(0x03),
                (Step::First, false) | (Step::Second, true) => Access::Byte(0x01),
                (Step::First, true) | (Step::Second, false) => Access::Byte(0x10),
            },
            // SBOS288 and SNOS808: 0x00 temperature, 16 bits, high byte first; 0x01 configuration, 8 bits.
            Kind::Tmp75 | Kind::Lm75 => match self.step {
                Step::Identity | Step::Model | Step::Ability | Step::Configuration => Access::Byte(0x01),
                Step::First | Step::Second => Access::Word(0x00),
            },
            // SBOS398, table 3. The low byte is of the conversion whose high byte was read just before.
            Kind::Tmp421 => match self.step {
                Step::Identity => Access::Byte(0xfe),
                Step::Model => Access::Byte(0xff),
                Step::Ability => Access::Byte(0x0a),
                Step::Configuration => Access::Byte(0x09),
                Step::First => Access::Byte(self.channel & 0x03),
                Step::Second => Access::Byte(0x10 | (self.channel & 0x03)),
            },
            // PMBus specification part II: READ_TEMPERATURE_1 0x8D to READ_TEMPERATURE_3 0x8F.
            Kind::Pmbus => Access::Word(0x8c + self.channel.clamp(1, 3)),
        }
    }

    /// Takes in what was read at [`next`](Self::next); of a byte the upper eight bits do not count.
    pub fn take(&mut self, value: u16) -> Progress {
        match self.digest(value) {
            Ok(None) => Progress::More,
            Ok(Some(celsius)) => {
                self.trusted = self.trusted.saturating_sub(1);
                let recheck = self.trusted == 0 && self.kind != Kind::Pmbus;
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
            Kind::Tmp421 => Step::Ability,
            Kind::Jc42 | Kind::Spd5118 | Kind::Sbtsi | Kind::Tmp75 | Kind::Lm75 | Kind::Pmbus => {
                Step::Configuration
            }
        }
    }

    fn digest(&mut self, word: u16) -> Result<Option<Celsius>, Fault> {
        let [byte, _] = word.to_le_bytes();
        match self.step {
            Step::Identity => self.identity(word)?,
            Step::Model => self.model(byte)?,
            Step::Ability => self.ability(word, byte)?,
            Step::Configuration => self.configuration(word, byte)?,
            Step::First => return self.first(word, byte),
            Step::Second => return self.second(byte).map(Some),
        }
        Ok(None)
    }

    fn identity(&mut self, word: u16) -> Result<(), Fault> {
        let [low, high] = word.to_le_bytes();
        match self.kind {
            // A PCI-SIG vendor id. Which ones there are is not a closed list.
            Kind::Jc42 => {
                fit(word != 0x0000 && word != 0xffff, "no manufacturer's id: it is no JC42.4 sensor")?;
                self.step = Step::Ability;
            }
            Kind::Spd5118 => {
                fit((low, high) != (0x51, 0x08), "it is an SPD5108: that has no temperature sensor")?;
                fit((low, high) == (0x51, 0x18), "its device type is not that of an SPD5118")?;
                self.step = Step::Ability;
            }
            Kind::Tmp421 => {
                fit(low == 0x55, "its manufacturer's id is not Texas Instruments': it is no TMP421")?;
                self.step = Step::Model;
            }
            Kind::Sbtsi | Kind::Tmp75 | Kind::Lm75 | Kind::Pmbus => self.step = self.kind.begin(),
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
            Kind::Jc42 => {
                fit(
                    word.swap_bytes() & 0xff00 == 0,
                    "its capability register is not that of a JC42.4 sensor",
                )?;
            }
            // MR5 bit 1: it has a temperature sensor. Bits 7-2 are reserved and 0.
            Kind::Spd5118 => {
                fit(byte & 0xfc == 0, "its capability register is not that of an SPD5118")?;
                fit(byte & 0x02 != 0, "this SPD5118 has no temperature sensor")?;
            }
            // Configuration 2: bit 3 the local sensor, bits 4-6 the remote ones.
            Kind::Tmp421 => {
                fit(byte & (0x08 << (self.channel & 0x03)) != 0, "this channel is switched off")?;
            }
            Kind::Sbtsi | Kind::Tmp75 | Kind::Lm75 | Kind::Pmbus => {}
        }
        self.step = Step::Configuration;
        Ok(())
    }

    fn configuration(&mut self, word: u16, byte: u8) -> Result<(), Fault> {
        const OFF: &str = "its sensor is switched off";
        match self.kind {
            // Bit 8: shutdown. Bits 15-11 are reserved and 0.
            Kind::Jc42 => {
                let bits = word.swap_bytes();
                fit(bits & 0xf800 == 0, "its configuration register is not that of a JC42.4 sensor")?;
                fit(bits & 0x0100 == 0, OFF)?;
            }
            // MR26 bit 0: sensor disabled.
            Kind::Spd5118 => fit(byte & 0x01 == 0, OFF)?,
            // Bit 6: stopped. Bit 5: the eighths are to be read first. Bit 2: extended range.
            Kind::Sbtsi => {
                fit(byte & 0x40 == 0, OFF)?;
                self.part_first = byte & 0x20 != 0;
                self.extended = byte & 0x04 != 0;
            }
            // Bit 0: shutdown.
            Kind::Tmp75 | Kind::Lm75 => fit(byte & 0x01 == 0, OFF)?,
            // Configuration 1, bit 6: shutdown. Bit 2: extended range.
            Kind::Tmp421 => {
                fit(byte & 0x40 == 0, OFF)?;
                self.extended = byte & 0x04 != 0;
            }
            Kind::Pmbus => {}
        }
        self.trusted = RECHECK;
        self.step = Step::First;
        Ok(())
    }

    fn first(&mut self, word: u16, byte: u8) -> Result<Option<Celsius>, Fault> {
        let degrees = match self.kind {
            Kind::Sbtsi | Kind::Tmp421 => {
                self.half = byte;
                self.step = Step::Second;
                return Ok(None);
            }
            // Each would be a believable -0.06 to -0.5 degrees. None is one: in the first the flags say too hot and too
            // cold at once, in the second reserved bits are set, in the third those that are always 0, and a PMBus
            // device answers so to a command that it does not have.
            Kind::Jc42 | Kind::Spd5118 | Kind::Tmp75 | Kind::Lm75 | Kind::Pmbus if word == 0xffff => {
                return Err(ALL_ONES);
            }
            Kind::Jc42 => reading::jc42(word),
            Kind::Spd5118 => reading::spd5118(word),
            Kind::Tmp75 => reading::tmp75(word),
            Kind::Lm75 => reading::lm75(word),
            Kind::Pmbus => reading::linear11(word),
        };
        Celsius::plausible(degrees).map(Some)
    }

    fn second(&self, byte: u8) -> Result<Celsius, Fault> {
        let degrees = match (self.kind, self.part_first) {
            (Kind::Sbtsi, false) => reading::sbtsi(self.half, byte, self.extended),
            (Kind::Sbtsi, true) => reading::sbtsi(byte, self.half, self.extended),
            // The low byte, bit 1: the supply was too low. Bit 0, of the remote ones: the diode is open.
            (Kind::Tmp421, _) => {
                fit(byte & 0x02 == 0, "its supply voltage is too low to measure")?;
                fit(byte & 0x01 == 0, "its remote diode is not connected")?;
                reading::tmp421(self.half, byte, self.extended)
            }
            (Kind::Jc42 | Kind::Spd5118 | Kind::Tmp75 | Kind::Lm75 | Kind::Pmbus, _) => {
                return Err(Fault::Implausible);
            }
        };
        Celsius::plausible(degrees)
    }
}

fn fit(is: bool, unless: &'static str) -> Result<(), Fault> {
    if is { Ok(()) } else { Err(Fault::Unfit(unless)) }
}
