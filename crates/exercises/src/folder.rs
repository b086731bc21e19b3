//! The learner's folder: a workspace of its own, with a package for each exercise and a target directory of its own.
//!
//! It lies outside of `target`, so `cargo clean` leaves it alone. The packages depend on the checkout's crates by their paths, and
//! these are written anew each time, so that a checkout may move. Each package has a name of its own: cargo knows what it has built by the
//! package's name, and would take one exercise's program for another's.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::exercise::{Exercise, entries, find, read};
use crate::{Result, hole};

/// A folder of exercises has this file, which says whose it is.
pub const MARK: &str = "exercises.toml";

/// What is known of an exercise that was started; a file in its folder.
const STATE: &str = "exercise.toml";

/// The learner's folder.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    root: PathBuf,
}

/// An exercise that was started.
#[derive(Clone, Debug)]
pub struct Copy {
    /// What it is about, as it is today.
    pub exercise: Exercise,
    /// Its name: the exercise's, with a number behind it if it is not the first.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    state: State,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The exercise's name.
    exercise: String,
    /// A number for the files as they were handed out.
    handed_out: String,
    /// How many hints were given.
    #[serde(default)]
    hints: usize,
    /// A number for the file that was found right.
    #[serde(default)]
    solved: String,
}

impl Folder {
    /// The folder at `path`, which need not be there yet, for the checkout at `root`.
    pub fn at(path: &Path, root: &Path) -> Self {
        Self { path: path.to_owned(), root: root.to_owned() }
    }

    /// The nearest folder of exercises around `start`.
    pub fn around(start: &Path, root: &Path) -> Option<Self> {
        let path = start.ancestors().find(|path| path.join(MARK).is_file())?;
        Some(Self::at(path, root))
    }

    /// All that were started, by name.
    pub fn copies(&self) -> Result<Vec<Copy>> {
        if !self.path.is_dir() {
            return Ok(Vec::new());
        }
        let mut copies = Vec::new();
        for path in entries(&self.path)? {
            if path.join(STATE).is_file() {
                copies.push(self.copy_in(&path)?);
            }
        }
        Ok(copies)
    }

