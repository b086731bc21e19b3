//! A part of a source that has a name: from `// region: NAME` to `// endregion: NAME`.

use crate::failure::{Result, failed};

/// The lines of the region of this name, moved to the left margin. `path` is what a failure calls the text.
pub fn region(path: &str, text: &str, name: &str) -> Result<String> {
    let is_edge = |line: &str, edge: &str| {
        line.trim().strip_prefix("// ").and_then(|line| line.strip_prefix(edge)) == Some(name)
    };
    let mut lines = text.lines();
    if !lines.any(|line| is_edge(line, "region: ")) {
        return failed(format!("{path} has no line `// region: {name}`"));
    }
    let mut inside: Vec<&str> = Vec::new();
    loop {
        match lines.next() {
            Some(line) if is_edge(line, "endregion: ") => break,
            // Regions may lie within each other; their edges are no code.
            Some(line) if line.trim().starts_with("// region: ") => {}
            Some(line) if line.trim().starts_with("// endregion: ") => {}
            // So may the holes of exercises.
            Some(line) if exercises::hole::is_mark(line) => {}
            Some(line) => inside.push(line),
            None => return failed(format!("{path} has no line `// endregion: {name}`")),
        }
    }
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let margin = inside.iter().filter(|line| !line.trim().is_empty()).map(indent).min().unwrap_or(0);
    let code: Vec<&str> = inside.iter().map(|line| line.get(margin..).unwrap_or("")).collect();
    Ok(code.join("\n").trim_matches('\n').to_string())
}
