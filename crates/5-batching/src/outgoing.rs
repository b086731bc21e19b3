//! What has been received and not sent, in the order in which it came.

use std::collections::VecDeque;

use echo_service::QueueTotals;

/// The queue of a ring's server. It holds slots and not bytes; those that are being sent count as queued.
#[derive(Debug)]
pub struct Outgoing<T> {
    waiting: VecDeque<T>,
    sending: usize,
    peak: usize,
}

impl<T> Default for Outgoing<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), sending: 0, peak: 0 }
    }
}

impl<T> Outgoing<T> {
    /// How many there are, those that are being sent included.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.sending
    }

    /// Whether all has been sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many are not being sent yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Those that are not being sent yet, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter()
    }

    /// The last one.
    pub fn push(&mut self, datagram: T) {
        self.waiting.push_back(datagram);
        self.peak = self.peak.max(self.len());
    }

    /// The oldest one, to be sent.
    pub fn begin(&mut self) -> Option<T> {
        let datagram = self.waiting.pop_front()?;
        self.sending += 1;
        Some(datagram)
    }

    /// One that was being sent has left the queue.
    pub fn end(&mut self) {
        self.sending = self.sending.saturating_sub(1);
    }
}

impl<T> From<&Outgoing<T>> for QueueTotals {
    fn from(queue: &Outgoing<T>) -> Self {
        Self { peak: queue.peak, dropped: queue.len() as u64 }
    }
}
