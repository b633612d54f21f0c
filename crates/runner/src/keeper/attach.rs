//! A task whose VM is kept by another process: the same relay as of any slot, with the keeper in the place of QEMU.

use std::io::{self, IsTerminal};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::conclude::Report;
use crate::config::{AccelChoice, Config};
use crate::error::{Context, RunError};
use crate::limits::{self, OutputLimit};
use crate::network::Network;
use crate::prepare::{Seen, enter_terminal, see};
use crate::relay::{Patience, Relay};
use crate::session::{Attach, Vm};
use crate::signals::Signals;
use crate::slot::{NOTICE_AFTER, Slot};
use crate::start::{Attempt, Policy, Timeouts, source};
use crate::task::{End, Guest, Streams};
use crate::timing::Moments;
use proto::ExitStatus;

/// How long a task waits for the VM. The keeper has deadlines for all that it does, and its death is seen at once: this one
/// is for a keeper that hangs itself.
const KEEPER_PATIENCE: Duration = Duration::from_secs(1800);

/// The task's number on its node.
fn local_number() -> u16 {
    std::env::var("SLURM_LOCALID").ok().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Runs the slot's command in the VM behind this socket.
///
/// # Errors
/// When there is something wrong with the task, or with the VM; the text is for the user.
pub(super) fn run(slot: &Slot, keeper: UnixStream) -> Result<ExitStatus, RunError> {
    limits::raise();
    let network = Network::of_member(slot)?;
    let signals = Signals::watch().context("signals")?;
    let Seen { image, mut task, shares } = see(slot, false)?;
    let source = source::of(&image, &slot.config)?;
    let terminal = enter_terminal(&mut task)?;
    let guest = Guest {
        task: &task,
        shares: &shares.shares,
        aliases: &shares.aliases,
        links: &image.entry.links,
        processors: 1,
        cpus: None,
        memory: None,
        network: network.as_ref(),
        is_described: true,
    };
    let attach = Attach { task: local_number(), processors: limits::mask().context("processor affinity")? };
    let mut keeper = Some(keeper);
    let report = Report::new(slot);
    let run = |attempt: &Attempt<'_>| {
        let Some(keeper) = keeper.take() else { return Ok((None, None)) };
        let vm = Vm::of_keeper(keeper, attach.clone(), Moments::begin(slot.begin));
        let notice_at = io::stderr().is_terminal().then(|| slot.begin + NOTICE_AFTER);
        let patience = Patience {
            attempt,
            answer_within: KEEPER_PATIENCE,
            advice: "",
            silence_limit: None,
            notice: notice_at.map(|moment| (moment, slot.image.as_str())),
        };
        let streams = Streams::of_this_process(1, task.has_labels(&slot.asked))?;
        let mut relay = Relay::new(vec![vm], streams, &signals, guest, patience);
        relay.commands.connect(&task).context("the sockets of the task")?;
        relay.report_to(&report);
        let output_limit = OutputLimit::hold();
        let interrupted = relay.run()?;
        drop(output_limit);
        relay.vms.iter_mut().for_each(Vm::reap);
        Ok((interrupted, relay.commands.end(0)))
    };
    // Who executes the guest is the keeper's business.
    let config = Config { accel: AccelChoice::Tcg, ..slot.config.clone() };
    let boot = source::timeouts(&source, &slot.config, 1).boot;
    let policy = Policy::of(&config, Path::new("/"));
    let (interrupted, end) = policy.start(Timeouts { boot, trial: boot }, run, |_| false)?.outcome;
    drop(terminal);
    if let Some(signal) = interrupted {
        return Ok(ExitStatus::Signal(signal));
    }
    let end = end.unwrap_or(End::Broken("the relay left it".to_owned()));
    Ok(report.conclude(&[end], true))
}
