//! jokes-1-head-first: a jokes server that reads its file wherever it stands, blocking.
//!
//! New here: asynchronous sockets, and an ordinary blocking file read between two of their awaits. Wrong,
//!           and kept as such.
//! Run:      cargo run --bin jokes-1-head-first
//! Poke:     nc 127.0.0.1 12345
//! Watch:    cargo ladder acts --trace jokes-1-head-first
//! Expect:   pread64 on the thread that accepts. With --threads 1 --slow-disk 1000, a second nc waits for the
//!           first one's disk
//! Still wrong: while the disk takes its time, the thread serves nobody (next: jokes-2-blocking-pool).

use std::io;
use std::process::ExitCode;

use jokes_acts::{Connection, Flags, Joke, Listener, Server};
use tokio::io::AsyncWriteExt;

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
            let result = tell(&mut connection, joke).await;
            connection.close(result).await;
        });
    }
}

// region: tell
/// Joke into socket, line by line.
async fn tell(connection: &mut Connection, joke: Joke) -> io::Result<()> {
    // Each step of this loop may read from the disk. Nothing marks the place: no await, no warning. The
    // thread sleeps in the kernel, and with it every task that it would have run meanwhile.
    for line in joke.lines() {
        let mut line = line?;
        line.push('\n');
        connection.write_all(line.as_bytes()).await?;
    }
    Ok(())
}
// endregion: tell
