//! Threads between the port and the shares.
//!
//! One thread at a time reads the port. It takes one request and does it, so a request is never passed between threads. If
//! the request may take long, or others wait behind it, the thread hands the port on before; see `seat.rs`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use proto::files::{Decoder, FilesError, Header, Hello, INLINE_MAX, MAX_DATA, Slots, UsableSlots, VERSION, kind};

use super::advance::room;
use super::control::Memory;
use super::dispatch::{Outcome, closes, closes_at_once, dispatch, is_quick, is_silent, may_wait};
use super::error::ServeError;
use super::gate::{Gate, Job, Turn};
use super::locks::{Waits, Wanted};
use super::nodes::lock;
use super::seat::Seat;
use super::share::Share;
use super::slots::{Bulk, Lent};
use super::sys::io::{read, shutdown, write_all};
use super::sys::{Errno, Result};
use super::wire::{Reply, Request, doubt, invalidate};

/// Threads that do requests, at most. Each share has a limit of its own below this.
const THREADS_MAX: usize = 256;

/// More idle threads than this end.
const IDLE_MAX: usize = 4;

/// Stack of a thread in bytes.
const STACK: usize = 256 * 1024;

/// Buffers larger than this many bytes are given back by a thread that becomes idle.
const BUFFER_KEPT: usize = MAX_DATA + 8192;

/// Descriptors that were not used for this long are closed.
const SWEEP: Duration = Duration::from_secs(10);

/// How long the end waits for requests under way.
const END_WAIT: Duration = Duration::from_secs(2);

