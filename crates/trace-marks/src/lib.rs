#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod marked;
mod marks;

pub use marked::{Markable, Marked};
pub use marks::{Marks, are_on, mark, mark_of, turn_on};
