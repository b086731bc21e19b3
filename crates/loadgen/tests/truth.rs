//! What loadgen must not say: a server slower than it is, a limit of its own as the server's, a figure where nothing was
//! measured. Each of these was found in use.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::demo::must;
use loadgen::result::{Document, PlannedRequest, Run, Search, Summary};

mod common;
use common::sample::{save, stalled};
use common::{DEADLINE, Target, end, loadgen, output, own_address, parse};

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

/// The binary with few descriptors.
fn with_descriptors(n: usize, args: &[&str]) -> Output {
    end(must(loadgen(args).in_shell(&format!("ulimit -n {n}")).start()))
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
    // The two views differ by what the generator adds: its lag, and the wait for a connection.
    let p50 = |summary: &Summary| summary.p50.expect("requests were made");
    let (own, served) = (p50(&run.pool_wait), p50(&run.uncorrected));
    assert!(
        own <= served / 10.0,
        "half of them wait {own} s for a connection, and {served} s for the server"
    );
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
    let free = TcpListener::bind((own_address(), 0)).expect("a port").local_addr().expect("it is bound");
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
    assert_eq!(corrected.split_whitespace().filter(|cell| *cell == "-").count(), 6, "{text}");
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

/// A result that a full disk swallows is a failure, whoever prints it; a file that cannot be written is known before the
/// run.
#[test]
fn a_result_is_not_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let saved = save(directory.path(), "run.json", stalled(0, 1));
    let target = server(|_, _, stream| reply(stream, "200 OK"));
    let load = ["--rate", "20", "--duration", "1s", "--warmup", "0s"];
    let run = [&["run", &target], &load[..]].concat();
    let compare = [&["compare", &target, &target], &load[..]].concat();
    for command in [&run[..], &compare, &["report", &saved], &["report", &saved, "--json"]] {
        let output = end(must(loadgen(command).stdout(harness::Output::Full).start()));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {errors}");
        assert!(errors.contains("could not be written"), "{command:?}: {errors}");
    }
    let output = output(&["report", &saved, "--csv", "/dev/full"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));

    // Before the run: sixty seconds would be over the deadline of this test.
    let begin = Instant::now();
    for flag in ["--csv", "--html"] {
        let long = ["run", &target, "--rate", "20", "--duration", "60s", flag, "/nowhere/at/all"];
        assert_eq!(common::output(&long).status.code(), Some(1));
    }
    assert!(begin.elapsed() < DEADLINE);

    // What stood there before stands there until the new one is whole.
    let kept = directory.path().join("kept");
    std::fs::write(&kept, "before").expect("written");
    let both = [saved.as_str(), saved.as_str()];
    let name = kept.to_str().expect("UTF-8");
    assert_eq!(common::output(&[&["report", "--csv", name], &both[..]].concat()).status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&kept).expect("there"), "before");
    assert_eq!(common::output(&["report", &saved, "--csv", name]).status.code(), Some(3));
    assert!(std::fs::read_to_string(&kept).expect("there").starts_with("target,"));
    assert_eq!(std::fs::read_dir(directory.path()).expect("ours").count(), 2, "nothing is left behind");
}

/// A connection ends when the request says so; one that the server ends while it is idle costs no request that can be sent
/// again, and both clients say the same of it.
#[test]
fn connections_end_as_the_rfc_says() {
    for client in ["lean", "hyper"] {
        let args =
            ["--rate", "20", "--duration", "1s", "--warmup", "0s", "--connections", "1", "--client", client];
        let keeps = server(|_, _, stream| reply(stream, "200 OK"));
        let (_, closes) = run(&keeps, &[&args[..], &["--header", "Connection: close"]].concat());
        assert_eq!((closes.counts.ok, closes.connect.count), (20, 20), "{client}: {:?}", closes.errors);
        let (_, control) = run(&keeps, &args);
        assert_eq!((control.counts.ok, control.connect.count), (20, 1), "{client}: {:?}", control.errors);

        let old = server(|_, _, stream| {
            let head = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(head.as_bytes()).is_ok()
        });
        let (_, old) = run(&old, &args);
        assert_eq!((old.counts.ok, old.connect.count), (20, 1), "{client}: {:?}", old.errors);

        // Every second request finds its connection closed when it has been sent.
        let fickle = || server(|n, _, stream| n % 2 == 0 && reply(stream, "200 OK"));
        let (_, get) = run(&fickle(), &args);
        assert_eq!((get.counts.ok, get.retried), (20, 19), "{client}: {:?}", get.errors);
        let (_, post) = run(&fickle(), &[&args[..], &["--method", "POST"]].concat());
        assert_eq!((post.counts.ok, post.retried), (10, 0), "{client}: {:?}", post.errors);
        assert_eq!(post.errors.get("closed while idle"), Some(&10), "{client}");
    }
}

