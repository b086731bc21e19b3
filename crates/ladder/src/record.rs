//! Making a recording: of a program of ours or anybody's, poked by a fixed script, or of a file that strace has
//! written somewhere else.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::strace::{self, Recording};
use harness::{PATIENCE, Process};

use crate::checkout::{Checkout, Profile};
use crate::client::Client;
use crate::failure::{Context, Result, failed, note, usage};
use crate::names::Names;
use crate::server::{self, Launch, Target, require_strace};
use crate::story::{Extent, Note, Scope, Sent, Story};

/// What is recorded, and how it is poked: options that `trace` and `timeline` share.
#[derive(clap::Args, Debug, Clone, Default)]
#[group(skip)]
pub struct Options {
    /// Show how descriptors, handlers and threads are made before the program is ready
    #[arg(long)]
    pub start_up: bool,
    /// Show what the program does on SIGTERM as well
    #[arg(long)]
    pub shutdown: bool,
    /// How many datagrams to send one at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub one_at_a_time: usize,
    /// How many datagrams to send, after these, in one burst while the program is stopped; 0 for none
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub burst: usize,
    /// Poke it with one TCP connection in place of datagrams: connect, read until the server ends its side or comes to
    /// rest, and close
    #[arg(long, conflicts_with_all = ["one_at_a_time", "burst"])]
    pub connect: bool,
    /// The program ends by itself: do not poke it, show it from its start (or its `ready` mark) to its end
    #[arg(long, conflicts_with_all = ["one_at_a_time", "burst", "connect", "shutdown"])]
    pub alone: bool,
    /// Start nothing: read what `strace -f -o FILE -p PID` (or: COMMAND) has written
    #[arg(long, value_name = "FILE", conflicts_with_all = ["one_at_a_time", "burst", "connect", "shutdown", "alone"])]
    pub from: Option<PathBuf>,
    /// A program of the project, and its arguments
    #[arg(allow_hyphen_values = true, value_name = "PROGRAM")]
    pub program: Vec<String>,
    /// Anybody's server, after `--`: its command, where {addr}, {host} and {port} are filled in
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// A program to start in place of the one that is named: a broken copy.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The program that it is a copy of.
    pub program: String,
    /// Its file.
    pub binary: PathBuf,
}

/// How long an echo of a program that need not answer is waited for, once the program is back in its wait.
const LATE: Duration = Duration::from_millis(300);
/// The same for a broken copy: it has lost an echo when it does not come so soon.
const SOON: Duration = Duration::from_secs(1);

/// A program to record.
struct Subject {
    target: Target,
    /// Whether it has to answer.
    echoes: bool,
    /// The file to start in place of the target's own.
    binary: Option<PathBuf>,
    args: Vec<String>,
}

impl Options {
    /// What is recorded, as a heading.
    pub fn title(&self) -> String {
        match &self.from {
            Some(file) => file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned(),
            None => self.program.iter().chain(&self.command).cloned().collect::<Vec<_>>().join(" "),
        }
    }

    /// Fails unless one thing is named, in whichever way.
    fn name_one(&self, copy: Option<&Copy>) -> Result<()> {
        let named = [self.from.is_some(), !self.program.is_empty(), !self.command.is_empty(), copy.is_some()];
        match named.iter().filter(|named| **named).count() {
            1 => Ok(()),
            0 => usage(
                "nothing is named to record: name a program, give anybody's command after `--`, or a recording with \
                 --from; `cargo ladder list` shows the programs",
            ),
            _ => usage(
                "more than one thing is named to record: choose a program, a command after `--`, a recording or a \
                 broken copy",
            ),
        }
    }

    fn subject(&self, checkout: &Checkout, copy: Option<&Copy>) -> Result<Subject> {
        let foreign = || match self.alone {
            true => Ok(Target::Foreign { name: self.command[0].clone(), command: self.command.clone() }),
            false => Target::foreign(&self.command[0], self.command.clone()),
        };
        let (name, args, binary) = match (copy, &self.program[..]) {
            (Some(copy), _) => (&copy.program, Vec::new(), Some(copy.binary.clone())),
            (None, [name, args @ ..]) => (name, args.to_vec(), None),
            (None, []) => {
                return Ok(Subject { target: foreign()?, echoes: false, binary: None, args: Vec::new() });
            }
        };
        let program = checkout.program(name)?.clone();
        let echoes = program.is_echo() && copy.is_none();
        Ok(Subject { target: Target::Own(program), echoes, binary, args })
    }
}

