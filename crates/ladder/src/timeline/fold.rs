//! What repeats is shown once: the rule by which a recording of any length fits a picture.
//!
//! 1. Three or more equal neighbours become one row: `8 × recvfrom "1" … "8"`.
//! 2. A group of up to eight rows that comes three times or more becomes itself and `the 3 rows above, 7 times more`.
//! 3. If more than sixty rows are left, groups that differ only in what they carry fold too.
//! 4. If there are still more, the middle becomes `N events`.

use std::collections::HashMap;
use std::hash::Hash;

use super::model::{CallBox, Event, Item};

/// Rows of a picture at most.
pub const ROWS: usize = 60;
/// Rows at the end that stay when the middle goes: there stands how it ended.
const LAST: usize = 9;
/// Equal neighbours that become one row.
const RUN: usize = 3;
/// Rows of a group that repeats.
const GROUP: usize = 8;

/// Folds.
pub fn fold(items: Vec<Item>) -> Vec<Item> {
    let items = groups(neighbours(items), exact);
    let items = if rows(&items) > ROWS { groups(items, alike) } else { items };
    if rows(&items) > ROWS { without_middle(items) } else { items }
}

/// Whether an item takes a row; a poll that lasts has a bar beside the rows of what happens in it.
pub fn takes_row(item: &Item) -> bool {
    !matches!(item.event, Event::Poll(_) | Event::Polled(..))
}

fn rows(items: &[Item]) -> usize {
    items.iter().filter(|item| takes_row(item)).count()
}

/// What makes two items equal but for what they carry. `None`: no two of it are.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Alike {
    Call(super::label::Kind, String, String),
    Mark(String),
    Wake(usize),
    Spawn(usize),
    Poll(usize),
    Polled(usize, super::model::End),
    Empty(usize, super::model::End),
    Again(usize),
}

fn alike(item: &Item) -> Option<(usize, Alike)> {
    let what = match &item.event {
        Event::Call(CallBox { kind, name, on, .. }) => Alike::Call(*kind, name.clone(), on.clone()),
        Event::Mark(text) | Event::Ask(text) | Event::Done(text) => Alike::Mark(text.clone()),
        Event::Wake(task) => Alike::Wake(*task),
        Event::Spawn(task) => Alike::Spawn(*task),
        Event::Poll(task) => Alike::Poll(*task),
        Event::Polled(task, end) => Alike::Polled(*task, *end),
        Event::Empty(task, end) => Alike::Empty(*task, *end),
        Event::Again { rows, .. } => Alike::Again(*rows),
        Event::Client(_) | Event::Open(_) | Event::Hidden(_) => return None,
    };
    Some((item.thread, what))
}

/// The same with all that the row shows.
type Exact = ((usize, Alike), usize, Vec<usize>, Option<CallBox>);

fn exact(item: &Item) -> Option<Exact> {
    let shown = match &item.event {
        Event::Call(shown) => Some(shown.clone()),
        _ => None,
    };
    Some((alike(item)?, item.count, item.waiting.clone(), shown))
}

/// Three or more equal neighbours become one.
fn neighbours(items: Vec<Item>) -> Vec<Item> {
    let mut folded: Vec<Item> = Vec::with_capacity(items.len());
    let mut run: Vec<Item> = Vec::new();
    for item in items {
        let equal = takes_row(&item)
            && run.first().is_some_and(|first| {
                let key = alike(first);
                key.is_some() && key == alike(&item)
            });
        if !equal {
            close(&mut run, &mut folded);
        }
        run.push(item);
    }
    close(&mut run, &mut folded);
    folded
}

