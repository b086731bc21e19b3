#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

// In reading order: each imports only those above it.
mod error;

mod deadline;

pub mod proc;

mod address;
mod cores;

mod capture;
mod ending;

mod watch;

mod client;

pub mod strace;

mod recorder;

mod process;

mod launch;

pub mod demo;

pub use address::{Greeting, free_address, takes_address};
pub use client::{Client, difference, show};
pub use cores::{cores, on_core};
pub use deadline::{PATIENCE, eventually};
pub use ending::end_children_with_us;
pub use error::{Error, Result};
pub use launch::{Launch, Output};
pub use process::{Ended, Process, calls, describe};
pub use recorder::{inject, only, require_strace};
pub use watch::Watch;
