//! `ladder timeline`: pictures of our programs, of anybody's, and of recordings.

mod tool;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;
use tool::{Launch, Said, is_there, ladder, run, server};

/// A recording that stands beside the tests.
fn recording(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(name);
    path.display().to_string()
}

/// The files that a timeline was written to.
struct Drawn {
    _folder: TempDir,
    svg: String,
    html: String,
    chrome: Value,
}

fn succeeded(said: &Said) {
    assert_eq!(said.code, Some(0), "{said:?}");
}

/// Draws into all kinds of files.
fn draw(args: &[&str]) -> Drawn {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (svg, html, chrome) = (file("a.svg"), file("a.html"), file("a.json"));
    let mut all = vec!["timeline", "--svg", &svg, "--html", &html, "--chrome", &chrome];
    all.extend(args);
    succeeded(&ladder(&all));
    let read = |file: &str| fs::read_to_string(file).expect("a file that was written");
    let chrome = serde_json::from_str(&read(&chrome)).expect("JSON");
    Drawn { svg: read(&svg), html: read(&html), chrome, _folder: folder }
}

/// The picture in the terminal.
fn text(args: &[&str]) -> String {
    let said = ladder(&[&["timeline"], args].concat());
    succeeded(&said);
    said.out
}

/// How many things the elements of these classes stand for.
fn count(svg: &str, classes: &[&str]) -> usize {
    let elements = svg.lines().filter_map(|line| {
        let class = line.split_once(" class=\"")?.1.split('"').next()?;
        (classes.contains(&class) && !line.contains("class=\"key")).then_some(line)
    });
    let stands_for = |line: &str| {
        let number = line.split_once("data-n=\"").map(|(_, rest)| rest.split('"').next().unwrap_or_default());
        number.map_or(1, |number| number.parse().expect("a number"))
    };
    elements.map(stands_for).sum()
}

const CALLS: [&str; 7] = ["sleep", "receive", "receive sleep", "send", "would-block", "error", "call"];

#[test]
fn a_picture_is_drawn_twice_to_the_byte() {
    if !is_there("strace") {
        return;
    }
    let args = ["--alone", "waker-flow"];
    assert_eq!(draw(&args).svg, draw(&args).svg);
}

#[test]
fn a_picture_shows_what_the_transcript_tells() {
    if !is_there("strace") {
        return;
    }
    for args in [&["--burst", "40", "echo-epoll-edge"][..], &["echo-tokio-mpsc"], &["--alone", "waker-flow"]]
    {
        let told = ladder(&[&["trace"], args].concat());
        succeeded(&told);
        let lines = |wanted: &str| told.out.lines().filter(|line| line.starts_with(wanted)).count();
        let receives =
            told.out.lines().filter(|line| line.starts_with("  recvfrom(") && !line.contains("EAGAIN"));
        let svg = draw(args).svg;
        assert_eq!(count(&svg, &CALLS), lines("  "), "calls of {args:?}:\n{}{svg}", told.out);
        assert_eq!(count(&svg, &["poll"]), lines("* poll "), "polls of {args:?}:\n{}{svg}", told.out);
        assert_eq!(count(&svg, &["wake"]), lines("* wake "), "wakes of {args:?}:\n{}{svg}", told.out);
        assert_eq!(
            count(&svg, &["receive", "receive sleep"]),
            receives.count(),
            "receives of {args:?}:\n{svg}"
        );
    }
}

#[test]
fn a_picture_is_small_and_its_lines_are_elements() {
    if !is_there("strace") {
        return;
    }
    let svg = draw(&["--burst", "40", "echo-tokio-mpsc"]).svg;
    assert!(svg.len() < 40 * 1024, "{} bytes", svg.len());
    assert!(svg.starts_with("<svg ") && svg.contains("width=\"480\""), "{svg}");
    let (_, body) = svg.split_once("</defs>\n").expect("definitions");
    for line in body.lines() {
        assert!(line.starts_with('<') && line.ends_with('>') && line.matches('<').count() <= 2, "{line}");
        let coordinates = line.split('"').skip(1).step_by(2);
        assert!(!coordinates.into_iter().any(|value| value.contains('.')), "{line}");
    }
    for wanted in ["<title>", "<desc>", "prefers-color-scheme:dark"] {
        assert!(svg.contains(wanted), "{wanted} is missing");
    }
}

