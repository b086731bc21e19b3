//! What the tokio rungs share and none of them teaches: signals, and counters that two tasks use.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell, RefMut};
use std::io;

use echo_service::{QueueTotals, Service};
use tokio::signal::unix::{SignalKind, signal};

/// Completes when SIGINT or SIGTERM has come since the first poll.
///
/// # Errors
///
/// When tokio cannot take the signals.
pub async fn first_signal() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
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
