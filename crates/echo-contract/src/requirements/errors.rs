//! System calls that fail, are interrupted, or are watched.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::time::{Duration, Instant};

use harness::{Client, Launch, inject, only, proc, require_strace};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use super::wire::payload;
use crate::server::{self, Server, deadline, eventually};
use crate::summary::{Summary, nonzero};
use crate::verdict::{Context, Unmet, ensure, fails, not_asked};
use crate::{Subject, Transfer, Trigger};

const SENDS: &[&str] = &["sendto", "sendmsg", "sendmmsg"];
const RECEIVES: &[&str] = &["recvfrom", "recvmsg", "recvmmsg"];

/// Why a ring's operations are left alone; the tests of its crate make up completions that fail.
const OF_A_RING: &str = "what is asked of a ring is no system call, so strace can fail none";

/// A server whose calls are to be failed. One that moves several datagrams a call is left a queue of one, so that
/// it makes as many calls as the others.
fn a_call_each<'a>(subject: &Subject<'a>) -> Result<server::Launch<'a>, Unmet> {
    require_strace()?;
    Ok(match subject.rung()?.transfer {
        Transfer::Single | Transfer::Ring => subject.launch(),
        Transfer::Batch | Transfer::RingIn => subject.launch().args(["--queue", "1"]),
    })
}

/// Fails unless sends are calls that can be made to fail.
pub(super) fn require_sends_by_call(subject: &Subject) -> Result<(), Unmet> {
    if subject.rung()?.transfer.sends_by_call() { Ok(()) } else { not_asked(OF_A_RING) }
}

/// Fails unless receives are.
fn require_receives_by_call(subject: &Subject) -> Result<(), Unmet> {
    if subject.rung()?.transfer.receives_by_call() { Ok(()) } else { not_asked(OF_A_RING) }
}

/// How often each call is made until the server is ready, so that an injection can begin behind that.
fn calls_before_ready(subject: &Subject, calls: &[&str]) -> Result<BTreeMap<String, u64>, Unmet> {
    let shown = [&["write"], calls].concat();
    let mut server = subject.launch().args(["--marks"]).traced(only(&shown)).start()?;
    // It may be anywhere between greeting and mark.
    let ready = eventually("the mark `ready`", || match server.pump(Duration::ZERO) {
        Ok(_) => server.calls_since(0).position(|call| call.mark() == Some("ready")).map(Ok),
        Err(error) => Some(Err(error)),
    })??;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for call in server.calls_since(0).take(ready) {
        if calls.contains(&call.name.as_str()) {
            *counts.entry(call.name.clone()).or_default() += 1;
        }
    }
    Ok(counts)
}

/// strace's options for failing `calls` with `error` at the counts that `when` makes of the number of
/// calls that came before the server was ready. What else the trace is to show: `shown`.
fn injection(
    calls: &[&str],
    error: &str,
    before: &BTreeMap<String, u64>,
    when: impl Fn(u64) -> String,
    shown: &[&str],
) -> Vec<String> {
    let mut options = only(&[calls, shown].concat()).to_vec();
    for call in calls {
        let already = before.get(*call).copied().unwrap_or(0);
        options.extend(inject(call, error, &when(already)));
    }
    options
}

/// Every seventh of 40, beginning with the third: six failures.
fn six(already: u64) -> String {
    format!("{}..{}+7", already + 3, already + 40)
}

/// Sends 50 datagrams and collects the replies up to that of the last one. Returns how many are missing.
fn missing_of_50(server: &Server, error: &str) -> Result<u64, Unmet> {
    let mut client = server.client()?;
    let mut expected: VecDeque<[u8; 2]> = VecDeque::new();
    let mut missing = 0;
    let mut collect = |client: &mut Client, expected: &mut VecDeque<[u8; 2]>| {
        let got = client.receive().context(format!("{error} was injected"))?.to_vec();
        // In order, so whatever is expected before this one is lost.
        match expected.iter().position(|one| one[..] == got) {
            Some(index) => {
                expected.drain(..=index);
                missing += index as u64;
                Ok(())
            }
            None => fails(format!("with {error} injected, a reply came twice or out of order: {got:?}")),
        }
    };
    for number in 0..50_u8 {
        client.send(&[number, 50])?;
        expected.push_back([number, 50]);
    }
    while !expected.is_empty() {
        collect(&mut client, &mut expected)?;
    }
    client.expect_nothing()?;
    Ok(missing)
}

