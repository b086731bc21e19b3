//! Processes: the tree below one, whether it sleeps, what it has used.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// The process and everything below it, parents first.
pub fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .map(|entries| {
            entries
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
                .filter_map(|pid| Some((pid, parent(pid)?)))
                .collect()
        })
        .unwrap_or_default();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&above) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// Sends a signal to each of the processes; those that are gone already are none to signal.
pub fn signal(pids: &[u32], signal: Signal) {
    for &pid in pids {
        let _ = kill(Pid::from_raw(pid as i32), signal);
    }
}

/// State letters of all threads of the processes: `S` sleeps, `R` runs, `t` is held by the tracer, `T` stopped.
/// Those that have ended, and that nobody has waited for yet, are left out.
pub fn states(pids: &[u32]) -> Vec<char> {
    pids.iter()
        .flat_map(|&pid| tasks(pid))
        .filter_map(|task| field(&task, 0)?.chars().next())
        .filter(|state| !matches!(state, 'Z' | 'X'))
        .collect()
}

/// CPU time used so far, in nanoseconds: by all threads (`/proc/PID/task/*/schedstat`, first field), and by
/// children that have ended (`cutime` and `cstime` of `/proc/PID/stat`), which a server has that starts one for
/// each datagram.
pub fn cpu_ns(pids: &[u32]) -> u64 {
    let threads: u64 = pids
        .iter()
        .flat_map(|&pid| tasks(pid))
        .filter_map(|task| fs::read_to_string(format!("{task}/schedstat")).ok())
        .filter_map(|text| text.split_ascii_whitespace().next()?.parse::<u64>().ok())
        .sum();
    let ticks: u64 = pids
        .iter()
        .flat_map(|pid| [13, 14].map(|index| field(&format!("/proc/{pid}"), index)))
        .filter_map(|ticks| ticks?.parse::<u64>().ok())
        .sum();
    let second = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
    threads + ticks * (1_000_000_000 / second.unwrap_or(100).max(1))
}

/// Peak resident memory of the processes together, in KiB (`VmHWM`).
pub fn peak_kib(pids: &[u32]) -> u64 {
    pids.iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .filter_map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        })
        .sum()
}

/// Whether a UDP socket of this network namespace is bound to the port.
pub fn udp_port_is_bound(port: u16) -> bool {
    let ending = format!(":{port:04X}");
    ["/proc/self/net/udp", "/proc/self/net/udp6"].iter().filter_map(|path| fs::read_to_string(path).ok()).any(
        |text| {
            text.lines()
                .skip(1)
                .filter_map(|line| line.split_ascii_whitespace().nth(1))
                .any(|local| local.ends_with(&ending))
        },
    )
}

/// `/proc/PID/task/TID` of all threads.
fn tasks(pid: u32) -> Vec<String> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path().display().to_string())).collect())
        .unwrap_or_default()
}

fn parent(pid: u32) -> Option<u32> {
    field(&format!("/proc/{pid}"), 1)?.parse().ok()
}

/// A field of `stat` after the name, which stands in brackets and may itself hold blanks and brackets.
fn field(folder: &str, index: usize) -> Option<String> {
    let text = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let (_, after) = text.rsplit_once(") ")?;
    after.split_ascii_whitespace().nth(index).map(str::to_string)
}
