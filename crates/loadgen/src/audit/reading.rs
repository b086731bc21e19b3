//! How a figure is read out of what a load generator prints.

use std::str::FromStr;

use anyhow::Context as _;

/// Where a figure stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// At this JSON pointer (RFC 6901), in the last line that is a JSON object or in the whole text.
    Pointer(String),
    /// Between these two texts, spaces apart: the first place where a figure stands there.
    Between(String, String),
}

impl FromStr for Reading {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Pointer(text.to_owned()));
        }
        match text.split_once('*') {
            Some((before, after)) if !after.contains('*') && text.trim() != "*" => {
                Ok(Self::Between(before.trim().to_owned(), after.trim().to_owned()))
            }
            _ => Err(format!(
                "{text:?} tells no place: give a JSON pointer (/a/b) or a text with one * for the figure"
            )),
        }
    }
}

impl Reading {
    /// The figure in `text`; a time in seconds.
    ///
    /// # Errors
    /// It is not there, or is no figure.
    pub fn read(&self, text: &str) -> anyhow::Result<f64> {
        match self {
            Self::Pointer(pointer) => {
                let json = (text.lines().rev().find_map(object).or_else(|| object(text)))
                    .with_context(|| format!("the output is no JSON, in which {pointer} could be"))?;
                let value = json.pointer(pointer).with_context(|| format!("the output has no {pointer}"))?;
                (value.as_f64().or_else(|| value.as_str().and_then(figure)))
                    .with_context(|| format!("{pointer} is {value}, which is no figure"))
            }
            Self::Between(before, after) => {
                let behind = |at: usize| {
                    let rest = text[at + before.len()..].trim_start();
                    let end = if after.is_empty() {
                        rest.find(char::is_whitespace)
                    } else {
                        rest.find(after.as_str())
                    };
                    figure(&rest[..end.unwrap_or(rest.len())])
                };
                let ahead = |at: usize| figure(text[..at].split_whitespace().next_back()?);
                let found = if before.is_empty() {
                    text.match_indices(after.as_str()).find_map(|(at, _)| ahead(at))
                } else {
                    text.match_indices(before.as_str()).find_map(|(at, _)| behind(at))
                };
                found.with_context(|| {
                    format!(
                        "the output has no figure where {:?} is to have one",
                        format!("{before} * {after}")
                    )
                })
            }
        }
    }
}

fn object(text: &str) -> Option<serde_json::Value> {
    serde_json::from_str(text).ok().filter(serde_json::Value::is_object)
}

/// A number, with a unit of time or without.
fn figure(text: &str) -> Option<f64> {
    let text = text.trim();
    let unit = text.find(|c: char| c.is_alphabetic() && c != 'e' || c == 'µ').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let factor = match unit.trim() {
        "" | "s" | "sec" | "secs" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "ns" => 1e-9,
        "m" => 60.0,
        _ => return None,
    };
    number.trim().replace(',', "").parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found() {
        let wrk =
            "  Latency Distribution\n     50%    1.25ms\n     99%   2.00s \n  1,234 requests in 4.00s\n";
        let read = |how: &str, text: &str| how.parse::<Reading>().expect("a place").read(text).ok();
        assert_eq!(read("50% *", wrk), Some(0.001_25));
        assert_eq!(read("99% *", wrk), Some(2.0));
        assert_eq!(read("2.00s * requests", wrk), Some(1234.0));
        assert_eq!(read("* requests in", wrk), Some(1234.0));
        assert_eq!(read("Max *", "Avg Max +/-\nMax 3 ms\n"), Some(3.0), "not the head of the column");
        assert_eq!(read("/a/0/b", "log\n{\"a\": [{\"b\": 3.5}]}\n"), Some(3.5));
        assert_eq!(read("/a", "{\n\"a\": \"250 us\"\n}"), Some(0.000_25));
        assert_eq!((read("75% *", wrk), read("/b", "{}"), read("Latency *", wrk)), (None, None, None));
        for bad in ["", "no star", "*", "a * b *"] {
            assert!(bad.parse::<Reading>().is_err(), "{bad:?}");
        }
    }
}
