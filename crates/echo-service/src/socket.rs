//! The server's socket: bound with a clear error, and asked at the end what the kernel dropped.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use nix::sys::socket::{SockaddrStorage, setsockopt, sockopt};

use crate::limits::explain;

/// Binds `wanted` with `bind`; returns the socket and the address that the kernel gave it, or a sentence with a
/// next step.
pub(crate) fn bind(
    wanted: SocketAddr,
    bind: impl FnOnce(SocketAddr) -> io::Result<UdpSocket>,
) -> Result<(UdpSocket, SocketAddr), String> {
    let bound = bind(wanted).and_then(|socket| Ok((socket.local_addr()?, socket)));
    match bound {
        Ok((address, socket)) => Ok((socket, address)),
        Err(error) => Err(format!("cannot listen on {wanted}: {}", next_step(&error, wanted))),
    }
}

/// Asks for buffers of `send` and `receive` bytes; `None` leaves the kernel's. The kernel keeps its own bounds
/// (socket(7)), and reports no error when it grants less.
pub(crate) fn size_buffers(
    socket: &UdpSocket,
    send: Option<usize>,
    receive: Option<usize>,
) -> nix::Result<()> {
    if let Some(bytes) = send {
        setsockopt(socket, sockopt::SndBuf, &bytes)?;
    }
    if let Some(bytes) = receive {
        setsockopt(socket, sockopt::RcvBuf, &bytes)?;
    }
    Ok(())
}

/// What went wrong when `wanted` was bound, and what to do about it.
pub fn next_step(error: &io::Error, wanted: SocketAddr) -> String {
    let mut any = wanted;
    any.set_port(0);
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "the address is in use: end the program that has it, or choose another port ({any} lets the kernel \
             choose)"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "permission denied, as for ports below 1024: choose a higher one ({any} lets the kernel choose)"
        ),
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address: `ip address` lists those it has".to_owned()
        }
        _ => match explain(error) {
            unexplained if unexplained == error.to_string() => format!(
                "{unexplained}: choose another address, for example 127.0.0.1:0, where the kernel chooses the port"
            ),
            explained => explained,
        },
    }
}

/// Whether only this host can reach `address`. An IPv4 address mapped into IPv6 counts as IPv4.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// `address` as a client on this host would write it: loopback in place of a wildcard.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let port = address.port();
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, port).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, port).into(),
        _ => address,
    }
}

/// The address that recvmsg(2) or recvmmsg(2) wrote beside a datagram.
///
/// # Errors
///
/// The kernel wrote none of UDP, which it never does.
pub fn peer_of(address: Option<&SockaddrStorage>) -> io::Result<SocketAddr> {
    let v4 = address.and_then(SockaddrStorage::as_sockaddr_in).map(|v4| SocketAddrV4::from(*v4).into());
    let v6 = || address.and_then(SockaddrStorage::as_sockaddr_in6).map(|v6| SocketAddrV6::from(*v6).into());
    v4.or_else(v6).ok_or_else(|| io::Error::other("a datagram came without the address of its peer"))
}

/// The IP address as nc(1) takes it: without brackets, with the interface of a link-local one.
pub(crate) fn host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => address.ip().to_string(),
    }
}

/// How often the table of sockets is read before the socket counts as not listed.
const TRIES: u32 = 50;

/// What the kernel says of a socket's receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveBuffer {
    /// What the datagrams in it take, in bytes: more than they carry, since the kernel counts its own structures.
    pub used: u64,
    /// How many datagrams it had no room for.
    pub dropped: u64,
}

/// How many datagrams the socket's receive buffer had no room for, or `None` where that cannot be read.
pub fn kernel_drops(socket: &UdpSocket) -> Option<u64> {
    Some(receive_buffer(socket)?.dropped)
}

/// The state of the socket's receive buffer, from `/proc/net/udp` (proc(5)), or `None` where that cannot be read.
pub fn receive_buffer(socket: &UdpSocket) -> Option<ReceiveBuffer> {
    let descriptor = OwnedFd::from(socket.try_clone().ok()?);
    let inode = File::from(descriptor).metadata().ok()?.ino();
    let table = match socket.local_addr().ok()? {
        SocketAddr::V4(_) => "/proc/net/udp",
        SocketAddr::V6(_) => "/proc/net/udp6",
    };
    // The kernel hands the table out a page at a time and finds its place again by counting rows: when other
    // sockets close meanwhile, it skips some. A row that is missing may be there the next time.
    (0..TRIES).find_map(|_| row_of(&fs::read_to_string(table).ok()?, inode))
}

/// What stands in the row whose tenth column is `inode`: the fifth is `tx_queue:rx_queue`, the last counts drops.
fn row_of(table: &str, inode: u64) -> Option<ReceiveBuffer> {
    let inode = inode.to_string();
    let row = table.lines().skip(1).find(|row| row.split_whitespace().nth(9) == Some(&inode))?;
    let (_, used) = row.split_whitespace().nth(4)?.split_once(':')?;
    let dropped = row.split_whitespace().last()?.parse().ok()?;
    Some(ReceiveBuffer { used: u64::from_str_radix(used, 16).ok()?, dropped })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;

    #[test]
    fn finds_the_row_of_the_inode() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            \x20 123: 0100007F:07D0 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0\n\
            \x20 124: 0100007F:07D1 00000000:0000 07 00000000:00034000 00:00000000 00000000     0        0 4712 2 0000000000000000 42\n";
        assert_eq!(row_of(table, 4712), Some(ReceiveBuffer { used: 0x34000, dropped: 42 }));
        assert_eq!(row_of(table, 4711), Some(ReceiveBuffer { used: 0, dropped: 0 }));
        assert_eq!(row_of(table, 42), None);
    }

    #[test]
    fn buffers_are_what_was_asked_for() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
        let ours = |socket| (getsockopt(socket, sockopt::SndBuf), getsockopt(socket, sockopt::RcvBuf));
        let before = ours(&socket);
        size_buffers(&socket, None, None).expect("nothing to do");
        assert_eq!(ours(&socket), before);
        size_buffers(&socket, Some(10_000), Some(20_000)).expect("buffers");
        assert_eq!(ours(&socket), (Ok(20_000), Ok(40_000)), "the kernel doubles what is asked");
    }

    #[test]
    fn the_kernel_knows_a_fresh_socket() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have no IPv6.
            if let Ok(socket) = UdpSocket::bind(address) {
                assert_eq!(kernel_drops(&socket), Some(0), "a fresh socket on {address}");
            }
        }
    }

    #[test]
    fn the_row_is_found_while_other_sockets_come_and_go() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    // Hundreds of them, so that the table has more than one page.
                    drop((0..200).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Vec<_>>());
                }
            });
            let found = (0..200).filter(|_| kernel_drops(&socket) == Some(0)).count();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(found, 200);
        });
    }
}
