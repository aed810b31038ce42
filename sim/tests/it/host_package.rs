// SPDX-License-Identifier: Apache-2.0
//! What the package for the host says, byte for byte (`host/messages.txt`, which `tests/it/host_package.rs` records from its units), is
//! played from the host's side: through ipmid to the daemon. The host's firmware says nothing, and nothing of its POST is trusted.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use acpi_sim::{
    board::Board,
    clock::{secs, sleep},
    host::Firmware,
    ipmid::cc,
    observer::TRACKER,
    plan::X86,
    setup::Setup,
};
use acpi_stated::shell::clock::Clock;

use crate::common::{SPEED, run, setup};

const PATIENCE: Duration = Duration::from_secs(10);
/// From a power signal to the OS: longer than anything that a report could come too early for.
const POST: Duration = secs(60);

/// The request of this name in `host/messages.txt`: command and data, as a KCS interface has them after the network function.
fn message(name: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/messages.txt");
    let file = std::fs::read_to_string(file).expect("host/messages.txt");
    let line = file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" raw 0x06 "));
    let bytes = line.unwrap_or_else(|| panic!("host/messages.txt has no {name} of NetFn 06h")).split(' ');
    bytes
        .map(|byte| u8::from_str_radix(byte.trim_start_matches("0x"), 16).expect("a byte in hexadecimal"))
        .collect()
}

/// The host's side.
struct Agent<'a>(&'a Board);

impl Agent<'_> {
    async fn says(&self, state: &str) {
        assert_eq!(self.0.ipmid().request(&message(state)).await, [cc::OK], "{state}");
    }

    /// The two bytes of a Get.
    async fn gets(&self) -> Vec<u8> {
        let mut response = self.0.ipmid().request(&message("Get")).await;
        assert_eq!(response.remove(0), cc::OK);
        response
    }

    /// What the package's check goes by: S0 is told again if this is not 00h.
    async fn until_it_gets(&self, bytes: [u8; 2]) {
        let begin = Instant::now();
        while self.gets().await != bytes {
            assert!(begin.elapsed() < PATIENCE, "{:02x?}, not {bytes:02x?}", self.gets().await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn shows(&self, state: &str, cause: &str) {
        assert_eq!(self.0.observer().get_state().await.as_deref(), Some(state));
        let shown = self.0.observer().get(TRACKER, "Cause").await.expect("a cause");
        let shown = shown.downcast_ref::<&str>().expect("a string").to_owned();
        assert!(shown == cause || shown.ends_with(&format!(".{cause}")), "{state}: {shown}, not {cause}");
    }

    async fn gate_open(&self) -> bool {
        let open = self.0.observer().get(TRACKER, "GateOpen").await.expect("a value");
        open.downcast_ref::<bool>().expect("a bool")
    }

    async fn until_the_gate_opens(&self) {
        let begin = Instant::now();
        while !self.gate_open().await {
            assert!(begin.elapsed() < PATIENCE, "the gate is closed");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[test]
fn a_host_whose_firmware_says_nothing_is_followed_through_its_boots() {
    run(async {
        // Of the board, the evidence of firmware M: nothing is trusted, and a power-on is S2.
        let setup = Setup { firmware: Firmware::N, ..setup(Firmware::M, X86) };
        let mut board = Board::start(setup).await.expect("a board");
        let post = async || sleep(Clock::scaled(SPEED), POST).await;
        Agent(&board).until_it_gets([0x05, 0x03]).await;

        board.power().power_on().await.expect("power");
        Agent(&board).until_it_gets([0x02, 0x02]).await;
        post().await;
        Agent(&board).says("S0").await;
        Agent(&board).shows("S0_G0_D0", "HostReport").await;
        Agent(&board).until_the_gate_opens().await;

        // The OS reboots. The BMC is quiet when the host has its answer, before anything shows that reset.
        Agent(&board).says("S2").await;
        assert!(!Agent(&board).gate_open().await, "it is answered with the gate open");
        Agent(&board).shows("S2_D2", "HostReport").await;
        let _shown = board.power().warm_reset().await.expect("a reset");
        post().await;
        assert!(!Agent(&board).gate_open().await, "it opened in POST");
        assert_eq!(Agent(&board).gets().await, [0x02, 0x02]);
        Agent(&board).says("S0").await;
        Agent(&board).until_the_gate_opens().await;

        // A kexec: nothing is said on the way down, and S0 again on the way up. It changes nothing.
        Agent(&board).says("S0").await;
        assert!(Agent(&board).gate_open().await, "a kexec closed the gate");
        assert_eq!(Agent(&board).gets().await, [0x00, 0x00]);
        let diagnoses = board.observer().get(TRACKER, "Diagnoses").await.expect("a value");
        assert_eq!(Vec::<String>::try_from(diagnoses).expect("strings"), [""; 0]);

        // The daemon restarts: the check finds nothing to tell.
        board.restart_daemon().await.expect("a daemon");
        Agent(&board).until_it_gets([0x00, 0x00]).await;
        Agent(&board).until_the_gate_opens().await;

        // A reset that the OS did not ask for, seen by the BMC: it says S2, and the check S0 when the OS is there again.
        let _shown = board.power().warm_reset().await.expect("a reset");
        Agent(&board).until_it_gets([0x02, 0x02]).await;
        Agent(&board).shows("S2_D2", "HostReset").await;
        post().await;
        Agent(&board).says("S0").await;
        Agent(&board).until_the_gate_opens().await;

        Agent(&board).says("S5").await;
        assert!(!Agent(&board).gate_open().await, "it is answered with the gate open");
        Agent(&board).shows("S5_G2", "HostReport").await;
        board.force_off().await.expect("off");
        Agent(&board).until_it_gets([0x05, 0x03]).await;
        board.finish().await.expect("the daemon ends well");
    });
}
