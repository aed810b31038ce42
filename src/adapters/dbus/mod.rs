// SPDX-License-Identifier: Apache-2.0
//! D-Bus: the one task on the bus, our objects there, and how others are talked with.
//!
//! | file | answers |
//! |---|---|
//! | [`socket`] | which messages of the bus are read at all |
//! | [`bus`] | in which order everything comes and goes |
//! | `trust`, `callers` | whose word counts |
//! | `dispatch`, `object`, `tree` | what our objects answer |
//! | `signal` | what a signal says, decoded once for all peers |
//! | `peer`, `calls` | what every conversation with another daemon has: questions, patience; the calls to the bus driver and the mapper |
//! | `known_properties` | the value of a property at a known path, whoever serves it |
//! | `discovered_objects` | which objects carry an interface, and their properties |

pub mod bus;
mod callers;
pub(crate) mod calls;
pub(crate) mod discovered_objects;
mod dispatch;
#[cfg(test)]
pub(crate) mod doubles;
pub(crate) mod known_properties;
pub(crate) mod names;
pub(crate) mod object;
mod owner;
pub(crate) mod peer;
pub(crate) mod signal;
pub mod socket;
pub(crate) mod sub_tree;
pub(crate) mod tree;
pub(crate) mod trust;
