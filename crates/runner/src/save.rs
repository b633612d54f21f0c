//! Saving a VM's root: a second session with the agent, whose command is the agent's own exporter. Its
//! output goes through the importer, like any archive.

use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use super::session::{Address, Events, Listener, Outgoing, Refusal, Vm, Wait, nonce};
use super::signals::{Signal, Signals, is_fatal};
use crate::config::Config;
use crate::error::{Blame, Fault, RunError};
use crate::notice::{self, printable};
use image::{BootMode, DEFAULT_MAX_BYTES, Image, ImportError, ImportOptions, NewImage, import, packer_exists};
use proto::{ExitStatus, RecvWindow, Stream, ToGuest, ToHost};
use request::SaveSpec;

mod disk;

/// The agent as the program that writes the root as an archive. Of the mounts, only the one over `/etc` belongs
/// to the root, not shares, the kernel's file systems or memory.
const EXPORTER: [&str; 7] = ["/proc/self/exe", "export", "/", "--include", "/etc", "--hollow", "/tmp"];

/// Memory that packing takes from the task, in MiB.
pub const OVERHEAD_MIB: u64 = 80;

/// Longest silence of a guest that is being saved.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most bytes of the exporter's errors that are kept.
const COMPLAINT_MAX: usize = 1000;

/// How saving ended.
#[derive(Debug)]
pub enum Saved {
    /// The image is in its place.
    Done,
    /// Nothing was made; the text says why, for the user.
    Failed(String),
    /// A signal ends the task; nothing was made.
    Interrupted(Signal),
}

/// The image to make. It has its base's start settings.
#[derive(Debug)]
pub struct SaveAs {
    place: NewImage,
    description: Option<String>,
}

impl SaveAs {
    /// Finds the place for `spec` and the programs that are needed, before a VM is started for nothing.
    ///
    /// # Errors
    /// When there is none; the text is for the user.
    pub fn new(spec: &SaveSpec, description: Option<String>, config: &Config) -> Result<Self, RunError> {
        packer_exists().blame(Fault::Node)?;
        let place = NewImage::find(spec, &config.catalogue()).blame(Fault::User)?;
        Ok(Self { place, description })
    }

    /// What it will be, for messages.
    pub fn name(&self) -> String {
        format!("image '{}' in {}", self.place.name, self.place.dir.display())
    }

    /// Packs the tar archive of a root that was started from `base`, and returns the result.
    fn pack(&self, archive: &mut dyn Read, base: &Image) -> Result<String, ImportError> {
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

/// Why nothing was made.
struct Unmade {
    why: String,
    /// There was no room for it.
    is_full: bool,
}

impl SaveAs {
    /// Makes the image from what the guest sends.
    fn make(&self, stream: &mut dyn Read, base: &Image) -> Result<String, Unmade> {
        if base.entry.boot == BootMode::Full {
            return disk::write(stream, &self.place, self.description.as_deref(), base)
                .map_err(|error| Unmade { why: format!("{error:#}"), is_full: disk::is_for_lack_of_room(&error) });
        }
        self.pack(stream, base)
            .map_err(|error| Unmade { why: format!("{error:#}"), is_full: error.is_for_lack_of_room() })
    }
}

/// Hands the root of the guest, whose command has ended, to the packer; `base` is the image it started from. Of a guest
/// that boots its own kernel it is the whole disk.
pub fn save(vm: &mut Vm, image: &SaveAs, base: &Image, signals: &Signals, boot_timeout: Duration) -> Saved {
    if io::stderr().is_terminal() {
        notice::line(&format!("saving {} …", image.name()));
    }
    let exporter: &[&str] = if base.entry.boot == BootMode::Full { &disk::EXPORTER } else { &EXPORTER };
    let mut archive = RootArchive::open(vm, exporter, signals, boot_timeout.max(PATIENCE));
    let outcome = image.make(&mut archive, base);
    let failure = archive.failure.take();
    let interrupted = archive.interrupted.or_else(|| fatal_signal(&archive.events));
    if let Some(signal) = interrupted.filter(|_| outcome.is_err()) {
        return Saved::Interrupted(signal);
    }
    match outcome {
        Ok(done) => {
            notice::line(&done);
            Saved::Done
        }
        Err(Unmade { why, is_full }) => {
            let why = failure.unwrap_or(why);
            let advice = if is_full { "; make room there or choose another place" } else { "" };
            Saved::Failed(format!("{}: {why}{advice}", image.name()))
        }
    }
}

fn fatal_signal(events: &Events<'_>) -> Option<Signal> {
    // A file that has become too large is an error of its own.
    let ends = |signal: &Signal| is_fatal(*signal) && i32::from(*signal) != libc::SIGXFSZ;
    std::iter::from_fn(|| events.next_signal()).find(ends)
}

/// The phase of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until the agent answers.
    Greeting,
    /// Until the exporter runs.
    Starting,
    /// Until it ends.
    Exporting,
    Over,
}

/// The archive of a guest's root, read as it arrives.
struct RootArchive<'a> {
    vm: &'a mut Vm,
    exporter: &'a [&'a str],
    events: Events<'a>,
    patience: Duration,
    export: Export,
    failure: Option<String>,
    interrupted: Option<Signal>,
}

