//! `ladder check`: the contract, asked of a rung or of anybody's echo server.

use std::process::ExitCode;

use echo_contract::{Target, Verdict};

use crate::checkout::Checkout;
use crate::failure::{Failure, Result, print, usage};

/// Options of `ladder check`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// One of the project's echo servers
    #[arg(required_unless_present = "command", conflicts_with = "command")]
    pub program: Option<String>,
    /// Anybody's server, after `--`: its command, where {addr}, {host} and {port} are filled in
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Ask only the requirements of this id or name, such as R01
    #[arg(long, value_name = "ID")]
    pub only: Option<String>,
    /// Seed of the random payloads, to repeat a run that failed
    #[arg(long)]
    pub seed: Option<u64>,
    /// Ask the long versions too: minutes instead of seconds
    #[arg(long)]
    pub long: bool,
    /// How many requirements are asked at once
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
}

/// Runs `ladder check`: exit code 1 when a requirement fails.
pub fn run(checkout: &Checkout, options: &Options) -> Result<ExitCode> {
    let target = match &options.program {
        Some(name) => {
            let program = checkout.program(name)?;
            let binary = checkout.binary(&program.name, checkout.profile);
            let target = Target::rung(binary).map_err(Failure::Usage)?;
            checkout.build([program.name.as_str()], checkout.profile)?;
            target
        }
        None => Target::foreign(options.command.clone()).map_err(Failure::Usage)?,
    };
    let mut asked = echo_contract::Options { only: options.only.clone(), ..Default::default() };
    asked.long |= options.long;
    asked.seed = options.seed.unwrap_or(asked.seed);
    asked.jobs = options.jobs.map_or(asked.jobs, usize::from);
    if let Some(only) = &options.only {
        let known = echo_contract::requirements();
        if !known.iter().any(|one| one.id == only || one.name == only) {
            let ids: Vec<&str> = known.iter().map(|one| one.id).collect();
            return usage(format!("no requirement {only:?}: there are {}", ids.join(", ")));
        }
    }
    let (mut held, mut failed, mut not_asked) = (0, 0, 0);
    let all_hold = echo_contract::check(&target, &asked, |row| {
        let (answer, more) = match &row.verdict {
            Verdict::Holds => {
                held += 1;
                ("holds", None)
            }
            Verdict::Fails { evidence } => {
                failed += 1;
                ("FAILS", Some(evidence))
            }
            Verdict::NotAsked { why } => {
                not_asked += 1;
                ("not asked", Some(why))
            }
        };
        let requirement = row.requirement;
        print(&format!("{:<4} {answer:<9}  {}\n", requirement.id, requirement.sentence));
        for line in more.into_iter().flat_map(|text| text.lines()) {
            print(&format!("{:<17}{line}\n", ""));
        }
    });
    print(&format!("{held} hold, {failed} fail, {not_asked} not asked (--seed {})\n", asked.seed));
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
