//! `ladder compare`: what each server asks of the kernel, counted by strace, side by side; and whether what the
//! documentation claims about it holds.

use std::process::ExitCode;

use serde::Serialize;

use crate::checkout::{Checkout, Program};
use crate::claims;
use crate::counts::{self, Phase, Row, per_datagram};
use crate::expectation::PollExpectation;
use crate::failure::{Result, failed, note, print};
use crate::many;
use crate::server;
use crate::table::Table;

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

/// What was counted; `--json` prints it together with the claims that do not hold.
#[derive(Serialize)]
pub struct Report {
    programs: Vec<Row>,
    many_sockets: Vec<many::Row>,
    /// What is claimed and the counts do not show, as sentences.
    pub broken: Vec<String>,
}

/// Runs `ladder compare`: exit code 1 when a claim does not hold.
pub fn run(checkout: &Checkout, options: &Options) -> Result<ExitCode> {
    let report = measure(checkout, options)?;
    if options.json {
        match serde_json::to_string(&report) {
            Ok(text) => print(&format!("{text}\n")),
            Err(error) => return failed(format!("could not write JSON: {error}")),
        }
    } else {
        print(&report.tables(options));
    }
    for claim in &report.broken {
        note(&format!("ladder: {claim}"));
    }
    Ok(if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Counts what the options name: echo servers, demos with many sockets, or, when they name nothing, all of both.
pub fn measure(checkout: &Checkout, options: &Options) -> Result<Report> {
    let named: Vec<&Program> =
        options.programs.iter().map(|name| checkout.program(name)).collect::<Result<_>>()?;
    let (mut demos, servers): (Vec<_>, Vec<_>) =
        named.into_iter().partition(|program| PollExpectation::is_in(program));
    let only_demos = !demos.is_empty() && servers.is_empty() && options.with.is_empty();
    if options.programs.is_empty() && options.with.is_empty() {
        demos = checkout.programs.iter().filter(|program| PollExpectation::is_in(program)).collect();
    }
    let servers: Vec<String> = servers.iter().map(|program| program.name.clone()).collect();
    let targets = if only_demos { Vec::new() } else { server::targets(checkout, &servers, &options.with)? };
    let many_sockets = many::measure(checkout, checkout.profile, &demos)?;
    let programs = counts::measure(checkout, checkout.profile, &targets)?;
    let broken = programs.iter().flat_map(claims::broken).chain(many_sockets.iter().flat_map(many::broken));
    Ok(Report { broken: broken.collect(), programs, many_sockets })
}

impl Report {
    /// The tables, one a phase, and one of the demos with many sockets.
    pub fn tables(&self, options: &Options) -> String {
        let mut tables = Vec::new();
        if !self.programs.is_empty() {
            tables.push(self::tables(&self.programs, options));
        }
        if !self.many_sockets.is_empty() {
            tables.push(many::table(&self.many_sockets, options.markdown));
        }
        tables.join("\n")
    }
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
        out.push_str(&table.titled(title, options.markdown));
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
