//! The flags of every echo server, declared once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, ValueEnum};
use datagram_queue::{DatagramQueue, Policy};
use nix::net::if_::if_nametoindex;

use crate::output::{print_line, print_to_stderr};
use crate::socket;

/// The largest payload of a UDP datagram over IPv4: 65,535 less 20 bytes of IP and 8 of UDP header (RFC 768, RFC 791).
const LARGEST_DATAGRAM: usize = 65_507;

/// The most datagrams that a queue may hold, and that one readiness event may cost.
const MOST_DATAGRAMS: usize = 1_000_000;

/// The longest duration that a flag takes: a day, far beyond any use, and near enough that no sum overflows.
const LONGEST: Duration = Duration::from_secs(86_400);

/// The most memory that the queue's buffers may take, in bytes.
const LARGEST_QUEUE: usize = 1 << 30;

/// The largest socket buffer that may be asked for, in bytes. The kernel doubles what is asked, and holds it in an `int`.
const LARGEST_BUFFER: usize = (1 << 30) - 1;

/// The command line that all echo servers share.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Flags {
    /// IP:PORT to listen on, `[::1]:2000` too; port 0 lets the kernel choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:2000", value_parser = parse_address)]
    pub address: SocketAddr,

    /// Capacity of the outgoing queue, in datagrams, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "8", value_parser = parse_count::<MOST_DATAGRAMS>)]
    pub queue: usize,

    /// What to do when a datagram arrives, the queue is full and a send would block
    #[arg(long, value_name = "POLICY", default_value = "backpressure")]
    on_full: OnFull,

    /// Largest datagram accepted; a longer one is counted and not echoed
    #[arg(long, value_name = "BYTES", default_value_t = LARGEST_DATAGRAM, value_parser = parse_datagram_size)]
    pub max_size: usize,

    /// Datagrams handled per readiness event before waiting again, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "32", value_parser = parse_count::<MOST_DATAGRAMS>)]
    pub budget: usize,

    /// Ask the kernel for a send buffer of so many bytes (SO_SNDBUF), at most 1073741823; it doubles them, up to
    /// net.core.wmem_max [default: the kernel's]
    #[arg(long, value_name = "BYTES", value_parser = parse_count::<LARGEST_BUFFER>)]
    pub send_buffer: Option<usize>,

    /// Ask the kernel for a receive buffer of so many bytes (SO_RCVBUF), at most 1073741823; it doubles them, up to
    /// net.core.rmem_max [default: the kernel's]
    #[arg(long, value_name = "BYTES", value_parser = parse_count::<LARGEST_BUFFER>)]
    pub receive_buffer: Option<usize>,

    /// Exit, with the summary, after N datagrams have been echoed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Permit an ADDR that is not loopback
    #[arg(long)]
    pub allow_remote: bool,

    /// Turn the loop guard off
    #[arg(long)]
    pub unguarded: bool,

    /// Announce user-space events as writes that fail, to be seen in strace
    #[arg(long)]
    pub marks: bool,

    /// Print the summary as one JSON object
    #[arg(long)]
    pub json: bool,

    /// One line on stderr for each event
    #[arg(short, long)]
    pub verbose: bool,

    /// The name of the running program.
    #[arg(skip)]
    pub program: &'static str,
}

/// The names of the policies on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnFull {
    Backpressure,
    DropNewest,
    DropOldest,
}

// For programs that have no flags beside the common ones. (A doc comment would become the help's.)
#[derive(Args)]
struct NoMore {}

impl Flags {
    /// Reads the command line of `program`.
    ///
    /// `--help` and `--version` are printed on stdout and end the program with status 0. Wrong usage
    /// prints one line and the usage on stderr and ends it with status 2.
    pub fn parse(program: &'static str) -> Self {
        Self::parse_with::<NoMore>(program).0
    }

