//! System calls that nix has no wrapper for. Each function is safe to call from anywhere.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use proto::ExitStatus;

// <linux/random.h>. Its RNDADDENTROPY carries the size of an int[2], not of the variable structure it takes.
nix::ioctl_write_ptr_bad!(rnd_add_entropy, nix::request_code_write!(b'R', 3, 8), PoolInput);
nix::ioctl_none_bad!(rnd_reseed, nix::request_code_none!(b'R', 7));
nix::ioctl_write_ptr_bad!(tty_set_size, libc::TIOCSWINSZ, libc::winsize);
// <linux/fs.h>: FITRIM.
nix::ioctl_readwrite!(file_system_trim, b'X', 121, TrimRange);
// <linux/fs.h>: FIFREEZE.
nix::ioctl_readwrite!(file_system_freeze, b'X', 119, libc::c_int);

/// `struct fstrim_range`.
#[repr(C)]
pub struct TrimRange {
    start: u64,
    len: u64,
    min_len: u64,
}

/// Maximum bytes of entropy taken at once.
pub(super) const ENTROPY_MAX: usize = 512;

/// `struct rand_pool_info` with room for its bytes.
#[repr(C)]
pub struct PoolInput {
    entropy_bits: libc::c_int,
    len: libc::c_int,
    bytes: [u8; ENTROPY_MAX],
}

/// Bytes that the agent's heap keeps from here on: enough for the description of a usual task.
const HEAP_KEPT: usize = 1 << 20;

/// Makes the heap keep its pages, so that a clone does not spend its first milliseconds on getting them again.
pub(super) fn keep_heap() {
    // SAFETY: mallopt only sets parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, HEAP_KEPT as libc::c_int);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * HEAP_KEPT as libc::c_int);
    }
    let touched = vec![1_u8; HEAP_KEPT - 4096];
    drop(std::hint::black_box(touched));
}

/// Tells the disk below a file system, of which `directory` is open, which blocks are free.
pub(super) fn trim(directory: impl AsFd) -> nix::Result<()> {
    let mut range = TrimRange { start: 0, len: u64::MAX, min_len: 0 };
    // SAFETY: the kernel reads and writes the structure, which lives until the call returns.
    unsafe { file_system_trim(directory.as_fd().as_raw_fd(), &raw mut range) }.map(drop)
}

/// Lets the file system, of which `directory` is open, stand still: everything is on its disk, and writers wait.
pub(super) fn freeze(directory: impl AsFd) -> nix::Result<()> {
    let mut level = 0;
    // SAFETY: the kernel takes the address of an integer and looks at nothing behind it.
    unsafe { file_system_freeze(directory.as_fd().as_raw_fd(), &raw mut level) }.map(drop)
}

/// Milliseconds since the guest's kernel started.
pub(super) fn uptime_ms() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    // A clock that cannot be read is no reason to stop: the marks are for benchmarks.
    now.map_or(0, |now| (now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000) as u32)
}

/// Mixes `seed` into the kernel's random generator, credits it fully and reseeds from it at once.
/// Until then all clones of one template would get the same random numbers.
pub(super) fn seed_random(random: impl AsFd, seed: &[u8]) -> nix::Result<()> {
    let seed = &seed[..seed.len().min(ENTROPY_MAX)];
    let mut input = PoolInput {
        entropy_bits: (seed.len() * 8) as libc::c_int,
        len: seed.len() as libc::c_int,
        bytes: [0; ENTROPY_MAX],
    };
    input.bytes[..seed.len()].copy_from_slice(seed);
    let fd = random.as_fd().as_raw_fd();
    // SAFETY: `input` lives through the call, and its `len` bytes are within `bytes`.
    unsafe { rnd_add_entropy(fd, &raw const input) }?;
    // SAFETY: the request takes no argument.
    match unsafe { rnd_reseed(fd) } {
        // Kernels before 4.14 cannot reseed on request; they use the seed at the next read.
        Ok(_) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Keeps the calling thread on the first `count` processors.
pub(super) fn keep_to_first(count: u16) -> nix::Result<()> {
    keep_within(&first(usize::from(count)))
}

/// A mask of the first `count` processors, which may be more than the C library's type has room for.
fn first(count: usize) -> Vec<libc::c_ulong> {
    let mut mask = vec![libc::c_ulong::MAX; count.div_ceil(BITS)];
    if let (Some(last), used @ 1..) = (mask.last_mut(), count % BITS) {
        *last >>= BITS - used;
    }
    mask
}

/// Keeps this thread on the processor of this number.
pub(super) fn keep_to(cpu: usize) -> nix::Result<()> {
    let mut mask = vec![0; cpu / BITS + 1];
    mask[cpu / BITS] |= (1 as libc::c_ulong) << (cpu % BITS);
    keep_within(&mask)
}

/// Keeps this thread on the processors whose bits are set.
fn keep_within(mask: &[libc::c_ulong]) -> nix::Result<()> {
    let bytes = size_of_val(mask);
    // SAFETY: the mask is readable for its bytes.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, mask.as_ptr()) }).map(drop)
}

/// How a thread takes its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// As all do.
    Usual,
    /// It interrupts nobody when it is woken.
    Waits,
    /// It runs only where nothing else does.
    Last,
}

/// Sets how this thread takes its turn.
pub(super) fn take_turn(turn: Turn) -> nix::Result<()> {
    let policy = match turn {
        Turn::Usual => libc::SCHED_OTHER,
        Turn::Waits => libc::SCHED_BATCH,
        Turn::Last => libc::SCHED_IDLE,
    };
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter lives through the call.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) }).map(drop)
}

