//! What a launch promises, asked of small programs.

use std::net::UdpSocket;
use std::time::Duration;

use harness::{Ended, Error, Launch, Output, PATIENCE, Process, eventually, free_address, proc};
use nix::sys::signal::Signal;

/// A shell script; `$0` and so on are the arguments.
fn script(script: &str) -> Launch {
    Launch::new("sh").args(["-c", script]).patience(Duration::from_secs(20))
}

fn run(launch: Launch) -> Ended {
    launch.run().unwrap_or_else(|error| panic!("{error}"))
}

fn start(launch: Launch) -> Process {
    launch.start().unwrap_or_else(|error| panic!("{error}"))
}

/// Whether the process is there and has not ended.
fn runs(pid: u32) -> bool {
    !matches!(proc::state(pid), None | Some('Z'))
}

/// The process that a line of output names.
fn pid_in(line: &str) -> u32 {
    line.trim().parse().expect("a process id")
}

#[test]
fn a_program_leaves_its_outputs_and_its_status() {
    let ended = run(script("echo one; echo two >&2; exit 3"));
    assert_eq!((ended.code(), ended.stdout.as_str(), ended.stderr.as_str()), (Some(3), "one\n", "two\n"));
    ended.expect_code(3).expect("the status");
    let error = ended.expect_code(0).expect_err("another status").to_string();
    assert!(error.contains("status 3, not status 0") && error.contains("two"), "{error}");
    let killed = run(script("kill -TERM $$")).expect_code(0).expect_err("a signal").to_string();
    assert!(killed.contains("signal 15"), "{killed}");
    let panicked = run(script("echo thread main panicked >&2")).expect_code(0);
    assert!(panicked.is_err(), "a panic is no proper end, whatever the status");
}

#[test]
fn more_than_a_pipe_holds_stops_nobody() {
    let ended = run(script("yes | head -c 300000; yes | head -c 300000 >&2"));
    assert_eq!((ended.stdout.len(), ended.stderr.len()), (300_000, 300_000));
}

#[test]
fn what_is_not_there_is_named() {
    let error = Launch::new("/nowhere/server").args(["7"]).start().err().expect("no such program");
    assert!(error.to_string().contains("start server (`/nowhere/server 7`)"), "{error}");
}

#[test]
fn a_program_is_started_as_it_is_asked_to_be() {
    let ended = run(script("echo $0 $1 $NAME; pwd").args(["a", "b c"]).env("NAME", "x").in_folder("/"));
    assert_eq!(ended.stdout, "a b c x\n/\n");
    assert_eq!(run(script("ulimit -n").in_shell("ulimit -n 16")).stdout, "16\n");
    let core = harness::cores()[0];
    let there = run(script("grep Cpus_allowed_list /proc/self/status").on_core(core)).stdout;
    assert_eq!(there.split_whitespace().last(), Some(core.to_string().as_str()));
}

#[test]
fn outputs_lead_where_they_are_told() {
    let merged = run(script("echo one >&2; echo two").stderr(Output::Merged));
    assert_eq!((merged.stdout.as_str(), merged.stderr.as_str()), ("one\ntwo\n", ""));
    for (output, said) in [(Output::Full, "space"), (Output::Unread, "pipe"), (Output::Closed, "descriptor")]
    {
        let ended = run(Launch::new("/bin/echo").args(["lost"]).stdout(output).env("LC_ALL", "C"));
        assert!(ended.code() != Some(0) || ended.stdout.is_empty(), "{output:?}: {ended:?}");
        assert!(
            ended.stderr.to_lowercase().contains(said) || ended.code().is_none(),
            "{output:?}: {ended:?}"
        );
    }
    let first =
        run(script("trap '' PIPE; echo one; sleep 0.2; echo two; echo $? >&2").stdout(Output::FirstLine));
    assert_eq!((first.stdout.as_str(), first.stderr.lines().last()), ("one\n", Some("1")));
}

#[test]
fn lines_come_one_by_one() {
    let mut program = start(script("echo one; echo two; echo three; printf four"));
    assert_eq!(program.line().expect("a line"), "one");
    assert_eq!(program.line_with("ee").expect("a line"), "three");
    assert_eq!(program.line().expect("the end ends a line too"), "four");
    let error = program.line().expect_err("no more").to_string();
    assert!(error.contains("stdout ended"), "{error}");
    let mut silent = start(script("sleep 600").patience(Duration::from_millis(50)));
    assert!(silent.is_silent_for(Duration::from_millis(20)));
    let error = silent.line().expect_err("nothing comes").to_string();
    assert!(error.contains("no line came within"), "{error}");
    assert!(silent.finish().expect_err("it goes on").to_string().contains("not within 0.05 s"));
}

