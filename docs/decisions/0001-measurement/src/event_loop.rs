// SPDX-License-Identifier: Apache-2.0
//! The one owner of the state. Takes inputs, pushes effects, never awaits anything but its input.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::contract::{Acpi, Change, Property};

/// `I` names the call to be answered; the loop only carries it.
pub struct Input<I> {
    pub change: Change,
    pub id: I,
}

pub enum Effect<I> {
    Publish(Change),
    Answer(I),
}

pub async fn run<I>(mut inputs: UnboundedReceiver<Input<I>>, outbox: UnboundedSender<Effect<I>>) {
    let (mut sys, mut dev) = (Acpi::UNKNOWN, Acpi::UNKNOWN);
    while let Some(Input { change, id }) = inputs.recv().await {
        let slot = match change.property {
            Property::Sys => &mut sys,
            Property::Dev => &mut dev,
        };
        if *slot != change.value {
            *slot = change.value;
            if outbox.send(Effect::Publish(change)).is_err() {
                return;
            }
        }
        if outbox.send(Effect::Answer(id)).is_err() {
            return;
        }
    }
}
