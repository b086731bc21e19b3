//! How a program is started.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::address::fill_in;
use crate::capture::Capture;
use crate::cores::on_core;
use crate::deadline::PATIENCE;
use crate::ending::Group;
use crate::error::{Context, Error, Result, failed};
use crate::process::{Ended, Process};
use crate::recorder::Recorder;

/// Where an output of the program leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Kept.
    Captured,
    /// Where ours leads.
    Inherited,
    /// Nowhere: the descriptor is not open.
    Closed,
    /// To a device that is full.
    Full,
    /// To a pipe whose reader has gone.
    Unread,
    /// To a reader that goes away after the first line.
    FirstLine,
    /// For stderr: into stdout, so that their order shows.
    Merged,
}

impl Output {
    /// What to give the program for it.
    fn stdio(self) -> Result<Stdio> {
        Ok(match self {
            Output::Captured | Output::FirstLine => Stdio::piped(),
            Output::Inherited => Stdio::inherit(),
            // The shell that starts the program sees to these.
            Output::Closed | Output::Merged => Stdio::null(),
            Output::Full => match File::options().write(true).open("/dev/full") {
                Ok(full) => Stdio::from(full),
                Err(error) => return Err(Error::Unavailable(format!("/dev/full does not open: {error}"))),
            },
            Output::Unread => {
                let (_reader, writer) = std::io::pipe().context(|| "make a pipe".into())?;
                Stdio::from(writer)
            }
        })
    }
}

/// A program about to be started. Its stdin is empty.
#[derive(Clone, Debug)]
pub struct Launch {
    name: String,
    words: Vec<String>,
    prefix: Vec<String>,
    env: Vec<(String, String)>,
    folder: Option<PathBuf>,
    trace: Option<Vec<String>>,
    stdout: Output,
    stderr: Output,
    core: Option<usize>,
    patience: Duration,
}

impl Launch {
    /// The program: a path, or a name that is looked for in PATH.
    pub fn new(program: impl ToString) -> Self {
        let program = program.to_string();
        Self {
            name: Path::new(&program).file_name().map_or(program.clone(), |name| name.display().to_string()),
            words: vec![program],
            prefix: Vec::new(),
            env: Vec::new(),
            folder: None,
            trace: None,
            stdout: Output::Captured,
            stderr: Output::Captured,
            core: None,
            patience: PATIENCE,
        }
    }

    /// What errors call it, in place of its file's name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// More arguments.
    pub fn args<S: ToString>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(args.into_iter().map(|arg| arg.to_string()));
        self
    }

    /// With `{addr}`, `{host}` and `{port}` in its words filled in.
    pub fn fill_in(mut self, address: SocketAddr) -> Self {
        self.words = fill_in(&self.words, address);
        self
    }

    /// A command that runs the program's command behind it, in the same process.
    pub fn prefix<S: ToString>(mut self, prefix: impl IntoIterator<Item = S>) -> Self {
        self.prefix = prefix.into_iter().map(|word| word.to_string()).collect();
        self
    }

    /// By a shell that does this first, such as `ulimit -n 16`.
    pub fn in_shell(self, first: &str) -> Self {
        self.prefix(["sh", "-c", &format!("{first}; exec \"$@\""), "sh"])
    }

    /// With the environment variable `name` set to `value`.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In that folder.
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Under strace with these options.
    pub fn traced<S: ToString>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.trace = Some(options.into_iter().map(|option| option.to_string()).collect());
        self
    }

    /// Where stdout leads.
    pub fn stdout(mut self, stdout: Output) -> Self {
        self.stdout = stdout;
        self
    }

    /// Where stderr leads.
    pub fn stderr(mut self, stderr: Output) -> Self {
        self.stderr = stderr;
        self
    }

    /// On this core alone.
    pub fn on_core(mut self, core: usize) -> Self {
        self.core = Some(core);
        self
    }

    /// The longest that any wait for it takes; [`PATIENCE`] if nothing else is said.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// It cannot be started; or [`Error::Unavailable`], when it is to be traced and strace cannot, or when a
    /// device is missing that its output leads to.
    pub fn start(self) -> Result<Process> {
        let recorder = self.trace.is_some().then(Recorder::new).transpose()?;
        let words = self.command(recorder.as_ref());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(self.stdout.stdio()?).stderr(self.stderr.stdio()?);
        // A group of its own, so that whatever it starts ends with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let spawned = match self.core {
            // The child inherits the affinity of the thread that starts it.
            Some(core) => on_core(core, || command.spawn())?,
            None => command.spawn(),
        };
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                return failed(format!("cannot start {} (`{}`): {error}", self.name, words.join(" ")));
            }
        };
        let group = Group::of(child.id());
        let first_line = |output| output == Output::FirstLine;
        let stdout = child.stdout.take().map(|pipe| Capture::of(pipe, first_line(self.stdout)));
        let stderr = child.stderr.take().map(|pipe| Capture::of(pipe, first_line(self.stderr)));
        Ok(Process {
            child,
            group,
            name: self.name,
            command: words.join(" "),
            addresses: Vec::new(),
            stdout: stdout.unwrap_or_else(Capture::none),
            stderr: stderr.unwrap_or_else(Capture::none),
            taken: 0,
            recorder,
            exit: None,
            patience: self.patience,
        })
    }

    /// Starts it and waits until it ends: for what is to fail, or to end by itself.
    pub fn run(self) -> Result<Ended> {
        self.start()?.finish()
    }

    /// All words of the command.
    fn command(&self, recorder: Option<&Recorder>) -> Vec<String> {
        let mut redirections = String::new();
        if self.stdout == Output::Closed {
            redirections.push_str(" >&-");
        }
        match self.stderr {
            Output::Closed => redirections.push_str(" 2>&-"),
            Output::Merged => redirections.push_str(" 2>&1"),
            _ => {}
        }
        let mut words = Vec::new();
        if !redirections.is_empty() {
            // Only a shell can start a program with a closed descriptor and no unsafe code.
            words.extend(["sh", "-c"].map(str::to_owned));
            words.extend([format!("exec \"$@\"{redirections}"), "sh".to_owned()]);
        }
        words.extend(self.prefix.iter().cloned());
        if let (Some(recorder), Some(options)) = (recorder, &self.trace) {
            words.extend(recorder.command(options));
        }
        words.extend(self.words.iter().cloned());
        words
    }
}
