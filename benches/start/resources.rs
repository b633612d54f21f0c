//! What VMs cost besides waiting time: processor time and memory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use testkit::Cluster;
use testkit::measure::as_user;

/// An anonymous mapping of this size is the memory that can be plugged into a clone.
const PLUGGABLE_KIB: u64 = 1 << 20;

/// Private memory of a QEMU process, in KiB.
#[derive(Debug, Default, Clone, Copy)]
pub struct Memory {
    /// Pages of the guest's memory that only this process has: what the guest has written since it was cloned.
    pub guest: u64,
    /// Guest code that QEMU has translated for the host's processor: only emulation has it.
    pub translated: u64,
    /// All other pages that only this process has: QEMU's own.
    pub qemu: u64,
}

/// `spank-vm run` of `n` VMs of 256 MiB as the cluster's user: without Slurm, so that everything is a child.
pub fn spank_vm_run(cluster: &Cluster, cwd: &Path, n: u32, command: &[&str]) -> Command {
    let program = cluster.dir.join("stage/libexec/spank-vm");
    let mut run = as_user(cluster, program.to_str().unwrap(), cwd);
    run.arg("--config").arg(cluster.dir.join("spank-vm.toml"));
    run.args(["run", "--image", "debian12", "--vm-mem", "256M", "--vm-cpus", "1", "--vms", &n.to_string(), "--"]);
    run.args(command);
    run
}

/// Processor time of one VM from start to end, in ms: the runner's and QEMU's, divided by the VMs.
pub fn cpu_ms_per_vm(cluster: &Cluster, cwd: &Path, n: u32) -> Option<f64> {
    let before = children_ms();
    let status = spank_vm_run(cluster, cwd, n, &["echo", "ready"]).stdout(Stdio::null()).status().unwrap();
    status.success().then(|| (children_ms() - before) / f64::from(n))
}

/// Processor time of all children that were waited for, and theirs.
fn children_ms() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3)
        .sum()
}

/// Memory of each of `n` clones whose command sleeps.
pub fn memory_of_idle_clones(cluster: &Cluster, cwd: &Path, n: u32) -> Vec<Memory> {
    let mut run = spank_vm_run(cluster, cwd, n, &["sh", "-c", "echo ready; sleep 5"]);
    let mut child = run.stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let found = children_of(child.id()).into_iter().filter_map(private_memory).collect();
    child.wait().unwrap();
    found
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|ppid| ppid.trim() == parent.to_string()))
    };
    pids.filter(is_child).collect()
}

fn private_memory(pid: u32) -> Option<Memory> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let mut memory = Memory::default();
    let (mut of_guest, mut is_code) = (false, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        if !first.ends_with(':') {
            // "ADDRESSES MODE OFFSET DEVICE INODE [PATH]"
            let mode = words.next()?;
            let path = words.nth(3).unwrap_or_default();
            is_code = mode.starts_with("rwx");
            of_guest = path.ends_with("/ram") || (path.is_empty() && size_kib(first)? >= PLUGGABLE_KIB);
        } else if first.starts_with("Private_") {
            let kib: u64 = words.next()?.parse().ok()?;
            let part = match (of_guest, is_code) {
                (true, _) => &mut memory.guest,
                (_, true) => &mut memory.translated,
                _ => &mut memory.qemu,
            };
            *part += kib;
        }
    }
    Some(memory)
}

fn size_kib(addresses: &str) -> Option<u64> {
    let (from, to) = addresses.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(to)? - number(from)?) >> 10)
}
