//! Outputs: the tables a person reads, and the files a program reads.
//!
//! Seam: `run`, `search` and `compare` end by calling [`emit`] with one [`crate::result::Document`]; `loadgen report` reads
//! such documents back, merges those of kind `run`, and calls [`emit`] too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

pub use self::csv::write_csv;
pub use self::hdr::{write_hgrm, write_hlog};
pub use self::merge::merge;
use crate::exit::{EXIT_INTERRUPTED, EXIT_INVALID, EXIT_OK, EXIT_SLO};
use crate::output::{ResultFile, print_result, printable};
use crate::record::Metric;
use crate::result::{Document, Run, SCHEMA_VERSION};

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
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Write one row per window as CSV
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub csv: Option<PathBuf>,
    /// Write an HdrHistogram V2 interval log, one tag per metric
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub hlog: Option<PathBuf>,
    /// Write the percentile distribution as HdrHistogram text
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub hgrm: Option<PathBuf>,
    /// Write the plot of latency by percentile as SVG
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    #[cfg(feature = "plots")]
    pub svg: Option<PathBuf>,
    /// Write one self-contained HTML page with tables and plots
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    #[cfg(feature = "plots")]
    pub html: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long, help_heading = "Output")]
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
    let outputs = args.output.open()?;
    let mut seen = BTreeMap::new();
    for path in &args.files {
        if let Ok(real) = fs::canonicalize(path)
            && let Some(other) = seen.insert(real, path)
        {
            anyhow::bail!("{} and {} are one file: name it once", other.display(), path.display());
        }
    }
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
    finish(&document, outputs, false)
}

/// Reads a result file: the last line that is one JSON object, since a log may stand before it.
fn read(path: &Path) -> anyhow::Result<Document> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    // Results are one line; a file that somebody has made readable is one object over many.
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    parse(last).or_else(|error| if error.is::<OtherFormat>() { Err(error) } else { parse(&text) }).map_err(
        |error| match error.downcast_ref::<OtherFormat>() {
            Some(other) => anyhow::anyhow!("{name} {other}"),
            None => {
                error.context(format!("{name} is no result: write one with `loadgen run ... --json > FILE`"))
            }
        },
    )
}

/// A result that another loadgen wrote.
#[derive(Debug, thiserror::Error)]
#[error("is of format {0}, this loadgen reads {SCHEMA_VERSION}: report it with the loadgen that wrote it")]
struct OtherFormat(serde_json::Value);

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
    if let Some(version) = value.get("schema_version")
        && *version != SCHEMA_VERSION
    {
        return Err(OtherFormat(version.clone()).into());
    }
    plausible("the result", &value).map_err(anyhow::Error::msg)?;
    Ok(serde_json::from_value(value)?)
}

/// The exit code that a result stands for: the generator's limit before a violated objective.
pub fn exit_code(document: &Document) -> u8 {
    let of_run = |run: &Run| match (run.validity.ok, run.slo.held) {
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

/// The outputs that were asked for, opened: a file that cannot be written is known before the run.
pub struct Outputs {
    json: bool,
    csv: Option<ResultFile>,
    hlog: Option<ResultFile>,
    hgrm: Option<ResultFile>,
    #[cfg(feature = "plots")]
    svg: Option<ResultFile>,
    #[cfg(feature = "plots")]
    html: Option<ResultFile>,
}

impl OutputArgs {
    /// Opens the files.
    ///
    /// # Errors
    /// A file that could not be written; the message names it.
    pub fn open(&self) -> anyhow::Result<Outputs> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(ResultFile::open).transpose();
        Ok(Outputs {
            json: self.json,
            csv: open(&self.csv)?,
            hlog: open(&self.hlog)?,
            hgrm: open(&self.hgrm)?,
            #[cfg(feature = "plots")]
            svg: open(&self.svg)?,
            #[cfg(feature = "plots")]
            html: open(&self.html)?,
        })
    }
}

/// Emits the result of a command, and says how the program is to end.
///
/// # Errors
/// Those of [`emit`].
pub(crate) fn finish(document: &Document, outputs: Outputs, interrupted: bool) -> anyhow::Result<u8> {
    emit(document, outputs)?;
    Ok(if interrupted { EXIT_INTERRUPTED } else { exit_code(document) })
}

/// Prints the result on stdout (tables, or JSON) and writes the files asked for.
///
/// # Errors
/// What cannot be written, or a file that this kind of result has no use for; the message names it.
pub fn emit(document: &Document, outputs: Outputs) -> anyhow::Result<()> {
    // A disk that has no room for the tables may have some for a file, and the other way about: all is tried.
    let printed = print_result(&if outputs.json {
        serde_json::to_string(document)?
    } else {
        printable(&tables::text(document))
    });
    let runs: Vec<&Run> = match document {
        Document::Run(run) => vec![run],
        Document::Compare(compare) => compare.targets.iter().collect(),
        Document::Search(_) => Vec::new(),
    };
    if let Some(file) = outputs.csv {
        file.write(|out| write_csv(document, out))?;
    }
    if let Some(file) = outputs.hlog {
        anyhow::ensure!(!runs.is_empty(), "--hlog: a search has no interval log; use it with run or compare");
        file.write(|out| write_hlog(&runs, out))?;
    }
    if let Some(file) = outputs.hgrm {
        let [run] = runs[..] else {
            anyhow::bail!("--hgrm holds one distribution: use it with run, or --hlog for several");
        };
        let metric = Metric::from_summary(&run.corrected)?;
        file.write(|out| Ok(write_hgrm(&metric, out)?))?;
    }
    #[cfg(feature = "plots")]
    {
        if let Some(file) = outputs.svg {
            let svg = render_svg(document)?;
            file.write(|out| Ok(out.write_all(svg.as_bytes())?))?;
        }
        if let Some(file) = outputs.html {
            let page = render_html(document)?;
            file.write(|out| Ok(out.write_all(page.as_bytes())?))?;
        }
    }
    printed
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
