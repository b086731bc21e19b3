//! tokio-multisocket-joinset: many sockets, a task for each, in a JoinSet: the way it is written today.
//!
//! New here: the tasks belong to somebody: dropped with the set, and their ends and panics seen.
//! Run:      cargo run --bin tokio-multisocket-joinset
//! Poke:     nc -u 127.0.0.1 2003          (or let it poke itself: tokio-multisocket-joinset --poke 100)
//! Watch:    strace -f -e trace=epoll_wait,recvfrom,sendto,write target/debug/tokio-multisocket-joinset --marks
//! Expect:   1 poll for one datagram to 10 sockets, 1 to 30, 1 to 31
//! Still wrong: all of it on one thread (next: tokio-runtime-join).

use std::io;
use std::process::ExitCode;

use tokio::task::JoinSet;
use tokio_rungs::multisocket::ManySockets;

fn main() -> ExitCode {
    let many = ManySockets::open(env!("CARGO_BIN_NAME"), "UDP echo on many sockets, tasks in a JoinSet");
    let outcome = many.runtime().block_on(run(&many));
    many.finish(outcome)
}

// region: combine
/// A task for each socket; all of them end with `all`.
async fn run(many: &ManySockets) -> io::Result<()> {
    let mut all: JoinSet<()> = many.futures()?.into_iter().collect();
    tokio::select! {
        biased;
        outcome = many.ended() => outcome,
        // No echo ends by itself: what comes here has panicked.
        Some(Err(panic)) = all.join_next() => Err(io::Error::other(panic)),
    }
}
// endregion: combine
