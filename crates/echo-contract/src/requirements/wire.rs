//! What shows on the wire.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::AsRawFd;

use harness::Client;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};

use crate::Subject;
use crate::verdict::{Context, Unmet, ensure};

/// The largest payload over IPv4, in bytes.
const LARGEST: usize = 65_507;

/// `length` bytes that differ from any other payload's.
pub(super) fn payload(random: &mut fastrand::Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

/// All the sizes at which something may change.
pub(super) fn sizes(subject: &Subject) -> Result<(), Unmet> {
    let mut random = subject.random();
    let mut server = subject.launch().start()?;
    let mut client = server.client()?;
    let sizes = [0, 1, 1471, 1472, 1473, 1500, 8192, 65_506, LARGEST];
    let mut bytes = 0;
    // Twice, since a server may well survive its first empty datagram and not the next of another size.
    for size in sizes.into_iter().chain(sizes.into_iter().rev()) {
        client.echo(&payload(&mut random, size))?;
        bytes += size as u64;
    }
    // One byte more does not even leave the sender.
    let error = client.socket.send_to(&vec![0; LARGEST + 1], client.server).err();
    let number = error.as_ref().and_then(std::io::Error::raw_os_error);
    ensure(number == Some(nix::errno::Errno::EMSGSIZE as i32), || {
        format!("{} bytes were to fail with EMSGSIZE at the sender, and: {error:?}", LARGEST + 1)
    })?;
    client.echo(b"the next one")?;
    bytes += 12;
    client.expect_nothing()?;
    server.still_serves()?;
    if subject.target.entry().is_some() {
        let summary = server.stop()?;
        let count = 2 * sizes.len() as u64 + 2;
        bytes += 12;
        summary.expect(count, count)?;
        ensure(summary.bytes_received == bytes && summary.bytes_sent == bytes, || {
            format!("`bytes_received` and `bytes_sent` are not {bytes}: {summary:?}")
        })?;
    }
    Ok(())
}

/// Random datagrams of one peer, of a few, of many, at most 32 under way at a time, so that no buffer
/// overflows.
pub(super) fn order(subject: &Subject) -> Result<(), Unmet> {
    const COUNT: usize = 2_500;
    const WINDOW: usize = 32;
    let mut random = subject.random();
    let server = subject.launch().start()?;
    let crowds = [1, random.usize(2..=5), random.usize(6..=15), 16];
    for peers in crowds {
        let mut peers: Vec<(Client, VecDeque<Vec<u8>>)> =
            (0..peers).map(|_| Ok((server.client()?, VecDeque::new()))).collect::<Result<_, Unmet>>()?;
        let (mut sent, mut under_way) = (0, 0);
        while sent < COUNT || under_way > 0 {
            let index = random.usize(0..peers.len());
            let (peer, expected) = &mut peers[index];
            if sent < COUNT && under_way < WINDOW && random.u8(..) < 140 {
                let size = random.usize(0..1500);
                let datagram = payload(&mut random, size);
                peer.send(&datagram)?;
                expected.push_back(datagram);
                sent += 1;
                under_way += 1;
            } else if let Some(datagram) = expected.pop_front() {
                let seed = subject.options.seed;
                peer.expect(&datagram).map_err(|unmet| {
                    unmet.context(&format!("after {sent} datagrams of peer {index} and others, seed {seed}"))
                })?;
                under_way -= 1;
            }
        }
        for (peer, _) in &mut peers {
            peer.expect_nothing()?;
        }
    }
    if subject.target.entry().is_some() {
        let total = (COUNT * crowds.len()) as u64;
        server.stop()?.expect(total, total)?;
    }
    Ok(())
}

/// A datagram longer than `--max-size` is counted, not echoed, and not shortened.
pub(super) fn truncation(subject: &Subject) -> Result<(), Unmet> {
    let mut random = subject.random();
    for limit in [0, 1, 100, 1472, 65_506] {
        let server = subject.launch().args(["--max-size", &limit.to_string()]).start()?;
        let mut client = server.client()?;
        let longer = [limit + 1, limit + 2, LARGEST];
        for size in longer {
            client.send(&payload(&mut random, size.min(LARGEST)))?;
            client
                .echo(&payload(&mut random, limit))
                .context(format!("after {size} bytes with --max-size {limit}"))?;
        }
        client.echo(b"")?;
        client.expect_nothing()?;
        let summary = server.stop()?;
        summary.expect(7, 4)?;
        ensure(summary.truncated == 3, || {
            format!("`truncated` is not 3 with --max-size {limit}: {summary:?}")
        })?;
        // Of a longer datagram no more than one byte beyond the limit is read, so no more counts.
        let bytes = 3 * (limit as u64 + 1) + 3 * limit as u64;
        ensure(summary.bytes_received == bytes, || {
            format!("`bytes_received` is not {bytes} with --max-size {limit}: {summary:?}")
        })?;
    }
    Ok(())
}

/// Hands over `bytes` in one call, as datagrams of `segment` bytes, of which the last may be shorter (udp(7),
/// `UDP_SEGMENT`). A server that asks for it (`UDP_GRO`) gets them joined as well. Returns the datagrams.
fn send_joined<'a>(client: &Client, bytes: &'a [u8], segment: u16) -> Result<Vec<&'a [u8]>, Unmet> {
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let server = SockaddrStorage::from(client.server);
    let socket = client.socket.as_raw_fd();
    sendmsg(socket, &[IoSlice::new(bytes)], &control, MsgFlags::empty(), Some(&server))
        .map_err(|error| Unmet::Fails(format!("sendmsg with UDP_SEGMENT: {error}")))
        .context(format!("hand over {} bytes as datagrams of {segment}", bytes.len()))?;
    Ok(bytes.chunks(usize::from(segment)).collect())
}

