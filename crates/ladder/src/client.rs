//! The other end while a server is traced: sends datagrams and takes the echoes, without hurry.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::failure::{Context, Result};
use crate::server::{PATIENCE, Server};

/// How the echoes of some datagrams came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echoes {
    /// Equal to what was sent, in order.
    pub good: usize,
    /// Came back altered or out of order.
    pub wrong: usize,
    /// Did not come back.
    pub lost: usize,
}

/// A socket that sends to one server.
pub struct Client {
    socket: UdpSocket,
}

impl Client {
    /// A client on a port of the kernel's choice, for the server at that address.
    pub fn new(server: SocketAddr) -> Result<Self> {
        let local: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let socket = UdpSocket::bind((local, 0)).context(|| "open a socket for the client".into())?;
        socket.connect(server).context(|| format!("connect to {server}"))?;
        socket.set_nonblocking(true).context(|| "make the client's socket non-blocking".into())?;
        Ok(Client { socket })
    }

    /// Its own port.
    pub fn port(&self) -> Result<u16> {
        Ok(self.socket.local_addr().context(|| "read the client's address".into())?.port())
    }

    /// Sends one datagram.
    pub fn send(&self, payload: &[u8]) -> Result<()> {
        loop {
            match self.socket.send(payload) {
                Ok(_) => return Ok(()),
                // An answer of the network to an earlier datagram: nobody listened then. It is lost, and seen
                // to be.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error).context(|| "send a datagram to the server".into()),
            }
        }
    }

    /// Waits for the echoes of these datagrams, in this order, while the trace of the server is read on. Those
    /// that are not there when nothing has come for as long as `patience`, and the server is back in its wait,
    /// are lost.
    pub fn await_echoes(&self, server: &mut Server, sent: &[Vec<u8>], patience: Duration) -> Result<Echoes> {
        let mut echoes = Echoes::default();
        let mut buffer = vec![0; 1 << 16];
        let mut deadline = Instant::now() + patience;
        while echoes.good + echoes.wrong < sent.len() {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    match buffer[..length] == sent[echoes.good + echoes.wrong][..] {
                        true => echoes.good += 1,
                        false => echoes.wrong += 1,
                    }
                    deadline = Instant::now() + patience;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let late = Instant::now().checked_duration_since(deadline);
                    // A busy machine makes a server slow, and keeps it from its wait.
                    if late.is_some_and(|late| late > PATIENCE) || late.is_some() && server.is_quiet()? {
                        break;
                    }
                    server.pump(Duration::from_millis(1))?;
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionRefused) => {}
                Err(error) => return Err(error).context(|| "receive an echo".into()),
            }
        }
        echoes.lost = sent.len() - echoes.good - echoes.wrong;
        Ok(echoes)
    }
}
