//! The index by symptom: what people ask, the page that answers, a command, and what it prints.
//!
//! An entry is the line `Symptom:` of a program's header, or a comment in a page, `<!-- symptom: QUESTION | WORDS -->`. The
//! recorded block behind the comment has the command, and WORDS choose the line of it that stands in the index (`| WORDS |
//! WORDS`: two lines, such as a head of columns and a row). A comment whose QUESTION is the name of a program chooses block
//! and lines for the `Symptom:` of that program; without such a comment they are the first block of its page that runs it,
//! and the last line there that has its name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::checkout::Program;
use crate::contents::Contents;
use crate::docs::marker;
use crate::failure::{Context, Failure, Result, failed};

/// A recorded block of a page.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// The line of its first comment, from 1.
    line: usize,
    /// The words of that comment: `run udp-drops --size 1000`.
    words: String,
    /// What stands in it, without fences and blank lines.
    body: Vec<String>,
}

impl Block {
    fn kind(&self) -> &str {
        self.words.split(' ').next().unwrap_or_default()
    }
}

/// A comment of a page.
#[derive(Debug, PartialEq, Eq)]
struct Comment {
    line: usize,
    /// What people ask, or the name of a program.
    question: String,
    /// For each line that answers, words of it.
    words: Vec<String>,
    /// Index of the block behind it.
    block: usize,
}

/// What a page holds of both.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    comments: Vec<Comment>,
    blocks: Vec<Block>,
}

/// One answer.
struct Entry {
    /// Where the block is, by the order of the pages and the line.
    place: (usize, usize),
    question: String,
    command: String,
    prints: Vec<String>,
}

/// The index, a heading for each chapter. `folder` holds the pages, `programs` have the headers.
///
/// # Errors
/// A `Symptom:` that no page answers, a comment with no block behind it, a block without a command, words that no line has:
/// a sentence that names the file.
pub fn index(folder: &Path, programs: &[Program]) -> Result<String> {
    let contents = Contents::read(folder)?;
    let files: Vec<&str> = contents.files().collect();
    let mut pages = Vec::new();
    for file in &files {
        let text = fs::read_to_string(folder.join(file)).context(|| format!("read {file}"))?;
        pages.push(read(&text).or_else(|why| failed(format!("{file}: {why}")))?);
    }
    let mut entries = Vec::new();
    let mut chosen = BTreeSet::new();
    for (number, page) in pages.iter().enumerate() {
        for comment in &page.comments {
            let file = files[number];
            let wrong = |why: &dyn std::fmt::Display| {
                Failure::Failed(format!("{file}, line {}: {why}", comment.line))
            };
            let named = programs.iter().find(|program| program.name == comment.question);
            let question = match named {
                Some(program) if program.symptom.is_empty() => {
                    return Err(wrong(&format!(
                        "{} has no `Symptom:`: write one into the header of {}, or the question here",
                        program.name, program.source
                    )));
                }
                Some(program) => {
                    chosen.insert(&program.name);
                    program.symptom.clone()
                }
                None => comment.question.clone(),
            };
            let block = &page.blocks[comment.block];
            let name = named.map(|program| program.name.as_str());
            let (command, prints) = evidence(block, &comment.words, name).map_err(|why| wrong(&why))?;
            entries.push(Entry { place: (number, block.line), question, command, prints });
        }
    }
    let asked = programs.iter().filter(|program| !program.symptom.is_empty());
    for program in asked.filter(|program| !chosen.contains(&program.name)) {
        let source = &program.source;
        let page = program.page.as_deref().and_then(|page| page.rsplit('/').next());
        let Some(number) = page.and_then(|page| files.iter().position(|file| *file == page)) else {
            return failed(format!(
                "{source} has a `Symptom:` and no page: add one, or a comment `<!-- symptom: {} -->` where it is answered",
                program.name
            ));
        };
        // The first recorded block that shows this program.
        let shows =
            |block: &&Block| shlex::split(&block.words).is_some_and(|words| words.contains(&program.name));
        let shown = pages[number].blocks.iter().filter(shows);
        let mut shown =
            shown.filter_map(|block| Some((block, evidence(block, &[], Some(&program.name)).ok()?)));
        let Some((block, (command, prints))) = shown.next() else {
            return failed(format!(
                "{source} has a `Symptom:`, and no recorded block of {} runs it",
                files[number]
            ));
        };
        let (place, question) = ((number, block.line), program.symptom.clone());
        entries.push(Entry { place, question, command, prints });
    }
    entries.sort_by_key(|entry| entry.place);
    let mut out = String::new();
    let mut last = None;
    for Entry { place, question, command, prints } in &entries {
        let (chapter, title) = contents.place(place.0);
        if last != Some(chapter) {
            last = Some(chapter);
            out.push_str(&format!("\n## {chapter}\n"));
        }
        let file = files[place.0];
        let command = code(command);
        let prints = prints.iter().map(|line| code(line)).collect::<Vec<_>>().join(", ");
        out.push_str(&format!("\n- **{question}**\\\n  [{title}]({file})\\\n  {command} prints {prints}\n"));
    }
    out.push('\n');
    Ok(out)
}

