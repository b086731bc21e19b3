//! tokio-cancel-calls: calls of tokio, each cancelled while it waits, and what that costs.
//!
//! Symptom:  which calls of tokio are cancel safe in `select!`?
//! New here: tokio's documentation says of each call whether it is cancel safe; here each is tried
//! Run:      cargo run --bin tokio-cancel-calls
//! Expect:   nothing lost by recv_from, accept, recv, reserve, read, next_line, read_until; a message by each send, bytes
//!           by read_exact and read_line; bytes twice by write_all; a place in the queue by lock, acquire, notified
//! Still wrong: your own futures are on no list: look at what they hold at each of their awaits (see tokio-cancel).

#![forbid(unsafe_code)]

use std::fmt;
use std::future::ready;
use std::io::{self, ErrorKind};
use std::net::{self, Ipv4Addr};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use echo_service::demo::Demo;
use echo_service::parse_count;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, duplex};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Builder;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};
use tokio::task::yield_now;
use tokio::time::timeout;
use trace_marks::mark;

#[derive(clap::Args)]
struct Flags {
    /// How often each call is cancelled, 1 to 1000
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_count::<1_000>)]
    cancels: usize,
}

/// What one call cost.
#[derive(Serialize)]
struct Cost {
    call: &'static str,
    cancelled: usize,
    /// How many of `what` were lost, or came twice.
    cost: usize,
    what: &'static str,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, cancelled, cost, what } = self;
        write!(f, "{call:<28} cancelled {cancelled} times: ")?;
        if *cost == 0 { write!(f, "nothing lost") } else { write!(f, "{cost} {what}") }
    }
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    calls: Vec<Cost>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let safe = self.calls.iter().filter(|call| call.cost == 0).count();
        write!(f, "{}: {safe} of {} calls lose nothing", self.program, self.calls.len())
    }
}

fn main() -> ExitCode {
    let about = "Calls of tokio, each dropped while it waits, and what is lost with it";
    let (demo, Flags { cancels }) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    let runtime = demo.start_runtime(|| Builder::new_current_thread().enable_all().build());
    mark("ready");
    match runtime.block_on(try_all(&demo, cancels)) {
        Ok(calls) => demo.finish(&Summary { program: demo.program(), calls }),
        Err(error) => demo.fail_of("a call does not return", &error),
    }
    ExitCode::SUCCESS
}

async fn try_all(demo: &Demo, cancels: usize) -> io::Result<Vec<Cost>> {
    let mut calls = Vec::new();
    macro_rules! try_call {
        ($call:literal, $once:ident, $what:literal) => {
            let mut cost = 0;
            for _ in 0..cancels {
                cost += $once().await?;
            }
            let cost = Cost { call: $call, cancelled: cancels, cost, what: $what };
            demo.say(&cost);
            calls.push(cost);
        };
    }
    try_call!("UdpSocket::recv_from", recv_from, "datagrams lost");
    try_call!("TcpListener::accept", accept, "connections lost");
    try_call!("mpsc::Receiver::recv", recv, "messages lost");
    try_call!("mpsc::Sender::send", send, "messages lost");
    try_call!("mpsc::Sender::reserve", reserve, "messages lost");
    try_call!("AsyncReadExt::read", read, "bytes lost");
    try_call!("AsyncReadExt::read_exact", read_exact, "bytes lost");
    try_call!("AsyncBufReadExt::read_line", read_line, "bytes lost");
    try_call!("AsyncBufReadExt::read_until", read_until, "bytes lost");
    try_call!("Lines::next_line", next_line, "bytes lost");
    try_call!("AsyncWriteExt::write_all", write_all, "bytes written twice");
    try_call!("Mutex::lock", lock, "places in the queue lost");
    try_call!("Semaphore::acquire", acquire, "places in the queue lost");
    try_call!("Notify::notified", notified, "places in the queue lost");
    Ok(calls)
}

// region: cancel
/// Drops a call while it waits, as `select!` does when another branch is ready. `meanwhile` gives it what it waits for:
/// it is woken, and not polled any more.
async fn cancel<F: Future>(call: F, meanwhile: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let mut call = pin!(call);
    if has_ended(call.as_mut()).await {
        return Err(io::Error::other("a call did not wait, so it was not cancelled"));
    }
    meanwhile.await?;
    // Events reach the wakers when the runtime waits.
    yield_now().await;
    Ok(())
}

/// Polls a future once.
async fn has_ended(future: impl Future) -> bool {
    tokio::select! {
        biased;
        _ = future => true,
        () = ready(()) => false,
    }
}
// endregion: cancel

/// Whether what was given is still there for the next call.
async fn is_lost(call: impl Future) -> bool {
    timeout(PATIENCE, call).await.is_err()
}

/// How long a call waits for what it will not get.
const PATIENCE: Duration = Duration::from_secs(1);

async fn recv_from() -> io::Result<usize> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let own = socket.local_addr()?;
    cancel(socket.recv_from(&mut [0; 8]), async { socket.send_to(b"data", own).await.map(drop) }).await?;
    Ok(usize::from(is_lost(socket.recv_from(&mut [0; 8])).await))
}

