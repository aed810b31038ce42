// SPDX-License-Identifier: Apache-2.0
//! The outside view of a machine: its Tracker, and the lines and entries of its diagnoses.

use std::time::Duration;

use crate::{
    logic::{diagnosis::Diagnosis, machine::Machine, policy, view::View},
    shell::{
        clock::Wall,
        messages::{LogLine, Output},
        permits::HostIndex,
    },
};

/// For each diagnosis that was raised or cleared a line, and what the event log is told.
pub(crate) fn report(
    host: HostIndex,
    machine: &Machine,
    before: &[Diagnosis],
    now: &[Diagnosis],
) -> Vec<Output> {
    let id = machine.id();
    let mut told = Vec::new();
    for diagnosis in now.iter().filter(|diagnosis| !before.contains(diagnosis)).copied() {
        let (name, advice, evidence) =
            (diagnosis.name(), diagnosis.advice(), policy::evidence(machine, diagnosis));
        let text = evidence.text();
        told.push(Output::Line(LogLine::new(move || {
            tracing::warn!(
                message_id = diagnosis.message_id(),
                host = id,
                diagnosis = name,
                evidence = text,
                "host{id}: {name}: {advice} ({text})"
            );
        })));
        let raised = Some(Box::new((machine.history().boots(), evidence)));
        told.push(Output::Diagnosis { host, diagnosis, raised });
    }
    for diagnosis in before.iter().filter(|diagnosis| !now.contains(diagnosis)).copied() {
        let (name, evidence) = (diagnosis.name(), policy::evidence(machine, diagnosis).text());
        told.push(Output::Line(LogLine::new(move || {
            tracing::info!(
                message_id = diagnosis.message_id(),
                host = id,
                diagnosis = name,
                evidence,
                "host{id}: {name} is over"
            );
        })));
        told.push(Output::Diagnosis { host, diagnosis, raised: None });
    }
    told
}

/// Returns the view that the Tracker shows of a machine.
pub(crate) fn view(machine: &Machine, wall: &Wall) -> View {
    let us = |d: Option<Duration>| d.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    View {
        cause: machine.cause(),
        since: wall.of(machine.since()),
        previous: machine.previous(),
        gate_reasons: machine.gate_reasons(),
        diagnoses: policy::diagnoses(machine),
        boots: machine.history().boots(),
        firmware_time: us(machine.history().firmware_time()),
        boot_time: us(machine.history().boot_time()),
    }
}
