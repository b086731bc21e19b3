//! The pages as a book: every link leads somewhere, here and on the site, and the appendices point to pages that hold what
//! they promise.

#![forbid(unsafe_code)]

#[allow(dead_code)]
mod tool;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use tool::ladder;

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
        if target.starts_with("https://") || target.starts_with("http://") {
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

/// A page of `docs`.
fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The cells of the tables of a text, without the lines of dashes.
fn table_rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().to_string()).collect::<Vec<_>>()
    };
    let rows = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|--"));
    rows.map(cells).collect()
}

/// The pages that a text links to.
fn linked(text: &str) -> Vec<String> {
    let link = Regex::new(r"\]\(([^)#\s]+\.md)(#[^)\s]*)?\)").expect("a pattern");
    link.captures_iter(text).map(|found| found[1].to_string()).collect()
}

/// The rows of the tables of a page: their first cell, and the files that the last one links to.
fn rows(name: &str) -> Vec<(String, Vec<String>)> {
    let rows = table_rows(&page(name)).into_iter();
    rows.map(|cells| (cells[0].clone(), linked(cells.last().expect("a row has cells"))))
        .filter(|(_, links)| !links.is_empty())
        .collect()
}

/// Rows whose page does not hold one of the words that `words` makes of the first cell.
fn unfounded(name: &str, words: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (first, links) in rows(name) {
        for link in links {
            let text = page(&link).to_lowercase();
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

/// The calls for one datagram of each rung, as the table in the README has them.
fn calls_of_the_rungs() -> BTreeMap<String, String> {
    let readme = fs::read_to_string(root().join("README.md")).expect("the README");
    let name = Regex::new(r"^\[(echo-[a-z-]+)\]").expect("a pattern");
    let rows = table_rows(&readme).into_iter().filter(|cells| cells.len() == 5);
    rows.filter_map(|cells| Some((name.captures(&cells[0])?[1].to_string(), cells[3].clone()))).collect()
}

/// What a row of "Which of all these should I use?" claims, and neither the table of the rungs nor a page that it links to
/// bears out.
fn unmeasured(cells: &[String], calls: &BTreeMap<String, String>) -> Vec<String> {
    let target = Regex::new(r"\]\([^)]*\)").expect("a pattern");
    let counted = Regex::new(r"\b(\d+) calls\b").expect("a pattern");
    let number = Regex::new(r"\d[\d,.]*\d|\d").expect("a pattern");
    let words = |text: &str| target.replace_all(text, "]").into_owned();
    let mut wrong = Vec::new();
    let (program, cost, watch) = (words(&cells[1]), words(&cells[2]), words(&cells[3]));
    let rung = calls.iter().find(|(rung, _)| program.contains(&format!("[{rung}]")));
    for found in counted.captures_iter(&cost) {
        if rung.map(|(_, calls)| calls.as_str()) != Some(&found[1]) {
            wrong.push(format!("{program}: {} is not in the table of the rungs", &found[0]));
        }
    }
    let pages: Vec<String> = linked(&cells.join(" ")).iter().map(|name| page(name)).collect();
    for claim in [counted.replace_all(&cost, "").into_owned(), watch] {
        for found in number.find_iter(&claim) {
            let whole = format!(r"(^|[^\d,.]){}($|[^\d,.]|[,.]\D|[,.]$)", regex::escape(found.as_str()));
            let whole = Regex::new(&whole).expect("a pattern");
            if !pages.iter().any(|page| whole.is_match(page)) {
                wrong.push(format!("{program}: no page that the row links to has {}", found.as_str()));
            }
        }
    }
    wrong
}

#[test]
fn what_the_choice_of_a_rung_costs_was_measured() {
    let calls = calls_of_the_rungs();
    assert!(calls.len() > 13, "the table of the rungs was read: {calls:?}");
    let rows = table_rows(&page("94-which.md"));
    let wrong: Vec<String> = rows.iter().flat_map(|cells| unmeasured(cells, &calls)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Every rung stands in it.
    let text = page("94-which.md");
    let missing: Vec<&String> = calls.keys().filter(|rung| !text.contains(&format!("[{rung}]("))).collect();
    assert!(missing.is_empty(), "no row of 94-which.md names {missing:?}");
}

#[test]
fn a_cost_that_nobody_measured_is_found() {
    let calls = calls_of_the_rungs();
    let row = |cost: &str, watch: &str| {
        let cells = ["one socket", "[echo-poll](14-echo-poll.md)", cost, watch].map(String::from);
        unmeasured(&cells, &calls).len()
    };
    assert_eq!(row("4 calls; 2.2 µs: [why](00-why.md)", "1,024 descriptors"), 0);
    assert_eq!(row("3 calls", ""), 1);
    assert_eq!(row("4 calls; 2.3 µs: [why](00-why.md)", ""), 1);
    // Part of a number is not that number.
    assert_eq!(row("118 µs: [why](00-why.md)", "77,777 descriptors"), 2);
}

/// The cells of the row `name` in the first table of the recording of scripts/batching.
fn batching_row(record: &str, name: &str) -> Vec<f64> {
    let row = record.lines().find(|line| line.split_whitespace().next() == Some(name));
    let row = row.unwrap_or_else(|| panic!("no row {name} in docs/50-batching.txt"));
    row.split_whitespace().skip(1).filter_map(|cell| cell.parse().ok()).collect()
}

/// Ratios in the prose of a page that the recording does not have.
fn ratios_not_recorded(text: &str, record: &str) -> Vec<String> {
    let ratio = Regex::new(r"\b\d+\.\d+\b").expect("a pattern");
    let recorded: Vec<&str> = ratio.find_iter(record).map(|found| found.as_str()).collect();
    let said = prose(text);
    let said = ratio.find_iter(&said).map(|found| found.as_str());
    said.filter(|ratio| !recorded.contains(ratio)).map(str::to_string).collect()
}

#[test]
fn what_the_choice_of_a_sideways_rung_says_was_measured() {
    let record = page("50-batching.txt");
    assert_eq!(ratios_not_recorded(&page("55-sideways-which.md"), &record), Vec::<String>::new());
    assert_eq!(ratios_not_recorded("0.77777 of it", &record), ["0.77777"]);
    // The columns: 32 B, 1400 B, 16 peers, GSO 32, GSO 1400, GRO 32, GRO 1400, one core, alone.
    let (mmsg, gso) = (batching_row(&record, "c-mmsg"), batching_row(&record, "c-gso"));
    assert!(mmsg.len() == 9 && gso.len() == 9, "{mmsg:?} {gso:?}");
    // A short run shows the form; its figures mean nothing, save that a factor of ten shows in them, too.
    assert!(gso[5] < 0.2 && mmsg[5] > 0.5, "fewer trips save most, fewer calls do not: {mmsg:?} {gso:?}");
}

#[test]
fn every_program_stands_on_a_page() {
    let pages: String = pages().into_values().collect();
    let listed = ladder(&["list", "--json"]).out;
    let programs: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("a list");
    let names: Vec<&str> = programs.iter().filter_map(|program| program["program"].as_str()).collect();
    assert!(names.len() > 30, "{names:?}");
    let missing: Vec<&&str> = names.iter().filter(|name| !pages.contains(**name)).collect();
    assert!(missing.is_empty(), "no page names {missing:?}");
}

/// An entry of the index by symptom.
struct Entry {
    question: String,
    page: String,
    command: String,
}

fn index_by_symptom(text: &str) -> Vec<Entry> {
    let form = Regex::new(r"(?m)^- \*\*(.+)\*\*\\\n  \[.+\]\(([^)]+)\)\\\n  `([^`]+)` prints `.+`$");
    let form = form.expect("a pattern");
    let entries = form.captures_iter(text);
    let entries = entries.map(|found| Entry {
        question: found[1].into(),
        page: found[2].into(),
        command: found[3].into(),
    });
    entries.collect()
}

/// Whether a reader can run a command in the checkout: a program of ours, the tool on one, or a script.
fn is_ours(command: &str, programs: &[&str]) -> bool {
    match command.split(' ').collect::<Vec<_>>()[..] {
        ["cargo", "run", "--bin", program, ..] => programs.contains(&program),
        ["cargo", "ladder", "slow-link"] => true,
        ["cargo", "ladder", "acts" | "break" | "compare" | "trace", ref words @ ..] => {
            words.iter().any(|word| programs.contains(word))
        }
        [script] if script.starts_with("scripts/") => root().join(script).is_file(),
        _ => false,
    }
}

#[test]
fn the_index_by_symptom_is_what_headers_and_pages_say() {
    let said = ladder(&["docs", "--check", "docs/92-index-by-symptom.md"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let text = page("92-index-by-symptom.md");
    let index = index_by_symptom(&text);
    assert_eq!(index.len(), text.matches("\n- ").count(), "each entry was read");
    let listed: Vec<serde_json::Value> =
        serde_json::from_str(&ladder(&["list", "--json"]).out).expect("a list");
    let programs: Vec<&str> = listed.iter().filter_map(|program| program["program"].as_str()).collect();
    for Entry { question, page, command } in &index {
        assert!(is_ours(command, &programs), "{question}: {command} is no command of ours");
        assert!(root().join("docs").join(page).is_file(), "{question}: there is no page {page}");
    }
    let trouble = listed.iter().filter(|program| program["layer"] == "6-trouble");
    for program in trouble {
        let name = &program["program"];
        let symptom = program["symptom"].as_str().unwrap_or_else(|| panic!("{name} has no `Symptom:`"));
        assert!(index.iter().any(|entry| entry.question == symptom), "{name}: no entry asks {symptom:?}");
    }
}

#[test]
fn a_command_that_nobody_can_run_is_found() {
    let ours = |command| is_ours(command, &["udp-drops", "echo-poll"]);
    assert!(ours("cargo run --bin udp-drops -- --stay") && ours("cargo ladder break echo-poll"));
    assert!(ours("scripts/why"));
    for wrong in ["cargo run --bin udp-drop", "cargo ladder trace", "scripts/whynot", "udp-drops", ""] {
        assert!(!ours(wrong), "{wrong}");
    }
}

/// The questions that people ask in public, each by a word that they would search for.
const ASKED: [&str; 21] = [
    "SO_RCVBUF",
    "RcvbufErrors",
    "recvmmsg",
    "GSO",
    "io_uring",
    "SO_REUSEPORT",
    "cancel safe",
    "coop",
    "unconstrained",
    "LIFO slot",
    "EAGAIN",
    "FuturesUnordered",
    "spawn_blocking",
    "current-thread",
    "MissedTickBehavior",
    "wrong address",
    "IP_PKTINFO",
    "join_all",
    "would-block",
    "coordinated omission",
    "outstanding requests",
];

#[test]
fn the_index_by_symptom_has_what_people_ask() {
    let index = index_by_symptom(&page("92-index-by-symptom.md"));
    let missing = |words: &[&'static str]| -> Vec<&str> {
        let unasked = |word: &&&str| !index.iter().any(|entry| entry.question.contains(**word));
        words.iter().filter(unasked).copied().collect()
    };
    assert_eq!(missing(&ASKED), Vec::<&str>::new());
    assert_eq!(missing(&["a word that nobody asks for"]).len(), 1);
}

#[test]
fn the_front_page_of_a_public_crate_has_an_example_that_is_compiled() {
    for krate in ["datagram-queue", "trace-marks", "3-futures", "echo-contract", "harness"] {
        let folder = root().join("crates").join(krate);
        let read = |file: &str| fs::read_to_string(folder.join(file)).expect("a file of the crate");
        assert!(read("src/lib.rs").starts_with("#![doc = include_str!(\"../README.md\")]"), "{krate}");
        let readme = read("README.md");
        assert!(readme.starts_with("# "), "{krate}: the front page has a title");
        let compiled = ["\n```\nuse ", "\n```rust\n", "\n```no_run\n"];
        assert!(compiled.iter().any(|fence| readme.contains(fence)), "{krate}: no example");
    }
}

#[test]
fn every_link_of_the_site_stays_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = folder.path().canonicalize().expect("the folder");
    let said = ladder(&["docs", "--site", &site.display().to_string()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let mut pages = BTreeMap::new();
    let mut folders = vec![site.join("src")];
    while let Some(folder) = folders.pop() {
        for file in entries(&folder) {
            if file.is_dir() {
                folders.push(file);
            } else if file.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&file).expect("a page");
                pages.insert(file, text);
            }
        }
    }
    let broken: Vec<String> =
        pages.iter().flat_map(|(page, text)| broken_links(page, text, &pages)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    // mdBook shows what its table names, and nothing else.
    let table = site.join("src/SUMMARY.md");
    let shown = linked(&pages[&table]);
    let left_out: Vec<&PathBuf> = pages
        .keys()
        .filter(|page| **page != table && !shown.iter().any(|shown| **page == site.join("src").join(shown)))
        .collect();
    assert!(left_out.is_empty(), "the site has no way to {left_out:#?}");
    assert!(shown.len() > 60, "{shown:?}");
    assert!(site.join("book.toml").is_file() && site.join("src/pictures/loop.svg").is_file());
}
