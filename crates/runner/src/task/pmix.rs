//! What a guest may say to Slurm's PMIx server (`mpi/pmix`), and how the server is asked.
//!
//! The server is a library in slurmstepd, which is root, and trusts its clients. One that asks for it gets files of the user
//! removed from the node at the end (*job control*; Open MPI asks that for its own temporary files), files looked at with root's
//! rights (*monitor*), lines in the node's log. It reads a client's first message in one piece, while everybody else waits. So the
//! guest's bytes are not passed on as they come:
//!
//! - The first message is passed on when all of it is there, and only that of a plain client with this task's name and rank. Who
//!   connects is the runner, so the credential in it is the runner's own user and group, whoever the command is in the guest.
//! - Each later message begins with its tag, its length and the number of a request. Requests of a list are passed on. All others
//!   are answered here, as servers answer what they cannot do; the answer is put between two of the server's.
//!
//! This is the wire of clients since PMIx 4.1 (`v41`, without descriptions of types). Others are told so.

use std::collections::VecDeque;

use nix::unistd::{getegid, geteuid};

/// Bytes before each message: the sender's index, a tag, the length, and four that mean nothing.
const HEADER_LEN: usize = 16;

/// Longest first message, without its header; a name has 255 bytes at most.
const GREETING_MAX: usize = 4096;

/// Longest later one. A task's addresses are a few thousand bytes.
const MESSAGE_MAX: usize = 4 << 20;

/// The server's answer to the first message: a status, and the client's index.
const ANSWER_LEN: usize = 8;

/// Tags below it are for what is no request.
const FIRST_TAG: u32 = 100;

/// The kind of a client that Slurm has started; others would be tools.
const PLAIN_CLIENT: u8 = 0;

/// The kind of its buffers: types are not described.
const PLAIN_BUFFER: u8 = 1;

/// One value follows.
const ONE: u8 = 2;

/// "Not supported" (-47) as a message holds it.
const NOT_SUPPORTED: u8 = 93;

/// Requests that stay within the step: job information, abort, commit, fence, get, finalize; notify, and the two about events.
const REQUESTS: [u8; 9] = [0, 1, 2, 3, 4, 5, 12, 13, 14];

/// The request to start more processes.
const SPAWN: u8 = 9;

/// Own answers that wait for the guest to read them; it has no need to ask more before.
const UNREAD_MAX: usize = 4096;

/// Who a task is for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub namespace: Vec<u8>,
    pub rank: u32,
}

/// One connection's conversation with the server.
#[derive(Debug)]
pub(super) struct Pmix {
    name: Name,
    has_greeted: bool,
    /// Of the guest, not yet passed on.
    said: VecDeque<u8>,
    /// Bytes of the message that is being passed on, and of the one that is not.
    passing: usize,
    dropping: usize,
    answers: Answers,
    /// A line for the user.
    line: Option<String>,
    has_told: bool,
}

impl Pmix {
    /// Nothing was said.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            has_greeted: false,
            said: VecDeque::new(),
            passing: 0,
            dropping: 0,
            answers: Answers::default(),
            line: None,
            has_told: false,
        }
    }

    /// Takes bytes of the guest.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.said.extend(bytes);
    }

    /// Bytes of the guest that are kept.
    pub fn kept(&self) -> usize {
        self.said.len()
    }

    /// What may be passed on now.
    ///
    /// # Errors
    /// What the guest said that is not passed on. The conversation is over then.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        if !self.has_greeted {
            return self.greeting();
        }
        loop {
            let dropped = self.dropping.min(self.said.len());
            self.said.drain(..dropped);
            self.dropping -= dropped;
            let passed = self.passing.min(self.said.len());
            self.passing -= passed;
            if passed > 0 {
                return Ok(Some(self.said.drain(..passed).collect()));
            }
            if self.dropping + self.passing > 0 || !self.begin()? {
                return Ok(None);
            }
        }
    }

    fn greeting(&mut self) -> Result<Option<Vec<u8>>, String> {
        let said = self.said.make_contiguous();
        let Some((header, rest)) = said.split_at_mut_checked(HEADER_LEN) else { return Ok(None) };
        // The only number that is not in the order of networks.
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        if length > GREETING_MAX {
            return Err(not_understood("begins with a message that is too long"));
        }
        let Some(greeting) = rest.get_mut(..length) else { return Ok(None) };
        check_greeting(greeting, &self.name)?;
        self.has_greeted = true;
        Ok(Some(self.said.drain(..HEADER_LEN + length).collect()))
    }

    /// Begins with the next message, if its beginning is there.
    fn begin(&mut self) -> Result<bool, String> {
        let said = self.said.make_contiguous();
        let Some((header, &[count, request, ..])) = said.split_first_chunk::<HEADER_LEN>() else { return Ok(false) };
        let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (tag, length) = (number(4), number(8) as usize);
        if tag < FIRST_TAG || !(2..=MESSAGE_MAX).contains(&length) || count != ONE {
            return Err(not_understood(&format!("sends {length} bytes with the tag {tag}, which are no request,")));
        }
        if REQUESTS.contains(&request) {
            self.passing = HEADER_LEN + length;
            return Ok(true);
        }
        if self.answers.unread() > UNREAD_MAX {
            return Ok(false);
        }
        self.dropping = HEADER_LEN + length;
        self.answers.insert(tag);
        if request == SPAWN && !self.has_told {
            self.has_told = true;
            self.line = Some(
                "the command asks Slurm to start more processes (MPI_Comm_spawn), which would run outside of VMs: it is \
                 refused"
                    .to_owned(),
            );
        }
        Ok(true)
    }

    /// Takes what the server said.
    pub fn answered(&mut self, bytes: &[u8]) {
        self.answers.take(bytes);
    }

    /// What the guest is told.
    pub fn for_guest(&mut self) -> &mut Vec<u8> {
        &mut self.answers.ready
    }

    /// Whether nothing waits for the guest.
    pub fn has_told_all(&self) -> bool {
        self.answers.ready.is_empty()
    }

    /// A line for the user, once.
    pub fn line(&mut self) -> Option<String> {
        self.line.take()
    }
}

