//! The binary that is put to the test.

use std::path::Path;
use std::time::Duration;

use harness::demo::must;
use harness::{Ended, Launch};

/// For a build, and for an audit on a busy machine.
const LONGEST: Duration = Duration::from_secs(600);

/// Runs loadgen, which stands beside this package's own programs, to its end.
pub fn loadgen(args: &[&str]) -> Ended {
    let binary = Path::new(env!("CARGO_BIN_EXE_loadgen-formulas")).with_file_name("loadgen");
    if !binary.exists() {
        let build = Launch::new(env!("CARGO")).args(["build", "--bin", "loadgen"]);
        must(must(build.patience(LONGEST).run()).expect_code(0));
    }
    must(Launch::new(binary.display()).args(args).patience(LONGEST).run())
}
