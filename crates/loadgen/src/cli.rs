//! The command line: subcommands, exit codes.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use echo_service::{complain, print_line};

use crate::{compare, report, run, search_command, serve};

/// Done.
pub const EXIT_OK: u8 = 0;
/// It failed while starting or running.
pub const EXIT_FAILURE: u8 = 1;
/// Wrong usage.
pub const EXIT_USAGE: u8 = 2;
/// The objective was violated.
pub const EXIT_SLO: u8 = 3;
/// The generator was the limit, or the measurement is invalid; wins over [`EXIT_SLO`].
pub const EXIT_INVALID: u8 = 4;
/// A signal ended it; partial results were printed.
pub const EXIT_INTERRUPTED: u8 = 130;

#[derive(Parser, Debug)]
#[command(
    name = "loadgen",
    version,
    about = "A constant-rate load generator that does not omit, and finds what a server can hold"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a process")]
enum Command {
    /// One run at a constant rate
    Run(run::RunArgs),
    /// The highest rate that holds a latency limit
    Search(search_command::SearchArgs),
    /// Several targets on the same schedule, interleaved
    Compare(compare::CompareArgs),
    /// A misbehaving target
    Serve(serve::ServeArgs),
    /// Merge and render saved runs
    Report(report::ReportArgs),
}

/// Ends the process for wrong usage that clap cannot see, in clap's own words.
pub(crate) fn usage(subcommand: &str, message: &str) -> ! {
    let mut command = Cli::command();
    command.build();
    let mut command = command.find_subcommand_mut(subcommand).cloned().unwrap_or_else(Cli::command);
    wrong_usage(&command.error(clap::error::ErrorKind::ValueValidation, message))
}

/// Ends the process for what clap would not take: its sentence, and always the usage. Help and version are no errors.
fn wrong_usage(error: &clap::Error) -> ! {
    let mut text = error.render().to_string();
    if !error.use_stderr() {
        print_line(text.trim_end());
        std::process::exit(i32::from(EXIT_OK));
    }
    if !text.contains("Usage:") {
        let mut command = Cli::command();
        command.build();
        let named = std::env::args().nth(1).and_then(|name| command.find_subcommand_mut(&name).cloned());
        let usage = named.unwrap_or_else(Cli::command).render_usage();
        text = text.replace("\n\nFor more information", &format!("\n\n{usage}\n\nFor more information"));
    }
    match text.strip_prefix("error: ") {
        Some(reason) => complain("loadgen", reason.trim_end()),
        // No subcommand at all: the help. Nobody may be reading it, and there is nowhere left to say so.
        None => _ = std::io::stderr().lock().write_all(text.as_bytes()),
    }
    std::process::exit(i32::from(EXIT_USAGE));
}

/// Parses the command line, runs the subcommand, and turns its outcome into an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| wrong_usage(&error));
    let outcome = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Search(args) => search_command::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Report(args) => report::run(args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // One sentence: the chain of causes on one line, never Debug output.
            complain("loadgen", format_args!("{error:#}"));
            ExitCode::from(EXIT_FAILURE)
        }
    }
}