/// The comments and recorded blocks of a page.
fn read(text: &str) -> Result<Page> {
    let mut page = Page::default();
    let mut fence: Option<&str> = None;
    let mut within = false;
    for (number, line) in text.lines().enumerate().map(|(number, line)| (number + 1, line)) {
        let mark = ["```", "~~~"].into_iter().find(|mark| line.starts_with(mark));
        if let (None, Some(words)) = (fence, marker(line)) {
            within = words != "end";
            if within {
                page.blocks.push(Block { line: number, words: words.into(), body: Vec::new() });
            }
        } else if let (None, Some(words)) = (fence, comment(line)) {
            let mut parts = words.split(" | ").map(|part| part.trim().to_string());
            let question = parts.next().unwrap_or_default();
            let (words, block) = (parts.collect(), page.blocks.len());
            page.comments.push(Comment { line: number, question, words, block });
        } else if mark.is_some() {
            // A longer fence holds a shorter one, and both go.
            fence = match fence {
                Some(_) if line.trim_end().chars().all(|c| c == '`' || c == '~') => None,
                open => open.or(mark),
            };
        } else if within && !line.trim().is_empty() {
            page.blocks.last_mut().into_iter().for_each(|block| block.body.push(line.to_string()));
        }
    }
    match page.comments.iter().find(|comment| comment.block >= page.blocks.len()) {
        Some(last) => failed(format!(
            "line {}: no recorded block stands behind this question, so nothing shows the answer",
            last.line
        )),
        None => Ok(page),
    }
}

/// The words of a comment that asks.
fn comment(line: &str) -> Option<&str> {
    Some(line.trim_end().strip_prefix("<!-- symptom:")?.strip_suffix("-->")?.trim())
}

/// The command of a block, and of what it prints the lines that have `words`; without words the last line that has `name`,
/// or the last of all.
fn evidence(block: &Block, words: &[String], name: Option<&str>) -> Result<(String, Vec<String>)> {
    let lines = match block.kind() {
        "compare" => rows(&block.body),
        // Columns are no matter: a line is compared, and shown, with single blanks.
        _ => block.body.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect(),
    };
    let mut printed = &lines[..];
    let command = match lines.iter().position(|line| line.starts_with("$ ")) {
        Some(begin) => {
            let mut command = lines[begin][2..].to_string();
            printed = &lines[begin + 1..];
            while let (Some(before), [more, rest @ ..]) = (command.strip_suffix('\\'), printed) {
                command = format!("{before}{more}");
                printed = rest;
            }
            // Its transcript shows what is run with the broken copy.
            if block.kind() == "break" { format!("cargo ladder {}", block.words) } else { command }
        }
        None if block.kind() == "compare" => format!("cargo ladder {}", block.words),
        None => return failed(format!("`{}` shows no command", block.words)),
    };
    let mut prints = Vec::new();
    for words in words {
        let Some(line) = printed.iter().find(|line| line.contains(words)) else {
            return failed(format!(
                "no line of `{}` has {words:?}: take words of a line that it prints now",
                block.words
            ));
        };
        prints.push(line.clone());
    }
    if prints.is_empty() {
        let named = name.and_then(|name| printed.iter().rfind(|line| line.contains(name)));
        let Some(line) = named.or(printed.last()) else {
            return failed(format!("`{}` prints nothing", block.words));
        };
        prints.push(line.clone());
    }
    Ok((command, prints))
}

/// The rows of tables, each with the title of its table and the heads of its columns:
/// `A burst of 8: system calls per datagram: echo-poll: 0.12 poll, 2.25 all`.
fn rows(tables: &[String]) -> Vec<String> {
    let cells =
        |line: &str| line.trim_matches(|c| c == '|' || c == ' ').split(" | ").map(String::from).collect();
    let (mut title, mut heads, mut out) = ("", Vec::new(), Vec::new());
    for line in tables {
        let row: Vec<String> = cells(line);
        match line.strip_prefix('|') {
            None => (title, heads) = (line.trim_matches('*'), Vec::new()),
            Some(rest) if rest.starts_with(" ---") => {}
            Some(_) if heads.is_empty() => heads = row,
            Some(_) => {
                let counts = row.iter().zip(&heads).skip(1).filter(|(count, _)| *count != "-");
                let counts: Vec<String> = counts.map(|(count, head)| format!("{count} {head}")).collect();
                out.push(format!("{title}: {}: {}", row[0], counts.join(", ")));
            }
        }
    }
    out
}