/// Bits in a word of a mask of processors.
const BITS: usize = libc::c_ulong::BITS as usize;

/// Sets the size of a terminal; the kernel signals its foreground processes.
pub(super) fn set_terminal_size(terminal: BorrowedFd<'_>, rows: u16, cols: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a winsize that lives through the call.
    unsafe { tty_set_size(terminal.as_raw_fd(), &raw const size) }.map(drop)
}

/// Hands an error of the wall clock, in nanoseconds, to the kernel's control loop: it is made up for in some seconds,
/// without a jump, and the kernel learns by how much the clock is too fast or too slow.
pub(super) fn slew_clock(nanoseconds: i64) -> nix::Result<()> {
    // SAFETY: timex is a C structure of numbers, for which zero is a value.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    request.modes = libc::ADJ_OFFSET | libc::ADJ_STATUS | libc::ADJ_TIMECONST | libc::ADJ_NANO;
    // Not synchronised: otherwise the kernel would write the clock of the VM's board every eleven minutes.
    request.status = libc::STA_PLL | libc::STA_UNSYNC;
    // An eighth of what is left in each second.
    (request.constant, request.offset) = (1, nanoseconds);
    // SAFETY: `request` lives through the call, which reads and writes one timex.
    Errno::result(unsafe { libc::adjtimex(&raw mut request) }).map(drop)
}

