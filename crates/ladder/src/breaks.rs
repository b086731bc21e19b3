//! *Break it*: for each rung a change of its source that takes from it what it is there for, and the check that
//! shows the fault.
//!
//! A change is a file `NAME.break.diff` beside the source that it changes: what is done, where it shows, then a
//! unified diff. It is applied in a copy of the workspace below the target directory, built there, and looked at.
//! `ladder break` does it for a reader, and the pages record it, so that a change that no longer applies, or no
//! longer breaks anything, is drift.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use echo_contract::Verdict;
use exercises::patch::Patch;
use nix::fcntl::{Flock, FlockArg};
use similar::TextDiff;

use crate::checkout::{Checkout, Profile, Program};
use crate::failure::{Context, Failure, Result, failed, note, print, usage};
use crate::server::{self, Launch, Target, require_strace};
use crate::table::Table;
use crate::{claims, counts, record};

/// Options of `ladder break`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// The change, by the name on its page, mostly the program's; without one all of them are listed
    pub name: Option<String>,
}

/// How the name of a change's file ends.
const ENDING: &str = ".break.diff";

/// What the name of a changed source begins with.
const COPY: &str = "broken-";

/// How long an echo of a broken server is waited for, once the server is back in its wait.
const SOON: Duration = Duration::from_secs(1);

/// One change and where to look.
#[derive(Debug)]
pub struct Break {
    /// What a page calls it: the program's name, or that and a word more where there are several.
    name: String,
    /// The file that holds it, relative to the checkout.
    file: String,
    /// What the change is, in sentences.
    deed: String,
    look: Look,
    patch: Patch,
    /// The program whose source it changes.
    pub program: Program,
}

/// Where the change shows.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// In what `ladder compare` says.
    Compare,
    /// In the trace of an empty datagram.
    EmptyDatagram,
    /// In the requirement of this name, which `ladder check` then says fails.
    Contract(String),
}

/// A changed copy of a program, built.
pub struct Broken {
    /// What was changed.
    pub change: Break,
    /// The changed source.
    pub source: PathBuf,
    /// The binary that was built from it, in a file of the program's name.
    pub binary: PathBuf,
    /// The changed lines, as a diff.
    difference: String,
}

/// Runs `ladder break`: exit code 1 when the check does not show the fault.
pub fn run(checkout: &Checkout, options: &Options) -> Result<ExitCode> {
    let Some(name) = &options.name else {
        let mut table = Table::new(["break", "shows in", "what is changed"], 3);
        for one in all(checkout)? {
            table.row([one.name, one.look.words(), one.deed.replace('\n', " ")]);
        }
        print(&table.text());
        return Ok(ExitCode::SUCCESS);
    };
    let broken = built(checkout, name)?;
    print(&format!("{}\n\n{}\n", broken.change.deed, broken.difference));
    let (shown, faulty) = look(checkout, &broken)?;
    let (source, binary) = (broken.source.display(), broken.binary.display());
    print(&format!("{shown}\nthe changed source:   {source}\nthe changed program:  {binary}\n"));
    if faulty {
        return Ok(ExitCode::SUCCESS);
    }
    note(&format!("ladder: {}", breaks_nothing(&broken.change)));
    Ok(ExitCode::from(1))
}

/// The recorded block: the deed, the change, and what shows it.
pub fn record(checkout: &Checkout, name: &str, fenced: impl Fn(&str, &str) -> String) -> Result<String> {
    let broken = built(checkout, name)?;
    let (shown, faulty) = look(checkout, &broken)?;
    if !faulty {
        return failed(breaks_nothing(&broken.change));
    }
    Ok(format!(
        "{}\n\n{}\n`cargo ladder break {name}` makes this change in a copy of the program, builds it, and shows:\n\n{}",
        broken.change.deed,
        fenced("diff", &broken.difference),
        fenced("text", &shown)
    ))
}

fn breaks_nothing(one: &Break) -> String {
    format!(
        "what {} changes does not show any more in `{}`: mend the change, or say where it shows",
        one.file,
        one.look.words()
    )
}

