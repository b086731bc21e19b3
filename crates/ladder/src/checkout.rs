//! The checkout around the tool: its programs, described by their own headers, and their binaries.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use crate::failure::{Context, Result, failed, usage};

/// Which build of the programs is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `target/debug`
    Dev,
    /// `target/release`
    Release,
}

impl Profile {
    /// The folder below the target directory.
    pub fn folder(self) -> &'static str {
        match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
        }
    }
}

/// One program of the project, as its source describes it.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name of the binary.
    pub name: String,
    /// Folder below `crates/`, such as `1-readiness`.
    pub layer: String,
    /// Number of its page in `docs/`, which is its place in the reading order.
    pub rung: Option<u32>,
    /// The page, relative to the checkout.
    pub page: Option<String>,
    /// The source file, relative to the checkout.
    pub source: String,
    /// What it is: the header's first line without the name.
    pub about: String,
    /// What it waits in, taken from the first line ("... that waits in poll(2)").
    pub waits_in: Option<String>,
    /// The one new idea: the header's `New here:`.
    pub new_here: String,
    /// What it is expected to do: the header's `Expect:`.
    pub expect: String,
    /// What somebody asks whom it helps: the header's `Symptom:`; empty for most.
    pub symptom: String,
    /// Lines of code: neither blank nor only a comment.
    pub lines: usize,
}

impl Program {
    /// Echo servers answer the contract, and stand in its table; everything else is a demo.
    pub fn is_echo(&self) -> bool {
        echo_contract::RUNGS.iter().any(|rung| rung.name == self.name)
    }
}

/// The files the tool works on.
pub struct Checkout {
    /// Folder of the workspace manifest.
    pub root: PathBuf,
    /// Where cargo puts what it builds.
    pub target: PathBuf,
    /// The profile this tool itself was built with.
    pub profile: Profile,
    /// Every program, in ladder order.
    pub programs: Vec<Program>,
}

impl Checkout {
    /// Finds the checkout: around the tool's own binary, else around the current directory, else where the
    /// tool was compiled.
    pub fn find() -> Result<Self> {
        let tool = std::env::current_exe().context(|| "find the tool's own binary".into())?;
        let beside = tool.parent().unwrap_or(Path::new("."));
        let profile = if beside.ends_with("release") { Profile::Release } else { Profile::Dev };
        let here = std::env::current_dir().unwrap_or_default();
        let compiled = Path::new(env!("CARGO_MANIFEST_DIR"));
        let Some(root) = [beside, &here, compiled].into_iter().find_map(root_above) else {
            return failed("no checkout of echo-ladder around here: run it as `cargo ladder` inside one");
        };
        let target = beside.parent().map_or_else(|| root.join("target"), Path::to_path_buf);
        let programs = programs(&root)?;
        Ok(Checkout { root, target, profile, programs })
    }

    /// The program of that name; wrong usage, with the nearest names, when there is none.
    pub fn program(&self, name: &str) -> Result<&Program> {
        if let Some(program) = self.programs.iter().find(|program| program.name == name) {
            return Ok(program);
        }
        let mut near: Vec<&str> = self.programs.iter().map(|program| program.name.as_str()).collect();
        near.sort_by_key(|other| std::cmp::Reverse((100.0 * similarity(name, other)) as u32));
        near.truncate(3);
        usage(format!(
            "no program {name:?} (did you mean {}? `cargo ladder list` names them all)",
            near.join(", ")
        ))
    }

    /// The programs named, or all echo servers when none is named.
    pub fn echo_programs(&self, names: &[String]) -> Result<Vec<Program>> {
        if names.is_empty() {
            return Ok(self.programs.iter().filter(|program| program.is_echo()).cloned().collect());
        }
        names.iter().map(|name| self.program(name).cloned()).collect()
    }

    /// Folder of the binaries of that profile.
    pub fn binaries(&self, profile: Profile) -> PathBuf {
        self.target.join(profile.folder())
    }

    /// Path of a binary of that profile.
    pub fn binary(&self, name: &str, profile: Profile) -> PathBuf {
        self.binaries(profile).join(name)
    }

