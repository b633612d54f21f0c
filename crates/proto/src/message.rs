//! What the messages of both directions share.

use super::{ProtoError, SOCKETS_MAX};

/// The kind byte of every message. One number space for both directions.
pub(super) mod kind {
    pub const HELLO: u8 = 1;
    // Runner to agent: the machine.
    pub const CLOCK: u8 = 16;
    pub const HOSTNAME: u8 = 17;
    pub const ENTROPY: u8 = 18;
    pub const SHARE: u8 = 19;
    pub const CPUS: u8 = 20;
    pub const MEMORY: u8 = 22;
    pub const LINK: u8 = 26;
    pub const TAKE_BACK: u8 = 27;
    pub const ALIAS: u8 = 28;
    pub const HOME: u8 = 29;
    pub const ZONE: u8 = 30;
    pub const TASKS: u8 = 31;
    pub const NETWORK: u8 = 58;
    pub const ADDRESS: u8 = 59;
    pub const HOSTS: u8 = 56;
    pub const RESOLVER: u8 = 57;
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
    pub const GROUP: u8 = 43;
    pub const LISTENER: u8 = 44;
    pub const PRIORITY: u8 = 45;
    pub const CPU_SET: u8 = 46;
    pub const SOCKET: u8 = 47;
    pub const SIGNAL: u8 = 48;
    pub const RESIZE: u8 = 49;
    pub const SETTLE: u8 = 52;
    pub const PING: u8 = 53;
    // Both ways.
    pub const DATA: u8 = 64;
    pub const EOF: u8 = 65;
    pub const WINDOW: u8 = 66;
    // Agent to runner.
    pub const STARTED: u8 = 96;
    pub const FAILED: u8 = 97;
    pub const EXIT: u8 = 98;
    pub const WARNING: u8 = 99;
    pub const SYNCED: u8 = 100;
    pub const PONG: u8 = 101;
    pub const ASK_CLOCK: u8 = 102;
}

/// A data stream of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Runner to agent.
    Stdin,
    /// Agent to runner. With a pty it carries everything the terminal shows.
    Stdout,
    /// Agent to runner. Unused with a pty, but still closed by an EOF.
    Stderr,
    /// Both ways, with a window for each: a socket that the task has besides, by its place among the SOCKET messages.
    Socket(u8),
}

impl Stream {
    /// The number of the first socket.
    const SOCKETS: u8 = 3;

    /// Its number in frames.
    pub fn number(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Socket(place) => Self::SOCKETS.saturating_add(place),
        }
    }

    pub(super) fn parse(byte: u8, message: &'static str) -> Result<Self, ProtoError> {
        match byte {
            0 => Ok(Self::Stdin),
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            number if number - Self::SOCKETS < SOCKETS_MAX => Ok(Self::Socket(number - Self::SOCKETS)),
            _ => Err(ProtoError::Malformed { message, why: "no such stream" }),
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal (1..=64) killed it.
    Signal(u8),
}

/// Why the agent could not start a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FailKind {
    /// The guest cannot run anything: its root image, a share or its identity could not be set up.
    Setup = 1,
    /// The command does not exist (a shell's exit code 127).
    NotFound = 2,
    /// The command exists but cannot be executed (a shell's exit code 126).
    NotExecutable = 3,
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