/// A client that joins its datagrams, with others between them that cannot be joined.
pub(super) fn joined(subject: &Subject) -> Result<(), Unmet> {
    let mut random = subject.random();
    let server = subject.launch().start()?;
    let mut client = server.client()?;
    let mut other = server.client()?;
    let mut count = 0;
    // Many small ones, a shorter one at the end, large ones, two.
    for (segment, length) in
        [(1, 64), (32, 64 * 32), (32, 63 * 32 + 1), (1400, 40 * 1400 + 700), (5000, 9999)]
    {
        let bytes = payload(&mut random, length);
        let datagrams = send_joined(&client, &bytes, segment)?;
        // Behind the joined ones: an empty one, a shorter one, one as long as they are, and somebody else's.
        let alone =
            [0, usize::from(segment / 2), usize::from(segment)].map(|size| payload(&mut random, size));
        for datagram in &alone {
            client.send(datagram)?;
        }
        other.send(b"other")?;
        for datagram in datagrams.iter().copied().chain(alone.iter().map(Vec::as_slice)) {
            client
                .expect(datagram)
                .context(format!("of {length} bytes, joined from datagrams of {segment}"))?;
            count += 1;
        }
        other.expect(b"other")?;
        count += 1;
    }
    client.expect_nothing()?;
    if subject.target.entry().is_some() {
        server.stop()?.expect(count, count)?;
    }
    Ok(())
}

/// What the flags say of a datagram holds for each of those that were joined.
pub(super) fn limits_within_joined(subject: &Subject) -> Result<(), Unmet> {
    let server = subject.launch().args(["--max-size", "100"]).start()?;
    let mut client = server.client()?;
    send_joined(&client, &[7; 3 * 101 + 5], 101)?;
    // The last one is shorter, and so it fits.
    client.expect(&[7; 5])?;
    for datagram in send_joined(&client, &[8; 250], 100)? {
        client.expect(datagram)?;
    }
    client.expect_nothing()?;
    let summary = server.stop()?;
    summary.expect(7, 4)?;
    ensure(summary.truncated == 3, || format!("`truncated` is not 3: {summary:?}"))?;

    let server = subject.launch().args(["--count", "3"]).start()?;
    let mut client = server.client()?;
    let bytes: Vec<u8> = (0..100).collect();
    for datagram in send_joined(&client, &bytes, 10)?.into_iter().take(3) {
        client.expect(datagram)?;
    }
    let summary = server.finish()?.summary()?;
    ensure(summary.sent == 3, || format!("`sent` is not 3 with --count 3: {summary:?}"))?;
    client.expect_nothing()?;
    Ok(())
}
