//! What a check finds.

use std::io;

use serde::{Deserialize, Serialize};

/// Whether a requirement holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It does.
    Holds,
    /// It does not.
    Fails {
        /// What shows it: the bytes, the output, the command.
        evidence: String,
    },
    /// It was not asked.
    NotAsked {
        /// Why, with a next step if there is one.
        why: String,
    },
}

/// Why a check ended early. `?` on it ends a check.
#[derive(Clone, Debug)]
pub(crate) enum Unmet {
    Fails(String),
    NotAsked(String),
}

/// Says what was going on when a step of a check failed.
pub(crate) trait Context<T> {
    /// With a line behind the evidence.
    fn context(self, line: impl AsRef<str>) -> Result<T, Unmet>;
}

impl<T, E: Into<Unmet>> Context<T> for Result<T, E> {
    fn context(self, line: impl AsRef<str>) -> Result<T, Unmet> {
        self.map_err(|error| match error.into() {
            Unmet::Fails(evidence) => Unmet::Fails(format!("{evidence}\n  {}", line.as_ref())),
            not_asked => not_asked,
        })
    }
}

impl From<harness::Error> for Unmet {
    fn from(error: harness::Error) -> Self {
        match error {
            harness::Error::Failed(evidence) => Self::Fails(evidence),
            harness::Error::Unavailable(why) => Self::NotAsked(why),
        }
    }
}

impl From<io::Error> for Unmet {
    fn from(error: io::Error) -> Self {
        Self::Fails(format!("the check itself met an error: {error}"))
    }
}

impl From<Result<(), Unmet>> for Verdict {
    fn from(result: Result<(), Unmet>) -> Self {
        match result {
            Ok(()) => Self::Holds,
            Err(Unmet::Fails(evidence)) => Self::Fails { evidence: shorten(evidence) },
            Err(Unmet::NotAsked(why)) => Self::NotAsked { why },
        }
    }
}

/// Fails with what `evidence` says unless `condition`.
pub(crate) fn ensure(condition: bool, evidence: impl FnOnce() -> String) -> Result<(), Unmet> {
    if condition { Ok(()) } else { Err(Unmet::Fails(evidence())) }
}

/// Fails.
pub(crate) fn fails<T>(evidence: impl Into<String>) -> Result<T, Unmet> {
    Err(Unmet::Fails(evidence.into()))
}

/// Ends the check without an answer.
pub(crate) fn not_asked<T>(why: impl Into<String>) -> Result<T, Unmet> {
    Err(Unmet::NotAsked(why.into()))
}

/// Evidence is to be read: of pages of output the beginning and the end say enough.
fn shorten(evidence: String) -> String {
    const ENOUGH: usize = 4000;
    if evidence.chars().count() <= ENOUGH {
        return evidence;
    }
    let start: String = evidence.chars().take(ENOUGH / 2).collect();
    let end: Vec<char> = evidence.chars().rev().take(ENOUGH / 2).collect();
    let end: String = end.into_iter().rev().collect();
    format!("{start} [...] {end}")
}
