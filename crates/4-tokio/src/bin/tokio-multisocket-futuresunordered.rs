//! tokio-multisocket-futuresunordered: many sockets in one task, by FuturesUnordered.
//!
//! Symptom:  FuturesUnordered starves some of its futures, or is starved by tokio's budget (`--hot 10000 --budget task`)
//! New here: a small scheduler inside the task: a waker for each future, and a list of those that are ready.
//! Run:      cargo run --bin tokio-multisocket-futuresunordered
//! Poke:     nc -u 127.0.0.1 2003          (or let it poke itself: tokio-multisocket-futuresunordered --poke 100)
//! Watch:    strace -f -e trace=epoll_wait,recvfrom,sendto,write target/debug/tokio-multisocket-futuresunordered --marks
//! Expect:   1 poll for one datagram to 10 sockets, 1 to 30, 1 to 31
//! Still wrong: a second scheduler below the first (next: tokio-multisocket-joinset).

use std::io;
use std::process::ExitCode;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio_rungs::multisocket::ManySockets;

fn main() -> ExitCode {
    let about = "UDP echo on many sockets, in one task by FuturesUnordered";
    let many = ManySockets::open(env!("CARGO_BIN_NAME"), about);
    let outcome = many.runtime().block_on(run(&many));
    many.finish(outcome)
}

// region: combine
/// All sockets in the one task that `block_on` polls, each with a waker of its own.
async fn run(many: &ManySockets) -> io::Result<()> {
    let mut all: FuturesUnordered<_> = many.futures()?.into_iter().collect();
    tokio::select! {
        // First the end, then the sockets: so the end costs no further poll of them.
        biased;
        outcome = many.ended() => outcome,
        _ = async { while all.next().await.is_some() {} } => Ok(()),
    }
}
// endregion: combine
