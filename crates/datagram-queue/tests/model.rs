//! The queue against a model: the same random operations on it and on a `VecDeque`, which must agree after
//! each. A model with a fault is caught, so the comparison can fail.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use datagram_queue::{DatagramQueue, Fill, Policy};
use proptest::prelude::*;

/// What is done to the queue.
#[derive(Clone, Debug)]
enum Step {
    /// A datagram of this many bytes comes from this port.
    Arrive(usize, u16),
    /// One comes and is refused by the closure.
    Refuse,
    /// The receive has nothing.
    ReceiveBlocks,
    /// The oldest is sent.
    Send,
    /// Its send would block.
    SendBlocks,
    /// Its send is interrupted.
    SendInterrupted,
    /// Its send fails for good.
    SendFails,
    /// The queue takes no more.
    Close,
}

const MAX_SIZE: usize = 64;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..=MAX_SIZE, 1..=u16::MAX).prop_map(|(len, port)| Step::Arrive(len, port)),
        1 => Just(Step::Refuse),
        1 => Just(Step::ReceiveBlocks),
        5 => Just(Step::Send),
        3 => Just(Step::SendBlocks),
        1 => Just(Step::SendInterrupted),
        1 => Just(Step::SendFails),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Backpressure), Just(Policy::DropNewest), Just(Policy::DropOldest)]
}

/// The obvious queue.
struct Model {
    datagrams: VecDeque<(Vec<u8>, SocketAddr)>,
    capacity: usize,
    policy: Policy,
    blocked: bool,
    closed: bool,
    peak: usize,
    dropped: u64,
    /// The fault under test, if any.
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    HoldsOneMore,
    PutsBackAtTheTail,
    DropsWhenMerelyFull,
}

impl Model {
    fn has_room(&self) -> bool {
        let capacity = self.capacity + usize::from(self.fault == Some(Fault::HoldsOneMore));
        let blocked = self.blocked || self.fault == Some(Fault::DropsWhenMerelyFull);
        !self.closed && (self.datagrams.len() < capacity || (blocked && self.policy != Policy::Backpressure))
    }

    fn push(&mut self, datagram: (Vec<u8>, SocketAddr)) -> Fill {
        let capacity = self.capacity + usize::from(self.fault == Some(Fault::HoldsOneMore));
        if self.datagrams.len() < capacity {
            self.datagrams.push_back(datagram);
            self.peak = self.peak.max(self.datagrams.len());
            return Fill::Queued;
        }
        self.dropped += 1;
        if self.policy == Policy::DropOldest {
            self.datagrams.pop_front();
            self.datagrams.push_back(datagram);
        }
        Fill::Dropped
    }

    fn block(&mut self) {
        self.blocked = true;
        if self.fault == Some(Fault::PutsBackAtTheTail) {
            self.datagrams.rotate_left(1);
        }
    }
}

