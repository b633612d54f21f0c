//! System calls: sockets of netlink, taps, namespaces, addresses, a child's life.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// How long the kernel may take for an answer, in seconds.
const ANSWER_WITHIN: libc::time_t = 10;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn own(result: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the kernel just made this descriptor, and nobody else has it.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Bytes that a netlink socket holds in each direction. The rules of a firewall are one message and as many answers: of the
/// most nodes a third of a MiB, and with the kernel's own notes on each answer half of one.
const HELD: libc::c_int = 4 << 20;

/// Has the kernel kill the program of `command` when the thread that starts it ends, however it ends.
pub fn ends_with_this_thread(command: &mut Command) -> &mut Command {
    // SAFETY: prctl is async-signal-safe, and the closure touches no memory of the parent.
    unsafe { command.pre_exec(|| check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map(drop)) }
}

/// A netlink socket of this protocol.
pub(crate) fn netlink_socket(protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket has no preconditions.
    let socket = own(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) })?;
    set(&socket, libc::SO_RCVTIMEO, libc::timeval { tv_sec: ANSWER_WITHIN, tv_usec: 0 })?;
    // Others than root may not: they are refused later, and told why.
    let _ = set(&socket, libc::SO_SNDBUFFORCE, HELD);
    let _ = set(&socket, libc::SO_RCVBUFFORCE, HELD);
    Ok(socket)
}

/// Sets an option of a socket, whose value has this type.
fn set<T: Copy>(socket: &OwnedFd, option: libc::c_int, value: T) -> io::Result<()> {
    let (length, value) = (mem::size_of::<T>() as libc::socklen_t, &raw const value);
    // SAFETY: the kernel reads at most `length` bytes there, which `value` has.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value.cast(), length) }).map(drop)
}

/// Sends bytes in one piece.
pub(crate) fn send_bytes(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: `bytes` is readable for its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one piece.
pub(crate) fn receive_bytes(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is writable for its length.
    let count = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Leaves the node's network for a new one without anything in it: the calling thread, and no other.
pub(crate) fn leave_network() -> io::Result<()> {
    // SAFETY: unshare has no preconditions.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// `struct ifreq` as far as a tap needs it.
#[repr(C)]
struct TapRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const IFF_TAP: libc::c_short = 0x0002;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
/// `_IOW('T', 202, int)`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Makes a tap of this name in this process's network.
pub(crate) fn make_tap(name: &str) -> io::Result<OwnedFd> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request =
        TapRequest { name: [0; libc::IFNAMSIZ], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    let room = libc::IFNAMSIZ - 1;
    for (to, from) in request.name[..room].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: TUNSETIFF reads and writes one ifreq of 40 bytes, which `request` is.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF as libc::Ioctl, &raw mut request) })?;
    Ok(tun.into())
}

/// The number of an interface in this process's network.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name ends with NUL.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// The longest packet, in bytes, that goes from here to `peer`, as far as this node knows.
pub(crate) fn mtu_towards(local: Ipv4Addr, peer: Ipv4Addr) -> io::Result<u32> {
    let socket = std::net::UdpSocket::bind((local, 0))?;
    // Nothing is sent.
    socket.connect((peer, 9))?;
    let mut mtu: libc::c_int = 0;
    let mut length = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option writes one int, which `mtu` is.
    check(unsafe {
        let value = (&raw mut mtu).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU, value, &raw mut length)
    })?;
    Ok(u32::try_from(mtu).unwrap_or(0))
}

/// The IPv4 addresses of this process's network with their interfaces.
pub(crate) fn addresses() -> io::Result<Vec<(String, Ipv4Addr)>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs writes the pointer to a list, which freeifaddrs below takes.
    check(unsafe { libc::getifaddrs(&raw mut list) })?;
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: an element of the list, which is not freed yet.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        if entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: not null: every address begins with its family; one of AF_INET is a sockaddr_in, read without regard
        // to alignment.
        let address = unsafe {
            (i32::from((*entry.ifa_addr).sa_family) == libc::AF_INET)
                .then(|| entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned())
        };
        if let Some(address) = address {
            // SAFETY: the name of an element is a text that ends with NUL.
            let name = unsafe { std::ffi::CStr::from_ptr(entry.ifa_name) };
            let address = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            found.push((name.to_string_lossy().into_owned(), address));
        }
    }
    // SAFETY: the list of getifaddrs, once.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_program_does_not_outlive_who_has_started_it() {
        let started = std::thread::spawn(|| ends_with_this_thread(Command::new("sleep").arg("600")).spawn());
        let mut child = started.join().unwrap().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