/// What goes to the guest: the server's messages, with own ones between them.
#[derive(Debug, Default)]
struct Answers {
    /// Bytes of the first answer that came.
    first: usize,
    /// The header of the next message, as far as it came.
    header: Vec<u8>,
    /// Bytes of the message that are still to come.
    left: usize,
    own: Vec<u8>,
    ready: Vec<u8>,
}

impl Answers {
    fn unread(&self) -> usize {
        self.own.len() + self.ready.len()
    }

    /// Answers the request with this tag.
    fn insert(&mut self, tag: u32) {
        let message: [&[u8]; 5] = [&[0; 4], &tag.to_be_bytes(), &2_u32.to_be_bytes(), &[0; 4], &[ONE, NOT_SUPPORTED]];
        self.own.extend(message.concat());
        self.insert_own();
    }

    fn insert_own(&mut self) {
        if self.first == ANSWER_LEN && self.header.is_empty() && self.left == 0 {
            self.ready.append(&mut self.own);
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = match (self.first, self.left) {
                (ANSWER_LEN, 0) => HEADER_LEN - self.header.len(),
                (ANSWER_LEN, left) => left,
                (first, _) => ANSWER_LEN - first,
            };
            let (piece, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.first < ANSWER_LEN {
                self.first += piece.len();
                self.ready.extend(piece);
            } else if self.left > 0 {
                self.left -= piece.len();
                self.ready.extend(piece);
            } else {
                self.header.extend(piece);
                if let [.., a, b, c, d, _, _, _, _] = self.header[..]
                    && self.header.len() == HEADER_LEN
                {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.ready.append(&mut self.header);
                }
            }
            self.insert_own();
        }
    }
}

/// Checks a client's first message, and puts this process's user and group into it.
fn check_greeting(greeting: &mut [u8], name: &Name) -> Result<(), String> {
    let mut rest = &mut *greeting;
    let security = word(&mut rest)?;
    if security != b"native" || number(&mut rest)? != 8 {
        return Err(not_understood("says who it is in another way than 'native'"));
    }
    let (credential, mut rest) = rest.split_at_mut_checked(8).ok_or_else(too_short)?;
    credential[..4].copy_from_slice(&geteuid().as_raw().to_be_bytes());
    credential[4..].copy_from_slice(&getegid().as_raw().to_be_bytes());
    if byte(&mut rest)? != PLAIN_CLIENT {
        return Err(not_understood("is a tool and no task"));
    }
    if word(&mut rest)? != name.namespace || number(&mut rest)? != name.rank {
        return Err(not_understood("has the name of another task"));
    }
    let version = word(&mut rest)?.to_vec();
    // The server reads another message if it is 2.0.
    let is_later = matches!(version[..], [b'4'..=b'9', b'.', ..]);
    if !is_later || word(&mut rest)? != b"v41" || byte(&mut rest)? != PLAIN_BUFFER {
        let version = qemu::printable(&version);
        return Err(not_understood(&format!("has PMIx '{version}', and 4.1 or later is needed,")));
    }
    if word(&mut rest)? != b"hash" {
        return Err(not_understood("wants memory of the server (PMIX_MCA_gds), which no VM has,"));
    }
    Ok(())
}

fn word<'a>(rest: &mut &'a mut [u8]) -> Result<&'a [u8], String> {
    let end = rest.iter().position(|&byte| byte == 0).ok_or_else(too_short)?;
    let (word, after) = std::mem::take(rest).split_at_mut(end + 1);
    *rest = after;
    Ok(&word[..end])
}

fn number(rest: &mut &mut [u8]) -> Result<u32, String> {
    let (number, after) = std::mem::take(rest).split_first_chunk_mut::<4>().ok_or_else(too_short)?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

fn byte(rest: &mut &mut [u8]) -> Result<u8, String> {
    let (byte, after) = std::mem::take(rest).split_first_mut().ok_or_else(too_short)?;
    *rest = after;
    Ok(*byte)
}

fn too_short() -> String {
    not_understood("begins with no message of PMIx")
}

fn not_understood(what: &str) -> String {
    format!("the command {what} to Slurm's PMIx server, which is not passed on, and MPI does not go on")
}
