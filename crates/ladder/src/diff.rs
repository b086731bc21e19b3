//! `ladder diff`: the sources of two programs, whose difference is the lesson.

use std::fs;

use similar::{ChangeTag, DiffTag, TextDiff};

use crate::checkout::Checkout;
use crate::failure::{Context, Result, print};

/// Options of `ladder diff`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// The program one starts from
    pub a: String,
    /// The program one goes to
    pub b: String,
    /// Print both sources next to each other instead of one below the other
    #[arg(long)]
    pub side_by_side: bool,
    /// Width of the two columns together, for --side-by-side
    #[arg(long, value_name = "COLUMNS", default_value_t = 160, value_parser = clap::value_parser!(u16).range(40..))]
    pub width: u16,
}

/// Runs `ladder diff`.
pub fn run(checkout: &Checkout, options: &Options) -> Result<()> {
    print(&difference(checkout, options)?);
    Ok(())
}

/// The difference as text.
pub fn difference(checkout: &Checkout, options: &Options) -> Result<String> {
    let read = |name: &str| -> Result<(String, String)> {
        let source = checkout.program(name)?.source.clone();
        let text = fs::read_to_string(checkout.root.join(&source)).context(|| format!("read {source}"))?;
        Ok((source, text))
    };
    let (from, old) = read(&options.a)?;
    let (to, new) = read(&options.b)?;
    Ok(match options.side_by_side {
        true => side_by_side(&old, &new, options.width.into()),
        false => unified(&from, &to, &old, &new),
    })
}

/// Unified, with three lines of context.
pub fn unified(from: &str, to: &str, old: &str, new: &str) -> String {
    TextDiff::from_lines(old, new).unified_diff().context_radius(3).header(from, to).to_string()
}

/// Two columns; between them `<` for a line that is gone, `>` for a new one, `|` for one that changed.
fn side_by_side(old: &str, new: &str, width: usize) -> String {
    let column = (width - 3) / 2;
    let fit = |line: &str| -> String { line.trim_end().chars().take(column).collect() };
    let diff = TextDiff::from_lines(old, new);
    let mut out = String::new();
    let mut add = |left: Option<&str>, right: Option<&str>, changed: bool| {
        let sign = match (left, right) {
            _ if !changed => ' ',
            (Some(_), Some(_)) => '|',
            (Some(_), None) => '<',
            _ => '>',
        };
        let (left, right) = (fit(left.unwrap_or_default()), fit(right.unwrap_or_default()));
        out.push_str(format!("{left:<column$} {sign} {right}").trim_end());
        out.push('\n');
    };
    for op in diff.ops() {
        let changes: Vec<_> = diff.iter_changes(op).collect();
        let side =
            |tag| changes.iter().filter(move |change| change.tag() == tag).map(|change| change.value());
        if op.tag() == DiffTag::Equal {
            for line in side(ChangeTag::Equal) {
                add(Some(line), Some(line), false);
            }
            continue;
        }
        let (mut gone, mut come) = (side(ChangeTag::Delete), side(ChangeTag::Insert));
        loop {
            match (gone.next(), come.next()) {
                (None, None) => break,
                (left, right) => add(left, right, true),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_by_side_marks_what_changed() {
        let text = side_by_side("same\nold\n", "same\nnew\nmore\n", 43);
        assert_eq!(text, format!("{:<20}   same\n{:<20} | new\n{:<20} > more\n", "same", "old", ""));
    }

    #[test]
    fn unified_names_both_sources() {
        let text = unified("a.rs", "b.rs", "x\n", "y\n");
        assert!(text.starts_with("--- a.rs\n+++ b.rs\n"), "{text}");
        assert!(text.contains("-x\n+y\n"), "{text}");
    }
}
