//! Signals as events, and dying by one.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that are not passed on: those that cannot be caught, those by which the kernel reports a
/// fault of this process, and those about its own children, pipes and terminal.
const OWN: [i32; 11] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGCHLD,
    libc::SIGPIPE,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// A signal by its number: the real-time ones have no names.
pub type Signal = u8;

/// Highest signal number of Linux.
const LAST: i32 = 64;

/// The signals of the task, to be read instead of taking effect.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Starts watching. slurmstepd of some releases leaves signals blocked or caught before it
    /// starts a task (exec resets what was caught); from here on only this type decides.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn watch() -> nix::Result<Self> {
        let mask = passed_on();
        mask.thread_set_mask()?;
        Ok(Self { fd: SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// Watches for none: signals keep their usual effect.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn none() -> nix::Result<Self> {
        Ok(Self { fd: SignalFd::with_flags(&SigSet::empty(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The number of the next signal that arrived.
    pub fn next(&self) -> Option<Signal> {
        let info = self.fd.read_signal().ok().flatten()?;
        u8::try_from(info.ssi_signo).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl node::lock::Interrupt for Signals {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn next_fatal(&self) -> Option<u8> {
        std::iter::from_fn(|| self.next()).find(|&signal| is_fatal(signal))
    }
}

/// The signals that are meant for the command.
pub fn passed_on() -> SigSet {
    // sigaddset refuses the two signals that libc reserves for itself, so they are left out.
    set_of((1..=LAST).filter(|signo| !OWN.contains(signo)))
}

/// A set of signals by number.
fn set_of(signals: impl Iterator<Item = i32>) -> SigSet {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, sigaddset changes it or refuses the number.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signo in signals {
            libc::sigaddset(set.as_mut_ptr(), signo);
        }
        SigSet::from_sigset_t_unchecked(set.assume_init())
    }
}

/// Whether the signal's default action ends a process.
pub fn is_fatal(signo: Signal) -> bool {
    !matches!(i32::from(signo), libc::SIGCONT | libc::SIGTSTP | libc::SIGWINCH | libc::SIGURG)
}

/// Ends this process as the signal would have ended the command, without a core file of its own.
/// Returns only for a signal that cannot kill.
pub fn die_by(signo: Signal) {
    let signo = i32::from(signo);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: SIG_DFL installs no handler of ours. (SIGKILL and SIGSTOP refuse it and need none.)
    unsafe { libc::signal(signo, libc::SIG_DFL) };
    let _ = set_of(std::iter::once(signo)).thread_unblock();
    // SAFETY: raise only sends the signal.
    unsafe { libc::raise(signo) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_without_a_name_are_watched_too() {
        // In a thread of its own, whose mask dies with it.
        let seen = std::thread::spawn(|| {
            let signals = Signals::watch().unwrap();
            // SAFETY: raise only sends the signal, which is blocked in this thread.
            unsafe { libc::raise(libc::SIGRTMIN() + 3) };
            (signals.next(), signals.next())
        });
        assert_eq!(seen.join().unwrap(), (Some(libc::SIGRTMIN() as u8 + 3), None));
    }
}
