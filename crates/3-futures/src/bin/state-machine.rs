//! state-machine: one small future, as an `async fn` and as an enum with a `poll` written by hand.
//!
//! New here: what an `async fn` compiles to: a value that remembers where it stopped, and what it still needs.
//! Run:      cargo run --bin state-machine
//! Watch:    what it prints: each poll, what the poll called, and the state that it left behind
//! Expect:   both are polled three times, call the same, and hold the buffer, which is needed after each wait
//! Still wrong: `main` polls when it happens to know that it is worth it (next: the mini runtime, which is told).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::hint::black_box;
use std::mem;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use echo_service::demo::Demo;
use serde::Serialize;
use trace_marks::mark;

#[derive(clap::Args)]
struct Flags {
    /// Find out, too, what a future in a box costs
    #[arg(long)]
    boxed: bool,
}

/// How large the buffer is, in bytes.
const SIZE: usize = 64;

/// How many futures are made and polled in a row to find out what a box costs, and how often.
const FUTURES: u32 = 10_000;
const TRIES: u32 = 20;

/// A socket that is ready when it is told, for one call.
#[derive(Default)]
struct Socket {
    ready: Cell<bool>,
    /// What has been called since the last look.
    calls: RefCell<Vec<&'static str>>,
}

impl Socket {
    fn poll(&self, done: &'static str, pending: &'static str) -> Poll<()> {
        let ready = self.ready.take();
        self.calls.borrow_mut().push(if ready { done } else { pending });
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Receives a datagram into `buffer`; returns its length.
    fn poll_receive(&self, buffer: &mut [u8]) -> Poll<usize> {
        self.poll("receive: 5 bytes", "receive: not ready").map(|()| {
            buffer[..5].copy_from_slice(b"hello");
            5
        })
    }

    /// Sends `payload`; returns its length.
    fn poll_send(&self, payload: &[u8]) -> Poll<usize> {
        self.poll("send: 5 bytes", "send: not ready").map(|()| payload.len())
    }

    async fn receive(&self, buffer: &mut [u8]) -> usize {
        poll_fn(|_| self.poll_receive(buffer)).await
    }

    async fn send(&self, payload: &[u8]) -> usize {
        poll_fn(|_| self.poll_send(payload)).await
    }
}

// region: async
async fn echo(socket: &Socket) -> usize {
    let mut buffer = [0; SIZE];
    let length = socket.receive(&mut buffer).await;
    socket.send(&buffer[..length]).await
}
// endregion: async

// region: enum
/// The same by hand: a variant for each place where it can stop, with what is needed from there on.
enum Echo<'a> {
    Start { socket: &'a Socket },
    Receiving { socket: &'a Socket, buffer: [u8; SIZE] },
    Sending { socket: &'a Socket, buffer: [u8; SIZE], length: usize },
    Done,
}

impl Future for Echo<'_> {
    type Output = usize;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<usize> {
        loop {
            match &mut *self {
                Echo::Start { socket } => *self = Echo::Receiving { socket, buffer: [0; SIZE] },
                Echo::Receiving { socket, buffer } => match socket.poll_receive(buffer) {
                    Poll::Ready(length) => *self = Echo::Sending { socket, buffer: *buffer, length },
                    Poll::Pending => return Poll::Pending,
                },
                Echo::Sending { socket, buffer, length } => match socket.poll_send(&buffer[..*length]) {
                    Poll::Ready(sent) => {
                        *self = Echo::Done;
                        return Poll::Ready(sent);
                    }
                    Poll::Pending => return Poll::Pending,
                },
                Echo::Done => panic!("polled again after it was ready"),
            }
        }
    }
}
// endregion: enum

impl Echo<'_> {
    fn state(&self) -> &'static str {
        match self {
            Self::Start { .. } => "Start",
            Self::Receiving { .. } => "Receiving",
            Self::Sending { .. } => "Sending",
            Self::Done => "Done",
        }
    }
}

