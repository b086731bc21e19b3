//! The binary that is put to the test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// loadgen, which stands beside this package's own programs.
pub fn loadgen() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_loadgen-formulas")).with_file_name("loadgen");
    if !binary.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--bin", "loadgen"]).status();
        assert!(built.is_ok_and(|status| status.success()), "build it: cargo build --bin loadgen");
    }
    binary
}
