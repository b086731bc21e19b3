//! What loadgen must not say: a server slower than it is, a limit of its own as the server's, a figure where nothing was
//! measured. Each of these was found in use.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use loadgen::result::{Document, Run, Search};

mod common;
use common::{DEADLINE, Target, output, parse};

/// What a server does with the `n`th request of all its connections, whose head it gets; false closes the connection.
type Answer = dyn Fn(usize, &str, &mut TcpStream) -> bool + Send + Sync;

/// A server with a thread for each connection, which are kept alive; it ends with the test's process.
fn server(answer: impl Fn(usize, &str, &mut TcpStream) -> bool + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("an address");
    let (answer, requests): (Arc<Answer>, _) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), answer, requests) = (stream, Arc::clone(&answer), Arc::clone(&requests))
            else {
                continue;
            };
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let Ok(clone) = stream.try_clone() else { return };
                let mut lines = BufReader::new(clone).lines().map_while(Result::ok);
                loop {
                    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                    if head.is_empty()
                        || !answer(requests.fetch_add(1, Relaxed), &head.join("\n"), &mut stream)
                    {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}/")
}

/// Answers a request with a status and two bytes; whether the client took them.
fn reply(stream: &mut TcpStream, status: &str) -> bool {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").is_ok()
}

/// The first eight replies are quick, the others take 40 ms: as those of a server with delayed acknowledgements.
fn slower_from_the_ninth() -> String {
    server(|n, _, stream| {
        if n >= 8 {
            std::thread::sleep(Duration::from_millis(40));
        }
        reply(stream, "200 OK")
    })
}

fn run(target: &str, args: &[&str]) -> (i32, Run) {
    parse(&output(&[&["run", target, "--json", "--no-progress"], args].concat()))
}

