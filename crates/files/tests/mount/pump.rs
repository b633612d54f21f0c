//! Stands in for the guest's pump, in a process of its own: /dev/fuse is standard output, the port standard input.
//!
//! Its second argument is a file that gets a byte for each request: its number, and [`OF_HOST`] if the server is asked.
//! With the word `slots` it announces slots in its own memory and says on standard error where that is.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use proto::files::fuse::{IN_HEADER, WRITE_IN, op};
use proto::files::{
    Absences, Absent, Ahead, Asked, Decoder, Frame, Header, Hello, INLINE_MAX, MAX_DATA, PAGE, Slots, Store,
    UsableSlots, init_reply, kind, local_reply,
};

/// What the server has said unasked.
type Known = Mutex<(Absences, Store)>;

/// See the module.
pub const OF_HOST: u8 = 0x80;

const SLOTS: usize = 4;
const NONCE: u64 = 0x5eed;

/// Locked pages, as it were. Only the file server writes behind the back of this process.
struct Memory {
    file: File,
    start: u64,
    free: Mutex<Vec<u32>>,
    given_back: Condvar,
}

impl Memory {
    fn new() -> Self {
        // The process's own memory, by address: what another process writes is seen at the next read.
        let pages = vec![0_u8; SLOTS * MAX_DATA + PAGE].leak();
        let start = (pages.as_ptr() as u64).next_multiple_of(PAGE as u64);
        let file = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
        Self { file, start, free: Mutex::default(), given_back: Condvar::new() }
    }

    fn at(&self, slot: u32) -> u64 {
        self.start + u64::from(slot) * MAX_DATA as u64
    }

    fn take(&self) -> u32 {
        let free = self.free.lock().unwrap();
        self.given_back.wait_while(free, |free| free.is_empty()).unwrap().pop().unwrap()
    }

    fn give_back(&self, slot: u32) {
        self.free.lock().unwrap().push(slot);
        self.given_back.notify_one();
    }
}

/// The pump's process.
pub fn run() -> ExitCode {
    let fuse = Arc::new(File::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap()));
    let port = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let memory = std::env::args().any(|arg| arg == "slots").then(|| Arc::new(Memory::new()));
    let mut out = vec![0xa5; 100];
    Hello::new(NONCE).encode(kind::HELLO, &mut out);
    if let Some(memory) = &memory {
        let page = |page: usize| (page * PAGE) as u64;
        let pages = (0..SLOTS * MAX_DATA / PAGE).map(page).collect();
        Slots { size: MAX_DATA as u32, pages }.encode(&mut out);
        eprintln!("{} {}", std::process::id(), memory.start);
    }
    (&port).write_all(&out).unwrap();
    let (fuse_2, port_2, memory_2) = (Arc::clone(&fuse), port.try_clone().unwrap(), memory.clone());
    let known = Arc::new(Mutex::default());
    let known_2 = Arc::clone(&known);
    std::thread::spawn(move || from_port(&fuse_2, port_2, memory_2.as_deref(), &known_2));
    let noted = File::options().create(true).append(true).open(std::env::args_os().nth(2).unwrap()).unwrap();
    to_port(&fuse, &port, memory.as_deref(), &known, &noted);
    ExitCode::SUCCESS
}

/// Requests of the kernel, until the mount ends.
fn to_port(mut fuse: &File, mut port: &UnixStream, memory: Option<&Memory>, known: &Known, mut noted: &File) {
    let mut asked = Asked::default();
    // Frames that nobody waits for travel with the next one.
    let mut held = Vec::new();
    let mut buffer = vec![0; MAX_DATA + 8192];
    loop {
        let len = match fuse.read(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => continue,
            Err(error) => panic!("/dev/fuse: {error}"),
        };
        let request = &buffer[..len];
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        if word(4) == op::INIT {
            fuse.write_all(&init_reply(request).unwrap()).unwrap();
            continue;
        }
        let head = &request[..len.min(IN_HEADER + WRITE_IN)];
        let (now, mut known_2) = (Instant::now(), known.lock().unwrap());
        let answer = asked.answer(head).map(|errno| local_reply(head, errno).to_vec());
        let reply = answer.or_else(|| known_2.0.answer(head, now)).or_else(|| known_2.1.answer(head, now));
        let of_host = if reply.is_none() { OF_HOST } else { 0 };
        noted.write_all(&[word(4) as u8 | of_host]).unwrap();
        if let Some(reply) = reply {
            drop(known_2);
            let _ = fuse.write(&reply);
            continue;
        }
        let mut header = Header { kind: kind::REQUEST, ..Header::default() };
        for payload in known_2.1.asides() {
            Frame { header, payload: &payload }.encode(&mut held);
        }
        drop(known_2);
        let closes = matches!(word(4), op::RELEASE | op::RELEASEDIR);
        if closes {
            let _ = fuse.write(&local_reply(head, 0));
        }
        let mut payload = request;
        if let Some(memory) = memory.filter(|memory| !memory.free.lock().unwrap().is_empty() || is_on(memory)) {
            let data = IN_HEADER + WRITE_IN;
            match word(4) {
                op::WRITE if len - data > INLINE_MAX => {
                    let slot = memory.take();
                    write_at(&memory.file, &request[data..], memory.at(slot));
                    payload = &request[..data];
                    (header.slot, header.data) = (Some(slot), (len - data) as u32);
                }
                op::READ | op::READDIR | op::READDIRPLUS if word(IN_HEADER + 16) as usize > INLINE_MAX => {
                    header.slot = Some(memory.take());
                }
                op::OPEN | op::OPENDIR => header.slot = Some(memory.take()),
                _ => {}
            }
        }
        let mut frame = std::mem::take(&mut held);
        Frame { header, payload }.encode(&mut frame);
        if port.write_all(&frame).is_err() {
            return;
        }
    }
}

