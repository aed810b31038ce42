// SPDX-License-Identifier: Apache-2.0
//! Which uid stands behind a unique name: asked of the bus once, and remembered (design 3.9).

use std::collections::VecDeque;

/// How many callers are remembered; the bound is for memory only.
const MOST: usize = 64;

/// The callers that are remembered, the one heard of last at the back.
#[derive(Debug, Default)]
pub(crate) struct Callers(VecDeque<(String, Option<u32>)>);

impl Callers {
    /// `None` if it was not asked for yet, `Some(None)` if the bus did not say.
    pub(crate) fn uid(&self, name: &str) -> Option<Option<u32>> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, uid)| *uid)
    }

    /// Remembers a caller; the one that had to go for it.
    pub(crate) fn remember(&mut self, name: String, uid: Option<u32>) -> Option<String> {
        let gone = if self.0.len() == MOST { self.0.pop_front() } else { None };
        self.0.push_back((name, uid));
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
        assert_eq!(callers.uid(":1.0"), None);
        for i in 0..MOST {
            assert_eq!(callers.remember(format!(":1.{i}"), Some(7)), None);
        }
        assert_eq!(callers.remember(":1.999".to_owned(), None), Some(":1.0".to_owned()));
        assert_eq!(callers.uid(":1.0"), None);
        assert_eq!(callers.uid(":1.1"), Some(Some(7)));
        assert_eq!(callers.uid(":1.999"), Some(None));
        assert!(callers.forget(":1.1"));
        assert!(!callers.forget(":1.1"));
        assert_eq!(callers.uid(":1.1"), None);
    }
}
