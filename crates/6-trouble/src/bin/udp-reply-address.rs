//! udp-reply-address: a UDP server on 0.0.0.0 answers from another address than the one that was asked.
//!
//! Symptom:  the UDP reply leaves from the wrong address (0.0.0.0, several addresses, IP_PKTINFO); "reply from unexpected
//!           source"
//! New here: the kernel says which address was asked, and sends from that one (`IP_PKTINFO`)
//! Run:      cargo run --bin udp-reply-address          (cured: -- --cure pktinfo, or -- --cure sockets)
//! Watch:    strace -e trace=%network target/debug/udp-reply-address --cure pktinfo
//! Expect:   the client that asked 127.0.0.2 gets no answer; with either cure, each client gets each answer
//! Still wrong: the kernel has delivered it all; the program itself may lose it (next: tokio-cancel)

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use clap::ValueEnum;
use echo_service::demo::Demo;
use echo_service::parse_count;
use nix::cmsg_space;
use nix::libc::in_pktinfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};
use serde::Serialize;
use tokio::io::Interest;
use tokio::runtime::{Builder, Runtime};
use trace_marks::mark;

/// Both lead to this host, as all of 127.0.0.0/8 does: a host with two addresses.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];

#[derive(clap::Args)]
struct Flags {
    /// How the server comes to answer from the address that was asked [default: it does not]
    #[arg(long, value_name = "CURE")]
    cure: Option<Cure>,

    /// How many questions each client asks, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "10", value_parser = parse_count::<1_000_000>)]
    questions: usize,
}

#[derive(Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Cure {
    /// The kernel says it with each datagram (IP_PKTINFO)
    Pktinfo,
    /// The same calls on a socket of tokio
    PktinfoTokio,
    /// A socket for each address
    Sockets,
}

/// What one client sent and got.
#[derive(Serialize)]
struct Client {
    /// The address that it asked.
    asked: Ipv4Addr,
    /// Whether its socket is connected, and so takes datagrams from that address only.
    connected: bool,
    questions: usize,
    answers: usize,
    /// From where the answers came; `null` when none did.
    answered_from: Option<Ipv4Addr>,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.connected { "a connected client" } else { "one that is not" };
        let Self { asked, questions, answers, .. } = self;
        write!(f, "{kind:<18} asks {asked}: {answers} of {questions} answered")?;
        self.answered_from.map_or(Ok(()), |from| write!(f, ", from {from}"))
    }
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    cure: Option<Cure>,
    clients: Vec<Client>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = |count: fn(&Client) -> usize| self.clients.iter().map(count).sum::<usize>();
        let (questions, answers) = (total(|client| client.questions), total(|client| client.answers));
        write!(f, "{}: {answers} of {questions} questions answered", self.program)
    }
}

fn main() -> ExitCode {
    let about = "A UDP server on 0.0.0.0 answers from another address than the one that was asked";
    let (demo, flags) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    mark("ready");
    match run(&demo, &flags) {
        Ok(clients) => demo.finish(&Summary { program: demo.program(), cure: flags.cure, clients }),
        Err(error) => demo.fail_of("a socket failed", &error),
    }
    ExitCode::SUCCESS
}

fn run(demo: &Demo, flags: &Flags) -> io::Result<Vec<Client>> {
    let (server, port) = Server::bind(demo, flags.cure)?;
    let mut clients = Vec::new();
    for (asked, connected) in [(ADDRESSES[0], true), (ADDRESSES[1], true), (ADDRESSES[1], false)] {
        let client = ask(&server, SocketAddrV4::new(asked, port), connected, flags.questions)?;
        demo.say(&client);
        clients.push(client);
    }
    Ok(clients)
}

