// SPDX-License-Identifier: Apache-2.0
//! Boots that are judged only where this machine let the board run.
//!
//! A board is faster than life, so that a machine that keeps one of its threads waiting for a tenth of a second keeps it waiting
//! for half a minute of the board's: sensors are not read in time and fail, as they should, and signals come too late. That says
//! nothing of the daemon. It is told apart by what the kernel counts ([`crate::clock::Lateness`]), and then the same boots are
//! performed again at half the speed. On a machine that has time, the first word stands.

use crate::{
    Result,
    board::Board,
    setup::{Setup, Way},
    tally::Tally,
    timeline::print,
    truth::REACTION,
};

/// How often boots are performed again at most. What is wrong then is wrong.
const AGAIN: usize = 3;

/// Performs these boots and gives the counts.
pub async fn perform(setup: &Setup, ways: &[Way]) -> Result<Tally> {
    let mut setup = setup.clone();
    for _ in 0..AGAIN {
        let tally = once(setup.clone(), ways).await?;
        if !is_unfair(&tally, &setup) {
            return Ok(tally);
        }
        print(&format!(
            "   (not judged: {}; but this machine kept the board waiting for up to {} ms. Once more, at half the speed)",
            tally.complaints(setup.gate).join("; "),
            tally.lateness.as_millis()
        ));
        let speed = setup.speed.div_ceil(2);
        setup = setup.at_speed(speed);
    }
    once(setup, ways).await
}

/// Something is wrong, and the machine was later than the board's bounds in real time allow.
fn is_unfair(tally: &Tally, setup: &Setup) -> bool {
    tally.lateness > REACTION && !tally.complaints(setup.gate).is_empty()
}

async fn once(setup: Setup, ways: &[Way]) -> Result<Tally> {
    let mut board = Board::start(setup).await?;
    for way in ways {
        board.boot(*way).await?;
    }
    board.finish().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::Firmware, plan::X86};

    #[test]
    fn a_fault_is_excused_only_where_the_machine_was_late() {
        let setup = Setup::new(Firmware::F, X86, 350);
        let bad = Tally {
            boots: 1,
            reached_os: 1,
            gate_opens: 1,
            transfers_while_closed: 1,
            bmc_transfers_open: 9,
            ..Tally::default()
        };
        assert!(!is_unfair(&bad, &setup), "on a machine that has time it is the daemon");
        let late = Tally { lateness: REACTION * 2, ..bad };
        assert!(is_unfair(&late, &setup));
        assert!(!is_unfair(&Tally { transfers_while_closed: 0, ..late }, &setup), "nothing is wrong");
    }

    #[test]
    fn half_as_fast_has_twice_the_time_for_each_reading() {
        let setup = Setup::new(Firmware::F, X86, 350);
        let slower = setup.clone().at_speed(175);
        assert_eq!((slower.speed, slower.poll / slower.speed), (175, setup.poll / setup.speed));
        assert_eq!(setup.at_speed(1).poll, std::time::Duration::from_secs(1));
    }
}
