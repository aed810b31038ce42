// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

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
        // JESD300-5: MR0-MR1, MR2, MR3-MR4 (vendor), MR5, MR11, MR26, MR49-MR50, MR51.
        Device::Spd5118 => &[
            (0x00, &[0x51, 0x18]),
            (0x02, &[0x12]),
            (0x03, &[0x80, 0x9d]),
            (0x05, &[0x03]),
            (0x0b, &[0x00]),
            (0x1a, &[0x00]),
            (0x31, &[0x90, 0x01]),
            (0x33, &[0x00]),
        ],
        Device::Sbtsi => {
            &[(0x01, &[0x19]), (0x02, &[0x00]), (0x03, &[0x00]), (0x07, &[0x46]), (0x10, &[0x20])]
        }
        Device::Tmp75 => &[(0x00, &[0x19, 0x40]), (0x01, &[0x60]), (0x03, &[0x50, 0x00])],
        Device::Lm75 => &[(0x00, &[0x19, 0x00]), (0x01, &[0x00]), (0x03, &[0x50, 0x00])],
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
        Device::Pmbus => {
            &[(0x8d, &[0x64, 0xf0]), (0x8e, &[0x68, 0xf0]), (0x8f, &[0x6c, 0xf0]), (0x98, &[0x22])]
        }
        Device::Hwmon => &[],
    };
    map.iter().map(|(register, bytes)| (*register, bytes.to_vec())).collect()
}

