//! What a picture shows: items in the order in which causes stand above their effects, and the columns they stand in.

use std::collections::HashMap;

use harness::strace::Call;

use super::label::{self, Kind};
use crate::names::Rendered;
use crate::story::{Line, Sent, Story, What};

/// One thing that happened, or several that are equal.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What it is.
    pub event: Event,
    /// The thread that did it; an index into [`Timeline::threads`].
    pub thread: usize,
    /// Indices of its lines in the story.
    pub lines: Vec<usize>,
    /// How many neighbours it stands for.
    pub count: usize,
    /// Datagrams that wait in each socket afterwards, by index into [`Timeline::sockets`]; and, if there is a ring, what
    /// it has been asked and has not done.
    pub waiting: Vec<usize>,
    /// When it began and when it ended, if strace wrote the times: in microseconds.
    pub micros: Option<(u64, u64)>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The client did something.
    Client(String),
    /// A mark without a meaning of its own, a signal, or an end.
    Mark(String),
    /// The program has written a request into a ring, which stands for the kernel.
    Ask(String),
    /// The program has taken a completion from a ring.
    Done(String),
    /// A system call.
    Call(CallBox),
    /// A call that has not returned.
    Open(CallBox),
    /// A waker was called: of a task in a column.
    Wake(usize),
    /// A task was started.
    Spawn(usize),
    /// A poll begins.
    Poll(usize),
    /// It ends.
    Polled(usize, End),
    /// It begins and ends, and nothing happens in between.
    Empty(usize, End),
    /// The rows above, so many of them, so often once more.
    Again {
        /// How many rows.
        rows: usize,
        /// How often.
        times: usize,
        /// Tasks that are polled in them.
        polls: Vec<usize>,
    },
    /// What does not fit.
    Hidden(Vec<Item>),
}

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The future is not ready.
    Pending,
    /// The future is over.
    Ready,
    /// The future was dropped unfinished; this need not be in a poll.
    Dropped,
}

/// The box of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallBox {
    /// Its kind.
    pub kind: Kind,
    /// Whether it takes from a socket, whatever its kind.
    pub receives: bool,
    /// Name of the call.
    pub name: String,
    /// What it was called on: its first argument.
    pub on: String,
    /// A few words.
    pub label: String,
    /// What was sent or received, if anything.
    pub payload: Option<String>,
    /// One sentence.
    pub says: String,
}

/// All that a picture shows, before anything is folded.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Heading.
    pub title: String,
    /// Sockets whose receive buffers are counted; and behind them [`RING`], if the program has one.
    pub sockets: Vec<String>,
    /// Threads, in order of appearance.
    pub threads: Vec<String>,
    /// Tasks and futures, in order of appearance.
    pub tasks: Vec<String>,
    /// What happened, causes first.
    pub items: Vec<Item>,
}

/// The heading over the number of requests that a ring has been asked and has not done.
pub const RING: &str = "ring";

/// Columns of threads at most; the others share the last.
const THREADS: usize = 3;

/// Columns of tasks at most, beside so many sockets and threads; the marks of others stand among the calls.
fn room_for_tasks(sockets: usize, threads: usize) -> usize {
    (464_usize.saturating_sub(60 * sockets + 110 * threads.min(THREADS)) / 40).clamp(1, 6)
}

/// A place in the order: line of the recording, things that stand behind it, and where the story has it.
type Place = (usize, usize, usize);

