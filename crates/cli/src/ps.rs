//! `spank-vm ps`: what runs on this node.

use nix::unistd::{Uid, User};

use super::output::print;
use node::status::{self, Status};
use node::text::printable;
use runner::config::Config;

/// Prints one line per task that has VMs here.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let mut text = line("TASK", "USER", "IMAGE", "VMS", "RESIDENT", "RUNNER");
    for entry in status::list(&config.state_dir)? {
        text.push_str(&match entry.status {
            Some(status) => of_task(&entry.name, &status),
            None => line(&entry.name, "?", "?", "", "", ""),
        });
    }
    print(&text)
}

/// Running VMs and requested VMs: they differ while a template is being made. A leftover of a killed slurmstepd has
/// no runner any more; the epilog of the job or the next start of slurmd removes it.
fn of_task(name: &str, status: &Status) -> String {
    let user = User::from_uid(Uid::from_raw(status.uid)).ok().flatten();
    let user = user.map_or_else(|| status.uid.to_string(), |user| user.name);
    let running = status::running(status);
    let vms = format!("{}/{}", running.vms, status.vms);
    let resident = format!("{} MiB", running.resident_mib);
    let runner = if status.runner.is_alive() { status.runner.pid.to_string() } else { "gone".to_owned() };
    line(name, &user, &status.image, &vms, &resident, &runner)
}

fn line(task: &str, user: &str, image: &str, vms: &str, resident: &str, runner: &str) -> String {
    let [task, user, image] = [task, user, image].map(printable);
    format!("{task:<20} {user:<12} {image:<16} {vms:>5} {resident:>9}  {runner}\n")
}
