//! A worker whose requests each have a connection to themselves: one task a connection, one engine for all of them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::sync::Notify;

use crate::clock::Monotonic;
use crate::engine::{Engine, Slot, Work};
use crate::pacer::{Pacer, PacerKind};
use crate::protocol::{Context, Protocol};
use crate::record::Recorder;
use crate::reporter::{CpuUse, Reporter, STOP_CHECK, WorkerEnd};
use crate::schedule::Job;

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

/// A worker whose requests each have a connection to themselves.
pub(crate) async fn worker<P: Protocol + 'static>(
    work: Work,
    pacer: PacerKind,
    mut reporter: Reporter,
    make: impl Fn(Slot) -> P,
) -> io::Result<WorkerEnd> {
    let mut pacer = Pacer::new(pacer)?;
    let (begin, start, end) = (work.start, work.measured_start(), work.end());
    let shared = Rc::new(RefCell::new(Engine::new(work)));
    let drained = Rc::new(Notify::new());
    let mut mailboxes: Vec<Rc<Mailbox>> = Vec::new();
    let mut cancelled = Vec::new();
    let mut cpu = CpuUse::default();
    pacer.until(begin).await?;
    loop {
        let now = Monotonic.now();
        let wake = {
            let mut engine = shared.borrow_mut();
            cpu.note(now, start, end);
            if reporter.stopped() {
                engine.stop();
            }
            engine.wake(now, &mut cancelled);
            for slot in cancelled.drain(..) {
                mailboxes[slot].cancelled.set(true);
                mailboxes[slot].wake();
            }
            while let Some((slot, job)) = engine.dispatch(now) {
                if slot == mailboxes.len() {
                    mailboxes.push(Rc::default());
                    let (mailbox, drained) = (Rc::clone(&mailboxes[slot]), Rc::clone(&drained));
                    tokio::task::spawn_local(serve_slot(
                        make(slot),
                        slot,
                        mailbox,
                        Rc::clone(&shared),
                        drained,
                    ));
                }
                mailboxes[slot].job.set(Some(job));
                mailboxes[slot].wake();
            }
            let due = reporter.is_due(now);
            let over =
                if due { reporter.limit().map_or(0, |limit| engine.over_limit(now, limit)) } else { 0 };
            let pending = engine.pending();
            reporter.report(&mut engine.recorder, now, pending, over);
            engine.next_wake()
        };
        let Some(wake) = wake else { break };
        let give_up = shared.borrow().give_up_at();
        if now >= give_up || reporter.stopped() {
            break;
        }
        tokio::select! {
            biased;
            woken = pacer.until(wake.min(now + STOP_CHECK).min(give_up)) => woken?,
            () = drained.notified() => {}
        }
    }
    cpu.close();
    let mut engine = shared.borrow_mut();
    let now = Monotonic.now();
    engine.close(now);
    reporter.report(&mut engine.recorder, now, 0, 0);
    let recorder = std::mem::replace(&mut engine.recorder, Recorder::new(start, end - start, None));
    Ok(WorkerEnd {
        recorder,
        opened: engine.opened(),
        cap: engine.cap(),
        wakes: engine.wakes,
        udp: None,
        kernel_dropped: Some(0),
        cpu,
    })
}
