//! The client of `ladder bench`: fast enough not to be what is measured.
//!
//! It keeps a fixed window of datagrams under way and polls without sleeping, so that the server never pays for
//! waking it; it sends and receives in batches; and it checks the length, the order and the content of every
//! echo.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, recvmsg,
    sendmmsg, sendmsg, setsockopt, sockopt,
};

use crate::failure::{Context, Result, failed};

/// After how long without any echo the datagrams under way count as lost.
const GIVEN_UP: Duration = Duration::from_secs(2);

/// What one window phase brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Echoes that came back whole and in order.
    pub echoes: u64,
    /// Datagrams whose echo did not come.
    pub lost: u64,
    /// Echoes of the wrong length, order or content.
    pub wrong: u64,
    /// From the first send to the last echo.
    pub seconds: f64,
}

/// When a window phase ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After that time.
    Elapsed(Duration),
    /// After that many datagrams.
    Datagrams(u64),
}

/// How the client hands its datagrams to the kernel, and takes the echoes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// Many datagrams a call, each on its own way through the stack.
    #[default]
    Plain,
    /// Sends by UDP_SEGMENT: up to 128 datagrams go through the stack as one.
    Gso,
    /// Sends so, and receives by UDP_GRO: echoes that the server sent as one come as one.
    GsoGro,
}

/// The most datagrams that go through the stack as one, and the most bytes.
const SEGMENTS: usize = 128;
const MOST_BYTES: usize = 65_507;

/// One connected socket, with its share of the window.
struct Peer {
    socket: UdpSocket,
    window: usize,
    /// Number of the next datagram to send.
    next: u64,
    /// Number of the next echo to come.
    expected: u64,
}

/// The datagrams of a client: a window over one or more sockets.
pub struct Load {
    peers: Vec<Peer>,
    size: usize,
    /// Room for one datagram a slot, and a byte more, by which a longer echo is known.
    slots: Vec<u8>,
    outgoing: Vec<u8>,
    offload: Offload,
    /// Whether the server has a core of its own: only then may the client spin.
    spin: bool,
}

impl Load {
    /// A client for the server at that address; `window` datagrams of `size` bytes are spread over `peers`
    /// sockets.
    pub fn new(
        server: SocketAddr,
        size: usize,
        window: usize,
        peers: usize,
        spin: bool,
        offload: Offload,
    ) -> Result<Self> {
        let mut all = Vec::new();
        for index in 0..peers {
            let share = window / peers + usize::from(index < window % peers);
            all.push(Peer { socket: connected(server)?, window: share, next: 0, expected: 0 });
        }
        if offload == Offload::GsoGro {
            for peer in &all {
                setsockopt(&peer.socket, sockopt::UdpGroSegment, &true)
                    .map_err(io::Error::from)
                    .context(|| "set UDP_GRO on the client's socket (Linux 5.0 or newer)".into())?;
            }
        }
        let most = all.iter().map(|peer| peer.window).max().unwrap_or(0);
        for peer in &all {
            peer.socket.set_nonblocking(true).context(|| "make the client's socket non-blocking".into())?;
            // As much as the kernel allows: a datagram that the client has no room for would count as lost.
            let _ = setsockopt(&peer.socket, sockopt::RcvBuf, &(window * (size + 2048)));
        }
        // An arrival may be many echoes in one.
        let room = if offload == Offload::GsoGro { 1 << 16 } else { 0 };
        let slots = vec![0; room.max(most * (size + 1))];
        Ok(Load { peers: all, size, slots, outgoing: vec![0; most * size], offload, spin })
    }

