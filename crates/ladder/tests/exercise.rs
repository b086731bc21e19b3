//! The exercises: each is refused as it is handed out, and accepted when it is solved; what nearly works is caught.
//!
//! All of them are started in one folder, with one target directory, which is kept from run to run. Each is solved in place after
//! it has failed.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use exercises::{Exercise, Folder, Question};
use harness::{Ended, Launch};

/// What a check may take in all on a busy machine, its build among it.
const BUILD: Duration = Duration::from_secs(900);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the checkout")
}

/// The folder of the exercises, all of them started, and built as they were handed out. One test at a time uses it.
fn folder() -> (Folder, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let path = FOLDER.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("exercises");
        for entry in fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok) {
            // What the exercises stand on is built once.
            if entry.file_name() != "target" && entry.path().is_dir() {
                fs::remove_dir_all(entry.path()).expect("an old copy is removed");
            }
        }
        let folder = Folder::at(&path, &root());
        for one in all() {
            let ended = ladder(&path, &["start", &one.name]);
            assert_eq!(ended.code(), Some(0), "{}: {}", one.name, ended.stderr);
        }
        // Each hole compiles while it is empty, and the next builds find everything else built.
        let build = ["build", "--offline", "--workspace", "--bins", "--quiet"];
        let target = path.join("target");
        let cargo = Launch::new(env!("CARGO"))
            .args(build)
            .args(["--target-dir".into(), target.display().to_string()]);
        let ended = cargo.in_folder(&folder.path).patience(BUILD).run().expect("cargo ends");
        assert_eq!(ended.code(), Some(0), "as handed out they do not compile:\n{}", ended.stderr);
        path
    });
    (Folder::at(path, &root()), turn)
}

fn all() -> Vec<Exercise> {
    exercises::all(&root()).unwrap_or_else(|why| panic!("{why}"))
}

/// `ladder exercise ARGS` in that folder.
fn ladder(folder: &Path, args: &[&str]) -> Ended {
    let tool = Launch::new(env!("CARGO_BIN_EXE_ladder")).args(["exercise", "--folder"]);
    let launch = tool.args([folder.display().to_string()]).args(args).patience(BUILD);
    launch.run().expect("the tool ends")
}

/// Checks with all the time that a busy machine may need.
fn check(folder: &Path, name: &str) -> Ended {
    ladder(folder, &["check", name, "--patience", "120"])
}

/// Whether the longer tests are asked, too.
fn long() -> bool {
    std::env::var_os("ECHO_CONTRACT_LONG").is_some_and(|value| !value.is_empty() && value != "0")
}

fn sentence_of(question: &Question) -> Option<&'static str> {
    let Question::Contract(name) = question else { return None };
    let requirement = echo_contract::requirements().iter().find(|one| one.name == *name);
    Some(requirement.unwrap_or_else(|| panic!("the contract has no requirement {name}")).sentence)
}

#[test]
fn each_is_refused_as_handed_out_and_accepted_solved() {
    let (folder, _turn) = folder();
    for one in all() {
        let name = &one.name;
        let copy = folder.start(&one, false).expect("a copy").0;
        copy.write(&one.handed_out(&root()).expect("as handed out")).expect("the file is written");
        // A fault has to be found by running it; the deadline is what a learner waits.
        let refused = ladder(&folder.path, &["check", name]);
        assert_eq!(refused.code(), Some(1), "{name} as handed out: {}{}", refused.stdout, refused.stderr);
        assert!(refused.stdout.contains("FAILS"), "{name}: {}", refused.stdout);
        let about =
            sentence_of(&one.asks[0].question).or(one.asks[0].sentence.as_deref()).unwrap_or("header");
        let words = refused.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains(about),
            "{name} is not refused for what it is about, {about:?}: {}",
            refused.stdout
        );
        if let Some(hole) = one.holes.first() {
            let says = format!("the hole `{}` in {}:", hole.name, one.file());
            assert!(words.contains(&says) && words.contains("is still empty"), "{name}: {}", refused.stdout);
        }
        assert!(!refused.stdout.contains("panicked"), "{name}: {}", refused.stdout);
        let solved = ladder(&folder.path, &["solution", name, "--write"]);
        assert_eq!(solved.code(), Some(0), "{name}: {}", solved.stderr);
        let accepted = check(&folder.path, name);
        assert_eq!(accepted.code(), Some(0), "{name} solved: {}{}", accepted.stdout, accepted.stderr);
        assert!(accepted.stdout.contains("solved"), "{name}: {}", accepted.stdout);
    }
    let list = ladder(&folder.path, &[]);
    for one in all() {
        let row = list.stdout.lines().find(|line| line.starts_with(&one.name));
        assert!(row.is_some_and(|row| row.contains("solved")), "{}: {}", one.name, list.stdout);
    }
}

