//! jokes-2-blocking-pool: a jokes server that reads its file on threads that may sleep.
//!
//! New here: the runtime's pool of threads for blocking calls. `spawn_blocking` sends the read there and
//!           awaits its result; with --in-place, `block_in_place` keeps the read here and sends everything
//!           else away.
//! Run:      cargo run --bin jokes-2-blocking-pool
//! Poke:     nc 127.0.0.1 12345
//! Watch:    cargo ladder acts --trace jokes-2-blocking-pool
//! Expect:   pread64 on another thread. With --threads 1 --slow-disk 1000, two nc at once need one second, not
//!           two
//! Still wrong: the chunk and the reader go to the pool and back by hand, and what is a chunk of lines?
//!           (next: jokes-3-stream).

use std::io::{self, Lines};
use std::process::ExitCode;

use clap::Args;
use jokes_acts::{Connection, Flags, Joke, Listener, Reader, Server, catch_refused_thread};
use tokio::io::AsyncWriteExt;
use tokio::task::{block_in_place, spawn_blocking};

/// How many bytes of lines are read before they are sent: what a slow client makes the server hold.
const CHUNK: usize = 4096;

#[derive(Args, Clone, Copy)]
struct More {
    /// Read on the worker thread after all, with `block_in_place`, which gives its tasks to another thread
    #[arg(long)]
    in_place: bool,
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
            let result = if more.in_place {
                catch_refused_thread(tell_in_place(&mut connection, joke)).await
            } else {
                catch_refused_thread(tell(&mut connection, joke)).await
            };
            connection.close(result).await;
        });
    }
}

// region: tell
/// Joke into socket, chunk by chunk: read on a thread of the pool, sent from here.
async fn tell(connection: &mut Connection, joke: Joke) -> io::Result<()> {
    let mut lines = joke.lines();
    loop {
        // The closure may outlive this task, so it cannot borrow the lines: they travel there and back.
        let (back, chunk) = spawn_blocking(move || {
            let chunk = read_chunk(&mut lines);
            (lines, chunk)
        })
        .await?;
        lines = back;
        match chunk? {
            chunk if chunk.is_empty() => return Ok(()),
            chunk => connection.write_all(chunk.as_bytes()).await?,
        }
    }
}

/// The same with `block_in_place`: the closure runs here and may borrow, but nothing else of this task
/// runs meanwhile, and a single-threaded runtime cannot do it at all.
async fn tell_in_place(connection: &mut Connection, joke: Joke) -> io::Result<()> {
    let mut lines = joke.lines();
    loop {
        match block_in_place(|| read_chunk(&mut lines))? {
            chunk if chunk.is_empty() => return Ok(()),
            chunk => connection.write_all(chunk.as_bytes()).await?,
        }
    }
}
// endregion: tell

/// The next lines, up to the one that makes the chunk full; nothing at the end. Blocks.
fn read_chunk(lines: &mut Lines<Reader>) -> io::Result<String> {
    let mut chunk = String::new();
    for line in lines {
        chunk.push_str(&line?);
        chunk.push('\n');
        if chunk.len() >= CHUNK {
            break;
        }
    }
    Ok(chunk)
}
