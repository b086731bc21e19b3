//! Names for what differs from run to run in a trace: descriptors, ports, threads, pointers.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use harness::strace::{Call, Event};

static SOCKADDR: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\{sa_family=AF_INET6?, sin6?_port=htons\((\d+)\)[^}]*\}"));
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:127\.0\.0\.1|\[::1\]):(\d+)"));
static POINTER: LazyLock<Regex> = LazyLock::new(|| pattern(r"0x[0-9a-f]{5,}"));
static POLL_FD: LazyLock<Regex> = LazyLock::new(|| pattern(r"fd=(-?\d+)"));
static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\d+"));
static EPOLL_DATA: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"data=(?:\{u32=\d+, u64=(\d+)\}|\{u32=\d+, u64=(0x[0-9a-f]+)\}|(0x[0-9a-f]+|\d+))")
});
static NAME_LENGTH: LazyLock<Regex> = LazyLock::new(|| pattern(r"msg_namelen=\d+(?: ?=> ?\d+)?, "));

/// A constant pattern; the tests compile each of them.
pub fn pattern(text: &str) -> Regex {
    match Regex::new(text) {
        Ok(regex) => regex,
        Err(error) => unreachable!("a constant pattern does not compile: {error}"),
    }
}

/// Calls of the memory allocator, the scheduler and the C library: no part of a story about waiting.
pub fn is_housekeeping(name: &str) -> bool {
    matches!(
        name,
        "brk"
            | "mmap"
            | "munmap"
            | "mremap"
            | "mprotect"
            | "madvise"
            | "futex"
            | "rt_sigprocmask"
            | "rt_sigreturn"
            | "sigaltstack"
            | "sched_getaffinity"
            | "sched_yield"
            | "gettid"
            | "getrandom"
            | "rseq"
            | "set_robust_list"
            | "set_tid_address"
            | "prlimit64"
            | "arch_prctl"
            | "prctl"
            | "exit"
            | "exit_group"
            | "clock_gettime"
    )
}

/// Calls of the start-up that make or set up a descriptor, a handler or a thread; the rest is the loader's.
pub fn is_set_up(call: &Call) -> bool {
    if call.errno.is_some() && call.mark().is_none() {
        return false;
    }
    match call.common_name() {
        "openat" => call.args.get(1).is_some_and(|path| path.contains("/dev/null")),
        "fcntl" => call.args.get(1).is_some_and(|command| command.starts_with("F_DUPFD")),
        "rt_sigaction" => {
            call.args.first().is_some_and(|signal| signal == "SIGINT" || signal == "SIGTERM")
                && call.args.get(1).is_some_and(|action| action != "NULL")
        }
        "ioctl" => call.args.get(1).is_some_and(|request| request == "FIONBIO"),
        "write" => call.mark().is_some(),
        name => matches!(
            name,
            "socket"
                | "socketpair"
                | "bind"
                | "connect"
                | "listen"
                | "pipe2"
                | "epoll_create1"
                | "epoll_ctl"
                | "eventfd2"
                | "timerfd_create"
                | "timerfd_settime"
                | "signalfd4"
                | "setsockopt"
                | "clone3"
                | "clone"
                | "io_uring_setup"
                | "io_uring_register"
        ),
    }
}

/// A call with names for all that varies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Name of the call.
    pub name: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What it returned: a number, a name for what it made, `-1 EAGAIN`, `?`.
    pub value: String,
    /// What is ready after a wait; empty otherwise.
    pub outcome: String,
}

impl fmt::Display for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}) = {}", self.name, self.args.join(", "), self.value)?;
        if self.outcome.is_empty() { Ok(()) } else { write!(f, " ({})", self.outcome) }
    }
}

/// What a descriptor stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Descriptor {
    kind: &'static str,
    /// Which of its kind, from 1.
    number: usize,
    /// Which of all that were made, from 0.
    serial: usize,
}

