//! The exercises: what each description in `exercises/*.toml` says, and the files that are handed out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::Result;
use crate::hole;
use crate::patch::Patch;

/// Where the descriptions lie in a checkout.
const DESCRIPTIONS: &str = "crates/exercises/exercises";

/// How long an answer is waited for, in seconds, where the description says nothing else. A sound server on a machine at rest
/// answers a thousand times within it, and a learner waits no longer for the refusal of one that hangs.
const PATIENCE: u64 = 3;

/// One exercise.
#[derive(Clone, Debug)]
pub struct Exercise {
    /// What it is called on a command line.
    pub name: String,
    /// What is to be done, in half a sentence.
    pub title: String,
    /// The page that it belongs to, a file in `docs`.
    pub page: String,
    /// How long it takes somebody who has read the page.
    pub minutes: u32,
    /// For a class: the question to ask before.
    pub question: String,
    /// The source that it is made of, relative to the checkout.
    pub source: String,
    /// The holes that are to be filled; none where a fault is to be mended.
    pub holes: Vec<Hole>,
    /// The change that has put the fault into it, relative to the checkout.
    pub fault: Option<String>,
    /// What is to be done, in sentences.
    pub task: String,
    /// What is asked, in this order; it is about the first.
    pub asks: Vec<Ask>,
    /// From a nudge to nearly all of it.
    pub hints: [String; 3],
}

/// A hole of an exercise.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hole {
    /// As its marks call it.
    pub name: String,
    /// What must hold once it is filled; stands in it as a comment.
    pub must: String,
    /// Code with `todo!` in it, where the hole defines what is used behind it.
    pub stub: Option<String>,
}

/// One thing that is asked of a solution.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What is asked.
    pub question: Question,
    /// What holds if it holds, where the question has no sentence of its own.
    pub sentence: Option<String>,
    /// What it means when it does not hold, in the words of the page.
    pub means: String,
    /// How long an answer is waited for.
    pub patience: Duration,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The contract: the requirement of this name.
    Contract(String),
    /// `ladder compare`: the calls for each datagram are those that the header names.
    Calls,
    /// `ladder compare`: so are the polls of the sockets' futures.
    Polls,
    /// A test of the crate: the file below `tests`, without its ending (the crate's own unit tests if it is `lib`), and the test.
    Test(String, String),
}

impl Question {
    /// Reads it as a description writes it.
    fn parse(words: &str) -> Result<Self> {
        match words.split(' ').collect::<Vec<_>>()[..] {
            ["check", requirement] => Ok(Question::Contract(requirement.to_owned())),
            ["compare"] => Ok(Question::Calls),
            ["polls"] => Ok(Question::Polls),
            ["test", file, test] => Ok(Question::Test(file.to_owned(), test.to_owned())),
            _ => {
                Err(format!("{words:?} is none of `check REQUIREMENT`, `compare`, `polls`, `test FILE TEST`"))
            }
        }
    }

    /// As a description writes it.
    pub fn words(&self) -> String {
        match self {
            Question::Contract(requirement) => format!("check {requirement}"),
            Question::Calls => "compare".to_owned(),
            Question::Polls => "polls".to_owned(),
            Question::Test(file, test) => format!("test {file} {test}"),
        }
    }
}

/// A solution that nearly works.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// A word for it.
    pub name: String,
    /// What is wrong with it.
    pub deed: String,
    /// What finds it.
    pub caught_by: Question,
    patch: Patch,
    file: String,
}

/// A description as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    title: String,
    page: String,
    minutes: u32,
    question: String,
    source: String,
    #[serde(default)]
    hole: Vec<Hole>,
    fault: Option<String>,
    task: String,
    ask: Vec<AskWords>,
    hints: [String; 3],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskWords {
    ask: String,
    sentence: Option<String>,
    means: String,
    patience: Option<u64>,
}

