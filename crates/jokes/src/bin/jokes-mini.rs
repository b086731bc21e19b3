//! jokes-mini: the cached jokes on the runtime of this project.
//!
//! New here: the same server on mini-runtime: one thread, no pool, and sockets that any descriptor becomes by
//!           a `Registration`. (--threads, --blocking-threads and --keep-alive have nothing to set here.)
//! Run:      cargo run --bin jokes-mini
//! Poke:     nc 127.0.0.1 12345
//! Watch:    cargo ladder acts --trace jokes-mini
//! Expect:   as jokes-cached, and two threads in all: this one, and the one that waits for the signal
//! Still wrong: one thread is one core; and whoever blocks it blocks everybody, as in jokes-1-head-first.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::rc::Rc;

use jokes_acts::{Acceptor, Flags, Record, Server};
use mini_runtime::reactor::{Interest, Registration};
use mini_runtime::{Runtime, sleep, spawn, timeout};

fn main() -> ExitCode {
    let flags = Flags::parse(env!("CARGO_BIN_NAME"));
    let server = Server::open(&flags);
    let cache = match server.jokes().texts::<Vec<_>>() {
        Ok(texts) => texts,
        Err(error) => return server.fail(format_args!("cannot read {}: {error}", flags.file.display())),
    };
    server.run_with(|socket, acceptor| Runtime::new()?.block_on(run(socket, acceptor, cache.into()))?)
}

/// Accepts connections; each has a task of its own.
async fn run(socket: TcpListener, mut acceptor: Acceptor, cache: Rc<[String]>) -> io::Result<()> {
    let listener = Registration::new(socket)?;
    acceptor.greet();
    loop {
        match poll_fn(|context| listener.poll_io(context, Interest::READ, |socket| socket.accept())).await {
            Ok((socket, peer)) => {
                let (record, joke) = acceptor.admit(peer);
                let cache = Rc::clone(&cache);
                spawn(async move { serve(socket, record, &cache[joke.number()]).await });
            }
            Err(error) => sleep(acceptor.back_off(&error)).await,
        }
    }
}

/// One connection, from its joke to its end.
async fn serve(socket: TcpStream, mut record: Record, joke: &str) {
    let connection = match socket.set_nonblocking(true).and_then(|()| Registration::new(&socket)) {
        Ok(connection) => connection,
        Err(error) => {
            record.finish(&socket, Err(error));
            return;
        }
    };
    let result = tell(&connection, &record, joke).await;
    close(&connection, record, result).await;
}

// region: tell
/// Joke into socket, at once.
async fn tell(connection: &Registration<&TcpStream>, record: &Record, joke: &str) -> io::Result<()> {
    let mut rest = joke.as_bytes();
    while !rest.is_empty() {
        let write = poll_fn(|context| {
            connection.poll_io(context, Interest::WRITE, |&(mut socket)| socket.write(rest))
        });
        // A write that takes something starts the idle limit again.
        let written =
            timeout(record.idle_limit(), write).await.unwrap_or_else(|_| Err(record.idle_error()))?;
        record.count_bytes(written);
        rest = &rest[written..];
    }
    Ok(())
}
// endregion: tell

/// Ends the sending, then reads what the client sends, and ignores it, until it closes.
async fn close(connection: &Registration<&TcpStream>, mut record: Record, result: io::Result<()>) {
    let sent = result.and_then(|()| connection.get().shutdown(Shutdown::Write));
    if !record.finish(connection.get(), sent) {
        return;
    }
    let mut ignored = [0; 512];
    let until_closed = async {
        while let Ok(1..) = poll_fn(|context| {
            connection.poll_io(context, Interest::READ, |&(mut socket)| socket.read(&mut ignored))
        })
        .await
        {}
    };
    if timeout(record.idle_limit(), until_closed).await.is_err() {
        record.log_idle_close();
    }
}
