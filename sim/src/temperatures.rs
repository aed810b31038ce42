// SPDX-License-Identifier: Apache-2.0
//! The part of the show that is about the DIMM temperatures: DDR4 and DDR5, hot, absent, garbage, and a bus that hangs.

use std::time::Duration;

use crate::{
    Error, Result,
    board::Board,
    dimm::Manner,
    host::{Firmware, Report},
    pid_inputs::Input,
    plan,
    setup::{Setup, Way},
    tally::Tally,
    timeline::{Detail, Who},
};

/// Slow enough to watch sensors that are read once a second.
pub const SPEED: u32 = 30;
const SOON: Duration = Duration::from_secs(20);

/// Performs it on a board of its own.
pub async fn show(detail: Detail) -> Result<Tally> {
    let setup = Setup { detail, broken: true, ..Setup::new(Firmware::F, plan::X86, SPEED) };
    let mut board = Board::start(setup).await?;
    let [ddr4, ddr5] = board.buses() else { return Err(Error::from("the board has two buses")) };
    let (ddr4, ddr5) = (ddr4.clone(), ddr5.clone());
    let (Some(hot), Some(hangs), Some(absent)) =
        (ddr4.dimms().first(), ddr4.dimms().get(1), ddr4.dimms().get(3))
    else {
        return Err(Error::from("a bus has four DIMMs"));
    };
    let (Some(well), Some(garbage)) = (ddr5.dimms().first(), ddr5.dimms().get(3)) else {
        return Err(Error::from("a bus has four DIMMs"));
    };
    let tell = |board: &Board, what: &str| board.timeline().row(Who::Sensors, what);

    absent.behave(Manner::Absent);
    garbage.behave(Manner::Garbage);
    well.set_temperature(52);
    tell(&board, "the host is off; A0 to A3 are DDR4 (JC42), B0 to B3 DDR5 (SPD5118)");
    shown(&board);
    tell(&board, "slot A3 is empty; what answers in slot B3 is no SPD5118");
    board.boot(Way::PowerOn).await?;
    reaches(&mut board, "DIMM_TEMP_B0", "is read", |input| input.value > 51.0).await;
    reaches(&mut board, "DIMM_TEMP_A0", "is read", |input| input.value > 39.0).await;
    shown(&board);

    hot.set_temperature(97);
    reaches(&mut board, "DIMM_TEMP_A0", "gets hot: a critical alarm", |input| input.critical).await;
    hot.set_temperature(60);
    reaches(&mut board, "DIMM_TEMP_A0", "has cooled down", |input| !input.critical).await;

    hangs.behave(Manner::Hangs);
    tell(&board, "A1 holds its bus: the transfer does not end");
    let failed = |input: Input| input.available && !input.functional;
    reaches(&mut board, "DIMM_TEMP_A1", "has failed, which fan control must see", failed).await;
    well.set_temperature(55);
    reaches(&mut board, "DIMM_TEMP_B0", "is still right: the other bus is not held up", |input| {
        input.value > 54.0
    })
    .await;
    shown(&board);
    let answer = board.reset_and_report().await;
    tell(
        &board,
        &format!("the host reports S2 and is answered after {} ms: ack_cap is 250", answer.took.as_millis()),
    );
    if answer.took > Duration::from_millis(400) {
        board.fault("a bus that hangs held a host up");
    }
    reaches(&mut board, "DIMM_TEMP_B0", "goes away with the gate, and without a failsafe", |input| {
        !input.available
    })
    .await;
    shown(&board);
    hangs.behave(Manner::Well);
    board.host().report(Report::S0).await;
    reaches(&mut board, "DIMM_TEMP_A1", "is read again", |input| input.value > 39.0).await;
    shown(&board);
    board.finish().await
}

/// Waits until fan control has seen that.
async fn reaches(board: &mut Board, name: &str, what: &str, condition: impl Fn(Input) -> bool) {
    if board.fan_control().wait(name, SOON, condition).await {
        board.timeline().row(Who::Sensors, &format!("{name} {what}"));
    } else {
        board.fault(&format!("{name} never {what}"));
    }
}

/// What fan control sees of all sensors.
fn shown(board: &Board) {
    let inputs = board.fan_control().inputs();
    let row = |letter: &str| {
        let of_bus = inputs.iter().filter(|(name, _)| name.contains(letter));
        let each = of_bus.map(|(name, input)| {
            let slot = name.rsplit('_').next().unwrap_or_default();
            let value = match (input.available, input.functional) {
                (false, _) => "-".to_owned(),
                (true, false) => "failed".to_owned(),
                (true, true) => format!("{:.1}", input.value),
            };
            format!("{slot} {value}")
        });
        each.collect::<Vec<_>>().join("  ")
    };
    board.timeline().row(Who::Sensors, &format!("{}   {}", row("_A"), row("_B")));
}
