//! Line plots as SVG: no scripts, no fonts of their own, readable in a light and in a dark surrounding.

use std::fmt::Write as _;

use crate::format;
use crate::record::Metric;
use crate::result::{Run, Search, Window};

/// Colours and text of every plot; a page has it once, a file by itself too.
pub(super) const STYLE: &str = "
.plot { --ink: #1f2937; --quiet: #6b7280; --line: #e5e7eb; --paper: #ffffff;
  --blue: #1d4ed8; --orange: #c2410c; --teal: #0f766e; --slate: #475569; --red: #b91c1c; }
@media (prefers-color-scheme: dark) {
  .plot { --ink: #e5e7eb; --quiet: #9ca3af; --line: #374151; --paper: #111827;
    --blue: #7aa2ff; --orange: #ff9e64; --teal: #2dd4bf; --slate: #cbd5e1; --red: #f87171; }
}
.plot text { font: 12px system-ui, sans-serif; fill: var(--quiet); }
.plot .title { font-size: 15px; font-weight: 600; fill: var(--ink); }
.plot .grid { stroke: var(--line); stroke-width: 1; }
.plot .axis { stroke: var(--quiet); stroke-width: 1; }
.plot .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.plot .limit { stroke: var(--red); stroke-width: 1; stroke-dasharray: 2 4; }
.plot .name { font-weight: 600; }
.plot .hover { fill: transparent; }
.plot .hover:hover { fill: var(--quiet); fill-opacity: 0.15; }
";

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;
/// Room for the title of a plot that stands alone.
const TITLE: f64 = 34.0;

/// How values become positions, and which of them are written at the axis.
struct Axis {
    log: bool,
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to `high`, with ticks at round values.
    fn linear(high: f64, label: impl Fn(f64) -> String) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * 10_f64.powf((high / 6.0).log10().floor()))
            .into_iter()
            .find(|step| high / step <= 6.0)
            .unwrap_or(high);
        // A product of floats is 0.30000000000000004 at times.
        let round = |tick: f64| format!("{tick:.9e}").parse().unwrap_or(tick);
        let ticks = (0..).map(|i| round(f64::from(i) * step)).take_while(|tick| *tick <= high * 1.0001);
        let ticks = ticks.map(|tick| (tick, label(tick))).collect();
        Self { log: false, low: 0.0, high, ticks }
    }

    /// From the decade of `low` to `high`, logarithmically.
    fn log(low: f64, high: f64, label: impl Fn(f64) -> String) -> Self {
        let first = low.log10().floor() as i32;
        let last = high.log10().ceil() as i32;
        // Few decades need ticks between them.
        let steps: &[f64] = if last - first > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let low = 10_f64.powi(first);
        let ticks = (first..=last)
            .flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)))
            .filter(|tick| (low * 0.999..=high * 1.001).contains(tick))
            .map(|tick| (tick, label(tick)))
            .collect();
        Self { log: true, low, high, ticks }
    }

    /// Of latencies in seconds: logarithmic, unless all are of one size.
    fn latency(values: impl Iterator<Item = f64> + Clone) -> Self {
        let high = values.clone().fold(0.0, f64::max).max(1e-9) * 1.1;
        let low = values.filter(|value| *value > 0.0).fold(high, f64::min);
        let label = |seconds| format::duration(seconds).replace(".00 ", " ").replace(".0 ", " ");
        if high / low > 8.0 { Self::log(low, high, label) } else { Self::linear(high, label) }
    }

    /// Where `value` lies between the ends, as a share.
    fn place(&self, value: f64) -> f64 {
        let place = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// A line through points in order of x; `None` is a gap.
struct Curve {
    name: String,
    colour: &'static str,
    dash: &'static str,
    points: Vec<Option<(f64, f64)>>,
}

/// A plot, before it is drawn.
pub(super) struct Plot {
    /// What it shows.
    pub(super) title: String,
    x_name: &'static str,
    x: Axis,
    y: Axis,
    curves: Vec<Curve>,
    /// A horizontal line and its name.
    limit: Option<(f64, String)>,
    /// Columns from one x to another that tell their figures under the pointer.
    columns: Vec<(f64, f64, String)>,
}

impl Plot {
    /// The plot as an `svg` element. `alone`: as a file of its own, with title, style and background.
    pub(super) fn svg(&self, alone: bool) -> String {
        let shift = if alone { TITLE } else { 0.0 };
        let height = HEIGHT + shift;
        let mut out = String::new();
        // Writing into a string cannot fail.
        let _ = self.draw(&mut out, alone, shift, height);
        out
    }

    fn draw(&self, out: &mut String, alone: bool, shift: f64, height: f64) -> std::fmt::Result {
        let title = escape(&self.title);
        let (bottom, right) = (height - BOTTOM, WIDTH - RIGHT);
        let x = |value: f64| LEFT + self.x.place(value) * (right - LEFT);
        let y = |value: f64| bottom - self.y.place(value) * (bottom - TOP - shift);
        write!(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" role=\"img\" ")?;
        if alone {
            write!(out, "width=\"{WIDTH}\" height=\"{height}\" ")?;
        }
        writeln!(out, "viewBox=\"0 0 {WIDTH} {height}\" aria-label=\"{title}\">")?;
        if alone {
            writeln!(out, "<style>{STYLE}</style>")?;
            writeln!(out, "<rect width=\"100%\" height=\"100%\" style=\"fill: var(--paper)\"/>")?;
            writeln!(out, "<text class=\"title\" x=\"{LEFT}\" y=\"24\">{title}</text>")?;
        }
        for (value, label) in &self.y.ticks {
            let at = y(*value);
            writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            )?;
            let (tx, ty) = (LEFT - 8.0, at + 4.0);
            writeln!(out, "<text x=\"{tx}\" y=\"{ty:.1}\" text-anchor=\"end\">{}</text>", escape(label))?;
        }
        let mut free = f64::NEG_INFINITY;
        for (value, label) in &self.x.ticks {
            let at = x(*value);
            writeln!(
                out,
                "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{}\"/>",
                bottom + 4.0
            )?;
            // A label that would run into the one before is left out; about seven units a character.
            let half = 3.5 * label.chars().count() as f64;
            if at - half > free {
                free = at + half + 6.0;
                let ty = bottom + 18.0;
                writeln!(
                    out,
                    "<text x=\"{at:.1}\" y=\"{ty}\" text-anchor=\"middle\">{}</text>",
                    escape(label)
                )?;
            }
        }
        writeln!(out, "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>")?;
        let (middle, below) = ((LEFT + right) / 2.0, bottom + 38.0);
        writeln!(
            out,
            "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">{}</text>",
            escape(self.x_name)
        )?;

        // Names stand at the ends of their curves, moved apart where these meet.
        let mut names: Vec<(f64, String, String)> = Vec::new();
        if let Some((value, name)) = &self.limit
            && *value <= self.y.high
        {
            let at = y(*value);
            writeln!(
                out,
                "<line class=\"limit\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            )?;
            names.push((at, "red".to_owned(), name.clone()));
        }
        for curve in &self.curves {
            let path = path(&curve.points, x, y);
            if path.is_empty() {
                continue;
            }
            let Curve { colour, dash, name, .. } = curve;
            writeln!(
                out,
                "<path class=\"curve\" style=\"stroke: var(--{colour}); stroke-dasharray: {dash}\" d=\"{path}\"/>"
            )?;
            if let Some((_, last)) = curve.points.iter().rev().flatten().next() {
                names.push((y(*last), (*colour).to_owned(), name.clone()));
            }
        }
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut lowest = TOP + shift - 16.0;
        for name in &mut names {
            name.0 = name.0.max(lowest + 16.0);
            lowest = name.0;
        }
        let overflow = (lowest - bottom).max(0.0);
        for (at, colour, name) in names {
            let (tx, ty) = (right + 8.0, at - overflow + 4.0);
            writeln!(
                out,
                "<text class=\"name\" x=\"{tx}\" y=\"{ty:.1}\" style=\"fill: var(--{colour})\">{}</text>",
                escape(&name)
            )?;
        }
        for (from, to, text) in &self.columns {
            let (from, to) = (x(*from), x(*to));
            let (width, top) = ((to - from).max(1.0), TOP + shift);
            writeln!(
                out,
                "<rect class=\"hover\" x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
                bottom - top,
                escape(text)
            )?;
        }
        write!(out, "</svg>")
    }
}

/// The path through `points`; one that stands alone between gaps becomes a short dash.
fn path(points: &[Option<(f64, f64)>], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    for (i, point) in points.iter().enumerate() {
        let Some((px, py)) = point else { continue };
        let begins = i == 0 || points[i - 1].is_none();
        let ends = points.get(i + 1).is_none_or(Option::is_none);
        let _ = write!(path, "{}{:.1} {:.1}", if begins { "M" } else { "L" }, x(*px), y(*py));
        if begins && ends {
            path.push_str("h2");
        }
    }
    path
}

/// Text as it stands in XML and HTML, within elements and within quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no place for the other control characters, however they are written.
            '\t' | '\n' => out.push(character),
            character if character.is_control() => out.push('\u{fffd}'),
            character => out.push(character),
        }
    }
    out
}

