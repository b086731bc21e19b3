#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

// Each file uses only those that stand above it in the table: `tests/reading_order.rs` asserts it.
mod current;
mod executor;
pub mod net;
mod observer;
pub mod queue;
pub mod reactor;
pub mod sync;
pub mod task;
mod timer;
mod wheel;

pub use executor::{JoinHandle, Runtime, spawn, spawn_named, yield_now};
pub use observer::{Observer, Step};
pub use timer::{Elapsed, Interval, Sleep, interval, sleep, sleep_until, timeout};

/// What the page of `state-machine` says: the future of an `async fn` may not be moved once it is pinned, so
/// `Pin::new` refuses it,
///
/// ```compile_fail
/// async fn echo() {}
/// let mut future = echo();
/// std::pin::Pin::new(&mut future);
/// ```
///
/// and `pin!`, which takes it away from its owner, does not:
///
/// ```
/// async fn echo() {}
/// let future = echo();
/// let _pinned: std::pin::Pin<&mut _> = std::pin::pin!(future);
/// ```
#[cfg(doctest)]
pub struct AsyncFunctionsAreNotUnpin;
