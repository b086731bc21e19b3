//! The loop guard, seen from the wire.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::time::{Duration, Instant};

use harness::Client;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::server::{Launch, Server};
use crate::summary::nonzero;
use crate::target::{Origin, Target};
use crate::verdict::{Context, Unmet, ensure, not_asked};
use crate::{RUNGS, Subject};

/// Refused sources that an ordinary socket can have: the project's ports, and the server's own number on
/// another address.
pub(super) fn refusals(subject: &Subject) -> Result<(), Unmet> {
    let mut random = subject.random();
    let server = subject.launch().start()?;
    let own = server.address.port();
    let mut client = server.client()?;
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    let cases = (2000..=2009).map(|port| (port, "project_port")).chain([(own, "same_port")]);
    for (port, reason) in cases {
        let mut refused = server.client_on_port(port)?;
        refused.send(b"answer me")?;
        // When the next one is back, the refused ones have been dealt with.
        client.echo(b"the next one")?;
        refused
            .expect_nothing()
            .map_err(|unmet| unmet.context(&format!("source port {port} ({reason}) was answered")))?;
        *expected.entry(reason).or_default() += 1;
    }
    // Their neighbours, and ports that the kernel hands out, are as good as any.
    let sample = (0..64).map(|_| random.u16(32_768..61_000));
    let mut answered = 0;
    for port in [1999, 2010, own - 1, own + 1].into_iter().chain(sample.collect::<Vec<_>>()) {
        if port != own {
            let mut honest = server.client_on_port(port)?;
            honest.echo(b"answer me").context(format!("source port {port}"))?;
            answered += 1;
        }
    }
    if subject.target.entry().is_some() {
        let summary = server.stop()?;
        summary.expect(answered + 11 + 11, answered + 11)?;
        ensure(nonzero(&summary.refused) == expected, || {
            format!("`refused` is not {expected:?}: {summary:?}")
        })?;
    }
    Ok(())
}

/// A raw socket that sends datagrams with forged sources.
pub(super) struct Forger(Socket);

impl Forger {
    pub(super) fn new() -> Result<Self, Unmet> {
        // Protocol 255, IPPROTO_RAW: the header is ours to write (raw(7)).
        match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))) {
            Ok(socket) => Ok(Self(socket)),
            Err(error) => not_asked(format!("no raw socket may be opened here: {error}")),
        }
    }

    pub(super) fn send(&self, source: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<(), Unmet> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(source.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(source.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend((payload.len() as u16 + 8).to_be_bytes());
        // No checksum, which IPv4 permits. The kernel fills in the one of the IP header, and its length.
        packet.extend([0, 0]);
        packet.extend(payload);
        let sent = self.0.send_to(&packet, &SockAddr::from(to));
        sent.map(drop).map_err(|error| Unmet::Fails(format!("the check cannot forge {source}: {error}")))
    }
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4, Unmet> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => not_asked(format!("{address} is not an IPv4 address")),
    }
}