// region: sizes
/// The kilobyte is needed after the wait.
async fn keeps(socket: &Socket) -> u8 {
    let kilobyte = [1; 1024];
    socket.send(b"").await;
    kilobyte[0]
}

/// Only one byte of it is.
async fn lets_go(socket: &Socket) -> u8 {
    let first = {
        let kilobyte = [1; 1024];
        kilobyte[0]
    };
    socket.send(b"").await;
    first
}
// endregion: sizes

/// One poll.
#[derive(Serialize)]
struct Step {
    calls: Vec<&'static str>,
    ready: bool,
    /// The variant that it left behind; of an `async fn` it cannot be seen.
    state: Option<&'static str>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.ready { "ready" } else { "pending" };
        write!(f, "{:<34}  {outcome:<7}", self.calls.join(", "))?;
        self.state.map_or(Ok(()), |state| write!(f, "  now {state}"))
    }
}

#[derive(Serialize)]
struct Summary {
    program: &'static str,
    /// Sizes in bytes.
    async_fn_bytes: usize,
    /// The future that it waits for first, which is a part of it.
    receive_bytes: usize,
    enum_bytes: usize,
    keeps_bytes: usize,
    lets_go_bytes: usize,
    async_fn: Vec<Step>,
    by_hand: Vec<Step>,
    /// Whether a reference to the value's own buffer still points at that buffer: before a move, and after.
    points_home: [bool; 2],
    /// What the enum returned although it was moved between two polls.
    moved_enum_returned: Option<usize>,
    /// With `--boxed`.
    cost: Option<BoxCost>,
}

/// A future that is made, polled once and dropped, in nanoseconds.
#[derive(Serialize)]
struct BoxCost {
    in_place_ns: f64,
    boxed_ns: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, async_fn_bytes, enum_bytes, .. } = self;
        write!(f, "{program}: the async fn takes {async_fn_bytes} bytes, the enum {enum_bytes}")
    }
}

fn main() -> ExitCode {
    let about = "One small future, as an async fn and as an enum with a poll written by hand";
    let (demo, Flags { boxed }) = Demo::parse::<Flags>(env!("CARGO_BIN_NAME"), about);
    mark("ready");
    let socket = Socket::default();

    // The futures only wait in `pin!`: nobody is to move them any more.
    let mut by_compiler = pin!(echo(&socket));
    let async_fn_bytes = mem::size_of_val(&*by_compiler);
    let receive_bytes = mem::size_of_val(&socket.receive(&mut [0; SIZE]));
    demo.say(format_args!(
        "async fn echo, {async_fn_bytes} bytes, of which its receive takes {receive_bytes}"
    ));
    let async_fn = poll_to_the_end(&demo, &socket, |context| (by_compiler.as_mut().poll(context), None));

    let mut by_hand = Echo::Start { socket: &socket };
    let enum_bytes = mem::size_of_val(&by_hand);
    demo.say(format_args!("enum Echo, {enum_bytes} bytes"));
    let by_hand = poll_to_the_end(&demo, &socket, |context| {
        let polled = Pin::new(&mut by_hand).poll(context);
        (polled, Some(by_hand.state()))
    });

    let (keeps_bytes, lets_go_bytes) =
        (mem::size_of_val(&keeps(&socket)), mem::size_of_val(&lets_go(&socket)));
    demo.say("what is needed after an await is in the future");
    demo.say(format_args!("  1024 bytes that are needed after it:     {keeps_bytes:>5} bytes"));
    demo.say(format_args!("  1024 bytes of which one is needed:       {lets_go_bytes:>5} bytes"));

    let points_home = move_a_self_reference();
    demo.say("a value that refers to itself, moved");
    demo.say(format_args!(
        "  its reference points at its own buffer:  {}, then {}",
        points_home[0], points_home[1]
    ));
    let moved_enum_returned = move_between_polls(&socket);
    demo.say(format_args!(
        "  the enum refers to nothing of its own:   moved and polled on, it returns {moved_enum_returned:?}"
    ));

    let cost = boxed.then(|| BoxCost {
        in_place_ns: nanoseconds(|| poll_in_place(&socket)),
        boxed_ns: nanoseconds(|| poll_in_a_box(&socket)),
    });
    if let Some(BoxCost { in_place_ns, boxed_ns }) = &cost {
        demo.say("made, polled once and dropped");
        demo.say(format_args!("  in place {in_place_ns:.0} ns, in a box {boxed_ns:.0} ns"));
    }

    demo.finish(&Summary {
        program: demo.program(),
        async_fn_bytes,
        receive_bytes,
        enum_bytes,
        keeps_bytes,
        lets_go_bytes,
        async_fn,
        by_hand,
        points_home,
        moved_enum_returned,
        cost,
    });
    ExitCode::SUCCESS
}

