//! The task's own standard streams: written without ever blocking the relay, in whole lines where
//! several VMs share them.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, send};

use super::pump::Pump;

/// Longest line that is kept together; a longer one is passed on in parts.
const LINE_MAX: usize = 64 * 1024;

/// Bytes of several messages that are kept in one piece at most: each piece costs as much as a hundred bytes.
const JOINED_MAX: usize = 64 * 1024;

/// How to write to a descriptor without blocking. Other processes share it, so its flags must not
/// be changed. A write of any length may be tried.
#[derive(Debug)]
enum Writer {
    /// An open file description of our own on the same pipe or terminal.
    Own(File),
    /// `send` with MSG_DONTWAIT.
    Socket(File),
    /// A regular file does not block.
    Regular(File),
    /// A pipe or terminal that we may not reopen.
    Pump(Pump),
}

/// Why nothing more can be written to an output.
#[derive(Debug)]
pub enum Trouble {
    /// The reader is gone: a pipe was closed, a terminal hung up. That is no error of the task.
    ReaderLeft,
    /// Output is lost for good.
    Lost(io::Error),
    /// What does not fit is lost: its file system is full, or a quota is used up. Later output is tried again, as each
    /// write of a command on the host is.
    NoRoom(io::Error),
}

/// One of the task's outputs with its waiting bytes.
///
/// The number of waiting bytes is limited by the flow control of the channel: bytes are
/// acknowledged to the guest only when they have been written.
#[derive(Debug)]
pub struct Output {
    writer: Writer,
    queue: VecDeque<Chunk>,
    partial: Vec<Vec<u8>>,
    /// Each line is preceded by its VM's number.
    label: bool,
    /// It is a terminal, which reports a hang-up as an error.
    is_device: bool,
    /// Whether it can still be written; if not, further output is dropped.
    state: State,
    /// Something did not fit.
    is_short_of_room: bool,
    /// An error that the user was not told yet.
    trouble: Option<Trouble>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    ReaderLeft,
    Lost,
}

#[derive(Debug)]
struct Chunk {
    vm: usize,
    bytes: Vec<u8>,
    written: usize,
    /// Bytes of the guest that are not acknowledged yet, without our labels.
    owed: usize,
}

