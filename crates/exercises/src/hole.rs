//! The part of a source that a learner writes: from `// hole: NAME` to `// endhole: NAME`, inside a function's body.
//!
//! In a copy that is handed out the marks stay, and between them stand what must hold, as a comment, and a `todo!`. That one is
//! how an empty hole is found, before anything is built.

use crate::Result;

/// The edges of a hole.
const BEGIN: &str = "// hole: ";
const END: &str = "// endhole: ";

/// What stands in a hole until it is filled.
fn placeholder(name: &str) -> String {
    format!("todo!(\"the hole `{name}`\")")
}

/// Whether a line is an edge of any hole: no code, and left out wherever a source is shown.
pub fn is_mark(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with(BEGIN) || line.starts_with(END)
}

/// A source without the marks of its holes.
pub fn without_marks(source: &str) -> String {
    source.split_inclusive('\n').filter(|line| !is_mark(line)).collect()
}

/// Where a hole lies: the lines before it with its first mark, its own, the others. `path` is what an error calls the source.
fn parts<'a>(path: &str, source: &'a str, name: &str) -> Result<(&'a str, &'a str, &'a str)> {
    let mut at = 0;
    let mut begins = Vec::new();
    let mut ends = Vec::new();
    for line in source.split_inclusive('\n') {
        let mark = line.trim();
        if mark.strip_prefix(BEGIN) == Some(name) {
            begins.push(at + line.len());
        }
        if mark.strip_prefix(END) == Some(name) {
            ends.push(at);
        }
        at += line.len();
    }
    match (&begins[..], &ends[..]) {
        (&[begin], &[end]) if begin <= end => Ok((&source[..begin], &source[begin..end], &source[end..])),
        _ => {
            Err(format!("{path} does not have one line `{BEGIN}{name}` and behind it one line `{END}{name}`"))
        }
    }
}

/// What stands in the hole.
pub fn content<'a>(path: &str, source: &'a str, name: &str) -> Result<&'a str> {
    parts(path, source, name).map(|(_, content, _)| content)
}

/// The source with something else in the hole.
pub fn filled(path: &str, source: &str, name: &str, content: &str) -> Result<String> {
    let (before, _, after) = parts(path, source, name)?;
    Ok(format!("{before}{content}{after}"))
}

/// The source with the hole empty: what must hold as a comment, and a `todo!`. `stub` is code around it, with `todo!` where
/// the `todo!` goes, for a hole that defines what is used behind it.
pub fn emptied(path: &str, source: &str, name: &str, must: &str, stub: Option<&str>) -> Result<String> {
    let (before, content, after) = parts(path, source, name)?;
    let first = content.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let margin = &first[..first.len() - first.trim_start().len()];
    let mut empty = String::new();
    for line in must.trim().lines() {
        empty.push_str(format!("{margin}// {line}").trim_end());
        empty.push('\n');
    }
    let stub = stub.unwrap_or("todo!;").trim_end();
    for line in stub.replace("todo!", &placeholder(name)).lines() {
        empty.push_str(format!("{margin}{line}").trim_end());
        empty.push('\n');
    }
    Ok(format!("{before}{empty}{after}"))
}

/// The holes that are still empty, and whatever else is left to be done: the number of each line, and the name of its hole.
pub fn empty(source: &str) -> Vec<(usize, Option<String>)> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(source.lines()) {
        // What stands behind two slashes is no code. (Nor is what stands in a string; nobody's solution has it there.)
        let code = line.split("//").next().unwrap_or_default();
        if !code.contains("todo!(") && !code.contains("unimplemented!(") {
            continue;
        }
        let name = code.split_once("the hole `").and_then(|(_, rest)| rest.split('`').next());
        found.push((number, name.map(str::to_owned)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn f() {\n    // hole: sum\n    // Adds.\n    1 + 1\n    // endhole: sum\n}\n// hole: x\n// endhole: x\n";

    #[test]
    fn a_hole_is_emptied_and_filled_again() {
        let content = content("f.rs", SOURCE, "sum").expect("the hole").to_owned();
        assert_eq!(content, "    // Adds.\n    1 + 1\n");
        let empty_one = emptied("f.rs", SOURCE, "sum", "It is two.\n\nNot three.", None).expect("the hole");
        assert_eq!(
            without_marks(&empty_one),
            "fn f() {\n    // It is two.\n    //\n    // Not three.\n    todo!(\"the hole `sum`\");\n}\n"
        );
        assert_eq!(empty(&empty_one), [(6, Some("sum".to_owned()))]);
        assert_eq!(filled("f.rs", &empty_one, "sum", &content).expect("the hole"), SOURCE);
        assert_eq!(empty(SOURCE), []);
    }

    #[test]
    fn a_stub_defines_what_is_used_behind_the_hole() {
        let text = emptied("f.rs", SOURCE, "sum", "", Some("let x: u8 = todo!;")).expect("the hole");
        assert!(text.contains("\n    let x: u8 = todo!(\"the hole `sum`\");\n"), "{text}");
    }

    #[test]
    fn a_todo_of_the_learners_own_is_found_and_one_in_a_comment_is_not() {
        assert_eq!(empty("// todo!()\nx(); // todo!()\nunimplemented!()\n"), [(3, None)]);
    }

    #[test]
    fn a_hole_without_an_end_is_named() {
        for source in
            ["", "// hole: a\n", "// endhole: a\n// hole: a\n", "// hole: a\n// hole: a\n// endhole: a\n"]
        {
            let why = content("f.rs", source, "a").expect_err(source);
            assert!(why.contains("f.rs does not have one line `// hole: a`"), "{why}");
        }
    }
}