/// The exporter's output. The channel's flow control limits the bytes that have arrived and were not read.
struct Export {
    stage: Stage,
    received: [RecvWindow; 2],
    /// Bytes of the archive that have arrived.
    arrived: Vec<u8>,
    /// How many of them were read.
    taken: usize,
    complaint: Vec<u8>,
}

impl<'a> RootArchive<'a> {
    fn open(vm: &'a mut Vm, exporter: &'a [&'a str], signals: &'a Signals, patience: Duration) -> Self {
        let events = Events::new(signals);
        // The earlier sessions have the number of a VM.
        vm.greet(nonce(u32::MAX), Wait::answer(&events.clock, patience, ""));
        let (received, complaint) = Default::default();
        let export = Export { stage: Stage::Greeting, received, arrived: Vec::new(), taken: 0, complaint };
        Self { vm, exporter, events, patience, export, failure: None, interrupted: None }
    }

    /// Waits until a part of the archive arrives, or it ends.
    fn fill(&mut self) -> Result<(), String> {
        if self.vm.is_up() {
            self.vm.expect(Wait::new(&self.events.clock, self.patience, "the guest said nothing", ""));
        }
        while self.export.arrived.is_empty() && self.export.stage != Stage::Over {
            // Before it is waited for: a VM that has ended says no more.
            if let Some(failure) = self.vm.failure() {
                return Err(failure.why().to_owned());
            }
            self.events.turn(self.vm, &mut self.export, None).map_err(|error| format!("poll: {error}"))?;
            if let Some(signal) = fatal_signal(&self.events) {
                self.interrupted = Some(signal);
                return Err(format!("interrupted by signal {signal}"));
            }
            if self.export.stage == Stage::Greeting && self.vm.is_up() {
                self.export.stage = Stage::Starting;
                describe(self.exporter, self.vm.out());
            }
        }
        Ok(())
    }
}

/// The exporter, as root of the guest.
fn describe(exporter: &[&str], out: &mut Outgoing) {
    out.send(0, &ToGuest::TakeBack);
    out.send(0, &ToGuest::Credentials { uid: 0, gid: 0, umask: 0o022, groups: Vec::new() });
    out.send(0, &ToGuest::Cwd(b"/"));
    for word in exporter {
        out.send(0, &ToGuest::Arg(word.as_bytes()));
    }
    out.send(0, &ToGuest::Start);
    out.send(0, &ToGuest::Eof(Stream::Stdin));
}

impl Listener for Export {
    fn hear(&mut self, _from: Address, message: ToHost<'_>, out: &mut Outgoing) -> Result<(), Refusal> {
        match (self.stage, message) {
            (_, ToHost::Eof(_)) => {}
            (Stage::Starting, ToHost::Started(_)) => self.stage = Stage::Exporting,
            (_, ToHost::Failed(_, text)) => return Err(Refusal::Reason(printable(text))),
            (Stage::Exporting, ToHost::Data(Stream::Stdout, bytes)) => {
                self.received[0].receive(Stream::Stdout.number(), bytes.len())?;
                self.arrived.extend_from_slice(bytes);
            }
            (Stage::Exporting, ToHost::Data(Stream::Stderr, bytes)) => {
                self.received[1].receive(Stream::Stderr.number(), bytes.len())?;
                let room = COMPLAINT_MAX.saturating_sub(self.complaint.len());
                self.complaint.extend_from_slice(&bytes[..bytes.len().min(room)]);
                if let Some(credit) = self.received[1].consume(bytes.len()) {
                    out.send(0, &ToGuest::Window(Stream::Stderr, credit));
                }
            }
            (Stage::Exporting, ToHost::Exit(ExitStatus::Code(0))) => self.stage = Stage::Over,
            (Stage::Exporting, ToHost::Exit(status)) => {
                let said =
                    printable(self.complaint.trim_ascii_end().rsplit(|&byte| byte == b'\n').next().unwrap_or_default());
                return Err(Refusal::Reason(format!("the guest could not export its root: {said} ({status:?})")));
            }
            (stage, _) => {
                return Err(Refusal::Reason(format!("the agent said something out of turn ({stage:?})")));
            }
        }
        Ok(())
    }
}

impl Read for RootArchive<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.export.arrived.is_empty() && self.export.stage != Stage::Over {
            self.fill().map_err(|why| {
                self.failure = Some(why.clone());
                io::Error::other(why)
            })?;
        }
        let Export { arrived, taken, received, .. } = &mut self.export;
        let rest = &arrived[*taken..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        *taken += n;
        if *taken == arrived.len() {
            arrived.clear();
            *taken = 0;
        }
        if let Some(credit) = received[0].consume(n) {
            self.vm.out().send(0, &ToGuest::Window(Stream::Stdout, credit));
            self.vm.flush();
        }
        Ok(n)
    }
}
