//! The task's own standard streams: written without ever blocking the relay, in whole lines where
//! several VMs share them.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use nix::sys::socket::{MsgFlags, send};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Largest write to a pipe that cannot block once poll said it is writable (POSIX `PIPE_BUF`).
const PIPE_BUF: usize = 4096;

/// Longest line that is kept together; a longer one is passed on in parts.
const LINE_MAX: usize = 64 * 1024;

/// How a descriptor is written without blocking although it is shared with other processes, so
/// that its flags are not ours to change.
#[derive(Debug)]
enum Way {
    /// An open file description of our own on the same pipe or terminal: any length.
    Own(File),
    /// `send` with MSG_DONTWAIT: any length.
    Socket(File),
    /// A regular file does not block: any length.
    Regular(File),
    /// A pipe or terminal we may not reopen: short writes after poll.
    Careful(File),
}

/// One of the task's outputs with what waits to be written to it.
///
/// What waits is bounded by the flow control of the channel: bytes are acknowledged to the guest
/// only when they have been written.
#[derive(Debug)]
pub struct Output {
    way: Way,
    queue: VecDeque<Chunk>,
    partial: Vec<Vec<u8>>,
    /// Each line is preceded by its VM's number.
    label: bool,
    /// The reader is gone; what comes is dropped.
    broken: bool,
    /// The commands were told so.
    told: bool,
}

#[derive(Debug)]
struct Chunk {
    vm: usize,
    bytes: Vec<u8>,
    written: usize,
    /// Bytes of the guest that are not acknowledged yet; labels are ours.
    owed: usize,
}

impl Output {
    /// An output of `vms` VMs on `fd`.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn new(fd: BorrowedFd<'_>, vms: usize) -> io::Result<Self> {
        let file = File::from(fd.try_clone_to_owned()?);
        Ok(Self {
            way: Way::of(file)?,
            queue: VecDeque::new(),
            partial: vec![Vec::new(); vms],
            label: false,
            broken: false,
            told: false,
        })
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

    fn enqueue(&mut self, vm: usize, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            let owed = bytes.len();
            let bytes = if self.label { labelled(vm, &bytes) } else { bytes };
            self.queue.push_back(Chunk { vm, bytes, written: 0, owed });
        }
    }

    /// Whether something waits to be written.
    pub fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Bytes that wait.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn held(&self) -> usize {
        let queued: usize = self.queue.iter().map(|chunk| chunk.bytes.len() - chunk.written).sum();
        queued + self.partial.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether the reader has left since this was asked last.
    pub fn take_reader_left(&mut self) -> bool {
        self.broken && !std::mem::replace(&mut self.told, true)
    }

    /// Writes what the reader takes now; reports (VM, bytes) that need no longer be kept.
    ///
    /// # Errors
    /// A real failure to write, such as a full disk. A reader that left is not an error.
    pub fn write_some(&mut self, mut done: impl FnMut(usize, usize)) -> io::Result<()> {
        while let Some(chunk) = self.queue.front_mut() {
            let rest = &chunk.bytes[chunk.written..];
            let (n, again) = if self.broken {
                (rest.len(), true)
            } else {
                match self.way.write(rest) {
                    Ok(n) => (n, self.way.may_continue()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => (0, true),
                    Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EIO | libc::ECONNRESET)) => {
                        self.broken = true;
                        (0, true)
                    }
                    Err(error) => return Err(error),
                }
            };
            chunk.written += n;
            let of_guest = n.min(chunk.owed);
            chunk.owed -= of_guest;
            let (vm, finished) = (chunk.vm, chunk.written == chunk.bytes.len());
            if finished {
                self.queue.pop_front();
            }
            done(vm, of_guest);
            if !again {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Own(file) | Way::Socket(file) | Way::Regular(file) | Way::Careful(file) => file.as_fd(),
        }
    }
}

impl Way {
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
        Ok(Self::Careful(file))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Own(file) | Self::Regular(file) => (&*file).write(bytes),
            Self::Socket(file) => Ok(send(file.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?),
            Self::Careful(file) => (&*file).write(&bytes[..bytes.len().min(PIPE_BUF)]),
        }
    }

    /// Whether another write may follow without asking poll again.
    fn may_continue(&self) -> bool {
        !matches!(self, Self::Careful(_))
    }
}

/// Lines with a number before each. A last line without end gets one, so that the next label begins a line.
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

/// Whether two descriptors are the same file, as after `2>&1`.
pub fn same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    let id = |fd: BorrowedFd<'_>| {
        let meta = fd.try_clone_to_owned().map(File::from)?.metadata()?;
        io::Result::Ok((meta.dev(), meta.ino(), meta.rdev()))
    };
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

/// The terminal in raw mode: the guest's own terminal does the editing. Restored when dropped.
#[derive(Debug)]
pub struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Switches `fd` to raw mode.
    ///
    /// # Errors
    /// When `fd` is not a terminal.
    pub fn enter(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let terminal = fd.try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSANOW, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

/// Lines and columns of the terminal `fd`.
pub fn terminal_size(fd: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills the winsize that the pointer names.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    (rc == 0).then_some((size.ws_row, size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn drain(output: &mut Output) -> Vec<(usize, usize)> {
        let mut done = Vec::new();
        output.write_some(|vm, bytes| done.push((vm, bytes))).unwrap();
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
}
