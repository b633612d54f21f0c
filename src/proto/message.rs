//! What the frames say.

use super::{Frame, MAGIC, MAX_PAYLOAD, ProtoError};

/// The kind byte of every message. One number space for both directions.
pub(super) mod kind {
    pub const HELLO: u8 = 1;
    // Runner to agent: the machine.
    pub const CLOCK: u8 = 16;
    pub const HOSTNAME: u8 = 17;
    pub const ENTROPY: u8 = 18;
    pub const SHARE: u8 = 19;
    pub const CPUS: u8 = 20;
    pub const NET: u8 = 21;
    // Runner to agent: the task.
    pub const USER: u8 = 32;
    pub const CREDENTIALS: u8 = 33;
    pub const CWD: u8 = 34;
    pub const ARG: u8 = 35;
    pub const ENV: u8 = 36;
    pub const RLIMIT: u8 = 37;
    pub const PTY: u8 = 38;
    pub const FILE: u8 = 39;
    pub const FILE_DATA: u8 = 40;
    pub const START: u8 = 41;
    pub const MERGE_STDERR: u8 = 42;
    pub const SIGNAL: u8 = 48;
    pub const RESIZE: u8 = 49;
    pub const BYE: u8 = 50;
    pub const SYNC: u8 = 51;
    // Both ways.
    pub const DATA: u8 = 64;
    pub const EOF: u8 = 65;
    pub const WINDOW: u8 = 66;
    // Agent to runner.
    pub const STARTED: u8 = 96;
    pub const FAILED: u8 = 97;
    pub const EXIT: u8 = 98;
    pub const LOG: u8 = 99;
    pub const SYNCED: u8 = 100;
}

/// A data stream of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stream {
    /// Runner to agent.
    Stdin = 0,
    /// Agent to runner. With a pty it carries everything the terminal shows.
    Stdout = 1,
    /// Agent to runner. Unused with a pty, but still closed by an EOF.
    Stderr = 2,
}

impl Stream {
    fn parse(byte: u8, message: &'static str) -> Result<Self, ProtoError> {
        match byte {
            0 => Ok(Self::Stdin),
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            _ => Err(ProtoError::Malformed { message, why: "no such stream" }),
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this code.
    Code(u8),
    /// This signal (1..=64) killed it.
    Signal(u8),
}

/// Why the agent could not start a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FailKind {
    /// The guest is not fit to run anything (root image, share or identity could not be set up).
    Setup = 1,
    /// The command does not exist: a shell's 127.
    NotFound = 2,
    /// The command exists and cannot be executed: a shell's 126.
    NotExecutable = 3,
}

/// Severity of a line that the agent logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The user should see it.
    Warn = 1,
    /// For the administrator.
    Info = 2,
    /// For whoever debugs the agent.
    Debug = 3,
}

/// Marks on the guest's own clock (its `/proc/uptime`), in milliseconds since its kernel started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BootTimes {
    /// The agent's first instruction.
    pub agent_ms: u32,
    /// All modules of the kit are loaded.
    pub modules_ms: u32,
    /// The image's root is mounted and the agent answers.
    pub ready_ms: u32,
}

