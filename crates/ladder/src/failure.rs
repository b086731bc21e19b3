//! How a subcommand ends when it does not end well: a sentence, and the exit code that goes with it.

use std::fmt;
use std::io::{self, Write};

/// Why a subcommand stopped. Every message is a sentence with a next step.
#[derive(Debug)]
pub enum Failure {
    /// Something did not hold or could not be done: exit code 1.
    Failed(String),
    /// The command line makes no sense: exit code 2.
    Usage(String),
}

/// What a step of the tool returns.
pub type Result<T> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(message) | Failure::Usage(message) => out.write_str(message),
        }
    }
}

impl From<harness::Error> for Failure {
    fn from(error: harness::Error) -> Self {
        // The command line below it names places on this machine.
        Failure::Failed(error.sentence().to_string())
    }
}

/// A failure with exit code 1.
pub fn failed<T>(message: impl Into<String>) -> Result<T> {
    Err(Failure::Failed(message.into()))
}

/// A failure with exit code 2.
pub fn usage<T>(message: impl Into<String>) -> Result<T> {
    Err(Failure::Usage(message.into()))
}

/// Says what was being done when an I/O error came.
pub trait Context<T> {
    /// Turns the error into "could not ACTION: ERROR".
    fn context(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::Failed(format!("could not {}: {error}", action())))
    }
}

/// Writes to standard output. A closed pipe (`cargo ladder list | head -1`) is the reader's choice, not an
/// error, so what cannot be written is dropped.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line to standard error; a closed standard error is no reason to stop either.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
