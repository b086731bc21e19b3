//! Places that are short of something: descriptors, memory, interfaces. A server serves there, or says in a
//! sentence, before it greets, why it cannot.

use std::process::Command;

use harness::{inject, only};

use super::start::expect_start_failure;
use crate::Subject;
use crate::server::{Launch, Server, eventually};
use crate::verdict::{Context, Unmet, ensure, not_asked};

/// A command for the front of the server's: a shell that does this first.
fn first(what: &str) -> [String; 4] {
    ["sh", "-c", &format!("{what}; exec \"$@\""), "sh"].map(str::to_owned)
}

/// Starts a server, which serves one datagram and ends properly; or has ended as one that cannot start, with a line
/// that names `next_step` and accuses nobody. Returns whether it served.
fn serves_or_says_why(launch: Launch, next_step: &str) -> Result<bool, Unmet> {
    match launch.start_or_end()? {
        Ok(server) => serves(server).map(|()| true),
        Err(ended) => {
            expect_start_failure(&ended, next_step)?;
            ensure(!ended.stderr.contains("bug"), || {
                format!("it calls a bug what is none: {:?}\n  {}", ended.stderr, ended.command)
            })?;
            Ok(false)
        }
    }
}

fn serves(server: Server) -> Result<(), Unmet> {
    server.client()?.echo(b"in spite of all")?;
    server.terminate()?.expect_code(0)?;
    Ok(())
}

/// Every limit of descriptors from one that is hopeless to one that suffices.
pub(super) fn few_descriptors(subject: &Subject) -> Result<(), Unmet> {
    let mut served = Vec::new();
    for limit in 4..=20 {
        let launch = subject.launch().prefix(first(&format!("ulimit -n {limit}")));
        served.push(serves_or_says_why(launch, "ulimit -n")?);
    }
    ensure(!served[0] && served[16], || {
        format!("4 descriptors suffice, or 20 do not: the check is blind: {served:?}")
    })?;
    ensure(served.is_sorted(), || format!("more descriptors, and it does not serve: {served:?}"))
}

/// All descriptors that fit into a set of `select` are taken.
pub(super) fn high_descriptors(subject: &Subject) -> Result<(), Unmet> {
    // Only bash opens descriptors of so many digits.
    if Command::new("bash").args(["-c", "ulimit -n 2048"]).status().map_or(true, |status| !status.success()) {
        return not_asked("it takes bash, and a limit of 2048 descriptors");
    }
    let taken = "ulimit -n 2048; for fd in $(seq 3 1023); do eval \"exec $fd</dev/null\"; done; exec \"$@\"";
    let launch = subject.launch().prefix(["bash", "-c", taken, "bash"]);
    let by_select = subject.rung()?.wait_calls.contains(&"select");
    let served = serves_or_says_why(launch, "echo-poll")?;
    ensure(served != by_select, || format!("served: {served}, and it waits in select: {by_select}"))
}

/// The kernel refuses what a wait is built from.
pub(super) fn refused_setup(subject: &Subject) -> Result<(), Unmet> {
    for (call, error, next_step) in [
        ("epoll_create1", "EMFILE", "ulimit -n"),
        ("epoll_ctl", "ENOSPC", "fs.epoll.max_user_watches"),
        ("epoll_ctl", "ENOMEM", "memory"),
        ("eventfd2", "ENOMEM", "memory"),
        ("signalfd4", "ENOMEM", "memory"),
        ("io_uring_setup", "EPERM", "seccomp"),
        ("io_uring_setup", "ENOSYS", "Linux 6.1"),
        ("io_uring_setup", "EINVAL", "Linux 6.1"),
        ("io_uring_setup", "ENOMEM", "ulimit -l"),
        ("io_uring_register", "ENOMEM", "ulimit -l"),
    ] {
        // What comes later is no set-up.
        for when in 1..=2 {
            let options = only(&[call]).into_iter().chain(inject(call, error, &when.to_string()));
            let launch = subject.launch().traced(options);
            serves_or_says_why(launch, next_step).context(format!("{error} from {call} number {when}"))?;
        }
    }
    Ok(())
}