/// The server of one VM.
#[derive(Debug)]
pub(crate) struct Server {
    port: OwnedFd,
    shares: Vec<(Share, Gate)>,
    seat: Seat<Reader>,
    /// Held while a frame is written.
    writer: Mutex<()>,
    bulk: Bulk,
    waits: Waits,
    crew: Mutex<Crew>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Reader {
    decoder: Decoder,
    /// Nothing more comes.
    is_over: bool,
}

/// Counts of threads.
#[derive(Debug, Default)]
struct Crew {
    threads: usize,
    /// Those that read the port or wait for their turn to.
    waiting: usize,
    /// How it ended.
    end: Option<std::result::Result<(), ServeError>>,
}

type Served<T> = std::result::Result<T, ServeError>;

impl Server {
    pub(crate) fn new(port: OwnedFd, shares: Vec<Share>) -> Arc<Self> {
        Arc::new(Self {
            port,
            shares: shares.into_iter().map(|share| (share, Gate::default())).collect(),
            seat: Seat::new(Reader::default()),
            writer: Mutex::default(),
            bulk: Bulk::default(),
            waits: Waits::default(),
            crew: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Serves until the port is closed or unusable.
    pub(crate) fn run(self: &Arc<Self>) -> Served<()> {
        self.hire(&mut lock(&self.crew))?;
        let server = Arc::clone(self);
        let watcher = thread::Builder::new().name("watch".to_owned()).stack_size(STACK);
        let process = |source| ServeError::Process { what: "start a thread", source };
        watcher.spawn(move || server.watch()).map_err(process)?;
        let mut crew = lock(&self.crew);
        let end = loop {
            match crew.end.take() {
                Some(end) => break end,
                None => {
                    let waited = self.changed.wait_timeout(crew, SWEEP);
                    let (waited, timeout) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
                    crew = waited;
                    if timeout.timed_out() {
                        drop(crew);
                        self.shares.iter().for_each(|(share, _)| share.nodes.sweep());
                        crew = lock(&self.crew);
                    }
                }
            }
        };
        drop(crew);
        shutdown(self.port.as_fd());
        self.waits.interrupt_all();
        let crew = lock(&self.crew);
        let _ = self.changed.wait_timeout_while(crew, END_WAIT, |crew| crew.threads > 0);
        end
    }

    /// What the runner says of the guest's memory.
    pub(crate) fn memory(&self, memory: Option<Memory>) {
        if let Some(usable) = self.bulk.memory(memory) {
            // If the port is closed, its reader finds out.
            let _ = self.send(&encode(usable));
        }
    }

    /// Starts one more thread.
    fn hire(self: &Arc<Self>, crew: &mut Crew) -> Served<()> {
        let server = Arc::clone(self);
        let builder = thread::Builder::new().name("files".to_owned()).stack_size(STACK);
        let process = |source| ServeError::Process { what: "start a thread", source };
        builder.spawn(move || server.work()).map_err(process)?;
        crew.threads += 1;
        crew.waiting += 1;
        Ok(())
    }

    /// Hands the port on when a request takes longer than it was believed to.
    fn watch(self: &Arc<Self>) -> ! {
        loop {
            self.seat.watch();
            self.goes_away(&mut lock(&self.crew));
        }
    }

    /// A thread reads no more for now.
    fn goes_away(self: &Arc<Self>, crew: &mut Crew) {
        crew.waiting = crew.waiting.saturating_sub(1);
        if crew.waiting == 0 && crew.threads < THREADS_MAX {
            // Without another thread this one reads again when it is done.
            let _ = self.hire(crew);
        }
    }

    /// The life of a thread, which counts as waiting when it begins.
    fn work(self: Arc<Self>) {
        let mut reply = Reply::default();
        let mut job = Job::default();
        let mut reader = self.seat.take();
        loop {
            let got = self.next(&mut reader, std::mem::take(&mut job), &mut reply);
            match got {
                Ok(Some(next)) => job = next,
                other => {
                    reader.is_over = true;
                    self.seat.give(reader);
                    let mut crew = lock(&self.crew);
                    crew.waiting = crew.waiting.saturating_sub(1);
                    crew.end.get_or_insert(other.map(drop));
                    break self.leave(crew);
                }
            }
            if !reader.decoder.is_mid_frame() && self.is_quick(&job) {
                let turn = self.seat.park(reader);
                job = self.work_off(job, &mut reply);
                if let Some(back) = self.seat.take_back(turn) {
                    reader = back;
                    continue;
                }
                self.is_slow(&job);
            } else {
                self.seat.give(reader);
                self.goes_away(&mut lock(&self.crew));
                job = self.work_off(job, &mut reply);
            }
            let mut crew = lock(&self.crew);
            if crew.waiting > IDLE_MAX {
                break self.leave(crew);
            }
            crew.waiting += 1;
            drop(crew);
            reader = self.seat.take();
        }
    }

    /// Whether a request is likely to be done before another one comes.
    fn is_quick(&self, job: &Job) -> bool {
        let share = self.shares.get(usize::from(job.header.share));
        let request = Request::parse(job.request.bytes()).filter(|_| job.header.data == 0);
        share.zip(request).is_some_and(|((share, _), request)| is_quick(&request) && share.was_quick())
    }

    /// One has hung: the next ones of its share may do so too.
    fn is_slow(&self, job: &Job) {
        if let Some((share, _)) = self.shares.get(usize::from(job.header.share)) {
            share.was_slow();
        }
    }

    fn leave(&self, mut crew: std::sync::MutexGuard<'_, Crew>) {
        crew.threads -= 1;
        drop(crew);
        self.changed.notify_all();
    }

    /// Does a request and those of its share that wait behind it.
    fn work_off(self: &Arc<Self>, mut job: Job, reply: &mut Reply) -> Job {
        let number = job.header.share;
        let Some((_, gate)) = self.shares.get(usize::from(number)) else { return job };
        loop {
            self.perform(&job, reply);
            match gate.next() {
                Some(next) => job = next,
                None => break,
            }
        }
        job.request.shrink(BUFFER_KEPT);
        reply.shrink(BUFFER_KEPT);
        job
    }

    /// The next request that this thread is to do; `None` at the end. `job` lends its buffer.
    fn next(&self, reader: &mut Reader, mut job: Job, reply: &mut Reply) -> Served<Option<Job>> {
        loop {
            if reader.is_over {
                return Ok(None);
            }
            match self.take(reader, &mut job, reply)? {
                Some(true) => match self.enter(job) {
                    Turn::Now(job) => return Ok(Some(job)),
                    Turn::Later => job = Job::default(),
                    Turn::Never(refused) => {
                        self.refuse(&refused, Errno(libc::EBUSY), reply);
                        job = refused;
                    }
                },
                Some(false) => {}
                None => return Ok(None),
            }
        }
    }

    fn enter(&self, job: Job) -> Turn {
        match self.shares.get(usize::from(job.header.share)) {
            Some((_, gate)) => gate.enter(job),
            None => Turn::Never(job),
        }
    }

    /// Takes one frame from the port: whether it is a request to be done, `None` at the end.
    fn take(&self, reader: &mut Reader, job: &mut Job, reply: &mut Reply) -> Served<Option<bool>> {
        let Some(frame) = reader.decoder.next_frame().map_err(ServeError::Guest)? else {
            return match read(self.port.as_fd(), reader.decoder.space()) {
                // A peer that was killed has reset the connection.
                Ok(0) | Err(Errno(libc::ECONNRESET)) => Ok(None),
                Ok(bytes) => {
                    reader.decoder.filled(bytes);
                    Ok(Some(false))
                }
                Err(error) => Err(ServeError::Port(io::Error::from_raw_os_error(error.0))),
            };
        };
        match frame.header.kind {
            kind::REQUEST => {
                let Some(request) = Request::parse(frame.payload) else { return Ok(Some(false)) };
                let number = frame.header.share;
                let share = self.shares.get(usize::from(number));
                if is_silent(&request) || share.is_some_and(|(share, _)| closes_at_once(share, request)) {
                    if let Some((share, _)) = self.shares.get(usize::from(number)) {
                        dispatch(share, number, &self.waits, request, reply);
                    }
                    return Ok(Some(false));
                }
                if may_wait(&request) {
                    self.waits.expect(number, request.unique);
                }
                if closes(&request)
                    && let Some((share, _)) = self.shares.get(usize::from(number))
                {
                    share.closing.begin();
                }
                job.header = frame.header;
                job.request.clear();
                job.request.push(frame.payload);
                return Ok(Some(true));
            }
            kind::HELLO => {
                let hello = Hello::parse(frame.payload).map_err(ServeError::Guest)?;
                if hello.version != VERSION {
                    return Err(ServeError::Version { guest: hello.version });
                }
                self.bulk.clear();
                let mut answer = Vec::new();
                Hello::new(hello.nonce).encode(kind::HELLO_REPLY, &mut answer);
                self.send(&answer)?;
            }
            kind::SLOTS => {
                let slots = Slots::parse(frame.payload).map_err(ServeError::Guest)?;
                if let Some(usable) = self.bulk.slots(slots) {
                    self.send(&encode(usable))?;
                }
            }
            _ => return Err(ServeError::Guest(FilesError::Malformed("unknown"))),
        }
        Ok(Some(false))
    }

    /// Does one request, and replies unless the reply comes later.
    fn perform(self: &Arc<Self>, job: &Job, reply: &mut Reply) {
        reply.lent = match self.lent(job.header) {
            Ok(lent) => lent,
            Err(error) => return self.refuse(job, error, reply),
        };
        let Some((share, _)) = self.shares.get(usize::from(job.header.share)) else { return };
        let Some(request) = Request::parse(job.request.bytes()) else { return };
        let number = job.header.share;
        let changes = share.changes.load(Ordering::SeqCst);
        reply.room = room(job.header);
        match dispatch(share, number, &self.waits, request, reply) {
            Outcome::Silent => {}
            Outcome::Done(result) => {
                self.settle(number, &request);
                reply.seen = changes;
                if !closes(&request) {
                    self.answer(job, request.unique, result, reply);
                }
            }
            Outcome::Waits(wanted) => self.wait(job, request.unique, wanted, reply),
        }
    }

    /// A request's slot. Without one only a request that has data in it cannot be done.
    fn lent(&self, header: Header) -> Result<Option<(Lent, usize)>> {
        let (Some(slot), data) = (header.slot, header.data as usize) else { return Ok(None) };
        match self.bulk.lent(slot) {
            _ if data > MAX_DATA => Err(Errno(libc::EINVAL)),
            Ok(lent) => Ok(Some((lent, data))),
            Err(error) if data > 0 => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Replies to a request that is not done.
    fn refuse(&self, job: &Job, error: Errno, reply: &mut Reply) {
        let Some(request) = Request::parse(job.request.bytes()).filter(|request| !is_silent(request)) else { return };
        self.settle(job.header.share, &request);
        if closes(&request) {
            return;
        }
        reply.begin();
        self.answer(job, request.unique, Err(error), reply);
    }

    /// A request that others may have to know of is over.
    fn settle(&self, number: u16, request: &Request<'_>) {
        if may_wait(request) {
            self.waits.end(number, request.unique);
        }
        if closes(request)
            && let Some((share, _)) = self.shares.get(usize::from(number))
        {
            share.closing.end();
        }
    }

    /// Waits for a lock in a thread that is not one of the crew.
    fn wait(self: &Arc<Self>, job: &Job, unique: u64, mut wanted: Wanted, reply: &mut Reply) {
        let header = job.header;
        let server = Arc::clone(self);
        let spawned = thread::Builder::new().name("lock".to_owned()).stack_size(STACK).spawn(move || {
            let result = server.waits.wait(header.share, unique, &mut wanted);
            drop(wanted);
            server.waits.end(header.share, unique);
            let mut reply = Reply::default();
            reply.begin();
            server.answer(&Job { header, ..Job::default() }, unique, result, &mut reply);
        });
        if spawned.is_err() {
            self.waits.end(header.share, unique);
            self.answer(job, unique, Err(Errno(libc::ENOLCK)), reply);
        }
    }

    /// Sends a reply, its body in the slot if it is large.
    fn answer(&self, job: &Job, unique: u64, result: Result<()>, reply: &mut Reply) {
        let share = job.header.share;
        let mut header = job.header;
        let advances = [reply.advance.take(), reply.walked.take()].map(|advance| {
            let advance = advance?;
            let frame = advance.frame(header, unique, &self.bulk);
            // The slot is one's only.
            header.slot = header.slot.filter(|_| !advance.wants_slot());
            Some((frame, advance))
        });
        let mut data = reply.in_slot;
        if reply.len() > INLINE_MAX
            && let Some((lent, _)) = reply.lent.take()
            && lent.write(0, reply.body()).is_ok()
        {
            data = reply.take_body();
        }
        let mut first = reply.stale.map(|node| invalidate(share, node)).unwrap_or_default();
        if reply.doubt {
            first.extend(doubt(share));
        }
        let (absent, seen) = (std::mem::take(&mut reply.absent), reply.seen);
        let frame = reply.finish(share, job.header.slot, unique, result, data);
        let _writer = lock(&self.writer);
        let is_true = |(share, _): &(Share, Gate)| share.changes.load(Ordering::SeqCst) == seen;
        if let Some((share, _)) = self.shares.get(usize::from(share)) {
            for (ahead, advance) in advances.into_iter().flatten() {
                match ahead.filter(|_| advance.is_true(&share.doubts)) {
                    Some(frame) => first.extend(frame),
                    None => advance.withdraw(&share.nodes, &share.handles),
                }
            }
        }
        if !absent.is_empty() && self.shares.get(usize::from(share)).is_some_and(is_true) {
            // A change from here on is answered after this, and then the guest believes nothing of before.
            absent.iter().for_each(|absent| absent.encode(share, &mut first));
        }
        let port = self.port.as_fd();
        // A port that is closed is found out by its reader.
        let _ = match first.is_empty() {
            true => write_all(port, frame),
            false => {
                first.extend_from_slice(frame);
                write_all(port, &first)
            }
        };
    }

    fn send(&self, frame: &[u8]) -> Served<()> {
        let _writer = lock(&self.writer);
        let port = |error: Errno| ServeError::Port(io::Error::from_raw_os_error(error.0));
        write_all(self.port.as_fd(), frame).map_err(port)
    }
}

fn encode(usable: UsableSlots) -> Vec<u8> {
    let mut frame = Vec::new();
    usable.encode(&mut frame);
    frame
}
