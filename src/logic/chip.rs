// SPDX-License-Identifier: Apache-2.0
//! What to read from each kind of device, one register at a time: who it is, whether its sensor is on, and then how
//! warm it is.
//!
//! Owns: the register numbers and their order. Must never: talk to a device, or have a register that is written.
//! One permit covers one register read, and the gate may close between any two; a chip that was interrupted is told
//! to [`forget`](Chip::forget).

use super::reading::{self, ALL_ONES, Celsius, Fault};
use crate::config::Device;

/// One `SMBus` read.
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
            // MR26 bit 0: sensor disabled. TMP75 and LM75 bit 0: shutdown.
            Kind::Spd5118 | Kind::Tmp75 | Kind::Lm75 => fit(byte & 0x01 == 0, OFF)?,
            // Bit 6: stopped. Bit 5: the eighths are to be read first. Bit 2: extended range.
            Kind::Sbtsi => {
                fit(byte & 0x40 == 0, OFF)?;
                self.part_first = byte & 0x20 != 0;
                self.extended = byte & 0x04 != 0;
            }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The registers of a device that is what it should be, as its datasheet has them at about 25 degrees.
    fn registers(device: Device) -> BTreeMap<u8, Vec<u8>> {
        let map: &[(u8, &[u8])] = match device {
            // TSE2004GB2B0: 0x00 capability, 0x01 configuration, 0x02-0x04 limits, 0x05 temperature, 0x06
            // manufacturer (IDT), 0x07 device and revision.
            Device::Jc42 => &[
                (0x00, &[0x00, 0xf7]),
                (0x01, &[0x00, 0x00]),
                (0x02, &[0x05, 0x50]),
                (0x03, &[0x00, 0x00]),
                (0x04, &[0x05, 0xf0]),
                (0x05, &[0xc1, 0x90]),
                (0x06, &[0x00, 0xb3]),
                (0x07, &[0x22, 0x14]),
            ],
            // JESD300-5: MR0-MR5 as a byte each, and as words from an even one; MR11, MR26, MR49-MR51.
            Device::Spd5118 => &[
                (0x00, &[0x51, 0x18]),
                (0x02, &[0x12, 0x80]),
                (0x04, &[0x9d]),
                (0x05, &[0x03]),
                (0x0b, &[0x00]),
                (0x1a, &[0x00]),
                (0x31, &[0x90, 0x01]),
                (0x33, &[0x00]),
            ],
            Device::Sbtsi => &[(0x01, &[0x19]), (0x02, &[0x00]), (0x03, &[0x00]), (0x10, &[0x20])],
            Device::Tmp75 => &[(0x00, &[0x19, 0x40]), (0x01, &[0x60])],
            Device::Lm75 => &[(0x00, &[0x19, 0x00]), (0x01, &[0x00])],
            // A TMP423.
            Device::Tmp421 => &[
                (0x00, &[0x19]),
                (0x01, &[0x1a]),
                (0x02, &[0x1b]),
                (0x03, &[0x1c]),
                (0x08, &[0x00]),
                (0x09, &[0x00]),
                (0x0a, &[0x7c]),
                (0x0b, &[0x07]),
                (0x10, &[0x40]),
                (0x11, &[0x40]),
                (0x12, &[0x40]),
                (0x13, &[0x40]),
                (0xfe, &[0x55]),
                (0xff, &[0x23]),
            ],
            Device::Pmbus => &[(0x8d, &[0x64, 0xf0]), (0x8e, &[0x68, 0xf0]), (0x8f, &[0x6c, 0xf0])],
            Device::Hwmon => &[],
        };
        map.iter().map(|(register, bytes)| (*register, bytes.to_vec())).collect()
    }

    /// As the bus gives it. A register that the device does not have is a mistake.
    fn answer(registers: &BTreeMap<u8, Vec<u8>>, access: Access) -> u16 {
        match access {
            Access::Byte(register) => registers[&register][0].into(),
            Access::Word(register) => u16::from_le_bytes(registers[&register][..].try_into().unwrap()),
        }
    }

    const DEVICES: [Device; 7] = [
        Device::Jc42,
        Device::Spd5118,
        Device::Sbtsi,
        Device::Tmp75,
        Device::Lm75,
        Device::Tmp421,
        Device::Pmbus,
    ];

    fn chip(device: Device, channel: u8) -> Chip {
        Chip::new(device, channel).unwrap()
    }

    /// Reads until there is a temperature or a fault; what was read, and what came of it.
    fn run(chip: &mut Chip, registers: &BTreeMap<u8, Vec<u8>>) -> (Vec<Access>, Result<f64, Fault>) {
        let mut accesses = Vec::new();
        while accesses.len() < 10 {
            let access = chip.next();
            accesses.push(access);
            match chip.take(answer(registers, access)) {
                Progress::More => {}
                Progress::Reading(celsius) => return (accesses, Ok(celsius.degrees())),
                Progress::Fault(fault) => return (accesses, Err(fault)),
            }
        }
        panic!("no end: {accesses:x?}");
    }

    use Access::{Byte, Word};

    #[test]
    fn each_device_is_identified_and_then_read() {
        /// Device, channel, what identifies it, what is read, degrees.
        type Row = (Device, u8, &'static [Access], &'static [Access], f64);
        let table: [Row; 13] = [
            (Device::Jc42, 0, &[Word(0x06), Word(0x00), Word(0x01)], &[Word(0x05)], 25.0),
            (Device::Spd5118, 0, &[Word(0x00), Byte(0x05), Byte(0x1a)], &[Word(0x31)], 25.0),
            (Device::Sbtsi, 0, &[Byte(0x03)], &[Byte(0x01), Byte(0x10)], 25.125),
            (Device::Tmp75, 0, &[Byte(0x01)], &[Word(0x00)], 25.25),
            (Device::Lm75, 0, &[Byte(0x01)], &[Word(0x00)], 25.0),
            (Device::Tmp421, 0, &TMP421, &[Byte(0x00), Byte(0x10)], 25.25),
            (Device::Tmp421, 1, &TMP421, &[Byte(0x01), Byte(0x11)], 26.25),
            (Device::Tmp421, 2, &TMP421, &[Byte(0x02), Byte(0x12)], 27.25),
            (Device::Tmp421, 3, &TMP421, &[Byte(0x03), Byte(0x13)], 28.25),
            (Device::Pmbus, 0, &[], &[Word(0x8d)], 25.0),
            (Device::Pmbus, 1, &[], &[Word(0x8d)], 25.0),
            (Device::Pmbus, 2, &[], &[Word(0x8e)], 26.0),
            (Device::Pmbus, 3, &[], &[Word(0x8f)], 27.0),
        ];
        for (device, channel, identify, read, degrees) in table {
            let registers = registers(device);
            let mut chip = chip(device, channel);
            let first = [identify, read].concat();
            assert_eq!(run(&mut chip, &registers), (first.clone(), Ok(degrees)), "{device:?} {channel}");
            assert_eq!(run(&mut chip, &registers), (read.to_vec(), Ok(degrees)), "{device:?} {channel}");
            chip.forget();
            assert_eq!(run(&mut chip, &registers), (first, Ok(degrees)), "{device:?} {channel}");
        }
    }

    const TMP421: [Access; 4] = [Byte(0xfe), Byte(0xff), Byte(0x0a), Byte(0x09)];

    #[test]
    fn a_file_is_no_chip() {
        assert!(Chip::new(Device::Hwmon, 1).is_none());
    }

    /// A device with one register changed is refused, for this reason, and identified anew at the next read.
    #[test]
    fn what_is_not_as_configured_or_switched_off_is_refused() {
        let table: [(Device, u8, u8, &[u8], &str); 26] = [
            (Device::Jc42, 0, 0x06, &[0x00, 0x00], "no manufacturer"),
            (Device::Jc42, 0, 0x06, &[0xff, 0xff], "no manufacturer"),
            (Device::Jc42, 0, 0x00, &[0x01, 0xf7], "capability"),
            (Device::Jc42, 0, 0x00, &[0xff, 0xff], "capability"),
            (Device::Jc42, 0, 0x01, &[0x08, 0x00], "configuration register"),
            (Device::Jc42, 0, 0x01, &[0x01, 0x00], "switched off"),
            (Device::Jc42, 0, 0x05, &[0xff, 0xff], "nothing but ones"),
            (Device::Spd5118, 0, 0x00, &[0x51, 0x08], "SPD5108"),
            (Device::Spd5118, 0, 0x00, &[0x18, 0x51], "device type"),
            (Device::Spd5118, 0, 0x00, &[0xff, 0xff], "device type"),
            (Device::Spd5118, 0, 0x05, &[0x01], "has no temperature sensor"),
            (Device::Spd5118, 0, 0x05, &[0xff], "capability"),
            (Device::Spd5118, 0, 0x1a, &[0x01], "switched off"),
            (Device::Spd5118, 0, 0x31, &[0xff, 0xff], "nothing but ones"),
            (Device::Sbtsi, 0, 0x03, &[0x40], "switched off"),
            (Device::Tmp75, 0, 0x01, &[0x61], "switched off"),
            (Device::Tmp75, 0, 0x00, &[0xff, 0xff], "nothing but ones"),
            (Device::Lm75, 0, 0x01, &[0x01], "switched off"),
            (Device::Tmp421, 0, 0xfe, &[0x54], "no TMP421"),
            (Device::Tmp421, 0, 0xff, &[0x24], "none of the TMP421 family"),
            (Device::Tmp421, 2, 0xff, &[0x21], "does not have that channel"),
            (Device::Tmp421, 3, 0xff, &[0x42], "does not have that channel"),
            (Device::Tmp421, 0, 0x09, &[0x40], "switched off"),
            (Device::Tmp421, 1, 0x11, &[0x41], "diode is not connected"),
            (Device::Tmp421, 0, 0x10, &[0x42], "supply voltage"),
            (Device::Pmbus, 2, 0x8e, &[0xff, 0xff], "nothing but ones"),
        ];
        for (device, channel, register, bytes, why) in table {
            let mut registers = registers(device);
            let right = registers.insert(register, bytes.to_vec()).expect("a register of the device");
            let mut chip = chip(device, channel);
            let begin = chip.next();
            for _ in 0..2 {
                let (accesses, result) = run(&mut chip, &registers);
                let Err(Fault::Unfit(because)) = result else {
                    panic!("{device:?} {register:#x}: {result:?}")
                };
                assert!(because.contains(why), "{device:?} {register:#x}: {because}");
                assert_eq!(accesses[0], begin);
            }
            registers.insert(register, right);
            assert!(run(&mut chip, &registers).1.is_ok(), "{device:?} {register:#x}");
        }
    }

    #[test]
    fn every_channel_of_a_tmp421_can_be_off_by_itself() {
        let mut registers = registers(Device::Tmp421);
        for (channel, bit) in [(0, 0x08), (1, 0x10), (2, 0x20), (3, 0x40)] {
            registers.insert(0x0a, vec![0x7c & !bit]);
            for other in 0..4 {
                let result = run(&mut chip(Device::Tmp421, other), &registers).1;
                assert_eq!(result.is_err(), other == channel, "{channel} {other}: {result:?}");
            }
        }
    }

    #[test]
    fn implausible_is_a_fault_and_begins_anew() {
        let table: [(Device, u8, &[u8]); 7] = [
            (Device::Jc42, 0x05, &[0x07, 0xe0]),
            (Device::Spd5118, 0x31, &[0xf0, 0x07]),
            (Device::Sbtsi, 0x01, &[0x7e]),
            (Device::Tmp75, 0x00, &[0xc9, 0x00]),
            (Device::Lm75, 0x00, &[0xc9, 0x00]),
            (Device::Tmp421, 0x00, &[0x7e]),
            (Device::Pmbus, 0x8d, &[0xff, 0x7b]),
        ];
        for (device, register, bytes) in table {
            let mut registers = registers(device);
            registers.insert(register, bytes.to_vec());
            let mut chip = chip(device, 0);
            let begin = chip.next();
            assert_eq!(run(&mut chip, &registers).1, Err(Fault::Implausible), "{device:?}");
            assert_eq!(chip.next(), begin, "{device:?}");
        }
    }

    /// The configuration says in which order and from where to count.
    #[test]
    fn formats_that_the_device_chooses() {
        let mut sbtsi = registers(Device::Sbtsi);
        sbtsi.insert(0x03, vec![0x24]);
        let (accesses, result) = run(&mut chip(Device::Sbtsi, 0), &sbtsi);
        assert_eq!(accesses, [Byte(0x03), Byte(0x10), Byte(0x01)]);
        assert_eq!(result, Ok(25.125 - 49.0));
        sbtsi.insert(0x03, vec![0x04]);
        assert_eq!(run(&mut chip(Device::Sbtsi, 0), &sbtsi).1, Ok(25.125 - 49.0));

        let mut tmp421 = registers(Device::Tmp421);
        tmp421.insert(0x09, vec![0x04]);
        assert_eq!(run(&mut chip(Device::Tmp421, 0), &tmp421).1, Ok(25.25 - 64.0));
    }

    /// Switched off while it was read, as by the host's own driver at suspend: it is noticed, and not published for ever.
    #[test]
    fn a_sensor_that_is_switched_off_later_is_noticed() {
        for (device, register, bytes) in [
            (Device::Jc42, 0x01, &[0x01, 0x00][..]),
            (Device::Spd5118, 0x1a, &[0x01]),
            (Device::Sbtsi, 0x03, &[0x40]),
            (Device::Tmp75, 0x01, &[0x01]),
            (Device::Lm75, 0x01, &[0x01]),
            (Device::Tmp421, 0x09, &[0x40]),
            (Device::Tmp421, 0x0a, &[0x74]),
        ] {
            let mut registers = registers(device);
            let mut chip = chip(device, 0);
            run(&mut chip, &registers).1.unwrap();
            registers.insert(register, bytes.to_vec());
            let faults = (0..RECHECK).filter(|_| run(&mut chip, &registers).1.is_err()).count();
            assert!(faults > 0, "{device:?}");
        }
    }

    /// A look at the configuration does not come more often than it should.
    #[test]
    fn most_reads_are_of_the_temperature_alone() {
        for device in DEVICES {
            let registers = registers(device);
            let mut chip = chip(device, 0);
            run(&mut chip, &registers).1.unwrap();
            let read = if matches!(device, Device::Sbtsi | Device::Tmp421) { 2 } else { 1 };
            let accesses: usize =
                (0..3 * u16::from(RECHECK)).map(|_| run(&mut chip, &registers).0.len()).sum();
            let looks = accesses - 3 * usize::from(RECHECK) * read;
            assert!(looks <= 6, "{device:?}: {looks}");
        }
    }

    /// Each state that a device can be in, once: before every register of identification, reading and recheck.
    fn every_state(device: Device, channel: u8) -> Vec<Chip> {
        let mut registers = registers(device);
        let mut states = Vec::new();
        for variant in [0x00, 0x04, 0x20, 0x24] {
            match device {
                Device::Sbtsi => registers.insert(0x03, vec![variant]),
                Device::Tmp421 => registers.insert(0x09, vec![variant & 0x04]),
                Device::Jc42
                | Device::Spd5118
                | Device::Tmp75
                | Device::Lm75
                | Device::Pmbus
                | Device::Hwmon => None,
            };
            let mut chip = chip(device, channel);
            for _ in 0..80 {
                states.push(chip.clone());
                chip.take(answer(&registers, chip.next()));
            }
        }
        states.sort_by_key(|chip| format!("{chip:?}"));
        states.dedup_by_key(|chip| format!("{chip:?}"));
        states
    }

    /// Registers that are no business of ours: the page of an SPD5118, and its memory.
    fn assert_allowed(device: Device, chip: &Chip) {
        if device == Device::Spd5118 {
            let (Byte(register) | Word(register)) = chip.next();
            assert!(register < 0x80 && register != 0x0b, "{chip:?}");
            // A word reaches one further.
            assert!(!matches!(chip.next(), Word(0x0a | 0x7f)), "{chip:?}");
        }
    }

    #[test]
    fn every_value_in_every_state_is_answered() {
        for (device, channel) in
            DEVICES.map(|device| (device, 0)).into_iter().chain([(Device::Tmp421, 3), (Device::Pmbus, 2)])
        {
            for state in every_state(device, channel) {
                // Where a byte is read, the upper eight bits may be anything too.
                for value in 0..=u16::MAX {
                    let mut chip = state.clone();
                    match chip.take(value) {
                        Progress::Reading(celsius) => {
                            assert!((-40.0..=125.0).contains(&celsius.degrees()), "{state:?} {value:#x}");
                        }
                        Progress::Fault(fault) => {
                            assert!(
                                matches!(fault, Fault::Unfit(_) | Fault::Implausible),
                                "{state:?} {value:#x}"
                            );
                        }
                        Progress::More => {}
                    }
                    assert_allowed(device, &chip);
                }
            }
        }
    }

    proptest! {
        /// Whatever a device answers, and whenever it is forgotten: it comes to an end, and reads what it may.
        #[test]
        fn any_answers(device in prop::sample::select(&DEVICES[..]), channel: u8,
                       answers in prop::collection::vec((any::<u16>(), prop::bool::weighted(0.05)), 0..200)) {
            let mut chip = chip(device, channel);
            let mut without_end = 0;
            for (value, forget) in answers {
                assert_allowed(device, &chip);
                if forget {
                    chip.forget();
                    without_end = 0;
                }
                without_end = if chip.take(value) == Progress::More { without_end + 1 } else { 0 };
                prop_assert!(without_end < 6);
            }
        }
    }
}
