//! Checks that need the whole port range, forged sources or a slow link run in a network namespace of
//! their own, as root of nothing but that namespace.
//!
//! A process with threads cannot enter a user namespace, so the program that asks for such a check is
//! started a second time inside one, by unshare(1), with the requirement in its environment, and says what
//! it found on its stdout.

use std::env;
use std::sync::OnceLock;
use std::time::Duration;

use harness::Launch;
use serde::{Deserialize, Serialize};

use crate::server;
use crate::verdict::{Unmet, Verdict, fails, not_asked};
use crate::{Options, Requirement, Subject, Target};

/// Names the requirement to be checked inside.
const VARIABLE: &str = "ECHO_CONTRACT_INSIDE";

const UNSHARE: [&str; 5] = ["unshare", "--user", "--map-root-user", "--net", "--"];

/// As long as all checks inside may take together, each with deadlines of its own.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Serialize, Deserialize)]
struct Errand {
    requirement: String,
    target: Target,
    options: Options,
}

/// To be called first thing in the `main` of a program that checks targets.
///
/// If this process was started to check one requirement inside a private network namespace, it does that
/// and ends. Otherwise nothing happens.
pub fn enter_private_network() {
    let Ok(errand) = env::var(VARIABLE) else { return };
    let verdict = match serde_json::from_str(&errand) {
        Ok(errand) => run_errand(errand),
        Err(error) => Verdict::Fails { evidence: format!("{VARIABLE} holds no errand: {error}") },
    };
    match serde_json::to_string(&verdict) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("{error}"),
    }
    std::process::exit(0);
}

fn run_errand(errand: Errand) -> Verdict {
    let Some(requirement) = crate::requirements().iter().find(|one| one.name == errand.requirement) else {
        return Verdict::Fails { evidence: format!("there is no requirement {}", errand.requirement) };
    };
    server::set_deadline(errand.options.deadline_seconds);
    let subject = Subject::new(&errand.target, &errand.options);
    (requirement.check)(&subject).into()
}

/// Whether this process is inside already.
pub(crate) fn is_inside() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Whether such a namespace can be made here.
fn available() -> Result<(), Unmet> {
    static ANSWER: OnceLock<Option<String>> = OnceLock::new();
    let answer = ANSWER.get_or_init(|| {
        match Launch::new("ip").args(["link", "set", "lo", "up"]).prefix(UNSHARE).run() {
            Err(_) => Some("unshare is not installed: its package is called util-linux".to_owned()),
            Ok(ended) if ended.code() == Some(0) => None,
            Ok(ended) => Some(format!(
                "no private network namespace can be made here (it takes unprivileged user namespaces and the \
                 package iproute2): {}",
                ended.stderr.trim()
            )),
        }
    });
    match answer {
        None => Ok(()),
        Some(why) => not_asked(why.clone()),
    }
}

/// Checks `requirement` inside.
pub(crate) fn check(requirement: &Requirement, target: &Target, options: &Options) -> Result<(), Unmet> {
    available()?;
    let errand =
        Errand { requirement: requirement.name.to_owned(), target: target.clone(), options: options.clone() };
    let errand = match serde_json::to_string(&errand) {
        Ok(errand) => errand,
        Err(error) => return fails(format!("the errand does not serialize: {error}")),
    };
    // The loopback interface of a fresh namespace is down.
    let up = ["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];
    let ended = Launch::new(env::current_exe()?.display())
        .prefix(UNSHARE.iter().chain(&up))
        .env(VARIABLE, &errand)
        .patience(PATIENCE)
        .run()?;
    match serde_json::from_str(ended.stdout.lines().last().unwrap_or_default()) {
        Ok(Verdict::Holds) => Ok(()),
        Ok(Verdict::Fails { evidence }) => fails(evidence),
        Ok(Verdict::NotAsked { why }) => not_asked(why),
        Err(_) => fails(format!(
            "the check inside the private network namespace ended without a verdict ({}): {}{}",
            ended.status, ended.stdout, ended.stderr
        )),
    }
}
