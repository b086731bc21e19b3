//! Starts the real binaries on port 0, pokes them, ends them. Each wait has a deadline.
#![allow(dead_code)] // Each test file uses a part of it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

pub use harness::demo::must;
use harness::{Ended, proc};
pub use harness::{Launch, PATIENCE};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempPath;

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
    /// With more `flags`.
    pub fn launch(&self, flags: &[&str]) -> Launch {
        Launch::new(self.path).args(self.flags).args(flags)
    }

    /// Starts it on a port of the kernel's choice, `--json`, with more `flags`.
    pub fn start(&self, flags: &[&str]) -> Server {
        Server::start(self.program, self.launch(flags))
    }

    /// Starts it by a shell that does `first` before, for what only a shell sets up.
    pub fn start_in_shell(&self, first: &str, flags: &[&str]) -> Server {
        Server::start(self.program, self.launch(flags).in_shell(first))
    }

    /// Starts it as a user of its own, for whom limits hold (root is exempt from some).
    pub fn start_as_another(&self, flags: &[&str]) -> Server {
        let user = another_user();
        let server = Server::start(self.program, self.launch(flags).prefix(as_user(user)));
        Server { user, ..server }
    }

    /// Runs it to its end, which is to come by itself, as a user of its own who may have `threads` threads.
    pub fn fails_with_threads(&self, threads: u32, flags: &[&str]) -> Ended {
        must(self.launch(flags).prefix(with_threads(threads)).run())
    }

    /// Runs it to its end, which is to come by itself.
    pub fn fails(&self, flags: &[&str]) -> Ended {
        must(self.launch(flags).run())
    }
}

/// A user whom nobody else is. For tests that are not run by root there is none, and what runs as "another" is the
/// user who runs them, whose own processes count against a limit, too.
fn another_user() -> Option<u32> {
    static USER: AtomicU32 = AtomicU32::new(0);
    // A number that no system gives to a person or a service, and another one for each process of each test.
    let number = 1_000_000_000 + std::process::id() * 100 + USER.fetch_add(1, Ordering::Relaxed);
    nix::unistd::geteuid().is_root().then_some(number)
}

/// The command that runs another one behind it as `user`.
fn as_user(user: Option<u32>) -> Vec<String> {
    let Some(user) = user.map(|user| user.to_string()) else { return Vec::new() };
    ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"].map(str::to_owned).to_vec()
}

/// The command that runs another one behind it as a user of its own who may have `threads` threads.
pub fn with_threads(threads: u32) -> Vec<String> {
    let mut prefix = as_user(another_user());
    prefix.extend(["prlimit".to_owned(), format!("--nproc={threads}")]);
    prefix
}

/// A running server. Killed when dropped.
pub struct Server {
    pub program: &'static str,
    pub address: SocketAddr,
    pub greeting: String,
    /// Whom it runs as, if not as the user who runs the tests.
    user: Option<u32>,
    pub process: harness::Process,
}

impl Server {
    fn start(program: &'static str, launch: Launch) -> Self {
        let mut process = must(launch.args(["--json", "127.0.0.1:0"]).start());
        let greeting = must(process.line());
        let address = greeting
            .strip_prefix(&format!("{program}: listening on "))
            .and_then(|rest| rest.split_once("  (try: nc "))
            .and_then(|(address, _)| address.parse().ok())
            .unwrap_or_else(|| panic!("{program} greets with {greeting:?} (stderr: {:?})", process.stderr()));
        Self { program, address, greeting, user: None, process }
    }

    pub fn signal(&self, signal: Signal) {
        must(self.process.signal(signal));
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
        let socket = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Lets the server's user have `threads` threads from now on, as far as the hard limit permits.
    pub fn limit_threads(&self, threads: u32) {
        let pid = format!("--pid={}", self.process.id());
        let limit = Launch::new("prlimit").args([pid, format!("--nproc={threads}:")]);
        must(must(limit.prefix(as_user(self.user)).run()).expect_code(0));
    }

    /// Waits for the end that a signal has begun; the status and the last line of stdout behind the greeting.
    pub fn ended(self) -> (ExitStatus, Option<String>) {
        let ended = must(self.process.finish());
        (ended.status, ended.stdout.lines().skip(1).last().map(str::to_owned))
    }

    /// SIGTERM, the end, the summary.
    pub fn stop(self) -> Value {
        self.stop_with_log().0
    }

    /// The same, and what stands on stderr.
    pub fn stop_with_log(self) -> (Value, String) {
        let ended = must(self.process.terminate());
        assert_eq!(ended.code(), Some(0), "{} ends well after SIGTERM: {}", self.program, ended.stderr);
        let summary = ended.stdout.lines().skip(1).last();
        (parse(summary.unwrap_or_else(|| panic!("{} has no summary", self.program))), ended.stderr)
    }

    /// Resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        proc::status(self.process.id()).and_then(|status| status.vmrss).expect("the server is alive")
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        proc::descriptors(self.process.id()).expect("the server is alive")
    }

    /// How much processor time it has used.
    pub fn cpu(&self) -> Duration {
        proc::cpu(&[self.process.id()])
    }
}

/// Runs the client; its report and its exit code.
pub fn client(address: SocketAddr, flags: &[&str]) -> (Value, Option<i32>) {
    let launch = Launch::new(CLIENT).args(["--json"]).args(flags).args([address]);
    let ended = must(launch.run());
    (parse(&ended.stdout), ended.code())
}

pub fn parse(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json:?} is no JSON: {error}"))
}

/// Asks until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    must(harness::eventually(what, PATIENCE, || condition().then_some(())));
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

/// A file that everybody may read, and that is removed when dropped.
pub struct Temporary(pub TempPath);

impl Temporary {
    pub fn new(content: &[u8]) -> Self {
        let all = fs::Permissions::from_mode(0o644);
        let file = tempfile::Builder::new().permissions(all).tempfile();
        let written = file.and_then(|mut file| file.write_all(content).map(|()| file.into_temp_path()));
        Self(written.expect("a temporary file"))
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("temporary paths are UTF-8 here")
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
