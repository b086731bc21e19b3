//! The other end of the wire.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::server::{Watch, deadline};
use crate::verdict::{Unmet, difference, ensure, fails, show};

/// A UDP client of one server.
pub(crate) struct Client {
    pub(crate) socket: UdpSocket,
    pub(crate) server: SocketAddr,
    /// To know when there is nobody left to wait for.
    watch: Option<Watch>,
    buffer: Vec<u8>,
}

/// One of some 16 million. Not from the seed: other checks have the same one at the same time.
fn random_loopback() -> Ipv4Addr {
    Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(1..), fastrand::u8(1..255))
}

/// How long to wait for a reply before a look at the server.
const SLICE: Duration = Duration::from_millis(500);

impl Client {
    /// On a port that the kernel chooses. Of IPv4's loopback addresses it takes one at random, so that an echo
    /// that nobody waits for any more cannot reach another check's client that is given the port next.
    pub(crate) fn of(server: SocketAddr) -> Result<Self, Unmet> {
        loop {
            let ip =
                if server.is_ipv4() { random_loopback().into() } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
            let client = Self::at(SocketAddr::from((ip, 0)), server)?;
            // The guard would take it for the same server on another address.
            if client.socket.local_addr()?.port() != server.port() {
                return Ok(client);
            }
        }
    }

    /// On a certain port, of a loopback address that nobody else has with it.
    pub(crate) fn on_port(port: u16, server: SocketAddr) -> Result<Self, Unmet> {
        let mut tried = Self::at(SocketAddr::from((random_loopback(), port)), server);
        for _ in 0..100 {
            if tried.is_ok() {
                break;
            }
            tried = Self::at(SocketAddr::from((random_loopback(), port)), server);
        }
        tried
    }

    /// On an address of its own.
    pub(crate) fn at(own: SocketAddr, server: SocketAddr) -> Result<Self, Unmet> {
        let socket = UdpSocket::bind(own)
            .map_err(|error| Unmet::Fails(format!("the check cannot bind {own}: {error}")))?;
        socket.set_read_timeout(Some(SLICE))?;
        // As large as the system permits: what the client loses would be laid to the server.
        // The kernel cuts the wish to its limit and reports no error.
        SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
        Ok(Self { socket, server, watch: None, buffer: vec![0; 1 << 16] })
    }

    /// Likewise, waiting for nothing when the server is gone.
    pub(crate) fn watching(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    pub(crate) fn send(&self, payload: &[u8]) -> Result<(), Unmet> {
        match self.socket.send_to(payload, self.server) {
            Ok(sent) => {
                ensure(sent == payload.len(), || format!("only {sent} of {} bytes were sent", payload.len()))
            }
            Err(error) => fails(format!("cannot send {} bytes to {}: {error}", payload.len(), self.server)),
        }
    }

    /// The next datagram, from whomever.
    pub(crate) fn receive_from(&mut self) -> Result<(&[u8], SocketAddr), Unmet> {
        let start = Instant::now();
        let mut ended = None;
        loop {
            match self.socket.recv_from(&mut self.buffer) {
                Ok((length, source)) => return Ok((&self.buffer[..length], source)),
                Err(error) if error.kind() == ErrorKind::Interrupted && start.elapsed() < deadline() => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if let Some(stderr) = ended {
                        return fails(format!(
                            "no reply from {}: the server has ended (stderr: {stderr:?})",
                            self.server
                        ));
                    }
                    if start.elapsed() > deadline() {
                        let seconds = deadline().as_secs();
                        return fails(format!("no reply from {} within {seconds} s", self.server));
                    }
                    // Its last reply may have come just now: it is looked for once more.
                    ended = self.watch.as_ref().and_then(Watch::ended);
                }
                Err(error) => return fails(format!("no reply from {}: {error}", self.server)),
            }
        }
    }

    /// The next datagram, which has to come from the server.
    pub(crate) fn receive(&mut self) -> Result<&[u8], Unmet> {
        let server = self.server;
        let (payload, source) = self.receive_from()?;
        ensure(source == server, || {
            format!("a reply came from {source}, not from {server}: {}", show(payload))
        })?;
        Ok(payload)
    }

    /// Waits for a reply, which has to be `payload`.
    pub(crate) fn expect(&mut self, payload: &[u8]) -> Result<(), Unmet> {
        let sent = show(payload);
        let got = self
            .receive()
            .map_err(|unmet| unmet.context(&format!("while waiting for the echo of {sent}")))?;
        ensure(got == payload, || difference(payload, got))
    }

    /// Sends `payload` and waits for its echo.
    pub(crate) fn echo(&mut self, payload: &[u8]) -> Result<(), Unmet> {
        self.send(payload)?;
        self.expect(payload)
    }

    /// Sends one small datagram after the other until the last of them comes back, by when everything before
    /// it has been dealt with. Returns how many were sent, and what came back before, theirs included.
    pub(crate) fn settle(&mut self) -> Result<(u64, Vec<Vec<u8>>), Unmet> {
        let start = Instant::now();
        let mut replies = Vec::new();
        let mut sent = 0;
        self.socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        while start.elapsed() < deadline() {
            let probe = format!("settled? {sent}");
            self.send(probe.as_bytes())?;
            sent += 1;
            loop {
                match self.socket.recv_from(&mut self.buffer) {
                    Ok((length, _)) => {
                        let reply = self.buffer[..length].to_vec();
                        let settled = reply == probe.as_bytes();
                        replies.push(reply);
                        if settled {
                            self.socket.set_read_timeout(Some(SLICE))?;
                            return Ok((sent, replies));
                        }
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        break;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        fails(format!("{} answers nothing any more, not within {} s", self.server, deadline().as_secs()))
    }

    /// Whatever has arrived by now.
    pub(crate) fn arrived(&mut self) -> Result<Vec<Vec<u8>>, Unmet> {
        let mut replies = Vec::new();
        self.socket.set_nonblocking(true)?;
        while let Ok((length, _)) = self.socket.recv_from(&mut self.buffer) {
            replies.push(self.buffer[..length].to_vec());
        }
        self.socket.set_nonblocking(false)?;
        Ok(replies)
    }

    /// Fails if a datagram has arrived that nobody waited for.
    pub(crate) fn expect_nothing(&mut self) -> Result<(), Unmet> {
        self.nothing_for(None)
    }

    /// Fails if a datagram arrives within `time`, or has arrived.
    pub(crate) fn expect_silence(&mut self, time: Duration) -> Result<(), Unmet> {
        self.nothing_for(Some(time))
    }

    fn nothing_for(&mut self, time: Option<Duration>) -> Result<(), Unmet> {
        match time {
            None => self.socket.set_nonblocking(true)?,
            some => self.socket.set_read_timeout(some)?,
        }
        let received = loop {
            match self.socket.recv_from(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received,
            }
        };
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(SLICE))?;
        match received {
            Ok((length, source)) => fails(format!(
                "a datagram came that was not asked for, from {source}: {}",
                show(&self.buffer[..length])
            )),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
