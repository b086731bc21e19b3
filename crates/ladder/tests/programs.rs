//! What every program of the project keeps, whatever it shows: no number of a flag and no limit of the system makes
//! it panic or hang. It serves, or says in a sentence why it cannot.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use cargo_metadata::MetadataCommand;
use harness::{Ended, Launch};

/// A program and what its help says.
struct Program {
    path: PathBuf,
    /// It is one of the ladder, or a joke: no tool and no load generator.
    shows_something: bool,
    help: String,
}

/// Every binary of the workspace.
fn programs() -> &'static [Program] {
    static PROGRAMS: OnceLock<Vec<Program>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_ladder")).parent().expect("a binary lies in a folder");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo starts").success(), "the programs do not build");
        let metadata = MetadataCommand::new()
            .cargo_path(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .no_deps()
            .exec()
            .expect("cargo metadata describes the workspace");
        let mut programs = Vec::new();
        for package in metadata.packages {
            let layer = package.manifest_path.parent().and_then(|path| path.file_name()).unwrap_or_default();
            let shows_something = layer.starts_with(|c: char| c.is_ascii_digit()) || layer == "jokes";
            for target in package.targets.iter().filter(|target| target.is_bin()) {
                let path = folder.join(&target.name);
                let help = Launch::new(path.display()).args(["--help"]).run().expect("the help is printed");
                programs.push(Program { path, shows_something, help: help.stdout });
            }
        }
        programs
    })
}

impl Program {
    /// The flags that take a value: the flag, the name of the value, and all that the help says of it.
    fn flags(&self) -> Vec<(&str, &str, String)> {
        let lines: Vec<&str> = self.help.lines().collect();
        let starts = |line: &str| line.trim_start().starts_with('-');
        let mut flags = Vec::new();
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| starts(line)) {
            let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("--"));
            let (Some(flag), Some(value)) = (words.next(), words.next()) else { continue };
            if value.starts_with('<') {
                let more = lines[index + 1..].iter().take_while(|line| !starts(line));
                let text: Vec<&str> = std::iter::once(line).chain(more).map(|line| line.trim()).collect();
                flags.push((flag, value, text.join(" ")));
            }
        }
        flags
    }

    /// On ports that the kernel chooses, and with no more of anything than it takes.
    fn launch(&self) -> Launch {
        let usage = self.help.lines().find(|line| line.starts_with("Usage: ")).unwrap_or_default();
        let addresses = usage.matches("[ADDR]").count();
        let mut launch = Launch::new(self.path.display()).args(vec!["127.0.0.1:0"; addresses]);
        for (flag, value, text) in self.flags() {
            let default = text.split("[default: ").nth(1).and_then(|rest| rest.split(']').next());
            if value == "<PORT>" {
                launch = launch.args([flag, "0"]);
            } else if default
                .and_then(|default| default.parse().ok())
                .is_some_and(|default: u64| default > 100_000)
            {
                launch = launch.args([flag, "1"]);
            }
        }
        launch
    }
}

/// Starts a program; once it greets, it is told to end. It has to end, with one of the contract's codes.
fn run(launch: Launch) -> Result<Ended, String> {
    let mut process = launch.start().map_err(|error| error.to_string())?;
    let ended = match process.await_greeting() {
        Ok(_) => process.terminate(),
        Err(_) => process.finish(),
    };
    let ended = ended.map_err(|error| error.to_string())?;
    let fine = matches!(ended.code(), Some(0..=2)) && !ended.stderr.contains("panicked");
    match fine {
        true => Ok(ended),
        false => Err(format!("{:?}: {}\n  {}", ended.code(), ended.stderr, ended.command)),
    }
}

/// Does `ask` for each case, some at a time; fails with all that is wrong.
fn ask_all<T: Sync>(cases: &[T], ask: impl Fn(&T) -> Result<(), String> + Sync) {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(what) = ask(case) {
                        wrong.lock().expect("nobody panics").push(what);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("nobody panics");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Numbers that stand in a text: `1000000`, `1day`.
fn numbers(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit())).collect()
}

