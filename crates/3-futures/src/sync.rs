//! What threads share, as two traits: a word of bits, and a lock.
//!
//! Only two structures of this crate are touched by more than one thread, the
//! [state of a task](crate::task::State) and the [run queue](crate::queue::RunQueue). Both are written against
//! these traits, so that `tests/loom.rs` can put loom's types in the place of std's and try every interleaving.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A family of primitives: [`Std`], or a model checker's.
pub trait Primitives {
    /// The family's atomic word.
    type Word: Word;
    /// The family's lock around a `T`.
    type Lock<T>: Lock<T>;
}

/// An atomic set of bits.
pub trait Word {
    /// Makes a word with these bits set.
    fn new(bits: usize) -> Self;
    /// Sets `bits`; returns all bits as they were before.
    fn fetch_or(&self, bits: usize, order: Ordering) -> usize;
    /// Clears all but `bits`; returns all bits as they were before.
    fn fetch_and(&self, bits: usize, order: Ordering) -> usize;
}

/// A value that one thread at a time may use.
pub trait Lock<T> {
    /// Wraps `value`.
    fn new(value: T) -> Self;
    /// Waits for its turn, then runs `work` on the value and returns what that returned.
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R;
}

/// The family that programs use: std's.
#[derive(Debug)]
pub struct Std;

impl Primitives for Std {
    type Word = AtomicUsize;
    type Lock<T> = Mutex<T>;
}

impl Word for AtomicUsize {
    fn new(bits: usize) -> Self {
        AtomicUsize::new(bits)
    }
    fn fetch_or(&self, bits: usize, order: Ordering) -> usize {
        self.fetch_or(bits, order)
    }
    fn fetch_and(&self, bits: usize, order: Ordering) -> usize {
        self.fetch_and(bits, order)
    }
}

impl<T> Lock<T> for Mutex<T> {
    fn new(value: T) -> Self {
        Mutex::new(value)
    }
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        // Nothing that runs under the lock can leave the value half changed, so a panic elsewhere does no harm.
        work(&mut self.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