/// A failed send loses exactly its datagram, is counted by its name, and the service goes on.
pub(super) fn send_errors(subject: &Subject) -> Result<(), Unmet> {
    require_sends_by_call(subject)?;
    let launch = a_call_each(subject)?;
    let before = calls_before_ready(subject, SENDS)?;
    for error in [
        "EINVAL",
        "EACCES",
        "EPERM",
        "ENETUNREACH",
        "EHOSTUNREACH",
        "ECONNREFUSED",
        "EMSGSIZE",
        "ENOBUFS",
        "ENOMEM",
    ] {
        let server = launch.clone().traced(injection(SENDS, error, &before, six, &[])).start()?;
        let missing = missing_of_50(&server, error)?;
        let ended = server.terminate()?;
        let injected = ended.injected_on_socket();
        ensure(injected == 6, || format!("{injected} sends were failed, not 6: the check is blind"))?;
        ensure(missing == injected, || {
            format!("{injected} sends failed with {error}, and {missing} datagrams were lost")
        })?;
        let summary = ended.summary()?;
        summary.expect(50, 44)?;
        let errors = nonzero(&summary.send_errors);
        ensure(errors.len() == 1 && errors.get(error) == Some(&6), || {
            format!("`send_errors` is not {{\"{error}\": 6}}: {summary:?}")
        })?;
    }
    Ok(())
}

/// A receive that fails because of the network is counted by its name, loses nothing, and the service goes on.
pub(super) fn receive_errors(subject: &Subject) -> Result<(), Unmet> {
    require_receives_by_call(subject)?;
    let launch = a_call_each(subject)?;
    let before = calls_before_ready(subject, RECEIVES)?;
    for error in ["ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH", "ENOBUFS", "ENOMEM"] {
        let server = launch.clone().traced(injection(RECEIVES, error, &before, six, &[])).start()?;
        let missing = missing_of_50(&server, error)?;
        let ended = server.terminate()?;
        let injected = ended.injected_on_socket();
        ensure(injected == 6, || format!("{injected} receives were failed, not 6: the check is blind"))?;
        ensure(missing == 0, || {
            format!("{injected} receives failed with {error}, and {missing} datagrams were lost")
        })?;
        let summary = ended.summary()?;
        summary.expect(50, 50)?;
        let errors = nonzero(&summary.receive_errors);
        ensure(errors.len() == 1 && errors.get(error) == Some(&6), || {
            format!("`receive_errors` is not {{\"{error}\": 6}}: {summary:?}")
        })?;
    }
    Ok(())
}

/// Pokes the server until it has ended by itself, and holds the end against what a bug of its own deserves.
fn expect_bug_end(mut server: Server, what: &str) -> Result<(), Unmet> {
    let client = server.client()?;
    eventually(&format!("the end after {what}"), || {
        // The server may be gone by now.
        let _ = client.send(b"poke");
        server.has_exited().then_some(())
    })
    .context(&server.command)?;
    let ended = server.finish()?;
    ended.expect_code(1).context(what)?;
    let injected = ended.injected();
    ensure(injected > 0, || format!("{what} was never injected: the check is blind"))?;
    ensure(ended.stderr.trim_end().lines().count() == 1, || {
        format!("{what}: stderr is not one line: {:?}", ended.stderr)
    })
}

/// Errors that only a bug of the server's own can cause end it: status 1, one line.
pub(super) fn own_bugs(subject: &Subject) -> Result<(), Unmet> {
    let launch = a_call_each(subject)?;
    let rung = subject.rung()?;
    let mut calls: Vec<&str> = [SENDS, RECEIVES].concat();
    if rung.trigger != Trigger::Blocking {
        calls.extend(rung.wait_calls);
    }
    let before = calls_before_ready(subject, &calls)?;
    let mut cases: Vec<(&[&str], &str)> = Vec::new();
    for error in ["EBADF", "ENOTSOCK", "EFAULT"] {
        let by_call = [(SENDS, rung.transfer.sends_by_call()), (RECEIVES, rung.transfer.receives_by_call())];
        cases.extend(by_call.iter().filter(|(_, by_call)| *by_call).map(|&(calls, _)| (calls, error)));
    }
    if subject.target.waits_itself() && rung.trigger != Trigger::Blocking {
        for error in ["EBADF", "EFAULT", "EINVAL"] {
            cases.push((rung.wait_calls, error));
        }
    }
    for (calls, error) in cases {
        let options = injection(calls, error, &before, |already| format!("{}", already + 2), &[]);
        let server = launch.clone().traced(options).start()?;
        expect_bug_end(server, &format!("{error} in one of {calls:?}"))?;
    }
    Ok(())
}

