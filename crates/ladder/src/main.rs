//! The tool over the ladder: `cargo ladder list`, `trace`, `check`, `compare`, `bench`, `break`, `exercise`, `diff`, `docs`.
//!
//! Exit codes: 0 all holds, 1 something does not hold or could not be done, 2 wrong usage.

mod acts;
mod bench;
mod breaks;
mod check;
mod checkout;
mod claims;
mod client;
mod compare;
mod contents;
mod counts;
mod diff;
mod docs;
mod exercise;
mod expectation;
mod failure;
mod list;
mod load;
mod many;
mod names;
mod peers;
mod pictures;
mod record;
mod region;
mod server;
mod site;
mod slow_link;
mod story;
mod symptoms;
mod table;
mod timeline;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use checkout::Checkout;
use failure::{Failure, Result, note};

/// Looks at the programs of echo-ladder side by side: their system calls, their speed, their sources.
#[derive(Parser)]
#[command(name = "ladder", bin_name = "cargo ladder", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The ladder: rung, program, what it waits in, the new idea, lines of code
    List(list::Options),
    /// The system calls of one program, poked by a fixed script of datagrams
    Trace(trace::Options),
    /// The same as a picture: system calls, polls and wakes in their order
    Timeline(timeline::Options),
    /// The contract, asked of one echo server: one of ours, or anybody's in any language
    Check(check::Options),
    /// System calls per datagram of all echo servers, side by side; fails when the documentation's claims do
    Compare(compare::Options),
    /// CPU, echoes per second, round trips and memory of all echo servers, in interleaved rounds
    Bench(bench::Options),
    /// Who loses what, and how old the echoes are, behind a link whose sends block
    SlowLink(slow_link::Options),
    /// The jokes server's acts under a crowd that comes at once; fails when their order is not the story's
    Acts(acts::Options),
    /// A copy of a program with its page's change, built, and the check that shows the fault; fails when none shows
    Break(breaks::Options),
    /// Exercises made of the ladder's own sources: list them, start one, check it, take a hint
    Exercise(exercise::Options),
    /// The sources of two programs, one against the other
    Diff(diff::Options),
    /// Records the blocks of README.md and docs/ anew, or checks that they hold
    Docs(docs::Options),
}

fn main() -> ExitCode {
    // `check` starts this tool again for what needs a network of its own.
    echo_contract::enter_private_network();
    let cli = Cli::parse();
    // Not only what harness starts: cargo is started without it.
    harness::end_children_with_us();
    match run(&cli.command) {
        Ok(code) => code,
        Err(failure) => {
            note(&format!("ladder: {failure}"));
            match failure {
                Failure::Failed(_) => ExitCode::from(1),
                Failure::Usage(_) => ExitCode::from(2),
            }
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    let checkout = Checkout::find()?;
    match command {
        Command::Diff(options) => diff::run(&checkout, options)?,
        Command::List(options) => list::run(&checkout, options)?,
        Command::Trace(options) => trace::run(&checkout, options)?,
        Command::Timeline(options) => timeline::run(&checkout, options)?,
        Command::Acts(options) => return acts::run(&checkout, options),
        Command::Break(options) => return breaks::run(&checkout, options),
        Command::Exercise(options) => return exercise::run(&checkout, options),
        Command::Bench(options) => return bench::run(&checkout, options),
        Command::SlowLink(options) => return slow_link::run(&checkout, options),
        Command::Check(options) => return check::run(&checkout, options),
        Command::Docs(options) => return docs::run(&checkout, options),
        Command::Compare(options) => return compare::run(&checkout, options),
    }
    Ok(ExitCode::SUCCESS)
}
