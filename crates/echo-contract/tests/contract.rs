//! The double without a fault against the whole contract: what the checks find in it with a fault is due to
//! that fault.

use std::process::ExitCode;

fn main() -> ExitCode {
    echo_contract::test_main(env!("CARGO_MANIFEST_DIR"), &[env!("CARGO_BIN_EXE_echo-double")])
}
