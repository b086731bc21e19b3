//! Reading what `strace -f -o` writes: one line a call, put together again where another thread came between.

use std::collections::HashMap;

/// A finished system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Thread that made it.
    pub pid: u32,
    /// Name as strace printed it.
    pub name: String,
    /// Arguments, split at the commas that stand outside brackets and strings.
    pub args: Vec<String>,
    /// The number returned; `None` for `?`.
    pub value: Option<i64>,
    /// Name of the error, such as `EAGAIN`, when the call failed.
    pub errno: Option<String>,
    /// What strace says after the value: `Timeout`, `[{fd=3, revents=POLLIN}]`, `in [3]`, `Bad file descriptor`.
    pub outcome: String,
    /// The line or lines it was read from.
    pub raw: String,
}

impl Call {
    /// The text of a trace mark: a failing write to the descriptor that is open for reading only.
    pub fn mark(&self) -> Option<&str> {
        if self.name != "write" || self.errno.as_deref() != Some("EBADF") {
            return None;
        }
        self.args.get(1)?.strip_prefix('"')?.trim_end_matches("...").strip_suffix('"')
    }

    /// Whether a signal cut the call short: its repetition follows, so this one is left out of every count.
    pub fn interrupted(&self) -> bool {
        self.errno.as_deref().is_some_and(|errno| errno == "EINTR" || errno.starts_with("ERESTART"))
    }

    /// Whether the call would have had to block.
    pub fn would_block(&self) -> bool {
        matches!(self.errno.as_deref(), Some("EAGAIN" | "EWOULDBLOCK"))
    }

    /// Whether strace made the call fail, as it was asked to (`-e inject=...`).
    pub fn injected(&self) -> bool {
        self.raw.ends_with("(INJECTED)")
    }

    /// The name under which the call is known on every architecture and with every C library.
    pub fn common_name(&self) -> &str {
        match self.name.as_str() {
            "select" | "_newselect" => "pselect6",
            "ppoll" => "poll",
            "epoll_pwait" | "epoll_pwait2" => "epoll_wait",
            "recv" => "recvfrom",
            "send" => "sendto",
            "accept" => "accept4",
            "open" => "openat",
            "pipe" => "pipe2",
            "eventfd" => "eventfd2",
            "epoll_create" => "epoll_create1",
            "clone" => "clone3",
            other => other,
        }
    }

    /// Whether the call is one that waits for several descriptors.
    pub fn waits(&self) -> bool {
        matches!(self.common_name(), "pselect6" | "poll" | "epoll_wait")
    }

    /// Whether the call takes a datagram (or several) from a socket.
    pub fn receives(&self) -> bool {
        matches!(self.common_name(), "recvfrom" | "recvmsg" | "recvmmsg")
    }

    /// Whether the call gives a datagram (or several) to a socket.
    pub fn sends(&self) -> bool {
        matches!(self.common_name(), "sendto" | "sendmsg" | "sendmmsg")
    }
}

/// One event of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call returned.
    Call(Call),
    /// A signal was delivered.
    Signal {
        /// Thread that it was delivered to.
        pid: u32,
        /// Its name, such as `SIGCONT`.
        name: String,
        /// The line it was read from.
        raw: String,
    },
    /// The thread stopped, as SIGSTOP makes it.
    Stopped {
        /// Thread that stopped.
        pid: u32,
        /// The line it was read from.
        raw: String,
    },
    /// The thread or process ended.
    Ended {
        /// Thread that ended.
        pid: u32,
        /// `exited with 0`, `killed by SIGTERM`.
        how: String,
        /// The line it was read from.
        raw: String,
    },
}

impl Event {
    /// Thread that the event belongs to.
    pub fn pid(&self) -> u32 {
        match self {
            Event::Call(call) => call.pid,
            Event::Signal { pid, .. } | Event::Stopped { pid, .. } | Event::Ended { pid, .. } => *pid,
        }
    }

    /// The line as strace wrote it.
    pub fn raw(&self) -> &str {
        match self {
            Event::Call(call) => &call.raw,
            Event::Signal { raw, .. } | Event::Stopped { raw, .. } | Event::Ended { raw, .. } => raw,
        }
    }
}

/// Turns lines into events. Keeps the beginnings of calls that have not returned yet.
#[derive(Default)]
pub struct Parser {
    /// Beginning of a call that another thread's line cut off, by thread.
    unfinished: HashMap<u32, String>,
    /// The wait that a stop cut short, by thread, for the `restart_syscall` that goes on with it.
    restarted: HashMap<u32, Call>,
}

