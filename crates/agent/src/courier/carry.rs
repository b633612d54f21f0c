//! The courier's life: one thread, one poll loop. It never touches a share, and waits for nothing but its descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{readv, writev};
use nix::unistd::{Pid, read, write};

use proto::files::{Decoder, Header, Hello, UsableSlots, init_reply, kind};

use super::birth::Kept;
use super::control::{Control, Order};
use super::outbox::Outbox;
use super::request::{self, HEAD, REST, Way};
use super::slots::Slots;
use crate::kmsg;

/// Requests of one share before the others get their turn.
const TURN: usize = 32;

/// Bytes that QEMU hands to the guest at a time: a shorter read was the last.
const PIECE: usize = 4096;

/// Runs until the agent dies.
pub(super) fn run(port: OwnedFd, control: Control, kept: &Kept) {
    kept.settle([&port, &control.as_fd()]);
    let slots = Slots::make().map_err(|errno| kmsg::note(&format!("no slots for bulk data: {}", errno.desc()))).ok();
    let mut courier = Carrier {
        port: Some(port),
        control,
        shares: Vec::new(),
        decoder: Decoder::new(),
        outbox: Outbox::default(),
        slots,
        spare: vec![0; REST],
        session: 0,
        is_greeted: false,
        waits_for_host: 0,
        drain: None,
    };
    while courier.turn().is_some() {}
}

struct Carrier {
    /// `None` after its host side has gone.
    port: Option<OwnedFd>,
    control: Control,
    /// Descriptors of `/dev/fuse`, by the number of their share.
    shares: Vec<Option<OwnedFd>>,
    decoder: Decoder,
    outbox: Outbox,
    slots: Option<Slots>,
    /// Where a request is read to if no slot is free.
    spare: Vec<u8>,
    session: u64,
    /// The host has answered this session's HELLO.
    is_greeted: bool,
    /// Requests that the host has not answered.
    waits_for_host: usize,
    /// The order to answer when it has.
    drain: Option<u32>,
}

impl Carrier {
    /// Does all that can be done and sleeps until there is more; `None` when the agent has died.
    fn turn(&mut self) -> Option<()> {
        self.flush();
        let ready = self.wait();
        if ready.control {
            while let Some((number, order, fd)) = self.control.receive().ok()? {
                self.obey(number, order, fd);
            }
        }
        if ready.port {
            self.receive();
        }
        for share in ready.shares {
            self.collect(share);
        }
        if let Some(number) = self.drain {
            (0..self.shares.len()).for_each(|share| self.collect(share));
            if self.waits_for_host == 0 && self.outbox.is_empty() {
                self.drain = None;
                self.control.done(number);
            }
        }
        Some(())
    }

