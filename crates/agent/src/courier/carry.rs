//! The courier's life: a thread that hears the agent, one that hears the host, and one for each share. None of them ever
//! touches a share. Each waits in one place only, which is quicker than one that waits for everything: a poll enters and
//! leaves the queues of all, and an emulated processor that finds such a queue locked spins for a long time.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::readv;
use nix::unistd::{Pid, read, write};

use proto::files::{Absent, Ahead, Asked, Decoder, Frame, Header, Hello, UsableSlots, init_reply, kind, local_reply};

use super::birth::Kept;
use super::control::{Control, Order};
use super::held::{self, Held, Known, Watch, lock};
use super::number::Number;
use super::pipe::Pipe;
use super::place::{Place, Seat};
use super::request::{self, HEAD, REST, Way};
use super::slots::Slots;
use crate::kmsg;

/// Bytes of a thread's stack.
const STACK: usize = 128 * 1024;

/// How often to look for a host that is gone; it ends the VM before it could come back.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs until the agent dies.
pub(super) fn run(port: OwnedFd, control: Control, session: Number, kept: &Kept) {
    kept.settle([&port, &control.as_fd()]);
    // It was opened for a loop. Here each read and write waits by itself.
    let _ = fcntl(&port, FcntlArg::F_SETFL(OFlag::empty()));
    let slots = Slots::make().map_err(|errno| kmsg::note(&format!("no slots for bulk data: {}", errno.desc()))).ok();
    let all = Arc::new(All {
        place: Place::new(&port),
        port,
        sending: Mutex::default(),
        slots,
        session,
        state: Mutex::default(),
        answered: Condvar::new(),
        watch: Watch::default(),
    });
    let (host, behind) = (Arc::clone(&all), Arc::clone(&all));
    let control = Arc::new(control);
    if let Err(error) = start(move || hear_host(&host)).and_then(|()| start(move || look_after(&behind))) {
        return kmsg::note(&format!("the process that carries files has no room: {error}"));
    }
    loop {
        // An interrupted poll only looks once more.
        let _ = poll(&mut [PollFd::new(control.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        match control.receive() {
            Ok(Some((number, order, fd))) => obey(&all, &control, number, order, fd),
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

fn start(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new().stack_size(STACK).spawn(work).map(drop)
}

/// What all threads share.
pub(super) struct All {
    port: OwnedFd,
    place: Place,
    /// Held while a frame is written.
    sending: Mutex<Told>,
    slots: Option<Slots>,
    /// The session's number. Frames of another one are dropped.
    session: Number,
    state: Mutex<State>,
    /// The host owes no more answers.
    answered: Condvar,
    /// Something is held back, or was sent ahead.
    pub watch: Watch,
}

/// What the host was told of the session of this number.
#[derive(Default)]
struct Told {
    session: u64,
    slots: bool,
}

#[derive(Default)]
struct State {
    /// By their numbers.
    shares: Vec<Option<Arc<Share>>>,
    /// Requests that the host has not answered.
    owed: usize,
}

/// A share that is served.
pub(super) struct Share {
    /// `/dev/fuse`.
    fd: OwnedFd,
    /// The session it belongs to; 0 until its first request, for it may have been mounted before there was one.
    session: AtomicU64,
    pub known: Mutex<Known>,
    /// Frames that are held back. Locked before [`All::sending`].
    pub held: Mutex<Held>,
}

impl Share {
    /// The session it belongs to, or 0.
    pub fn session(&self) -> u64 {
        self.session.load(Ordering::Acquire)
    }
}

fn obey(all: &Arc<All>, control: &Arc<Control>, number: u32, order: Order, fd: Option<OwnedFd>) {
    match order {
        Order::Serve(share) => {
            if let Some(fd) = fd {
                serve(all, share, fd);
            }
        }
        Order::KillAll => {
            // Every process but PID 1, this one and the kernel's threads. ESRCH: there is no such process.
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        }
        Order::Drain if lock(&all.state).owed > 0 => {
            let (all, control) = (Arc::clone(all), Arc::clone(control));
            // By another thread: the agent may give up and order something else.
            let waits = start(move || {
                send_all(&all);
                all.drain();
                control.done(number);
            });
            return waits.unwrap_or_else(|error| kmsg::note(&error.to_string()));
        }
        // What is held back goes out all the same.
        Order::Drain => send_all(all),
        Order::End => {
            send_all(all);
            all.end();
        }
    }
    control.done(number);
}

/// Takes a share over. Its first request is answered before this returns: afterwards the mount is as it will stay.
fn serve(all: &Arc<All>, share: u16, fd: OwnedFd) {
    let shared = Arc::new(Share { fd, session: AtomicU64::new(0), known: Mutex::default(), held: Mutex::default() });
    {
        let mut state = lock(&all.state);
        let index = usize::from(share);
        if state.shares.len() <= index {
            state.shares.resize_with(index + 1, || None);
        }
        state.shares[index] = Some(Arc::clone(&shared));
    }
    let _ = fcntl(&shared.fd, FcntlArg::F_SETFL(OFlag::empty()));
    let (all, asked) = (Arc::clone(all), Asked::default());
    let mut collector =
        Collector { all, share, shared, asked, spare: vec![0; REST], expects_data: false, seat: Seat::new() };
    if collector.collect() {
        let run = start(move || while collector.collect() {});
        run.unwrap_or_else(|error| kmsg::note(&format!("a share cannot be served: {error}")));
    }
}

impl All {
    /// The agent has ended the mounts, so each share's thread ends by itself.
    fn end(&self) {
        let mut state = lock(&self.state);
        if let Some(slots) = &self.slots {
            slots.set_usable(0);
        }
        // Those that nobody has used yet wait for the next session.
        let is_used = |share: &Arc<Share>| share.session.load(Ordering::Acquire) != 0;
        for share in &mut state.shares {
            share.take_if(|share| is_used(share));
        }
        state.owed = 0;
        self.answered.notify_all();
    }

    fn drain(&self) {
        let mut state = lock(&self.state);
        while state.owed > 0 {
            state = self.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends whole frames of this session. Before the first of them the host is greeted: its bytes of before are stale, and a
    /// clone has another host than its template. Of slots it hears when one is wanted: their list is long, and many commands
    /// never need one.
    pub fn send(&self, session: u64, wants_slots: bool, parts: &[&[u8]]) {
        let mut greeting = Vec::new();
        let mut told = lock(&self.sending);
        if told.session > session {
            // What an ended session had held back.
            return;
        }
        if told.session != session {
            *told = Told { session, slots: false };
            Hello::new(session).encode(kind::HELLO, &mut greeting);
        }
        if let (Some(slots), true, false) = (&self.slots, wants_slots, told.slots) {
            told.slots = true;
            slots.announced().encode(&mut greeting);
        }
        let all = [&[greeting.as_slice()], parts].concat().concat();
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            match write(&self.port, rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::EINTR) => {}
                // The host ends the VM when its file server ends; until then requests wait.
                Err(_) => return,
            }
        }
    }

    /// All shares with their numbers.
    pub fn shares(&self) -> Vec<(u16, Arc<Share>)> {
        let state = lock(&self.state);
        let shares = state.shares.iter().enumerate();
        shares.filter_map(|(number, share)| Some((number as u16, share.clone()?))).collect()
    }

    fn share(&self, number: u16) -> Option<Arc<Share>> {
        lock(&self.state).shares.get(usize::from(number))?.clone()
    }
}

/// Passes on what the host sends, for ever.
fn hear_host(all: &All) -> ! {
    let mut decoder = Decoder::new();
    // The session whose HELLO the host has answered.
    let mut greeted = 0;
    let (mut seat, mut pipe) = (Seat::new(), Pipe::default());
    loop {
        match read(&all.port, decoder.space()) {
            Ok(n @ 1..) => {
                decoder.filled(n);
                all.place.settle(&mut seat);
            }
            Err(Errno::EINTR) => continue,
            _ => {
                thread::sleep(LOOK_EVERY);
                continue;
            }
        }
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    kmsg::note(&format!("the file server: {error}"));
                    continue;
                }
            };
            let session = all.session.get();
            if frame.header.kind == kind::HELLO_REPLY {
                greeted = Hello::parse(frame.payload).map_or(0, |hello| hello.nonce);
            } else if session != 0 && greeted == session {
                deliver(all, &frame, &seat, &mut pipe);
            }
        }
    }
}

fn deliver(all: &All, frame: &Frame<'_>, seat: &Seat, pipe: &mut Pipe) {
    let Header { kind, share, slot, data } = frame.header;
    match kind {
        kind::SLOTS_REPLY => {
            if let (Some(slots), Ok(UsableSlots(usable))) = (&all.slots, UsableSlots::parse(frame.payload)) {
                slots.set_usable(usable);
            }
        }
        kind::REPLY => {
            let slots = all.slots.as_ref().zip(slot);
            let bulk = slots.map_or(&[][..], |(slots, slot)| slots.filled(slot, data as usize));
            let pages = slots.and_then(|(slots, slot)| slots.pages(slot));
            reply(all, share, frame.payload, seat, |fuse| pipe.give(fuse, frame.payload, bulk, pages));
            if let Some((slots, slot)) = slots {
                slots.give_back(slot);
            }
        }
        kind::NOTIFY if request::is_harmless(frame.payload) => {
            // ENOENT: the kernel does not know this node any more.
            let _ = all.share(share).map(|share| write(&share.fd, frame.payload));
        }
        kind::ABSENT => {
            if let (Some(share), Ok(absent)) = (all.share(share), Absent::parse(frame.payload)) {
                lock(&share.known).absences.learn(&absent, Instant::now());
            }
        }
        kind::AHEAD => {
            if let (Some(share), Ok((ahead, rest))) = (all.share(share), Ahead::parse(frame.payload)) {
                let slots = all.slots.as_ref().zip(slot).filter(|_| data > 0);
                let bytes = slots.map_or(rest, |(slots, slot)| slots.filled(slot, data as usize));
                lock(&share.known).store.learn(&ahead, bytes, Instant::now());
                all.watch.on();
            }
        }
        kind::DOUBT => {
            let _ = all.share(share).map(|share| lock(&share.known).store.drop_all());
        }
        _ => {}
    }
}

/// Gives the host's reply to the kernel.
fn reply(all: &All, share: u16, payload: &[u8], seat: &Seat, give: impl FnOnce(&OwnedFd) -> nix::Result<usize>) {
    let shared = {
        let mut state = lock(&all.state);
        state.owed = state.owed.saturating_sub(1);
        if state.owed == 0 {
            all.answered.notify_all();
        }
        state.shares.get(usize::from(share)).cloned().flatten()
    };
    let Some(Share { fd, known, .. }) = shared.as_deref() else { return };
    lock(known).answered(request::unique(payload));
    if held::is_refusal(all.place.answer(seat, || give(fd)))
        && let Some(failure) = request::failure_of(payload)
    {
        kmsg::note("the kernel refuses a reply of the file server");
        let _ = write(fd, &failure);
    }
}

/// Holds frames of a share back.
fn hold(all: &All, share: &Share, frame: &[&[u8]]) {
    let (now, mut kept) = (Instant::now(), lock(&share.held));
    if frame.iter().map(|part| kept.push(part, now)).last().is_some_and(|len| len > held::HELD_MAX) {
        all.send(share.session(), false, &[&kept.take()]);
    } else {
        drop(kept);
        all.watch.on();
    }
}

/// Sends a frame, and before it what its share has held back.
fn send_with_held(all: &All, share: &Share, session: u64, wants_slots: bool, frame: &[&[u8]]) {
    // Others must not overtake what is sent here: a name may be removed only after its file was closed.
    let mut kept = lock(&share.held);
    let first = kept.take();
    all.send(session, wants_slots, &[&[first.as_slice()], frame].concat());
}

/// Sends what all shares have held back.
fn send_all(all: &All) {
    for (number, share) in all.shares() {
        send_held(all, number, &share, Duration::MAX);
    }
}

/// Sends what a share has held back, if that may wait no longer than this; else how long it may.
fn send_held(all: &All, number: u16, share: &Share, longest: Duration) -> Option<Duration> {
    let (asides, now) = (lock(&share.known).asides(number), Instant::now());
    let mut kept = lock(&share.held);
    kept.push(&asides, now);
    let left = kept.left(now)?;
    if left > longest {
        return Some(left);
    }
    all.send(share.session(), false, &[&kept.take()]);
    None
}

/// Looks after what is held and what was sent ahead, for ever.
fn look_after(all: &All) -> ! {
    let mut nap = held::MOMENT;
    loop {
        all.watch.wait();
        thread::sleep(nap);
        let (now, mut is_left) = (Instant::now(), false);
        nap = held::MOMENT;
        for (number, share) in all.shares() {
            is_left |= lock(&share.known).store.expire(now);
            // Who asks one question after the other takes it along: a frame of its own would wake the host twice as often.
            if let Some(left) = send_held(all, number, &share, Duration::ZERO) {
                (is_left, nap) = (true, nap.min(left));
            }
        }
        if is_left {
            all.watch.on();
        }
    }
}

/// Takes the kernel's requests for one share.
struct Collector {
    all: Arc<All>,
    share: u16,
    shared: Arc<Share>,
    asked: Asked,
    /// Where a request is read to without a slot.
    spare: Vec<u8>,
    /// The last request had bulk data, so the next may have it too: it is read into a slot. To have one always would leave
    /// none for others while nothing happens here.
    expects_data: bool,
    seat: Seat,
}

impl Collector {
    /// Waits for a request and sends it to the host; `false` when the mount has ended.
    fn collect(&mut self) -> bool {
        let all = Arc::clone(&self.all);
        let slots = all.slots.as_ref();
        let mut slot = slots.filter(|_| self.expects_data).and_then(Slots::take);
        let mut head = [0; HEAD];
        let rest = slot.as_mut().map_or(self.spare.as_mut_slice(), |slot| slot.bytes());
        let len = match readv(&self.shared.fd, &mut [IoSliceMut::new(&mut head), IoSliceMut::new(rest)]) {
            Ok(len) => len,
            // ENOENT: the process that asked is gone already.
            Err(Errno::EINTR | Errno::ENOENT | Errno::EAGAIN) => return true,
            // ENODEV: nobody can reach this mount any more.
            Err(_) => return false,
        };
        let (first, behind) = (len.min(HEAD), len.saturating_sub(HEAD).min(rest.len()));
        let rest = &rest[..behind];
        let way = request::way(&head, len);
        if way == Way::Init {
            return match init_reply(&[&head[..first], rest].concat()) {
                Ok(reply) => write(&self.shared.fd, &reply).is_ok(),
                Err(error) => {
                    kmsg::note(&error.to_string());
                    false
                }
            };
        }
        let Some(session) = self.session() else { return false };
        all.place.asked(request::pid(&head), request::waits(&head), &mut self.seat);
        if let Some(reply) = self.known_answer(&head[..first]) {
            let _ = all.place.answer(&self.seat, || write(&self.shared.fd, &reply));
            return true;
        }
        let mut header = Header { kind: kind::REQUEST, share: self.share, slot: None, data: 0 };
        if request::is_close(&head) {
            let _ = write(&self.shared.fd, &local_reply(&head, 0));
        }
        if request::can_be_held(&head) {
            let rest = slot.as_mut().map_or(&self.spare[..behind], |slot| &slot.bytes()[..behind]);
            hold(&all, &self.shared, &[&header.encode(first + behind), &head[..first], rest]);
            return true;
        }
        if request::is_answered(&head) {
            lock(&all.state).owed += 1;
        }
        self.expects_data = way == Way::Data;
        let wants_slots = way != Way::Plain;
        if wants_slots && slot.is_none() {
            slot = slots.and_then(if request::is_bulk(&head, way) { Slots::await_one } else { Slots::take });
            if let Some(slot) = &mut slot {
                slot.bytes()[..behind].copy_from_slice(&self.spare[..behind]);
            }
        }
        match slot {
            Some(slot) if wants_slots => {
                header.slot = Some(slot.lend());
                header.data = behind as u32;
                self.send(session, wants_slots, &[&header.encode(first), &head[..first]]);
            }
            mut slot => {
                let rest = slot.as_mut().map_or(&self.spare[..behind], |slot| &slot.bytes()[..behind]);
                self.send(session, wants_slots, &[&header.encode(first + behind), &head[..first], rest]);
            }
        }
        true
    }

    fn send(&self, session: u64, wants_slots: bool, frame: &[&[u8]]) {
        let asides = lock(&self.shared.known).asides(self.share);
        send_with_held(&self.all, &self.shared, session, wants_slots, &[&[&asides[..]], frame].concat());
    }

    /// The session to which this share belongs, if that is still the one.
    fn session(&self) -> Option<u64> {
        let now = self.all.session.get();
        let first = self.shared.session.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        let is_its = first.map_or_else(|of_share| of_share == now, |_| true);
        Some(now).filter(|&now| now != 0 && is_its)
    }

    /// The reply, if it needs no host.
    fn known_answer(&mut self, head: &[u8]) -> Option<Vec<u8>> {
        if let Some(errno) = self.asked.answer(head) {
            return Some(local_reply(head, errno).to_vec());
        }
        let (now, mut known) = (Instant::now(), lock(&self.shared.known));
        known.absences.answer(head, now).or_else(|| known.store.answer(head, now))
    }
}
