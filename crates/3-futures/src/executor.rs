//! The executor: polls what was woken, and waits when nothing was.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::current::Current;
use crate::observer::{Observed, Step};
use crate::queue::RunQueue;
use crate::reactor::{self, Reactor};
use crate::task::{Shared, State, Task};
use crate::timer::{self, Timer};

/// The slot of the future given to `block_on`, which lives on the stack and not among the tasks.
const MAIN: usize = usize::MAX;

/// A runtime for one thread. Futures on it need not be `Send`; their wakers may go anywhere.
///
/// Dropping it drops all its tasks. Sockets and timers that outlive it stay usable in the sense that nothing
/// panics, but nobody wakes them any more.
pub struct Runtime {
    inner: Rc<Inner>,
}

/// The part that belongs to the runtime's thread.
struct Inner {
    shared: Arc<Shared>,
    reactor: Rc<RefCell<Reactor>>,
    timer: Rc<RefCell<Timer>>,
    /// The futures of the tasks, by slot. A slot is empty while its future is being polled.
    futures: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Option<Spawned>>,
    free: Vec<usize>,
    /// The runtime is being dropped, and takes no more tasks.
    closed: bool,
}

struct Spawned {
    task: Arc<Task>,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

impl Runtime {
    /// Makes a runtime: an epoll and an eventfd, no thread.
    ///
    /// # Errors
    ///
    /// What the system returns, for instance when there are too many open files.
    pub fn new() -> io::Result<Self> {
        Self::build(Observed::default())
    }

    /// Makes a runtime that tells `observer` each of its steps.
    ///
    /// # Errors
    ///
    /// As [`Runtime::new`].
    pub fn with_observer(observer: impl Fn(Step) + Send + Sync + 'static) -> io::Result<Self> {
        Self::build(Observed::by(Box::new(observer)))
    }

    fn build(observed: Observed) -> io::Result<Self> {
        let (reactor, eventfd) = Reactor::new(observed.clone())?;
        let timer = Timer::new(observed.clone());
        let inner = Inner {
            shared: Arc::new(Shared { queue: RunQueue::new(), eventfd, observed }),
            reactor: Rc::new(RefCell::new(reactor)),
            timer: Rc::new(RefCell::new(timer)),
            futures: RefCell::default(),
        };
        Ok(Self { inner: Rc::new(inner) })
    }

    /// As [`spawn`], from outside of the runtime; the task is first polled by the next `block_on`.
    pub fn spawn<F: Future<Output: 'static> + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        self.inner.spawn("task", future)
    }

    /// Runs `future` to its end, and the spawned tasks beside it. Tasks that are not over by then stay, and
    /// go on in the next `block_on`.
    ///
    /// # Errors
    ///
    /// What the wait returned, save an interruption, which is no error. There is none but for a fault in the program,
    /// such as a closed descriptor.
    ///
    /// # Panics
    ///
    /// If called within a `block_on`, and if the future or a task panics.
    pub fn block_on<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let inner = &self.inner;
        let shared = Arc::clone(&inner.shared);
        let main = Arc::new(Task { state: State::new(), slot: MAIN, name: "main", shared });
        let _entered = Entered::new(inner, &main);
        let mut future = pin!(future);
        if main.state.wake() {
            inner.shared.schedule(Arc::clone(&main));
        }
        // region: turn
        let mut turn = VecDeque::new();
        loop {
            // One turn: what is queued now, and nothing that is queued meanwhile. A task that wakes itself thereby
            // comes after its neighbours, and after a look at the descriptors and the clock.
            inner.shared.queue.take(&mut turn);
            let mut output = Poll::Pending;
            for task in turn.drain(..) {
                if !Arc::ptr_eq(&task, &main) {
                    inner.poll_spawned(&task);
                } else if task.state.begin() {
                    output = inner.poll(&task, future.as_mut());
                }
            }
            if let Poll::Ready(output) = output {
                return Ok(output);
            }
            inner.wait()?;
        }
        // endregion: turn
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let slots = {
            let mut futures = self.inner.futures.borrow_mut();
            futures.closed = true;
            std::mem::take(&mut futures.slots)
        };
        // First no wake queues a task any more, then the queue goes, then the futures, whose drops may wake others.
        slots.iter().flatten().for_each(|spawned| spawned.task.state.finish());
        drop(self.inner.shared.queue.close());
        drop(slots);
    }
}

impl Inner {
    fn spawn<F: Future<Output: 'static> + 'static>(
        &self,
        name: &'static str,
        future: F,
    ) -> JoinHandle<F::Output> {
        let join = Rc::new(RefCell::new(Join { output: None, waker: None }));
        let result = Rc::clone(&join);
        let future = Box::pin(async move {
            let output = future.await;
            let waker = {
                let mut join = result.borrow_mut();
                join.output = Some(output);
                join.waker.take()
            };
            waker.into_iter().for_each(Waker::wake);
        });
        let task = {
            let mut futures = self.futures.borrow_mut();
            if futures.closed {
                return JoinHandle { join };
            }
            let slot = futures.free.pop().unwrap_or_else(|| {
                futures.slots.push(None);
                futures.slots.len() - 1
            });
            let task = Arc::new(Task { state: State::new(), slot, name, shared: Arc::clone(&self.shared) });
            futures.slots[slot] = Some(Spawned { task: Arc::clone(&task), future });
            task
        };
        self.shared.observed.observe(Step::Spawn(name));
        if task.state.wake() {
            self.shared.schedule(task);
        }
        JoinHandle { join }
    }

