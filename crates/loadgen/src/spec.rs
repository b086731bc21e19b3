//! A run, ready to start: whereto, what, when, and how the generator goes about it.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::clock::Nanos;
use crate::engine::Closed;
use crate::pacer::PacerKind;
use crate::protocol::stream::Tls;
use crate::protocol::{Client, Route};
use crate::result::PlannedRequest;
use crate::schedule::{Schedule, Share};
use crate::slo::Objective;
use crate::template::Requests;

/// What kind of requests, and whereto.
#[derive(Clone)]
pub enum RequestKind {
    /// HTTP/1.1, over TLS if there is one.
    Http(Client, Arc<Route>, Arc<Requests>, Option<Tls>),
    /// Datagrams of this size.
    Udp(Arc<Route>, usize),
    /// Connect, send this (if it is not empty), read to the end.
    Line(Arc<Route>, Bytes),
}

impl RequestKind {
    /// Where its connections go.
    pub fn route(&self) -> &Route {
        match self {
            Self::Http(_, route, ..) | Self::Udp(route, _) | Self::Line(route, _) => route,
        }
    }
}

/// A run, ready to start.
#[derive(Clone)]
pub struct Spec {
    /// Whereto and what.
    pub kind: RequestKind,
    /// The same, as it stands in a result.
    pub planned: Vec<PlannedRequest>,
    /// When.
    pub schedule: Schedule,
    /// Which part of the schedule is this process's.
    pub share: Share,
    /// Length of the warm-up.
    pub warm_up: Nanos,
    /// When the warm-up begins; at once if `None`.
    pub start_at: Option<SystemTime>,
    /// How the workers wait.
    pub pacer: PacerKind,
    /// Requests due within this time leave at one wake.
    pub coalesce: Nanos,
    /// Workers.
    pub threads: usize,
    /// Connections (sockets for udp) of all workers together; `None` is auto: as many as the open model asks for.
    pub connections: Option<usize>,
    /// Age at which a request is cancelled.
    pub timeout: Nanos,
    /// Wait for what is unfinished at the end.
    pub grace: Nanos,
    /// `None`: open loop.
    pub closed: Option<Closed>,
    /// The objective.
    pub objective: Objective,
    /// It is a trial of a search: it ends as soon as the objective cannot hold any more, and connections must suffice.
    pub trial: bool,
    /// End after a warm-up in which nothing was answered.
    pub stop_if_unanswered: bool,
}