/// Follows a trace from its first line on and knows what every number in it means.
#[derive(Default)]
pub struct Names {
    descriptors: HashMap<i64, Descriptor>,
    /// How many of each kind were made so far.
    made: HashMap<&'static str, usize>,
    /// What each descriptor turned out to be, in the order of making: a pipe shows only later that it is the
    /// one for signals.
    kinds: Vec<&'static str>,
    /// `kinds` of an earlier reading of the whole trace.
    known: Vec<&'static str>,
    ports: HashMap<u16, String>,
    threads: Vec<u32>,
    /// The descriptor most recently made that a signal handler may write to.
    wakeable: Option<(i64, i64)>,
    signals_named: bool,
}

impl Names {
    /// Reads the whole trace once to learn how many there are of each kind.
    pub fn of(events: &[Event]) -> Self {
        let mut first = Names::default();
        for event in events {
            first.follow(event);
        }
        Names { known: first.kinds, ..Names::default() }
    }

    /// Likewise for a recording of which nobody knows how it began: descriptors and ports are named by what is done with
    /// them.
    pub fn of_recording(events: &[Event]) -> Self {
        let found = found_descriptors(events);
        let begin = |known| {
            let mut names = Names { known, ..Names::default() };
            found.iter().for_each(|&(number, kind)| names.make(number, kind));
            names
        };
        let mut first = begin(Vec::new());
        events.iter().for_each(|event| first.follow(event));
        let mut names = begin(first.kinds);
        names.strangers(events);
        names
    }

    /// Gives a port a name, such as `client-1`.
    pub fn port(&mut self, port: u16, name: impl Into<String>) {
        self.ports.insert(port, name.into());
    }

    /// Names the ports of the server's addresses.
    pub fn server(&mut self, addresses: &[SocketAddr]) {
        for (index, address) in addresses.iter().enumerate() {
            let name = if addresses.len() == 1 { "server".into() } else { format!("server-{}", index + 1) };
            self.port(address.port(), name);
        }
    }

    /// Names the ports of a recording of which nobody knows who is who: those that were bound, and the others, in
    /// order of appearance.
    fn strangers(&mut self, events: &[Event]) {
        let (mut servers, mut peers) = (0, 0);
        for event in events {
            let Event::Call(call) = event else { continue };
            for found in call.args.iter().flat_map(|arg| SOCKADDR.captures_iter(arg)) {
                let Some(port) = found[1].parse().ok().filter(|&port| port != 0) else { continue };
                if self.ports.contains_key(&port) {
                    continue;
                }
                let (name, count) = match call.common_name() {
                    "bind" => ("server", &mut servers),
                    _ => ("peer", &mut peers),
                };
                *count += 1;
                let name =
                    if name == "server" && *count == 1 { name.into() } else { format!("{name}-{count}") };
                self.port(port, name);
            }
        }
    }

    /// Forgets the threads that were seen so far. The first of a process has the lowest number.
    pub fn restart_threads(&mut self, events: &[Event]) {
        self.threads.clear();
        self.threads.extend(events.iter().map(Event::pid).min());
    }

    /// Name of a thread in order of appearance.
    pub fn thread(&mut self, pid: u32) -> String {
        let index = self.threads.iter().position(|&known| known == pid).unwrap_or_else(|| {
            self.threads.push(pid);
            self.threads.len() - 1
        });
        if index == 0 { "main".into() } else { format!("thread-{index}") }
    }

