//! Every echo server of this layer against the whole contract: `cargo test -p tokio-rungs --test contract`.

use std::process::ExitCode;

fn main() -> ExitCode {
    echo_contract::test_main_with_flags(
        env!("CARGO_MANIFEST_DIR"),
        &[
            (env!("CARGO_BIN_EXE_echo-tokio-await"), &[]),
            (env!("CARGO_BIN_EXE_echo-tokio-await"), &["--multi-thread"]),
            (env!("CARGO_BIN_EXE_echo-tokio-ready"), &[]),
            (env!("CARGO_BIN_EXE_echo-tokio"), &[]),
            (env!("CARGO_BIN_EXE_echo-tokio-mpsc"), &["--tasks", "1"]),
            (env!("CARGO_BIN_EXE_echo-tokio-mpsc"), &["--tasks", "2"]),
            (env!("CARGO_BIN_EXE_echo-tokio-framed"), &[]),
        ],
    )
}
