//! Printing that a closed pipe, a full disk or a missing terminal cannot turn into a panic.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line on stdout, in one write, and flushes it.
pub fn print_line(line: impl Display) {
    let text = format!("{line}\n");
    let mut stdout = io::stdout().lock();
    // Nobody may be reading (EPIPE, ENOSPC): the service goes on without an audience.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints a line on stderr, behind the program's name, in one write.
pub fn print_to_stderr(program: &str, line: impl Display) {
    let text = format!("{program}: {line}\n");
    // As for stdout; there is nowhere left to report it.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