    /// Takes note of what the event makes, renames or closes. Call it after `render`, since the arguments of a
    /// `close` still have their names.
    pub fn follow(&mut self, event: &Event) {
        self.thread(event.pid());
        let Event::Call(call) = event else { return };
        if call.common_name() == "clone3"
            && let Some(pid) = call.value.and_then(|pid| u32::try_from(pid).ok())
        {
            self.thread(pid);
        }
        let made = call.value.filter(|&value| value >= 0);
        match (call.common_name(), made) {
            ("close", _) => {
                if let Some(number) = arg_number(call, 0) {
                    self.descriptors.remove(&number);
                }
            }
            ("rt_sigaction", Some(_)) => self.handler(call),
            (_, None) => {}
            ("socket", Some(number)) => {
                let kind = match call.args.get(1).map(String::as_str) {
                    Some(kind) if kind.starts_with("SOCK_DGRAM") => "socket",
                    Some(kind) if kind.starts_with("SOCK_STREAM") => "stream",
                    _ => "socket",
                };
                self.make(number, kind);
            }
            ("connect", Some(_)) => {
                // A datagram socket that has one peer only; a stream keeps its name.
                let number = arg_number(call, 0);
                if let Some(number) = number
                    .filter(|number| self.descriptors.get(number).is_some_and(|known| known.kind == "socket"))
                {
                    self.rename(number, "connected");
                }
            }
            ("listen", Some(_)) => {
                if let Some(number) = arg_number(call, 0) {
                    self.make(number, "listener");
                }
            }
            ("accept4", Some(number)) => self.make(number, "connection"),
            ("epoll_create1", Some(number)) => self.make(number, "epoll"),
            ("eventfd2", Some(number)) => self.make(number, "eventfd"),
            ("timerfd_create", Some(number)) => self.make(number, "timerfd"),
            ("signalfd4", Some(number)) => self.make(number, "signalfd"),
            ("io_uring_setup", Some(number)) => self.make(number, "ring"),
            ("pipe2", Some(_)) => {
                if let [read, write] = numbers(call.args.first())[..] {
                    self.pair(read, write, "pipe-reader", "pipe-writer");
                }
            }
            ("socketpair", Some(_)) => {
                if let [one, other] = numbers(call.args.get(3))[..] {
                    self.pair(one, other, "pair-1", "pair-2");
                }
            }
            ("openat", Some(number)) => {
                let null = call.args.get(1).is_some_and(|path| path == "\"/dev/null\"");
                self.make(number, if null { "marks" } else { "file" });
            }
            ("fcntl", Some(number)) if call.args.get(1).is_some_and(|what| what.starts_with("F_DUPFD")) => {
                self.duplicate(call, number);
            }
            ("dup" | "dup2" | "dup3", Some(number)) => self.duplicate(call, number),
            _ => {}
        }
    }

    fn make(&mut self, number: i64, kind: &'static str) {
        let serial = self.kinds.len();
        let kind = self.known.get(serial).copied().unwrap_or(kind);
        self.kinds.push(kind);
        let count = self.made.entry(kind).or_default();
        *count += 1;
        self.descriptors.insert(number, Descriptor { kind, number: *count, serial });
    }

    fn pair(&mut self, one: i64, other: i64, first: &'static str, second: &'static str) {
        self.make(one, first);
        self.make(other, second);
        self.wakeable = Some((one, other));
    }

    fn duplicate(&mut self, call: &Call, number: i64) {
        if let Some(known) = arg_number(call, 0).and_then(|old| self.descriptors.get(&old)).cloned() {
            self.descriptors.insert(number, known);
        }
    }

    /// The first handler for SIGINT or SIGTERM: the pipe or pair made just before is the one it writes to.
    fn handler(&mut self, call: &Call) {
        let ours = call.args.first().is_some_and(|signal| signal == "SIGINT" || signal == "SIGTERM");
        let handles = call.args.get(1).is_some_and(|action| action.contains("sa_handler=0x"));
        if !ours || !handles || self.signals_named {
            return;
        }
        if let Some((reader, writer)) = self.wakeable.take() {
            self.signals_named = true;
            self.rename(reader, "signals");
            self.rename(writer, "signals-writer");
        }
    }

    fn rename(&mut self, number: i64, kind: &'static str) {
        let Some(old) = self.descriptors.get(&number).cloned().filter(|old| old.kind != kind) else { return };
        self.kinds[old.serial] = kind;
        let count = self.made.entry(kind).or_default();
        *count += 1;
        let new = Descriptor { kind, number: *count, serial: old.serial };
        for known in self.descriptors.values_mut().filter(|known| **known == old) {
            *known = new.clone();
        }
    }