impl Parser {
    /// Reads one whole line (without its newline). `None`: the line holds no finished event, or is none of
    /// strace's.
    pub fn line(&mut self, line: &str) -> Option<Event> {
        let (pid, rest) = split_pid(line)?;
        if let Some(text) = rest.strip_prefix("--- ") {
            let text = text.trim_end_matches(" ---");
            if text.starts_with("stopped by ") {
                return Some(Event::Stopped { pid, raw: line.to_string() });
            }
            let name = text.split(' ').next()?.to_string();
            return Some(Event::Signal { pid, name, raw: line.to_string() });
        }
        if let Some(text) = rest.strip_prefix("+++ ") {
            let how = text.trim_end_matches(" +++").to_string();
            self.unfinished.remove(&pid);
            self.restarted.remove(&pid);
            return Some(Event::Ended { pid, how, raw: line.to_string() });
        }
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            self.unfinished.insert(pid, begun.to_string());
            return None;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let (_, end) = resumed.split_once(" resumed>")?;
                self.unfinished.remove(&pid)? + end
            }
            None => rest.to_string(),
        };
        let mut call = call(pid, &whole)?;
        call.raw = line.to_string();
        if call.name == "restart_syscall" {
            if let Some(cut) = self.restarted.remove(&pid) {
                call.name = cut.name;
                call.args = cut.args;
            }
        } else if call.interrupted() {
            self.restarted.insert(pid, call.clone());
        }
        Some(Event::Call(call))
    }
}

/// `12345 rest`, with the time of day between them when strace was asked for it.
fn split_pid(line: &str) -> Option<(u32, &str)> {
    let (pid, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    let rest = match rest.split_once(' ') {
        Some((time, after)) if is_time(time) => after.trim_start(),
        _ => rest,
    };
    Some((pid.parse().ok()?, rest))
}

/// `12:34:56.789012`
fn is_time(word: &str) -> bool {
    word.len() == 15
        && word.bytes().enumerate().all(|(at, byte)| match at {
            2 | 5 => byte == b':',
            8 => byte == b'.',
            _ => byte.is_ascii_digit(),
        })
}

/// Reads `name(arguments) = value outcome`.
fn call(pid: u32, text: &str) -> Option<Call> {
    let open = text.find('(')?;
    let name = &text[..open];
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let (args, after) = arguments(&text[open + 1..])?;
    let result = after.trim_start().strip_prefix("= ")?.trim();
    let (value, outcome) = result.split_once(' ').unwrap_or((result, ""));
    let (errno, outcome) = match outcome.split_once(' ') {
        _ if value != "-1" && value != "?" => (None, outcome),
        Some((errno, outcome)) => (Some(errno.to_string()), outcome),
        None if outcome.is_empty() => (None, outcome),
        None => (Some(outcome.to_string()), ""),
    };
    let outcome = outcome.strip_prefix('(').and_then(|o| o.strip_suffix(')')).unwrap_or(outcome);
    let value = match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok().map(|bits| bits as i64),
        None => value.parse().ok(),
    };
    Some(Call {
        pid,
        name: name.to_string(),
        args,
        value,
        errno,
        outcome: outcome.to_string(),
        raw: String::new(),
    })
}

