//! What a person sees while it runs: one line on a terminal; elsewhere a line now and then; never on stdout.

use std::io::{IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::live::Progress;

/// Elsewhere than on a terminal a line is printed each time this many seconds have passed.
const PLAIN_EVERY: f64 = 10.0;

/// Shows progress on stderr.
pub struct Display {
    bar: Option<ProgressBar>,
    plain: bool,
    next_plain: f64,
    prefix: String,
}

impl Display {
    /// A display; none at all when `quiet`.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is a constant without placeholders that could be wrong.
            bar.set_style(
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        Self { bar, plain: !terminal && !quiet, next_plain: PLAIN_EVERY, prefix: String::new() }
    }

    /// What stands before each line from now on: the trial, or the target.
    pub fn prefix(&mut self, prefix: String) {
        self.prefix = prefix;
        self.next_plain = PLAIN_EVERY;
    }

    /// Shows how the run stands.
    pub fn show(&mut self, progress: &Progress) {
        if self.bar.is_none() && !(self.plain && progress.elapsed >= self.next_plain) {
            return;
        }
        let line = format!("{}{}", self.prefix, sentence(progress));
        match &self.bar {
            Some(bar) => bar.set_message(line),
            None => {
                self.next_plain += PLAIN_EVERY;
                self.line(&line);
            }
        }
    }

    /// A line that stays.
    pub fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            // Nobody reads it any more: the run goes on.
            None if self.plain => _ = writeln!(std::io::stderr(), "{line}"),
            None => {}
        }
    }
}

/// How a run stands, in one line.
fn sentence(progress: &Progress) -> String {
    let Progress { elapsed, total, warm_up, ended, pending, latency } = *progress;
    let latency = latency.map_or_else(String::new, |(p50, p99, max)| {
        format!(", latency p50 {:.3} p99 {:.3} max {:.3} ms", p50 * 1e3, p99 * 1e3, max * 1e3)
    });
    let state = match warm_up {
        _ if elapsed > total => "the schedule is over".to_owned(),
        true => "warming up".to_owned(),
        false => format!("{ended} ended in the last second"),
    };
    // After the schedule the last replies are waited for, which is no more of it.
    let elapsed = elapsed.min(total);
    format!("{elapsed:.0} of {total:.0} s: {state}, {pending} pending{latency}")
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_whole_has_passed() {
        let progress = Progress { elapsed: 10.4, total: 8.0, pending: 3, ..Progress::default() };
        assert_eq!(sentence(&progress), "8 of 8 s: the schedule is over, 3 pending");
        let progress = Progress { elapsed: 2.0, ended: 7, ..progress };
        assert_eq!(sentence(&progress), "2 of 8 s: 7 ended in the last second, 3 pending");
    }
}
