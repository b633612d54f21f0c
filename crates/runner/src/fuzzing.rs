//! The runner's side of the channel, the console and the monitor, without a QEMU: the input stands
//! for the bytes of a guest, or of a QEMU that a guest has taken over.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::session::{AwakeClock, PIECE_MAX, Vm, Wait, play};
use super::task::{Attached, Commands, End, Output, Streams};
use super::template;
use super::timing::Moments;
use proto::{DATA_CHUNK, Stream, WINDOW};
use qemu::QemuProcess;
use qemu::Transfer;

/// The session number that the inputs answer.
const NONCE: u64 = 1;

/// One VM with its command, and one turn of the loop over them.
struct Played {
    vm: Vm,
    commands: Commands,
    /// The other end of the command's socket.
    server: UnixStream,
    buffer: Vec<u8>,
}

impl Played {
    fn new(process: QemuProcess, memory_to_plug: Option<u64>) -> Self {
        let null = File::create("/dev/null").expect("/dev/null");
        let output = || Output::new(null.as_fd(), 1).expect("a descriptor");
        let mut vm = Vm::new(0, process, memory_to_plug, Moments::begin(Instant::now()));
        vm.greet(NONCE, Wait::answer(&AwakeClock::new(), Duration::from_secs(60), ""));
        let mut commands = Commands::one_per_vm(1, Streams::outputs_only(output(), output()));
        let (server, task) = UnixStream::pair().expect("descriptors");
        server.set_nonblocking(true).expect("a socket");
        commands.connect_to(task);
        Self { vm, commands, server, buffer: vec![0; DATA_CHUNK] }
    }

    fn command(&mut self) -> &mut Attached {
        &mut self.commands.list[0]
    }

    fn receive(&mut self, description: &[u8]) {
        self.vm.receive(&mut self.buffer, &mut self.commands);
        let command = &mut self.commands.list[0];
        if self.vm.is_over() {
            command.finish(End::of_vm(&self.vm), &mut self.commands.streams);
        } else if command.is_waiting() && self.vm.is_up() {
            command.start(description, self.vm.out());
        } else if command.has_ended() {
            self.vm.end();
        }
    }

    /// Answers what the guest has said on its socket.
    fn serve(&mut self) {
        let mut said = [0; 4096];
        if let Ok(1..) = self.server.read(&mut said) {
            let _ = self.server.write_all(b"cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1\n");
        }
        let lines = self.commands.list[0].pass_sockets(self.vm.out());
        assert!(lines.len() <= 1, "{lines:?}");
    }

    fn pass_on(&mut self) {
        self.serve();
        let Commands { list, streams } = &mut self.commands;
        for (stream, output) in [(Stream::Stdout, &mut streams.stdout), (Stream::Stderr, &mut streams.stderr)] {
            output.write_some(|_, bytes| list[0].output_written(stream, bytes));
        }
    }

    fn flush(&mut self) {
        self.vm.flush();
        self.commands.list[0].return_credit(self.vm.out());
    }

    fn held(&self) -> usize {
        self.commands.streams.stdout.held() + self.commands.streams.stderr.held()
    }
}

/// One VM from its first answer to its end. The first byte says into which pieces the rest is cut, and
/// whether the command's output is read.
pub fn guest(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let (piece, reader) = (usize::from(how & 0x7f) * 32 + 1, how & 0x80 == 0);
    let (process, mut peer) = play();
    let mut played = Played::new(process, Some(2 << 20));
    for piece in bytes.chunks(piece) {
        let _ = peer.channel.write_all(piece);
        played.receive(b"description");
        if reader {
            played.pass_on();
            peer.drain();
        }
        let room = played.command().stdin_room().min(piece.len());
        if room > 0 {
            played.commands.list[0].send_stdin(&piece[..room], played.vm.out());
        }
        played.flush();
        // Two outputs, and the data that arrived with them; stdin's window and a few short frames.
        assert!(played.held() <= 2 * WINDOW as usize);
        let unsent = played.vm.out().len();
        assert!(unsent <= WINDOW as usize + 2 * DATA_CHUNK, "{unsent} bytes for the guest");
    }
    // When the guest is gone, its VM ends, with any bytes before.
    drop(peer);
    while !played.vm.is_over() {
        played.receive(b"");
    }
    assert!(played.commands.have_ended() || played.vm.failure().is_none());
    played.vm.reap();
}

/// A guest that is being made into a template. Each piece starts with a byte that says which socket it
/// comes from.
pub fn template_guest(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let (process, mut peer) = play();
    let mut pieces = bytes.chunks(usize::from(how) * 16 + 2);
    template::hear(process, &mut || {
        let Some([socket, piece @ ..]) = pieces.next() else { return false };
        peer.drain();
        let _ = if socket % 2 == 0 { peer.channel.write_all(piece) } else { peer.monitor.write_all(piece) };
        true
    });
}

/// The texts of a console, a QEMU's stderr and its monitor, and the lines for a user that are made from them.
pub fn texts(data: &[u8]) {
    let (mut process, mut peer) = play();
    for piece in data.chunks(PIECE_MAX) {
        let _ = peer.console.write_all(piece);
        let _ = peer.monitor.write_all(piece);
        process.read_texts();
        one_line(&process.last_words());
        let _ = peer.stderr.write_all(piece);
        process.read_texts();
        one_line(&process.exit_reason());
    }
    if let Some(Transfer::Failed(why)) = process.monitor.transfer() {
        one_line(&why);
    }
}

fn one_line(text: &str) {
    assert!(!text.chars().any(char::is_control) && text.len() < 4000, "{text:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of the protocol must change the seeds too, or the fuzzer does not get past HELLO.
    #[test]
    fn the_kept_session_is_one_that_the_runner_follows_to_its_end() {
        let seed = include_bytes!("../../../fuzz/seeds/guest/session");
        let (process, mut peer) = play();
        let mut played = Played::new(process, None);
        let mut phases = Vec::new();
        for byte in &seed[1..] {
            peer.channel.write_all(&[*byte]).unwrap();
            played.receive(b"");
            let up = played.vm.is_up();
            let phase = format!("{up} {:?} {:?}", played.command().is_running(), played.command().end());
            if phases.last() != Some(&phase) {
                phases.push(phase);
            }
        }
        let expected = ["false false None", "true false None", "true true None", "false false Some(Exited(Code(7)))"];
        assert_eq!(phases, expected);
    }

    #[test]
    fn a_guest_that_never_reads_gets_no_credit_and_nothing_piles_up_for_it() {
        let hello_and_start = &include_bytes!("../../../fuzz/seeds/guest/started")[1..];
        let (process, mut peer) = play();
        let mut played = Played::new(process, None);
        for byte in hello_and_start {
            peer.channel.write_all(&[*byte]).unwrap();
            played.receive(b"");
        }
        assert!(played.command().is_running());
        // Stdin that is not read blocks the way to the guest.
        while played.command().stdin_room() > 0 {
            let room = played.command().stdin_room();
            played.commands.list[0].send_stdin(&[0; DATA_CHUNK][..room], played.vm.out());
        }
        let mut frame = Vec::new();
        proto::ToHost::Data(Stream::Stdout, &[b'x'; PIECE_MAX]).encode(0, &mut frame);
        for _ in 0..40_000 {
            let _ = peer.channel.write_all(&frame);
            played.receive(b"");
            played.pass_on();
            played.flush();
            if played.vm.is_over() {
                break;
            }
        }
        let end = format!("{:?}", played.command().end());
        assert!(end.contains("sent more than its window"), "{end}");
        assert!(played.vm.out().len() <= WINDOW as usize + DATA_CHUNK);
    }
}
