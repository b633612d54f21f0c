//! Making a template: boot to where the agent waits, then keep memory, devices and disk.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::signals::{Signal, Signals, is_fatal};
use super::super::start::{Attempt, source};
use super::store::{EMPTY, FileRecord, MANIFEST, Manifest, RAM, SCRATCH, STATE};
use super::{FORMAT, Recipe, digest};
use crate::notice;
use proto::{self, DATA_CHUNK, Decoder, ToGuest, ToHost};
use qemu::Share;
use qemu::printable;
use qemu::scratch::copy_sparse;
use qemu::{Abilities, BLOCK_MIB, Start, System, TemplateFds, VmSpec};
use qemu::{Files, QemuProcess, TURN, TemplateFiles};
use qemu::{StateUri, Transfer};

/// How an attempt ended.
#[derive(Debug)]
pub enum Built {
    /// Everything is in the draft.
    Complete,
    /// The guest did not answer in all the time it may take, and would not without a template either.
    NoBoot(String),
    /// A signal came that ends the task.
    Interrupted(Signal),
}

/// The limits of a build and who wants to hear of it.
#[derive(Debug)]
pub struct Terms<'a> {
    /// Signals of this process.
    pub signals: &'a Signals,
    /// How long the guest may take, and who is told when it answers.
    pub(crate) attempt: &'a Attempt<'a>,
    /// When to tell a waiting person, if there is one.
    pub notice_at: Option<Instant>,
}

/// Boots the recipe's image in the directory `draft` and fills it.
///
/// # Errors
/// When files cannot be written, the guest ends or QEMU cannot save its state: a boot without a template
/// will do, or say what is wrong. The draft is the caller's to remove.
pub fn build(recipe: &Recipe<'_>, draft: &Path, terms: &Terms<'_>) -> anyhow::Result<Built> {
    let begin = Instant::now();
    let abilities = Abilities::of(recipe.qemu)?;
    let path = |name: &str| draft.join(name);
    let create = |name: &str, read: bool| {
        let file = OpenOptions::new().read(read).write(true).create_new(true).mode(0o600).open(path(name));
        file.with_context(|| path(name).display().to_string())
    };
    let ram = create(RAM, true)?;
    ram.set_len(recipe.shape.base_mib << 20)?;
    let scratch = create(SCRATCH, true)?;
    // Made without a name where the draft is, and copied: it is some KiB.
    copy_sparse(&source::private_disk(recipe.source, recipe.disk.file(), draft)?, &scratch)
        .context("the private disk")?;
    let state = create(STATE, false)?;
    let files = Files {
        image: Some(recipe.disk.file().try_clone()?),
        scratch: Some(scratch),
        template: Some(TemplateFiles { ram, state: state.try_clone()? }),
        ..Files::default()
    };
    let process = start(recipe, &path(EMPTY), files, abilities)?;

    let save_to = abilities.state_uri(&state);
    let plugs = recipe.shape.pluggable_mib > 0;
    let mut builder = Builder { process, decoder: Decoder::new(), stage: Stage::Booting, save_to, plugs };
    match builder.run(recipe, terms)? {
        Built::Complete => {}
        other => return Ok(other),
    }
    drop(builder);
    let record = |name: &str| -> anyhow::Result<FileRecord> {
        let bytes = path(name).metadata()?.len();
        Ok(FileRecord { name: name.to_owned(), bytes, sha256: digest::of_file(&path(name))? })
    };
    let shape = recipe.shape;
    let manifest = Manifest {
        format: FORMAT,
        image: recipe.image.name.to_string(),
        hardware: format!(
            "{} MiB of memory and up to {} more, up to {} processors, {} shares",
            shape.base_mib, shape.pluggable_mib, shape.cpus, shape.shares
        ),
        read_only: abilities.read_only_templates,
        files: [RAM, STATE, SCRATCH].into_iter().map(record).collect::<anyhow::Result<_>>()?,
        made_in_ms: begin.elapsed().as_millis() as u64,
    };
    create(MANIFEST, false)?.write_all(toml::to_string(&manifest)?.as_bytes())?;
    Ok(Built::Complete)
}

