//! All ways of starting side by side, in one run on one machine: bare `srun`, clones, kit boots, the paper's way,
//! and virtme-ng where it is installed. Prints a table and writes `target/bench/results.csv`.
//! `make bench RUNS=20` sets the number of runs of each case; large cases have fewer. CASES=clone,paper measures
//! only these cases and bare `srun`, CASES=clone:1,clone:64 only these numbers of VMs; further names are `plug-2GiB` and
//! `resources`.

mod resources;
mod step;
mod table;

use std::path::Path;
use std::process::ExitCode;

use resources::{cpu_ms_per_vm, memory_of_idle_clones};
use step::{Case, Run, is_installed};
use table::Table;
use testkit::Cluster;
use testkit::measure::{full_images, machine, on_a_cluster, paper_way, quantile, setting};
use testkit::place::output;

/// Memory of a node in MiB: 64 VMs of 256 MiB with what each takes beside it. Slurm only counts it; clones share most of
/// theirs.
const NODE_MIB: u64 = 64 * with_overhead(256) as u64 + 64;

/// The kernel that virtme-ng boots, with its modules in ../lib/modules; if not set, it uses the host's kernel.
const VNG_KERNEL: &str = "VNG_KERNEL";

fn main() -> ExitCode {
    let runs = setting("RUNS", 10_usize).max(2);
    on_a_cluster(NODE_MIB, |cluster| measure_all(cluster, runs))
}

fn measure_all(cluster: &Cluster, runs: usize) {
    let csv = output("bench/results.csv");
    let cwd = cluster.work_dir();
    println!("{}; every step has 2 CPUs of one node, every VM 1 CPU and 256 MiB\n", machine());
    let mut table = Table::new();
    let mut cold_boot_ms = None;
    let wanted: String = setting("CASES", String::new());
    let is_wanted = |name: &str| wanted.is_empty() || name == "bare" || wanted.split(',').any(|word| word == name);
    let is_chosen = |case: &Case| is_wanted(case.name) || is_wanted(&format!("{}:{}", case.name, case.n));
    for case in cases(cluster, runs).into_iter().filter(is_chosen) {
        let measured = measure(cluster, &cwd, &case, &mut table);
        if measured.is_empty() {
            continue;
        }
        let first: Vec<f64> = measured.iter().map(|run| run.first_line).collect();
        let last: Vec<f64> = measured.iter().map(|run| run.last_line).collect();
        if case.name == "bare" {
            table.bare_ms = Some(quantile(&first, 0.5));
        }
        if case.name == "kit-boot" && case.n == 1 {
            cold_boot_ms = Some(quantile(&first, 0.5));
        }
        table.times(case.name, case.n, "first_line", &first, true);
        if case.n > 1 {
            table.times(case.name, case.n, "last_line", &last, true);
        }
        if case.forget_templates
            && let Some(cold) = cold_boot_ms
        {
            let ratios: Vec<f64> = last.iter().map(|ms| ms / cold).collect();
            table.row(case.name, case.n, "vs_cold_boot", &ratios, "×", "");
        }
        if case.n == 1 && case.name != "first-use" {
            let total: Vec<f64> = measured.iter().map(|run| run.total).collect();
            table.times(case.name, case.n, "total", &total, false);
            phases(&mut table, &case, &measured);
        }
        table.save(&csv);
    }
    if !is_installed("vng") {
        println!(
            "virtme-ng is left out: 'vng' is not on the PATH (python3 -m pip install virtme-ng; {VNG_KERNEL}=FILE names a kernel)"
        );
    }
    cluster.configure("", "");
    if is_wanted("plug-2GiB") {
        plugged_memory(cluster, &cwd, runs.min(5), &mut table);
    }
    if is_wanted("resources") {
        resources(cluster, &cwd, &mut table);
    }
    table.save(&csv);
    println!("\nwritten to {}", csv.display());
}

fn measure(cluster: &Cluster, cwd: &Path, case: &Case, table: &mut Table) -> Vec<Run> {
    cluster.configure(case.config, "");
    if !case.forget_templates {
        // Fills caches, makes the template; not counted.
        case.measure(cluster, cwd);
    }
    let measured: Vec<Run> = (0..case.runs).filter_map(|_| case.measure(cluster, cwd)).collect();
    if measured.len() < case.runs {
        let failed = (case.runs - measured.len()) as f64;
        table.row(case.name, case.n, &format!("failed of {}", case.runs), &[failed], "", "");
    }
    measured
}

