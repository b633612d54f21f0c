//! The process of root's that makes a node's part of a step's network; the plugin starts it in slurmstepd.
//!
//! Its words are checked as if they were a stranger's: those about the other nodes come from the job's environment,
//! which its user controls. What a user can bring about with them stays within the step: the network's number is made
//! from the job's and the step's, which slurmstepd knows from Slurm, and addresses come from the controller alone, for
//! names of its nodes.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::alarm;

use network::NetworkError;
use network::make::{Made, Part, make};
use network::plan::{Has, check_size, tasks_per_node};
use node::child::{KILLED_ENDS_WITHIN, end};
use request::{Network, Scope, VmOption, VmScope};
use runner::config::Config;

/// Where Slurm's commands are.
const BIN_DIRS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/opt/slurm/bin", "/usr/local/slurm/bin"];

/// Seconds that this process may take.
const MOST_S: u32 = 60;

/// Longest list of nodes.
const LIST_MOST: usize = 64 << 10;

/// Most bytes that are read of what Slurm says of nodes: 32 KiB for each.
const SAID_MOST: usize = 16 << 20;

/// Make a node's part of a step's network; started by the plugin
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The job's number
    #[arg(long)]
    job: u32,
    /// The step's number
    #[arg(long)]
    step: u32,
    /// VMs of each task
    #[arg(long)]
    vms: u32,
    /// What has a VM; not given where the site decides
    #[arg(long, value_parser = |text: &str| VmScope::parse(text))]
    scope: Option<Scope>,
    /// Tasks on each node, in Slurm's short form
    #[arg(long)]
    tasks: String,
    /// Number of this node among them
    #[arg(long)]
    node: usize,
    /// The nodes, in Slurm's short form; not needed for one node
    #[arg(long)]
    nodes: Option<String>,
}

/// Makes it and hands it over the socket that is this process's stdin, as `ok MTU SCOPE` with the taps and then the guard, or as
/// `user TEXT` or `node TEXT`.
pub fn run(config: Result<Config, String>, arguments: &Arguments) -> anyhow::Result<()> {
    // Slurmstepd waits for this process, and the controller may hang: then it ends by a signal.
    alarm::set(MOST_S);
    let prepared = config.map_err(NetworkError::new).and_then(|config| prepare(&config, arguments));
    let made = prepared.and_then(|(part, scope)| Ok((make(&part)?, scope)));
    let socket = io::stdin();
    match made {
        Ok((Made { taps, guard, mtu }, scope)) => {
            let fds: Vec<i32> = taps.iter().chain(&guard).map(AsRawFd::as_raw_fd).collect();
            node::pass::send(socket.as_fd(), &format!("ok {mtu} {}", scope.word()), &fds)?;
        }
        Err(error) => {
            let blame = if error.is_users() { "user" } else { "node" };
            let text: String = error.to_string().chars().take(800).collect();
            node::pass::send(socket.as_fd(), &format!("{blame} {text}"), &[])?;
        }
    }
    Ok(())
}

fn prepare(config: &Config, arguments: &Arguments) -> Result<(Part, Scope), NetworkError> {
    if !config.allowed_networks.contains(&Network::Job) {
        return Err(NetworkError::user("--vm-net=job: this site does not allow it ('allowed_networks')"));
    }
    let tasks = tasks_per_node(&arguments.tasks)?;
    let scope = scope(arguments.scope.unwrap_or(config.vm_scope), &tasks);
    let has = if scope == Scope::Node { Has::Node } else { Has::Task(arguments.vms) };
    check_size(&tasks, has, config.job_network)?;
    if arguments.node >= tasks.len() {
        return Err(NetworkError::new("Slurm does not say which node of the step this is"));
    }
    let addresses = match tasks.len() {
        1 => Vec::new(),
        _ => addresses(arguments.nodes.as_deref().unwrap_or_default(), tasks.len())?,
    };
    let part = Part {
        job: arguments.job,
        step: arguments.step,
        vms: tasks.iter().map(|&tasks| has.vms(tasks)).collect(),
        node: arguments.node,
        addresses,
        port: config.job_network_port,
        range: config.job_network,
    };
    Ok((part, scope))
}

/// A step without two tasks on one node is the same with both values: each VM has the name and the address of its task.
fn scope(wanted: Scope, tasks: &[u32]) -> Scope {
    if tasks.iter().all(|&tasks| tasks < 2) { Scope::Slot } else { wanted }
}

/// The addresses of the nodes, in their order in the list.
fn addresses(list: &str, count: usize) -> Result<Vec<Ipv4Addr>, NetworkError> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "[]-_.,".contains(c);
    if list.is_empty() || list.len() > LIST_MOST || !list.chars().all(is_name) || list.starts_with('-') {
        return Err(NetworkError::new("Slurm does not say which nodes the step has"));
    }
    let names = scontrol(&["show", "hostnames", list])?;
    let names: Vec<&str> = names.lines().collect();
    if names.len() != count {
        return Err(NetworkError::new(format!("the step has {count} nodes, and '{list:.60}' are {}", names.len())));
    }
    let nodes = scontrol(&["--oneliner", "show", "node", list])?;
    names.iter().map(|name| address_of(name, &nodes)).collect()
}

