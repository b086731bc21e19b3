//! The loop of every worker, whatever it sends: a turn at each wake, a report, a wait.

use std::io;
use std::ops::DerefMut;

use crate::clock::{Monotonic, Nanos};
use crate::engine::Work;
use crate::pacer::Pacer;
use crate::record::Recorder;
use crate::reporter::{CpuUse, Reporter, STOP_CHECK, WorkerEnd};

/// What a worker does at its wakes, and how it ends.
pub(crate) trait Turns {
    /// Ends the schedule early: nothing more becomes due.
    fn stop(&mut self);

    /// Does what is due at `now`. When the next turn is: a moment that has passed means at once, `None` that nothing is
    /// left to do.
    fn turn(&mut self, now: Nanos) -> Option<Nanos>;

    /// Waits for what makes a turn worth while before its time. It may be dropped in the middle.
    async fn called(&self) -> io::Result<()>;

    /// What has been recorded so far.
    fn recorder(&mut self) -> impl DerefMut<Target = Recorder>;

    /// Requests released and not ended.
    fn pending(&self) -> u64;

    /// How many requests exceed `limit` for certain.
    fn over_limit(&self, now: Nanos, limit: Nanos) -> u64;

    /// Gives up: every request that has not ended is recorded at its age.
    fn close(&mut self, now: Nanos);

    /// What the run gets to know of it.
    fn end(self, cpu: CpuUse) -> WorkerEnd;
}

/// Runs a worker that is to do `work`, from its start to its end.
pub(crate) async fn run(
    mut worker: impl Turns,
    work: &Work,
    mut pacer: Pacer,
    mut reporter: Reporter,
) -> io::Result<WorkerEnd> {
    let (start, end, give_up) = (work.measured_start(), work.end(), work.end() + work.grace);
    let mut cpu = CpuUse::default();
    pacer.until(work.start).await?;
    loop {
        let now = Monotonic.now();
        cpu.note(now, start, end);
        if reporter.stopped() {
            worker.stop();
        }
        let next = worker.turn(now);
        // Counting them at each wake would cost too much.
        let limit = reporter.limit().filter(|_| reporter.is_due(now));
        let over = limit.map_or(0, |limit| worker.over_limit(now, limit));
        let pending = worker.pending();
        reporter.report(&mut worker.recorder(), now, pending, over);
        let Some(next) = next.filter(|_| now < give_up && !reporter.stopped()) else { break };
        if next <= now {
            // The runtime looks at the sockets meanwhile, without waiting for them.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            biased;
            woken = pacer.until(next.min(now + STOP_CHECK).min(give_up)) => woken?,
            called = worker.called() => called?,
        }
    }
    cpu.close();
    let now = Monotonic.now();
    worker.close(now);
    reporter.report(&mut worker.recorder(), now, 0, 0);
    Ok(worker.end(cpu))
}
