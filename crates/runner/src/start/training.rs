//! A first clone of a template that root has made for everybody. No user may write to it, so no user's clone can teach it which
//! pages all clones write (`qemu::Written`).
//!
//! The clone runs the image's shell and ends. Whatever goes wrong is only told to the journal: the template is whole without it, and
//! its clones are a little slower.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use super::source;
use crate::config::Config;
use crate::error::{Blame, Context, Fault, RunError};
use crate::file_server::FileServer;
use crate::relay::{Patience, Relay};
use crate::session::{Lesson, Vm};
use crate::signals::Signal;
use crate::task::{Guest, Output, Streams, Task};
use crate::template::{Recipe, Template, Terms};
use crate::timing::Moments;
use proto::Transport;
use qemu::{Accel, Files, Host, QemuProcess, Shares, Start, System, TemplateFds, VmSpec, scratch};

/// What every image has, and what uses the parts that most commands use.
const COMMAND: [&str; 3] = ["/bin/sh", "-c", ":"];

/// Runs the clone, if the template is this process's own and lacks the list. A signal that ends this process meanwhile.
pub(super) fn train(template: &Template, recipe: &Recipe<'_>, config: &Config, terms: &Terms<'_>) -> Option<Signal> {
    let has_devices_of_its_own = recipe.transport == Transport::NineP || recipe.has_nic;
    let keep = template.keeper_of_written().filter(|_| recipe.accel == Accel::Kvm && !has_devices_of_its_own)?;
    let trained = start(template, recipe, config).and_then(|mut vm| {
        vm.learn(Some(Lesson::new(keep)));
        run(vm, recipe, terms)
    });
    trained.unwrap_or_else(|error| {
        tracing::warn!("clones of {} could start faster: its first one failed: {error:#}", template.dir().display());
        None
    })
}

fn start(template: &Template, recipe: &Recipe<'_>, config: &Config) -> Result<Vm, RunError> {
    let begin = Instant::now();
    let opened = template.files().context("the template's files")?;
    let fds =
        TemplateFds { ram: opened.ram.as_raw_fd(), state: opened.state.as_raw_fd(), abilities: template.abilities() };
    let state = opened.state.try_clone()?;
    let (server, port) = FileServer::start(&[], recipe.shape.base_mib << 20, source::host().blocked)?;
    let files = Files {
        image: Some(recipe.disk.file().try_clone()?),
        scratch: Some(scratch::create(template.scratch(), &config.scratch_dir).map_err(source::blame_disk)?),
        template: Some(opened),
        file_port: Some(port),
        ..Files::default()
    };
    let host = Host { file_server: Some(server.id()), ..source::host() };
    let mut process = QemuProcess::spawn(&recipe.way.qemu, host, files, |inherited| {
        VmSpec {
            machine: recipe.way.machine,
            accel: recipe.accel,
            cpu_model: recipe.cpu_model,
            tsc_khz: None,
            start: Start::Clone(recipe.shape, fds),
            source: recipe.source,
            system: System::Image(recipe.image, inherited.files.image_fds()),
            channel: inherited.channel.as_raw_fd(),
            console: inherited.console.as_raw_fd(),
            monitor: inherited.monitor.as_raw_fd(),
            shares: inherited.files.file_port.as_ref().map_or(Shares::None, |port| Shares::Port(port.as_raw_fd())),
            nic: None,
        }
        .args()
    })
    .blame(Fault::Node)?;
    process.monitor.negotiate();
    process.load(fds.abilities.state_uri(&state), None, server.wants_memory());
    let mut vm = Vm::new(0, process, None, Moments::begin(begin));
    vm.serve_files(server);
    Ok(vm)
}

fn run(vm: Vm, recipe: &Recipe<'_>, terms: &Terms<'_>) -> Result<Option<Signal>, RunError> {
    let nowhere = File::options().write(true).open("/dev/null")?;
    let streams = Streams::outputs_only(Output::new(nowhere.as_fd(), 1)?, Output::new(nowhere.as_fd(), 1)?);
    let guest = Guest {
        task: &Task::of_helper(COMMAND.map(Into::into).into()),
        shares: &[],
        aliases: &[],
        transport: recipe.transport,
        links: &recipe.image.entry.links,
        network: None,
        processors: recipe.shape.cpus,
        cpus: None,
        memory: None,
        is_described: false,
    };
    let (attempt, advice) = (terms.attempt, source::advice(recipe.source));
    let patience =
        Patience { attempt, answer_within: attempt.answer_within(), advice, silence_limit: None, notice: None };
    let mut relay = Relay::new(vec![vm], streams, terms.signals, guest, patience);
    let interrupted = relay.run()?;
    relay.vms.iter_mut().for_each(Vm::reap);
    match relay.vms[0].failure() {
        Some(failure) if interrupted.is_none() => Err(RunError::new(Fault::Guest, failure.why())),
        _ => Ok(interrupted),
    }
}
