//! The result of a run that has ended, out of what was asked for and what was recorded.

use crate::clock::seconds;
use crate::engine::Closed;
use crate::live::Finished;
use crate::options::ScheduleArgs;
use crate::record::Recorder;
use crate::result::{LittlesLaw, Plan, Run, SCHEMA_VERSION, Slo, Validity};
use crate::schedule::Arrival;
use crate::slo::{error_ratio, invalid_reasons, limited_by_connections, violations};
use crate::spec::{RequestKind, Spec};
use crate::target::Target;

/// What was asked for, as it stands in the result.
pub(crate) fn plan(spec: &Spec, target: &Target, args: Option<&ScheduleArgs>) -> Plan {
    let open_rate = (spec.closed != Some(Closed::AsFastAsPossible)).then(|| spec.schedule.mean_rate());
    let arrival = match (&spec.schedule.arrival, spec.closed) {
        (_, Some(_)) => "closed",
        (Arrival::Constant(_), _) => "constant",
        (Arrival::Poisson(..), _) => "poisson",
        (Arrival::Ramp(..), _) => "ramp",
        (Arrival::Steps(..), _) => "steps",
        (Arrival::Trace(_), _) => "trace",
    };
    Plan {
        target: target.to_string(),
        address: spec.kind.route().to.to_string(),
        requests: spec.planned.clone(),
        protocol: target.scheme.name().to_owned(),
        arrival: arrival.to_owned(),
        rate: open_rate,
        rate_text: args.map_or_else(String::new, ScheduleArgs::text),
        duration: spec.schedule.duration as f64 / 1e9,
        warmup: spec.warm_up as f64 / 1e9,
        client: match &spec.kind {
            RequestKind::Http(client, ..) => Some(client.name().to_owned()),
            RequestKind::Udp(..) | RequestKind::Line(..) => None,
        },
        pacer: spec.pacer.name().to_owned(),
        coalesce: spec.coalesce as f64 / 1e9,
        threads: spec.threads as u64,
        connections: spec.connections.unwrap_or(0) as u64,
        connections_used: 0,
        timeout: spec.timeout as f64 / 1e9,
        grace: spec.grace as f64 / 1e9,
        shard: spec.share.part,
        shards: spec.share.of,
        merged_shards: vec![spec.share.part],
    }
}

/// What is good to know of replies that count as good.
fn about_replies(kind: &RequestKind, recorder: &Recorder) -> Vec<String> {
    let RequestKind::Http(_, _, requests, _) = kind else { return Vec::new() };
    let mut notes = Vec::new();
    for (status, count) in
        recorder.statuses.range(300..400).filter(|(status, _)| requests.judge(**status).is_ok())
    {
        notes.push(format!(
            "{count} replies sent us elsewhere (http {status}), where loadgen does not go: measure that address, or say --ok 3xx"
        ));
    }
    if requests.says_good() {
        notes.clear();
    }
    if let Some((small, large)) = recorder.sizes.filter(|(small, large)| small != large && requests.is_one())
    {
        notes.push(format!(
            "replies to one and the same request had from {small} to {large} bytes: see that all of them are what you want"
        ));
    }
    notes
}

/// The result of a run as it is printed.
pub(crate) fn result(
    spec: &Spec,
    target: &Target,
    schedule: Option<&ScheduleArgs>,
    seed: u64,
    finished: Finished,
) -> Run {
    let Finished { recorder, conduct, .. } = &finished;
    let objective = &spec.objective;
    let duration = seconds(finished.duration).max(1e-9);
    let reasons = invalid_reasons(recorder, conduct, objective);
    let mut broken = violations(recorder, objective);
    let mut notes = Vec::new();
    if !conduct.connections_must_suffice && conduct.open_loop {
        notes.extend(limited_by_connections(recorder, objective));
    }
    if finished.interrupted {
        broken.push("it was interrupted".to_owned());
    }
    notes.extend(about_replies(&spec.kind, recorder));
    let mut plan = plan(spec, target, schedule);
    plan.connections = finished.cap;
    plan.connections_used = finished.connections;
    Run {
        schema_version: SCHEMA_VERSION,
        plan,
        seed,
        started: finished.started,
        elapsed: seconds(recorder.took()),
        counts: recorder.counts,
        achieved_rate: recorder.counts.ok as f64 / duration,
        sent_rate: recorder.sent as f64 / duration,
        corrected: recorder.corrected.summary(),
        uncorrected: recorder.uncorrected.summary(),
        corrected_ok: recorder.corrected_ok.summary(),
        send_lag: recorder.send_lag.summary(),
        pool_wait: recorder.pool_wait.summary(),
        connect: recorder.connect.summary(),
        first_byte: recorder.first_byte.summary(),
        body: recorder.body.summary(),
        errors: recorder.errors.clone(),
        examples: recorder.examples.clone(),
        statuses: recorder.statuses.iter().map(|(status, n)| (status.to_string(), *n)).collect(),
        bytes_read: recorder.bytes_read,
        retried: recorder.retried,
        warm_up: recorder.warm_up.clone(),
        notes,
        requests: recorder.requests.clone(),
        udp: finished.udp,
        generator: finished.generator,
        validity: Validity {
            ok: reasons.is_empty(),
            reasons,
            littles_law: recorder
                .littles_law()
                .map(|(in_flight, rate_times_latency)| LittlesLaw { in_flight, rate_times_latency }),
        },
        slo: Slo {
            max_latency: objective.max_latency.map(seconds),
            percentile: objective.percentile,
            error_ratio: objective.error_ratio,
            given: objective.given,
            observed_latency: objective.latency(&recorder.corrected).map(seconds),
            observed_error_ratio: error_ratio(&recorder.counts),
            held: broken.is_empty(),
            reasons: broken,
        },
        interrupted: finished.interrupted,
        windows: finished.windows,
    }
}