impl Timeline {
    /// Arranges a story.
    pub fn of(story: &Story, title: &str) -> Self {
        let order = causes_first(&story.lines);
        let mut buffers = Buffers::of(&story.lines);
        let mut threads: Vec<String> = Vec::new();
        for line in story.lines.iter().filter(|line| !line.thread.is_empty()) {
            if !threads.contains(&line.thread) && threads.len() <= THREADS {
                threads.push(line.thread.clone());
            }
        }
        // Where a recording begins, another thread may be at work first.
        if let Some(main) = threads.iter().position(|name| name == "main") {
            threads[..=main].rotate_right(1);
        }
        if threads.len() > THREADS {
            threads.truncate(THREADS - 1);
            threads.push("other threads".into());
        }
        let mut tasks = tasks(&story.lines);
        tasks.truncate(room_for_tasks(buffers.names.len(), threads.len()));
        let mut items: Vec<Item> = Vec::new();
        // Threads that were in a call when the client did something: each of them had slept in it.
        let mut client_did = HashMap::new();
        let mut in_poll = vec![0_usize; tasks.len()];
        let mut clients = 0;
        for line in order {
            let Line { thread, what } = &story.lines[line];
            // The first thread was there before the client did anything; another one may be new.
            let unseen = if thread == "main" { 0 } else { clients };
            let slept = client_did.insert(thread.clone(), clients).unwrap_or(unseen) < clients;
            let mut event = match what {
                What::Client(note) => {
                    clients += 1;
                    buffers.fill(&note.sent);
                    // A burst is sent while the server is stopped, and comes to it all at once.
                    let text =
                        note.text.strip_prefix("stopped; ").and_then(|text| text.strip_suffix("; continued"));
                    Event::Client(text.map_or(note.text.clone(), |text| format!("{text}, at once")))
                }
                What::Mark { text, .. } if buffers.exchange(text) => match text.starts_with("ask ") {
                    true => Event::Ask(text.clone()),
                    false => Event::Done(text.clone()),
                },
                What::Mark { text, .. } => match mark(text, &tasks) {
                    // The future was not being polled when it was dropped.
                    Event::Polled(task, End::Dropped) if in_poll[task] == 0 => {
                        Event::Empty(task, End::Dropped)
                    }
                    event => event,
                },
                What::Call { call, rendered } => {
                    buffers.drain(call, rendered);
                    Event::Call(boxed(call, rendered, slept))
                }
                What::Open { call, rendered } => Event::Open(CallBox {
                    label: label::open_label(call, rendered),
                    kind: Kind::Sleep,
                    says: "The recording ends, and this call has not returned.".into(),
                    ..boxed(call, rendered, false)
                }),
                What::Other(text) | What::Raw(text) => Event::Mark(text.clone()),
            };
            match event {
                Event::Poll(task) => in_poll[task] += 1,
                Event::Polled(task, _) => in_poll[task] = in_poll[task].saturating_sub(1),
                _ => {}
            }
            let column = match what {
                What::Client(_) => 0,
                _ => threads.iter().position(|known| known == thread).unwrap_or(THREADS - 1),
            };
            let shared = threads.get(column).is_some_and(|known| known != thread);
            if let Event::Call(shown) | Event::Open(shown) = &mut event
                && shared
            {
                shown.label = format!("{thread}: {}", shown.label);
            }
            let micros = match what {
                What::Call { call, .. } | What::Mark { call, .. } | What::Open { call, .. } => {
                    let returned = call.returned.and_then(|returned| returned.micros);
                    call.begun.micros.map(|begun| (begun, returned.unwrap_or(begun)))
                }
                _ => None,
            };
            let item = Item {
                event,
                thread: column,
                lines: vec![line],
                count: 1,
                waiting: buffers.waiting.clone(),
                micros,
            };
            match items.last_mut() {
                // A poll in which nothing happens.
                Some(last) if is_end_of(&item.event, &last.event) => {
                    let Event::Polled(task, end) = item.event else { continue };
                    last.event = Event::Empty(task, end);
                    last.lines.push(line);
                }
                _ => items.push(item),
            }
        }
        if !buffers.seen_to_drain {
            let sockets = buffers.sockets();
            buffers.names.drain(..sockets);
            items.iter_mut().for_each(|item| drop(item.waiting.drain(..sockets)));
        }
        Timeline { title: title.to_string(), sockets: buffers.names, threads, tasks, items }
    }
}

fn is_end_of(end: &Event, begin: &Event) -> bool {
    matches!((begin, end), (Event::Poll(begun), Event::Polled(ended, _)) if begun == ended)
}

fn boxed(call: &Call, rendered: &Rendered, slept: bool) -> CallBox {
    let (kind, words, says) = if call.returned.is_none() {
        let kind = if label::may_sleep(call, rendered) { Kind::Sleep } else { Kind::Call };
        let words = format!("{}, and ends there", label::open_label(call, rendered));
        (kind, words, "The thread ends while it is in this call.".to_string())
    } else {
        let kind = label::kind(call, rendered, slept);
        (kind, label::label(call, rendered), label::explain(kind, call, rendered))
    };
    CallBox {
        kind,
        receives: label::receives(call, rendered) && call.errno.is_none() && call.returned.is_some(),
        name: rendered.name.clone(),
        on: rendered.args.first().cloned().unwrap_or_default(),
        label: words,
        payload: label::payload(&rendered.args),
        says,
    }
}

/// The lines of a story, by index, so that no effect stands above its cause: waits and receives where they returned,
/// sends and wakes where they began.
fn causes_first(lines: &[Line]) -> Vec<usize> {
    let mut last = 0;
    let mut order: Vec<Place> = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        order.push(match &line.what {
            What::Call { call, .. } | What::Mark { call, .. } => {
                last = call.returned.map_or(last, |returned| last.max(returned.line));
                match call.returned {
                    Some(returned) if !label::stands_at_its_beginning(call) => (returned.line, 0, index),
                    Some(_) => (call.begun.line, 0, index),
                    None => (last, 1, index),
                }
            }
            What::Open { .. } => (usize::MAX, 0, index),
            What::Client(_) | What::Other(_) | What::Raw(_) => (last, 1, index),
        });
    }
    order.sort_unstable();
    order.into_iter().map(|(.., index)| index).collect()
}

