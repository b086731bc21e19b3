//! jokes-7-async-fs: a jokes server that opens, seeks and reads its file with `tokio::fs`.
//!
//! New here: files with the interface of sockets. No call of ours blocks, and no closure goes anywhere.
//! Run:      cargo run --bin jokes-7-async-fs
//! Poke:     nc 127.0.0.1 12345
//! Watch:    cargo ladder acts --trace jokes-7-async-fs
//! Expect:   open, seek and read on another thread: three trips instead of one
//! Still wrong: nothing became asynchronous. `tokio::fs` is act 2 for each call, and its files cannot be
//!           shared: each connection takes two descriptors (next: jokes-cached).

use std::io::{self, SeekFrom};
use std::process::ExitCode;

use jokes_acts::{Connection, Flags, Joke, Listener, Server, catch_refused_thread, file_shrank};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader};
use tokio::task::spawn_blocking;

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    // A socket and a file for each connection, so that none is accepted that cannot be sent a joke.
    let server = Server::open(&flags).descriptors_per_connection(2);
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
    let (start, length) = joke.bytes();
    let mut file = File::open(joke.path()).await?;
    file.seek(SeekFrom::Start(start)).await?;
    let mut lines = BufReader::new(file.take(length)).lines();
    loop {
        if lines.get_ref().buffer().is_empty() && joke.disk_is_slow() {
            // The next line takes a read, and here is what makes it slow: on a thread, as the disk would.
            let joke = joke.clone();
            spawn_blocking(move || joke.wait_for_disk()).await?;
        }
        let Some(mut line) = lines.next_line().await? else { break };
        line.push('\n');
        connection.write_all(line.as_bytes()).await?;
    }
    let missing = lines.into_inner().into_inner().limit();
    if missing == 0 { Ok(()) } else { Err(file_shrank()) }
}
// endregion: tell
