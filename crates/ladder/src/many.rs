//! The part of `ladder compare` about the demos with many sockets: polls of their futures beside the system
//! calls, because the calls do not differ.

use std::collections::BTreeMap;

use harness::PATIENCE;
use serde::Serialize;

use crate::checkout::{Checkout, Profile, Program};
use crate::client::Client;
use crate::counts::per_datagram;
use crate::expectation::PollExpectation;
use crate::failure::{Result, failed};
use crate::server::{self, Launch, Target};
use crate::table::Table;

/// Datagrams sent to each, to the sockets in turn.
const DATAGRAMS: usize = 31;

/// One demo with one number of sockets.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the program.
    pub program: String,
    /// Sockets it had open: one of the numbers that its header names.
    pub sockets: usize,
    /// Polls for one datagram that its header expects with so many sockets.
    pub expected_polls: usize,
    /// Datagrams sent, one at a time, each after the program went back to its wait.
    pub datagrams: usize,
    /// Echoes that came back.
    pub echoes: usize,
    /// Polls of the sockets' futures, all together, from the first datagram on.
    pub polls: usize,
    /// System calls by name, in all.
    pub calls: BTreeMap<String, usize>,
}

/// Builds the demos and counts their polls and calls, with each number of sockets that a header names.
pub fn measure(checkout: &Checkout, profile: Profile, programs: &[&Program]) -> Result<Vec<Row>> {
    if programs.is_empty() {
        return Ok(Vec::new());
    }
    server::require_strace()?;
    checkout.build(programs.iter().map(|program| program.name.as_str()), profile)?;
    let mut rows = Vec::new();
    for &program in programs {
        for (polls, sockets) in PollExpectation::of(program)?.polls_and_sockets {
            let row = count(checkout, profile, &Target::Own(program.clone()), sockets)?;
            rows.push(Row { expected_polls: polls, ..row });
        }
    }
    Ok(rows)
}

fn count(checkout: &Checkout, profile: Profile, target: &Target, sockets: usize) -> Result<Row> {
    let args = ["--base-port", "0", "--sockets", &sockets.to_string()].map(str::to_string).into();
    let launch = Launch { traced: true, args, ..Launch::default() };
    let mut server = server::start(checkout, profile, target, &launch)?;
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
        expected_polls: 0,
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
    server.dismiss();
    Ok(row)
}

/// What is claimed and the counts do not show, as sentences.
pub fn broken(row: &Row) -> Vec<String> {
    let Row { program, sockets, expected_polls, datagrams, echoes, polls, calls } = row;
    let mut broken = Vec::new();
    if echoes != datagrams {
        broken.push(format!("{program}: {echoes} of {datagrams} echoes came back"));
    }
    let expected = datagrams * expected_polls;
    // A wake may come for nothing; one in ten is more than has been seen.
    if !(expected..=expected + expected / 10).contains(polls) {
        broken.push(format!(
            "{program}: {polls} polls for {datagrams} datagrams to {sockets} sockets, and the header expects {expected}"
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
pub fn table(rows: &[Row], markdown: bool) -> String {
    let title = "Many sockets, one datagram at a time: polls and system calls per datagram";
    let names = ["epoll_wait", "recvfrom", "sendto", "write"];
    let mut table = Table::new(["program", "sockets", "polls"].into_iter().chain(names), 1);
    for row in rows {
        let cell = |count: usize| per_datagram(count, row.datagrams);
        let calls = names.iter().map(|name| cell(row.calls.get(*name).copied().unwrap_or(0)));
        let start = [row.program.clone(), row.sockets.to_string(), cell(row.polls)];
        table.row(start.into_iter().chain(calls));
    }
    table.titled(title, markdown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sockets: usize, expected_polls: usize, polls: usize) -> Row {
        let calls = [("recvfrom", 62), ("sendto", 31), ("epoll_wait", 62), ("write", 31)];
        Row {
            program: "tokio-multisocket-join".into(),
            sockets,
            expected_polls,
            datagrams: 31,
            echoes: 31,
            polls,
            calls: calls.map(|(name, count)| (name.to_string(), count)).into(),
        }
    }

    #[test]
    fn the_counts_of_the_text_break_nothing() {
        for sound in [row(10, 10, 310), row(30, 30, 930), row(31, 1, 31), row(10, 1, 34)] {
            assert_eq!(broken(&sound), Vec::<String>::new());
        }
    }

    #[test]
    fn every_claim_can_break() {
        for (row, sentence) in [
            (row(10, 10, 31), "the header expects 310"),
            (row(31, 1, 961), "the header expects 31"),
            (row(10, 1, 35), "the header expects 31"),
            (Row { echoes: 30, ..row(10, 1, 31) }, "30 of 31 echoes"),
            (Row { calls: BTreeMap::new(), ..row(10, 1, 31) }, "0 receives"),
        ] {
            let said = broken(&row);
            assert!(said.iter().any(|claim| claim.contains(sentence)), "{sentence}: {said:?}");
        }
    }
}
