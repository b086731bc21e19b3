//! tokio-multisocket-spawn: many sockets, a task for each.
//!
//! New here: a task has a waker of its own, so the runtime knows whom to poll.
//! Run:      cargo run --bin tokio-multisocket-spawn
//! Poke:     nc -u 127.0.0.1 2003          (or let it poke itself: tokio-multisocket-spawn --poke 100)
//! Watch:    strace -f -e trace=epoll_wait,recvfrom,sendto,write target/debug/tokio-multisocket-spawn --marks
//! Expect:   1 poll for one datagram to 10 sockets, 1 to 30, 1 to 31
//! Still wrong: a task each: an allocation, a place in a queue, and 'static (next: tokio-multisocket-futuresunordered).

use std::io;
use std::process::ExitCode;

use tokio_rungs::multisocket::ManySockets;

fn main() -> ExitCode {
    let many = ManySockets::open(env!("CARGO_BIN_NAME"), "UDP echo on many sockets, a task for each");
    let outcome = many.runtime().block_on(run(&many));
    many.finish(outcome)
}

// region: combine
/// A task for each socket, beside the one that `block_on` polls.
async fn run(many: &ManySockets) -> io::Result<()> {
    for echo in many.futures()? {
        // The handle is dropped: the task goes on all the same, until the runtime ends.
        drop(tokio::spawn(echo));
    }
    many.ended().await
}
// endregion: combine
