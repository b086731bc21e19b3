//! Replies in groups, each of which one sendmsg with UDP_SEGMENT hands over.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;

use echo_service::QueueTotals;

/// Room for the largest arrival: many datagrams together are no longer than one may be.
pub const SLOT: usize = 65_536;

/// The most datagrams that are joined: kernels before 6.10 take no more.
const MOST_DATAGRAMS: usize = 64;

/// The most bytes that are joined: what one datagram carries over IPv4.
const MOST_BYTES: usize = 65_507;

/// A queue of arrivals, each one datagram or several of one size, from one peer. What goes to the same peer in
/// datagrams of the same size lies in one group.
#[derive(Debug)]
pub struct GroupQueue {
    /// All slots, one behind the other. The kernel gives the memory of one when something is first received into it.
    memory: Box<[u8]>,
    free: Vec<usize>,
    capacity: usize,
    /// In the order in which they leave.
    groups: VecDeque<Group>,
    closed: bool,
    peak: usize,
    /// The lists of groups that have left.
    spare: Vec<Vec<Piece>>,
}

/// Datagrams of one size to one peer; only the last may be shorter.
#[derive(Debug)]
struct Group {
    peer: SocketAddr,
    segment: usize,
    pieces: Vec<Piece>,
    /// How many bytes its pieces have in all, and how many of them have left.
    bytes: usize,
    gone: usize,
    /// The kernel did not take them together, so each leaves alone.
    alone: bool,
}

/// A part of a slot.
#[derive(Clone, Debug)]
struct Piece {
    slot: usize,
    range: Range<usize>,
}

/// What one call sends.
#[derive(Debug)]
pub struct Batch<'a> {
    pieces: [IoSlice<'a>; MOST_DATAGRAMS],
    used: usize,
    /// Where to.
    pub peer: SocketAddr,
    /// How many datagrams.
    pub count: usize,
    /// The size of each but the last.
    pub segment: u16,
}

impl<'a> Batch<'a> {
    /// The bytes, in pieces.
    pub fn pieces(&self) -> &[IoSlice<'a>] {
        &self.pieces[..self.used]
    }
}

impl GroupQueue {
    /// Makes an empty queue for `capacity` arrivals.
    pub fn new(capacity: usize) -> Self {
        Self {
            memory: vec![0; capacity * SLOT].into_boxed_slice(),
            // The first is the last, and so taken first.
            free: (0..capacity).rev().collect(),
            capacity,
            groups: VecDeque::new(),
            closed: false,
            peak: 0,
            spare: Vec::new(),
        }
    }