/// Every change beside a program's source, in ladder order.
fn all(checkout: &Checkout) -> Result<Vec<Break>> {
    let mut breaks = Vec::new();
    let folders: BTreeSet<&Path> =
        checkout.programs.iter().filter_map(|program| Path::new(&program.source).parent()).collect();
    for folder in folders {
        let entries =
            fs::read_dir(checkout.root.join(folder)).context(|| format!("read {}", folder.display()))?;
        for entry in entries.filter_map(|entry| entry.ok()) {
            let file_name = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = file_name.strip_suffix(ENDING) else { continue };
            let file = folder.join(&file_name).display().to_string();
            let text = fs::read_to_string(entry.path()).context(|| format!("read {file}"))?;
            breaks.push(read(checkout, name, &file, &text).or_else(|why| failed(format!("{file}: {why}")))?);
        }
    }
    let place = |one: &Break| checkout.programs.iter().position(|program| program.name == one.program.name);
    breaks.sort_by_cached_key(|one| (place(one), one.name.clone()));
    Ok(breaks)
}

/// Reads one file: the deed, an empty line, `Shows in: ...`, and the diff.
fn read(checkout: &Checkout, name: &str, file: &str, text: &str) -> std::result::Result<Break, String> {
    let patch = Patch::parse(text)?;
    let Some((deed, shows_in)) = patch.preface.split_once("\nShows in: ") else {
        return Err("above the diff, behind what the change is, stands no line `Shows in: ...`".into());
    };
    let Some(program) = checkout.programs.iter().find(|program| program.source == patch.path) else {
        return Err(format!("{} is the source of no program", patch.path));
    };
    Ok(Break {
        name: name.to_string(),
        file: file.to_string(),
        deed: deed.trim().to_string(),
        look: Look::parse(shows_in.trim())?,
        program: program.clone(),
        patch,
    })
}

impl Look {
    fn parse(words: &str) -> std::result::Result<Self, String> {
        match (words, words.strip_prefix("check --only ")) {
            ("compare", _) => Ok(Look::Compare),
            ("trace of an empty datagram", _) => Ok(Look::EmptyDatagram),
            (_, Some(requirement)) => Ok(Look::Contract(requirement.to_string())),
            _ => Err(format!(
                "`Shows in:` has {words:?}, which is none of `compare`, `trace of an empty datagram`, `check --only \
                 REQUIREMENT`"
            )),
        }
    }

    /// As the file writes it.
    fn words(&self) -> String {
        match self {
            Look::Compare => "compare".into(),
            Look::EmptyDatagram => "trace of an empty datagram".into(),
            Look::Contract(requirement) => format!("check --only {requirement}"),
        }
    }
}

/// What the check says of the changed copy, and whether that is the fault.
fn look(checkout: &Checkout, broken: &Broken) -> Result<(String, bool)> {
    let program = &broken.change.program;
    require_strace()?;
    let launch = Launch { binary: Some(broken.binary.clone()), traced: true, ..Launch::default() };
    let target = Target::Own(program.clone());
    match &broken.change.look {
        Look::Compare => {
            // A program that does not even start would prove nothing.
            drop(server::start(checkout, checkout.profile, &target, &launch)?);
            let mut said = String::new();
            match counts::measure_one(checkout, checkout.profile, &target, &launch, SOON) {
                Ok(row) => said.extend(claims::broken(&row).iter().map(|claim| format!("ladder: {claim}\n"))),
                Err(failure) => said.push_str(&format!("ladder: {failure}\n")),
            }
            Ok((format!("$ cargo ladder compare {}\n{said}", program.name), !said.is_empty()))
        }
        Look::EmptyDatagram => {
            let (shown, echoed) = record::empty_datagram(checkout, checkout.profile, &target, &launch, SOON)?;
            Ok((shown, !echoed))
        }
        Look::Contract(requirement) => ask(broken, requirement),
    }
}

