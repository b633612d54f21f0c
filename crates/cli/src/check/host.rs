//! The machine: its kernel, control groups, modules and clock.

use std::fs;
use std::time::SystemTime;

use super::ask::output;
use super::finding::Finding;
use super::slurm::{self, Settings};

/// The oldest kernel that spank-vm is meant for: that of RHEL 8.
const OLDEST_KERNEL: (u32, u32) = (4, 18);

/// The kernel's age.
pub(super) fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    match kernel_number(&release) {
        Some(number) if number >= OLDEST_KERNEL => Finding::good(format!("Linux {release}")),
        Some(_) => Finding::limited(format!("Linux {release}: 4.18 or newer is what spank-vm is meant for"))
            .remedy("update the system of this node"),
        None => Finding::limited(format!("the kernel calls itself '{release}'")),
    }
}

fn kernel_number(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(|word| word.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Which control groups there are, and whether Slurm uses them.
pub(super) fn cgroups(settings: &Settings) -> Finding {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Some(version) = cgroup_version(&mounts) else {
        return Finding::limited("no control groups are mounted: nothing holds VMs to their task's memory")
            .remedy("mount cgroup v2 at /sys/fs/cgroup, as systemd does");
    };
    match slurm::confines(settings) {
        Some(true) => Finding::good(format!("{version}, and Slurm holds tasks to their memory")),
        Some(false) => Finding::limited(format!("{version}, but Slurm does not hold tasks to their memory"))
            .remedy("TaskPlugin=task/cgroup in slurm.conf, ConstrainRAMSpace=yes in cgroup.conf"),
        None => Finding::good(format!("{version}; whether Slurm uses it is not known")),
    }
}

/// What `/proc/self/mounts` says.
fn cgroup_version(mounts: &str) -> Option<&'static str> {
    let mounted = |dir: &str, kind: &str| {
        mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|words| words.get(1) == Some(&dir) && words.get(2) == Some(&kind))
    };
    if let Some(words) = mounted("/sys/fs/cgroup", "cgroup2") {
        let quick = words.get(3).is_some_and(|options| options.split(',').any(|option| option == "favordynmods"));
        return Some(if quick { "cgroup v2 with favordynmods" } else { "cgroup v2" });
    }
    mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup")).then_some("cgroup v1")
}

/// Whether the file server may reach the memory of its QEMU.
pub(super) fn files() -> Finding {
    // Without Yama there is no such file.
    judge_ptrace(&read("/proc/sys/kernel/yama/ptrace_scope"))
}

/// `scope` as in the kernel's documentation of Yama: 1 lets a process say who may, which QEMU does.
fn judge_ptrace(scope: &str) -> Finding {
    match scope {
        "2" | "3" => Finding::limited(format!(
            "kernel.yama.ptrace_scope is {scope}: the file server may not reach QEMU's memory, so long data go through QEMU, piece by \
             piece"
        ))
        .remedy("kernel.yama.ptrace_scope = 1 in /etc/sysctl.d; 3 lasts until the node boots"),
        _ => Finding::good("the file server reaches the memory of its VM"),
    }
}

/// The modules that KVM needs.
pub(super) fn modules() -> Finding {
    let loaded: Vec<&str> = ["kvm", "kvm_intel", "kvm_amd"]
        .into_iter()
        .filter(|name| fs::metadata(format!("/sys/module/{name}")).is_ok())
        .collect();
    if loaded.len() < 2 && fs::metadata("/dev/kvm").is_ok() {
        return Finding::good("KVM is built into the kernel");
    }
    if loaded.len() < 2 {
        return Finding::limited("no module of KVM is loaded: guests are emulated")
            .remedy("'modprobe kvm_intel' or 'modprobe kvm_amd' loads it, or says why not");
    }
    let pages = read("/sys/module/kvm/parameters/nx_huge_pages");
    let note = if ["Y", "force"].contains(&pages.as_str()) {
        "; kvm.nx_huge_pages is on and costs each start up to 0.1 s where the processor needs it"
    } else {
        ""
    };
    Finding::good(format!("{}{note}", loaded.join(", ")))
}

/// The clock that guests get.
pub(super) fn clock() -> Finding {
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    // This program cannot be newer than today.
    let made = std::env::current_exe().and_then(fs::metadata).and_then(|meta| meta.modified()).ok();
    if made.is_some_and(|made| SystemTime::now() < made) {
        return Finding::limited("the clock is behind: this program's file is newer than now")
            .remedy("set the clock, and let chrony or systemd-timesyncd keep it");
    }
    let synchronised = output("timedatectl", &["show", "-p", "NTPSynchronized", "--value"]).unwrap_or_default();
    judge_clock(&source, synchronised.trim())
}

fn judge_clock(source: &str, synchronised: &str) -> Finding {
    match (source, synchronised) {
        (_, "no") => {
            Finding::limited(format!("{source}, but nothing keeps the clock right: nodes differ, and guests with them"))
                .remedy("run chrony or systemd-timesyncd")
        }
        ("tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page", _) => Finding::good(source),
        _ => Finding::limited(format!("{source}: each look at the clock costs guests microseconds under KVM"))
            .remedy("dmesg says why the kernel does not trust the processor's counter (tsc)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::State;

    #[test]
    fn kernels_of_all_distributions_are_understood() {
        let old = |release: &str| kernel_number(release).map(|number| number < OLDEST_KERNEL);
        assert_eq!(old("4.18.0-553.el8_10.x86_64"), Some(false));
        assert_eq!(old("6.1.0-28-amd64"), Some(false));
        assert_eq!(old("3.10.0-1160.el7.x86_64"), Some(true));
        assert_eq!(old("unknown"), None);
    }

    #[test]
    fn control_groups_are_told_apart() {
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(cgroup_version(v2), Some("cgroup v2"));
        assert_eq!(cgroup_version(&v2.replace("nosuid", "favordynmods")), Some("cgroup v2 with favordynmods"));
        let v1 = "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        assert_eq!(cgroup_version(&format!("{v1}{}", v2.replace("group ", "group/unified "))), Some("cgroup v1"));
        assert_eq!(cgroup_version("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn a_system_that_lets_no_process_reach_another_s_memory_is_named() {
        for (scope, state) in [("", State::Ok), ("0", State::Ok), ("1", State::Ok), ("2", State::Limited)] {
            assert_eq!(judge_ptrace(scope).state, state, "{scope}");
        }
        assert!(judge_ptrace("3").found.starts_with("kernel.yama.ptrace_scope is 3: "));
    }

    #[test]
    fn a_clock_that_nothing_keeps_and_one_that_is_slow_are_named() {
        assert_eq!(judge_clock("tsc", "yes").state, State::Ok);
        assert_eq!(judge_clock("tsc", "").state, State::Ok, "without systemd it is not known");
        assert_eq!(judge_clock("tsc", "no").state, State::Limited);
        assert!(judge_clock("hpet", "yes").found.starts_with("hpet: "));
    }
}
