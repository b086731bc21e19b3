//! Starting the tool as its user does.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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

/// Runs `ladder` with these arguments, from a folder inside the checkout.
pub fn ladder(args: &[&str]) -> Said {
    run(Command::new(env!("CARGO_BIN_EXE_ladder")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")))
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Said {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let mut out = child.stdout.take().expect("a pipe for standard output");
    let mut err = child.stderr.take().expect("a pipe for standard error");
    let out = thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).expect("standard output is UTF-8");
        text
    });
    let err = thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).expect("standard error is UTF-8");
        text
    });
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{command:?} did not end within {DEADLINE:?}");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let said = Said {
        out: out.join().expect("the reader of standard output"),
        err: err.join().expect("the reader of standard error"),
        code: status.code(),
    };
    assert!(!said.err.contains("panicked"), "{command:?}: {said:?}");
    said
}

/// Path of a server that stands beside the tests.
pub fn server(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/servers").join(name).display().to_string()
}

/// Whether a program is on PATH. A test that needs it and does without says so.
pub fn is_there(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("not asked: {program} is not installed");
    }
    found
}
