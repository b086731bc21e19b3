//! Numbers as a person reads them.

use crate::result::Summary;

/// A duration in seconds with three digits and the unit that fits: `84.0 µs`, `1.90 s`.
pub(crate) fn duration(seconds: f64) -> String {
    let (mut value, mut unit) = (seconds * 1e9, "ns");
    for (factor, next) in [(1e3, "µs"), (1e3, "ms"), (1e3, "s")] {
        // 999.6 would print as 1000.
        if value.abs() < 999.5 {
            break;
        }
        (value, unit) = (value / factor, next);
    }
    let digits = match value.abs() {
        value if value < 9.995 && unit != "ns" => 2,
        value if value < 99.95 && unit != "ns" => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// A value of a summary: marked `≥` where unfinished requests make it a lower bound, `-` where there is none.
pub(crate) fn latency(summary: &Summary, value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if summary.censored_from.is_some_and(|from| value >= from * 0.999) => {
            format!("≥ {}", duration(value))
        }
        Some(value) => duration(value),
    }
}

/// How wide a line is at most.
const WIDTH: usize = 80;

/// The words of `text` in lines of 80 columns, each but the first behind `indent` spaces; the first begins in column `at`.
pub(crate) fn wrap(text: &str, at: usize, indent: usize) -> String {
    let (mut out, mut column) = (String::new(), at);
    for (i, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if i > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if i > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

/// Help in lines of 80 columns: what is too long goes on below its own beginning.
pub(crate) fn wrap_help(text: &str) -> String {
    let line = |line: &str| {
        if line.chars().count() <= WIDTH {
            return line.to_owned();
        }
        let start = line.len() - line.trim_start().len();
        // Behind the flag, where its description begins.
        let at =
            line[start..].find("  ").map_or(start, |gap| line.len() - line[start + gap..].trim_start().len());
        format!("{}{}", &line[..at], wrap(&line[at..], at, at))
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A rate with as many digits as its size deserves.
pub(crate) fn rate(value: f64) -> String {
    let text = match value {
        value if value < 10.0 => format!("{value:.3}"),
        value if value < 10_000.0 => format!("{value:.1}"),
        value => return format!("{value:.0}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A share as per cent.
pub(crate) fn percent(share: f64) -> String {
    let value = 100.0 * share;
    if value != 0.0 && value < 1.0 { format!("{value:.3} %") } else { format!("{value:.1} %") }
}

/// The name of a percentile: `max` for 100.
pub(crate) fn percentile(percentile: f64) -> String {
    if percentile >= 100.0 { "max".to_owned() } else { format!("p{percentile}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        for (seconds, text) in [
            (0.0, "0 ns"),
            (84e-9, "84 ns"),
            (999e-9, "999 ns"),
            (84e-6, "84.0 µs"),
            (999.4e-6, "999 µs"),
            (999.6e-6, "1.00 ms"),
            (9.996e-3, "10.0 ms"),
            (0.1234, "123 ms"),
            (1.9, "1.90 s"),
            (3600.0, "3600 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn rates_have_no_idle_zeros() {
        for (value, text) in
            [(0.0, "0"), (0.5, "0.5"), (10.0, "10"), (1000.0, "1000"), (999.96, "1000"), (1002.7, "1002.7")]
        {
            assert_eq!(rate(value), text);
        }
        assert_eq!(rate(123_456.7), "123457");
    }
}