/// A program is known to cargo by its package's name: one that is right must not stand in for one that is wrong.
#[test]
fn two_of_one_crate_are_judged_each_by_its_own() {
    let (folder, _turn) = folder();
    let (right, wrong) = ("poll-wait", "edge-rest");
    let write = |name: &str, solved: bool| {
        let one = exercises::find(&root(), name).expect("an exercise");
        let text = if solved { one.solved(&root()) } else { one.handed_out(&root()) };
        folder.copy(name).expect("a copy").write(&text.expect("a text")).expect("the file is written");
    };
    for (right, wrong) in [(right, wrong), (wrong, right)] {
        write(right, true);
        write(wrong, false);
        for _ in 0..2 {
            assert_eq!(check(&folder.path, right).code(), Some(0), "{right} is right");
            assert_eq!(ladder(&folder.path, &["check", wrong]).code(), Some(1), "{wrong} is wrong");
        }
    }
}

#[test]
fn a_solution_that_hangs_is_refused_within_seconds() {
    let (folder, _turn) = folder();
    for (name, what) in [("poll-wait", "no reply"), ("mini-wake", "was ended")] {
        let one = exercises::find(&root(), name).expect("an exercise");
        let copy = folder.copy(name).expect("a copy");
        // The loop is in every hole, so the first thing that is asked meets it.
        let text = one.handed_out(&root()).expect("as handed out");
        let hanging: String = text
            .lines()
            .map(|line| match line.trim_start().strip_prefix("let [on_socket, on_signal]: [bool; 2] = ") {
                Some(_) => {
                    "let [on_socket, on_signal]: [bool; 2] = loop { std::hint::spin_loop() };\n".to_owned()
                }
                None if line.trim_start().starts_with("todo!") => {
                    "loop { std::hint::spin_loop() }\n".to_owned()
                }
                None => format!("{line}\n"),
            })
            .collect();
        copy.write(&hanging).expect("the file is written");
        // The first time it is built as well.
        ladder(&folder.path, &["check", name]);
        let start = Instant::now();
        let refused = ladder(&folder.path, &["check", name]);
        let took = start.elapsed();
        assert_eq!(refused.code(), Some(1), "{name}: {}{}", refused.stdout, refused.stderr);
        assert!(refused.stdout.contains(what), "{name}: {}", refused.stdout);
        // Its patience is 3 s. A server that never answers was waited for for 60 s once.
        assert!(took < Duration::from_secs(45), "{name} was refused after {took:?}");
    }
}

#[test]
fn what_does_not_compile_and_what_has_changed_is_said() {
    let (folder, _turn) = folder();
    let one = exercises::find(&root(), "mio-rearm").expect("an exercise");
    let copy = folder.copy(&one.name).expect("a copy");
    copy.write(&one.solved(&root()).expect("solved").replace("fn flush(", "fn flush(("))
        .expect("the file is written");
    let said = check(&folder.path, &one.name);
    assert_eq!(said.code(), Some(1));
    assert!(
        said.stdout.contains("it does not compile") && said.stdout.contains("echo-mio-level.rs:"),
        "{}",
        said.stdout
    );
    // Started from another source than today's.
    let state = copy.path.join("exercise.toml");
    let old = fs::read_to_string(&state).expect("the state");
    let number = old.lines().find(|line| line.starts_with("handed_out")).expect("a number");
    fs::write(&state, old.replace(number, "handed_out = \"0\"")).expect("the state is written");
    copy.write(&one.handed_out(&root()).expect("as handed out")).expect("the file is written");
    let words = |ended: &Ended| ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = check(&folder.path, &one.name);
    assert!(words(&said).contains("has changed since you started"), "{}", said.stdout);
    assert!(words(&said).contains("still empty"), "it is judged as it is: {}", said.stdout);
    let kept = copy.text().expect("the file");
    let said = ladder(&folder.path, &["start", &one.name]);
    assert!(said.stdout.contains("is left as it is"), "{}", said.stdout);
    let said = ladder(&folder.path, &["start", &one.name, "--anew"]);
    assert_eq!(said.code(), Some(0), "{}", said.stderr);
    assert_eq!(copy.text().expect("the file"), kept, "the old copy is kept");
    let anew = folder.copy(&one.name).expect("a copy");
    assert_eq!(anew.name, "mio-rearm-2");
    assert!(!words(&check(&folder.path, &one.name)).contains("has changed since"));
    fs::remove_dir_all(&anew.path).expect("the second copy is removed");
    fs::write(&state, old).expect("the state is written");
}