    /// Keeps the window full until the end, then waits for the last echoes.
    pub fn run(&mut self, until: Until) -> Result<Flow> {
        let mut flow = Flow::default();
        let mut sent = 0;
        let start = Instant::now();
        let mut last_echo = start;
        // Waiting for what never comes is no time of the server's.
        let mut given_up = Duration::ZERO;
        let mut idle_turns = 0_u32;
        loop {
            let mut wanted = match until {
                Until::Elapsed(time) if start.elapsed() >= time => 0,
                Until::Elapsed(_) => u64::MAX,
                Until::Datagrams(count) => count - sent,
            };
            let over = wanted == 0;
            let mut under_way = 0;
            let mut came = 0;
            for peer in &mut self.peers {
                if wanted > 0 {
                    let count = match self.offload {
                        Offload::Plain => send(peer, self.size, &mut self.outgoing, wanted)?,
                        _ => send_as_one(peer, self.size, &mut self.outgoing, wanted)?,
                    };
                    sent += count;
                    wanted -= count;
                }
                came += match self.offload {
                    Offload::GsoGro => receive_as_one(peer, self.size, &mut self.slots, &mut flow)?,
                    _ => receive(peer, self.size, &mut self.slots, &mut flow)?,
                };
                under_way += peer.next - peer.expected;
            }
            // Before the end is looked for: it may be the last echoes that came.
            if came > 0 {
                idle_turns = 0;
                flow.seconds = start.elapsed().saturating_sub(given_up).as_secs_f64();
            }
            if over && under_way == 0 {
                break;
            }
            if came > 0 {
                continue;
            }
            // The clock is looked at only now and then: it costs as much as a small system call.
            idle_turns += 1;
            if idle_turns % 64 == 1 {
                if idle_turns == 1 {
                    last_echo = Instant::now();
                } else if last_echo.elapsed() > GIVEN_UP {
                    flow.lost += under_way;
                    for peer in &mut self.peers {
                        peer.expected = peer.next;
                    }
                    given_up += last_echo.elapsed();
                    idle_turns = 0;
                }
            }
            if !self.spin {
                std::thread::yield_now();
            }
        }
        Ok(flow)
    }
}

/// A socket for one peer of the server.
fn connected(server: SocketAddr) -> Result<UdpSocket> {
    let local: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let socket = UdpSocket::bind((local, 0)).context(|| "open a socket for the client".into())?;
    socket.connect(server).context(|| format!("connect to {server}"))?;
    Ok(socket)
}

/// Writes the datagram with that number: its number first, then a pattern that follows from it.
fn write_payload(number: u64, payload: &mut [u8]) {
    let bytes = number.to_le_bytes();
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte = if index < 8 { bytes[index] } else { bytes[index % 8] ^ index as u8 };
    }
}

/// Whether the payload is that of the datagram with that number.
fn is_payload(number: u64, payload: &[u8]) -> bool {
    let bytes = number.to_le_bytes();
    payload
        .iter()
        .enumerate()
        .all(|(index, &byte)| byte == if index < 8 { bytes[index] } else { bytes[index % 8] ^ index as u8 })
}

/// Fills the free part of the window, with at most that many, by one call. Returns how many were sent.
fn send(peer: &mut Peer, size: usize, outgoing: &mut [u8], at_most: u64) -> Result<u64> {
    let free = (peer.window - (peer.next - peer.expected) as usize).min(at_most as usize);
    if free == 0 {
        return Ok(0);
    }
    for (index, payload) in outgoing.chunks_mut(size.max(1)).take(free).enumerate() {
        write_payload(peer.next + index as u64, &mut payload[..size]);
    }
    let slices: Vec<[IoSlice; 1]> =
        (0..free).map(|index| [IoSlice::new(&outgoing[index * size..][..size])]).collect();
    let nowhere: Vec<Option<SockaddrStorage>> = vec![None; free];
    let none: [ControlMessage; 0] = [];
    let mut headers = MultiHeaders::preallocate(free, None);
    let outcome = sendmmsg(
        peer.socket.as_raw_fd(),
        &mut headers,
        slices.iter(),
        &nowhere,
        none,
        MsgFlags::MSG_DONTWAIT,
    );
    sent(peer, outcome.map(|results| results.count() as u64))
}

/// The same, but the kernel cuts one long payload into the datagrams, as late as it can.
fn send_as_one(peer: &mut Peer, size: usize, outgoing: &mut [u8], at_most: u64) -> Result<u64> {
    let free = (peer.window - (peer.next - peer.expected) as usize).min(at_most as usize);
    let free = free.min(SEGMENTS).min((MOST_BYTES / size.max(1)).max(1));
    if free == 0 {
        return Ok(0);
    }
    for (index, payload) in outgoing.chunks_mut(size.max(1)).take(free).enumerate() {
        write_payload(peer.next + index as u64, &mut payload[..size]);
    }
    let segment = size as u16;
    let cut = [ControlMessage::UdpGsoSegments(&segment)];
    // One alone is not to be cut; it may be longer than a segment can be.
    let control = if free > 1 { &cut[..] } else { &[] };
    let payload = [IoSlice::new(&outgoing[..free * size])];
    let outcome = sendmsg::<()>(peer.socket.as_raw_fd(), &payload, control, MsgFlags::MSG_DONTWAIT, None);
    sent(peer, outcome.map(|_| free as u64))
}

