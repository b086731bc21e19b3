//! Reading what `strace -f -o` writes: one line a call, put together again where another thread came between.
//!
//! Times (`-t`, `-tt`, `-ttt`, `-r`) and durations (`-T`) may be there or not.

use std::collections::HashMap;
use std::fmt;

/// Where in a recording something stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Number of the line, from 1.
    pub line: usize,
    /// Time of day, or since 1970, in microseconds, if strace wrote it.
    pub micros: Option<u64>,
}

/// A system call.
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
    /// Where it began.
    pub begun: Moment,
    /// Where it returned; `None` if it had not when the recording ended, or never did: the program was killed in it.
    pub returned: Option<Moment>,
    /// The line it was read from; its last one, where another thread came between.
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

impl fmt::Display for Call {
    /// As strace writes it: `sendto(3, "x", 1, 0, NULL, 0) = -1 EPERM (Operation not permitted)`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}({}) = ", self.name, self.args.join(", "))?;
        match self.value {
            Some(value) => write!(out, "{value}")?,
            None => out.write_str("?")?,
        }
        if let Some(errno) = &self.errno {
            write!(out, " {errno}")?;
        }
        if self.outcome.is_empty() { Ok(()) } else { write!(out, " ({})", self.outcome) }
    }
}

/// One event of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call returned, or was cut off by the end of its program or of the recording.
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

/// What strace writes in place of the rest of a call.
const CUT: [&str; 2] = [" <unfinished ...>", " <detached ...>"];

/// Turns lines into events. Keeps the beginnings of calls that have not returned yet.
#[derive(Clone, Default)]
pub struct Parser {
    /// Lines read so far.
    lines: usize,
    /// Lines that made no sense.
    senseless: usize,
    /// Beginning of a call that another thread's line cut off, by thread.
    unfinished: HashMap<u32, (Moment, String)>,
    /// The wait that a stop cut short, by thread, for the `restart_syscall` that goes on with it.
    restarted: HashMap<u32, Call>,
}

impl Parser {
    /// Reads one whole line (without its newline). `None`: the line holds no finished event, or is none of
    /// strace's.
    pub fn line(&mut self, line: &str) -> Option<Event> {
        self.lines += 1;
        let (pid, micros, rest) = split_prefix(line);
        let here = Moment { line: self.lines, micros };
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
            self.restarted.remove(&pid);
            return Some(Event::Ended { pid, how, raw: line.to_string() });
        }
        if let Some(begun) = CUT.iter().find_map(|cut| rest.strip_suffix(cut)) {
            // A call that was under way when strace came shows its end alone.
            match is_beginning(begun) {
                true => drop(self.unfinished.insert(pid, (here, begun.to_string()))),
                false => self.senseless += 1,
            }
            return None;
        }
        let Some(mut call) = self.whole_call(pid, here, rest) else {
            self.senseless += usize::from(!line.trim().is_empty());
            return None;
        };
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

    /// A call that ends in this line.
    fn whole_call(&mut self, pid: u32, here: Moment, rest: &str) -> Option<Call> {
        // Of a program that is killed: `recvfrom(3,  <unfinished ...>) = ?`.
        let cut = CUT.iter().find_map(|cut| rest.strip_suffix(&format!("{cut}) = ?")));
        let rest = cut.map_or_else(|| rest.to_string(), |begun| format!("{begun}) = ?"));
        let (begun, whole) = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let (name, end) = resumed.split_once(" resumed>")?;
                match self.unfinished.remove(&pid) {
                    Some((begun, beginning)) => (begun, beginning + end),
                    None => (here, format!("{name}({end}")),
                }
            }
            None => (here, rest),
        };
        let (whole, took) = split_duration(&whole);
        let mut call = call(pid, whole)?;
        call.begun = begun;
        let ended = match (took, begun.micros) {
            (Some(took), Some(start)) if begun.line == here.line => Some(start + took),
            _ => here.micros,
        };
        let never_returns = call.value.is_none() && call.errno.is_none();
        call.returned = (!never_returns).then_some(Moment { micros: ended, ..here });
        Some(call)
    }

    /// Calls that have not returned, in the order in which they began. `rest` is what stands behind the last newline:
    /// the beginning of one more, perhaps.
    pub fn open_calls(&self, rest: &str) -> Vec<Call> {
        let (pid, micros, begun) = split_prefix(rest);
        let last = (pid, (Moment { line: self.lines + 1, micros }, begun.to_string()));
        let last = is_beginning(begun).then_some(last);
        let mut open: Vec<Call> = last
            .iter()
            .map(|(pid, begun)| (pid, begun))
            .chain(&self.unfinished)
            .filter_map(|(&pid, (begun, text))| {
                // Where the line breaks off within a string, only the name is known.
                let name = || text.split('(').next().map(|name| format!("{name}() = ?"));
                let mut call = call(pid, &format!("{text}) = ?")).or_else(|| call(pid, &name()?))?;
                if let Some(cut) = self.restarted.get(&pid).filter(|_| call.name == "restart_syscall") {
                    call.name.clone_from(&cut.name);
                    call.args.clone_from(&cut.args);
                }
                call.begun = *begun;
                call.raw = text.clone();
                Some(call)
            })
            .collect();
        open.sort_by_key(|call| call.begun.line);
        open
    }

    /// How many lines made no sense so far: none of a recording that is whole.
    pub fn senseless(&self) -> usize {
        self.senseless
    }
}

