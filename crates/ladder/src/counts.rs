//! What an echo server asks of the kernel, counted by strace in phases: start-up, one datagram at a time, bursts, an
//! idle second.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use harness::Process;
use harness::strace::Call;
use serde::Serialize;

use crate::checkout::{Checkout, Profile};
use crate::client::{Client, Echoes};
use crate::expectation::Expectation;
use crate::failure::Result;
use crate::server::{self, Launch, Target};

/// Datagrams sent one at a time.
const SINGLE: usize = 8;
/// Payload of every datagram, in bytes.
const SIZE: usize = 32;

/// How long an echo may be missing, once the server is back in its wait, before it counts as lost.
const LATE: Duration = Duration::from_secs(3);

/// How the calls of one phase came about.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Phase {
    /// Datagrams sent.
    pub datagrams: usize,
    /// Echoes that came back whole and in order.
    pub echoes: usize,
    /// System calls by name, in all.
    pub calls: BTreeMap<String, usize>,
    /// Waits that returned with something ready.
    pub wakes: usize,
    /// Receives that would have blocked.
    pub would_block: usize,
}

impl Phase {
    fn new<'a>(calls: impl Iterator<Item = &'a Call>, datagrams: usize, echoes: Echoes) -> Self {
        let mut phase = Phase { datagrams, echoes: echoes.good, ..Phase::default() };
        for call in calls.filter(|call| counts(call)) {
            *phase.calls.entry(call.common_name().to_string()).or_default() += 1;
            phase.wakes += usize::from(call.waits() && call.value.is_some_and(|ready| ready > 0));
            phase.would_block += usize::from(call.receives() && call.would_block());
        }
        phase
    }

    /// How often the call of this name was made.
    pub fn count(&self, name: &str) -> usize {
        self.calls.get(name).copied().unwrap_or(0)
    }

    /// All calls.
    pub fn total(&self) -> usize {
        self.calls.values().sum()
    }
}

/// Whether a call is counted: it is none that a signal cut short, and no trace mark.
fn counts(call: &Call) -> bool {
    !call.interrupted() && call.mark().is_none()
}

/// A call and how it ended, as far as an `Expect:` tells it: `recvfrom`, `recvfrom = EAGAIN`,
/// `epoll_wait (writable)`.
pub fn label(call: &Call) -> String {
    let name = call.common_name();
    // epoll_wait: `[{events=EPOLLIN|EPOLLOUT, ..}]`; poll: `[{fd=3, revents=POLLIN}]`; select: `in [3], out [3]`.
    let reported = match name {
        "epoll_wait" => call.args.get(1).map_or("", String::as_str),
        _ => &call.outcome,
    };
    let has = |poll: &str, select: &str| reported.contains(poll) || reported.contains(select);
    let (readable, writable) = (has("POLLIN", "in ["), has("POLLOUT", "out ["));
    match call {
        _ if call.would_block() => format!("{name} = EAGAIN"),
        _ if call.waits() && writable && !readable => format!("{name} (writable)"),
        _ => name.to_string(),
    }
}

/// The phases of one server.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the program or of the foreign server.
    pub program: String,
    /// What its header says of its calls; `None` of somebody else's.
    pub expects: Option<Expectation>,
    /// From the start of the process until it serves.
    pub start_up: Phase,
    /// Datagrams sent one at a time, each after the server went back to its wait.
    pub one_at_a_time: Phase,
    /// The calls for each of these, in order, see [`label`].
    pub each_datagram: Vec<Vec<String>>,
    /// Eight datagrams at once.
    pub burst_8: Phase,
    /// Sixty-four datagrams at once.
    pub burst_64: Phase,
    /// One second without a datagram.
    pub idle_second: Phase,
}

/// Builds the servers and counts the calls of each.
pub fn measure(checkout: &Checkout, profile: Profile, targets: &[Target]) -> Result<Vec<Row>> {
    server::require_strace()?;
    server::build(checkout, targets, profile)?;
    let mut started = Vec::new();
    let launch = Launch { traced: true, ..Launch::default() };
    for target in targets {
        started.push(phases(checkout, profile, target, &launch, LATE)?);
    }
    // They are idle together, so that the second is spent once.
    let before: Vec<usize> = started.iter().map(|(_, server)| server.events().len()).collect();
    thread::sleep(Duration::from_secs(1));
    let mut rows = Vec::new();
    for ((mut row, mut server), before) in started.into_iter().zip(before) {
        server.pump(Duration::ZERO)?;
        row.idle_second = Phase::new(server.calls_since(before), 0, Echoes::default());
        server.dismiss();
        rows.push(row);
    }
    Ok(rows)
}

/// All phases but the idle second of one server that is built already.
pub fn measure_one(
    checkout: &Checkout,
    profile: Profile,
    target: &Target,
    launch: &Launch,
    patience: Duration,
) -> Result<Row> {
    let (row, server) = phases(checkout, profile, target, launch, patience)?;
    server.dismiss();
    Ok(row)
}

