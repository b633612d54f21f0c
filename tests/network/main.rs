//! The step's own network (`--vm-net=job`) on a real Slurm whose nodes have networks of their own, in a network
//! namespace that is gone with this process.

mod faults;
mod forged;
mod hosts;
mod making;
mod reach;
mod whole;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use testkit::cluster::OWN_NETWORKS;
use testkit::suite::{self, Cases, Length, Plain, PlainCase as Case};

const CASES: &[&[Case]] = &[reach::CASES, forged::CASES, whole::CASES, faults::CASES, making::CASES, hosts::CASES];

fn main() -> ExitCode {
    if std::env::var_os(OWN_NETWORKS).is_none() {
        // Everything is started from there, and nothing of the machine's network is touched.
        let program = std::env::current_exe().expect("this program");
        let mut inside = Command::new("unshare");
        inside.arg("--net").arg(program).args(std::env::args_os().skip(1)).env(OWN_NETWORKS, "1");
        let error = inside.exec();
        eprintln!("unshare: {error}");
        return ExitCode::FAILURE;
    }
    suite::main::<Plain<Networks>>()
}

struct Networks;

impl Cases for Networks {
    const NAME: &'static str = "network";

    fn cases(length: Length) -> Vec<Case> {
        match length {
            Length::Short => CASES.concat(),
            Length::Long => [hosts::LONG_CASES, making::LONG_CASES].concat(),
        }
    }
}
