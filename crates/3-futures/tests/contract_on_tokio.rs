//! The same function on tokio against the same contract: `cargo test -p mini-runtime --test contract_on_tokio`.
//!
//! One requirement is not asked: an error of the wait that means a bug has to end the program with a sentence. On the
//! mini runtime `block_on` returns it; tokio's driver panics.

use std::process::ExitCode;

use echo_contract::{Options, Target, Verdict, check, enter_private_network};

const TOKIO_PANICS: &str = "own-bugs";

fn main() -> ExitCode {
    enter_private_network();
    let target = match Target::rung(env!("CARGO_BIN_EXE_echo-mini")) {
        Ok(target) => target.with_flags(["--runtime", "tokio"]),
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = 0;
    check(&target, &Options::default(), |row| {
        let name = row.requirement.name;
        match &row.verdict {
            Verdict::Fails { .. } if name == TOKIO_PANICS => {
                println!("on tokio {name} ... not asked: its driver panics")
            }
            Verdict::Fails { evidence } => {
                failed += 1;
                println!("on tokio {name} ... FAILED: {evidence}");
            }
            Verdict::NotAsked { why } => println!("on tokio {name} ... not asked: {why}"),
            Verdict::Holds => println!("on tokio {name} ... ok"),
        }
    });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
