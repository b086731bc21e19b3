//! jokes-3-stream: a jokes server that sees the lines of its file as a stream.
//!
//! New here: `Stream`, the asynchronous iterator: the trip to the pool and back is inside it, and who uses
//!           it sees lines.
//! Run:      cargo run --bin jokes-3-stream
//! Poke:     nc 127.0.0.1 12345
//! Watch:    cargo ladder acts --trace jokes-3-stream
//! Expect:   one send for each line
//! Still wrong: a trip to the pool for each line, and the combinators hide what is kept between two lines
//!           (next: jokes-4-own-future).

use std::io;
use std::process::ExitCode;

use futures::stream::{self, Stream, TryStreamExt};
use jokes_acts::{Connection, Flags, Joke, Listener, Server, catch_refused_thread};
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_blocking;

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    let server = Server::open(&flags);
    server.run(run)
}

/// Accepts connections; each has a task of its own.
async fn run(mut listener: Listener) {
    loop {
        let (mut connection, joke) = listener.accept().await;
        tokio::spawn(async move {
            let result = catch_refused_thread(tell(&mut connection, joke)).await;
            connection.close(result).await;
        });
    }
}

// region: tell
/// Joke into socket, line by line.
async fn tell(connection: &mut Connection, joke: Joke) -> io::Result<()> {
    let mut lines = Box::pin(stream_of_lines(joke));
    while let Some(mut line) = lines.try_next().await? {
        line.push('\n');
        connection.write_all(line.as_bytes()).await?;
    }
    Ok(())
}

/// The joke's lines, each read on a thread of the pool.
fn stream_of_lines(joke: Joke) -> impl Stream<Item = io::Result<String>> {
    // The state between two lines is the iterator itself. The closure owns it while it reads, and gives
    // it back with the line: so nothing is borrowed by a thread that nobody waits for.
    stream::try_unfold(joke.lines(), async |mut lines| {
        let read = spawn_blocking(move || match lines.next() {
            Some(line) => Ok(Some((line?, lines))),
            None => Ok(None),
        });
        read.await?
    })
}
// endregion: tell
