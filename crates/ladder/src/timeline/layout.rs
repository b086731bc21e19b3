//! Rows, the bars of polls beside them, and the arrows of wakes.

use super::fold::takes_row;
use super::model::{End, Event, Item, Timeline};

/// What a renderer draws.
pub struct Layout {
    /// Downwards.
    pub rows: Vec<Item>,
    /// Polls.
    pub bars: Vec<Bar>,
    /// Wakes.
    pub arrows: Vec<Arrow>,
    /// By row, the lines of the story that it stands for.
    pub lines: Vec<Vec<usize>>,
}

/// A poll: the rows beside which it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Whose.
    pub task: usize,
    /// First row.
    pub first: usize,
    /// Last row.
    pub last: usize,
    /// Whether the picture shows its beginning.
    pub begins: bool,
    /// How it ended, if the picture shows it.
    pub end: Option<End>,
    /// How many polls it stands for.
    pub count: usize,
}

/// A wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrow {
    /// Row of the wake.
    pub from: usize,
    /// Row of the poll that it causes, if the picture shows it.
    pub to: Option<usize>,
    /// Who is polled there.
    pub task: usize,
    /// The task was queued already: the arrow joins the earlier one.
    pub joins: bool,
}

impl Layout {
    /// Lays out the folded items of a timeline.
    pub fn of(timeline: &Timeline, items: Vec<Item>) -> Self {
        let mut layout = Layout { rows: Vec::new(), bars: Vec::new(), arrows: Vec::new(), lines: Vec::new() };
        // Of polls that begin beside the next row.
        let mut beginning: Vec<usize> = Vec::new();
        // By task: the bars that are open, and the wakes that no poll has followed yet.
        let mut open: Vec<Vec<Bar>> = vec![Vec::new(); timeline.tasks.len()];
        let mut woken: Vec<Vec<usize>> = vec![Vec::new(); timeline.tasks.len()];
        for item in items {
            let row = layout.rows.len();
            let bar = |task| Bar { task, first: row, last: row, begins: true, end: None, count: item.count };
            match &item.event {
                Event::Poll(task) => {
                    layout.land(&mut woken[*task], row);
                    open[*task].push(bar(*task));
                }
                Event::Polled(task, end) => {
                    let begun = open[*task].pop().unwrap_or(Bar { first: 0, begins: false, ..bar(*task) });
                    layout.bars.push(Bar {
                        last: row.saturating_sub(1).max(begun.first),
                        end: Some(*end),
                        ..begun
                    });
                }
                Event::Empty(task, end) => {
                    layout.land(&mut woken[*task], row);
                    layout.bars.push(Bar { end: Some(*end), ..bar(*task) });
                }
                Event::Wake(task) => {
                    let joins = !woken[*task].is_empty();
                    woken[*task].push(layout.arrows.len());
                    layout.arrows.push(Arrow { from: row, to: None, task: *task, joins });
                }
                Event::Again { polls, .. } => {
                    polls.iter().for_each(|task| layout.land(&mut woken[*task], row));
                }
                Event::Hidden(hidden) => {
                    for hidden in hidden {
                        match hidden.event {
                            Event::Poll(task) => {
                                layout.land(&mut woken[task], row);
                                open[task].push(bar(task));
                            }
                            Event::Empty(task, _) => layout.land(&mut woken[task], row),
                            Event::Polled(task, _) => {
                                // A bar that the picture shows ends without a sign.
                                if let Some(begun) = open[task].pop().filter(|begun| begun.first < row) {
                                    layout.bars.push(Bar { last: row - 1, ..begun });
                                }
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
            if takes_row(&item) {
                let lines = beginning.drain(..).chain(item.lines.iter().copied());
                layout.lines.push(lines.collect());
                layout.rows.push(item);
            } else if let (Event::Polled(..), Some(last)) = (&item.event, layout.lines.last_mut()) {
                last.extend(&item.lines);
            } else {
                beginning.extend(&item.lines);
            }
        }
        if let Some(last) = layout.lines.last_mut() {
            last.append(&mut beginning);
        }
        let last = layout.rows.len().saturating_sub(1);
        for bar in open.into_iter().flatten() {
            layout.bars.push(Bar { first: bar.first.min(last), last, ..bar });
        }
        layout.bars.sort_by_key(|bar| (bar.first, bar.task, bar.last));
        layout
    }

    /// A poll of a task begins beside that row: there end the arrows of its wakes.
    fn land(&mut self, woken: &mut Vec<usize>, row: usize) {
        woken.drain(..).for_each(|arrow| self.arrows[arrow].to = Some(row));
    }
}
