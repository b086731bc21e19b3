//! What the tokio rungs share and none of them teaches: signals, the last call, counters that two tasks
//! use, the queue's policy where the queue is a channel, and buffers that come back. The demos with many
//! sockets share [`multisocket`], those with two listeners [`listeners`].
#![forbid(unsafe_code)]

pub mod listeners;
pub mod multisocket;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use datagram_queue::Policy;
use echo_service::{QueueTotals, Service};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

/// Takes SIGINT and SIGTERM, from now on. The future completes when one has come since.
///
/// # Errors
///
/// When tokio cannot take the signals.
pub fn take_signals() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Completes when SIGINT or SIGTERM has come, or had come already: `flag` is the service's.
///
/// # Errors
///
/// When tokio cannot take the signals.
pub async fn first_signal(flag: Arc<AtomicBool>) -> io::Result<()> {
    let signals = take_signals()?;
    // tokio tells only of signals that come from here on.
    if !flag.load(Ordering::Relaxed) {
        signals.await;
    }
    Ok(())
}

/// Runs `echo` until it completes or a signal comes. The signal cancels `stop`, at which the reader shall
/// end; the writer then has the length of the last call to send what is left.
///
/// # Errors
///
/// Those of `echo`, or when tokio cannot take the signals.
pub async fn until_signal(
    echo: impl Future<Output = io::Result<()>>,
    shared: &Shared,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut echo = pin!(echo);
    let signalled = shared.service().signal_flag();
    tokio::select! {
        outcome = &mut echo => return outcome,
        caught = first_signal(signalled) => caught?,
    }
    stop.cancel();
    let last_call = shared.service().last_call();
    // When the time is up, what is still queued is counted as dropped.
    timeout_at(last_call.into(), echo).await.unwrap_or(Ok(()))
}

/// Waits for a place in `queue`. Without one the datagram to come must be dropped, as
/// [`Policy::DropNewest`] does once the writer is blocked. `Err` says that the writer has ended.
///
/// # Errors
///
/// When the channel is closed.
pub async fn place<'a, T>(
    queue: &'a mpsc::Sender<T>,
    policy: Policy,
    is_blocked: &mut watch::Receiver<bool>,
) -> Result<Option<mpsc::Permit<'a, T>>, mpsc::error::SendError<()>> {
    match queue.try_reserve() {
        Ok(place) => Ok(Some(place)),
        Err(TrySendError::Closed(())) => Err(mpsc::error::SendError(())),
        Err(TrySendError::Full(())) if policy == Policy::Backpressure => queue.reserve().await.map(Some),
        Err(TrySendError::Full(())) => tokio::select! {
            place = queue.reserve() => place.map(Some),
            _ = is_blocked.wait_for(|blocked| *blocked) => Ok(None),
        },
    }
}

/// Runs `future`, and `then` whenever it is pending.
pub async fn on_pending<F: Future>(future: F, mut then: impl FnMut()) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            then();
        }
        polled
    })
    .await
}

/// Buffers in a circle. A payload is split off its buffer and frozen; once the writer has dropped it, the
/// buffer can have its memory back. There are more of them than reader, channel and writer can hold, so
/// the next one's memory always is back.
#[derive(Debug)]
pub struct Buffers {
    circle: VecDeque<BytesMut>,
    size: usize,
}

impl Buffers {
    /// Buffers of `size` bytes each for a channel of `capacity`.
    pub fn new(capacity: usize, size: usize) -> Self {
        Self { circle: (0..capacity + 3).map(|_| BytesMut::with_capacity(size)).collect(), size }
    }

    /// The buffer to receive into: empty, with room for `size` bytes.
    pub fn vacant(&mut self) -> &mut BytesMut {
        let buffer = &mut self.circle[0];
        buffer.clear();
        buffer.reserve(self.size);
        buffer
    }

    /// What was received into it; another buffer is the next one.
    pub fn take(&mut self) -> Bytes {
        let payload = self.circle[0].split().freeze();
        self.circle.rotate_left(1);
        payload
    }
}

/// The service, shared by a reader and a writer on one thread, and the counters of a queue that does not
/// count itself.
#[derive(Debug)]
pub struct Shared {
    service: RefCell<Service>,
    waiting: Cell<usize>,
    peak: Cell<usize>,
    dropped: Cell<u64>,
    /// Whether the writer holds a datagram that is no longer in the queue and not yet sent.
    in_hand: Cell<bool>,
}

impl Shared {
    /// Shares `service`.
    pub fn new(service: Service) -> Self {
        Self {
            service: RefCell::new(service),
            waiting: Cell::new(0),
            peak: Cell::new(0),
            dropped: Cell::new(0),
            in_hand: Cell::new(false),
        }
    }

    /// Borrows the service; not across an `.await`.
    pub fn service(&self) -> RefMut<'_, Service> {
        self.service.borrow_mut()
    }

    /// The reader has queued a datagram; returns how many wait now.
    pub fn pushed(&self) -> usize {
        let waiting = self.waiting.get() + 1;
        self.waiting.set(waiting);
        self.peak.set(self.peak.get().max(waiting));
        waiting
    }

    /// The writer has taken a datagram off the queue.
    pub fn popped(&self) {
        self.waiting.set(self.waiting.get() - 1);
        self.in_hand.set(true);
    }

    /// The writer has sent that datagram, or lost it to an error that is counted.
    pub fn settled(&self) {
        self.in_hand.set(false);
    }

    /// The reader has dropped a datagram because the queue was full.
    pub fn dropped(&self) {
        self.dropped.set(self.dropped.get() + 1);
    }

    /// The queue's counters; what it still holds counts as dropped, as does a datagram in the writer's hand.
    pub fn totals(&self) -> QueueTotals {
        let left = self.waiting.get() as u64 + u64::from(self.in_hand.get());
        QueueTotals { peak: self.peak.get(), dropped: self.dropped.get() + left }
    }
}
