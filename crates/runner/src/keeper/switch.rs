//! The loop of a keeper: passes on what the tasks of a node and their one guest say to each other.

use std::time::Duration;

use super::members::Members;
use crate::error::{Context, RunError};
use crate::relay::Patience;
use crate::session::{Address, Deadline, Events, Vm, Wait, nonce};
use crate::signals::Signals;
use crate::task::{End, Guest};
use proto::ExitStatus;
use qemu::VmSize;

/// How long a VM waits for tasks that have not come, when none is there that runs.
const IDLE: Duration = Duration::from_secs(60);

/// Bytes that may wait for the guest before no task is listened to.
const QUEUE_MOST: usize = 1 << 20;

/// What the loop works on.
#[derive(Debug)]
pub(crate) struct Switch<'a> {
    /// The VM.
    pub vm: Vm,
    members: &'a mut Members,
    guest: Guest<'a>,
    size: VmSize,
    patience: Patience<'a>,
    events: Events<'a>,
    /// How many tasks the guest was told of; `None` before it has answered.
    told: Option<u16>,
    idle_until: Option<Deadline>,
}

impl<'a> Switch<'a> {
    /// For a VM that was just started.
    pub fn new(
        vm: Vm,
        members: &'a mut Members,
        signals: &'a Signals,
        guest: Guest<'a>,
        size: VmSize,
        patience: Patience<'a>,
    ) -> Self {
        Self { vm, members, guest, size, patience, events: Events::new(signals), told: None, idle_until: None }
    }

    /// Runs until all tasks have ended, or the VM has.
    ///
    /// # Errors
    /// When the system refuses to poll, or its random generator cannot be read.
    pub fn run(&mut self) -> Result<End, RunError> {
        let wait = Wait::answer(&self.events.clock, self.patience.answer_within, self.patience.advice);
        self.vm.greet(nonce(0), wait);
        loop {
            if self.vm.is_over() {
                return Ok(End::of_vm(&self.vm));
            }
            if self.members.are_done() || self.nobody_comes() {
                self.vm.end();
                return Ok(End::Exited(ExitStatus::Code(0)));
            }
            self.speak_for_all()?;
            self.turn()?;
        }
    }

    /// Says what concerns the machine.
    fn speak_for_all(&mut self) -> Result<(), RunError> {
        if !self.vm.is_up() {
            return Ok(());
        }
        if self.told.is_none() {
            self.patience.attempt.answered();
            let description = self.guest.describe_machine(Address { vm: 0, task: 0 }, 1)?;
            self.vm.out().send_frames(&description);
            self.members.begin(self.size, self.vm.out());
            self.vm.look_after(&self.events.clock, self.patience.silence_limit);
            self.told = Some(self.members.coming());
        }
        let coming = self.members.coming();
        if self.told.replace(coming) != Some(coming) {
            self.vm.out().send(0, &proto::ToGuest::Tasks(coming));
        }
        Ok(())
    }

    /// Sends what waits, sleeps, and reads what has come.
    fn turn(&mut self) -> Result<(), RunError> {
        self.members.flush();
        let may_speak = self.vm.out().len() < QUEUE_MOST;
        let wanted = self.members.wanted(may_speak);
        let vms = std::slice::from_mut(&mut self.vm);
        let ready = self.events.wait(vms, &wanted, self.idle_until).context("poll")?;
        drop(wanted);
        self.events.receive(&ready, vms, self.members);
        self.members.receive(may_speak, self.vm.out());
        if self.members.has_begun {
            self.vm.learn();
        }
        Ok(())
    }

    /// Whether the rest of the tasks has let the VM wait too long.
    fn nobody_comes(&mut self) -> bool {
        if self.members.are_busy() {
            self.idle_until = None;
            return false;
        }
        let clock = &self.events.clock;
        let until = *self.idle_until.get_or_insert_with(|| clock.reminder(IDLE));
        clock.has_passed(until)
    }
}
