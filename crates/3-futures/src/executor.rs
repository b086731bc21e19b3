//! The executor: polls what was woken, and waits when nothing was.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::iter;
use std::mem;
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

/// The number of the future given to `block_on`, which lives on the stack and not among the tasks.
const MAIN: u64 = 0;

/// A runtime for one thread. Futures on it need not be `Send`; their wakers may go anywhere.
///
/// A panic of a task ends that task alone, and comes out of [`block_on`](Self::block_on). The runtime can be used further:
/// the next `block_on` goes on with the other tasks.
///
/// Dropping it drops all its tasks, in the order in which they were spawned. What their destructors spawn is dropped at
/// once. Sockets and timers, there and wherever they outlive the runtime, stay usable in the sense that nothing
/// panics, but nobody wakes them any more.
pub struct Runtime {
    inner: Rc<Inner>,
}

/// The part that belongs to the runtime's thread.
struct Inner {
    shared: Arc<Shared>,
    reactor: Rc<RefCell<Reactor>>,
    timer: Rc<RefCell<Timer>>,
    tasks: RefCell<Tasks>,
    /// Wakers that are to be called. Empty but within [`Inner::wait`], or if one of them has panicked there.
    woken: RefCell<VecDeque<Waker>>,
}

#[derive(Default)]
struct Tasks {
    /// By the task's number, and so in the order in which they were spawned. Numbers are never used twice, so a late wake
    /// of a task that is over cannot be taken for another's. A task is not in here while it is being polled.
    spawned: BTreeMap<u64, Spawned>,
    /// The number of the latest task.
    latest: u64,
    /// The runtime is being dropped, and takes no more tasks.
    closed: bool,
}

struct Spawned {
    /// Goes before the future: from then on, no wake queues the task.
    _alive: Alive,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

/// A task that is not over. It is when this goes, be it by a panic.
struct Alive(Arc<Task>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.state.finish();
    }
}

