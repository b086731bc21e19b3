//! `ladder docs`: the recorded blocks of README.md and docs/, made from running the programs.
//!
//! A block stands between two comments at the beginning of a line, `<!-- ladder: KIND ARGS -->` and
//! `<!-- ladder: end -->`. Nothing between them is typed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::Parser;
use harness::{Launch, PATIENCE};
use regex::{Captures, Regex};

use crate::checkout::Checkout;
use crate::contents::Contents;
use crate::counts::{self, Row};
use crate::failure::{Context, Failure, Result, failed, note, print, usage};
use crate::names::pattern;
use crate::pictures::{self, Pictures};
use crate::region::region;
use crate::server;
use crate::{acts, breaks, claims, compare, diff, exercise, list, site, symptoms, timeline, trace};

/// Options of `ladder docs`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Write nothing; fail when a recorded block differs from what the programs do now
    #[arg(long)]
    pub check: bool,
    /// Record nothing; write the pages, and what they link to, into DIR as input for mdBook (scripts/book runs both)
    #[arg(long, value_name = "DIR", conflicts_with_all = ["check", "pages"])]
    pub site: Option<PathBuf>,
    /// Pages to look at; README.md and all of docs/ when none is named
    pub pages: Vec<PathBuf>,
}

/// Where the pictures of README.md lie; those of another page lie in `pictures` beside it.
const PICTURES: &str = "docs/pictures";

/// Runs `ladder docs`: exit code 1 when `--check` finds drift.
pub fn run(checkout: &Checkout, options: &Options) -> Result<ExitCode> {
    if let Some(folder) = &options.site {
        site::write(&checkout.root, folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    let pages = pages(checkout, &options.pages)?;
    let mut recorder = Recorder { checkout, rows: None, again: !options.check };
    let mut drifted = Vec::new();
    let mut pictures = Pictures::default();
    for page in pages {
        let name = pictures::name(&checkout.root, &page);
        let old = fs::read_to_string(&page).context(|| format!("read {name}"))?;
        let mut drawn = Pictures::default();
        let new = rewrite(&old, |block| recorder.record(block, &page, &mut drawn))
            .map_err(|failure| Failure::Failed(format!("{name}: {failure}")))?;
        if name.starts_with("docs/") && !new.lines().any(|line| marker(line).is_some_and(is_signpost)) {
            return failed(format!(
                "{name} leads nowhere: end it with the lines `<!-- ladder: links -->` and `<!-- ladder: end -->`"
            ));
        }
        if options.check {
            if new != old {
                print(&diff::unified(&name, &format!("{name} (recorded now)"), &old, &new));
            }
            if drawn.differ(&checkout.root) || new != old {
                drifted.push(name);
            }
        } else {
            if new != old {
                fs::write(&page, new).context(|| format!("write {name}"))?;
                note(&format!("ladder: {name} recorded anew"));
            }
            drawn.write(&checkout.root)?;
        }
        pictures.append(drawn)?;
    }
    // Only whoever has seen all pages knows that nobody shows a picture.
    if options.pages.is_empty() {
        let orphans = pictures.orphans(&checkout.root.join(PICTURES));
        for orphan in &orphans {
            note(&format!("ladder: no page shows {}: remove it", pictures::name(&checkout.root, orphan)));
        }
        if !orphans.is_empty() {
            return Ok(ExitCode::from(1));
        }
    }
    if drifted.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    note(&format!(
        "ladder: {} no longer what the programs do; if the programs are right, mend the pages with: cargo ladder docs {}",
        if drifted.len() == 1 { "a recorded block is" } else { "recorded blocks are" },
        drifted.join(" ")
    ));
    Ok(ExitCode::from(1))
}

/// The pages named, or README.md and everything in docs/.
fn pages(checkout: &Checkout, named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if !named.is_empty() {
        // A page is named from where the reader stands, or from the top of the checkout.
        return named
            .iter()
            .map(|page| match (page.is_file(), checkout.root.join(page)) {
                (true, _) => page.canonicalize().context(|| format!("find {}", page.display())),
                (false, below) if below.is_file() => Ok(below),
                _ => usage(format!("there is no page {}", page.display())),
            })
            .collect();
    }
    let mut pages = vec![checkout.root.join("README.md")];
    if let Ok(entries) = fs::read_dir(checkout.root.join("docs")) {
        pages.extend(entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()));
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md") && page.is_file());
    pages.sort();
    Ok(pages)
}

/// The opening comment of a block: its kind and its arguments.
struct Block {
    kind: String,
    args: Vec<String>,
    /// All of it, for messages.
    whole: String,
}

/// Replaces the contents of every block by what `record` returns for it.
fn rewrite(text: &str, mut record: impl FnMut(&Block) -> Result<String>) -> Result<String> {
    let mut out = String::new();
    let mut lines = text.lines().enumerate();
    let mut fence: Option<&str> = None;
    while let Some((number, line)) = lines.next() {
        out.push_str(line);
        out.push('\n');
        // A comment inside a fenced block is an example of one.
        if let Some(open) = fence {
            if line.trim_end() == open {
                fence = None;
            }
            continue;
        }
        fence = ["```", "~~~"].into_iter().find(|mark| line.starts_with(mark));
        let Some(words) = marker(line) else { continue };
        if words == "end" {
            return failed(format!("line {}: `ladder: end` closes no block", number + 1));
        }
        let Some(mut args) = shlex::split(words).filter(|args| !args.is_empty()) else {
            return failed(format!("line {}: `{words}` is no list of words as a shell has them", number + 1));
        };
        let block = Block { kind: args.remove(0), args, whole: words.to_string() };
        let closed = lines.any(|(_, line)| marker(line) == Some("end"));
        if !closed {
            return failed(format!("line {}: no `<!-- ladder: end -->` closes `{words}`", number + 1));
        }
        let recorded = record(&block)
            .map_err(|failure| Failure::Failed(format!("line {} (`{words}`): {failure}", number + 1)))?;
        out.push_str(&recorded);
        out.push_str("<!-- ladder: end -->\n");
    }
    Ok(out)
}

/// The words of a comment of ours.
pub fn marker(line: &str) -> Option<&str> {
    Some(line.trim_end().strip_prefix("<!-- ladder:")?.strip_suffix("-->")?.trim())
}

/// Whether a block leads the reader on: the links at the foot of a page, or the table of contents itself.
fn is_signpost(words: &str) -> bool {
    matches!(words, "links" | "contents")
}

/// Options of other subcommands, as they stand in a marker.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct TraceWords {
    #[command(flatten)]
    options: trace::Options,
}

/// The same for `timeline`.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct TimelineWords {
    #[command(flatten)]
    options: timeline::Options,
}

