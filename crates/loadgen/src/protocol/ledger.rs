//! Which datagrams are outstanding, and what a reply is to them.

use std::collections::VecDeque;

use crate::clock::Nanos;
use crate::schedule::{Cursor, Due, Schedule, Share};

/// What a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The first to its datagram.
    First,
    /// Another one to the same datagram.
    Duplicate,
    /// Its datagram has been given up already.
    Late,
    /// No datagram of ours has this index.
    Foreign,
}

/// Which datagrams of one share of a schedule are outstanding: one bit each, from the oldest unanswered to the newest
/// sent. What has been answered or given up at the old end takes no memory.
#[derive(Clone, Debug)]
pub struct Ledger {
    share: Share,
    /// Answered or not, by ordinal within the share; the first bit is that of `base`.
    words: VecDeque<u64>,
    base: u64,
    /// The oldest ordinal that is outstanding.
    front: u64,
    /// How many were sent.
    sent: u64,
    outstanding: u64,
    /// Walks the times of the outstanding ones, from the oldest.
    tail: Cursor,
}

impl Ledger {
    /// For the datagrams of `share`, none of them sent.
    pub fn new(schedule: &Schedule, share: Share) -> Self {
        let tail = schedule.cursor(share);
        Self { share, words: VecDeque::new(), base: 0, front: 0, sent: 0, outstanding: 0, tail }
    }