    fn descriptor(&self, number: i64) -> String {
        match self.descriptors.get(&number) {
            // A kind that is there once needs no number.
            Some(known) if self.known.iter().filter(|kind| **kind == known.kind).count() > 1 => {
                format!("{}-{}", known.kind, known.number)
            }
            Some(known) => known.kind.to_string(),
            None => match number {
                0 => "stdin".into(),
                1 => "stdout".into(),
                2 => "stderr".into(),
                other => other.to_string(),
            },
        }
    }

    /// The call without anything that differs from run to run or from machine to machine.
    pub fn render(&self, call: &Call) -> Rendered {
        Rendered {
            name: call.common_name().to_string(),
            args: self.arguments(call),
            value: self.value(call),
            outcome: self.outcome(call),
        }
    }

    /// The arguments, with names for descriptors, peers and pointers.
    fn arguments(&self, call: &Call) -> Vec<String> {
        let name = call.common_name();
        let mut args = self.telling_arguments(call);
        for position in descriptor_arguments(name) {
            if let Some(arg) = args.get_mut(*position)
                && let Ok(number) = arg.parse()
            {
                *arg = self.descriptor(number);
            }
        }
        if name == "pipe2" || name == "socketpair" {
            args.clear();
        }
        let prints = name == "write" && args.first().is_some_and(|fd| fd == "stdout" || fd == "stderr");
        args.iter().map(|arg| if prints { self.printed(arg) } else { self.plain(arg) }).collect()
    }

    /// The arguments without those that differ between C libraries or say nothing here.
    fn telling_arguments(&self, call: &Call) -> Vec<String> {
        let name = call.common_name();
        let mut args = call.args.clone();
        match name {
            // Only glibc's choice of poll or ppoll, and the like, decides over the last arguments.
            "poll" => {
                if call.name == "ppoll" {
                    args.truncate(3);
                    if args.get(2).is_some_and(|timeout| timeout == "NULL") {
                        args[2] = "-1".into();
                    }
                }
                mask_timeout(&mut args, 2);
            }
            "epoll_wait" => {
                args.truncate(4);
                mask_timeout(&mut args, 3);
            }
            "pselect6" => {
                args.truncate(5);
                if let Some(highest) = args.first_mut() {
                    *highest = "highest+1".into();
                }
                for set in args.iter_mut().skip(1).take(3) {
                    *set = self.sets(set);
                }
                if args.get(4).is_some_and(|timeout| timeout.starts_with('{')) {
                    args[4] = "timeout".into();
                }
            }
            "recvfrom" | "accept4" => {
                // The length of the peer's address.
                let length = if name == "recvfrom" { 5 } else { 2 };
                if args.len() > length {
                    args.remove(length);
                }
                if call.errno.is_some() && args.len() == length {
                    // Nobody's address.
                    args.pop();
                }
            }
            "sendto" => args.truncate(5),
            "rt_sigaction" => {
                args.truncate(2);
                if let Some(action) = args.get_mut(1) {
                    *action = if action.contains("SIG_") { action.clone() } else { "handler".into() };
                }
            }
            "clone3" | "clone" => args = vec!["...".into()],
            // Whose timeout it is, and its address, say nothing; nor do flags that strace may not know.
            "io_uring_enter" => args.truncate(4),
            "io_uring_setup" => args.truncate(1),
            "io_uring_register" => args.truncate(2),
            "bind" | "connect" => args.truncate(2),
            _ => {}
        }
        args
    }

    /// What the call returned: a number, a name for what it made, or an error.
    fn value(&self, call: &Call) -> String {
        match (&call.errno, call.value) {
            (Some(errno), _) => format!("-1 {errno}"),
            (None, Some(number)) if makes_descriptor(call) => self.made_name(call, number),
            (None, Some(number)) if call.common_name().starts_with("clone") => {
                // The new thread may have been seen before the call that made it returned.
                let known = self.threads.iter().position(|&pid| i64::from(pid) == number);
                format!("thread-{}", known.unwrap_or(self.threads.len()))
            }
            (None, Some(number)) => number.to_string(),
            (None, None) => "?".into(),
        }
    }