// region: client
/// One client, which asks `questions` times at `asked`. Client and server take turns on one thread, and on loopback a
/// datagram has arrived when its send returns: an answer that is not there now never comes.
fn ask(server: &Server, asked: SocketAddrV4, connected: bool, questions: usize) -> io::Result<Client> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    if connected {
        socket.connect(asked)?;
    }
    let (mut answers, mut answered_from) = (0, None);
    for _ in 0..questions {
        if connected {
            socket.send(b"who are you?")?
        } else {
            socket.send_to(b"who are you?", asked)?
        };
        server.answer()?;
        match socket.recv_from(&mut [0; 64]) {
            Ok((_, SocketAddr::V4(from))) => {
                answers += 1;
                answered_from = Some(*from.ip());
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Client { asked: *asked.ip(), connected, questions, answers, answered_from })
}
// endregion: client

/// A server that sends each datagram back.
enum Server {
    /// It asks nothing about addresses.
    Plain(Vec<UdpSocket>),
    Pktinfo(UdpSocket),
    PktinfoTokio(Runtime, tokio::net::UdpSocket),
}

impl Server {
    /// Returns the server and its port.
    fn bind(demo: &Demo, cure: Option<Cure>) -> io::Result<(Self, u16)> {
        if let Some(Cure::Sockets) = cure {
            return bind_each();
        }
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        if cure.is_none() {
            return Ok((Self::Plain(vec![socket]), port));
        }
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        if let Some(Cure::Pktinfo) = cure {
            return Ok((Self::Pktinfo(socket), port));
        }
        let runtime = demo.start_runtime(|| Builder::new_current_thread().enable_io().build());
        let _inside = runtime.enter();
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        Ok((Self::PktinfoTokio(runtime, socket), port))
    }

    /// Answers the question that has come.
    fn answer(&self) -> io::Result<()> {
        match self {
            Self::Plain(sockets) => sockets.iter().try_for_each(answer),
            Self::Pktinfo(socket) => answer_from_asked(socket),
            Self::PktinfoTokio(runtime, socket) => runtime.block_on(answer_in_tokio(socket)),
        }
    }
}

/// A socket for each address, all on one port.
fn bind_each() -> io::Result<(Server, u16)> {
    let mut tries = 0;
    loop {
        let first = UdpSocket::bind((ADDRESSES[0], 0))?;
        let port = first.local_addr()?.port();
        let second = match UdpSocket::bind((ADDRESSES[1], port)) {
            // The kernel chose the port for the first address only.
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries < 10 => {
                tries += 1;
                continue;
            }
            second => second?,
        };
        first.set_nonblocking(true)?;
        second.set_nonblocking(true)?;
        return Ok((Server::Plain(vec![first, second]), port));
    }
}

// region: fault
/// `recvfrom` tells the peer and no more. From which address the answer leaves is for the kernel to choose.
fn answer(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 64];
    match socket.recv_from(&mut buffer) {
        Ok((len, peer)) => socket.send_to(&buffer[..len], peer).map(|_| ()),
        // The question came to the other socket.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}
// endregion: fault

// region: cure
/// On a socket with `IP_PKTINFO`, `recvmsg` also tells the address that was asked.
fn receive_asked(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<(usize, SockaddrIn, in_pktinfo)> {
    let mut control = cmsg_space!(in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let asked = received.cmsgs()?.find_map(|message| match message {
        // Zero leaves the interface open: the way back may be another one.
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(in_pktinfo { ipi_ifindex: 0, ..info }),
        _ => None,
    });
    let (Some(peer), Some(asked)) = (received.address, asked) else {
        return Err(io::Error::other(
            "the kernel did not say which address was asked: it must know IP_PKTINFO",
        ));
    };
    Ok((received.bytes, peer, asked))
}

/// `sendmsg` takes the same address as the source.
fn send_from(
    socket: &impl AsRawFd,
    bytes: &[u8],
    peer: &SockaddrIn,
    source: &in_pktinfo,
) -> io::Result<usize> {
    let control = [ControlMessage::Ipv4PacketInfo(source)];
    Ok(sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), Some(peer))?)
}
// endregion: cure

fn answer_from_asked(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 64];
    let (len, peer, asked) = receive_asked(socket, &mut buffer)?;
    send_from(socket, &buffer[..len], &peer, &asked)?;
    Ok(())
}

// region: tokio
/// `async_io` waits, makes the call, and waits again if it would block.
async fn answer_in_tokio(socket: &tokio::net::UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 64];
    let (len, peer, asked) =
        socket.async_io(Interest::READABLE, || receive_asked(socket, &mut buffer)).await?;
    socket.async_io(Interest::WRITABLE, || send_from(socket, &buffer[..len], &peer, &asked)).await?;
    Ok(())
}
// endregion: tokio
