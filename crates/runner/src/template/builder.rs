//! Making a template: boot until the agent waits, then save memory, devices and disk.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use super::carry::Carrier;
use super::checksum;
use super::key::{FORMAT, Recipe};
use super::manifest::{FileRecord, MANIFEST, Manifest, RAM, SCRATCH, STATE};
use crate::error::{Blame, Context, Fault, RunError};
use crate::notice::{self, printable};
use crate::plan::processors;
use crate::session::{Address, Events, Failure, Listener, Outgoing, Refusal, Vm, Wait};
use crate::signals::{Signal, Signals};
use crate::start::{Attempt, counter, source};
use crate::timing::Moments;
use nix::sys::memfd::{MFdFlags, memfd_create};
use proto::{ToGuest, ToHost};
use qemu::scratch::copy_sparse;
use qemu::{Abilities, BLOCK_MIB, Ends, Nic, Start, System, TemplateFds, VmSpec};
use qemu::{Confinement, Files, QemuProcess, TemplateFiles};
use qemu::{StateUri, Transfer};

/// The number of a template's session, which its clones' sessions do not have.
const NONCE: u64 = 0;

/// How an attempt ended.
#[derive(Debug)]
pub enum Built {
    /// Everything is in the draft.
    Complete,
    /// The guest did not answer within its full time, and would not without a template either.
    NoBoot(String),
    /// Somebody ended QEMU, which says nothing about the image; the text says how.
    Killed(String),
    /// A signal ends the task.
    Interrupted(Signal),
}

/// The limits of a build, and the person to tell.
#[derive(Debug)]
pub struct Terms<'a> {
    /// Signals of this process.
    pub signals: &'a Signals,
    /// How long the guest may take, and who is told when it answers.
    pub(crate) attempt: &'a Attempt<'a>,
    /// Whether QEMU can open files of its user.
    pub confinement: Confinement<'a>,
    /// When to tell a waiting person, if there is one.
    pub notice_at: Option<Instant>,
}

/// Boots the recipe's image in the directory `draft` and fills it.
///
/// # Errors
/// When files cannot be written, the guest ends or QEMU cannot save its state: a boot without a template will work,
/// or report the error. The caller removes the draft.
pub fn build(recipe: &Recipe<'_>, draft: &Path, terms: &Terms<'_>) -> Result<Built, RunError> {
    let begin = Instant::now();
    let abilities = Abilities::of(&recipe.way.qemu).blame(Fault::Node)?;
    let path = |name: &str| draft.join(name);
    let create = |name: &str, read: bool| {
        let file = OpenOptions::new().read(read).write(true).create_new(true).mode(0o600).open(path(name));
        file.with_context(|| path(name).display().to_string())
    };
    // Without a file system behind it: one that has to find room for a page at its first touch makes a boot half as long again.
    let memory = File::from(memfd_create(RAM, MFdFlags::MFD_CLOEXEC).context("memory")?);
    memory.set_len(recipe.shape.base_mib << 20)?;
    let mut carrier = Carrier::new(&memory, &create(RAM, true)?).context("the guest's memory")?;
    let scratch = create(SCRATCH, true)?;
    // Made without a name in the draft's directory, and copied: it has only some KiB.
    copy_sparse(&source::private_disk(recipe.source, recipe.disk.file(), draft)?, &scratch)
        .context("the private disk")?;
    let state = create(STATE, false)?;
    // Nobody serves files to a template: it gets no share. The other end of its port stays open, as a clone finds it.
    let (_no_server, port) = UnixStream::pair().context("a port")?;
    let files = Files {
        image: Some(recipe.disk.file().try_clone()?),
        scratch: Some(scratch),
        template: Some(TemplateFiles { ram: memory, state: state.try_clone()? }),
        file_port: Some(port),
        ..Files::default()
    };
    let process = start(recipe, files, abilities, terms.confinement)?;

    let save_to = abilities.state_uri(&state);
    let plugs = recipe.shape.pluggable_mib > 0;
    let mut builder = Builder::new(process, save_to, plugs);
    match builder.run(recipe, terms, &mut carrier)? {
        Built::Complete => {}
        other => return Ok(other),
    }
    // It frees its own memory meanwhile.
    builder.vm.end();
    let checksum_of_ram = carrier.finish().context("the guest's memory")?;
    drop(builder);
    let record = |name: &str| -> Result<FileRecord, RunError> {
        let bytes = path(name).metadata()?.len();
        let checksum = match name {
            RAM => checksum_of_ram.clone(),
            _ => checksum::of_file(&File::open(path(name))?)?,
        };
        Ok(FileRecord { name: name.to_owned(), bytes, checksum })
    };
    let shape = recipe.shape;
    let manifest = Manifest {
        format: FORMAT,
        image: recipe.image.name.to_string(),
        hardware: format!(
            "{} MiB of memory and up to {} more, up to {}{}",
            shape.base_mib - shape.held_mib,
            shape.pluggable_mib + shape.held_mib,
            processors(shape.cpus),
            if recipe.has_nic { ", a network device" } else { "" }
        ),
        read_only: abilities.read_only_templates,
        without_keyboard: abilities.without_keyboard,
        files: [RAM, STATE, SCRATCH].into_iter().map(record).collect::<Result<_, RunError>>()?,
        made_in_ms: begin.elapsed().as_millis() as u64,
    };
    create(MANIFEST, false)?.write_all(toml::to_string(&manifest).blame(Fault::System)?.as_bytes())?;
    Ok(Built::Complete)
}

