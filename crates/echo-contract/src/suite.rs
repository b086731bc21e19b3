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
pub fn test_main(manifest_dir: &str, programs: &[&'static str]) -> ExitCode {
    enter_private_network();
    let mut arguments = Arguments::from_args();
    let options = Options::default();
    // Most rows wait most of the time.
    arguments.test_threads.get_or_insert(options.jobs);
    let rounds =
        std::env::var("ECHO_CONTRACT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let not_asked = Arc::new(Mutex::new(Vec::new()));
    let mut trials = vec![everything_is_listed(manifest_dir, programs)];
    for round in 0..rounds {
        for program in programs {
            let target = match Target::rung(program) {
                Ok(target) => target,
                Err(why) => {
                    trials.push(Trial::test(*program, move || Err(Failed::from(why))));
                    continue;
                }
            };
            let name = target.entry().map_or(*program, |rung| rung.name);
            for requirement in requirements() {
                let (target, mut options) = (target.clone(), options.clone());
                options.seed = options.seed.wrapping_add(round);
                let title = format!("{name}::{}::{}", requirement.id, requirement.name);
                let title = if rounds > 1 { format!("{title}::{round}") } else { title };
                let sentence = requirement.sentence;
                let not_asked = Arc::clone(&not_asked);
                trials.push(Trial::test(title.clone(), move || {
                    match check_one(requirement, &target, &options).verdict {
                        Verdict::Holds => Ok(()),
                        Verdict::NotAsked { why } => {
                            not_asked
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push(format!("{title}: {why}"));
                            Ok(())
                        }
                        Verdict::Fails { evidence } => Err(Failed::from(format!(
                            "{sentence}\n  does not hold: {evidence}\n  (ECHO_CONTRACT_SEED={})",
                            options.seed
                        ))),
                    }
                }));
            }
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
fn everything_is_listed(manifest_dir: &str, programs: &[&str]) -> Trial {
    let sources = Path::new(manifest_dir).join("src/bin");
    let listed: BTreeSet<String> = programs
        .iter()
        .filter_map(|program| Some(Path::new(program).file_name()?.to_str()?.to_owned()))
        .collect();
    Trial::test("every echo server of this crate is listed", move || {
        let found: BTreeSet<String> = fs::read_dir(&sources)?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let name = name.strip_suffix(".rs").unwrap_or(&name);
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
