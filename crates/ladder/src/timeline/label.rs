//! What stands in the box of a call: its kind and a few words, and the sentence that explains it.

use std::sync::LazyLock;

use harness::strace::Call;
use regex::Regex;

use crate::names::{Rendered, pattern};

/// What kind of a thing a call is to somebody who looks for where a program waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It waits until something happens, and uses no processor.
    Sleep,
    /// It takes bytes from a socket.
    Receive,
    /// It gives bytes to a socket, or wakes somebody with a write.
    Send,
    /// It would have had to wait, and returned instead.
    WouldBlock,
    /// It failed.
    Error,
    /// Anything else.
    Call,
}

/// A string that strace printed, quotation marks included.
static STRING: LazyLock<Regex> = LazyLock::new(|| pattern(r#""(?:[^"\\]|\\.)*"(?:\.\.\.)?"#));
static READY: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:fd=([\w-]+), )?revents=([A-Z|]+)"));
static EVENTS: LazyLock<Regex> = LazyLock::new(|| pattern(r"events=([A-Z|]+), data=(\w+)"));
static PEER: LazyLock<Regex> = LazyLock::new(|| pattern(r"msg_name=([\w-]+)"));

/// The kind of a call that has returned. `slept` says that it was in the call when the client did something.
pub fn kind(call: &Call, rendered: &Rendered, slept: bool) -> Kind {
    let name = rendered.name.as_str();
    match call {
        _ if call.would_block() && !waits_for_a_thread(call) => Kind::WouldBlock,
        _ if call.errno.is_some() && !call.interrupted() && !timed_out(call) => Kind::Error,
        _ if call.waits() => {
            if looks_only(rendered) {
                Kind::Call
            } else {
                Kind::Sleep
            }
        }
        _ if slept && may_sleep(call, rendered)
            || waits_for_a_thread(call)
            || name.ends_with("nanosleep") =>
        {
            Kind::Sleep
        }
        _ if receives(call, rendered) => Kind::Receive,
        _ if sends(call, rendered) => Kind::Send,
        _ => Kind::Call,
    }
}

/// Whether a call takes bytes from a socket, with whatever name.
pub fn receives(call: &Call, rendered: &Rendered) -> bool {
    call.receives() || matches!(rendered.name.as_str(), "read" | "readv") && is_socket(rendered)
}

/// Whether a call gives bytes to a socket, or wakes somebody.
pub fn sends(call: &Call, rendered: &Rendered) -> bool {
    call.sends()
        || matches!(rendered.name.as_str(), "write" | "writev") && (is_socket(rendered) || wakes(rendered))
        || call.name == "futex" && !waits_for_a_thread(call)
}

fn is_socket(rendered: &Rendered) -> bool {
    ["socket", "stream", "connection", "connected", "pair"].iter().any(|kind| names(rendered, kind))
}

/// A write that is there to end somebody's wait.
fn wakes(rendered: &Rendered) -> bool {
    ["eventfd", "signals-writer", "pipe-writer"].iter().any(|kind| names(rendered, kind))
}

fn names(rendered: &Rendered, kind: &str) -> bool {
    rendered.args.first().and_then(|fd| fd.strip_prefix(kind)).is_some_and(|rest| {
        rest.is_empty()
            || rest.strip_prefix('-').is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn waits_for_a_thread(call: &Call) -> bool {
    call.name == "futex" && call.args.get(1).is_some_and(|what| what.contains("WAIT"))
}

fn timed_out(call: &Call) -> bool {
    call.errno.as_deref() == Some("ETIMEDOUT")
}

/// Whether a wait was told not to wait.
fn looks_only(rendered: &Rendered) -> bool {
    let timeout = match rendered.name.as_str() {
        "poll" => rendered.args.get(2),
        "epoll_wait" => rendered.args.get(3),
        _ => None,
    };
    timeout.is_some_and(|timeout| timeout == "0")
}

/// Whether an effect of the call may be seen before it returns: such a call stands where it began, all others where
/// they returned.
pub fn stands_at_its_beginning(call: &Call) -> bool {
    call.sends()
        || matches!(
            call.common_name(),
            "write" | "writev" | "close" | "connect" | "shutdown" | "clone3" | "kill" | "tgkill"
        )
        || call.name == "futex" && !waits_for_a_thread(call)
}

/// A few words for the box: name, what matters of the arguments, result.
pub fn label(call: &Call, rendered: &Rendered) -> String {
    let Rendered { name, args, value, .. } = rendered;
    let short = short_name(name);
    if call.would_block() && !waits_for_a_thread(call) {
        return format!("{short}  would block");
    }
    if call.waits() {
        let looks = if looks_only(rendered) { " (look)" } else { "" };
        let which = match (value.as_str(), looks) {
            ("0", "") => "timed out".to_string(),
            _ => ready(rendered),
        };
        return format!("{short}{looks} = {value}  {which}").trim_end().to_string();
    }
    let arg = |at: usize| args.get(at).map_or("", String::as_str);
    let failed =
        if call.errno.is_some() { format!(" = {}", value.trim_start_matches("-1 ")) } else { String::new() };
    let words = match name.as_str() {
        "recvfrom" => exchange(short, payload(args), "from", arg(4)),
        "sendto" => exchange(short, payload(args), "to", arg(4)),
        "recvmsg" => exchange(short, payload(args), "from", &peer(args)),
        "sendmsg" => exchange(short, payload(args), "to", &peer(args)),
        "recvmmsg" | "sendmmsg" if failed.is_empty() => format!("{short} = {value} datagrams"),
        "read" | "readv" | "write" | "writev" => {
            let data =
                payload(args).filter(|data| !data.contains('\\') || data.trim_end().ends_with("\\n\""));
            let length =
                if data.is_none() && failed.is_empty() { format!(" = {value}") } else { String::new() };
            format!("{short} {} {}{length}", arg(0), data.unwrap_or_default()).trim_end().replace("  ", " ")
        }
        "epoll_ctl" => {
            let what = arg(1).trim_start_matches("EPOLL_CTL_").to_ascii_lowercase();
            format!("{short} {what} {}", arg(2))
        }
        "connect" => format!("{short} {} to {}", arg(0), arg(1)),
        "bind" | "listen" | "close" | "shutdown" | "setsockopt" | "getsockopt" | "getsockname" | "ioctl"
        | "fcntl" | "timerfd_settime"
            if failed.is_empty() =>
        {
            format!("{short} {}", arg(0))
        }
        "io_uring_enter" if failed.is_empty() => {
            format!("{short}: hands over {}, wants {}", arg(1), arg(2))
        }
        "futex" => match waits_for_a_thread(call) {
            true => format!("futex wait{}", if timed_out(call) { ", timed out" } else { "" }),
            false => format!("futex wake = {value}"),
        },
        _ if name.ends_with("nanosleep") => short.to_string(),
        _ if makes(name) && failed.is_empty() => format!("{short} = {value}"),
        _ => {
            let value = value.trim_start_matches("-1 ");
            return format!("{short}({}) = {value}", args.join(", "));
        }
    };
    words + &failed
}

/// Whether a call that does not return sleeps, as far as its name tells.
pub fn may_sleep(call: &Call, rendered: &Rendered) -> bool {
    call.waits()
        || call.receives()
        || waits_for_a_thread(call)
        || rendered.name.ends_with("nanosleep")
        || matches!(
            rendered.name.as_str(),
            "read" | "readv" | "accept4" | "wait4" | "waitid" | "pause" | "io_uring_enter"
        )
}

/// The words for a call that has not returned.
pub fn open_label(call: &Call, rendered: &Rendered) -> String {
    let fd = rendered.args.first().map_or("", String::as_str);
    let short = short_name(&rendered.name);
    match call {
        _ if call.waits() => format!("asleep in {short}"),
        _ if waits_for_a_thread(call) => "asleep in futex: waits for a thread".into(),
        _ if rendered.name.ends_with("nanosleep") => format!("asleep in {short}"),
        _ if may_sleep(call, rendered) => {
            format!("asleep in {short} on {fd}").trim_end_matches(" on ").to_string()
        }
        _ => format!("in {short}"),
    }
}

fn makes(name: &str) -> bool {
    name.starts_with("clone")
        || matches!(
            name,
            "socket"
                | "accept4"
                | "epoll_create1"
                | "eventfd2"
                | "timerfd_create"
                | "signalfd4"
                | "openat"
                | "dup"
                | "dup2"
                | "dup3"
                | "pipe2"
                | "socketpair"
                | "io_uring_setup"
        )
}

fn exchange(name: &str, payload: Option<String>, word: &str, peer: &str) -> String {
    let mut words = format!("{name} {}", payload.unwrap_or_default());
    if !peer.is_empty() && peer != "NULL" && peer != "..." {
        words = format!("{words} {word} {peer}");
    }
    words.trim_end().to_string()
}

/// `pselect6` is what every C library calls `select`.
fn short_name(name: &str) -> &str {
    match name {
        "pselect6" => "select",
        other => other.trim_end_matches(|c: char| c.is_ascii_digit() && matches!(other, "accept4")),
    }
}

/// What was sent or received, quotation marks included.
pub fn payload(args: &[String]) -> Option<String> {
    let arg = args.get(1)?;
    STRING.find(arg).map(|found| found.as_str().to_string())
}

fn peer(args: &[String]) -> String {
    args.get(1).and_then(|arg| PEER.captures(arg)).map_or_else(String::new, |found| found[1].to_string())
}

/// Which descriptors are ready, and for what: `in`, `socket in`, `out, data 1`.
fn ready(rendered: &Rendered) -> String {
    let directions = |text: &str| {
        let text = text.replace("EPOLL", "").replace("POLL", "").to_ascii_lowercase();
        text.replace("rdhup", "hup").replace('|', "+")
    };
    let mut found: Vec<String> = match rendered.name.as_str() {
        "epoll_wait" => EVENTS
            .captures_iter(rendered.args.get(1).map_or("", String::as_str))
            .map(|one| match &one[2] {
                "0" | "pointer" => directions(&one[1]),
                data => format!("{}, data {data}", directions(&one[1])),
            })
            .collect(),
        "poll" => READY
            .captures_iter(&rendered.outcome)
            .map(|one| format!("{} {}", one.get(1).map_or("", |fd| fd.as_str()), directions(&one[2])))
            .collect(),
        _ => vec![rendered.outcome.replace(['[', ']'], "")],
    };
    found.dedup();
    found.join("; ")
}

/// One sentence about the call, for somebody who steps through the picture.
pub fn explain(kind: Kind, call: &Call, rendered: &Rendered) -> String {
    let name = short_name(&rendered.name);
    let nothing_came = rendered.value == "0";
    match kind {
        Kind::WouldBlock if call.receives() => "The socket is empty: the call would have had to wait.".into(),
        Kind::WouldBlock if call.sends() => {
            "The send buffer is full: the call would have had to wait.".into()
        }
        Kind::WouldBlock => "The call would have had to wait.".into(),
        Kind::Error => format!("{name} fails with {}.", rendered.value.trim_start_matches("-1 ")),
        Kind::Sleep if call.waits() && nothing_came => "The wait returns: its time is up.".into(),
        Kind::Sleep if call.waits() && ready(rendered).contains("in") => {
            "The wait returns: something is readable.".into()
        }
        Kind::Sleep if call.waits() => "The wait returns: something is ready.".into(),
        Kind::Sleep if call.receives() => {
            "The receive has slept until a datagram came, and brings it.".into()
        }
        Kind::Sleep if call.name == "futex" => "The thread was asleep until another one woke it.".into(),
        Kind::Sleep => format!("{name} returns: the thread has slept in it."),
        Kind::Receive => "What waited in the socket moves into the program.".into(),
        Kind::Send if call.sends() => "What the program had leaves through the socket.".into(),
        Kind::Send if call.name == "futex" => "It wakes a thread that sleeps in a futex.".into(),
        Kind::Send => "A write that ends somebody's wait, or goes to the other end.".into(),
        Kind::Call if call.waits() => "It looks what is ready, and does not wait.".into(),
        Kind::Call if rendered.name == "epoll_ctl" => "It tells the kernel what to watch.".into(),
        Kind::Call if makes(&rendered.name) => format!("{name} makes {}.", rendered.value),
        Kind::Call => format!("The program calls {name}."),
    }
}
