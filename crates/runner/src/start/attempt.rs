//! One attempt to run a slot: its VMs are started, as clones where that is possible, and relayed
//! until they have ended. If no guest ever answered in an attempt, it may be retried in another
//! way.

use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::cloning::Cloning;
use super::fit::{Wanted, fit};
use super::{Attempt, counter, kvm, source};
use crate::conclude::Report;
use crate::config::StartChoice;
use crate::error::{Blame, Context, Fault, RunError};
use crate::file_server::FileServer;
use crate::keeper::{Members, Switch};
use crate::limits::{self, OutputLimit};
use crate::network::Network;
use crate::prepare::Parts;
use crate::relay::{Patience, Relay};
use crate::save::{self, SaveAs, Saved};
use crate::session::{Failure, Lesson, Vm};
use crate::signals::{Signal, Signals, passed_on};
use crate::slot::{NOTICE_AFTER, Slot};
use crate::task::{End, Guest, Streams};
use crate::template::{self, Obtained, Recipe, Template, Terms};
use crate::timing::Moments;
use crate::{notice, progress};
use node::progress::Phase;
use proto::ExitStatus;
use qemu::{Abilities, Accel, Ends, Hardware, Host, Shape, Start, System, VmSize, VmSpec};
use qemu::{Files, QemuError, QemuProcess, Tap, Way};

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Every VM has ended, each with its own result.
    Ended(Vec<End>),
    /// By a signal that came before the command ran.
    Died(Signal),
}

impl Outcome {
    /// Whether no agent ever answered: the command has not run, and a retry in another way is possible.
    pub(crate) fn never_came_up(&self) -> bool {
        matches!(self, Self::Ended(ends) if ends.iter().all(|end| matches!(end, End::NeverUp(_))))
    }
}

/// Runs the slot's VMs, or one VM for `members`, which are several tasks, by the fastest way that works here. They are cloned
/// if there is a template. If there is none, or the clones do not answer, the next way is tried; by the last one VMs then
/// boot.
///
/// # Errors
/// When something on the node fails that no other way of starting could avoid.
pub(crate) fn run(
    slot: &Slot,
    parts: &Parts,
    signals: &Signals,
    report: &Report<'_>,
    attempt: &Attempt<'_>,
    members: Option<&RefCell<Members>>,
) -> Result<Outcome, RunError> {
    let notice_at = io::stderr().is_terminal().then(|| slot.begin + NOTICE_AFTER);
    let wanted = Wanted { memory_mib: slot.asked.vm_mem, cpus: slot.asked.vm_cpus };
    let size = fit(parts.size, wanted, attempt.accel(), || most_cpus(parts, attempt.accel()))?;
    let ways = parts.ways.of_guest(attempt.accel(), size);
    let by = |way| Vms { slot, parts, way, size, signals, report, attempt, notice_at, members };
    let (last, faster) = ways.split_last().ok_or_else(|| RunError::new(Fault::System, "no way to start a VM"))?;
    let faster = if parts.network.as_ref().is_none_or(Network::is_for_every_way) { faster } else { &[] };
    for &way in faster {
        attempt.try_way(Some(parts.timeouts.trial));
        match by(way).try_once()? {
            Tried::Ran(outcome) => return Ok(outcome),
            Tried::NotUp { why, is_ways_fault } => {
                tracing::debug!("not started by {way}: {why}");
                if is_ways_fault {
                    attempt.when_one_answers(parts.ways.is_broken(way));
                }
            }
        }
    }
    attempt.try_way(None);
    by(last).run_last()
}

/// Emulated guests that come up at a time on each processor. Fewer could leave a processor without work now and then.
const AT_ONCE: usize = 4;

/// How a way went that is not the last one.
enum Tried {
    /// Guests came up, or a signal ended the task.
    Ran(Outcome),
    /// No guest came up.
    NotUp {
        why: String,
        /// Nothing but the way can be the reason if a guest comes up by another one.
        is_ways_fault: bool,
    },
}

