//! Every echo server of this layer against the whole contract: `cargo test -p readiness-rungs --test contract`.

use std::process::ExitCode;

fn main() -> ExitCode {
    echo_contract::test_main(
        env!("CARGO_MANIFEST_DIR"),
        &[
            env!("CARGO_BIN_EXE_echo-blocking"),
            env!("CARGO_BIN_EXE_echo-libc"),
            env!("CARGO_BIN_EXE_echo-select"),
            env!("CARGO_BIN_EXE_echo-poll"),
            env!("CARGO_BIN_EXE_echo-epoll-level"),
            env!("CARGO_BIN_EXE_echo-epoll-edge"),
        ],
    )
}
