//! All commands of one task, and the streams that they share.

use std::io;

use nix::poll::PollFd;

use super::attached::Attached;
use super::description::Task;
use super::end::End;
use super::streams::Streams;
use crate::session::{Address, Listener, Outgoing, Refusal};
use proto::{ExitStatus, ToHost};

/// The commands of a task, by the VMs they are attached to. It is the listener of these VMs.
#[derive(Debug)]
pub struct Commands {
    /// In the order of their output's numbers.
    pub list: Vec<Attached>,
    /// What they read and write.
    pub streams: Streams,
}

impl Commands {
    /// One command in each of `vms` VMs.
    pub fn one_per_vm(vms: usize, streams: Streams) -> Self {
        let list = (0..vms).map(|vm| Attached::new(Address { vm, task: 0 }, vm)).collect();
        Self { list, streams }
    }

    /// Gives the only command of a task the sockets that the task has.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn connect(&mut self, task: &Task) -> io::Result<()> {
        if let [command] = &mut self.list[..] {
            command.connect(task.ways()?);
        }
        Ok(())
    }

    /// Gives the first command a socket whose other end a test has.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn connect_to(&mut self, task: std::os::unix::net::UnixStream) {
        let task = super::inherited::Inherited { number: 9, socket: task.into() };
        let socket = super::socket::Socket::new(0, &task).expect("descriptors");
        self.list[0].connect(vec![super::way::Way::Socket(socket)]);
    }

    /// The sockets to poll.
    pub fn wanted(&self) -> Vec<PollFd<'_>> {
        self.list.iter().flat_map(Attached::wanted).collect()
    }

    /// Whether all have ended.
    pub fn have_ended(&self) -> bool {
        self.list.iter().all(Attached::has_ended)
    }

    /// Whether one has begun to run, so that it handles a signal itself.
    pub fn has_begun(&self) -> bool {
        self.list.iter().any(|command| command.is_running() || command.has_ended())
    }

    /// How a command ended. A command whose output was lost has not succeeded, even if it does not know that: on
    /// the host its write would have failed.
    pub fn end(&self, number: usize) -> Option<End> {
        match self.list[number].end()? {
            End::Exited(ExitStatus::Code(0)) if self.streams.have_lost() => Some(End::Exited(ExitStatus::Code(1))),
            end => Some(end.clone()),
        }
    }

    /// Bytes of stdin that every command can take now: each byte is sent to all of them.
    pub fn stdin_room(&self) -> usize {
        let takers = self.list.iter().filter(|command| !command.has_ended());
        takers.map(Attached::stdin_room).min().unwrap_or(0)
    }
}

impl Listener for Commands {
    fn hear(&mut self, from: Address, message: ToHost<'_>, _out: &mut Outgoing) -> Result<(), Refusal> {
        match self.list.iter_mut().find(|command| command.address == from) {
            Some(command) => command.hear(message, &mut self.streams),
            None => Err(Refusal::Reason(format!("the guest speaks of a task {} that it does not have", from.task))),
        }
    }

    fn notice(&mut self, text: &str) {
        self.streams.notice(text);
    }
}