/// All exercises of the checkout at `root`, in the order of their pages.
///
/// # Errors
///
/// A description that cannot be read: a sentence that names it.
pub fn all(root: &Path) -> Result<Vec<Exercise>> {
    let mut found = Vec::new();
    for path in entries(&root.join(DESCRIPTIONS))? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(name) = file.strip_suffix(".toml") {
            let text = read(&path)?;
            found.push(describe(name, &text).map_err(|why| format!("{DESCRIPTIONS}/{file}: {why}"))?);
        }
    }
    found.sort_by_cached_key(|one: &Exercise| (one.page.clone(), one.name.clone()));
    Ok(found)
}

/// The exercise of this name.
///
/// # Errors
///
/// There is none: a sentence that names all of them.
pub fn find(root: &Path, name: &str) -> Result<Exercise> {
    let all = all(root)?;
    match all.iter().find(|one| one.name == name) {
        Some(one) => Ok(one.clone()),
        None => {
            let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
            Err(format!("there is no exercise {name:?}: there are {}", names.join(", ")))
        }
    }
}

fn describe(name: &str, text: &str) -> Result<Exercise> {
    let Description { title, page, minutes, question, source, hole, fault, task, ask, hints } =
        toml::from_str(text).map_err(|error| error.to_string())?;
    if hole.is_empty() == fault.is_none() {
        return Err("it has neither a `[[hole]]` nor a `fault`, or both".to_owned());
    }
    let asks: Vec<Ask> = ask
        .into_iter()
        .map(|AskWords { ask, sentence, means, patience }| {
            let patience = Duration::from_secs(patience.unwrap_or(PATIENCE));
            Ok(Ask { question: Question::parse(&ask)?, sentence, means: one_line(&means), patience })
        })
        .collect::<Result<_>>()?;
    if asks.is_empty() {
        return Err("it asks nothing".to_owned());
    }
    Ok(Exercise {
        name: name.to_owned(),
        title,
        page,
        minutes,
        question: one_line(&question),
        source,
        holes: hole,
        fault,
        task: task.trim().to_owned(),
        asks,
        hints: hints.map(|hint| hint.trim().to_owned()),
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Exercise {
    /// Whether it is a program of its own, in one file; else it is a library with its tests.
    pub fn is_program(&self) -> bool {
        self.source.contains("/src/bin/")
    }

    /// The name of the program that the source is of, or of the file.
    pub fn program(&self) -> &str {
        let file = self.source.rsplit('/').next().unwrap_or(&self.source);
        file.strip_suffix(".rs").unwrap_or(file)
    }

    /// The folder of the crate that it is taken from, relative to the checkout.
    pub fn home(&self) -> &str {
        self.source.split("/src/").next().unwrap_or(&self.source)
    }

    /// Where the learner's file lies in the exercise's own folder.
    pub fn file(&self) -> String {
        match self.is_program() {
            true => format!("src/{}.rs", self.program()),
            false => self.source[self.home().len() + 1..].to_owned(),
        }
    }

    /// The source as it is: the solution.
    fn original(&self, root: &Path) -> Result<String> {
        read(&root.join(&self.source))
    }

    /// A text in the form in which a learner has it.
    fn dressed(&self, text: &str) -> String {
        // Its file has a name of its own, and the program goes by the rung's all the same.
        let text = text.replace(r#"env!("CARGO_BIN_NAME")"#, &format!("{:?}", self.program()));
        let ours =
            |line: &str| self.holes.iter().any(|hole| line.trim().ends_with(&format!("hole: {}", hole.name)));
        let text: String =
            text.split_inclusive('\n').filter(|line| !hole::is_mark(line) || ours(line)).collect();
        let Self { name, title, page, .. } = self;
        format!(
            "// Exercise {name}: {title}.\n// Page: docs/{page}. What holds: cargo ladder exercise check {name}\n\n{text}"
        )
    }

    /// The file to work on.
    ///
    /// # Errors
    ///
    /// A mark is missing in the source, or a change does not apply any more: a sentence.
    pub fn handed_out(&self, root: &Path) -> Result<String> {
        let mut text = self.original(root)?;
        for Hole { name, must, stub } in &self.holes {
            text = hole::emptied(&self.source, &text, name, must, stub.as_deref())?;
        }
        if let Some(file) = &self.fault {
            let patch = Patch::parse(&read(&root.join(file))?).map_err(|why| format!("{file}: {why}"))?;
            text = patch.apply(&text).map_err(|why| format!("{file}: {why}"))?;
        }
        Ok(self.dressed(&text))
    }

    /// The same file, solved.
    pub fn solved(&self, root: &Path) -> Result<String> {
        Ok(self.dressed(&self.original(root)?))
    }

    /// The same file with a solution that nearly works.
    pub fn wrong(&self, root: &Path, wrong: &Wrong) -> Result<String> {
        let text =
            wrong.patch.apply(&self.original(root)?).map_err(|why| format!("{}: {why}", wrong.file))?;
        Ok(self.dressed(&text))
    }

    /// The learner's file with the holes filled as the ladder has them, and everything else as the learner has it; the ladder's
    /// own file where there are no holes.
    pub fn solve(&self, root: &Path, learners: &str) -> Result<String> {
        let original = self.original(root)?;
        if self.holes.is_empty() {
            return self.solved(root);
        }
        let mut text = learners.to_owned();
        for Hole { name, .. } in &self.holes {
            text = hole::filled(&self.file(), &text, name, hole::content(&self.source, &original, name)?)?;
        }
        Ok(text)
    }

    /// What the ladder has: each hole's content; the change that takes the fault out.
    pub fn solution(&self, root: &Path) -> Result<String> {
        let original = self.original(root)?;
        let mut shown = String::new();
        for Hole { name, .. } in &self.holes {
            shown.push_str(&format!("// hole: {name}\n{}", hole::content(&self.source, &original, name)?));
        }
        if self.fault.is_some() {
            let (old, new) = (self.handed_out(root)?, self.solved(root)?);
            let diff = similar::TextDiff::from_lines(&old, &new);
            let file = self.file();
            let unified = diff.unified_diff().context_radius(2).header(&file, &file).to_string();
            shown.push_str(&unified);
        }
        Ok(shown)
    }

    /// All files of the exercise, by their place in its folder; the learner's own among them.
    pub fn files(&self, root: &Path) -> Result<BTreeMap<String, String>> {
        let mut files = BTreeMap::new();
        if !self.is_program() {
            let home = root.join(self.home());
            let mut folders = vec![home.join("src")];
            while let Some(folder) = folders.pop() {
                for path in entries(&folder)? {
                    match path.is_dir() {
                        true if path.ends_with("bin") => {}
                        true => folders.push(path),
                        false => {
                            drop(files.insert(relative(&home, &path), hole::without_marks(&read(&path)?)))
                        }
                    }
                }
            }
            // A crate's documentation may be its README.
            if let Ok(text) = fs::read_to_string(home.join("README.md")) {
                files.insert("README.md".to_owned(), text);
            }
            for test in self.test_files() {
                let path = home.join("tests").join(&test).with_extension("rs");
                files.insert(relative(&home, &path), read(&path)?);
            }
        }
        files.insert(self.file(), self.handed_out(root)?);
        Ok(files)
    }

    /// The names of the test files that are asked.
    pub fn test_files(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .asks
            .iter()
            .filter_map(|ask| match &ask.question {
                Question::Test(file, _) if file != "lib" => Some(file.clone()),
                _ => None,
            })
            .collect();
        names.dedup();
        names
    }

    /// The solutions that nearly work.
    pub fn wrongs(&self, root: &Path) -> Result<Vec<Wrong>> {
        let mut wrongs = Vec::new();
        for path in entries(&root.join(DESCRIPTIONS))? {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let beginning = format!("{}.", self.name);
            let Some(name) = file.strip_suffix(".wrong.diff").and_then(|file| file.strip_prefix(&beginning))
            else {
                continue;
            };
            let patch = Patch::parse(&read(&path)?).map_err(|why| format!("{file}: {why}"))?;
            let Some((deed, caught_by)) = patch.preface.split_once("\nCaught by: ") else {
                return Err(format!("{file} has no line `Caught by: ...` above the diff"));
            };
            if patch.path != self.source {
                return Err(format!(
                    "{file} changes {}, and the exercise is about {}",
                    patch.path, self.source
                ));
            }
            wrongs.push(Wrong {
                name: name.to_owned(),
                deed: deed.trim().to_owned(),
                caught_by: Question::parse(caught_by.trim())?,
                patch,
                file,
            });
        }
        Ok(wrongs)
    }
}

fn relative(home: &Path, path: &Path) -> String {
    path.strip_prefix(home).unwrap_or(path).display().to_string()
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| format!("could not read {}: {error}", path.display()))
}

/// What lies in a folder, by name.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read =
        fs::read_dir(folder).map_err(|error| format!("could not read {}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = read.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn every_exercise_is_made_from_its_source_and_solved_by_it() {
        let all = all(&root()).unwrap_or_else(|why| panic!("{why}"));
        assert!(all.len() >= 4, "{} exercises were found", all.len());
        for one in all {
            let (handed_out, solved) = (one.handed_out(&root()), one.solved(&root()));
            let handed_out = handed_out.unwrap_or_else(|why| panic!("{}: {why}", one.name));
            let solved = solved.unwrap_or_else(|why| panic!("{}: {why}", one.name));
            assert_ne!(handed_out, solved, "{}: nothing is left to be done", one.name);
            let empty: Vec<Option<String>> =
                hole::empty(&handed_out).into_iter().map(|(_, name)| name).collect();
            let holes: Vec<Option<String>> = one.holes.iter().map(|hole| Some(hole.name.clone())).collect();
            assert_eq!(empty, holes, "{}: each hole is empty, and nothing else is", one.name);
            assert_eq!(hole::empty(&solved), [], "{}", one.name);
            assert_eq!(one.solve(&root(), &handed_out).as_ref(), Ok(&solved), "{}", one.name);
            assert!(
                root().join("docs").join(&one.page).is_file(),
                "{}: there is no page {}",
                one.name,
                one.page
            );
            for wrong in one.wrongs(&root()).unwrap_or_else(|why| panic!("{why}")) {
                let text = one.wrong(&root(), &wrong).unwrap_or_else(|why| panic!("{}: {why}", one.name));
                assert_ne!(text, solved, "{}: {} is right", one.name, wrong.name);
                let asked = one.asks.iter().any(|ask| ask.question == wrong.caught_by);
                assert!(asked, "{}: nobody asks what finds {}", one.name, wrong.name);
            }
        }
    }

    #[test]
    fn every_exercise_is_named_on_its_page() {
        for one in all(&root()).unwrap_or_else(|why| panic!("{why}")) {
            let page = read(&root().join("docs").join(&one.page)).expect("the page");
            let line = format!("cargo ladder exercise start {}", one.name);
            assert!(
                page.contains("## Your turn") && page.contains(&line),
                "{} has no section `Your turn` with `{line}`",
                one.page
            );
        }
    }

    #[test]
    fn a_description_that_says_too_little_is_refused() {
        let good = "title='t'\npage='p.md'\nminutes=1\nquestion='q'\nsource='crates/x/src/bin/y.rs'\n\
                    fault='f'\ntask='t'\nhints=['1','2','3']\n[[ask]]\nask='compare'\nmeans='m'\n";
        let one = describe("x", good).expect("whole");
        assert_eq!((one.program(), one.home(), one.file()), ("y", "crates/x", "src/y.rs".to_owned()));
        for (old, new, why) in [
            ("fault='f'\n", "", "neither"),
            ("ask='compare'", "ask='the stars'", "none of"),
            ("title", "tutle", "tutle"),
            ("['1','2','3']", "['1']", "length"),
        ] {
            let said = describe("x", &good.replace(old, new)).expect_err(old);
            assert!(said.contains(why), "{said}");
        }
    }
}
