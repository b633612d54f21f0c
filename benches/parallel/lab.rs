//! The same under KVM in the lab: two node VMs, two kernels, vhost-net. The times say nothing of real hardware. Writes
//! `target/bench/lab-parallel.csv` and renews the second table of docs/parallel.md. `RUNS=1` is how often everything is
//! measured.

use std::fs;
use std::process::ExitCode;

use testkit::lab::Lab;
use testkit::measure::{load, setting};
use testkit::place::{output, repository};
use testkit::system;

use crate::cases::{self, Place};
use crate::table;

impl Place for Lab {
    fn sh(&self, script: &str) -> Result<String, String> {
        let ended = Self::sh(self, "ada", &format!("set -o pipefail; {script}"));
        if ended.code == 0 { Ok(ended.stdout) } else { Err(format!("{script}: {} {}", ended.code, ended.stderr)) }
    }

    fn nodes(&self) -> [(String, String); 2] {
        [1, 2].map(|number| (format!("node{number}"), format!("10.77.0.{number}")))
    }

    fn sixteen(&self) -> &'static str {
        "-N2 -n16 -O --mem=3400"
    }
}

/// Measures everything in node VMs of this release.
pub fn run(release: &str) -> ExitCode {
    let lab = match Lab::start_to_measure(release, 2) {
        Ok(lab) => lab,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    prepare(&lab);
    let runs = setting("RUNS", 1_usize).max(1);
    let before = load();
    let values = cases::measure(&lab, runs);
    let title = format!(
        "Under KVM with vhost-net, in two emulated node VMs of Debian ({release}), each with a kernel of its own; the nodes' link is a \
         socket: {runs} run; load average of the machine that emulates {before} before and {} after. Only the ratios say anything.",
        load()
    );
    table::write(&values, "lab-parallel", "<!-- make bench-lab writes from here -->\n", &title);
    ExitCode::SUCCESS
}

/// The nodes have no compiler, and no directory in common. Their Prolog's check must not be measured.
fn prepare(lab: &Lab) {
    let program = output("bench/messages");
    fs::create_dir_all(program.parent().expect("a directory")).unwrap();
    let source = repository().join("benches/parallel/messages.c");
    let [to, source] = [&program, &source].map(|path| path.to_str().unwrap());
    system(&["cc", "-O2", "-static", "-s", "-o", to, source]);
    let text = system(&["sh", "-c", &format!("gzip -9 <{to} | base64")]);
    for node in [1, 2] {
        lab.sh_on(node, "ada", &format!("base64 -d <<'END' | gunzip >messages\n{text}END\nchmod 755 messages")).ok();
        lab.sh_on(node, "root", "sed -i 's/^Prolog=/#Prolog=/' /etc/slurm/slurm.conf").ok();
    }
    lab.root("scontrol reconfigure; sleep 2");
}