/// Records what the options name, and tells it. `raw` keeps strace's own lines; `times` lets strace write the time.
pub fn record(
    checkout: &Checkout,
    profile: Profile,
    options: &Options,
    copy: Option<&Copy>,
    raw: bool,
    times: bool,
) -> Result<Story> {
    let extent = Extent { start_up: options.start_up, shutdown: options.shutdown, raw };
    options.name_one(copy)?;
    if let Some(file) = &options.from {
        return of_file(file, extent);
    }
    let Subject { target, echoes, binary, args } = options.subject(checkout, copy)?;
    require_strace()?;
    if let (Target::Own(program), None) = (&target, &binary) {
        checkout.build([program.name.as_str()], profile)?;
    }
    let patience = match (echoes, copy) {
        (true, _) => PATIENCE,
        (false, Some(_)) => SOON,
        (false, None) => LATE,
    };
    let launch = Launch {
        traced: true,
        times: raw || times,
        durations: times,
        args,
        alone: options.alone,
        takes_connections: options.connect,
        binary,
        ..Launch::default()
    };
    let mut server = server::start(checkout, profile, &target, &launch)?;
    if options.alone {
        let ended = server.finish()?;
        if !ended.status.success() {
            return failed(format!("{} ended with {}: {}", target.name(), ended.status, ended.stderr.trim()));
        }
        let events = ended.events.unwrap_or_default();
        let scope = if matches!(target, Target::Own(_)) { Scope::Alone } else { Scope::Recorded };
        return Ok(Story::tell(&events, &[], Names::of(&events), &[], extent, scope));
    }
    let mut notes = Vec::new();
    let ports = match options.connect {
        true => vec![visit(&mut server, &mut notes)?],
        false => {
            let script = Script { options, name: target.name(), echoes, patience };
            let clients = script.poke(&mut server, &mut notes)?;
            clients.iter().map(|client| Ok(client.port()?)).collect::<Result<_>>()?
        }
    };
    let (mut events, mut open) = (server.events().to_vec(), server.open_calls());
    let addresses = server.addresses.clone();
    if options.shutdown {
        notes.push(Note { at: events.len(), text: "SIGTERM".into(), sent: Vec::new() });
        events = server.terminate()?.events.unwrap_or_default();
        open.clear();
    } else {
        server.dismiss();
    }
    let mut names = Names::of(&events);
    names.server(&addresses);
    for (index, port) in ports.into_iter().enumerate() {
        names.port(port, format!("client-{}", index + 1));
    }
    let scope = if options.connect { Scope::Visited } else { Scope::Served };
    Ok(Story::tell(&events, &open, names, &notes, extent, scope))
}

/// Tells a recording that strace has made somewhere else.
fn of_file(file: &Path, extent: Extent) -> Result<Story> {
    let bytes = fs::read(file).context(|| format!("read {}", file.display()))?;
    let Recording { events, open, senseless } = strace::read(&bytes);
    if events.is_empty() && open.is_empty() {
        return failed(format!(
            "{} holds no line as strace writes them: record with `strace -f -o FILE -p PID` or `strace -f -o FILE \
             COMMAND`",
            file.display()
        ));
    }
    if senseless > 0 {
        note(&format!("ladder: {senseless} lines of {} make no sense, and are left out", file.display()));
    }
    let names = Names::of_recording(&events);
    Ok(Story::tell(&events, &open, names, &[], Extent { shutdown: true, ..extent }, Scope::Recorded))
}

/// What a server does with an empty datagram, and whether its echo came.
pub fn empty_datagram(
    checkout: &Checkout,
    profile: Profile,
    target: &Target,
    launch: &Launch,
    patience: Duration,
) -> Result<(String, bool)> {
    let mut server = server::start(checkout, profile, target, launch)?;
    server.await_quiet()?;
    let client = Client::new(server.address()?)?;
    let at = server.events().len();
    client.send(b"")?;
    let echoes = client.await_echoes(&mut server, &[Vec::new()], patience)?;
    server.await_quiet()?;
    let mut names = Names::of(server.events());
    names.server(&server.addresses);
    names.port(client.port()?, "client-1");
    let mut notes = vec![Note { at, text: "client-1 sends \"\"".into(), sent: Vec::new() }];
    let came = echoes.good == 1;
    let text = if came { "the echo came" } else { "no echo came" };
    notes.push(Note { at: server.events().len(), text: text.into(), sent: Vec::new() });
    let story = Story::tell(server.events(), &[], names, &notes, Extent::default(), Scope::Served);
    server.dismiss();
    Ok((story.transcript(), came))
}

