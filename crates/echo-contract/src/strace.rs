//! What strace makes of a server: a record of its system calls, and a way to break some of them.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::verdict::{Unmet, not_asked};

/// Whether strace is here and permitted to trace.
pub(crate) fn available() -> Result<(), Unmet> {
    static ANSWER: OnceLock<Option<String>> = OnceLock::new();
    let answer = ANSWER.get_or_init(|| {
        let tried = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "--", "true"])
            .stdin(Stdio::null())
            .output();
        match tried {
            Err(_) => Some("strace is not installed: its package is called strace".to_owned()),
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                Some(format!("strace may not trace here: {}", String::from_utf8_lossy(&output.stderr).trim()))
            }
        }
    });
    match answer {
        None => Ok(()),
        Some(why) => not_asked(why.clone()),
    }
}

pub(crate) fn missing_log() -> Unmet {
    Unmet::Fails("the check asks for a trace that it did not record".to_owned())
}

/// A list of system calls as strace's expressions take it. Those that a machine does not have are ignored.
pub(crate) fn any_of(calls: &[&str]) -> String {
    calls.iter().map(|call| format!("?{call}")).collect::<Vec<_>>().join(",")
}

/// A finished record.
pub(crate) struct Trace {
    text: String,
}

impl Trace {
    pub(crate) fn new(text: String) -> Self {
        Self { text }
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }

    /// How many calls on a UDP socket, the server's own address being `address`, were failed by strace.
    pub(crate) fn injected_on_socket(&self) -> u64 {
        self.lines().filter(|line| line.ends_with("(INJECTED)") && is_udp(line)).count() as u64
    }

    /// How many calls were failed by strace.
    pub(crate) fn injected(&self) -> u64 {
        self.lines().filter(|line| line.ends_with("(INJECTED)")).count() as u64
    }
}

/// Whether the first argument of the call in `line` is a UDP socket.
fn is_udp(line: &str) -> bool {
    line.split_once('(').is_some_and(|(_, arguments)| {
        let first = arguments.split([',', ')']).next().unwrap_or_default();
        first.contains("<UDP:") || first.contains("<UDPv6:")
    })
}
