//! Buffers that are lent to the kernel: one request receives many datagrams, and for each of them the kernel takes the
//! next buffer.
//!
//! The buffers are offered in a third ring of shared memory. A buffer is the kernel's from [`Lent::give_back`] to the
//! completion that names it, and the program's from there to the next [`Lent::give_back`].

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, RecvMsgOut};
use io_uring::{cqueue, opcode};

use trace_marks::mark;

use super::{Asked, Done, Kind, NAME, Ring, SOCKET, address, no_header, refused};

/// The number under which the ring knows these buffers. There are no others.
const GROUP: u16 = 0;

/// What stands before the payload in a buffer: four numbers of the kernel's, and the peer's address.
pub(super) const BEFORE_PAYLOAD: usize = 16 + NAME;

/// A page of memory, as the kernel wants it for a ring of buffers: 256 entries of 16 bytes.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// The buffers, and the ring in which they are offered.
pub(super) struct Lent {
    pages: Vec<Page>,
    /// Entries of the ring, a power of two, less one.
    mask: u16,
    /// How many buffers have been offered, from the beginning.
    tail: u16,
    /// How many of them the kernel has.
    pub(super) count: usize,
    buffers: Box<[Box<[u8]>]>,
    /// What the kernel reads to know which part of a buffer is for what.
    header: Box<libc::msghdr>,
}

/// The header is full of pointers that say nothing.
impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { buffers, count, tail, .. } = self;
        write!(f, "Lent {{ {count} of {} buffers, tail {tail} }}", buffers.len())
    }
}

impl Lent {
    fn new(buffers: usize, size: usize) -> Self {
        let entries = buffers.next_power_of_two();
        let header = libc::msghdr { msg_namelen: NAME as libc::socklen_t, ..no_header() };
        Self {
            pages: vec![Page([0; 4096]); entries.div_ceil(256)],
            mask: (entries - 1) as u16,
            tail: 0,
            count: 0,
            buffers: (0..buffers).map(|_| vec![0; BEFORE_PAYLOAD + size].into_boxed_slice()).collect(),
            header: Box::new(header),
        }
    }

