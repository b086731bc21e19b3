//! A timeline as trace events, which Perfetto and `chrome://tracing` read: a track for each thread and each task.
//!
//! Without times an event is ten microseconds after the one before it.

use serde_json::{Value, json};

use super::model::{Event, Item, Timeline};
use super::text::end_words;

/// Microseconds from one event to the next where strace wrote no times, and how long a call is drawn there.
const STEP: u64 = 10;
const LENGTH: u64 = 8;

/// Number of the process that all tracks belong to.
const PROCESS: u64 = 1;

/// The track of the client, of the first thread and of the first task.
const CLIENT: u64 = 0;
const THREADS: u64 = 1;
const TASKS: u64 = 1_000;

/// Writes the events of a timeline that is not folded, as one JSON object.
pub fn draw(timeline: &Timeline) -> String {
    let mut events =
        vec![metadata("process_name", CLIENT, &timeline.title), metadata("thread_name", CLIENT, "client")];
    for (names, first) in [(&timeline.threads, THREADS), (&timeline.tasks, TASKS)] {
        events.extend(names.iter().zip(first..).map(|(name, track)| metadata("thread_name", track, name)));
    }
    let mut tracks = Tracks {
        timed: Vec::new(),
        flows: vec![Vec::new(); timeline.tasks.len()],
        flow: 0,
        open: Vec::new(),
    };
    let start = timeline.items.iter().find_map(|item| item.micros).map(|(begun, _)| begun);
    let mut now = 0;
    for (index, item) in timeline.items.iter().enumerate() {
        let (from, to) = match (start, item.micros) {
            (Some(start), Some((begun, ended))) => (begun.saturating_sub(start), ended.saturating_sub(start)),
            (Some(_), None) => (now, now),
            (None, _) => (index as u64 * STEP, index as u64 * STEP + LENGTH),
        };
        now = from;
        tracks.add(timeline, item, from, to.max(from));
    }
    let end = tracks.timed.iter().map(|(at, _)| *at).max().unwrap_or(0) + LENGTH;
    for track in std::mem::take(&mut tracks.open) {
        tracks.push(end, event("E", track, ""));
    }
    tracks.timed.sort_by_key(|(at, _)| *at);
    events.extend(tracks.timed.into_iter().map(|(at, mut event)| {
        event["ts"] = json!(at);
        event
    }));
    let note = "strace has made the program slower: read the order, not the duration";
    json!({ "traceEvents": events, "otherData": { "note": note } }).to_string() + "\n"
}

struct Tracks {
    /// Events with their times.
    timed: Vec<(u64, Value)>,
    /// By task, the wakes that no poll has followed yet.
    flows: Vec<Vec<u64>>,
    /// How many wakes there were.
    flow: u64,
    /// Tracks with a beginning that has no end yet.
    open: Vec<u64>,
}

impl Tracks {
    fn add(&mut self, timeline: &Timeline, item: &Item, from: u64, to: u64) {
        let thread = THREADS + item.thread as u64;
        let name = |task: usize| timeline.tasks.get(task).map_or("", String::as_str);
        match &item.event {
            Event::Client(text) => self.instant(from, CLIENT, text),
            Event::Mark(text) | Event::Ask(text) | Event::Done(text) => self.instant(from, thread, text),
            Event::Call(shown) => {
                let mut begin = event("B", thread, &shown.name);
                begin["args"] = json!({ "call": shown.label, "says": shown.says });
                self.push(from, begin);
                self.push(to, event("E", thread, &shown.name));
            }
            Event::Open(shown) => {
                self.push(from, event("B", thread, &shown.label));
                self.open.push(thread);
            }
            Event::Wake(task) => {
                self.slice(from, to, thread, &format!("wake {}", name(*task)));
                self.flow += 1;
                self.flows[*task].push(self.flow);
                let flow = self.flow_event("s", thread, self.flow);
                self.push(from, flow);
            }
            Event::Spawn(task) => self.instant(from, thread, &format!("spawn {}", name(*task))),
            Event::Poll(task) => self.begin_poll(from, *task, name(*task)),
            Event::Polled(task, end) => {
                let track = TASKS + *task as u64;
                // A poll that began before the recording has no beginning to end.
                if let Some(at) = self.open.iter().rposition(|open| *open == track) {
                    self.open.remove(at);
                    let mut ended = event("E", track, "");
                    ended["args"] = json!({ "end": end_words(*end).1 });
                    self.push(to, ended);
                }
            }
            Event::Empty(task, end) => {
                self.begin_poll(from, *task, name(*task));
                self.open.pop();
                let mut ended = event("E", TASKS + *task as u64, "");
                ended["args"] = json!({ "end": end_words(*end).1 });
                self.push(to, ended);
            }
            // Only folded timelines have them.
            Event::Again { .. } | Event::Hidden(_) => {}
        }
    }

    fn begin_poll(&mut self, at: u64, task: usize, name: &str) {
        let track = TASKS + task as u64;
        self.push(at, event("B", track, &format!("poll {name}")));
        for flow in std::mem::take(&mut self.flows[task]) {
            let mut end = self.flow_event("f", track, flow);
            end["bp"] = json!("e");
            self.push(at, end);
        }
        self.open.push(track);
    }

    fn slice(&mut self, from: u64, to: u64, track: u64, name: &str) {
        self.push(from, event("B", track, name));
        self.push(to, event("E", track, name));
    }

    fn instant(&mut self, at: u64, track: u64, name: &str) {
        let mut event = event("i", track, name);
        event["s"] = json!("t");
        self.push(at, event);
    }

    fn flow_event(&self, phase: &str, track: u64, id: u64) -> Value {
        let mut event = event(phase, track, "wake");
        event["id"] = json!(id);
        event["cat"] = json!("wake");
        event
    }

    fn push(&mut self, at: u64, event: Value) {
        self.timed.push((at, event));
    }
}

fn event(phase: &str, track: u64, name: &str) -> Value {
    json!({ "ph": phase, "pid": PROCESS, "tid": track, "name": name, "ts": 0 })
}

fn metadata(what: &str, track: u64, name: &str) -> Value {
    json!({ "ph": "M", "pid": PROCESS, "tid": track, "name": what, "args": { "name": name } })
}
