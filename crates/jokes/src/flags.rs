//! The flags of every act, declared once.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser};
use echo_service::{is_loopback, read_command_line, wrong_usage};

/// The bundled jokes.
pub const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/jokes.txt");

/// The command line that all acts share.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Flags {
    /// IP:PORT to listen on, `[::1]:12345` too; port 0 lets the kernel choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:12345", value_parser = parse_address)]
    pub address: SocketAddr,

    /// Jokes, separated by lines of dashes or, as in fortune files, by lines of one `%`
    #[arg(long, value_name = "PATH", default_value = BUNDLED, hide_default_value = true)]
    pub file: PathBuf,

    /// Worker threads of the runtime, 1 to 1024 [default: one for each core]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_number::<u16>(1, 1024))]
    pub threads: Option<u16>,

    /// Threads of the blocking pool, at most; 1 to 16384
    #[arg(long, value_name = "N", default_value = "512", allow_negative_numbers = true, value_parser = parse_number::<u16>(1, 16_384))]
    pub blocking_threads: u16,

    /// How long an idle thread of the blocking pool is kept, at most 1d
    #[arg(long, value_name = "DURATION", default_value = "10s", allow_hyphen_values = true, value_parser = parse_duration)]
    pub keep_alive: Duration,

    /// Make each read of the jokes file take MS milliseconds longer, at most 86400000, like a slow disk
    #[arg(long, value_name = "MS", default_value = "0", allow_hyphen_values = true, value_parser = parse_milliseconds)]
    pub slow_disk: Duration,

    /// How long a client may neither read nor close before its connection ends, at most 1d
    #[arg(long, value_name = "DURATION", default_value = "10s", allow_hyphen_values = true, value_parser = parse_positive_duration, alias = "idle-timeout")]
    pub idle_limit: Duration,

    /// Connections that the kernel completes while they wait to be accepted, 1 to 65535; net.core.somaxconn clamps it
    #[arg(long, value_name = "N", default_value = "4096", allow_negative_numbers = true, value_parser = parse_number::<u16>(1, u16::MAX))]
    pub backlog: u16,

    /// Permit an ADDR that is not loopback
    #[arg(long)]
    pub allow_remote: bool,

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

// For acts that have no flags beside the common ones. (A doc comment would become the help's.)
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

    /// Like [`parse`](Self::parse), for an act with flags of its own beside the common ones.
    pub fn parse_with<More: Args>(program: &'static str) -> (Self, More) {
        let about = "A TCP server that sends one random joke to whoever connects, and closes";
        let command = More::augment_args(Self::command()).name(program).bin_name(program).about(about);
        let ((mut flags, more), usage) = read_command_line(program, command, |matches| {
            Ok((Self::from_arg_matches(matches)?, More::from_arg_matches(matches)?))
        });
        flags.program = program;
        if !flags.allow_remote && !is_loopback(flags.address) {
            let address = flags.address;
            let reason = format!(
                "{address} is not a loopback address, and other hosts could connect: listen on \
                 127.0.0.1:{}, or add --allow-remote",
                address.port()
            );
            wrong_usage(program, &reason, usage);
        }
        (flags, more)
    }
}

/// Reads `IP:PORT`, as clap's `value_parser`.
///
/// # Errors
///
/// A sentence that says what to write instead.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("not an address; {}", address_hint(text)))
}

fn address_hint(text: &str) -> String {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return format!("the port is missing: write {}", SocketAddr::from((ip, 12345)));
    }
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some(("localhost", Ok(port))) => {
            format!("names are not looked up: write {}", SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        }
        Some((host, Ok(port))) if host.parse::<Ipv6Addr>().is_ok() => {
            format!("an IPv6 address stands in brackets: write [{host}]:{port}")
        }
        _ => "write IP:PORT, for example 127.0.0.1:12345".to_owned(),
    }
}

/// Reads a whole number from `least` to `most`, as clap's `value_parser`. What is wrong gets a sentence with both.
pub fn parse_number<N>(least: N, most: N) -> impl Fn(&str) -> Result<N, String> + Clone
where
    N: Copy + Display + FromStr + PartialOrd,
{
    move |text| match text.parse() {
        Ok(number) if least <= number && number <= most => Ok(number),
        _ => Err(format!("write a whole number from {least} to {most}")),
    }
}

/// Reads a duration longer than nothing, and a day at most: `200ms`, `3s`, `1m`.
///
/// # Errors
///
/// A sentence that says what to write instead.
pub fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0s and at most 1d, for example 200ms".to_owned()),
        read => read,
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    // Far beyond any use, and near enough that adding it to now cannot overflow.
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= Duration::from_secs(86_400) => Ok(duration),
        _ => Err("write a duration of at most 1d, for example 200ms, 3s or 1m".to_owned()),
    }
}

/// A plain number of milliseconds, or a duration with its unit.
fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    let text = if text.bytes().all(|byte| byte.is_ascii_digit()) { &format!("{text}ms") } else { text };
    parse_duration(text)
        .map_err(|_| "write a number of milliseconds of at most 86400000, for example 20".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wrong_addresses_are_answered_with_right_ones() {
        for (text, hint) in [
            ("localhost:12345", "127.0.0.1:12345"),
            ("127.0.0.1", "127.0.0.1:12345"),
            ("::1", "[::1]:12345"),
            ("::1:4000", "127.0.0.1:12345"),
            ("fe80::1%lo:4000", "IP:PORT"),
            ("", "IP:PORT"),
            ("127.0.0.1:65536", "IP:PORT"),
        ] {
            let said = parse_address(text).expect_err("it is wrong");
            // "::1:4000" is itself an address without a port: 0:0:0:0:0:0:1:4000.
            let hint = if text == "::1:4000" { "[::1:4000]:12345" } else { hint };
            assert!(said.contains(hint), "{text:?} gave {said:?}, without {hint:?}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_milliseconds("20"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_milliseconds("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_duration("3s"), Ok(Duration::from_secs(3)));
        for wrong in ["", "soon", "-1s", "2d", "18446744073709551615s", "99999999999999999999"] {
            assert!(
                parse_duration(wrong).is_err_and(|said| said.contains("at most 1d")),
                "{wrong:?} is no duration"
            );
            assert!(
                parse_milliseconds(wrong).is_err_and(|said| said.contains("86400000")),
                "{wrong:?} is no duration"
            );
        }
        assert!(parse_positive_duration("0s").is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_more_than_an_error(text in "\\PC{0,40}") {
            let _ = (parse_address(&text), parse_duration(&text), parse_milliseconds(&text));
        }
    }
}
