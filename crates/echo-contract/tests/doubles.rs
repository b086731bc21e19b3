//! Each requirement can fail: for each there is a fault that it finds.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use echo_contract::{Options, Target, Verdict, check_one, enter_private_network, requirements};
use libtest_mimic::{Arguments, Failed, Trial};

/// The double's fault, the requirement that has to find it, and a word of the evidence.
const FAULTS: &[(&str, &str, &str)] = &[
    ("greets-wrongly", "greeting", "the first line is"),
    ("talks-first", "greeting", "is no greeting"),
    ("listens-elsewhere", "default-address", "127.0.0.1:2001"),
    ("adds-a-field", "summary", "unknown field `mood`"),
    ("counts-wrongly", "summary", "`received` and 7"),
    ("usage-is-status-1", "usage", "status 1, not status 2"),
    ("help-is-short", "help", "[default: 32]"),
    ("counts-one-more", "count", ""),
    ("prints-datagrams", "quiet", "not the greeting and one line"),
    ("leaks-payloads", "quiet", "bytes of a payload"),
    ("marks-on-stderr", "marks", "stderr is not empty"),
    ("ipv4-only", "ipv6", ""),
    ("spins", "idle", "the server waits"),
    ("cuts-at-1024", "sizes", "expected 1471 bytes"),
    ("takes-empty-for-the-end", "sizes", "no reply"),
    ("drops", "order", ""),
    ("doubles", "order", ""),
    ("crosses-talk", "order", ""),
    ("echoes-truncated", "truncation", ""),
    ("has-no-guard", "refusals", "was answered"),
    ("refuses-2010", "refusals", "source port 2010"),
    ("has-no-guard", "forged-refusals", ""),
    ("has-no-guard", "no-loops", "hops"),
    ("logs-refusals", "refusal-log", "more than a line"),
    ("ignores-unguarded", "loops-unguarded", "10,000 echoes"),
    ("ignores-unguarded", "unguarded", "no reply"),
    ("dies-of-a-send-error", "send-errors", "injected"),
    ("dies-of-a-receive-error", "receive-errors", "injected"),
    ("survives-its-bugs", "own-bugs", "the end after EBADF"),
    ("dies-of-interruption", "interrupted-calls", ""),
    ("loses-when-interrupted", "interrupted-calls", ""),
    ("dies-of-spurious-readiness", "spurious-readiness", ""),
    ("dies-when-interrupted", "stop-and-continue", ""),
    ("dies-when-interrupted", "traced-on-the-fly", ""),
    ("connects", "vanished-clients", "no reply"),
    ("debug-errors", "address-in-use", "does not name"),
    ("shares-its-address", "address-in-use", ""),
    ("unwraps-bind", "address-not-here", "status 101"),
    ("unwraps-bind", "low-port", "status 101"),
    ("panics-without-stdout", "no-audience", ""),
    ("hides-kernel-drops", "overload", "`kernel_dropped` is 0"),
    ("ignores-buffer-sizes", "receive-buffer", "dropped 0 with"),
    ("unbounded-queue", "policies", "grew beyond"),
    ("requeues-at-the-tail", "policies", "out of order"),
    ("unbounded-queue", "policies-on-a-slow-link", "the queue of 64"),
    ("starves-signals", "signal-in-flood", "echo-double has ended: not within"),
    ("reads-once-per-edge", "no-lost-wake", "stuck in round"),
    ("reads-once-per-edge", "bursts", "burst of 64"),
    ("reorders", "bursts", "burst of 64"),
    ("counts-wrongly", "end-under-load", "does not hold"),
    ("ignores-signals", "end-under-load", "echo-double has ended: not within"),
    ("forgets-what-is-queued", "end-while-sends-block", "does not hold"),
    ("drains-for-ever", "end-while-sends-block", "echo-double has ended: not within"),
    ("ignores-second-signal", "end-while-sends-block", "status 0, not status 130"),
    ("ignores-second-signal", "end-on-a-slow-link", "status 0, not status 130"),
    ("warns-nobody", "wildcard", "CVE-2024-2169"),
    ("opens-late", "few-descriptors", "the server has ended"),
    ("fits-a-set", "high-descriptors", "a set has 1024 bits"),
    ("unwraps-signals", "refused-setup", "status 101"),
    ("calls-it-a-bug", "loopback-down", "does not name ip link set lo up"),
    ("loses-the-interface", "link-local", "does not end with"),
    ("unwraps-proc", "without-proc", "status 101"),
    ("takes-any-number", "extreme-numbers", "status 101"),
    ("reorders", "order-of-short-bursts", "of a burst of"),
    ("requeues-at-the-tail", "order-behind-a-slow-link", "of a burst of"),
    ("dies-of-a-send-error", "order-behind-a-slow-link", ""),
    ("takes-joined-for-one", "joined-datagrams", "joined from datagrams of 1"),
    ("takes-joined-for-one", "limits-within-joined", ""),
];

