//! What the header of a program expects of its system calls: the line `Expect:`, read.

use std::str::FromStr;

use serde::Serialize;

use crate::checkout::Program;
use crate::failure::{Result, failed};

/// What the header of an echo server expects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expectation {
    /// The calls for one datagram, in order, each as [`label`](crate::counts::label) writes it: `recvfrom`,
    /// `recvfrom = EAGAIN`, `epoll_wait (writable)`.
    pub calls: Vec<String>,
    /// How many calls a burst of 64 costs in all, where the header says so.
    pub burst_of_64: Option<usize>,
    /// Whether the header calls the wait edge-triggered: then each wake ends in a receive that would block.
    pub edge_triggered: bool,
}

impl Expectation {
    /// Reads the header of `program`.
    ///
    /// # Errors
    ///
    /// The line is missing or of another form: a sentence that names the source.
    pub fn of(program: &Program) -> Result<Self> {
        match program.expect.parse::<Self>() {
            Ok(expectation) => {
                Ok(Self { edge_triggered: program.about.contains("edge-triggered"), ..expectation })
            }
            Err(why) => failed(format!("{}: {why}", program.source)),
        }
    }

    /// How often the calls for one datagram have a call of this name.
    pub fn times(&self, name: &str) -> usize {
        self.calls.iter().filter(|call| call.split(' ').next() == Some(name)).count()
    }
}

/// What an `Expect:` of an echo server looks like, for messages.
const FORM: &str = "write `Expect:   CALL, CALL = EAGAIN, CALL (writable) for one datagram; N for a burst of 64`, \
                    the calls in their order, the part from the semicolon on only if it is to be held";

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = |why: String| Err(format!("`Expect:` {why}: {FORM}"));
        let Some((calls, rest)) = text.split_once(" for one datagram") else {
            return wrong(format!("does not say what one datagram costs ({text:?})"));
        };
        let mut expected = Vec::new();
        for call in calls.split(", ") {
            let (name, outcome) = call.split_at(call.find(' ').unwrap_or(call.len()));
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if name.is_empty() || !name.chars().all(is_name) {
                return wrong(format!("has {call:?} where the name of a system call belongs"));
            }
            if !["", " = EAGAIN", " (writable)"].contains(&outcome) {
                return wrong(format!("has{outcome:?} behind {name}"));
            }
            // The kernel's name for it, which is what a recording says.
            let name = if name == "select" { "pselect6" } else { name };
            expected.push(format!("{name}{outcome}"));
        }
        let burst_of_64 =
            match rest.strip_prefix("; ").and_then(|rest| rest.strip_suffix(" for a burst of 64")) {
                Some(count) => match count.parse() {
                    Ok(count) => Some(count),
                    Err(_) => return wrong(format!("has {count:?} where the number of calls belongs")),
                },
                None if rest.is_empty() => None,
                None => return wrong(format!("goes on with {rest:?}")),
            };
        Ok(Self { calls: expected, burst_of_64, edge_triggered: false })
    }
}

/// What the header of a demo with many sockets expects: `10 polls for one datagram to 10 sockets, 30 to 30, 1 to 31`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollExpectation {
    /// Polls of the sockets' futures for one datagram, and the number of sockets with which that is so.
    pub polls_and_sockets: Vec<(usize, usize)>,
}

impl PollExpectation {
    /// Whether the header of `program` speaks of polls for one datagram to a number of sockets.
    pub fn is_in(program: &Program) -> bool {
        program.expect.contains(" for one datagram to ")
    }

    /// Reads the header of `program`.
    ///
    /// # Errors
    ///
    /// The line is missing or of another form: a sentence that names the source.
    pub fn of(program: &Program) -> Result<Self> {
        program.expect.parse().or_else(|why| failed(format!("{}: {why}", program.source)))
    }
}

