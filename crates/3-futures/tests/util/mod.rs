//! What the tests of this folder share: a runtime that is watched, and a deadline.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use mini_runtime::{Runtime, Step};

/// No test waits longer than this for what should come at once. Miri is slower by a hundred times.
pub const DEADLINE: Duration = Duration::from_secs(if cfg!(miri) { 600 } else { 60 });

/// Runs `test` on a thread of its own, and fails if it is not over by the deadline.
pub fn within_deadline(test: impl FnOnce() + Send + 'static) {
    let (over, waiting) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        // Nobody listens any more only if the deadline is over.
        let _ = over.send(());
    });
    match waiting.recv_timeout(DEADLINE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("not over after {DEADLINE:?}: a wake was lost"),
        // Over, or panicked; the join tells.
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// What a runtime has told of itself.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Step>>>);

impl Log {
    /// A runtime that writes to this log.
    pub fn runtime(&self) -> Runtime {
        let log = self.clone();
        Runtime::with_observer(move |step| log.0.lock().unwrap().push(step)).unwrap()
    }

    pub fn steps(&self) -> Vec<Step> {
        self.0.lock().unwrap().clone()
    }

    pub fn count(&self, step: Step) -> usize {
        self.0.lock().unwrap().iter().filter(|logged| **logged == step).count()
    }
}
