//! The reactor: turns the readiness that mio reports into wakes.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Token};

use crate::current::Current;
use crate::observer::{Observed, Step};

/// The token of the eventfd by which other threads end the wait. The wait's return is all that it is for.
const EVENTFD: Token = Token(0);

thread_local! {
    /// The reactor of the runtime that runs on this thread.
    pub(crate) static CURRENT: Current<RefCell<Reactor>> = const { Current::none() };
}

/// The epoll, and who waits for which of its descriptors.
pub(crate) struct Reactor {
    poll: mio::Poll,
    events: Events,
    observed: Observed,
    sources: HashMap<Token, Rc<Source>>,
    /// Tokens are never used twice, so a late event of a closed descriptor cannot be taken for another's.
    next: usize,
}

/// Which directions of a descriptor to wait for: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Wait for something to read.
    pub read: bool,
    /// Wait for room to write.
    pub write: bool,
}

impl Interest {
    /// Datagrams, bytes, connections, the end, or an error.
    pub const READ: Self = Self { read: true, write: false };
    /// Room for more, or an error.
    pub const WRITE: Self = Self { read: false, write: true };
}

/// What is known of one descriptor.
struct Source {
    /// Valid as long as the source is in the reactor.
    descriptor: i32,
    token: Token,
    read: Direction,
    write: Direction,
    /// Whether the system is asked for writability too. Only while somebody waits for it: each send that the
    /// kernel completes is news of writability, and would end a wait for nothing.
    asks_write: Cell<bool>,
}

/// mio is edge-triggered: it says once that a descriptor has become ready. So the news is kept here until an
/// operation meets would-block, and until then no wait is needed.
struct Direction {
    ready: Cell<bool>,
    /// More than one task may wait: a socket can be shared. Those of futures dropped meanwhile stay until the next
    /// event, which then wakes a task for nothing.
    waiting: RefCell<Vec<Waker>>,
}

impl Direction {
    fn new(ready: bool) -> Self {
        Self { ready: Cell::new(ready), waiting: RefCell::default() }
    }

    fn set_ready(&self, woken: &mut VecDeque<Waker>) {
        self.ready.set(true);
        woken.extend(self.waiting.borrow_mut().drain(..));
    }

    fn keep(&self, waker: &Waker, observed: &Observed) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|kept| kept.will_wake(waker)) {
            waiting.push(waker.clone());
            observed.observe(Step::Keep);
        }
    }
}

impl Reactor {
    /// Makes a reactor, and the eventfd that ends its wait.
    pub(crate) fn new(observed: Observed) -> io::Result<(Self, mio::Waker)> {
        let poll = mio::Poll::new()?;
        let eventfd = mio::Waker::new(poll.registry(), EVENTFD)?;
        let events = Events::with_capacity(256);
        Ok((Self { poll, events, observed, sources: HashMap::new(), next: EVENTFD.0 + 1 }, eventfd))
    }

    /// Waits up to `timeout` for events, and moves the wakers of those who waited for them to `woken`.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>, woken: &mut VecDeque<Waker>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            // A signal handler has run, or a debugger was here. The executor comes back, with a new timeout.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            waited => waited?,
        }
        for event in &self.events {
            let Some(source) = self.sources.get(&event.token()) else { continue };
            // The end and an error are found by the operation, in either direction.
            let closed = event.is_read_closed() || event.is_error();
            let readable = event.is_readable() || closed;
            let writable = event.is_writable() || event.is_write_closed() || closed;
            self.observed.observe(Step::Event { readable, writable });
            if readable {
                source.read.set_ready(woken);
            }
            if writable {
                source.write.set_ready(woken);
                ask(&self.poll, source, false)?;
            }
        }
        Ok(())
    }
}

/// Asks the system for news of writability, or no longer.
fn ask(poll: &mio::Poll, source: &Source, write: bool) -> io::Result<()> {
    if source.asks_write.replace(write) == write {
        return Ok(());
    }
    let read = mio::Interest::READABLE;
    let interest = if write { read | mio::Interest::WRITABLE } else { read };
    poll.registry().reregister(&mut SourceFd(&source.descriptor), source.token, interest)
}

