//! loadgen-lab: what proves loadgen and is no part of it.
//!
//! [`simulation`] runs loadgen's own engine against servers that are formulas, on made-up time, so that the analytic
//! tests and the tables of `loadgen-formulas` are the same on every machine. [`lossy_proxy`] is a network that loses,
//! doubles and damages datagrams, and counts what it does.

#![forbid(unsafe_code)]

pub mod lossy_proxy;
pub mod simulation;
