#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// What a full queue does with the next datagram, once a send has met would-block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Take no more. The rest waits in the kernel's receive buffer, which drops what it cannot hold.
    #[default]
    Backpressure,
    /// Go on receiving, and drop what was received just now.
    DropNewest,
    /// Go on receiving, and drop what has waited longest.
    DropOldest,
}

/// What [`DatagramQueue::fill`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The datagram is the last in the queue.
    Queued,
    /// The closure returned `None`: nothing was queued.
    Refused,
    /// The queue was full and its policy dropped one datagram: the new one, or the oldest in favour
    /// of the new one.
    Dropped,
    /// There is no room, and the closure was not called.
    Full,
    /// The queue takes no more for ever ([`DatagramQueue::close`]), and the closure was not called.
    Closed,
}

/// Room for one datagram.
#[derive(Debug)]
struct Slot {
    /// `max_size + 1` bytes.
    bytes: Box<[u8]>,
    /// Length and peer of the datagram in it; without meaning while the slot is free.
    label: (usize, SocketAddr),
}

/// A bounded queue of datagrams. See the [crate's documentation](crate).
#[derive(Debug)]
pub struct DatagramQueue {
    /// `capacity + 1` slots. The slot beyond the capacity is the spare into which the dropping policies receive.
    slots: Box<[Slot]>,
    max_size: usize,
    policy: Policy,
    /// The slot of the oldest datagram.
    head: usize,
    len: usize,
    /// The last send would have blocked. Set and cleared by `drain` alone.
    blocked: bool,
    closed: bool,
    peak: usize,
    dropped: u64,
}

impl DatagramQueue {
    /// Makes an empty queue for `capacity` datagrams of at most `max_size` bytes each.
    ///
    /// Takes `(capacity + 1) * (max_size + 1)` bytes of address space at once; the system lends the
    /// memory behind it as slots are first used.
    ///
    /// # Panics
    ///
    /// If `capacity` is 0 or the memory does not fit the address space. A program that takes the
    /// numbers from its user checks them first ([`DatagramQueue::bytes_needed`]).
    pub fn new(capacity: usize, max_size: usize, policy: Policy) -> Self {
        assert!(capacity > 0, "a queue holds at least one datagram");
        Self::bytes_needed(capacity, max_size).expect("the queue fits the address space");
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let slot = || Slot { bytes: vec![0; max_size + 1].into_boxed_slice(), label: (0, nobody) };
        Self {
            slots: (0..=capacity).map(|_| slot()).collect(),
            max_size,
            policy,
            head: 0,
            len: 0,
            blocked: false,
            closed: false,
            peak: 0,
            dropped: 0,
        }
    }

    /// How many bytes of buffers [`new`](Self::new) would take, or `None` if that overflows a `usize`.
    pub fn bytes_needed(capacity: usize, max_size: usize) -> Option<usize> {
        capacity.checked_add(1)?.checked_mul(max_size.checked_add(1)?)
    }

    /// Lends the next free slot, `max_size + 1` bytes, to `receive`, which writes a datagram into it and
    /// returns its length and peer, or `None` to refuse it.
    ///
    /// A length of `max_size + 1` says that the datagram was longer than the limit: refuse it.
    /// `receive` is called only if [`has_room`](Self::has_room).
    ///
    /// # Errors
    ///
    /// Whatever `receive` returns; the queue is then as it was before.
    ///
    /// # Panics
    ///
    /// If `receive` returns a length greater than `max_size`.
    #[inline]
    pub fn fill<F>(&mut self, receive: F) -> io::Result<Fill>
    where
        F: FnOnce(&mut [u8]) -> io::Result<Option<(usize, SocketAddr)>>,
    {
        if self.closed {
            return Ok(Fill::Closed);
        }
        if !self.has_room() {
            return Ok(Fill::Full);
        }
        let slot = self.slot_after(self.len);
        let Some(label) = receive(&mut self.slots[slot].bytes)? else {
            return Ok(Fill::Refused);
        };
        self.label(slot, label);
        if self.len < self.capacity() {
            self.len += 1;
            self.peak = self.peak.max(self.len);
            return Ok(Fill::Queued);
        }
        // The datagram lies in the spare slot. To drop the newest, leave it there; to drop the oldest,
        // move the head on by one, which makes the old head's slot the spare one.
        if self.policy == Policy::DropOldest {
            self.head = self.slot_after(1);
        }
        self.dropped += 1;
        Ok(Fill::Dropped)
    }