/// Refused sources that only a forger can have, each reason in the order in which they count.
pub(super) fn forged_refusals(subject: &Subject) -> Result<(), Unmet> {
    let forger = Forger::new()?;
    let mut server = subject.launch().on("127.0.0.1:2042").start()?;
    let own = v4(server.address)?;
    let mut client = server.client()?;
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    let ip = Ipv4Addr::new;
    for (source, port, reason) in [
        (ip(127, 0, 0, 1), 0, "port_zero"),
        (ip(255, 255, 255, 255), 0, "port_zero"),
        (ip(127, 0, 0, 1), own.port(), "self"),
        (ip(127, 0, 0, 2), own.port(), "same_port"),
        (ip(192, 0, 2, 1), own.port(), "same_port"),
        (ip(127, 0, 0, 1), 1, "low_port"),
        (ip(127, 0, 0, 1), 7, "low_port"),
        (ip(127, 0, 0, 1), 1023, "low_port"),
        (ip(224, 0, 0, 1), 53, "low_port"),
        (ip(127, 0, 0, 1), 2000, "project_port"),
        (ip(192, 0, 2, 1), 2009, "project_port"),
        (ip(239, 1, 2, 3), 2005, "project_port"),
        (ip(224, 0, 0, 1), 5000, "not_unicast"),
        (ip(239, 255, 255, 255), 5000, "not_unicast"),
        (ip(255, 255, 255, 255), 5000, "not_unicast"),
        // 0.0.0.0 itself cannot be sent: the kernel would fill in a source of its own.
        (ip(0, 1, 2, 3), 5000, "not_unicast"),
    ] {
        forger.send(SocketAddrV4::new(source, port), own, b"answer me")?;
        client
            .echo(b"the next one")
            .map_err(|unmet| unmet.context(&format!("after a datagram from {source}:{port} ({reason})")))?;
        *expected.entry(reason).or_default() += 1;
    }
    // An honest source that cannot be reached: the send fails or is lost, and the service goes on.
    forger.send(SocketAddrV4::new(ip(192, 0, 2, 1), 5000), own, b"answer me")?;
    client.echo(b"the next one")?;
    server.still_serves()?;
    if subject.target.entry().is_some() {
        let summary = server.stop()?;
        ensure(nonzero(&summary.refused) == expected, || {
            format!("`refused` is not {expected:?}: {summary:?}")
        })?;
    }
    Ok(())
}

/// As many hops as take a loop.
const FOR_EVER: u64 = 50;

/// Sees every UDP datagram that arrives in this network namespace.
struct Sniffer(Socket);