#[test]
fn a_file_that_is_saved_is_checked_again() {
    let (folder, _turn) = folder();
    let one = exercises::find(&root(), "poll-wait").expect("an exercise");
    let copy = folder.copy(&one.name).expect("a copy");
    copy.write(&one.handed_out(&root()).expect("as handed out")).expect("the file is written");
    let tool = Launch::new(env!("CARGO_BIN_EXE_ladder")).args(["exercise", "--folder"]);
    let launch = tool.args([folder.path.display().to_string()]);
    let launch = launch.args(["check", "poll-wait", "--watch", "--patience", "120"]).patience(BUILD);
    let mut watching = launch.start().expect("the tool starts");
    watching.line_with("is still empty").expect("the first verdict");
    watching.line_with("waiting for you").expect("it waits");
    // As an editor saves that writes another file first.
    let beside = copy.file().with_extension("rs.new");
    fs::write(&beside, one.solved(&root()).expect("solved")).expect("a file is written");
    fs::rename(&beside, copy.file()).expect("the file is renamed");
    watching.line_with("solved").expect("the second verdict");
    watching.line_with("waiting for you").expect("it waits again");
    let ended = watching.interrupt().expect("it ends");
    assert_eq!(ended.code(), Some(130), "{}", ended.stderr);
}

#[test]
fn hints_come_one_after_the_other_and_unknown_names_are_wrong_usage() {
    let (folder, _turn) = folder();
    let one = exercises::find(&root(), "tokio-poll").expect("an exercise");
    for (number, hint) in [(1, &one.hints[0]), (2, &one.hints[1]), (3, &one.hints[2]), (3, &one.hints[2])] {
        let said = ladder(&folder.path, &["hint", &one.name]);
        let words = said.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains(&format!("hint {number} of 3")) && words.contains(hint.as_str()),
            "{}",
            said.stdout
        );
    }
    let said = ladder(&folder.path, &["start", "no-such"]);
    assert_eq!(said.code(), Some(2));
    assert!(said.stderr.contains("poll-wait"), "{}", said.stderr);
}

#[test]
fn what_nearly_works_is_caught() {
    let mut of_each = Vec::new();
    for one in all() {
        let wrongs = one.wrongs(&root()).unwrap_or_else(|why| panic!("{why}"));
        assert!(
            !wrongs.is_empty(),
            "{} has no solution that nearly works: exercises/{0}.NAME.wrong.diff",
            one.name
        );
        of_each.extend(wrongs.into_iter().map(|wrong| (one.clone(), wrong)));
    }
    if !long() {
        println!("not asked: {} solutions that nearly work (ECHO_CONTRACT_LONG=1 does)", of_each.len());
        return;
    }
    let (folder, _turn) = folder();
    let only = std::env::var("EXERCISE").ok();
    for (one, wrong) in of_each {
        if only.as_ref().is_some_and(|only| *only != one.name) {
            continue;
        }
        let copy = folder.copy(&one.name).expect("a copy");
        copy.write(&one.wrong(&root(), &wrong).expect("the change applies")).expect("the file is written");
        // As a learner has it: what hangs is not waited for.
        let refused = ladder(&folder.path, &["check", &one.name]);
        let shown =
            format!("{}.{} ({}): {}{}", one.name, wrong.name, wrong.deed, refused.stdout, refused.stderr);
        assert_eq!(refused.code(), Some(1), "{shown}");
        let ask = one.asks.iter().find(|ask| ask.question == wrong.caught_by).expect("it is asked");
        let words = refused.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&ask.means), "not caught by {}: {shown}", wrong.caught_by.words());
        println!("{shown}");
    }
}
