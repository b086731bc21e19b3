//! A timeline drawn with characters, for a terminal of eighty columns.

use super::cut;
use super::label::Kind;
use super::layout::{Bar, Layout};
use super::model::{CallBox, End, Event, Item, Timeline};

/// Columns of characters.
const WIDTH: usize = 80;

/// Where things stand in a line.
struct Columns {
    /// Characters before the calls: a number for each socket.
    sockets: usize,
    /// Characters for the name of the thread.
    thread: usize,
    /// Where the column of each task begins.
    tasks: Vec<usize>,
    /// How wide each is.
    task: usize,
}

/// Draws.
pub fn draw(timeline: &Timeline, layout: &Layout) -> String {
    let count = timeline.tasks.len();
    let task = (38 / count.max(1) - 1).clamp(5, 9);
    let columns = Columns {
        sockets: 9 * timeline.sockets.len(),
        thread: if timeline.threads.len() > 1 { 10 } else { 0 },
        tasks: (0..count).map(|index| WIDTH - (count - index) * (task + 1) + 1).collect(),
        task,
    };
    let mut out = format!("{}\n\n", cut(&timeline.title, WIDTH));
    let mut heading = Canvas::default();
    for (index, socket) in timeline.sockets.iter().enumerate() {
        heading.put(9 * index, &cut(socket, 8));
    }
    heading.put(columns.sockets, if columns.thread == 0 { "main thread" } else { "thread" });
    for (task, &at) in timeline.tasks.iter().zip(&columns.tasks) {
        heading.put(at, &short(task, columns.task));
    }
    out.push_str(&heading.line());
    let mut waiting: &[usize] = &[];
    for (row, item) in layout.rows.iter().enumerate() {
        let mut line = Canvas::default();
        if let Event::Client(text) = &item.event {
            line.put(0, &format!("── {} ", cut(text, WIDTH - 6)));
            line.fill_to(WIDTH, '─');
            out.push_str(&line.line());
            continue;
        }
        for (index, datagrams) in item.waiting.iter().enumerate() {
            if waiting.get(index) != Some(datagrams) || *datagrams > 0 {
                line.put(9 * index, &format!("{datagrams:>6}"));
            }
        }
        waiting = &item.waiting;
        let end = columns.tasks.first().map_or(WIDTH, |&first| first - 1);
        let start = columns.sockets + columns.thread;
        if columns.thread > 0 && !matches!(item.event, Event::Empty(..)) {
            let thread = timeline.threads.get(item.thread).map_or("", String::as_str);
            line.put(columns.sockets, &cut(thread, columns.thread - 1));
        }
        line.put(start, &cut(&words(timeline, item), end.saturating_sub(start)));
        for bar in layout.bars.iter().filter(|bar| (bar.first..=bar.last).contains(&row)) {
            line.put(columns.tasks[bar.task], &piece(bar, row, columns.task));
        }
        // A wake points at the column of the task, whose poll begins further down.
        let target = match item.event {
            Event::Wake(task) | Event::Spawn(task) => Some(columns.tasks[task]),
            _ => None,
        };
        if let Some(target) = target {
            line.point_to(end, target);
        }
        out.push_str(&line.line());
    }
    out.push_str(
        "\n~ asleep   < receive   > send   x would block   ! error   . other call\n\
         Read downwards: the order of events, not their duration.\n",
    );
    out
}

/// What stands among the calls.
fn words(timeline: &Timeline, item: &Item) -> String {
    let task = |task: usize| timeline.tasks.get(task).map_or("", String::as_str);
    match &item.event {
        Event::Call(CallBox { kind, label, .. }) | Event::Open(CallBox { kind, label, .. }) => {
            let sign = match kind {
                Kind::Sleep => '~',
                Kind::Receive => '<',
                Kind::Send => '>',
                Kind::WouldBlock => 'x',
                Kind::Error => '!',
                Kind::Call => '.',
            };
            format!("{sign} {label}")
        }
        Event::Wake(woken) => times(item.count, &format!("wake {}", task(*woken))),
        Event::Spawn(spawned) => format!("spawn {}", task(*spawned)),
        Event::Client(text) => text.clone(),
        Event::Mark(text) => times(item.count, text),
        Event::Ask(text) => format!("← {}", times(item.count, text)),
        Event::Done(text) => format!("→ {}", times(item.count, text)),
        Event::Again { rows, times, .. } => again(*rows, *times),
        Event::Hidden(_) => format!("... {} events ...", item.count),
        Event::Poll(_) | Event::Polled(..) | Event::Empty(..) => String::new(),
    }
}

/// `3 × text`, or the text.
pub fn times(count: usize, text: &str) -> String {
    if count > 1 { format!("{count} × {text}") } else { text.to_string() }
}

/// `the 3 rows above, 7 times more`
pub fn again(rows: usize, times: usize) -> String {
    match rows {
        1 => format!("the row above, {times} times more"),
        _ => format!("the {rows} rows above, {times} times more"),
    }
}

/// The sign of an end, and its word.
pub fn end_words(end: End) -> (&'static str, &'static str) {
    match end {
        End::Pending => ("…", "pending"),
        End::Ready => ("✓", "✓ ready"),
        End::Dropped => ("✗", "✗ drop"),
    }
}

/// The part of a bar beside one row.
fn piece(bar: &Bar, row: usize, width: usize) -> String {
    let end = bar.end.map(|end| {
        let (sign, word) = end_words(end);
        if word.chars().count() + 2 <= width { word } else { sign }
    });
    match (row == bar.first && bar.begins, row == bar.last, end) {
        (true, true, Some(end)) => format!("[{}]", times(bar.count, end)),
        (true, _, _) => "┌poll".into(),
        (false, true, Some(end)) => format!("└{end}"),
        _ => "│".into(),
    }
}

/// A name in so many characters: `socket-10` may become `s-10`.
pub fn short(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_string();
    }
    let numbered =
        name.rsplit_once('-').filter(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
    match (numbered, name.chars().next()) {
        (Some((_, number)), Some(first)) => cut(&format!("{first}-{number}"), width),
        _ => cut(name, width),
    }
}

/// A line that is written at any place.
#[derive(Default)]
struct Canvas(Vec<char>);

impl Canvas {
    fn put(&mut self, at: usize, text: &str) {
        for (offset, letter) in text.chars().enumerate().take_while(|(offset, _)| at + offset < WIDTH) {
            if self.0.len() <= at + offset {
                self.0.resize(at + offset + 1, ' ');
            }
            self.0[at + offset] = letter;
        }
    }

    fn fill_to(&mut self, end: usize, letter: char) {
        self.0.resize(end.max(self.0.len()), letter);
    }

    /// An arrow from the words, which end before `words`, to the column that begins at `target`, through what is free.
    fn point_to(&mut self, words: usize, target: usize) {
        self.0.resize(self.0.len().max(target), ' ');
        let words = &self.0[..words.min(target)];
        let from = words.iter().rposition(|letter| *letter != ' ').map_or(0, |at| at + 2);
        for place in self.0.iter_mut().take(target).skip(from).filter(|place| **place == ' ') {
            *place = '─';
        }
        self.0[target - 1] = '▶';
    }

    fn line(&self) -> String {
        let line: String = self.0.iter().collect();
        format!("{}\n", line.trim_end())
    }
}