/// A whole recording.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// In the order in which they ended.
    pub events: Vec<Event>,
    /// Calls that had not returned when it ended, in the order in which they began.
    pub open: Vec<Call>,
    /// How many of its lines made no sense.
    pub senseless: usize,
}

/// Reads a whole recording, which may break off anywhere.
pub fn read(recording: &[u8]) -> Recording {
    let mut parser = Parser::default();
    let (whole, rest) = match recording.iter().rposition(|&byte| byte == b'\n') {
        Some(end) => (&recording[..end], &recording[end + 1..]),
        None => (&recording[..0], recording),
    };
    let lines = whole.split(|&byte| byte == b'\n');
    let mut events: Vec<Event> =
        lines.filter_map(|line| parser.line(&String::from_utf8_lossy(line))).collect();
    let senseless = parser.senseless();
    let rest = String::from_utf8_lossy(rest);
    // Only the last newline may be missing.
    let last = parser.line(&rest);
    let rest = if last.is_some() { "" } else { &*rest };
    events.extend(last);
    Recording { events, open: parser.open_calls(rest), senseless }
}

/// Whether a call may begin so: `name(`.
fn is_beginning(text: &str) -> bool {
    text.split_once('(').is_some_and(|(name, _)| is_name(name))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// `12345 rest` or `[pid 12345] rest`, the time between them when strace was asked for it. Without `-f` there is no
/// thread, which is then 0.
fn split_prefix(line: &str) -> (u32, Option<u64>, &str) {
    let line = line.trim_start();
    let (pid, rest) = match line.strip_prefix("[pid").and_then(|line| line.split_once(']')) {
        Some((pid, rest)) => (pid.trim().parse().ok(), rest),
        None => match line.split_once(' ') {
            Some((pid, rest)) => (pid.parse().ok(), rest),
            None => (None, line),
        },
    };
    let (pid, rest) = match pid {
        Some(pid) => (pid, rest.trim_start()),
        None => (0, line),
    };
    match rest.split_once(' ') {
        Some((time, after)) if micros(time).is_some() => (pid, micros(time), after.trim_start()),
        _ => (pid, None, rest),
    }
}

/// `12:34:56`, `12:34:56.789012` or `1700000000.789012`, in microseconds.
fn micros(word: &str) -> Option<u64> {
    let (seconds, fraction) = word.split_once('.').unwrap_or((word, ""));
    let fraction = match fraction {
        "" if word.contains(':') => 0,
        six if six.len() == 6 => six.parse().ok()?,
        _ => return None,
    };
    let seconds = seconds
        .split(':')
        .try_fold(0_u64, |sum, part| sum.checked_mul(60)?.checked_add(part.parse().ok()?))?;
    seconds.checked_mul(1_000_000)?.checked_add(fraction)
}

/// Takes the duration off that `-T` writes: ` <0.000012>`, in microseconds.
fn split_duration(text: &str) -> (&str, Option<u64>) {
    let split = text.trim_end().strip_suffix('>').and_then(|text| text.rsplit_once(" <"));
    match split {
        Some((call, time)) if micros(time).is_some() => (call, micros(time)),
        _ => (text, None),
    }
}

/// Reads `name(arguments) = value outcome`.
fn call(pid: u32, text: &str) -> Option<Call> {
    let open = text.find('(')?;
    let name = &text[..open];
    if !is_name(name) {
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
        begun: Moment::default(),
        returned: None,
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
    fn a_call_is_written_as_strace_writes_it() {
        for text in [
            "sendto(3, \"x\", 1, MSG_NOSIGNAL, NULL, 0) = -1 EPERM (Operation not permitted)",
            "ppoll([{fd=3, events=POLLIN}], 1, NULL, NULL, 0) = 1 ([{fd=3, revents=POLLIN}])",
            "eventfd2(0, EFD_CLOEXEC) = 4",
            "exit_group(0) = ?",
        ] {
            assert_eq!(only_call(&format!("7 {text}")).to_string(), text);
        }
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
    fn times_are_read_and_noise_is_no_event() {
        for (times, begun, returned) in [
            ("12:34:56.789012 ", Some(45_296_789_012), Some(45_296_789_012)),
            ("12:34:56 ", Some(45_296_000_000), Some(45_296_000_000)),
            ("1700000000.000001 ", Some(1_700_000_000_000_001), Some(1_700_000_000_000_001)),
            ("     0.000042 ", Some(42), Some(42)),
            ("", None, None),
        ] {
            let call = only_call(&format!("7 {times}sendto(3, \"x\", 1, 0, NULL, 0) = 1"));
            assert_eq!((call.pid, call.name.as_str(), call.value), (7, "sendto", Some(1)), "{times}");
            assert_eq!(call.begun, Moment { line: 1, micros: begun });
            assert_eq!(call.returned, Some(Moment { line: 1, micros: returned }));
        }
        let call = only_call("7 12:00:00.000000 read(3, \"x\", 1) = 1 <0.000250>");
        assert_eq!(call.outcome, "");
        assert_eq!(call.returned.and_then(|end| end.micros), call.begun.micros.map(|start| start + 250));
        for noise in ["", "strace: Process 7 attached", "7 exit_group(0) = ?junk", "7 poll(", "7 )(", "x y"] {
            let _ = super::read(noise.as_bytes());
        }
        assert_eq!(only_call("7 exit_group(0) = ?").value, None);
    }

    #[test]
    fn a_thread_may_stand_in_brackets_or_not_at_all() {
        assert_eq!(only_call("[pid  1234] close(3) = 0").pid, 1234);
        assert_eq!(only_call("close(3)                                = 0").pid, 0);
    }

    #[test]
    fn a_call_knows_where_it_began_and_where_it_returned() {
        let events = read(
            "10 futex(0x1, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>\n\
             11 futex(0x1, FUTEX_WAKE_PRIVATE, 1) = 1\n\
             10 <... futex resumed>) = 0\n",
        );
        let moments: Vec<_> = events
            .iter()
            .map(|event| match event {
                Event::Call(call) => (call.pid, call.begun.line, call.returned.map(|end| end.line)),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(moments, [(11, 2, Some(2)), (10, 1, Some(3))]);
    }

    #[test]
    fn calls_that_have_not_returned_are_known_at_the_end() {
        let recording = super::read(
            b"10 recvfrom(3, \"x\", 10, 0, NULL, NULL) = 1\n\
              11 futex(0x1, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>\n\
              12 epoll_wait(5,  <detached ...>\n\
              10 write(4, \"half a te",
        );
        let open: Vec<_> =
            recording.open.iter().map(|call| (call.pid, call.name.as_str(), call.args.len())).collect();
        assert_eq!(open, [(11, "futex", 4), (12, "epoll_wait", 1), (10, "write", 0)]);
        assert_eq!((recording.events.len(), recording.senseless), (1, 0));
        let begun = super::read(b"10 epoll_wait(4, ");
        assert!(matches!(&begun.open[..], [call] if call.name == "epoll_wait" && call.args == ["4"]));
        let stopped = super::read(
            b"10 poll([{fd=3, events=POLLIN}], 1, -1) = ? ERESTART_RESTARTBLOCK (Interrupted by signal)\n\
              10 --- SIGCONT {si_signo=SIGCONT} ---\n\
              10 restart_syscall(<... resuming interrupted poll ...>",
        );
        assert!(matches!(&stopped.open[..], [call] if call.name == "poll" && call.args.len() == 3));
        let whole = super::read(b"10 close(4) = 0");
        assert!(matches!(&whole.events[..], [Event::Call(call)] if call.value == Some(0)));
        assert!(whole.open.is_empty(), "only the newline is missing");
    }

    #[test]
    fn what_a_killed_program_was_in_never_returns() {
        let events = read(
            "10 recvfrom(3,  <unfinished ...>\n\
             11 kill(10, SIGKILL) = ?\n\
             10 <... recvfrom resumed> <unfinished ...>) = ?\n\
             12 accept4(5,  <unfinished ...>) = ?\n\
             11 +++ killed by SIGKILL +++\n",
        );
        let calls: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Call(call) => Some((call.name.as_str(), call.args.join(" "), call.returned)),
                _ => None,
            })
            .collect();
        let cut = |name, args: &str| (name, args.to_string(), None);
        assert_eq!(calls, [cut("kill", "10 SIGKILL"), cut("recvfrom", "3"), cut("accept4", "5")]);
    }

    #[test]
    fn a_call_that_was_under_way_when_strace_came_shows_its_end() {
        let call = only_call("10 <... epoll_wait resumed>[{events=EPOLLIN, data=0}], 1024, -1) = 1");
        assert_eq!((call.name.as_str(), call.value), ("epoll_wait", Some(1)));
    }

    #[test]
    fn lines_that_make_no_sense_are_counted() {
        let Recording { events, senseless, .. } = super::read(
            b"nonsense\n7 poll([{fd=3}\n7 close(3) = 0\n7 <... resumed\n\n7 \xff\xfe(1) = 0\n7 syscall_0x1c2(0x3) = 0\n",
        );
        let names: Vec<_> = events
            .iter()
            .map(|event| match event {
                Event::Call(call) => call.name.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["close", "syscall_0x1c2"], "a call that nobody knows is kept");
        assert_eq!(senseless, 4);
    }
}
