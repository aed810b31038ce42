// SPDX-License-Identifier: Apache-2.0
//! The uids of callers, asked of the bus once per unique name.
//!
//! A bus never gives out a unique name twice in its life, so an entry cannot go stale; the bound only
//! limits memory.

use std::collections::VecDeque;

const MOST: usize = 64;

#[derive(Default)]
pub struct Callers(VecDeque<(String, Option<u32>)>);

impl Callers {
    /// `None`: not asked yet. `Some(None)`: the bus did not say, so the caller may do nothing.
    pub fn uid(&self, name: &str) -> Option<Option<u32>> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, uid)| *uid)
    }

    pub fn remember(&mut self, name: String, uid: Option<u32>) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((name, uid));
    }
}
