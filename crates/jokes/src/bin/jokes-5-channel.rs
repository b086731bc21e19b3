//! jokes-5-channel: a jokes server that reads and sends at the same time, with a channel in between.
//!
//! New here: a blocking reader and an asynchronous writer, each with a loop of its own, and a bounded
//!           channel of lines. With --unbounded the bound is gone, and a slow client fills the memory.
//! Run:      cargo run --bin jokes-5-channel
//! Poke:     nc 127.0.0.1 12345
//! Watch:    cargo ladder acts --trace jokes-5-channel
//! Expect:   one send for each line. With --unbounded, a client that does not read costs the whole joke in memory
//! Still wrong: everybody writes this loop of lines into a socket, with its own end of line (next:
//!           jokes-6-framed).

use std::io::{self, Lines};
use std::process::ExitCode;

use clap::Args;
use jokes_acts::{Connection, Flags, Joke, Listener, Reader, Server, catch_refused_thread};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, OwnedPermit, Sender};
use tokio::task::spawn_blocking;

/// How many lines wait for the client at most.
const LINES: usize = 8;

#[derive(Args, Clone, Copy)]
struct More {
    /// Let any number of lines wait for a slow client
    #[arg(long)]
    unbounded: bool,
}

fn main() -> ExitCode {
    let (flags, more) = Flags::parse_with::<More>(env!("CARGO_BIN_NAME"));
    let server = Server::open(&flags);
    server.run(move |listener| run(listener, more))
}

/// Accepts connections; each has a task of its own.
async fn run(mut listener: Listener, more: More) {
    loop {
        let (mut connection, joke) = listener.accept().await;
        tokio::spawn(async move {
            let result = if more.unbounded {
                catch_refused_thread(tell_unbounded(&mut connection, joke)).await
            } else {
                catch_refused_thread(tell(&mut connection, joke)).await
            };
            connection.close(result).await;
        });
    }
}

/// What is left to be read, and where it goes.
type Rest = (Lines<Reader>, Sender<String>);

// region: tell
/// Joke into socket: one side reads into the channel, the other writes out of it.
async fn tell(connection: &mut Connection, joke: Joke) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<String>(LINES);
    let write = async {
        while let Some(mut line) = receiver.recv().await {
            line.push('\n');
            connection.write_all(line.as_bytes()).await?;
        }
        Ok(())
    };
    tokio::try_join!(read(joke, sender), write)?;
    Ok(())
}

/// File into channel. It waits for room here, as a task; only while there is room does it read, on a
/// thread of the pool. With `blocking_send` it would wait on that thread: some hundred clients that do not
/// read would hold all threads of the pool, and nobody else would hear a joke.
async fn read(joke: Joke, mut sender: Sender<String>) -> io::Result<()> {
    let mut lines = joke.lines();
    // There is no room any more once the writer has failed, and it says why.
    while let Ok(room) = sender.reserve_owned().await {
        match spawn_blocking(move || fill(lines, room)).await?? {
            Some(rest) => (lines, sender) = rest,
            None => break,
        }
    }
    Ok(())
}

/// Reads lines as long as there is room for one; None when there is no further line. Blocks on the disk
/// only.
fn fill(mut lines: Lines<Reader>, mut room: OwnedPermit<String>) -> io::Result<Option<Rest>> {
    while let Some(line) = lines.next() {
        match room.send(line?).try_reserve_owned() {
            Ok(more) => room = more,
            Err(TrySendError::Full(sender) | TrySendError::Closed(sender)) => {
                return Ok(Some((lines, sender)));
            }
        }
    }
    Ok(None)
}
// endregion: tell

// region: unbounded
/// The same without a bound: simpler, and the reader is never held up. But a client that does not read
/// does not hold it up either, and the whole joke is in memory, once for each such client.
async fn tell_unbounded(connection: &mut Connection, joke: Joke) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::unbounded_channel::<String>();
    let read = spawn_blocking(move || {
        for line in joke.lines() {
            // It fails if the writer has, which says why.
            if sender.send(line?).is_err() {
                break;
            }
        }
        io::Result::Ok(())
    });
    while let Some(mut line) = receiver.recv().await {
        line.push('\n');
        connection.write_all(line.as_bytes()).await?;
    }
    read.await?
}
// endregion: unbounded
