//! Outputs: the tables a person reads, and the files a program reads.
//!
//! Seam: `run`, `search` and `compare` end by calling [`emit`] with one [`model::Document`]; `loadgen report` reads
//! such documents back, merges those of kind `run`, and calls [`emit`] too.

use std::path::PathBuf;

pub mod model;

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
    pub svg: Option<PathBuf>,
    /// Write one self-contained HTML page with tables and plots
    #[arg(long, value_name = "FILE")]
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

/// `loadgen report`: merges saved runs bucket by bucket and renders them.
///
/// # Errors
/// A file that cannot be read or is no result, or runs that are not of one plan.
pub fn run(args: &ReportArgs) -> anyhow::Result<u8> {
    let _ = args;
    anyhow::bail!("loadgen report is not built yet")
}

/// Prints the result on stdout (tables, or JSON) and writes the files asked for.
///
/// # Errors
/// A file that cannot be written; the message names it.
pub fn emit(document: &model::Document, output: &OutputArgs) -> anyhow::Result<()> {
    let _ = output;
    println!("{}", serde_json::to_string(document)?);
    Ok(())
}
