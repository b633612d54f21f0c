//! In slurmstepd: a network of the step's own.
//!
//! It is made once, before the tasks are forked, by a program that root starts here: `spank-vm step-network`, with
//! these arguments and nothing of the job in its environment. It hands over open files: a tap for each VM, and what
//! keeps others out. Slurmstepd keeps them, each task inherits its own, and when all are closed the kernel takes the
//! network back. So whoever is killed, nothing is left.

use super::args::Args;
use super::error::Error;
use super::network_error::NetworkError;
use crate::spank::{Host, Step, inherit, readable_within};
use node::pass;
use request::{NetworkPart, OfNode, Scope, VmRequest};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long the program may take: it asks the controller.
const MADE_WITHIN: Duration = Duration::from_secs(70);

/// How long it may take to end after that.
const ENDED_WITHIN: Duration = Duration::from_secs(2);

/// A network of this step, as far as it is on this node.
#[derive(Debug)]
pub struct StepNetwork {
    taps: Vec<OwnedFd>,
    /// Only held.
    _guard: Option<OwnedFd>,
    said: Said,
    node: u32,
}

/// What the program said of it.
#[derive(Debug, Clone, Copy)]
struct Said {
    mtu: u16,
    scope: Scope,
}

/// Where this node is in the step.
struct Place {
    node: u32,
    /// Tasks of each node, in Slurm's short form.
    tasks: String,
    /// The nodes, if there are several.
    nodes: Option<String>,
}

impl StepNetwork {
    /// Makes it.
    ///
    /// # Errors
    /// What is missing; nothing is left then.
    pub fn make(request: &VmRequest, args: &Args, host: &dyn Host) -> Result<Self, Error> {
        let place = Place::of(host)?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| Error::Network(error.into()))?;
        let mut command = Command::new(args.command_line());
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
        if let Some(conf) = host.own_env("SLURM_CONF") {
            command.env("SLURM_CONF", conf);
        }
        if let Some(config) = &args.config {
            command.arg("--config").arg(config);
        }
        let number = |option: &str, value: u32| format!("--{option}={value}");
        command.arg("step-network").arg(number("job", host.job_id()?)).arg(number("step", host.step()?.number()));
        command.arg(number("vms", request.asked.vms())).arg(number("node", place.node));
        // Else the site's configuration decides, which the program reads.
        let scope = request.asked.scope(Scope::Slot);
        if scope == request.asked.scope(Scope::Node) {
            command.arg(format!("--scope={}", scope.word()));
        }
        command.arg(format!("--tasks={}", place.tasks));
        command.args(place.nodes.map(|nodes| format!("--nodes={nodes}")));
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let of_tasks = host.local_tasks()? as usize * request.asked.vms() as usize;
        let made = command.spawn().map_err(NetworkError::from).and_then(|child| {
            // With its copy of the socket: if the program dies, the socket ends.
            drop(command);
            finish(child, &ours).and_then(|(said, taps)| Self::of(said, taps, of_tasks, place.node))
        });
        made.map_err(Error::Network)
    }

    fn of(said: Said, mut taps: Vec<OwnedFd>, of_tasks: usize, node: u32) -> Result<Self, NetworkError> {
        let wanted = if said.scope == Scope::Node { 1 } else { of_tasks };
        let guard = taps.len().checked_sub(wanted).filter(|more| *more <= 1);
        let guard = guard.ok_or_else(|| NetworkError::Node("not as many taps as VMs were made".to_owned()))?;
        let guard = if guard == 1 { taps.pop() } else { None };
        Ok(Self { taps, _guard: guard, said, node })
    }

    /// In the process that becomes a task: lets it keep its own taps, and says which these are.
    ///
    /// # Errors
    /// When Slurm does not say which task this is.
    pub fn of_task(&self, vms: u32, host: &dyn Host) -> Result<NetworkPart, Error> {
        let (first, count) = match self.said.scope {
            Scope::Slot => (host.local_task_id()? * vms, vms),
            // Any of them may be the first to come, and starts the VM.
            Scope::Node => (0, 1),
        };
        let own = self.taps.iter().skip(first as usize).take(count as usize);
        let taps = own.map(|tap| inherit(tap.as_fd()).map(|()| tap.as_raw_fd())).collect::<io::Result<Vec<_>>>();
        let taps = taps.map_err(|error| Error::Network(error.into()))?;
        let (rank, ranks) = (host.task_id()?, host.all_tasks()?);
        let of_node = match self.said.scope {
            Scope::Slot => None,
            Scope::Node => Some(of_node(host)?),
        };
        Ok(NetworkPart { mtu: self.said.mtu, node: self.node, first, rank, ranks, taps, of_node })
    }
}

fn of_node(host: &dyn Host) -> Result<OfNode, Error> {
    let ranks = (0..host.local_tasks()?).map(|local| host.global_task_id(local)).collect::<Result<_, _>>()?;
    Ok(OfNode { nodes: host.step_nodes()?, ranks })
}

impl Place {
    fn of(host: &dyn Host) -> Result<Self, Error> {
        let local = host.local_tasks()?.to_string();
        // A script runs on one node, wherever else its job has some.
        let nodes = if let Step::Srun(_) = host.step()? { host.step_nodes()? } else { 1 };
        if nodes == 1 {
            return Ok(Self { node: 0, tasks: local, nodes: None });
        }
        let told = |name: &str| -> Result<String, Error> {
            let value = host.job_env(name)?.and_then(|value| value.into_string().ok());
            let lost = || NetworkError::User(format!("--vm-net=job: srun's variable {name} did not arrive"));
            value.ok_or_else(|| Error::Network(lost()))
        };
        let (tasks, nodes) = (told("SLURM_STEP_TASKS_PER_NODE")?, told("SLURM_STEP_NODELIST")?);
        Ok(Self { node: host.node_id()?, tasks, nodes: Some(nodes) })
    }
}

