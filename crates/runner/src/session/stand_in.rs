//! A stand-in for a QEMU and its guest, for tests and fuzzers.

use std::io::Read;
#[cfg(test)]
use std::io::Write;
use std::os::unix::net::UnixStream;

#[cfg(test)]
use proto::{BootTimes, ToHost, VERSION};
use qemu::QemuProcess;

/// Longest piece that is written at once, and read before the next.
pub const PIECE_MAX: usize = 4096;

/// The other ends of QEMU's sockets.
#[derive(Debug)]
pub struct Peer {
    /// The agent's side of the channel.
    pub channel: UnixStream,
    /// The guest's side of the console.
    pub console: UnixStream,
    /// QEMU's side of the monitor.
    pub monitor: UnixStream,
    /// QEMU's stderr.
    pub stderr: UnixStream,
}

impl Peer {
    /// Sends a message as the agent does, for task 0.
    #[cfg(test)]
    pub fn say(&mut self, message: &ToHost<'_>) {
        let mut frame = Vec::new();
        message.encode(0, &mut frame);
        self.channel.write_all(&frame).expect("room in the channel");
    }

    /// Answers a HELLO.
    #[cfg(test)]
    pub fn answer(&mut self, nonce: u64) {
        self.say(&ToHost::Hello { version: VERSION, nonce, times: BootTimes::default() });
    }

    /// Drops the runner's messages.
    pub fn drain(&self) {
        for mut socket in [&self.channel, &self.monitor] {
            let mut buf = [0; PIECE_MAX];
            while let Ok(1..) = socket.read(&mut buf) {}
        }
    }
}

/// A process without a QEMU, and its stand-in. Nothing blocks.
pub fn play() -> (QemuProcess, Peer) {
    let pair = |_| {
        let (ours, theirs) = UnixStream::pair().expect("descriptors");
        ours.set_nonblocking(true).expect("a socket");
        theirs.set_nonblocking(true).expect("a socket");
        (ours, theirs)
    };
    let [channel, console, monitor, stderr] = [0; 4].map(pair);
    let process = QemuProcess::stand_in([channel.0, console.0, monitor.0, stderr.0]);
    (process, Peer { channel: channel.1, console: console.1, monitor: monitor.1, stderr: stderr.1 })
}
