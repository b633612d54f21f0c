//! The one place where this process sleeps while it has VMs: it waits for their messages, signals, and its users'
//! descriptors.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::channel::Listener;
use super::clock::{AwakeClock, Deadline};
use super::vm::Vm;
use crate::signals::{Signal, Signals, is_fatal};
use proto::DATA_CHUNK;

/// Descriptors of a VM: its channel and its texts.
const VM_FDS: usize = 5;

/// The data for one turn of a loop.
#[derive(Debug)]
pub struct Events<'a> {
    /// The clock for deadlines.
    pub clock: AwakeClock,
    signals: &'a Signals,
    /// A buffer for reading, kept so that it is not allocated each time.
    buffer: Box<[u8]>,
}

/// What there is to do after a sleep.
#[derive(Debug)]
pub struct Ready {
    /// Whether a signal came.
    pub signals: bool,
    /// For each of the user's own descriptors, in their order: whether something happened there.
    pub others: Vec<bool>,
    vms: Vec<VmReady>,
}

/// A VM's source of events, by the VM's place in the loop.
#[derive(Debug, Clone, Copy)]
struct VmReady {
    vm: usize,
    channel: bool,
    texts: bool,
}

impl<'a> Events<'a> {
    /// For a process that gets these signals.
    pub fn new(signals: &'a Signals) -> Self {
        Self { clock: AwakeClock::new(), signals, buffer: vec![0; DATA_CHUNK].into() }
    }

    /// Sends what waits to be sent, and sleeps until something happens, at most until the next deadline of a VM or
    /// `remind`.
    ///
    /// # Errors
    /// When the system refuses to poll.
    pub fn wait(&mut self, vms: &mut [Vm], others: &[PollFd<'_>], remind: Option<Deadline>) -> io::Result<Ready> {
        vms.iter_mut().filter(|vm| vm.wants_to_send()).for_each(Vm::flush);
        let (read, write) = (PollFlags::POLLIN, PollFlags::POLLOUT);
        let mut fds = Vec::with_capacity(1 + VM_FDS * vms.len() + others.len());
        fds.push(PollFd::new(self.signals.as_fd(), read));
        for vm in vms.iter().filter(|vm| !vm.is_over()) {
            let wanted = if vm.wants_to_send() { read | write } else { read };
            fds.push(PollFd::new(vm.channel(), wanted));
            fds.extend(vm.texts().map(|texts| PollFd::new(texts, read)));
        }
        let first_other = fds.len();
        fds.extend_from_slice(others);
        let timeout = self.clock.sleep_until(vms.iter().filter_map(Vm::deadline).chain(remind));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.clock.wake();

        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let can_be_read = |fd: &PollFd<'_>| fd.revents().is_none_or(|events| events.intersects(!write));
        let living = vms.iter().enumerate().filter(|(_, vm)| !vm.is_over()).map(|(number, _)| number);
        Ok(Ready {
            signals: is_ready(&fds[0]),
            others: fds[first_other..].iter().map(is_ready).collect(),
            vms: living
                .zip(fds[1..first_other].chunks_exact(VM_FDS))
                .map(|(vm, fds)| VmReady { vm, channel: can_be_read(&fds[0]), texts: fds[1..].iter().any(is_ready) })
                .filter(|ready| ready.channel || ready.texts)
                .collect(),
        })
    }

    /// Reads the VMs' messages, and ends those whose deadline has passed.
    pub fn receive(&mut self, ready: &Ready, vms: &mut [Vm], listener: &mut dyn Listener) {
        for VmReady { vm, channel, texts } in &ready.vms {
            let vm = &mut vms[*vm];
            if *channel {
                vm.receive(&mut self.buffer, listener);
            }
            if *texts {
                vm.read_texts();
            }
        }
        vms.iter_mut().for_each(|vm| vm.look_at_the_time(&self.clock, listener));
    }

    /// One turn for a caller that waits for nothing else.
    ///
    /// # Errors
    /// When the system refuses to poll.
    pub fn turn(&mut self, vm: &mut Vm, listener: &mut dyn Listener, remind: Option<Deadline>) -> io::Result<()> {
        let vms = std::slice::from_mut(vm);
        let ready = self.wait(vms, &[], remind)?;
        self.receive(&ready, vms, listener);
        Ok(())
    }

    /// The next signal that came.
    pub fn next_signal(&self) -> Option<Signal> {
        self.signals.next()
    }

    /// Takes all signals that came, up to the first that ends a process.
    pub fn fatal_signal(&self) -> Option<Signal> {
        std::iter::from_fn(|| self.signals.next()).find(|&signal| is_fatal(signal))
    }

    /// When it is the given time of day.
    pub fn reminder_at(&self, moment: Instant) -> Deadline {
        self.clock.reminder(moment.saturating_duration_since(Instant::now()))
    }
}

/// The number of a session: no other session of the same guest has it, because it contains the process
/// number and a `number` within this process. A template's is 0.
pub fn nonce(number: u32) -> u64 {
    u64::from(std::process::id()) << 32 | u64::from(number)
}
