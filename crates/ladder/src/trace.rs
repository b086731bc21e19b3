//! `ladder trace`: a program under strace, poked by a fixed script, as a transcript that is the same every time.

use std::time::Duration;

use crate::checkout::{Checkout, Profile, Program};
use crate::client::Client;
use crate::failure::{Result, failed, print};
use crate::names::{Names, is_housekeeping, is_set_up};
use crate::server::{Launch, PATIENCE, Server, Target, require_strace};
use harness::strace::{Call, Event};

/// Options of `ladder trace`.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Options {
    /// Keep strace's own lines: ports, pids, descriptor numbers, times, and the calls of memory and scheduling
    #[arg(long)]
    pub raw: bool,
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
    /// The program ends by itself: do not poke it, show it from its start (or its `ready` mark) to its end
    #[arg(long, conflicts_with_all = ["one_at_a_time", "burst", "shutdown"])]
    pub alone: bool,
    /// Name of the program
    pub program: String,
    /// Arguments for the program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// Runs `ladder trace`.
pub fn run(checkout: &Checkout, options: &Options) -> Result<()> {
    print(&transcript(checkout, checkout.profile, options)?);
    Ok(())
}

/// A line of the transcript that is none of the program's: what the client did.
struct Note {
    /// Index of the event before which it stands.
    at: usize,
    text: String,
}

/// Starts the program, pokes it, and returns the transcript.
pub fn transcript(checkout: &Checkout, profile: Profile, options: &Options) -> Result<String> {
    let program = checkout.program(&options.program)?.clone();
    require_strace()?;
    checkout.build([program.name.as_str()], profile)?;
    let launch = Launch {
        traced: true,
        times: options.raw,
        args: options.args.clone(),
        alone: options.alone,
        ..Launch::default()
    };
    let mut server = Server::start(checkout, profile, &Target::Own(program.clone()), &launch)?;
    if options.alone {
        let status = server.await_end(PATIENCE * 4)?;
        if !status.success() {
            return failed(format!("{} ended with {status}: {}", program.name, server.said().trim()));
        }
        let names = Names::of(server.events());
        return Ok(write(server.events(), names, &[], options, true));
    }
    let mut notes = Vec::new();
    let clients = poke(&program, &mut server, options, &mut notes)?;
    let end = server.events().len();
    if options.shutdown {
        notes.push(Note { at: end, text: "SIGTERM".into() });
        server.finish()?;
    }
    let events = if options.shutdown { server.events() } else { &server.events()[..end] };
    let mut names = Names::of(events);
    names.server(&server.addresses);
    for (index, client) in clients.iter().enumerate() {
        let name = format!("client-{}", index + 1);
        names.port(client.port()?, name);
    }
    let text = write(events, names, &notes, options, false);
    if !options.shutdown {
        server.finish()?;
    }
    Ok(text)
}

/// What a server does with an empty datagram, and whether its echo came.
pub fn empty_datagram(
    checkout: &Checkout,
    profile: Profile,
    target: &Target,
    launch: &Launch,
    patience: Duration,
) -> Result<(String, bool)> {
    let mut server = Server::start(checkout, profile, target, launch)?;
    server.await_quiet()?;
    let client = Client::new(server.address()?)?;
    let at = server.events().len();
    client.send(b"")?;
    let echoes = client.await_echoes(&mut server, &[Vec::new()], patience)?;
    server.await_quiet()?;
    let mut names = Names::of(server.events());
    names.server(&server.addresses);
    names.port(client.port()?, "client-1");
    let mut notes = vec![Note { at, text: "client-1 sends \"\"".into() }];
    let came = echoes.good == 1;
    let text = if came { "the echo came" } else { "no echo came" };
    notes.push(Note { at: server.events().len(), text: text.into() });
    let text = write(server.events(), names, &notes, &Options::default(), false);
    server.finish()?;
    Ok((text, came))
}

/// The fixed script: single datagrams from the first client, then a burst by two clients in turn.
fn poke(
    program: &Program,
    server: &mut Server,
    options: &Options,
    notes: &mut Vec<Note>,
) -> Result<Vec<Client>> {
    server.await_quiet()?;
    let Some(&address) = server.addresses.first() else { return Ok(Vec::new()) };
    // A demo need not answer; an echo server must, and gets the time it needs.
    let patience = if program.is_echo() { PATIENCE } else { Duration::from_millis(300) };
    let mut clients = vec![Client::new(address)?];
    for index in 0..options.one_at_a_time {
        let payload = if index == 0 { "hello".to_string() } else { format!("hello {}", index + 1) };
        notes.push(Note { at: server.events().len(), text: format!("client-1 sends {payload:?}") });
        clients[0].send(payload.as_bytes())?;
        answered(program, server, &clients[0], &[payload.into_bytes()], patience)?;
    }
    if options.burst == 0 {
        return Ok(clients);
    }
    // Two peers over one socket; or the second address of a program that has several.
    clients.push(Client::new(*server.addresses.get(1).unwrap_or(&address))?);
    server.freeze()?;
    let mut sent: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
    for index in 0..options.burst {
        let payload = (index + 1).to_string().into_bytes();
        clients[index % 2].send(&payload)?;
        sent[index % 2].push(payload);
    }
    let at = server.events().len();
    let plural = if options.burst == 1 { "" } else { "s" };
    let text =
        format!("stopped; {} datagram{plural} from client-1 and client-2 in turn; continued", options.burst);
    notes.push(Note { at, text });
    server.thaw();
    for (client, sent) in clients.iter().zip(&sent) {
        answered(program, server, client, sent, patience)?;
    }
    Ok(clients)
}

