//! `spank-vm ps`: what runs on this node.

use nix::unistd::{Uid, User};

use super::image::print;
use crate::config::Config;
use crate::state;

/// Prints one line per task that has VMs here.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let mut text = format!(
        "{:<20} {:<12} {:<16} {:>4} {:>8} {:>5}  {}\n",
        "TASK", "USER", "IMAGE", "VMS", "MIB/VM", "CPUS", "RUNNER"
    );
    for entry in state::list(&config.state_dir)? {
        let user = User::from_uid(Uid::from_raw(entry.uid)).ok().flatten();
        let user = user.map_or_else(|| entry.uid.to_string(), |user| user.name);
        match entry.status {
            Some(status) => text.push_str(&format!(
                "{:<20} {user:<12} {:<16} {:>4} {:>8} {:>5}  {}\n",
                entry.name,
                status.image,
                status.qemu_pids.len(),
                status.memory_mib,
                status.cpus,
                if entry.is_stale { "gone".to_owned() } else { status.runner_pid.to_string() }
            )),
            None => text.push_str(&format!("{:<20} {user:<12} {:<16}\n", entry.name, "?")),
        }
    }
    print(&text)
}
