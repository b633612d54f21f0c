//! What the keeper of a shared VM and its tasks say to each other, beside what they pass on between command and guest.
//!
//! The keeper sends on only what it has read as a message of the agent. The numbers here are not among those of the
//! channel, so a guest cannot say any of this.

use proto::Frame;

use crate::error::Fault;
use qemu::VmSize;

/// Numbers of the frames; those of the channel are below.
const ATTACH: u8 = 200;
const SIZE: u8 = 201;
const NOTICE: u8 = 202;
const ENDED: u8 = 203;

/// A message of a task to the keeper: the first after its HELLO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attach {
    /// The task's number on this node.
    pub task: u16,
    /// The processors that it may use: the kernel's mask.
    pub processors: Vec<u64>,
}

impl Attach {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mask: Vec<u8> = self.processors.iter().flat_map(|word| word.to_le_bytes()).collect();
        Frame { kind: ATTACH, stream: 0, task: self.task, payload: &mask }.encode(out);
    }

    pub(crate) fn parse(frame: &Frame<'_>) -> Option<Self> {
        let words = frame.payload.chunks_exact(8).filter_map(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        (frame.kind == ATTACH).then(|| Self { task: frame.task, processors: words.collect() })
    }
}

/// A message of the keeper to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// The VM has this size.
    Size(VmSize),
    /// A line for the user.
    Notice(String),
    /// The VM has ended before the task's command.
    Ended(Fault, String),
}

impl Word {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (kind, payload) = match self {
            Self::Size(VmSize { memory_mib, cpus }) => {
                (SIZE, [memory_mib.to_le_bytes().as_slice(), &cpus.to_le_bytes()].concat())
            }
            Self::Notice(text) => (NOTICE, text.as_bytes().to_vec()),
            Self::Ended(fault, text) => (ENDED, [fault.word().as_bytes(), b"\n", text.as_bytes()].concat()),
        };
        Frame { kind, stream: 0, task: 0, payload: &payload }.encode(out);
    }

    /// `None` for what the guest says.
    pub(crate) fn parse(frame: &Frame<'_>) -> Option<Self> {
        let text = || String::from_utf8_lossy(frame.payload).into_owned();
        match frame.kind {
            SIZE => {
                let (memory, cpus) = frame.payload.split_first_chunk()?;
                let (memory_mib, cpus) = (u64::from_le_bytes(*memory), u32::from_le_bytes(*cpus.first_chunk()?));
                Some(Self::Size(VmSize { memory_mib, cpus }))
            }
            NOTICE => Some(Self::Notice(text())),
            ENDED => {
                let text = text();
                let (word, text) = text.split_once('\n')?;
                Some(Self::Ended(Fault::named(word)?, text.to_owned()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Decoder, ToGuest};

    fn sent(encode: impl Fn(&mut Vec<u8>), check: impl Fn(Frame<'_>)) {
        let mut bytes = Vec::new();
        ToGuest::Hello { version: 1, nonce: 1 }.encode(0, &mut bytes);
        encode(&mut bytes);
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        decoder.next_frame().unwrap().unwrap();
        check(decoder.next_frame().unwrap().unwrap());
    }

    #[test]
    fn everything_arrives_as_it_was_sent() {
        let attach = Attach { task: 300, processors: vec![5, 1 << 63] };
        sent(|out| attach.encode(out), |frame| assert_eq!(Attach::parse(&frame), Some(attach.clone())));
        let words = [
            Word::Size(VmSize { memory_mib: 1 << 40, cpus: 4096 }),
            Word::Notice("warning: x".into()),
            Word::Ended(Fault::Node, "no\nroom".into()),
        ];
        for word in words {
            sent(|out| word.encode(out), |frame| assert_eq!(Word::parse(&frame), Some(word.clone())));
        }
    }

    #[test]
    fn a_guest_can_say_nothing_of_it() {
        for kind in [ATTACH, SIZE, NOTICE, ENDED] {
            let frame = Frame { kind, stream: 0, task: 0, payload: &[0; 16] };
            assert!(proto::ToHost::parse(frame).is_err() && ToGuest::parse(frame).is_err());
        }
    }
}
