//! `ladder compare`: what each server asks of the kernel, counted by strace, side by side; and whether what the
//! documentation claims about it holds.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use echo_contract::Trigger;
use serde::Serialize;

use crate::checkout::{Checkout, Profile};
use crate::client::{Client, Echoes};
use crate::failure::{Result, note, print};
use crate::many;
use crate::server::{self, Launch, Server, Target};
use crate::table::Table;
use harness::strace::Call;

/// Options of `ladder compare`.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Options {
    /// Programs to compare; all echo servers, and the demos with many sockets, when none is named
    pub programs: Vec<String>,
    /// Somebody's server as well: NAME='COMMAND {addr}', where {addr}, {host}, {port} and {bin} (the folder of our binaries) are filled in
    #[arg(long, value_name = "NAME=COMMAND")]
    pub with: Vec<String>,
    /// Print Markdown tables
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Leave the start-up out: its calls differ between C libraries and kernels
    #[arg(long)]
    pub no_start_up: bool,
}

/// Datagrams sent one at a time.
const SINGLE: usize = 8;
/// Payload of every datagram, in bytes.
const SIZE: usize = 32;
/// Datagrams that a server handles per readiness event unless told otherwise (`--budget`).
const BUDGET: usize = 32;

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
    /// Receives that brought a datagram.
    pub receives: usize,
}

impl Phase {
    fn new<'a>(calls: impl Iterator<Item = &'a Call>, datagrams: usize, echoes: Echoes) -> Self {
        let mut phase = Phase { datagrams, echoes: echoes.good, ..Phase::default() };
        for call in calls.filter(|call| !call.interrupted() && call.mark().is_none()) {
            *phase.calls.entry(call.common_name().to_string()).or_default() += 1;
            phase.wakes += usize::from(call.waits() && call.value.is_some_and(|ready| ready > 0));
            phase.would_block += usize::from(call.receives() && call.would_block());
            phase.receives += usize::from(call.receives() && call.errno.is_none());
        }
        phase
    }

    /// How often a call was made.
    fn count(&self, name: &str) -> usize {
        self.calls.get(name).copied().unwrap_or(0)
    }

    /// Waits of any kind.
    fn waits(&self) -> usize {
        ["pselect6", "poll", "epoll_wait"].iter().map(|name| self.count(name)).sum()
    }

    /// All calls.
    pub fn total(&self) -> usize {
        self.calls.values().sum()
    }
}

/// The phases of one server.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the program or of the foreign server.
    pub program: String,
    /// Whether it is somebody else's.
    pub foreign: bool,
    /// From the start of the process until it serves.
    pub start_up: Phase,
    /// Datagrams sent one at a time, each after the server went back to its wait.
    pub one_at_a_time: Phase,
    /// Eight datagrams at once.
    pub burst_8: Phase,
    /// Sixty-four datagrams at once.
    pub burst_64: Phase,
    /// One second without a datagram.
    pub idle_second: Phase,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    programs: &'a [Row],
    many_sockets: &'a [many::Row],
    broken: &'a [String],
}

