//! Sentences: what a picture shows, for those who cannot see it, and what happens in each of its rows.

use super::layout::Layout;
use super::model::{End, Event, RING, Timeline};

/// What the whole picture shows, in a sentence or two.
pub fn summary(timeline: &Timeline, layout: &Layout) -> String {
    let calls = |wanted: fn(&Event) -> bool| {
        let found = timeline.items.iter().filter(|item| wanted(&item.event));
        found.map(|item| item.count).sum::<usize>()
    };
    let counts = [
        (calls(|event| matches!(event, Event::Call(_))), "system call"),
        (calls(|event| matches!(event, Event::Poll(_) | Event::Empty(_, End::Pending | End::Ready))), "poll"),
        (calls(|event| matches!(event, Event::Wake(_))), "wake"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    let mut said = format!("{}: {}, in their order.", timeline.title, counts.join(", "));
    let Some(last) = layout.rows.last() else { return said };
    if let Event::Open(open) = &last.event {
        said.push_str(&format!(" At the end it is {}", open.label));
        let ring = timeline.sockets.last().is_some_and(|name| name == RING);
        let (sockets, asked) = last.waiting.split_at(last.waiting.len() - usize::from(ring));
        match asked.first() {
            None | Some(0) => {}
            Some(1) => said.push_str(", with 1 request in the ring"),
            Some(asked) => said.push_str(&format!(", with {asked} requests in the ring")),
        }
        let left: usize = sockets.iter().sum();
        match left {
            0 => {}
            1 => said.push_str(", and 1 datagram waits"),
            _ => said.push_str(&format!(", and {left} datagrams wait")),
        }
        said.push('.');
    }
    said
}

/// What happens in one row, in a sentence or two.
pub fn of_row(timeline: &Timeline, layout: &Layout, row: usize) -> String {
    let name = |task: usize| timeline.tasks.get(task).map_or("", String::as_str);
    let Some(item) = layout.rows.get(row) else { return String::new() };
    let mut said = Vec::new();
    for bar in layout.bars.iter().filter(|bar| bar.first == row && bar.begins) {
        if !matches!(item.event, Event::Empty(..)) {
            said.push(format!("{} is polled.", name(bar.task)));
        }
    }
    said.push(match &item.event {
        Event::Client(text) => format!("The client acts: {text}."),
        Event::Mark(_) => "The program announces it.".into(),
        Event::Ask(_) => "The program writes a request into the ring; the next call hands it over.".into(),
        Event::Done(_) => "The program takes a completion from the ring.".into(),
        Event::Call(shown) if item.count > 1 => {
            format!("{} {} such calls in a row.", shown.says, item.count)
        }

        Event::Call(shown) | Event::Open(shown) => shown.says.clone(),
        Event::Wake(task) => {
            let joins = layout.arrows.iter().any(|arrow| arrow.from == row && arrow.joins);
            let more = if joins {
                "it is queued already, so nothing more happens"
            } else {
                "it will be polled again"
            };
            format!("The waker of {} is called: {more}.", name(*task))
        }
        Event::Spawn(task) => format!("The new task {} is put into the queue.", name(*task)),
        Event::Empty(task, End::Dropped) => format!("{} is dropped unfinished.", name(*task)),
        Event::Empty(task, end) => {
            format!("{} is polled, calls nothing, and is {}.", name(*task), end_word(*end))
        }
        Event::Again { rows: 1, times, .. } => format!("The same, {times} times more."),
        Event::Again { rows, times, .. } => format!("The same {rows} rows, {times} times more."),
        Event::Hidden(_) => format!("{} events that are not drawn.", item.count),
        Event::Poll(_) | Event::Polled(..) => String::new(),
    });
    for bar in layout.bars.iter().filter(|bar| bar.last == row) {
        if let (Some(end), false) = (bar.end, matches!(item.event, Event::Empty(..))) {
            said.push(format!("The poll of {} ends: it is {}.", name(bar.task), end_word(end)));
        }
    }
    said.join(" ")
}

fn end_word(end: End) -> &'static str {
    match end {
        End::Pending => "pending",
        End::Ready => "ready",
        End::Dropped => "dropped unfinished",
    }
}
