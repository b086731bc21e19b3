//! Addresses: one for a program that must be told, and those that a program tells.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// An address for a server that cannot be asked which port the kernel chose: a port of 127.0.0.1 that is free
/// now, below those that the kernel hands out by itself. Another process may take it before the server does; the
/// server then says that it is in use.
pub fn free_address() -> SocketAddr {
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(10_000..32_000)));
        // It is free again when the socket goes out of scope.
        if UdpSocket::bind((Ipv4Addr::UNSPECIFIED, address.port())).is_ok() {
            return address;
        }
    }
}

/// Whether a command says where its address goes: `{addr}`, or `{port}` with or without `{host}`.
pub fn takes_address(command: &[String]) -> bool {
    command.iter().any(|word| word.contains("{addr}") || word.contains("{port}"))
}

/// The command with `{addr}`, `{host}` and `{port}` filled in.
pub(crate) fn fill_in(command: &[String], address: SocketAddr) -> Vec<String> {
    let filled = |word: &String| {
        word.replace("{addr}", &address.to_string())
            .replace("{host}", &address.ip().to_string())
            .replace("{port}", &address.port().to_string())
    };
    command.iter().map(filled).collect()
}

/// What a program that runs until a signal says first: `NAME: listening on ADDRESS ...` or `NAME: waiting ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Name of the program.
    pub program: String,
    /// Where it listens; several for a program with several sockets, none for one that only waits.
    pub addresses: Vec<SocketAddr>,
}

impl Greeting {
    /// Reads the line; `None` when it is no greeting.
    pub fn parse(line: &str) -> Option<Self> {
        let (program, rest) = line.split_once(": ")?;
        let addresses = match rest.strip_prefix("listening on ") {
            Some(places) => Some(addresses(places)).filter(|found| !found.is_empty())?,
            None => rest.starts_with("waiting").then(Vec::new)?,
        };
        Some(Greeting { program: program.to_owned(), addresses })
    }
}

/// Socket addresses that stand in a line; `A to B` stands for all ports between them as well.
fn addresses(line: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    let mut range = false;
    for word in line.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')')) {
        if let Ok(address) = word.parse::<SocketAddr>() {
            if let Some(first) = found.last().filter(|_| range).copied() {
                let between = first.port().saturating_add(1)..address.port();
                found.extend(between.map(|port| SocketAddr::new(first.ip(), port)));
            }
            found.push(address);
        }
        range = word == "to";
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in() {
        let words = ["a{addr}".to_owned(), "{host}:{port}".to_owned(), "b".to_owned()];
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 4711));
        assert_eq!(fill_in(&words, address), ["a127.0.0.1:4711", "127.0.0.1:4711", "b"]);
        assert!(takes_address(&words) && !takes_address(&words[2..]));
    }

    #[test]
    fn addresses_are_read_from_a_greeting() {
        assert_eq!(
            addresses("127.0.0.1:2000  (try: nc -u 127.0.0.1 2000)"),
            ["127.0.0.1:2000".parse().expect("an address")]
        );
        assert_eq!(addresses("[::1]:7, 127.0.0.1:8").len(), 2);
        assert_eq!(addresses("127.0.0.1:2000 to 127.0.0.1:2009  (try: nc -u 127.0.0.1 2000)").len(), 10);
        assert!(addresses("nothing").is_empty());
    }

    #[test]
    fn a_greeting_names_the_program() {
        let greeting =
            Greeting::parse("echo-x: listening on [::1]:7  (try: nc -u ::1 7)").expect("a greeting");
        assert_eq!((greeting.program.as_str(), greeting.addresses.len()), ("echo-x", 1));
        assert!(
            Greeting::parse("mio-empty: waiting in epoll_wait").is_some_and(|it| it.addresses.is_empty())
        );
        for other in ["", "hello", "echo-x: listening on nothing", "error: no such file"] {
            assert_eq!(Greeting::parse(other), None, "{other:?}");
        }
    }
}
