//! A task that is being described, and what concerns the machine among its messages.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proto::{ProtoError, SOCKETS_MAX, ToGuest};

use crate::accounts::Account;
use crate::error::AgentError;
use crate::files::IncomingFile;
use crate::machine::Machine;
use crate::shares::Share;
use crate::task::{Credentials, Listen, Priority, ResourceLimit, TaskSpec, TerminalSize};

/// A task before its START.
#[derive(Debug, Default)]
pub(super) struct Collecting {
    pub spec: TaskSpec,
    pub file: Option<IncomingFile>,
    /// The first thing that went wrong. It is reported at START, the only message to which the runner expects an
    /// answer.
    pub failure: Option<AgentError>,
}

impl Collecting {
    /// Takes a part of the description. What goes wrong with the machine is put into `of_machine`: it concerns all tasks.
    pub fn handle<M: Machine>(
        &mut self,
        message: ToGuest<'_>,
        machine: &mut M,
        of_machine: &mut Option<AgentError>,
    ) -> Result<(), ProtoError> {
        let is_of_task = matches!(message, ToGuest::File { .. } | ToGuest::FileData(_) | ToGuest::Home(_));
        if let Err(error) = self.collect(message, machine)? {
            let failure = if is_of_task { &mut self.failure } else { of_machine };
            failure.get_or_insert(error);
        }
        Ok(())
    }

    /// The outer error is the fault of the runner, the inner one of the guest.
    fn collect<M: Machine>(
        &mut self,
        message: ToGuest<'_>,
        machine: &mut M,
    ) -> Result<Result<(), AgentError>, ProtoError> {
        let spec = &mut self.spec;
        match message {
            ToGuest::Clock(nanoseconds) => return Ok(machine.set_clock(nanoseconds)),
            ToGuest::Hostname(name) => return Ok(machine.set_hostname(name)),
            ToGuest::Entropy(seed) => return Ok(machine.add_entropy(seed)),
            ToGuest::Share { number, path, file, read_only } => {
                let (path, file) = (as_path(path), as_path(file));
                return Ok(machine.mount_share(Share { number, path, file, read_only }));
            }
            ToGuest::Alias { path, target } => return Ok(machine.alias(as_path(path), as_path(target))),
            ToGuest::Home(path) => {
                let credentials = spec.credentials.as_ref().ok_or(ProtoError::OutOfOrder("HOME"))?;
                return Ok(machine.make_home(as_path(path), (credentials.uid, credentials.gid)));
            }
            ToGuest::Link { path, target } => return Ok(machine.link(as_path(path), as_path(target))),
            ToGuest::TakeBack => return Ok(machine.take_back()),
            ToGuest::Cpus(count) => return Ok(machine.use_cpus(count)),
            ToGuest::Memory(bytes) => machine.expect_memory(bytes),
            ToGuest::Zone { name, data } => return Ok(machine.set_zone(name, data)),
            ToGuest::Network(interface) => return Ok(machine.bring_network_up(&interface)),
            ToGuest::Address(more) => return Ok(machine.add_addresses(&more)),
            ToGuest::Hosts(lines) => return Ok(machine.add_hosts(lines)),
            ToGuest::Resolver(text) => return Ok(machine.set_resolver(text)),
            ToGuest::User { gid, name, gecos, home, shell } => {
                let [name, gecos, home, shell] = [name, gecos, home, shell].map(<[u8]>::to_vec);
                let groups = std::mem::take(&mut spec.account.groups);
                spec.account = Account { gid, name, gecos, home, shell, groups };
                return Ok(self.add_user(machine));
            }
            ToGuest::Group { gid, name } => spec.account.groups.push((gid, name.to_vec())),
            ToGuest::Credentials { uid, gid, umask, groups } => {
                spec.credentials = Some(Credentials { uid, gid, umask, groups });
                return Ok(self.add_user(machine));
            }
            ToGuest::Cwd(path) => spec.cwd = path.to_vec(),
            ToGuest::Arg(arg) => spec.args.push(arg.to_vec()),
            ToGuest::Env(pair) => spec.env.push(pair.to_vec()),
            ToGuest::Rlimit { resource, soft, hard } => spec.limits.push(ResourceLimit { resource, soft, hard }),
            ToGuest::CpuSet(mask) => spec.cpus = mask.to_vec(),
            ToGuest::Priority { nice, io } => spec.priority = Some(Priority { nice, io }),
            ToGuest::Pty { rows, cols } | ToGuest::Resize { rows, cols } => {
                spec.terminal = Some(TerminalSize { rows, cols });
            }
            ToGuest::MergeStderr => spec.merge_stderr = true,
            ToGuest::Socket(_) if spec.streams() >= usize::from(SOCKETS_MAX) => {
                return Err(ProtoError::OutOfOrder("SOCKET"));
            }
            ToGuest::Socket(number) => spec.sockets.push(number),
            ToGuest::Listener { address, port, connections } => {
                let address = SocketAddrV4::new(Ipv4Addr::from(address), port);
                if spec.listener.replace(Listen { address, connections }).is_some()
                    || spec.streams() > usize::from(SOCKETS_MAX)
                {
                    return Err(ProtoError::OutOfOrder("LISTENER"));
                }
            }
            ToGuest::File { mode, path } => {
                let owner = spec.credentials.as_ref().map(|credentials| (credentials.uid, credentials.gid));
                let room = machine.expect_file(as_path(path));
                let created = room.and_then(|()| IncomingFile::create(as_path(path), mode, owner));
                return Ok(created.map(|file| self.file = Some(file)));
            }
            ToGuest::FileData(bytes) => match &mut self.file {
                Some(file) => return Ok(file.append(bytes)),
                // Its creation failed; START will report it.
                None if self.failure.is_some() => {}
                None => return Err(ProtoError::OutOfOrder("FILE-DATA")),
            },
            // A signal that came early: there is no process yet to signal.
            ToGuest::Signal(_) => {}
            ToGuest::Data(..) | ToGuest::Eof(_) | ToGuest::Window(..) => return Err(ProtoError::OutOfOrder("stream")),
            ToGuest::Hello { .. } | ToGuest::Settle | ToGuest::Ping | ToGuest::Start | ToGuest::Tasks(_) => {}
        }
        Ok(Ok(()))
    }

    /// USER and CREDENTIALS may come in any order; the entry is made when both are known.
    fn add_user<M: Machine>(&self, machine: &mut M) -> Result<(), AgentError> {
        match &self.spec.credentials {
            Some(credentials) if !self.spec.account.name.is_empty() => {
                machine.add_user(&self.spec.account, credentials)
            }
            _ => Ok(()),
        }
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
