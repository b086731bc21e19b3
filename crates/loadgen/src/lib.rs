//! loadgen: a constant-rate load generator that does not omit, and finds what a server can hold.
//!
//! Requests start on a schedule fixed in advance ([`schedule`]), whatever the server does, and each latency counts
//! from the moment at which its request *should* have started ([`record`]). A search over trials ([`search`]) turns
//! that into the highest rate that holds an objective ([`slo`]).
//!
//! The modules without I/O (`schedule`, `clock`, `record`, `slo`, `search`, `sim`) know neither sockets nor a
//! runtime: the analytic tests run them under a virtual clock. Around them stand the pacer, the protocols, the
//! misbehaving target ([`serve`]) and the outputs ([`report`]); [`testing`] has the network that loses datagrams.

#![forbid(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod compare;
pub mod engine;
mod format;
pub mod live;
pub mod options;
pub mod pacer;
pub mod progress;
pub mod protocol;
pub mod record;
pub mod report;
pub mod result;
pub mod run;
pub mod schedule;
pub mod search;
pub mod search_command;
pub mod serve;
pub mod sim;
pub mod slo;
pub mod target;
pub mod template;
pub mod testing;
