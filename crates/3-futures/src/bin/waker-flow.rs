//! waker-flow: from `.await` to being polled again, in eight steps, for one datagram.
//!
//! New here: the way of a waker: from the task to the reactor, and with the system's event back again.
//! Run:      cargo run --bin waker-flow    (sends itself its datagram, and ends)
//! Watch:    cargo ladder trace waker-flow    (or: strace target/debug/waker-flow --marks)
//! Expect:   poll reader, pending reader, epoll_wait, wake reader, poll reader, recvfrom, ready reader
//! Still wrong: it receives one datagram, and echoes none (next: echo-mini).

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use echo_service::demo::Demo;
use mini_runtime::net::UdpSocket;
use mini_runtime::{Runtime, Step, spawn_named, yield_now};
use serde::Serialize;
use trace_marks::mark;

#[derive(clap::Args)]
struct NoFlags {}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    steps: usize,
    datagrams: usize,
    polls: usize,
    wakes: usize,
    wakers_kept: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, datagrams, polls, wakes, wakers_kept, .. } = self;
        write!(f, "{program}: {datagrams} datagram, {polls} polls, {wakes} wake, {wakers_kept} waker kept")
    }
}

fn main() -> ExitCode {
    let about = "Prints the eight steps from .await to being polled again, as they happen for one datagram";
    let (demo, NoFlags {}) = Demo::parse(env!("CARGO_BIN_NAME"), about);
    let story = Arc::new(Story { demo, step: AtomicUsize::new(0), told: Mutex::default() });
    story.demo.greet("one datagram, from .await to being polled again");

    let observer = Arc::clone(&story);
    let outcome = Runtime::with_observer(move |step| observer.tell(step))
        .and_then(|runtime| runtime.block_on(run(&story))?);
    let demo = &story.demo;
    let datagrams = match outcome {
        Ok(datagram) => usize::from(datagram == DATAGRAM),
        Err(error) => demo.fail_of("cannot send a datagram to itself", &error),
    };
    mark("shutdown");
    let told = story.told.lock().unwrap_or_else(PoisonError::into_inner);
    let count = |step| told.iter().filter(|told| **told == step).count();
    demo.finish(&Summary {
        program: demo.program(),
        steps: story.step.load(Ordering::Relaxed),
        datagrams,
        polls: count(Step::Poll("reader")),
        wakes: count(Step::Wake("reader")),
        wakers_kept: count(Step::Keep),
    });
    ExitCode::SUCCESS
}

const DATAGRAM: &[u8] = b"hello";

// region: tasks
/// Starts a task that waits for a datagram, and sends it one when it waits.
async fn run(story: &Story) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(([127, 0, 0, 1], 0).into())?;
    let address = socket.local_addr()?;
    let receive = receive(socket);
    story.say("called", "receive() has made a future, and run nothing of it");
    let reader = spawn_named("reader", receive);
    // The reader's turn comes first, then this function's.
    yield_now().await;
    UdpSocket::bind(([127, 0, 0, 1], 0).into())?.send_to(DATAGRAM, address).await?;
    reader.await
}

async fn receive(socket: UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).await?;
    Ok(buffer[..length].to_vec())
}
// endregion: tasks

/// The runtime's observer: says which step each event is.
struct Story {
    demo: Demo,
    step: AtomicUsize,
    told: Mutex<Vec<Step>>,
}

impl Story {
    fn tell(&self, step: Step) {
        self.demo.log(step);
        if step.task().is_some() {
            mark(&step.to_string());
        }
        let polled = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.push(step);
            told.iter().filter(|told| **told == Step::Poll("reader")).count()
        };
        match step {
            Step::Spawn("reader") => {
                self.say("scheduled", "spawn has put the task `reader` into the run queue")
            }
            Step::Poll("reader") if polled == 1 => {
                self.say("polled", "the executor takes it out and polls it: no datagram is known of")
            }
            Step::Keep => {
                self.say("cloned", "the reactor clones the waker, which came with the poll, and keeps it")
            }
            Step::Pending("reader") => self
                .say("pending", "the poll returns Pending; when nothing is left to poll, the executor waits"),
            Step::Event { .. } => {
                self.say("event", "the wait returns: the system says that the socket is readable")
            }
            Step::Wake("reader") => {
                self.say("woken", "the reactor calls the waker, which queues `reader` again")
            }
            Step::Poll("reader") => {
                self.say("polled", "the executor polls it again, the receive succeeds, and it is Ready")
            }
            _ => {}
        }
    }

    fn say(&self, what: &str, how: &str) {
        let number = self.step.fetch_add(1, Ordering::Relaxed) + 1;
        self.demo.say(format_args!("{number}  {what:<9}  {how}"));
    }
}
