//! The other end of the wire: a UDP client.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::deadline::PATIENCE;
use crate::error::{Context, Result, failed};
use crate::watch::Watch;

/// A UDP client of one server.
pub struct Client {
    /// Its socket. It is not connected, so that it sees replies from elsewhere too.
    pub socket: UdpSocket,
    /// Where it sends.
    pub server: SocketAddr,
    /// To know when there is nobody left to wait for.
    watch: Option<Watch>,
    patience: Duration,
    buffer: Vec<u8>,
}

/// How long to wait for a reply before a look at the server.
const SLICE: Duration = Duration::from_millis(500);

/// One of some 16 million. Not from a seed: others have the same one at the same time.
fn random_loopback() -> Ipv4Addr {
    Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(1..), fastrand::u8(1..255))
}

impl Client {
    /// On a port that the kernel chooses. Of IPv4's loopback addresses it takes one at random, so that an echo
    /// that nobody waits for any more cannot reach another's client that is given the port next.
    pub fn of(server: SocketAddr) -> Result<Self> {
        loop {
            let ip =
                if server.is_ipv4() { random_loopback().into() } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
            let client = Self::at(SocketAddr::from((ip, 0)), server)?;
            // The guard would take it for the same server on another address.
            if client.port()? != server.port() {
                return Ok(client);
            }
        }
    }

