//! Starting a server, ours or a foreign one, with or without strace around it.

use std::path::PathBuf;
use std::time::Duration;

use harness::{PATIENCE, Process, free_address, takes_address};

use crate::checkout::{Checkout, Profile, Program};
use crate::failure::{Result, failed, note, usage};

/// A server to start.
#[derive(Clone, Debug)]
pub enum Target {
    /// One of the project's programs.
    Own(Program),
    /// Anybody's: the words of its command, with `{addr}`, `{host}` and `{port}` to be filled in, and `{bin}` for
    /// the folder of the project's own binaries, so that one of them can take part with other flags.
    Foreign { name: String, command: Vec<String> },
}

impl Target {
    /// Name for the tables.
    pub fn name(&self) -> &str {
        match self {
            Target::Own(program) => &program.name,
            Target::Foreign { name, .. } => name,
        }
    }

    /// Reads `NAME=COMMAND {addr}`, the command split into words as a shell would.
    pub fn parse_with(text: &str) -> Result<Self> {
        let example = "for example --with py='python3 echo.py {addr}'";
        let Some((name, command)) = text.split_once('=') else {
            return usage(format!("--with {text:?} has no name: write NAME='COMMAND {{addr}}', {example}"));
        };
        let Some(command) = shlex::split(command) else {
            return usage(format!("--with {name}: a quotation mark is not closed in {command:?}"));
        };
        Self::foreign(name, command)
    }

    /// A foreign command as a list of words.
    pub fn foreign(name: &str, command: Vec<String>) -> Result<Self> {
        if name.is_empty() || command.is_empty() {
            return usage(format!(
                "{name:?} has no command: give its words, with {{addr}} where the address goes"
            ));
        }
        if !takes_address(&command) {
            return usage(format!(
                "the command of {name} names no address: write {{addr}} (or {{host}} and {{port}}) where its \
                 address goes"
            ));
        }
        Ok(Target::Foreign { name: name.to_string(), command })
    }
}

/// The echo servers named (when none is, all that this machine has what they need for) and after them the foreign ones.
pub fn targets(checkout: &Checkout, names: &[String], with: &[String]) -> Result<Vec<Target>> {
    let foreign: Vec<Target> = with.iter().map(|text| Target::parse_with(text)).collect::<Result<_>>()?;
    let mut own = checkout.echo_programs(names)?;
    if names.is_empty() {
        for ring in echo_contract::RUNGS.iter().filter(|rung| rung.transfer.takes_a_ring()) {
            let Some(index) = own.iter().position(|program| program.name == ring.name) else { continue };
            checkout.build([ring.name], checkout.profile)?;
            let server = Target::Own(own[index].clone());
            match start(checkout, checkout.profile, &server, &Launch::default()) {
                Ok(server) => server.dismiss(),
                Err(why) if why.to_string().contains("io_uring") => {
                    note(&format!("ladder: skipped, {why}"));
                    own.remove(index);
                }
                Err(why) => return Err(why),
            }
        }
    }
    if let Some(other) = own.iter().find(|program| !program.is_echo()) {
        return usage(format!(
            "{} is no echo server, so its calls per datagram have no meaning; `cargo ladder trace {0}` shows what it \
             does",
            other.name
        ));
    }
    Ok(own.into_iter().map(Target::Own).chain(foreign).collect())
}

/// Builds what is missing of the targets that are ours, `{bin}/NAME` in a command among them.
pub fn build(checkout: &Checkout, targets: &[Target], profile: Profile) -> Result<()> {
    let own = targets.iter().filter_map(|target| match target {
        Target::Own(program) => Some(program.name.as_str()),
        Target::Foreign { command, .. } => command[0].strip_prefix("{bin}/"),
    });
    checkout.build(own, profile)
}

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Put strace around it.
    pub traced: bool,
    /// Let strace write the time of day.
    pub times: bool,
    /// Let strace write how long each call took.
    pub durations: bool,
    /// Start this file in place of the program's binary.
    pub binary: Option<PathBuf>,
    /// The longest that any wait for it takes, where it is not the usual one.
    pub patience: Option<Duration>,
    /// Pin it to this core.
    pub core: Option<usize>,
    /// Arguments for the program, before those that the tool adds.
    pub args: Vec<String>,
    /// The program ends by itself: nothing is added to its arguments but `--marks`, no greeting is awaited.
    pub alone: bool,
    /// It is poked by TCP. It listens on a port of the kernel's choice, and finds files from the top of the checkout.
    pub takes_connections: bool,
}

/// Starts the target and waits until it serves: ours say so in their first line, a foreign one has bound its port.
pub fn start(checkout: &Checkout, profile: Profile, target: &Target, launch: &Launch) -> Result<Process> {
    let mut address = None;
    let mut command = match target {
        Target::Own(program) => {
            let built = checkout.binary(&program.name, profile);
            let binary = launch.binary.as_ref().unwrap_or(&built);
            let mut command = harness::Launch::new(binary.display()).args(&launch.args);
            if launch.traced && (program.is_echo() || !launch.args.iter().any(|arg| arg == "--marks")) {
                command = command.args(["--marks"]);
            }
            if program.is_echo() && !launch.alone || launch.takes_connections {
                command = command.args(["127.0.0.1:0"]);
            }
            if launch.takes_connections {
                command = command.in_folder(&checkout.root);
            }
            command
        }
        Target::Foreign { command, .. } => {
            let binaries = checkout.binaries(profile).display().to_string();
            let words: Vec<String> = command.iter().map(|word| word.replace("{bin}", &binaries)).collect();
            let free = *address.insert(free_address());
            harness::Launch::new(&words[0]).args(&words[1..]).fill_in(free)
        }
    };
    command = command.named(target.name());
    if launch.traced {
        let times = if launch.times { "-tt" } else { "" };
        let durations = if launch.durations { "-T" } else { "" };
        let wanted = ["-s", "80", times, durations].into_iter().filter(|option| !option.is_empty());
        command = command.traced(wanted);
    }
    if let Some(patience) = launch.patience {
        command = command.patience(patience);
    }
    if let Some(core) = launch.core {
        command = command.on_core(core);
    }
    if launch.alone {
        // It does whatever it does first.
        return Ok(command.patience(PATIENCE * 2).start()?);
    }
    let mut server = command.start()?;
    match address {
        Some(address) => server.await_port(address)?,
        None => drop(server.await_greeting()?),
    }
    Ok(server)
}

/// Fails, before anything is built, where strace cannot trace.
pub fn require_strace() -> Result<()> {
    match harness::require_strace() {
        Ok(()) => Ok(()),
        Err(why) => failed(format!(
            "{why}; this subcommand reads system calls with it, list, check, bench and diff do not"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn a_foreign_command_is_split_into_words() {
        let target = Target::parse_with("py=python3 'my echo.py' {host} {port}").expect("a whole command");
        assert_eq!(target.name(), "py");
        let Target::Foreign { command, .. } = target else { panic!("not foreign") };
        assert_eq!(command, ["python3", "my echo.py", "{host}", "{port}"]);
    }

    #[test]
    fn a_foreign_command_without_name_or_address_is_wrong_usage() {
        for text in ["python3 echo.py {addr}", "x=", "x=echo", "x='open {addr}"] {
            assert!(matches!(Target::parse_with(text), Err(Failure::Usage(_))), "{text}");
        }
    }
}
