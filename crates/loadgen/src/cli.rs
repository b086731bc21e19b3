//! The command line: subcommands.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use echo_service::{print_line, print_to_stderr};

use crate::exit::{EXIT_FAILURE, EXIT_INVALID, EXIT_OK, EXIT_USAGE, OwnFailure, WrongUsage};
use crate::format::wrap_help;
use crate::output::printable;
use crate::{audit, compare, report, run, search_command, serve};

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
    /// A contract for load generators: is the load what was asked for, and the figures what happened?
    Audit(audit::AuditArgs),
}

/// Ends the process for wrong usage that clap cannot see, in clap's own words.
fn usage(subcommand: &str, message: &str) -> ! {
    let mut command = Cli::command();
    command.build();
    let mut command = command.find_subcommand_mut(subcommand).cloned().unwrap_or_else(Cli::command);
    wrong_usage(&command.error(clap::error::ErrorKind::ValueValidation, message))
}

/// Ends the process for what clap would not take: its sentence, and always the usage. Help and version are no errors.
fn wrong_usage(error: &clap::Error) -> ! {
    let mut text = error.render().to_string();
    if !error.use_stderr() {
        print_line(wrap_help(text.trim_end()));
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
        Some(reason) => print_to_stderr("loadgen", reason.trim_end()),
        // No subcommand at all: the help. Nobody may be reading it, and there is nowhere left to say so.
        None => _ = std::io::stderr().lock().write_all(text.as_bytes()),
    }
    std::process::exit(i32::from(EXIT_USAGE));
}

/// Parses the command line, runs the subcommand, and turns its outcome into an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| wrong_usage(&error));
    let (name, outcome) = match &cli.command {
        Command::Run(args) => ("run", run::run(args)),
        Command::Search(args) => ("search", search_command::run(args)),
        Command::Compare(args) => ("compare", compare::run(args)),
        Command::Serve(args) => ("serve", serve::run(args)),
        Command::Report(args) => ("report", report::run(args)),
        Command::Audit(args) => ("audit", audit::run(args)),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if let Some(WrongUsage(message)) = error.downcast_ref() {
                usage(name, message);
            }
            // One sentence: the chain of causes on one line, never Debug output.
            print_to_stderr("loadgen", printable(&format!("{error:#}")));
            ExitCode::from(if error.is::<OwnFailure>() { EXIT_INVALID } else { EXIT_FAILURE })
        }
    }
}
