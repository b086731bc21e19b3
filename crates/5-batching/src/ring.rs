//! A ring: what the kernel is asked to do, and what it has done.
//!
//! The program and the kernel share two rings of memory. The program writes requests into one; the kernel writes a
//! completion for each into the other. One system call, `io_uring_enter`, hands over the requests and waits for
//! completions.
//!
//! Between a request and its completion the kernel reads and writes the memory that the request names, at any time. So
//! a [`Slot`] moves into the ring when something is asked for it, and comes back with the completion: whoever has a
//! slot has it alone.
//!
//! `ring/lent.rs` goes further: there the program lends buffers, and the kernel takes one for each datagram.
//!
//! All `unsafe` code of this crate is in this file and in that one, each block with its reason.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};
use std::{mem, ptr};

mod lent;

use echo_service::errno_name;
use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;
use trace_marks::{are_on, mark, mark_of};

pub use lent::Arrived;
use lent::{BEFORE_PAYLOAD, Lent};

/// The most slots of a ring: the kernel makes none for more than 32,768 requests.
pub const MOST_SLOTS: usize = 16_000;

/// The bytes of the longest address, which is one of IPv6.
const NAME: usize = mem::size_of::<libc::sockaddr_in6>();

/// Room for one datagram, and for all that the kernel reads and writes when it receives or sends it.
#[derive(Debug)]
pub struct Slot {
    number: usize,
    bytes: Box<[u8]>,
    len: usize,
    /// The peer's address, as the kernel writes it.
    name: [u8; NAME],
    header: libc::msghdr,
    piece: libc::iovec,
}

impl Slot {
    fn new(number: usize, size: usize) -> Box<Self> {
        let bytes = vec![0; size].into_boxed_slice();
        let piece = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Box::new(Self { number, bytes, len: 0, name: [0; NAME], header: no_header(), piece })
    }

    /// The bytes of the datagram.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Where it came from, and where a send goes.
    pub fn peer(&self) -> SocketAddr {
        address(&self.name)
    }
}

/// What a completion says.
#[derive(Debug)]
pub enum Done {
    /// A receive is over, and here is its slot: with a datagram of so many bytes, or without.
    Received(Box<Slot>, io::Result<usize>),
    /// A send is over, and here is its slot.
    Sent(Box<Slot>, io::Result<usize>),
    /// The request for many datagrams has brought one.
    Arrived(Arrived),
    /// The request for many datagrams has failed, and is over.
    Failed(io::Error),
    /// The socket takes datagrams again.
    Writable,
    /// The descriptor that was asked about is readable.
    Readable,
}

/// What a request is: the upper half of the number that its completion repeats; the lower half is the slot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Receive,
    Send,
    ReceiveMany,
    Readable,
    Writable,
    Cancel,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Receive, Self::Send, Self::ReceiveMany, Self::Readable, Self::Writable, Self::Cancel];

    /// The number of such a request.
    fn number(self, slot: usize) -> u64 {
        (self as u64) << 32 | slot as u64
    }

    /// The kind and the slot of a number.
    fn of(number: u64) -> Option<(Self, usize)> {
        let kind = Self::ALL.into_iter().find(|kind| *kind as u64 == number >> 32)?;
        Some((kind, number as u32 as usize))
    }

    /// Its name in a trace mark.
    fn name(self) -> &'static str {
        match self {
            Self::Receive | Self::ReceiveMany => "recv",
            Self::Send => "send",
            Self::Readable => "readable",
            Self::Writable => "writable",
            Self::Cancel => "cancel",
        }
    }
}

/// What the kernel was asked and has not done, with the memory that it may use for it.
#[derive(Debug)]
struct Asked {
    /// The slots of receives and sends, by their numbers.
    slots: Box<[Option<Box<Slot>>]>,
    /// The slot of the receive that waits.
    waiting: Option<usize>,
    /// Buffers for many datagrams.
    lent: Option<Lent>,
    /// How many requests of each kind are not over.
    requests: [usize; Kind::ALL.len()],
}

