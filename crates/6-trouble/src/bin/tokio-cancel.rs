//! tokio-cancel: `select!` drops the future that loses, with all that it holds.
//!
//! Symptom:  `select!` loses data; messages are missing and the kernel dropped none; frames are torn after a timeout
//! New here: what a future holds at each of its awaits, and who keeps that when the future is dropped
//! Run:      cargo run --bin tokio-cancel      (or parts: tokio-cancel datagrams, tokio-cancel frames)
//! Watch:    cargo ladder timeline --alone tokio-cancel datagrams --cure none --count 3 --every 3
//! Expect:   of 1,000 datagrams 100 are lost, one for each tick that comes while a branch waits in its second await; of
//!           1,000 frames 991 are torn or missing, all after the first tick that comes into `read_exact`; with a cure none
//! Still wrong: each cure has a price: a tick that waits, a task more, an allocation (the page names them).

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::{self, Ipv4Addr, Shutdown, SocketAddr};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use echo_service::demo::Demo;
use echo_service::parse_count;
use futures::StreamExt;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::yield_now;
use tokio_util::codec::{Decoder, FramedRead};
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;
use trace_marks::{Markable, mark};

#[derive(clap::Args)]
struct Flags {
    /// Which parts to run [default: both]
    #[arg(value_name = "PART")]
    parts: Vec<Part>,

    /// What is done about the fault [default: nothing, and then each cure that the part knows]
    #[arg(long, value_name = "CURE")]
    cure: Vec<Cure>,

    /// How many datagrams or frames are sent, 1 to 100000
    #[arg(long, value_name = "N", default_value = "1000", value_parser = parse_count::<100_000>)]
    count: usize,

    /// A tick comes in every Kth of them, 3 to 200
    #[arg(long, value_name = "K", default_value = "10", value_parser = parse_every)]
    every: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A server that receives datagrams and puts them into a channel
    Datagrams,
    /// A server that reads frames of 101 bytes from a connection
    Frames,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cure {
    /// The fault: a branch of select! that is not cancel safe
    None,
    /// The same fault in another dress: a task that is aborted and started again
    Abort,
    /// The branch does only the first await; its handler does the second
    Handler,
    /// The await that may wait for long comes first, when there is nothing to lose
    Reserve,
    /// The future lives outside of the loop, and is polled on
    Held,
    /// A task of its own
    Task,
    /// A task of its own that is asked to end, where it holds nothing
    Token,
    /// A codec, which keeps what it has read
    Framed,
}

/// A lot of datagrams with a tick in it: one for the channel, one to be lost, one that goes on; and no more than fit
/// into a receive buffer.
fn parse_every(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 3..=200) => Ok(number),
        _ => Err("must be a whole number from 3 to 200".to_owned()),
    }
}

impl Part {
    fn cures(self) -> &'static [Cure] {
        use Cure::*;
        match self {
            Part::Datagrams => &[None, Abort, Handler, Reserve, Held, Task, Token],
            Part::Frames => &[None, Held, Task, Framed],
        }
    }
}

/// What became of what the client sent.
#[derive(Default, Serialize)]
struct Outcome {
    part: String,
    cure: String,
    sent: usize,
    /// How often the other branch fired.
    ticks: usize,
    /// Ticks that the server heard before it was given room to go on.
    heard_at_once: usize,
    /// What the server's calls returned.
    received: usize,
    /// Datagrams that came back to the client, or frames that the server read whole.
    good: usize,
    /// How the first frame that was no frame began.
    first_torn: Option<String>,
}

impl Outcome {
    fn lost(&self) -> usize {
        self.sent - self.good
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, cure, sent, ticks, heard_at_once, received, good, first_torn, .. } = self;
        let good_is = if part == "datagrams" { "answered" } else { "whole" };
        let lost = self.lost();
        write!(f, "{part:<9} {cure:<7}  {sent} sent, {received} received, {good} {good_is}, {lost} lost; ")?;
        write!(f, "{heard_at_once} of {ticks} ticks heard at once")?;
        if let Some(begin) = first_torn {
            write!(f, "\n  the first torn frame begins {begin:?}")?;
        }
        Ok(())
    }
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    outcomes: Vec<Outcome>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lossy = self.outcomes.iter().filter(|outcome| outcome.lost() > 0).count();
        write!(f, "{}: {lossy} of {} ways lose something", self.program, self.outcomes.len())
    }
}

