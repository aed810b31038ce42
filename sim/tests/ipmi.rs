// SPDX-License-Identifier: Apache-2.0
//! Recorded requests of real hosts through the ipmid double, which has its own table of the states.
#![allow(missing_docs, clippy::expect_used, reason = "a test that cannot go on says so and fails")]

mod common;

use acpi_sim::{
    board::Board,
    host::Firmware,
    ipmid::{GET_ACPI_POWER_STATE, INTERFACE, Ipmid, SET_ACPI_POWER_STATE, cc},
    mapper,
    plan::X86,
    private_bus::PrivateBus,
};
use common::{run, setup};
use tokio::task::JoinSet;

/// Data bytes, completion code, then `SysACPIStatus` and `DevACPIStatus`, and what Get answers.
type Row = ([u8; 2], u8, &'static str, &'static str, [u8; 2]);

const ROWS: [Row; 14] = [
    ([0x80, 0x80], cc::OK, "S0_G0_D0", "S0_G0_D0", [0x00, 0x00]),
    ([0x82, 0x82], cc::OK, "S2_D2", "S2_D2", [0x02, 0x02]),
    ([0x85, 0x83], cc::OK, "S5_G2", "S3_D3", [0x05, 0x03]),
    ([0x86, 0x83], cc::OK, "S4_S5", "S3_D3", [0x06, 0x03]),
    // 7Fh is "no change".
    ([0xff, 0xff], cc::OK, "S4_S5", "S3_D3", [0x06, 0x03]),
    // Without bit 7 nothing is set.
    ([0x7f, 0x7f], cc::OK, "S4_S5", "S3_D3", [0x06, 0x03]),
    ([0x00, 0x00], cc::OK, "S4_S5", "S3_D3", [0x06, 0x03]),
    // A system byte that does not exist: the device is left alone.
    ([0x8b, 0x80], cc::OUT_OF_RANGE, "S4_S5", "S3_D3", [0x06, 0x03]),
    ([0xa0, 0x80], cc::OK, "LEGACY_ON", "S0_G0_D0", [0x20, 0x00]),
    ([0xa1, 0x80], cc::OK, "LEGACY_OFF", "S0_G0_D0", [0x21, 0x00]),
    ([0xaa, 0xaa], cc::OK, "Unknown", "Unknown", [0x2a, 0x2a]),
    // A device byte that does not exist: the system is set before it is looked at.
    ([0x82, 0x84], cc::OUT_OF_RANGE, "S2_D2", "Unknown", [0x02, 0x2a]),
    ([0x00, 0x83], cc::OK, "S2_D2", "S3_D3", [0x02, 0x03]),
    ([0x85, 0x00], cc::OK, "S5_G2", "S3_D3", [0x05, 0x03]),
];

#[test]
fn recorded_requests_are_answered_and_stored() {
    run(async {
        let board = Board::start(setup(Firmware::F, X86)).await.expect("a board");
        let ipmid = board.ipmid();
        for (data, code, system, device, get) in ROWS {
            let [first, second] = data;
            let response = ipmid.request(&[SET_ACPI_POWER_STATE, first, second]).await;
            assert_eq!(response, [code], "{data:02x?}");
            for (property, expected) in [("SysACPIStatus", system), ("DevACPIStatus", device)] {
                let value = board.observer().get(INTERFACE, property).await.expect("a value");
                let value = value.downcast_ref::<&str>().expect("a string");
                assert_eq!(value, format!("{INTERFACE}.ACPI.{expected}"), "{property} after {data:02x?}");
            }
            let [system, device] = get;
            assert_eq!(ipmid.request(&[GET_ACPI_POWER_STATE]).await, [cc::OK, system, device]);
        }
        board.finish().await.expect("the daemon ends well");
    });
}

#[test]
fn every_state_can_be_set_and_got() {
    run(async {
        let board = Board::start(setup(Firmware::F, X86)).await.expect("a board");
        for byte in 0x80..=0xff_u8 {
            let code = byte & 0x7f;
            let valid = matches!(code, 0x00..=0x0a | 0x20 | 0x21 | 0x2a);
            let response = board.ipmid().request(&[SET_ACPI_POWER_STATE, byte, 0x00]).await;
            if code == 0x7f || valid {
                assert_eq!(response, [cc::OK], "{byte:02x}");
            } else {
                assert_eq!(response, [cc::OUT_OF_RANGE], "{byte:02x}");
            }
            if valid {
                let got = board.ipmid().request(&[GET_ACPI_POWER_STATE]).await;
                assert_eq!(got.get(..2), Some([cc::OK, code].as_slice()), "{byte:02x}");
            }
        }
        board.finish().await.expect("the daemon ends well");
    });
}

#[test]
fn without_the_daemon_the_host_is_told_so() {
    run(async {
        let bus = PrivateBus::start().expect("a bus");
        let mut tasks = JoinSet::new();
        mapper::start(bus.address(), &mut tasks).await.expect("a mapper");
        let ipmid = Ipmid::start(bus.address()).await.expect("an ipmid");
        for (request, response) in [
            (&[SET_ACPI_POWER_STATE, 0x82, 0x82][..], cc::UNSPECIFIED),
            (&[SET_ACPI_POWER_STATE, 0xff, 0x00][..], cc::OK),
            (&[SET_ACPI_POWER_STATE, 0x8b, 0x80][..], cc::OUT_OF_RANGE),
            (&[SET_ACPI_POWER_STATE, 0x82][..], cc::LENGTH),
            (&[GET_ACPI_POWER_STATE][..], cc::UNSPECIFIED),
            (&[GET_ACPI_POWER_STATE, 0][..], cc::LENGTH),
            (&[0x01][..], cc::INVALID_COMMAND),
        ] {
            assert_eq!(ipmid.request(request).await, [response], "{request:02x?}");
        }
    });
}