impl Sniffer {
    fn new() -> Result<Self, Unmet> {
        let socket = match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) {
            Ok(socket) => socket,
            Err(error) => return not_asked(format!("no raw socket may be opened here: {error}")),
        };
        socket.set_recv_buffer_size(4 << 20)?;
        Ok(Self(socket))
    }

    /// How often each payload has been seen, once nothing was seen for `silence`, or some payload so often
    /// that it goes on for ever.
    fn hops(&self, silence: Duration) -> Result<BTreeMap<Vec<u8>, u64>, Unmet> {
        let mut seen: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let mut buffer = [0; 2048];
        let mut last = Instant::now();
        while last.elapsed() < silence {
            self.0.set_read_timeout(Some(silence))?;
            match (&self.0).read(&mut buffer) {
                Ok(length) => {
                    // 20 bytes of IP header, which has no options here, and 8 of UDP header.
                    let payload = buffer.get(28..length).unwrap_or_default().to_vec();
                    let count = seen.entry(payload).or_default();
                    *count += 1;
                    if *count == FOR_EVER {
                        return Ok(seen);
                    }
                    last = Instant::now();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(seen)
    }
}

/// The other servers of the ladder that stand in the same folder.
pub(super) fn neighbours(subject: &Subject) -> Vec<Target> {
    let Origin::Rung { program, name, .. } = &subject.target.0 else { return Vec::new() };
    let folder = program.parent().unwrap_or(Path::new("."));
    RUNGS
        .iter()
        .filter(|rung| rung.name != name)
        .map(|rung| folder.join(rung.name))
        .filter(|path| path.exists())
        .filter_map(|path| Target::rung(path).ok())
        .collect()
}

/// Pairs of servers on guarded ports, each seeded with one datagram that seems to come from the other.
pub(super) fn no_loops(subject: &Subject) -> Result<(), Unmet> {
    let forger = Forger::new()?;
    let sniffer = Sniffer::new()?;
    let [first, second] = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];
    let start = |target: &Target, ip: Ipv4Addr, port: u16| -> Result<Server, Unmet> {
        Launch::new(target).on(SocketAddr::from((ip, port))).start()
    };
    let ours = start(subject.target, first, 2000)?;
    let mut others = vec![start(subject.target, first, 2001)?];
    // Eight on the first address, and then eight on each from 127.0.0.3 on.
    let hosts = [1].into_iter().chain(3..).flat_map(|host| [Ipv4Addr::new(127, 0, 0, host); 8]);
    for (ip, (port, neighbour)) in hosts.zip((2002..2010).cycle().zip(neighbours(subject))) {
        others.push(start(&neighbour, ip, port)?);
    }
    let mut pairs: Vec<(SocketAddrV4, SocketAddrV4, &Server)> = Vec::new();
    for other in &others {
        pairs.push((v4(ours.address)?, v4(other.address)?, other));
    }
    // The same port on two addresses, as on two hosts.
    let (here, there) = (start(subject.target, first, 40_000)?, start(subject.target, second, 40_000)?);
    pairs.push((v4(here.address)?, v4(there.address)?, &there));
    // And with itself.
    pairs.push((v4(ours.address)?, v4(ours.address)?, &ours));
    for (index, (a, b, _)) in pairs.iter().enumerate() {
        forger.send(*a, *b, format!("pair {index} there").as_bytes())?;
        forger.send(*b, *a, format!("pair {index} back").as_bytes())?;
    }
    let seen = sniffer.hops(Duration::from_secs(1))?;
    for (index, (a, b, server)) in pairs.iter().enumerate() {
        for direction in ["there", "back"] {
            let hops = seen.get(format!("pair {index} {direction}").as_bytes()).copied().unwrap_or(0);
            // The seed itself is the first hop: none seen would mean that the check is blind.
            ensure((1..=2).contains(&hops), || {
                format!(
                    "a datagram made {hops} hops between {a} and {b} and not one or two ({FOR_EVER}: it loops)\n  {}\n  {}",
                    ours.command, server.command
                )
            })?;
        }
    }
    Ok(())
}

/// The control: what the guard prevents does happen without it.
pub(super) fn loops_unguarded(subject: &Subject) -> Result<(), Unmet> {
    let forger = Forger::new()?;
    let start = |port: u16| {
        let flags = ["--unguarded", "--count", "10000"];
        subject.launch().on(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).args(flags).start()
    };
    let (a, b) = (start(2000)?, start(2001)?);
    forger.send(v4(a.address)?, v4(b.address)?, b"round and round")?;
    // Whoever has echoed 10,000 ends; the other one then has nobody to answer.
    let (first, second) = loop_ends(a, b)?;
    ensure(first.sent == 10_000, || format!("the first to end has not sent 10,000: {first:?}"))?;
    ensure(second.sent >= 9_999, || format!("the second has not sent as many: {second:?}"))
}

fn loop_ends(
    mut a: Server,
    mut b: Server,
) -> Result<(crate::summary::Summary, crate::summary::Summary), Unmet> {
    let a_first = crate::server::eventually("10,000 echoes between two unguarded servers", || {
        if a.has_exited() {
            Some(true)
        } else if b.has_exited() {
            Some(false)
        } else {
            None
        }
    })?;
    let (first, second) = if a_first { (a, b) } else { (b, a) };
    let first = first.finish()?.summary()?;
    // It may have ended by itself too; then the signal meets nobody.
    let _ = second.signal(nix::sys::signal::Signal::SIGTERM);
    Ok((first, second.finish()?.summary()?))
}

/// Without the guard every source is answered that can be.
pub(super) fn unguarded(subject: &Subject) -> Result<(), Unmet> {
    let server = subject.launch().args(["--unguarded"]).start()?;
    for port in [2000, 2009, server.address.port()] {
        server.client_on_port(port)?.echo(b"answer me")?;
    }
    server.stop()?.expect(3, 3)
}

/// A refused source costs at most a line a minute for each reason.
pub(super) fn refusal_log(subject: &Subject) -> Result<(), Unmet> {
    let server = subject.launch().start()?;
    let mut client: Client = server.client()?;
    for port in [2000, 2001, 2002, server.address.port()] {
        for _ in 0..10 {
            let refused = server.client_on_port(port)?;
            refused.send(b"answer me")?;
            client.echo(b"the next one")?;
        }
    }
    let ended = server.terminate()?;
    ended.summary()?.expect(80, 40)?;
    ensure(ended.stderr.lines().count() <= 2, || {
        format!("more than a line for each of two reasons: {:?}", ended.stderr)
    })
}
