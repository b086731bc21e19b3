//! The echo server of this layer, on either runtime, against the whole contract:
//! `cargo test -p mini-runtime --test contract`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let echo_mini = env!("CARGO_BIN_EXE_echo-mini");
    echo_contract::test_main_with_flags(
        env!("CARGO_MANIFEST_DIR"),
        &[(echo_mini, &[]), (echo_mini, &["--runtime", "tokio"])],
    )
}
