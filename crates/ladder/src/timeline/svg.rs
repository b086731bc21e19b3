//! A timeline as a picture: static, 480 pixels wide, one element a line, in light and in dark.

use super::label::Kind;
use super::layout::Layout;
use super::model::{CallBox, Event, Item, Timeline};
use super::text::{again, end_words, short, times};
use super::{SIGNATURE, cut};

/// Width of the picture: as wide as a phone shows without shrinking the letters below what can be read.
const WIDTH: usize = 480;
/// Distance to the edges.
const MARGIN: usize = 8;
/// Distance from row to row, and height of a box.
const ROW: usize = 22;
const BOX: usize = 18;
/// Top of the first row.
const TOP: usize = 58;
/// Width of a socket's column.
const SOCKET: usize = 60;
/// The longest bar of a socket, and how many datagrams it stands for at least.
const BUFFER: (usize, usize) = (30, 6);
/// Width of a task's column, at least and at most, and the distance between columns.
const TASK: (usize, usize) = (34, 84);
const GAP: usize = 6;

const STYLE: &str = include_str!("timeline.css");

/// Where the columns stand.
struct Columns {
    /// Left edge and width of each thread's.
    threads: Vec<(usize, usize)>,
    /// Likewise of each task's.
    tasks: Vec<(usize, usize)>,
}

impl Columns {
    fn of(timeline: &Timeline) -> Self {
        let left = MARGIN + SOCKET * timeline.sockets.len();
        let (threads, tasks) = (timeline.threads.len().max(1), timeline.tasks.len());
        let wanted = if threads == 1 { 200 } else { 120 * threads };
        let room = WIDTH - MARGIN - left;
        let task = match tasks {
            0 => 0,
            _ => (room.saturating_sub(wanted) / tasks).saturating_sub(GAP).clamp(TASK.0, TASK.1),
        };
        let for_threads = room - tasks * (task + GAP);
        let thread = for_threads / threads;
        let first_task = left + for_threads + GAP;
        Columns {
            threads: (0..threads)
                .map(|index| (left + index * thread, thread - if index + 1 < threads { GAP } else { 0 }))
                .collect(),
            tasks: (0..tasks).map(|index| (first_task + index * (task + GAP), task)).collect(),
        }
    }

    fn thread(&self, item: &Item) -> (usize, usize) {
        self.threads[item.thread.min(self.threads.len() - 1)]
    }

    /// How many letters a text that begins at `x` may have: no other thread has a box beside it, so it may stand out of
    /// its column as far as the last thread's reaches.
    fn letters_from(&self, x: usize) -> usize {
        let end = self.threads.last().map_or(WIDTH, |(x, width)| x + width);
        letters(end.saturating_sub(x + 2))
    }
}

