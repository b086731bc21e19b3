//! tokio-runtime-join: two listeners in one future, by join!.
//!
//! New here: concurrent, but not parallel: both have connections open, only one computes at an instant.
//! Run:      cargo run --bin tokio-runtime-join
//! Poke:     nc 127.0.0.1 8080 & nc 127.0.0.1 8081     (or let it poke itself: tokio-runtime-join --poke 1)
//! Watch:    strace -f -e trace=accept4,write target/debug/tokio-runtime-join --marks
//! Expect:   the marks of listener-0 and listener-1 in turn, never one inside the other
//! Still wrong: two workers look on (next: tokio-runtime-spawn); --blocking stops the neighbour.

use std::process::ExitCode;

use tokio_rungs::listeners::Listeners;

fn main() -> ExitCode {
    let about = "Two TCP listeners in one future, by join!: concurrent, not parallel";
    let listeners = Listeners::open(env!("CARGO_BIN_NAME"), about);
    let runtime = listeners.runtime();
    runtime.block_on(run(&listeners));
    listeners.finish();
    ExitCode::SUCCESS
}

// region: run
/// Both listeners in the future that `block_on` polls, on the main thread.
async fn run(listeners: &Listeners) {
    let [first, second] = listeners.futures();
    // Both results at once, when both are there.
    let (first, second) = tokio::join!(first, second);
    listeners.returned(0, first);
    listeners.returned(1, second);
}
// endregion: run