    fn copy_in(&self, path: &Path) -> Result<Copy> {
        let file = path.join(STATE);
        let state: State = toml::from_str(&read(&file)?).map_err(|error| {
            let folder = path.display();
            format!(
                "{} is not as it was written ({}): move {folder} away, and start anew",
                file.display(),
                error.message()
            )
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Copy { exercise: find(&self.root, &state.exercise)?, name, path: path.to_owned(), state })
    }

    /// The copy of this name; of several copies of an exercise, the latest.
    pub fn copy(&self, name: &str) -> Result<Copy> {
        let copies = self.copies()?;
        let number =
            |copy: &Copy| copy.name[copy.exercise.name.len()..].trim_start_matches('-').parse().unwrap_or(1);
        let latest = copies
            .iter()
            .filter(|copy| copy.exercise.name == name)
            .max_by_key(|copy| -> u32 { number(copy) });
        match latest.or_else(|| copies.iter().find(|copy| copy.name == name)) {
            Some(copy) => Ok(copy.clone()),
            None => {
                let exercise = find(&self.root, name)?;
                Err(format!(
                    "{} was not started in {}: cargo ladder exercise start {0}",
                    exercise.name,
                    self.path.display()
                ))
            }
        }
    }

    /// Hands an exercise out. One that was started before is left as it is, unless a copy beside it is wanted.
    pub fn start(&self, exercise: &Exercise, anew: bool) -> Result<(Copy, bool)> {
        let mut name = exercise.name.clone();
        let mut number = 1;
        while self.path.join(&name).exists() {
            if !anew {
                return Ok((self.copy(&exercise.name)?, false));
            }
            number += 1;
            name = format!("{}-{number}", exercise.name);
        }
        let path = self.path.join(&name);
        let files = exercise.files(&self.root)?;
        for (place, text) in &files {
            write(&path.join(place), text)?;
        }
        let state = State {
            exercise: exercise.name.clone(),
            handed_out: number_of(files.iter()),
            ..State::default()
        };
        let copy = Copy { exercise: exercise.clone(), name, path, state };
        copy.keep()?;
        self.prepare()?;
        Ok((copy, true))
    }

    /// Writes the manifests, so that cargo builds what is there against the checkout where it is now.
    pub fn prepare(&self) -> Result<()> {
        let root = self.root.display();
        write(
            &self.path.join(MARK),
            &format!(
                "# Exercises of the checkout in this folder. `cargo ladder exercise` made this file.\ncheckout = \"{root}\"\n"
            ),
        )?;
        // So that `cargo ladder exercise` works in here too.
        write(
            &self.path.join(".cargo/config.toml"),
            &format!("[alias]\nladder = \"run --quiet --manifest-path {root}/Cargo.toml --bin ladder --\"\n"),
        )?;
        write(&self.path.join(".gitignore"), "/target\n")?;
        let copies = self.copies()?;
        let ours: Table = parse(&self.root.join("Cargo.toml"))?;
        let mut theirs = self.workspace(ours)?;
        if let Some(workspace) = theirs.get_mut("workspace").and_then(Value::as_table_mut) {
            let members = copies.iter().map(|copy| Value::from(copy.name.clone()));
            workspace.insert("members".into(), Value::Array(members.collect()));
        }
        write(&self.path.join("Cargo.toml"), &manifest(&theirs)?)?;
        for copy in &copies {
            write(&copy.path.join("Cargo.toml"), &manifest(&self.package(copy)?)?)?;
        }
        // The versions are the checkout's, which are on this machine, as the checkout was built here.
        let (ours, theirs) = (self.root.join("Cargo.lock"), self.path.join("Cargo.lock"));
        let kept = self.path.join(".cargo/checkout.lock");
        let text = read(&ours)?;
        if !theirs.is_file() || fs::read_to_string(&kept).ok().as_ref() != Some(&text) {
            write(&theirs, &text)?;
            write(&kept, &text)?;
        }
        Ok(())
    }

    /// The checkout's workspace as it is for a learner: its versions and profiles, its crates by their paths.
    fn workspace(&self, mut manifest: Table) -> Result<Table> {
        let Some(workspace) = manifest.get_mut("workspace").and_then(Value::as_table_mut) else {
            return Err("the checkout's Cargo.toml has no [workspace]".to_owned());
        };
        workspace.remove("lints");
        let dependencies = workspace.get_mut("dependencies").and_then(Value::as_table_mut);
        for (_, dependency) in dependencies.into_iter().flatten() {
            if let Some(path) = dependency.get_mut("path") {
                let relative = path.as_str().unwrap_or_default();
                *path = self.root.join(relative).display().to_string().into();
            }
        }
        // Packages of the checkout that are no members here would be warned about.
        if let Some(packages) = manifest
            .get_mut("profile")
            .and_then(|profile| profile.get_mut("dev"))
            .and_then(|dev| dev.get_mut("package"))
            .and_then(Value::as_table_mut)
        {
            packages.retain(|name, _| ["loom", "generator"].contains(&name));
            if !self.uses("loom")? {
                packages.clear();
            }
        }
        Ok(manifest)
    }

    /// Whether one of the exercises that were started is built with this.
    fn uses(&self, dependency: &str) -> Result<bool> {
        for copy in self.copies()? {
            let text = manifest(&self.package(&copy)?)?;
            if text.contains(&format!("ependencies.{dependency}]")) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The manifest of one exercise: that of the crate that it is taken from, with what its files use.
    fn package(&self, copy: &Copy) -> Result<Table> {
        let exercise = &copy.exercise;
        let home = self.root.join(exercise.home());
        let theirs = parse(&home.join("Cargo.toml"))?;
        let name_of = |table: &Table| -> String {
            let package = table.get("package").and_then(|package| package.get("name"));
            package.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let mut sources = String::new();
        let mut folders = vec![copy.path.join("src"), copy.path.join("tests")];
        while let Some(folder) = folders.pop() {
            for path in entries(&folder).unwrap_or_default() {
                match path.is_dir() {
                    true => folders.push(path),
                    false => sources.push_str(&fs::read_to_string(&path).unwrap_or_default()),
                }
            }
        }
        // A learner may want what the hole has been solved with, and does not use yet.
        sources.push_str(&exercise.solved(&self.root)?);
        let used = |name: &str| sources.contains(&format!("{}::", name.replace('-', "_")));
        let mut ours = Table::new();
        let mut package = Table::new();
        let full_name = format!("exercise-{}", copy.name);
        package.insert("name".into(), full_name.clone().into());
        package.insert("edition".into(), workspace_inherited());
        package.insert("version".into(), workspace_inherited());
        package.insert("publish".into(), false.into());
        package.insert("autobins".into(), false.into());
        ours.insert("package".into(), package.into());
        for kind in ["dependencies", "dev-dependencies"] {
            let Some(all) = theirs.get(kind).and_then(Value::as_table) else { continue };
            let mut kept = Table::new();
            for (name, dependency) in all.iter().filter(|(name, _)| used(name)) {
                // With a table of its own, so that it reads as one writes it.
                kept.insert(name.clone(), dependency.clone());
            }
            ours.insert(kind.into(), kept.into());
        }
        let library = home.join("src/lib.rs").is_file();
        let home_name = name_of(&theirs);
        if exercise.is_program() {
            let mut bin = Table::new();
            bin.insert("name".into(), full_name.into());
            bin.insert("path".into(), exercise.file().into());
            ours.insert("bin".into(), Value::Array(vec![bin.into()]));
            if library && used(&home_name) {
                let mut path = Table::new();
                path.insert("path".into(), home.display().to_string().into());
                if let Some(dependencies) = ours.get_mut("dependencies").and_then(Value::as_table_mut) {
                    dependencies.insert(home_name, path.into());
                }
            }
        } else {
            let mut lib = Table::new();
            lib.insert("name".into(), home_name.replace('-', "_").into());
            lib.insert("path".into(), "src/lib.rs".into());
            ours.insert("lib".into(), lib.into());
        }
        let mut rust = Table::new();
        // What an empty hole leaves without a use is no fault of the learner's.
        for lint in ["unused", "unreachable_code", "unexpected_cfgs"] {
            rust.insert(lint.into(), "allow".into());
        }
        let mut lints = Table::new();
        lints.insert("rust".into(), rust.into());
        ours.insert("lints".into(), lints.into());
        Ok(ours)
    }
}

fn workspace_inherited() -> Value {
    let mut table = Table::new();
    table.insert("workspace".into(), true.into());
    table.into()
}

fn manifest(table: &Table) -> Result<String> {
    let text = toml::to_string(table).map_err(|error| format!("could not write a manifest: {error}"))?;
    Ok(format!("# Written by `cargo ladder exercise`, each time anew.\n{text}"))
}

fn parse(path: &Path) -> Result<Table> {
    read(path)?.parse().map_err(|error| format!("could not read {}: {error}", path.display()))
}

impl Copy {
    /// The package's name.
    pub fn package(&self) -> String {
        format!("exercise-{}", self.name)
    }

    /// The learner's own file.
    pub fn file(&self) -> PathBuf {
        self.path.join(self.exercise.file())
    }

    /// What the learner has written so far.
    pub fn text(&self) -> Result<String> {
        read(&self.file())
    }

    /// Puts a text in the place of the learner's file.
    pub fn write(&self, text: &str) -> Result<()> {
        write(&self.file(), text)
    }

    /// The first hole that is still empty: the number of its line, and its name.
    pub fn empty_hole(&self) -> Result<Option<(usize, Option<String>)>> {
        Ok(hole::empty(&self.text()?).into_iter().next())
    }

    /// Whether the exercise is made of other files now than when it was started.
    pub fn is_outdated(&self, root: &Path) -> Result<bool> {
        Ok(number_of(self.exercise.files(root)?.iter()) != self.state.handed_out)
    }

    /// Whether the file was found right as it is now.
    pub fn is_solved(&self) -> bool {
        self.text().is_ok_and(|text| number_of_text(&text) == self.state.solved)
    }

    /// Keeps in mind whether the file was found right.
    pub fn set_solved(&mut self, solved: bool) -> Result<()> {
        self.state.solved = if solved { number_of_text(&self.text()?) } else { String::new() };
        self.keep()
    }

    /// The next hint and its number; the last one again when all were given.
    pub fn next_hint(&mut self) -> Result<(usize, &str)> {
        self.state.hints = (self.state.hints + 1).min(self.exercise.hints.len());
        self.keep()?;
        Ok((self.state.hints, &self.exercise.hints[self.state.hints - 1]))
    }

    fn keep(&self) -> Result<()> {
        let text = toml::to_string(&self.state).map_err(|error| error.to_string())?;
        write(&self.path.join(STATE), &format!("# Kept by `cargo ladder exercise`.\n{text}"))
    }
}

/// A number for texts that differs when they do (FNV-1a).
fn number_of<'a>(texts: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let bytes = texts.flat_map(|(place, text)| place.bytes().chain([0]).chain(text.bytes()).chain([0]));
    let number = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |number, byte| {
        (number ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{number:016x}")
}

fn number_of_text(text: &str) -> String {
    number_of([(&String::new(), &text.to_owned())].into_iter())
}

/// Writes a file, unless it holds that already: cargo builds by the time of the last change.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let done = match path.parent() {
        Some(folder) => fs::create_dir_all(folder).and_then(|()| fs::write(path, text)),
        None => fs::write(path, text),
    };
    done.map_err(|error| format!("could not write {}: {error}", path.display()))
}
