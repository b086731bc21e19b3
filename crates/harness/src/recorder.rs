//! strace around a program: a record of its system calls while they are made, and a way to break some of them.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::NamedTempFile;

use crate::error::{Context, Error, Result};
use crate::strace::{Call, Event, Parser};

/// With these strace is no parent of the program, which stays a child of ours; it follows all threads and
/// children, and says only what they do.
pub(crate) const STRACE: [&str; 4] = ["strace", "-D", "-f", "-q"];

/// Whether strace is installed and permitted to trace, tried once.
///
/// # Errors
///
/// [`Error::Unavailable`], with the package to install, or with what strace says.
pub fn require_strace() -> Result<()> {
    static ANSWER: OnceLock<Result<()>> = OnceLock::new();
    let try_it = || {
        let tried = Command::new(STRACE[0])
            .args(&STRACE[1..])
            .args(["-o", "/dev/null", "--", "true"])
            .stdin(Stdio::null())
            .output();
        match tried {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(Error::Unavailable(format!(
                "strace may not trace here: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ))),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::Unavailable(
                "strace is not installed: install the package strace (Debian, Ubuntu: apt-get install strace; Fedora: \
                 dnf install strace; Arch: pacman -S strace; Alpine: apk add strace)"
                    .into(),
            )),
            Err(error) => Err(Error::Unavailable(format!("strace does not start: {error}"))),
        }
    };
    ANSWER.get_or_init(try_it).clone()
}

/// Options that record these calls alone. Those that a machine does not have are ignored.
pub fn only(calls: &[&str]) -> [String; 2] {
    let calls: Vec<String> = calls.iter().map(|call| format!("?{call}")).collect();
    ["-e".into(), format!("trace={}", calls.join(","))]
}

/// Options that fail a call with an error, such as `EPERM`, at the counts that `when` names: `3..40+7` is every
/// seventh from the third to the fortieth, in each thread. What an injected call would have done is not done.
pub fn inject(call: &str, error: &str, when: &str) -> [String; 2] {
    ["-e".into(), format!("inject=?{call}:error={error}:when={when}")]
}

/// A record that grows.
pub(crate) struct Recorder {
    /// strace's output. The file is removed with this.
    log: NamedTempFile,
    reader: File,
    /// The beginning of a line.
    begun: Vec<u8>,
    parser: Parser,
    pub(crate) events: Vec<Event>,
}

impl Recorder {
    pub(crate) fn new() -> Result<Self> {
        require_strace()?;
        let log = NamedTempFile::new().context(|| "make a file for strace".into())?;
        let reader = log.reopen().context(|| "open the file of strace".into())?;
        Ok(Recorder { log, reader, begun: Vec::new(), parser: Parser::default(), events: Vec::new() })
    }

    /// The command that the words of the program stand behind.
    pub(crate) fn command(&self, options: &[String]) -> Vec<String> {
        let mut words: Vec<String> = STRACE.map(str::to_owned).to_vec();
        words.extend(options.iter().cloned());
        words.extend(["-o".to_owned(), self.log.path().display().to_string(), "--".to_owned()]);
        words
    }

    /// Reads what is new; whether anything is.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 1 << 16];
        let mut came = false;
        loop {
            match self.reader.read(&mut chunk) {
                Ok(0) => return Ok(came),
                Ok(count) => self.take(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            came = true;
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = self.begun[start..].iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&self.begun[start..start + length]);
            self.events.extend(self.parser.line(&line));
            start += length + 1;
        }
        self.begun.drain(..start);
    }

    /// Calls that have not returned yet, in the order in which they began.
    pub(crate) fn open_calls(&self) -> Vec<Call> {
        self.parser.open_calls(&String::from_utf8_lossy(&self.begun))
    }

    /// Whether that thread has ended.
    pub(crate) fn has_ended(&self, pid: u32) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Ended { .. }) && event.pid() == pid)
    }
}
