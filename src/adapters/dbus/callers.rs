// SPDX-License-Identifier: Apache-2.0
//! Which uid stands behind a unique name: asked of the bus once, and remembered (rules 3.9, note B1).

use std::collections::VecDeque;

/// How many callers are remembered; the bound is for memory only. An OpenBMC has some fifty services.
const MOST: usize = 128;

/// The answer of the bus about a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Caller {
    /// The caller has this uid.
    Uid(u32),
    /// The caller had left before the bus was asked.
    Gone,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Gone => f.write_str("who has left"),
        }
    }
}

/// The callers that are remembered, the one heard of last at the back.
#[derive(Debug, Default)]
pub(crate) struct Callers(VecDeque<(String, Caller)>);

impl Callers {
    /// `None` if the bus was not asked yet, or has not answered.
    pub(crate) fn get(&self, name: &str) -> Option<Caller> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, caller)| *caller)
    }

    /// Remembers a caller; the one that had to go for it.
    pub(crate) fn remember(&mut self, name: String, caller: Caller) -> Option<String> {
        let gone = if self.0.len() == MOST { self.0.pop_front() } else { None };
        self.0.push_back((name, caller));
        gone.map(|(name, _)| name)
    }

    /// The caller has left the bus. True if it was remembered.
    pub(crate) fn forget(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(known, _)| known != name);
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_dropped() {
        let mut callers = Callers::default();
        assert_eq!(callers.get(":1.0"), None);
        for i in 0..MOST {
            assert_eq!(callers.remember(format!(":1.{i}"), Caller::Uid(7)), None);
        }
        assert_eq!(callers.remember(":1.999".to_owned(), Caller::Gone), Some(":1.0".to_owned()));
        assert_eq!(callers.get(":1.0"), None);
        assert_eq!(callers.get(":1.1"), Some(Caller::Uid(7)));
        assert_eq!(callers.get(":1.999"), Some(Caller::Gone));
        assert!(callers.forget(":1.1"));
        assert!(!callers.forget(":1.1"));
        assert_eq!(callers.get(":1.1"), None);
    }
}
