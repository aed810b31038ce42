// SPDX-License-Identifier: Apache-2.0
//! Orders to systemd and to the boot progress: what was last sent, so that the same is not sent twice (rules 3.6).

use crate::logic::effect::{BootStage, Target, UnitOrder, UnitRow};

/// The last orders.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Orders {
    row: Option<UnitRow>,
    stage: Option<BootStage>,
}

impl Orders {
    /// The row is another than the one last ordered.
    pub(super) fn differ(self, row: Option<UnitRow>) -> bool {
        row != self.row
    }

    /// The order for that row; none if it leaves the units as they are.
    pub(super) fn follow(&mut self, row: Option<UnitRow>) -> Option<UnitOrder> {
        let row = row?;
        self.row = Some(row);
        Some(match row {
            UnitRow::Active(target) => UnitOrder::Start(target),
            UnitRow::NoneActive => UnitOrder::StopAll,
        })
    }

    /// S2 once more.
    pub(super) fn restart_post(&mut self) -> UnitOrder {
        self.row = Some(UnitRow::Active(Target::S2));
        UnitOrder::Restart(Target::S2)
    }

    /// The stage, if it is a new one.
    pub(super) fn enter(&mut self, stage: Option<BootStage>) -> Option<BootStage> {
        let stage = stage?;
        (self.stage.replace(stage) != Some(stage)).then_some(stage)
    }

    /// All of it, for the search through all reachable states.
    #[cfg(test)]
    pub(super) fn key(self) -> (Option<UnitRow>, Option<BootStage>) {
        (self.row, self.stage)
    }
}