/// A descriptor that becomes readable when `pid`, a child of ours that was not reaped yet, dies.
pub(super) fn pidfd(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_open takes a pid and flags and touches no memory.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel just made this descriptor for us, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Reaps one dead child without waiting: `pid`, or any for -1. `None` if all children are alive,
/// ECHILD if there are no children.
///
/// nix's `waitpid` fails, after it has reaped, for a child that died of a real-time signal.
pub(super) fn reap_one(pid: Pid) -> nix::Result<Option<(Pid, ExitStatus)>> {
    let mut status = 0;
    // SAFETY: waitpid writes one int, which `status` is.
    let found = Errno::result(unsafe { libc::waitpid(pid.as_raw(), &raw mut status, libc::WNOHANG) })?;
    if found == 0 {
        return Ok(None);
    }
    // Without WUNTRACED only an end is reported, so it is one of these two.
    let ended = match libc::WIFSIGNALED(status) {
        true => ExitStatus::Signal(libc::WTERMSIG(status) as u8),
        false => ExitStatus::Code(libc::WEXITSTATUS(status) as u8),
    };
    Ok(Some((Pid::from_raw(found), ended)))
}

/// Sends any signal to a process, real-time signals included, which nix has no names for. A process
/// that is gone, or a number that is no signal, is not an error.
pub(super) fn signal_process(leader: Pid, signo: u8) {
    // 0 and below would mean groups or all processes; 1 is this process.
    if leader.as_raw() > 1 {
        // SAFETY: kill touches no memory of ours.
        unsafe { libc::kill(leader.as_raw(), signo.into()) };
    }
}

/// An `ioctl` on a socket that configures the network.
pub enum Request {
    /// Up or down.
    Flags(libc::ifreq),
    /// Hardware address.
    Mac(libc::ifreq),
    /// Longest packet.
    Mtu(libc::ifreq),
    /// IPv4 address.
    Address(libc::ifreq),
    /// Its netmask.
    Netmask(libc::ifreq),
    /// IPv4 route.
    Route(libc::rtentry),
    /// IPv6 address, on a socket of that family.
    Address6(Address6),
    /// IPv6 route, on a socket of that family.
    Route6(Route6),
}

/// `struct in6_ifreq` (<linux/ipv6.h>).
#[repr(C)]
pub struct Address6 {
    address: libc::in6_addr,
    prefix: u32,
    index: libc::c_int,
}

/// Makes one change of an interface or of a route.
pub(super) fn configure(socket: BorrowedFd<'_>, request: Request) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    // SAFETY: each request reads one structure of its kind, which lives through the call.
    let result = unsafe {
        match &request {
            Request::Flags(argument) => libc::ioctl(fd, libc::SIOCSIFFLAGS as libc::Ioctl, argument),
            Request::Mac(argument) => libc::ioctl(fd, libc::SIOCSIFHWADDR as libc::Ioctl, argument),
            Request::Mtu(argument) => libc::ioctl(fd, libc::SIOCSIFMTU as libc::Ioctl, argument),
            Request::Address(argument) => libc::ioctl(fd, libc::SIOCSIFADDR as libc::Ioctl, argument),
            Request::Netmask(argument) => libc::ioctl(fd, libc::SIOCSIFNETMASK as libc::Ioctl, argument),
            Request::Route(argument) => libc::ioctl(fd, libc::SIOCADDRT as libc::Ioctl, argument),
            Request::Address6(argument) => libc::ioctl(fd, libc::SIOCSIFADDR as libc::Ioctl, argument),
            Request::Route6(argument) => libc::ioctl(fd, libc::SIOCADDRT as libc::Ioctl, argument),
        }
    };
    Errno::result(result)?;
    Ok(())
}

/// A `struct ifreq` about the interface `name`.
fn interface_named(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is a C structure of numbers and character arrays, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// A copy of `fd` with this number or a higher one, which no program inherits.
pub(super) fn clone_above(fd: impl AsFd, least: i32) -> nix::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes a descriptor that lives through the call, and a number.
    let copy = Errno::result(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: the kernel has just given this number to this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// For [`Request::Flags`]: the interface runs.
pub(super) fn interface_up(name: &str) -> libc::ifreq {
    let mut request = interface_named(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    request
}

/// For [`Request::Mac`].
pub(super) fn interface_mac(name: &str, mac: [u8; 6]) -> libc::ifreq {
    let mut request = interface_named(name);
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data };
    request
}

/// For [`Request::Mtu`].
pub(super) fn interface_mtu(name: &str, mtu: u16) -> libc::ifreq {
    let mut request = interface_named(name);
    request.ifr_ifru.ifru_mtu = mtu.into();
    request
}

/// For [`Request::Address`] and [`Request::Netmask`].
pub(super) fn interface_address(name: &str, address: [u8; 4]) -> libc::ifreq {
    let mut request = interface_named(name);
    request.ifr_ifru.ifru_addr = internet_address(address);
    request
}

/// A `struct sockaddr_in` without a port.
fn internet_address(address: [u8; 4]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..].iter_mut().zip(address) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

/// For [`Request::Route`]: everything else goes to this gateway.
pub(super) fn default_route(gateway: [u8; 4]) -> libc::rtentry {
    // SAFETY: rtentry is a C structure of numbers and a pointer that may be null, for which zero is a value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    (route.rt_dst, route.rt_genmask) = (internet_address([0; 4]), internet_address([0; 4]));
    route.rt_gateway = internet_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    route
}

/// For [`Request::Address6`]: an address of the interface with this index.
pub(super) fn address6(index: u32, address: [u8; 16], prefix: u8) -> Address6 {
    let address = libc::in6_addr { s6_addr: address };
    Address6 { address, prefix: prefix.into(), index: index as libc::c_int }
}

/// `struct in6_rtmsg` (<linux/ipv6_route.h>).
#[repr(C)]
#[derive(Default)]
pub struct Route6 {
    destination: [u8; 16],
    source: [u8; 16],
    gateway: [u8; 16],
    kind: u32,
    destination_bits: u16,
    source_bits: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    index: libc::c_int,
}

/// For [`Request::Route6`].
pub(super) fn default_route6(index: u32, gateway: [u8; 16]) -> Route6 {
    let flags = u32::from(libc::RTF_UP | libc::RTF_GATEWAY);
    Route6 { gateway, flags, metric: 1024, index: index as libc::c_int, ..Route6::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_room_for_as_many_processors_as_there_are() {
        let counted = |count: usize| first(count).iter().map(|word| word.count_ones() as usize).sum::<usize>();
        for count in [1, 63, 64, 65, 255, 1024, 1025, 1500, 8192, usize::from(u16::MAX)] {
            assert_eq!(counted(count), count);
        }
        assert_eq!(first(1500).last(), Some(&((1 << (1500 % 64)) - 1)));
        // The kernel takes a mask that is longer than its own.
        std::thread::spawn(|| keep_to_first(1500)).join().unwrap().unwrap();
    }
}
