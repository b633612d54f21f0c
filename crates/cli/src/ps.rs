//! `spank-vm ps`: what runs on this node.

use std::time::SystemTime;

use nix::unistd::{Uid, User};

use super::output::print;
use node::progress::{self, Progress};
use node::status::{self, Entry, Status};
use node::text::printable;
use runner::config::Config;

/// One line of the list.
struct Line([String; 10]);

/// What the lines add up to.
#[derive(Default)]
struct Total {
    tasks: usize,
    vms: u32,
    running: usize,
    memory_mib: u64,
    cpus: u64,
    resident_mib: u64,
}

/// Prints one line per task that has VMs here, and a line with their sums.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let heads = ["TASK", "USER", "IMAGE", "PHASE", "AGE", "VMS", "MEMORY", "CPUS", "RESIDENT", "RUNNER"];
    let mut text = Line(heads.map(str::to_owned)).text();
    let mut total = Total::default();
    for entry in status::list(&config.state_dir)? {
        text.push_str(&line(&entry, &mut total).text());
    }
    text.push_str(&total.line().text());
    print(&text)
}

impl Total {
    fn line(&self) -> Line {
        let Self { tasks, vms, running, memory_mib, cpus, resident_mib } = self;
        let mut line = Line(std::array::from_fn(|_| String::new()));
        line.0[0] = format!("total: {tasks}");
        line.0[5] = format!("{running}/{vms}");
        line.0[6] = format!("{memory_mib} MiB");
        line.0[7] = cpus.to_string();
        line.0[8] = format!("{resident_mib} MiB");
        line
    }
}

fn line(entry: &Entry, total: &mut Total) -> Line {
    let age = entry.since.and_then(|since| SystemTime::now().duration_since(since).ok());
    let age = age.map_or_else(|| "?".to_owned(), |age| duration(age.as_secs()));
    total.tasks += 1;
    let unknown = || "?".to_owned();
    match &entry.status {
        Some(status) => of_task(&entry.name, status, age, total),
        None => {
            let mut line = Line(std::array::from_fn(|_| unknown()));
            line.0[0] = entry.name.clone();
            line.0[4] = age;
            line
        }
    }
}

/// Running VMs and requested VMs: they differ while a template is being made. A leftover of a killed slurmstepd has
/// no runner any more; the epilog of the job or the next start of slurmd removes it.
fn of_task(name: &str, status: &Status, age: String, total: &mut Total) -> Line {
    let user = User::from_uid(Uid::from_raw(status.uid)).ok().flatten();
    let user = user.map_or_else(|| status.uid.to_string(), |user| user.name);
    let alive = status.runner.is_alive();
    let running = status::running(status);
    // Only root and the task's own user can read it.
    let said = alive.then(|| progress::of(status.runner.pid)).flatten();
    let (phase, memory, cpus) = match said {
        Some(Progress { phase, memory_mib, cpus }) if memory_mib > 0 => {
            let (memory_mib, cpus) =
                (memory_mib.saturating_mul(status.vms.into()), u64::from(cpus).saturating_mul(status.vms.into()));
            total.memory_mib = total.memory_mib.saturating_add(memory_mib);
            total.cpus = total.cpus.saturating_add(cpus);
            (phase.word(), format!("{memory_mib} MiB"), cpus.to_string())
        }
        Some(Progress { phase, .. }) => (phase.word(), "?".to_owned(), "?".to_owned()),
        None => (if alive { "?" } else { "-" }, "?".to_owned(), "?".to_owned()),
    };
    total.vms += status.vms;
    total.running += running.vms;
    total.resident_mib += running.resident_mib;
    let runner = if alive { status.runner.pid.to_string() } else { "gone".to_owned() };
    let vms = format!("{}/{}", running.vms, status.vms);
    let resident = format!("{} MiB", running.resident_mib);
    Line([name.to_owned(), user, status.image.clone(), phase.to_owned(), age, vms, memory, cpus, resident, runner])
}

impl Line {
    fn text(&self) -> String {
        let [task, user, image, phase, age, vms, memory, cpus, resident, runner] =
            self.0.each_ref().map(|cell| printable(cell));
        format!(
            "{task:<16} {user:<12} {image:<16} {phase:<8} {age:>9} {vms:>5} {memory:>10} {cpus:>4} {resident:>9}  {runner}\n"
        )
    }
}

/// As Slurm writes it: `1-02:03:04`, `02:03:04`, `03:04`.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes, seconds) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{seconds:02}"),
        (0, _) => format!("{hours:02}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}-{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::process::Process;

    #[test]
    fn ages_are_written_as_slurm_writes_them() {
        assert_eq!([59, 3600, 90061].map(duration), ["00:59", "01:00:00", "1-01:01:01"]);
    }

    #[test]
    fn a_task_whose_runner_says_nothing_is_listed_without_phase_and_size() {
        let status = Status { image: "tiny".into(), vms: 2, uid: u32::MAX - 7, runner: Process::this().unwrap() };
        let mut total = Total::default();
        let line = of_task("7.0.0", &status, "00:01".into(), &mut total).text();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..8], ["7.0.0", "4294967288", "tiny", "?", "00:01", "0/2", "?", "?"], "{line}");
        let sums = total.line().text();
        let words: Vec<&str> = sums.split_whitespace().collect();
        assert_eq!(words, ["total:", "0", "0/2", "0", "MiB", "0", "0", "MiB"], "{sums}");
    }
}
