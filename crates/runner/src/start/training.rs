//! A first clone of a template that root has made for everybody. No user may write to it, so no user's clone can teach it which
//! pages all clones write (`qemu::Written`).
//!
//! The clone is like a user's step: it has an ordinary user, the memory and the network device of VMs that the template is for, and
//! shares, behind which is an empty directory. It runs the image's shell and ends. Whatever goes wrong is only told to the
//! journal: the template is whole without it, and its clones are a little slower.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use super::cloning::Cloning;
use super::source;
use crate::config::Config;
use crate::error::{Blame, Fault, RunError};
use crate::file_server::FileServer;
use crate::network::Network;
use crate::relay::{Patience, Relay};
use crate::session::{Lesson, Vm};
use crate::shares::Share;
use crate::signals::{Signal, passed_on};
use crate::task::{End, Guest, Output, Streams, Task};
use crate::template::{Recipe, Template, Terms};
use crate::timing::Moments;
use qemu::{Accel, Ends, Files, QemuProcess, System, VmSize, VmSpec};

/// What every image has, and what uses the parts that most commands use.
const COMMAND: [&str; 3] = ["/bin/sh", "-c", ":"];

/// The home of the clone's user.
const HOME: &str = "/home/somebody";

/// A first clone, and what it is made of.
struct Trainee<'a> {
    template: &'a Template,
    recipe: &'a Recipe<'a>,
    config: &'a Config,
    size: VmSize,
    shares: Vec<Share>,
    network: Option<Network>,
}

/// Runs the clone as a VM of this size, if the template is this process's own and lacks the list. A signal that ends this process
/// meanwhile.
pub(super) fn train(
    template: &Template,
    recipe: &Recipe<'_>,
    size: VmSize,
    config: &Config,
    terms: &Terms<'_>,
) -> Option<Signal> {
    let keep = template.keeper_of_written().filter(|_| recipe.accel == Accel::Kvm)?;
    let network = recipe.has_nic.then(Network::of_nobody);
    let trainee = Trainee { template, recipe, config, size, shares: shares(template, config), network };
    let trained = trainee.start().and_then(|mut vm| {
        vm.lesson = Some(Lesson::new(keep));
        trainee.run(vm, terms)
    });
    trained.unwrap_or_else(|error| {
        tracing::warn!("clones of {} could start faster: its first one failed: {error:#}", template.dir().display());
        None
    })
}

/// As many as most VMs of the site have: a home, and what the site adds.
fn shares(template: &Template, config: &Config) -> Vec<Share> {
    let share = |number: usize| Share {
        source: template.empty(),
        target: if number == 0 { HOME.into() } else { format!("/srv/{number}").into() },
        read_only: true,
        is_file: false,
    };
    (0..=config.shares.len()).map(share).collect()
}

impl Trainee<'_> {
    fn start(&self) -> Result<Vm, RunError> {
        let Self { recipe, .. } = self;
        let begin = Instant::now();
        let (cloning, files) = Cloning::open((recipe.shape, self.template), recipe.disk, &self.config.scratch_dir)?;
        let (server, file_port) = FileServer::start(&self.shares, recipe.shape.base_mib << 20, passed_on())?;
        let files = Files { file_port: Some(file_port), ..files };
        let host = cloning.host(Some(server.id()), self.config.confinement());
        let mut process = QemuProcess::spawn(&recipe.way.qemu, host, files, |inherited| {
            let system = System::Image(recipe.image, inherited.files.image_fds());
            VmSpec {
                nic: self.network.as_ref().map(|network| network.nic(0, None)),
                ..VmSpec::new(recipe.hardware(), cloning.start(), recipe.source, system, Ends::of(inherited))
            }
            .args()
        })
        .blame(Fault::Node)?;
        process.monitor.negotiate();
        cloning.load(&mut process, None, server.wants_memory());
        let mut vm = Vm::new(0, process, cloning.shape().bytes_to_plug(self.size), Moments::begin(begin));
        vm.serve_files(server);
        Ok(vm)
    }

    fn run(&self, vm: Vm, terms: &Terms<'_>) -> Result<Option<Signal>, RunError> {
        let Self { recipe, size, .. } = self;
        let nowhere = File::options().write(true).open("/dev/null")?;
        let streams = Streams::outputs_only(Output::new(nowhere.as_fd(), 1)?, Output::new(nowhere.as_fd(), 1)?);
        let guest = Guest {
            task: &Task::of_somebody(COMMAND.map(Into::into).into(), Path::new(HOME)),
            shares: &self.shares,
            aliases: &[],
            links: &recipe.image.entry.links,
            network: self.network.as_ref(),
            processors: size.cpus,
            cpus: (recipe.shape.cpus > size.cpus).then_some(size.cpus as u16),
            memory: recipe.shape.beyond_template(*size),
            is_described: false,
        };
        let (attempt, advice) = (terms.attempt, source::advice(recipe.source));
        let answer_within = attempt.answer_within();
        let patience = Patience { attempt, answer_within, advice, silence_limit: None, notice: None };
        let mut relay = Relay::new(vec![vm], streams, terms.signals, guest, patience);
        let interrupted = relay.run()?;
        relay.vms.iter_mut().for_each(Vm::reap);
        match (relay.vms[0].failure(), relay.commands.end(0)) {
            _ if interrupted.is_some() => Ok(interrupted),
            (Some(failure), _) => Err(RunError::new(Fault::Guest, failure.why())),
            (None, Some(End::Exited(_))) => Ok(None),
            (None, end) => Err(RunError::new(Fault::Guest, format!("its command: {end:?}"))),
        }
    }
}