/// Text as code inside of a line.
fn code(text: &str) -> String {
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPS: &str = "# udp-drops: why?\n\n<!-- ladder: run udp-drops --size 9 -->\n```text\n\
        $ cargo run --bin udp-drops -- --size 9\nfirst   line\nudp-drops: 1 lost\nlast\n```\n<!-- ladder: end -->\n";
    const TABLE: &str = "# Many?\n<!-- symptom: is `batch` cheaper? | 64: calls: batch | all -->\n\
        <!-- ladder: compare one batch -->\n\n**One: calls**\n\n| program | recv | batch | all |\n| --- | ---: | ---: | ---: |\n\
        | batch | - | 1 | 1 |\n\n**64: calls**\n\n| program | recv | batch | all |\n| --- | ---: | ---: | ---: |\n\
        | one | 1 | - | 1 |\n| batch | - | 0.1 | 0.1 |\n\n<!-- ladder: end -->\n";

    fn program(name: &str, page: &str, symptom: &str) -> Program {
        Program {
            name: name.into(),
            layer: "6-trouble".into(),
            rung: None,
            page: Some(format!("docs/{page}")).filter(|_| !page.is_empty()),
            source: format!("{name}.rs"),
            about: String::new(),
            waits_in: None,
            new_here: String::new(),
            expect: String::new(),
            symptom: symptom.into(),
            lines: 0,
        }
    }

    /// The index of some pages, with one program.
    fn indexed(pages: &[(&str, &str)], program: Program) -> Result<String> {
        let folder = tempfile::tempdir().expect("a folder");
        for (file, text) in pages {
            fs::write(folder.path().join(file), text).expect("a page");
        }
        index(folder.path(), &[program])
    }

    #[test]
    fn a_header_is_enough_for_an_entry() {
        let program = program("udp-drops", "60-udp-drops.md", "it loses `x`");
        assert_eq!(
            indexed(&[("60-udp-drops.md", DROPS)], program).expect("an index"),
            "\n## What goes wrong\n\n- **it loses `x`**\\\n  [udp-drops: why?](60-udp-drops.md)\\\n  \
             `cargo run --bin udp-drops -- --size 9` prints `udp-drops: 1 lost`\n\n"
        );
    }

    #[test]
    fn a_comment_asks_or_chooses_the_lines_for_a_header() {
        let asked = DROPS.replace("\n\n<!--", "\n<!-- symptom: udp-drops | first line | last -->\n<!--");
        let pages = [("60-udp-drops.md", asked.as_str()), ("50-many.md", TABLE)];
        let index = indexed(&pages, program("udp-drops", "60-udp-drops.md", "it loses")).expect("an index");
        let (sideways, wrong) = index.split_once("## What goes wrong").expect("two chapters");
        assert!(
            sideways.ends_with("`cargo ladder compare one batch` prints `64: calls: batch: 0.1 batch, 0.1 all`, `One: calls: batch: 1 batch, 1 all`\n\n"),
            "{sideways}"
        );
        assert!(
            wrong.contains("**it loses**") && wrong.ends_with("prints `first line`, `last`\n\n"),
            "{wrong}"
        );
        assert_eq!(wrong.matches("**").count(), 2, "one entry: {wrong}");
    }

    #[test]
    fn what_a_broken_copy_prints_is_printed_by_break() {
        let text = "# A\n<!-- symptom: q -->\n<!-- ladder: break echo-poll -->\nwhy\n\n```text\n$ cargo ladder compare echo-poll\n\
            never at rest\n```\n<!-- ladder: end -->\n";
        let index = indexed(&[("10-a.md", text)], program("udp-drops", "", "")).expect("an index");
        assert!(index.contains("`cargo ladder break echo-poll` prints `never at rest`"), "{index}");
    }

    #[test]
    fn an_entry_that_leads_nowhere_is_found() {
        let page = |text: &str| {
            let said = indexed(&[("60-udp-drops.md", text)], program("udp-drops", "60-udp-drops.md", ""));
            said.expect_err(text).to_string()
        };
        let with =
            |comment: &str| page(&DROPS.replace("\n\n<!--", &format!("\n<!-- symptom: {comment} -->\n<!--")));
        assert!(
            with("why? | never printed")
                .contains("line 2: no line of `run udp-drops --size 9` has \"never printed\"")
        );
        assert!(with("udp-drops").contains("has no `Symptom:`"));
        assert!(page("# A\n<!-- symptom: why? -->\ntext\n").contains("line 2: no recorded block"));
        let region = "# A\n<!-- symptom: why? -->\n<!-- ladder: region a.rs b -->\n```rust\n1\n```\n<!-- ladder: end -->\n";
        assert!(page(region).contains("shows no command"));
        let header = |page: &str, text| {
            let said = indexed(&[("60-udp-drops.md", text)], program("udp-drops", page, "it loses"));
            said.expect_err(text).to_string()
        };
        assert!(header("", DROPS).contains("udp-drops.rs has a `Symptom:` and no page"));
        assert!(header("60-udp-drops.md", "# A\n").contains("no recorded block of 60-udp-drops.md runs it"));
    }

    #[test]
    fn a_comment_in_a_fence_is_an_example() {
        let text = "# A\n```\n<!-- symptom: why? -->\n```\n    <!-- symptom: why? -->\n";
        assert_eq!(indexed(&[("60-a.md", text)], program("x", "", "")).expect("no entry"), "\n");
    }
}