fn phases(
    checkout: &Checkout,
    profile: Profile,
    target: &Target,
    launch: &Launch,
    patience: Duration,
) -> Result<(Row, Process)> {
    let expects = match target {
        Target::Own(program) => Some(Expectation::of(program)?),
        Target::Foreign { .. } => None,
    };
    let mut server = server::start(checkout, profile, target, launch)?;
    server.await_quiet()?;
    let start_up = server.calls_since(0).take_while(|call| call.mark() != Some("ready"));
    let start_up = Phase::new(start_up, 0, Echoes::default());
    let client = Client::new(server.address()?)?;
    // The first datagram pays for what is done once: a buffer, a registration, a child.
    exchange(&mut server, &client, 1, patience)?;
    let (one_at_a_time, each_datagram) = exchange(&mut server, &client, SINGLE, patience)?;
    let burst_8 = burst(&mut server, &client, 8, patience)?;
    let burst_64 = burst(&mut server, &client, 64, patience)?;
    let row = Row {
        program: target.name().to_string(),
        expects,
        start_up,
        one_at_a_time,
        each_datagram,
        burst_8,
        burst_64,
        idle_second: Phase::default(),
    };
    Ok((row, server))
}

fn payloads(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| format!("{index:0>SIZE$}").into_bytes()).collect()
}

/// Sends datagrams one at a time, each when the server is back in its wait. Returns their calls as a phase, and
/// in order for each datagram.
fn exchange(
    server: &mut Process,
    client: &Client,
    count: usize,
    patience: Duration,
) -> Result<(Phase, Vec<Vec<String>>)> {
    let before = server.events().len();
    let mut echoes = Echoes::default();
    let mut each = Vec::new();
    for payload in payloads(count) {
        let sent = server.events().len();
        client.send(&payload)?;
        let one = client.await_echoes(server, &[payload], patience)?;
        echoes.good += one.good;
        server.await_quiet()?;
        each.push(server.calls_since(sent).filter(|call| counts(call)).map(label).collect());
    }
    Ok((Phase::new(server.calls_since(before), count, echoes), each))
}

/// Sends datagrams while the server is stopped, and lets it go on.
fn burst(server: &mut Process, client: &Client, count: usize, patience: Duration) -> Result<Phase> {
    let before = server.events().len();
    server.freeze()?;
    let sent = payloads(count);
    for payload in &sent {
        client.send(payload)?;
    }
    server.thaw()?;
    let echoes = client.await_echoes(server, &sent, patience)?;
    server.await_quiet()?;
    Ok(Phase::new(server.calls_since(before), count, echoes))
}

/// Calls per datagram with two digits at most, or just calls where no datagram was sent.
pub fn per_datagram(calls: usize, datagrams: usize) -> String {
    if calls == 0 {
        return "-".into();
    }
    if datagrams == 0 {
        return calls.to_string();
    }
    let text = format!("{:.2}", calls as f64 / datagrams as f64);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use harness::strace::{Event, Parser};

    use super::*;

    #[test]
    fn a_label_says_how_a_call_ended() {
        for (line, expected) in [
            ("7 recvfrom(3, \"x\", 9, 0, NULL, NULL) = 1", "recvfrom"),
            (
                "7 recvfrom(3, 0x1, 9, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)",
                "recvfrom = EAGAIN",
            ),
            ("7 epoll_wait(4, [{events=EPOLLIN, data=0x1}], 8, -1) = 1", "epoll_wait"),
            ("7 epoll_wait(4, [{events=EPOLLIN|EPOLLOUT, data=0x1}], 8, -1) = 1", "epoll_wait"),
            ("7 epoll_wait(4, [{events=EPOLLOUT, data=0x1}], 8, -1) = 1", "epoll_wait (writable)"),
            ("7 epoll_wait(4, [], 8, 0) = 0", "epoll_wait"),
            (
                "7 ppoll([{fd=3, events=POLLOUT}], 1, NULL, NULL, 8) = 1 ([{fd=3, revents=POLLOUT}])",
                "poll (writable)",
            ),
            ("7 pselect6(4, [3], [3], NULL, NULL, NULL) = 1 (out [3])", "pselect6 (writable)"),
            ("7 pselect6(4, [3], [3], NULL, NULL, NULL) = 2 (in [3], out [3])", "pselect6"),
        ] {
            let Some(Event::Call(call)) = Parser::default().line(line) else { panic!("no call: {line}") };
            assert_eq!(label(&call), expected, "{line}");
        }
    }

    #[test]
    fn cells_have_two_digits_at_most() {
        assert_eq!(per_datagram(0, 8), "-");
        assert_eq!(per_datagram(16, 8), "2");
        assert_eq!(per_datagram(2, 64), "0.03");
        assert_eq!(per_datagram(5, 0), "5");
    }
}
