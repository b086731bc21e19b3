//! From the command line to the first wait.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use harness::{Client, Ended, Output, difference};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::guard::neighbours;
use super::wire::payload;
use crate::server::Launch;
use crate::verdict::{Unmet, ensure, fails, not_asked};
use crate::{RUNGS, Subject};

/// Exactly the line of the contract, for each kind of address, with or without other flags.
pub(super) fn greeting(subject: &Subject) -> Result<(), Unmet> {
    let name = subject.rung()?.name;
    for (address, flags) in [
        ("127.0.0.1:0", &[][..]),
        ("127.0.0.1:0", &["--json"]),
        ("127.0.0.1:0", &["--verbose", "--marks"]),
        ("127.0.0.7:0", &["-v"]),
        ("[::1]:0", &[]),
    ] {
        if address.starts_with('[') && !has_ipv6() {
            continue;
        }
        // Both in one pipe: whatever stands before the greeting would be the first line.
        let server = subject.launch_bare().on(address).args(flags).stderr(Output::Merged).start()?;
        let bound = server.address;
        ensure(bound.port() != 0, || format!("it does not say which port it has: {bound}"))?;
        ensure(bound.ip().to_string() == address.trim_end_matches(":0").trim_matches(['[', ']']), || {
            format!("asked for {address}, it says {bound}")
        })?;
        server.client()?.echo(b"hello")?;
        let ended = server.terminate()?;
        ended.expect_code(0)?;
        let expected = format!("{name}: listening on {bound}  (try: nc -u {} {})", bound.ip(), bound.port());
        let first = ended.stdout.lines().next().unwrap_or_default();
        ensure(first == expected, || format!("the first line is {first:?}, not {expected:?}"))?;
    }
    Ok(())
}

/// Without an ADDR. The port is a fixed one, so this needs a network of its own.
pub(super) fn default_address(subject: &Subject) -> Result<(), Unmet> {
    let server = subject.launch().without_address().start()?;
    ensure(server.address.to_string() == "127.0.0.1:2000", || {
        format!("it listens on {}, not on 127.0.0.1:2000", server.address)
    })?;
    server.client()?.echo(b"hello")?;
    server.stop()?.expect(1, 1)
}

/// Whether this machine has the loopback address of IPv6.
pub(super) fn has_ipv6() -> bool {
    std::net::UdpSocket::bind("[::1]:0").is_ok()
}

/// Everything works over IPv6 too; a datagram longer than IPv4 permits is truncated, not echoed.
pub(super) fn ipv6(subject: &Subject) -> Result<(), Unmet> {
    if !has_ipv6() {
        return not_asked("this machine has no ::1");
    }
    let mut random = subject.random();
    let server = subject.launch().on("[::1]:0").start()?;
    let mut client = server.client()?;
    for size in [0, 1, 1452, 1453, 65_507] {
        client.echo(&payload(&mut random, size))?;
    }
    client.send(&payload(&mut random, 65_508))?;
    client.echo(b"the next one")?;
    client.expect_nothing()?;
    let summary = server.stop()?;
    summary.expect(7, 6)?;
    ensure(summary.truncated == 1, || format!("65,508 bytes are not counted as truncated: {summary:?}"))
}

/// Fails unless it ended with status 2, a line and the usage on stderr, and nothing on stdout.
fn expect_usage(ended: &Ended) -> Result<String, Unmet> {
    ended.expect_code(2)?;
    let shown = format!("stdout {:?}, stderr {:?}\n  {}", ended.stdout, ended.stderr, ended.command);
    ensure(ended.stdout.is_empty(), || format!("wrong usage says something on stdout: {shown}"))?;
    let mut lines = ended.stderr.lines();
    let reason = lines.next().unwrap_or_default().to_owned();
    ensure(!reason.trim().is_empty(), || format!("no line says what is wrong: {shown}"))?;
    let second = lines.find(|line| !line.trim().is_empty()).unwrap_or_default();
    ensure(second.starts_with("Usage: "), || {
        format!("the usage does not follow behind one line that says what is wrong: {shown}")
    })?;
    Ok(reason)
}