    /// Lends the oldest datagram to `send`. It leaves the queue when `send` succeeds, and also when it
    /// fails for good; would-block and interrupted keep it at the head.
    ///
    /// Returns what `send` returned, the number of bytes sent.
    ///
    /// # Errors
    ///
    /// Whatever `send` returns. [`io::ErrorKind::WouldBlock`] too if the queue is empty; `send` is then
    /// not called.
    #[inline]
    pub fn drain<F>(&mut self, send: F) -> io::Result<usize>
    where
        F: FnOnce(&[u8], SocketAddr) -> io::Result<usize>,
    {
        if self.len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (payload, peer) = self.slots[self.head].datagram();
        let sent = send(payload, peer);
        match &sent {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                return sent;
            }
            _ => {}
        }
        self.blocked = false;
        self.head = self.slot_after(1);
        self.len -= 1;
        sent
    }

    /// The free slots, `max_size + 1` bytes each, for a receive of several datagrams at once: the first datagram goes
    /// into the first slot, and so on; then [`take`](Self::take). None of a closed queue, and never the spare slot of
    /// the policies that drop: who receives several at once does so only where there is room.
    pub fn free_slots(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let (first, count) = (self.slot_after(self.len), self.free());
        let (front, back) = self.slots.split_at_mut(first);
        back.iter_mut().chain(front).take(count).map(|slot| &mut slot.bytes[..])
    }

    /// How many [`free_slots`](Self::free_slots) there are.
    pub fn free(&self) -> usize {
        if self.closed { 0 } else { self.capacity() - self.len }
    }

    /// Queues what was received into the [`free_slots`](Self::free_slots): for each slot in their order, the length
    /// and the peer of its datagram, or `None` to refuse it.
    ///
    /// # Panics
    ///
    /// If there are more than free slots, or a length is greater than `max_size`.
    pub fn take(&mut self, received: impl IntoIterator<Item = Option<(usize, SocketAddr)>>) {
        let (first, free) = (self.len, self.free());
        for (offset, label) in received.into_iter().enumerate() {
            assert!(offset < free, "more datagrams than the {free} free slots");
            let Some(label) = label else { continue };
            // A refused datagram leaves its slot to the next one that is not.
            let (from, to) = (self.slot_after(first + offset), self.slot_after(self.len));
            self.slots.swap(from, to);
            self.label(to, label);
            self.len += 1;
        }
        self.peak = self.peak.max(self.len);
    }

    /// The datagrams in the queue, the oldest first, for a send of several at once; then [`remove`](Self::remove).
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let (front, back) = self.slots.split_at(self.head);
        back.iter().chain(front).take(self.len).map(Slot::datagram)
    }

    /// Takes the `count` oldest datagrams out of the queue: they were sent, or failed for good.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    pub fn remove(&mut self, count: usize) {
        assert!(count <= self.len, "{count} datagrams of a queue of {}", self.len);
        self.blocked &= count == 0;
        self.head = self.slot_after(count);
        self.len -= count;
    }

    /// Whether [`fill`](Self::fill) would receive: there is a free slot or, the last send having met
    /// would-block, the policy is one that drops. Never of a closed queue.
    #[inline]
    pub fn has_room(&self) -> bool {
        let may_drop = self.blocked && self.policy != Policy::Backpressure;
        !self.closed && (self.len < self.capacity() || may_drop)
    }

    /// Takes no more datagrams. Those in the queue can still be drained.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The number of datagrams in the queue.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to send.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The largest number of datagrams the queue may hold.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.slots.len() - 1
    }

    /// The size in bytes of the largest datagram the queue accepts.
    pub fn max_size(&self) -> usize {
        self.max_size
    }

    /// The largest number of datagrams that have been in the queue at once.
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// How many datagrams the policy has dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Notes what was received into `slot`.
    fn label(&mut self, slot: usize, label: (usize, SocketAddr)) {
        let (len, most) = (label.0, self.max_size);
        assert!(len <= most, "a datagram of {len} bytes exceeds the limit of {most}");
        self.slots[slot].label = label;
    }

    /// The slot `offset` places behind the head, `offset` being at most the number of slots.
    fn slot_after(&self, offset: usize) -> usize {
        // Both terms are below twice the number of slots, so a comparison does what a division would.
        let slot = self.head + offset;
        if slot < self.slots.len() { slot } else { slot - self.slots.len() }
    }
}

impl Slot {
    fn datagram(&self) -> (&[u8], SocketAddr) {
        let (len, peer) = self.label;
        (&self.bytes[..len], peer)
    }
}
