//! What the rungs of this layer share.
#![deny(unsafe_code)]

mod group_queue;
mod outgoing;
#[allow(unsafe_code)]
pub mod ring;

pub use group_queue::{Batch, GroupQueue, SLOT};
pub use outgoing::Outgoing;