/// Runs `ladder compare`: exit code 1 when a claim does not hold.
pub fn run(checkout: &Checkout, options: &Options) -> Result<ExitCode> {
    let (rows, many) = measure_all(checkout, options)?;
    let broken: Vec<String> =
        rows.iter().flat_map(broken_claims).chain(many.iter().flat_map(many::broken_claims)).collect();
    if options.json {
        let report = Report { programs: &rows, many_sockets: &many, broken: &broken };
        match serde_json::to_string(&report) {
            Ok(text) => print(&format!("{text}\n")),
            Err(error) => return crate::failure::failed(format!("could not write JSON: {error}")),
        }
    } else {
        let parts = [
            (!rows.is_empty()).then(|| tables(&rows, options)),
            (!many.is_empty()).then(|| many::table(&many, options)),
        ];
        print(&parts.into_iter().flatten().collect::<Vec<_>>().join("\n"));
    }
    for claim in &broken {
        note(&format!("ladder: {claim}"));
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Counts what the options name: echo servers, demos with many sockets, or, when they name nothing, all of both.
fn measure_all(checkout: &Checkout, options: &Options) -> Result<(Vec<Row>, Vec<many::Row>)> {
    let (demos, servers): (Vec<_>, Vec<_>) =
        options.programs.iter().cloned().partition(|name| many::is_one(name));
    let everything = demos.is_empty() && servers.is_empty() && options.with.is_empty();
    let many = many::measure(checkout, checkout.profile, &many::programs(checkout, &demos, everything)?)?;
    if !demos.is_empty() && servers.is_empty() && options.with.is_empty() {
        return Ok((Vec::new(), many));
    }
    let targets = server::targets(checkout, &servers, &options.with)?;
    Ok((measure(checkout, checkout.profile, &targets)?, many))
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
    let end = Instant::now() + Duration::from_secs(1);
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        for (_, server) in &mut started {
            server.pump(Duration::ZERO)?;
        }
        thread::sleep(left.min(Duration::from_millis(10)));
    }
    let mut rows = Vec::new();
    for ((mut row, mut server), before) in started.into_iter().zip(before) {
        row.idle_second = Phase::new(server.calls_since(before), 0, Echoes::default());
        server.finish()?;
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
    let (row, mut server) = phases(checkout, profile, target, launch, patience)?;
    server.finish()?;
    Ok(row)
}

fn phases(
    checkout: &Checkout,
    profile: Profile,
    target: &Target,
    launch: &Launch,
    patience: Duration,
) -> Result<(Row, Server)> {
    let mut server = Server::start(checkout, profile, target, launch)?;
    server.await_quiet()?;
    let ready = server.events().iter().position(
        |event| matches!(event, harness::strace::Event::Call(call) if call.mark() == Some("ready")),
    );
    let started = ready.unwrap_or(server.events().len());
    let start_up = Phase::new(
        server.events()[..started].iter().filter_map(|event| match event {
            harness::strace::Event::Call(call) => Some(call),
            _ => None,
        }),
        0,
        Echoes::default(),
    );
    let client = Client::new(server.address()?)?;
    // The first datagram pays for what is done once: a buffer, a registration, a child.
    exchange(&mut server, &client, 1, patience)?;
    let one_at_a_time = exchange(&mut server, &client, SINGLE, patience)?;
    let burst_8 = burst(&mut server, &client, 8, patience)?;
    let burst_64 = burst(&mut server, &client, 64, patience)?;
    let row = Row {
        program: target.name().to_string(),
        foreign: matches!(target, Target::Foreign { .. }),
        start_up,
        one_at_a_time,
        burst_8,
        burst_64,
        idle_second: Phase::default(),
    };
    Ok((row, server))
}

fn payloads(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| format!("{index:0>SIZE$}").into_bytes()).collect()
}

/// Sends datagrams one at a time, each when the server is back in its wait.
fn exchange(server: &mut Server, client: &Client, count: usize, patience: Duration) -> Result<Phase> {
    let before = server.events().len();
    let mut echoes = Echoes::default();
    for payload in payloads(count) {
        client.send(&payload)?;
        let one = client.await_echoes(server, &[payload], patience)?;
        echoes.good += one.good;
        server.await_quiet()?;
    }
    Ok(Phase::new(server.calls_since(before), count, echoes))
}

/// Sends datagrams while the server is stopped, and lets it go on.
fn burst(server: &mut Server, client: &Client, count: usize, patience: Duration) -> Result<Phase> {
    let before = server.events().len();
    server.freeze()?;
    let sent = payloads(count);
    for payload in &sent {
        client.send(payload)?;
    }
    server.thaw();
    let echoes = client.await_echoes(server, &sent, patience)?;
    server.await_quiet()?;
    Ok(Phase::new(server.calls_since(before), count, echoes))
}

/// How a rung waits: what the documentation claims of its calls follows from it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blocking,
    Level,
    MioLevel,
    Edge,
    Other,
}

fn kind(program: &str) -> Kind {
    let Some(rung) = echo_contract::find(program) else { return Kind::Other };
    match rung.trigger {
        // It makes a level of its edges, and pays for it.
        _ if program == "echo-mio-level" => Kind::MioLevel,
        // A runtime waits as it likes.
        _ if !rung.waits_itself => Kind::Other,
        Trigger::Blocking => Kind::Blocking,
        Trigger::Level => Kind::Level,
        Trigger::Edge => Kind::Edge,
    }
}