    /// Like [`parse`](Self::parse), for a program with flags of its own beside the common ones.
    pub fn parse_with<More: Args>(program: &'static str) -> (Self, More) {
        let about = "A UDP echo server: every datagram goes back to its sender, byte for byte, or not at all";
        let command = More::augment_args(Self::command()).name(program).bin_name(program).about(about);
        let ((mut flags, more), usage) = read_command_line(program, command, |matches| {
            Ok((Self::from_arg_matches(matches)?, More::from_arg_matches(matches)?))
        });
        flags.program = program;
        if let Err(reason) = flags.check() {
            wrong_usage(program, &reason, usage);
        }
        (flags, more)
    }

    /// What the queue does when it is full.
    pub fn policy(&self) -> Policy {
        match self.on_full {
            OnFull::Backpressure => Policy::Backpressure,
            OnFull::DropNewest => Policy::DropNewest,
            OnFull::DropOldest => Policy::DropOldest,
        }
    }

    /// The queue that the flags ask for.
    pub fn queue(&self) -> DatagramQueue {
        DatagramQueue::new(self.queue, self.max_size, self.policy())
    }

    /// Ends the program as wrong usage unless `--on-full` is one of `policies`; `because` completes the
    /// sentence "PROGRAM cannot do that: ...".
    pub fn require_policy(&self, policies: &[Policy], because: &str) {
        if !policies.contains(&self.policy()) {
            let name =
                self.on_full.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            self.cannot(&format!("--on-full {name}"), because);
        }
    }

    /// Ends the program as wrong usage if `--queue` is greater than `most`; `because` completes the same sentence.
    pub fn require_queue(&self, most: usize, because: &str) {
        if self.queue > most {
            self.cannot(&format!("--queue {}, which is more than {most}", self.queue), because);
        }
    }

    /// Ends the program as wrong usage: it cannot do `what`.
    fn cannot(&self, what: &str, because: &str) -> ! {
        let usage = Self::command().name(self.program).bin_name(self.program).render_usage().to_string();
        wrong_usage(self.program, &format!("{what}: {} cannot do that: {because}", self.program), usage)
    }

    /// What holds between several flags, or of an address as a whole.
    fn check(&self) -> Result<(), String> {
        if !self.allow_remote && !socket::is_loopback(self.address) {
            return Err(format!(
                "{} is not a loopback address; other hosts could reach this echo and make it loop with \
                 another one (CVE-2024-2169): listen on 127.0.0.1, or add --allow-remote",
                self.address
            ));
        }
        let bytes = DatagramQueue::bytes_needed(self.queue, self.max_size);
        if bytes.is_none_or(|bytes| bytes > LARGEST_QUEUE) {
            return Err(format!(
                "--queue {} of --max-size {} would take more than 1 GiB: lower one of them",
                self.queue, self.max_size
            ));
        }
        Ok(())
    }
}

/// Reads the command line of `program`; returns what `values` makes of it, and the usage. `--help` and
/// `--version` end the program with status 0, wrong usage with status 2.
pub fn read_command_line<T>(
    program: &str,
    mut command: Command,
    values: impl FnOnce(&ArgMatches) -> Result<T, clap::Error>,
) -> (T, String) {
    let usage = command.render_usage().to_string();
    match command.try_get_matches_from(std::env::args_os()).and_then(|matches| values(&matches)) {
        Ok(read) => (read, usage),
        Err(error) => {
            let text = error.render().to_string();
            if !error.use_stderr() {
                print_line(text.trim_end());
                std::process::exit(0);
            }
            wrong_usage(program, &first_sentence(&text), usage)
        }
    }
}

/// Prints one line and the usage on stderr and ends the program with status 2.
pub fn wrong_usage(program: &str, reason: &str, usage: String) -> ! {
    print_to_stderr(
        program,
        format_args!("{reason}\n{}\nTry '{program} --help' for the flags.", usage.trim_end()),
    );
    std::process::exit(2)
}

/// The message of a rendered clap error, tip included, without its prefix and the usage, on one line.
fn first_sentence(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let message = text.split("\n\nUsage:").next().unwrap_or(text);
    let message = message.split("\n\nFor more information").next().unwrap_or(message);
    message.split_whitespace().collect::<Vec<_>>().join(" ").replace(" tip: ", "; ")
}

