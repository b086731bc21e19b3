//! `ladder trace`: a program under strace, poked by a fixed script, as a transcript that is the same every time.

use crate::checkout::{Checkout, Profile};
use crate::failure::{Result, print};
use crate::record::{self, record};

/// Options of `ladder trace`.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Options {
    /// Keep strace's own lines: ports, pids, descriptor numbers, times, and the calls of memory and scheduling
    #[arg(long)]
    pub raw: bool,
    #[command(flatten)]
    pub recorded: record::Options,
}

/// Runs `ladder trace`.
pub fn run(checkout: &Checkout, options: &Options) -> Result<()> {
    print(&transcript(checkout, checkout.profile, options)?);
    Ok(())
}

/// Records, and returns the transcript.
pub fn transcript(checkout: &Checkout, profile: Profile, options: &Options) -> Result<String> {
    let story = record(checkout, profile, &options.recorded, None, options.raw, options.raw)?;
    Ok(story.transcript())
}