/// What the documentation claims and the counts do not show, as sentences.
pub fn broken_claims(row: &Row) -> Vec<String> {
    let mut broken = Vec::new();
    let mut claim = |holds: bool, sentence: String| {
        if !holds {
            broken.push(format!("{}: {sentence}", row.program));
        }
    };
    let phases =
        [("one at a time", &row.one_at_a_time), ("burst of 8", &row.burst_8), ("burst of 64", &row.burst_64)];
    for (name, phase) in phases {
        claim(
            phase.echoes == phase.datagrams,
            format!("{name}: {} of {} echoes came back whole and in order", phase.echoes, phase.datagrams),
        );
    }
    if row.foreign {
        return broken;
    }
    let kind = kind(&row.program);
    let per_datagram = match kind {
        Kind::Blocking => Some(2),
        Kind::Level | Kind::Edge => Some(4),
        Kind::MioLevel => Some(5),
        Kind::Other => None,
    };
    if let Some(expected) = per_datagram {
        let one = &row.one_at_a_time;
        claim(
            one.total() == expected * one.datagrams,
            format!(
                "one at a time: {} calls for {} datagrams, and the text claims {expected} for each",
                one.total(),
                one.datagrams
            ),
        );
    }
    for (name, phase) in phases {
        let sends: usize = ["sendto", "sendmsg", "sendmmsg"].iter().map(|call| phase.count(call)).sum();
        claim(sends <= phase.datagrams, format!("{name}: {sends} sends for {} datagrams", phase.datagrams));
        if kind == Kind::Blocking {
            let (received, all) = (phase.count("recvfrom"), phase.total());
            claim(
                received == phase.datagrams && sends == phase.datagrams && all == 2 * phase.datagrams,
                format!(
                    "{name}: {received} receives, {sends} sends and {all} calls, not just one of each a datagram"
                ),
            );
        }
        if kind == Kind::Level || kind == Kind::MioLevel {
            // One a budget, and one more that finds the socket empty at its end.
            let budgets = phase.datagrams.div_ceil(BUDGET) + 1;
            let allowed = if name == "one at a time" { phase.datagrams } else { budgets };
            claim(
                phase.waits() <= allowed,
                format!("{name}: {} waits, and one a budget would be {allowed} at most", phase.waits()),
            );
        }
        if kind == Kind::Edge {
            claim(
                phase.would_block == phase.wakes,
                format!(
                    "{name}: {} receives would have blocked in {} wakes, and the text claims one a wake",
                    phase.would_block, phase.wakes
                ),
            );
        }
        let changes = phase.count("epoll_ctl");
        match kind {
            Kind::MioLevel => claim(
                (1..=phase.receives).contains(&changes),
                format!(
                    "{name}: {changes} epoll_ctl for {} receives, and the text claims one a read",
                    phase.receives
                ),
            ),
            _ => claim(
                changes == 0,
                format!("{name}: {changes} epoll_ctl in the steady state, and the text claims none"),
            ),
        }
    }
    let idle = row.idle_second.total();
    claim(idle == 0, format!("an idle second: {idle} calls, and the text claims none"));
    broken
}

/// Calls in the order in which a reader meets them; others follow by name.
const ORDER: [&str; 12] = [
    "pselect6",
    "poll",
    "epoll_wait",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "epoll_ctl",
    "read",
    "write",
];

