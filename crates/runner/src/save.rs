//! Keeping a VM's root: a second session with the agent, whose command is the agent's own exporter. What it
//! writes goes through the importer, as any archive does.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::signals::{Signal, Signals, is_fatal};
use crate::config::Config;
use crate::notice;
use image::{DEFAULT_MAX_BYTES, Image, ImportOptions, NewImage, import, packer_exists};
use proto::{self, DATA_CHUNK, Decoder, ExitStatus, ProtoError, RecvWindow, Stream, ToGuest, ToHost};
use qemu::QemuProcess;
use qemu::printable;
use request::SaveSpec;

/// The agent as the program that writes the root as an archive. Other mounts than that over `/etc` are no part of
/// the root: shares, the kernel's file systems, memory.
const EXPORTER: [&str; 7] = ["/proc/self/exe", "export", "/", "--include", "/etc", "--hollow", "/tmp"];

/// Memory that packing takes from the task, in MiB.
pub const OVERHEAD_MIB: u64 = 80;

/// Longest silence of a guest that is being saved.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most of the exporter's complaints that is kept.
const COMPLAINT_MAX: usize = 1000;

/// How saving ended.
#[derive(Debug)]
pub enum Saved {
    /// The image is in its place.
    Done,
    /// Nothing was made; the text says why, for the user.
    Failed(String),
    /// By a signal that ends the task; nothing was made.
    Interrupted(Signal),
}

/// The image that is to be made. It inherits from its base how it is started.
#[derive(Debug)]
pub struct SaveAs {
    place: NewImage,
    description: Option<String>,
}

impl SaveAs {
    /// Finds the place that `spec` means and what is needed to fill it, before a VM is started in vain.
    ///
    /// # Errors
    /// The text is for the user.
    pub fn new(spec: &SaveSpec, description: Option<String>, config: &Config) -> anyhow::Result<Self> {
        packer_exists()?;
        let place = NewImage::find(spec, config.catalogue().dir_for_new())?;
        Ok(Self { place, description })
    }

    /// What it will be, for messages.
    pub fn name(&self) -> String {
        format!("image '{}' in {}", self.place.name, self.place.dir.display())
    }

    /// Packs the tar archive of a root that was one of `base`, and says what came of it.
    fn pack(&self, archive: &mut dyn Read, base: &Image) -> anyhow::Result<String> {
        let (place, entry) = (&self.place, &base.entry);
        let options = ImportOptions {
            name: place.name.clone(),
            dir: place.dir.clone(),
            description: self.description.clone().unwrap_or_else(|| entry.description.clone()),
            append: entry.append.clone(),
            replace: place.replace,
            inherits: Some(entry.clone()),
            arch: Some(entry.arch.clone()),
            max_bytes: DEFAULT_MAX_BYTES,
        };
        let image = import(archive, &options)?.image;
        let mib = image.disk.metadata().map_or(0, |meta| meta.len() >> 20);
        Ok(format!("image '{}' is saved: {} ({mib} MiB)", image.name, image.entry_path.display()))
    }
}

/// Hands the root of the guest, whose command has ended, to the packer; `base` is the image it started from.
pub fn save(
    process: &mut QemuProcess,
    image: &SaveAs,
    base: &Image,
    signals: &Signals,
    boot_timeout: Duration,
) -> Saved {
    if io::stderr().is_terminal() {
        notice::line(&format!("saving {} …", image.name()));
    }
    let mut archive = RootArchive::open(process, signals, boot_timeout.max(PATIENCE));
    let outcome = image.pack(&mut archive, base);
    let failure = archive.failure.take();
    if let Some(signal) = archive.interrupted.or_else(|| fatal_signal(signals)).filter(|_| outcome.is_err()) {
        return Saved::Interrupted(signal);
    }
    match outcome {
        Ok(done) => {
            notice::line(&done);
            Saved::Done
        }
        Err(error) => {
            let why = failure.unwrap_or_else(|| format!("{error:#}"));
            let full = ["No space left", "quota", "limit for files"].iter().any(|word| why.contains(word));
            let advice = if full { "; make room there or choose another place" } else { "" };
            Saved::Failed(format!("{}: {why}{advice}", image.name()))
        }
    }
}

fn fatal_signal(signals: &Signals) -> Option<Signal> {
    // A file that has become too large is an error of its own.
    let ends = |signal: &Signal| is_fatal(*signal) && i32::from(*signal) != libc::SIGXFSZ;
    std::iter::from_fn(|| signals.next()).find(ends)
}

/// How far the session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until the agent answers the HELLO.
    Greeting,
    /// Until the exporter runs.
    Starting,
    /// Until it ends.
    Exporting,
    Over,
}

/// The archive of a guest's root, read as it arrives. What has arrived and was not read is bounded by the
/// channel's flow control.
struct RootArchive<'a> {
    process: &'a mut QemuProcess,
    signals: &'a Signals,
    patience: Duration,
    stage: Stage,
    nonce: u64,
    decoder: Decoder,
    unsent: Vec<u8>,
    received: [RecvWindow; 2],
    /// Bytes of the archive that were not read yet.
    arrived: Vec<u8>,
    /// Of which this many were read.
    taken: usize,
    complaint: Vec<u8>,
    failure: Option<String>,
    interrupted: Option<Signal>,
}