impl Asked {
    fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| None).collect(),
            waiting: None,
            lent: None,
            requests: Default::default(),
        }
    }

    /// Takes in a completion: the number of the request, its result, its flags. `None` if it tells nobody anything.
    fn done(&mut self, number: u64, result: i32, flags: u32) -> Option<Done> {
        let (kind, slot) = Kind::of(number)?;
        let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        if are_on() {
            mark_done(kind, &result, flags);
        }
        if !cqueue::more(flags) {
            let count = &mut self.requests[kind as usize];
            *count = count.saturating_sub(1);
        }
        match kind {
            Kind::Receive => {
                let mut slot = self.slots.get_mut(slot)?.take()?;
                self.waiting = self.waiting.filter(|&waiting| waiting != slot.number);
                slot.len = result.as_ref().map_or(0, |&len| len.min(slot.bytes.len()));
                Some(Done::Received(slot, result))
            }
            Kind::Send => Some(Done::Sent(self.slots.get_mut(slot)?.take()?, result)),
            Kind::ReceiveMany => self.lent.as_mut()?.arrived(result, flags),
            Kind::Readable => Some(Done::Readable),
            Kind::Writable => Some(Done::Writable),
            Kind::Cancel => None,
        }
    }
}

/// Says in a trace mark what is done: `done recv 5`, `done send EPERM`.
fn mark_done(kind: Kind, result: &io::Result<usize>, flags: u32) {
    match result {
        Ok(bytes) if kind == Kind::ReceiveMany => {
            let more = if cqueue::more(flags) { ", more" } else { "" };
            mark_of("done recv", format_args!("{}{more}", bytes.saturating_sub(BEFORE_PAYLOAD)));
        }
        Ok(bytes) if matches!(kind, Kind::Receive | Kind::Send) => {
            mark_of("done", format_args!("{} {bytes}", kind.name()));
        }
        Ok(_) => mark_of("done", kind.name()),
        Err(error) => mark_of("done", format_args!("{} {}", kind.name(), errno_name(error))),
    }
}

/// The ring of one socket. It is of the thread that made it.
pub struct Ring {
    uring: IoUring,
    asked: Asked,
    #[expect(clippy::vec_box, reason = "a slot never moves out of its box: the kernel knows where it is")]
    free: Vec<Box<Slot>>,
    /// How many of the requests that are not handed over yet are done at once, if they can be done at all.
    prompt: usize,
}

/// The socket, in the ring's own table of files: the kernel looks it up once.
const SOCKET: Fixed = Fixed(0);

impl Ring {
    /// A ring for `socket`, which has to be in blocking mode: what is asked of another one never waits. With so many
    /// slots of `size` bytes.
    ///
    /// # Errors
    ///
    /// This machine has no io_uring for us: a sentence that says why, and what to do.
    pub fn new(socket: &impl AsFd, slots: usize, size: usize) -> io::Result<Self> {
        // Each slot is in one request at most; beside these there are a few others.
        let mut ring = Self::make(socket, slots + 4, 2 * (slots + 4))?;
        ring.asked = Asked::new(slots);
        ring.free = (0..slots).map(|number| Slot::new(number, size)).collect();
        Ok(ring)
    }

    /// A ring with room for so many requests that are not handed over yet, and so many completions that are not taken.
    fn make(socket: &impl AsFd, requests: usize, completions: usize) -> io::Result<Self> {
        let uring = IoUring::builder()
            // Completions are written when this thread enters the ring, and not in between.
            .setup_single_issuer()
            .setup_defer_taskrun()
            // A request that fails does not keep those behind it from being handed over.
            .setup_submit_all()
            .setup_cqsize(completions.next_power_of_two() as u32)
            .build(requests.next_power_of_two() as u32)
            .map_err(|error| refused(&error))?;
        uring.submitter().register_files(&[socket.as_fd().as_raw_fd()]).map_err(|error| refused(&error))?;
        Ok(Self { uring, asked: Asked::new(0), free: Vec::new(), prompt: 0 })
    }

    /// How many slots are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Makes a slot free again.
    pub fn put_back(&mut self, slot: Box<Slot>) {
        self.free.push(slot);
    }

    /// How many receives were asked for and are not over.
    pub fn receives(&self) -> usize {
        self.asked.requests[Kind::Receive as usize] + self.asked.requests[Kind::ReceiveMany as usize]
    }

    /// How many sends were asked for and are not over.
    pub fn sends(&self) -> usize {
        self.asked.requests[Kind::Send as usize]
    }

    /// Whether something was asked for and is not over.
    pub fn is_asked(&self) -> bool {
        self.asked.requests.iter().any(|&count| count > 0)
    }