/// Splits the text after the opening bracket into arguments, and returns what follows the closing one.
fn arguments(text: &str) -> Option<(Vec<String>, &str)> {
    let mut args = Vec::new();
    let mut depth = 0;
    let mut in_string = false;
    let mut escaped = false;
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'(' | b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b')' if depth > 0 => depth -= 1,
            b')' => {
                let last = text[start..at].trim();
                if !last.is_empty() {
                    args.push(last.to_string());
                }
                return Some((args, &text[at + 1..]));
            }
            b',' if depth == 0 => {
                args.push(text[start..at].trim().to_string());
                start = at + 1;
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Vec<Event> {
        let mut parser = Parser::default();
        lines.lines().filter_map(|line| parser.line(line)).collect()
    }

    fn only_call(line: &str) -> Call {
        match read(line).pop() {
            Some(Event::Call(call)) => call,
            other => panic!("{line:?} was read as {other:?}"),
        }
    }

    #[test]
    fn a_receive_is_taken_apart() {
        let call = only_call(
            "10941 recvfrom(3, \"a, b) = 1\\\"\", 65535, 0, {sa_family=AF_INET, sin_port=htons(56636), \
             sin_addr=inet_addr(\"127.0.0.1\")}, [128 => 16]) = 9",
        );
        assert_eq!((call.pid, call.name.as_str(), call.value), (10941, "recvfrom", Some(9)));
        assert_eq!(call.args.len(), 6);
        assert_eq!(call.args[1], "\"a, b) = 1\\\"\"", "brackets inside a string are payload");
        assert_eq!(call.args[5], "[128 => 16]");
        assert!(call.errno.is_none() && !call.would_block());
    }

    #[test]
    fn an_error_is_known_by_its_name() {
        let call = only_call(
            "7 recvfrom(3, 0x55be4b9828b0, 65535, 0, 0x7ffc2ca82850, [128]) = -1 EAGAIN (Resource temporarily \
             unavailable)",
        );
        assert!(call.would_block() && call.receives());
        assert_eq!(call.outcome, "Resource temporarily unavailable");
        let injected =
            only_call("7 sendto(3, \"x\", 1, 0, NULL, 0) = -1 EPERM (Operation not permitted) (INJECTED)");
        assert_eq!(injected.errno.as_deref(), Some("EPERM"));
    }

    #[test]
    fn waits_have_one_name_everywhere() {
        let poll =
            only_call("7 ppoll([{fd=3, events=POLLIN}], 1, NULL, NULL, 0) = 1 ([{fd=3, revents=POLLIN}])");
        assert_eq!(poll.common_name(), "poll");
        assert_eq!(poll.outcome, "[{fd=3, revents=POLLIN}]");
        let select = only_call("7 pselect6(4, [3], [], NULL, NULL, NULL) = 1 (in [3])");
        assert_eq!((select.common_name(), select.outcome.as_str()), ("pselect6", "in [3]"));
        let idle = only_call("7 epoll_pwait(5, [], 1024, 100, NULL, 8) = 0");
        assert_eq!((idle.common_name(), idle.value), ("epoll_wait", Some(0)));
    }

    #[test]
    fn a_call_cut_by_another_thread_is_put_together() {
        let events = read(
            "10 poll([{fd=3, events=POLLIN}], 1, -1 <unfinished ...>\n\
             11 write(9, \"wake\", 4) = -1 EBADF (Bad file descriptor)\n\
             10 <... poll resumed>) = 1 ([{fd=3, revents=POLLIN}])\n\
             10 recvfrom(3,  <unfinished ...>\n\
             10 <... recvfrom resumed>\"x\", 10, 0, NULL, NULL) = 1\n",
        );
        let calls: Vec<(u32, &str, usize)> = events
            .iter()
            .map(|event| match event {
                Event::Call(call) => (call.pid, call.name.as_str(), call.args.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(calls, [(11, "write", 3), (10, "poll", 3), (10, "recvfrom", 6)]);
    }

    #[test]
    fn a_mark_is_a_failing_write() {
        let mark = only_call("7 write(9, \"poll reader\", 11) = -1 EBADF (Bad file descriptor)");
        assert_eq!(mark.mark(), Some("poll reader"));
        assert_eq!(only_call("7 write(1, \"poll reader\", 11) = 11").mark(), None);
    }

    #[test]
    fn a_stop_interrupts_a_poll_that_goes_on_under_another_name() {
        let events = read(
            "10985 poll([{fd=3, events=POLLIN}], 1, -1) = ? ERESTART_RESTARTBLOCK (Interrupted by signal)\n\
             10985 --- SIGSTOP {si_signo=SIGSTOP, si_code=SI_USER, si_pid=10930, si_uid=0} ---\n\
             10985 --- stopped by SIGSTOP ---\n\
             10985 --- SIGCONT {si_signo=SIGCONT, si_code=SI_USER, si_pid=10930, si_uid=0} ---\n\
             10985 restart_syscall(<... resuming interrupted poll ...>) = 1\n\
             10985 +++ killed by SIGTERM +++\n",
        );
        assert!(matches!(&events[0], Event::Call(call) if call.interrupted()));
        assert!(matches!(&events[1], Event::Signal { name, .. } if name == "SIGSTOP"));
        assert!(matches!(&events[2], Event::Stopped { pid: 10985, .. }));
        assert!(matches!(&events[4], Event::Call(call) if call.name == "poll" && call.value == Some(1)));
        assert!(matches!(&events[5], Event::Ended { how, .. } if how == "killed by SIGTERM"));
    }

    #[test]
    fn an_epoll_wait_is_interrupted_and_called_again() {
        let wait =
            only_call("11007 epoll_wait(4, 0x564d912629a0, 1023, -1) = -1 EINTR (Interrupted system call)");
        assert!(wait.interrupted() && wait.waits());
    }

    #[test]
    fn times_are_skipped_and_noise_is_no_event() {
        let call = only_call("7 12:34:56.789012 sendto(3, \"x\", 1, 0, NULL, 0) = 1");
        assert_eq!((call.name.as_str(), call.value), ("sendto", Some(1)));
        for noise in ["", "strace: Process 7 attached", "7 exit_group(0) = ?junk", "7 poll(", "7 )(", "x y"] {
            let _ = read(noise);
        }
        assert!(read("7 recvfrom(3, ").is_empty());
        assert_eq!(only_call("7 exit_group(0) = ?").value, None);
    }
}