async fn accept() -> io::Result<usize> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (address, mut client) = (listener.local_addr()?, None);
    cancel(listener.accept(), async {
        client = Some(net::TcpStream::connect(address)?);
        Ok(())
    })
    .await?;
    Ok(usize::from(is_lost(listener.accept()).await))
}

async fn recv() -> io::Result<usize> {
    let (sender, mut receiver) = mpsc::channel(1);
    cancel(receiver.recv(), async { sender.send("data").await.map_err(io::Error::other) }).await?;
    Ok(usize::from(is_lost(receiver.recv()).await))
}

// region: send
async fn send() -> io::Result<usize> {
    let (sender, mut receiver) = mpsc::channel(1);
    sender.send("first").await.map_err(io::Error::other)?;
    cancel(sender.send("second"), async {
        receiver.recv().await.map(drop).ok_or(ErrorKind::BrokenPipe.into())
    })
    .await?;
    Ok(usize::from(receiver.try_recv().is_err()))
}

async fn reserve() -> io::Result<usize> {
    let (sender, mut receiver) = mpsc::channel(1);
    sender.send("first").await.map_err(io::Error::other)?;
    cancel(sender.reserve(), async { receiver.recv().await.map(drop).ok_or(ErrorKind::BrokenPipe.into()) })
        .await?;
    // Whoever has no place yet still has the message.
    sender.reserve().await.map_err(io::Error::other)?.send("second");
    Ok(usize::from(receiver.try_recv().is_err()))
}
// endregion: send

async fn read() -> io::Result<usize> {
    let (mut writer, mut reader) = duplex(64);
    let mut buffer = [0; 8];
    cancel(reader.read(&mut buffer), writer.write_all(b"data")).await?;
    Ok(4 - reader.read(&mut buffer).await?)
}

// region: read
async fn read_exact() -> io::Result<usize> {
    let (mut writer, mut reader) = duplex(64);
    let mut buffer = [0; 4];
    writer.write_all(b"da").await?;
    cancel(reader.read_exact(&mut buffer), writer.write_all(b"ta")).await?;
    Ok(4 - reader.read(&mut buffer).await?)
}
// endregion: read

async fn read_line() -> io::Result<usize> {
    let (mut writer, reader) = duplex(64);
    let (mut reader, mut line) = (BufReader::new(reader), String::new());
    writer.write_all(b"da").await?;
    cancel(reader.read_line(&mut line), writer.write_all(b"ta\n")).await?;
    reader.read_line(&mut line).await?;
    Ok("data\n".len() - line.len())
}

async fn read_until() -> io::Result<usize> {
    let (mut writer, reader) = duplex(64);
    let (mut reader, mut line) = (BufReader::new(reader), Vec::new());
    writer.write_all(b"da").await?;
    cancel(reader.read_until(b'\n', &mut line), writer.write_all(b"ta\n")).await?;
    reader.read_until(b'\n', &mut line).await?;
    Ok("data\n".len() - line.len())
}

async fn next_line() -> io::Result<usize> {
    let (mut writer, reader) = duplex(64);
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"da").await?;
    cancel(lines.next_line(), writer.write_all(b"ta\n")).await?;
    Ok("data".len() - lines.next_line().await?.unwrap_or_default().len())
}

async fn write_all() -> io::Result<usize> {
    let (mut writer, mut reader) = duplex(2);
    let mut buffer = [0; 4];
    cancel(writer.write_all(b"data"), async { reader.read_exact(&mut buffer[..2]).await.map(drop) }).await?;
    let written_before = 2;
    // It begins anew, and the reader gets `dadata`.
    let (written, read) = tokio::join!(writer.write_all(b"data"), reader.read_exact(&mut buffer));
    written?;
    Ok(written_before + read? - 4)
}

// region: place
/// Two calls wait for what there is one of. The first is cancelled, and asks again. Returns whether the second is served
/// first.
async fn is_overtaken<F: Future>(ask: impl Fn() -> F, give: impl FnOnce()) -> io::Result<usize> {
    let mut second = pin!(ask());
    let second_waits = async {
        _ = has_ended(second.as_mut()).await;
        Ok(())
    };
    cancel(ask(), second_waits).await?;
    let mut again = pin!(ask());
    _ = has_ended(again.as_mut()).await;
    give();
    Ok(usize::from(has_ended(second).await))
}
// endregion: place

async fn lock() -> io::Result<usize> {
    let mutex = Mutex::new(());
    let guard = mutex.lock().await;
    is_overtaken(|| mutex.lock(), || drop(guard)).await
}

async fn acquire() -> io::Result<usize> {
    let semaphore = Semaphore::new(0);
    is_overtaken(|| semaphore.acquire(), || semaphore.add_permits(1)).await
}

async fn notified() -> io::Result<usize> {
    let notify = Notify::new();
    is_overtaken(|| notify.notified(), || notify.notify_one()).await
}
