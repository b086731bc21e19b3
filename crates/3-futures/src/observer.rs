//! What the runtime tells about itself, so that a demo can print it and a test can count it.

use std::fmt;
use std::sync::Arc;

/// One step of the runtime. The names are those of tasks: `main` for the future given to `block_on`, and what
/// [`spawn_named`](crate::spawn_named) was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new task was put into the run queue.
    Spawn(&'static str),
    /// A task's future is about to be polled.
    Poll(&'static str),
    /// The poll returned `Pending`.
    Pending(&'static str),
    /// The poll returned `Ready`; the task is over.
    Ready(&'static str),
    /// Somebody, on any thread, has called a task's waker.
    Wake(&'static str),
    /// The reactor or the timer has cloned the current task's waker, to call it later.
    Keep,
    /// The executor turns to the system.
    Wait {
        /// Nothing is queued: it will sleep. Otherwise it only looks.
        idle: bool,
    },
    /// The system reported a descriptor as readable, writable, or both.
    Event {
        /// It can be read from, or has met its end or an error.
        readable: bool,
        /// It can be written to, or has met an error.
        writable: bool,
    },
    /// A deadline has passed.
    Fire,
}

impl Step {
    /// The task that it is about, if it is about one.
    pub fn task(self) -> Option<&'static str> {
        match self {
            Self::Spawn(task)
            | Self::Poll(task)
            | Self::Pending(task)
            | Self::Ready(task)
            | Self::Wake(task) => Some(task),
            Self::Keep | Self::Wait { .. } | Self::Event { .. } | Self::Fire => None,
        }
    }
}

/// As a trace mark says it: `poll reader`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, task) = match self {
            Self::Spawn(task) => ("spawn ", *task),
            Self::Poll(task) => ("poll ", *task),
            Self::Pending(task) => ("pending ", *task),
            Self::Ready(task) => ("ready ", *task),
            Self::Wake(task) => ("wake ", *task),
            Self::Keep => ("keep waker", ""),
            Self::Wait { idle: true } => ("sleep", ""),
            Self::Wait { idle: false } => ("look", ""),
            Self::Event { readable: true, writable: false } => ("event: ", "readable"),
            Self::Event { readable: false, .. } => ("event: ", "writable"),
            Self::Event { readable: true, writable: true } => ("event: ", "readable, writable"),
            Self::Fire => ("deadline", ""),
        };
        write!(f, "{what}{task}")
    }
}

/// A function that is told each [`Step`] as it happens, on the thread on which it happens. It must not use the runtime.
pub type Observer = Box<dyn Fn(Step) + Send + Sync>;

/// Whom the parts of a runtime tell their steps, if anybody wants to know.
#[derive(Clone, Default)]
pub(crate) struct Observed(Option<Arc<Observer>>);

impl Observed {
    pub(crate) fn by(observer: Observer) -> Self {
        Self(Some(Arc::new(observer)))
    }

    pub(crate) fn observe(&self, step: Step) {
        if let Some(observer) = &self.0 {
            observer(step);
        }
    }
}