/// What is sent is what was written, or nothing is.
#[test]
fn what_is_measured_is_what_was_written() {
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let target = server(move |_, head, stream| {
        seen.lock().expect("no test panics with it").push(head.lines().next().unwrap_or_default().to_owned());
        reply(stream, "200 OK")
    });
    for client in ["lean", "hyper"] {
        let args = ["--rate", "1", "--duration", "1s", "--warmup", "0s", "--client", client];
        run(&format!("{target}a b?q=ü|"), &args);
    }
    let heads = heads.lock().expect("no test panics with it").clone();
    assert_eq!(heads, ["GET /a%20b?q=%C3%BC%7C HTTP/1.1"; 2]);

    let directory = tempfile::tempdir().expect("a directory");
    let scenario = |path: &str| {
        let file = directory.path().join("s.toml");
        std::fs::write(&file, format!("target = \"{target}\"\n[[request]]\npath = \"{path}\"\n"))
            .expect("written");
        file.to_str().expect("UTF-8").to_owned()
    };
    for bad in ["users", "http://h/users", "/a#b"] {
        let output = output(&["run", &scenario(bad), "--rate", "1", "--duration", "1s"]);
        assert_eq!(output.status.code(), Some(1), "{bad}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let scenario = scenario("/");
    for (target, flags) in [
        (scenario.as_str(), ["--method", "POST"]),
        (&scenario, ["--body", "x"]),
        ("udp://127.0.0.1:9", ["--header", "A: b"]),
        ("tcp://127.0.0.1:9", ["--method", "PUT"]),
        (&target, ["--size", "64"]),
        (&target, ["--cacert", "/dev/null"]),
    ] {
        let output = output(&[&["run", target, "--rate", "1"], &flags[..]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{target} {flags:?}: {errors}");
        assert!(errors.contains(flags[0]), "{errors}");
    }
}

/// Statuses, bytes and one example of each failure are told; what is good is for the user to say.
#[test]
fn replies_are_told_apart() {
    let target = server(|n, _, stream| match n % 4 {
        0 => reply(stream, "301 Moved Permanently"),
        1 => reply(stream, "404 Not Found"),
        2 => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlarge").is_ok(),
        _ => reply(stream, "200 OK"),
    });
    let args = ["--rate", "40", "--duration", "1s", "--warmup", "0s", "--connections", "1"];
    for client in ["lean", "hyper"] {
        let (_, plain) = run(&target, &[&args[..], &["--client", client]].concat());
        assert_eq!(
            plain.statuses,
            [("200", 20), ("301", 10), ("404", 10)].map(|(s, n)| (s.to_owned(), n)).into()
        );
        assert_eq!(plain.counts.ok, 30);
        assert!(plain.bytes_read > 40 * 40, "{client}: {}", plain.bytes_read);
        assert!(plain.examples["http 404"].contains("404 Not Found"), "{:?}", plain.examples);
        assert!(plain.notes.iter().any(|note| note.contains("301")), "{:?}", plain.notes);
        assert!(plain.notes.iter().any(|note| note.contains("from 2 to 5 bytes")), "{:?}", plain.notes);
    }
    let (_, told) = run(&target, &[&args[..], &["--ok", "2xx,404"]].concat());
    assert_eq!((told.counts.ok, told.errors.get("http 301")), (30, Some(&10)), "{:?}", told.errors);
    let text = tables(&target, &args[..4]);
    assert!(
        text.contains("replies ") && text.contains(" MB/s") && text.contains("for example request"),
        "{text}"
    );
}

/// A head that is too large is refused by its limit's name, whichever client reads it.
#[test]
fn a_limit_has_its_name() {
    for client in ["lean", "hyper"] {
        for (fields, length, class) in
            [(150, 1, "more than 100 response fields"), (2, 200_000, "response head above 64 KiB")]
        {
            let target = server(move |_, _, stream| {
                let field = format!("X-A: {}\r\n", "y".repeat(length)).repeat(fields);
                write!(stream, "HTTP/1.1 200 OK\r\n{field}Content-Length: 2\r\n\r\nok").is_ok()
            });
            let (_, run) =
                run(&target, &["--rate", "10", "--duration", "1s", "--warmup", "0s", "--client", client]);
            assert_eq!(run.errors.get(class), Some(&10), "{client}: {:?}", run.errors);
        }
    }
}

/// A report is of what belongs together.
#[test]
fn a_report_mixes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let save = |name: &str, run: Run| save(directory.path(), name, run);
    let first = save("first.json", stalled(0, 1));
    let newer = save("newer.json", Run { schema_version: 2, ..stalled(0, 1) });
    let copy = save("copy.json", stalled(0, 1));
    let mut other = stalled(0, 1);
    other.started += 100.0;
    other.plan.requests = vec![PlannedRequest::content("POST", b"x")];
    let other = save("other.json", other);
    for (files, hint) in [
        (&[&newer][..], "format 2"),
        (&[&first, &first], "one file"),
        (&[&first, &copy], "the same run"),
        (&[&first, &other], "different requests"),
    ] {
        let args: Vec<&str> =
            std::iter::once("report").chain(files.iter().map(|file| file.as_str())).collect();
        let output = output(&args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{hint}: {errors}");
        assert!(errors.contains(hint) && errors.lines().count() == 1, "no {hint:?} in {errors}");
    }
}

/// Where to connect to, and what to ask for there, are two things.
#[test]
fn a_name_can_be_another_address() {
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let target = server(move |_, head, stream| {
        seen.lock().expect("no test panics with it").push(head.to_ascii_lowercase());
        reply(stream, "200 OK")
    });
    let address = target.trim_start_matches("http://").trim_end_matches('/');
    let port = address.rsplit_once(':').expect("a port").1;
    let load = ["--rate", "5", "--duration", "1s", "--warmup", "0s"];
    let resolve = format!("nowhere.invalid:{port}:127.0.0.1");
    for (url, flags) in [
        ("http://nowhere.invalid/".to_owned(), ["--connect-to", address]),
        (format!("http://nowhere.invalid:{port}/"), ["--resolve", &resolve]),
    ] {
        let (_, run) = run(&url, &[&load[..], &flags].concat());
        assert_eq!((run.counts.ok, run.plan.address.as_str()), (5, address), "{flags:?}: {:?}", run.errors);
    }
    let heads = heads.lock().expect("no test panics with it").clone();
    assert!(heads.iter().all(|head| head.contains("host: nowhere.invalid")), "{heads:?}");
}

/// Eighty columns hold every table and all help; what is printed moves no cursor.
#[test]
fn a_terminal_of_eighty_columns_is_enough() {
    let target =
        server(|n, _, stream| reply(stream, if n % 3 == 0 { "500 Internal Server Error" } else { "200 OK" }));
    let load = ["--rate", "1k", "--duration", "1s", "--warmup", "500ms", "--no-progress"];
    let search = "--max-latency 1s --min-rate 1e2 --max-rate 6k/m --trial 500ms --sum 500ms --for 500ms --error-ratio 1";
    let search: Vec<&str> = search.split(' ').collect();
    for command in [
        [&["run", &target], &load[..]].concat(),
        [&["compare", &target, &target], &load[..]].concat(),
        [&["search", &target], &search[..]].concat(),
        vec!["run", "-h"],
        vec!["search", "--help"],
        vec!["serve", "-h"],
    ] {
        let output = output(&command);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.lines().count() > 10, "{command:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{} columns in {command:?}: {line}", line.chars().count());
        }
    }
    let help = String::from_utf8(output(&["run", "-h"]).stdout).expect("UTF-8");
    for group in ["Target:", "Load:", "Request:", "Output:", "Objective:"] {
        assert!(help.contains(group), "no {group} in {help}");
    }
    let odd = output(&["report", "/nowhere/\u{1b}[31mred"]);
    assert!(!odd.stderr.contains(&0x1b), "{}", String::from_utf8_lossy(&odd.stderr));
}

/// The starts of a file, exactly, in shards too; and each result's own figures agree by Little's law.
#[test]
fn a_replay_starts_when_the_file_says() {
    let target = server(|_, _, stream| {
        std::thread::sleep(Duration::from_millis(20));
        reply(stream, "200 OK")
    });
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    // 40 in the first second, 10 in the third, given out of order; twice as fast.
    let mut lines: Vec<String> = (0..40).map(|i| format!("{},/", 100.0 + f64::from(i) / 40.0)).collect();
    lines.extend((0..10).map(|i| format!("{},/", 102.0 + f64::from(i) / 10.0)));
    lines.reverse();
    let csv = file("starts.csv", &format!("start,path\n{}\n", lines.join("\n")));
    let now = ["--warmup", "0s"];
    let (_, whole) = run(&target, &[&["--replay", &csv], &now[..]].concat());
    assert_eq!((whole.counts.scheduled, whole.plan.arrival.as_str()), (50, "trace"));
    let scheduled: Vec<u64> = whole.windows.iter().take(3).map(|window| window.scheduled).collect();
    assert_eq!(scheduled, [40, 0, 10]);
    let law = whole.validity.littles_law.expect("an open loop");
    assert!(law.holds() && law.in_flight > 0.2, "{law:?}");
    let (_, part) =
        run(&target, &[&["--replay", &csv, "--speed", "2x", "--shard", "1/3"], &now[..]].concat());
    assert_eq!(part.counts.scheduled, 17);
    assert_eq!(part.windows[0].scheduled + part.windows[1].scheduled, 17, "in half the time");

    let log = "h - - [01/Jan/2030:00:00:01 +0000] \"GET / HTTP/1.1\" 200 5\n\
               h - - [01/Jan/2030:00:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n";
    let (_, log) = run(&target, &[&["--replay", &file("access.log", log)], &now[..]].concat());
    assert_eq!((log.counts.scheduled, log.plan.duration.round()), (2, 1.0));
    for bad in ["", "start\nnever\n"] {
        let output = output(&["run", &target, "--replay", &file("bad.csv", bad)]);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