/// What one turn has still to poll. If a panic ends the turn early, it goes back into the queue, before all else.
struct Turn<'a> {
    tasks: VecDeque<Arc<Task>>,
    queue: &'a RunQueue<Arc<Task>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queue.put_back(mem::take(&mut self.tasks));
    }
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
            tasks: RefCell::default(),
            woken: RefCell::default(),
        };
        Ok(Self { inner: Rc::new(inner) })
    }

    /// As [`spawn`], from outside of the runtime; the task is first polled by the next `block_on`.
    pub fn spawn<F: Future<Output: 'static> + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        self.inner.spawn("task", future)
    }

    /// Runs `future` to its end, and the spawned tasks beside it. Tasks that are not over by then stay, and
    /// go on in the next `block_on`; so they do if a panic ends this one.
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
        let entered = Entered::new(inner);
        // In a destructor of a task, while its runtime is being dropped, another one may run.
        let alone = entered.before.as_ref().is_none_or(|before| before.tasks.borrow().closed);
        assert!(alone, "block_on was called within a block_on, whose tasks it would stop");
        let main = Alive(Arc::new(Task { state: State::new(), number: MAIN, name: "main", shared }));
        let mut future = pin!(future);
        if main.0.state.wake() {
            inner.shared.schedule(Arc::clone(&main.0));
        }
        // region: turn
        let mut turn = Turn { tasks: VecDeque::new(), queue: &inner.shared.queue };
        loop {
            // One turn: what is queued now, and nothing that is queued meanwhile. A task that wakes itself thereby
            // comes after its neighbours, and after a look at the descriptors and the clock.
            turn.queue.take(&mut turn.tasks);
            let mut output = Poll::Pending;
            while let Some(task) = turn.tasks.pop_front() {
                if !Arc::ptr_eq(&task, &main.0) {
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
        // The tasks' destructors find a runtime, which refuses their tasks and wakes nobody.
        let _entered = Entered::new(&self.inner);
        let spawned = {
            let mut tasks = self.inner.tasks.borrow_mut();
            tasks.closed = true;
            mem::take(&mut tasks.spawned)
        };
        // First the queue, which from then on takes nothing, then the futures, whose drops may wake others.
        drop(self.inner.shared.queue.close());
        drop(spawned);
    }
}

impl Inner {
    fn spawn<F: Future<Output: 'static> + 'static>(
        &self,
        name: &'static str,
        future: F,
    ) -> JoinHandle<F::Output> {
        let join = Rc::new(RefCell::new(Join::Running(None)));
        let completion = Completion(Rc::clone(&join));
        let future = Box::pin(async move { completion.end(Join::Finished(future.await)) });
        let task = {
            let mut tasks = self.tasks.borrow_mut();
            if tasks.closed {
                return JoinHandle { join };
            }
            tasks.latest += 1;
            let number = tasks.latest;
            let task = Arc::new(Task { state: State::new(), number, name, shared: Arc::clone(&self.shared) });
            tasks.spawned.insert(number, Spawned { _alive: Alive(Arc::clone(&task)), future });
            task
        };
        self.shared.observed.observe(Step::Spawn(name));
        if task.state.wake() {
            self.shared.schedule(task);
        }
        JoinHandle { join }
    }

    fn poll_spawned(&self, task: &Arc<Task>) {
        // A task that is over may still have been in the queue.
        if !task.state.begin() {
            return;
        }
        // Taken out while it is polled, so that it can spawn others, and so that its drop can do anything.
        let Some(mut spawned) = self.tasks.borrow_mut().spawned.remove(&task.number) else { return };
        if self.poll(task, spawned.future.as_mut()).is_pending() {
            self.tasks.borrow_mut().spawned.insert(task.number, spawned);
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
        // A waker that panicked in the last wait has left others behind it.
        let idle = self.woken.borrow().is_empty() && self.shared.queue.try_sleep();
        self.shared.observed.observe(Step::Wait { idle });
        // Computed just before the wait: a timer that the last turn has set is in it, and needs no wake of its own.
        let timeout = if idle { self.timer.borrow().timeout() } else { Some(Duration::ZERO) };
        let waited = self.reactor.borrow_mut().wait(timeout, &mut self.woken.borrow_mut());
        self.shared.queue.awake();
        self.timer.borrow_mut().fire(&mut self.woken.borrow_mut());
        // Called last, when nothing is borrowed: a foreign waker may do more than to queue a task.
        let next = || self.woken.borrow_mut().pop_front();
        iter::from_fn(next).for_each(Waker::wake);
        waited
    }
    // endregion: wait
}

thread_local! {
    /// The runtime that runs on this thread.
    static CURRENT: Current<Inner> = const { Current::none() };
}

/// Makes a runtime the one that runs on this thread, until this is dropped.
struct Entered {
    /// The one that was.
    before: Option<Rc<Inner>>,
}

impl Entered {
    fn new(inner: &Rc<Inner>) -> Self {
        Self { before: exchange(Some(Rc::clone(inner))) }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        exchange(self.before.take());
    }
}

/// Lends the parts of a runtime to this thread; returns the runtime whose parts it had.
fn exchange(inner: Option<Rc<Inner>>) -> Option<Rc<Inner>> {
    Current::replace(&reactor::CURRENT, inner.as_ref().map(|inner| Rc::clone(&inner.reactor)));
    Current::replace(&timer::CURRENT, inner.as_ref().map(|inner| Rc::clone(&inner.timer)));
    Current::replace(&CURRENT, inner)
}

/// Starts `future` as a task of its own on the current runtime; it runs on while others wait.
///
/// The handle gives its output. To drop the handle changes nothing for the task. In a destructor that runs because the
/// runtime is being dropped, `future` is dropped at once, and never polled.
///
/// # Panics
///
/// If no runtime runs on this thread.
pub fn spawn<F: Future<Output: 'static> + 'static>(future: F) -> JoinHandle<F::Output> {
    spawn_named("task", future)
}

/// As [`spawn`], with a name for the [`Observer`](crate::Observer).
///
/// # Panics
///
/// If no runtime runs on this thread.
pub fn spawn_named<F: Future<Output: 'static> + 'static>(
    name: &'static str,
    future: F,
) -> JoinHandle<F::Output> {
    Current::get(&CURRENT).spawn(name, future)
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
///
/// It is ready when the task is, on whatever runtime of this thread it is awaited, and gives the output once.
///
/// # Panics
///
/// To await it panics if no output will ever come: because the task has panicked, because its runtime was dropped before
/// the task was over (or was being dropped when the task was spawned), or because the handle has given its output before.
pub struct JoinHandle<T> {
    join: Rc<RefCell<Join<T>>>,
}

/// What has become of a task.
enum Join<T> {
    /// It is not over. The waker is that of the task which awaits the handle.
    Running(Option<Waker>),
    Finished(T),
    /// Finished, and the handle has given its output.
    Taken,
    /// Its future was dropped before it was ready.
    Lost,
}

/// The task's side of its handle. Lives in the task's future, and so ends with it, however that ends.
struct Completion<T>(Rc<RefCell<Join<T>>>);

impl<T> Completion<T> {
    /// Tells the handle, if it does not know already, and wakes whoever awaits it.
    fn end(&self, outcome: Join<T>) {
        if !matches!(*self.0.borrow(), Join::Running(_)) {
            return;
        }
        if let Join::Running(Some(waker)) = self.0.replace(outcome) {
            waker.wake();
        }
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        self.end(Join::Lost);
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let join = &mut *self.join.borrow_mut();
        match join {
            Join::Running(waker) => {
                *waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Join::Lost => panic!(
                "this handle waits for an output that will never come: the task has panicked, or its runtime is gone"
            ),
            Join::Finished(_) | Join::Taken => {}
        }
        match mem::replace(join, Join::Taken) {
            Join::Finished(output) => Poll::Ready(output),
            _ => panic!("this handle was awaited before, and has given its output away"),
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
        f.debug_struct("JoinHandle")
            .field("finished", &matches!(*self.join.borrow(), Join::Finished(_)))
            .finish()
    }
}
