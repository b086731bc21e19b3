//! The real binary against real targets: few tests, tolerant of a loaded machine, each with its control.
//!
//! Where the machine itself holds the generator up, the generator says so (`validity`), and its own send lag is the
//! tolerance: such a run cannot fail a test, nor is it taken for a proof.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{DEADLINE, Target, end, hold, loadgen, metric, output, own_address, parse, run, start};
use harness::demo::must;
use harness::{Launch, Process, eventually};
use loadgen::record::Metric;
use loadgen::result::{Document, Run};
use nix::sys::signal::Signal;

fn url(target: &Target) -> String {
    format!("http://{}/", target.address)
}

/// Now, in seconds since 1970.
fn today() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Seconds by which the machine made the generator late.
fn lateness(run: &Run) -> f64 {
    run.send_lag.p99.unwrap_or(0.0)
}

/// T1 and R28: the server stands still for a measured time; the pause is found at the quantile where the formula puts
/// it. The control, a closed loop at the same rate beside it, misses it.
#[test]
fn a_stopped_server_is_seen_where_the_formula_says() {
    let mut complaint = String::new();
    for _ in 0..2 {
        let server = Target::start("http", &[]);
        let (t, rate) = (8.0, 200.0);
        let common = ["--rate", "200", "--duration", "8s", "--warmup", "0s", "--no-progress"];
        let open = start(&url(&server), &[&common[..], &["--seed", "1"]].concat());
        let closed = start(&url(&server), &[&common[..], &["--closed-loop", "--connections", "2"]].concat());
        std::thread::sleep(Duration::from_secs(3));
        let s = server.hold(Duration::from_secs(2));
        let (_, open) = parse(&end(open));
        let (_, closed) = parse(&end(closed));
        assert_eq!(open.counts.scheduled, 1600);

        let late = lateness(&open);
        let corrected = metric(&open.corrected);
        let max = open.corrected.max.expect("requests were made");
        let quantile = |q: f64| corrected.quantile_ns(q) as f64 / 1e9;
        let (want, got) = (s - 0.1 * t, quantile(0.9));
        let above = corrected.share_above(500_000_000);
        let want_above = (s - 0.5) / t;
        let slack = 0.1 + 2.0 * late;
        complaint = format!(
            "S = {s}: max {max}, p90 {got} for {want}, P(>0.5 s) {above} for {want_above}, lag p99 {late}, skipped {}",
            closed.counts.omitted
        );
        let holds = (max - s).abs() <= slack
            && (got - want).abs() <= slack
            && (above - want_above).abs() <= slack / t + 0.01;
        // The closed loop: its two connections are all that ever saw the pause.
        let seen = metric(&closed.corrected).share_above(500_000_000) * closed.counts.scheduled as f64;
        assert!(
            seen <= 2.0 + 0.01 * rate * t,
            "the closed loop cannot see more than its connections: {seen}"
        );
        assert!(closed.counts.omitted as f64 > 0.5 * rate * s, "it skipped the pause: {complaint}");
        if holds {
            return;
        }
    }
    panic!("twice: {complaint}");
}

/// T8: a server that dies leaves its requests in the result, at their age.
#[test]
fn a_dead_server_is_in_the_result() {
    let server = Target::start("http", &[]);
    let args = ["--rate", "100", "--duration", "4s", "--warmup", "0s", "--timeout", "1s", "--grace", "300ms"];
    let child = start(&url(&server), &args);
    std::thread::sleep(Duration::from_millis(1500));
    server.signal(Signal::SIGSTOP);
    let died = today();
    let (code, run) = parse(&end(child));
    server.signal(Signal::SIGCONT);
    let lost = run.counts.timeout + run.counts.unfinished;
    let (want, slack) = (100.0 * (run.started + 4.0 - died), 100.0 * (0.2 + 2.0 * lateness(&run)));
    assert!((lost as f64 - want).abs() <= slack, "the requests after its death: {lost} for {want}");
    assert!(run.counts.timeout > 0 && run.counts.unfinished > 0, "{:?}", run.counts);
    assert!(run.corrected.max.expect("set") >= 0.999, "recorded at their age");
    assert_eq!(run.corrected.censored, lost, "marked as lower bounds");
    assert!(!run.slo.held);
    assert!(!run.validity.reasons.iter().any(|r| r.contains("connections")), "{:?}", run.validity);
    assert!(code == 3 || code == 4 && !run.validity.ok, "exit {code}");
}