fn main() -> ExitCode {
    enter_private_network();
    let mut arguments = Arguments::from_args();
    // A wait that ends at its deadline is what many of them come to, so it is a short one.
    let options = Options { deadline_seconds: 4, ..Options::default() };
    // And while they wait, others can.
    arguments.test_threads.get_or_insert(2 * options.jobs);
    let not_asked = Arc::new(Mutex::new(Vec::new()));
    let mut trials = vec![Trial::test("each requirement has a fault that it finds", || {
        let asked: BTreeSet<&str> = FAULTS.iter().map(|(_, name, _)| *name).collect();
        let all: BTreeSet<&str> = requirements().iter().map(|one| one.name).collect();
        let missing: Vec<_> = all.symmetric_difference(&asked).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("without, or of none: {missing:?}").into()) }
    })];
    for (fault, name, evidence_of) in FAULTS {
        let (options, not_asked) = (options.clone(), Arc::clone(&not_asked));
        trials.push(Trial::test(format!("{fault}::{name}"), move || {
            let target = Target::rung(env!("CARGO_BIN_EXE_echo-double"))?.with_env("ECHO_DOUBLE", fault);
            let requirement = requirements().iter().find(|one| one.name == *name);
            let requirement = requirement.ok_or_else(|| format!("there is no requirement {name}"))?;
            match check_one(requirement, &target, &options).verdict {
                Verdict::Fails { evidence } if evidence.contains(evidence_of) => Ok(()),
                Verdict::Fails { evidence } => Err(Failed::from(format!(
                    "it fails, but not because of what is wrong ({evidence_of:?}): {evidence}"
                ))),
                Verdict::Holds => Err(Failed::from(format!("{name} does not find {fault}"))),
                Verdict::NotAsked { why } => {
                    let mut rows = not_asked.lock().unwrap_or_else(PoisonError::into_inner);
                    rows.push(format!("{fault}::{name}: {why}"));
                    Ok(())
                }
            }
        }));
    }
    let socat_options = options.clone();
    trials.push(Trial::test("socat::sizes", move || socat(&socat_options)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    for row in not_asked.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("not asked: {row}");
    }
    conclusion.exit_code()
}

/// A server that is broken by nature: it starts a program for each datagram, and has no use for an empty one.
fn socat(options: &Options) -> Result<(), Failed> {
    if harness::Launch::new("socat").args(["-V"]).run().is_err() {
        println!("not asked: socat is not installed");
        return Ok(());
    }
    let command = ["socat", "-T1", "UDP4-RECVFROM:{port},fork", "EXEC:cat"].map(str::to_owned).to_vec();
    let sizes = requirements().iter().find(|one| one.name == "sizes").ok_or("there is no `sizes`")?;
    match check_one(sizes, &Target::foreign(command)?, options).verdict {
        Verdict::Fails { evidence } if evidence.contains("the echo of 0 bytes") => Ok(()),
        other => Err(format!("sizes of socat: {other:?}").into()),
    }
}