fn main() -> ExitCode {
    let about =
        "A future that select! drops, what it had in its hands, and how to write it so that nothing is lost";
    let (demo, mut flags) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    if flags.parts.is_empty() {
        flags.parts = Part::value_variants().to_vec();
    }
    let mut outcomes = Vec::new();
    for &part in &flags.parts {
        let asked = |cure: &&Cure| flags.cure.is_empty() || flags.cure.contains(cure);
        for &cure in part.cures().iter().filter(asked) {
            let runtime = demo.start_runtime(|| Builder::new_current_thread().enable_all().build());
            let outcome = runtime.block_on(async {
                match part {
                    Part::Datagrams => datagrams(cure, &flags).await,
                    Part::Frames => frames(cure, &flags).await,
                }
            });
            match outcome {
                Ok(outcome) => {
                    let outcome =
                        Outcome { part: name(part), cure: name(cure), sent: flags.count, ..outcome };
                    demo.say(&outcome);
                    outcomes.push(outcome);
                }
                Err(error) => demo.fail_of("client and server do not come together", &error),
            }
        }
    }
    if outcomes.is_empty() {
        let known = |part: &Part| part.cures().iter().map(|cure| name(*cure)).collect::<Vec<_>>().join(", ");
        let parts = flags.parts.iter().map(|part| format!("{} knows {}", name(*part), known(part)));
        demo.wrong_usage(format_args!("no such --cure: {}", parts.collect::<Vec<_>>().join("; ")));
    }
    demo.finish(&Summary { program: demo.program(), outcomes });
    ExitCode::SUCCESS
}

/// As the command line writes it.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// A datagram and who sent it.
type Datagram = (Vec<u8>, SocketAddr);

/// What the server works with.
#[derive(Clone)]
struct Server {
    socket: Arc<UdpSocket>,
    queue: mpsc::Sender<Datagram>,
    received: Arc<AtomicUsize>,
}

// region: fault
impl Server {
    async fn receive(&self) -> io::Result<Datagram> {
        let mut buffer = [0; 64];
        let (bytes, peer) = self.socket.recv_from(&mut buffer).await?;
        self.received.fetch_add(1, Relaxed);
        Ok((buffer[..bytes].to_vec(), peer))
    }

    async fn queue(&self, datagram: Datagram) -> io::Result<()> {
        self.queue.send(datagram).await.map_err(io::Error::other)
    }

    /// Two awaits in one future. While the second waits for room, nobody else knows of the datagram.
    async fn receive_and_queue(&self) -> io::Result<()> {
        let datagram = self.receive().await?;
        self.queue(datagram).await
    }
}
// endregion: fault

impl Server {
    async fn relay(self) -> io::Result<()> {
        loop {
            self.receive_and_queue().await?;
        }
    }

    // region: until
    /// Is stopped at its receive, never while it holds a datagram.
    async fn relay_until(self, stop: CancellationToken) -> io::Result<()> {
        while let Some(datagram) = stop.run_until_cancelled(self.receive()).await {
            self.queue(datagram?).await?;
        }
        Ok(())
    }
    // endregion: until

    // region: reserve
    /// The room first: whoever waits for it holds nothing yet.
    async fn reserve_and_receive(&self) -> io::Result<()> {
        let place = self.queue.reserve().await.map_err(io::Error::other)?;
        place.send(self.receive().await?);
        Ok(())
    }
    // endregion: reserve
}

/// The server's loop: it receives, and hears ticks.
async fn serve(cure: Cure, server: Server, mut ticks: Ticks) -> io::Result<()> {
    match cure {
        // region: select
        Cure::None | Cure::Framed => loop {
            tokio::select! {
                biased;
                () = ticks.next() => {}
                done = server.receive_and_queue().marked("receive") => done?,
            }
        },
        // endregion: select
        // region: handler
        Cure::Handler => loop {
            tokio::select! {
                biased;
                () = ticks.next() => {}
                datagram = server.receive().marked("receive") => server.queue(datagram?).await?,
            }
        },
        // endregion: handler
        Cure::Reserve => loop {
            tokio::select! {
                biased;
                () = ticks.next() => {}
                done = server.reserve_and_receive().marked("receive") => done?,
            }
        },
        Cure::Held => {
            // region: held
            let mut work = pin!(server.receive_and_queue().marked("receive"));
            loop {
                tokio::select! {
                    biased;
                    () = ticks.next() => {}
                    done = &mut work => {
                        done?;
                        work.set(server.receive_and_queue().marked("receive"));
                    }
                }
            }
            // endregion: held
        }
        // region: task
        Cure::Task => {
            let mut work = tokio::spawn(server.relay().marked("receive"));
            loop {
                tokio::select! {
                    biased;
                    () = ticks.next() => {}
                    done = &mut work => return done?,
                }
            }
        }
        // endregion: task
        Cure::Abort => loop {
            let mut work = tokio::spawn(server.clone().relay().marked("receive"));
            tokio::select! {
                biased;
                () = ticks.next() => work.abort(),
                done = &mut work => return done?,
            }
        },
        // region: token
        Cure::Token => loop {
            let stop = CancellationToken::new();
            let mut work = tokio::spawn(server.clone().relay_until(stop.clone()).marked("receive"));
            tokio::select! {
                biased;
                // It ends by itself, once it has queued what it holds.
                () = ticks.next() => stop.cancel(),
                done = &mut work => return done?,
            }
        },
        // endregion: token
    }
}

