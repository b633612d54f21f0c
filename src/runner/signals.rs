//! Signals as events, and dying by one.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What Slurm, a terminal or a user may send to a task.
const WATCHED: [Signal; 10] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGWINCH,
];

/// The watched signals, to be read instead of taking effect.
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
        let mut mask = SigSet::empty();
        for signal in WATCHED {
            mask.add(signal);
        }
        mask.thread_set_mask()?;
        Ok(Self { fd: SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The next signal that arrived.
    pub fn next(&self) -> Option<Signal> {
        let info = self.fd.read_signal().ok().flatten()?;
        Signal::try_from(info.ssi_signo as i32).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the signal ends a process that does nothing about it.
pub fn is_fatal(signal: Signal) -> bool {
    !matches!(signal, Signal::SIGCONT | Signal::SIGTSTP | Signal::SIGWINCH)
}

/// Ends this process as the signal would have ended the command, without a core file of its own.
/// Returns only for a signal that cannot kill.
pub fn die_by(signo: u8) {
    let Ok(fatal) = Signal::try_from(i32::from(signo)) else { return };
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: SIG_DFL installs no handler of ours. (SIGKILL and SIGSTOP refuse it and need none.)
    let _ = unsafe { signal(fatal, SigHandler::SigDfl) };
    let mut mask = SigSet::empty();
    mask.add(fatal);
    let _ = mask.thread_unblock();
    let _ = raise(fatal);
}