#[test]
fn nobody_listens() {
    let free = TcpListener::bind((own_address(), 0)).expect("a port").local_addr().expect("it is bound");
    let args = ["--rate", "50", "--duration", "1s", "--warmup", "0s"];
    for scheme in ["http", "tcp"] {
        let (code, run) = run(&format!("{scheme}://{free}"), &args);
        assert_eq!(run.errors.get("connection refused"), Some(&50), "{:?}", run.errors);
        assert!(code == 3 || code == 4 && !run.validity.ok, "exit {code}");
    }
    let (_, run) = run(&format!("udp://{free}"), &[&args[..], &["--grace", "200ms"]].concat());
    assert_eq!((run.counts.ok, run.counts.unfinished), (0, 50));
    assert!(run.udp.expect("datagrams").refused > 0, "the ICMP errors are counted");
}

/// Every other response is cut short; the others go on.
#[test]
fn a_response_cut_short_is_a_class_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            // One request a connection: the head is short and comes in one piece.
            if stream.read(&mut request).is_err() {
                continue;
            }
            let body = if n % 2 == 0 { "whole" } else { "cut" };
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n";
            // The peer may have given up: the next connection is another request.
            _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    let (_, run) =
        run(&format!("http://{address}/"), &["--rate", "50", "--duration", "2s", "--warmup", "0s"]);
    assert_eq!(run.counts.scheduled, 100);
    let cut = run.errors.get("response cut short").copied().unwrap_or(0);
    assert_eq!((cut, run.counts.ok), (50, 50), "{:?}", run.errors);
}

/// T14 on the wire: what the target dropped and doubled is what the generator counts, exactly.
#[test]
fn t14_drops_and_duplicates_on_the_wire() {
    let server = Target::start("udp", &["--drop-every", "7", "--dup-every", "5"]);
    let args = ["--rate", "500", "--duration", "2s", "--warmup", "0s", "--grace", "3s"];
    let (_, run) = run(&format!("udp://{}", server.address), &args);
    let udp = run.udp.expect("datagrams");
    let summary = server.stop();
    let overflow = summary["kernel_dropped"].as_u64().unwrap_or(0);
    let n = run.counts.scheduled;
    assert_eq!((n, udp.sent), (1000, 1000));
    assert_eq!(udp.kernel_dropped, 0);
    let reached = n - overflow;
    assert_eq!(udp.lost, overflow + reached / 7, "lost, of {reached} that reached it");
    assert_eq!(udp.duplicates, (reached - reached / 7) / 5);
    assert_eq!(udp.reordered, 0);
}

