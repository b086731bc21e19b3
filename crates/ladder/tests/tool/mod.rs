//! Starting the tool as its user does.

use std::path::PathBuf;
use std::time::Duration;

pub use harness::Launch;
use harness::demo::must;

/// What one run of the tool said.
#[derive(Debug)]
pub struct Said {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
}

/// Longer than anything takes on a busy machine, building the programs included.
const DEADLINE: Duration = Duration::from_secs(400);

/// The tool with these arguments.
pub fn tool(args: &[&str]) -> Launch {
    Launch::new(env!("CARGO_BIN_EXE_ladder")).args(args)
}

/// Runs `ladder` with these arguments, from a folder inside the checkout.
pub fn ladder(args: &[&str]) -> Said {
    run(tool(args).in_folder(env!("CARGO_MANIFEST_DIR")))
}

/// Runs a command to its end.
pub fn run(launch: Launch) -> Said {
    let ended = must(launch.patience(DEADLINE).run());
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    Said { code: ended.code(), out: ended.stdout, err: ended.stderr }
}

/// Path of a server that stands beside the tests.
pub fn server(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/servers").join(name).display().to_string()
}

/// Whether a program is on PATH. A test that needs it and does without says so.
pub fn is_there(program: &str) -> bool {
    let found =
        must(Launch::new("sh").args(["-c", &format!("command -v {program}")]).run()).code() == Some(0);
    if !found {
        eprintln!("not asked: {program} is not installed");
    }
    found
}