/// One TCP connection, and the port that it came from. The client closes only when the server has nothing more to do, so
/// what its end causes stands behind all else.
fn visit(server: &mut Process, notes: &mut Vec<Note>) -> Result<u16> {
    server.await_quiet()?;
    let address = server.address()?;
    let mut note = |server: &Process, text: &str| {
        notes.push(Note { at: server.events().len(), text: text.into(), sent: Vec::new() });
    };
    note(server, "client-1 connects, and reads to the end");
    let failing = || format!("connect to {} by TCP at {address}", server.name);
    let mut connection = TcpStream::connect(address).context(failing)?;
    let port = connection.local_addr().context(failing)?.port();
    connection.set_nonblocking(true).context(failing)?;
    let mut buffer = [0; 4096];
    let mut rested = false;
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => rested = false,
            // Nothing more comes of a server that sleeps, and has sent nothing before it fell asleep.
            Err(error) if error.kind() == ErrorKind::WouldBlock && rested => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                server.await_quiet()?;
                rested = true;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A server may end a connection by a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return failed(format!("could not read what {} sends: {error}", server.name)),
        }
    }
    server.await_quiet()?;
    note(server, "client-1 closes");
    drop(connection);
    server.await_quiet()?;
    Ok(port)
}

/// The fixed script.
struct Script<'a> {
    options: &'a Options,
    /// Name of the program.
    name: &'a str,
    /// Whether it has to answer.
    echoes: bool,
    /// How long an echo may be missing.
    patience: Duration,
}

impl Script<'_> {
    /// Single datagrams from the first client, then a burst by two clients in turn. Notes what it does.
    fn poke(&self, server: &mut Process, notes: &mut Vec<Note>) -> Result<Vec<Client>> {
        server.await_quiet()?;
        let Some(&address) = server.addresses.first() else { return Ok(Vec::new()) };
        let mut clients = vec![Client::new(address)?];
        for index in 0..self.options.one_at_a_time {
            let payload = if index == 0 { "hello".to_string() } else { format!("hello {}", index + 1) };
            notes.push(Note {
                at: server.events().len(),
                text: format!("client-1 sends {payload:?}"),
                sent: vec![Sent { client: 1, socket: 0, datagrams: 1 }],
            });
            clients[0].send(payload.as_bytes())?;
            self.answered(server, &clients[0], &[payload.into_bytes()])?;
        }
        let burst = self.options.burst;
        if burst == 0 {
            return Ok(clients);
        }
        // Two peers over one socket; or the second address of a program that has several.
        let second = usize::from(server.addresses.len() > 1);
        clients.push(Client::new(server.addresses[second])?);
        server.freeze()?;
        let mut sent: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
        for index in 0..burst {
            let payload = (index + 1).to_string().into_bytes();
            clients[index % 2].send(&payload)?;
            sent[index % 2].push(payload);
        }
        let plural = if burst == 1 { "" } else { "s" };
        notes.push(Note {
            at: server.events().len(),
            text: format!("stopped; {burst} datagram{plural} from client-1 and client-2 in turn; continued"),
            sent: vec![
                Sent { client: 1, socket: 0, datagrams: sent[0].len() },
                Sent { client: 2, socket: second, datagrams: sent[1].len() },
            ],
        });
        server.thaw()?;
        for (client, sent) in clients.iter().zip(&sent) {
            self.answered(server, client, sent)?;
        }
        Ok(clients)
    }

    fn answered(&self, server: &mut Process, client: &Client, sent: &[Vec<u8>]) -> Result<()> {
        let echoes = client.await_echoes(server, sent, self.patience)?;
        if self.echoes && echoes.good < sent.len() {
            return failed(format!(
                "{} echoed {} of {} datagrams within {:?}: `cargo ladder check {0}` shows what it breaks",
                self.name,
                echoes.good,
                sent.len(),
                self.patience
            ));
        }
        Ok(server.await_quiet()?)
    }
}
