//! udp-reply-address: a UDP server on 0.0.0.0 answers from another address than the one that was asked.
//!
//! Symptom:  the UDP reply leaves from the wrong address (0.0.0.0, several addresses); "reply from unexpected source"
//! New here: the kernel says which address was asked, and sends from that one (`IP_PKTINFO`)
//! Run:      cargo run --bin udp-reply-address          (cured: -- --cure pktinfo, or -- --cure sockets)
//! Watch:    strace -e trace=%network target/debug/udp-reply-address --cure pktinfo
//! Expect:   the client that asked 127.0.0.2 gets no answer; with either cure, each client gets each answer
//! Still wrong: who has the address must also be able to keep up (next: tokio-cancel, where the program loses the data itself)

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
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
use trace_marks::mark;

/// Both lead to this host, as all of 127.0.0.0/8 does: a host with two addresses.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];

#[derive(clap::Args)]
struct Flags {
    /// How the server learns which address was asked
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
    let server = Server::bind(flags.cure)?;
    let mut clients = Vec::new();
    for (asked, connected) in [(ADDRESSES[0], true), (ADDRESSES[1], true), (ADDRESSES[1], false)] {
        let client = ask(&server, asked, connected, flags.questions)?;
        demo.say(&client);
        clients.push(client);
    }
    Ok(clients)
}

// region: client
/// One client, which asks `questions` times at `asked`. Client and server take turns on one thread, and on loopback a
/// datagram has arrived when its send returns: an answer that is not there now never comes.
fn ask(server: &Server, asked: Ipv4Addr, connected: bool, questions: usize) -> io::Result<Client> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let address = SocketAddr::from((asked, server.port));
    if connected {
        socket.connect(address)?;
    }
    let (mut answers, mut answered_from) = (0, None);
    for _ in 0..questions {
        if connected {
            socket.send(b"who are you?")?
        } else {
            socket.send_to(b"who are you?", address)?
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
    Ok(Client { asked, connected, questions, answers, answered_from })
}
// endregion: client

/// A server that sends each datagram back.
struct Server {
    sockets: Vec<UdpSocket>,
    port: u16,
    cure: Option<Cure>,
}

impl Server {
    fn bind(cure: Option<Cure>) -> io::Result<Self> {
        let sockets = match cure {
            None | Some(Cure::Pktinfo) => vec![UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?],
            Some(Cure::Sockets) => bind_each()?,
        };
        for socket in &sockets {
            socket.set_nonblocking(true)?;
            if matches!(cure, Some(Cure::Pktinfo)) {
                setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
            }
        }
        let port = sockets[0].local_addr()?.port();
        Ok(Self { sockets, port, cure })
    }

    /// Answers the question that has come, on whichever socket.
    fn answer(&self) -> io::Result<()> {
        for socket in &self.sockets {
            let answered = match self.cure {
                Some(Cure::Pktinfo) => answer_from_asked(socket),
                _ => answer(socket),
            };
            match answered {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                answered => return answered,
            }
        }
        Err(io::Error::other("a question did not arrive: is the loopback interface up (ip link)?"))
    }
}

/// A socket for each address, all on one port.
fn bind_each() -> io::Result<Vec<UdpSocket>> {
    let mut tries = 0;
    loop {
        let first = UdpSocket::bind((ADDRESSES[0], 0))?;
        let port = first.local_addr()?.port();
        match UdpSocket::bind((ADDRESSES[1], port)) {
            // The kernel chose the port for the first address only.
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries < 10 => tries += 1,
            second => return Ok(vec![first, second?]),
        }
    }
}

// region: answer
/// The peer is all that a `recvfrom` tells. From where the answer leaves is for the kernel to choose.
fn answer(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 64];
    let (len, peer) = socket.recv_from(&mut buffer)?;
    socket.send_to(&buffer[..len], peer)?;
    Ok(())
}

/// With `IP_PKTINFO` set, `recvmsg` also tells the address that was asked, and `sendmsg` takes it as the source.
fn answer_from_asked(socket: &UdpSocket) -> io::Result<()> {
    let (mut buffer, mut control) = ([0; 64], cmsg_space!(in_pktinfo));
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let received =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let (len, peer) = (received.bytes, received.address);
    let asked = received.cmsgs()?.find_map(|message| match message {
        // The interface stays open: the answer may have to leave by another one.
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(in_pktinfo { ipi_ifindex: 0, ..info }),
        _ => None,
    });
    let source: Vec<ControlMessage> = asked.iter().map(ControlMessage::Ipv4PacketInfo).collect();
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(&buffer[..len])], &source, MsgFlags::empty(), peer.as_ref())?;
    Ok(())
}
// endregion: answer
