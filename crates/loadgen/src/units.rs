//! Durations as people write them.

use std::str::FromStr;
use std::time::Duration;

use crate::clock::Nanos;

/// A duration as people write it (`200ms`, `3s`, `1m`), in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Nanos);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration: Duration = humantime::parse_duration(text)
            .map_err(|e| format!("{text:?} is not a duration ({e}): write 200ms, 3s, 1m or 2h"))?;
        // A year is longer than any run and short enough for every sum of such spans.
        if duration > Duration::from_secs(366 * 24 * 3600) {
            return Err(format!("{text:?} is too long: a year is the most"));
        }
        Ok(Self(duration.as_nanos() as Nanos))
    }
}

impl Span {
    /// The same, and more than none.
    ///
    /// # Errors
    /// A text that is no duration, or none.
    pub fn above_zero(text: &str) -> Result<Self, String> {
        let span: Self = text.parse()?;
        if span.0 == 0 { Err(format!("{text:?} is no longer than nothing: give more")) } else { Ok(span) }
    }

    /// For the standard library.
    pub fn duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// In seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }
}
