//! The cores of the machine, and a thread on one of them.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::{Context, Result};

/// Runs an action with this thread on one core, and lets it go back to where it was. A program that the action
/// starts stays there.
pub fn on_core<T>(core: usize, action: impl FnOnce() -> T) -> Result<T> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).context(|| "ask for the cores of this thread".into())?;
    let mut one = CpuSet::new();
    one.set(core).context(|| format!("name core {core}"))?;
    sched_setaffinity(this, &one).context(|| format!("move to core {core}"))?;
    let done = action();
    sched_setaffinity(this, &before).context(|| "go back to all cores".into())?;
    Ok(done)
}

/// The cores that this process may use.
pub fn cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}