    /// A free slot to receive an arrival into; then [`add`](Self::add). `None` if there is none.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        let slot = *self.free.last()?;
        Some(&mut self.memory[slot * SLOT..][..SLOT])
    }

    /// Whether [`slot`](Self::slot) would lend one.
    pub fn has_room(&self) -> bool {
        !self.closed && self.len() < self.capacity
    }

    /// Queues what was received into [`slot`](Self::slot): the bytes of `range`, datagrams of `segment` bytes each, of
    /// which only the last may be shorter.
    ///
    /// # Panics
    ///
    /// If no slot was lent.
    pub fn add(&mut self, range: Range<usize>, segment: usize, peer: SocketAddr) {
        let slot = self.free.pop().expect("an arrival lies in a slot that was lent");
        let bytes = range.len();
        let piece = Piece { slot, range };
        // Only the youngest group of a peer may grow, or a datagram would overtake those of an older one. Groups that
        // lie far back are not looked for: a new one keeps the order, too.
        let youngest = self.groups.iter_mut().rev().take(MOST_DATAGRAMS).find(|group| group.peer == peer);
        match youngest.filter(|group| group.takes(bytes, segment)) {
            Some(group) => {
                group.bytes += bytes;
                group.pieces.push(piece);
            }
            None => {
                let mut pieces = self.spare.pop().unwrap_or_default();
                pieces.push(piece);
                self.groups.push_back(Group { peer, segment, pieces, bytes, gone: 0, alone: false });
            }
        }
        self.peak = self.peak.max(self.len());
    }

    /// What the oldest group has to send, at most `left` datagrams.
    pub fn oldest(&self, left: usize) -> Option<Batch<'_>> {
        let group = self.groups.front()?;
        let count = if group.alone { 1 } else { group.count().min(left) };
        let mut batch = Batch {
            pieces: [IoSlice::new(&[]); MOST_DATAGRAMS],
            used: 0,
            peer: group.peer,
            count,
            segment: group.segment as u16,
        };
        let (mut skip, mut wanted) = (group.gone, group.bytes_of(count));
        for Piece { slot, range } in &group.pieces {
            let start = range.start + skip.min(range.len());
            let end = range.end.min(start + wanted);
            if start < end {
                batch.pieces[batch.used] = IoSlice::new(&self.memory[slot * SLOT..][start..end]);
                batch.used += 1;
            }
            skip -= skip.min(range.len());
            wanted -= end - start;
        }
        Some(batch)
    }

    /// Takes `count` datagrams out of the oldest group: they were sent, or failed for good.
    pub fn remove(&mut self, count: usize) {
        let Some(group) = self.groups.front_mut() else { return };
        group.gone += group.bytes_of(count);
        if group.gone < group.bytes {
            return;
        }
        if let Some(Group { mut pieces, .. }) = self.groups.pop_front() {
            self.free.extend(pieces.drain(..).map(|piece| piece.slot));
            self.spare.push(pieces);
        }
    }

    /// From now on each datagram of the oldest group leaves alone: the kernel did not take them together.
    pub fn split(&mut self) {
        if let Some(group) = self.groups.front_mut() {
            group.alone = true;
        }
    }

    /// Takes no more arrivals. Those in the queue can still be sent.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The number of arrivals in the queue.
    pub fn len(&self) -> usize {
        self.capacity - self.free.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

impl Group {
    /// Whether an arrival of so many bytes may join.
    fn takes(&self, bytes: usize, segment: usize) -> bool {
        // An empty datagram would vanish among others, and behind a shorter one nothing may follow. One datagram alone
        // may be shorter.
        let one = bytes <= segment;
        let fits = 0 < bytes && (segment == self.segment || one && bytes < self.segment);
        let open = self.bytes > 0 && self.bytes.is_multiple_of(self.segment) && !self.alone;
        let bytes = self.bytes + bytes;
        fits && open && bytes <= MOST_BYTES && bytes.div_ceil(self.segment) <= MOST_DATAGRAMS
    }

    /// How many datagrams it has to send.
    fn count(&self) -> usize {
        // An empty one is a datagram, and alone in its group.
        (self.bytes - self.gone).div_ceil(self.segment.max(1)).max(1)
    }

    /// How many bytes the next `count` datagrams have.
    fn bytes_of(&self, count: usize) -> usize {
        (self.bytes - self.gone).min(count.saturating_mul(self.segment))
    }
}

impl From<&GroupQueue> for QueueTotals {
    /// The peak is one of arrivals; what was never sent is counted in datagrams.
    fn from(queue: &GroupQueue) -> Self {
        Self { peak: queue.peak, dropped: queue.groups.iter().map(|group| group.count() as u64).sum() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u16) -> SocketAddr {
        ([127, 0, 0, 1], 1000 + number).into()
    }

    /// Queues an arrival of datagrams with these contents.
    fn arrive(queue: &mut GroupQueue, from: u16, datagrams: &[Vec<u8>]) {
        let bytes = datagrams.concat();
        queue.slot().expect("room")[..bytes.len()].copy_from_slice(&bytes);
        let segment = datagrams[0].len();
        queue.add(0..bytes.len(), segment, peer(from));
    }

    /// What one call would send: the datagrams, as the kernel cuts them.
    fn cut(batch: &Batch<'_>) -> Vec<Vec<u8>> {
        let bytes = batch.pieces().iter().flat_map(|piece| piece.to_vec()).collect::<Vec<u8>>();
        assert!(bytes.len() <= MOST_BYTES && batch.count <= MOST_DATAGRAMS);
        if bytes.is_empty() {
            return vec![bytes];
        }
        let size = if batch.count > 1 { batch.segment as usize } else { bytes.len() };
        bytes.chunks(size).map(<[u8]>::to_vec).collect()
    }

    /// Sends all, each call at most `left` datagrams.
    fn send_all(queue: &mut GroupQueue, left: usize) -> Vec<(SocketAddr, Vec<Vec<u8>>)> {
        let mut calls = Vec::new();
        while let Some(batch) = queue.oldest(left) {
            let (count, datagrams) = (batch.count, cut(&batch));
            assert_eq!(datagrams.len(), count, "the count says how many the kernel will make");
            calls.push((batch.peer, datagrams));
            queue.remove(count);
        }
        calls
    }

    fn datagram(fill: u8, len: usize) -> Vec<u8> {
        vec![fill; len]
    }

    #[test]
    fn datagrams_of_one_size_to_one_peer_leave_in_one_call() {
        let mut queue = GroupQueue::new(8);
        for fill in 0..3 {
            arrive(&mut queue, 1, &[datagram(fill, 5)]);
        }
        arrive(&mut queue, 2, &[datagram(9, 5)]);
        arrive(&mut queue, 1, &[datagram(3, 2)]);
        let calls = send_all(&mut queue, usize::MAX);
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[0].1, [datagram(0, 5), datagram(1, 5), datagram(2, 5), datagram(3, 2)]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn an_empty_datagram_is_a_group_of_its_own() {
        let mut queue = GroupQueue::new(8);
        for len in [5, 0, 5] {
            arrive(&mut queue, 1, &[datagram(1, len)]);
        }
        let lengths: Vec<usize> =
            send_all(&mut queue, usize::MAX).iter().map(|call| call.1[0].len()).collect();
        assert_eq!(lengths, [5, 0, 5]);
    }

    #[test]
    fn several_short_ones_are_not_taken_for_one_that_ends_a_group() {
        let mut queue = GroupQueue::new(8);
        arrive(&mut queue, 1, &[datagram(1, 100)]);
        arrive(&mut queue, 1, &[datagram(2, 10), datagram(3, 10), datagram(4, 10)]);
        let all: Vec<Vec<u8>> =
            send_all(&mut queue, usize::MAX).into_iter().flat_map(|call| call.1).collect();
        assert_eq!(all, [datagram(1, 100), datagram(2, 10), datagram(3, 10), datagram(4, 10)]);
    }

    #[test]
    fn what_the_kernel_did_not_take_together_leaves_one_by_one() {
        let mut queue = GroupQueue::new(8);
        arrive(&mut queue, 1, &[datagram(1, 10), datagram(2, 10), datagram(3, 4)]);
        queue.split();
        let calls = send_all(&mut queue, usize::MAX);
        assert_eq!(
            calls.iter().map(|call| call.1.clone()).collect::<Vec<_>>(),
            [[datagram(1, 10)], [datagram(2, 10)], [datagram(3, 4)]]
        );
    }

    /// An arrival: some of one size, and perhaps a shorter one behind them.
    fn arrival() -> impl Strategy<Value = (u16, Vec<usize>)> {
        (0_u16..3, 0_usize..40, 1_usize..5, any::<bool>()).prop_map(|(peer, size, many, shorter)| {
            let mut lengths = if size == 0 { vec![0] } else { vec![size; many] };
            if shorter && size > 1 {
                lengths.push(size / 2);
            }
            (peer, lengths)
        })
    }

    proptest! {
        #[test]
        fn each_peer_gets_its_datagrams_whole_and_in_order(
            arrivals in vec(arrival(), 0..60),
            left in 1_usize..70,
        ) {
            let mut queue = GroupQueue::new(60);
            let mut expected: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
            let mut number = 0_u8;
            for (from, lengths) in &arrivals {
                let datagrams: Vec<Vec<u8>> = lengths
                    .iter()
                    .map(|len| {
                        number = number.wrapping_add(1);
                        datagram(number, *len)
                    })
                    .collect();
                arrive(&mut queue, *from, &datagrams);
                expected[*from as usize].extend(datagrams);
            }
            let mut got: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
            for (to, datagrams) in send_all(&mut queue, left) {
                got[(to.port() - 1000) as usize].extend(datagrams);
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(queue.len(), 0);
        }
    }
}
