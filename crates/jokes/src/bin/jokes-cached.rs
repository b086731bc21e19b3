//! jokes-cached: a jokes server that has read its file before anybody asked.
//!
//! New here: all jokes in memory, read once, before the first await. A task holds no thread, no file and
//!           no copy: only a reference.
//! Run:      cargo run --bin jokes-cached
//! Poke:     nc 127.0.0.1 12345
//! Watch:    cargo ladder acts --trace jokes-cached
//! Expect:   no read at all; the fastest by far, with a disk as slow as you like
//! Still wrong: a file must fit into memory, and is not read again when it changes (next: jokes-mini).

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use jokes_acts::{Connection, Flags, Joke, Listener, Server};
use tokio::io::AsyncWriteExt;

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    let server = Server::open(&flags);
    let cache = match server.jokes().texts::<Vec<_>>() {
        Ok(texts) => Arc::from(texts),
        Err(error) => return server.fail(format_args!("cannot read {}: {error}", flags.file.display())),
    };
    server.run(|listener| run(listener, cache))
}

/// Accepts connections; each has a task of its own.
async fn run(mut listener: Listener, cache: Arc<[String]>) {
    loop {
        let (mut connection, joke) = listener.accept().await;
        let cache = Arc::clone(&cache);
        tokio::spawn(async move {
            let result = tell(&mut connection, joke, &cache).await;
            connection.close(result).await;
        });
    }
}

// region: tell
/// Joke into socket, at once.
async fn tell(connection: &mut Connection, joke: Joke, cache: &[String]) -> io::Result<()> {
    connection.write_all(cache[joke.number()].as_bytes()).await
}
// endregion: tell
