//! In slurmd and its epilog: removes leftovers of processes that were killed before their own cleanup
//! (`node::sweep`).
//!
//! A task's directory is left over when its slurmstepd was killed or the node went down; a draft of a template or of
//! an image's copy, and its lock, when its runner was killed. The epilog sweeps its job's directories, its user's
//! shelves and one other user's; slurmd sweeps everything when it starts. Nothing here ever fails a hook: a failing
//! epilog drains the node.

use super::args::Args;
use super::plugin::Plugin;
use crate::spank::{Host, Level};
use node::shelf::{ImageCopy, TemplateDir};
use node::sweep::{self, Bounds, Swept, Which};
use node::{layout, text};
use std::path::Path;
use std::time::Duration;

/// Longest time that a sweep may delay the start of slurmd or an epilog.
const PATIENCE: Duration = Duration::from_secs(3);

/// Largest number of files that it looks at.
const ENTRIES: usize = 50_000;

/// slurmd starts: jobs from before the last start of this node need nothing any more.
pub fn at_start(plugin: &Plugin, host: &dyn Host) {
    let Ok(args) = &plugin.args else { return };
    let mut bounds = Bounds::new(PATIENCE, ENTRIES);
    report(host, &args.state_dir, sweep::tasks(&args.state_dir, None, &mut bounds));
    caches(args, host, Which::All, &mut bounds);
}

/// A job has left the node.
pub fn after_job(plugin: &Plugin, host: &dyn Host) {
    let Ok(args) = &plugin.args else { return };
    let mut bounds = Bounds::new(PATIENCE, ENTRIES);
    match host.job_id() {
        Ok(job) => report(host, &args.state_dir, sweep::tasks(&args.state_dir, Some(job), &mut bounds)),
        Err(error) => host.log(Level::Admin, &format!("not swept: {error}")),
    }
    if let Ok((uid, _)) = host.owner() {
        caches(args, host, Which::User(uid), &mut bounds);
    }
}

fn caches(args: &Args, host: &dyn Host, which: Which, bounds: &mut Bounds) {
    report(host, &args.template_dir, sweep::cache::<TemplateDir>(&args.template_dir, which, bounds));
    let images = layout::on_node(&args.image_cache_dir, &layout::node_name(slurm_name()));
    report(host, &images, sweep::cache::<ImageCopy>(&images, which, bounds));
}

fn report(host: &dyn Host, dir: &Path, swept: Swept) {
    let dir = dir.display();
    if swept.removed > 0 {
        host.log(Level::Admin, &format!("removed {} left over in {dir}", swept.removed));
    }
    if swept.is_unfinished {
        host.log(Level::Admin, &format!("not all swept in {dir}: the next sweep goes on"));
    }
    if let Some(error) = swept.error {
        host.log(Level::Warning, &text::printable(&format!("not all swept in {dir}: {error}")));
    }
}

/// This node's name in Slurm: an epilog gets it from Slurm, slurmd has it in its command line where several run on
/// one machine (`slurmd -N NAME`).
fn slurm_name() -> Option<String> {
    let told = std::env::var("SLURMD_NODENAME").ok();
    told.or_else(|| name_in(&std::fs::read("/proc/self/cmdline").ok()?))
}

/// The name in a command line of slurmd, whose words end with NUL.
fn name_in(command_line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(command_line);
    let mut words = text.split('\0').skip(1);
    while let Some(word) = words.next() {
        let is_flags = word.starts_with('-') && !word.starts_with("--");
        if let Some((_, rest)) = word.split_once('N').filter(|_| is_flags) {
            return if rest.is_empty() { words.next().map(str::to_owned) } else { Some(rest.to_owned()) };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_in_slurmd_s_command_line() {
        let name = |words: &[&str]| name_in(&words.join("\0").into_bytes());
        assert_eq!(name(&["/usr/sbin/SlurmN", "-D", "-N", "n1", "-v"]).as_deref(), Some("n1"));
        assert_eq!(name(&["slurmd", "-DNn2"]).as_deref(), Some("n2"));
        assert_eq!(name(&["slurmd", "-D", "--conf-server", "N", "-f", "/N"]), None);
        assert_eq!(name(&["slurmd"]), None);
    }
}