/// Whether the server has answered that slots are usable: then a request waits for one.
fn is_on(memory: &Memory) -> bool {
    memory.free.lock().unwrap().capacity() > 0
}

fn write_at(file: &File, data: &[u8], at: u64) {
    std::os::unix::fs::FileExt::write_all_at(file, data, at).unwrap();
}

/// Frames of the server, until it ends: then the mount ends too.
fn from_port(mut fuse: &File, mut port: UnixStream, memory: Option<&Memory>, known: &Known) {
    let mut decoder = Decoder::new();
    let mut body = vec![0; MAX_DATA];
    loop {
        let Some(frame) = decoder.next_frame().unwrap() else {
            match port.read(decoder.space()) {
                Ok(0) | Err(_) => std::process::exit(0),
                Ok(bytes) => decoder.filled(bytes),
            }
            continue;
        };
        let header = frame.header;
        match header.kind {
            kind::HELLO_REPLY => assert_eq!(Hello::parse(frame.payload).unwrap().nonce, NONCE),
            kind::SLOTS_REPLY => {
                let usable = UsableSlots::parse(frame.payload).unwrap().0;
                assert_eq!(usable as usize, SLOTS, "the server cannot reach the memory of the pump");
                (0..usable).for_each(|slot| memory.unwrap().give_back(slot));
                eprintln!("usable");
            }
            kind::REPLY | kind::NOTIFY => {
                if let (kind::REPLY, Some(unique)) = (header.kind, frame.payload.get(8..16)) {
                    let (unique, mut known) = (u64::from_le_bytes(unique.try_into().unwrap()), known.lock().unwrap());
                    known.0.answered(unique);
                    known.1.answered(unique);
                }
                let body = &mut body[..header.data as usize];
                if let (Some(slot), 1..) = (header.slot, body.len()) {
                    let memory = memory.unwrap();
                    std::os::unix::fs::FileExt::read_exact_at(&memory.file, body, memory.at(slot)).unwrap();
                }
                let written = fuse.write_vectored(&[IoSlice::new(frame.payload), IoSlice::new(body)]);
                let expected = frame.payload.len() + body.len();
                match written {
                    Ok(written) => assert_eq!(written, expected),
                    // The one who asked is gone, or a notification is about what the kernel has forgotten.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
                    Err(error) => panic!("/dev/fuse refuses a reply of {expected} bytes: {error}"),
                }
                if let Some(slot) = header.slot {
                    memory.unwrap().give_back(slot);
                }
            }
            kind::ABSENT => known.lock().unwrap().0.learn(&Absent::parse(frame.payload).unwrap(), Instant::now()),
            kind::AHEAD => {
                let (ahead, rest) = Ahead::parse(frame.payload).unwrap();
                let body = &mut body[..header.data as usize];
                if let (Some(slot), 1..) = (header.slot, body.len()) {
                    let memory = memory.unwrap();
                    std::os::unix::fs::FileExt::read_exact_at(&memory.file, body, memory.at(slot)).unwrap();
                }
                let bytes = if body.is_empty() { rest } else { body };
                known.lock().unwrap().1.learn(&ahead, bytes, Instant::now());
            }
            kind::DOUBT => known.lock().unwrap().1.drop_all(),
            other => panic!("frame of kind {other}"),
        }
    }
}
