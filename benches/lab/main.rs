//! How long VMs take to start under KVM in the lab, as ratios to a bare step there. The times say nothing about real
//! hardware.
//!
//! Writes `target/bench/lab.csv`, and renews the table in docs/lab.md. `RUNS=5` is how often each way is measured,
//! `SPANK_VM_LAB_RELEASES="bookworm trixie"` in which releases. `CASES="clone,kit boot"` measures only these ways and bare
//! `srun`.

mod table;

use std::path::Path;
use std::process::ExitCode;

use testkit::lab::Lab;
use testkit::measure::load;

use table::Sample;

/// A way to start: its name, the line of the site's configuration that it needs, options, and how many VMs.
type Way = (&'static str, &'static str, &'static str, u32);

const WAYS: &[Way] = &[
    ("bare `srun`", "", "--mem=500", 0),
    ("clone", "", "--mem=500 --vm-image=tiny", 1),
    ("4 clones in one slot, the last", "", "--mem=1600 --vm-image=tiny --vms-per-slot=4", 4),
    ("8 clones in one slot, the last", "", "--mem=3200 --vm-image=tiny --vms-per-slot=8", 8),
    ("kit boot", "start = \"boot\"", "--mem=500 --vm-image=tiny", 1),
];

fn main() -> ExitCode {
    // cargo passes --bench; a run as part of `cargo test --benches` measures nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let runs: u32 = std::env::var("RUNS").map_or(5, |text| text.parse().expect("RUNS is a number"));
    let releases = std::env::var("SPANK_VM_LAB_RELEASES").unwrap_or_else(|_| "bookworm trixie".to_owned());
    let load = load();
    let mut samples = Vec::new();
    for release in releases.split_whitespace() {
        match Lab::start_to_measure(release, 1) {
            Ok(lab) => samples.extend(measure(&lab, release, runs)),
            Err(why) => {
                eprintln!("{why}");
                return ExitCode::FAILURE;
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    table::write_csv(&root.join("target/bench/lab.csv"), &samples, &load);
    table::write_table(&root.join("docs/lab.md"), &samples, &load);
    ExitCode::SUCCESS
}

fn measure(lab: &Lab, release: &str, runs: u32) -> Vec<Sample> {
    // The Prolog's check of the node must not be measured, and templates exist already.
    lab.root("sed -i 's/^Prolog=/#Prolog=/' /etc/slurm/slurm.conf; scontrol reconfigure; sleep 2");
    lab.sh("ada", "srun --mem=500 --vm-image=tiny true").ok();
    lab.root("mount -o remount,mode=755 /sys/kernel/debug");
    let mut samples = Vec::new();
    let wanted = std::env::var("CASES").unwrap_or_default();
    let is_wanted = |way: &str| wanted.is_empty() || wanted.split(',').any(|word| word == way);
    for (way, config, options, vms) in WAYS.iter().filter(|way| way.3 == 0 || is_wanted(way.0)) {
        lab.root(&format!("cp /etc/slurm/spank-vm.toml /root/; echo '{config}' >>/etc/slurm/spank-vm.toml"));
        for _ in 0..runs {
            samples.push(once(lab, release, way, options, *vms));
        }
        lab.root("mv /root/spank-vm.toml /etc/slurm/");
    }
    samples
}

/// One start: the time until the last VM's first line, and how often guests were left by then. The kernel counts that for
/// VMs that are alive, so it is read while their commands sleep.
fn once(lab: &Lab, release: &str, way: &'static str, options: &str, vms: u32) -> Sample {
    let lines = vms.max(1);
    let step = lab.sh(
        "ada",
        &format!(
            "export SPANK_VM_TIMING=1; began=$(date +%s%N); srun {options} sh -c 'echo here; sleep 1' | \
             {{ for line in $(seq {lines}); do read -r line; done; \
                echo $((($(date +%s%N) - began) / 1000000)) $(cat /sys/kernel/debug/kvm/exits); }}"
        ),
    );
    let phases = step.stderr.lines().find_map(|line| line.split_once("timing: vm=0 ")).map(|(_, phases)| phases);
    let phases = phases.unwrap_or_default().to_owned();
    let seen = step.ok();
    let (ms, exits) = seen.trim().split_once(' ').expect("two numbers");
    let number = |text: &str| text.parse().expect("a number");
    Sample { release: release.to_owned(), way, vms, ms: number(ms), exits: number(exits), phases }
}