#[test]
fn the_broken_edge_sleeps_with_eight_datagrams_in_its_socket() {
    if !is_there("strace") {
        return;
    }
    let drawn = text(&["--one-at-a-time", "0", "--burst", "40", "--break", "echo-epoll-edge"]);
    assert!(drawn.contains("\n     8   ~ asleep in epoll_wait\n"), "{drawn}");
    let sound = text(&["--one-at-a-time", "0", "--burst", "40", "echo-epoll-edge"]);
    assert!(sound.contains("\n         ~ asleep in epoll_wait\n"), "{sound}");
}

#[test]
fn the_terminal_has_eighty_columns() {
    let mut pictures: Vec<String> = ["accept.strace", "workers.strace", "killed.strace", "hostile.strace"]
        .iter()
        .map(|name| text(&["--from", &recording(name)]))
        .collect();
    if is_there("strace") {
        pictures.push(text(&[
            "--burst",
            "9",
            "tokio-multisocket-join",
            "--base-port",
            "0",
            "--sockets",
            "9",
        ]));
    }
    for picture in pictures {
        let widest = picture.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{widest:?}:\n{picture}");
    }
}

#[test]
fn a_recording_of_a_tokio_server_shows_wait_wake_and_poll() {
    let drawn = text(&["--from", &recording("accept.strace")]);
    let mut rows = drawn.lines();
    for step in [
        "epoll_wait = 1",
        "wake accept",
        "accept = connection-1",
        "would block",
        "pending",
        "wake connection-1",
        "recvfrom",
    ] {
        assert!(rows.any(|row| row.contains(step)), "{step} does not come in its turn:\n{drawn}");
    }
    let workers = text(&["--from", &recording("workers.strace")]);
    for wanted in ["thread-2  ", "futex wait", "write eventfd = 8", "asleep in futex: waits for a thread"] {
        assert!(workers.contains(wanted), "{wanted} is missing:\n{workers}");
    }
    assert!(!workers.contains("unfinished"), "{workers}");
}

#[test]
fn no_effect_stands_above_its_cause() {
    let workers = text(&["--from", &recording("workers.strace")]);
    // A thread that sleeps in a futex returns when another one has woken it.
    let mut wakes = 0_usize;
    for row in workers.lines() {
        wakes += usize::from(row.contains("futex wake = 1"));
        if row.contains("futex wait") {
            assert!(wakes > 0, "{row} stands above what ended it:\n{workers}");
            wakes -= 1;
        }
    }
}

#[test]
fn a_killed_program_ends_in_what_it_was_in() {
    let drawn = text(&["--from", &recording("killed.strace")]);
    assert!(drawn.contains("main      ~ asleep in recvfrom on socket, and ends there\n"), "{drawn}");
    assert!(!drawn.contains("ld.so.cache"), "the loader is no part of the story:\n{drawn}");
    let told = ladder(&["trace", "--from", &recording("killed.strace")]);
    assert!(told.out.contains("recvfrom(socket) = ?\n"), "{}", told.out);
}

#[test]
fn hostile_input_is_shown_and_never_interpreted() {
    let from = recording("hostile.strace");
    let drawn = draw(&["--from", &from]);
    for page in [&drawn.svg, &drawn.html] {
        for markup in ["<script>alert", "<img", "]]>", "\u{1b}"] {
            assert!(!page.contains(markup), "{markup} stands in the page:\n{page}");
        }
        assert!(page.contains("recvfrom &quot;&lt;s"), "{page}");
    }
    assert!(drawn.html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{}", drawn.html);
    if is_there("python3") {
        let parse = "import sys, xml.dom.minidom as m; m.parseString(sys.argv[1])";
        succeeded(&run(Launch::new("python3").args(["-c", parse, &drawn.svg])));
    }
    let said = ladder(&["timeline", "--from", &from]);
    assert!(said.err.contains("7 lines of") && said.err.contains("make no sense"), "{said:?}");
    assert!(said.out.contains("syscall_0x1ff"), "a call that nobody knows is dropped:\n{}", said.out);
    assert!(said.out.contains("asleep in epoll_wait"), "half a line at the end is dropped:\n{}", said.out);
}

#[test]
fn a_recording_that_is_none_is_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("notes");
    fs::write(&file, "nothing of strace's\n").expect("a file");
    let said = ladder(&["timeline", "--from", file.to_str().expect("UTF-8")]);
    assert!(said.code == Some(1) && said.err.contains("strace -f -o FILE -p PID"), "{said:?}");
    let said = ladder(&["timeline", "--from", "no-such-file"]);
    assert!(said.code == Some(1) && said.err.contains("no-such-file"), "{said:?}");
    for nothing in
        [&["timeline"][..], &["timeline", "--from", "x", "echo-poll"], &["trace", "--", "cat", "x"]]
    {
        assert_eq!(ladder(nothing).code, Some(2), "{nothing:?}");
    }
}

