//! What a jokes server has counted, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use echo_service::errno_name;
use serde::Serialize;

/// The counters of a run. Each connection ends in one joke sent or in one error, so that on exit
/// `connections = jokes_sent + sum(errors)` holds exactly, but for the errors of accepting, which are no
/// connections (`EMFILE` and the like).
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The program's name.
    pub program: &'static str,
    /// The address it listened on.
    pub address: SocketAddr,
    /// How long it ran, in seconds.
    pub seconds: f64,
    /// Connections accepted.
    pub connections: u64,
    /// Jokes sent to their last byte, and the end of the connection behind it.
    pub jokes_sent: u64,
    /// Bytes sent, those of jokes that were cut short too.
    pub bytes_sent: u64,
    /// Jokes not sent and connections not accepted, by kind: the name of the system's error, or
    /// `idle` (the client did not read for `--idle-limit`), `file_shrank` and `file_changed` (the jokes
    /// file is no longer as it was when indexed), `shutdown` (the grace period was over).
    pub errors: BTreeMap<String, u64>,
}

impl Summary {
    /// One JSON object on one line.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and maps with string keys serialize")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: served {} for {:.1} s", self.program, self.address, self.seconds)?;
        writeln!(f, "  connections  {}", self.connections)?;
        writeln!(f, "  jokes_sent   {} ({} bytes)", self.jokes_sent, self.bytes_sent)?;
        write!(f, "  errors       {}", by_kind(&self.errors))
    }
}

/// The sum of counts and, behind it, each with its kind.
pub fn by_kind(counts: &BTreeMap<String, u64>) -> String {
    let total: u64 = counts.values().sum();
    let kinds: Vec<_> = counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    if kinds.is_empty() { total.to_string() } else { format!("{total} ({})", kinds.join(", ")) }
}

/// The kind under which an error is counted.
pub(crate) fn kind_of(error: &io::Error) -> String {
    match error.kind() {
        _ if error.raw_os_error().is_some() => errno_name(error),
        io::ErrorKind::TimedOut => "idle".to_owned(),
        io::ErrorKind::UnexpectedEof => "file_shrank".to_owned(),
        io::ErrorKind::InvalidData => "file_changed".to_owned(),
        _ => "OTHER".to_owned(),
    }
}