/// Names of the tasks that have a column: those of which a poll is seen, and an end.
fn tasks(lines: &[Line]) -> Vec<String> {
    let mut polled: Vec<&str> = Vec::new();
    let mut ended = std::collections::HashSet::new();
    let mut known = std::collections::HashSet::new();
    for line in lines {
        let What::Mark { text, .. } = &line.what else { continue };
        match text.split_once(' ') {
            Some(("poll", name)) if known.insert(name) => polled.push(name),
            Some(("pending" | "ready" | "drop", name)) => drop(ended.insert(name)),
            _ => {}
        }
    }
    polled.retain(|name| ended.contains(name));
    polled.into_iter().map(str::to_string).collect()
}

fn mark(text: &str, tasks: &[String]) -> Event {
    let named = text.split_once(' ').and_then(|(what, name)| {
        let task = tasks.iter().position(|task| task == name)?;
        match what {
            "poll" => Some(Event::Poll(task)),
            "pending" => Some(Event::Polled(task, End::Pending)),
            "ready" => Some(Event::Polled(task, End::Ready)),
            "drop" => Some(Event::Polled(task, End::Dropped)),
            "wake" => Some(Event::Wake(task)),
            "spawn" => Some(Event::Spawn(task)),
            _ => None,
        }
    });
    named.unwrap_or_else(|| Event::Mark(format!("* {text}")))
}

/// What waits in the receive buffers of the sockets that the client sends to.
#[derive(Default)]
struct Buffers {
    names: Vec<String>,
    /// Datagrams in each.
    waiting: Vec<usize>,
    /// Which of them a client sends to, by client.
    of_client: HashMap<String, usize>,
    /// Whether any receive could be laid to one: those of a ring, for one, can be seen only by its marks.
    seen_to_drain: bool,
    /// Whether the last name is that of a ring.
    ring: bool,
}

impl Buffers {
    fn of(lines: &[Line]) -> Self {
        let mut buffers = Buffers::default();
        let mut sockets = Vec::new();
        for line in lines {
            let What::Client(note) = &line.what else { continue };
            for sent in &note.sent {
                let index = sockets.iter().position(|&known| known == sent.socket).unwrap_or_else(|| {
                    sockets.push(sent.socket);
                    sockets.len() - 1
                });
                buffers.of_client.insert(format!("client-{}", sent.client), index);
            }
        }
        buffers.names = match sockets.len() {
            1 => vec!["socket".into()],
            _ => sockets.iter().map(|socket| format!("socket-{}", socket + 1)).collect(),
        };
        buffers.ring = lines.iter().any(|line| match &line.what {
            What::Call { call, .. } | What::Open { call, .. } => call.name == "io_uring_enter",
            _ => false,
        });
        if buffers.ring {
            buffers.names.push(RING.into());
        }
        buffers.waiting = vec![0; buffers.names.len()];
        buffers
    }

    /// How many sockets there are.
    fn sockets(&self) -> usize {
        self.names.len() - usize::from(self.ring)
    }

    /// Takes note of a mark that says what a ring is asked or has done; whether it is one.
    fn exchange(&mut self, mark: &str) -> bool {
        let sockets = self.sockets();
        let Some(asked) = self.waiting.last_mut().filter(|_| self.ring) else { return false };
        if mark.starts_with("ask ") {
            *asked += 1;
            return true;
        }
        let Some(done) = mark.strip_prefix("done ") else { return false };
        // One request may bring more than one completion, and says so.
        if !done.ends_with(", more") {
            *asked = asked.saturating_sub(1);
        }
        let brought =
            done.strip_prefix("recv ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if brought && sockets == 1 {
            self.waiting[0] = self.waiting[0].saturating_sub(1);
            self.seen_to_drain = true;
        }
        true
    }

    fn fill(&mut self, sent: &[Sent]) {
        for sent in sent {
            if let Some(&index) = self.of_client.get(&format!("client-{}", sent.client)) {
                self.waiting[index] += sent.datagrams;
            }
        }
    }

    /// Takes out what a receive brought: a datagram for each client that it names.
    fn drain(&mut self, call: &Call, rendered: &Rendered) {
        let takes = label::receives(call, rendered) && call.errno.is_none();
        let from_a_socket = rendered
            .args
            .first()
            .is_some_and(|fd| ["socket", "connected"].iter().any(|kind| fd.starts_with(kind)));
        let only_looks = rendered.args.iter().any(|arg| arg.contains("MSG_PEEK"));
        if !takes || !from_a_socket || only_looks || self.sockets() == 0 {
            return;
        }
        let mut named = 0;
        for arg in rendered.args.iter().filter(|arg| !arg.starts_with('"')) {
            for word in arg.split(|c: char| !(c.is_alphanumeric() || c == '-')) {
                if let Some(&index) = self.of_client.get(word) {
                    self.waiting[index] = self.waiting[index].saturating_sub(1);
                    named += 1;
                }
            }
        }
        // A receive that asks for no address can only be from the one socket.
        if named == 0 && self.sockets() == 1 && call.name != "recvmmsg" && self.waiting[0] > 0 {
            self.waiting[0] -= 1;
            named = 1;
        }
        self.seen_to_drain |= named > 0;
    }
}
