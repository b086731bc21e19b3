//! jokes-6-framed: a jokes server that forwards a stream of lines into a sink of lines.
//!
//! New here: `Framed` with `LinesCodec` makes the socket a `Sink` that takes lines; `forward` is the loop
//!           between a stream and a sink.
//! Run:      cargo run --bin jokes-6-framed
//! Poke:     nc 127.0.0.1 12345
//! Watch:    cargo ladder acts --trace jokes-6-framed
//! Expect:   one send for each line, or for two: whether `forward` flushes between them is a race
//! Still wrong: the reading is still done by hand, and surely somebody has done it (next: jokes-7-async-fs).

use std::io;
use std::process::ExitCode;

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use jokes_acts::{Connection, Flags, Joke, Listener, Server, catch_refused_thread};
use tokio::task::spawn_blocking;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

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
/// Joke into socket: a stream into a sink. `forward` also closes the sink, which ends the sending.
async fn tell(connection: &mut Connection, joke: Joke) -> io::Result<()> {
    let sink = Framed::new(connection, LinesCodec::new());
    let result = stream_of_lines(joke).err_into().forward(sink).await;
    result.map_err(|error| match error {
        LinesCodecError::Io(error) => error,
        // Of lines that are received; we send.
        LinesCodecError::MaxLineLengthExceeded => io::Error::other(error),
    })
}
// endregion: tell

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
