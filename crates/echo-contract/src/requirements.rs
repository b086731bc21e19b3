//! The table of requirements.

use crate::{Asks, Place, Requirement};

mod errors;
mod guard;
mod limits;
mod load;
mod output;
mod start;
mod wire;

/// Every requirement of the contract, in the order of the project's numbers.
pub fn requirements() -> &'static [Requirement] {
    REQUIREMENTS
}

const fn everybody(
    id: &'static str,
    name: &'static str,
    sentence: &'static str,
    check: fn(&crate::Subject) -> Result<(), crate::Unmet>,
) -> Requirement {
    Requirement { id, name, sentence, asks: Asks::Everybody, place: Place::Here, check }
}

const fn rungs(
    id: &'static str,
    name: &'static str,
    sentence: &'static str,
    check: fn(&crate::Subject) -> Result<(), crate::Unmet>,
) -> Requirement {
    Requirement { id, name, sentence, asks: Asks::Rungs, place: Place::Here, check }
}

const fn in_private_network(requirement: Requirement) -> Requirement {
    Requirement { place: Place::PrivateNetwork, ..requirement }
}

/// C: the contract's own sentences. R: the project's numbers for reliability.
const REQUIREMENTS: &[Requirement] = &[
    rungs(
        "C01",
        "greeting",
        "the first line says where it listens and how to poke it, and nothing stands before it",
        start::greeting,
    ),
    in_private_network(rungs(
        "C01",
        "default-address",
        "without an ADDR it listens on 127.0.0.1:2000",
        start::default_address,
    )),
    rungs(
        "C02",
        "summary",
        "the summary is the last thing on stdout, and counts what happened",
        output::summary,
    ),
    rungs(
        "C03",
        "usage",
        "wrong usage is status 2, a line that says what is wrong, and the usage",
        start::usage,
    ),
    rungs("C04", "help", "--help shows every flag and its default, --version a line", start::help),
    rungs("C05", "count", "--count N ends it after N echoes, and not one more", start::count),
    rungs(
        "C06",
        "quiet",
        "nothing is printed per datagram; -v does so on stderr; no payload reaches a log",
        output::quiet,
    ),
    rungs("C07", "marks", "--marks shows in strace and nowhere else", output::marks),
    rungs("C08", "ipv6", "it serves ::1 like 127.0.0.1", start::ipv6),
    everybody("C09", "idle", "with nothing to do it uses no processor time", load::idle),
    everybody("R01", "sizes", "an echo is byte-equal, from 0 to 65,507 bytes", wire::sizes),
    everybody("R02", "order", "datagrams of one peer come back to it alone, in order", wire::order),
    rungs(
        "R03",
        "truncation",
        "a datagram longer than --max-size is counted and not echoed",
        wire::truncation,
    ),
    everybody(
        "R04",
        "refusals",
        "ports 2000 to 2009 and its own port number elsewhere are not answered; others are",
        guard::refusals,
    ),
    in_private_network(everybody(
        "R04",
        "forged-refusals",
        "sources that only a forger can have are not answered, and do no harm",
        guard::forged_refusals,
    )),
    rungs(
        "R04",
        "refusal-log",
        "refusals are logged once a minute for each reason at most",
        guard::refusal_log,
    ),
    in_private_network(everybody(
        "R05",
        "no-loops",
        "no pair of servers on guarded ports can be made to answer each other",
        guard::no_loops,
    )),
    in_private_network(rungs(
        "R05",
        "loops-unguarded",
        "with --unguarded two servers do answer each other for ever: the control",
        guard::loops_unguarded,
    )),
    rungs("R05", "unguarded", "--unguarded answers every source", guard::unguarded),
    rungs(
        "R06",
        "send-errors",
        "a failed send loses its datagram, is counted, and nothing else",
        errors::send_errors,
    ),
    rungs(
        "R06",
        "receive-errors",
        "a receive that the network fails is counted, and loses nothing",
        errors::receive_errors,
    ),
    rungs(
        "R06",
        "own-bugs",
        "errors that mean a bug of its own end it: status 1, one line",
        errors::own_bugs,
    ),
    rungs(
        "R07",
        "interrupted-calls",
        "interrupted calls lose nothing and double nothing",
        errors::interrupted_calls,
    ),
    rungs(
        "R07",
        "spurious-readiness",
        "readiness that turns out to be would-block is harmless",
        errors::spurious_readiness,
    ),
    everybody(
        "R07",
        "stop-and-continue",
        "stopped and continued, it loses nothing and doubles nothing",
        errors::stop_and_continue,
    ),
    rungs(
        "R07",
        "traced-on-the-fly",
        "a tracer that comes and goes costs no datagram",
        errors::traced_on_the_fly,
    ),
    everybody("R08", "vanished-clients", "clients that are gone do no harm", errors::vanished_clients),
    rungs(
        "R09",
        "address-in-use",
        "an address in use is status 1 and a line with a next step; nobody can share it, unless the rung is about that",
        start::address_in_use,
    ),
    rungs(
        "R09",
        "address-not-here",
        "an address that this machine does not have is status 1 and a line with a next step",
        start::address_not_here,
    ),
    rungs(
        "R09",
        "low-port",
        "a port that takes a privilege is status 1 and a line with a next step",
        start::low_port,
    ),
    rungs(
        "R11",
        "no-audience",
        "outputs that are closed, full or not read never stop it",
        output::no_audience,
    ),
    rungs(
        "R12",
        "overload",
        "under overload every datagram sent is in `received` or `kernel_dropped`",
        load::overload,
    ),
    rungs(
        "R12",
        "receive-buffer",
        "with a small --receive-buffer the kernel holds less for it, and says what it dropped",
        load::receive_buffer,
    ),
    rungs(
        "R13",
        "policies",
        "a queue that runs full keeps its bound and counts what its policy drops",
        errors::policies_by_injection,
    ),
    in_private_network(rungs(
        "R13",
        "policies-on-a-slow-link",
        "a queue that runs full on a link that really blocks keeps its bound and counts its drops",
        load::policies_on_a_slow_link,
    )),
    rungs("R15", "signal-in-flood", "a signal ends it in the middle of a flood", load::signal_in_flood),
    everybody("R16", "no-lost-wake", "no datagram is stuck, whenever it arrives", load::no_lost_wake),
    everybody(
        "R16",
        "bursts",
        "a burst comes back whole and in order, whatever queue and budget",
        load::bursts,
    ),
    rungs(
        "R17",
        "end-under-load",
        "SIGINT and SIGTERM end it with an exact account, status 0",
        load::end_under_load,
    ),
    rungs(
        "R17",
        "end-while-sends-block",
        "it drains for a second at most, and a second signal ends it at once with 128 + its number",
        load::end_while_sends_block,
    ),
    in_private_network(rungs(
        "R17",
        "end-on-a-slow-link",
        "on a link that really blocks it drains for a second at most, and a second signal ends it",
        load::end_on_a_slow_link,
    )),
    rungs(
        "R26",
        "wildcard",
        "on a wildcard address it warns once and answers, from the asked address if it claims to",
        start::wildcard,
    ),
    rungs(
        "R30",
        "few-descriptors",
        "with too few descriptors it does not greet, and says how to raise the limit",
        limits::few_descriptors,
    ),
    rungs(
        "R30",
        "high-descriptors",
        "with descriptors above 1023 it serves; a wait in select does not greet, and names echo-poll",
        limits::high_descriptors,
    ),
    rungs(
        "R30",
        "refused-setup",
        "what the kernel refuses its wait is a sentence, and no bug of the program",
        limits::refused_setup,
    ),
    in_private_network(rungs(
        "R30",
        "loopback-down",
        "with loopback down it runs and ends, or does not greet, and says how to start it",
        limits::loopback_down,
    )),
    in_private_network(rungs(
        "R30",
        "link-local",
        "on a link-local address it serves, and says which interface it is of",
        limits::link_local,
    )),
    rungs(
        "R30",
        "without-proc",
        "without /proc it serves, and `kernel_dropped` is null",
        limits::without_proc,
    ),
    rungs(
        "R31",
        "extreme-numbers",
        "the least and the most of each number is served, or is wrong usage",
        limits::extreme_numbers,
    ),
    rungs(
        "R33",
        "order-of-short-bursts",
        "4,000 short bursts, each to a server that waits, come back in order",
        load::order_of_short_bursts,
    ),
    in_private_network(rungs(
        "R33",
        "order-behind-a-slow-link",
        "behind a link whose sends block, 5,000 datagrams come back in order, but for those that cannot be sent",
        load::order_behind_a_slow_link,
    )),
    everybody(
        "R34",
        "joined-datagrams",
        "datagrams that a client hands over joined (UDP_SEGMENT) come back one by one, in order",
        wire::joined,
    ),
    rungs(
        "R34",
        "limits-within-joined",
        "--max-size and --count hold for each of them",
        wire::limits_within_joined,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the requirements that strace is needed for.
    const STRACED: &[&str] = &[
        "marks",
        "send-errors",
        "receive-errors",
        "own-bugs",
        "interrupted-calls",
        "spurious-readiness",
        "traced-on-the-fly",
        "policies",
        "end-while-sends-block",
        "refused-setup",
    ];

    #[test]
    fn the_readme_lists_them() {
        let rows: Vec<String> = REQUIREMENTS
            .iter()
            .map(|one| {
                let by = match (one.asks, one.place) {
                    _ if STRACED.contains(&one.name) => "strace",
                    (Asks::Everybody, Place::Here) => "wire",
                    (Asks::Everybody, Place::PrivateNetwork) => "wire, network",
                    (Asks::Rungs, Place::PrivateNetwork) => "network",
                    (Asks::Rungs, Place::Here) => "",
                };
                format!("| {} | {} | {} | {by} |", one.id, one.name, one.sentence)
            })
            .collect();
        let readme = include_str!("../README.md");
        let listed: Vec<&str> =
            readme.lines().filter(|line| line.starts_with("| C") || line.starts_with("| R")).collect();
        assert_eq!(listed, rows, "the table in README.md should be:\n{}\n", rows.join("\n"));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = REQUIREMENTS.iter().map(|one| one.name).collect();
        assert_eq!(names.len(), REQUIREMENTS.len());
    }
}