fn answered(
    program: &Program,
    server: &mut Server,
    client: &Client,
    sent: &[Vec<u8>],
    patience: Duration,
) -> Result<()> {
    let echoes = client.await_echoes(server, sent, patience)?;
    if program.is_echo() && echoes.good < sent.len() {
        return failed(format!(
            "{} echoed {} of {} datagrams within {patience:?}: `cargo ladder check {0}` shows what it breaks",
            program.name,
            echoes.good,
            sent.len()
        ));
    }
    server.await_quiet()
}

/// Writes the transcript: marks as `* mark`, what the client did as `> deed`, calls indented.
fn write(events: &[Event], mut names: Names, notes: &[Note], options: &Options, alone: bool) -> String {
    let ready = events.iter().position(|event| is_mark(event, "ready"));
    let first = match ready {
        Some(ready) => ready,
        None => notes.first().map_or(0, |note| note.at),
    };
    let several_threads = !options.raw
        && events[first..].iter().any(|event| event.pid() != events[0].pid() && tells(event, alone));
    // What follows, the sockets' statistics and the summary, differs from run to run.
    let end = events.iter().position(|event| is_mark(event, "shutdown")).unwrap_or(events.len());
    let mut out = String::new();
    let mut notes = notes.iter().peekable();
    for (index, event) in events.iter().enumerate() {
        while let Some(note) = notes.next_if(|note| note.at <= index) {
            out.push_str(&format!("> {}\n", note.text));
        }
        let before_ready = index < first;
        let thread = names.thread(event.pid());
        let shown = match event {
            _ if before_ready && !options.start_up && !alone => None,
            _ if options.raw => Some(event.raw().to_string()),
            Event::Call(call) if before_ready => is_set_up(call).then(|| names.render(call)),
            Event::Call(_) if !tells(event, alone) => None,
            Event::Call(call) if index > end && !(call.sends() || call.receives() || call.waits()) => None,
            Event::Call(call) => Some(line(&mut names, call)),
            Event::Signal { name, .. } if !matches!(name.as_str(), "SIGSTOP" | "SIGCONT") => {
                Some(format!("--- {name} ---"))
            }
            Event::Signal { .. } | Event::Stopped { .. } => None,
            Event::Ended { how, .. } => options.shutdown.then(|| format!("+++ {how} +++")),
        };
        names.follow(event);
        let Some(shown) = shown else { continue };
        let indent = if options.raw || shown.starts_with("* ") { "" } else { "  " };
        match several_threads {
            true => out.push_str(&format!("{indent}{thread:<9} {shown}\n")),
            false => out.push_str(&format!("{indent}{shown}\n")),
        }
    }
    for note in notes {
        out.push_str(&format!("> {}\n", note.text));
    }
    out
}

/// Whether an event belongs to the story.
fn tells(event: &Event, alone: bool) -> bool {
    let Event::Call(call) = event else { return false };
    if call.mark().is_some() {
        return true;
    }
    if call.interrupted() || is_housekeeping(call.common_name()) {
        return false;
    }
    // The C library prepares its own signals when it starts a thread.
    if call.name == "rt_sigaction" {
        return is_set_up(call);
    }
    // A program that ends by itself is shown from its first line; what the loader and the C library do there is
    // no part of the story, nor is what it prints.
    !alone
        || is_set_up(call)
        || call.waits()
        || call.receives()
        || call.sends()
        || match call.common_name() {
            "read" | "write" | "readv" | "writev" => {
                call.args.first().is_some_and(|fd| !matches!(fd.as_str(), "0" | "1" | "2"))
                    && !call.args.get(1).is_some_and(|data| data.contains("ELF"))
            }
            "accept4" | "shutdown" | "clock_nanosleep" | "nanosleep" | "io_uring_enter" => true,
            _ => false,
        }
}

/// A mark, or a call with a word of explanation where it failed.
fn line(names: &mut Names, call: &Call) -> String {
    if let Some(mark) = call.mark() {
        return format!("* {mark}");
    }
    let rendered = names.render(call);
    let comment = match call {
        _ if !call.would_block() => return rendered,
        _ if call.receives() => "the socket is empty",
        _ if call.sends() => "the send buffer is full",
        _ => "it would block",
    };
    format!("{rendered}    <- {comment}")
}

fn is_mark(event: &Event, mark: &str) -> bool {
    matches!(event, Event::Call(call) if call.mark() == Some(mark))
}
