//! What the kernel says of processes in `/proc`. What is gone already has nothing to say, and is left out.

use std::time::Duration;

use procfs::process::{FDTarget, Process, Task};

pub use procfs::process::Status;

/// The process and everything below it, parents first.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(tasks(pid).filter_map(|task| task.children().ok()).flatten());
        next += 1;
    }
    found
}

/// State letters of all threads of the processes: `S` sleeps, `R` runs, `t` is held by the tracer, `T` stopped.
/// Those that have ended, and that nobody has waited for yet, are left out.
pub fn states(pids: &[u32]) -> Vec<char> {
    let states = pids.iter().flat_map(|&pid| tasks(pid)).filter_map(|task| Some(task.stat().ok()?.state));
    states.filter(|state| !matches!(state, 'Z' | 'X')).collect()
}

/// State letter of the process's first thread; `Z`: it has ended, and nobody has waited for it yet.
pub fn state(pid: u32) -> Option<char> {
    Some(process(pid)?.stat().ok()?.state)
}

/// `/proc/PID/status`: sizes in KiB.
pub fn status(pid: u32) -> Option<Status> {
    process(pid)?.status().ok()
}

/// Whether the process executes a file of that name. One that has ended executes nothing.
pub(crate) fn runs(pid: u32, name: &str) -> bool {
    process(pid).and_then(|process| process.exe().ok()).is_some_and(|path| path.ends_with(name))
}

/// Processor time that the processes have used, and the children that they have waited for: a server may start
/// one for each datagram. Exact to the nanosecond as long as no thread has ended, else to a clock tick.
pub fn cpu(pids: &[u32]) -> Duration {
    let ticks_per_second = procfs::ticks_per_second().max(1);
    let ticks = |count: u64| Duration::from_nanos(count * (1_000_000_000 / ticks_per_second));
    let of_one = |&pid: &u32| {
        let stat = process(pid)?.stat().ok()?;
        let threads = tasks(pid).filter_map(|task| Some(task.schedstat().ok()?.sum_exec_runtime));
        // The threads that are there, to the nanosecond; or all there were, in ticks.
        let own = Duration::from_nanos(threads.sum()).max(ticks(stat.utime + stat.stime));
        Some(own + ticks(u64::try_from(stat.cutime + stat.cstime).unwrap_or(0)))
    };
    pids.iter().filter_map(of_one).sum()
}

/// Peak resident memory of the processes together, in KiB (`VmHWM`).
pub fn peak_kib(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|&pid| status(pid)?.vmhwm).sum()
}

/// How many descriptors the process has open.
pub fn descriptors(pid: u32) -> Option<usize> {
    process(pid)?.fd_count().ok()
}

/// How many of them are sockets.
pub fn sockets(pid: u32) -> Option<usize> {
    let open = process(pid)?.fd().ok()?.flatten();
    Some(open.filter(|descriptor| matches!(descriptor.target, FDTarget::Socket(_))).count())
}

/// Whether a UDP socket of the process's network namespace is bound to the port.
pub fn udp_port_is_bound(pid: u32, port: u16) -> bool {
    let Some(process) = process(pid) else { return false };
    let sockets = [process.udp(), process.udp6()];
    sockets.into_iter().flatten().flatten().any(|socket| socket.local_address.port() == port)
}

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

fn tasks(pid: u32) -> impl Iterator<Item = Task> {
    process(pid).and_then(|process| process.tasks().ok()).into_iter().flatten().flatten()
}