/// The other branch: a tick of a timer, a command, a signal; here a message, so that its moment is known.
struct Ticks {
    ticks: UnboundedReceiver<()>,
    heard: Arc<AtomicUsize>,
}

impl Ticks {
    /// Waits for a tick. Cancel safe, as `recv` is.
    async fn next(&mut self) {
        match self.ticks.recv().await {
            Some(()) => _ = self.heard.fetch_add(1, Relaxed),
            None => std::future::pending().await,
        }
    }
}

/// How often everybody else has a turn before the client looks. Two suffice.
const TURNS: usize = 4;

async fn turns() {
    for _ in 0..TURNS {
        yield_now().await;
    }
}

/// Lets the others go on until `holds`.
async fn until(what: &str, holds: impl Fn() -> bool) -> io::Result<()> {
    let start = Instant::now();
    while !holds() {
        in_time(start, what)?;
        yield_now().await;
    }
    Ok(())
}

fn in_time(start: Instant, what: &str) -> io::Result<()> {
    match start.elapsed() < PATIENCE {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::TimedOut, format!("waited for {PATIENCE:?} until {what}"))),
    }
}

/// How long a step may take before the program gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The client and whoever takes from the channel, which are one. It sends a lot at once, and takes nothing from the
/// channel; when the channel is full, it ticks; and only then it makes room.
async fn datagrams(cure: Cure, flags: &Flags) -> io::Result<Outcome> {
    let local = (Ipv4Addr::LOCALHOST, 0);
    let socket = Arc::new(UdpSocket::bind(local).await?);
    let client = net::UdpSocket::bind(local)?;
    client.connect(socket.local_addr()?)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let (queue, mut queued) = mpsc::channel(1);
    let (tick, ticks) = mpsc::unbounded_channel();
    let (received, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = Server { socket: Arc::clone(&socket), queue, received: Arc::clone(&received) };
    let serving = tokio::spawn(serve(cure, server, Ticks { ticks, heard: Arc::clone(&heard) }));
    let mut outcome = Outcome::default();
    // One in the channel, and one in the hand of whoever received before there was room.
    let full = if cure == Cure::Reserve { 1 } else { 2 };
    mark("ready");
    for first in (0..flags.count).step_by(flags.every) {
        let lot = flags.every.min(flags.count - first);
        for number in first + 1..=first + lot {
            client.send(number.to_string().as_bytes())?;
        }
        if lot == flags.every {
            until("the channel is full", || received.load(Relaxed) >= first + full).await?;
            turns().await;
            mark("tick");
            let before = heard.load(Relaxed);
            tick.send(()).map_err(io::Error::other)?;
            outcome.ticks += 1;
            turns().await;
            outcome.heard_at_once += heard.load(Relaxed) - before;
            mark("room");
        }
        // Once the lot is received, and nothing comes out of the channel any more, the rest is lost.
        let (start, mut quiet) = (Instant::now(), 0);
        while quiet < TURNS {
            yield_now().await;
            if let Ok((payload, peer)) = queued.try_recv() {
                socket.send_to(&payload, peer).await?;
                client.recv(&mut [0; 64])?;
                outcome.good += 1;
                quiet = 0;
            } else if received.load(Relaxed) >= first + lot {
                quiet += 1;
            } else {
                in_time(start, "the lot is received")?;
            }
        }
    }
    outcome.received = received.load(Relaxed);
    serving.abort();
    match serving.await {
        Ok(ended) => ended?,
        Err(aborted) if aborted.is_cancelled() => {}
        Err(panic) => return Err(io::Error::other(panic)),
    }
    Ok(outcome)
}

/// Bytes of a frame. A prime, so that hundred tears never add up to whole frames.
const FRAME: usize = 101;

/// Where a frame is torn: behind its first bytes, which say that it is one.
const TEAR: usize = 7;

/// `[frame 000010]`, and dots up to its length.
fn frame(number: usize) -> String {
    format!("{:.<FRAME$}", format!("[frame {number:06}]"))
}

/// What the server has read.
#[derive(Default)]
struct Frames {
    read: usize,
    whole: usize,
    first_torn: Option<String>,
}

impl Frames {
    fn take(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        self.read += 1;
        match text.get(TEAR..TEAR + 6).and_then(|digits| digits.parse().ok()) {
            Some(number) if text == frame(number) => self.whole += 1,
            _ => drop(self.first_torn.get_or_insert_with(|| text.chars().take(14).collect())),
        }
    }
}

/// The server's loop: it reads frames, and hears ticks.
async fn read_frames(cure: Cure, mut stream: impl Stream, mut ticks: Ticks) -> io::Result<Frames> {
    let mut frames = Frames::default();
    match cure {
        Cure::None | Cure::Abort | Cure::Handler | Cure::Reserve | Cure::Token => {
            // region: exact
            let mut frame = [0; FRAME];
            loop {
                tokio::select! {
                    biased;
                    () = ticks.next() => {}
                    done = stream.read_exact(&mut frame).marked("read") => match done {
                        Ok(_) => frames.take(&frame),
                        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(frames),
                        Err(error) => return Err(error),
                    },
                }
            }
            // endregion: exact
        }
        Cure::Framed => {
            // region: framed
            // What it has read of a frame lies in `framed`. Its `next` holds nothing.
            let mut framed = FramedRead::new(stream, WholeFrames);
            loop {
                tokio::select! {
                    biased;
                    () = ticks.next() => {}
                    frame = framed.next().marked("read") => match frame {
                        Some(frame) => frames.take(&frame?),
                        None => return Ok(frames),
                    },
                }
            }
            // endregion: framed
        }
        Cure::Held => {
            let mut work = pin!(read_frame(stream).marked("read"));
            loop {
                tokio::select! {
                    biased;
                    () = ticks.next() => {}
                    done = &mut work => match done? {
                        Some((frame, stream)) => {
                            frames.take(&frame);
                            work.set(read_frame(stream).marked("read"));
                        }
                        None => return Ok(frames),
                    },
                }
            }
        }
        Cure::Task => {
            let (queue, mut queued) = mpsc::channel(1);
            let mut work = tokio::spawn(queue_frames(stream, queue).marked("read"));
            loop {
                tokio::select! {
                    biased;
                    () = ticks.next() => {}
                    Some(frame) = queued.recv() => frames.take(&frame),
                    done = &mut work => return done?.map(|()| frames),
                }
            }
        }
    }
}

/// A connection that is read.
trait Stream: AsyncRead + Unpin + Send + 'static {}
impl<T: AsyncRead + Unpin + Send + 'static> Stream for T {}

/// Reads one frame, `None` at the end; gives the connection back.
async fn read_frame<S: Stream>(mut stream: S) -> io::Result<Option<([u8; FRAME], S)>> {
    let mut frame = [0; FRAME];
    match stream.read_exact(&mut frame).await {
        Ok(_) => Ok(Some((frame, stream))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads frames to the end, and puts them into a channel.
async fn queue_frames(mut stream: impl Stream, queue: mpsc::Sender<[u8; FRAME]>) -> io::Result<()> {
    while let Some((frame, back)) = read_frame(stream).await? {
        stream = back;
        queue.send(frame).await.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Bytes to frames.
struct WholeFrames;

impl Decoder for WholeFrames {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, read: &mut BytesMut) -> io::Result<Option<Bytes>> {
        Ok((read.len() >= FRAME).then(|| read.split_to(FRAME).freeze()))
    }
}

/// The client. It ticks when the server has read the first bytes of a frame, and not the rest.
async fn frames(cure: Cure, flags: &Flags) -> io::Result<Outcome> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut client = net::TcpStream::connect(listener.local_addr()?)?;
    client.set_nodelay(true)?;
    let (stream, _) = listener.accept().await?;
    let read = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&read);
    let stream = InspectReader::new(stream, move |bytes| _ = count.fetch_add(bytes.len(), Relaxed));
    let (tick, ticks) = mpsc::unbounded_channel();
    let heard = Arc::new(AtomicUsize::new(0));
    let serving = tokio::spawn(read_frames(cure, stream, Ticks { ticks, heard: Arc::clone(&heard) }));
    let mut outcome = Outcome::default();
    let mut written = 0;
    mark("ready");
    for number in 1..=flags.count {
        let frame = frame(number);
        let (begin, rest) = frame.split_at(TEAR);
        if number.is_multiple_of(flags.every) {
            client.write_all(begin.as_bytes())?;
            until("the first bytes are read", || read.load(Relaxed) == written + begin.len()).await?;
            turns().await;
            mark("tick");
            let before = heard.load(Relaxed);
            tick.send(()).map_err(io::Error::other)?;
            outcome.ticks += 1;
            turns().await;
            outcome.heard_at_once += heard.load(Relaxed) - before;
            client.write_all(rest.as_bytes())?;
        } else {
            client.write_all(frame.as_bytes())?;
        }
        written += FRAME;
        until("the frame is read", || read.load(Relaxed) == written).await?;
    }
    client.shutdown(Shutdown::Write)?;
    let Frames { read, whole, first_torn } = serving.await.map_err(io::Error::other)??;
    Ok(Outcome { received: read, good: whole, first_torn, ..outcome })
}
