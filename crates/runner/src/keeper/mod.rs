//! One VM for all tasks of a step on a node (`--vm-scope=node`).
//!
//! ```text
//! slurmstepd ─┬─ task 0: relay ══ socket ══╗
//!             ├─ task 1: relay ══ socket ══╬══ keeper ══ channel ══ agent ─┬─ command of task 0
//!             └─ task 2: relay ══ socket ══╝     └─ QEMU                   ├─ command of task 1
//!                                                                          └─ command of task 2
//! ```
//!
//! The first task that comes starts the keeper, a process of its own in the task's control group, and attaches to it like
//! all others. So every task is alike, ends when its command ends, and any of them may die. The keeper passes frames on
//! between tasks and guest under the task's number; it reads nothing of a task's streams.
//!
//! # Failure modes
//!
//! | what happens | what follows |
//! | --- | --- |
//! | a task's runner is killed | its command gets SIGKILL, what the command has started goes on, the others do not notice |
//! | the runner of the task that founded the VM is killed or ends | the same: the keeper is not its child any more |
//! | the keeper or QEMU is killed | every task that runs ends with one line and 125; none is run on the host |
//! | slurmstepd is killed | the runners die (`PR_SET_PDEATHSIG`), the keeper too ([`node::life`]), and QEMU with it |
//! | slurmstepd kills the step | the keeper is in the step's container and dies with it |
//! | a task comes late | it finds the VM and is started; its processors are those that the VM has |
//! | a task never comes | the VM ends 60 s after the last command; if slurmstepd ends, at once |
//! | a task comes after the VM's end | one line and 125 |
//! | a task ends while others run | it is reported at once; what it left in the background goes on, as on bare metal |
//! | the guest sends too much, or of a task that it does not have | the VM is ended |
//! | a runner is stopped, or its reader | its own windows fill; nobody else waits |
//! | the VM has a network of the step's own | each task inherits its tap, and closes it: only the keeper and QEMU have it, beside slurmstepd |
//! | the VM cannot be started | every task says why, and ends with the exit code for that |

mod attach;
mod meeting;
mod member;
mod members;
mod processors;
mod switch;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::prctl::set_name;
use nix::unistd::setsid;

use self::meeting::{Place, close_all_but};
use crate::conclude::failure;
use crate::error::{Context, Fault, RunError};
use crate::limits;
use crate::prepare::{Prepared, prepare};
use crate::session::{Outgoing, Word};
use crate::signals::{Signals, passed_on};
use crate::slot::Slot;
use crate::start::{self, Attempt, Outcome, Policy, Started};
use node::life;
use proto::ExitStatus;
use request::Meeting;

pub(crate) use self::members::Members;
pub(crate) use self::switch::Switch;

/// Name under which this program is started as a keeper.
pub const KEEPER_PROGRAM: &str = "spank-vm-keeper";

/// The same for the kernel.
const KEEPER_NAME: &std::ffi::CStr = c"spank-vm-keeper";

/// Runs the slot's command in the VM that it shares with the other tasks of this node. `arguments` are this program's own,
/// for a keeper that it may have to start.
///
/// # Errors
/// When there is something wrong with the task, or with the VM; the text is for the user.
pub fn run_attached(slot: &Slot, meeting: Option<Meeting>, arguments: &[OsString]) -> Result<ExitStatus, RunError> {
    let place = enter(meeting)?;
    if place.is_founder() {
        start_keeper(arguments)?;
    }
    let gone = |_| RunError::new(Fault::Guest, "the VM of this node's tasks has ended before this task came");
    let keeper = place.attach().map_err(gone)?;
    attach::run(slot, keeper)
}

fn enter(meeting: Option<Meeting>) -> Result<Place, RunError> {
    let none =
        "the tasks of this node cannot find each other: slurmstepd has no room for it (--vm-scope=slot needs none)";
    Place::enter(meeting.ok_or_else(|| RunError::node(none))?)
}

/// Starts this program again as the keeper. It inherits the place, and what this task has of limits and environment.
fn start_keeper(arguments: &[OsString]) -> Result<(), RunError> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(KEEPER_PROGRAM).args(arguments);
    // It speaks for all tasks of the node, and is none of them.
    command.env("SLURM_LOCALID", "0").env_remove("SLURM_PROCID").env_remove("PMI_FD");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop).map_err(|error| {
        let why = format!("the process that keeps the VM cannot be started: {error}");
        limits::blame(&why).unwrap_or_else(|| RunError::node(why))
    })
}

/// Prepares this process to be a keeper, before anything else: it leaves the task that started it, and depends on
/// slurmstepd alone. `taps` are of its VM's network, and inherited.
///
/// # Errors
/// When slurmstepd is gone, or descriptors run out.
pub fn become_keeper(meeting: Option<Meeting>, tasks: u32, taps: &[RawFd]) -> Result<Keeper, RunError> {
    let Place { door, hall, life } = enter(meeting)?;
    drop(door);
    close_all_but(&[&[hall.as_raw_fd(), life.as_raw_fd()], taps].concat());
    // Its parent is a task, which ends before others do.
    life::depend_on(life.as_fd()).context("slurmstepd is gone, or its end cannot be watched")?;
    // Signals are for the tasks. Where Slurm sends them to every process of the step, this one must not react.
    passed_on().thread_block().context("signals")?;
    let _ = setsid();
    // Started as /proc/self/exe, it would be called "exe". Who counts VMs knows it by its name.
    let _ = set_name(KEEPER_NAME);
    let said = members::own_stderr().context("a pipe")?;
    Ok(Keeper { members: Members::new(hall, said, tasks), _life: life })
}

/// A process that keeps a VM for others.
#[derive(Debug)]
pub struct Keeper {
    members: Members,
    _life: std::os::fd::OwnedFd,
}

impl Keeper {
    /// Keeps a VM for the tasks of this node until all have ended. `slot` is made when they have come: it is theirs together.
    /// What goes wrong is told to the tasks.
    pub fn keep(mut self, slot: impl FnOnce() -> Result<Slot, RunError>) {
        self.members.gather();
        let members = RefCell::new(self.members);
        let ended = slot().and_then(|slot| keep_vm(&slot, &members));
        let mut members = members.into_inner();
        let word = match ended {
            Ok(()) => Word::Ended(Fault::Guest, "the VM of this node's tasks has ended".to_owned()),
            Err(error) => Word::Ended(error.fault(), format!("{error:#}")),
        };
        // Who has just come is told too.
        members.receive(true, &mut Outgoing::default());
        members.tell_all(&word);
        members.part();
    }
}

/// Starts the VM and runs it until all tasks have ended.
fn keep_vm(slot: &Slot, members: &RefCell<Members>) -> Result<(), RunError> {
    limits::raise();
    let signals = Signals::none().context("signals")?;
    let interrupted = |signal| RunError::new(Fault::System, format!("interrupted by signal {signal}"));
    let parts = match prepare(slot, &signals)? {
        Prepared::Parts(parts) => *parts,
        Prepared::Interrupted(signal) => return Err(interrupted(signal)),
    };
    let report = crate::conclude::Report::new(slot);
    let attempt = |attempt: &Attempt<'_>| start::run(slot, &parts, &signals, &report, attempt, Some(members));
    let policy = Policy::of(&slot.config, &parts.qemu);
    let Started { outcome, proven, .. } = policy.start(parts.timeouts, attempt, Outcome::never_came_up)?;
    match outcome {
        Outcome::Died(signal) => Err(interrupted(signal)),
        Outcome::Ended(ends) => ends.iter().try_for_each(|end| failure(slot, end, proven).map(drop)),
    }
}
