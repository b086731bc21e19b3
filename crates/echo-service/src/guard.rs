//! The loop guard: which sources are never answered.
//!
//! Two echo servers and one datagram with a forged source make an endless exchange, and one server whose
//! own address is forged needs no partner (CERT CA-1996-01, CVE-1999-0103, CVE-2024-2169). The guard
//! refuses the sources that other servers of this kind refuse, and the ports that this project's own
//! servers use. It is on for loopback too, because that is where two rungs meet.

use std::net::{IpAddr, SocketAddr};

/// Why a datagram is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Port 0 cannot be answered.
    PortZero,
    /// The source is the server's own address.
    OwnAddress,
    /// The source has the server's port number: the same server on another address or host.
    SamePort,
    /// A port below 1024: chargen, daytime, DNS and other services that answer.
    LowPort,
    /// A port from 2000 to 2009, where this project's servers listen.
    ProjectPort,
    /// A multicast, broadcast or unspecified source, which no honest sender has.
    NotUnicast,
}

impl Refusal {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 6] = [
        Self::PortZero,
        Self::OwnAddress,
        Self::SamePort,
        Self::LowPort,
        Self::ProjectPort,
        Self::NotUnicast,
    ];

    /// The name under which it is counted in the summary.
    pub fn key(self) -> &'static str {
        match self {
            Self::PortZero => "port_zero",
            Self::OwnAddress => "self",
            Self::SamePort => "same_port",
            Self::LowPort => "low_port",
            Self::ProjectPort => "project_port",
            Self::NotUnicast => "not_unicast",
        }
    }

    /// What to tell a person.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::PortZero => "port 0 cannot be answered",
            Self::OwnAddress => "it claims to come from this server itself",
            Self::SamePort => "its port is this server's own, so it may be the same echo elsewhere",
            Self::LowPort => "a service on a port below 1024 may answer an answer",
            Self::ProjectPort => "ports 2000 to 2009 are where other echoes of this project listen",
            Self::NotUnicast => "its address is not that of one host",
        }
    }
}

/// Why the server at `local` must not answer a datagram from `source`, or `None` if it may. The first
/// reason in the order of [`Refusal::ALL`] counts.
#[inline]
pub fn refusal(source: SocketAddr, local: SocketAddr) -> Option<Refusal> {
    let port = source.port();
    // One comparison lets nearly every honest datagram pass: clients have ports that the kernel chose.
    let (ip, own_port) = (source.ip().to_canonical(), local.port());
    if port > 2009 && port != own_port && is_unicast(ip) {
        return None;
    }
    if port == 0 {
        Some(Refusal::PortZero)
    } else if port == own_port {
        Some(if ip == local.ip().to_canonical() { Refusal::OwnAddress } else { Refusal::SamePort })
    } else if port < 1024 {
        Some(Refusal::LowPort)
    } else if (2000..=2009).contains(&port) {
        Some(Refusal::ProjectPort)
    } else if !is_unicast(ip) {
        Some(Refusal::NotUnicast)
    } else {
        None
    }
}

/// Whether `ip` can be the address of one host. 0.0.0.0/8 is "this network" (RFC 1122, 3.2.1.3).
fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && ip.octets()[0] != 0,
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, local: &str) -> Option<&'static str> {
        let address = |text: &str| text.parse::<SocketAddr>().expect("the table holds addresses");
        refusal(address(source), address(local)).map(Refusal::key)
    }

    #[test]
    fn first_reason_counts() {
        let local = "127.0.0.1:2000";
        for (source, expected) in [
            ("127.0.0.1:0", Some("port_zero")),
            ("255.255.255.255:0", Some("port_zero")),
            ("127.0.0.1:2000", Some("self")),
            ("[::ffff:127.0.0.1]:2000", Some("self")),
            ("127.0.0.2:2000", Some("same_port")),
            ("10.0.0.1:2000", Some("same_port")),
            ("127.0.0.1:1", Some("low_port")),
            ("127.0.0.1:53", Some("low_port")),
            ("127.0.0.1:1023", Some("low_port")),
            ("224.0.0.1:53", Some("low_port")),
            ("127.0.0.1:1024", None),
            ("127.0.0.1:1999", None),
            ("127.0.0.1:2001", Some("project_port")),
            ("127.0.0.1:2009", Some("project_port")),
            ("127.0.0.1:2010", None),
            ("224.0.0.1:5000", Some("not_unicast")),
            ("239.255.255.255:5000", Some("not_unicast")),
            ("255.255.255.255:5000", Some("not_unicast")),
            ("0.0.0.0:5000", Some("not_unicast")),
            ("0.1.2.3:5000", Some("not_unicast")),
            ("[::ffff:224.0.0.1]:5000", Some("not_unicast")),
            ("[::]:5000", Some("not_unicast")),
            ("[ff02::1]:5000", Some("not_unicast")),
            ("[::1]:5000", None),
            ("127.0.0.1:65535", None),
            ("192.0.2.7:5000", None),
        ] {
            assert_eq!(check(source, local), expected, "source {source} at {local}");
        }
    }

    #[test]
    fn own_port_counts_wherever_the_kernel_put_the_server() {
        let local = "127.0.0.1:40000";
        for port in 32_768..=60_999 {
            let expected = (port == 40_000).then_some("self");
            assert_eq!(check(&format!("127.0.0.1:{port}"), local), expected, "source port {port}");
        }
    }

    #[test]
    fn low_server_port_is_still_its_own() {
        assert_eq!(check("127.0.0.1:7", "127.0.0.1:7"), Some("self"));
        assert_eq!(check("127.0.0.2:7", "127.0.0.1:7"), Some("same_port"));
    }
}