    /// Asks for one datagram, into a free slot if there is one. With `waits` the request stays until a datagram
    /// comes; otherwise it fails with `EAGAIN` when there is none. Two that wait would take datagrams out of order.
    pub fn ask_receive(&mut self, waits: bool) {
        let Some(slot) = self.free.pop() else { return };
        let number = slot.number;
        let slot = self.asked.slots[number].insert(slot);
        slot.piece = libc::iovec { iov_base: slot.bytes.as_mut_ptr().cast(), iov_len: slot.bytes.len() };
        slot.header.msg_iov = &raw mut slot.piece;
        slot.header.msg_iovlen = 1;
        slot.header.msg_name = slot.name.as_mut_ptr().cast();
        slot.header.msg_namelen = NAME as libc::socklen_t;
        let flags = if waits { 0 } else { libc::MSG_DONTWAIT as u32 };
        let request = opcode::RecvMsg::new(SOCKET, &raw mut slot.header).flags(flags).build();
        mark(if waits { "ask recv" } else { "ask recv now" });
        self.ask(Kind::Receive, number, request);
        if waits {
            self.asked.waiting = Some(number);
        } else {
            self.prompt += 1;
        }
    }

    /// Asks to send the datagram of a slot to its peer. With `more` the next send that is asked for begins when this
    /// one is over, whether it failed or not.
    pub fn ask_send(&mut self, slot: Box<Slot>, more: bool) {
        let number = slot.number;
        let slot = self.asked.slots[number].insert(slot);
        let request = opcode::Send::new(SOCKET, slot.bytes.as_ptr(), slot.len as u32)
            .dest_addr(slot.name.as_ptr().cast())
            .dest_addr_len(name_length(&slot.name))
            .flags(libc::MSG_NOSIGNAL)
            .build()
            .flags(if more { squeue::Flags::IO_HARDLINK } else { squeue::Flags::empty() });
        mark_of("ask send", slot.len);
        self.ask(Kind::Send, number, request);
        self.prompt += 1;
    }

