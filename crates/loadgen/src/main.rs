//! loadgen: see the library's documentation, or `loadgen --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    loadgen::cli::main()
}
