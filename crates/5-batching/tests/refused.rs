//! Where there is no io_uring: its servers say why and what to do, and the others serve.
//!
//! `refused --behind-a-filter EPERM COMMAND...` is a part of it: the command runs behind a seccomp filter, as in a container.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use harness::{Ended, Launch};
use libtest_mimic::{Arguments, Trial};
use nix::errno::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

fn main() -> ExitCode {
    let words: Vec<String> = env::args().collect();
    if let [_, flag, error, program, args @ ..] = &words[..]
        && flag == "--behind-a-filter"
    {
        let errno =
            ERRORS.iter().find(|(errno, _)| format!("{errno:?}") == *error).expect("an error of the list").0;
        refuse(errno).expect("a filter can be set");
        // Returns only when it fails.
        panic!("cannot start {program}: {}", Command::new(program).args(args).exec());
    }
    let test = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    let trials = vec![
        test("behind a seccomp filter a ring says why it cannot be made", a_filtered_ring),
        test("behind a seccomp filter a server without a ring serves", another_server_behind_the_filter),
        test("a ring that may not lock enough memory says so", a_ring_without_memory),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// What a filter may answer, and what the servers then say.
const ERRORS: [(Errno, &str); 4] = [
    (Errno::EPERM, "seccomp filter of a container"),
    (Errno::ENOSYS, "it takes Linux 6.1 or newer"),
    (Errno::EINVAL, "`uname -r`"),
    (Errno::ENOMEM, "`ulimit -l 1024`"),
];

/// Sets a filter that answers the calls of io_uring in the kernel's place. It stays with the process, and with what it
/// becomes.
fn refuse(errno: Errno) -> Result<(), Box<dyn std::error::Error>> {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    let rules = BTreeMap::from(calls.map(|call| (call, Vec::new())));
    let refused = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, env::consts::ARCH.try_into()?)?;
    Ok(seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?)
}

/// The servers that stand on a ring.
const RINGS: [&str; 2] = [env!("CARGO_BIN_EXE_echo-uring"), env!("CARGO_BIN_EXE_echo-uring-multishot")];

/// A server behind a command that takes io_uring away from it.
fn behind<S: ToString>(prefix: impl IntoIterator<Item = S>, program: &str) -> Launch {
    Launch::new(program).args(["127.0.0.1:0"]).prefix(prefix)
}

/// What puts a command behind a filter: this program.
fn filter(errno: Errno) -> [String; 3] {
    let this = env::current_exe().expect("the path of this program").display().to_string();
    [this, "--behind-a-filter".to_owned(), format!("{errno:?}")]
}

/// Asserts that it has not greeted, and says one line that names `next_step` and accuses nobody.
fn says_why(ended: &Ended, next_step: &str) {
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    let said = ended.stderr.trim_end();
    assert!(ended.stdout.is_empty() && said.lines().count() == 1, "{ended:?}");
    assert!(said.contains("cannot serve on 127.0.0.1:"), "{said}");
    assert!(said.contains(next_step) && !said.contains("bug"), "{next_step:?} is missing: {said}");
}

fn a_filtered_ring() {
    for program in RINGS {
        for (errno, next_step) in ERRORS {
            let ended = behind(filter(errno), program).run().expect("it starts and ends");
            says_why(&ended, next_step);
        }
    }
}

fn another_server_behind_the_filter() {
    serves(behind(filter(Errno::EPERM), env!("CARGO_BIN_EXE_echo-mmsg")));
}

fn serves(launch: Launch) {
    let mut server = launch.start().expect("it starts");
    server.await_greeting().expect("it greets");
    server.client().expect("a client").echo(b"in spite of all").expect("an echo");
    server.terminate().expect("it ends").expect_code(0).expect("properly");
}

fn a_ring_without_memory() {
    // The limit is not one of root's, and in a user namespace nobody is root.
    let in_namespace = |limit: &str| {
        let limited = format!("ulimit -l {limit} && exec \"$@\"");
        ["unshare", "--user", "--", "sh", "-c", &limited, "sh"].map(str::to_owned)
    };
    let possible = Launch::new("true").prefix(in_namespace("8")).run();
    if !possible.is_ok_and(|ended| ended.code() == Some(0)) {
        eprintln!("skipped: no user namespace can be made here, or `ulimit -l` is not known to sh");
        return;
    }
    for program in RINGS {
        // A queue of 8 takes 8 KiB, one of 1024 far more.
        for (limit, queue) in [("0", "8"), ("16", "1024")] {
            let launch = behind(in_namespace(limit), program).args(["--queue", queue]);
            let ended = launch.run().expect("it starts and ends");
            says_why(&ended, "`ulimit -l 1024`");
        }
        // What they tell to do suffices.
        serves(behind(in_namespace("1024"), program));
    }
}
