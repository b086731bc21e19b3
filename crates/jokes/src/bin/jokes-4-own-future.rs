//! jokes-4-own-future: a jokes server whose telling is a future written by hand.
//!
//! New here: `Future::poll`, and the states that `async` would have kept for us: reading, or writing with
//!           so many bytes gone.
//! Run:      cargo run --bin jokes-4-own-future
//! Poke:     nc 127.0.0.1 12345
//! Watch:    cargo ladder acts --trace jokes-4-own-future
//! Expect:   one send; for a joke that the socket has no room for, several, each from where the last one ended
//! Still wrong: it reads or it writes, never both: the disk rests while the client reads (next:
//!           jokes-5-channel).

use std::future::Future;
use std::io::{self, Lines};
use std::mem;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll, ready};

use jokes_acts::{Connection, Flags, Joke, Listener, Reader, Server, catch_refused_thread};
use tokio::io::AsyncWrite;
use tokio::task::{JoinHandle, spawn_blocking};

/// How many bytes of lines are read before they are sent: what a slow client makes the server hold.
const CHUNK: usize = 4096;

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
/// Joke into socket; done when the last byte is there.
async fn tell(connection: &mut Connection, joke: Joke) -> io::Result<()> {
    Pump { connection, state: State::Reading(read_chunk(joke.lines())) }.await
}

/// Pumps lines from the pool into the socket.
struct Pump<'a> {
    connection: &'a mut Connection,
    state: State,
}

/// | state | waits for | then |
/// |---|---|---|
/// | `Reading` | the thread of the pool | `Writing`, or the end |
/// | `Writing` | the socket, until `at` is the chunk's end | `Reading` |
enum State {
    Reading(JoinHandle<io::Result<(Lines<Reader>, String)>>),
    Writing { lines: Lines<Reader>, chunk: String, at: usize },
    Done,
}

impl Future for Pump<'_> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let pump = self.get_mut();
        loop {
            // Each `ready!` returns Pending only after something below has taken our waker: the task that
            // reads, or the socket. Nothing else would wake us.
            match &mut pump.state {
                State::Reading(read) => {
                    let (lines, chunk) = ready!(Pin::new(read).poll(context))??;
                    pump.state = match chunk.len() {
                        0 => State::Done,
                        _ => State::Writing { lines, chunk, at: 0 },
                    };
                }
                State::Writing { chunk, at, .. } if *at < chunk.len() => {
                    // The socket takes what it has room for, which may be less than all of it.
                    match ready!(
                        Pin::new(&mut *pump.connection).poll_write(context, &chunk.as_bytes()[*at..])
                    )? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        written => *at += written,
                    }
                }
                State::Writing { .. } => {
                    if let State::Writing { lines, .. } = mem::replace(&mut pump.state, State::Done) {
                        pump.state = State::Reading(read_chunk(lines));
                    }
                }
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}
// endregion: tell

/// Begins to read, on a thread of the pool, the next lines, up to the one that makes the chunk full;
/// nothing at the end.
fn read_chunk(mut lines: Lines<Reader>) -> JoinHandle<io::Result<(Lines<Reader>, String)>> {
    spawn_blocking(move || {
        let mut chunk = String::new();
        while chunk.len() < CHUNK
            && let Some(line) = lines.next()
        {
            chunk.push_str(&line?);
            chunk.push('\n');
        }
        Ok((lines, chunk))
    })
}
