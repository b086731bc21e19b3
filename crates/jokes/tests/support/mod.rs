//! Starts the real binaries on port 0, pokes them, ends them. Each wait has a deadline.
#![allow(dead_code)] // Each test file uses a part of it.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take before a test gives up: the machine may be busy with others.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A way to run an act: its program and the flags that choose the way.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    pub program: &'static str,
    pub path: &'static str,
    pub flags: &'static [&'static str],
}

macro_rules! act {
    ($program:literal $(, $flag:literal)*) => {
        Act { program: $program, path: env!(concat!("CARGO_BIN_EXE_", $program)), flags: &[$($flag),*] }
    };
}

/// Every act, in the order of the chapter, and the variants beside them.
pub const ACTS: &[Act] = &[
    act!("jokes-1-head-first"),
    act!("jokes-2-blocking-pool"),
    act!("jokes-2-blocking-pool", "--in-place"),
    act!("jokes-3-stream"),
    act!("jokes-4-own-future"),
    act!("jokes-5-channel"),
    act!("jokes-5-channel", "--unbounded"),
    act!("jokes-6-framed"),
    act!("jokes-7-async-fs"),
    act!("jokes-cached"),
    act!("jokes-mini"),
];

pub const CLIENT: &str = env!("CARGO_BIN_EXE_jokes-client");

impl Act {
    /// Starts it on a port of the kernel's choice, `--json`, with more `flags`.
    pub fn start(&self, flags: &[&str]) -> Server {
        let mut command = Command::new(self.path);
        command.args(self.flags).args(flags);
        Server::start(self.program, command)
    }

    /// Starts it by `sh -c PREFIX; exec ACT`, for what only a shell sets up.
    pub fn start_in_shell(&self, prefix: &str, flags: &[&str]) -> Server {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{prefix}; exec \"$0\" \"$@\""), self.path])
            .args(self.flags)
            .args(flags);
        Server::start(self.program, command)
    }

    /// Starts it as a user of its own, for whom limits hold (root is exempt from some), with its stderr in `log`.
    pub fn start_as_another(&self, log: &Temporary, flags: &[&str]) -> Server {
        let user = another_user();
        let mut command = shell_of(user, "exec 2>\"$0\"; exec \"$@\"", log.path());
        command.arg(self.path).args(self.flags).args(flags);
        let mut server = Server::start(self.program, command);
        server.user = user;
        server
    }

    /// Runs it to its end, which is to come by itself, as a user of its own who may have `threads` threads.
    pub fn fails_with_threads(&self, threads: u32, flags: &[&str]) -> Ended {
        let script = "exec prlimit --nproc=\"$0\" \"$@\"";
        let mut command = shell_of(another_user(), script, &threads.to_string());
        command.arg(self.path).args(self.flags).args(flags);
        run(command)
    }

    /// Runs it to its end, which is to come by itself.
    pub fn fails(&self, flags: &[&str]) -> Ended {
        let mut command = Command::new(self.path);
        command.args(self.flags).args(flags);
        run(command)
    }
}

/// A user whom nobody else is. For tests that are not run by root there is none, and what runs as "another" is the
/// user who runs them, whose own processes count against a limit, too.
pub fn another_user() -> Option<u32> {
    static USER: AtomicU32 = AtomicU32::new(0);
    // A number that no system gives to a person or a service, and another one for each process of each test.
    let number = 1_000_000_000 + std::process::id() * 100 + USER.fetch_add(1, Ordering::Relaxed);
    nix::unistd::geteuid().is_root().then_some(number)
}

/// `sh -c SCRIPT ZERO` as `user`.
pub fn shell_of(user: Option<u32>, script: &str, zero: &str) -> Command {
    let mut command = Command::new(if user.is_some() { "setpriv" } else { "sh" });
    if let Some(user) = user {
        let user = user.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "sh"]);
    }
    command.args(["-c", script, zero]);
    command
}

/// A running server. Killed when dropped.
pub struct Server {
    pub program: &'static str,
    pub address: SocketAddr,
    pub greeting: String,
    /// Whom it runs as, if not as the user who runs the tests.
    user: Option<u32>,
    child: Child,
    stdout: mpsc::Receiver<String>,
}