impl FromStr for PollExpectation {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let read = |part: &str| -> Option<(usize, usize)> {
            let (polls, sockets) = part.split_once(" to ")?;
            Some((polls.parse().ok()?, sockets.parse().ok().filter(|&sockets| sockets > 0)?))
        };
        // The first part says what is counted, the others only how many.
        let plain = text.replacen(" polls for one datagram to ", " to ", 1);
        let plain = plain.replacen(" poll for one datagram to ", " to ", 1).replacen(" sockets", "", 1);
        let parts: Option<Vec<_>> = plain.split(", ").map(read).collect();
        match parts {
            Some(polls_and_sockets) if plain != text => Ok(Self { polls_and_sockets }),
            _ => Err(format!(
                "`Expect:` {text:?} does not say how many polls a datagram costs: write `Expect:   10 polls for one \
                 datagram to 10 sockets, 30 to 30, 1 to 31`"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkout::Checkout;

    #[test]
    fn the_calls_are_read_in_order() {
        let line = "epoll_wait, recvfrom, recvfrom = EAGAIN, sendto, epoll_wait (writable) for one datagram";
        let read: Expectation = line.parse().expect("the form of the headers");
        assert_eq!(
            read.calls,
            ["epoll_wait", "recvfrom", "recvfrom = EAGAIN", "sendto", "epoll_wait (writable)"]
        );
        assert_eq!(read.burst_of_64, None);
        assert_eq!((read.times("recvfrom"), read.times("epoll_wait"), read.times("poll")), (2, 2, 0));
        let read: Expectation = "select for one datagram".parse().expect("select");
        assert_eq!(read.calls, ["pselect6"]);
        let read: Expectation =
            "recvfrom, sendto for one datagram; 128 for a burst of 64".parse().expect("both");
        assert_eq!((read.calls.len(), read.burst_of_64), (2, Some(128)));
    }

    #[test]
    fn every_echo_server_and_every_demo_with_many_sockets_has_such_a_line() {
        let checkout = Checkout::find().expect("the checkout around the tests");
        let echoes = checkout.programs.iter().filter(|program| program.is_echo());
        let read: Vec<Expectation> = echoes
            .map(|program| Expectation::of(program).unwrap_or_else(|failure| panic!("{failure}")))
            .collect();
        assert!(read.iter().any(|one| one.edge_triggered) && read.iter().any(|one| !one.edge_triggered));
        let demos: Vec<&Program> =
            checkout.programs.iter().filter(|program| PollExpectation::is_in(program)).collect();
        assert!(demos.len() >= 2, "{demos:?}");
        for demo in demos {
            PollExpectation::of(demo).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }

    #[test]
    fn anything_else_is_an_error_with_a_sentence() {
        for (line, why) in [
            ("", "does not say what one datagram costs"),
            ("recvfrom, sendto", "does not say what one datagram costs"),
            ("recvfrom and sendto for one datagram", "has\" and sendto\" behind recvfrom"),
            ("recvfrom = EINTR for one datagram", "has\" = EINTR\" behind recvfrom"),
            ("a Receive for one datagram", "has\" Receive\" behind a"),
            ("Poll for one datagram", "where the name of a system call belongs"),
            ("recvfrom,sendto for one datagram", "where the name of a system call belongs"),
            ("recvfrom, sendto for one datagram, mostly", "goes on with \", mostly\""),
            ("recvfrom for one datagram; some for a burst of 64", "where the number of calls belongs"),
            ("recvfrom for one datagram; 9 for a burst of 8", "goes on with"),
        ] {
            let said = line.parse::<Expectation>().expect_err(line);
            assert!(said.contains(why) && said.contains("write `Expect:"), "{line}: {said}");
        }
    }

    #[test]
    fn polls_are_read_with_the_number_of_sockets() {
        let read: PollExpectation = "10 polls for one datagram to 10 sockets, 30 to 30, 1 to 31"
            .parse()
            .expect("the form of the headers");
        assert_eq!(read.polls_and_sockets, [(10, 10), (30, 30), (1, 31)]);
        let read: PollExpectation = "1 poll for one datagram to 10 sockets".parse().expect("one part");
        assert_eq!(read.polls_and_sockets, [(1, 10)]);
        for wrong in ["", "one datagram, one poll", "10 to 10", "1 poll for one datagram to 0 sockets"] {
            assert!(wrong.parse::<PollExpectation>().is_err(), "{wrong}");
        }
    }
}
