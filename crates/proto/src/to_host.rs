//! Messages from the agent to the runner: the one place where the host accepts or refuses what the guest says.

use super::message::{BootTimes, ExitStatus, FailKind, Stream, kind};
use super::payload::{Reader, put, put_hello};
use super::{Frame, MAX_PAYLOAD, ProtoError};

/// Messages from the agent to the runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost<'a> {
    /// Answers the runner's HELLO.
    Hello {
        /// The agent's [`super::VERSION`].
        version: u16,
        /// The nonce of the runner's HELLO.
        nonce: u64,
        /// How long each part of the boot took.
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
    /// The command has ended, none of its processes is left, and its output was sent.
    Exit(ExitStatus),
    /// Answers PING.
    Pong,
    /// What the time is: the last CLOCK before the command was long on its way. Answered by another.
    AskClock,
    /// Answers SETTLE.
    Synced,
    /// One line of text that the user should see.
    Warning(&'a [u8]),
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
                put_hello(&mut scratch, *version, *nonce);
                for ms in [times.agent_ms, times.modules_ms, times.ready_ms] {
                    scratch.extend(ms.to_le_bytes());
                }
                (kind::HELLO, 0, &scratch)
            }
            Self::Started(pid) => (kind::STARTED, 0, put(&mut scratch, pid.to_le_bytes())),
            Self::Failed(why, text) => {
                scratch.push(*why as u8);
                scratch.extend_from_slice(text);
                (kind::FAILED, 0, &scratch)
            }
            Self::Data(stream, bytes) => (kind::DATA, stream.number(), bytes),
            Self::Eof(stream) => (kind::EOF, stream.number(), &[]),
            Self::Window(stream, bytes) => (kind::WINDOW, stream.number(), put(&mut scratch, bytes.to_le_bytes())),
            Self::Exit(status) => {
                scratch.extend(match status {
                    ExitStatus::Code(code) => [0, *code],
                    ExitStatus::Signal(signo) => [1, *signo],
                });
                (kind::EXIT, 0, &scratch)
            }
            Self::Synced => (kind::SYNCED, 0, &[]),
            Self::Pong => (kind::PONG, 0, &[]),
            Self::AskClock => (kind::ASK_CLOCK, 0, &[]),
            // The only payload whose length nothing else limits.
            Self::Warning(text) => (kind::WARNING, 0, &text[..text.len().min(MAX_PAYLOAD)]),
        };
        Frame { kind, stream, task, payload }.encode(out);
    }

    /// Reads the message in `frame`: the one place where the host accepts or refuses what the guest says.
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
            kind::STARTED => Self::Started(Reader::new(p, "STARTED").only(Reader::u32)?),
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
            kind::WINDOW => {
                Self::Window(Stream::parse(frame.stream, "WINDOW")?, Reader::new(p, "WINDOW").only(Reader::u32)?)
            }
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
            kind::PONG => Self::Pong,
            kind::ASK_CLOCK => Self::AskClock,
            kind::WARNING => Self::Warning(p),
            other => return Err(ProtoError::UnknownKind(other)),
        })
    }
}