fn start(
    recipe: &Recipe<'_>,
    files: Files,
    abilities: Abilities,
    confinement: Confinement<'_>,
) -> Result<QemuProcess, RunError> {
    let template = files.template.as_ref().ok_or_else(|| RunError::new(Fault::System, "no template files"))?;
    let fds = TemplateFds { ram: template.ram.as_raw_fd(), state: template.state.as_raw_fd(), abilities };
    QemuProcess::spawn(&recipe.way.qemu, source::host(confinement), files, |inherited| {
        let system = System::Image(recipe.image, inherited.files.image_fds());
        let start = Start::Template(recipe.shape, fds);
        VmSpec {
            tsc_khz: counter::khz(recipe.accel),
            nic: recipe.has_nic.then_some(Nic::OF_TEMPLATE),
            ..VmSpec::new(recipe.hardware(), start, recipe.source, system, Ends::of(inherited))
        }
        .args()
    })
    .blame(Fault::Node)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until the agent answers.
    Booting,
    /// Until the agent has brought its caches and disk into the state that clones should find. Meanwhile the guest takes its
    /// first block of memory.
    Settling,
    /// The agent has done so; until the block is there too.
    Settled,
    /// Until QEMU has written the devices' state.
    Saving,
    Done,
}

struct Builder {
    vm: Vm,
    guest: Settling,
    save_to: StateUri,
    /// Whether the guest has a device for more memory.
    plugs: bool,
}

/// Handles the messages that a guest may send while it becomes a template.
struct Settling {
    stage: Stage,
}

impl Listener for Settling {
    fn hear(&mut self, _from: Address, message: ToHost<'_>, _out: &mut Outgoing) -> Result<(), Refusal> {
        match (self.stage, message) {
            (Stage::Settling, ToHost::Synced) => self.stage = Stage::Settled,
            (_, ToHost::Failed(_, text)) => return Err(Refusal::Reason(printable(text))),
            (stage, _) => {
                return Err(Refusal::Reason(format!("the agent said something out of turn ({stage:?})")));
            }
        }
        Ok(())
    }
}

impl Builder {
    fn new(process: QemuProcess, save_to: StateUri, plugs: bool) -> Self {
        let vm = Vm::new(0, process, None, Moments::begin(Instant::now()));
        Self { vm, guest: Settling { stage: Stage::Booting }, save_to, plugs }
    }