/// Points of a distribution: x counts decades of rarity (1 is 90 %, 2 is 99 %), y is seconds.
fn distribution(metric: &Metric) -> Vec<Option<(f64, f64)>> {
    if metric.count() == 0 {
        return Vec::new();
    }
    let end = (metric.count() as f64).log10();
    let mut points: Vec<_> = (0..)
        .map(|i| f64::from(i) / 50.0)
        .take_while(|x| *x < end)
        .map(|x| (x, metric.quantile_ns(1.0 - 10_f64.powf(-x)) as f64 / 1e9))
        .collect();
    points.push((end, metric.max_ns() as f64 / 1e9));
    // Of a level stretch its ends suffice.
    let flat = |i: usize| {
        i > 0 && i + 1 < points.len() && points[i - 1].1 == points[i].1 && points[i].1 == points[i + 1].1
    };
    (0..points.len()).filter(|i| !flat(*i)).map(|i| Some(points[i])).collect()
}

/// The axis of [`distribution`].
fn rarity(decades: f64) -> Axis {
    let mut ticks =
        vec![(0.0, "0 %".to_owned()), (2_f64.log10(), "50 %".to_owned()), (1.0, "90 %".to_owned())];
    for decade in 2..=decades.floor() as i32 {
        let nines = "9".repeat((decade - 2).max(0) as usize);
        let label = if decade == 2 { "99 %".to_owned() } else { format!("99.{nines} %") };
        ticks.push((f64::from(decade), label));
    }
    let high = decades.max(1.0);
    ticks.retain(|tick| tick.0 <= high);
    Axis { log: false, low: 0.0, high, ticks }
}