    /// What is ready after a wait.
    fn outcome(&self, call: &Call) -> String {
        match call.common_name() {
            _ if call.errno.is_some() || !call.waits() => String::new(),
            "pselect6" => self.sets(call.outcome.split(", left").next().unwrap_or_default()),
            _ => self.plain(&call.outcome),
        }
    }

    /// What a call that makes descriptors returned, by name.
    fn made_name(&self, call: &Call, number: i64) -> String {
        let mut after = Names {
            descriptors: self.descriptors.clone(),
            made: self.made.clone(),
            kinds: self.kinds.clone(),
            known: self.known.clone(),
            ..Names::default()
        };
        after.follow(&Event::Call(call.clone()));
        match call.common_name() {
            "pipe2" => {
                let ends = numbers(call.args.first());
                ends.iter().map(|&end| after.descriptor(end)).collect::<Vec<_>>().join(", ")
            }
            "socketpair" => {
                let ends = numbers(call.args.get(3));
                ends.iter().map(|&end| after.descriptor(end)).collect::<Vec<_>>().join(", ")
            }
            _ => after.descriptor(number),
        }
    }

    /// Descriptor numbers inside a select set, by name.
    fn sets(&self, text: &str) -> String {
        NUMBER
            .replace_all(text, |found: &Captures| {
                found[0].parse().map_or_else(|_| found[0].to_string(), |number| self.descriptor(number))
            })
            .into_owned()
    }

    /// What a program prints, with the addresses in it by name.
    fn printed(&self, text: &str) -> String {
        ADDRESS
            .replace_all(text, |found: &Captures| {
                let name = found[1].parse().ok().and_then(|port: u16| self.ports.get(&port));
                name.cloned().unwrap_or_else(|| found[0].to_string())
            })
            .into_owned()
    }

    /// Addresses, pointers and descriptors inside one argument, by name.
    fn plain(&self, text: &str) -> String {
        if text.starts_with('"') {
            return text.to_string();
        }
        let text = NAME_LENGTH.replace_all(text, "");
        let text = SOCKADDR.replace_all(&text, |found: &Captures| {
            let port: u16 = found[1].parse().unwrap_or_default();
            match (self.ports.get(&port), port) {
                (Some(name), _) => name.clone(),
                (None, 0) => "any port".into(),
                (None, _) => "somebody".into(),
            }
        });
        let text = POLL_FD.replace_all(&text, |found: &Captures| {
            format!("fd={}", found[1].parse().map_or_else(|_| found[1].to_string(), |fd| self.descriptor(fd)))
        });
        let text = EPOLL_DATA.replace_all(&text, |found: &Captures| {
            let token = found.get(1).or(found.get(2)).or(found.get(3)).map_or("", |token| token.as_str());
            // A small number is the program's own token; a large one an address of its memory.
            match token.parse::<u64>() {
                Ok(number) if number < 1 << 20 => format!("data={number}"),
                _ => "data=pointer".into(),
            }
        });
        POINTER.replace_all(&text, "...").into_owned()
    }
}

/// Descriptors that were there before the recording, and what they are as far as their first use tells.
fn found_descriptors(events: &[Event]) -> Vec<(i64, &'static str)> {
    let mut seen = std::collections::HashSet::new();
    let mut found = Vec::new();
    for event in events {
        let Event::Call(call) = event else { continue };
        let kind = match call.common_name() {
            "epoll_wait" | "epoll_ctl" => Some("epoll"),
            "accept4" => Some("listener"),
            _ if call.receives() || call.sends() => Some("socket"),
            // A one, as eight bytes: nobody writes that but to an eventfd.
            "write" if call.args.get(1).is_some_and(|data| data == r#""\1\0\0\0\0\0\0\0""#) => {
                Some("eventfd")
            }
            "write" if call.mark().is_some() => Some("marks"),
            _ => None,
        };
        if let (Some(kind), Some(number)) = (kind, arg_number(call, 0))
            && number > 2
            && seen.insert(number)
        {
            found.push((number, kind));
        }
        if makes_descriptor(call) {
            seen.extend(call.value);
            seen.extend(numbers(call.args.first()));
            seen.extend(numbers(call.args.get(3)));
        }
    }
    found
}