impl Output {
    /// An output of `vms` VMs on `fd`.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn new(fd: BorrowedFd<'_>, vms: usize) -> io::Result<Self> {
        let file = File::from(fd.try_clone_to_owned()?);
        let is_device = file.metadata()?.file_type().is_char_device();
        Ok(Self::by(Writer::of(file)?, is_device, vms))
    }

    fn by(writer: Writer, is_device: bool, vms: usize) -> Self {
        let (queue, partial) = (VecDeque::new(), vec![Vec::new(); vms]);
        let (label, is_short_of_room, state) = (false, false, State::Open);
        Self { writer, queue, partial, label, is_device, state, is_short_of_room, trouble: None }
    }

    /// From now on each line is preceded by the number of its VM, as with `srun --label`.
    pub fn label_lines(&mut self) {
        self.label = true;
    }

    /// Takes output of one VM. With several VMs, or labels, only whole lines go into the queue.
    pub fn push(&mut self, vm: usize, bytes: &[u8]) {
        if self.partial.len() == 1 && !self.label {
            self.enqueue(vm, bytes.to_vec());
            return;
        }
        let line_end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let (lines, rest) = bytes.split_at(line_end);
        if !lines.is_empty() {
            let mut whole = std::mem::take(&mut self.partial[vm]);
            whole.extend_from_slice(lines);
            self.enqueue(vm, whole);
        }
        self.partial[vm].extend_from_slice(rest);
        if self.partial[vm].len() >= LINE_MAX {
            self.flush_partial(vm);
        }
    }

    /// The VM will send no more: its unfinished line is passed on as it is.
    pub fn flush_partial(&mut self, vm: usize) {
        let rest = std::mem::take(&mut self.partial[vm]);
        self.enqueue(vm, rest);
    }

    /// Takes a line that is not from a VM.
    pub fn push_own(&mut self, bytes: Vec<u8>) {
        self.queue.push_back(Chunk { vm: 0, bytes, written: 0, owed: 0 });
    }

    fn enqueue(&mut self, vm: usize, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let owed = bytes.len();
        let bytes = if self.label { labelled(vm, &bytes) } else { bytes };
        match self.queue.back_mut() {
            // A guest that sends byte by byte must not make this process's memory grow beyond its window.
            Some(last) if last.vm == vm && last.bytes.len() + bytes.len() <= JOINED_MAX => {
                last.bytes.extend_from_slice(&bytes);
                last.owed += owed;
            }
            _ => self.queue.push_back(Chunk { vm, bytes, written: 0, owed }),
        }
    }

    /// Whether something waits to be written.
    pub fn is_waiting(&self) -> bool {
        !self.queue.is_empty() || matches!(&self.writer, Writer::Pump(pump) if pump.is_finishing())
    }

    /// The descriptor to poll while something waits.
    pub fn wanted(&self) -> PollFd<'_> {
        let event = if self.queue.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        PollFd::new(self.as_fd(), event)
    }

    /// Whether some output could not be written.
    pub fn has_lost(&self) -> bool {
        self.state == State::Lost || self.is_short_of_room
    }

    /// Bytes that wait.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn held(&self) -> usize {
        let queued: usize = self.queue.iter().map(|chunk| chunk.bytes.len() - chunk.written).sum();
        queued + self.partial.iter().map(Vec::len).sum::<usize>()
    }

    /// Why nothing more can be written, the first time this is asked.
    pub fn take_trouble(&mut self) -> Option<Trouble> {
        self.trouble.take()
    }

    /// No more will come; [`Output::is_waiting`] is true until all is written.
    pub fn finish(&mut self) {
        if let (Writer::Pump(pump), true) = (&mut self.writer, self.queue.is_empty()) {
            pump.finish();
        }
    }

    /// Writes as much as the reader takes now; reports (VM, bytes) that were written.
    pub fn write_some(&mut self, mut done: impl FnMut(usize, usize)) {
        if let Writer::Pump(pump) = &mut self.writer
            && let Err(error) = pump.look()
        {
            self.fail(error);
        }
        while let Some(chunk) = self.queue.front_mut() {
            let rest = &chunk.bytes[chunk.written..];
            let n = match self.state {
                State::Open => match self.writer.write(rest) {
                    Ok(0) => return,
                    Ok(n) => n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if lacks_room(&error) => {
                        if !std::mem::replace(&mut self.is_short_of_room, true) {
                            self.trouble = Some(Trouble::NoRoom(error));
                        }
                        rest.len()
                    }
                    Err(error) => {
                        self.fail(error);
                        continue;
                    }
                },
                State::ReaderLeft | State::Lost => rest.len(),
            };
            chunk.written += n;
            let of_guest = n.min(chunk.owed);
            chunk.owed -= of_guest;
            let (vm, finished) = (chunk.vm, chunk.written == chunk.bytes.len());
            if finished {
                self.queue.pop_front();
            }
            done(vm, of_guest);
        }
    }

    fn fail(&mut self, error: io::Error) {
        let has_left = match error.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => true,
            // For a terminal this is a hang-up; for a file it is a failing disk.
            Some(libc::EIO) => self.is_device,
            _ => false,
        };
        self.state = if has_left { State::ReaderLeft } else { State::Lost };
        self.trouble = Some(if has_left { Trouble::ReaderLeft } else { Trouble::Lost(error) });
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.writer {
            Writer::Own(file) | Writer::Socket(file) | Writer::Regular(file) => file.as_fd(),
            Writer::Pump(pump) => pump.as_fd(),
        }
    }
}

impl Writer {
    fn of(file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if kind.is_socket() {
            return Ok(Self::Socket(file));
        }
        if kind.is_file() {
            return Ok(Self::Regular(file));
        }
        if kind.is_fifo() || kind.is_char_device() {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let own = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
            if let Ok(own) = own {
                return Ok(Self::Own(own));
            }
        }
        Pump::start(file).map(Self::Pump)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Own(file) | Self::Regular(file) => file.write(bytes),
            Self::Socket(file) => Ok(send(file.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?),
            Self::Pump(pump) => pump.write(bytes),
        }
    }
}