#[test]
fn a_page_loads_nothing_and_holds_picture_and_transcript() {
    let html = draw(&["--from", &recording("accept.strace")]).html;
    for load in ["src=", "href=", "@import", "url(http", "fetch("] {
        assert!(!html.contains(load), "{load} stands in the page");
    }
    let (rows, lines) = (html.matches("class=\"row\"").count(), html.matches("<li data-row=").count());
    assert!(rows > 20 && lines > rows, "{rows} rows and {lines} lines");
    // Without a script it is the picture and the transcript.
    let (before_script, _) = html.split_once("<script>").expect("a script");
    assert!(before_script.contains("<svg ") && before_script.contains("recvfrom(connection-1"), "{html}");
}

#[test]
fn a_page_shows_the_source_of_a_program_of_ours() {
    if !is_there("strace") {
        return;
    }
    let html = draw(&["--burst", "0", "echo-epoll-edge"]).html;
    for region in ["wait", "receive", "flush"] {
        let row = html.lines().any(|line| {
            line.contains("class=\"row\"") && line.contains(&format!("data-source=\"{region}\""))
        });
        assert!(
            row && html.contains(&format!("<figure class=\"source\" data-source=\"{region}\"")),
            "{region}"
        );
    }
}

#[test]
fn trace_events_are_balanced_and_in_order() {
    for name in ["accept.strace", "workers.strace", "hostile.strace", "killed.strace"] {
        let chrome = draw(&["--from", &recording(name)]).chrome;
        let events = chrome["traceEvents"].as_array().expect("an array");
        let mut open: HashMap<u64, usize> = HashMap::new();
        let mut flows: HashMap<u64, u64> = HashMap::new();
        let mut last = 0;
        for event in events {
            let track = event["tid"].as_u64().expect("a track");
            let phase = event["ph"].as_str().expect("a phase");
            if phase == "M" {
                continue;
            }
            let at = event["ts"].as_u64().expect("a time");
            assert!(at >= last, "{name}: {event} comes before {last}");
            last = at;
            match phase {
                "B" => *open.entry(track).or_default() += 1,
                "E" => {
                    let depth = open.get_mut(&track).filter(|depth| **depth > 0);
                    *depth.unwrap_or_else(|| panic!("{name}: {event} ends nothing")) -= 1;
                }
                "s" => drop(flows.insert(event["id"].as_u64().expect("a flow"), at)),
                "f" => {
                    let id = event["id"].as_u64().expect("a flow");
                    assert!(
                        flows.get(&id).is_some_and(|&from| from <= at),
                        "{name}: {event} comes from nowhere"
                    );
                    assert_eq!(event["bp"], "e", "it ends in the poll that encloses it");
                }
                "i" => {}
                other => panic!("{name}: {other}"),
            }
        }
        assert!(open.values().all(|&depth| depth == 0), "{name}: {open:?}");
        assert_eq!(
            flows.len() >= 6,
            name != "killed.strace" && name != "hostile.strace",
            "{name}: {flows:?}"
        );
    }
}

#[test]
fn times_are_there_on_request() {
    if !is_there("strace") {
        return;
    }
    let timed = draw(&["--times", "--alone", "tokio-time", "sleep"]);
    let events = timed.chrome["traceEvents"].as_array().expect("an array");
    let last = events.iter().filter_map(|event| event["ts"].as_u64()).max();
    assert!(last >= Some(20_000), "a sleep of 20 ms is over after {last:?} microseconds");
    assert!(timed.html.contains("The numbers are seconds"));
    let untimed = draw(&["--alone", "tokio-time", "sleep"]);
    assert!(!untimed.html.contains("The numbers are seconds"));
}