/// How a slot's VMs ended.
struct Ran {
    outcome: Outcome,
    /// Each QEMU was ended by somebody else, which says nothing about what it was made of.
    were_killed: bool,
}

/// The most processors of a VM here.
fn most_cpus(parts: &Parts, accel: Accel) -> Result<u32, RunError> {
    let machine = qemu::most_cpus(&parts.qemu, parts.machine, accel).blame_node()?;
    Ok(match accel {
        Accel::Kvm => kvm::most_cpus().map_or(machine, |most| most.min(machine)),
        Accel::Tcg => machine,
    })
}

/// What all VMs of an attempt have in common.
#[derive(Clone, Copy)]
struct Vms<'a> {
    slot: &'a Slot,
    parts: &'a Parts,
    way: &'a Way,
    size: VmSize,
    signals: &'a Signals,
    report: &'a Report<'a>,
    attempt: &'a Attempt<'a>,
    notice_at: Option<Instant>,
    members: Option<&'a RefCell<Members>>,
}

impl Vms<'_> {
    /// Runs them by a way that need not work.
    fn try_once(&self) -> Result<Tried, RunError> {
        let not_up = |why: String, is_ways_fault| Ok(Tried::NotUp { why, is_ways_fault });
        progress::enter(Phase::Template);
        let begin = Instant::now();
        let template = match self.template() {
            Obtained::Interrupted(signal) => return Ok(Tried::Ran(Outcome::Died(signal))),
            Obtained::NoBoot(why) | Obtained::NoGuest(why) => return not_up(why, true),
            // A program that does not even tell its version starts no guest of any image.
            Obtained::Failed(why) => return not_up(why, Abilities::of(&self.way.qemu).is_err()),
            Obtained::Unavailable(why) => {
                tracing::debug!("booting: {why}");
                None
            }
            Obtained::Template(template) => {
                self.attempt.found_template();
                self.attempt.try_way(None);
                Some(template)
            }
        };
        let clone_of = template.as_ref().map(|(shape, template)| (*shape, template));
        let vms = match self.launch(clone_of) {
            Ok(vms) => vms,
            Err(error) => return not_up(format!("{error:#}"), false),
        };
        let Ran { outcome, were_killed } = self.run(vms, clone_of)?;
        if !outcome.never_came_up() {
            return Ok(Tried::Ran(outcome));
        }
        let Some((_, template)) = template else { return not_up(format!("{outcome:?}"), !were_killed) };
        // One that was there before may be damaged; one that was made just now is not.
        let is_new = begin.elapsed() >= Duration::from_millis(template.manifest.made_in_ms);
        if !were_killed {
            self.doubt(template);
        }
        not_up(format!("its clones do not come up: {outcome:?}"), is_new && !were_killed)
    }

    /// Runs them by the way that always works.
    fn run_last(&self) -> Result<Outcome, RunError> {
        let attempt = self.attempt;
        progress::enter(Phase::Template);
        match self.template() {
            Obtained::Interrupted(signal) => return Ok(Outcome::Died(signal)),
            Obtained::NoBoot(why) => return Ok(Outcome::Ended(vec![End::NeverUp(why)])),
            Obtained::Unavailable(why) => tracing::debug!("booting: {why}"),
            Obtained::Failed(why) | Obtained::NoGuest(why) => attempt.is_slow(&self.slot.image, &why),
            Obtained::Template((shape, template)) => {
                attempt.found_template();
                let clone_of = Some((shape, &template));
                let Ran { outcome, were_killed } = self.run(self.launch(clone_of)?, clone_of)?;
                if !outcome.never_came_up() {
                    return Ok(outcome);
                }
                if were_killed {
                    tracing::warn!(
                        "clones of {} were killed before they came up: {outcome:?}",
                        template.dir().display()
                    );
                } else {
                    // What keeps them from coming up may be none of the template's business: a limit, a full disk.
                    tracing::warn!("clones of {} do not come up: {outcome:?}", template.dir().display());
                    self.doubt(template);
                }
            }
        }
        self.run(self.launch(None)?, None).map(|ran| ran.outcome)
    }

    /// Has the template removed if a guest of its image comes up in another way.
    fn doubt(&self, template: Template) {
        self.attempt.when_one_answers(Box::new(move || {
            let dir = template.dir();
            match template.remove() {
                Ok(()) => tracing::warn!("{} is removed: its image boots", dir.display()),
                Err(error) => tracing::warn!("{} cannot be removed: {error}", dir.display()),
            }
        }));
    }

    /// The template to clone, found or made.
    fn template(&self) -> Obtained<(Shape, Template)> {
        let Self { slot, parts, .. } = self;
        if slot.config.start == StartChoice::Boot {
            return Obtained::Unavailable("the configuration says so (start = 'boot')".to_owned());
        }
        let Some(shape) = parts.source.shape(self.way.machine.plugs_memory(), self.size) else {
            return Obtained::Unavailable(format!("{:?} is larger than templates are", self.size));
        };
        if !limits::allow_mapping((shape.base_mib + shape.pluggable_mib) << 20) {
            return Obtained::Unavailable(format!("a hard limit of this task is too low for {shape:?}"));
        }
        let introduction = parts.task.introduction();
        let recipe = Recipe {
            image: &parts.image,
            source: &parts.source,
            disk: &parts.disk,
            way: self.way,
            accel: self.attempt.accel(),
            cpu_model: &slot.config.cpu_model,
            shape,
            has_nic: parts.network.is_some(),
            introduction: &introduction,
        };
        let confinement = slot.config.confinement();
        let terms = Terms { signals: self.signals, attempt: self.attempt, confinement, notice_at: self.notice_at };
        let cache_bytes = slot.config.template_cache_mib << 20;
        template::obtain(&recipe, &slot.config.template_dir, cache_bytes, &terms).map(|template| (shape, template))
    }

    /// Starts all VMs at once.
    fn launch(&self, template: Option<(Shape, &Template)>) -> Result<Vec<Vm>, RunError> {
        progress::enter(Phase::Start);
        let has_template = template.is_some().then(Instant::now);
        // Asked once, and not for each VM.
        let abilities = template.map_or_else(|| self.way.abilities_to_boot(), |(_, template)| template.abilities());
        let start = |index| self.start(template, abilities, has_template, index);
        (0..self.slot.asked.vms() as usize).map(start).collect()
    }

    /// Relays until they have ended.
    fn run(&self, mut vms: Vec<Vm>, template: Option<(Shape, &Template)>) -> Result<Ran, RunError> {
        let slot = self.slot;
        let count = vms.len();
        self.explain(template.is_some());
        if let (Some(members), Some(vm)) = (self.members, vms.pop_if(|_| self.members.is_some())) {
            return self.keep(vm, &mut members.borrow_mut(), template);
        }
        let mut relay = Relay::new(vms, self.streams()?, self.signals, self.guest(template), self.patience());
        relay.commands.connect(&self.parts.task).context("the sockets of the task")?;
        relay.report_to(self.report);
        if slot.save.is_some() {
            relay.keep(0);
        }
        let output_limit = OutputLimit::hold();
        let mut interrupted = relay.run()?;
        drop(output_limit);
        progress::enter(if slot.save.is_some() { Phase::Save } else { Phase::End });
        let mut not_saved = None;
        if let (Some(image), None) = (&slot.save, interrupted) {
            match self.save(&mut relay, image) {
                Saved::Done => {}
                Saved::Interrupted(signal) => interrupted = Some(signal),
                Saved::Failed(why) => not_saved = Some(End::NotSaved(why)),
            }
        }
        for (vm, command) in relay.vms.iter_mut().zip(&relay.commands.list) {
            vm.reap();
            command.complete(&mut vm.moments);
            let way = if template.is_some() { "clone" } else { "boot" };
            let started = vm.moments.started.map(|at| at.duration_since(vm.moments.begin).as_millis() as u64);
            tracing::info!(image = %slot.image, vm = vm.number, way, start_ms = started, phases = %vm.moments, "vm ended");
            if slot.timing {
                notice::line(&format!("timing: vm={} {}", vm.number, vm.moments));
            }
        }
        let end = |number| relay.commands.end(number).unwrap_or(End::Broken("the relay left it".to_owned()));
        let mut ends: Vec<End> = (0..count).map(end).collect();
        if let Some(not_saved) = not_saved {
            ends[0] = not_saved;
        }
        let were_killed = relay.vms.iter().all(|vm| matches!(vm.failure(), Some(Failure::Killed(_))));
        Ok(Ran { outcome: interrupted.map_or(Outcome::Ended(ends), Outcome::Died), were_killed })
    }

    /// Keeps the one VM for all tasks of the node.
    fn keep(&self, vm: Vm, members: &mut Members, template: Option<(Shape, &Template)>) -> Result<Ran, RunError> {
        let guest = self.guest(template);
        let mut switch = Switch::new(vm, members, self.signals, guest, self.size, self.patience());
        let end = switch.run()?;
        let vm = &mut switch.vm;
        vm.reap();
        let way = if template.is_some() { "clone" } else { "boot" };
        tracing::info!(image = %self.slot.image, way, phases = %vm.moments, "vm of a node ended");
        let were_killed = matches!(vm.failure(), Some(Failure::Killed(_)));
        Ok(Ran { outcome: Outcome::Ended(vec![end]), were_killed })
    }

    fn streams(&self) -> Result<Streams, RunError> {
        let asked = &self.slot.asked;
        Ok(Streams::of_this_process(asked.vms() as usize, self.parts.task.has_labels(asked))?)
    }

    fn guest(&self, template: Option<(Shape, &Template)>) -> Guest<'_> {
        let parts = self.parts;
        Guest {
            task: &parts.task,
            shares: &parts.seen.shares,
            aliases: &parts.seen.aliases,
            links: &parts.image.entry.links,
            network: parts.network.as_ref(),
            processors: self.size.cpus,
            cpus: template.filter(|(shape, _)| shape.cpus > self.size.cpus).map(|_| self.size.cpus as u16),
            memory: template.and_then(|(shape, _)| shape.beyond_template(self.size)),
            is_described: false,
        }
    }

    fn patience(&self) -> Patience<'_> {
        Patience {
            attempt: self.attempt,
            answer_within: self.attempt.answer_within(),
            advice: source::advice(&self.parts.source),
            silence_limit: Some(self.slot.config.silence_timeout_s).filter(|&s| s > 0).map(Duration::from_secs),
            notice: self.notice_at.map(|moment| (moment, self.slot.image.as_str())),
        }
    }

    /// Saves the root of the first VM, if its command has succeeded.
    fn save(&self, relay: &mut Relay<'_>, image: &SaveAs) -> Saved {
        if relay.commands.end(0) != Some(End::Exited(ExitStatus::Code(0))) {
            notice::line(&format!("warning: {} is not made, because the command failed", image.name()));
            return Saved::Done;
        }
        save::save(&mut relay.vms[0], image, &self.parts.image, self.signals, self.attempt.patience())
    }

    fn start(
        &self,
        template: Option<(Shape, &Template)>,
        abilities: Abilities,
        has_template: Option<Instant>,
        index: usize,
    ) -> Result<Vm, RunError> {
        let Self { slot, parts, .. } = self;
        let scratch_dir = &slot.config.scratch_dir;
        let cloning = template.map(|of| Cloning::open(of, &parts.disk, scratch_dir)).transpose()?;
        let (cloning, files) = match cloning {
            Some((cloning, files)) => (Some(cloning), files),
            None => {
                let image = Some(parts.disk.file().try_clone().context("the image's disk")?);
                let scratch = Some(source::private_disk(&parts.source, parts.disk.file(), scratch_dir)?);
                (None, Files { image, scratch, ..Files::default() })
            }
        };
        let start = cloning.as_ref().map_or(Start::Boot(self.size, abilities), Cloning::start);
        // Before QEMU: it is QEMU that must let the server reach the guest's memory.
        let (server, file_port) = self.file_server(start)?;
        let file_server = Some(server.id());
        let confinement = slot.config.confinement();
        let host = match &cloning {
            Some(cloning) => cloning.host(file_server, confinement),
            None => Host { file_server, ..source::host(confinement) },
        };
        let accel = self.attempt.accel();
        let nic = parts.network.as_ref().map(|network| network.open(index, accel)).transpose()?.flatten();
        // A clone's kernel has been told.
        let tsc_khz = template.is_none().then(|| counter::khz(accel)).flatten();
        let files = Files { file_port: Some(file_port), nic, ..files };
        let mut process = QemuProcess::spawn(&self.way.qemu, host, files, |inherited| {
            let hardware = Hardware { machine: self.way.machine, accel, cpu_model: &slot.config.cpu_model };
            let system = System::Image(&parts.image, inherited.files.image_fds());
            let tap = || inherited.files.nic.as_ref().map(Tap::fds);
            VmSpec {
                tsc_khz,
                nic: parts.network.as_ref().map(|network| network.nic(index, tap())),
                ..VmSpec::new(hardware, start, &parts.source, system, Ends::of(inherited))
            }
            .args()
        })
        .map_err(blame_start)?;
        // Also so that the monitor reports why a machine stopped.
        process.monitor.negotiate();
        let (mut memory_to_plug, mut lesson) = (None, None);
        let locate = server.wants_memory();
        if let Some(cloning) = &cloning {
            let template = cloning.template();
            // An emulated guest gains nothing by it.
            let written = template.written().filter(|_| accel == Accel::Kvm).cloned();
            // The relay lets it go. With KVM, or when it booted, it would gain nothing.
            if accel == Accel::Tcg && self.members.is_none() && index >= AT_ONCE * parts.cpus as usize {
                process.hold();
            }
            cloning.load(&mut process, written, locate);
            memory_to_plug = cloning.shape().bytes_to_plug(self.size);
            let is_first = accel == Accel::Kvm && index == 0;
            lesson = template.keeper_of_written().filter(|_| is_first).map(Lesson::new);
        } else if let Some(bytes) = locate {
            process.monitor.locate_memory(bytes);
        }
        let moments = Moments { template: has_template, spawned: Some(Instant::now()), ..Moments::begin(slot.begin) };
        let mut vm = Vm::new(index, process, memory_to_plug, moments);
        vm.lesson = lesson;
        vm.serve_files(server);
        Ok(vm)
    }

    /// The server of a VM's shares with QEMU's end of its port. Also if nothing is shared: a template's clones all have the
    /// port.
    fn file_server(&self, start: Start) -> Result<(FileServer, UnixStream), RunError> {
        let memory_mib = match start {
            Start::Boot(size, _) => size.memory_mib,
            Start::Template(shape, _) | Start::Clone(shape, _) => shape.base_mib,
        };
        FileServer::start(&self.parts.seen.shares, memory_mib << 20, passed_on())
    }

    /// For `-v`.
    fn explain(&self, clones: bool) {
        let Self { slot, parts, .. } = self;
        tracing::debug!(
            "{} {} x {} with {} MiB and {} processors each, {:?}, {}; the guest has {} s to come up",
            if clones { "cloned" } else { "started" },
            slot.asked.vms(),
            parts.disk,
            self.size.memory_mib,
            self.size.cpus,
            self.attempt.accel(),
            self.way,
            self.attempt.answer_within().as_secs()
        );
        for share in &parts.seen.shares {
            let mode = if share.read_only { "read-only" } else { "read and write" };
            tracing::debug!("share {} at {}, {mode}", share.source.display(), share.target.display());
        }
    }
}

/// Whose fault it is that QEMU cannot be started.
fn blame_start(error: QemuError) -> RunError {
    let text = error.reason().map_or_else(|| error.to_string(), |reason| format!("{error}: {reason}"));
    limits::blame(&text).unwrap_or_else(|| RunError::node(text))
}
