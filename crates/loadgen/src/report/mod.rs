//! Outputs: the tables a person reads, and the files a program reads.
//!
//! Seam: `run`, `search` and `compare` end by calling [`emit`] with one [`crate::result::Document`]; `loadgen report` reads
//! such documents back, merges those of kind `run`, and calls [`emit`] too.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use echo_service::print_line;

pub use self::csv::write_csv;
pub use self::hdr::{write_hgrm, write_hlog};
pub use self::merge::merge;
use crate::exit::{EXIT_INTERRUPTED, EXIT_INVALID, EXIT_OK, EXIT_SLO};
use crate::record::Metric;
use crate::result::{self, Document};

mod csv;
mod hdr;
#[cfg(feature = "plots")]
mod html;
mod merge;
#[cfg(feature = "plots")]
mod plot;
mod tables;

/// Where results go, shared by every subcommand that yields one.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct OutputArgs {
    /// Print the result as one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
    /// Write one row per window as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write an HdrHistogram V2 interval log, one tag per metric
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Write the percentile distribution as HdrHistogram text
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Write the plot of latency by percentile as SVG
    #[arg(long, value_name = "FILE")]
    #[cfg(feature = "plots")]
    pub svg: Option<PathBuf>,
    /// Write one self-contained HTML page with tables and plots
    #[arg(long, value_name = "FILE")]
    #[cfg(feature = "plots")]
    pub html: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long)]
    pub no_progress: bool,
}

/// Flags of `loadgen report`.
#[derive(clap::Args, Clone, Debug)]
pub struct ReportArgs {
    /// Result files, as `--json` printed them
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub output: OutputArgs,
}

/// `loadgen report`: merges saved runs bucket by bucket and renders them; returns the exit code that the merged run
/// itself would have had. A search or a comparison is rendered by itself.
///
/// # Errors
/// A file that cannot be read or is no result, or runs that are not of one plan.
pub fn run(args: &ReportArgs) -> anyhow::Result<u8> {
    let names: Vec<_> = args.files.iter().map(|path| path.display().to_string()).collect();
    let documents = args.files.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let document = match <[Document; 1]>::try_from(documents) {
        Ok([document]) => document,
        Err(documents) => {
            let runs = names.iter().zip(documents).map(|(name, document)| match document {
                Document::Run(run) => Ok(run),
                _ => anyhow::bail!(
                    "{name} is no run: only results of `loadgen run` can be merged; report it alone"
                ),
            });
            Document::Run(merge(&names, runs.collect::<anyhow::Result<_>>()?)?)
        }
    };
    emit(&document, &args.output)?;
    Ok(exit_code(&document))
}

/// Reads a result file: the last line that is one JSON object, since a log may stand before it.
fn read(path: &Path) -> anyhow::Result<Document> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    // Results are one line; a file that somebody has made readable is one object over many.
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    parse(last)
        .or_else(|_| parse(&text))
        .with_context(|| format!("{name} is no result: write one with `loadgen run ... --json > FILE`"))
}

/// Reads a result, as `--json` prints it.
///
/// # Errors
/// Text that is no result, or numbers in it that no run yields.
pub fn parse(text: &str) -> anyhow::Result<Document> {
    /// More than any count or any number of seconds can be; sums of such numbers are still exact.
    const LARGEST: f64 = 1e15;
    fn plausible(key: &str, value: &serde_json::Value) -> Result<(), String> {
        use serde_json::Value;
        match value {
            Value::Number(number) if key != "seed" => match number.as_f64() {
                Some(number) if number.abs() <= LARGEST => Ok(()),
                _ => Err(format!("{key} cannot be {number}")),
            },
            Value::Object(map) => map.iter().try_for_each(|(key, value)| plausible(key, value)),
            Value::Array(list) => list.iter().try_for_each(|value| plausible(key, value)),
            _ => Ok(()),
        }
    }
    let value: serde_json::Value = serde_json::from_str(text)?;
    plausible("the result", &value).map_err(anyhow::Error::msg)?;
    Ok(serde_json::from_value(value)?)
}

