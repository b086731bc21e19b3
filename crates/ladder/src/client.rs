//! The other end while a server is traced: sends datagrams and takes the echoes, without hurry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::time::{Duration, Instant};

use harness::{PATIENCE, Process};

use crate::failure::Result;

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
pub struct Client(harness::Client);

impl Deref for Client {
    type Target = harness::Client;

    fn deref(&self) -> &harness::Client {
        &self.0
    }
}

impl Client {
    /// A client on a port of the kernel's choice, for the server at that address. Its own address is always the
    /// same, so that two transcripts are alike.
    pub fn new(server: SocketAddr) -> Result<Self> {
        let local: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Ok(Client(harness::Client::at((local, 0).into(), server)?))
    }

    /// Waits for the echoes of these datagrams, in this order, while the trace of the server is read on. Those
    /// that are not there when nothing has come for as long as `patience`, and the server is back in its wait,
    /// are lost.
    pub fn await_echoes(&self, server: &mut Process, sent: &[Vec<u8>], patience: Duration) -> Result<Echoes> {
        let mut echoes = Echoes::default();
        let mut deadline = Instant::now() + patience;
        while echoes.good + echoes.wrong < sent.len() {
            let came = self.arrived()?;
            if came.is_empty() {
                let late = Instant::now().checked_duration_since(deadline);
                // A busy machine makes a server slow, and keeps it from its wait.
                if late.is_some_and(|late| late > PATIENCE)
                    || late.is_some() && (server.has_exited() || server.is_quiet()?)
                {
                    break;
                }
                server.pump(Duration::from_millis(1))?;
                continue;
            }
            for echo in came {
                match sent.get(echoes.good + echoes.wrong) == Some(&echo) {
                    true => echoes.good += 1,
                    false => echoes.wrong += 1,
                }
            }
            deadline = Instant::now() + patience;
        }
        echoes.lost = sent.len().saturating_sub(echoes.good + echoes.wrong);
        Ok(echoes)
    }
}