/// Polls until it is ready. From the second poll on, the socket is ready for one call.
fn poll_to_the_end(
    demo: &Demo,
    socket: &Socket,
    mut poll: impl FnMut(&mut Context<'_>) -> (Poll<usize>, Option<&'static str>),
) -> Vec<Step> {
    // Nobody is woken: this loop knows when to poll.
    let mut context = Context::from_waker(Waker::noop());
    let mut steps = Vec::new();
    loop {
        socket.ready.set(!steps.is_empty());
        let (polled, state) = poll(&mut context);
        let step = Step { calls: socket.calls.take(), ready: polled.is_ready(), state };
        demo.say(format_args!("  poll {}: {step}", steps.len() + 1));
        steps.push(step);
        if polled.is_ready() {
            return steps;
        }
    }
}

// region: moved
/// What the `async fn` holds while it waits for its receive: the buffer, and where the buffer is.
struct SelfReference {
    buffer: [u8; SIZE],
    /// An address instead of a reference: safe Rust would refuse to move what is borrowed.
    reference: usize,
}

/// Whether the reference points at the buffer: before the value is moved, and after.
fn move_a_self_reference() -> [bool; 2] {
    let points_home = |value: &SelfReference| value.reference == value.buffer.as_ptr().addr();
    let mut here = SelfReference { buffer: [0; SIZE], reference: 0 };
    here.reference = here.buffer.as_ptr().addr();
    let before = points_home(&here);
    // A move copies the bytes to another place, the old address among them.
    let there = Box::new(here);
    [before, points_home(&there)]
}
// endregion: moved

/// Polls the enum, moves it, and polls it to the end.
fn move_between_polls(socket: &Socket) -> Option<usize> {
    let mut context = Context::from_waker(Waker::noop());
    let mut here = Echo::Start { socket };
    let mut ready = Pin::new(&mut here).poll(&mut context).is_ready();
    let mut there = Box::new(here);
    let mut returned = None;
    while !ready {
        socket.ready.set(true);
        if let Poll::Ready(length) = Pin::new(&mut there).poll(&mut context) {
            (ready, returned) = (true, Some(length));
        }
    }
    socket.calls.take();
    returned
}

fn poll_in_place(socket: &Socket) {
    let future = pin!(black_box(echo(socket)));
    poll_once(socket, future);
}

fn poll_in_a_box(socket: &Socket) {
    let mut future = Box::pin(black_box(echo(socket)));
    poll_once(socket, future.as_mut());
}

fn poll_once(socket: &Socket, future: Pin<&mut impl Future>) {
    black_box(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    socket.calls.borrow_mut().clear();
}

/// How long one of many runs takes: in the quickest of several tries, which other programs have disturbed least.
fn nanoseconds(run: impl Fn()) -> f64 {
    let tries = (0..TRIES).map(|_| {
        let start = Instant::now();
        (0..FUTURES).for_each(|_| run());
        start.elapsed().as_nanos() as f64 / f64::from(FUTURES)
    });
    tries.fold(f64::INFINITY, f64::min)
}