#[test]
fn the_least_and_the_most_of_each_flag_is_served_or_wrong_usage() {
    let mut cases = Vec::new();
    for program in programs() {
        for (flag, value, text) in program.flags() {
            let unit = if value == "<DURATION>" { "s" } else { "" };
            for number in ["0", "-1", "18446744073709551615"] {
                let counts = matches!(value, "<N>" | "<K>" | "<BYTES>" | "<MS>" | "<PORT>" | "<DURATION>");
                cases.push((program, flag, format!("{number}{unit}"), counts.then(|| text.clone())));
            }
        }
    }
    assert!(cases.len() > 100, "not all flags are found in the helps: {}", cases.len());
    ask_all(&cases, |(program, flag, value, text)| {
        let ended = run(program.launch().args([format!("{flag}={value}")]))?;
        let sentence = ended.stderr.lines().next().unwrap_or_default();
        // What is too much is answered with the most that is not, and so is the help.
        let bounds: Vec<&str> = numbers(sentence).into_iter().filter(|number| number.len() > 1).collect();
        let Some(text) = text else { return Ok(()) };
        let is_too_much = value.starts_with("18446744073709551615") && sentence.contains(value);
        let bounds: Vec<&str> = bounds.into_iter().filter(|bound| bound != value).collect();
        match is_too_much && !bounds.iter().any(|bound| numbers(text).contains(bound)) {
            true => Err(format!("the help names no bound of {sentence:?}: {text:?}\n  {}", ended.command)),
            false => Ok(()),
        }
    });
}

/// Under the limit that `prefix` sets, it serves, or ends with status 1 and a sentence that names the limit.
fn serves_or_names(program: &Program, prefix: &[&str], limit: &str) -> Result<(), String> {
    let ended = run(program.launch().prefix(prefix))?;
    match ended.code() {
        Some(0) => Ok(()),
        Some(1) if ended.stderr.contains(limit) && !ended.stderr.contains("bug") => Ok(()),
        // A client whose server is not there.
        Some(1) if run(program.launch())?.code() == Some(1) => Ok(()),
        code => Err(format!("{code:?}, without {limit}: {}\n  {}", ended.stderr, ended.command)),
    }
}

#[test]
fn too_few_descriptors_are_a_sentence() {
    let showing = programs().iter().filter(|program| program.shows_something);
    let cases: Vec<_> = showing.flat_map(|program| [4, 6, 8, 11].map(|limit| (program, limit))).collect();
    ask_all(&cases, |(program, limit)| {
        // Hard and soft, for those that raise the one to the other.
        let limited = format!("ulimit -n {limit}; exec \"$@\"");
        serves_or_names(program, &["sh", "-c", &limited, "sh"], "ulimit -n")
    });
}

#[test]
fn too_few_threads_are_a_sentence() {
    // The limit counts what a user has, and none of it binds root: each run is another user's.
    let able = Command::new("setpriv").args(["--reuid=70000", "--clear-groups", "true"]).status();
    if !able.is_ok_and(|status| status.success()) {
        eprintln!(
            "skipped: only root may run a program as a user who has no other (setpriv, package util-linux)"
        );
        return;
    }
    let showing = programs().iter().filter(|program| program.shows_something);
    let cases: Vec<_> = showing.flat_map(|program| [1, 2, 3].map(|limit| (program, limit))).collect();
    let user = AtomicUsize::new(70_000 + std::process::id() as usize % 100_000 * 1000);
    ask_all(&cases, |(program, limit)| {
        let user = format!("--reuid={}", user.fetch_add(1, Ordering::Relaxed));
        let limit = format!("--nproc={limit}");
        serves_or_names(program, &["setpriv", &user, "--clear-groups", "prlimit", &limit], "ulimit -u")
    });
}
