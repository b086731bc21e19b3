//! Whether the counts of an echo server are what its header and the text claim of them.

use crate::counts::{Phase, Row};
use crate::expectation::Expectation;

/// What is claimed and the counts do not show, as sentences.
pub fn broken(row: &Row) -> Vec<String> {
    let phases =
        [("one at a time", &row.one_at_a_time), ("burst of 8", &row.burst_8), ("burst of 64", &row.burst_64)];
    let mut broken = Vec::new();
    for (name, phase) in phases {
        if phase.echoes != phase.datagrams {
            let (echoes, datagrams) = (phase.echoes, phase.datagrams);
            broken.push(format!("{name}: {echoes} of {datagrams} echoes came back whole and in order"));
        }
    }
    // Of somebody else's server nothing is known but that it echoes.
    if let Some(expects) = &row.expects {
        broken.extend(wrong_order(&row.each_datagram, expects));
        for (name, phase) in &phases[1..] {
            broken.extend(wrong_burst(phase, expects).into_iter().map(|claim| format!("{name}: {claim}")));
        }
        let total = row.burst_64.total();
        if let Some(expected) = expects.burst_of_64.filter(|&expected| expected != total) {
            broken.push(format!("burst of 64: {total} calls, and the header expects {expected}"));
        }
        let idle = row.idle_second.total();
        if idle != 0 {
            broken.push(format!("an idle second: {idle} calls, and the text claims none"));
        }
    }
    broken.iter().map(|claim| format!("{}: {claim}", row.program)).collect()
}

/// The calls for single datagrams that are not those expected, or not in that order. What came several times is
/// said once.
fn wrong_order(each_datagram: &[Vec<String>], expects: &Expectation) -> Vec<String> {
    let mut wrong: Vec<&Vec<String>> =
        each_datagram.iter().filter(|calls| **calls != expects.calls).collect();
    let all = each_datagram.len();
    let mut broken = Vec::new();
    while let Some(&calls) = wrong.first() {
        let before = wrong.len();
        wrong.retain(|other| *other != calls);
        let (times, calls) = (before - wrong.len(), list(calls));
        broken.push(format!(
            "one at a time: {calls} for {times} of {all} datagrams, and the header expects {}",
            list(&expects.calls)
        ));
    }
    broken
}

fn list(calls: &[String]) -> String {
    if calls.is_empty() { "no call".into() } else { calls.join(", ") }
}