/// The same for `compare`.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct CompareWords {
    #[command(flatten)]
    options: compare::Options,
}

/// The same for `diff`.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct DiffWords {
    #[command(flatten)]
    options: diff::Options,
}

fn words<P: Parser>(args: &[String]) -> Result<P> {
    P::try_parse_from(args).map_err(|error| {
        let text = error.to_string();
        Failure::Failed(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string())
    })
}

/// Makes the contents of blocks.
struct Recorder<'a> {
    checkout: &'a Checkout,
    /// Counts of all echo servers, made once.
    rows: Option<Vec<Row>>,
    /// Record everything that runs twice: what differs would drift at the next check.
    again: bool,
}

impl Recorder<'_> {
    /// What stands in the block. `page` is the page's file; files that the block draws go into `drawn`.
    fn record(&mut self, block: &Block, page: &Path, drawn: &mut Pictures) -> Result<String> {
        match block.kind.as_str() {
            "trace" => {
                let options = words::<TraceWords>(&block.args)?.options;
                self.transcript(&format!("cargo ladder trace {}", command_line(&block.args)), &options)
            }
            "strace" => {
                let mut args = vec!["--alone".to_string()];
                args.extend(block.args.iter().cloned());
                let options = words::<TraceWords>(&args)?.options;
                self.transcript(&format!("cargo ladder trace {}", command_line(&args)), &options)
            }
            "timeline" => self.picture(block, page, drawn),
            "run" => self.output(block),
            "contents" => Ok(self.contents()?.table()),
            "exercises" => exercise::class_table(self.checkout),
            "symptoms" => symptoms::index(&self.checkout.root.join("docs"), &self.checkout.programs),
            "links" => self.contents()?.links(page),
            "region" => self.region(block),
            "file" => match &block.args[..] {
                [path] => {
                    let text = fs::read_to_string(self.checkout.root.join(path));
                    Ok(fenced("text", text.context(|| format!("read {path}"))?.trim_end()))
                }
                _ => failed("`file` takes a path, from the top of the checkout"),
            },
            "break" => match &block.args[..] {
                [program] => self.twice(|| breaks::record(self.checkout, program, fenced)),
                _ => failed("`break` takes one program"),
            },
            "list" => {
                let checkout = self.checkout;
                let to_root = if page.parent() == Some(&checkout.root) { "" } else { "../" };
                let rows = self.rows()?;
                Ok(format!("\n{}\n", list::ladder_table(checkout, rows, to_root)))
            }
            "compare" => {
                let options = words::<CompareWords>(&block.args)?.options;
                let options = compare::Options { markdown: true, no_start_up: true, ..options };
                let tables = if options.programs.is_empty() && options.with.is_empty() {
                    compare::tables(self.rows()?, &options)
                } else {
                    let report = compare::measure(self.checkout, &options)?;
                    if let Some(broken) = report.broken.first() {
                        return failed(broken);
                    }
                    report.tables(&options)
                };
                Ok(format!("\n{tables}\n"))
            }
            "acts" => match &block.args[..] {
                [program, flags @ ..] => {
                    let text = self.twice(|| acts::transcript(self.checkout, program, flags))?;
                    let flags =
                        if flags.is_empty() { String::new() } else { format!(" -- {}", flags.join(" ")) };
                    Ok(fenced("text", &format!("$ cargo ladder acts --trace {program}{flags}\n{text}")))
                }
                _ => failed("`acts` takes an act and its flags"),
            },
            "diff" => {
                let options = words::<DiffWords>(&block.args)?.options;
                Ok(fenced("diff", &diff::difference(self.checkout, &options)?))
            }
            _ => failed(format!(
                "`{}` is none of trace, timeline, run, strace, region, file, break, list, compare, acts, diff, \
                 symptoms, contents, links, end",
                block.whole
            )),
        }
    }

    /// A picture: `timeline FILE ALT ARGS`. The sentence ALT says what happens in it, to those who cannot see it.
    fn picture(&self, block: &Block, page: &Path, drawn: &mut Pictures) -> Result<String> {
        let [file, alt, args @ ..] = &block.args[..] else {
            return failed(
                "`timeline` takes the name of a file, a sentence that says what happens, and what to record",
            );
        };
        if !file.ends_with(".svg") || file.contains('/') {
            return failed(format!("{file:?} is no name of a picture, such as 16-edge.svg"));
        }
        let options = words::<TimelineWords>(args)?.options;
        let picture =
            self.twice(|| Ok(timeline::draw(self.checkout, self.checkout.profile, &options)?.svg()))?;
        let (folder, link) = match page.parent() {
            Some(folder) if folder != self.checkout.root => (folder.join("pictures"), "pictures"),
            _ => (self.checkout.root.join(PICTURES), PICTURES),
        };
        drawn.add(folder.join(file), picture)?;
        let alt = alt.replace('[', "(").replace(']', ")");
        Ok(format!("![{alt}]({link}/{file})\n\nDrawn by `cargo ladder timeline {}`.\n", command_line(args)))
    }

    /// The order of the pages. It is read each time: a title may have changed.
    fn contents(&self) -> Result<Contents> {
        Contents::read(&self.checkout.root.join("docs"))
    }

    fn transcript(&self, command: &str, options: &trace::Options) -> Result<String> {
        let text = self.twice(|| trace::transcript(self.checkout, self.checkout.profile, options))?;
        Ok(fenced("text", &format!("$ {command}\n{text}")))
    }

    /// Counts of all echo servers; what the text claims of them has to hold before it is recorded.
    fn rows(&mut self) -> Result<&[Row]> {
        if self.rows.is_none() {
            let targets = server::targets(self.checkout, &[], &[])?;
            let rows = counts::measure(self.checkout, self.checkout.profile, &targets)?;
            if let Some(broken) = rows.iter().flat_map(claims::broken).next() {
                return failed(broken);
            }
            self.rows = Some(rows);
        }
        Ok(self.rows.as_deref().unwrap_or_default())
    }

    /// Standard output of a program that ends by itself, with the command above it.
    fn output(&self, block: &Block) -> Result<String> {
        let Some((name, args)) = block.args.split_first() else {
            return failed("`run` names no program");
        };
        let program = self.checkout.program(name)?;
        self.checkout.build([program.name.as_str()], self.checkout.profile)?;
        let text = self.twice(|| {
            let binary = self.checkout.binary(&program.name, self.checkout.profile);
            run_to_its_end(&binary, args).map(|text| masked(&text))
        })?;
        let dashes = if args.is_empty() { "" } else { " -- " };
        Ok(fenced("text", &format!("$ cargo run --bin {name}{dashes}{}\n{text}", command_line(args))))
    }

    /// Source between `// region: NAME` and `// endregion: NAME`, moved to the left margin.
    fn region(&self, block: &Block) -> Result<String> {
        let [path, name] = &block.args[..] else {
            return failed("`region` takes a path, from the top of the checkout, and a name");
        };
        let text = fs::read_to_string(self.checkout.root.join(path)).context(|| format!("read {path}"))?;
        let code = region(path, &text, name)?;
        let language = match Path::new(path).extension().and_then(|extension| extension.to_str()) {
            Some("rs") => "rust",
            Some("toml") => "toml",
            Some("sh") | None => "sh",
            Some(_) => "text",
        };
        Ok(fenced(language, &code))
    }

    /// Records twice when writing: a block that differs at once would differ in CI.
    fn twice(&self, record: impl Fn() -> Result<String>) -> Result<String> {
        let first = record()?;
        if self.again {
            let second = record()?;
            if first != second {
                return failed(format!(
                    "it differs from one run to the next, so it cannot be recorded; let the program print a stable \
                     form, or assert ranges in a test:\n{}",
                    diff::unified("one run", "the next", &first, &second)
                ));
            }
        }
        Ok(first)
    }
}

