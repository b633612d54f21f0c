//! The runner's side of the channel, the console and the monitor, without a QEMU: the input is what a
//! guest, or a QEMU that a guest has taken over, says.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::stdio::Output;
use super::template;
use super::timing::Moments;
use super::vm::{Outputs, Phase, Vm};
use proto::{DATA_CHUNK, Stream, WINDOW};
use qemu::QemuProcess;
use qemu::Transfer;

/// The session number that the inputs answer.
const NONCE: u64 = 1;

/// Longest piece that is written in one go, and read before the next.
const PIECE_MAX: usize = 4096;

/// The other ends of QEMU's sockets.
struct Peer {
    channel: UnixStream,
    console: UnixStream,
    monitor: UnixStream,
    stderr: UnixStream,
}

fn play() -> (QemuProcess, Peer) {
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

/// Throws away what the runner said.
fn drain(mut socket: &UnixStream) {
    let mut buf = [0; PIECE_MAX];
    while let Ok(1..) = socket.read(&mut buf) {}
}

/// One VM from its first answer to its end. The first byte says into which pieces the rest is cut, and
/// whether anybody reads the command's output.
pub fn guest(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let (piece, reader) = (usize::from(how & 0x7f) * 32 + 1, how & 0x80 == 0);
    let (process, mut peer) = play();
    let null = File::create("/dev/null").expect("/dev/null");
    let output = || Output::new(null.as_fd(), 1).expect("a descriptor");
    let mut outputs = Outputs { stdout: output(), stderr: output() };
    let mut vm = Vm::new(0, process, NONCE, Some(2 << 20), Moments::begin(Instant::now()));
    for piece in bytes.chunks(piece) {
        let _ = peer.channel.write_all(piece);
        vm.receive(&mut outputs);
        if vm.is_waiting_for_task() {
            vm.start(b"description");
        }
        if reader {
            pass_on(&mut vm, &mut outputs);
            drain(&peer.channel);
        }
        if vm.phase == Phase::Running {
            let room = vm.stdin_room().min(piece.len());
            vm.send_stdin(&piece[..room]);
        }
        vm.flush();
        // Two outputs, and what arrived beside them; stdin's window and a few short frames.
        assert!(outputs.stdout.held() + outputs.stderr.held() <= 2 * WINDOW as usize);
        assert!(vm.unsent() <= WINDOW as usize + 2 * DATA_CHUNK, "{} bytes for the guest", vm.unsent());
    }
    // A guest that is gone ends its VM whatever it said before.
    drop(peer);
    vm.receive(&mut outputs);
    while !vm.has_ended() {
        vm.receive(&mut outputs);
    }
    vm.reap();
}

fn pass_on(vm: &mut Vm, outputs: &mut Outputs) {
    let Outputs { stdout, stderr } = outputs;
    for (stream, output) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
        output.write_some(|_, bytes| vm.output_written(stream, bytes)).expect("/dev/null");
    }
}

/// A guest that is being made into a template. Each piece starts with a byte that says which socket it
/// comes from.
pub fn template_guest(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let (process, mut peer) = play();
    let mut pieces = bytes.chunks(usize::from(how) * 16 + 2);
    template::hear(process, &mut || {
        let Some([socket, piece @ ..]) = pieces.next() else { return false };
        drain(&peer.channel);
        drain(&peer.monitor);
        let _ = if socket % 2 == 0 { peer.channel.write_all(piece) } else { peer.monitor.write_all(piece) };
        true
    });
}

/// What a console, a QEMU's stderr and its monitor say, and the lines for a user that are made of it.
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
        let null = File::create("/dev/null").unwrap();
        let output = || Output::new(null.as_fd(), 1).unwrap();
        let mut outputs = Outputs { stdout: output(), stderr: output() };
        let mut vm = Vm::new(0, process, NONCE, None, Moments::begin(Instant::now()));
        let mut phases = Vec::new();
        for byte in &seed[1..] {
            peer.channel.write_all(&[*byte]).unwrap();
            vm.receive(&mut outputs);
            if vm.is_waiting_for_task() {
                vm.start(b"");
            }
            let phase = format!("{:?}", vm.phase);
            if phases.last() != Some(&phase) {
                phases.push(phase);
            }
        }
        assert_eq!(phases, ["Booting", "Starting", "Running", "Ended(Exited(Code(7)))"]);
    }

    #[test]
    fn a_guest_that_never_reads_gets_no_credit_and_nothing_piles_up_for_it() {
        let hello_and_start = &include_bytes!("../../../fuzz/seeds/guest/started")[1..];
        let (process, mut peer) = play();
        let null = File::create("/dev/null").unwrap();
        let output = || Output::new(null.as_fd(), 1).unwrap();
        let mut outputs = Outputs { stdout: output(), stderr: output() };
        let mut vm = Vm::new(0, process, NONCE, None, Moments::begin(Instant::now()));
        for byte in hello_and_start {
            peer.channel.write_all(&[*byte]).unwrap();
            vm.receive(&mut outputs);
            if vm.is_waiting_for_task() {
                vm.start(b"");
            }
        }
        assert_eq!(vm.phase, Phase::Running);
        // Stdin that is not taken blocks the way to the guest.
        while vm.stdin_room() > 0 {
            vm.send_stdin(&[0; DATA_CHUNK][..vm.stdin_room()]);
        }
        let mut frame = Vec::new();
        proto::ToHost::Data(Stream::Stdout, &[b'x'; PIECE_MAX]).encode(0, &mut frame);
        for _ in 0..40_000 {
            let _ = peer.channel.write_all(&frame);
            vm.receive(&mut outputs);
            pass_on(&mut vm, &mut outputs);
            vm.flush();
            if vm.has_ended() {
                break;
            }
        }
        assert!(format!("{:?}", vm.phase).contains("sent more than its window"), "{:?}", vm.phase);
        assert!(vm.unsent() <= WINDOW as usize + DATA_CHUNK);
    }
}