    /// `cargo build` into the tool's own target directory.
    pub fn cargo_build(&self, profile: Profile) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--quiet", "--target-dir"]).arg(&self.target).stdin(Stdio::null());
        if profile == Profile::Release {
            command.arg("--release");
        }
        command
    }

    /// Where a copy of the workspace is changed and built.
    pub fn broken_workspace(&self) -> PathBuf {
        self.target.join("ladder-broken")
    }

    /// Builds those of the binaries that are missing, or older than a source they were built from.
    pub fn build<'a>(&self, names: impl IntoIterator<Item = &'a str>, profile: Profile) -> Result<()> {
        let stale: Vec<&str> =
            names.into_iter().filter(|name| is_stale(&self.binary(name, profile))).collect();
        if stale.is_empty() {
            return Ok(());
        }
        let mut command = self.cargo_build(profile);
        command.current_dir(&self.root);
        for name in &stale {
            command.args(["--bin", name]);
        }
        // Whatever cargo prints to standard output is not the answer to the subcommand.
        let output =
            command.stderr(Stdio::inherit()).output().context(|| "start cargo (is it on PATH?)".into())?;
        if !output.status.success() {
            return failed(format!("cargo could not build {}: mend what it reports above", stale.join(", ")));
        }
        Ok(())
    }
}

/// The nearest folder above `start` that holds this workspace.
fn root_above(start: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .find(|folder| {
            folder.join("Cargo.toml").is_file() && folder.join("crates/ladder/Cargo.toml").is_file()
        })
        .map(Path::to_path_buf)
}

/// How alike two names are, from 0 to 1.
fn similarity(a: &str, b: &str) -> f32 {
    similar::TextDiff::from_chars(a, b).ratio()
}

/// Whether a binary is missing or older than one of the sources that cargo noted beside it.
fn is_stale(binary: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let Some(built) = modified(binary) else { return true };
    let Ok(noted) = fs::read_to_string(binary.with_extension("d")) else { return true };
    let sources = noted.split_once(':').map_or("", |(_, sources)| sources).trim();
    // Blanks inside a path are escaped by a backslash.
    sources
        .replace("\\ ", "\0")
        .split_ascii_whitespace()
        .map(|path| path.replace('\0', " "))
        .any(|path| modified(Path::new(&path)).is_none_or(|changed: SystemTime| changed > built))
}

/// Reads every `crates/*/src/bin/*.rs` and `crates/*/src/main.rs`. Order: the number of the folder, then the
/// number of the page in `docs/`, then the contract's table of rungs, then the name.
fn programs(root: &Path) -> Result<Vec<Program>> {
    let pages = pages(root);
    let mut found = Vec::new();
    for folder in entries(&root.join("crates"))? {
        let layer = file_name(&folder);
        // What it holds is broken on purpose, for the suite's own tests.
        if layer == "echo-contract" {
            continue;
        }
        let bins = folder.join("src/bin");
        let mut sources: Vec<PathBuf> = if bins.is_dir() { entries(&bins)? } else { Vec::new() };
        sources.push(folder.join("src/main.rs"));
        for path in sources {
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let Some(mut program) = describe(&text) else { continue };
            program.layer = layer.clone();
            program.source = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            if let Some((&number, page)) = page_of(&pages, &program.name) {
                program.rung = Some(number);
                program.page = Some(format!("docs/{page}.md"));
            }
            found.push(program);
        }
    }
    let number =
        |layer: &str| layer.split('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX);
    found.sort_by_cached_key(|program: &Program| {
        let place = echo_contract::RUNGS.iter().position(|rung| rung.name == program.name);
        let page = program.rung.unwrap_or(if place.is_some() { 0 } else { u32::MAX });
        (number(&program.layer), program.layer.clone(), page, place, program.name.clone())
    });
    Ok(found)
}

/// Pages of `docs/` by number: `03-echo-poll`.
fn pages(root: &Path) -> BTreeMap<u32, String> {
    let Ok(all) = entries(&root.join("docs")) else { return BTreeMap::new() };
    all.iter()
        .filter_map(|path| path.file_name()?.to_str()?.strip_suffix(".md").map(str::to_string))
        .filter_map(|stem| Some((stem.split('-').next()?.parse().ok()?, stem)))
        .collect()
}

/// The page that is named after the program or after the longest beginning of its name.
fn page_of<'a>(pages: &'a BTreeMap<u32, String>, program: &str) -> Option<(&'a u32, &'a String)> {
    pages
        .iter()
        .filter_map(|(number, stem)| Some((number, stem, stem.split_once('-')?.1)))
        .filter(|(_, _, title)| {
            program.strip_prefix(title).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
        .max_by_key(|(_, _, title)| title.len())
        .map(|(number, stem, _)| (number, stem))
}

/// Reads a header of the project's form; `None` when the file has another one.
fn describe(text: &str) -> Option<Program> {
    let header: Vec<&str> =
        text.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.trim_end()).collect();
    let (name, about) = header.first()?.trim().split_once(": ")?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return None;
    }
    // The first sentence may run over several lines, up to the first blank one.
    let first: Vec<&str> =
        header.iter().map(|line| line.trim()).take_while(|line| !line.is_empty()).collect();
    let first = first.join(" ");
    let waits_in = first
        .split_once("waits ")
        .map(|(_, place)| place.split(". ").next().unwrap_or(place).trim_end_matches('.'))
        .map(|place| place.strip_prefix("in ").unwrap_or(place).to_string());
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    Some(Program {
        name: name.to_string(),
        layer: String::new(),
        rung: None,
        page: None,
        source: String::new(),
        about: about.trim_end_matches('.').to_string(),
        waits_in,
        new_here: entry(&header, "New here:").trim_end_matches('.').to_string(),
        expect: entry(&header, "Expect:"),
        symptom: entry(&header, "Symptom:").trim_end_matches('.').to_string(),
        lines,
    })
}

