//! What a recording tells, line by line, without anything that differs from run to run: marks, calls, and what the
//! client did. `trace` prints a story, `timeline` draws it.

use harness::strace::{Call, Event};

use crate::names::{Names, Rendered, is_housekeeping, is_set_up};

/// Something that the client did.
#[derive(Clone, Debug)]
pub struct Note {
    /// Index of the event before which it stands.
    pub at: usize,
    /// What was done, as a sentence without a full stop.
    pub text: String,
    /// Datagrams sent by each client, to sockets of the server counted from 0.
    pub sent: Vec<Sent>,
}

/// Datagrams that a client has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Which client, from 1.
    pub client: usize,
    /// To which of the server's addresses, from 0.
    pub socket: usize,
    /// How many.
    pub datagrams: usize,
}

/// Which part of a recording is told, and which calls of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// From where the program serves.
    Served,
    /// From the first deed of the client: the threads of a server for TCP start when they like.
    Visited,
    /// A program that ends by itself, from its start.
    Alone,
    /// Somebody's recording: from its first socket or wait on, or all of it; with what it had not returned from.
    Recorded,
}

/// What to show beside the usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent {
    /// How descriptors, handlers and threads are made before the program is ready.
    pub start_up: bool,
    /// Ends of threads and processes.
    pub shutdown: bool,
    /// Every line as strace wrote it.
    pub raw: bool,
}

/// A recording, told.
#[derive(Clone, Debug)]
pub struct Story {
    /// In the order in which calls returned.
    pub lines: Vec<Line>,
    /// Whether more than one thread is in it.
    pub several_threads: bool,
    /// Which part is told.
    pub scope: Scope,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Name of the thread; empty for the client.
    pub thread: String,
    /// What happened.
    pub what: What,
}

/// What a line tells.
#[derive(Clone, Debug)]
pub enum What {
    /// The client did something.
    Client(Note),
    /// The program announced something.
    Mark {
        /// The text of the mark.
        text: String,
        /// The write that made it.
        call: Call,
    },
    /// A system call.
    Call {
        /// The call.
        call: Call,
        /// The same with names for all that varies.
        rendered: Rendered,
    },
    /// A system call that had not returned when the recording ended.
    Open {
        /// The call.
        call: Call,
        /// The same with names for all that varies.
        rendered: Rendered,
    },
    /// A signal, or an end.
    Other(String),
    /// A line of strace's own.
    Raw(String),
}

impl Line {
    /// When it began, if strace wrote the time.
    pub fn begun_micros(&self) -> Option<u64> {
        match &self.what {
            What::Call { call, .. } | What::Mark { call, .. } | What::Open { call, .. } => call.begun.micros,
            What::Client(_) | What::Other(_) | What::Raw(_) => None,
        }
    }

    /// The line as a transcript shows it, without its thread.
    pub fn text(&self) -> String {
        match &self.what {
            What::Client(note) => format!("> {}", note.text),
            What::Mark { text, .. } => format!("* {text}"),
            What::Call { call, rendered } if call.would_block() => {
                let comment = match call {
                    _ if call.receives() => "the socket is empty",
                    _ if call.sends() => "the send buffer is full",
                    _ => "it would block",
                };
                format!("{rendered}    <- {comment}")
            }
            What::Call { rendered, .. } => rendered.to_string(),
            What::Open { rendered, .. } => {
                format!("{}({}, <unfinished ...>", rendered.name, rendered.args.join(", "))
            }
            What::Other(text) | What::Raw(text) => text.clone(),
        }
    }
}

impl Story {
    /// Tells the events, with the client's deeds between them, and the calls that had not returned behind them.
    pub fn tell(
        events: &[Event],
        open: &[Call],
        mut names: Names,
        notes: &[Note],
        extent: Extent,
        scope: Scope,
    ) -> Self {
        let first = beginning(events, notes, scope);
        let tells = |event: &Event| tells(event, scope);
        let several_threads = !extent.raw
            && events.get(first..).is_some_and(|told| {
                let mut told = told.iter().filter(|event| tells(event)).map(Event::pid);
                told.next().is_some_and(|pid| pid != events[0].pid() || told.any(|other| other != pid))
            });
        // What follows, the sockets' statistics and the summary, differs from run to run.
        let end = match scope {
            Scope::Recorded => events.len(),
            _ => events.iter().position(|event| is_mark(event, "shutdown")).unwrap_or(events.len()),
        };
        let mut lines = Vec::new();
        let mut notes = notes.iter().peekable();
        let mut client = |upto: usize, lines: &mut Vec<Line>| {
            while let Some(note) = notes.next_if(|note| note.at <= upto) {
                lines.push(Line { thread: String::new(), what: What::Client(note.clone()) });
            }
        };
        for (index, event) in events.iter().enumerate() {
            client(index, &mut lines);
            if index == first && scope == Scope::Recorded {
                // Whoever had a part in what came before has none in the story.
                names.restart_threads(events);
            }
            let before_ready = index < first;
            let thread = names.thread(event.pid());
            let what = match event {
                _ if before_ready && !extent.start_up && scope != Scope::Alone => None,
                _ if extent.raw => Some(What::Raw(event.raw().to_string())),
                Event::Call(call) if before_ready => is_set_up(call).then(|| told(&mut names, call)),
                Event::Call(_) if !tells(event) => None,
                Event::Call(call) if index > end && !(call.sends() || call.receives() || call.waits()) => {
                    None
                }
                Event::Call(call) => Some(told(&mut names, call)),
                Event::Signal { name, .. } if !matches!(name.as_str(), "SIGSTOP" | "SIGCONT") => {
                    Some(What::Other(format!("--- {name} ---")))
                }
                Event::Signal { .. } | Event::Stopped { .. } => None,
                Event::Ended { how, .. } => extent.shutdown.then(|| What::Other(format!("+++ {how} +++"))),
            };
            names.follow(event);
            lines.extend(what.map(|what| Line { thread, what }));
        }
        client(usize::MAX, &mut lines);
        for call in open.iter().filter(|call| !extent.raw && tells(&Event::Call((*call).clone()))) {
            let (thread, rendered) = (names.thread(call.pid), names.render(call));
            lines.push(Line { thread, what: What::Open { call: call.clone(), rendered } });
        }
        Story { lines, several_threads, scope }
    }

