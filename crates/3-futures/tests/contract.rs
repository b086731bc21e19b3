//! The echo server of this layer against the whole contract: `cargo test -p mini-runtime --test contract`.

use std::process::ExitCode;

fn main() -> ExitCode {
    echo_contract::test_main(env!("CARGO_MANIFEST_DIR"), &[env!("CARGO_BIN_EXE_echo-mini")])
}