/// Whether the same write may succeed later, when there is room again.
fn lacks_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Lines with a number before each. A last line without a line end gets one, so that the next label begins a line.
fn labelled(vm: usize, lines: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(lines.len() + 64);
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        text.extend_from_slice(format!("{vm}: ").as_bytes());
        text.extend_from_slice(line);
    }
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn drain(output: &mut Output) -> Vec<(usize, usize)> {
        let mut done = Vec::new();
        output.write_some(|vm, bytes| done.push((vm, bytes)));
        done
    }

    #[test]
    fn lines_of_several_vms_are_never_mixed() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        let mut output = Output::new(writer.as_fd(), 2).unwrap();
        output.push(0, b"one ");
        output.push(1, b"alpha\nbe");
        output.push(0, b"two\nthree");
        output.push(1, b"ta\n");
        output.flush_partial(0);
        drain(&mut output);
        drop((output, writer));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "alpha\none two\nbeta\nthree");
    }

    #[test]
    fn labelled_lines_tell_their_vm_and_cost_the_guest_nothing() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        let mut output = Output::new(writer.as_fd(), 2).unwrap();
        output.label_lines();
        output.push(1, b"a\nb\nunfinished");
        output.push(0, b"\n");
        output.flush_partial(1);
        let of_guest: usize = drain(&mut output).iter().map(|(_, n)| n).sum();
        assert_eq!(of_guest, "a\nb\nunfinished\n".len());
        drop((output, writer));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1: a\n1: b\n0: \n1: unfinished\n");
    }

    #[test]
    fn bytes_that_come_one_by_one_are_kept_together() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        let mut output = Output::new(writer.as_fd(), 1).unwrap();
        (0..2 * JOINED_MAX).for_each(|_| output.push(0, b"x"));
        output.push_own(b"own\n".to_vec());
        output.push(0, &[b'y'; JOINED_MAX]);
        assert!(output.queue.len() <= 4, "{} chunks", output.queue.len());
        let (mut of_guest, mut text) = (0, Vec::new());
        while output.is_waiting() {
            of_guest += drain(&mut output).iter().map(|(_, n)| n).sum::<usize>();
            let mut buffer = [0; 4096];
            let n = reader.read(&mut buffer).unwrap();
            text.extend_from_slice(&buffer[..n]);
        }
        drop((output, writer));
        reader.read_to_end(&mut text).unwrap();
        assert_eq!((of_guest, text.len()), (3 * JOINED_MAX, 3 * JOINED_MAX + 4));
        assert_eq!(&text[2 * JOINED_MAX..2 * JOINED_MAX + 5], b"own\ny");
    }

    #[test]
    fn a_reader_that_stops_does_not_block_and_one_that_leaves_is_no_error() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut output = Output::new(writer.as_fd(), 1).unwrap();
        let big = vec![b'x'; 1 << 20];
        output.push(0, &big);
        let written: usize = drain(&mut output).iter().map(|(_, n)| n).sum();
        assert!(written < big.len() && output.is_waiting());
        drop(reader);
        let rest: usize = drain(&mut output).iter().map(|(_, n)| n).sum();
        assert_eq!(written + rest, big.len());
        assert!(!output.is_waiting());
    }

    /// Writes until the reader takes no more, or nothing is left.
    fn drain_until(output: &mut Output, is_reached: impl Fn(&Output) -> bool) {
        for _ in 0..1000 {
            output.write_some(|_, _| {});
            if is_reached(output) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{output:?}");
    }

    #[test]
    fn a_pipe_of_somebody_else_is_written_to_its_end_without_blocking() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let pump = Pump::start(File::from(std::os::fd::OwnedFd::from(writer))).unwrap();
        let mut output = Output::by(Writer::Pump(pump), false, 1);
        let big = vec![b'x'; 1 << 20];
        output.push(0, &big);
        // The reader does not read, so this would block.
        output.write_some(|_, _| {});
        assert!(output.is_waiting());
        let heard = std::thread::spawn(move || {
            let mut heard = Vec::new();
            reader.read_to_end(&mut heard).map(|_| heard)
        });
        drain_until(&mut output, |output| output.queue.is_empty());
        output.finish();
        drain_until(&mut output, |output| !output.is_waiting());
        assert!(output.take_trouble().is_none());
        assert_eq!(heard.join().unwrap().unwrap(), big);
    }

    #[test]
    fn what_goes_wrong_at_the_far_end_is_known_here() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (full, pipe) = (File::create("/dev/full").unwrap(), File::from(std::os::fd::OwnedFd::from(writer)));
        drop(reader);
        for (file, has_lost) in [(full, true), (pipe, false)] {
            let mut output = Output::by(Writer::Pump(Pump::start(file).unwrap()), false, 1);
            output.push(0, b"lost");
            output.write_some(|_, _| {});
            output.finish();
            drain_until(&mut output, |output| !output.is_waiting());
            assert_eq!((output.take_trouble().is_some(), output.has_lost()), (true, has_lost));
        }
    }

    #[test]
    fn what_does_not_fit_is_lost_and_the_rest_is_tried() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut output = Output::by(Writer::Regular(full), false, 1);
        for _ in 0..2 {
            output.push(0, b"does not fit");
            assert_eq!(drain(&mut output), [(0, 12)]);
        }
        assert!(matches!(output.take_trouble(), Some(Trouble::NoRoom(_))) && output.take_trouble().is_none());
        output.writer = Writer::Regular(File::from(std::os::fd::OwnedFd::from(writer)));
        output.push(0, b"fits");
        drain(&mut output);
        assert!(output.has_lost());
        drop(output);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "fits");
    }

    #[test]
    fn a_terminal_that_hung_up_is_a_reader_that_left_and_a_disk_that_fails_is_not() {
        for (is_device, number, has_lost) in [
            (true, libc::EIO, false),
            (false, libc::EIO, true),
            (false, libc::EFBIG, true),
            (false, libc::EPIPE, false),
        ] {
            let mut output = Output::by(Writer::Regular(File::open("/dev/null").unwrap()), is_device, 1);
            output.fail(io::Error::from_raw_os_error(number));
            assert_eq!(output.has_lost(), has_lost, "{number}");
            assert!(output.take_trouble().is_some() && output.take_trouble().is_none());
        }
    }
}
