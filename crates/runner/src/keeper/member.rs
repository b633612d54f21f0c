//! One task's connection to the keeper: what it says goes to the guest under the task's number, and back.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::session::{Attach, Outgoing, Word};
use proto::{BootTimes, DATA_CHUNK, Decoder, Frame, ProtoError, ToGuest, ToHost, VERSION, WINDOW};

/// Bytes that may wait for a task: the windows of both outputs, and short frames. A guest that sends more is not ours.
const WAITING_MOST: usize = 2 * WINDOW as usize + 8 * DATA_CHUNK;

/// How far a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It has not said who it is.
    New,
    /// It waits for the VM.
    Waiting,
    /// It describes its command.
    Describing,
    /// The guest was told to start it.
    Started,
    /// Nothing more will come from the guest.
    Ended,
}

/// A task that is attached, or was.
#[derive(Debug)]
pub(super) struct Member {
    socket: Option<UnixStream>,
    decoder: Decoder,
    out: Vec<u8>,
    nonce: u64,
    pub stage: Stage,
    pub attach: Attach,
    /// PONG was sent, and the clock that answers it has not come.
    is_asked: bool,
}

impl Member {
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket: Some(socket),
            decoder: Decoder::new(),
            out: Vec::new(),
            nonce: 0,
            stage: Stage::New,
            attach: Attach { task: 0, processors: Vec::new() },
            is_asked: false,
        }
    }

    /// Whether its process is there.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Whether nothing is to be done for it any more.
    pub fn is_finished(&self) -> bool {
        self.stage == Stage::Ended || !self.is_there()
    }

    /// Whether something waits to be sent to it.
    pub fn is_owed(&self) -> bool {
        self.is_there() && !self.out.is_empty()
    }

    /// The descriptor to poll, while its process is there.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Forgets its process.
    pub fn drop_it(&mut self) {
        self.socket = None;
        self.out.clear();
    }

    /// Reads what it says, and passes on what is for the guest. `processors` are what START is preceded by.
    pub fn listen(&mut self, buffer: &mut [u8], processors: impl Fn(&Attach) -> Option<Vec<u8>>, out: &mut Outgoing) {
        let Some(socket) = &mut self.socket else { return };
        match socket.read(buffer) {
            Ok(n @ 1..) => {
                self.decoder.push(&buffer[..n]);
                if self.obey(&processors, out).is_err() {
                    tracing::warn!("task {} does not speak the protocol", self.attach.task);
                    self.drop_it();
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => self.drop_it(),
        }
    }

    fn obey(&mut self, processors: &impl Fn(&Attach) -> Option<Vec<u8>>, out: &mut Outgoing) -> Result<(), ProtoError> {
        let mut decoder = std::mem::take(&mut self.decoder);
        while let Some(frame) = decoder.next_frame()? {
            if self.stage == Stage::New
                && let Some(attach) = Attach::parse(&frame)
            {
                (self.attach, self.stage) = (attach, Stage::Waiting);
                continue;
            }
            let task = self.attach.task;
            match ToGuest::parse(frame)? {
                ToGuest::Hello { nonce, .. } if self.stage == Stage::New => self.nonce = nonce,
                _ if self.stage < Stage::Describing => return Err(ProtoError::OutOfOrder("message before HELLO")),
                ToGuest::Ping => {
                    self.is_asked = true;
                    self.say(&ToHost::Pong);
                }
                // The answer to that PONG: the keeper's own clock is the guest's.
                ToGuest::Clock(_) if std::mem::take(&mut self.is_asked) => {}
                ToGuest::Start => {
                    if let Some(mask) = processors(&self.attach) {
                        out.send(task, &ToGuest::CpuSet(&mask));
                    }
                    out.send(task, &ToGuest::Start);
                    self.stage = self.stage.max(Stage::Started);
                }
                message if is_of_machine(&message) => return Err(ProtoError::OutOfOrder("machine description")),
                _ => {
                    let mut bytes = Vec::new();
                    Frame { task, ..frame }.encode(&mut bytes);
                    out.send_frames(&bytes);
                }
            }
        }
        self.decoder = decoder;
        Ok(())
    }

    /// The VM is there, and has this size.
    pub fn welcome(&mut self, size: Word) {
        if self.stage == Stage::Waiting {
            self.stage = Stage::Describing;
            self.say(&ToHost::Hello { version: VERSION, nonce: self.nonce, times: BootTimes::default() });
            self.tell(&size);
        }
    }

    /// Passes on what the guest says of it; `false` if that is more than there is room for.
    pub fn hear(&mut self, message: &ToHost<'_>) -> bool {
        if matches!(message, ToHost::Exit(_) | ToHost::Failed(..)) {
            self.stage = Stage::Ended;
        }
        self.say(message);
        self.out.len() <= WAITING_MOST
    }

    fn say(&mut self, message: &ToHost<'_>) {
        if self.is_there() {
            message.encode(0, &mut self.out);
        }
    }

    /// Tells it something of the keeper's. A task that has not said HELLO does not listen yet.
    pub fn tell(&mut self, word: &Word) {
        if self.stage == Stage::Waiting {
            // Its decoder waits for the answer to the HELLO.
            let hello =
                ToHost::Hello { version: VERSION, nonce: self.nonce.wrapping_add(1), times: BootTimes::default() };
            self.say(&hello);
        }
        if self.is_there() && self.stage != Stage::New {
            word.encode(&mut self.out);
        }
    }

    /// Sends what its socket takes now.
    pub fn flush(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        let mut sent = 0;
        while sent < self.out.len() {
            match socket.write(&self.out[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The next read notices it.
                Err(_) => sent = self.out.len(),
            }
        }
        self.out.drain(..sent);
    }
}

/// Whether a message is not a task's to send: the keeper describes the machine.
fn is_of_machine(message: &ToGuest<'_>) -> bool {
    use ToGuest::{
        Address, Alias, Cpus, Entropy, Hello, Hostname, Hosts, Link, Memory, Network, Resolver, Settle, Share,
        TakeBack, Tasks, Zone,
    };
    matches!(
        message,
        Hello { .. }
            | Hostname(_)
            | Entropy(_)
            | Share { .. }
            | Alias { .. }
            | Link { .. }
            | TakeBack
            | Cpus(_)
            | Memory(_)
            | Tasks(_)
            | Network(_)
            | Address(_)
            | Hosts(_)
            | Resolver(_)
            | Zone { .. }
            | Settle
    )
}