/// The tables that `loadgen run` prints.
fn tables(target: &str, args: &[&str]) -> String {
    let output = output(&[&["run", target, "--no-progress", "--warmup", "0s"], args].concat());
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The binary with few descriptors, by the shell.
fn with_descriptors(n: usize, args: &[&str]) -> Output {
    Command::new("sh")
        .args([
            "-c",
            "ulimit -n \"$1\"; shift; exec \"$@\"",
            "sh",
            &n.to_string(),
            env!("CARGO_BIN_EXE_loadgen"),
        ])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("a shell")
}

fn search(output: &Output) -> (i32, Search) {
    let errors = String::from_utf8_lossy(&output.stderr);
    match serde_json::from_slice(&output.stdout) {
        Ok(Document::Search(search)) => (output.status.code().expect("no signal ended it"), search),
        _ => panic!("no search; stderr: {errors}"),
    }
}

/// Connections are opened when they are needed: 300 requests a second that take 40 ms need 12 and more.
#[test]
fn a_server_is_not_slower_than_it_is_for_want_of_connections() {
    let target = slower_from_the_ninth();
    let (_, run) = run(&target, &["--rate", "300", "--duration", "3s", "--warmup", "1s"]);
    assert!(run.plan.connections_used >= 12, "{}", run.plan.connections_used);
    let p50 = run.corrected.p50.expect("requests were made");
    assert!(p50 < 0.4, "p50 is {p50} s for 40 ms");
    assert!(!run.validity.reasons.iter().any(|reason| reason.contains("connections")), "{:?}", run.validity);
    assert_eq!(run.warm_up.scheduled, 300, "the warm-up says how many requests it had");
}

/// A search takes what replies take lately for its measure, not the first few, and ends.
#[test]
fn a_search_is_not_deceived_by_quick_first_replies() {
    let target = slower_from_the_ninth();
    let args = "--max-latency 500ms --min-rate 20 --max-rate 60 --trial 500ms --sum 500ms --for 1s --json --no-progress";
    let args: Vec<&str> = args.split(' ').collect();
    let begin = Instant::now();
    let (_, search) = search(&output(&[&["search", &target], &args[..]].concat()));
    assert!(begin.elapsed() < 2 * DEADLINE);
    let drained: f64 = search.trials.iter().map(|trial| trial.drained).sum();
    // Twice what the trials were behind, and a probe for each.
    let bound: f64 = search.trials.iter().map(|trial| 2.0 * trial.latency.unwrap_or(30.0) + 3.0).sum();
    assert!(drained <= bound, "drained for {drained} s, {bound} s allowed");
    assert!(search.baseline.is_some_and(|service| service >= 0.04), "{:?}", search.baseline);
}

/// A pool that somebody chose is reported in words, one that nobody chose makes the run invalid; neither is called the
/// server's figures.
#[test]
fn a_pool_that_limits_is_named() {
    let slow = Target::start("http", &["--delay", "500ms"]);
    let url = format!("http://{}/", slow.address);
    let args = ["--rate", "100", "--duration", "2s", "--warmup", "0s"];
    let (_, fixed) = run(&url, &[&args[..], &["--connections", "5"]].concat());
    assert!(fixed.notes.iter().any(|note| note.contains("limited by its connections")), "{:?}", fixed.notes);
    let text = tables(&url, &[&args[..4], &["--connections", "5"]].concat());
    assert!(!text.contains("the figures are the server's"), "{text}");
    let (_, enough) = run(&url, &[&args[..], &["--connections", "100"]].concat());
    assert_eq!(enough.notes, [""; 0], "the control");

    let few = with_descriptors(52, &[&["run", &url, "--json"], &args[..]].concat());
    let (code, few) = parse(&few);
    assert!(few.plan.connections < 20, "{}", few.plan.connections);
    assert_eq!(code, 4);
    assert!(few.validity.reasons.iter().any(|reason| reason.contains("limited by its connections")));
    assert!(few.errors.is_empty(), "and yet no descriptor was missing: {:?}", few.errors);
}

/// What the kernel refuses the generator is the generator's failure.
#[test]
fn its_own_failures_are_no_figure_of_the_servers() {
    let slow = Target::start("http", &["--delay", "300ms"]);
    let url = format!("http://{}/", slow.address);
    let args = ["--json", "--no-progress", "--connections", "200"];
    let load = ["--rate", "200", "--duration", "1s", "--warmup", "0s", "--error-ratio", "1"];
    let (code, run) = parse(&with_descriptors(60, &[&["run", &url], &args[..], &load].concat()));
    assert!(run.errors.contains_key("no descriptor left"), "{:?}", run.errors);
    assert_eq!((code, run.validity.ok), (4, false));
    let search_args = "--max-latency 10s --min-rate 200 --trial 1s --sum 1s --for 1s --error-ratio 1";
    let search_args: Vec<&str> = search_args.split(' ').collect();
    let (code, search) =
        search(&with_descriptors(60, &[&["search", &url], &args[..], &search_args].concat()));
    assert_eq!((code, search.confirmed, search.strict.lower), (4, None, None), "{:?}", search.validity);

    // An address of a documentation network is no machine's.
    for scheme in ["http", "udp"] {
        let target = format!("{scheme}://{}", slow.address);
        for command in [&["run", &target, "--rate", "50"][..], &["search", &target, "--max-latency", "1s"]] {
            let output = output(&[command, &["--warmup", "500ms", "--source", "192.0.2.1"]].concat());
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{command:?}: {errors}");
            assert!(errors.contains("source address not ours"), "{command:?}: {errors}");
        }
    }
}

/// Nobody listens: one sentence after the warm-up, and no result.
#[test]
fn where_nothing_answers_nothing_is_measured() {
    let free = TcpListener::bind("127.0.97.1:0").expect("a port").local_addr().expect("it is bound");
    for scheme in ["http", "tcp", "udp"] {
        let target = format!("{scheme}://{free}");
        let run = ["run", &target, "--rate", "50", "--duration", "60s"];
        let search = ["search", &target, "--max-latency", "1s"];
        let compare = ["compare", &target, &target, "--rate", "50"];
        for command in [&run[..], &search, &compare] {
            let output = output(&[command, &["--warmup", "400ms"]].concat());
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command:?}: {errors}");
            assert!(
                errors.contains("connection refused") && errors.contains("see that"),
                "{command:?}: {errors}"
            );
            assert!(output.stdout.is_empty(), "{command:?}");
        }
    }
}

/// No good answer: no latency, and no word of validity.
#[test]
fn without_a_good_answer_there_is_no_latency() {
    let target = server(|_, _, stream| reply(stream, "404 Not Found"));
    let text = tables(&target, &["--rate", "20", "--duration", "1s"]);
    let corrected = text.lines().find(|line| line.starts_with("corrected ")).expect("the row");
    assert_eq!(corrected.split_whitespace().filter(|cell| *cell == "-").count(), 7, "{text}");
    assert!(!text.contains("the server's") || text.contains("THE GENERATOR WAS"), "{text}");
    assert!(text.contains("no request was answered well"), "{text}");
    let output = output(&["search", &target, "--max-latency", "1s", "--warmup", "0s"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("http 404"), "{errors}");
}

/// An objective that nobody gave is marked as such.
#[test]
fn a_default_objective_is_called_one() {
    let target = server(|_, _, stream| reply(stream, "200 OK"));
    let objective = |args: &[&str]| {
        let text = tables(&target, &[&["--rate", "20", "--duration", "1s"], args].concat());
        text.lines().find(|line| line.starts_with("objective ")).expect("the row").to_owned()
    };
    assert!(objective(&[]).contains("(default)"));
    assert!(!objective(&["--error-ratio", "0.1"]).contains("(default)"));
}