fn start(recipe: &Recipe<'_>, empty: &Path, files: Files, abilities: Abilities) -> anyhow::Result<QemuProcess> {
    let share = |number| Share {
        tag: format!("s{number}"),
        source: empty.to_owned(),
        target: empty.to_owned(),
        read_only: true,
    };
    let shares: Vec<Share> = (0..recipe.shape.shares).map(share).collect();
    let template = files.template.as_ref().context("no template files")?;
    let fds = TemplateFds { ram: template.ram.as_raw_fd(), state: template.state.as_raw_fd(), abilities };
    QemuProcess::spawn(recipe.qemu, source::host(), files, |inherited| {
        VmSpec {
            machine: recipe.machine,
            accel: recipe.accel,
            start: Start::Template(recipe.shape, fds),
            source: recipe.source,
            system: System::Image(recipe.image, inherited.files.image_fds()),
            channel: inherited.channel.as_raw_fd(),
            console: inherited.console.as_raw_fd(),
            monitor: inherited.monitor.as_raw_fd(),
            shares: &shares,
        }
        .args()
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until the agent answers.
    Booting,
    /// Until the guest has taken the first block of memory.
    Plugging,
    /// Until the agent has brought its caches and disk into the state that clones should find.
    Settling,
    /// Until QEMU has written the devices' state.
    Saving,
    Done,
}

struct Builder {
    process: QemuProcess,
    decoder: Decoder,
    stage: Stage,
    save_to: StateUri,
    /// Whether the guest has a device through which it gets more memory.
    plugs: bool,
}

impl Builder {
    fn run(&mut self, recipe: &Recipe<'_>, terms: &Terms<'_>) -> anyhow::Result<Built> {
        let begin = Instant::now();
        // Once it has answered, what is left is not about how it is executed.
        let mut deadline = terms.attempt.answer_by(begin);
        let mut notice_at = terms.notice_at;
        let mut hello = Vec::new();
        ToGuest::Hello { version: proto::VERSION, nonce: 0 }.encode(0, &mut hello);
        self.say(&hello)?;
        while self.stage != Stage::Done {
            let now = Instant::now();
            if notice_at.is_some_and(|moment| now >= moment) {
                notice_at = None;
                notice::line(&format!(
                    "{} starting … (first use on this node, later starts are fast)",
                    recipe.image.name
                ));
            }
            if now >= deadline {
                self.process.read_texts();
                if self.stage != Stage::Booting {
                    let within = terms.attempt.patience().as_secs();
                    bail!("the guest was not ready to be saved within {within} s{}", self.process.last_words());
                }
                let within = terms.attempt.answer_within().as_secs();
                let (last_words, advice) = (self.process.last_words(), source::advice(recipe.source));
                return Ok(Built::NoBoot(format!("no answer within {within} s{last_words}{advice}")));
            }
            let until = notice_at.map_or(deadline, |moment| moment.min(deadline));
            self.wait(terms.signals, until)?;
            while let Some(signal) = terms.signals.next() {
                if is_fatal(signal) {
                    return Ok(Built::Interrupted(signal));
                }
            }
            let was_booting = self.stage == Stage::Booting;
            self.advance(recipe.introduction)?;
            if was_booting && self.stage != Stage::Booting {
                terms.attempt.answered();
                deadline = Instant::now() + terms.attempt.patience();
            }
        }
        Ok(Built::Complete)
    }

    /// Takes in what agent and QEMU have said, and does what follows from it.
    fn advance(&mut self, introduction: &[u8]) -> anyhow::Result<()> {
        self.process.read_texts();
        self.listen()?;
        if self.stage == Stage::Plugging && (!self.plugs || self.process.monitor.has_plugged()) {
            self.stage = Stage::Settling;
            let mut orders = introduction.to_vec();
            ToGuest::Settle.encode(0, &mut orders);
            self.say(&orders)?;
        }
        match (self.stage, self.process.monitor.transfer()) {
            (Stage::Saving, Some(Transfer::Completed)) => self.stage = Stage::Done,
            (_, Some(Transfer::Failed(why))) => bail!("QEMU cannot save the template: {why}"),
            _ => {}
        }
        Ok(())
    }

    fn wait(&self, signals: &Signals, until: Instant) -> anyhow::Result<()> {
        let fds = [signals.as_fd(), self.process.channel.as_fd()].into_iter().chain(self.process.texts());
        let mut fds: Vec<PollFd> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).context("poll"),
        }
    }

    /// Takes what the agent says; an error if the guest has ended or is not fit to be cloned.
    fn listen(&mut self) -> anyhow::Result<()> {
        let mut buf = [0; DATA_CHUNK];
        // An agent that never falls silent must not keep this process from its signals and its deadline.
        for _ in 0..TURN {
            match self.process.channel.read(&mut buf) {
                Ok(0) => bail!(self.process.exit_reason()),
                Ok(n) => self.decoder.push(&buf[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => bail!(self.process.exit_reason()),
            }
            self.understand()?;
        }
        Ok(())
    }

    fn understand(&mut self) -> anyhow::Result<()> {
        let mut decoder = std::mem::take(&mut self.decoder);
        while let Some(frame) = decoder.next_frame()? {
            match (self.stage, ToHost::parse(frame)?) {
                (Stage::Booting, ToHost::Hello { version: proto::VERSION, nonce: 0, .. }) => {
                    self.stage = Stage::Plugging;
                    self.process.monitor.negotiate();
                    if self.plugs {
                        self.process.monitor.plug(BLOCK_MIB << 20);
                    }
                }
                (Stage::Settling, ToHost::Synced) => {
                    self.stage = Stage::Saving;
                    self.process.monitor.save(self.save_to);
                }
                (_, ToHost::Failed(_, text)) => bail!("{}", printable(text)),
                (_, ToHost::Log { .. }) => {}
                (stage, _) => bail!("the agent said something out of turn ({stage:?})"),
            }
        }
        self.decoder = decoder;
        Ok(())
    }

    /// A few short messages, for which an empty socket always has room.
    fn say(&mut self, frames: &[u8]) -> anyhow::Result<()> {
        self.process.channel.write_all(frames).context("the channel to the guest")
    }
}

/// Lets a builder hear what a guest and a QEMU say that are played through `process`, until it gives up.
#[cfg(any(test, feature = "fuzzing"))]
pub fn hear(process: QemuProcess, more: &mut dyn FnMut() -> bool) -> bool {
    let mut builder =
        Builder { process, decoder: Decoder::new(), stage: Stage::Booting, save_to: StateUri::FdSet(0), plugs: true };
    while more() && builder.stage != Stage::Done {
        if builder.advance(&[]).is_err() {
            return false;
        }
    }
    builder.stage == Stage::Done
}