/// A fenced block, longer than any fence inside it.
fn fenced(language: &str, text: &str) -> String {
    let mut fence = "```".to_string();
    while text.contains(&fence) {
        fence.push('`');
    }
    format!("{fence}{language}\n{}\n{fence}\n", text.trim_end_matches('\n'))
}

/// Words as one would type them.
fn command_line(args: &[String]) -> String {
    // Only a word with a zero byte could not be quoted, and no command line holds one.
    shlex::try_join(args.iter().map(String::as_str)).unwrap_or_else(|_| args.join(" "))
}

fn run_to_its_end(binary: &Path, args: &[String]) -> Result<String> {
    let ended = Launch::new(binary.display()).args(args).patience(PATIENCE * 2).run()?;
    let mut text = ended.stdout;
    match ended.status.code() {
        Some(0) => {}
        Some(code) => text.push_str(&format!("{}(exit code {code})\n", ended.stderr)),
        None => return failed(format!("{} ended by a signal: {}", ended.name, ended.status)),
    }
    Ok(text)
}

/// Replaces what no two runs have in common: ports of the kernel's choice, measured times, addresses of memory.
fn masked(text: &str) -> String {
    static PORT: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(127\.0\.0\.1|\[::1\]|0\.0\.0\.0|\bport)([: ])(\d{5})\b"));
    static TIME: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b\d+\.\d+( ?)(ns|us|µs|ms|s)\b"));
    static SECONDS: LazyLock<Regex> = LazyLock::new(|| pattern(r#""seconds": ?[0-9.e-]+"#));
    static POINTER: LazyLock<Regex> = LazyLock::new(|| pattern(r"0x[0-9a-f]{6,}"));
    let text = PORT.replace_all(text, |found: &Captures| match found[3].parse::<u32>() {
        // Where Linux begins to choose ports by itself.
        Ok(port) if port >= 32768 => format!("{}{}PORT", &found[1], &found[2]),
        _ => found[0].to_string(),
    });
    let text = TIME.replace_all(&text, "...${1}${2}");
    let text = SECONDS.replace_all(&text, "\"seconds\":...");
    POINTER.replace_all(&text, "0x...").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_outside_of_fences_are_rewritten() {
        let page = "# Page\n<!-- ladder: list -->\nold\n<!-- ladder: end -->\n```\n<!-- ladder: list -->\n```\n    \
                    <!-- ladder: list -->\ntext\n";
        let new =
            rewrite(page, |block| Ok(format!("new {} {}\n", block.kind, block.args.len()))).expect("a page");
        assert_eq!(
            new,
            "# Page\n<!-- ladder: list -->\nnew list 0\n<!-- ladder: end -->\n```\n<!-- ladder: list -->\n```\n    \
             <!-- ladder: list -->\ntext\n"
        );
    }

    #[test]
    fn a_block_without_its_end_is_a_failure_that_names_the_line() {
        let failure = rewrite("a\n<!-- ladder: list -->\nb\n", |_| Ok(String::new())).expect_err("no end");
        assert!(failure.to_string().contains("line 2"), "{failure}");
        let failure = rewrite("<!-- ladder: end -->\n", |_| Ok(String::new())).expect_err("no beginning");
        assert!(failure.to_string().contains("line 1"), "{failure}");
    }

    #[test]
    fn a_fence_is_longer_than_those_inside() {
        assert_eq!(fenced("text", "a\n```\nb\n"), "````text\na\n```\nb\n````\n");
    }

    #[test]
    fn what_varies_is_masked_and_what_does_not_stays() {
        assert_eq!(
            masked("x: listening on 127.0.0.1:54321  (try: nc -u 127.0.0.1 54321)"),
            "x: listening on 127.0.0.1:PORT  (try: nc -u 127.0.0.1 PORT)"
        );
        assert_eq!(
            masked("127.0.0.1:2000 after 200ms, 1.5 ms late"),
            "127.0.0.1:2000 after 200ms, ... ms late"
        );
        assert_eq!(
            masked("{\"seconds\":0.25,\"sent\":3} 0x7ffd12345678"),
            "{\"seconds\":...,\"sent\":3} 0x..."
        );
        assert_eq!(masked("3 polls, 10 wakes"), "3 polls, 10 wakes");
    }
}
