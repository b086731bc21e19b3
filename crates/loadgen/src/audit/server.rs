//! The recording server of an audit: it notes when each request arrives and when it answers, and misbehaves as told.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::clock::{Monotonic, Nanos};

/// How the server misbehaves, counted from the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// It answers nothing from the first to the second moment, and then all that has come.
    Stall(Duration, Duration),
    /// It answers nothing any more from then on.
    Dead(Duration),
}

impl Behaviour {
    /// When what arrives at `at` (since the first request) is answered.
    fn answer(self, at: Nanos) -> Option<Nanos> {
        let ns = |time: Duration| time.as_nanos() as Nanos;
        match self {
            Self::Stall(from, until) if (ns(from)..ns(until)).contains(&at) => Some(ns(until)),
            Self::Dead(from) if at >= ns(from) => None,
            _ => Some(at),
        }
    }
}

/// When requests came and were answered, from the first of them; `None` where no answer was sent.
pub type Record = Vec<(Nanos, Option<Nanos>)>;

#[derive(Debug)]
struct Log {
    first: Option<Nanos>,
    requests: Record,
}

/// A running recording server. It ends when dropped.
#[derive(Debug)]
pub struct RecordingServer {
    address: SocketAddr,
    log: Arc<Mutex<Log>>,
    _stop: oneshot::Sender<()>,
}

impl RecordingServer {
    /// Starts one on a free loopback port.
    ///
    /// # Errors
    /// A socket, a runtime or a thread that cannot be made.
    pub fn start(behaviour: Behaviour) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default());
        // Made here, so that a failure is the caller's to tell; the runtime belongs to its thread.
        drop(runtime?);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let log = Arc::new(Mutex::new(Log { first: None, requests: Vec::new() }));
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = Arc::clone(&log);
        std::thread::Builder::new().name("recording server".to_owned()).spawn(
            move || -> io::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(tokio::runtime::LocalOptions::default())?;
                runtime.block_on(async move {
                    let listener = TcpListener::from_std(listener)?;
                    tokio::select! {
                        // Its sender is dropped with the server.
                        _ = stopped => Ok(()),
                        ended = accept(listener, shared, behaviour) => ended,
                    }
                })
            },
        )?;
        Ok(Self { address, log, _stop: stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has happened so far.
    pub fn record(&self) -> Record {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }
}

async fn accept(listener: TcpListener, log: Arc<Mutex<Log>>, behaviour: Behaviour) -> io::Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(converse(stream, Arc::clone(&log), behaviour));
            }
            // No descriptor left, most likely: others will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Answers the requests of one connection, one after the other. A generator that breaks off ends it.
async fn converse(mut stream: TcpStream, log: Arc<Mutex<Log>>, behaviour: Behaviour) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                n => bytes.extend_from_slice(&buffer[..n]),
            }
        }
        // One head is taken; generators that audit can judge send no body.
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        bytes.drain(..end);
        let now = Monotonic.now();
        let (number, first, answer) = {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let first = *log.first.get_or_insert(now);
            let answer = behaviour.answer(now - first);
            log.requests.push((now - first, None));
            (log.requests.len() - 1, first, answer)
        };
        let Some(answer) = answer else { return std::future::pending().await };
        if let Some(wait) = (first + answer).checked_sub(Monotonic.now()).filter(|wait| *wait > 0) {
            tokio::time::sleep(Duration::from_nanos(wait)).await;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.requests[number].1 = Some(Monotonic.now() - first);
    }
}
