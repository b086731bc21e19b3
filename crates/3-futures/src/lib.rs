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
