// SPDX-License-Identifier: Apache-2.0
//! The problems of a configuration, as they are reported to a person.

use std::{fmt, path::PathBuf};

use super::json::Json;

/// A problem: a thing that is wrong, or that gives a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key's path, as `hosts[0].timing.settle`; or line and column; empty: the whole file.
    pub at: String,
    /// The value that stands there, if it matters.
    pub found: Option<String>,
    /// The fault.
    pub wrong: String,
    /// The correction.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        if let Some(found) = &self.found {
            write!(f, "{found}: ")?;
        }
        write!(f, "{}; {}", self.wrong, self.remedy)
    }
}

/// A configuration that cannot be used, and everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Refused {
    /// Returns a line for each problem.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(|problem| format!("{}: {problem}", self.file.display()))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.lines().collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Refused {}

/// Reads a whole file. Where it is not JSON, line and column say where.
pub(crate) fn parse(text: &[u8]) -> Result<Json, Problem> {
    serde_json::from_slice(text).map_err(|error| {
        let position = format!(" at line {} column {}", error.line(), error.column());
        let message = error.to_string();
        let wrong = message.strip_suffix(&position).unwrap_or(&message);
        Problem {
            at: format!("line {}, column {}", error.line(), error.column()),
            found: None,
            wrong: format!("this is not JSON: {wrong}"),
            remedy: "correct the text there, or just before".to_owned(),
        }
    })
}

/// The problems of one configuration while it is looked at.
#[derive(Debug, Default)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    pub(crate) fn add(&mut self, at: &str, wrong: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Problem { at: at.to_owned(), found: None, wrong: wrong.into(), remedy: remedy.into() });
    }

    /// Something is wrong there already: what follows from it is not worth telling.
    pub(crate) fn told(&self, at: &str) -> bool {
        self.0.iter().any(|problem| problem.at == at)
    }

    /// Adds a problem: a thing that must be there is missing.
    pub(crate) fn missing(&mut self, at: &str, wrong: &str, remedy: impl Into<String>) {
        if !self.told(at) {
            self.add(at, wrong, remedy);
        }
    }

    pub(crate) fn found(
        &mut self,
        at: &str,
        found: &Json,
        wrong: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let found = Some(found.shortened());
        self.0.push(Problem { at: at.to_owned(), found, wrong: wrong.into(), remedy: remedy.into() });
    }
}
