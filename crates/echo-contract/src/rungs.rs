//! The one table of all rungs: what each can do, and so what is asked of it.

/// How the wait of a rung reports readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// There is no wait: receive and send block.
    Blocking,
    /// Reported as long as it lasts.
    Level,
    /// Reported once, when it begins.
    Edge,
    /// Not at all: what was asked for is reported when it is done.
    Completion,
}

/// How datagrams cross between a rung and the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// A call for each datagram.
    Single,
    /// A call for several.
    Batch,
    /// A ring: no call of its own, so strace can fail none.
    Ring,
    /// In by a ring, and out by a call for several.
    RingIn,
}

impl Transfer {
    /// Whether it takes io_uring, which not every machine has, nor every container permits.
    pub fn takes_a_ring(self) -> bool {
        matches!(self, Self::Ring | Self::RingIn)
    }

    /// Whether a receive is a system call, which strace can fail.
    pub fn receives_by_call(self) -> bool {
        matches!(self, Self::Single | Self::Batch)
    }

    /// Whether a send is one.
    pub fn sends_by_call(self) -> bool {
        self != Self::Ring
    }
}

/// What sets one rung apart from the others as far as the contract goes.
#[derive(Clone, Copy, Debug)]
pub struct Rung {
    /// The binary's name.
    pub name: &'static str,
    /// The folder of its crate, under `crates`.
    pub layer: &'static str,
    /// How its wait reports readiness.
    pub trigger: Trigger,
    /// The system calls its wait may be, as strace names them; which one depends on the machine and the libc.
    pub wait_calls: &'static [&'static str],
    /// Whether it waits by itself, so that an error of the wait reaches it. The driver of tokio panics on most.
    pub waits_itself: bool,
    /// How datagrams cross between it and the kernel.
    pub transfer: Transfer,
    /// The values of `--on-full` it supports. The others are wrong usage.
    pub policies: &'static [&'static str],
    /// Whether it queues what it cannot send yet. A flip-flop holds one datagram, and receives no other meanwhile.
    pub queues: bool,
    /// Whether a server on a wildcard address answers from the address that was asked (`IP_PKTINFO`).
    pub answers_from_asked_address: bool,
    /// Whether others of the same user can bind its address too (`SO_REUSEPORT`).
    pub shares_its_address: bool,
}

const ALL_POLICIES: &[&str] = &["backpressure", "drop-newest", "drop-oldest"];
const NO_DROP_OLDEST: &[&str] = &["backpressure", "drop-newest"];
const BACKPRESSURE: &[&str] = &["backpressure"];
const EPOLL: &[&str] = &["epoll_wait", "epoll_pwait", "epoll_pwait2"];

const fn rung(
    name: &'static str,
    layer: &'static str,
    trigger: Trigger,
    wait_calls: &'static [&'static str],
) -> Rung {
    Rung {
        name,
        layer,
        trigger,
        wait_calls,
        waits_itself: true,
        transfer: Transfer::Single,
        policies: ALL_POLICIES,
        queues: true,
        answers_from_asked_address: false,
        shares_its_address: false,
    }
}

/// Every echo server of the ladder, in ladder order. A binary `echo-*` of a layer that is not in here
/// fails this crate's tests.
pub const RUNGS: &[Rung] = &[
    Rung {
        policies: BACKPRESSURE,
        queues: false,
        ..rung("echo-blocking", "1-readiness", Trigger::Blocking, &["recvfrom", "recvmsg"])
    },
    rung("echo-libc", "1-readiness", Trigger::Level, &["poll", "ppoll"]),
    rung("echo-select", "1-readiness", Trigger::Level, &["select", "pselect6"]),
    rung("echo-poll", "1-readiness", Trigger::Level, &["poll", "ppoll"]),
    rung("echo-epoll-level", "1-readiness", Trigger::Level, EPOLL),
    rung("echo-epoll-edge", "1-readiness", Trigger::Edge, EPOLL),
    // Level behaviour made from edges: an injected would-block on which no edge follows may still stall it.
    rung("echo-mio-level", "2-mio", Trigger::Edge, EPOLL),
    rung("echo-mio-edge", "2-mio", Trigger::Edge, EPOLL),
    rung("echo-mini", "3-futures", Trigger::Edge, EPOLL),
    Rung {
        waits_itself: false,
        policies: BACKPRESSURE,
        queues: false,
        ..rung("echo-tokio-await", "4-tokio", Trigger::Edge, EPOLL)
    },
    Rung { waits_itself: false, ..rung("echo-tokio-ready", "4-tokio", Trigger::Edge, EPOLL) },
    Rung { waits_itself: false, ..rung("echo-tokio", "4-tokio", Trigger::Edge, EPOLL) },
    // What is in the channel is out of the sender's reach, so it cannot drop the oldest.
    Rung {
        waits_itself: false,
        policies: NO_DROP_OLDEST,
        ..rung("echo-tokio-mpsc", "4-tokio", Trigger::Edge, EPOLL)
    },
    Rung {
        waits_itself: false,
        policies: NO_DROP_OLDEST,
        ..rung("echo-tokio-framed", "4-tokio", Trigger::Edge, EPOLL)
    },
    // A batch is received only into slots that are free.
    Rung {
        transfer: Transfer::Batch,
        policies: BACKPRESSURE,
        ..rung("echo-mmsg", "5-batching", Trigger::Level, EPOLL)
    },
    Rung {
        transfer: Transfer::Batch,
        policies: BACKPRESSURE,
        ..rung("echo-gso", "5-batching", Trigger::Level, EPOLL)
    },
    // A receive is asked for only with a slot that is free.
    Rung {
        transfer: Transfer::Ring,
        policies: BACKPRESSURE,
        ..rung("echo-uring", "5-batching", Trigger::Completion, &["io_uring_enter"])
    },
    Rung {
        transfer: Transfer::RingIn,
        policies: BACKPRESSURE,
        ..rung("echo-uring-multishot", "5-batching", Trigger::Completion, &["io_uring_enter"])
    },
    // Each of its threads is a flip-flop.
    Rung {
        policies: BACKPRESSURE,
        queues: false,
        shares_its_address: true,
        ..rung("echo-reuseport", "5-batching", Trigger::Blocking, &["recvfrom", "recvmsg"])
    },
];

/// The deliberately broken server of this crate's own tests. It is no rung.
const DOUBLE: Rung = rung("echo-double", "echo-contract", Trigger::Level, &["poll", "ppoll"]);

/// The entry of the program `name`.
pub fn find(name: &str) -> Option<&'static Rung> {
    RUNGS.iter().chain([&DOUBLE]).find(|rung| rung.name == name)
}
