//! Results made without a network: requests on a schedule against the target's model, through a few connections.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use loadgen::record::Metric;
use loadgen::result::{
    Counts, Document, Generator, Plan, Run, SCHEMA_VERSION, Slo, Validity, WarmUp, Window,
};
use loadgen::serve::model::{Behaviour, Fate, Stalls};

const RATE: u64 = 1000;
const SECONDS: u64 = 20;

/// A run at 1000 requests a second for 20 s, of which the target stands still for 2 s from 8 s on; this process owns
/// the indices i ≡ `shard` (mod `shards`).
pub fn stalled(shard: u64, shards: u64) -> Run {
    static MADE: Mutex<BTreeMap<(u64, u64), Run>> = Mutex::new(BTreeMap::new());
    // A test that panicked meanwhile has left no half-made run behind.
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry((shard, shards)).or_insert_with(|| make(shard, shards)).clone()
}

fn make(shard: u64, shards: u64) -> Run {
    let delay = Duration::from_micros(300);
    let stall = Stalls { first: Duration::from_secs(8), length: Duration::from_secs(2), every: None };
    let mut behaviour = Behaviour { stalls: Some(stall), delay, ..Behaviour::default() };
    // When each of ten connections is free again. All shards see the whole schedule, so that they agree.
    let mut free: BinaryHeap<Reverse<Duration>> = (0..10).map(|_| Reverse(Duration::ZERO)).collect();

    let [mut corrected, mut uncorrected, mut lag, mut wait, mut first_byte, mut body] =
        std::array::from_fn(|_| Metric::new());
    let mut windows: Vec<_> = (0..SECONDS).map(|_| (0_u64, 0_u64, Metric::new(), Metric::new())).collect();
    let mut scheduled = 0;
    for i in 0..RATE * SECONDS {
        let intended = Duration::from_nanos(i * 1_000_000_000 / RATE);
        let Reverse(idle) = free.pop().expect("ten connections");
        let released = intended + Duration::from_micros(20 + i % 30);
        let start = released.max(idle);
        let Fate::Answer(end) = behaviour.fate(start) else { panic!("this target answers") };
        // Not all replies take equally long.
        let end = end + Duration::from_nanos(i.wrapping_mul(7919) % 200_000);
        free.push(Reverse(end));
        if i % shards != shard {
            continue;
        }
        scheduled += 1;
        let ns = |duration: Duration| duration.as_nanos() as u64;
        lag.record(ns(released - intended), i);
        wait.record(ns(start - released), i);
        first_byte.record(ns(end - start), i);
        body.record(0, i);
        corrected.record(ns(end - intended), i);
        uncorrected.record(ns(end - start), i);
        windows[intended.as_secs() as usize].0 += 1;
        let window = &mut windows[end.as_secs().min(SECONDS - 1) as usize];
        window.1 += 1;
        window.2.record(ns(end - intended), i);
        window.3.record(ns(end - start), i);
    }
    let windows = (windows.iter().enumerate())
        .map(|(i, (scheduled, ok, corrected, uncorrected))| Window {
            start: i as f64,
            length: 1.0,
            ok: *ok,
            error: 0,
            timeout: 0,
            scheduled: *scheduled,
            corrected: corrected.summary(),
            uncorrected: uncorrected.summary(),
        })
        .collect();
    Run {
        schema_version: SCHEMA_VERSION,
        plan: Plan {
            target: "http://127.0.0.1:8080/".to_owned(),
            address: "127.0.0.1:8080".to_owned(),
            requests: Vec::new(),
            protocol: "http".to_owned(),
            arrival: "constant".to_owned(),
            rate: Some(RATE as f64),
            rate_text: RATE.to_string(),
            duration: SECONDS as f64,
            warmup: 5.0,
            client: Some("lean".to_owned()),
            pacer: "timerfd".to_owned(),
            coalesce: 0.0,
            threads: 1,
            connections: 10,
            connections_used: 10,
            timeout: 30.0,
            grace: 5.0,
            shard,
            shards,
            merged_shards: vec![shard],
        },
        seed: 1,
        started: 1_700_000_000.25,
        elapsed: SECONDS as f64,
        counts: Counts { scheduled, ok: scheduled, ..Counts::default() },
        achieved_rate: scheduled as f64 / SECONDS as f64,
        sent_rate: scheduled as f64 / SECONDS as f64,
        corrected: corrected.summary(),
        uncorrected: uncorrected.summary(),
        corrected_ok: corrected.summary(),
        send_lag: lag.summary(),
        pool_wait: wait.summary(),
        connect: Metric::new().summary(),
        first_byte: first_byte.summary(),
        body: body.summary(),
        errors: BTreeMap::new(),
        examples: BTreeMap::new(),
        statuses: BTreeMap::new(),
        bytes_read: 0,
        retried: 0,
        warm_up: WarmUp::default(),
        notes: Vec::new(),
        requests: BTreeMap::new(),
        udp: None,
        windows,
        generator: Generator { cpu_seconds: 0.4, cpu_share: 0.02, cpu_wanted: 0.03, wakes: 20_000 },
        validity: Validity { ok: true, reasons: Vec::new(), littles_law: None },
        slo: Slo {
            max_latency: Some(1.0),
            percentile: 100.0,
            error_ratio: 0.001,
            given: true,
            observed_latency: Some(corrected.max_ns() as f64 / 1e9),
            observed_error_ratio: 0.0,
            held: false,
            reasons: vec!["latency max 2.00 s is above 1.00 s".to_owned()],
        },
        interrupted: false,
    }
}

/// Writes `run` as `--json` does; the path.
pub fn save(directory: &std::path::Path, name: &str, run: Run) -> String {
    let path = directory.join(name);
    let text = serde_json::to_string(&Document::Run(run)).expect("a result is JSON");
    std::fs::write(&path, text).expect("the temporary directory can be written");
    path.to_str().expect("a path in UTF-8").to_owned()
}