/// Ends a run of equal neighbours.
fn close(run: &mut Vec<Item>, folded: &mut Vec<Item>) {
    if run.len() < RUN {
        folded.append(run);
        return;
    }
    let count: usize = run.iter().map(|item| item.count).sum();
    let lines = run.iter().flat_map(|item| item.lines.iter().copied()).collect();
    let mut items = run.drain(..);
    let (Some(first), Some(last)) = (items.next(), items.next_back()) else { return };
    let mut one = Item { count, lines, waiting: last.waiting, ..first };
    if let (Event::Call(shown), Event::Call(last)) = (&mut one.event, &last.event) {
        shown.label = match (&shown.payload, &last.payload) {
            (Some(first), Some(last)) if first != last => {
                format!("{count} × {}  {first} … {last}", shown.name)
            }
            _ => format!("{count} × {}", shown.label),
        };
    }
    folded.push(one);
}

/// Groups that repeat, by what `key` says of their items.
fn groups<K: Hash + Eq>(items: Vec<Item>, key: impl Fn(&Item) -> Option<K>) -> Vec<Item> {
    // Numbers in place of keys: equal items have equal ones, and one without a key has its own.
    let mut numbers = HashMap::new();
    let ids: Vec<usize> = items
        .iter()
        .enumerate()
        .map(|(index, item)| match key(item) {
            Some(key) => *numbers.entry(key).or_insert(index),
            None => index,
        })
        .collect();
    let mut folded = Vec::new();
    let mut at = 0;
    while at < items.len() {
        let Some((length, times)) = repetition(&items, &ids, at) else {
            folded.push(items[at].clone());
            at += 1;
            continue;
        };
        let group = &items[at..at + length];
        let polls = group.iter().filter_map(|item| match item.event {
            Event::Poll(task) | Event::Empty(task, _) => Some(task),
            _ => None,
        });
        let polls = polls.collect();
        let hidden = &items[at + length..at + length * times];
        let again = Event::Again { rows: rows(group), times: times - 1, polls };
        let again = standing_for(hidden, again);
        folded.extend_from_slice(group);
        folded.extend(again);
        at += length * times;
    }
    folded
}

/// The shortest group that begins at `at` and comes three times or more: how many items it has, and how often it comes.
fn repetition(items: &[Item], ids: &[usize], at: usize) -> Option<(usize, usize)> {
    let (mut in_rows, mut depth) = (0, 0_i32);
    for length in 1.. {
        let item = items.get(at + length - 1)?;
        in_rows += usize::from(takes_row(item));
        match item.event {
            Event::Poll(_) => depth += 1,
            // It began before the group: a fold would cut the bar.
            Event::Polled(..) if depth == 0 => return None,
            Event::Polled(..) => depth -= 1,
            _ => {}
        }
        if in_rows > GROUP || length > 4 * GROUP {
            return None;
        }
        if depth > 0 || ids.get(at + length) != Some(&ids[at]) {
            continue;
        }
        let group = &ids[at..at + length];
        let times = ids[at..].chunks_exact(length).take_while(|chunk| *chunk == group).count();
        // What saves no row is not worth the reading.
        if times >= RUN && in_rows * (times - 1) > 1 {
            return Some((length, times));
        }
    }
    None
}

/// The first rows, how many events follow, and the last rows.
fn without_middle(mut items: Vec<Item>) -> Vec<Item> {
    let last = items.split_off(at_row(&items, rows(&items) - LAST));
    let middle = items.split_off(at_row(&items, ROWS - LAST - 1));
    items.extend(standing_for(&middle, Event::Hidden(middle.clone())));
    items.extend(last);
    items
}

/// One item in place of several.
fn standing_for(hidden: &[Item], event: Event) -> Option<Item> {
    let (first, last) = (hidden.first()?, hidden.last()?);
    Some(Item {
        event,
        thread: first.thread,
        lines: hidden.iter().flat_map(|item| item.lines.iter().copied()).collect(),
        count: hidden.iter().map(|item| item.count).sum(),
        waiting: last.waiting.clone(),
        micros: first.micros,
    })
}