fn cases(cluster: &Cluster, runs: usize) -> Vec<Case> {
    let vm = |name, n: u32, runs| Case::new(name, n, srun_vm(n, 256, &["echo", "ready"]), runs);
    let boot = |n, runs| Case { config: "start = 'boot'\n", ..vm("kit-boot", n, runs) };
    let first_use = |n| Case { forget_templates: true, ..vm("first-use", n, runs.min(3)) };
    let mut cases = vec![Case::new("bare", 1, words(&["srun", "-Q", "-c2", "--mem=352", "echo", "ready"]), runs)];
    cases.extend([1, 2, 4, 8, 16].map(|n| vm("clone", n, runs)));
    // With what emulation really takes beside a guest of this size 64 of them fit a machine of 24 GiB.
    let many = Case { config: "memory_overhead_mib = 96\n", ..vm("clone", 64, runs * 3 / 10) };
    cases.extend([vm("clone", 32, runs / 2), many]);
    cases.extend([boot(1, runs), boot(4, runs / 2), first_use(1), first_use(4)]);
    let (images, script) = (full_images(cluster), paper_way(cluster));
    let scratch = cluster.dir.join("scratch");
    let [script, images, scratch] = [&script, &images, &scratch].map(|path| path.to_str().unwrap());
    let argv = words(&["srun", "-Q", "-c2", "--mem=512", script, images, scratch, "1", "stdio"]);
    cases.push(Case { lines: &["sum 42"], ..Case::new("paper", 1, argv, runs * 3 / 10) });
    if is_installed("vng") {
        let kernel = std::env::var(VNG_KERNEL).unwrap_or_default();
        // On a host without udev, the output only reaches the console, which --verbose shows, and the exit code is
        // lost.
        let line =
            format!("vng --verbose --disable-kvm --cpus 1 --memory 256M --run {kernel} -- echo ready 2>&1; true");
        let case = Case::new("virtme-ng", 1, words(&["sh", "-c", &line]), runs * 3 / 10);
        cases.push(Case { as_user: false, ..case });
    }
    cases
}

/// A VM's share of its task's memory in MiB: the site's defaults for `memory_overhead_mib` and what grows with the guest.
const fn with_overhead(vm_mib: u32) -> u32 {
    vm_mib + 128 + vm_mib * 5 / 1024
}

/// `srun` of a command in `n` VMs on one node.
fn srun_vm(n: u32, vm_mib: u32, command: &[&str]) -> Vec<String> {
    let mut argv = words(&["srun", "-Q", "-N1", "-n1", "-c2", "--vm-image=debian12", "--vm-cpus=1"]);
    argv.extend([
        format!("--vms-per-slot={n}"),
        format!("--vm-mem={vm_mib}"),
        format!("--mem={}", n * with_overhead(vm_mib)),
    ]);
    argv.extend(words(command));
    argv
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// How long each phase of the runner's first VM took.
fn phases(table: &mut Table, case: &Case, measured: &[Run]) {
    for (number, (phase, _)) in measured[0].phases.iter().enumerate() {
        let values: Vec<f64> = measured.iter().filter_map(|run| run.phases.get(number)).map(|(_, ms)| *ms).collect();
        table.times(case.name, case.n, &format!("phase:{phase}"), &values, false);
    }
}

/// How long it takes until a clone has 2 GiB more than its template, and how much that delays its command.
fn plugged_memory(cluster: &Cluster, cwd: &Path, runs: usize, table: &mut Table) {
    // A VM of 256 MiB has less than 256000 kB of memory. So this much is reached when all but a few blocks have
    // arrived.
    let script =
        "echo ready; while read -r _ kb _ </proc/meminfo && [ $kb -lt 2200000 ]; do sleep 0.01; done; echo plugged";
    let case = |vm_mib| {
        let script = if vm_mib == 256 { "echo ready; echo plugged" } else { script };
        let argv = srun_vm(1, vm_mib, &["bash", "-c", script]);
        Case { lines: &["ready", "plugged"], ..Case::new("plug-2GiB", 1, argv, runs) }
    };
    let small = measure(cluster, cwd, &case(256), table);
    let large = measure(cluster, cwd, &case(256 + 2048), table);
    if small.is_empty() || large.is_empty() {
        return;
    }
    let first = |runs: &[Run]| quantile(&runs.iter().map(|run| run.first_line).collect::<Vec<_>>(), 0.5);
    table.row("plug-2GiB", 1, "delay_of_command", &[first(&large) - first(&small)], "ms", "");
    let plugged: Vec<f64> = large.iter().map(|run| run.last_line - run.first_line).collect();
    table.times("plug-2GiB", 1, "until_plugged", &plugged, false);
}

/// Processor time and memory, measured with VMs that run without Slurm.
fn resources(cluster: &Cluster, cwd: &Path, table: &mut Table) {
    // The template may be another one than that of a step.
    cpu_ms_per_vm(cluster, cwd, 1);
    for n in [1, 8, 64] {
        let times = if n == 64 { 1 } else { 3 };
        let ms: Vec<f64> = (0..times).filter_map(|_| cpu_ms_per_vm(cluster, cwd, n)).collect();
        table.times("clone", n, "cpu_per_vm", &ms, false);
    }
    let clones = memory_of_idle_clones(cluster, cwd, 4);
    let mib =
        |of: fn(&resources::Memory) -> u64| clones.iter().map(|memory| of(memory) as f64 / 1024.0).collect::<Vec<_>>();
    table.row("clone", 4, "private_memory", &mib(|memory| memory.guest + memory.translated + memory.qemu), "MiB", "");
    table.row("clone", 4, "private_of_guest", &mib(|memory| memory.guest), "MiB", "");
    table.row("clone", 4, "private_translated", &mib(|memory| memory.translated), "MiB", "");
    table.row("clone", 4, "private_of_qemu", &mib(|memory| memory.qemu), "MiB", "");
    cluster.configure("start = 'boot'\n", "");
    let ms: Vec<f64> = (0..3).filter_map(|_| cpu_ms_per_vm(cluster, cwd, 1)).collect();
    table.times("kit-boot", 1, "cpu_per_vm", &ms, false);
    cluster.configure("", "");
}
