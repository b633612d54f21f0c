//! `spank-vm metrics`: what runs on this node, what started and failed, and what is kept, in Prometheus' text format.
//!
//! No daemon counts: root's timer runs this command. Running tasks and caches are looked at as they are; starts and
//! failures are lines that runners wrote to the journal, and a state file has their sums and where in the journal the
//! next run goes on. What can go wrong, and what is done about it:
//!
//! - A runner is a user's process, and a user can write any line. So labels are words of a fixed list, numbers have
//!   bounds, and a run reads a bounded number of lines. Who lies about its own VMs makes these figures wrong and nothing
//!   else: they are for graphs and alarms, not for accounting.
//! - Users could write to a directory, or put a link in it: the file is made anew under a name that must not exist, and
//!   renamed. A directory that everybody can write to is refused.
//! - The reader must not see half a file: it appears by renaming.
//! - Two runs at once would count twice: a lock, and the second one ends with one line.
//! - There is no journal, or it has lost lines: the counters stay as they are, and `spank_vm_journal_readable` is 0.
//! - The journal does not take the cursor of the last run: it goes on by the time of the last line.
//! - The state file is lost or damaged: counters begin at 0, which Prometheus takes for a restart.
//! - journalctl hangs: it has a deadline.

mod counters;
mod journal;
mod text;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nix::unistd::Uid;

use self::counters::Counters;
use super::output::print;
use node::dir;
use runner::config::Config;

/// Write what runs, started and failed on this node for Prometheus (as root)
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// File for the textfile collector of node_exporter, replaced in one step [default: standard output]
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
    /// Directory with the sums of earlier runs
    #[arg(long, value_name = "DIR", default_value = "/var/lib/spank-vm/metrics")]
    state: PathBuf,
}

/// Counts what is new and writes everything.
pub fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "only root sees the VMs and caches of all users: run it as root, or by its timer"
    );
    dir::make(&arguments.state, 0o700)?;
    dir::check_root(&arguments.state)?;
    let _lock = lock(&arguments.state)?;
    let state = arguments.state.join("state.json");
    let mut counters = Counters::load(&state);
    let is_readable = match journal::read(&mut counters) {
        Ok(()) => true,
        Err(why) => {
            super::output::complain(&format!("starts and failures are not counted: {why}"));
            false
        }
    };
    let text = text::all(config, &counters, is_readable);
    // First the sums: a file that shows more than they hold would go back at the next run.
    replace(&state, &serde_json::to_string(&counters)?, 0o600)?;
    match &arguments.textfile {
        Some(file) => {
            check_directory(file)?;
            replace(file, &text, 0o644)
        }
        None => print(&text),
    }
}

/// Only one run at a time.
fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| path.display().to_string())?;
    ensure!(node::try_lock(&file)?, "another run is at work ({} is locked)", path.display());
    Ok(file)
}

/// Where everybody can write, everybody could give Prometheus another file.
fn check_directory(file: &Path) -> anyhow::Result<()> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let remedy = "--textfile names a file in the directory that node_exporter was given with \
                  --collector.textfile.directory";
    let meta = fs::metadata(dir).with_context(|| format!("{}: {remedy}", dir.display()))?;
    let mode = meta.permissions().mode();
    ensure!(
        meta.is_dir() && mode & 0o002 == 0,
        "{} can be written by everybody (mode {:04o}): {remedy}",
        dir.display(),
        mode & 0o7777
    );
    Ok(())
}

/// Gives `path` this content in one step, or leaves it as it is.
fn replace(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let name = path.file_name().with_context(|| format!("{}: a file is needed", path.display()))?;
    let draft = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let write = || {
        // A link or file that somebody put there is not written to.
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&draft)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        fs::rename(&draft, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&draft))).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_of_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.prom");
        for text in ["one\n", "two\n"] {
            replace(&file, text, 0o644).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        fs::create_dir(dir.path().join("taken.prom")).unwrap();
        replace(&dir.path().join("taken.prom"), "x", 0o644).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_for_everybody_is_refused_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        check_directory(&dir.path().join("x.prom")).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        assert!(check_directory(&dir.path().join("x.prom")).unwrap_err().to_string().contains("by everybody"));
        let missing = format!("{:#}", check_directory(&dir.path().join("no/x.prom")).unwrap_err());
        assert!(missing.contains("/no: --textfile"), "{missing}");
    }

    #[test]
    fn a_second_run_at_the_same_time_ends() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path()).unwrap();
        assert!(lock(dir.path()).unwrap_err().to_string().contains("another run"));
        drop(first);
        lock(dir.path()).unwrap();
    }
}
