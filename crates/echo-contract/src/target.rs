use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::rungs::{self, Rung};

/// What is held against the contract.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target(pub(crate) Origin);

/// Whose server it is: how it is started, and how much may be asked of it, follows from that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// A server of the ladder: the whole contract is asked.
    Rung { program: PathBuf, name: String, flags: Vec<String>, env: Vec<(String, String)> },
    /// Anybody's server: only what shows on the wire is asked.
    Foreign { command: Vec<String> },
}

impl Target {
    /// A server of the ladder, by the path of its binary, whose file name is that of an entry of
    /// [`RUNGS`](crate::RUNGS).
    ///
    /// # Errors
    ///
    /// A sentence, if it has no entry.
    pub fn rung(program: impl AsRef<Path>) -> Result<Self, String> {
        let program = program.as_ref();
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Self::rung_named(name, program)
    }

    /// The same for a file of any name, which holds a copy of the server `name`.
    ///
    /// # Errors
    ///
    /// A sentence, if it has no entry.
    pub fn rung_named(name: &str, program: impl AsRef<Path>) -> Result<Self, String> {
        let program = program.as_ref();
        if rungs::find(name).is_none() {
            return Err(format!(
                "{} is no echo server of the ladder: add it to the table of crates/echo-contract/src/rungs.rs, \
                 or hold it against the contract as a foreign command, `-- {} {{addr}}`",
                program.display(),
                program.display(),
            ));
        }
        let name = name.to_owned();
        Ok(Self(Origin::Rung { program: program.to_owned(), name, flags: Vec::new(), env: Vec::new() }))
    }

    /// Anybody's server: a program and its arguments, in which `{addr}`, `{host}` and `{port}` stand for
    /// where it is to listen.
    ///
    /// # Errors
    ///
    /// A sentence, if the command is empty or nothing in it says where to listen.
    pub fn foreign(command: Vec<String>) -> Result<Self, String> {
        if command.is_empty() {
            return Err(
                "the command is empty: write it behind `--`, for example -- ./server {addr}".to_owned()
            );
        }
        if !harness::takes_address(&command) {
            return Err(format!(
                "nothing in `{}` says where to listen: put {{addr}}, or {{host}} and {{port}}, where the server \
                 expects its address",
                command.join(" ")
            ));
        }
        Ok(Self(Origin::Foreign { command }))
    }

    /// The same, started with flags of its own in front of those that a check gives it. For a server of the
    /// ladder; the command of a foreign one holds its flags already.
    pub fn with_flags<S: ToString>(mut self, more: impl IntoIterator<Item = S>) -> Self {
        if let Origin::Rung { flags, .. } = &mut self.0 {
            flags.extend(more.into_iter().map(|flag| flag.to_string()));
        }
        self
    }

    /// The same, started with the environment variable `name` set to `value`.
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        if let Origin::Rung { env, .. } = &mut self.0 {
            env.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The table's entry, for a server of the ladder.
    pub fn entry(&self) -> Option<&'static Rung> {
        match &self.0 {
            Origin::Rung { name, .. } => rungs::find(name),
            Origin::Foreign { .. } => None,
        }
    }
}

impl Target {
    /// Whether an error of its wait reaches it: the rung's entry.
    pub(crate) fn waits_itself(&self) -> bool {
        self.entry().is_some_and(|rung| rung.waits_itself)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_must_say_where() {
        assert!(Target::foreign(vec![]).is_err());
        assert!(Target::foreign(vec!["cat".to_owned()]).is_err());
        assert!(Target::foreign(vec!["cat".to_owned(), "{port}".to_owned()]).is_ok());
    }

    #[test]
    fn an_unknown_server_has_no_entry() {
        assert!(Target::rung("/bin/echo-unheard-of").is_err());
        assert!(Target::rung("/nowhere/echo-poll").is_ok());
    }
}