/// What is said of a row, and the region of the source that it comes from.
pub type Notes<'a> = &'a dyn Fn(usize) -> (String, Option<&'static str>);

/// Draws. `desc` is the sentence that stands for the picture where it cannot be seen. With notes each row has an element
/// that shows them, and that a script may listen to.
pub fn draw(timeline: &Timeline, layout: &Layout, desc: &str, notes: Option<Notes>) -> String {
    let columns = Columns::of(timeline);
    let bottom = TOP + layout.rows.len() * ROW;
    let height = bottom + 58;
    let mut out = Lines(String::new());
    out.line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
    ));
    out.line(format_args!("<title>{}</title>", escaped(&timeline.title)));
    out.line(format_args!("<desc>{}</desc>", escaped(desc)));
    out.line(format_args!("{SIGNATURE}"));
    out.line(format_args!("<style>\n{}</style>", STYLE));
    out.line(format_args!(concat!(
        "<defs>\n",
        r#"<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line class="hatch" x1="0" y1="0" x2="0" y2="6"/></pattern>"#,
        "\n",
        r#"<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="dot" d="M0 0L8 4L0 8z"/></marker>"#,
        "\n",
        r#"<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker>"#,
        "\n</defs>"
    )));
    out.line(format_args!(r#"<rect class="bg" width="{WIDTH}" height="{height}"/>"#));
    out.text(MARGIN, 18, "h", &cut(&timeline.title, letters(WIDTH - 2 * MARGIN)));
    headings(&mut out, timeline, &columns);
    for bar in &layout.bars {
        let (x, width) = columns.tasks[bar.task];
        let (y, height) = (TOP + bar.first * ROW, (bar.last - bar.first) * ROW + BOX);
        let class = if bar.begins { "poll" } else { "poll begun" };
        out.line(format_args!(
            r#"<rect class="{class}"{} x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>"#,
            number(bar.count)
        ));
        if bar.last > bar.first && bar.begins {
            out.middle(x + width / 2, y + 13, "poll");
        }
        if let Some(end) = bar.end {
            let (sign, word) = end_words(end);
            let word = times(bar.count, word);
            let word = if letters(width) >= word.chars().count() { word } else { times(bar.count, sign) };
            out.middle(x + width / 2, y + height - 5, &word);
        }
    }
    let most = layout.rows.iter().flat_map(|item| &item.waiting).copied().max().unwrap_or(0).max(BUFFER.1);
    let mut waiting: Option<&[usize]> = None;
    for (row, item) in layout.rows.iter().enumerate() {
        let y = TOP + row * ROW;
        buffers(&mut out, item, waiting, most, y);
        waiting = Some(&item.waiting);
        draw_item(&mut out, timeline, &columns, item, y);
    }
    arrows(&mut out, timeline, layout, &columns);
    for row in 0..layout.rows.len() {
        let Some((says, region)) = notes.map(|notes| notes(row)) else { break };
        let y = TOP + row * ROW - 2;
        let region = region.map_or_else(String::new, |region| format!(r#" data-source="{region}""#));
        out.line(format_args!(
            r#"<rect class="row" data-row="{row}"{region} x="2" y="{y}" width="476" height="{ROW}"><title>{}</title></rect>"#,
            escaped(&says)
        ));
    }
    legend(&mut out, timeline, layout, bottom + 18);
    out.line(format_args!("</svg>"));
    out.0
}

fn headings(out: &mut Lines, timeline: &Timeline, columns: &Columns) {
    for (index, socket) in timeline.sockets.iter().enumerate() {
        let x = MARGIN + index * SOCKET;
        out.rule(x, SOCKET - GAP);
        out.text(x, 42, "h", &short(socket, letters(SOCKET - GAP)));
    }
    for (name, &(x, width)) in timeline.threads.iter().zip(&columns.threads) {
        out.rule(x, width);
        let name = if name == "main" { "main thread" } else { name };
        out.text(x, 42, "h", &cut(name, letters(width + GAP)));
    }
    for (name, &(x, width)) in timeline.tasks.iter().zip(&columns.tasks) {
        out.rule(x, width);
        out.line(format_args!(
            r#"<text class="h" x="{}" y="42" text-anchor="middle">{}</text>"#,
            x + width / 2,
            escaped(&short(name, letters(width + GAP)))
        ));
    }
}

/// What waits in the sockets, as a bar and a number: `most` datagrams are the longest bar.
fn buffers(out: &mut Lines, item: &Item, before: Option<&[usize]>, most: usize, y: usize) {
    if matches!(item.event, Event::Client(_)) {
        return;
    }
    for (index, &datagrams) in item.waiting.iter().enumerate() {
        let x = MARGIN + index * SOCKET;
        if datagrams > 0 {
            let width = (datagrams * BUFFER.0 / most).max(2);
            out.line(format_args!(
                r#"<rect class="buffer" x="{x}" y="{}" width="{width}" height="10" rx="2"/>"#,
                y + 4
            ));
            out.text(x + width + 4, y + 13, "s", &datagrams.to_string());
        } else if before.and_then(|before| before.get(index)).is_none_or(|&before| before > 0) {
            out.text(x, y + 13, "s dim", "0");
        }
    }
}

fn draw_item(out: &mut Lines, timeline: &Timeline, columns: &Columns, item: &Item, y: usize) {
    let (x, width) = columns.thread(item);
    let text_y = y + 13;
    let full = WIDTH - 2 * MARGIN;
    let task = |task: usize| timeline.tasks.get(task).map_or("", String::as_str);
    match &item.event {
        Event::Client(text) => {
            out.line(format_args!(
                r#"<rect class="client" x="{MARGIN}" y="{y}" width="{full}" height="{BOX}" rx="3"/>"#
            ));
            out.text(MARGIN + 6, text_y, "", &cut(text, letters(full - 12)));
        }
        Event::Mark(text) => {
            out.text(x + 4, text_y, "dim", &cut(&times(item.count, text), columns.letters_from(x + 4)))
        }
        // The ring's column is the one beside the first thread.
        Event::Ask(text) | Event::Done(text) => {
            let (from, to) = if matches!(item.event, Event::Ask(_)) { (x + 12, x) } else { (x, x + 12) };
            out.line(format_args!(
                r##"<path class="spawn" marker-end="url(#tip)" d="M{from} {}H{to}"/>"##,
                y + 9
            ));
            out.text(x + 18, text_y, "dim", &cut(&times(item.count, text), columns.letters_from(x + 18)))
        }
        Event::Call(shown) => draw_call(out, columns, item, shown, y),
        Event::Open(shown) => {
            let bottom = y + BOX + 3;
            out.line(format_args!(
                r#"<path class="sleep open" d="M{x} {bottom}V{y}H{}V{bottom}"/>"#,
                x + width
            ));
            out.text(x + 6, text_y, "", &cut(&shown.label, columns.letters_from(x + 6)));
        }
        Event::Wake(woken) => {
            out.text(
                x + 4,
                text_y,
                "",
                &cut(&times(item.count, &format!("wake {}", task(*woken))), columns.letters_from(x + 4)),
            );
        }
        Event::Spawn(spawned) => {
            out.text(
                x + 4,
                text_y,
                "dim",
                &cut(&format!("spawn {}", task(*spawned)), columns.letters_from(x + 4)),
            );
        }
        Event::Again { rows, times, .. } => {
            out.line(format_args!(r#"<path class="again" d="M{} {}V{}H{}"/>"#, x + 4, y + 1, y + 9, x + 12));
            out.text(x + 16, text_y, "dim", &cut(&again(*rows, *times), letters(WIDTH - MARGIN - x - 16)));
        }
        Event::Hidden(_) => {
            out.line(format_args!(r#"<path class="again" d="M{x} {}H{}"/>"#, y + 2, WIDTH - MARGIN));
            out.text(x + 4, text_y, "dim", &format!("{} events", item.count));
            out.line(format_args!(r#"<path class="again" d="M{x} {}H{}"/>"#, y + BOX, WIDTH - MARGIN));
        }
        Event::Poll(_) | Event::Polled(..) | Event::Empty(..) => {}
    }
}

fn draw_call(out: &mut Lines, columns: &Columns, item: &Item, shown: &CallBox, y: usize) {
    let (x, width) = columns.thread(item);
    let class = match shown.kind {
        Kind::Sleep if shown.receives => "receive sleep",
        Kind::Sleep => "sleep",
        Kind::Receive => "receive",
        Kind::Send => "send",
        Kind::WouldBlock => "would-block",
        Kind::Error => "error",
        Kind::Call => "call",
    };
    // Only its sign has the pattern: words on it could not be read.
    let box_width = if shown.kind == Kind::WouldBlock { BOX } else { width };
    let text_x = if shown.kind == Kind::WouldBlock { x + BOX + 6 } else { x + 6 };
    out.line(format_args!(
        r#"<rect class="{class}"{} x="{x}" y="{y}" width="{box_width}" height="{BOX}" rx="3"/>"#,
        number(item.count)
    ));
    out.text(text_x, y + 13, "", &cut(&shown.label, columns.letters_from(text_x)));
}

fn arrows(out: &mut Lines, timeline: &Timeline, layout: &Layout, columns: &Columns) {
    for (row, item) in layout.rows.iter().enumerate() {
        let Event::Spawn(task) = item.event else { continue };
        let (x, _) = columns.thread(item);
        let name = timeline.tasks.get(task).map_or("", String::as_str);
        let from = x + 8 + width_of(&format!("spawn {name}"));
        let (to, y) = (columns.tasks[task].0, TOP + row * ROW + 9);
        out.line(format_args!(r##"<path class="spawn" marker-end="url(#tip)" d="M{from} {y}H{to}"/>"##));
    }
    for arrow in &layout.arrows {
        let item = &layout.rows[arrow.from];
        let (x, _) = columns.thread(item);
        let name = timeline.tasks.get(arrow.task).map_or("", String::as_str);
        let words = cut(&times(item.count, &format!("wake {name}")), columns.letters_from(x + 4));
        let from = x + 10 + width_of(&words);
        let (to, y) = (columns.tasks[arrow.task].0 + 5, TOP + arrow.from * ROW + 9);
        let n = number(item.count);
        match arrow.to {
            Some(_) if arrow.joins => {
                out.line(format_args!(r#"<path class="wake"{n} d="M{from} {y}H{to}"/>"#))
            }
            Some(target) => {
                let (bend, end) = (to.saturating_sub(6), TOP + target * ROW - 1);
                out.line(format_args!(
                    r##"<path class="wake"{n} marker-end="url(#head)" d="M{from} {y}H{bend}Q{to} {y} {to} {}V{end}"/>"##,
                    y + 6
                ));
            }
            None => out.line(format_args!(
                r##"<path class="wake"{n} marker-end="url(#head)" d="M{from} {y}H{to}"/>"##
            )),
        }
        out.line(format_args!(r#"<circle class="dot" cx="{from}" cy="{y}" r="3"/>"#));
    }
}

fn legend(out: &mut Lines, timeline: &Timeline, layout: &Layout, y: usize) {
    let has = |wanted: fn(&Kind) -> bool| {
        layout.rows.iter().any(|item| match &item.event {
            Event::Call(shown) => wanted(&shown.kind),
            Event::Open(_) => wanted(&Kind::Sleep),
            _ => false,
        })
    };
    let entries = [
        ("receive", "receive", has(|kind| *kind == Kind::Receive)),
        ("send", "send", has(|kind| *kind == Kind::Send)),
        ("would-block", "would block", has(|kind| *kind == Kind::WouldBlock)),
        ("error", "error", has(|kind| *kind == Kind::Error)),
        ("sleep", "asleep", has(|kind| *kind == Kind::Sleep)),
        ("poll", "poll", !timeline.tasks.is_empty()),
        ("wake", "wake", !layout.arrows.is_empty()),
    ];
    let mut x = MARGIN;
    for (class, word, _) in entries.iter().filter(|(.., shown)| *shown) {
        match *class {
            "wake" => out.line(format_args!(
                r##"<path class="key wake" marker-end="url(#head)" d="M{x} {}H{}"/>"##,
                y + 7,
                x + 16
            )),
            _ => out.line(format_args!(
                r#"<rect class="key {class}" x="{x}" y="{y}" width="16" height="14" rx="3"/>"#
            )),
        }
        out.text(x + 20, y + 11, "s", word);
        x += 28 + word.len() * 7;
    }
    out.text(MARGIN, y + 28, "s dim", "Read downwards: the order of events, not their duration.");
}

/// How many items an element stands for, if more than one.
fn number(count: usize) -> String {
    if count > 1 { format!(r#" data-n="{count}""#) } else { String::new() }
}

/// How many letters of 12 pixels fit.
fn letters(width: usize) -> usize {
    width * 10 / 73
}

/// How wide a text is.
fn width_of(text: &str) -> usize {
    text.chars().count() * 73 / 10
}

/// Text as it may stand in an element or an attribute.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // No XML may hold them.
            control if control.is_control() && control != '\n' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// Elements, one a line.
struct Lines(String);

impl Lines {
    fn line(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = std::fmt::Write::write_fmt(&mut self.0, element);
        self.0.push('\n');
    }

    fn text(&mut self, x: usize, y: usize, class: &str, text: &str) {
        let class = if class.is_empty() { String::new() } else { format!(r#" class="{class}""#) };
        self.line(format_args!(r#"<text{class} x="{x}" y="{y}">{}</text>"#, escaped(text)));
    }

    fn middle(&mut self, x: usize, y: usize, text: &str) {
        self.line(format_args!(
            r#"<text class="s" x="{x}" y="{y}" text-anchor="middle">{}</text>"#,
            escaped(text)
        ));
    }

    fn rule(&mut self, x: usize, width: usize) {
        self.line(format_args!(r#"<path class="rule" d="M{x} 48H{}"/>"#, x + width));
    }
}