/// Everything that the contract calls wrong usage.
pub(super) fn usage(subject: &Subject) -> Result<(), Unmet> {
    let rung = subject.rung()?;
    // The command line, and what the one line has to name.
    let mut cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["--frobnicate"], "--frobnicate"),
        (vec!["-x"], "-x"),
        (vec!["localhost:2000"], "127.0.0.1:2000"),
        (vec!["localhost:2042"], "127.0.0.1:2042"),
        (vec!["127.0.0.1"], "127.0.0.1"),
        (vec!["2000"], "2000"),
        (vec!["127.0.0.1:"], ""),
        (vec!["127.0.0.1:65536"], ""),
        (vec!["256.0.0.1:2000"], ""),
        (vec!["::1:2000"], ""),
        (vec![""], ""),
        (vec!["127.0.0.1:0", "127.0.0.1:0"], ""),
        (vec!["192.0.2.1:2000"], "--allow-remote"),
        (vec!["0.0.0.0:0"], "--allow-remote"),
        (vec!["[::]:0"], "--allow-remote"),
        (vec!["--queue", "0"], "--queue"),
        (vec!["--queue=-1"], "--queue"),
        (vec!["--queue", "many"], "--queue"),
        (vec!["--queue"], "--queue"),
        (vec!["--queue", "99999999999999999999"], "--queue"),
        // Capacity times size is bounded at 1 GiB.
        (vec!["--queue", "100000"], "--queue"),
        (vec!["--budget", "0"], "--budget"),
        (vec!["--budget", "1.5"], "--budget"),
        (vec!["--max-size", "65508"], "--max-size"),
        (vec!["--max-size=-1"], "--max-size"),
        (vec!["--budget", "-1"], "-1"),
        (vec!["--send-buffer", "0"], "--send-buffer"),
        (vec!["--receive-buffer", "2147483648"], "--receive-buffer"),
        (vec!["--count", "few"], "--count"),
        (vec!["--on-full", "despair"], "--on-full"),
    ];
    for policy in ["backpressure", "drop-newest", "drop-oldest"] {
        if !rung.policies.contains(&policy) {
            cases.push((vec!["--on-full", policy], policy));
        }
    }
    for (arguments, named) in cases {
        let ended = subject.launch_bare().without_address().args(&arguments).run()?;
        let reason = expect_usage(&ended)?;
        ensure(reason.contains(named), || {
            format!("the line does not name {named:?}: {reason:?}\n  {}", ended.command)
        })?;
    }
    Ok(())
}

/// What every server takes, as its help names it.
const COMMON_FLAGS: [&str; 13] = [
    "[ADDR]",
    "--queue <N>",
    "--on-full <POLICY>",
    "--max-size <BYTES>",
    "--budget <N>",
    "--send-buffer <BYTES>",
    "--receive-buffer <BYTES>",
    "--count <N>",
    "--allow-remote",
    "--unguarded",
    "--marks",
    "--json",
    "-v, --verbose",
];