/// Takes note of how many a call has sent.
fn sent(peer: &mut Peer, outcome: nix::Result<u64>) -> Result<u64> {
    match outcome {
        Ok(count) => {
            peer.next += count;
            Ok(count)
        }
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => Ok(0),
        Err(Errno::ECONNREFUSED) => failed("the server is gone: its port is not bound any more"),
        Err(error) => Err(io::Error::from(error)).context(|| "send to the server".into()),
    }
}

/// Takes the echoes that are there with one call, and checks them. Returns how many came.
fn receive(peer: &mut Peer, size: usize, slots: &mut [u8], flow: &mut Flow) -> Result<u64> {
    if peer.next == peer.expected {
        return Ok(0);
    }
    let mut slices: Vec<[IoSliceMut; 1]> =
        slots.chunks_mut(size + 1).take(peer.window).map(|slot| [IoSliceMut::new(slot)]).collect();
    let mut headers: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(slices.len(), None);
    let outcome =
        recvmmsg(peer.socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
    let lengths: Vec<usize> = match outcome {
        Ok(messages) => messages.map(|message| message.bytes).collect(),
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
        Err(Errno::ECONNREFUSED) => return failed("the server is gone: its port is not bound any more"),
        Err(error) => return Err(io::Error::from(error)).context(|| "receive from the server".into()),
    };
    let came = lengths.len() as u64;
    for (length, slot) in lengths.into_iter().zip(slots.chunks(size + 1)) {
        judge(peer, size, length, &slot[..length.min(slot.len())], flow);
    }
    Ok(came)
}

/// The same, one arrival, which may be several echoes of one size.
fn receive_as_one(peer: &mut Peer, size: usize, slots: &mut [u8], flow: &mut Flow) -> Result<u64> {
    if peer.next == peer.expected {
        return Ok(0);
    }
    let mut control = nix::cmsg_space!(i32);
    let mut slices = [IoSliceMut::new(slots)];
    let outcome =
        recvmsg::<()>(peer.socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT);
    let (bytes, segment) = match outcome {
        Ok(message) => {
            let segment = message.cmsgs().ok().into_iter().flatten().find_map(|control| match control {
                ControlMessageOwned::UdpGroSegments(segment) => usize::try_from(segment).ok(),
                _ => None,
            });
            (message.bytes, segment)
        }
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
        Err(Errno::ECONNREFUSED) => return failed("the server is gone: its port is not bound any more"),
        Err(error) => return Err(io::Error::from(error)).context(|| "receive from the server".into()),
    };
    let segment = segment.unwrap_or(bytes).max(1);
    let mut came = 0;
    for payload in slots[..bytes].chunks(segment) {
        judge(peer, size, payload.len(), payload, flow);
        came += 1;
    }
    Ok(came)
}

/// Counts one echo.
fn judge(peer: &mut Peer, size: usize, length: usize, payload: &[u8], flow: &mut Flow) {
    // A late echo of what was given up long ago is none of the window's.
    if peer.expected == peer.next {
        flow.wrong += 1;
        return;
    }
    if length == size && is_payload(peer.expected, payload) {
        flow.echoes += 1;
        peer.expected += 1;
        return;
    }
    // A later one in its place: those between are lost, or will come out of order.
    let found = (peer.expected..peer.next).find(|&number| length == size && is_payload(number, payload));
    match found {
        Some(number) => {
            flow.lost += number - peer.expected;
            flow.echoes += 1;
            peer.expected = number + 1;
        }
        None => flow.wrong += 1,
    }
}

/// Round trips of single datagrams, in nanoseconds, sorted; both ends may share a core, since each sleeps while
/// the other works. Lost ones are left out and counted.
pub fn ping_pong(server: SocketAddr, size: usize, count: usize) -> Result<(Vec<u64>, u64)> {
    let socket = connected(server)?;
    socket.set_read_timeout(Some(GIVEN_UP)).context(|| "set a deadline for an echo".into())?;
    let mut payload = vec![0; size];
    let mut buffer = vec![0; size + 1];
    let mut times = Vec::with_capacity(count);
    let mut lost = 0;
    // The first ones wake caches and are not measured.
    let warm_up = count / 10;
    for number in 0..count + warm_up {
        write_payload(number as u64, &mut payload);
        let start = Instant::now();
        socket.send(&payload).context(|| "send to the server".into())?;
        match socket.recv(&mut buffer) {
            Ok(length) if buffer[..length] == payload[..] => {
                if number >= warm_up {
                    times.push(start.elapsed().as_nanos() as u64);
                }
            }
            Ok(_) => lost += 1,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                lost += 1;
                if lost > 3 {
                    return failed("the server does not answer single datagrams");
                }
            }
            Err(error) => return Err(error).context(|| "receive from the server".into()),
        }
    }
    times.sort_unstable();
    Ok((times, lost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// An echo that alters what it gets as it is told: `None` swallows the datagram.
    fn echo(count: usize, alter: impl Fn(usize, &mut Vec<u8>) -> bool + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("its address");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
        thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            for index in 0..count {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { return };
                let mut payload = buffer[..length].to_vec();
                if alter(index, &mut payload) {
                    socket.send_to(&payload, peer).expect("an echo");
                }
            }
        });
        address
    }

    fn flow(count: u64, alter: impl Fn(usize, &mut Vec<u8>) -> bool + Send + 'static) -> Flow {
        let server = echo(count as usize, alter);
        let mut load = Load::new(server, 32, 4, 1, false, Offload::Plain).expect("a client");
        load.run(Until::Datagrams(count)).expect("a flow")
    }

    #[test]
    fn good_echoes_are_counted() {
        let flow = flow(100, |_, _| true);
        assert_eq!((flow.echoes, flow.lost, flow.wrong), (100, 0, 0));
        assert!(flow.seconds > 0.0);
    }

    #[test]
    fn every_client_gets_its_echoes() {
        for offload in [Offload::Plain, Offload::Gso, Offload::GsoGro] {
            for (size, peers) in [(32, 1), (1400, 1), (32, 16)] {
                let server = echo(2000, |_, _| true);
                let mut load = Load::new(server, size, 64, peers, false, offload).expect("a client");
                let flow = load.run(Until::Datagrams(2000)).expect("a flow");
                let told = format!("{offload:?}, {size} bytes, {peers} peers");
                assert_eq!((flow.echoes, flow.lost, flow.wrong), (2000, 0, 0), "{told}");
            }
        }
    }

    #[test]
    fn a_lost_echo_is_reported() {
        let flow = flow(100, |index, _| index != 50);
        assert_eq!((flow.echoes, flow.lost, flow.wrong), (99, 1, 0));
    }

    #[test]
    fn the_time_of_the_last_echo_counts_when_it_is_the_only_one() {
        let flow = flow(1, |_, _| {
            thread::sleep(Duration::from_millis(20));
            true
        });
        assert_eq!(flow.echoes, 1);
        assert!(flow.seconds >= 0.02, "{flow:?}");
    }

    #[test]
    fn an_altered_and_a_shortened_echo_are_reported() {
        let altered = flow(20, |index, payload| {
            payload[20] ^= u8::from(index == 10);
            true
        });
        assert!(altered.wrong == 1 && altered.echoes == 19 && altered.lost == 1, "{altered:?}");
        let short = flow(20, |index, payload| {
            payload.truncate(if index == 10 { 31 } else { 32 });
            true
        });
        assert!(short.wrong == 1 && short.echoes == 19, "{short:?}");
    }

    #[test]
    fn several_peers_share_the_window() {
        let server = echo(90, |_, _| true);
        let mut load = Load::new(server, 8, 9, 3, false, Offload::Plain).expect("a client");
        let flow = load.run(Until::Datagrams(90)).expect("a flow");
        assert_eq!((flow.echoes, flow.lost, flow.wrong), (90, 0, 0));
    }

    #[test]
    fn round_trips_are_sorted() {
        let server = echo(110, |_, _| true);
        let (times, lost) = ping_pong(server, 32, 100).expect("round trips");
        assert_eq!((times.len(), lost), (100, 0));
        assert!(times.is_sorted());
    }
}
