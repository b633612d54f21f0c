//! How fast the host's files are in a VM, and the same without one, in one run. Prints a table, writes
//! `target/bench/files.csv` and renews the table of docs/files.md.
//!
//! It starts VMs without Slurm, as root. `RUNS=3` is how often each is measured, `FILES=200` and `MIB=64` how much is done,
//! `CPUS=2` by a VM of how many processors.
//! `SPANK_VM_LAB_RELEASES=trixie` measures under KVM in the lab instead; its times say nothing of real hardware.

mod table;

use std::process::{Command, ExitCode};

use testkit::lab::Lab;
use testkit::measure::{load, setting};
use testkit::place::{built, output, repository};
use testkit::ran;

use table::Table;

/// What is measured, as a program of the shell.
const WORK: &str = include_str!("work.sh");

/// Puts the time before each line, in microseconds: outside the VM, whose clock may be wrong under emulation.
const CLOCK: &str = "while read -r line; do echo \"${EPOCHREALTIME/[.,]/} $line\"; done";

/// VMs at once that do the operations on names.
const MANY: usize = 8;

/// The ways to the files: from a VM and without one.
const WAYS: [&str; 2] = ["vm", "bare"];

/// Where the scripts are run: on this machine, or in a node VM.
enum Place {
    Here,
    Lab(Lab),
}

impl Place {
    fn sh(&self, script: &str) -> String {
        self.try_sh(script).unwrap_or_else(|why| panic!("{why}"))
    }

    /// What the script prints, or how it failed and what it said then.
    fn try_sh(&self, script: &str) -> Result<String, String> {
        let (code, stdout, stderr) = match self {
            Self::Here => {
                let output = Command::new("timeout").args(["1200", "bash", "-c", script]).output();
                let ended = ran(output.expect("timeout is installed"));
                (ended.code, ended.stdout, ended.stderr)
            }
            Self::Lab(lab) => {
                let ended = lab.sh("root", script);
                (ended.code, ended.stdout, ended.stderr)
            }
        };
        match code {
            0 => Ok(stdout),
            code => Err(format!("it failed with {code}: {}", stderr.trim())),
        }
    }

    /// The program, and lines of configuration that say where kit and images are.
    fn installation(&self, dir: &str) -> (String, String) {
        match self {
            Self::Here => {
                let (kit, images) = (built("kit"), built("images"));
                let places = format!(
                    "kit = {kit:?}\nimage_dirs = [{images:?}]\ntemplate_dir = '{dir}/templates'\nstate_dir = '{dir}/state'\nboot_timeout_s = 200\n"
                );
                (built("stage").join("libexec/spank-vm").display().to_string(), places)
            }
            // A template would take longer there than it saves.
            Self::Lab(_) => (
                "/usr/libexec/spank-vm/spank-vm".to_owned(),
                "accel = 'kvm'\nstart = 'boot'\nboot_timeout_s = 200\nkvm_timeout_s = 100\n".to_owned(),
            ),
        }
    }
}

fn main() -> ExitCode {
    // cargo passes --bench; a run as part of `cargo test --benches` measures nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let release = setting("SPANK_VM_LAB_RELEASES", String::new());
    let place = match release.as_str() {
        "" => Place::Here,
        release => match Lab::start_to_measure(release, 1) {
            Ok(lab) => Place::Lab(lab),
            Err(why) => {
                eprintln!("{why}");
                return ExitCode::FAILURE;
            }
        },
    };
    let title = match release.as_str() {
        "" => "software emulation".to_owned(),
        release => format!("KVM in an emulated node of {release}"),
    };
    let mut table = Table::new(title, &load());
    let is_whole = measure(&place, &mut table);
    table.load_after(&load());
    table.write_csv(&output("bench/files.csv"));
    if !is_whole {
        eprintln!("something could not be measured: docs/files.md keeps its table");
        return ExitCode::FAILURE;
    }
    table.write_document(&repository().join("docs/files.md"));
    ExitCode::SUCCESS
}

/// Measures everything, and says whether all of it could be: what fails does not take the rest with it.
fn measure(place: &Place, table: &mut Table) -> bool {
    let dir = place.sh("mktemp -d /var/tmp/spank-vm-files.XXXXXX").trim().to_owned();
    let (program, places) = place.installation(&dir);
    let config = format!("{places}allow_root = true\nshare_home = false\n");
    place.sh(&format!("mkdir -p {dir}/state {dir}/templates; cat >{dir}/vm.toml <<'END'\n{config}END"));
    // Makes the template.
    place.sh(&format!("cd /; {}", vm(&program, &dir, 1, "true")));
    place.sh(&format!("cat >{dir}/work.sh <<'END'\n{WORK}END"));
    let mut is_whole = true;
    let rounds = std::iter::repeat_n(1, setting("RUNS", 3)).chain([MANY]);
    for vms in rounds {
        // In turn, so that what else the machine does meets all of them.
        for way in WAYS {
            let run = one_run(place, &program, &dir, way, vms);
            if let Err(why) = run.and_then(|printed| table.add(way, vms, &printed)) {
                eprintln!("{way}, {vms} at once: {why}");
                is_whole = false;
            }
        }
    }
    place.sh(&format!("rm -r {dir}"));
    is_whole
}

/// What one run printed, on a fresh directory.
fn one_run(place: &Place, program: &str, dir: &str, way: &str, vms: usize) -> Result<String, String> {
    let what = if vms == 1 { "all" } else { "metadata" };
    let (files, mib) = (setting("FILES", 200_u32), setting("MIB", 64_u32));
    let work = format!("WHAT={what} FILES={files} MIB={mib} bash {dir}/work.sh");
    let run = match way {
        "bare" if vms == 1 => format!("cd {dir}/w; SLURM_VM_INDEX=0 {work}"),
        "bare" => {
            // Not `wait -n`: of two that end at once it may miss one.
            let all = format!("cd {dir}/w; for i in {{0..{}}}; do SLURM_VM_INDEX=$i {work} & all+=($!); done", vms - 1);
            format!("{all}; for one in ${{all[@]}}; do wait $one || exit; done")
        }
        _ => format!("cd /; {}", vm(program, dir, vms, &format!("bash -c 'cd {dir}/w; {work}'"))),
    };
    let each = format!("{dir}/w/{{0..{}}}", MANY - 1);
    let tree = format!(
        "mkdir -p {each}/{{tree/{{0..9}}/{{0..9}},flat}}; touch {each}/{{tree/{{0..9}}/{{0..9}}/{{0..4}},flat/{{0..999}}}}"
    );
    place.try_sh(&format!("set -o pipefail; rm -rf {dir}/w; {tree}; {{ {run}; }} | {CLOCK}"))
}

fn vm(program: &str, dir: &str, vms: usize, command: &str) -> String {
    let cpus = if vms == 1 { setting("CPUS", 2_u32) } else { 1 };
    format!(
        "{program} --config {dir}/vm.toml run --image debian12 --root --vms {vms} --vm-cpus {cpus} --mount {dir} -- {command}"
    )
}
