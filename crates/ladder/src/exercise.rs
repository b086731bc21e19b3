//! `ladder exercise`: hands out programs of the ladder with a hole or a fault in them, and says what holds of a solution.
//!
//! What is handed out, and the learner's folder, are the crate `exercises`'. Here it is built and asked, by what holds for the
//! ladder itself: the contract, the calls for each datagram, the tests of the crate.

use std::env;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use echo_contract::Verdict;
use exercises::{Ask, Copy, Exercise, Folder, Question};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::checkout::{Checkout, Profile};
use crate::failure::{Context, Failure, Result, failed, note, print};
use crate::server::{Launch, Target, require_strace};
use crate::table::Table;
use crate::{claims, counts};

/// Options of `ladder exercise`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// The folder of your exercises: the one around you if you stand in one, else my-exercises in the checkout
    #[arg(long, value_name = "DIR", global = true)]
    pub folder: Option<PathBuf>,
    #[command(subcommand)]
    pub action: Option<Action>,
}

#[derive(clap::Subcommand, Debug, Clone)]
pub enum Action {
    /// Put an exercise into your folder
    Start {
        /// The exercise, by its name in the list
        name: String,
        /// A fresh copy beside one that was started
        #[arg(long)]
        anew: bool,
    },
    /// Build what you wrote, and say what holds and what does not; exit code 1 if something does not
    Check {
        /// The exercise; the one whose file was saved last if none is named
        name: Option<String>,
        /// Check again each time that a file of your exercises is saved
        #[arg(long)]
        watch: bool,
        /// Wait so long for an answer before it counts as none; each requirement has a time of its own otherwise
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..))]
        patience: Option<u16>,
    },
    /// The next of three hints
    Hint { name: Option<String> },
    /// What the ladder has in its place
    Solution {
        name: Option<String>,
        /// Put it into your file
        #[arg(long)]
        write: bool,
    },
}

/// Where the exercises lie if nothing else is said, from the top of the checkout. git ignores it.
const DEFAULT_FOLDER: &str = "my-exercises";

/// How long no file has to be saved before a check begins: an editor may write several, one after the other.
const SETTLED: u8 = 100;

/// What a check has found.
struct Report {
    holds: bool,
    text: String,
}