/// What a header says under `key`, such as `New here:`, over as many lines as it takes; empty when it says nothing.
fn entry(header: &[&str], key: &str) -> String {
    let mut lines = header.iter().map(|line| line.trim());
    let Some(first) = lines.find_map(|line| line.strip_prefix(key)) else { return String::new() };
    let more = lines.take_while(|line| !line.is_empty() && !is_key(line));
    let words: Vec<&str> = std::iter::once(first.trim()).chain(more).collect();
    words.join(" ")
}

/// Whether a header line opens an entry such as `Run:` or `Still wrong:`.
fn is_key(line: &str) -> bool {
    line.split_once(':').is_some_and(|(key, _)| {
        key.starts_with(|c: char| c.is_ascii_uppercase())
            && key.len() < 16
            && key.chars().all(|c| c.is_ascii_alphabetic() || c == ' ')
    })
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .context(|| format!("read {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "//! echo-poll: a UDP echo that waits in poll(2).\n//!\n\
        //! New here: a list of (descriptor, events);\n//!           no FD_SETSIZE.\n\
        //! Run:      cargo run --bin echo-poll\n\
        //! Symptom:  ten thousand sockets; which one\n//!           is ready?\n\
        //! Expect:   poll, recvfrom for one datagram\n\nfn main() {\n    // why\n\n}\n";

    #[test]
    fn a_header_says_what_a_program_waits_in_and_what_is_new() {
        let program = describe(HEADER).expect("a header of the project's form");
        assert_eq!(program.name, "echo-poll");
        assert_eq!(program.about, "a UDP echo that waits in poll(2)");
        assert_eq!(program.waits_in.as_deref(), Some("poll(2)"));
        assert_eq!(program.new_here, "a list of (descriptor, events); no FD_SETSIZE");
        assert_eq!(program.expect, "poll, recvfrom for one datagram");
        assert_eq!(program.symptom, "ten thousand sockets; which one is ready?");
        assert_eq!(program.lines, 2, "blank lines and comments are not code");
    }

    #[test]
    fn another_kind_of_header_is_no_program() {
        assert!(describe("//! The tool itself.\nfn main() {}\n").is_none());
        assert!(describe("fn main() {}\n").is_none());
    }

    #[test]
    fn a_page_may_serve_several_programs() {
        let pages = BTreeMap::from([
            (15, "15-echo-tokio".to_string()),
            (16, "16-echo-tokio-mpsc".to_string()),
            (18, "18-tokio-multisocket".to_string()),
        ]);
        let number = |name| page_of(&pages, name).map(|(number, _)| *number);
        assert_eq!(number("echo-tokio"), Some(15));
        assert_eq!(number("echo-tokio-mpsc"), Some(16));
        assert_eq!(number("tokio-multisocket-join"), Some(18));
        assert_eq!(number("tokio-multisockets"), None);
    }
}
