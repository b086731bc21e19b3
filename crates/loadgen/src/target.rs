//! What is measured: `http://HOST/PATH`, `https://...`, `udp://HOST:PORT`, `tcp://HOST:PORT`.

use std::fmt;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::time::Duration;

/// How to talk to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// Datagrams that come back as they were sent.
    Udp,
    /// Connect and read until the end of file.
    Tcp,
}

impl Scheme {
    /// As it stands in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Udp => "udp",
            Scheme::Tcp => "tcp",
        }
    }
}

/// A target as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How to talk to it.
    pub scheme: Scheme,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// HTTP: path and query; `/` when none was given. It may hold `{{templates}}`.
    pub path: String,
}

/// Why a text is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// No scheme that is known.
    #[error(
        "{0:?} is not a target: write http://HOST/PATH, https://HOST/PATH, udp://HOST:PORT, tcp://HOST:PORT or a scenario.toml"
    )]
    Scheme(String),
    /// The host is missing or holds what no host holds.
    #[error("{0:?} has no usable host: write SCHEME://HOST:PORT")]
    Host(String),
    /// The port is missing or no number from 1 to 65535.
    #[error("{0:?} has no usable port: write SCHEME://HOST:PORT with a port from 1 to 65535")]
    Port(String),
    /// A path where there can be none, or a character that may not stand in one.
    #[error("{0:?} has a path that cannot be used: leave out control characters, and give udp and tcp none")]
    Path(String),
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let whole = || text.to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| BadTarget::Scheme(whole()))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "udp" => Scheme::Udp,
            "tcp" => Scheme::Tcp,
            _ => return Err(BadTarget::Scheme(whole())),
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(|| BadTarget::Host(whole()))?;
                if !after.is_empty() && !after.starts_with(':') {
                    return Err(BadTarget::Port(whole()));
                }
                (host, after.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:%".contains(&b);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(BadTarget::Host(whole()));
        }
        let port = match (port, scheme) {
            // Digits: the parser of numbers would take a sign.
            (Some(port), _) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port != 0)
            }
            (Some(_), _) => None,
            (None, Scheme::Http) => Some(80),
            (None, Scheme::Https) => Some(443),
            (None, _) => None,
        };
        let port = port.ok_or_else(|| BadTarget::Port(whole()))?;
        let path = path.split('#').next().unwrap_or("");
        let datagrams_or_lines = matches!(scheme, Scheme::Udp | Scheme::Tcp);
        if datagrams_or_lines && !matches!(path, "" | "/") || path.chars().any(char::is_control) {
            return Err(BadTarget::Path(whole()));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { scheme, host: host.to_owned(), port, path })
    }
}

impl Target {
    /// HOST, or HOST:PORT when the port is not the scheme's own: what goes into a Host header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if matches!(self.scheme, Scheme::Http | Scheme::Https) { self.path.as_str() } else { "" };
        write!(f, "{}://{}{path}", self.scheme.name(), self.authority())
    }
}

/// An address of `host`. A name may have several, of which not all need answer: the first that takes a connection is the
/// one, or the first of all where none does (`datagrams`: there is no connection to take).
///
/// # Errors
/// A host that is unknown; the sentence says what to check.
pub fn answering(host: &str, port: u16, datagrams: bool) -> anyhow::Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|e| anyhow::anyhow!("cannot resolve {host:?} ({e}): check the name, or give an IP address"))?
        .collect();
    let found = if datagrams { addresses.first().copied() } else { first_answering(&addresses) };
    found.ok_or_else(|| anyhow::anyhow!("{host:?} has no address: give an IP address"))
}

/// The first of `addresses` that takes a connection, or the first of all. One alone is not asked: a server that counts its
/// connections would count one more.
fn first_answering(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    /// Longer than a machine that is there takes.
    const PATIENCE: Duration = Duration::from_secs(1);
    let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, PATIENCE).is_ok();
    let found = if addresses.len() > 1 { addresses.iter().find(answers) } else { None };
    found.or(addresses.first()).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets() {
        let target = |text: &str| text.parse::<Target>().unwrap().to_string();
        assert_eq!(target("http://localhost"), "http://localhost/");
        assert_eq!(target("http://[::1]:81/a?b=c#d"), "http://[::1]:81/a?b=c");
        assert_eq!(target("http://h?q"), "http://h/?q");
        assert_eq!(target("HTTP://h/ä b"), "http://h/ä b");
        assert_eq!(target("udp://127.0.0.1:2000"), "udp://127.0.0.1:2000");
        let wrong = [
            "",
            "localhost",
            "ftp://h",
            "http://",
            "http://h:0",
            "http://h:x",
            "udp://h",
            "udp://h:1/x",
            "http://a b/",
            "http://[::1]18080",
            "http://h:+80/",
            "http://h/\n",
        ];
        for text in wrong {
            assert!(text.parse::<Target>().is_err(), "{text:?} was taken for a target");
        }
    }

    #[test]
    fn of_several_addresses_one_that_answers_is_taken() {
        let open = std::net::TcpListener::bind("127.0.95.1:0").unwrap();
        let listens = open.local_addr().unwrap();
        let silent = SocketAddr::new("127.0.95.2".parse().unwrap(), listens.port());
        assert_eq!(first_answering(&[silent, listens]), Some(listens));
        assert_eq!(first_answering(&[silent, silent]), Some(silent), "none answers: the first");
        assert_eq!(first_answering(&[]), None);
    }

    proptest! {
        /// R23: no text makes the parser panic, and a target is the same when read back.
        #[test]
        fn any_text_is_a_target_or_an_error(text in "\\PC{0,24}|(http|udp|tcp)://[a-z0-9:\\[\\]/?%.#]{0,20}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
            }
        }
    }
}