/// A descriptor in the reactor of the current runtime, until it is dropped.
pub struct Registration<S: AsFd> {
    descriptor: S,
    source: Rc<Source>,
    reactor: Rc<RefCell<Reactor>>,
}

impl<S: AsFd> Registration<S> {
    /// Registers `descriptor`, which must be non-blocking.
    ///
    /// Until the system has said so it counts as not readable; until a try has met would-block it counts as writable.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` returns; for a regular file, for instance, that it cannot be waited for.
    ///
    /// # Panics
    ///
    /// If no runtime runs on this thread.
    pub fn new(descriptor: S) -> io::Result<Self> {
        let current = Current::get(&CURRENT);
        let source = {
            let reactor = &mut *current.borrow_mut();
            let source = Rc::new(Source {
                descriptor: descriptor.as_fd().as_raw_fd(),
                token: Token(reactor.next),
                read: Direction::new(false),
                write: Direction::new(true),
                asks_write: Cell::new(false),
            });
            let read = mio::Interest::READABLE;
            reactor.poll.registry().register(&mut SourceFd(&source.descriptor), source.token, read)?;
            reactor.next += 1;
            reactor.sources.insert(source.token, Rc::clone(&source));
            source
        };
        Ok(Self { descriptor, source, reactor: current })
    }

    /// The descriptor itself.
    pub fn get(&self) -> &S {
        &self.descriptor
    }

    /// Ready if one of the directions in `interest` may be; otherwise the current task is woken when one is.
    ///
    /// Readiness is a hint: the operation may still meet would-block.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` returns.
    pub fn poll_ready(&self, cx: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>> {
        let wanted = self.directions(interest);
        if wanted.clone().any(|direction| direction.ready.get()) {
            return Poll::Ready(Ok(()));
        }
        let reactor = self.reactor.borrow();
        wanted.for_each(|direction| direction.keep(cx.waker(), &reactor.observed));
        if interest.write {
            ask(&reactor.poll, &self.source, true)?;
        }
        Poll::Pending
    }

    /// Waits until one of the directions in `interest` may be ready.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` returns.
    pub async fn ready(&self, interest: Interest) -> io::Result<()> {
        poll_fn(|cx| self.poll_ready(cx, interest)).await
    }

    /// Tries an operation. It is not even tried, and the result is would-block, while the descriptor is known not to
    /// be ready; and when it meets would-block, that is known from then on.
    ///
    /// # Errors
    ///
    /// Those of `operation`.
    #[inline]
    pub fn try_io<T>(
        &self,
        interest: Interest,
        operation: impl FnOnce(&S) -> io::Result<T>,
    ) -> io::Result<T> {
        if !self.directions(interest).any(|direction| direction.ready.get()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let done = operation(&self.descriptor);
        if done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.directions(interest).for_each(|direction| direction.ready.set(false));
        }
        done
    }

    /// Tries an operation until it meets something else than would-block, or an interruption.
    ///
    /// # Errors
    ///
    /// Those of `operation`.
    pub fn poll_io<T>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match self.try_io(interest, &mut operation) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                done => return Poll::Ready(done),
            }
            ready!(self.poll_ready(cx, interest))?;
        }
    }

    fn directions(&self, interest: Interest) -> impl Iterator<Item = &Direction> + Clone {
        let read = interest.read.then_some(&self.source.read);
        let write = interest.write.then_some(&self.source.write);
        read.into_iter().chain(write)
    }
}

impl<S: AsFd> Drop for Registration<S> {
    fn drop(&mut self) {
        let reactor = &mut *self.reactor.borrow_mut();
        reactor.sources.remove(&self.source.token);
        // The descriptor is about to be closed, which takes it out of the epoll in any case.
        let _ = reactor.poll.registry().deregister(&mut SourceFd(&self.source.descriptor));
    }
}

impl<S: AsFd + fmt::Debug> fmt::Debug for Registration<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registration").field(&self.descriptor).finish()
    }
}
