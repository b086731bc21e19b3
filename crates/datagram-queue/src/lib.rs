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

/// A bounded queue of datagrams. See the [crate's documentation](crate).
#[derive(Debug)]
pub struct DatagramQueue {
    /// `capacity + 1` slots of `max_size + 1` bytes each, end to end. The slot beyond the capacity is
    /// the spare into which the dropping policies receive.
    bytes: Box<[u8]>,
    /// Length and peer of each slot's datagram; the entry of a free slot has no meaning.
    labels: Box<[(usize, SocketAddr)]>,
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
        let bytes = Self::bytes_needed(capacity, max_size).expect("the queue fits the address space");
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self {
            bytes: vec![0; bytes].into_boxed_slice(),
            labels: vec![(0, nobody); capacity + 1].into_boxed_slice(),
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
        let Some((len, peer)) = receive(self.buffer(slot))? else {
            return Ok(Fill::Refused);
        };
        assert!(len <= self.max_size, "a datagram of {len} bytes exceeds the limit of {}", self.max_size);
        self.labels[slot] = (len, peer);
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
        let (len, peer) = self.labels[self.head];
        let start = self.head * self.stride();
        let sent = send(&self.bytes[start..start + len], peer);
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
        self.labels.len() - 1
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

    fn stride(&self) -> usize {
        self.max_size + 1
    }

    /// The slot `offset` places behind the head, `offset` being at most the number of slots.
    fn slot_after(&self, offset: usize) -> usize {
        // Both terms are below twice the number of slots, so a comparison does what a division would.
        let slot = self.head + offset;
        if slot < self.labels.len() { slot } else { slot - self.labels.len() }
    }

    fn buffer(&mut self, slot: usize) -> &mut [u8] {
        let start = slot * self.stride();
        let end = start + self.stride();
        &mut self.bytes[start..end]
    }
}