/// Interruptions of every call lose nothing, double nothing, and are not counted.
pub(super) fn interrupted_calls(subject: &Subject) -> Result<(), Unmet> {
    let launch = a_call_each(subject)?;
    let rung = subject.rung()?;
    let calls: Vec<&str> = [SENDS, RECEIVES].concat();
    let before = calls_before_ready(subject, &calls)?;
    // No more by the time of the signal: a runtime may read its own signal pipe with the same call.
    let waits = if rung.trigger == Trigger::Blocking { &[] } else { rung.wait_calls };
    let when = |already| format!("{}..{}+5", already + 3, already + 250);
    let mut options = injection(&calls, "EINTR", &before, when, waits);
    for call in waits {
        // Every second wait.
        options.extend(inject(call, "EINTR", "1+2"));
    }
    let server = launch.clone().traced(options).start()?;
    windowed(subject, &server, 300)?;
    let ended = server.terminate()?;
    let injected = ended.injected();
    ensure(injected >= 60, || format!("only {injected} calls were interrupted: the check is blind"))?;
    let summary = ended.summary()?;
    summary.expect(300, 300)?;
    ensure(summary.send_errors.is_empty() && summary.receive_errors.is_empty(), || {
        format!("an interruption is counted as an error: {summary:?}")
    })
}

/// Echoes `count` datagrams with a few under way at a time.
pub(super) fn windowed(subject: &Subject, server: &Server, count: usize) -> Result<(), Unmet> {
    let mut random = subject.random();
    let mut client = server.client()?;
    let mut expected: VecDeque<Vec<u8>> = VecDeque::new();
    for _ in 0..count {
        let size = random.usize(0..600);
        let datagram = payload(&mut random, size);
        client.send(&datagram)?;
        expected.push_back(datagram);
        if expected.len() == 8 {
            for datagram in expected.drain(..random.usize(1..8)) {
                client.expect(&datagram)?;
            }
        }
    }
    for datagram in expected {
        client.expect(&datagram)?;
    }
    Ok(client.expect_nothing()?)
}

/// Would-block from a receive that was announced is legal, and a level-triggered wait announces it again.
pub(super) fn spurious_readiness(subject: &Subject) -> Result<(), Unmet> {
    require_receives_by_call(subject)?;
    let launch = a_call_each(subject)?;
    if subject.rung()?.trigger != Trigger::Level {
        return not_asked("after an injected would-block no edge follows");
    }
    let before = calls_before_ready(subject, RECEIVES)?;
    let options = injection(RECEIVES, "EAGAIN", &before, |already| format!("{}+3", already + 1), &[]);
    let server = launch.clone().traced(options).start()?;
    windowed(subject, &server, 200)?;
    let ended = server.terminate()?;
    let injected = ended.injected_on_socket();
    ensure(injected >= 60, || format!("only {injected} receives were spurious: the check is blind"))?;
    ended.summary()?.expect(200, 200)
}

/// Stopped and continued under traffic, again and again.
pub(super) fn stop_and_continue(subject: &Subject) -> Result<(), Unmet> {
    let mut server = subject.launch().start()?;
    let mut client = server.client()?;
    for round in 0..20_u8 {
        client.echo(&[round])?;
        if round % 2 == 0 {
            // Every other time in its wait, and not on the way there.
            eventually("the server waits", || (proc::state(server.id()) == Some('S')).then_some(()))?;
        }
        server.freeze()?;
        for number in 0..8_u8 {
            client.send(&[round, number])?;
        }
        server.thaw()?;
        for number in 0..8_u8 {
            client.expect(&[round, number])?;
        }
    }
    client.expect_nothing()?;
    server.still_serves()?;
    if subject.target.entry().is_some() {
        server.stop()?.expect(181, 181)?;
    }
    Ok(())
}

/// A tracer that comes and goes under traffic.
pub(super) fn traced_on_the_fly(subject: &Subject) -> Result<(), Unmet> {
    require_strace()?;
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if !matches!(scope.trim(), "" | "0") && !geteuid().is_root() {
        return not_asked("attaching to a running process is forbidden here (kernel.yama.ptrace_scope)");
    }
    let server = subject.launch().start()?;
    let mut client = server.client()?;
    let mut count = 0_u64;
    let mut traffic = |client: &mut Client| -> Result<(), Unmet> {
        for _ in 0..8 {
            client.send(&count.to_be_bytes())?;
            count += 1;
        }
        for number in count - 8..count {
            client.expect(&number.to_be_bytes())?;
        }
        Ok(())
    };
    for round in 0..10 {
        let log = tempfile::NamedTempFile::new()?;
        let log_path = log.path().display().to_string();
        let attach = ["-f", "-q", "-p", &server.id().to_string(), "-o", &log_path];
        let mut tracer = Launch::new("strace").args(attach).patience(deadline()).start()?;
        let start = Instant::now();
        if round % 2 == 0 {
            // Every other time in its wait.
            let traced = || proc::status(server.id()).is_none_or(|status| status.tracerpid != 0);
            eventually("strace attaches", || traced().then_some(()))?;
        }
        loop {
            traffic(&mut client)?;
            let seen = fs::metadata(log.path())?.len() > 0;
            if seen {
                break;
            }
            ensure(start.elapsed() < deadline() && !tracer.has_exited(), || {
                "strace does not attach".to_owned()
            })?;
        }
        traffic(&mut client)?;
        tracer.signal(Signal::SIGINT)?;
        while !tracer.has_exited() {
            traffic(&mut client)?;
            ensure(start.elapsed() < deadline(), || "strace does not detach".to_owned())?;
        }
        traffic(&mut client)?;
    }
    client.expect_nothing()?;
    server.stop()?.expect(count, count)
}

