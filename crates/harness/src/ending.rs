//! The end of what was started: each program has a process group of its own, which ends with it, and with us.

use std::collections::BTreeSet;
use std::process;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::proc;

/// Sends a signal to each of the processes; those that are gone already are none to signal.
pub(crate) fn signal(pids: &[u32], signal: Signal) {
    for &pid in pids {
        let _ = kill(raw(pid), signal);
    }
}

pub(crate) fn raw(pid: u32) -> Pid {
    // Pids end far below (proc_sys_kernel(5), pid_max).
    Pid::from_raw(pid as i32)
}

/// From now on, a signal that ends this process (SIGINT, SIGTERM, SIGHUP) kills before all that it has started;
/// the exit code is then 128 and the signal's number. Every launch sees to it; a program that starts others by
/// itself may call it first thing.
pub fn end_children_with_us() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Without it they would be left behind: no reason not to begin.
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        thread::spawn(move || {
            if let Some(number) = signals.forever().next() {
                let below = proc::tree(process::id());
                for group in groups().iter() {
                    let _ = killpg(*group, Signal::SIGKILL);
                }
                // Children may have groups of their own.
                signal(&below[1..], Signal::SIGKILL);
                process::exit(128 + number);
            }
        });
    });
}

/// The process groups of the programs that run.
fn groups() -> MutexGuard<'static, BTreeSet<Pid>> {
    static GROUPS: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process group of a program, whose number is the program's own. Killed when dropped.
pub(crate) struct Group(Pid);

impl Group {
    pub(crate) fn of(leader: u32) -> Self {
        end_children_with_us();
        groups().insert(raw(leader));
        Self(raw(leader))
    }

    /// Kills whoever is in it.
    pub(crate) fn kill(&self) {
        // Nobody left is as good.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        groups().remove(&self.0);
    }
}