    /// The transcript: marks as `* mark`, what the client did as `> deed`, calls indented. That a program of which the
    /// script has everything goes on waiting needs no line; of a recording everything is shown.
    pub fn transcript(&self) -> String {
        let shown = |line: &&Line| self.scope == Scope::Recorded || !matches!(line.what, What::Open { .. });
        self.lines.iter().filter(shown).map(|line| self.transcript_line(line) + "\n").collect()
    }

    /// One line of the transcript.
    pub fn transcript_line(&self, line: &Line) -> String {
        let shown = line.text();
        let indent = match line.what {
            What::Call { .. } | What::Open { .. } | What::Other(_) => "  ",
            What::Client(_) | What::Mark { .. } | What::Raw(_) => "",
        };
        match (&line.what, self.several_threads) {
            (What::Client(_), _) | (_, false) => format!("{indent}{shown}"),
            (_, true) => format!("{indent}{:<9} {shown}", line.thread),
        }
    }
}

/// A mark, or a call.
fn told(names: &mut Names, call: &Call) -> What {
    match call.mark() {
        Some(mark) => What::Mark { text: mark.to_string(), call: call.clone() },
        None => What::Call { call: call.clone(), rendered: names.render(call) },
    }
}

/// Index of the event from which on everything is told.
fn beginning(events: &[Event], notes: &[Note], scope: Scope) -> usize {
    let ready = events.iter().position(|event| is_mark(event, "ready"));
    if let (Some(ready), true) = (ready, scope != Scope::Visited) {
        return ready;
    }
    match scope {
        Scope::Recorded => {
            // What the loader and the interpreter do first is no part of the story.
            let starts = |event: &Event| match event {
                Event::Call(call) => {
                    let prepares =
                        matches!(call.name.as_str(), "fcntl" | "openat" | "rt_sigaction" | "ioctl");
                    call.mark().is_some() || call.waits() || is_set_up(call) && !prepares
                }
                _ => false,
            };
            let executes = |event: &Event| {
                event.pid() == events[0].pid() && matches!(event, Event::Call(call) if call.name == "execve")
            };
            match events.iter().rposition(executes) {
                Some(last) => events[last..].iter().position(starts).map_or(last, |first| last + first),
                None => 0,
            }
        }
        _ => notes.first().map_or(0, |note| note.at),
    }
}

/// Whether an event belongs to the story.
fn tells(event: &Event, scope: Scope) -> bool {
    let Event::Call(call) = event else { return false };
    if call.mark().is_some() {
        return true;
    }
    // How threads wait for each other is a part of a story in which nobody knows what they are.
    if scope == Scope::Recorded && call.name == "futex" {
        return !call.interrupted();
    }
    if call.interrupted() || is_housekeeping(call.common_name()) {
        return false;
    }
    // The C library prepares its own signals when it starts a thread.
    if call.name == "rt_sigaction" {
        return is_set_up(call);
    }
    // A program that ends by itself is shown from its first line; what the loader and the C library do there is
    // no part of the story, nor is what it prints.
    scope != Scope::Alone
        || is_set_up(call)
        || call.waits()
        || call.receives()
        || call.sends()
        || match call.common_name() {
            "read" | "write" | "readv" | "writev" => {
                call.args.first().is_some_and(|fd| !matches!(fd.as_str(), "0" | "1" | "2"))
                    && !call.args.get(1).is_some_and(|data| data.contains("ELF"))
            }
            "accept4" | "shutdown" | "clock_nanosleep" | "nanosleep" | "io_uring_enter" => true,
            _ => false,
        }
}

fn is_mark(event: &Event, mark: &str) -> bool {
    matches!(event, Event::Call(call) if call.mark() == Some(mark))
}
