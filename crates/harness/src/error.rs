//! Why something was not done or did not come to pass: a sentence.

use std::fmt;

/// What ends a wait, a start or a look early. Each user makes its own of it: a verdict, an exit code, a panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// It did not come to pass, or could not be done: what, and what the program said to it.
    Failed(String),
    /// This machine cannot do it: something is not installed or not permitted, with the next step.
    Unavailable(String),
}

/// What a step under observation returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What happened, without the lines that say what was going on.
    pub fn sentence(&self) -> &str {
        let (Error::Failed(text) | Error::Unavailable(text)) = self;
        text.split('\n').next().unwrap_or_default()
    }

    /// With a line behind it that says what was going on.
    pub fn context(self, line: &str) -> Self {
        match self {
            Error::Failed(sentence) => Error::Failed(format!("{sentence}\n  {line}")),
            unavailable => unavailable,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Error::Failed(sentence) | Error::Unavailable(sentence)) = self;
        out.write_str(sentence)
    }
}

impl std::error::Error for Error {}

/// Fails with that sentence.
pub(crate) fn failed<T>(sentence: impl Into<String>) -> Result<T> {
    Err(Error::Failed(sentence.into()))
}

/// Says what was being done when an error of the system came.
pub(crate) trait Context<T> {
    /// Turns the error into "cannot ACTION: ERROR".
    fn context(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Failed(format!("cannot {}: {error}", action())))
    }
}
