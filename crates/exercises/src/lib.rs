#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

// In reading order: each imports only those above it.
pub mod patch;

pub mod hole;

mod exercise;

mod folder;

pub use exercise::{Ask, Exercise, Hole, Question, Wrong, all, find};
pub use folder::{Copy, Folder, MARK};

/// What a step returns: the error is a sentence.
pub type Result<T> = std::result::Result<T, String>;