/// Messages from the runner to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest<'a> {
    /// Opens a session and ends any earlier one.
    Hello {
        /// The runner's [`super::VERSION`].
        version: u16,
        /// Session number; the agent repeats it.
        nonce: u64,
    },
    /// The host's wall clock, nanoseconds since the epoch.
    Clock(u64),
    /// The VM's host name.
    Hostname(&'a [u8]),
    /// Bytes from the host's random generator; the agent credits them fully and reseeds.
    Entropy(&'a [u8]),
    /// Mount a share: the 9p tag and the absolute path at which it appears.
    Share {
        /// 9p mount tag, at most 31 bytes (the limit of virtio-9p).
        tag: &'a [u8],
        /// Absolute mount point, created when the image lacks it.
        path: &'a [u8],
        /// Mount it read-only.
        read_only: bool,
    },
    /// Bring processors online until this many work (a template boots with one).
    Cpus(u16),
    /// Configure the network interface of the VM and bring it up.
    Net {
        /// Its hardware address from now on: clones of a template share the one they booted with.
        mac: [u8; 6],
        /// IPv4 address.
        address: [u8; 4],
        /// Length of the network prefix in bits, at most 32.
        prefix: u8,
        /// Default gateway; all zero for none.
        gateway: [u8; 4],
        /// Name server for `/etc/resolv.conf`; all zero leaves the image's file alone.
        dns: [u8; 4],
    },
    /// Account of the user; added to the guest's passwd when it has no such uid.
    User {
        /// Login name.
        name: &'a [u8],
        /// Home directory.
        home: &'a [u8],
        /// Login shell.
        shell: &'a [u8],
    },
    /// Who the command runs as.
    Credentials {
        /// User id.
        uid: u32,
        /// Primary group id.
        gid: u32,
        /// File mode creation mask.
        umask: u32,
        /// Supplementary group ids.
        groups: Vec<u32>,
    },
    /// Working directory of the command.
    Cwd(&'a [u8]),
    /// Next argument; the first is the command itself.
    Arg(&'a [u8]),
    /// Next environment variable as `NAME=value`.
    Env(&'a [u8]),
    /// A resource limit by its Linux number; `u64::MAX` is infinity.
    Rlimit {
        /// `RLIMIT_*` number.
        resource: u8,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    },
    /// Give the command a terminal of this size.
    Pty {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Make the command's stderr the same file as its stdout: on the host they are one, and the
    /// order of what is written to the two must be kept.
    MergeStderr,
    /// Create this file, owned by the user; FILE-DATA messages that follow are its content.
    File {
        /// Permission bits.
        mode: u32,
        /// Absolute path; missing directories are created, root-owned.
        path: &'a [u8],
    },
    /// Next part of the file named last.
    FileData(&'a [u8]),
    /// Run the command as described.
    Start,
    /// Bytes of a stream (stdin).
    Data(Stream, &'a [u8]),
    /// Stdin: the stream has ended. Stdout or stderr: nobody reads it any more, the command's next
    /// write to it shall fail as on a broken pipe.
    Eof(Stream),
    /// This many bytes of the stream were passed on.
    Window(Stream, u32),
    /// Send the signal to the command's process group.
    Signal(u8),
    /// The terminal has a new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// EXIT has arrived; the VM may go at any moment.
    Bye,
    /// Write everything to the disks and answer SYNCED: before the scratch disk is kept.
    Sync,
}

/// Messages from the agent to the runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost<'a> {
    /// Answers the runner's HELLO.
    Hello {
        /// The agent's [`super::VERSION`].
        version: u16,
        /// The nonce of the runner's HELLO.
        nonce: u64,
        /// Where the boot's time went.
        times: BootTimes,
    },
    /// The command is running under this pid.
    Started(u32),
    /// The command was not started.
    Failed(FailKind, &'a [u8]),
    /// Bytes of a stream (stdout or stderr).
    Data(Stream, &'a [u8]),
    /// The stream has ended.
    Eof(Stream),
    /// This many bytes of the stream (stdin) were passed on.
    Window(Stream, u32),
    /// The command has ended, nothing of it is left, and its output was sent.
    Exit(ExitStatus),
    /// Answers SYNC.
    Synced,
    /// A line for a log.
    Log {
        /// Who should see it.
        level: Level,
        /// One line of text.
        text: &'a [u8],
    },
}

impl<'a> ToGuest<'a> {
    /// Appends the message's frame to `out`.
    ///
    /// # Panics
    /// If a payload is longer than [`MAX_PAYLOAD`] bytes.
    pub fn encode(&self, task: u16, out: &mut Vec<u8>) {
        let mut scratch = Vec::new();
        let (kind, stream, payload): (u8, u8, &[u8]) = match self {
            Self::Hello { version, nonce } => {
                hello_payload(&mut scratch, *version, *nonce);
                (kind::HELLO, 0, &scratch)
            }
            Self::Clock(ns) => {
                scratch.extend(ns.to_le_bytes());
                (kind::CLOCK, 0, &scratch)
            }
            Self::Hostname(name) => (kind::HOSTNAME, 0, name),
            Self::Entropy(bytes) => (kind::ENTROPY, 0, bytes),
            Self::Share { tag, path, read_only } => {
                scratch.push(u8::from(*read_only));
                put_counted(&mut scratch, tag);
                scratch.extend_from_slice(path);
                (kind::SHARE, 0, &scratch)
            }
            Self::Cpus(count) => {
                scratch.extend(count.to_le_bytes());
                (kind::CPUS, 0, &scratch)
            }
            Self::Net { mac, address, prefix, gateway, dns } => {
                scratch.extend_from_slice(mac);
                scratch.extend_from_slice(address);
                scratch.push(*prefix);
                scratch.extend_from_slice(gateway);
                scratch.extend_from_slice(dns);
                (kind::NET, 0, &scratch)
            }
            Self::User { name, home, shell } => {
                for field in [name, home, shell] {
                    put_counted(&mut scratch, field);
                }
                (kind::USER, 0, &scratch)
            }
            Self::Credentials { uid, gid, umask, groups } => {
                for id in [uid, gid, umask].into_iter().chain(groups) {
                    scratch.extend(id.to_le_bytes());
                }
                (kind::CREDENTIALS, 0, &scratch)
            }
            Self::Cwd(path) => (kind::CWD, 0, path),
            Self::Arg(arg) => (kind::ARG, 0, arg),
            Self::Env(pair) => (kind::ENV, 0, pair),
            Self::Rlimit { resource, soft, hard } => {
                scratch.push(*resource);
                scratch.extend(soft.to_le_bytes());
                scratch.extend(hard.to_le_bytes());
                (kind::RLIMIT, 0, &scratch)
            }
            Self::Pty { rows, cols } => (kind::PTY, 0, put_size(&mut scratch, *rows, *cols)),
            Self::File { mode, path } => {
                scratch.extend(mode.to_le_bytes());
                scratch.extend_from_slice(path);
                (kind::FILE, 0, &scratch)
            }
            Self::FileData(bytes) => (kind::FILE_DATA, 0, bytes),
            Self::MergeStderr => (kind::MERGE_STDERR, 0, &[]),
            Self::Start => (kind::START, 0, &[]),
            Self::Data(stream, bytes) => (kind::DATA, *stream as u8, bytes),
            Self::Eof(stream) => (kind::EOF, *stream as u8, &[]),
            Self::Window(stream, bytes) => {
                scratch.extend(bytes.to_le_bytes());
                (kind::WINDOW, *stream as u8, &scratch)
            }
            Self::Signal(signo) => {
                scratch.push(*signo);
                (kind::SIGNAL, 0, &scratch)
            }
            Self::Resize { rows, cols } => (kind::RESIZE, 0, put_size(&mut scratch, *rows, *cols)),
            Self::Bye => (kind::BYE, 0, &[]),
            Self::Sync => (kind::SYNC, 0, &[]),
        };
        Frame { kind, stream, task, payload }.encode(out);
    }

    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// [`ProtoError::UnknownKind`] or [`ProtoError::Malformed`].
    pub fn parse(frame: Frame<'a>) -> Result<Self, ProtoError> {
        let p = frame.payload;
        Ok(match frame.kind {
            kind::HELLO => {
                let mut r = Reader::new(p, "HELLO");
                let (version, nonce) = r.hello()?;
                r.end()?;
                Self::Hello { version, nonce }
            }
            kind::CLOCK => {
                let mut r = Reader::new(p, "CLOCK");
                let ns = r.u64()?;
                r.end()?;
                Self::Clock(ns)
            }
            kind::HOSTNAME => Self::Hostname(p),
            kind::ENTROPY => Self::Entropy(p),
            kind::SHARE => {
                let mut r = Reader::new(p, "SHARE");
                let read_only = r.u8()? != 0;
                Self::Share { read_only, tag: r.counted()?, path: r.rest() }
            }
            kind::CPUS => {
                let mut r = Reader::new(p, "CPUS");
                let count = r.u16()?;
                r.end()?;
                Self::Cpus(count)
            }
            kind::NET => {
                let mut r = Reader::new(p, "NET");
                let (mac, address, prefix) = (r.array()?, r.array()?, r.u8()?);
                let net = Self::Net { mac, address, prefix, gateway: r.array()?, dns: r.array()? };
                r.end()?;
                if prefix > 32 {
                    return Err(r.wrong("prefix longer than 32 bits"));
                }
                net
            }
            kind::USER => {
                let mut r = Reader::new(p, "USER");
                let user = Self::User { name: r.counted()?, home: r.counted()?, shell: r.counted()? };
                r.end()?;
                user
            }
            kind::CREDENTIALS => {
                let mut r = Reader::new(p, "CREDENTIALS");
                let (uid, gid, umask) = (r.u32()?, r.u32()?, r.u32()?);
                let mut groups = Vec::with_capacity(r.left() / 4);
                while r.left() > 0 {
                    groups.push(r.u32()?);
                }
                Self::Credentials { uid, gid, umask, groups }
            }
            kind::CWD => Self::Cwd(p),
            kind::ARG => Self::Arg(p),
            kind::ENV => Self::Env(p),
            kind::RLIMIT => {
                let mut r = Reader::new(p, "RLIMIT");
                let limit = Self::Rlimit { resource: r.u8()?, soft: r.u64()?, hard: r.u64()? };
                r.end()?;
                limit
            }
            kind::PTY => {
                let (rows, cols) = Reader::new(p, "PTY").size()?;
                Self::Pty { rows, cols }
            }
            kind::FILE => {
                let mut r = Reader::new(p, "FILE");
                Self::File { mode: r.u32()?, path: r.rest() }
            }
            kind::FILE_DATA => Self::FileData(p),
            kind::MERGE_STDERR => Self::MergeStderr,
            kind::START => Self::Start,
            kind::DATA => Self::Data(Stream::parse(frame.stream, "DATA")?, p),
            kind::EOF => Self::Eof(Stream::parse(frame.stream, "EOF")?),
            kind::WINDOW => Self::Window(Stream::parse(frame.stream, "WINDOW")?, Reader::new(p, "WINDOW").only_u32()?),
            kind::SIGNAL => {
                let mut r = Reader::new(p, "SIGNAL");
                let signo = r.u8()?;
                r.end()?;
                Self::Signal(signo)
            }
            kind::RESIZE => {
                let (rows, cols) = Reader::new(p, "RESIZE").size()?;
                Self::Resize { rows, cols }
            }
            kind::BYE => Self::Bye,
            kind::SYNC => Self::Sync,
            other => return Err(ProtoError::UnknownKind(other)),
        })
    }
}

impl<'a> ToHost<'a> {
    /// Appends the message's frame to `out`.
    ///
    /// # Panics
    /// If a payload is longer than [`MAX_PAYLOAD`] bytes.
    pub fn encode(&self, task: u16, out: &mut Vec<u8>) {
        let mut scratch = Vec::new();
        let (kind, stream, payload): (u8, u8, &[u8]) = match self {
            Self::Hello { version, nonce, times } => {
                hello_payload(&mut scratch, *version, *nonce);
                for ms in [times.agent_ms, times.modules_ms, times.ready_ms] {
                    scratch.extend(ms.to_le_bytes());
                }
                (kind::HELLO, 0, &scratch)
            }
            Self::Started(pid) => {
                scratch.extend(pid.to_le_bytes());
                (kind::STARTED, 0, &scratch)
            }
            Self::Failed(why, text) => {
                scratch.push(*why as u8);
                scratch.extend_from_slice(text);
                (kind::FAILED, 0, &scratch)
            }
            Self::Data(stream, bytes) => (kind::DATA, *stream as u8, bytes),
            Self::Eof(stream) => (kind::EOF, *stream as u8, &[]),
            Self::Window(stream, bytes) => {
                scratch.extend(bytes.to_le_bytes());
                (kind::WINDOW, *stream as u8, &scratch)
            }
            Self::Exit(status) => {
                scratch.extend(match status {
                    ExitStatus::Code(code) => [0, *code],
                    ExitStatus::Signal(signo) => [1, *signo],
                });
                (kind::EXIT, 0, &scratch)
            }
            Self::Synced => (kind::SYNCED, 0, &[]),
            Self::Log { level, text } => {
                scratch.push(*level as u8);
                // A log line is the one payload nobody else bounds.
                scratch.extend_from_slice(&text[..text.len().min(MAX_PAYLOAD - 1)]);
                (kind::LOG, 0, &scratch)
            }
        };
        Frame { kind, stream, task, payload }.encode(out);
    }

    /// Reads the message in `frame`: the one place where the host believes or refuses the guest.
    ///
    /// # Errors
    /// [`ProtoError::UnknownKind`] or [`ProtoError::Malformed`].
    pub fn parse(frame: Frame<'a>) -> Result<Self, ProtoError> {
        let p = frame.payload;
        Ok(match frame.kind {
            kind::HELLO => {
                let mut r = Reader::new(p, "HELLO");
                let (version, nonce) = r.hello()?;
                let times = BootTimes { agent_ms: r.u32()?, modules_ms: r.u32()?, ready_ms: r.u32()? };
                r.end()?;
                Self::Hello { version, nonce, times }
            }
            kind::STARTED => Self::Started(Reader::new(p, "STARTED").only_u32()?),
            kind::FAILED => {
                let mut r = Reader::new(p, "FAILED");
                let why = match r.u8()? {
                    1 => FailKind::Setup,
                    2 => FailKind::NotFound,
                    3 => FailKind::NotExecutable,
                    _ => return Err(r.wrong("no such kind of failure")),
                };
                Self::Failed(why, r.rest())
            }
            kind::DATA => Self::Data(Stream::parse(frame.stream, "DATA")?, p),
            kind::EOF => Self::Eof(Stream::parse(frame.stream, "EOF")?),
            kind::WINDOW => Self::Window(Stream::parse(frame.stream, "WINDOW")?, Reader::new(p, "WINDOW").only_u32()?),
            kind::EXIT => {
                let mut r = Reader::new(p, "EXIT");
                let (how, value) = (r.u8()?, r.u8()?);
                r.end()?;
                Self::Exit(match (how, value) {
                    (0, code) => ExitStatus::Code(code),
                    (1, signo @ 1..=64) => ExitStatus::Signal(signo),
                    _ => return Err(r.wrong("neither a code nor a signal")),
                })
            }
            kind::SYNCED => Self::Synced,
            kind::LOG => {
                let mut r = Reader::new(p, "LOG");
                let level = match r.u8()? {
                    1 => Level::Warn,
                    2 => Level::Info,
                    3 => Level::Debug,
                    _ => return Err(r.wrong("no such level")),
                };
                Self::Log { level, text: r.rest() }
            }
            other => return Err(ProtoError::UnknownKind(other)),
        })
    }
}

fn hello_payload(out: &mut Vec<u8>, version: u16, nonce: u64) {
    out.extend_from_slice(&MAGIC);
    out.extend(version.to_le_bytes());
    out.extend(nonce.to_le_bytes());
}

fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).expect("names and paths are shorter than 64 KiB");
    out.extend(len.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_size(out: &mut Vec<u8>, rows: u16, cols: u16) -> &[u8] {
    out.extend(rows.to_le_bytes());
    out.extend(cols.to_le_bytes());
    out
}

/// Takes fields off the front of a payload.
struct Reader<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Reader<'a> {
    fn new(payload: &'a [u8], message: &'static str) -> Self {
        Self { rest: payload, message }
    }

    fn wrong(&self, why: &'static str) -> ProtoError {
        ProtoError::Malformed { message: self.message, why }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtoError> {
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or(self.wrong("too short"))?;
        self.rest = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, ProtoError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, ProtoError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, ProtoError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ProtoError> {
        self.array().map(u64::from_le_bytes)
    }

    fn only_u32(mut self) -> Result<u32, ProtoError> {
        let value = self.u32()?;
        self.end()?;
        Ok(value)
    }

    fn size(mut self) -> Result<(u16, u16), ProtoError> {
        let size = (self.u16()?, self.u16()?);
        self.end()?;
        Ok(size)
    }

    fn hello(&mut self) -> Result<(u16, u64), ProtoError> {
        if self.array()? != MAGIC {
            return Err(self.wrong("no magic"));
        }
        Ok((self.u16()?, self.u64()?))
    }

    fn counted(&mut self) -> Result<&'a [u8], ProtoError> {
        let len = self.u16()? as usize;
        let (field, rest) = self.rest.split_at_checked(len).ok_or(self.wrong("too short"))?;
        self.rest = rest;
        Ok(field)
    }

    fn left(&self) -> usize {
        self.rest.len()
    }

    fn rest(self) -> &'a [u8] {
        self.rest
    }

    fn end(&self) -> Result<(), ProtoError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong("too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;

    /// Encodes after a HELLO, decodes, and hands the last frame to `check`.
    fn roundtrip(encode: impl Fn(&mut Vec<u8>), check: impl Fn(Frame<'_>)) {
        let mut bytes = Vec::new();
        ToGuest::Hello { version: 1, nonce: 1 }.encode(0, &mut bytes);
        encode(&mut bytes);
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        decoder.next_frame().unwrap().unwrap();
        check(decoder.next_frame().unwrap().unwrap());
        assert_eq!(decoder.next_frame(), Ok(None));
    }

    #[test]
    fn every_message_to_the_guest_arrives_as_it_was_sent() {
        let messages = [
            ToGuest::Hello { version: 3, nonce: u64::MAX },
            ToGuest::Clock(1_700_000_000_000_000_000),
            ToGuest::Hostname(b"vm12-0"),
            ToGuest::Entropy(&[1; 64]),
            ToGuest::Share { tag: b"s0", path: b"/home/a b", read_only: true },
            ToGuest::Cpus(16),
            ToGuest::Net {
                mac: [2, 0, 0, 0, 0, 9],
                address: [10, 0, 2, 15],
                prefix: 24,
                gateway: [10, 0, 2, 2],
                dns: [0; 4],
            },
            ToGuest::User { name: b"ada", home: b"/home/ada", shell: b"/bin/sh" },
            ToGuest::Credentials { uid: 1000, gid: 100, umask: 0o27, groups: vec![4, 5] },
            ToGuest::Cwd(b"/"),
            ToGuest::Arg(b""),
            ToGuest::Env(b"A=b\nc=\xff"),
            ToGuest::Rlimit { resource: 7, soft: 1024, hard: u64::MAX },
            ToGuest::Pty { rows: 24, cols: 80 },
            ToGuest::File { mode: 0o700, path: b"/var/spool/x" },
            ToGuest::FileData(b"#!/bin/sh\n"),
            ToGuest::MergeStderr,
            ToGuest::Start,
            ToGuest::Data(Stream::Stdin, b"in"),
            ToGuest::Eof(Stream::Stdin),
            ToGuest::Window(Stream::Stdout, 65536),
            ToGuest::Signal(15),
            ToGuest::Resize { rows: 50, cols: 132 },
            ToGuest::Bye,
            ToGuest::Sync,
        ];
        for message in messages {
            roundtrip(|out| message.encode(2, out), |frame| assert_eq!(ToGuest::parse(frame), Ok(message.clone())));
        }
    }

    #[test]
    fn every_message_to_the_host_arrives_as_it_was_sent() {
        let messages = [
            ToHost::Hello { version: 1, nonce: 9, times: BootTimes { agent_ms: 1, modules_ms: 2, ready_ms: 3 } },
            ToHost::Started(77),
            ToHost::Failed(FailKind::NotFound, b"no such file"),
            ToHost::Data(Stream::Stderr, b"\0\x01"),
            ToHost::Eof(Stream::Stdout),
            ToHost::Window(Stream::Stdin, 1),
            ToHost::Exit(ExitStatus::Code(255)),
            ToHost::Synced,
            ToHost::Exit(ExitStatus::Signal(11)),
            ToHost::Log { level: Level::Warn, text: b"hm" },
        ];
        for message in messages {
            roundtrip(|out| message.encode(0, out), |frame| assert_eq!(ToHost::parse(frame), Ok(message.clone())));
        }
    }

    #[test]
    fn every_truncation_and_every_kind_byte_gets_an_answer() {
        let mut bytes = Vec::new();
        ToHost::Exit(ExitStatus::Signal(9)).encode(0, &mut bytes);
        for kind in 0..=255u8 {
            for stream in [0, 1, 2, 3, 255] {
                for len in 0..40 {
                    let payload = [0xa5u8; 40];
                    let frame = Frame { kind, stream, task: 0, payload: &payload[..len] };
                    let _ = ToHost::parse(frame);
                    let _ = ToGuest::parse(frame);
                }
            }
        }
    }

    #[test]
    fn an_exit_by_signal_0_or_65_is_refused() {
        for signo in [0u8, 65, 255] {
            let frame = Frame { kind: kind::EXIT, stream: 0, task: 0, payload: &[1, signo] };
            assert!(ToHost::parse(frame).is_err());
        }
    }
}
