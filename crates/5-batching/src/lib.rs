//! What the rungs of this layer share that stand on a ring.
#![deny(unsafe_code)]

mod outgoing;
#[allow(unsafe_code)]
pub mod ring;

pub use outgoing::Outgoing;
