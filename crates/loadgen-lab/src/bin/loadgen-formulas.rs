//! loadgen-formulas: what theory says of a misbehaving server, beside what loadgen's own engine records of it.
//!
//! The engine is the real one; clock and server are simulated, so the tables are the same on every machine. The last
//! column is the same server under a closed loop, which is how most load generators work.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use echo_service::{print_line, print_to_stderr};
use loadgen::clock::{Nanos, SECOND, nanos};
use loadgen::engine::{Closed, Connections, Engine, Work};
use loadgen::record::Recorder;
use loadgen::schedule::{Arrival, Rate, Schedule, Share};
use loadgen::slo::{Conduct, Objective, Verdict, judge, slope, violations};
use loadgen_lab::simulation::{self as sim, Bucket, Exact, Millisecond, Pacer, Server, Service, Single};

#[derive(Parser)]
#[command(
    version,
    about = "What theory says of a misbehaving server, beside what loadgen's own engine records of it"
)]
struct Flags {
    /// Which table
    table: Table,
    /// Write the picture of coordinated omission to FILE too
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Table {
    /// A server that stands still for 6 s of 60
    Stall,
    /// A server that gets more than it can serve
    Overload,
    /// Queues with random arrivals
    Queues,
    /// What a timer of whole milliseconds does to the figures
    Timers,
    /// What releasing requests together saves, and what it costs
    Coalesce,
    /// How far a verdict on latency alone over-estimates a server
    Search,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let text = match flags.table {
        Table::Stall => stall(),
        Table::Overload => overload(),
        Table::Queues => queues(),
        Table::Timers => timers(),
        Table::Coalesce => coalesce(),
        Table::Search => search(),
    };
    print_line(text.trim_end());
    if let Some(path) = flags.picture
        && let Err(error) = std::fs::write(&path, picture())
    {
        print_to_stderr(
            "loadgen-formulas",
            format_args!("cannot write {}: {error}; name a file in a directory that exists", path.display()),
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// A schedule to run against a simulated server.
#[derive(Clone, Copy)]
struct Case {
    rate: f64,
    seconds: f64,
    poisson: Option<u64>,
    grace: Nanos,
}

impl Case {
    fn constant(rate: f64, seconds: f64) -> Self {
        Self { rate, seconds, poisson: None, grace: 1000 * SECOND }
    }

    fn record(&self, server: &mut impl Server, pacer: &mut impl Pacer, closed: Option<Closed>) -> Recorder {
        self.run(server, pacer, closed, 0).recorder
    }

    fn run(
        &self,
        server: &mut impl Server,
        pacer: &mut impl Pacer,
        closed: Option<Closed>,
        coalesce: Nanos,
    ) -> Engine {
        let rate = Rate::approximate(self.rate);
        let arrival = self.poisson.map_or(Arrival::Constant(rate), |seed| Arrival::Poisson(rate, seed));
        let mut engine = Engine::new(Work {
            schedule: Schedule { arrival, duration: nanos(self.seconds) },
            share: Share::ALL,
            start: 0,
            warm_up: 0,
            connections: Connections::Fixed(if closed.is_some() { 8 } else { 1_000_000 }),
            timeout: 1000 * SECOND,
            grace: self.grace,
            coalesce,
            closed,
            limit: None,
        });
        sim::run(&mut engine, server, pacer);
        engine
    }

    fn open(&self, server: &mut impl Server) -> Recorder {
        self.record(server, &mut Exact, None)
    }

    fn closed(&self, server: &mut impl Server) -> Recorder {
        self.record(server, &mut Exact, Some(Closed::Paced))
    }
}

/// What is read off a recording.
type Figure = fn(&Recorder) -> f64;

/// Seconds.
fn max(recorder: &Recorder) -> f64 {
    recorder.corrected.max_ns() as f64 / 1e9
}

/// Seconds.
fn mean(recorder: &Recorder) -> f64 {
    recorder.corrected.mean_ns() / 1e9
}

/// Seconds.
fn quantile(recorder: &Recorder, quantile: f64) -> f64 {
    recorder.corrected.quantile_ns(quantile) as f64 / 1e9
}

/// A table of figures: what, by the formula, in the open loop, in a closed one.
fn table(title: &str, rows: &[(String, f64, f64, Option<f64>)]) -> String {
    let mut out = format!("{title}\n\n{:<34} {:>9} {:>9} {:>9}\n", "", "formula", "open", "closed");
    for (what, formula, open, closed) in rows {
        let digits =
            |value: &f64| if *formula < 100.0 { format!("{value:.4}") } else { format!("{value:.0}") };
        let closed = closed.as_ref().map_or_else(|| "-".to_owned(), digits);
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{what:<34} {:>9} {:>9} {closed:>9}", digits(formula), digits(open));
    }
    out
}

fn stall() -> String {
    let (rate, seconds, length) = (1000.0, 60.0, 6.0);
    let case = Case::constant(rate, seconds);
    let mut rows = Vec::new();
    for (name, mu) in [("instant", f64::INFINITY), ("mu = 2000", 2000.0), ("mu = 1250", 1250.0)] {
        // What is left of the server while it drains: arrivals come at rho of its pace.
        let free = 1.0 - rate / mu;
        let server =
            || Single::new(Service::Fixed(nanos(1.0 / mu))).stalling(vec![(10 * SECOND, nanos(length))]);
        let (open, closed) = (case.open(&mut server()), case.closed(&mut server()));
        let figures: [(&str, f64, Figure); 4] = [
            ("mean", length * length / (2.0 * seconds * free), mean),
            ("P(> 2 s)", (length - 2.0) / (seconds * free), |r| r.corrected.share_above(2 * SECOND)),
            ("p99", length - 0.01 * seconds * free, |r| quantile(r, 0.99)),
            ("max", length, max),
        ];
        for (what, formula, figure) in figures {
            rows.push((format!("{name}: {what}"), formula, figure(&open), Some(figure(&closed))));
        }
    }
    table("60 s at 1000 requests a second; the server stands still for 6 s (seconds, shares)", &rows)
}

fn overload() -> String {
    let (rate, mu, seconds) = (1200.0, 1000.0, 30.0);
    let growth = rate / mu - 1.0;
    let case = Case::constant(rate, seconds);
    let server = || Single::new(Service::Fixed(nanos(1.0 / mu)));
    let (drained, closed) = (case.open(&mut server()), case.closed(&mut server()));
    let cut = Case { grace: 0, ..case };
    let (cut, closed_cut) = (cut.open(&mut server()), cut.closed(&mut server()));
    let slope = |recorder: &Recorder| slope(&recorder.groups.medians()).unwrap_or(f64::NAN);
    let rows = [
        ("growth, s a second", growth, slope(&drained), slope(&closed)),
        ("mean", seconds * growth / 2.0, mean(&drained), mean(&closed)),
        ("max", seconds * growth + 1.0 / rate, max(&drained), max(&closed)),
        ("answered, cut at 30 s", mu * seconds, cut.counts.ok as f64, closed_cut.counts.ok as f64),
        (
            "unfinished, cut at 30 s",
            seconds * (rate - mu),
            cut.counts.unfinished as f64,
            closed_cut.counts.unfinished as f64,
        ),
    ];
    table(
        "30 s at 1200 requests a second; the server serves 1000 (seconds, counts)",
        &rows.map(|(what, formula, open, closed)| (what.to_owned(), formula, open, Some(closed))),
    )
}

fn queues() -> String {
    let service = 0.001;
    let mut rows = Vec::new();
    for rho in [0.5, 0.8] {
        let case = Case { poisson: Some(7), ..Case::constant(rho / service, 200.0) };
        let open = case.open(&mut Single::new(Service::Fixed(nanos(service))));
        let formula = service * (1.0 + rho / (2.0 * (1.0 - rho)));
        rows.push((format!("M/D/1, rho = {rho}: mean, ms"), 1e3 * formula, 1e3 * mean(&open), None));
    }
    for rho in [0.5, 0.8] {
        let case = Case { poisson: Some(11), ..Case::constant(rho / service, 200.0) };
        let open = case.open(&mut Single::new(Service::exponential(nanos(service), 3)));
        let rest = (1.0 - rho) / service;
        rows.push((format!("M/M/1, rho = {rho}: mean, ms"), 1e3 / rest, 1e3 * mean(&open), None));
        rows.push((
            format!("M/M/1, rho = {rho}: p99, ms"),
            1e3 * 100_f64.ln() / rest,
            1e3 * quantile(&open, 0.99),
            None,
        ));
    }
    table("200 s of random arrivals at a server that serves 1000 a second", &rows)
}

fn timers() -> String {
    let case = Case::constant(50_000.0, 5.0);
    let server = || Single::new(Service::Fixed(nanos(10e-6)));
    let exact = case.record(&mut server(), &mut Exact, None);
    let coarse = case.record(&mut server(), &mut Millisecond, None);
    let mut out = format!(
        "50,000 requests a second; the server takes 10 µs for each, one after the other (microseconds)\n\n\
         {:<34} {:>9} {:>9}\n",
        "", "exact", "1 ms tick"
    );
    let figures: [(&str, Figure); 4] = [
        ("from release: mean", |r| {
            (r.corrected.sum_ns() - r.send_lag.sum_ns()) as f64 / r.corrected.count() as f64 / 1e9
        }),
        ("from intended time: mean", mean),
        ("from intended time: max", max),
        ("send lag: mean", |r| r.send_lag.mean_ns() / 1e9),
    ];
    for (what, figure) in figures {
        let _ = writeln!(out, "{what:<34} {:>9.0} {:>9.0}", 1e6 * figure(&exact), 1e6 * figure(&coarse));
    }
    out
}

/// `k` requests leave when the last of them is due: the first waited for `(k - 1) / R`, the last not at all.
fn coalesce() -> String {
    let mut out = format!(
        "Requests leave together with all that are due within c (microseconds)\n\n\
         {:<34} {:>19} {:>19}\n{:<34} {:>9} {:>9} {:>9} {:>9}\n",
        "", "wakes per request", "mean send lag", "", "formula", "engine", "formula", "engine"
    );
    for rate in [1000.0_f64, 10_000.0, 30_000.0] {
        for c in [0.0, 50e-6, 200e-6, 500e-6, 1e-3] {
            let together = (c * rate + 1e-9).floor() + 1.0;
            let lag = (together - 1.0) / rate / 2.0;
            let engine = Case::constant(rate, 1.0).run(&mut sim::delay(0), &mut Exact, None, nanos(c));
            let wakes = engine.wakes as f64 / engine.recorder.counts.scheduled as f64;
            let _ = writeln!(
                out,
                "{:<34} {:>9.3} {wakes:>9.3} {:>9.0} {:>9.0}",
                format!("{rate} a second, c = {:.0}", 1e6 * c),
                1.0 / together,
                1e6 * lag,
                engine.recorder.send_lag.mean_ns() / 1e3
            );
        }
    }
    out
}

fn search() -> String {
    let (capacity, limit) = (1000.0, 1.0);
    let objective =
        Objective { max_latency: Some(nanos(limit)), percentile: 100.0, error_ratio: 0.001, given: true };
    let conduct = Conduct { open_loop: true, ..Conduct::default() };
    let highest = |seconds: f64, passes: &dyn Fn(&Recorder) -> bool| {
        let (mut low, mut high) = (900.0, 1300.0);
        while high - low > 1.0 {
            let middle = (low + high) / 2.0;
            let recorder = Case::constant(middle, seconds).open(&mut Bucket::new(capacity, 1.0, false));
            if passes(&recorder) { low = middle } else { high = middle }
        }
        low
    };
    let mut out = format!(
        "A server that passes 1000 requests a second, a limit of 1 s: the highest rate that a trial lets pass\n\n\
         {:<34} {:>9} {:>9} {:>9}\n",
        "length of the trial", "formula", "latency", "and slope"
    );
    for seconds in [5.0, 20.0] {
        let by_latency = highest(seconds, &|recorder| violations(recorder, &objective).is_empty());
        let by_slope = highest(seconds, &|recorder| {
            judge(recorder, &conduct, &objective, nanos(seconds)).verdict == Verdict::Pass
        });
        let formula = capacity * (1.0 + limit / seconds);
        let _ =
            writeln!(out, "{:<34} {formula:>9.0} {by_latency:>9.0} {by_slope:>9.0}", format!("{seconds} s"));
    }
    out
}

/// Coordinated omission in three frames: the schedule, what a closed loop makes of it, and what really was due.
fn picture() -> String {
    // Ten starts a second for 2.4 s; each takes 20 ms, but from 0.8 to 1.8 s the server stands still.
    let starts: Vec<f64> = (0..24).map(|i| f64::from(i) / 10.0).collect();
    let end = |start: f64| if (0.8..1.8).contains(&start) { 1.82 } else { start + 0.02 };
    let x = |seconds: f64| 20.0 + 290.0 * seconds;
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 740 470\" width=\"740\" height=\"470\" role=\"img\" \
         aria-label=\"Coordinated omission in three frames\">\n<style>\n\
         svg { --ink: #1f2937; --quiet: #6b7280; --paper: #ffffff; --stall: #f3e8d8; --blue: #1d4ed8; --red: #b91c1c; }\n\
         @media (prefers-color-scheme: dark) { svg { --ink: #e5e7eb; --quiet: #9ca3af; --paper: #111827; --stall: #3b2f1f; \
         --blue: #7aa2ff; --red: #f87171; } }\n\
         text { font: 13px system-ui, sans-serif; fill: var(--ink); }\n\
         .small { font-size: 12px; fill: var(--quiet); }\n\
         .head { font-weight: 600; }\n\
         </style>\n<rect width=\"740\" height=\"470\" fill=\"var(--paper)\"/>\n",
    );
    let frame = |out: &mut String, top: f64, height: f64, head: &str, text: &str| {
        let (from, width) = (x(0.8), x(1.8) - x(0.8));
        let _ = writeln!(
            out,
            "<rect x=\"{from}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"var(--stall)\"/>"
        );
        let base = top + height;
        let _ = writeln!(out, "<path d=\"M{} {base}H{}\" stroke=\"var(--quiet)\"/>", x(0.0), x(2.45));
        let _ = writeln!(out, "<text class=\"head\" x=\"20\" y=\"{}\">{head}</text>", top - 24.0);
        let _ = writeln!(out, "<text class=\"small\" x=\"20\" y=\"{}\">{text}</text>", top - 7.0);
    };
    let bar = |out: &mut String, y: f64, from: f64, to: f64| {
        let width = (x(to) - x(from)).max(4.0);
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"6\" rx=\"2\" fill=\"var(--blue)\"/>",
            x(from)
        );
    };

    frame(
        &mut out,
        56.0,
        30.0,
        "1. The schedule: ten requests a second",
        "The server stands still for one second (shaded).",
    );
    for start in &starts {
        let _ =
            writeln!(out, "<path d=\"M{:.1} 70V86\" stroke=\"var(--ink)\" stroke-width=\"2\"/>", x(*start));
    }

    let text = "One request waits. Ten starts fall away, and with them ten latencies that nobody records.";
    frame(
        &mut out,
        150.0,
        40.0,
        "2. A closed loop: the next request starts when the last has been answered",
        text,
    );
    let mut busy = 0.0;
    let mut omitted = 0;
    for start in &starts {
        if *start < busy {
            omitted += 1;
            let cross = x(*start);
            let _ = writeln!(
                out,
                "<path d=\"M{:.1} 162l8 8m0 -8l-8 8\" stroke=\"var(--red)\" stroke-width=\"2\"/>",
                cross - 4.0
            );
        } else {
            busy = end(*start);
            bar(&mut out, 180.0, *start, busy);
        }
    }
    debug_assert_eq!(omitted, 10);

    let text = "Each counts from the time at which it should have started, so the stall shows in every one that it held up.";
    frame(
        &mut out,
        254.0,
        160.0,
        "3. An open loop: every request starts on schedule, or is known to be late",
        text,
    );
    let mut row = 0.0;
    for start in &starts {
        let held = end(*start) - start > 0.1;
        bar(&mut out, if held { 264.0 + 13.0 * row } else { 404.0 }, *start, end(*start));
        if held {
            let latency = end(*start) - start;
            let (at, y) = (x(1.84), 271.0 + 13.0 * row);
            let _ = writeln!(out, "<text class=\"small\" x=\"{at:.1}\" y=\"{y}\">{latency:.2} s</text>");
            row += 1.0;
        }
    }
    for second in [0.0, 1.0, 2.0] {
        let _ = writeln!(
            out,
            "<text class=\"small\" x=\"{:.1}\" y=\"432\" text-anchor=\"middle\">{second} s</text>",
            x(second)
        );
    }
    out.push_str("<text class=\"small\" x=\"20\" y=\"456\">Made by: cargo run --bin loadgen-formulas -- stall --picture docs/pictures/omission.svg</text>\n</svg>\n");
    out
}
