//! The part of `ladder compare` about the demos with many sockets: polls of their futures beside the system
//! calls, because the calls do not differ.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::checkout::{Checkout, Profile, Program};
use crate::client::Client;
use crate::compare::{self, Options};
use crate::failure::{Result, failed};
use crate::server::{self, Launch, PATIENCE, Server, Target};
use crate::table::Table;

/// What the names of these demos begin with.
const PREFIX: &str = "tokio-multisocket-";

/// How many sockets they open, one run each: the usual number, and the two between which `join_all` turns.
const SOCKETS: [usize; 3] = [10, 30, 31];

/// Datagrams sent to each, to the sockets in turn.
const DATAGRAMS: usize = 31;

/// One demo with one number of sockets.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the program.
    pub program: String,
    /// Sockets it had open.
    pub sockets: usize,
    /// Datagrams sent, one at a time, each after the program went back to its wait.
    pub datagrams: usize,
    /// Echoes that came back.
    pub echoes: usize,
    /// Polls of the sockets' futures, all together, from the first datagram on.
    pub polls: usize,
    /// System calls by name, in all.
    pub calls: BTreeMap<String, usize>,
}

/// Whether `program` is one of these demos.
pub fn is_one(program: &str) -> bool {
    program.starts_with(PREFIX)
}

/// The demos of these names, or all of them.
pub fn programs(checkout: &Checkout, names: &[String], all: bool) -> Result<Vec<Program>> {
    match all {
        true => Ok(checkout.programs.iter().filter(|program| is_one(&program.name)).cloned().collect()),
        false => names.iter().map(|name| checkout.program(name).cloned()).collect(),
    }
}

/// Builds the demos and counts their polls and calls, with each number of sockets.
pub fn measure(checkout: &Checkout, profile: Profile, programs: &[Program]) -> Result<Vec<Row>> {
    if programs.is_empty() {
        return Ok(Vec::new());
    }
    server::require_strace()?;
    checkout.build(programs.iter().map(|program| program.name.as_str()), profile)?;
    let mut rows = Vec::new();
    for program in programs {
        for sockets in SOCKETS {
            rows.push(count(checkout, profile, &Target::Own(program.clone()), sockets)?);
        }
    }
    Ok(rows)
}

fn count(checkout: &Checkout, profile: Profile, target: &Target, sockets: usize) -> Result<Row> {
    let args = ["--base-port", "0", "--sockets", &sockets.to_string()].map(str::to_string).into();
    let launch = Launch { traced: true, args, ..Launch::default() };
    let mut server = Server::start(checkout, profile, target, &launch)?;
    server.await_quiet()?;
    // The greeting names the first and the last: their ports are consecutive.
    let Some(&first) = server.addresses.first() else {
        return failed(format!("{} named no address to send to", target.name()));
    };
    let clients = (0..sockets)
        .map(|index| {
            let mut address = first;
            address.set_port(first.port() + index as u16);
            Client::new(address)
        })
        .collect::<Result<Vec<_>>>()?;
    let before = server.events().len();
    let mut echoes = 0;
    for (number, client) in clients.iter().cycle().take(DATAGRAMS).enumerate() {
        let payload = format!("datagram {number}").into_bytes();
        client.send(&payload)?;
        echoes += client.await_echoes(&mut server, &[payload], PATIENCE)?.good;
        server.await_quiet()?;
    }
    let mut row = Row {
        program: target.name().to_string(),
        sockets,
        datagrams: DATAGRAMS,
        echoes,
        polls: 0,
        calls: BTreeMap::new(),
    };
    for call in server.calls_since(before).filter(|call| !call.interrupted()) {
        match call.mark() {
            Some(mark) => row.polls += usize::from(mark.starts_with("poll socket-")),
            None => *row.calls.entry(call.common_name().to_string()).or_default() += 1,
        }
    }
    server.finish()?;
    Ok(row)
}

/// What the documentation claims and the counts do not show, as sentences.
pub fn broken_claims(row: &Row) -> Vec<String> {
    let Row { program, sockets, datagrams, echoes, polls, calls } = row;
    let mut broken = Vec::new();
    if echoes != datagrams {
        broken.push(format!("{program}: {echoes} of {datagrams} echoes came back"));
    }
    let all_polled = program == "tokio-multisocket-join" && *sockets <= 30;
    let expected = datagrams * if all_polled { *sockets } else { 1 };
    // A wake may come for nothing; one in ten is more than has been seen.
    if !(expected..=expected + expected / 10).contains(polls) {
        broken.push(format!(
            "{program}: {polls} polls for {datagrams} datagrams to {sockets} sockets, and the text claims {expected}"
        ));
    }
    let count = |name: &str| calls.get(name).copied().unwrap_or(0);
    let (receives, sends) = (count("recvfrom"), count("sendto"));
    if receives != 2 * datagrams || sends != *datagrams {
        broken.push(format!(
            "{program}: {receives} receives and {sends} sends for {datagrams} datagrams, and the text claims two \
             and one each"
        ));
    }
    broken
}

/// The table: polls a datagram, and the calls that stay the same.
pub fn table(rows: &[Row], options: &Options) -> String {
    let title = "Many sockets, one datagram at a time: polls and system calls per datagram";
    let names = ["epoll_wait", "recvfrom", "sendto", "write"];
    let mut table = Table::new(["program", "sockets", "polls"].into_iter().chain(names), 1);
    for row in rows {
        let cell = |count: usize| compare::per_datagram(count, row.datagrams);
        let calls = names.iter().map(|name| cell(row.calls.get(*name).copied().unwrap_or(0)));
        let start = [row.program.clone(), row.sockets.to_string(), cell(row.polls)];
        table.row(start.into_iter().chain(calls));
    }
    match options.markdown {
        true => format!("**{title}**\n\n{}", table.markdown()),
        false => format!("{title}\n\n{}", table.text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(program: &str, sockets: usize, polls: usize) -> Row {
        let calls = [("recvfrom", 62), ("sendto", 31), ("epoll_wait", 62), ("write", 31)];
        Row {
            program: format!("{PREFIX}{program}"),
            sockets,
            datagrams: 31,
            echoes: 31,
            polls,
            calls: calls.map(|(name, count)| (name.to_string(), count)).into(),
        }
    }

    #[test]
    fn the_counts_of_the_text_break_nothing() {
        for sound in [row("join", 10, 310), row("join", 30, 930), row("join", 31, 31), row("spawn", 10, 31)] {
            assert_eq!(broken_claims(&sound), Vec::<String>::new());
        }
    }

    #[test]
    fn every_claim_can_break() {
        for (broken, sentence) in [
            (row("join", 10, 31), "the text claims 310"),
            (row("join", 31, 961), "the text claims 31"),
            (row("joinset", 10, 310), "the text claims 31"),
            (Row { echoes: 30, ..row("spawn", 10, 31) }, "30 of 31 echoes"),
            (Row { calls: BTreeMap::new(), ..row("spawn", 10, 31) }, "0 receives"),
        ] {
            let said = broken_claims(&broken);
            assert!(said.iter().any(|claim| claim.contains(sentence)), "{sentence}: {said:?}");
        }
    }
}
