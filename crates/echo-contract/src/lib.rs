#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod private_network;
mod requirements;
mod rungs;
mod server;
mod suite;
mod summary;
mod target;
mod verdict;

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use private_network::enter_private_network;
pub use requirements::requirements;
pub use rungs::{RUNGS, Rung, Transfer, Trigger, find};
pub use suite::{test_main, test_main_with_flags};
pub use target::Target;
pub use verdict::Verdict;

use server::Launch;
use target::Origin;
use verdict::{Unmet, not_asked};

/// One sentence of the contract, and the check that asks it.
#[derive(Debug)]
pub struct Requirement {
    /// The number under which the project keeps it; several requirements may share one.
    pub id: &'static str,
    /// A name of its own, in words joined by dashes.
    pub name: &'static str,
    /// What holds if it holds.
    pub sentence: &'static str,
    asks: Asks,
    place: Place,
    check: fn(&Subject) -> Result<(), Unmet>,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// Everybody: it shows on the wire.
    Everybody,
    /// The servers of the ladder: it takes their flags, their summary or their trace.
    Rungs,
}

/// Where the check runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Here,
    /// In a network namespace of its own.
    PrivateNetwork,
}

/// How to check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Seed of all random payloads and ports. Evidence names it where it matters.
    pub seed: u64,
    /// Ask times and memory too, and go on for longer: minutes instead of seconds.
    pub long: bool,
    /// How many requirements are checked at once.
    pub jobs: usize,
    /// The longest that a single wait may take, in seconds. For all checks of this process.
    pub deadline_seconds: u64,
    /// Check only the requirements of this id or name.
    pub only: Option<String>,
}

impl Default for Options {
    /// A seed of its own for each run, the short versions, four jobs a core, since most of them wait most of
    /// the time. The environment variables `ECHO_CONTRACT_SEED` and `ECHO_CONTRACT_LONG` override the first two.
    fn default() -> Self {
        let seed = std::env::var("ECHO_CONTRACT_SEED").ok().and_then(|seed| seed.parse().ok());
        let long =
            std::env::var_os("ECHO_CONTRACT_LONG").is_some_and(|value| !value.is_empty() && value != "0");
        let cores = thread::available_parallelism().map_or(2, |cores| cores.get());
        Self {
            seed: seed.unwrap_or_else(|| fastrand::u64(..)),
            long,
            jobs: 4 * cores,
            deadline_seconds: 30,
            only: None,
        }
    }
}

/// The answer to one requirement.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was asked.
    pub requirement: &'static Requirement,
    /// The answer.
    pub verdict: Verdict,
    /// How long it took to find.
    pub took: Duration,
}

/// Holds `target` against the requirements, several at once, and hands each row to `report` as soon as
/// those above it in the table are known. Returns whether nothing failed.
///
/// The program's `main` has to begin with [`enter_private_network`].
pub fn check(target: &Target, options: &Options, mut report: impl FnMut(&Row)) -> bool {
    let wanted: Vec<&'static Requirement> = requirements()
        .iter()
        .filter(|one| options.only.as_ref().is_none_or(|only| one.id == only || one.name == only))
        .collect();
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut rows: Vec<Option<Row>> = wanted.iter().map(|_| None).collect();
    let mut all_hold = true;
    thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, wanted.len().max(1)) {
            let (sender, next, wanted) = (sender.clone(), &next, &wanted);
            scope.spawn(move || {
                while let Some(requirement) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let index = wanted.iter().position(|one| std::ptr::eq(*one, *requirement));
                    // The receiver outlives the scope.
                    let _ = sender.send((index.unwrap_or(0), check_one(requirement, target, options)));
                }
            });
        }
        drop(sender);
        let mut reported = 0;
        for (index, row) in receiver {
            rows[index] = Some(row);
            while let Some(Some(row)) = rows.get(reported) {
                all_hold &= !matches!(row.verdict, Verdict::Fails { .. });
                report(row);
                reported += 1;
            }
        }
    });
    all_hold
}

/// Holds `target` against one requirement.
pub fn check_one(requirement: &'static Requirement, target: &Target, options: &Options) -> Row {
    let start = Instant::now();
    server::set_deadline(options.deadline_seconds);
    let asked = || {
        if private_network::is_inside() {
            return not_asked(
                "this program's main does not begin with echo_contract::enter_private_network()",
            );
        }
        if requirement.asks == Asks::Rungs && target.entry().is_none() {
            return not_asked("it does not show on the wire");
        }
        Subject::new(target, options).require_ring()?;
        match requirement.place {
            Place::Here => (requirement.check)(&Subject::new(target, options)),
            Place::PrivateNetwork => private_network::check(requirement, target, options),
        }
    };
    // A check that panics is a failed check, and the others go on.
    let verdict = match panic::catch_unwind(AssertUnwindSafe(asked)) {
        Ok(result) => result.into(),
        Err(_) => Verdict::Fails { evidence: "the check itself panicked (see stderr)".to_owned() },
    };
    Row { requirement, verdict, took: start.elapsed() }
}

/// What a check works on.
struct Subject<'a> {
    target: &'a Target,
    options: &'a Options,
}

impl<'a> Subject<'a> {
    fn new(target: &'a Target, options: &'a Options) -> Self {
        Self { target, options }
    }

    /// A server to be started. One of the ladder prints its summary as JSON.
    fn launch(&self) -> Launch<'a> {
        let launch = self.launch_bare();
        match self.target.0 {
            Origin::Rung { .. } => launch.args(["--json"]),
            Origin::Foreign { .. } => launch,
        }
    }

    /// Likewise without a flag.
    fn launch_bare(&self) -> Launch<'a> {
        Launch::new(self.target)
    }

    /// Random numbers that the seed decides.
    fn random(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.options.seed)
    }

    /// Ends the check without an answer, by the server's own sentence, if it stands on a ring and there is none here.
    fn require_ring(&self) -> Result<(), Unmet> {
        if !self.target.entry().is_some_and(|rung| rung.transfer.takes_a_ring()) {
            return Ok(());
        }
        match self.launch_bare().start_or_end()? {
            Ok(server) => {
                server.terminate()?;
                Ok(())
            }
            Err(ended) if ended.stderr.contains("io_uring") => not_asked(ended.stderr.trim()),
            // What is asked next will say what is wrong.
            Err(_) => Ok(()),
        }
    }

    /// The table's entry. Only asked of the ladder's servers.
    fn rung(&self) -> Result<&'static Rung, Unmet> {
        match self.target.entry() {
            Some(rung) => Ok(rung),
            None => not_asked("only the servers of the ladder have an entry in the table"),
        }
    }
}