/// Clients that are gone when their echo comes.
pub(super) fn vanished_clients(subject: &Subject) -> Result<(), Unmet> {
    let mut server = subject.launch().start()?;
    for round in 0..5_u8 {
        server.freeze()?;
        for number in 0..10_u8 {
            let client = server.client()?;
            client.send(&[round, number])?;
            // It goes out of scope, and the echo meets a closed port.
        }
        server.thaw()?;
        server.client()?.echo(b"still there?")?;
    }
    server.still_serves()?;
    if subject.target.entry().is_some() {
        server.stop()?.expect(56, 56)?;
    }
    Ok(())
}

/// A policy while sends would block: the queue stays within its bounds, and what it drops is counted.
pub(super) fn policies_by_injection(subject: &Subject) -> Result<(), Unmet> {
    require_strace()?;
    let rung = subject.rung()?;
    require_sends_by_call(subject)?;
    if rung.trigger == Trigger::Edge {
        return not_asked("after an injected would-block no edge follows: see the slow link");
    }
    let before = calls_before_ready(subject, SENDS)?;
    for policy in rung.policies {
        let when = |already| format!("{}..{}", already + 1, already + 60);
        let options = injection(SENDS, "EAGAIN", &before, when, &[]);
        let mut server =
            subject.launch().args(["--queue", "64", "--on-full", policy]).traced(options).start()?;
        let mut client = server.client()?;
        server.freeze()?;
        for number in 0..200_u8 {
            client.send(&[number])?;
        }
        server.thaw()?;
        let (probes, mut replies) = client.settle()?;
        let ended = server.terminate()?;
        replies.extend(client.arrived()?);
        let injected = ended.injected_on_socket();
        ensure(injected >= 10, || format!("only {injected} sends would have blocked: the check is blind"))?;
        let summary = ended.summary()?;
        expect_policy(policy, &summary)?;
        expect_replies(policy, &summary, &replies)?;
        ensure(summary.received == 200 + probes && summary.kernel_dropped == 0, || {
            format!("--on-full {policy}: not all {} were received: {summary:?}", 200 + probes)
        })?;
    }
    Ok(())
}

/// What the summary has to say after a queue of 64 ran full.
pub(super) fn expect_policy(policy: &str, summary: &Summary) -> Result<(), Unmet> {
    let told = |what: &str| format!("--on-full {policy}: {what}: {summary:?}");
    ensure(summary.queue_peak <= 64, || told("the queue of 64 grew beyond"))?;
    if policy == "backpressure" {
        return ensure(summary.queue_dropped == 0, || told("the queue dropped"));
    }
    ensure(summary.queue_dropped > 0 && summary.queue_peak == 64, || {
        told("a queue that ran full dropped nothing, or was never full")
    })
}

/// Every echo that is counted came, in order.
fn expect_replies(policy: &str, summary: &Summary, replies: &[Vec<u8>]) -> Result<(), Unmet> {
    ensure(summary.sent == replies.len() as u64, || {
        format!("--on-full {policy}: {} replies came, not `sent`: {summary:?}", replies.len())
    })?;
    let numbers: Vec<u8> = replies.iter().filter(|one| one.len() == 1).map(|one| one[0]).collect();
    ensure(numbers.is_sorted(), || format!("--on-full {policy}: the replies are out of order: {numbers:?}"))
}

/// A server whose sends never go through.
pub(super) fn blocked_by_injection(subject: &Subject) -> Result<Server, Unmet> {
    let before = calls_before_ready(subject, SENDS)?;
    let when = |already| format!("{}+", already + 1);
    // Which tells when a signal's handler has returned.
    let shown = ["rt_sigreturn"];
    subject.launch().traced(injection(SENDS, "EAGAIN", &before, when, &shown)).start()
}
