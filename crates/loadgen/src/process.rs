//! What the process asks of the kernel for itself: signals, and room for descriptors.

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

/// Raises the limit on open files as far as it goes: each connection is one.
pub(crate) fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Not granted: then connections fail with a class that says so.
        _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