/// Runs `ladder exercise`.
pub fn run(checkout: &Checkout, options: &Options) -> Result<ExitCode> {
    let folder = folder(checkout, options)?;
    match &options.action {
        None => list(checkout, &folder),
        Some(Action::Start { name, anew }) => start(checkout, &folder, name, *anew),
        Some(Action::Check { name, watch, patience }) => {
            let patience = patience.map(|seconds| Duration::from_secs(seconds.into()));
            match watch {
                true => watch_and_check(checkout, &folder, name.as_deref(), patience),
                false => check_and_print(checkout, &folder, &mut chosen(&folder, name.as_deref())?, patience),
            }
        }
        Some(Action::Hint { name }) => {
            let mut copy = chosen(&folder, name.as_deref())?;
            let title = copy.name.clone();
            let (number, hint) = copy.next_hint().map_err(Failure::Failed)?;
            print(&format!("{title}, hint {number} of 3\n\n{}\n", wrapped(hint, "  ")));
            if number == 3 {
                print(&format!("\nThe solution: cargo ladder exercise solution {title}\n"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(Action::Solution { name, write }) => {
            let copy = chosen(&folder, name.as_deref())?;
            print(&copy.exercise.solution(&checkout.root).map_err(Failure::Failed)?);
            if *write {
                let solved = copy.text().and_then(|text| copy.exercise.solve(&checkout.root, &text));
                solved.and_then(|text| copy.write(&text)).map_err(Failure::Failed)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn folder(checkout: &Checkout, options: &Options) -> Result<Folder> {
    let here = env::current_dir().context(|| "find out where this is".into())?;
    Ok(match &options.folder {
        Some(path) => Folder::at(&here.join(path), &checkout.root),
        None => Folder::around(&here, &checkout.root)
            .unwrap_or_else(|| Folder::at(&checkout.root.join(DEFAULT_FOLDER), &checkout.root)),
    })
}

/// The exercise that is named; else the one around us; else the one whose file was saved last.
fn chosen(folder: &Folder, name: Option<&str>) -> Result<Copy> {
    if let Some(name) = name {
        return folder.copy(name).map_err(Failure::Usage);
    }
    let copies = folder.copies().map_err(Failure::Failed)?;
    let here = env::current_dir().unwrap_or_default();
    let saved = |copy: &Copy| copy.file().metadata().and_then(|file| file.modified()).ok();
    let around = copies.iter().find(|copy| here.starts_with(&copy.path));
    match around.or_else(|| copies.iter().max_by_key(|copy| saved(copy))) {
        Some(copy) => Ok(copy.clone()),
        None => Err(Failure::Usage(format!(
            "no exercise was started in {}: cargo ladder exercise lists them, cargo ladder exercise start NAME starts one",
            folder.path.display()
        ))),
    }
}

fn list(checkout: &Checkout, folder: &Folder) -> Result<ExitCode> {
    let copies = folder.copies().map_err(Failure::Failed)?;
    let mut table = Table::new(["exercise", "", "minutes", "page", "what to do"], 5);
    for one in exercises::all(&checkout.root).map_err(Failure::Failed)? {
        let started = copies.iter().filter(|copy| copy.exercise.name == one.name).collect::<Vec<_>>();
        let state = match started.iter().any(|copy| copy.is_solved()) {
            true => "solved",
            false if started.is_empty() => "",
            false => "started",
        };
        let Exercise { name, title, page, minutes, .. } = one;
        table.row([name, state.into(), minutes.to_string(), page, title]);
    }
    print(&table.text());
    print(&format!(
        "\nYour folder: {}\nBegin with: cargo ladder exercise start NAME\n",
        folder.path.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// The table for a class.
pub fn class_table(checkout: &Checkout) -> Result<String> {
    let mut table = String::from("| page | exercise | minutes | ask first |\n|---|---|---|---|\n");
    for one in exercises::all(&checkout.root).map_err(Failure::Failed)? {
        let Exercise { name, title, page, minutes, question, .. } = one;
        let short = page.trim_end_matches(".md");
        table.push_str(&format!("| [{short}]({page}) | `{name}`: {title} | {minutes} | {question} |\n"));
    }
    Ok(table)
}

fn start(checkout: &Checkout, folder: &Folder, name: &str, anew: bool) -> Result<ExitCode> {
    let exercise = exercises::find(&checkout.root, name).map_err(Failure::Usage)?;
    let (copy, is_new) = folder.start(&exercise, anew).map_err(Failure::Failed)?;
    if !is_new {
        let (name, path) = (&copy.name, copy.path.display());
        print(&format!(
            "{name} was started before, in {path}, and is left as it is. A fresh copy beside it: cargo ladder exercise start {} --anew\n",
            exercise.name
        ));
        return Ok(ExitCode::SUCCESS);
    }
    print(&introduction(&copy));
    Ok(ExitCode::SUCCESS)
}

/// What a learner is told at the start.
fn introduction(copy: &Copy) -> String {
    let Exercise { title, page, task, minutes, .. } = &copy.exercise;
    let name = &copy.name;
    let first = &copy.exercise.asks[0];
    format!(
        "{name}: {title}\n\n{}\n\nIt is about this: {}\n\nthe file:   {}\nthe page:   docs/{page} ({minutes} minutes)\ncheck it:   cargo ladder \
         exercise check {name}    (--watch: each time you save)\na hint:     cargo ladder exercise hint {name}\n",
        wrapped(task, ""),
        sentence(&copy.exercise, first),
        copy.file().display(),
    )
}

/// A paragraph in lines that a terminal has room for.
fn wrapped(text: &str, margin: &str) -> String {
    let options = textwrap::Options::new(96).initial_indent(margin).subsequent_indent(margin);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    textwrap::fill(&words, options)
}

/// What is asked, as a sentence that holds or does not.
fn sentence(exercise: &Exercise, ask: &Ask) -> String {
    if let Some(sentence) = &ask.sentence {
        return sentence.clone();
    }
    match &ask.question {
        Question::Contract(name) => match requirement(name) {
            Some(one) => format!("{} ({})", one.sentence, one.id),
            None => format!("the contract has no requirement {name:?}"),
        },
        Question::Calls => format!("the calls are those of the header of {}", exercise.program()),
        Question::Polls => format!("the polls are those of the header of {}", exercise.program()),
        Question::Test(_, test) => format!("{} ({test})", test.replace('_', " ")),
    }
}

fn requirement(name: &str) -> Option<&'static echo_contract::Requirement> {
    echo_contract::requirements().iter().find(|one| one.name == name)
}

fn check_and_print(
    checkout: &Checkout,
    folder: &Folder,
    copy: &mut Copy,
    patience: Option<Duration>,
) -> Result<ExitCode> {
    let report = check(checkout, folder, copy, patience)?;
    print(&report.text);
    copy.set_solved(report.holds).map_err(Failure::Failed)?;
    Ok(if report.holds { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Checks, and again each time that a file below the folder's packages is saved; until a signal ends it.
fn watch_and_check(
    checkout: &Checkout,
    folder: &Folder,
    name: Option<&str>,
    patience: Option<Duration>,
) -> Result<ExitCode> {
    let watched: Vec<Copy> = match name {
        Some(name) => vec![folder.copy(name).map_err(Failure::Usage)?],
        None => folder.copies().map_err(Failure::Failed)?,
    };
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
        .context(|| "watch your files".into())?;
    // An editor writes the file, or writes another one and renames it.
    let saved = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
    let mut places = Vec::new();
    for copy in &watched {
        let file = copy.file();
        let source = file.parent().unwrap_or(&copy.path);
        let watch = inotify.add_watch(source, saved).context(|| format!("watch {}", source.display()))?;
        places.push((watch, file, copy.name.clone()));
    }
    let mut next = Some(chosen(folder, name)?);
    loop {
        if let Some(mut copy) = next.take() {
            // What is wrong with one version is no reason to stop looking.
            if let Err(failure) = check_and_print(checkout, folder, &mut copy, patience) {
                note(&format!("ladder: {failure}"));
            }
            print("\nwaiting for you to save a file (Ctrl-C ends this)\n");
        }
        await_events(&inotify, PollTimeout::NONE)?;
        let mut saved = None;
        while await_events(&inotify, PollTimeout::from(SETTLED))? {
            let events = match inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(errno) => return failed(format!("could not read what was saved: {errno}")),
            };
            for event in events {
                let of = |file: &Path| file.file_name() == event.name.as_deref();
                let place = places.iter().find(|(watch, file, _)| *watch == event.wd && of(file));
                saved = place.map(|(.., name)| name.clone()).or(saved);
            }
        }
        if let Some(name) = saved {
            next = Some(folder.copy(&name).map_err(Failure::Failed)?);
        }
    }
}

/// Waits for word of files; returns whether any came.
fn await_events(inotify: &Inotify, timeout: PollTimeout) -> Result<bool> {
    loop {
        match poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return failed(format!("could not wait for a file to be saved: {errno}")),
        }
    }
}

/// Looks at a solution: for holes first, then builds it, then asks.
fn check(checkout: &Checkout, folder: &Folder, copy: &Copy, patience: Option<Duration>) -> Result<Report> {
    let exercise = &copy.exercise;
    let name = &copy.name;
    let mut text = format!("{name}: {}\n", exercise.title);
    if copy.is_outdated(&checkout.root).map_err(Failure::Failed)? {
        text.push_str(&format!(
            "{}\n",
            wrapped(
                &format!(
                    "{} has changed since you started. Your copy is judged as it is. A fresh one beside it: cargo ladder exercise start {} --anew",
                    exercise.source, exercise.name
                ),
                "  "
            )
        ));
    }
    if let Some((line, hole)) = copy.empty_hole().map_err(Failure::Failed)? {
        let what = match hole {
            Some(hole) => format!("the hole `{hole}` in {}:{line} is still empty", exercise.file()),
            None => format!("{}:{line} is still to be done: it has a `todo!`", exercise.file()),
        };
        text.push_str(&row("FAILS", &what));
        text.push_str(&more(&format!("It is about this: {}.", sentence(exercise, &exercise.asks[0]))));
        text.push_str(&next_step(name));
        return Ok(Report { holds: false, text });
    }
    folder.prepare().map_err(Failure::Failed)?;
    for ask in &exercise.asks {
        match put(checkout, folder, copy, ask, patience)? {
            Answer::Holds => text.push_str(&row("holds", &sentence(exercise, ask))),
            Answer::Fails { evidence } => {
                text.push_str(&row("FAILS", &sentence(exercise, ask)));
                text.push_str(&more(&ask.means));
                for line in evidence.lines() {
                    text.push_str(&format!("         | {line}\n"));
                }
                text.push_str(&next_step(name));
                return Ok(Report { holds: false, text });
            }
            Answer::DoesNotBuild { said } => {
                text.push_str(&row("FAILS", &format!("it does not compile:\n\n{}", said.trim_end())));
                text.push_str(&next_step(name));
                return Ok(Report { holds: false, text });
            }
            Answer::NotAsked { why } => {
                text.push_str(&row("not asked", &sentence(exercise, ask)));
                text.push_str(&more(&why));
            }
        }
    }
    text.push_str(&format!(
        "solved: compare it with the ladder's own: cargo ladder exercise solution {name}\n"
    ));
    Ok(Report { holds: true, text })
}

fn row(answer: &str, sentence: &str) -> String {
    format!("  {answer}  {sentence}\n")
}

fn more(text: &str) -> String {
    format!("{}\n", wrapped(text, "         "))
}

fn next_step(name: &str) -> String {
    format!("a hint: cargo ladder exercise hint {name}\n")
}

/// The answer to one question.
enum Answer {
    Holds,
    Fails { evidence: String },
    DoesNotBuild { said: String },
    NotAsked { why: String },
}

/// Builds what the question needs, and asks.
fn put(
    checkout: &Checkout,
    folder: &Folder,
    copy: &Copy,
    ask: &Ask,
    patience: Option<Duration>,
) -> Result<Answer> {
    let patience = patience.unwrap_or(ask.patience);
    let binary = match build(folder, copy, &ask.question)? {
        Ok(binary) => binary,
        Err(said) => return Ok(Answer::DoesNotBuild { said }),
    };
    match &ask.question {
        Question::Contract(name) => contract(copy, name, &binary, patience),
        Question::Calls => calls(checkout, copy, binary, patience),
        Question::Polls => failed("no exercise counts polls yet"),
        Question::Test(_, test) => run_test(&binary, test, patience),
    }
}

/// The program or the test that was built, or what the compiler said.
fn build(folder: &Folder, copy: &Copy, question: &Question) -> Result<std::result::Result<PathBuf, String>> {
    let cargo = || {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&folder.path).stdin(Stdio::null());
        command
    };
    let package = copy.package();
    let mut words: Vec<String> = Vec::new();
    let target = match question {
        Question::Test(file, _) if file == "lib" => {
            words.extend(["test", "--no-run", "--package", &package, "--lib"].map(str::to_owned));
            None
        }
        Question::Test(file, _) => {
            words.extend(["test", "--no-run", "--package", &package, "--test", file].map(str::to_owned));
            Some(file.clone())
        }
        // Without --package: with the features of the whole workspace, so that no exercise builds another's dependencies anew.
        _ => {
            words.extend(["build", "--bin", &package].map(str::to_owned));
            Some(package.clone())
        }
    };
    let target_folder = folder.path.join("target");
    words.extend(
        ["--quiet", "--message-format", "json-render-diagnostics", "--target-dir"].map(str::to_owned),
    );
    words.push(target_folder.display().to_string());
    if !target_folder.is_dir() {
        note("ladder: the first check builds what the exercise stands on, which may take a minute or two");
    }
    let mut output = None;
    // What the checkout was built with is on this machine. Only where something is missing, cargo may ask for it.
    for offline in [&["--offline"][..], &[]] {
        let built =
            cargo().args(&words).args(offline).output().context(|| "start cargo (is it on PATH?)".into())?;
        let missing = String::from_utf8_lossy(&built.stderr).contains("--offline");
        output = Some(built);
        if !missing {
            break;
        }
    }
    let Some(output) = output else { return failed("cargo was not started") };
    if !output.status.success() {
        return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let ours = |name: &str| {
            target.as_deref().map_or(message["profile"]["test"] == true, |target| name == target)
        };
        if let (Some(executable), Some(name)) =
            (message["executable"].as_str(), message["target"]["name"].as_str())
            && ours(name)
        {
            return Ok(Ok(PathBuf::from(executable)));
        }
    }
    failed(format!("cargo built {package}, and names no program of it"))
}

fn contract(copy: &Copy, name: &str, binary: &Path, patience: Duration) -> Result<Answer> {
    let Some(requirement) = requirement(name) else {
        return failed(format!("the contract has no requirement {name:?}"));
    };
    let target =
        echo_contract::Target::rung_named(copy.exercise.program(), binary).map_err(Failure::Failed)?;
    let options = echo_contract::Options { deadline_seconds: patience.as_secs(), ..Default::default() };
    Ok(match echo_contract::check_one(requirement, &target, &options).verdict {
        Verdict::Holds => Answer::Holds,
        Verdict::Fails { evidence } => Answer::Fails { evidence },
        Verdict::NotAsked { why } => Answer::NotAsked { why },
    })
}

fn calls(checkout: &Checkout, copy: &Copy, binary: PathBuf, patience: Duration) -> Result<Answer> {
    if let Err(why) = require_strace() {
        return Ok(Answer::NotAsked { why: why.to_string() });
    }
    let target = Target::Own(checkout.program(copy.exercise.program())?.clone());
    let launch = Launch { binary: Some(binary), traced: true, patience: Some(patience), ..Launch::default() };
    let evidence = match counts::measure_one(checkout, Profile::Dev, &target, &launch, patience) {
        Ok(row) => claims::broken(&row),
        Err(failure) => vec![failure.to_string()],
    };
    Ok(match evidence.is_empty() {
        true => Answer::Holds,
        false => Answer::Fails { evidence: evidence.join("\n") },
    })
}

/// Runs one test. It ends with all that it has started when the time is up.
fn run_test(binary: &Path, test: &str, patience: Duration) -> Result<Answer> {
    let launch = harness::Launch::new(binary.display()).args(["--exact", test, "--nocapture"]);
    let start = Instant::now();
    let mut process = launch.env("RUST_BACKTRACE", "0").patience(patience).start()?;
    if process.wait().is_err() {
        let seconds = start.elapsed().as_secs();
        let output = process.stderr();
        return Ok(Answer::Fails {
            evidence: format!("it was not over after {seconds} s, and was ended\n{}", panic_message(&output)),
        });
    }
    let ended = process.finish()?;
    if !ended.stdout.contains("running 1 test") {
        return failed(format!("there is no test {test} in {}", binary.display()));
    }
    Ok(match ended.status.success() {
        true => Answer::Holds,
        false => Answer::Fails { evidence: panic_message(&ended.stderr) },
    })
}

/// The first panic of a test's output: where, and what it says.
fn panic_message(stderr: &str) -> String {
    let lines = stderr.lines().skip_while(|line| !line.contains("panicked at"));
    let message: Vec<&str> = lines.take_while(|line| !line.starts_with("note:")).take(8).collect();
    message.join("\n")
}