/// `--help` and `--version`.
pub(super) fn help(subject: &Subject) -> Result<(), Unmet> {
    let name = subject.rung()?.name;
    for flag in ["--help", "-h"] {
        let ended = subject.launch_bare().without_address().args([flag]).run()?;
        ended.expect_code(0)?;
        ensure(ended.stderr.is_empty(), || format!("{flag} writes to stderr: {:?}", ended.stderr))?;
        let rest = [
            "-h, --help",
            "-V, --version",
            "backpressure",
            "drop-newest",
            "drop-oldest",
            "127.0.0.1:2000",
            "[default: 8]",
            "[default: 32]",
            "[default: 65507]",
        ];
        for part in COMMON_FLAGS.iter().chain(&rest) {
            ensure(ended.stdout.contains(*part), || {
                format!("{flag} does not show {part:?}:\n{}", ended.stdout)
            })?;
        }
    }
    // The flags that all servers have are described in the same words, whatever else a server may take.
    let ours = subject.launch_bare().without_address().args(["-h"]).run()?.stdout;
    let is_rung = RUNGS.iter().any(|rung| rung.name == name);
    for neighbour in neighbours(subject).iter().filter(|_| is_rung) {
        let theirs = Launch::new(neighbour).without_address().args(["-h"]).run()?.stdout;
        for flag in COMMON_FLAGS {
            let (ours, theirs) = (described(&ours, flag), described(&theirs, flag));
            ensure(ours == theirs, || {
                format!("{flag} is {ours:?} here, and {theirs:?} in a neighbour:\n  {neighbour:?}")
            })?;
        }
    }
    for flag in ["--version", "-V"] {
        let ended = subject.launch_bare().without_address().args([flag]).run()?;
        ended.expect_code(0)?;
        let mut words = ended.stdout.split_whitespace();
        let (first, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let is_version = version.split('.').count() == 3;
        ensure(first == name && is_version && ended.stdout.lines().count() == 1, || {
            format!("{flag} shows {:?}, not a line `{name} X.Y.Z`", ended.stdout)
        })?;
    }
    Ok(())
}

/// What a help text says of `flag`, in words.
fn described(help: &str, flag: &str) -> String {
    let mut lines = help.lines().skip_while(|line| !line.trim_start().starts_with(flag));
    let first = lines.next().unwrap_or_default();
    // What does not begin with a flag goes on with the one before.
    let more = lines.take_while(|line| !line.trim().is_empty() && !line.trim_start().starts_with('-'));
    let words: Vec<&str> = first.split_whitespace().chain(more.flat_map(str::split_whitespace)).collect();
    words.join(" ")
}

/// Fails unless it ended at once with status 1 and one line on stderr that names `named`.
pub(super) fn expect_start_failure(ended: &Ended, named: &str) -> Result<(), Unmet> {
    ended.expect_code(1)?;
    let shown = format!("stdout {:?}, stderr {:?}\n  {}", ended.stdout, ended.stderr, ended.command);
    ensure(ended.stdout.is_empty(), || format!("it greets and then fails: {shown}"))?;
    ensure(ended.stderr.trim_end().lines().count() == 1, || format!("stderr is not one line: {shown}"))?;
    ensure(ended.stderr.contains(named), || format!("the line does not name {named}: {shown}"))?;
    // The next step: a sentence that goes on behind the reason, not the debug form of an error.
    ensure(!ended.stderr.contains("Os {") && ended.stderr.len() > named.len() + 40, || {
        format!("the line says no next step: {shown}")
    })
}

/// The second binder fails, and the first goes on.
pub(super) fn address_in_use(subject: &Subject) -> Result<(), Unmet> {
    let first = subject.launch().start()?;
    let address = first.address;
    if subject.rung()?.shares_its_address {
        // It says so on its page: a second one joins, and nobody is told.
        let second = subject.launch().on(address).start()?;
        ensure(second.address == address, || format!("asked for {address}, it says {}", second.address))?;
        second.stop()?;
    } else {
        let second = subject.launch().on(address).run()?;
        expect_start_failure(&second, &address.to_string())?;
    }
    // With SO_REUSEADDR on both, the second binder would silently take the datagrams.
    let thief = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    thief.set_reuse_address(true)?;
    ensure(thief.bind(&SockAddr::from(address)).is_err(), || {
        format!("another socket could bind {address} too: SO_REUSEADDR is set on the server's")
    })?;
    first.client()?.echo(b"still there?")?;
    first.stop()?.expect(1, 1)
}

/// An address that this machine does not have.
pub(super) fn address_not_here(subject: &Subject) -> Result<(), Unmet> {
    // For documentation only (RFC 5737): nobody's.
    let ended = subject.launch_bare().on("203.0.113.7:2042").args(["--allow-remote"]).run()?;
    let warnings = ended.stderr.lines().filter(|line| line.contains("CVE-2024-2169")).count();
    ensure(warnings <= 1, || format!("more than one warning: {:?}", ended.stderr))?;
    let rest: String =
        ended.stderr.lines().filter(|line| !line.contains("CVE-2024-2169")).collect::<Vec<_>>().join("\n");
    expect_start_failure(&Ended { stderr: rest, ..ended }, "203.0.113.7:2042")
}

/// A port that takes a privilege.
pub(super) fn low_port(subject: &Subject) -> Result<(), Unmet> {
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    let first_free: u16 = first_free.trim().parse().unwrap_or(1024);
    if first_free < 8 {
        return not_asked("low ports take no privilege here (net.ipv4.ip_unprivileged_port_start)");
    }
    let launch = subject.launch().on(SocketAddr::from((Ipv4Addr::LOCALHOST, 7)));
    let ended = if geteuid().is_root() {
        // Root is nobody on the host's network from inside a user namespace.
        if harness::Launch::new("unshare").args(["--version"]).run().is_err() {
            return not_asked(
                "root, and unshare is not installed, which could give that up: package util-linux",
            );
        }
        let ended = launch.prefix(["unshare", "--user", "--"]).run()?;
        if ended.stderr.starts_with("unshare:") {
            return not_asked(format!("root, and it cannot be given up: {}", ended.stderr.trim()));
        }
        ended
    } else {
        launch.run()?
    };
    expect_start_failure(&ended, "127.0.0.1:7")
}

/// A wildcard address: one warning, and whoever is asked answers.
pub(super) fn wildcard(subject: &Subject) -> Result<(), Unmet> {
    let rung = subject.rung()?;
    let mut addresses = vec!["0.0.0.0:0"];
    if has_ipv6() {
        addresses.push("[::]:0");
    }
    for address in addresses {
        let server = subject.launch().on(address).args(["--allow-remote"]).start()?;
        ensure(server.address.ip().is_unspecified(), || {
            format!("asked for {address}, it says {}", server.address)
        })?;
        let port = server.address.port();
        let asked = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port));
        let mut client =
            Client::at(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1), 0)), asked)?.watching(server.watch());
        client.send(b"who answers?")?;
        let (got, source) = client.receive_from()?;
        ensure(got == b"who answers?", || difference(b"who answers?", got))?;
        ensure(source.port() == port, || format!("the reply comes from {source}, asked was {asked}"))?;
        ensure(!rung.answers_from_asked_address || source == asked, || {
            format!(
                "{} claims to answer from the address that was asked, {asked}; it was {source}",
                rung.name
            )
        })?;
        let ended = server.terminate()?;
        ended.summary()?.expect(1, 1)?;
        let warning = &ended.stderr;
        ensure(warning.lines().count() == 1 && warning.contains("CVE-2024-2169"), || {
            format!("--allow-remote is to print one line of warning that names CVE-2024-2169: {warning:?}")
        })?;
    }
    Ok(())
}