/// Latency by percentile of named metrics, two colours in turn.
fn percentiles(title: String, metrics: &[(String, Metric)], limit: Option<f64>) -> Plot {
    let colours = ["blue", "orange", "teal", "slate", "red"];
    let dashes = ["none", "6 3", "2 3", "8 3 2 3"];
    let curves: Vec<_> = metrics
        .iter()
        .enumerate()
        .map(|(i, (name, metric))| Curve {
            name: name.clone(),
            colour: colours[i % colours.len()],
            dash: dashes[i % dashes.len()],
            points: distribution(metric),
        })
        .collect();
    let points = || curves.iter().flat_map(|curve| curve.points.iter().flatten());
    let decades = points().map(|point| point.0).fold(1.0, f64::max);
    let y = Axis::latency(points().map(|point| point.1));
    let limit = limit.map(|limit| (limit, format!("limit {}", format::duration(limit))));
    Plot { title, x_name: "percentile", x: rarity(decades), y, curves, limit, columns: Vec::new() }
}

/// Latency by percentile, corrected against uncorrected.
///
/// # Errors
///
/// A histogram in `run` cannot be decoded.
pub(super) fn latency_by_percentile(run: &Run) -> anyhow::Result<Plot> {
    let metrics = [
        ("corrected".to_owned(), Metric::from_summary(&run.corrected)?),
        ("uncorrected".to_owned(), Metric::from_summary(&run.uncorrected)?),
    ];
    Ok(percentiles("Latency by percentile".to_owned(), &metrics, run.slo.max_latency))
}

