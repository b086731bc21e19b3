//! The pages as a book: every link leads somewhere, and the appendices point to pages that hold what they promise.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the checkout")
}

/// Every Markdown file that a reader opens, with its text.
fn pages() -> BTreeMap<PathBuf, String> {
    let root = root();
    let mut files = vec![root.join("README.md")];
    files.extend(entries(&root.join("docs")));
    files.extend(entries(&root.join("crates")).into_iter().map(|folder| folder.join("README.md")));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md") && file.is_file());
    files
        .into_iter()
        .map(|file| (file.clone(), fs::read_to_string(&file).expect("a page in UTF-8")))
        .collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    read.map(|entry| entry.expect("an entry").path()).collect()
}

/// The lines outside of fenced and indented code, without `code` in them.
fn prose(text: &str) -> String {
    let code = Regex::new("`[^`]*`").expect("a pattern");
    let mut fence: Option<&str> = None;
    let mut out = String::new();
    for line in text.lines() {
        let mark = ["```", "~~~"].into_iter().find(|mark| line.starts_with(mark));
        match (fence, mark) {
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, Some(mark)) => fence = Some(mark),
            (None, None) if !line.starts_with("    ") => {
                out.push_str(&code.replace_all(line, "code"));
                out.push('\n');
            }
            _ => {}
        }
    }
    out
}

/// The anchors of a page, as a code host makes them of its headings.
fn anchors(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut anchors = Vec::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        if fenced || !line.starts_with('#') {
            continue;
        }
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        anchors.push(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    anchors
}

/// What is wrong with the links of a page; `pages` are all pages.
fn broken_links(page: &Path, text: &str, pages: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("a pattern");
    let folder = page.parent().expect("a page lies in a folder");
    let mut broken = Vec::new();
    for found in link.captures_iter(&prose(text)) {
        let target = &found[1];
        if target.starts_with("https://") {
            continue;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let to = if file.is_empty() { page.to_path_buf() } else { folder.join(file) };
        let Ok(to) = to.canonicalize() else {
            broken.push(format!("{}: {target} is not there", page.display()));
            continue;
        };
        if !anchor.is_empty()
            && pages.get(&to).is_some_and(|text| !anchors(text).iter().any(|known| known == anchor))
        {
            broken.push(format!("{}: {target}: no heading makes this anchor", page.display()));
        }
    }
    broken
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let broken: Vec<String> =
        pages.iter().flat_map(|(page, text)| broken_links(page, text, &pages)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let pages = pages();
    let readme = root().join("README.md");
    let asked = |text: &str| broken_links(&readme, text, &pages).len();
    assert_eq!(asked("[a](docs/no-such-page.md) [b](docs/11-readiness.md#no-such-heading)"), 2);
    assert_eq!(asked("![a](docs/pictures/no-such-picture.svg)"), 1);
    assert_eq!(
        asked("[a](docs/11-readiness.md) `[b](nowhere)`\n\n    [c](nowhere)\n```\n[d](nowhere)\n```\n"),
        0
    );
}

/// The rows of the tables of a page: their first cell, and the files that the last one links to.
fn rows(page: &str) -> Vec<(String, Vec<String>)> {
    let link = Regex::new(r"\]\(([^)\s]+\.md)\)").expect("a pattern");
    let text = fs::read_to_string(root().join("docs").join(page)).expect("the page");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_string()).collect::<Vec<_>>();
    let linked = |cell: &str| link.captures_iter(cell).map(|found| found[1].to_string()).collect::<Vec<_>>();
    let rows = text.lines().filter(|line| line.starts_with('|')).map(cells);
    rows.map(|cells| (cells[1].clone(), linked(&cells[cells.len() - 2])))
        .filter(|(_, links)| !links.is_empty())
        .collect()
}

/// Rows whose page does not hold one of the words that `words` makes of the first cell.
fn unfounded(page: &str, words: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (first, links) in rows(page) {
        for link in links {
            let text = fs::read_to_string(root().join("docs").join(&link)).unwrap_or_default().to_lowercase();
            // A term may run over the end of a line.
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let missing = words(&first).into_iter().filter(|word| !text.contains(&word.to_lowercase()));
            wrong.extend(missing.map(|word| format!("{link} does not hold {word:?}")));
        }
    }
    wrong
}

#[test]
fn a_term_stands_on_the_page_that_the_glossary_names() {
    // "poll (of a future)" is looked for as "poll".
    let term = |first: &str| vec![first.split(" (").next().unwrap_or(first).to_string()];
    assert!(rows("90-glossary.md").len() > 30, "the table was read");
    assert_eq!(unfounded("90-glossary.md", term), Vec::<String>::new());
}

#[test]
fn a_system_call_stands_on_the_page_that_the_list_names() {
    let name = Regex::new("`([a-z0-9_]+)`").expect("a pattern");
    let calls = |first: &str| {
        // What stands in brackets is the name on another machine.
        let ours = first.split(" (").next().unwrap_or(first);
        name.captures_iter(ours).map(|found| found[1].to_string()).collect()
    };
    assert!(rows("91-system-calls.md").len() > 12, "the table was read");
    assert_eq!(unfounded("91-system-calls.md", calls), Vec::<String>::new());
}