/// Reads `IP:PORT`, as clap's `value_parser`. A link-local address names its interface, by number or by name:
/// `[fe80::1%2]:2000`, `[fe80::1%eth0]:2000`.
///
/// # Errors
///
/// A sentence that says what to write instead.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    match number_interface(text)?.parse() {
        Ok(SocketAddr::V6(v6)) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => Err(format!(
            "a link-local address is one of an interface, which stands behind a `%`: write [{}%eth0]:{}",
            v6.ip(),
            v6.port()
        )),
        Ok(address) => Ok(address),
        Err(_) => Err(format!("not an address; {}", hint(text))),
    }
}

/// `text` with the number of an interface in place of its name.
fn number_interface(text: &str) -> Result<String, String> {
    let Some((ip, interface, port)) =
        text.split_once('%').and_then(|(ip, rest)| rest.split_once(']').map(|(name, port)| (ip, name, port)))
    else {
        return Ok(text.to_owned());
    };
    if interface.parse::<u32>().is_ok() {
        return Ok(text.to_owned());
    }
    match if_nametoindex(interface) {
        Ok(number) => Ok(format!("{ip}%{number}]{port}")),
        Err(_) => Err(format!("no interface is called `{interface}`: `ip link` lists them")),
    }
}

/// What was meant by a text that is no address.
fn hint(text: &str) -> String {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return format!("the port is missing: write {}", SocketAddr::from((ip, 2000)));
    }
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some(("localhost", Ok(port))) => {
            format!("names are not looked up: write {}", SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        }
        Some((host, Ok(port))) if host.parse::<Ipv6Addr>().is_ok() => {
            format!("an IPv6 address stands in brackets: write [{host}]:{port}")
        }
        _ => "write IP:PORT, for example 127.0.0.1:2000".to_owned(),
    }
}

/// Reads a whole number from 1 to `MOST`, as clap's `value_parser`.
///
/// # Errors
///
/// A sentence that names the bound.
pub fn parse_count<const MOST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) if number <= MOST => Ok(number),
        _ => Err(format!("must be a whole number from 1 to {MOST}")),
    }
}

/// Reads a duration such as `200ms`, `3s` or `1m`, longer than nothing and at most a day, as clap's
/// `value_parser`.
///
/// # Errors
///
/// A sentence that names the bound, or shows how durations are written.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => {
            Err("must be longer than nothing, for example 200ms".to_owned())
        }
        Ok(duration) if duration > LONGEST => {
            Err(format!("must be at most {}", humantime::format_duration(LONGEST)))
        }
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write a number and a unit, for example 200ms, 3s or 1m")),
    }
}

fn parse_datagram_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size <= LARGEST_DATAGRAM => Ok(size),
        _ => Err(format!(
            "must be a whole number from 0 to {LARGEST_DATAGRAM}, the most bytes that a UDP datagram carries over \
             IPv4"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bounds() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("1day"), Ok(LONGEST));
        for wrong in ["0s", "3", "soon", "", "-1s", "86401s", "18446744073709551615s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?} is no duration");
        }
    }

    #[test]
    fn counts_have_bounds() {
        assert_eq!((parse_count::<9>("1"), parse_count::<9>("9")), (Ok(1), Ok(9)));
        for wrong in ["0", "-1", "10", "18446744073709551616", "", "1.5"] {
            let said = parse_count::<9>(wrong).expect_err("it is no such count");
            assert!(said.contains("from 1 to 9"), "{wrong:?}: {said}");
        }
    }

    #[test]
    fn a_link_local_address_names_its_interface() {
        // The loopback interface is the first of every network namespace.
        for text in ["[fe80::1%1]:2000", "[fe80::1%lo]:2000"] {
            assert_eq!(
                parse_address(text).map(|address| address.to_string()),
                Ok("[fe80::1%1]:2000".to_owned())
            );
        }
        for (text, hint) in
            [("[fe80::1]:2000", "write [fe80::1%eth0]:2000"), ("[fe80::1%none]:1", "`ip link`")]
        {
            let said = parse_address(text).expect_err("it names none");
            assert!(said.contains(hint), "{text}: {said}");
        }
    }
}