impl<'a> RootArchive<'a> {
    fn open(process: &'a mut QemuProcess, signals: &'a Signals, patience: Duration) -> Self {
        // Unlike any number of the sessions before: those have the number of a VM in the lower half.
        let nonce = u64::from(std::process::id()) << 32 | u64::from(u32::MAX);
        let mut unsent = Vec::new();
        ToGuest::Hello { version: proto::VERSION, nonce }.encode(0, &mut unsent);
        Self {
            process,
            signals,
            patience,
            stage: Stage::Greeting,
            nonce,
            decoder: Decoder::new(),
            unsent,
            received: Default::default(),
            arrived: Vec::new(),
            taken: 0,
            complaint: Vec::new(),
            failure: None,
            interrupted: None,
        }
    }

    fn send(&mut self, message: &ToGuest<'_>) {
        message.encode(0, &mut self.unsent);
    }

    /// The exporter, as root of the guest.
    fn describe(&mut self) {
        self.send(&ToGuest::TakeBack);
        self.send(&ToGuest::Credentials { uid: 0, gid: 0, umask: 0o022, groups: Vec::new() });
        self.send(&ToGuest::Cwd(b"/"));
        for word in EXPORTER {
            self.send(&ToGuest::Arg(word.as_bytes()));
        }
        self.send(&ToGuest::Start);
        self.send(&ToGuest::Eof(Stream::Stdin));
    }

    /// Waits until there is something of the archive, or it is over.
    fn fill(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        while self.arrived.is_empty() && self.stage != Stage::Over {
            self.flush();
            self.wait(deadline)?;
            if let Some(signal) = fatal_signal(self.signals) {
                self.interrupted = Some(signal);
                return Err(format!("interrupted by signal {signal}"));
            }
            self.process.read_texts();
            self.listen()?;
        }
        Ok(())
    }

    fn wait(&self, deadline: Instant) -> Result<(), String> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("the guest was silent for {} s", self.patience.as_secs()));
        }
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !self.unsent.is_empty());
        let mut fds = vec![PollFd::new(self.process.channel.as_fd(), wanted)];
        let others = [self.signals.as_fd()].into_iter().chain(self.process.texts());
        fds.extend(others.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(format!("poll: {errno}")),
        }
    }

    /// Anything but a full channel means that QEMU is gone; reading finds out how.
    fn flush(&mut self) {
        while let Ok(n @ 1..) = self.process.channel.write(&self.unsent) {
            self.unsent.drain(..n);
        }
    }

    fn listen(&mut self) -> Result<(), String> {
        let mut buf = [0; DATA_CHUNK];
        match self.process.channel.read(&mut buf) {
            Ok(n @ 1..) => {
                let mut decoder = std::mem::take(&mut self.decoder);
                decoder.push(&buf[..n]);
                while let Some(frame) = decoder.next_frame().map_err(alien)? {
                    self.understand(ToHost::parse(frame).map_err(alien)?)?;
                }
                self.decoder = decoder;
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Ok(_) | Err(_) => Err(self.process.exit_reason()),
        }
    }

    fn understand(&mut self, message: ToHost<'_>) -> Result<(), String> {
        match (self.stage, message) {
            (Stage::Greeting, ToHost::Hello { nonce, .. }) if nonce == self.nonce => {
                self.stage = Stage::Starting;
                self.describe();
            }
            // The rest of the command's session.
            (Stage::Greeting, _) | (_, ToHost::Log { .. } | ToHost::Eof(_)) => {}
            (Stage::Starting, ToHost::Started(_)) => self.stage = Stage::Exporting,
            (_, ToHost::Failed(_, text)) => return Err(printable(text)),
            (Stage::Exporting, ToHost::Data(Stream::Stdout, bytes)) => {
                self.received[0].receive(Stream::Stdout as u8, bytes.len()).map_err(alien)?;
                self.arrived.extend_from_slice(bytes);
            }
            (Stage::Exporting, ToHost::Data(Stream::Stderr, bytes)) => {
                self.received[1].receive(Stream::Stderr as u8, bytes.len()).map_err(alien)?;
                let room = COMPLAINT_MAX.saturating_sub(self.complaint.len());
                self.complaint.extend_from_slice(&bytes[..bytes.len().min(room)]);
                if let Some(credit) = self.received[1].consume(bytes.len()) {
                    self.send(&ToGuest::Window(Stream::Stderr, credit));
                }
            }
            (Stage::Exporting, ToHost::Exit(ExitStatus::Code(0))) => self.stage = Stage::Over,
            (Stage::Exporting, ToHost::Exit(status)) => {
                let said =
                    printable(self.complaint.trim_ascii_end().rsplit(|&byte| byte == b'\n').next().unwrap_or_default());
                return Err(format!("the guest could not export its root: {said} ({status:?})"));
            }
            (stage, _) => return Err(format!("the agent said something out of turn ({stage:?})")),
        }
        Ok(())
    }
}

fn alien(error: ProtoError) -> String {
    format!("the guest does not speak the protocol: {error}")
}

impl Read for RootArchive<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.arrived.is_empty() && self.stage != Stage::Over {
            self.fill().map_err(|why| {
                self.failure = Some(why.clone());
                io::Error::other(why)
            })?;
        }
        let rest = &self.arrived[self.taken..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        self.taken += n;
        if self.taken == self.arrived.len() {
            self.arrived.clear();
            self.taken = 0;
        }
        if let Some(credit) = self.received[0].consume(n) {
            self.send(&ToGuest::Window(Stream::Stdout, credit));
            self.flush();
        }
        Ok(n)
    }
}
