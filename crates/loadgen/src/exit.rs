//! How the program ends: its exit codes, and the errors that stand for one of their own.

/// Done.
pub const EXIT_OK: u8 = 0;
/// It failed while starting or running.
pub const EXIT_FAILURE: u8 = 1;
/// Wrong usage.
pub const EXIT_USAGE: u8 = 2;
/// The objective was violated.
pub const EXIT_SLO: u8 = 3;
/// The generator was the limit, or the measurement is invalid; wins over [`EXIT_SLO`].
pub const EXIT_INVALID: u8 = 4;
/// A signal ended it; partial results were printed.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Flags that do not fit together, which no parser of single flags can see: [`EXIT_USAGE`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUsage(pub String);

/// What the generator itself could not do before it had measured anything: [`EXIT_INVALID`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OwnFailure(pub String);