/// The tables, one a phase.
pub fn tables(rows: &[Row], options: &Options) -> String {
    type Pick = fn(&Row) -> &Phase;
    let phases: [(&str, Pick); 4] = [
        ("One at a time: system calls per datagram", |row| &row.one_at_a_time),
        ("A burst of 8: system calls per datagram", |row| &row.burst_8),
        ("A burst of 64: system calls per datagram", |row| &row.burst_64),
        ("An idle second: system calls", |row| &row.idle_second),
    ];
    let mut out = String::new();
    let mut add = |title: &str, table: Table| {
        if !out.is_empty() {
            out.push('\n');
        }
        match options.markdown {
            true => out.push_str(&format!("**{title}**\n\n{}", table.markdown())),
            false => out.push_str(&format!("{title}\n\n{}", table.text())),
        }
    };
    if !options.no_start_up {
        let mut table = Table::new(["program", "calls"], 1);
        for row in rows {
            table.row([row.program.clone(), row.start_up.total().to_string()]);
        }
        add("Start-up, until ready: system calls (these depend on the C library and the kernel)", table);
    }
    for (title, pick) in phases {
        let mut names: Vec<&str> =
            rows.iter().flat_map(|row| pick(row).calls.keys()).map(String::as_str).collect();
        names
            .sort_by_key(|name| (ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()), *name));
        names.dedup();
        let mut table = Table::new(["program"].into_iter().chain(names.iter().copied()).chain(["all"]), 1);
        for row in rows {
            let phase = pick(row);
            let cells = names.iter().map(|name| per_datagram(phase.count(name), phase.datagrams));
            let all = match (phase.total(), phase.datagrams) {
                (0, 0) => "0".to_string(),
                (total, datagrams) => per_datagram(total, datagrams),
            };
            table.row(std::iter::once(row.program.clone()).chain(cells).chain([all]));
        }
        add(title, table);
    }
    out
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
    use super::*;

    fn phase(datagrams: usize, calls: &[(&str, usize)], wakes: usize, would_block: usize) -> Phase {
        Phase {
            datagrams,
            echoes: datagrams,
            calls: calls.iter().map(|(name, count)| (name.to_string(), *count)).collect(),
            wakes,
            would_block,
            receives: datagrams,
        }
    }

    /// The counts of a rung that does what the text says.
    fn poll_row() -> Row {
        Row {
            program: "echo-poll".into(),
            foreign: false,
            start_up: Phase::default(),
            one_at_a_time: phase(8, &[("poll", 8), ("recvfrom", 16), ("sendto", 8)], 8, 8),
            burst_8: phase(8, &[("poll", 1), ("recvfrom", 9), ("sendto", 8)], 1, 1),
            burst_64: phase(64, &[("poll", 2), ("recvfrom", 64), ("sendto", 64)], 2, 0),
            idle_second: Phase::default(),
        }
    }

    #[test]
    fn what_holds_breaks_nothing() {
        assert_eq!(broken_claims(&poll_row()), Vec::<String>::new());
    }

    #[test]
    fn every_claim_can_break() {
        type Change = fn(&mut Row);
        let change: [(&str, &str, Change); 8] = [
            ("a lost echo", "7 of 8 echoes", |row| row.burst_8.echoes = 7),
            ("a call too many", "the text claims 4", |row| {
                row.one_at_a_time.calls.insert("epoll_create1".into(), 1);
            }),
            ("a wait for every datagram", "waits, and one a budget", |row| {
                row.burst_64.calls.insert("poll".into(), 64);
            }),
            ("a change of interest", "epoll_ctl in the steady state", |row| {
                row.burst_8.calls.insert("epoll_ctl".into(), 1);
            }),
            ("a busy loop", "an idle second", |row| {
                row.idle_second.calls = BTreeMap::from([("poll".into(), 9)])
            }),
            ("a second would-block", "one a wake", |row| {
                row.program = "echo-epoll-edge".into();
                row.burst_8.would_block = 3;
            }),
            ("a wait in the flip-flop", "not just one of each", |row| row.program = "echo-blocking".into()),
            ("a read that is not followed by a MOD", "one a read", |row| {
                row.program = "echo-mio-level".into()
            }),
        ];
        for (what, sentence, change) in change {
            let mut row = poll_row();
            change(&mut row);
            let broken = broken_claims(&row);
            assert!(broken.iter().any(|claim| claim.contains(sentence)), "{what}: {broken:?}");
        }
    }

    #[test]
    fn of_a_foreign_server_only_the_echoes_are_asked() {
        let mut row = poll_row();
        row.foreign = true;
        row.idle_second.calls = BTreeMap::from([("poll".into(), 9)]);
        assert!(broken_claims(&row).is_empty());
        row.burst_64.echoes = 63;
        assert_eq!(broken_claims(&row).len(), 1);
    }

    #[test]
    fn cells_have_two_digits_at_most() {
        assert_eq!(per_datagram(0, 8), "-");
        assert_eq!(per_datagram(16, 8), "2");
        assert_eq!(per_datagram(2, 64), "0.03");
        assert_eq!(per_datagram(5, 0), "5");
    }
}