    fn poll_spawned(&self, task: &Arc<Task>) {
        // A task that is over may still have been in the queue, and its slot may have a new owner.
        if !task.state.begin() {
            return;
        }
        // Out of its slot while it is polled, so that it can spawn others, and so that its drop can do anything.
        let Some(mut spawned) = self.futures.borrow_mut().take(task.slot) else { return };
        match self.poll(task, spawned.future.as_mut()) {
            Poll::Pending => self.futures.borrow_mut().slots[task.slot] = Some(spawned),
            Poll::Ready(()) => {
                task.state.finish();
                drop(spawned);
                self.futures.borrow_mut().free.push(task.slot);
            }
        }
    }

    fn poll<F: Future + ?Sized>(&self, task: &Arc<Task>, future: Pin<&mut F>) -> Poll<F::Output> {
        self.shared.observed.observe(Step::Poll(task.name));
        let waker = Waker::from(Arc::clone(task));
        let polled = future.poll(&mut Context::from_waker(&waker));
        self.shared.observed.observe(match polled {
            Poll::Pending => Step::Pending(task.name),
            Poll::Ready(_) => Step::Ready(task.name),
        });
        polled
    }

    // region: wait
    /// Waits for descriptors, the clock or another thread's wake; only looks if there is something to poll.
    fn wait(&self) -> io::Result<()> {
        let idle = self.shared.queue.try_sleep();
        self.shared.observed.observe(Step::Wait { idle });
        // Computed just before the wait: a timer that the last turn has set is in it, and needs no wake of its own.
        let timeout = if idle { self.timer.borrow().timeout() } else { Some(Duration::ZERO) };
        let mut woken = Vec::new();
        let waited = self.reactor.borrow_mut().wait(timeout, &mut woken);
        self.shared.queue.awake();
        self.timer.borrow_mut().fire(&mut woken);
        // Called last, when nothing is borrowed: a foreign waker may do more than to queue a task.
        woken.into_iter().for_each(Waker::wake);
        waited
    }
    // endregion: wait
}

impl Slots {
    fn take(&mut self, slot: usize) -> Option<Spawned> {
        self.slots.get_mut(slot)?.take()
    }
}

thread_local! {
    /// The runtime that runs on this thread.
    static CURRENT: Current<Inner> = const { Current::none() };
}

/// Marks this thread as one that runs a runtime, until it is dropped.
struct Entered<'a> {
    main: &'a Task,
}

impl<'a> Entered<'a> {
    fn new(inner: &Rc<Inner>, main: &'a Task) -> Self {
        let before = CURRENT.with(|current| current.replace(Some(Rc::clone(inner))));
        if before.is_some() {
            CURRENT.with(|current| current.replace(before));
            panic!("block_on was called within a block_on, whose tasks it would stop");
        }
        reactor::CURRENT.with(|current| current.replace(Some(Rc::clone(&inner.reactor))));
        timer::CURRENT.with(|current| current.replace(Some(Rc::clone(&inner.timer))));
        Self { main }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // However it ended, the future on the stack is gone. Its wakers may live on.
        self.main.state.finish();
        CURRENT.with(|current| current.replace(None));
        reactor::CURRENT.with(|current| current.replace(None));
        timer::CURRENT.with(|current| current.replace(None));
    }
}

/// Starts `future` as a task of its own on the current runtime; it runs on while others wait.
///
/// The handle gives its output. To drop the handle changes nothing for the task.
///
/// # Panics
///
/// If no runtime runs on this thread.
pub fn spawn<F: Future<Output: 'static> + 'static>(future: F) -> JoinHandle<F::Output> {
    spawn_named("task", future)
}

/// As [`spawn`], with a name for the [`Observer`].
///
/// # Panics
///
/// If no runtime runs on this thread.
pub fn spawn_named<F: Future<Output: 'static> + 'static>(
    name: &'static str,
    future: F,
) -> JoinHandle<F::Output> {
    CURRENT.with(Current::get).spawn(name, future)
}

/// Lets every other task that is ready, and the reactor, have a turn.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A future for the output of a task.
pub struct JoinHandle<T> {
    join: Rc<RefCell<Join<T>>>,
}

struct Join<T> {
    output: Option<T>,
    /// Of the task that awaits the handle.
    waker: Option<Waker>,
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut join = self.join.borrow_mut();
        match join.output.take() {
            Some(output) => Poll::Ready(output),
            None => {
                join.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("queue", &self.inner.shared.queue).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.join.borrow().output.is_some()).finish()
    }
}
