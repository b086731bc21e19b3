//! A timeline as one page: the picture, stepped with the keyboard, and the transcript. It loads nothing; without
//! JavaScript it is the picture and the transcript.

use super::layout::Layout;
use super::model::{Event, Item, Timeline};
use super::svg::{self, escaped};
use super::{Source, says};
use crate::story::Story;

/// Lines of the transcript at most: a browser has to hold them.
const LINES: usize = 5_000;

/// Draws. `sources` are regions of the program's source.
pub fn draw(story: &Story, timeline: &Timeline, layout: &Layout, sources: &[Source]) -> String {
    let title = escaped(&timeline.title);
    let picture = svg::draw(
        timeline,
        layout,
        &says::summary(timeline, layout),
        Some(&|row| note(timeline, layout, row)),
    );
    let mut row_of = vec![None; story.lines.len()];
    for (row, lines) in layout.lines.iter().enumerate() {
        lines.iter().for_each(|&line| row_of[line] = Some(row));
    }
    let start = timeline.items.iter().find_map(|item| item.micros).map(|(begun, _)| begun);
    let mut transcript = String::new();
    for (line, row) in story.lines.iter().zip(row_of).take(LINES) {
        let row = row.map_or_else(String::new, |row| format!(" data-row=\"{row}\""));
        let time = start.zip(line.begun_micros()).map_or_else(String::new, |(start, begun)| {
            format!("{:>11.6}  ", begun.saturating_sub(start) as f64 / 1e6)
        });
        transcript.push_str(&format!("<li{row}>{time}{}</li>\n", escaped(&story.transcript_line(line))));
    }
    if story.lines.len() > LINES {
        transcript.push_str(&format!("<li>… {} more lines</li>\n", story.lines.len() - LINES));
    }
    let sources: String = sources
        .iter()
        .map(|source| {
            let (name, path, code) = (source.region, escaped(&source.path), escaped(&source.code));
            format!("<figure class=\"source\" data-source=\"{name}\" hidden><figcaption>{path}, region {name}</figcaption>\n<pre>{code}</pre></figure>\n")
        })
        .collect();
    let times = if start.is_some() {
        "The numbers are seconds, and strace has made the program slower by far."
    } else {
        "Read downwards: the order of events, not their duration."
    };
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<h1>{title}</h1>
<main>
<div class="picture">
{picture}</div>
<div class="words">
<section class="step" aria-live="polite" hidden>
<p class="buttons"><button type="button" data-step="-1" aria-label="the event before">↑</button> <button type="button" data-step="1" aria-label="the next event">↓</button> <span class="count"></span></p>
<p class="says"></p>
{sources}</section>
<p class="hint" hidden>Step with the arrow keys; Home and End jump; a click selects.</p>
<h2>Transcript</h2>
<ol class="transcript">
{transcript}</ol>
<p>{times}</p>
</div>
</main>
<script>
{js}</script>
</body>
</html>
"#,
        css = include_str!("page.css"),
        js = include_str!("page.js"),
    )
}

/// The sentence of a row, and the region of the source that it comes from.
fn note(timeline: &Timeline, layout: &Layout, row: usize) -> (String, Option<&'static str>) {
    (says::of_row(timeline, layout, row), layout.rows.get(row).and_then(region))
}

/// Waits come from the region `wait`, receives from `receive`, sends from `flush`; of nothing else is it known.
fn region(item: &Item) -> Option<&'static str> {
    match &item.event {
        Event::Call(shown) if shown.receives || shown.name.starts_with("recv") => Some("receive"),
        Event::Call(shown) if shown.name.starts_with("send") => Some("flush"),
        Event::Call(shown) | Event::Open(shown)
            if matches!(shown.name.as_str(), "epoll_wait" | "poll" | "pselect6") =>
        {
            Some("wait")
        }
        _ => None,
    }
}
