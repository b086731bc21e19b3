//! loadgen: a constant-rate load generator that does not omit, and finds what a server can hold.
//!
//! Requests start on a schedule fixed in advance ([`schedule`]), whatever the server does, and each latency counts
//! from the moment at which its request *should* have started ([`record`]). A search over trials ([`search`]) turns
//! that into the highest rate that holds an objective ([`slo`]).
//!
//! Files import downwards. On the ground floor stand [`result`], [`schedule`] and [`record`]; [`engine`], [`slo`] and
//! [`search`] know neither sockets nor a runtime, so the analytic tests run them on made-up time (`loadgen-lab`). Above them the
//! pacer and the protocols, the loop of every worker and the room of those that have connections, then [`live`], which runs a
//! [`spec::Spec`]; on top the subcommands, the misbehaving target ([`serve`]) and the outputs ([`report`]).

#![forbid(unsafe_code)]

pub mod audit;
pub mod cli;
pub mod clock;
pub mod compare;
mod connections;
pub mod engine;
pub mod exit;
mod format;
pub mod live;
pub mod options;
mod outcome;
mod output;
pub mod pacer;
mod process;
pub mod progress;
pub mod protocol;
pub mod record;
pub mod replay;
pub mod report;
mod reporter;
pub mod result;
pub mod run;
pub mod schedule;
pub mod search;
pub mod search_command;
pub mod serve;
pub mod slo;
pub mod spec;
pub mod target;
pub mod template;
pub mod units;
mod windows;
mod worker;