/// In a network whose loopback interface is down.
pub(super) fn loopback_down(subject: &Subject) -> Result<(), Unmet> {
    let status = Command::new("ip").args(["link", "set", "lo", "down"]).status()?;
    ensure(status.success(), || "the loopback interface does not go down".to_owned())?;
    match subject.launch().start_or_end()? {
        // Nobody can ask it, but it runs, and ends.
        Ok(server) => Ok(server.terminate()?.expect_code(0)?),
        Err(ended) => {
            expect_start_failure(&ended, "ip link set lo up")?;
            ensure(!ended.stderr.contains("bug"), || format!("it calls that a bug: {:?}", ended.stderr))
        }
    }
}

/// On a link-local address, which is one of an interface.
pub(super) fn link_local(subject: &Subject) -> Result<(), Unmet> {
    let status =
        Command::new("ip").args(["-6", "address", "add", "fe80::1/64", "dev", "lo", "nodad"]).status()?;
    if !status.success() {
        return not_asked("this machine has no IPv6");
    }
    // The kernel gives the address away before it has entered the route to it, and that takes a lock that every namespace
    // wants. What is sent in between is lost.
    eventually("the route to fe80::1", || {
        let routes = Command::new("ip").args(["-6", "route", "show", "table", "local"]).output().ok()?;
        String::from_utf8_lossy(&routes.stdout).contains("local fe80::1 ").then_some(())
    })?;
    // The loopback interface is the first of a network.
    for address in ["[fe80::1%1]:0", "[fe80::1%lo]:0"] {
        let server = subject.launch().on(address).args(["--allow-remote"]).start()?;
        let port = server.address.port();
        server.client()?.echo(b"across one link")?;
        let ended = server.terminate()?;
        ended.expect_code(0)?;
        let greeting = ended.stdout.lines().next().unwrap_or_default();
        let expected = format!("listening on [fe80::1%1]:{port}  (try: nc -u fe80::1%1 {port})");
        ensure(greeting.ends_with(&expected), || {
            format!("asked for {address}, the greeting is {greeting:?}, and does not end with {expected:?}")
        })?;
    }
    Ok(())
}

/// Where no `/proc` tells what the kernel dropped.
pub(super) fn without_proc(subject: &Subject) -> Result<(), Unmet> {
    let hidden = ["unshare", "--user", "--map-root-user", "--mount", "--"];
    let covered = first("mount -t tmpfs none /proc");
    let possible = Command::new(hidden[0]).args(&hidden[1..]).args(&covered).arg("true").status();
    if possible.map_or(true, |status| !status.success()) {
        return not_asked("no private mount namespace can be made here");
    }
    let prefix = hidden.iter().map(|word| (*word).to_owned()).chain(covered);
    let server = subject.launch().prefix(prefix).start()?;
    server.client()?.echo(b"unseen")?;
    let ended = server.terminate()?;
    ended.expect_code(0)?;
    ensure(ended.stdout.contains("\"kernel_dropped\":null"), || {
        format!("without /proc `kernel_dropped` is to be null: {:?}", ended.stdout)
    })
}

/// The least and the most of each flag with a number.
pub(super) fn extreme_numbers(subject: &Subject) -> Result<(), Unmet> {
    let help = subject.launch_bare().without_address().args(["--help"]).run()?.stdout;
    let flags: Vec<&str> = help
        .split_whitespace()
        .zip(help.split_whitespace().skip(1))
        .filter(|(flag, value)| flag.starts_with("--") && matches!(*value, "<N>" | "<BYTES>"))
        .map(|(flag, _)| flag)
        .collect();
    ensure(flags.contains(&"--queue") && flags.contains(&"--count"), || {
        format!("not all flags are found in the help: {flags:?}")
    })?;
    for flag in flags {
        for number in ["0", "-1", "18446744073709551615"] {
            let given = format!("{flag}={number}");
            match subject.launch().args([&given]).start_or_end()? {
                Ok(server) => serves_unless_it_drops_all(server, &given)?,
                Err(ended) => ended.expect_code(2).context(&given)?,
            }
        }
    }
    Ok(())
}

/// With `--max-size 0` only the empty datagram is echoed.
fn serves_unless_it_drops_all(server: Server, given: &str) -> Result<(), Unmet> {
    server.client()?.echo(b"").context(given)?;
    let ended = server.terminate()?;
    Ok(ended.expect_code(0)?)
}
