// SPDX-License-Identifier: Apache-2.0
//! Recorded requests of real hosts through the ipmid double, which has its own table of the states.

use std::time::{Duration, Instant};

use crate::common::{run, setup};
use acpi_sim::{
    board::Board,
    host::Firmware,
    ipmid::{GET_ACPI_POWER_STATE, INTERFACE, Ipmid, SET_ACPI_POWER_STATE, cc},
    mapper,
    objects::{NoMethods, Objects, connect},
    observer::TRACKER,
    plan::X86,
    private_bus::PrivateBus,
    setup::Way,
};
use tokio::task::JoinSet;

const OBJECT: &str = "/xyz/openbmc_project/control/host0/acpi_power_state";
const PATIENCE: Duration = Duration::from_secs(10);

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

/// A state that is inferred says its device too, so that the two bytes of the answer fit. Firmware M reports no S2.
#[test]
fn an_inferred_state_is_answered_with_its_device() {
    run(async {
        let mut board = Board::start(setup(Firmware::M, X86)).await.expect("a board");
        let get = async |board: &Board| board.ipmid().request(&[GET_ACPI_POWER_STATE]).await;
        let is = async |board: &Board, system: u8, device: u8| {
            let begin = Instant::now();
            while get(board).await != [cc::OK, system, device] {
                assert!(
                    begin.elapsed() < PATIENCE,
                    "{:02x?}, not {system:02x} {device:02x}",
                    get(board).await
                );
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        // Found off at the start.
        is(&board, 0x05, 0x03).await;
        board.boot(Way::PowerOn).await.expect("a boot");
        let response = board.ipmid().request(&[SET_ACPI_POWER_STATE, 0x80, 0x80]).await;
        assert_eq!(response, [cc::OK]);
        is(&board, 0x00, 0x00).await;
        // Reset with its power on; nobody reports anything.
        let _shown = board.power().warm_reset().await.expect("a reset");
        is(&board, 0x02, 0x02).await;
        board.force_off().await.expect("off");
        is(&board, 0x05, 0x03).await;
        board.finish().await.expect("the daemon ends well");
    });
}

/// Whoever serves the object under a name that sorts before ours gets the host's reports, and announces nothing. The daemon says so for
/// as long as it is there.
#[test]
fn a_rival_that_takes_the_hosts_reports_is_told_of_until_it_leaves() {
    run(async {
        let board = Board::start(setup(Firmware::F, X86)).await.expect("a board");
        let rival = async |there: bool| {
            let begin = Instant::now();
            loop {
                let diagnoses = board.observer().get(TRACKER, "Diagnoses").await.expect("a value");
                let diagnoses = Vec::<String>::try_from(diagnoses).expect("strings");
                if diagnoses.iter().any(|diagnosis| diagnosis == "RivalOwner") == there {
                    return;
                }
                assert!(begin.elapsed() < PATIENCE, "{diagnoses:?}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        rival(false).await;
        let mut tasks = JoinSet::new();
        let objects = Objects::new(connect(board.address()).await.expect("the bus"), None);
        for property in ["SysACPIStatus", "DevACPIStatus"] {
            let unknown = format!("{INTERFACE}.ACPI.Unknown");
            objects.add(OBJECT, INTERFACE, property, unknown, true).expect("a property");
        }
        objects.serve(NoMethods, &mut tasks);
        let name = "xyz.openbmc_project.Control.A";
        objects.connection().request_name(name).await.expect("the name is free");
        rival(true).await;
        assert_eq!(board.ipmid().request(&[SET_ACPI_POWER_STATE, 0x82, 0x82]).await, [cc::OK]);
        let its = objects.string(OBJECT, INTERFACE, "SysACPIStatus").expect("a value");
        assert!(its.ends_with(".S2_D2"), "ipmid has set it there: {its}");
        objects.connection().release_name(name).await.expect("the bus");
        rival(false).await;
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
