//! What a server has counted, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use datagram_queue::DatagramQueue;
use nix::errno::Errno;
use serde::Serialize;

/// The counters of a run. On exit
/// `received = sent + sum(refused) + truncated + queue_dropped + sum(send_errors)` holds exactly.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The program's name.
    pub program: &'static str,
    /// The address it listened on.
    pub address: SocketAddr,
    /// How long it ran, in seconds.
    pub seconds: f64,
    /// Datagrams received, whatever became of them.
    pub received: u64,
    /// Datagrams echoed.
    pub sent: u64,
    /// Payload bytes received; a truncated datagram counts with `--max-size` + 1.
    pub bytes_received: u64,
    /// Payload bytes echoed.
    pub bytes_sent: u64,
    /// Datagrams refused by the guard, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Datagrams longer than `--max-size`.
    pub truncated: u64,
    /// Datagrams dropped by the queue's policy, or left in it at the end.
    pub queue_dropped: u64,
    /// The most datagrams that were queued at once.
    pub queue_peak: usize,
    /// Datagrams lost because their send failed, by the error's name.
    pub send_errors: BTreeMap<String, u64>,
    /// Receives that failed, by the error's name; no datagram is lost by them.
    pub receive_errors: BTreeMap<String, u64>,
    /// Datagrams that the socket's receive buffer had no room for; `null` where the system does not say.
    pub kernel_dropped: Option<u64>,
}

impl Summary {
    pub(crate) fn new(program: &'static str, address: SocketAddr) -> Self {
        Self {
            program,
            address,
            seconds: 0.0,
            received: 0,
            sent: 0,
            bytes_received: 0,
            bytes_sent: 0,
            refused: BTreeMap::new(),
            truncated: 0,
            queue_dropped: 0,
            queue_peak: 0,
            send_errors: BTreeMap::new(),
            receive_errors: BTreeMap::new(),
            kernel_dropped: Some(0),
        }
    }

    /// Adds what another socket of the same server has counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.received += other.received;
        self.sent += other.sent;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.truncated += other.truncated;
        other.refused.into_iter().for_each(|(name, count)| *self.refused.entry(name).or_default() += count);
        for (ours, theirs) in
            [(&mut self.send_errors, other.send_errors), (&mut self.receive_errors, other.receive_errors)]
        {
            theirs.into_iter().for_each(|(name, count)| *ours.entry(name).or_default() += count);
        }
        self.add_queue(QueueTotals { peak: other.queue_peak, dropped: other.queue_dropped });
        self.add_kernel_drops(other.kernel_dropped);
    }

    /// Adds what a queue reports at the end.
    pub(crate) fn add_queue(&mut self, QueueTotals { peak, dropped }: QueueTotals) {
        self.queue_peak = self.queue_peak.max(peak);
        self.queue_dropped += dropped;
    }

    /// Adds what the receive buffer of a socket had no room for; `None` where the system does not say.
    pub(crate) fn add_kernel_drops(&mut self, dropped: Option<u64>) {
        self.kernel_dropped = self.kernel_dropped.zip(dropped).map(|(ours, theirs)| ours + theirs);
    }

    /// One JSON object on one line.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and maps with string keys serialize")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: served {} for {:.1} s", self.program, self.address, self.seconds)?;
        writeln!(f, "  received        {} ({} bytes)", self.received, self.bytes_received)?;
        writeln!(f, "  sent            {} ({} bytes)", self.sent, self.bytes_sent)?;
        writeln!(f, "  refused         {}", by_name(&self.refused))?;
        writeln!(f, "  truncated       {}", self.truncated)?;
        writeln!(f, "  queue_dropped   {}", self.queue_dropped)?;
        writeln!(f, "  queue_peak      {}", self.queue_peak)?;
        writeln!(f, "  send_errors     {}", by_name(&self.send_errors))?;
        writeln!(f, "  receive_errors  {}", by_name(&self.receive_errors))?;
        match self.kernel_dropped {
            Some(count) => write!(f, "  kernel_dropped  {count}"),
            None => write!(f, "  kernel_dropped  unknown"),
        }
    }
}

/// The sum of counts and, behind it, each with its name.
fn by_name<Name: fmt::Display>(counts: &BTreeMap<Name, u64>) -> String {
    let total: u64 = counts.values().sum();
    let names: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if names.is_empty() { total.to_string() } else { format!("{total} ({})", names.join(", ")) }
}

/// What a queue reports at the end: its peak, and the datagrams that it dropped or still holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueTotals {
    /// The most datagrams that were queued at once.
    pub peak: usize,
    /// Datagrams dropped by the policy, and those never sent.
    pub dropped: u64,
}

impl From<&DatagramQueue> for QueueTotals {
    fn from(queue: &DatagramQueue) -> Self {
        Self { peak: queue.peak(), dropped: queue.dropped() + queue.len() as u64 }
    }
}

/// The symbolic name of an error's number, `EPERM` for example; `OTHER` if it has none.
pub fn errno_name(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        None | Some(Errno::UnknownErrno) => "OTHER".to_owned(),
        Some(errno) => format!("{errno:?}"),
    }
}
