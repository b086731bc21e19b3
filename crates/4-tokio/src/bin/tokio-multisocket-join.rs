//! tokio-multisocket-join: many sockets in one task, by join_all.
//!
//! New here: one future of many: whoever is woken, join_all polls them all, up to 30 of them.
//! Run:      cargo run --bin tokio-multisocket-join
//! Poke:     nc -u 127.0.0.1 2003          (or let it poke itself: tokio-multisocket-join --poke 100)
//! Watch:    strace -f -e trace=epoll_wait,recvfrom,sendto,write target/debug/tokio-multisocket-join --marks
//! Expect:   10 polls for one datagram to 10 sockets, 30 to 30, 1 to 31
//! Still wrong: nine polls of ten find nothing (next: tokio-multisocket-spawn).

use std::io;
use std::process::ExitCode;

use futures::future::join_all;
use tokio_rungs::multisocket::ManySockets;

fn main() -> ExitCode {
    let many = ManySockets::open(env!("CARGO_BIN_NAME"), "UDP echo on many sockets, in one task by join_all");
    let outcome = many.runtime().block_on(run(&many));
    many.finish(outcome)
}

// region: combine
/// All sockets in the one task that `block_on` polls.
async fn run(many: &ManySockets) -> io::Result<()> {
    let all = join_all(many.futures()?);
    tokio::select! {
        // First the end, then the sockets: so the end costs no further poll of them.
        biased;
        outcome = many.ended() => outcome,
        _ = all => Ok(()),
    }
}
// endregion: combine
