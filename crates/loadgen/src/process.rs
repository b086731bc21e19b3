//! What the process asks of the kernel for itself: signals, and how many connections there is room for.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::exit::EXIT_INTERRUPTED;

/// A flag that SIGINT and SIGTERM set; a second one ends the process at once.
pub(crate) fn interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(EXIT_INTERRUPTED),
            Arc::clone(&flag),
        )
        .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
        .context("cannot watch for signals")?;
    }
    Ok(flag)
}

/// Descriptors that are not for connections: the standard streams, timers, runtimes, results.
const OTHER_DESCRIPTORS: u64 = 32;

/// How many connections this process can have at once to one address: a descriptor and a local port for each, the ports
/// once for each of `sources` local addresses.
pub(crate) fn most_connections(sources: usize, threads: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    // A runtime and a timer for each thread.
    let other = OTHER_DESCRIPTORS + 8 * threads as u64;
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().map_while(|end| end.parse::<u64>().ok());
    let ports = match (ends.next(), ends.next()) {
        (Some(first), Some(last)) if first <= last => last - first + 1,
        // The kernel's default range.
        _ => 28_232,
    };
    descriptors.saturating_sub(other).min(ports * sources.max(1) as u64).max(threads as u64) as usize
}