/// The exit code that a result stands for: the generator's limit before a violated objective.
pub fn exit_code(document: &Document) -> u8 {
    let of_run = |run: &result::Run| match (run.validity.ok, run.slo.held) {
        (false, _) => EXIT_INVALID,
        (true, false) => EXIT_SLO,
        (true, true) => EXIT_OK,
    };
    match document {
        Document::Run(run) => of_run(run),
        Document::Compare(compare) => compare.targets.iter().map(of_run).max().unwrap_or(EXIT_OK),
        Document::Search(search) => match (search.validity.ok, search.confirmed.or(search.estimate)) {
            (false, _) => EXIT_INVALID,
            (true, None) => EXIT_SLO,
            (true, Some(_)) => EXIT_OK,
        },
    }
}

/// Emits the result of a command, and says how the program is to end.
///
/// # Errors
/// Those of [`emit`].
pub(crate) fn finish(document: &Document, output: &OutputArgs, interrupted: bool) -> anyhow::Result<u8> {
    emit(document, output)?;
    Ok(if interrupted { EXIT_INTERRUPTED } else { exit_code(document) })
}

/// Prints the result on stdout (tables, or JSON) and writes the files asked for.
///
/// # Errors
/// A file that cannot be written, or that this kind of result has no use for; the message names it.
pub fn emit(document: &Document, output: &OutputArgs) -> anyhow::Result<()> {
    // What is on stdout comes first: it is there even if a file cannot be written.
    if output.json {
        print_line(serde_json::to_string(document)?);
    } else {
        print_line(tables::text(document));
    }
    let runs: Vec<&result::Run> = match document {
        Document::Run(run) => vec![run],
        Document::Compare(compare) => compare.targets.iter().collect(),
        Document::Search(_) => Vec::new(),
    };
    if let Some(path) = &output.csv {
        write(path, |out| write_csv(document, out))?;
    }
    if let Some(path) = &output.hlog {
        anyhow::ensure!(!runs.is_empty(), "--hlog: a search has no interval log; use it with run or compare");
        write(path, |out| write_hlog(&runs, out))?;
    }
    if let Some(path) = &output.hgrm {
        let [run] = runs[..] else {
            anyhow::bail!("--hgrm holds one distribution: use it with run, or --hlog for several");
        };
        let metric = Metric::from_summary(&run.corrected)?;
        write(path, |out| Ok(write_hgrm(&metric, out)?))?;
    }
    #[cfg(feature = "plots")]
    {
        if let Some(path) = &output.svg {
            let svg = render_svg(document)?;
            write(path, |out| Ok(out.write_all(svg.as_bytes())?))?;
        }
        if let Some(path) = &output.html {
            let page = render_html(document)?;
            write(path, |out| Ok(out.write_all(page.as_bytes())?))?;
        }
    }
    Ok(())
}

/// The main plot of a result as an SVG file: latency by percentile, or the rates that a search tried.
///
/// # Errors
/// A histogram in it cannot be decoded.
#[cfg(feature = "plots")]
pub fn render_svg(document: &Document) -> anyhow::Result<String> {
    let plot = match document {
        Document::Run(run) => plot::latency_by_percentile(run)?,
        Document::Compare(compare) => plot::latency_by_target(&compare.targets)?,
        Document::Search(search) => plot::rates_tried(search),
    };
    Ok(plot.svg(true))
}

/// A result as one self-contained HTML page.
///
/// # Errors
/// A histogram in it cannot be decoded.
#[cfg(feature = "plots")]
pub fn render_html(document: &Document) -> anyhow::Result<String> {
    html::page(document)
}

/// Creates the file `path` and fills it.
fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(context)?);
    fill(&mut out).and_then(|()| Ok(out.flush()?)).with_context(context)
}