    /// Asks to be told once when the descriptor is readable.
    pub fn ask_readable(&mut self, descriptor: BorrowedFd<'_>) {
        let events = libc::POLLIN as u32;
        let request = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), events).build();
        mark("ask readable");
        self.ask(Kind::Readable, 0, request);
    }

    /// Asks to be told once when the socket takes datagrams.
    pub fn ask_writable(&mut self) {
        if self.asked.requests[Kind::Writable as usize] == 0 {
            mark("ask writable");
            self.ask(Kind::Writable, 0, opcode::PollAdd::new(SOCKET, libc::POLLOUT as u32).build());
        }
    }

    /// Asks to end the receive that waits: it completes all the same, with a datagram or with `ECANCELED`.
    pub fn cancel_receive(&mut self) {
        let many = self.asked.requests[Kind::ReceiveMany as usize] > 0;
        let one = self.asked.waiting.map(|slot| Kind::Receive.number(slot));
        if let Some(number) = one.or(many.then(|| Kind::ReceiveMany.number(0))) {
            let receive = CancelBuilder::user_data(number);
            mark("ask cancel recv");
            self.ask(Kind::Cancel, 0, opcode::AsyncCancel2::new(receive).build());
        }
    }

    /// Asks to end everything.
    pub fn cancel_all(&mut self) {
        mark("ask cancel all");
        self.ask(Kind::Cancel, 0, opcode::AsyncCancel2::new(CancelBuilder::any().all()).build());
    }

    /// Writes a request into the ring; the next [`enter`](Self::enter) hands it over.
    fn ask(&mut self, kind: Kind, slot: usize, request: squeue::Entry) {
        let request = request.user_data(kind.number(slot));
        // SAFETY: what the request points to is a slot in a box that `asked` owns. It stays there, and nobody else reads
        // or writes it, until `Asked::done` is told of the completion; `drop` waits for those that are missing.
        let room = unsafe { self.uring.submission().push(&request) };
        assert!(room.is_ok(), "a ring has room for a request of each slot and a few others");
        self.asked.requests[kind as usize] += 1;
    }

    /// Hands the requests over. Waits for a completion, for so long at most; not if there are requests that are done at
    /// once: then it waits for nothing but these, and not even for one that would take its time.
    ///
    /// # Errors
    ///
    /// Those that mean a bug of ours. An interrupted wait is none.
    pub fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let prompt = mem::take(&mut self.prompt);
        let (want, timeout) = if prompt > 0 { (prompt, Some(Duration::ZERO)) } else { (1, timeout) };
        let submitter = self.uring.submitter();
        let entered = match timeout.map(Timespec::from) {
            Some(time) => submitter.submit_with_args(want, &SubmitArgs::new().timespec(&time)),
            None => submitter.submit_and_wait(want),
        };
        match entered.map_err(|error| (error.raw_os_error().map(Errno::from_raw), error)) {
            // The time is up; a signal came; completions are to be taken first; memory is short for a moment.
            Ok(_) | Err((Some(Errno::ETIME | Errno::EINTR | Errno::EBUSY | Errno::EAGAIN), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    /// The next completion.
    pub fn done(&mut self) -> Option<Done> {
        loop {
            let completion = self.uring.completion().next()?;
            let (result, flags) = (completion.result(), completion.flags());
            if let Some(done) = self.asked.done(completion.user_data(), result, flags) {
                return Some(done);
            }
        }
    }
}

impl Drop for Ring {
    /// The kernel may write into the slots as long as anything is asked: they are freed when all is over.
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_asked() {
            self.cancel_all();
            self.prompt = 0;
            if self.enter(Some(PATIENCE)).is_err() || Instant::now() > deadline {
                // Memory that is never freed is better than memory that somebody else writes into.
                return self.asked.leak();
            }
            while self.done().is_some() {}
        }
    }
}

/// How long the end of a ring waits for the kernel, which has been told to give up everything.
const PATIENCE: Duration = Duration::from_secs(1);

/// A header that says nothing yet.
fn no_header() -> libc::msghdr {
    // SAFETY: it is a structure of C that holds integers and pointers, and zero is a value of each of them.
    unsafe { mem::zeroed() }
}

/// Reads an address as the kernel writes it: the family in the machine's order, the port in the network's, the rest.
fn address(name: &[u8; NAME]) -> SocketAddr {
    let port = u16::from_be_bytes([name[2], name[3]]);
    let four = |at: usize| [name[at], name[at + 1], name[at + 2], name[at + 3]];
    if is_v4(name) {
        return SocketAddrV4::new(four(4).into(), port).into();
    }
    let mut ip = [0; 16];
    ip.copy_from_slice(&name[8..24]);
    let (flow, scope) = (u32::from_ne_bytes(four(4)), u32::from_ne_bytes(four(24)));
    SocketAddrV6::new(ip.into(), port, flow, scope).into()
}

fn is_v4(name: &[u8; NAME]) -> bool {
    u16::from_ne_bytes([name[0], name[1]]) == libc::AF_INET as u16
}

/// How many bytes of it the address takes.
fn name_length(name: &[u8; NAME]) -> libc::socklen_t {
    let length = if is_v4(name) { mem::size_of::<libc::sockaddr_in>() } else { NAME };
    length as libc::socklen_t
}

/// Why there is no ring for us here, and what to do.
fn refused(error: &io::Error) -> io::Error {
    let why = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => {
            "io_uring is forbidden here, by the seccomp filter of a container or by the sysctl \
             kernel.io_uring_disabled: run this outside of the container, or run echo-mmsg, which does without"
        }
        Some(Errno::ENOSYS) => {
            "this kernel has no io_uring, or it is hidden: it takes Linux 6.1 or newer; echo-mmsg does without"
        }
        Some(Errno::EINVAL) => {
            "the io_uring of this kernel is too old: it takes Linux 6.1 or newer (`uname -r` says which this is); \
             echo-mmsg does without"
        }
        Some(Errno::ENOMEM) => {
            "io_uring may not lock so much memory: raise the limit before the start, for example `ulimit -l 1024`, or \
             choose a smaller --queue"
        }
        _ => return io::Error::from(error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)),
    };
    io::Error::new(error.kind(), format!("{error}; {why}"))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// What was asked of slots of 8 bytes, without a kernel: completions are made up.
    fn asked(requests: &[(Kind, usize)]) -> Asked {
        let mut asked = Asked::new(4);
        for &(kind, number) in requests {
            asked.requests[kind as usize] += 1;
            if matches!(kind, Kind::Receive | Kind::Send) {
                asked.slots[number] = Some(Slot::new(number, 8));
            }
        }
        asked
    }

    #[test]
    fn a_completion_brings_its_slot_back() {
        let mut asked = asked(&[(Kind::Receive, 2), (Kind::Send, 0), (Kind::Readable, 0)]);
        asked.waiting = Some(2);
        match asked.done(Kind::Receive.number(2), 5, 0) {
            Some(Done::Received(slot, Ok(5))) => assert_eq!((slot.number, slot.payload().len()), (2, 5)),
            other => panic!("{other:?}"),
        }
        assert_eq!(asked.waiting, None);
        match asked.done(Kind::Send.number(0), 8, 0) {
            Some(Done::Sent(slot, Ok(8))) => assert_eq!(slot.number, 0),
            other => panic!("{other:?}"),
        }
        assert!(matches!(asked.done(Kind::Readable.number(0), 1, 0), Some(Done::Readable)));
        assert_eq!(asked.requests, [0; 6]);
    }

    #[test]
    fn every_error_brings_the_slot_back_too() {
        for errno in [
            Errno::EAGAIN,
            Errno::EINTR,
            Errno::ECANCELED,
            Errno::EPERM,
            Errno::EACCES,
            Errno::EMSGSIZE,
            Errno::ENETUNREACH,
            Errno::ECONNREFUSED,
            Errno::ENOBUFS,
            Errno::ENOMEM,
            Errno::EFAULT,
        ] {
            let mut asked = asked(&[(Kind::Receive, 1), (Kind::Send, 3)]);
            let number = errno as i32;
            match asked.done(Kind::Receive.number(1), -number, 0) {
                Some(Done::Received(slot, Err(error))) => {
                    assert_eq!((slot.payload().len(), error.raw_os_error()), (0, Some(number)));
                }
                other => panic!("{errno}: {other:?}"),
            }
            match asked.done(Kind::Send.number(3), -number, 0) {
                Some(Done::Sent(_, Err(error))) => assert_eq!(error.raw_os_error(), Some(number)),
                other => panic!("{errno}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_completion_that_makes_no_sense_gives_no_slot_to_anybody() {
        let mut asked = asked(&[(Kind::Receive, 1)]);
        for number in
            [Kind::Receive.number(0), Kind::Send.number(3), Kind::Receive.number(4), u64::MAX, 7 << 32]
        {
            assert!(asked.done(number, 5, 0).is_none(), "{number:x}");
        }
        assert!(asked.done(Kind::Cancel.number(0), -2, 0).is_none(), "what became of a cancel is of no use");
        assert!(asked.done(Kind::Receive.number(1), 5, 0).is_some());
        assert!(asked.done(Kind::Receive.number(1), 5, 0).is_none(), "twice");
        assert_eq!(asked.requests, [0; 6], "what was not asked does not count below zero");
    }

    #[test]
    fn a_length_beyond_the_slot_is_no_length_of_the_payload() {
        let Some(Done::Received(slot, Ok(len))) =
            asked(&[(Kind::Receive, 0)]).done(Kind::Receive.number(0), 70_000, 0)
        else {
            panic!("a receive");
        };
        assert_eq!((slot.payload().len(), len), (8, 70_000));
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let mut name = [0; NAME];
        name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        name[2..8].copy_from_slice(&[0x07, 0xd0, 127, 0, 0, 7]);
        assert_eq!((address(&name).to_string(), name_length(&name)), ("127.0.0.7:2000".to_owned(), 16));
        name = [0; NAME];
        name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        name[2..4].copy_from_slice(&40_000_u16.to_be_bytes());
        name[8..10].copy_from_slice(&[0xfe, 0x80]);
        name[23] = 1;
        name[24..28].copy_from_slice(&3_u32.to_ne_bytes());
        assert_eq!((address(&name).to_string(), name_length(&name)), ("[fe80::1%3]:40000".to_owned(), 28));
        assert_eq!(address(&[0; NAME]).port(), 0, "no address has the port to which nobody answers");
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        for (errno, next_step) in [
            (Errno::EPERM, "seccomp"),
            (Errno::EACCES, "kernel.io_uring_disabled"),
            (Errno::ENOSYS, "Linux 6.1"),
            (Errno::EINVAL, "Linux 6.1"),
            (Errno::ENOMEM, "ulimit -l"),
        ] {
            let said = refused(&io::Error::from(errno)).to_string();
            assert!(said.contains(next_step) && !said.contains("bug"), "{errno}: {said}");
        }
        assert_eq!(refused(&io::Error::from(Errno::EMFILE)).raw_os_error(), Some(Errno::EMFILE as i32));
    }

    /// A ring of `slots` of 100 bytes and its socket, and a client of it; `None` where there is no io_uring.
    fn ring(slots: usize) -> Option<(Ring, UdpSocket, UdpSocket)> {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
        let client = UdpSocket::bind("127.0.0.1:0").expect("another one");
        client.connect(socket.local_addr().expect("its address")).expect("a client");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a patient client");
        match Ring::new(&socket, slots, 100) {
            Ok(ring) => Some((ring, socket, client)),
            Err(error) => {
                println!("skipped: {error}");
                None
            }
        }
    }

    /// All that is done once the ring has been entered.
    fn after_enter(ring: &mut Ring) -> Vec<Done> {
        ring.enter(Some(Duration::from_secs(10))).expect("the ring is entered");
        std::iter::from_fn(|| ring.done()).collect()
    }

    #[test]
    fn tries_find_what_is_there_and_one_waits() {
        let Some((mut ring, _socket, client)) = ring(4) else { return };
        client.send(b"one").expect("sent");
        for behind in (0..3).rev() {
            ring.ask_receive(behind == 0);
        }
        let done = after_enter(&mut ring);
        let [Done::Received(first, Ok(3)), Done::Received(_, Err(error))] = &done[..] else {
            panic!("{done:?}")
        };
        assert_eq!(first.payload(), b"one");
        assert_eq!(first.peer(), client.local_addr().expect("its address"));
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        assert_eq!((ring.receives(), ring.free()), (1, 1), "the third waits, a fourth is free");
        client.send(b"two").expect("sent");
        let done = after_enter(&mut ring);
        assert!(matches!(&done[..], [Done::Received(slot, Ok(3))] if slot.payload() == b"two"), "{done:?}");
    }

    #[test]
    fn a_chain_goes_on_behind_a_send_that_fails() {
        let Some((mut ring, _socket, client)) = ring(4) else { return };
        let mut slots = Vec::new();
        for text in ["a", "b", "c"] {
            client.send(text.as_bytes()).expect("sent");
            ring.ask_receive(true);
            let done = after_enter(&mut ring);
            let Some(Done::Received(mut slot, Ok(1))) = done.into_iter().next() else {
                panic!("no datagram")
            };
            if text == "b" {
                // Nobody may send to a broadcast address who has not asked for it.
                slot.name[4..8].copy_from_slice(&[255; 4]);
            }
            slots.push(slot);
        }
        for (slot, more) in slots.into_iter().zip([true, true, false]) {
            ring.ask_send(slot, more);
        }
        let results: Vec<_> = after_enter(&mut ring)
            .iter()
            .map(|done| match done {
                Done::Sent(_, result) => result.as_ref().map_err(io::Error::raw_os_error).copied(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(results, [Ok(1), Err(Some(libc::EACCES)), Ok(1)]);
        let mut buffer = [0; 8];
        let mut echoes = || client.recv(&mut buffer).map(|_| char::from(buffer[0])).expect("an echo");
        assert_eq!((echoes(), echoes()), ('a', 'c'));
    }

    #[test]
    fn a_receive_that_waits_can_be_cancelled_and_a_ring_ends_with_one() {
        let Some((mut ring, socket, _client)) = ring(2) else { return };
        ring.ask_receive(true);
        ring.enter(Some(Duration::ZERO)).expect("the ring is entered");
        ring.cancel_receive();
        let done = after_enter(&mut ring);
        let [Done::Received(_, Err(error))] = &done[..] else { panic!("{done:?}") };
        assert_eq!((error.raw_os_error(), ring.is_asked()), (Some(libc::ECANCELED), false));
        for slot in done {
            let Done::Received(slot, _) = slot else { continue };
            ring.put_back(slot);
        }
        ring.ask_receive(true);
        ring.enter(Some(Duration::ZERO)).expect("the ring is entered");
        let asked_at = Instant::now();
        drop(ring);
        assert!(asked_at.elapsed() < PATIENCE, "the kernel did not give up the receive");
        drop(socket);
    }
}