/// Runs `steps` on both and says where they first disagree.
fn agree(capacity: usize, policy: Policy, fault: Option<Fault>, steps: &[Step]) -> Result<(), String> {
    let mut queue = DatagramQueue::new(capacity, MAX_SIZE, policy);
    let mut model = Model {
        datagrams: VecDeque::new(),
        capacity,
        policy,
        blocked: false,
        closed: false,
        peak: 0,
        dropped: 0,
        fault,
    };
    for (number, step) in steps.iter().enumerate() {
        let differ = |what: String| Err(format!("step {number}, {step:?}: {what}"));
        match *step {
            Step::Arrive(len, port) => {
                let payload: Vec<u8> = (0..len).map(|i| (i + number) as u8).collect();
                let peer = SocketAddr::from(([127, 0, 0, 1], port));
                let mut called = false;
                let filled = queue.fill(|slot| {
                    called = true;
                    assert_eq!(slot.len(), MAX_SIZE + 1, "a slot has one byte more than the limit");
                    slot[..len].copy_from_slice(&payload);
                    Ok(Some((len, peer)))
                });
                let filled = filled.expect("the closure does not fail");
                let expected = match (model.closed, model.has_room()) {
                    (true, _) => Fill::Closed,
                    (false, false) => Fill::Full,
                    (false, true) => model.push((payload, peer)),
                };
                if filled != expected {
                    return differ(format!("{filled:?} instead of {expected:?}"));
                }
                assert_eq!(called, matches!(filled, Fill::Queued | Fill::Dropped));
            }
            Step::Refuse => {
                let filled = queue.fill(|slot| {
                    slot.fill(0xff);
                    Ok(None)
                });
                let expected = match (model.closed, model.has_room()) {
                    (true, _) => Fill::Closed,
                    (false, false) => Fill::Full,
                    (false, true) => Fill::Refused,
                };
                if filled.expect("the closure does not fail") != expected {
                    return differ(format!("not {expected:?}"));
                }
            }
            Step::ReceiveBlocks => {
                let before = (queue.len(), queue.dropped());
                let _ = queue.fill(|_| Err(ErrorKind::WouldBlock.into()));
                assert_eq!((queue.len(), queue.dropped()), before, "nothing is evicted for nothing");
            }
            Step::Send | Step::SendBlocks | Step::SendInterrupted | Step::SendFails => {
                let mut lent = None;
                let outcome = queue.drain(|payload, peer| {
                    lent = Some((payload.to_vec(), peer));
                    match step {
                        Step::Send => Ok(payload.len()),
                        Step::SendBlocks => Err(ErrorKind::WouldBlock.into()),
                        Step::SendInterrupted => Err(ErrorKind::Interrupted.into()),
                        _ => Err(io::Error::other("refused by the network")),
                    }
                });
                if lent.as_ref() != model.datagrams.front() {
                    return differ(format!("{lent:?} is not the oldest, {:?}", model.datagrams.front()));
                }
                match (lent, step) {
                    (None, _) => {
                        assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
                    }
                    (Some(_), Step::SendBlocks) => model.block(),
                    (Some(_), Step::SendInterrupted) => {}
                    (Some(_), _) => {
                        model.datagrams.pop_front();
                        model.blocked = false;
                    }
                }
            }
            Step::Close => {
                queue.close();
                model.closed = true;
            }
        }
        let ours = (queue.len(), queue.is_empty(), queue.has_room(), queue.peak(), queue.dropped());
        let theirs =
            (model.datagrams.len(), model.datagrams.is_empty(), model.has_room(), model.peak, model.dropped);
        if ours != theirs {
            return differ(format!("(len, empty, room, peak, dropped): {ours:?} instead of {theirs:?}"));
        }
        assert!(queue.len() <= queue.capacity() && queue.is_closed() == model.closed);
    }
    Ok(())
}

fn config() -> ProptestConfig {
    // Miri interprets every step; a few cases still show it the memory accesses.
    let cases = if cfg!(miri) { 8 } else { 500 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn agrees_with_a_vec_deque(
        capacity in 1..6_usize,
        policy in policy(),
        steps in prop::collection::vec(step(), 0..200),
        close_at in prop::option::of(0..200_usize),
    ) {
        let mut steps = steps;
        if let Some(at) = close_at.filter(|at| *at < steps.len()) {
            steps.insert(at, Step::Close);
        }
        prop_assert_eq!(agree(capacity, policy, None, &steps), Ok(()));
    }
}

/// Each classic fault, put into the model, makes the two disagree: the comparison sees it.
#[test]
fn the_comparison_can_fail() {
    use Step::{Arrive, Send, SendBlocks};
    let three = [Arrive(1, 1), Arrive(2, 2), Arrive(3, 3)];
    for (fault, policy, steps) in [
        (Fault::HoldsOneMore, Policy::Backpressure, three.to_vec()),
        (Fault::PutsBackAtTheTail, Policy::Backpressure, [&three[..2], &[SendBlocks, Send]].concat()),
        (Fault::DropsWhenMerelyFull, Policy::DropOldest, three.to_vec()),
        (Fault::DropsWhenMerelyFull, Policy::DropNewest, three.to_vec()),
    ] {
        assert_eq!(agree(2, policy, None, &steps), Ok(()), "without {fault:?}");
        assert!(agree(2, policy, Some(fault), &steps).is_err(), "{fault:?} went unseen");
    }
}
