//! What the runner tells the agent.

use super::message::{Stream, kind};
use super::network::{Interface, MoreAddresses};
use super::payload::{Reader, put, put_counted, put_hello, put_size};
use super::{Frame, ProtoError};

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
    /// Mount a share: its number and the absolute path at which it appears.
    Share {
        /// Number of the share at the file server ([`super::files`]).
        number: u16,
        /// Absolute mount point, created when the image lacks it, but never within another share.
        path: &'a [u8],
        /// Name of the one file that is shared; empty when the share is a directory.
        file: &'a [u8],
        /// Mount it read-only.
        read_only: bool,
    },
    /// Make a symbolic link; it replaces a file of that name. Sent before the shares, so that nothing is
    /// written to a share. At START the target must exist.
    Link {
        /// Absolute path of the link.
        path: &'a [u8],
        /// Absolute path of its target.
        target: &'a [u8],
    },
    /// Make a path another name of a directory, as far as the image has room for that. Sent after the shares.
    Alias {
        /// Absolute path of the name.
        path: &'a [u8],
        /// Absolute path of the directory, or relative to where the name is.
        target: &'a [u8],
    },
    /// Make this home directory for the user, if it is missing. Sent after CREDENTIALS.
    Home(&'a [u8]),
    /// The root will be saved now: remove what sessions added to it for their own use.
    TakeBack,
    /// Keep the command to this many processors (a template may have more than the VM should).
    Cpus(u16),
    /// So many tasks will run in this VM; without it one. The last one's end is the session's: until then, what a task has
    /// started goes on after its end. Sent again if fewer come.
    Tasks(u16),
    /// This many bytes of memory more than the template has are being plugged.
    Memory(u64),
    /// The host's time zone.
    Zone {
        /// Its name in the zone database, empty if the host does not say.
        name: &'a [u8],
        /// The host's `/etc/localtime`.
        data: &'a [u8],
    },
    /// Configure the VM's network device.
    Network(Interface),
    /// More addresses of that device.
    Address(MoreAddresses),
    /// Lines to append to `/etc/hosts`.
    Hosts(&'a [u8]),
    /// Content of `/etc/resolv.conf`.
    Resolver(&'a [u8]),
    /// Account of the user. It comes before all others in the guest's passwd.
    User {
        /// The account's group, which a job's primary group may differ from.
        gid: u32,
        /// Login name.
        name: &'a [u8],
        /// The person's name and other notes.
        gecos: &'a [u8],
        /// Home directory.
        home: &'a [u8],
        /// Login shell.
        shell: &'a [u8],
    },
    /// A group of the user that has a name on the host; sent before CREDENTIALS. It comes before all others in the
    /// guest's group file.
    Group {
        /// Group id.
        gid: u32,
        /// Name.
        name: &'a [u8],
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
    /// How the command's processes compete with others in the guest.
    Priority {
        /// The nice value, -20 to 19.
        nice: i8,
        /// Class and level of input and output, as the kernel's `ioprio_get` tells them.
        io: u16,
    },
    /// The processors of the command, if it should not use all of the VM's: a bit for each, the lowest first.
    CpuSet(&'a [u8]),
    /// Give the command a terminal of this size.
    Pty {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Make the command's stderr the same file as its stdout. On the host they are one file, and
    /// what is written to both must stay in order.
    MergeStderr,
    /// Give the command a socket as this descriptor. Its bytes are [`Stream::Socket`]: the first such message is socket 0. An
    /// EOF of it closes both directions.
    Socket(u32),
    /// Listen at this address while the command runs. Each connection is the next free one of so many [`Stream::Socket`], whose
    /// places follow those of all sockets; the next one waits until one is free. An EOF closes both directions, each side sends
    /// nothing after its own, and when both have, the place is as new.
    Listener {
        /// IPv4 address of the guest.
        address: [u8; 4],
        /// TCP port.
        port: u16,
        /// Connections at a time.
        connections: u8,
    },
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
    /// Stdin: the stream has ended. Stdout or stderr: nobody reads it any more, so the command's
    /// next write must fail as on a broken pipe.
    Eof(Stream),
    /// This many bytes of the stream were passed on.
    Window(Stream, u32),
    /// Send the signal to the command.
    Signal(u8),
    /// The terminal has a new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// The guest is about to become a template: bring into memory what every task needs, write
    /// everything to the disks, and answer SYNCED.
    Settle,
    /// Answer PONG. This is the heartbeat: the runner checks from time to time that the guest still answers.
    Ping,
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
                put_hello(&mut scratch, *version, *nonce);
                (kind::HELLO, 0, &scratch)
            }
            Self::Clock(ns) => (kind::CLOCK, 0, put(&mut scratch, ns.to_le_bytes())),
            Self::Hostname(name) => (kind::HOSTNAME, 0, name),
            Self::Entropy(bytes) => (kind::ENTROPY, 0, bytes),
            Self::Share { number, path, file, read_only } => {
                scratch.push(u8::from(*read_only));
                scratch.extend(number.to_le_bytes());
                put_counted(&mut scratch, file);
                scratch.extend_from_slice(path);
                (kind::SHARE, 0, &scratch)
            }
            Self::Link { path, target } => (kind::LINK, 0, put_pair(&mut scratch, path, target)),
            Self::Alias { path, target } => (kind::ALIAS, 0, put_pair(&mut scratch, path, target)),
            Self::Home(path) => (kind::HOME, 0, path),
            Self::TakeBack => (kind::TAKE_BACK, 0, &[]),
            Self::Cpus(count) => (kind::CPUS, 0, put(&mut scratch, count.to_le_bytes())),
            Self::Tasks(count) => (kind::TASKS, 0, put(&mut scratch, count.to_le_bytes())),
            Self::Memory(bytes) => (kind::MEMORY, 0, put(&mut scratch, bytes.to_le_bytes())),
            Self::Zone { name, data } => (kind::ZONE, 0, put_pair(&mut scratch, name, data)),
            Self::Network(interface) => {
                interface.encode(&mut scratch);
                (kind::NETWORK, 0, &scratch)
            }
            Self::Address(more) => (kind::ADDRESS, 0, more.encode(&mut scratch)),
            Self::Hosts(lines) => (kind::HOSTS, 0, lines),
            Self::Resolver(text) => (kind::RESOLVER, 0, text),
            Self::User { gid, name, gecos, home, shell } => {
                scratch.extend(gid.to_le_bytes());
                for field in [name, gecos, home, shell] {
                    put_counted(&mut scratch, field);
                }
                (kind::USER, 0, &scratch)
            }
            Self::Group { gid, name } => (kind::GROUP, 0, put_numbered(&mut scratch, *gid, name)),
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
                (kind::RLIMIT, 0, put_limit(&mut scratch, *resource, *soft, *hard))
            }
            Self::Priority { nice, io } => (kind::PRIORITY, 0, put_priority(&mut scratch, *nice, *io)),
            Self::CpuSet(mask) => (kind::CPU_SET, 0, mask),
            Self::Pty { rows, cols } => (kind::PTY, 0, put_size(&mut scratch, *rows, *cols)),
            Self::File { mode, path } => (kind::FILE, 0, put_numbered(&mut scratch, *mode, path)),
            Self::FileData(bytes) => (kind::FILE_DATA, 0, bytes),
            Self::MergeStderr => (kind::MERGE_STDERR, 0, &[]),
            Self::Socket(number) => (kind::SOCKET, 0, put(&mut scratch, number.to_le_bytes())),
            Self::Listener { address, port, connections } => {
                scratch.extend_from_slice(address);
                scratch.extend(port.to_le_bytes());
                scratch.push(*connections);
                (kind::LISTENER, 0, &scratch)
            }
            Self::Start => (kind::START, 0, &[]),
            Self::Data(stream, bytes) => (kind::DATA, stream.number(), bytes),
            Self::Eof(stream) => (kind::EOF, stream.number(), &[]),
            Self::Window(stream, bytes) => (kind::WINDOW, stream.number(), put(&mut scratch, bytes.to_le_bytes())),
            Self::Signal(signo) => (kind::SIGNAL, 0, put(&mut scratch, [*signo])),
            Self::Resize { rows, cols } => (kind::RESIZE, 0, put_size(&mut scratch, *rows, *cols)),
            Self::Settle => (kind::SETTLE, 0, &[]),
            Self::Ping => (kind::PING, 0, &[]),
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
            kind::CLOCK => Self::Clock(Reader::new(p, "CLOCK").only(Reader::u64)?),
            kind::HOSTNAME => Self::Hostname(p),
            kind::ENTROPY => Self::Entropy(p),
            kind::SHARE => Self::parse_share(p)?,
            kind::LINK => {
                let (path, target) = Reader::new(p, "LINK").pair()?;
                Self::Link { path, target }
            }
            kind::ALIAS => {
                let (path, target) = Reader::new(p, "ALIAS").pair()?;
                Self::Alias { path, target }
            }
            kind::HOME => Self::Home(p),
            kind::TAKE_BACK => Self::TakeBack,
            kind::ZONE => {
                let (name, data) = Reader::new(p, "ZONE").pair()?;
                Self::Zone { name, data }
            }
            kind::NETWORK => Self::Network(Reader::new(p, "NETWORK").only(Interface::parse)?),
            kind::ADDRESS => Self::Address(Reader::new(p, "ADDRESS").only(MoreAddresses::parse)?),
            kind::HOSTS => Self::Hosts(p),
            kind::RESOLVER => Self::Resolver(p),
            kind::CPUS => Self::Cpus(Reader::new(p, "CPUS").only(Reader::u16)?),
            kind::TASKS => Self::Tasks(Reader::new(p, "TASKS").only(Reader::u16)?),
            kind::MEMORY => Self::Memory(Reader::new(p, "MEMORY").only(Reader::u64)?),
            kind::USER => Self::parse_user(p)?,
            kind::GROUP => {
                let mut r = Reader::new(p, "GROUP");
                Self::Group { gid: r.u32()?, name: r.rest() }
            }
            kind::CREDENTIALS => Self::parse_credentials(p)?,
            kind::CPU_SET => Self::CpuSet(p),
            kind::CWD => Self::Cwd(p),
            kind::ARG => Self::Arg(p),
            kind::ENV => Self::Env(p),
            kind::RLIMIT => Reader::new(p, "RLIMIT")
                .only(|r| Ok(Self::Rlimit { resource: r.u8()?, soft: r.u64()?, hard: r.u64()? }))?,
            kind::PRIORITY => Reader::new(p, "PRIORITY")
                .only(|r| Ok(Self::Priority { nice: i8::from_le_bytes([r.u8()?]), io: r.u16()? }))?,
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
            kind::SOCKET => Self::Socket(Reader::new(p, "SOCKET").only(Reader::u32)?),
            kind::LISTENER => Reader::new(p, "LISTENER")
                .only(|r| Ok(Self::Listener { address: r.array()?, port: r.u16()?, connections: r.u8()? }))?,
            kind::START => Self::Start,
            kind::DATA => Self::Data(Stream::parse(frame.stream, "DATA")?, p),
            kind::EOF => Self::Eof(Stream::parse(frame.stream, "EOF")?),
            kind::WINDOW => {
                Self::Window(Stream::parse(frame.stream, "WINDOW")?, Reader::new(p, "WINDOW").only(Reader::u32)?)
            }
            kind::SIGNAL => Self::Signal(Reader::new(p, "SIGNAL").only(Reader::u8)?),
            kind::RESIZE => {
                let (rows, cols) = Reader::new(p, "RESIZE").size()?;
                Self::Resize { rows, cols }
            }
            kind::SETTLE => Self::Settle,
            kind::PING => Self::Ping,
            other => return Err(ProtoError::UnknownKind(other)),
        })
    }

    fn parse_share(payload: &'a [u8]) -> Result<Self, ProtoError> {
        let mut r = Reader::new(payload, "SHARE");
        let read_only = r.u8()? != 0;
        Ok(Self::Share { read_only, number: r.u16()?, file: r.counted()?, path: r.rest() })
    }

    fn parse_user(payload: &'a [u8]) -> Result<Self, ProtoError> {
        let mut r = Reader::new(payload, "USER");
        let gid = r.u32()?;
        let (name, gecos, home, shell) = (r.counted()?, r.counted()?, r.counted()?, r.counted()?);
        r.end()?;
        Ok(Self::User { gid, name, gecos, home, shell })
    }

    fn parse_credentials(payload: &[u8]) -> Result<Self, ProtoError> {
        let mut r = Reader::new(payload, "CREDENTIALS");
        let (uid, gid, umask) = (r.u32()?, r.u32()?, r.u32()?);
        let mut groups = Vec::with_capacity(r.left() / 4);
        while r.left() > 0 {
            groups.push(r.u32()?);
        }
        Ok(Self::Credentials { uid, gid, umask, groups })
    }
}

/// Appends a number, and then the rest of the payload.
fn put_numbered<'a>(out: &'a mut Vec<u8>, number: u32, rest: &[u8]) -> &'a [u8] {
    out.extend(number.to_le_bytes());
    out.extend_from_slice(rest);
    out
}

/// A field with its length, and one that ends with the message.
fn put_pair<'a>(scratch: &'a mut Vec<u8>, first: &[u8], last: &[u8]) -> &'a [u8] {
    put_counted(scratch, first);
    scratch.extend_from_slice(last);
    scratch
}

fn put_limit(scratch: &mut Vec<u8>, resource: u8, soft: u64, hard: u64) -> &[u8] {
    scratch.push(resource);
    scratch.extend(soft.to_le_bytes());
    scratch.extend(hard.to_le_bytes());
    scratch
}

fn put_priority(scratch: &mut Vec<u8>, nice: i8, io: u16) -> &[u8] {
    scratch.extend(nice.to_le_bytes());
    scratch.extend(io.to_le_bytes());
    scratch
}