    fn answered(&self, ordinal: u64) -> bool {
        let place = ordinal - self.base;
        self.words.get((place / 64) as usize).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    fn mark(&mut self, ordinal: u64) {
        let place = ordinal - self.base;
        if let Some(word) = self.words.get_mut((place / 64) as usize) {
            *word |= 1 << (place % 64);
            self.outstanding -= 1;
        }
    }

    /// The next datagram of the share was sent.
    pub fn send(&mut self) {
        if (self.sent - self.base) / 64 >= self.words.len() as u64 {
            self.words.push_back(0);
        }
        self.sent += 1;
        self.outstanding += 1;
    }

    /// A reply with this index came.
    pub fn reply(&mut self, index: u64) -> Reply {
        if index < self.share.part || !(index - self.share.part).is_multiple_of(self.share.of) {
            return Reply::Foreign;
        }
        let ordinal = (index - self.share.part) / self.share.of;
        if ordinal >= self.sent {
            return Reply::Foreign;
        }
        if ordinal < self.base {
            // Both are possible; the bit is gone.
            return Reply::Late;
        }
        if self.answered(ordinal) {
            return Reply::Duplicate;
        }
        if ordinal < self.front {
            // Behind the front without an answer: given up.
            return Reply::Late;
        }
        self.mark(ordinal);
        if ordinal == self.front {
            self.advance(|_| false);
        }
        Reply::First
    }

    /// Moves the front over what is answered, and over what `give_up` says yes to.
    fn advance(&mut self, mut give_up: impl FnMut(Due) -> bool) {
        while self.front < self.sent {
            if !self.answered(self.front) {
                let Some(due) = self.tail.peek() else { break };
                if !give_up(due) {
                    break;
                }
                self.outstanding -= 1;
            }
            self.front += 1;
            self.tail.next();
        }
        // Some answered words stay, so that a duplicate that follows soon is known for one.
        const KEEP: u64 = 1024 * 64;
        while self.front.saturating_sub(self.base) >= KEEP + 64 {
            self.words.pop_front();
            self.base += 64;
        }
    }

    /// Gives up every outstanding datagram whose time (from the schedule's start) lies at or before `until`, telling
    /// each to `each`.
    pub fn expire(&mut self, until: Nanos, mut each: impl FnMut(Due)) {
        self.advance(|due| {
            let old = due.at <= until;
            if old {
                each(due);
            }
            old
        });
    }

    /// When the oldest outstanding datagram was due, from the schedule's start.
    pub fn oldest(&self) -> Option<Nanos> {
        if self.outstanding == 0 { None } else { self.tail.peek().map(|due| due.at) }
    }

    /// How many are outstanding.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::SECOND;
    use crate::schedule::{Arrival, Rate};

    fn schedule(n: u64) -> Schedule {
        Schedule { arrival: Arrival::Constant(Rate::new(1000, 1).unwrap()), duration: n * SECOND / 1000 }
    }

    /// T14, exactly: every k-th reply lost, every m-th of the others doubled.
    #[test]
    fn t14_losses_and_duplicates_are_counted_exactly() {
        for (n, k, m) in [(10_000, 7, 5), (1000, 1000, 1), (64, 2, 3), (100_000, 3, 2)] {
            let mut ledger = Ledger::new(&schedule(n), Share::ALL);
            let (mut firsts, mut duplicates, mut replies) = (0, 0, 0);
            for index in 0..n {
                ledger.send();
                if (index + 1) % k == 0 {
                    continue;
                }
                replies += 1;
                let copies = if replies % m == 0 { 2 } else { 1 };
                for _ in 0..copies {
                    match ledger.reply(index) {
                        Reply::First => firsts += 1,
                        Reply::Duplicate => duplicates += 1,
                        other => panic!("{index} is {other:?}"),
                    }
                }
            }
            let mut lost = Vec::new();
            ledger.expire(Nanos::MAX, |due| lost.push(due.index));
            assert_eq!(lost.len() as u64, n / k, "lost");
            assert_eq!(lost.first().copied(), (n / k > 0).then_some(k - 1), "the first one lost");
            assert_eq!((firsts, duplicates), (n - n / k, (n - n / k) / m));
            assert_eq!(ledger.outstanding(), 0);
        }
    }

    #[test]
    fn a_late_reply_is_never_anothers() {
        let mut ledger = Ledger::new(&schedule(1000), Share { part: 1, of: 3 });
        for _ in 0..10 {
            ledger.send();
        }
        // Indices 1, 4, 7, ...; at 1000 a second index 4 is due at 4 ms.
        let mut given_up = Vec::new();
        ledger.expire(4_000_000, |due| given_up.push(due.index));
        assert_eq!(given_up, [1, 4]);
        assert_eq!(ledger.reply(4), Reply::Late);
        assert_eq!(ledger.reply(7), Reply::First);
        assert_eq!(ledger.reply(7), Reply::Duplicate);
        assert_eq!(ledger.reply(8), Reply::Foreign, "another share's");
        assert_eq!(ledger.reply(1 + 3 * 10), Reply::Foreign, "never sent");
    }

    #[test]
    fn the_ledger_of_a_long_run_stays_small() {
        let mut ledger = Ledger::new(&schedule(3_000_000), Share::ALL);
        for index in 0..3_000_000 {
            ledger.send();
            ledger.reply(index);
        }
        assert!(ledger.words.len() < 2000, "{} words", ledger.words.len());
    }

    proptest! {
        /// Any order of replies, doubles and losses: firsts and losses together are all.
        #[test]
        fn the_ledger_accounts_for_everything(replies in prop::collection::vec(0_u64..300, 0..600), cut in 0..300_u64) {
            let mut ledger = Ledger::new(&schedule(300), Share::ALL);
            for _ in 0..300 {
                ledger.send();
            }
            let (mut firsts, mut lost) = (0, 0);
            for (i, index) in replies.iter().enumerate() {
                if i as u64 == cut {
                    ledger.expire(150_000_000, |_| lost += 1);
                }
                firsts += u64::from(ledger.reply(*index) == Reply::First);
            }
            prop_assert_eq!(ledger.outstanding() + firsts + lost, 300);
            ledger.expire(Nanos::MAX, |_| lost += 1);
            prop_assert_eq!(firsts + lost, 300);
            prop_assert_eq!(ledger.outstanding(), 0);
        }
    }
}
