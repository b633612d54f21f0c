//! What the measurements have in common.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::str::FromStr;

use nix::unistd::User;

use crate::cluster::Cluster;
use crate::place::{built, repository};

/// The `main` of a measurement on a cluster whose nodes have so many MiB each. The cluster is always ended.
pub fn on_a_cluster(node_mib: u64, measure: impl FnOnce(&Cluster)) -> ExitCode {
    // cargo passes --bench; a run as part of `cargo test --benches` measures nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let cluster = match Cluster::with_memory(node_mib) {
        Ok(cluster) => cluster,
        Err(why) => {
            eprintln!("the cluster does not start: {why}");
            return ExitCode::FAILURE;
        }
    };
    measure(&cluster);
    match cluster.stop() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// A command that the cluster's user runs, without a wrapper that would itself take time.
pub fn as_user(cluster: &Cluster, program: &str, cwd: &Path) -> Command {
    let user = User::from_name(&cluster.user).unwrap().expect("the cluster's user exists");
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
    command.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name).env("SHELL", "/bin/bash");
    command.env("SLURM_CONF", cluster.slurm_conf());
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir(cwd).stdin(Stdio::null());
    command
}

/// The directory with what `tests/images/debian12-full` made, copied to where the cluster's user can read it.
pub fn full_images(cluster: &Cluster) -> PathBuf {
    let made = built("images-full");
    let copy = cluster.dir.join("images-full");
    let done = Command::new("cp").arg("-a").args([&made, &copy]).status().unwrap();
    assert!(done.success(), "{} cannot be copied: run 'make images-full'", made.display());
    copy
}

/// A copy of the script that starts VMs the paper's way, which the cluster's user can run.
pub fn paper_way(cluster: &Cluster) -> PathBuf {
    let copy = cluster.dir.join("paper-way");
    std::fs::copy(repository().join("benches/paper-way"), &copy).unwrap();
    copy
}

/// The value of an environment variable, or the default.
pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else { return default };
    text.trim().parse().unwrap_or_else(|_| panic!("{name}='{text}' is not understood"))
}

/// The value that the fraction `q` of the values does not exceed (nearest rank).
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The arithmetic mean.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The machine in a few words: processors, QEMU's version and the accelerator.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let printed = Command::new("qemu-system-x86_64").arg("--version").output().unwrap();
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let version = printed.split_whitespace().nth(3).unwrap_or("of unknown version");
    format!("{cores} cores, QEMU {version}, software emulation")
}

/// The machine's load average of the last minute.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("?").to_owned()
}

/// The line after what a measurement writes into a document.
const END: &str = "<!-- to here -->\n";

/// Puts `part` in the place of what stands in a document between the line `begin` and the next one that ends such a part.
pub fn renew(document: &Path, begin: &str, part: &str) {
    let text = fs::read_to_string(document).unwrap();
    let missing = |which: &str| format!("{} has no line {which} its table", document.display());
    let (head, rest) = text.split_once(begin).unwrap_or_else(|| panic!("{}", missing("before")));
    let (_, tail) = rest.split_once(END).unwrap_or_else(|| panic!("{}", missing("after")));
    fs::write(document, format!("{head}{begin}{part}{END}{tail}")).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_that_begins_with_the_line_is_renewed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("a\n<1>\nold\n{END}b\n<2>\nold\n{END}c\n")).unwrap();
        renew(file.path(), "<2>\n", "new\n");
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, format!("a\n<1>\nold\n{END}b\n<2>\nnew\n{END}c\n"));
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|q| quantile(&values, q)), [1.0, 2.0, 4.0, 4.0]);
        assert!((mean(&values) - 2.5).abs() < 1e-9);
    }
}