#[test]
fn a_greeting_is_the_first_line_or_none() {
    let greets = "echo \"server: listening on 127.0.0.1:7 (try: nc)\"; exec sleep 600";
    let mut server = start(script(greets));
    assert_eq!(server.await_greeting().expect("a greeting").program, "server");
    assert_eq!(server.address().expect("an address").port(), 7);
    for (says, error) in [
        ("echo hello; exec sleep 600", "is no greeting"),
        (
            "echo no such file >&2; exit 1",
            "sh ended instead of serving (status 1; stderr: \"no such file\\n\")",
        ),
    ] {
        let said = start(script(says)).await_greeting().expect_err(says).to_string();
        assert!(said.contains(error), "{said}");
    }
}

#[test]
fn a_port_that_is_bound_is_seen_and_one_that_is_not_is_waited_for() {
    let address = free_address();
    let mut early = start(script("exit 4"));
    let error = early.await_port(address).expect_err("nobody binds").to_string();
    assert!(error.contains("status 4"), "{error}");
    let mut late = start(script("exec sleep 600").patience(Duration::from_millis(50)));
    assert!(late.await_port(address).is_err(), "nobody has bound it");
    let socket = UdpSocket::bind(address).expect("it is free");
    late.await_port(address).expect("it is bound");
    assert_eq!(late.address().expect("the address"), socket.local_addr().expect("the address"));
}

#[test]
fn what_a_program_has_started_ends_with_it() {
    // Each leaves a child that holds its pipe open: dropped, ended by itself, told to end, and deaf to that.
    type End = fn(Process);
    let cases: [(&str, End); 4] = [
        ("sleep 600 & echo $!; wait", drop),
        ("sleep 600 & echo $!", |program| drop(program.finish().expect("it ends"))),
        ("sleep 600 & echo $!; wait", |program| drop(program.terminate().expect("it ends"))),
        ("trap '' TERM; sleep 600 & echo $!; wait", |program| drop(program.terminate().expect_err("deaf"))),
    ];
    for (what, end) in cases {
        let mut program = start(script(what).patience(Duration::from_secs(1)));
        let child = pid_in(&program.line().expect("the child's pid"));
        assert!(runs(child));
        end(program);
        eventually("the child has ended", PATIENCE, || (!runs(child)).then_some(()))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[test]
fn a_frozen_program_stands_still_and_goes_on() {
    // Its children come and go, so now and then one ends while its parent is being stopped.
    let mut program = start(script("while :; do echo tick; sleep 0.001; done"));
    for _ in 0..20 {
        program.line().expect("it runs");
        program.freeze().expect("it stops");
        assert!(proc::states(&program.pids()).iter().all(|state| matches!(state, 'T' | 'Z')));
        program.thaw().expect("it runs");
    }
    program.freeze().expect("it stops");
    while !program.is_silent_for(Duration::from_millis(100)) {}
    program.thaw().expect("it runs");
    program.line().expect("it goes on");
}

#[test]
fn proc_tells_of_time_and_memory() {
    let mut busy =
        start(script("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; sleep 600; :"));
    busy.line_with("done").expect("it counts");
    let pid = busy.id();
    assert!(proc::cpu(&[pid]) > Duration::from_millis(1), "{:?}", proc::cpu(&[pid]));
    assert!(proc::peak_kib(&[pid]) > 100);
    assert_eq!(proc::status(pid).expect("it runs").threads, 1);
    assert!(proc::descriptors(pid).expect("it runs") >= 3);
    assert_eq!(proc::status(u32::MAX).map(|status| status.pid), None);
}

/// Not a test: what [`an_interrupted_test_takes_its_programs_along`] starts, and interrupts.
#[test]
#[ignore = "started by another test"]
fn waits_with_a_child() {
    let mut program = start(script("echo $$; exec sleep 600"));
    println!("child {}", program.line().expect("its pid"));
    program.wait().expect_err("longer than anybody waits");
}

#[test]
fn an_interrupted_test_takes_its_programs_along() {
    let this = std::env::current_exe().expect("the test's own path");
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let args = ["--exact", "waits_with_a_child", "--ignored", "--nocapture"];
        let mut test = start(Launch::new(this.display()).args(args));
        let line = test.line_with("child ").expect("its child's pid");
        let child = pid_in(line.rsplit(' ').next().unwrap_or_default());
        assert!(runs(child));
        test.signal(signal).expect("it runs");
        assert_eq!(test.finish().expect("it ends").code(), Some(code));
        eventually("the child has ended", PATIENCE, || (!runs(child)).then_some(()))
            .unwrap_or_else(|error| panic!("{signal}: {error}"));
    }
}

#[test]
fn an_error_says_what_was_going_on() {
    let error = Error::Failed("no reply".into()).context("in round 3");
    assert_eq!(error.to_string(), "no reply\n  in round 3");
    assert_eq!(Error::Unavailable("no strace".into()).context("x"), Error::Unavailable("no strace".into()));
}
