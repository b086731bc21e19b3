//! Waits that end.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Result, failed};

/// The longest that a wait takes for what comes at once on a machine at rest. Far longer than it needs: a
/// deadline only ends what hangs, and a loaded machine must not fail a sound program.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until `look` finds something: at first after a tenth of a millisecond, later every five.
///
/// # Errors
///
/// `WHAT: not within N s`, when it has found nothing after `patience`.
pub fn eventually<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed() > patience {
            return failed(format!("{what}: not within {} s", patience.as_secs_f64()));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}