/// Index of the item that takes the row of this number, from 0.
fn at_row(items: &[Item], row: usize) -> usize {
    let mut taking = items.iter().enumerate().filter(|(_, item)| takes_row(item));
    taking.nth(row).map_or(items.len(), |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::super::label::Kind;
    use super::super::model::End;
    use super::*;

    fn item(event: Event) -> Item {
        Item { event, thread: 0, lines: vec![0], count: 1, waiting: Vec::new(), micros: None }
    }

    fn call(name: &str, payload: &str) -> Item {
        item(Event::Call(CallBox {
            kind: Kind::Receive,
            receives: true,
            name: name.into(),
            on: "socket".into(),
            label: format!("{name} {payload}"),
            payload: Some(payload.into()),
            says: String::new(),
        }))
    }

    /// What the rows say.
    fn shown(items: Vec<Item>) -> Vec<String> {
        let words = |item: &Item| match &item.event {
            Event::Call(shown) => shown.label.clone(),
            Event::Again { rows, times, .. } => format!("again {rows} {times}"),
            Event::Hidden(hidden) => format!("{} of {} events", item.count, hidden.len()),
            other => format!("{other:?}"),
        };
        fold(items).iter().map(words).collect()
    }

    #[test]
    fn three_equal_neighbours_become_one_row_and_two_do_not() {
        let calls = |count: usize| (1..=count).map(|number| call("recv", &number.to_string())).collect();
        assert_eq!(shown(calls(2)), ["recv 1", "recv 2"]);
        assert_eq!(shown(calls(3)), ["3 × recv  1 … 3"]);
        assert_eq!(shown(vec![call("recv", "x"), call("recv", "x"), call("recv", "x")]), ["3 × recv x"]);
        let other = Item { thread: 1, ..call("recv", "2") };
        assert_eq!(shown(vec![call("recv", "1"), other, call("recv", "3")]).len(), 3, "of another thread");
    }

    #[test]
    fn a_group_that_comes_three_times_is_shown_once() {
        let group = |times: usize| {
            let one = || [call("wait", ""), call("recv", "x"), call("send", "x")];
            (0..times).flat_map(|_| one()).chain([call("close", "")]).collect()
        };
        assert_eq!(shown(group(2)).len(), 7);
        assert_eq!(shown(group(5)), ["wait ", "recv x", "send x", "again 3 4", "close "]);
    }

    #[test]
    fn groups_that_carry_different_things_fold_only_when_they_must() {
        let group = |times: usize| {
            let one = |number: usize| [call("recv", &number.to_string()), call("send", &number.to_string())];
            (0..times).flat_map(one).collect()
        };
        assert_eq!(shown(group(20)).len(), 40);
        assert_eq!(shown(group(31)), ["recv 0", "send 0", "again 2 30"]);
    }

    #[test]
    fn what_does_not_repeat_keeps_its_beginning_and_its_end() {
        let calls = |count: usize| (0..count).map(|number| call(&format!("call{number}"), "")).collect();
        assert_eq!(shown(calls(ROWS)).len(), ROWS);
        let rows = shown(calls(1_000));
        assert_eq!(rows.len(), ROWS);
        assert_eq!((rows[0].as_str(), rows[ROWS - 1].as_str()), ("call0 ", "call999 "));
        assert_eq!(rows[ROWS - LAST - 1], "941 of 941 events");
    }

    #[test]
    fn no_fold_cuts_a_poll() {
        let poll = |begin: bool| match begin {
            true => item(Event::Poll(0)),
            false => item(Event::Polled(0, End::Pending)),
        };
        // Seen from the first call on, the group ends a poll before it begins one.
        let mut items = Vec::new();
        for _ in 0..6 {
            items.extend([call("recv", "x"), poll(false), call("wait", ""), poll(true)]);
        }
        let rows = shown(items);
        let polls = ["Polled(0, Pending)", "Poll(0)"];
        assert_eq!(rows[..4], ["recv x", polls[0], "wait ", polls[1]], "the first poll began before");
        assert_eq!(rows[4..], ["recv x", polls[0], "again 2 4", "wait ", polls[1]]);
    }
}