/// As the bus gives it. A register that the device does not have is a mistake.
fn answer(registers: &BTreeMap<u8, Vec<u8>>, access: Access) -> u16 {
    match access {
        Access::Byte(register) => registers[&register][0].into(),
        Access::Word(register) => u16::from_le_bytes(registers[&register][..].try_into().unwrap()),
        Access::Page0 => panic!("it writes"),
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

/// All of them, and some of their channels.
fn with_channels() -> impl Iterator<Item = (Device, u8)> {
    let others = [(Device::Tmp421, 3), (Device::Pmbus, 2)];
    DEVICES.into_iter().map(|device| (device, 0)).chain(others)
}

fn chip(device: Device, channel: u8) -> Chip {
    Chip::new(device, channel).unwrap()
}

/// Reads until there is a temperature or a fault; what was read, and what came of it.
fn run(chip: &mut Chip, registers: &BTreeMap<u8, Vec<u8>>) -> (Vec<Access>, Result<f64, Fault>) {
    let mut accesses = Vec::new();
    while accesses.len() < 14 {
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
    let table: [(Device, u8, u8, &[u8], &str); 24] = [
        (Device::Jc42, 0, 0x06, &[0x00, 0x00], "no manufacturer"),
        (Device::Jc42, 0, 0x06, &[0xff, 0xff], "no manufacturer"),
        (Device::Jc42, 0, 0x00, &[0x01, 0xf7], "capability"),
        (Device::Jc42, 0, 0x00, &[0xff, 0xff], "capability"),
        (Device::Jc42, 0, 0x01, &[0x08, 0x00], "configuration register"),
        (Device::Jc42, 0, 0x01, &[0x01, 0x00], "switched off"),
        (Device::Jc42, 0, 0x05, &[0xff, 0xff], "nothing but ones"),
        (Device::Spd5118, 0, 0x00, &[0x18, 0x51], "device type"),
        (Device::Spd5118, 0, 0x00, &[0xff, 0xff], "device type"),
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
            let Err(Fault::Unfit(because)) = result else { panic!("{device:?} {register:#x}: {result:?}") };
            assert!(because.contains(why), "{device:?} {register:#x}: {because}");
            assert_eq!(accesses[0], begin);
        }
        registers.insert(register, right);
        assert!(run(&mut chip, &registers).1.is_ok(), "{device:?} {register:#x}");
    }
}

/// The hub is there, and fits, and there is nothing to read: as good as not there.
#[test]
fn a_hub_without_a_sensor_is_no_fault_of_it() {
    for (register, bytes) in [(0x00, &[0x51, 0x08][..]), (0x05, &[0x01])] {
        let mut registers = registers(Device::Spd5118);
        registers.insert(register, bytes.to_vec());
        let result = run(&mut chip(Device::Spd5118, 0), &registers).1;
        let Err(fault @ Fault::NoSensor(_)) = result else { panic!("{register:#x}: {result:?}") };
        assert!(!fault.is_of_a_device());
    }
}

/// Each of these chips takes nothing but zeroes for 0 degrees. A device that has lost its power, that somebody holds
/// in reset, or that is another altogether, is no cold one; nor is one that gives nothing but ones.
#[test]
fn a_dead_device_has_no_temperature() {
    for (device, channel) in with_channels() {
        for byte in [0x00, 0xff] {
            let alive = registers(device);
            let dead: BTreeMap<u8, Vec<u8>> =
                alive.iter().map(|(register, bytes)| (*register, vec![byte; bytes.len()])).collect();
            let mut fresh = chip(device, channel);
            let mut known = fresh.clone();
            run(&mut known, &alive).1.unwrap();
            for chip in [&mut fresh, &mut known] {
                for _ in 0..3 {
                    let result = run(chip, &dead).1;
                    let fault = result.expect_err("a temperature of nothing");
                    assert!(fault.is_of_a_device(), "{device:?} {channel} {byte:#x}: {fault:?}");
                }
            }
            // The device dies between any two registers of one reading.
            for lived in 0..6 {
                let mut chip = chip(device, channel);
                let mut left = lived;
                let end = loop {
                    let registers = if left > 0 { &alive } else { &dead };
                    left = left.max(1) - 1;
                    match chip.take(answer(registers, chip.next())) {
                        Progress::More => {}
                        end @ (Progress::Reading(_) | Progress::Fault(_)) => break end,
                    }
                };
                let cold = matches!(end, Progress::Reading(celsius) if celsius.degrees().abs() < 1.0);
                assert!(!cold, "{device:?} {channel} {byte:#x} after {lived}: {end:?}");
            }
        }
    }
}

/// A device that works, and is as cold as ice.
#[test]
fn a_real_0_degrees_is_shown() {
    for (device, channel) in with_channels() {
        let mut registers = registers(device);
        let zeroes: &[u8] = match device {
            Device::Jc42 => &[0x05],
            Device::Spd5118 => &[0x31],
            Device::Sbtsi => &[0x01, 0x10],
            Device::Tmp75 | Device::Lm75 => &[0x00],
            Device::Tmp421 => &[0x00, 0x01, 0x02, 0x03, 0x10, 0x11, 0x12, 0x13],
            Device::Pmbus => &[0x8d, 0x8e, 0x8f],
            Device::Hwmon => &[],
        };
        for register in zeroes {
            registers.get_mut(register).unwrap().fill(0);
        }
        let mut chip = chip(device, channel);
        for _ in 0..40 {
            assert_eq!(run(&mut chip, &registers).1, Ok(0.0), "{device:?} {channel}");
        }
    }
}

/// A hub that gives 0 in all its registers but MR11 while another page than 0 is selected, as those of Renesas do.
struct Hub {
    mr11: u8,
    registers: BTreeMap<u8, Vec<u8>>,
    /// Whether page 0 can be selected.
    obeys: bool,
    writes: usize,
}

impl Hub {
    fn new(mr11: u8) -> Self {
        Self { mr11, registers: registers(Device::Spd5118), obeys: true, writes: 0 }
    }

    fn answer(&mut self, access: Access) -> u16 {
        match access {
            Byte(0x0b) => self.mr11.into(),
            Byte(_) | Word(_) if self.mr11 & 0x07 != 0 => 0,
            Byte(_) | Word(_) => answer(&self.registers, access),
            Access::Page0 => {
                self.writes += 1;
                if self.obeys {
                    self.mr11 = 0;
                }
                0
            }
        }
    }

    fn run(&mut self, chip: &mut Chip) -> Result<f64, Fault> {
        for _ in 0..14 {
            match chip.take(self.answer(chip.next())) {
                Progress::More => {}
                Progress::Reading(celsius) => return Ok(celsius.degrees()),
                Progress::Fault(fault) => return Err(fault),
            }
        }
        panic!("no end");
    }
}

/// Selected before the first read, between two, and between any two registers.
#[test]
fn a_hub_behind_another_page_has_a_fault_of_its_own() {
    for page in 1..8 {
        let mut hub = Hub::new(page);
        let mut chip = chip(Device::Spd5118, 0);
        for _ in 0..3 {
            assert_eq!(hub.run(&mut chip), Err(Fault::Page(page)));
        }
        hub.mr11 = 0;
        assert_eq!(hub.run(&mut chip), Ok(25.0));
        hub.mr11 = page;
        for _ in 0..3 {
            assert_eq!(hub.run(&mut chip), Err(Fault::Page(page)));
        }
        hub.mr11 = 0;
        assert_eq!(hub.run(&mut chip), Ok(25.0));
        assert_eq!(hub.writes, 0);
    }
    for before in 0..4 {
        let (mut hub, mut chip) = (Hub::new(0), chip(Device::Spd5118, 0));
        for _ in 0..before {
            assert_eq!(chip.take(hub.answer(chip.next())), Progress::More);
        }
        hub.mr11 = 2;
        assert_eq!(hub.run(&mut chip), Err(Fault::Page(2)), "after {before} registers");
    }
    assert!(Fault::Page(2).is_of_a_device() && Fault::Page(2).to_string().contains("0x02"));
}

/// Nobody knows what a register is then.
#[test]
fn addresses_of_two_bytes_are_a_fault_too_and_not_ours_to_change() {
    let mut hub = Hub::new(0x08);
    hub.registers.insert(0x00, vec![0x00, 0x00]);
    assert_eq!(hub.run(&mut chip(Device::Spd5118, 0)), Err(Fault::Page(0x08)));
    assert_eq!(hub.run(&mut chip(Device::Spd5118, 0).selecting_page_0()), Err(Fault::Page(0x08)));
    assert_eq!(hub.writes, 0);
}

#[test]
fn page_0_is_selected_where_it_is_asked_for_and_read_back() {
    let mut hub = Hub::new(5);
    let mut chip = chip(Device::Spd5118, 0).selecting_page_0();
    assert_eq!(hub.run(&mut chip), Ok(25.0));
    assert_eq!(hub.run(&mut chip), Ok(25.0));
    assert_eq!(hub.writes, 1);
    hub.mr11 = 7;
    assert_eq!(hub.run(&mut chip), Ok(25.0), "and again");
    assert_eq!(hub.writes, 2);
    hub.mr11 = 7;
    hub.obeys = false;
    for writes in 3..5 {
        assert_eq!(hub.run(&mut chip), Err(Fault::Page(7)), "it is read back");
        assert_eq!(hub.writes, writes, "once in a reading");
    }
}

/// An EEPROM of a DDR4 DIMM, a hub that shows its registers on any page, and one that has more to say in MR11 than it
/// may: nothing is written to them.
#[test]
fn nothing_is_written_to_what_is_not_surely_such_a_hub() {
    for (register, bytes, mr11) in
        [(0x00, &[0x23, 0x11][..], 0x05), (0x03, &[0x80, 0x9d], 0x05), (0x03, &[0x00, 0x00], 0x15)]
    {
        let mut registers: BTreeMap<u8, Vec<u8>> = registers(Device::Spd5118);
        for bytes in registers.values_mut() {
            bytes.fill(0);
        }
        registers.insert(0x0b, vec![mr11]);
        registers.insert(register, bytes.to_vec());
        let mut chip = chip(Device::Spd5118, 0).selecting_page_0();
        // `answer` panics where it writes.
        assert_eq!(run(&mut chip, &registers).1, Err(Fault::Page(mr11)), "{register:#x}");
    }
}

/// No other device is ever written to.
#[test]
fn only_a_hub_has_a_page() {
    for (device, channel) in with_channels().filter(|(device, _)| *device != Device::Spd5118) {
        assert_eq!(chip(device, channel).selecting_page_0().selects, Selects::Never);
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
        let accesses: usize = (0..3 * u16::from(RECHECK)).map(|_| run(&mut chip, &registers).0.len()).sum();
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
            Device::Jc42 | Device::Spd5118 | Device::Tmp75 | Device::Lm75 | Device::Pmbus | Device::Hwmon => {
                None
            }
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

/// Asserts that the next transfer leaves alone the memory of an SPD5118, and its page where that is not asked for.
fn assert_allowed(device: Device, chip: &Chip) {
    match chip.next() {
        // A word reaches one further.
        Byte(register) => assert!(device != Device::Spd5118 || register < 0x80, "{chip:?}"),
        Word(register) => assert!(device != Device::Spd5118 || register < 0x7f, "{chip:?}"),
        Access::Page0 => assert_eq!(chip.selects, Selects::Once, "{chip:?}"),
    }
}

#[test]
fn every_value_in_every_state_is_answered() {
    for (device, channel) in with_channels() {
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
                            fault.is_of_a_device() || matches!(fault, Fault::NoSensor(_)),
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
    fn any_answers(device in prop::sample::select(&DEVICES[..]), channel: u8, selecting: bool,
                   answers in prop::collection::vec((any::<u16>(), prop::bool::weighted(0.05)), 0..200)) {
        let chip = chip(device, channel);
        let mut chip = if selecting { chip.selecting_page_0() } else { chip };
        let mut without_end = 0;
        for (value, forget) in answers {
            assert_allowed(device, &chip);
            if forget {
                chip.forget();
                without_end = 0;
            }
            without_end = if chip.take(value) == Progress::More { without_end + 1 } else { 0 };
            prop_assert!(without_end < 16);
        }
    }
}