    /// `carrier` begins when the guest has nothing more to do than to come to rest.
    fn run(&mut self, recipe: &Recipe<'_>, terms: &Terms<'_>, carrier: &mut Carrier) -> Result<Built, RunError> {
        let mut events = Events::new(terms.signals);
        let mut notice_at = terms.notice_at.map(|moment| events.reminder_at(moment));
        let advice = source::advice(recipe.source);
        self.vm.greet(NONCE, Wait::answer(&events.clock, terms.attempt.answer_within(), advice));
        while self.guest.stage != Stage::Done {
            events.turn(&mut self.vm, &mut self.guest, notice_at).context("poll")?;
            if let Some(signal) = events.fatal_signal() {
                return Ok(Built::Interrupted(signal));
            }
            if notice_at.is_some_and(|moment| events.clock.has_passed(moment)) {
                notice_at = None;
                notice::line(&format!(
                    "{} starting … (first use on this node, later starts are fast)",
                    recipe.image.name
                ));
            }
            let was_booting = self.guest.stage == Stage::Booting;
            if was_booting && self.vm.has_answered() {
                terms.attempt.answered();
            }
            match self.vm.failure() {
                Some(Failure::TimedOut(why)) if !self.vm.has_answered() => return Ok(Built::NoBoot(why.clone())),
                Some(Failure::Killed(why)) => return Ok(Built::Killed(why.clone())),
                Some(failure) => return Err(RunError::new(Fault::Guest, failure.why())),
                None => self.advance(recipe.introduction)?,
            }
            if was_booting && self.guest.stage != Stage::Booting {
                carrier.begin();
                let within = terms.attempt.patience();
                self.vm.expect(Wait::new(&events.clock, within, "it came up, but was not ready to be cloned", ""));
            }
        }
        Ok(Built::Complete)
    }

    /// Acts on the messages of agent and QEMU.
    fn advance(&mut self, introduction: &[u8]) -> Result<(), RunError> {
        let stage = &mut self.guest.stage;
        if *stage == Stage::Booting && self.vm.is_up() {
            *stage = Stage::Settling;
            if let Some(monitor) = self.vm.monitor() {
                monitor.negotiate();
                if self.plugs {
                    monitor.plug(BLOCK_MIB << 20);
                }
            }
            self.vm.out().send_frames(introduction);
            self.vm.out().send(0, &ToGuest::Settle);
        }
        if *stage == Stage::Settled && (!self.plugs || self.vm.monitor().is_some_and(|monitor| monitor.has_plugged())) {
            *stage = Stage::Saving;
            let save_to = self.save_to;
            self.vm.monitor().into_iter().for_each(|monitor| monitor.save(save_to));
        }
        match (*stage, self.vm.monitor().and_then(|monitor| monitor.transfer())) {
            (Stage::Saving, Some(Transfer::Completed)) => *stage = Stage::Done,
            (_, Some(Transfer::Failed(why))) => {
                return Err(RunError::new(Fault::Node, format!("QEMU cannot save the template: {why}")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Runs a builder with the stand-in behind `process`, until it fails.
#[cfg(any(test, feature = "fuzzing"))]
pub fn hear(process: QemuProcess, more: &mut dyn FnMut() -> bool) -> bool {
    let mut builder = Builder::new(process, StateUri::FdSet(0), true);
    let clock = crate::session::AwakeClock::new();
    builder.vm.greet(NONCE, Wait::answer(&clock, std::time::Duration::from_secs(60), ""));
    let mut buffer = vec![0; proto::DATA_CHUNK];
    while more() && builder.guest.stage != Stage::Done {
        builder.vm.flush();
        builder.vm.receive(&mut buffer, &mut builder.guest);
        builder.vm.read_texts();
        if builder.vm.is_over() || builder.advance(&[]).is_err() {
            return false;
        }
    }
    builder.guest.stage == Stage::Done
}
