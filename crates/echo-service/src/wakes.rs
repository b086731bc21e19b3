//! What a wake-up costs, in calls of write(2), as the kernel has counted them: for the demos that ask.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::Serialize;

/// How many writes some wakes have cost.
#[derive(Debug, Serialize)]
pub struct WakeCount {
    /// What the woken side did meanwhile.
    pub case: &'static str,
    /// How many wakes were made.
    pub wakes: usize,
    /// Calls of write(2) by the waking thread; `null` where the kernel does not count them.
    pub writes: Option<u64>,
    /// The one divided by the other.
    pub writes_per_wake: Option<f64>,
}

impl WakeCount {
    /// The count of `wakes` wakes that cost `writes`, while the woken side did what `case` says.
    pub fn new(case: &'static str, wakes: usize, writes: Option<u64>) -> Self {
        let writes_per_wake = writes.map(|writes| writes as f64 / wakes as f64);
        Self { case, wakes, writes, writes_per_wake }
    }
}

impl fmt::Display for WakeCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<44}  {} wakes, ", self.case, self.wakes)?;
        match (self.writes, self.writes_per_wake) {
            (Some(writes), Some(each)) => write!(f, "{writes} writes: {each:.2} a wake"),
            _ => write!(f, "writes not counted here: use strace"),
        }
    }
}

/// What all counts make together: `2000 wakes in all, 1000 writes`.
pub fn sum<'a>(counts: impl Iterator<Item = &'a WakeCount>) -> String {
    let (wakes, writes) = counts.fold((0, 0), |(wakes, writes), count| {
        (wakes + count.wakes, writes + count.writes.unwrap_or_default())
    });
    format!("{wakes} wakes in all, {writes} writes")
}

/// Calls `act`; returns how often it has called write(2) and its kin on this thread, or `None` where the kernel
/// does not count them.
///
/// # Errors
///
/// Those of `act`.
pub fn count_writes(act: impl FnOnce() -> io::Result<()>) -> io::Result<Option<u64>> {
    let before = writes_so_far();
    act()?;
    Ok(writes_so_far().zip(before).map(|(after, before)| after - before))
}

/// Calls of write(2) and its kin by this thread so far, from proc_pid_io(5).
fn writes_so_far() -> Option<u64> {
    let mut table = [0; 512];
    let bytes = File::open("/proc/thread-self/io").and_then(|file| file.read_at(&mut table, 0)).ok()?;
    let table = std::str::from_utf8(&table[..bytes]).ok()?;
    table.lines().find_map(|line| line.strip_prefix("syscw: ")?.parse().ok())
}