impl Server {
    fn start(program: &'static str, mut command: Command) -> Self {
        command.args(["--json", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        let stdout = lines_of(child.stdout.take().expect("stdout is a pipe"));
        let greeting = stdout.recv_timeout(DEADLINE).unwrap_or_else(|error| {
            let _ = child.kill();
            panic!("{program} has not said where it listens: {error}")
        });
        let address = greeting
            .strip_prefix(&format!("{program}: listening on "))
            .and_then(|rest| rest.split_once("  (try: nc "))
            .and_then(|(address, _)| address.parse().ok())
            .unwrap_or_else(|| panic!("{program} greets with {greeting:?}"));
        Self { program, address, greeting, user: None, child, stdout }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the server is there to be signalled");
    }

    /// One connection, read to its end.
    pub fn ask(&self) -> io::Result<String> {
        let mut text = String::new();
        self.try_connect()?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// A connection whose reads and writes give up after the deadline.
    pub fn connect(&self) -> TcpStream {
        self.try_connect().unwrap_or_else(|error| panic!("{} takes no connection: {error}", self.program))
    }

    fn try_connect(&self) -> io::Result<TcpStream> {
        let socket = TcpStream::connect_timeout(&self.address, DEADLINE)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        Ok(socket)
    }

    /// Lets the server's user have `threads` threads from now on, as far as the hard limit permits.
    pub fn limit_threads(&self, threads: u32) {
        let script = format!("exec prlimit --pid=\"$0\" --nproc={threads}:");
        let command = shell_of(self.user, &script, &self.child.id().to_string());
        let ended = run(command);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// Waits for the end that a signal has begun; the status and the last line of stdout.
    pub fn ended(&mut self) -> (ExitStatus, Option<String>) {
        let status = wait(&mut self.child, self.program);
        (status, self.stdout.iter().last())
    }

    /// SIGTERM, the end, the summary.
    pub fn stop(mut self) -> Value {
        self.signal(Signal::SIGTERM);
        let (status, summary) = self.ended();
        assert_eq!(status.code(), Some(0), "{} ends well after SIGTERM", self.program);
        let summary = summary.unwrap_or_else(|| panic!("{} has no summary", self.program));
        parse(&summary)
    }

    /// The number behind `field` in `/proc/PID/status`.
    pub fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).expect("the server is alive");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field is there");
        line.trim_start_matches(':').split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
    }

    /// Whether each of its threads is in `state`, as proc(5) names it.
    pub fn threads_are_all(&self, state: char) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the server is alive");
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with(state))
        })
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the server is alive").count()
    }

    /// How much processor time it has used, in ticks of 10 ms.
    pub fn ticks(&self) -> u64 {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("the server is alive");
        let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
        fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("a number")).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program that ended by itself left.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end.
pub fn run(mut command: Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let stdout = lines_of(child.stdout.take().expect("stdout is a pipe"));
    let stderr = lines_of(child.stderr.take().expect("stderr is a pipe"));
    let status = wait(&mut child, "the program");
    let collect = |lines: mpsc::Receiver<String>| lines.iter().map(|line| line + "\n").collect();
    Ended { code: status.code(), stdout: collect(stdout), stderr: collect(stderr) }
}

/// Runs the client; its report and its exit code.
pub fn client(address: SocketAddr, flags: &[&str]) -> (Value, Option<i32>) {
    let mut command = Command::new(CLIENT);
    command.arg("--json").args(flags).arg(address.to_string());
    let ended = run(command);
    (parse(&ended.stdout), ended.code)
}

pub fn parse(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json:?} is no JSON: {error}"))
}

/// Waits until a program ends, which it is to do by itself.
pub fn wait(child: &mut Child, program: &str) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if started.elapsed() > DEADLINE {
            let _ = child.kill();
            panic!("{program} has not ended by itself");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Asks until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "it never came to pass: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Calls `check` with every act, all at once: for what waits more than it works.
pub fn every_act_at_once(check: impl Fn(&Act) + Sync) {
    thread::scope(|scope| {
        for act in ACTS {
            scope.spawn(|| check(act));
        }
    });
}

/// The value that `measure` has come to rest at: for a tenth of a second it was the same.
pub fn settled<T: PartialEq>(mut measure: impl FnMut() -> T) -> T {
    let mut value = measure();
    eventually("the value settles", || {
        thread::sleep(Duration::from_millis(100));
        let before = std::mem::replace(&mut value, measure());
        before == value
    });
    value
}

/// A file that is removed when dropped.
pub struct Temporary(pub PathBuf);

impl Temporary {
    pub fn new(content: &[u8]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("jokes-{}-{number}.txt", std::process::id()));
        fs::File::create_new(&path).and_then(|mut file| file.write_all(content)).expect("a temporary file");
        Self(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("temporary paths are UTF-8 here")
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The bundled jokes, by the plainest reading of the file.
pub fn bundled() -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("jokes.txt")).expect("bundled");
    text.split_inclusive('\n')
        .collect::<Vec<_>>()
        .split(|line| *line == "-----\n")
        .map(|lines| lines.concat())
        .collect()
}

/// A joke of `bytes` in lines of 1024, each different.
pub fn long_joke(bytes: usize) -> String {
    (0..bytes / 1024).map(|line| format!("{line:01022}.\n")).collect()
}
