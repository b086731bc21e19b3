//! Knows whether a program runs, for those who wait for it to answer.

use std::time::Duration;

use crate::capture::Capture;
use crate::proc;

/// Of one program.
#[derive(Clone)]
pub struct Watch {
    pub(crate) pid: u32,
    pub(crate) stderr: Capture,
    pub(crate) patience: Duration,
}

impl Watch {
    /// What it left on stderr, if it has ended.
    pub fn ended(&self) -> Option<String> {
        // Z: ended, and nobody has asked how.
        match proc::state(self.pid) {
            None | Some('Z') => Some(self.stderr.at_end(self.patience)),
            Some(_) => None,
        }
    }
}
