//! tokio-runtime-spawn: two listeners, a task for each.
//!
//! New here: parallel: two tasks may run on two threads at the same instant.
//! Run:      cargo run --bin tokio-runtime-spawn
//! Poke:     nc 127.0.0.1 8080 & nc 127.0.0.1 8081     (or let it poke itself: tokio-runtime-spawn --poke 1)
//! Watch:    strace -f -e trace=accept4,write target/debug/tokio-runtime-spawn --marks
//! Expect:   the marks of listener-0 and listener-1 on two threads, one inside the other
//! Still wrong: who runs the tasks, and how many? (next: tokio-runtime-desugared); --blocking takes a worker.

use std::io;
use std::process::ExitCode;

use tokio_rungs::listeners::Listeners;

fn main() -> ExitCode {
    let about = "Two TCP listeners, a task for each: parallel";
    let listeners = Listeners::open(env!("CARGO_BIN_NAME"), about);
    let runtime = listeners.runtime();
    runtime.block_on(run(&listeners));
    listeners.finish();
    ExitCode::SUCCESS
}

// region: run
/// A task for each listener, on the workers.
async fn run(listeners: &Listeners) {
    // What a task shares must be its own or counted ('static): hence the `Arc` around the ledger.
    let [first, second] = listeners.futures().map(|listener| tokio::spawn(listener));
    // Each result through its handle, as it comes; a handle also tells of a panic.
    tokio::join!(
        async { listeners.returned(0, first.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))) },
        async { listeners.returned(1, second.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))) },
    );
}
// endregion: run
