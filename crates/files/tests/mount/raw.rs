//! A guest that speaks to the server without a kernel in between, and may say anything.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use files::control::{Share, Shares};
use proto::files::fuse::{IN_HEADER, OUT_HEADER, op};
use proto::files::{Decoder, Frame, Header, Hello, kind};

use super::processes::start_server;

pub struct Raw {
    pub server: Child,
    pub port: UnixStream,
    decoder: Decoder,
    unique: u64,
    _control: UnixStream,
}

/// A reply: the error number, positive, and the body.
pub type Reply = (i32, Vec<u8>);

impl Raw {
    pub fn new(shares: &[&Path]) -> Self {
        let (mut control, server_control) = UnixStream::pair().unwrap();
        let (port, server_port) = UnixStream::pair().unwrap();
        port.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let share = |path: &&Path| Share { path: path.to_path_buf(), read_only: false };
        control.write_all(&Shares(shares.iter().map(share).collect()).encode()).unwrap();
        let server = start_server(server_control, server_port, None);
        let mut raw = Self { server, port, decoder: Decoder::new(), unique: 0, _control: control };
        let mut hello = Vec::new();
        Hello::new(1).encode(kind::HELLO, &mut hello);
        raw.send(&hello);
        assert_eq!(raw.receive().unwrap().0.kind, kind::HELLO_REPLY);
        raw
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.port.write_all(bytes).unwrap();
    }

    /// The next frame; `None` when the server has ended.
    pub fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some((frame.header, frame.payload.to_vec()));
            }
            match self.port.read(self.decoder.space()) {
                Ok(0) => return None,
                Ok(bytes) => self.decoder.filled(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no frame within its time: {error}"),
            }
        }
    }

    /// Sends a request without waiting for its reply; its number.
    pub fn post(&mut self, share: u16, op: u32, node: u64, body: &[u8]) -> u64 {
        self.unique += 2;
        let frame = request(Header { kind: kind::REQUEST, share, ..Header::default() }, op, self.unique, node, body);
        self.send(&frame);
        self.unique
    }

    /// Sends a request and waits for its reply.
    pub fn ask(&mut self, share: u16, op: u32, node: u64, body: &[u8]) -> Reply {
        let unique = self.post(share, op, node, body);
        self.reply(unique)
    }

    /// The reply to a request.
    pub fn reply(&mut self, unique: u64) -> Reply {
        loop {
            let (header, payload) = self.receive().expect("the server has ended");
            if header.kind == kind::REPLY {
                let (found, reply) = parse(&payload);
                assert_eq!(found, unique, "a reply to another request");
                return reply;
            }
        }
    }

    /// Looks a name up: the node.
    pub fn lookup(&mut self, share: u16, node: u64, name: &str) -> Result<u64, i32> {
        match self.ask(share, op::LOOKUP, node, &string(name)) {
            (0, body) => Ok(u64_at(&body, 0)),
            (error, _) => Err(error),
        }
    }

    /// Opens a node: the handle.
    pub fn open(&mut self, share: u16, node: u64, flags: i32) -> Result<u64, i32> {
        match self.ask(share, op::OPEN, node, &[(flags as u32).to_le_bytes(), [0; 4]].concat()) {
            (0, body) => Ok(u64_at(&body, 0)),
            (error, _) => Err(error),
        }
    }

    /// Memory of the server in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

pub fn request(header: Header, op: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let mut payload = ((IN_HEADER + body.len()) as u32).to_le_bytes().to_vec();
    payload.extend_from_slice(&op.to_le_bytes());
    payload.extend_from_slice(&unique.to_le_bytes());
    payload.extend_from_slice(&node.to_le_bytes());
    payload.extend_from_slice(&[0; 16]);
    payload.extend_from_slice(body);
    let mut frame = Vec::new();
    Frame { header, payload: &payload }.encode(&mut frame);
    frame
}

fn parse(payload: &[u8]) -> (u64, Reply) {
    let error = i32::from_le_bytes(payload[4..8].try_into().unwrap());
    (u64_at(payload, 8), (-error, payload[OUT_HEADER..].to_vec()))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn string(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// 64-bit words as bytes.
pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