    fn wait(&self) -> Ready {
        let takes_more = self.outbox.has_room();
        let mut set = vec![PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        if let Some(port) = &self.port {
            let mut wanted = PollFlags::POLLIN;
            wanted.set(PollFlags::POLLOUT, !self.outbox.is_empty());
            set.push(PollFd::new(port.as_fd(), wanted));
        }
        let first = set.len();
        let open = || self.shares.iter().enumerate().filter_map(|(number, fd)| Some((number, fd.as_ref()?)));
        if takes_more {
            set.extend(open().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        }
        // An interrupted poll only looks once more.
        let _ = poll(&mut set, PollTimeout::NONE);
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_none_or(|events| events.intersects(!PollFlags::POLLOUT));
        let shares = open().zip(&set[first..]).filter(|(_, fd)| is_ready(fd)).map(|((number, _), _)| number).collect();
        Ready { control: is_ready(&set[0]), port: first > 1 && is_ready(&set[1]), shares }
    }

    fn obey(&mut self, number: u32, order: Order, fd: Option<OwnedFd>) {
        // An agent that gives another order does not wait for this any more.
        self.drain = None;
        match order {
            Order::Begin(session) => self.begin(session),
            Order::Serve(share) => {
                if let Some(fd) = fd {
                    self.serve(share.into(), fd);
                }
            }
            Order::KillAll => {
                // Every process but PID 1, this one and the kernel's threads. ESRCH: there is no such process.
                let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            }
            Order::Drain => {
                self.drain = Some(number);
                return;
            }
            Order::End => self.close(),
        }
        self.control.done(number);
    }

    /// Begins a session: the host's bytes of before are stale, and a clone has another host than its template.
    fn begin(&mut self, session: u64) {
        self.close();
        self.session = session;
        self.decoder.resynchronise();
        Hello::new(session).encode(kind::HELLO, self.outbox.bytes());
        if let Some(slots) = &mut self.slots {
            slots.set_usable(0);
            slots.announced().encode(self.outbox.bytes());
        }
    }

    /// Closing the last descriptor ends a mount's connection, and all that wait for it.
    fn close(&mut self) {
        self.shares.clear();
        self.outbox.clear();
        self.is_greeted = false;
        self.waits_for_host = 0;
    }

    /// Takes a share over, and answers its first request: afterwards the mount is as it will stay.
    fn serve(&mut self, share: usize, fd: OwnedFd) {
        if self.shares.len() <= share {
            self.shares.resize_with(share + 1, || None);
        }
        self.shares[share] = Some(fd);
        self.collect(share);
    }

    /// Sends what the port takes now.
    fn flush(&mut self) {
        let Some(port) = &self.port else { return self.outbox.clear() };
        while !self.outbox.is_empty() {
            match write(port, self.outbox.pending()) {
                Ok(sent) => self.outbox.advance(sent),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => return self.lose_host(),
            }
        }
    }

    /// The host ends the VM when its file server ends; until then requests wait.
    fn lose_host(&mut self) {
        self.port = None;
    }

    /// Passes on what the host has sent.
    fn receive(&mut self) {
        for _ in 0..TURN {
            let Some(port) = &self.port else { return };
            let n = match read(port, self.decoder.space()) {
                Ok(0) => return self.lose_host(),
                Ok(n) => n,
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(_) => return self.lose_host(),
            };
            self.decoder.filled(n);
            self.deliver();
            if n < PIECE {
                return;
            }
        }
    }

    fn deliver(&mut self) {
        let mut decoder = std::mem::take(&mut self.decoder);
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    kmsg::note(&format!("the file server: {error}"));
                    continue;
                }
            };
            let Header { kind, share, slot, data } = frame.header;
            match kind {
                kind::HELLO_REPLY if Hello::parse(frame.payload).is_ok_and(|hello| hello.nonce == self.session) => {
                    self.is_greeted = true;
                }
                kind::HELLO_REPLY => {
                    self.is_greeted = false;
                    decoder.resynchronise();
                }
                _ if !self.is_greeted => {}
                kind::SLOTS_REPLY => {
                    if let (Some(slots), Ok(UsableSlots(usable))) = (&mut self.slots, UsableSlots::parse(frame.payload))
                    {
                        slots.set_usable(usable);
                    }
                }
                kind::REPLY => self.reply(share, slot, data, frame.payload),
                kind::NOTIFY if request::is_harmless(frame.payload) => {
                    // ENOENT: the kernel does not know this node any more.
                    let _ = self.share(share).map(|fd| write(fd, frame.payload));
                }
                _ => {}
            }
        }
        self.decoder = decoder;
    }

    fn share(&self, number: u16) -> Option<&OwnedFd> {
        self.shares.get(usize::from(number))?.as_ref()
    }

    /// Gives the host's reply to the kernel.
    fn reply(&mut self, share: u16, slot: Option<u32>, data: u32, payload: &[u8]) {
        self.waits_for_host = self.waits_for_host.saturating_sub(1);
        let bulk = match (slot, &mut self.slots) {
            (Some(slot), Some(slots)) => {
                slots.give_back(slot);
                let bytes = slots.bytes(slot);
                &bytes[..(data as usize).min(bytes.len())]
            }
            _ => &[],
        };
        let Some(Some(fd)) = self.shares.get(usize::from(share)) else { return };
        // ENOENT: the process that asked has died meanwhile. ENODEV, EPERM: the mount has ended.
        if let Err(Errno::EINVAL) = writev(fd, &[IoSlice::new(payload), IoSlice::new(bulk)])
            && let Some(failure) = request::failure_of(payload)
        {
            kmsg::note("the kernel refuses a reply of the file server");
            let _ = write(fd, &failure);
        }
    }

    /// Takes the kernel's requests for a share, as many as there are or as fit.
    fn collect(&mut self, share: usize) {
        for _ in 0..TURN {
            if !self.outbox.has_room() {
                return;
            }
            let Some(Some(fd)) = self.shares.get(share) else { return };
            let slot = self.slots.as_mut().and_then(Slots::take);
            let rest: &mut [u8] = match (slot, &mut self.slots) {
                (Some(slot), Some(slots)) => slots.bytes(slot),
                _ => &mut self.spare,
            };
            let mut head = [0; HEAD];
            let taken = readv(fd, &mut [IoSliceMut::new(&mut head), IoSliceMut::new(rest)]);
            let used = match taken {
                Ok(len) => self.forward(share, len, &head, slot),
                Err(_) => false,
            };
            if let (Some(slot), Some(slots), false) = (slot, &mut self.slots, used) {
                slots.give_back(slot);
            }
            match taken {
                // ENOENT: the process that asked is gone already.
                Ok(_) | Err(Errno::EINTR | Errno::ENOENT) => {}
                Err(Errno::EAGAIN) => return,
                // ENODEV: nobody can reach this mount any more.
                Err(_) => {
                    self.shares[share] = None;
                    return;
                }
            }
        }
    }

    /// Sends a request of `len` bytes on, whose part behind the head lies in `slot` or in the spare buffer. Says whether the
    /// slot is the host's now.
    fn forward(&mut self, share: usize, len: usize, head: &[u8; HEAD], slot: Option<u32>) -> bool {
        let (first, behind) = (len.min(HEAD), len.saturating_sub(HEAD));
        let rest: &[u8] = match (slot, &mut self.slots) {
            (Some(slot), Some(slots)) => slots.bytes(slot),
            _ => &self.spare,
        };
        let rest = &rest[..behind.min(rest.len())];
        let way = request::way(head, len);
        if way == Way::Init {
            let Some(Some(fd)) = self.shares.get(share) else { return false };
            match init_reply(&[&head[..first], rest].concat()) {
                Ok(reply) => drop(write(fd, &reply)),
                Err(error) => {
                    kmsg::note(&error.to_string());
                    // The mount ends: whoever looks there gets an error.
                    self.shares[share] = None;
                }
            }
            return false;
        }
        let slot = slot.filter(|_| way != Way::Plain);
        let data = if slot.is_some() { behind as u32 } else { 0 };
        let header = Header { kind: kind::REQUEST, share: share as u16, slot, data };
        self.outbox.push(header, &head[..first], if slot.is_some() { &[] } else { rest });
        self.waits_for_host += usize::from(request::is_answered(head));
        slot.is_some()
    }
}

/// What ended a sleep.
struct Ready {
    control: bool,
    port: bool,
    shares: Vec<usize>,
}
