//! Every echo server of this layer against the whole contract: `cargo test -p batching-rungs --test contract`.

use std::process::ExitCode;

fn main() -> ExitCode {
    echo_contract::test_main(
        env!("CARGO_MANIFEST_DIR"),
        &[
            env!("CARGO_BIN_EXE_echo-mmsg"),
            env!("CARGO_BIN_EXE_echo-gso"),
            env!("CARGO_BIN_EXE_echo-uring"),
            env!("CARGO_BIN_EXE_echo-uring-multishot"),
            env!("CARGO_BIN_EXE_echo-reuseport"),
        ],
    )
}