/// Where the arguments of a call hold descriptors.
fn descriptor_arguments(name: &str) -> &'static [usize] {
    match name {
        "epoll_ctl" => &[0, 2],
        "read" | "write" | "readv" | "writev" | "recvfrom" | "sendto" | "recvmsg" | "sendmsg"
        | "recvmmsg" | "sendmmsg" | "epoll_wait" | "close" | "bind" | "connect" | "listen" | "accept4"
        | "shutdown" | "fcntl" | "ioctl" | "setsockopt" | "getsockopt" | "getsockname"
        | "timerfd_settime" | "dup" | "dup2" | "dup3" | "io_uring_enter" | "io_uring_register" => &[0],
        _ => &[],
    }
}

fn makes_descriptor(call: &Call) -> bool {
    match call.common_name() {
        "socket" | "accept4" | "epoll_create1" | "eventfd2" | "timerfd_create" | "signalfd4" | "openat"
        | "dup" | "dup2" | "dup3" | "pipe2" | "socketpair" | "io_uring_setup" => true,
        "fcntl" => call.args.get(1).is_some_and(|command| command.starts_with("F_DUPFD")),
        _ => false,
    }
}

/// A positive timeout counts from when the program looked at the clock; only "for ever" and "not at all" are the
/// same every time.
fn mask_timeout(args: &mut [String], position: usize) {
    if let Some(timeout) = args.get_mut(position)
        && !matches!(timeout.as_str(), "-1" | "0" | "NULL")
    {
        *timeout = "timeout".into();
    }
}

fn arg_number(call: &Call, position: usize) -> Option<i64> {
    call.args.get(position)?.parse().ok()
}