/// What a burst may never cost: a call that a single datagram does not need, more of any than single datagrams
/// would, or a receive that finds nothing without a wake before it.
fn wrong_burst(phase: &Phase, expects: &Expectation) -> Vec<String> {
    let mut broken = Vec::new();
    let expected: Vec<&str> = expects.calls.iter().filter_map(|call| call.split(' ').next()).collect();
    let names = phase.calls.keys().map(String::as_str);
    let unseen = expected.iter().copied().filter(|name| !phase.calls.contains_key(*name));
    let mut names: Vec<&str> = names.chain(unseen).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (count, most) = (phase.count(name), expects.times(name) * phase.datagrams);
        if count > most || count == 0 {
            let allowed = if most == 0 { "none".to_string() } else { format!("1 to {most}") };
            let datagrams = phase.datagrams;
            broken
                .push(format!("{count} {name} for {datagrams} datagrams, and the header expects {allowed}"));
        }
    }
    let Phase { would_block, wakes, .. } = *phase;
    // An edge is used up only when a receive has found the socket empty.
    let claim = match expects.edge_triggered {
        true if would_block != wakes => "one a wake",
        false if would_block > wakes => "one a wake at most",
        _ => return broken,
    };
    broken.push(format!(
        "{would_block} receives would have blocked in {wakes} wakes, and the text claims {claim}"
    ));
    broken
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn phase(datagrams: usize, calls: &[(&str, usize)], wakes: usize, would_block: usize) -> Phase {
        let calls = calls.iter().map(|(name, count)| (name.to_string(), *count)).collect();
        Phase { datagrams, echoes: datagrams, calls, wakes, would_block }
    }

    /// The counts of a rung that does what its header says.
    fn poll_row() -> Row {
        let expects: Expectation =
            "poll, recvfrom, recvfrom = EAGAIN, sendto for one datagram; 130 for a burst of 64"
                .parse()
                .expect("the form of the headers");
        Row {
            program: "echo-poll".into(),
            start_up: Phase::default(),
            one_at_a_time: phase(8, &[("poll", 8), ("recvfrom", 16), ("sendto", 8)], 8, 8),
            each_datagram: vec![expects.calls.clone(); 8],
            burst_8: phase(8, &[("poll", 1), ("recvfrom", 9), ("sendto", 8)], 1, 1),
            burst_64: phase(64, &[("poll", 2), ("recvfrom", 64), ("sendto", 64)], 2, 0),
            idle_second: Phase::default(),
            expects: Some(expects),
        }
    }

    fn expects(row: &mut Row) -> &mut Expectation {
        row.expects.as_mut().expect("a rung of ours")
    }

    #[test]
    fn what_holds_breaks_nothing() {
        assert_eq!(broken(&poll_row()), Vec::<String>::new());
    }

    #[test]
    fn every_claim_can_break() {
        type Change = fn(&mut Row);
        let change: [(&str, &str, Change); 11] = [
            ("a lost echo", "burst of 8: 7 of 8 echoes", |row| row.burst_8.echoes = 7),
            ("a call too many", "sendto, poll for 1 of 8 datagrams, and the header expects poll", |row| {
                row.each_datagram[3].push("poll".into());
            }),
            ("another order", "recvfrom, poll, recvfrom = EAGAIN, sendto for 8 of 8", |row| {
                row.each_datagram.iter_mut().for_each(|calls| calls.swap(0, 1));
            }),
            ("no call", "one at a time: no call for 1 of 8", |row| row.each_datagram[7].clear()),
            ("a wait for every datagram", "burst of 64: 192 calls, and the header expects 130", |row| {
                row.burst_64.calls.insert("poll".into(), 64);
            }),
            (
                "a change of interest",
                "burst of 8: 1 epoll_ctl for 8 datagrams, and the header expects none",
                |row| {
                    row.burst_8.calls.insert("epoll_ctl".into(), 1);
                },
            ),
            (
                "more sends than datagrams",
                "burst of 8: 9 sendto for 8 datagrams, and the header expects 1 to 8",
                |row| {
                    row.burst_8.calls.insert("sendto".into(), 9);
                },
            ),
            (
                "a call that is expected",
                "burst of 8: 0 epoll_ctl for 8 datagrams, and the header expects 1 to 8",
                |row| {
                    expects(row).calls.push("epoll_ctl".into());
                },
            ),
            ("a busy loop", "an idle second: 9 calls", |row| {
                row.idle_second.calls = BTreeMap::from([("poll".into(), 9)])
            }),
            ("a second would-block", "burst of 8: 3 receives would have blocked in 1 wakes", |row| {
                row.burst_8.would_block = 3;
            }),
            ("an edge that is not used up", "burst of 64: 0 receives would have blocked in 2 wakes", |row| {
                expects(row).edge_triggered = true;
            }),
        ];
        for (what, sentence, change) in change {
            let mut row = poll_row();
            change(&mut row);
            let broken = broken(&row);
            assert!(broken.iter().any(|claim| claim.contains(sentence)), "{what}: {broken:?}");
        }
    }

    #[test]
    fn of_a_foreign_server_only_the_echoes_are_asked() {
        let mut row = poll_row();
        row.expects = None;
        row.idle_second.calls = BTreeMap::from([("poll".into(), 9)]);
        assert!(broken(&row).is_empty());
        row.burst_64.echoes = 63;
        assert_eq!(broken(&row).len(), 1);
    }
}
