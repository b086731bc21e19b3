//! The start times of requests that were made once: out of a CSV file or a web server's log.

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::Context as _;

use crate::clock::{Nanos, nanos};

/// How many times as fast as it was: `2x` or `0.5`.
///
/// # Errors
/// A text that is no such factor.
pub fn speed(text: &str) -> Result<f64, String> {
    match text.strip_suffix('x').unwrap_or(text).parse::<f64>() {
        Ok(factor) if (1e-3..=1e3).contains(&factor) => Ok(factor),
        _ => Err(format!("{text:?} is no speed: give 2x, 0.5x, or another factor from 0.001 to 1000")),
    }
}

/// The start times in the file `path`, in nanoseconds from the first of them, ascending, `speed` times as fast.
///
/// A line of a CSV file has a time in its first column: seconds, or `2030-01-31T12:00:00.5Z`; its first line may be a
/// header. A line of a log in the common format has it in brackets: `[31/Jan/2030:12:00:00 +0000]`.
///
/// # Errors
/// A file that cannot be read, a line without a time, or no line at all.
pub fn read(path: &Path, speed: f64) -> anyhow::Result<Arc<[Nanos]>> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let mut times = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match time(line) {
            Some(time) => times.push(time),
            // The header of a CSV file.
            None if number == 0 => {}
            None => anyhow::bail!(
                "line {} of {name} has no time: begin it with seconds or 2030-01-31T12:00:00Z, or give a log in the common format",
                number + 1
            ),
        }
    }
    // A log is written in the order of the ends.
    times.sort_unstable_by(f64::total_cmp);
    let first =
        *times.first().with_context(|| format!("{name} has no start time: give a line for each request"))?;
    Ok(times.iter().map(|time| nanos((time - first) / speed)).collect())
}

/// The time of a line, in seconds.
fn time(line: &str) -> Option<f64> {
    if let Some((_, rest)) = line.split_once('[')
        && let Some((bracketed, _)) = rest.split_once(']')
        && let Some(time) = common(bracketed)
    {
        return Some(time);
    }
    let cell = line.split(',').next()?.trim().trim_matches('"');
    let seconds = cell.parse::<f64>().ok().filter(|seconds| seconds.abs() < 1e12);
    seconds.or_else(|| {
        let at = humantime::parse_rfc3339_weak(cell).ok()?;
        Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
    })
}

/// `31/Jan/2030:12:00:00 +0130` as seconds since 1970.
fn common(text: &str) -> Option<f64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (date, zone) = text.split_once(' ')?;
    let mut parts = date.splitn(3, '/');
    let (day, month, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (year, clock) = rest.split_once(':')?;
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? + 1;
    let utc = humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{clock}Z")).ok()?;
    let (sign, zone) = zone.strip_prefix('-').map_or((1.0, zone.strip_prefix('+')?), |zone| (-1.0, zone));
    let (hours, minutes) = zone.split_at_checked(2)?;
    let east = sign * (hours.parse::<f64>().ok()? * 3600.0 + minutes.parse::<f64>().ok()? * 60.0);
    Some(utc.duration_since(UNIX_EPOCH).ok()?.as_secs_f64() - east)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_lines() {
        for (line, seconds) in [
            ("1.5,GET,/", Some(1.5)),
            ("\"2\"", Some(2.0)),
            ("1970-01-01T00:00:01.25Z,x", Some(1.25)),
            ("::1 - - [01/Jan/1970:00:00:10 +0000] \"GET / HTTP/1.1\" 200 5", Some(10.0)),
            ("h - - [01/Jan/1970:02:00:10 +0200] \"GET /\" 200 5", Some(10.0)),
            ("h - - [31/Dec/1969:23:00:10 -0100] x", None),
            ("start,path", None),
            ("", None),
        ] {
            assert_eq!(time(line), seconds, "{line}");
        }
        assert_eq!((speed("2x"), speed("0.5")), (Ok(2.0), Ok(0.5)));
        assert!(speed("0").is_err() && speed("fast").is_err() && speed("nan").is_err());
    }
}