/// Corrected latency by percentile, target against target.
///
/// # Errors
///
/// A histogram in one of `runs` cannot be decoded.
pub(super) fn latency_by_target(runs: &[Run]) -> anyhow::Result<Plot> {
    let metrics = (runs.iter().enumerate())
        .map(|(i, run)| Ok((format!("target {}", i + 1), Metric::from_summary(&run.corrected)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let limit = runs.first().and_then(|run| run.slo.max_latency);
    Ok(percentiles("Corrected latency by percentile".to_owned(), &metrics, limit))
}

/// The axis of time from the start of the schedule to the last window's end.
fn time(run: &Run) -> Axis {
    let end = run.windows.iter().map(|window| window.start + window.length).fold(run.plan.duration, f64::max);
    Axis::linear(end, |seconds| format!("{seconds} s"))
}

/// A curve of steps: the figure of each window from its start to its end, and a gap where it has none.
fn steps(
    run: &Run,
    name: &str,
    colour: &'static str,
    dash: &'static str,
    figure: impl Fn(&Window) -> Option<f64>,
) -> Curve {
    let step = |window: &Window| {
        let Window { start, length, .. } = *window;
        let ends = |value| [Some((start, value)), Some((start + length, value))];
        figure(window).map_or_else(|| vec![None], |value| ends(value).into())
    };
    Curve { name: name.to_owned(), colour, dash, points: run.windows.iter().flat_map(step).collect() }
}

/// The values of all points.
fn values(curves: &[Curve]) -> impl Iterator<Item = f64> + Clone {
    curves.iter().flat_map(|curve| curve.points.iter().flatten().map(|point| point.1))
}

/// A column for each window with what `tell` says of it.
fn columns(run: &Run, tell: impl Fn(&Window) -> String) -> Vec<(f64, f64, String)> {
    let column = |window: &Window| {
        let (from, to) = (window.start, window.start + window.length);
        (from, to, format!("{from} to {to} s: {}", tell(window)))
    };
    run.windows.iter().map(column).collect()
}

/// Corrected latency over time, by the window in which requests ended.
pub(super) fn latency_over_time(run: &Run) -> Plot {
    let curves = vec![
        steps(run, "max", "slate", "2 3", |window| window.corrected.max),
        steps(run, "p99", "blue", "none", |window| window.corrected.p99),
        steps(run, "p50", "teal", "6 3", |window| window.corrected.p50),
    ];
    let tell = |window: &Window| {
        let corrected = &window.corrected;
        let [p50, p99, max] =
            [corrected.p50, corrected.p99, corrected.max].map(|figure| format::latency(corrected, figure));
        format!("{} ended, p50 {p50}, p99 {p99}, max {max}", corrected.count)
    };
    Plot {
        title: "Corrected latency over time".to_owned(),
        x_name: "end of the request, since the start of the schedule",
        x: time(run),
        y: Axis::latency(values(&curves)),
        curves,
        limit: run.slo.max_latency.map(|limit| (limit, format!("limit {}", format::duration(limit)))),
        columns: columns(run, tell),
    }
}

/// Requests per second over time: scheduled, answered well, and the rest. A window that the end of the schedule cuts has
/// fewer of each, which is no lower rate: it is left out.
pub(super) fn rate_over_time(run: &Run) -> Plot {
    let whole = |window: &Window| window.start + window.length <= run.plan.duration + 1e-6;
    let windows: Vec<Window> = run.windows.iter().filter(|window| whole(window)).cloned().collect();
    let run = &Run { windows, ..run.clone() };
    let mut curves = vec![
        steps(run, "scheduled", "slate", "6 3", |window| Some(window.scheduled as f64 / window.length)),
        steps(run, "ok", "blue", "none", |window| Some(window.ok as f64 / window.length)),
    ];
    if run.windows.iter().any(|window| window.error + window.timeout > 0) {
        let failed = |window: &Window| Some((window.error + window.timeout) as f64 / window.length);
        curves.push(steps(run, "failed", "red", "2 3", failed));
    }
    let tell = |window: &Window| {
        let Window { scheduled, ok, error, timeout, .. } = window;
        format!("{scheduled} scheduled, {ok} ok, {error} error, {timeout} timeout or unfinished")
    };
    Plot {
        title: "Requests per second over time".to_owned(),
        x_name: "since the start of the schedule",
        x: time(run),
        y: Axis::linear(values(&curves).fold(0.0, f64::max) * 1.05, |value| format!("{value}")),
        curves,
        limit: None,
        columns: columns(run, tell),
    }
}

/// The rates that a search tried, trial by trial.
pub(super) fn rates_tried(search: &Search) -> Plot {
    let curve = |verdict: &str, colour, dash| Curve {
        name: verdict.to_owned(),
        colour,
        dash,
        // Each trial is a dash of its own: between trials there is nothing.
        points: (search.trials.iter().enumerate())
            .flat_map(|(i, trial)| {
                let at = i as f64;
                let here = trial.verdict == verdict;
                [here.then_some((at + 0.1, trial.rate)), here.then_some((at + 0.9, trial.rate)), None]
            })
            .collect(),
    };
    let curves =
        vec![curve("pass", "blue", "none"), curve("fail", "red", "none"), curve("invalid", "slate", "2 2")];
    let high = search.trials.iter().map(|trial| trial.rate).fold(0.0, f64::max);
    let trials = search.trials.len().max(1);
    let every = trials.div_ceil(12);
    let ticks = (0..trials).step_by(every).map(|i| (i as f64 + 0.5, (i + 1).to_string())).collect();
    let columns = (search.trials.iter().enumerate())
        .map(|(i, trial)| {
            let latency = trial.latency.map_or_else(|| "-".to_owned(), format::duration);
            let text =
                format!("{}: {} req/s, {latency}, {}", trial.phase, format::rate(trial.rate), trial.verdict);
            (i as f64, i as f64 + 1.0, text)
        })
        .collect();
    Plot {
        title: "Rates tried".to_owned(),
        x_name: "trial",
        x: Axis { log: false, low: 0.0, high: trials as f64, ticks },
        y: Axis::linear(high * 1.05, |value| format!("{value}")),
        curves,
        limit: search.confirmed.map(|rate| (rate, format!("confirmed {}", format::rate(rate)))),
        columns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("<a href=\"x\">&\u{1b}"), "&lt;a href=&quot;x&quot;&gt;&amp;\u{fffd}");
    }

    #[test]
    fn axes_have_round_ticks_inside_their_ends() {
        let axis = Axis::linear(1050.0, |value| value.to_string());
        assert_eq!(
            axis.ticks.iter().map(|tick| tick.0).collect::<Vec<_>>(),
            [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]
        );
        let axis = Axis::log(84e-6, 2.2, format::duration);
        let labels: Vec<_> = axis.ticks.iter().map(|tick| tick.1.as_str()).collect();
        assert_eq!(labels, ["10.0 µs", "100 µs", "1.00 ms", "10.0 ms", "100 ms", "1.00 s"]);
        assert_eq!((axis.place(1e-5), axis.place(2.2)), (0.0, 1.0));
    }

    #[test]
    fn empty_or_odd_figures_still_make_an_axis() {
        for axis in [
            Axis::linear(0.0, |v| v.to_string()),
            Axis::latency(std::iter::empty()),
            Axis::latency([0.0].into_iter()),
        ] {
            for value in [0.0, 1.0, f64::INFINITY, f64::NAN, -1.0] {
                assert!((0.0..=1.0).contains(&axis.place(value)), "{value}");
            }
            assert!(axis.ticks.len() < 50);
        }
    }

    #[test]
    fn a_path_has_gaps() {
        let points = [Some((0.0, 0.0)), Some((1.0, 1.0)), None, Some((3.0, 3.0)), None];
        assert_eq!(path(&points, |x| x, |y| y), "M0.0 0.0L1.0 1.0M3.0 3.0h2");
    }
}