/// The address of a node in what the controller says of nodes, one on a line.
fn address_of(name: &str, nodes: &str) -> Result<Ipv4Addr, NetworkError> {
    let is_this = |line: &&str| word(line, "NodeName=") == Some(name);
    let found = nodes.lines().find(is_this).and_then(|line| word(line, "NodeAddr="));
    let address = found.ok_or_else(|| NetworkError::new(format!("the controller knows no address of node {name}")))?;
    let all = (address, 0).to_socket_addrs().map_err(|error| {
        NetworkError::new(format!("the address of node {name}, '{address}' (NodeAddr), is not known here: {error}"))
    })?;
    let v4 = all.into_iter().find_map(|found| match found.ip() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    v4.ok_or_else(|| {
        NetworkError::new(format!(
            "node {name}, '{address}' (NodeAddr), has no IPv4 address, which tunnels between nodes need"
        ))
    })
}

/// The value of `KEY=value` among the words of a line.
fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key))
}

fn scontrol(words: &[&str]) -> Result<String, NetworkError> {
    let program = BIN_DIRS.iter().map(|dir| Path::new(dir).join("scontrol")).find(|path| path.exists());
    let program = program.ok_or_else(|| NetworkError::new(format!("no scontrol in {}", BIN_DIRS.join(", "))))?;
    let mut command = Command::new(program);
    command.args(words).env_clear().stdin(Stdio::null());
    if let Some(conf) = std::env::var_os("SLURM_CONF") {
        command.env("SLURM_CONF", conf);
    }
    let said = said_by(&mut command, SAID_MOST).map_err(|error| NetworkError::new(format!("scontrol: {error}")))?;
    said.map_err(|why| NetworkError::new(format!("scontrol does not tell the addresses of the nodes: {why}")))
}

/// What a program prints, at most so many bytes; the inner error is its first line on stderr. A forged list of a few kilobytes
/// can stand for hundreds of millions of names, and this process has no limit of memory.
fn said_by(command: &mut Command, most: usize) -> io::Result<Result<String, String>> {
    // The alarm ends this process alone.
    let mut child = network::ends_with_this_thread(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (mut said, mut complaint) = (Vec::new(), Vec::new());
    let limit = most as u64 + 1;
    let read = child.stdout.take().map_or(Ok(0), |stdout| stdout.take(limit).read_to_end(&mut said));
    if said.len() > most || read.is_err() {
        end(&mut child, KILLED_ENDS_WITHIN);
        read?;
        return Err(io::Error::other(format!("it says more than {most} bytes")));
    }
    child.stderr.take().map_or(Ok(0), |stderr| stderr.take(limit).read_to_end(&mut complaint))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(match child.wait()?.success() {
        true => Ok(text(&said)),
        false => Err(text(&complaint).lines().next().unwrap_or_default().to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "NodeName=n1 Arch=x86_64 CoresPerSocket=1 NodeAddr=10.77.0.1 NodeHostName=h Version=22.05\n\
                         NodeName=n10 NodeAddr=10.77.0.10 NodeHostName=h\n";

    #[test]
    fn a_node_has_the_address_that_the_controller_knows() {
        assert_eq!(address_of("n1", NODES).unwrap(), Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(address_of("n10", NODES).unwrap(), Ipv4Addr::new(10, 77, 0, 10));
        assert!(address_of("n2", NODES).unwrap_err().to_string().contains("no address of node n2"));
        let v6 = address_of("n1", "NodeName=n1 NodeAddr=::1\n").unwrap_err().to_string();
        assert!(v6.contains("has no IPv4 address"), "{v6}");
    }

    #[test]
    fn a_node_has_one_vm_only_if_some_node_has_several_tasks() {
        assert_eq!(scope(Scope::Node, &[1, 2]), Scope::Node);
        assert_eq!((scope(Scope::Node, &[1, 1]), scope(Scope::Slot, &[1, 2])), (Scope::Slot, Scope::Slot));
    }

    #[test]
    fn a_list_that_a_user_has_forged_is_not_given_to_slurm() {
        for bad in ["", "n1;reboot", "--help", "n1 n2", "n1\nn2", &"n".repeat(LIST_MOST + 1)] {
            let error = addresses(bad, 2).unwrap_err().to_string();
            assert_eq!(error, "Slurm does not say which nodes the step has", "{bad:.20}");
        }
    }

    #[test]
    fn a_program_that_says_more_than_it_may_is_ended() {
        let said = |script: &str| said_by(Command::new("sh").args(["-c", script]), 1000);
        assert_eq!(said("printf 'n1\\nn2\\n'").unwrap(), Ok("n1\nn2\n".to_owned()));
        assert_eq!(said("echo no such node >&2; exit 1").unwrap(), Err("no such node".to_owned()));
        assert_eq!(said("exec yes n1").unwrap_err().to_string(), "it says more than 1000 bytes");
    }
}