    /// Offers a buffer to the kernel.
    fn give_back(&mut self, number: u16) {
        let entries = self.pages.as_mut_ptr().cast::<BufRingEntry>();
        let buffer = &mut self.buffers[usize::from(number)];
        // SAFETY: the masked index is below the number of entries, for which the pages have room. The kernel reads this
        // entry only when the tail says that it is there.
        let entry = unsafe { &mut *entries.add(usize::from(self.tail & self.mask)) };
        entry.set_addr(buffer.as_mut_ptr() as u64);
        entry.set_len(buffer.len() as u32);
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
        self.count += 1;
        // SAFETY: the tail lies in the first entry, two bytes that no method of an entry touches. The kernel reads them
        // while they are written, so they are an atomic number for both; the release says that the entry stands.
        let tail = unsafe { &*BufRingEntry::tail(entries).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// A completion of the request for many receives.
    pub(super) fn arrived(&mut self, result: io::Result<usize>, flags: u32) -> Option<Done> {
        match (result, cqueue::buffer_select(flags)) {
            (Ok(_), Some(buffer)) => {
                let bytes = self.buffers.get(usize::from(buffer))?;
                let out = RecvMsgOut::parse(bytes, &self.header).ok()?;
                let mut name = [0; NAME];
                name[..out.name_data().len()].copy_from_slice(out.name_data());
                let (len, peer) = (out.incoming_payload_len() as usize, address(&name));
                self.count = self.count.saturating_sub(1);
                Some(Done::Arrived(Arrived { buffer, len, peer }))
            }
            // It has found no buffer. That is no error: the datagram waits in the socket.
            (Err(error), _) if error.raw_os_error() == Some(libc::ENOBUFS) => None,
            (Err(error), _) => Some(Done::Failed(error)),
            (Ok(_), None) => None,
        }
    }
}

/// A datagram in a buffer that the kernel has taken. The program has the buffer until it gives it back.
#[derive(Debug)]
pub struct Arrived {
    buffer: u16,
    /// How long the datagram was, even if the buffer was too short for it.
    pub len: usize,
    /// Where it came from.
    pub peer: SocketAddr,
}

impl Ring {
    /// A ring for `socket`, as [`Ring::new`] makes it, with buffers for as many datagrams of `size` bytes.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn with_buffers(socket: &impl AsFd, buffers: usize, size: usize) -> io::Result<Self> {
        // A datagram and the end of the request are two completions at most: there is always room for them.
        let mut ring = Self::make(socket, 4, 2 * buffers + 4)?;
        let mut lent = Lent::new(buffers, size);
        let (address, entries) = (lent.pages.as_ptr() as u64, lent.mask + 1);
        // SAFETY: the pages are aligned, have room for the entries, and are freed when the ring is gone.
        unsafe { ring.uring.submitter().register_buf_ring_with_flags(address, entries, GROUP, 0) }
            .map_err(|error| refused(&error))?;
        (0..buffers).for_each(|number| lent.give_back(number as u16));
        ring.asked.lent = Some(lent);
        Ok(ring)
    }

    /// How many buffers the kernel has for datagrams to come.
    pub fn lent(&self) -> usize {
        self.asked.lent.as_ref().map_or(0, |lent| lent.count)
    }

    /// Asks for all datagrams that come, until there is no buffer for one, or one is empty: that ends the request.
    pub fn ask_receive_many(&mut self) {
        let Some(lent) = &self.asked.lent else { return };
        // The length of what does not fit is to be known.
        let flags = libc::MSG_TRUNC as u32;
        let request = opcode::RecvMsgMulti::new(SOCKET, &raw const *lent.header, GROUP).flags(flags).build();
        mark("ask recv, many");
        self.ask(Kind::ReceiveMany, 0, request);
    }

    /// The bytes of a datagram, as far as the buffer held them.
    pub fn payload(&self, arrived: &Arrived) -> &[u8] {
        let bytes = self.asked.lent.as_ref().and_then(|lent| lent.buffers.get(usize::from(arrived.buffer)));
        let payload = bytes.map_or(&[][..], |bytes| &bytes[BEFORE_PAYLOAD..]);
        &payload[..arrived.len.min(payload.len())]
    }

    /// Gives a buffer back to the kernel.
    pub fn give_back(&mut self, arrived: Arrived) {
        if let Some(lent) = &mut self.asked.lent {
            lent.give_back(arrived.buffer);
        }
    }
}

impl Asked {
    /// Leaves to the kernel for ever what it may still write into.
    pub(super) fn leak(&mut self) {
        std::mem::forget((std::mem::take(&mut self.slots), self.lent.take()));
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    /// What a kernel would write before a payload: lengths and flags, then the address of 127.0.0.1:2000.
    fn fill(buffer: &mut [u8], payload: &[u8], true_length: u32) {
        for (index, number) in [16, 0, true_length, 0_u32].iter().enumerate() {
            buffer[4 * index..4 * index + 4].copy_from_slice(&number.to_ne_bytes());
        }
        buffer[16..18].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        buffer[18..24].copy_from_slice(&[0x07, 0xd0, 127, 0, 0, 1]);
        buffer[BEFORE_PAYLOAD..BEFORE_PAYLOAD + payload.len()].copy_from_slice(payload);
    }

    /// The flags of a completion that names a buffer, with more to come or not.
    fn flags(buffer: u32, more: bool) -> u32 {
        const NAMES_A_BUFFER: u32 = 1;
        const MORE: u32 = 2;
        buffer << 16 | NAMES_A_BUFFER | if more { MORE } else { 0 }
    }

    fn asked(buffers: usize) -> Asked {
        let mut lent = Lent::new(buffers, 8);
        (0..buffers).for_each(|number| lent.give_back(number as u16));
        let mut asked = Asked::new(0);
        asked.lent = Some(lent);
        asked.requests[Kind::ReceiveMany as usize] = 1;
        asked
    }

    fn lent(asked: &mut Asked) -> &mut Lent {
        asked.lent.as_mut().expect("buffers were lent")
    }

    #[test]
    fn one_request_has_many_completions() {
        let mut asked = asked(4);
        let number = Kind::ReceiveMany.number(0);
        for (buffer, more) in [(2, true), (0, false)] {
            fill(&mut lent(&mut asked).buffers[buffer], b"five!", 5);
            match asked.done(number, (BEFORE_PAYLOAD + 5) as i32, flags(buffer as u32, more)) {
                Some(Done::Arrived(Arrived { buffer: named, len: 5, peer })) => {
                    assert_eq!((usize::from(named), peer.to_string()), (buffer, "127.0.0.1:2000".to_owned()));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(asked.requests[Kind::ReceiveMany as usize], usize::from(more));
        }
        assert_eq!(lent(&mut asked).count, 2);
    }

    #[test]
    fn what_does_not_fit_says_its_true_length() {
        let mut asked = asked(1);
        fill(&mut lent(&mut asked).buffers[0], b"8 bytes!", 70_000);
        match asked.done(Kind::ReceiveMany.number(0), (BEFORE_PAYLOAD + 70_000) as i32, flags(0, true)) {
            Some(Done::Arrived(arrived)) => assert_eq!(arrived.len, 70_000),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_moment_without_a_buffer_is_no_error_and_ends_the_request() {
        let mut asked = asked(1);
        assert!(asked.done(Kind::ReceiveMany.number(0), -libc::ENOBUFS, 0).is_none());
        assert_eq!(asked.requests[Kind::ReceiveMany as usize], 0);
        for errno in [libc::ECONNREFUSED, libc::ENOMEM, libc::ECANCELED] {
            match asked.done(Kind::ReceiveMany.number(0), -errno, 0) {
                Some(Done::Failed(error)) => assert_eq!(error.raw_os_error(), Some(errno)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_buffer_that_nobody_has_makes_no_datagram() {
        let mut asked = asked(2);
        assert!(
            asked.done(Kind::ReceiveMany.number(0), 60, flags(9, true)).is_none(),
            "there is none of number 9"
        );
        assert!(asked.done(Kind::ReceiveMany.number(0), 60, 2).is_none(), "it names none");
    }

    #[test]
    fn buffers_go_round_and_an_empty_datagram_ends_the_request() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
        let client = UdpSocket::bind("127.0.0.1:0").expect("another one");
        client.connect(socket.local_addr().expect("its address")).expect("a client");
        // Three buffers in a ring of four places: the numbers and the places part at once.
        let mut ring = match Ring::with_buffers(&socket, 3, 100) {
            Ok(ring) => ring,
            Err(error) => return println!("skipped: {error}"),
        };
        let receive = |ring: &mut Ring| {
            if ring.receives() == 0 {
                ring.ask_receive_many();
            }
            loop {
                ring.enter(Some(Duration::from_secs(10))).expect("the ring is entered");
                match ring.done() {
                    Some(Done::Arrived(arrived)) => return arrived,
                    None => {}
                    Some(other) => panic!("{other:?}"),
                }
            }
        };
        for round in 0..20_000_u32 {
            let text = round.to_string();
            client.send(text.as_bytes()).expect("sent");
            let arrived = receive(&mut ring);
            assert_eq!(ring.payload(&arrived), text.as_bytes());
            assert_eq!(ring.lent(), 2);
            ring.give_back(arrived);
        }
        client.send(b"").expect("sent");
        let empty = receive(&mut ring);
        assert_eq!((empty.len, ring.payload(&empty).len(), ring.receives()), (0, 0, 0));
    }
}