/// Waits for what the program hands over, and for its end.
fn finish(mut child: Child, socket: &UnixStream) -> Result<(Said, Vec<OwnedFd>), NetworkError> {
    let heard = listen(socket);
    if heard.is_err() {
        let _ = child.kill();
    }
    end(&mut child);
    heard
}

/// Waits for the end of a program that has nothing more to do; one that does not end is killed. A process that even then
/// does not end is slurmstepd's to reap.
fn end(child: &mut Child) {
    for _ in 0..2 {
        let deadline = Instant::now() + ENDED_WITHIN;
        while Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
    }
}

fn listen(socket: &UnixStream) -> Result<(Said, Vec<OwnedFd>), NetworkError> {
    let deadline = Instant::now() + MADE_WITHIN;
    let (mut said, mut fds) = (None, Vec::new());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NetworkError::Node(format!("not made within {} s", MADE_WITHIN.as_secs())));
        }
        if !readable_within(socket.as_fd(), left)? {
            continue;
        }
        let (text, more) = pass::receive(socket.as_fd())?;
        fds.extend(more);
        if !text.is_empty() {
            said = Some(text);
            continue;
        }
        let said = said.unwrap_or_default();
        return match said.split_once(' ') {
            Some(("ok", made)) => match Said::parse(made) {
                Some(made) => Ok((made, fds)),
                None => Err(NetworkError::Node("the program that makes it is of another version".to_owned())),
            },
            Some(("user", why)) => Err(NetworkError::User(why.to_owned())),
            Some(("node", why)) => Err(NetworkError::Node(why.to_owned())),
            _ => Err(NetworkError::Node("the program that makes it has failed".to_owned())),
        };
    }
}

impl Said {
    /// Reads `MTU SCOPE`.
    fn parse(text: &str) -> Option<Self> {
        let (mtu, word) = text.split_once(' ')?;
        let scope = Scope::WORDS.iter().find(|(known, _)| *known == word)?.1;
        Some(Self { mtu: mtu.parse().ok()?, scope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spank::Context;
    use crate::spank::testing::FakeHost;
    use std::fs;

    fn made(script: &str, host: &FakeHost) -> Result<StepNetwork, String> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("spank-vm");
        node::testing::program(&program, &format!("#!/bin/sh\n{script}\n")).unwrap();
        let args = Args { libexec: dir.path().into(), config: Some("/site.toml".into()), ..Args::default() };
        let request = VmRequest::new("a".parse().unwrap());
        StepNetwork::make(&request, &args, host).map_err(|error| error.to_string())
    }

    #[test]
    fn the_program_gets_fixed_words_and_a_clean_environment() {
        let mut host = FakeHost::new(Context::Stepd);
        host.job_env.insert("LD_PRELOAD".into(), "/evil".into());
        let script = r#"printf 'node %s|%s' "$*" "$(env | cut -d= -f1 | sort | tr '\n' ' ')" >&0"#;
        let error = made(script, &host).unwrap_err();
        assert_eq!(
            error,
            "--vm-net=job: --config /site.toml step-network --job=7 --step=0 --vms=1 --node=0 --tasks=1|PATH PWD "
        );
    }

    #[test]
    fn the_other_nodes_are_told_where_there_are_some_and_missing_words_are_an_error() {
        let mut host = FakeHost::new(Context::Stepd);
        host.nodes = 2;
        let error = made("exit 0", &host).unwrap_err();
        assert_eq!(error, "--vm-net=job: srun's variable SLURM_STEP_TASKS_PER_NODE did not arrive");
        host.job_env.insert("SLURM_STEP_TASKS_PER_NODE".into(), "1(x2)".into());
        host.job_env.insert("SLURM_STEP_NODELIST".into(), "n[1-2]".into());
        let error = made("printf 'user %s' \"$*\" >&0", &host).unwrap_err();
        assert!(error.ends_with("--node=0 --tasks=1(x2) --nodes=n[1-2]"), "{error}");
    }

    #[test]
    fn a_program_that_has_said_all_and_does_not_end_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("echo $$ >{}; printf 'ok 1500 slot' >&0; exec 0<&-; exec sleep 1000", pid.display());
        let error = made(&script, &FakeHost::new(Context::Stepd)).unwrap_err();
        assert_eq!(error, "--vm-net=job: not as many taps as VMs were made");
        let pid = fs::read_to_string(pid).unwrap();
        assert!(!std::path::Path::new("/proc").join(pid.trim()).exists());
    }

    #[test]
    fn a_program_that_dies_or_says_nonsense_is_an_error() {
        let host = FakeHost::new(Context::Stepd);
        for script in ["kill -9 $$", "exit 3", "echo hello >&0"] {
            assert_eq!(
                made(script, &host).unwrap_err(),
                "--vm-net=job: the program that makes it has failed",
                "{script}"
            );
        }
        let error = made("printf 'ok 1500 slot' >&0", &host).unwrap_err();
        assert_eq!(error, "--vm-net=job: not as many taps as VMs were made");
        for other in ["ok x", "ok 1500", "ok 1500 task", "ok x slot"] {
            assert!(made(&format!("printf '{other}' >&0"), &host).unwrap_err().ends_with("of another version"));
        }
    }
}