/// `--count`: that many are echoed and not one more.
pub(super) fn count(subject: &Subject) -> Result<(), Unmet> {
    let mut server = subject.launch().args(["--count", "3"]).start()?;
    let mut client = server.client()?;
    for payload in [b"one", b"two", b"six"] {
        client.echo(payload)?;
    }
    server.wait()?;
    let ended = server.finish()?;
    ended.summary()?.expect(3, 3)?;
    ensure(ended.stderr.is_empty(), || format!("it complains about the end: {:?}", ended.stderr))?;
    // More are waiting than it may echo.
    let mut server = subject.launch().args(["--count", "3"]).start()?;
    let mut client = server.client()?;
    server.freeze()?;
    for number in 0..20_u8 {
        client.send(&[number])?;
    }
    server.thaw()?;
    for number in 0..3_u8 {
        client.expect(&[number])?;
    }
    let summary = server.finish()?.summary()?;
    ensure(summary.sent == 3, || format!("`sent` is not 3: {summary:?}"))?;
    client.expect_nothing()?;
    let zero = subject.launch_bare().args(["--count", "0"]).run();
    match zero {
        // Nothing to do and wrong usage are both defensible; to serve for ever is not.
        Ok(ended) => ensure(matches!(ended.status.code(), Some(0 | 2)), || {
            format!("--count 0 ended with {:?}: {:?}", ended.status, ended.stderr)
        }),
        Err(_) => fails("--count 0 serves for ever"),
    }
}

#[cfg(test)]
mod tests {
    use super::described;

    const HELP: &str = "Options:\n      --queue <N>  Capacity\n                   in datagrams [default: 8]\n      --json       Object\n\nMore";

    #[test]
    fn a_flag_ends_where_the_next_begins() {
        assert_eq!(described(HELP, "--queue <N>"), "--queue <N> Capacity in datagrams [default: 8]");
        assert_eq!(described(HELP, "--json"), "--json Object");
        assert_eq!(described(HELP, "--marks"), "");
    }

    #[test]
    fn other_words_and_other_defaults_differ_and_another_column_does_not() {
        let queue = described(HELP, "--queue <N>");
        assert_ne!(described(&HELP.replace("Capacity", "Size"), "--queue <N>"), queue);
        assert_ne!(described(&HELP.replace("8", "9"), "--queue <N>"), queue);
        assert_eq!(described(&HELP.replace("<N>  ", "<N>      "), "--queue <N>"), queue);
    }
}