/// T16 live: four processes with a share each, merged, are the schedule of the one.
#[test]
fn t16_four_shards_merge_to_the_whole() {
    let server = Target::start("http", &[]);
    let directory = std::env::temp_dir().join(format!("loadgen-shards-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for the results");
    let common =
        ["--rate", "333", "--duration", "2s", "--warmup", "500ms", "--seed", "5", "--arrival", "poisson"];
    let (_, whole) = run(&url(&server), &common);
    // Time for four processes to start.
    let at = (today() + 4.0).to_string();
    let children: Vec<Process> = (0..4)
        .map(|i| {
            let shard = ["--shard", &format!("{i}/4"), "--start-at", &at];
            let target = url(&server);
            must(loadgen(&[&["run", &target, "--json"], &common[..], &shard].concat()).start())
        })
        .collect();
    let mut files = Vec::new();
    let mut parts = Metric::new();
    for (i, child) in children.into_iter().enumerate() {
        let output = end(child);
        let (_, run) = parse(&output);
        parts.merge(&metric(&run.corrected));
        let file = directory.join(format!("{i}.json"));
        std::fs::write(&file, &output.stdout).expect("the result is kept");
        files.push(file.display().to_string());
    }
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    let (_, merged) = parse(&output(&[&["report", "--json"], &names[..]].concat()));
    assert_eq!(merged.counts.scheduled, whole.counts.scheduled, "the four share one schedule");
    assert_eq!(merged.corrected.histogram.decode().expect("its own"), *parts.histogram(), "bucket by bucket");
    assert_eq!(merged.plan.merged_shards, [0, 1, 2, 3]);
    std::fs::remove_dir_all(&directory).expect("the directory is ours");
}

/// T12: a rate beyond the generator's reach is its own limit, in a run and in a search.
#[test]
fn t12_a_generator_at_its_limit_says_so() {
    let server = Target::start("udp", &[]);
    let target = format!("udp://{}", server.address);
    let now = ["--warmup", "0s", "--grace", "0s", "--max-latency", "100ms"];
    let args = ["--rate", "1000000", "--duration", "500ms"];
    let (code, run) = run(&target, &[&args[..], &now].concat());
    assert_eq!((code, run.validity.ok), (4, false), "{:?}", run.validity);
    assert_eq!(run.counts.scheduled, 500_000, "and yet nothing of the schedule is skipped");
    let args = ["--min-rate", "600000", "--trial", "400ms", "--sum", "400ms", "--for", "1s"];
    let output = output(&[&["search", &target, "--json"], &args[..], &now].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let Ok(Document::Search(search)) = serde_json::from_str(text.trim()) else {
        panic!("no search in {text}")
    };
    assert_eq!(output.status.code(), Some(4));
    assert!(
        !search.validity.ok && search.validity.reasons[0].contains("generator-limited"),
        "{:?}",
        search.validity
    );
    assert_eq!((search.strict.lower, search.strict.upper, search.confirmed), (None, None, None));
}

/// R25: the generator itself is stopped for longer than a timeout. It goes on, says that it was late, and counts what
/// became due meanwhile from its intended time.
#[test]
fn r25_a_stopped_generator_neither_panics_nor_forgets() {
    let server = Target::start("http", &[]);
    let args =
        ["--rate", "100", "--duration", "4s", "--warmup", "0s", "--timeout", "1s", "--max-latency", "500ms"];
    let child = start(&url(&server), &args);
    std::thread::sleep(Duration::from_millis(1000));
    let took = hold(&child, Duration::from_secs(2));
    let (code, run) = parse(&end(child));
    assert_eq!((code, run.validity.ok), (4, false), "{:?}", run.validity);
    assert_eq!(run.counts.scheduled, 400);
    let max = run.corrected.max.expect("set");
    assert!(max >= 1.5, "what became due while it was stopped is not forgotten: {max}");
    // Half of the two seconds is older than the timeout when it wakes; the rest is sent, no burst of stale timers.
    let most = (100.0 * took) as u64 + 50;
    assert!((60..=most).contains(&run.counts.timeout), "{:?}", run.counts);
    assert!(run.counts.ok + most >= 400, "{:?}", run.counts);
}

/// A generator that was held up has a backlog to send: while it does, it takes the replies, which would overflow its
/// own buffer otherwise.
#[test]
fn a_backlog_does_not_drown_its_own_replies() {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let server = Target::start("udp", &[]);
        let target = format!("udp://{}", server.address);
        // However slow it is, the backlog has time to leave: what is lost is given up sooner.
        let times = ["--duration", "2s", "--warmup", "0s", "--timeout", "3s", "--grace", "60s"];
        let child = start(&target, &[&["--rate", "60000", "--size", "1000"], &times[..]].concat());
        std::thread::sleep(Duration::from_millis(600));
        hold(&child, Duration::from_secs(1));
        let (_, run) = parse(&end(child));
        let udp = run.udp.expect("datagrams");
        assert_eq!(udp.sent, 120_000, "all of the backlog leaves");
        // A tenth of the backlog at most. A machine that lets others run meanwhile adds its own, so once is enough: a
        // generator that sends first drowns each time.
        if udp.kernel_dropped <= 6_000 {
            return;
        }
        seen.push(udp);
    }
    panic!("three times: {seen:?}");
}

/// R20: memory and descriptors do not grow with the run: for eight seconds, or with ECHO_CONTRACT_LONG set for ten
/// minutes.
#[test]
fn r20_memory_is_constant() {
    let server = Target::start("udp", &[]);
    let target = format!("udp://{}", server.address);
    let seconds = if std::env::var_os("ECHO_CONTRACT_LONG").is_some() { 600 } else { 8 };
    // It is ended when it has been looked at twice.
    let child = start(&target, &["--rate", "2000", "--duration", "3600s", "--warmup", "0s"]);
    let status = format!("/proc/{}/status", child.id());
    let descriptors = format!("/proc/{}/fd", child.id());
    let look = || {
        let text = std::fs::read_to_string(&status).expect("it runs");
        let line = text.lines().find(|line| line.starts_with("VmRSS")).expect("a resident size");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
        (kib, std::fs::read_dir(&descriptors).expect("it runs").count())
    };
    std::thread::sleep(Duration::from_secs(4));
    let before = look();
    std::thread::sleep(Duration::from_secs(seconds - 5));
    let after = look();
    must(child.signal(Signal::SIGINT));
    let (_, run) = parse(&end(child));
    assert!(run.counts.scheduled >= 2000 * (seconds - 1), "{:?}", run.counts);
    assert_eq!(before.1, after.1, "descriptors");
    // 6,000 requests lie between at least: samples would show, and so would a window that is not encoded.
    assert!(after.0 <= before.0 + 3 * 1024, "resident KiB: {} then {}", before.0, after.0);
}

#[test]
fn an_interrupted_run_prints_what_it_has() {
    let server = Target::start("http", &[]);
    let child = start(&url(&server), &["--rate", "100", "--duration", "60s", "--warmup", "0s"]);
    std::thread::sleep(Duration::from_secs(2));
    must(child.signal(Signal::SIGINT));
    let begin = Instant::now();
    let output = end(child);
    assert!(begin.elapsed() < DEADLINE);
    let (code, run) = parse(&output);
    assert_eq!((code, run.interrupted), (130, true));
    assert!((50..6000).contains(&run.counts.scheduled), "{:?}", run.counts);
}

/// Requests of several kinds with values from a CSV, against a server that repeats what it was asked.
#[test]
fn a_scenario_sends_what_it_says() {
    for client in ["lean", "hyper"] {
        scenario_by(client);
    }
}

fn scenario_by(client: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let (send, heads) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), send) = (stream, send.clone()) else { continue };
            std::thread::spawn(move || {
                let (mut request, mut length) = (vec![0; 4096], 0);
                while let Ok(n @ 1..) = stream.read(&mut request[length..]) {
                    length += n;
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    if head.starts_with("POST") && !body.ends_with('!') {
                        continue;
                    }
                    _ = send.send(text.clone());
                    length = 0;
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
                        break;
                    }
                }
            });
        }
    });
    let directory = std::env::temp_dir().join(format!("loadgen-scenario-{client}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("users.csv"), "user,id\nann,7\nbob,8\n").expect("the data");
    let scenario = format!(
        "target = \"http://{address}\"\ndata = \"users.csv\"\n[headers]\nx-all = \"yes\"\n\
         [[request]]\nname = \"look\"\nweight = 3\npath = \"/users/{{{{user}}}}\"\n\
         [[request]]\nname = \"greet\"\nmethod = \"POST\"\npath = \"/greet\"\nheaders = {{ x-id = \"{{{{id}}}}\" }}\n\
         body = \"hello {{{{user}}}}!\"\n"
    );
    let file = directory.join("s.toml");
    std::fs::write(&file, scenario).expect("the scenario");
    let args = ["--rate", "50", "--duration", "2s", "--warmup", "0s", "--seed", "3", "--client", client];
    let (_, run) = run(&file.display().to_string(), &args);
    std::fs::remove_dir_all(&directory).expect("it is ours");
    assert_eq!(run.counts.ok, 100, "{:?}", run.errors);
    let (look, greet) = (run.requests["look"], run.requests["greet"]);
    assert_eq!(look + greet, 100);
    assert!((10..=45).contains(&greet), "a quarter of 100: {greet}");
    let heads: Vec<String> = heads.try_iter().collect();
    assert_eq!(heads.iter().filter(|text| text.starts_with("POST /greet ")).count() as u64, greet);
    assert!(heads.iter().all(|text| text.contains("x-all: yes\r\n")), "{:?}", heads.first());
    for text in heads.iter().filter(|text| text.starts_with("POST")) {
        let (user, id) = if text.contains("hello ann!") { ("ann", 7) } else { ("bob", 8) };
        assert!(
            text.contains(&format!("x-id: {id}\r\n")) && text.ends_with(&format!("hello {user}!")),
            "{text}"
        );
    }
}

/// Bad input: one sentence with a next step, at once, and the right exit code.
#[test]
fn bad_input_is_a_sentence() {
    let table: &[(i32, &[&str])] = &[
        (2, &["run", "http://127.0.0.1:1/", "--rate", "0"]),
        (2, &["run", "http://127.0.0.1:1/", "--rate", "fast"]),
        (2, &["run", "http://127.0.0.1:1/"]),
        (2, &["run", "127.0.0.1:1", "--rate", "1"]),
        (2, &["run", "ftp://127.0.0.1:1", "--rate", "1"]),
        (2, &["run", "udp://127.0.0.1", "--rate", "1"]),
        (2, &["run", "udp://127.0.0.1:9", "--rate", "1", "--size", "15"]),
        (2, &["run", "http://127.0.0.1:1/", "--rate", "1", "--ramp", "1:2:3s"]),
        (2, &["run", "http://127.0.0.1:1/", "--rate", "1", "--header", "nothing"]),
        (2, &["search", "http://127.0.0.1:1/"]),
        (2, &["search", "http://127.0.0.1:1/", "--max-latency", "1s", "--max-rate", "1", "--min-rate", "2"]),
        (2, &["compare", "http://127.0.0.1:1/", "--rate", "1"]),
        (1, &["run", "http://no-such-host.invalid/", "--rate", "1"]),
        (1, &["run", "http://127.0.0.1:1/", "--rate", "1", "--body", "@/no/such/file"]),
        (1, &["run", "/no/such/scenario.toml", "--rate", "1"]),
        (1, &["run", "http://127.0.0.1:1/{{user}}", "--rate", "1"]),
        (1, &["run", "http://127.0.0.1:1/", "--rate", "1", "--start-at", "1"]),
        (1, &["report", "/no/such/result.json"]),
    ];
    for (code, args) in table {
        let output = output(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {errors}");
        assert!(!errors.trim().is_empty() && !errors.contains("panicked"), "{args:?}: {errors}");
        if *code == 1 {
            assert_eq!(errors.lines().count(), 1, "{args:?}: {errors}");
        }
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

/// A server that nobody here wrote, when it is installed.
#[test]
fn nginx() {
    let Ok(nginx) = which("nginx") else {
        eprintln!("nginx is not installed: apt-get install nginx-light to run this test");
        return;
    };
    let directory = std::env::temp_dir().join(format!("loadgen-nginx-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("www")).expect("a directory");
    std::fs::write(directory.join("www/1k"), vec![b'x'; 1024]).expect("a page");
    for _ in 0..5 {
        // nginx binds no port 0: take one that was free a moment ago, and another if it no longer is.
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let d = directory.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {d}/{name};"))
            .concat();
        let configuration = format!(
            "user root; worker_processes 1; daemon off; pid {d}/pid; error_log {d}/error.log; events {{}} http {{ access_log off; \
             {temporary} keepalive_requests 100; server {{ listen 127.0.0.1:{port}; root {d}/www; }} }}"
        );
        let file = directory.join("nginx.conf");
        std::fs::write(&file, configuration).expect("a configuration");
        let args = ["-e", &format!("{d}/error.log"), "-c", &file.display().to_string()];
        let mut server = must(Launch::new(nginx.display()).args(args).start());
        // Another program may have taken the port: then nginx ends.
        let up = eventually("nginx serves or ends", DEADLINE, || {
            let connected = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
            let ended = server.has_exited();
            (connected || ended).then_some(!ended)
        });
        if matches!(up, Ok(true)) {
            let args = ["--rate", "500", "--duration", "2s", "--warmup", "200ms"];
            let (_, run) = run(&format!("http://127.0.0.1:{port}/1k"), &args);
            let (_, missing) = self::run(
                &format!("http://127.0.0.1:{port}/none"),
                &["--rate", "20", "--duration", "1s", "--warmup", "0s"],
            );
            must(server.terminate());
            std::fs::remove_dir_all(&directory).expect("the directory is ours");
            // nginx closes each connection after 100 requests, as told: none may be lost to that.
            assert_eq!((run.counts.scheduled, run.counts.ok), (1000, 1000), "{:?}", run.errors);
            assert!(run.connect.count >= 8, "connections were opened anew: {}", run.connect.count);
            assert_eq!(missing.errors.get("http 404"), Some(&20));
            return;
        }
    }
    panic!("nginx did not start; see {}", directory.display());
}

fn which(program: &str) -> Result<std::path::PathBuf, ()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    places.map(|place| place.join(program)).find(|file| file.is_file()).ok_or(())
}
