//! The contract as a test target: a row for each rung and requirement.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::{Options, Target, Verdict, check_one, enter_private_network, requirements};

/// The `main` of a layer's `tests/contract.rs` (with `harness = false`): holds each of `programs`, the paths
/// of its echo servers, against the whole contract. `manifest_dir` is `env!("CARGO_MANIFEST_DIR")`: every
/// `echo-*` in its `src/bin` has to be among the programs.
///
/// Takes the flags of `cargo test`. A requirement that cannot be asked on this machine passes, and a line at the
/// end says so. `ECHO_CONTRACT_LONG=1` asks the long versions, `ECHO_CONTRACT_ROUNDS=200` asks
/// everything so many times, `ECHO_CONTRACT_SEED` repeats a run's payloads.
pub fn test_main(manifest_dir: &str, programs: &[&str]) -> ExitCode {
    let programs: Vec<(&str, &[&str])> = programs.iter().map(|program| (*program, &[][..])).collect();
    test_main_with_flags(manifest_dir, &programs)
}

/// Like [`test_main`], for programs with flags of their own: a program may be there several times, each time
/// with other flags.
pub fn test_main_with_flags(manifest_dir: &str, programs: &[(&str, &[&str])]) -> ExitCode {
    enter_private_network();
    let mut arguments = Arguments::from_args();
    let options = Options::default();
    // Most rows wait most of the time.
    arguments.test_threads.get_or_insert(options.jobs);
    let rounds =
        std::env::var("ECHO_CONTRACT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let not_asked = Arc::new(Mutex::new(Vec::new()));
    let mut trials = vec![everything_is_listed(manifest_dir, programs)];
    for (program, flags) in programs {
        let target = match Target::rung(program) {
            Ok(target) => target.with_flags(*flags),
            Err(why) => {
                trials.push(Trial::test(*program, move || Err(Failed::from(why))));
                continue;
            }
        };
        let mut name = target.entry().map_or(*program, |rung| rung.name).to_owned();
        for flag in *flags {
            name = format!("{name} {flag}");
        }
        for (round, requirement) in
            (0..rounds).flat_map(|round| requirements().iter().map(move |one| (round, one)))
        {
            let mut title = format!("{name}::{}::{}", requirement.id, requirement.name);
            if rounds > 1 {
                title = format!("{title}::{round}");
            }
            let (target, mut options, not_asked) = (target.clone(), options.clone(), Arc::clone(&not_asked));
            options.seed = options.seed.wrapping_add(round);
            trials.push(Trial::test(title.clone(), move || {
                let verdict = check_one(requirement, &target, &options).verdict;
                match verdict {
                    Verdict::Holds => Ok(()),
                    Verdict::NotAsked { why } => {
                        not_asked
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(format!("{title}: {why}"));
                        Ok(())
                    }
                    Verdict::Fails { evidence } => Err(Failed::from(format!(
                        "{}\n  does not hold: {evidence}\n  (ECHO_CONTRACT_SEED={})",
                        requirement.sentence, options.seed
                    ))),
                }
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // A row that was not asked must not look like one that holds.
    let mut rows = not_asked.lock().unwrap_or_else(PoisonError::into_inner);
    rows.sort();
    for row in rows.iter() {
        println!("not asked: {row}");
    }
    conclusion.exit_code()
}

/// A server that is built but not listed would escape the contract.
fn everything_is_listed(manifest_dir: &str, programs: &[(&str, &[&str])]) -> Trial {
    let sources = Path::new(manifest_dir).join("src/bin");
    let listed: BTreeSet<String> = programs
        .iter()
        .filter_map(|(program, _)| Some(Path::new(program).file_name()?.to_str()?.to_owned()))
        .collect();
    Trial::test("every echo server of this crate is listed", move || {
        let found: BTreeSet<String> = fs::read_dir(&sources)?
            .filter_map(|entry| {
                // A source, and not the change that breaks it, which lies beside it.
                let name = entry.ok()?.file_name().into_string().ok()?;
                let name = name.strip_suffix(".rs")?;
                name.starts_with("echo-").then(|| name.to_owned())
            })
            .collect();
        if found == listed {
            return Ok(());
        }
        Err(Failed::from(format!(
            "tests/contract.rs lists {listed:?}, but {} holds {found:?}",
            sources.display()
        )))
    })
}