/// What `ladder check` says of one requirement, and whether it fails. The evidence is left out: it tells of random
/// payloads.
fn ask(broken: &Broken, requirement: &str) -> Result<(String, bool)> {
    let find = |name: &str| echo_contract::requirements().iter().find(|one| one.name == name);
    let (Some(asked), Some(control)) = (find(requirement), find("greeting")) else {
        return failed(format!(
            "the contract has no requirement {requirement:?}, or none named \"greeting\""
        ));
    };
    let target = echo_contract::Target::rung(&broken.binary).map_err(Failure::Failed)?;
    let options = echo_contract::Options::default();
    let name = &broken.change.program.name;
    // A program that fails everything would prove nothing.
    if let Verdict::Fails { evidence } = echo_contract::check_one(control, &target, &options).verdict {
        return failed(format!("the changed {name} does not even greet: {evidence}"));
    }
    let fails = matches!(echo_contract::check_one(asked, &target, &options).verdict, Verdict::Fails { .. });
    let answer = if fails { "FAILS" } else { "holds" };
    let command = format!("$ cargo ladder check {name} --only {requirement}");
    Ok((format!("{command}\n{:<4} {answer}  {}\n", asked.id, asked.sentence), fails))
}

/// The changed lines with one around them, without line numbers, which would drift with every other change.
fn difference(path: &str, old: &str, new: &str) -> String {
    let unified =
        TextDiff::from_lines(old, new).unified_diff().context_radius(1).header(path, path).to_string();
    let lines = unified.lines().filter(|line| !line.starts_with("@@"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The changed copy of the program that the change of this name breaks, built.
///
/// # Errors
///
/// There is no such change, its lines are no longer in the source, or the copy does not build: a sentence.
pub fn built(checkout: &Checkout, name: &str) -> Result<Broken> {
    let mut breaks = all(checkout)?;
    match breaks.iter().position(|one| one.name == name) {
        Some(place) => build(checkout, breaks.swap_remove(place)),
        None => usage(format!(
            "no change is known that breaks {name}: there are {}; a new one is a file {name}{ENDING} beside the source",
            breaks.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")
        )),
    }
}

/// Applies the change in a copy of the workspace and builds it there. The copy shares the target directory, so that
/// only the project's own crates are compiled again.
fn build(checkout: &Checkout, one: Break) -> Result<Broken> {
    let program = &one.program;
    let path = checkout.root.join(&program.source);
    let old = fs::read_to_string(&path).context(|| format!("read {}", program.source))?;
    let new = one.patch.apply(&old).or_else(|why| failed(format!("{}: {why}", one.file)))?;
    let difference = difference(&program.source, &old, &new);
    let copy = checkout.broken_workspace();
    // Another one of this tool may be at work in the same copy. The lock ends with the file.
    fs::create_dir_all(&copy).context(|| format!("make {}", copy.display()))?;
    let lock = File::create(copy.join("lock")).context(|| format!("make a lock in {}", copy.display()))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io::Error::from(errno))
        .context(|| format!("lock {}", copy.display()))?;
    for file in ["Cargo.toml", "Cargo.lock"] {
        let text = fs::read_to_string(checkout.root.join(file)).context(|| format!("read {file}"))?;
        // cargo names what it builds by a package's name, version and place in the workspace. With the version of
        // the checkout's the copy's crates would take their place, and break what was linked with those.
        let text = if file == "Cargo.toml" { another_version(&text)? } else { text };
        write_if_changed(&copy.join(file), text.as_bytes())?;
    }
    mirror(&checkout.root.join("crates"), &copy.join("crates"))?;
    let bin = format!("{COPY}{}", one.name);
    let source = copy.join(&program.source).with_file_name(format!("{bin}.rs"));
    // Its file has a name of its own, and the program goes by the rung's all the same.
    let text = new.replace(r#"env!("CARGO_BIN_NAME")"#, &format!("{:?}", program.name));
    write_if_changed(&source, text.as_bytes())?;
    let mut command: Command = checkout.cargo_build(Profile::Dev);
    // Its warnings are about the change, which is wrong on purpose.
    command.current_dir(&copy).args(["--bin", &bin]).stderr(Stdio::piped());
    let output = command.output().context(|| "start cargo (is it on PATH?)".into())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return failed(format!("cargo could not build {bin}: mend the change in {}\n{said}", one.file));
    }
    // The contract knows a rung by the name of its file. An old one may be running: it is replaced, not written to.
    let (built, folder) = (checkout.binary(&bin, Profile::Dev), copy.join("bin").join(&one.name));
    let (new, binary) = (folder.join("new"), folder.join(&program.name));
    fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
    fs::copy(&built, &new).context(|| format!("copy {} to {}", built.display(), new.display()))?;
    fs::rename(&new, &binary).context(|| format!("rename {} to {}", new.display(), binary.display()))?;
    Ok(Broken { change: one, source, binary, difference })
}

/// The workspace's manifest with another version of its packages.
fn another_version(manifest: &str) -> Result<String> {
    let version = concat!("\nversion = \"", env!("CARGO_PKG_VERSION"), "\"");
    if manifest.matches(version).count() != 1 {
        return failed(format!("Cargo.toml does not hold {:?} exactly once", version.trim_start()));
    }
    Ok(manifest.replacen(version, concat!("\nversion = \"", env!("CARGO_PKG_VERSION"), "-broken\""), 1))
}

/// Makes `to` a copy of `from`, and touches only what differs, so that cargo compiles only that. Changed sources of
/// earlier copies stay: a reader was told where they lie.
fn mirror(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).context(|| format!("make {}", to.display()))?;
    let mut kept = BTreeSet::new();
    let entries = fs::read_dir(from).context(|| format!("read {}", from.display()))?;
    for path in entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()) {
        let Some(name) = path.file_name().map(|name| name.to_os_string()) else { continue };
        // A crate that was built by itself has a target directory of its own.
        if name == "target" {
            continue;
        }
        let there = to.join(&name);
        if path.is_dir() {
            mirror(&path, &there)?;
        } else {
            let bytes = fs::read(&path).context(|| format!("read {}", path.display()))?;
            write_if_changed(&there, &bytes)?;
        }
        kept.insert(name);
    }
    for entry in fs::read_dir(to).context(|| format!("read {}", to.display()))?.filter_map(|entry| entry.ok())
    {
        let name = entry.file_name();
        if !kept.contains(&name) && !name.to_string_lossy().starts_with(COPY) {
            let gone = entry.path();
            let removed = if gone.is_dir() { fs::remove_dir_all(&gone) } else { fs::remove_file(&gone) };
            removed.context(|| format!("remove {}", gone.display()))?;
        }
    }
    Ok(())
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
    }
    fs::write(path, bytes).context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_applies_to_its_source_and_git_takes_it_too() {
        let checkout = Checkout::find().expect("the checkout around the tests");
        let breaks = all(&checkout).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(breaks.len() >= 13, "{} changes were found", breaks.len());
        for one in breaks {
            let old = fs::read_to_string(checkout.root.join(&one.program.source)).expect("a source");
            let new = one.patch.apply(&old).unwrap_or_else(|why| panic!("{}: {why}", one.file));
            let shown = difference(&one.program.source, &old, &new);
            assert!(shown.lines().any(|line| line.starts_with('-')), "{}: {shown}", one.file);
            assert!(!shown.contains("@@"), "{}: {shown}", one.file);
            let mut git = Command::new("git");
            let git = git.args(["apply", "--check", &one.file]).current_dir(&checkout.root);
            match git.output() {
                Ok(said) => assert!(said.status.success(), "{}: {said:?}", one.file),
                Err(error) => eprintln!("not asked: git does not start: {error}"),
            }
        }
    }

    #[test]
    fn a_file_that_says_too_little_is_refused() {
        let checkout = Checkout::find().expect("the checkout around the tests");
        let diff = "--- a/crates/1-readiness/src/bin/echo-poll.rs\n+++ b/crates/1-readiness/src/bin/echo-poll.rs\n\
                    @@ -1 +1 @@\n-a\n+b\n";
        let read = |text: String| read(&checkout, "x", "x.break.diff", &text);
        let good = read(format!("Do it.\n\nShows in: check --only sizes\n\n{diff}")).expect("whole");
        assert_eq!((good.deed.as_str(), good.look), ("Do it.", Look::Contract("sizes".into())));
        for (text, why) in [
            (format!("Do it.\n\n{diff}"), "no line `Shows in: ...`"),
            (format!("Do it.\n\nShows in: the stars\n\n{diff}"), "\"the stars\", which is none of"),
            (
                format!("Do it.\n\nShows in: compare\n\n{}", diff.replace("echo-poll", "echo")),
                "of no program",
            ),
            ("Do it.\n\nShows in: compare\n".into(), "no line `--- a/FILE`"),
        ] {
            let said = read(text.clone()).expect_err(&text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