#[test]
fn anybody_s_server_is_drawn() {
    if !is_there("strace") {
        return;
    }
    let python = server("echo.py");
    let mut servers: Vec<(&str, Vec<String>)> = Vec::new();
    if is_there("python3") {
        servers.push(("python3", vec!["python3".into(), python, "{host}".into(), "{port}".into()]));
    }
    if is_there("socat") {
        servers.push((
            "socat",
            vec!["socat".into(), "-b65535".into(), "UDP-LISTEN:{port},bind={host}".into(), "PIPE".into()],
        ));
    }
    let folder = tempfile::tempdir().expect("a folder");
    if is_there("cc") {
        let binary = folder.path().join("echo").display().to_string();
        succeeded(&run(Launch::new("cc").args(["-o", &binary, &server("echo.c")])));
        servers.push(("C", vec![binary, "{port}".into()]));
    }
    for (name, command) in servers {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let script = ["--burst", "0", "--"];
        let told = ladder(&[&["trace"], &script[..], &words].concat());
        succeeded(&told);
        assert!(told.out.contains("\"hello\""), "{name}: {}", told.out);
        let drawn = text(&[&script[..], &words].concat());
        // It was asleep in its receive, or in its wait, when the client sent.
        let receive = if name == "C" { "~ recvmsg \"hello\" from client-1" } else { "\"hello\"" };
        assert!(drawn.contains(receive), "{name}:\n{drawn}");
        assert!(drawn.contains("~ asleep in"), "{name}:\n{drawn}");
    }
}

#[test]
fn a_program_without_a_network_is_drawn() {
    if !is_there("strace") {
        return;
    }
    let drawn = text(&["--alone", "--", "sh", "-c", "exec sleep 0.01"]);
    assert!(drawn.contains("~ clock_nanosleep"), "{drawn}");
    assert!(drawn.lines().count() < 80, "{drawn}");
}

#[test]
fn a_page_of_the_book_shows_its_picture() {
    if !is_there("strace") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page.md");
    let block = "<!-- ladder: timeline poll.svg \"One wait, and one datagram.\" --burst 0 echo-poll -->\n";
    fs::write(&page, format!("{block}<!-- ladder: end -->\n")).expect("a page");
    let path = page.to_str().expect("UTF-8");
    succeeded(&ladder(&["docs", path]));
    let text = fs::read_to_string(&page).expect("the page");
    assert!(text.contains("![One wait, and one datagram.](pictures/poll.svg)\n"), "{text}");
    let picture = folder.path().join("pictures/poll.svg");
    let drawn = fs::read_to_string(&picture).expect("the picture");
    succeeded(&ladder(&["docs", "--check", path]));
    fs::write(&picture, drawn.replace("recvfrom", "recv")).expect("a picture changed by hand");
    let said = ladder(&["docs", "--check", path]);
    assert!(said.code == Some(1) && said.out.contains("would block"), "{said:?}");
    fs::remove_file(&picture).expect("the picture");
    assert_eq!(ladder(&["docs", "--check", path]).code, Some(1), "a picture that is not there is drift");
    fs::write(&page, "<!-- ladder: timeline ../x.svg \"Sentence.\" echo-poll -->\n<!-- ladder: end -->\n")
        .expect("a page");
    let said = ladder(&["docs", path]);
    assert!(said.code == Some(1) && said.err.contains("no name of a picture"), "{said:?}");
}

#[test]
fn an_act_of_the_jokes_server_is_poked_by_a_connection() {
    if !is_there("strace") {
        return;
    }
    let args = ["--connect", "jokes-cached", "--threads", "1", "--file", "crates/jokes/knock.txt"];
    let drawn = text(&args);
    let order = [
        "client-1 connects",
        "accept = connection",
        "> sendto",
        "shutdown",
        "client-1 closes",
        "close connection",
    ];
    let places: Vec<Option<usize>> = order.iter().map(|part| drawn.find(part)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}\n{drawn}");
    assert_eq!(drawn, text(&args));
}