    /// On a certain port, of a loopback address that nobody else has with it.
    pub fn on_port(port: u16, server: SocketAddr) -> Result<Self> {
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
    pub fn at(own: SocketAddr, server: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind(own).context(|| format!("bind {own} for a client"))?;
        // As large as the system permits: what the client loses would be laid to the server.
        // The kernel cuts the wish to its limit and reports no error.
        SockRef::from(&socket)
            .set_recv_buffer_size(4 << 20)
            .context(|| "enlarge the client's buffer".into())?;
        let client = Self { socket, server, watch: None, patience: PATIENCE, buffer: vec![0; 1 << 16] };
        client.look_every(SLICE)?;
        Ok(client)
    }

    /// Likewise, waiting for nothing when the server is gone, and for as long as the server's launch says.
    pub fn watching(mut self, watch: Watch) -> Self {
        self.patience = watch.patience;
        self.watch = Some(watch);
        self
    }

    /// Its own port.
    pub fn port(&self) -> Result<u16> {
        Ok(self.socket.local_addr().context(|| "read the client's address".into())?.port())
    }

    /// Sends one datagram, from 0 to 65,507 bytes.
    pub fn send(&self, payload: &[u8]) -> Result<()> {
        let length = payload.len();
        let sent = self.socket.send_to(payload, self.server);
        match sent.context(|| format!("send {length} bytes to {}", self.server))? {
            sent if sent == length => Ok(()),
            sent => failed(format!("only {sent} of {length} bytes were sent")),
        }
    }

    /// The next datagram, from whomever.
    pub fn receive_from(&mut self) -> Result<(&[u8], SocketAddr)> {
        let start = Instant::now();
        let mut ended = None;
        let (length, source) = loop {
            match self.socket.recv_from(&mut self.buffer) {
                Ok(received) => break received,
                Err(error) if error.kind() == ErrorKind::Interrupted && start.elapsed() < self.patience => {}
                Err(error) if is_nothing(&error) => {
                    if let Some(stderr) = ended {
                        return failed(format!(
                            "no reply from {}: the server has ended (stderr: {stderr:?})",
                            self.server
                        ));
                    }
                    if start.elapsed() > self.patience {
                        let seconds = self.patience.as_secs();
                        return failed(format!("no reply from {} within {seconds} s", self.server));
                    }
                    // Its last reply may have come just now: it is looked for once more.
                    ended = self.watch.as_ref().and_then(Watch::ended);
                }
                Err(error) => return failed(format!("no reply from {}: {error}", self.server)),
            }
        };
        Ok((&self.buffer[..length], source))
    }

    /// The next datagram, which has to come from the server.
    pub fn receive(&mut self) -> Result<&[u8]> {
        let server = self.server;
        let (payload, source) = self.receive_from()?;
        if source == server {
            return Ok(payload);
        }
        failed(format!("a reply came from {source}, not from {server}: {}", show(payload)))
    }

    /// Waits for a reply, which has to be `payload`.
    pub fn expect(&mut self, payload: &[u8]) -> Result<()> {
        let sent = show(payload);
        let got = self
            .receive()
            .map_err(|error| error.context(&format!("while waiting for the echo of {sent}")))?;
        if got == payload { Ok(()) } else { failed(difference(payload, got)) }
    }

    /// Sends `payload` and waits for its echo.
    pub fn echo(&mut self, payload: &[u8]) -> Result<()> {
        self.send(payload)?;
        self.expect(payload)
    }

    /// Sends one small datagram after the other until the last of them comes back, by when everything before
    /// it has been dealt with. Returns how many were sent, and what came back before, theirs included.
    pub fn settle(&mut self) -> Result<(u64, Vec<Vec<u8>>)> {
        let start = Instant::now();
        let mut replies = Vec::new();
        let mut sent = 0;
        self.look_every(Duration::from_millis(100))?;
        while start.elapsed() < self.patience {
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
                            self.look_every(SLICE)?;
                            return Ok((sent, replies));
                        }
                    }
                    Err(error) if is_nothing(&error) => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error).context(|| "receive a reply".into()),
                }
            }
        }
        let seconds = self.patience.as_secs();
        failed(format!("{} answers nothing any more, not within {seconds} s", self.server))
    }

    /// Whatever has arrived by now.
    pub fn arrived(&self) -> Result<Vec<Vec<u8>>> {
        let mut replies = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        self.block(false)?;
        while let Ok((length, _)) = self.socket.recv_from(&mut buffer) {
            replies.push(buffer[..length].to_vec());
        }
        self.block(true)?;
        Ok(replies)
    }

    /// Fails if a datagram has arrived that nobody waited for.
    pub fn expect_nothing(&mut self) -> Result<()> {
        self.block(false)?;
        let received = self.next_if_any();
        self.block(true)?;
        self.is_silence(received)
    }

    /// Fails if a datagram arrives within `time`, or has arrived.
    pub fn expect_silence(&mut self, time: Duration) -> Result<()> {
        self.look_every(time)?;
        let received = self.next_if_any();
        self.look_every(SLICE)?;
        self.is_silence(received)
    }

    fn next_if_any(&mut self) -> std::io::Result<(usize, SocketAddr)> {
        loop {
            match self.socket.recv_from(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => return received,
            }
        }
    }

    fn is_silence(&self, received: std::io::Result<(usize, SocketAddr)>) -> Result<()> {
        match received {
            Ok((length, source)) => failed(format!(
                "a datagram came that was not asked for, from {source}: {}",
                show(&self.buffer[..length])
            )),
            Err(error) if is_nothing(&error) => Ok(()),
            Err(error) => Err(error).context(|| "look for a datagram".into()),
        }
    }

    fn look_every(&self, time: Duration) -> Result<()> {
        self.socket.set_read_timeout(Some(time)).context(|| "set the client's timeout".into())
    }

    fn block(&self, block: bool) -> Result<()> {
        self.socket.set_nonblocking(!block).context(|| "make the client wait or not".into())
    }
}

/// Whether nothing had come when the receive gave up.
fn is_nothing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Bytes as evidence: how many, and how they begin.
pub fn show(bytes: &[u8]) -> String {
    let start: String = bytes.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > 24 { "..." } else { "" };
    format!("{} bytes [{start}{more}]", bytes.len())
}

/// How `got` differs from what was expected.
pub fn difference(expected: &[u8], got: &[u8]) -> String {
    let at = expected.iter().zip(got).position(|(a, b)| a != b).unwrap_or(expected.len().min(got.len()));
    format!("expected {}, got {}, different from byte {at} on", show(expected), show(got))
}
