//! A worker whose requests each have a connection to themselves: one task a connection, one engine for all of them.

use std::cell::{Cell, RefCell, RefMut};
use std::future::poll_fn;
use std::io;
use std::ops::DerefMut;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::sync::Notify;

use crate::clock::{Monotonic, Nanos};
use crate::engine::{Engine, Slot, Work};
use crate::pacer::{Pacer, PacerKind};
use crate::protocol::{Context, Protocol};
use crate::record::Recorder;
use crate::reporter::{CpuUse, Reporter, WorkerEnd};
use crate::schedule::Job;
use crate::worker::{self, Turns};

/// Where a connection's task finds its next request.
#[derive(Default)]
struct Mailbox {
    job: Cell<Option<Job>>,
    cancelled: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Mailbox {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn register(&self, waker: &Waker) {
        let mut held = self.waker.borrow_mut();
        if !held.as_ref().is_some_and(|held| held.will_wake(waker)) {
            *held = Some(waker.clone());
        }
    }

    async fn next(&self) -> Job {
        poll_fn(|cx| match self.job.take() {
            Some(job) => Poll::Ready(job),
            None => {
                self.register(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    async fn cancelled(&self) {
        poll_fn(|cx| {
            if self.cancelled.get() {
                return Poll::Ready(());
            }
            self.register(cx.waker());
            Poll::Pending
        })
        .await
    }
}

/// One connection's task: takes requests for as long as there are any, then idles.
async fn serve_slot<P: Protocol>(
    mut protocol: P,
    slot: Slot,
    mailbox: Rc<Mailbox>,
    engine: Rc<RefCell<Engine>>,
    drained: Rc<Notify>,
) {
    loop {
        let mut job = tokio::select! {
            biased;
            job = mailbox.next() => job,
            () = protocol.idle() => continue,
        };
        loop {
            mailbox.cancelled.set(false);
            let context = Context { engine: &engine, slot, job };
            let ending = tokio::select! {
                biased;
                () = mailbox.cancelled() => None,
                ending = protocol.fire(&context) => Some(ending),
            };
            let next = match &ending {
                Some(ending) => engine.borrow_mut().finish(slot, Monotonic.now(), ending),
                None => {
                    protocol.abandon();
                    engine.borrow_mut().rejoin(slot, Monotonic.now())
                }
            };
            match next {
                Some(next) => job = next,
                None => break,
            }
        }
        if engine.borrow().next_wake().is_none() {
            drained.notify_one();
        }
    }
}

/// The engine with its connections.
struct Pool<M> {
    engine: Rc<RefCell<Engine>>,
    /// Makes what speaks over a connection.
    make: M,
    mailboxes: Vec<Rc<Mailbox>>,
    /// Somebody's request was the last.
    drained: Rc<Notify>,
    cancelled: Vec<Slot>,
}

impl<P: Protocol + 'static, M: Fn(Slot) -> P> Turns for Pool<M> {
    fn stop(&mut self) {
        self.engine.borrow_mut().stop();
    }

    fn turn(&mut self, now: Nanos) -> Option<Nanos> {
        let mut engine = self.engine.borrow_mut();
        engine.wake(now, &mut self.cancelled);
        for slot in self.cancelled.drain(..) {
            self.mailboxes[slot].cancelled.set(true);
            self.mailboxes[slot].wake();
        }
        while let Some((slot, job)) = engine.dispatch(now) {
            if slot == self.mailboxes.len() {
                let mailbox: Rc<Mailbox> = Rc::default();
                self.mailboxes.push(Rc::clone(&mailbox));
                let (engine, drained) = (Rc::clone(&self.engine), Rc::clone(&self.drained));
                tokio::task::spawn_local(serve_slot((self.make)(slot), slot, mailbox, engine, drained));
            }
            self.mailboxes[slot].job.set(Some(job));
            self.mailboxes[slot].wake();
        }
        engine.next_wake()
    }

    async fn called(&self) -> io::Result<()> {
        self.drained.notified().await;
        Ok(())
    }

    fn recorder(&mut self) -> impl DerefMut<Target = Recorder> {
        RefMut::map(self.engine.borrow_mut(), |engine| &mut engine.recorder)
    }

    fn pending(&self) -> u64 {
        self.engine.borrow().pending()
    }

    fn over_limit(&self, now: Nanos, limit: Nanos) -> u64 {
        self.engine.borrow().over_limit(now, limit)
    }

    fn close(&mut self, now: Nanos) {
        self.engine.borrow_mut().close(now);
    }

    fn end(self, cpu: CpuUse) -> WorkerEnd {
        let mut engine = self.engine.borrow_mut();
        WorkerEnd {
            opened: engine.opened(),
            cap: engine.cap(),
            wakes: engine.wakes,
            recorder: engine.take_recorder(),
            udp: None,
            kernel_dropped: Some(0),
            cpu,
        }
    }
}

/// A worker whose requests each have a connection to themselves.
pub(crate) async fn worker<P: Protocol + 'static>(
    work: Work,
    pacer: PacerKind,
    reporter: Reporter,
    make: impl Fn(Slot) -> P,
) -> io::Result<WorkerEnd> {
    let pacer = Pacer::new(pacer)?;
    let pool = Pool {
        engine: Rc::new(RefCell::new(Engine::new(work.clone()))),
        make,
        mailboxes: Vec::new(),
        drained: Rc::default(),
        cancelled: Vec::new(),
    };
    worker::run(pool, &work, pacer, reporter).await
}