fn numbers(text: Option<&String>) -> Vec<i64> {
    let Some(text) = text else { return Vec::new() };
    NUMBER.find_iter(text).filter_map(|number| number.as_str().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::strace::Parser;

    /// Renders the last line after following all before it.
    fn last(lines: &str) -> String {
        let mut parser = Parser::default();
        let events: Vec<Event> = lines.lines().filter_map(|line| parser.line(line.trim())).collect();
        let mut names = Names::of(&events);
        names.port(40000, "client-1");
        names.port(2000, "server");
        let mut rendered = String::new();
        for event in &events {
            if let Event::Call(call) = event {
                rendered = names.render(call).to_string();
            }
            names.follow(event);
        }
        rendered
    }

    const START: &str = "7 socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, IPPROTO_IP) = 3
        7 pipe2([4, 5], O_CLOEXEC) = 0
        7 rt_sigaction(SIGINT, NULL, {sa_handler=SIG_DFL, sa_mask=[], sa_flags=0}, 8) = 0
        7 rt_sigaction(SIGINT, {sa_handler=0x555b07d84880, sa_mask=[], sa_flags=0}, {sa_handler=SIG_DFL}, 8) = 0
        7 fcntl(5, F_DUPFD_CLOEXEC, 3) = 6
        7 epoll_create1(EPOLL_CLOEXEC) = 8
        7 fcntl(8, F_DUPFD_CLOEXEC, 3) = 9
        7 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 10\n";

    #[test]
    fn descriptors_and_peers_have_names() {
        let receive = "7 recvfrom(3, \"hello\", 65508, 0, {sa_family=AF_INET, sin_port=htons(40000), \
            sin_addr=inet_addr(\"127.0.0.1\")}, [128 => 16]) = 5";
        assert_eq!(last(&format!("{START}{receive}")), "recvfrom(socket, \"hello\", 65508, 0, client-1) = 5");
        let v6 = "7 sendto(3, \"x\", 1, MSG_NOSIGNAL, {sa_family=AF_INET6, sin6_port=htons(40000), \
            sin6_flowinfo=htonl(0), inet_pton(AF_INET6, \"::1\", &sin6_addr), sin6_scope_id=0}, 28) = 1";
        assert_eq!(last(&format!("{START}{v6}")), "sendto(socket, \"x\", 1, MSG_NOSIGNAL, client-1) = 1");
    }

    #[test]
    fn a_receive_that_would_block_has_nobodys_address() {
        let receive = "7 recvfrom(3, 0x7fe36078bfd8, 65508, 0, 0x7ffe789a6840, [128]) = -1 EAGAIN (Resource \
            temporarily unavailable)";
        assert_eq!(last(&format!("{START}{receive}")), "recvfrom(socket, ..., 65508, 0) = -1 EAGAIN");
    }

    #[test]
    fn the_pipe_of_the_handler_is_called_signals() {
        let poll =
            "7 poll([{fd=3, events=POLLIN}, {fd=4, events=POLLIN}], 2, -1) = 1 ([{fd=4, revents=POLLIN}])";
        assert_eq!(
            last(&format!("{START}{poll}")),
            "poll([{fd=socket, events=POLLIN}, {fd=signals, events=POLLIN}], 2, -1) = 1 ([{fd=signals, \
             revents=POLLIN}])"
        );
        assert_eq!(last(&format!("{START}7 write(6, \"X\", 1) = 1")), "write(signals-writer, \"X\", 1) = 1");
    }

    #[test]
    fn select_sets_hold_names_and_no_highest_number() {
        let select = "7 pselect6(5, [3 4], [], NULL, NULL, NULL) = 1 (in [3])";
        assert_eq!(
            last(&format!("{START}{select}")),
            "pselect6(highest+1, [socket signals], [], NULL, NULL) = 1 (in [socket])"
        );
    }

    #[test]
    fn epoll_tokens_stay_and_addresses_go() {
        let wait = "7 epoll_pwait(9, [{events=EPOLLIN, data={u32=1, u64=1}}], 1024, 250, NULL, 8) = 1";
        assert_eq!(
            last(&format!("{START}{wait}")),
            "epoll_wait(epoll, [{events=EPOLLIN, data=1}], 1024, timeout) = 1"
        );
        let ctl = "7 epoll_ctl(8, EPOLL_CTL_ADD, 3, {events=EPOLLIN|EPOLLET, data={u32=1879050752, \
            u64=139711230378496}}) = 0";
        assert_eq!(
            last(&format!("{START}{ctl}")),
            "epoll_ctl(epoll, EPOLL_CTL_ADD, socket, {events=EPOLLIN|EPOLLET, data=pointer}) = 0"
        );
        assert_eq!(last(START), "eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = eventfd");
    }

    #[test]
    fn several_of_a_kind_are_numbered() {
        let second = "7 socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, IPPROTO_IP) = 11
            7 recvfrom(11, \"\", 10, 0, NULL, NULL) = 0";
        assert_eq!(last(&format!("{START}{second}")), "recvfrom(socket-2, \"\", 10, 0, NULL) = 0");
    }

    #[test]
    fn a_new_thread_has_the_next_number_even_if_it_is_quicker_than_its_maker() {
        let first = "7 clone3({flags=CLONE_VM}, 88) = 9";
        assert_eq!(last(&format!("{START}{first}")), "clone3(...) = thread-1");
        let late =
            "7 clone3({flags=CLONE_VM} <unfinished ...>\n9 gettid() = 9\n7 <... clone3 resumed>, 88) = 9";
        assert_eq!(last(&format!("{START}{late}")), "clone3(...) = thread-1");
    }

    #[test]
    fn a_printed_address_has_its_name() {
        let print = "7 write(1, \"5 bytes from 127.0.0.1:40000\\n\", 29) = 29";
        assert_eq!(last(&format!("{START}{print}")), "write(stdout, \"5 bytes from client-1\\n\", 29) = 29");
    }

    #[test]
    fn payload_is_never_changed() {
        let send = "7 sendto(3, \"fd=3 0x7fe36078bfd8\", 19, 0, NULL, 0) = 19";
        assert_eq!(
            last(&format!("{START}{send}")),
            "sendto(socket, \"fd=3 0x7fe36078bfd8\", 19, 0, NULL) = 19"
        );
    }
}
